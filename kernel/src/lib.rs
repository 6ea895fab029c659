//! The kernel: supervises modules, runs them on wasmtime, and keeps the delivery promises.
//!
//! Invariant: it reaches the world only through the ports of `nexum-host-ifaces`; it names no chain library, database,
//! HTTP server or configuration format.

pub mod admin;
mod admin_desk;
mod backoff;
mod backtrace;
pub mod begun;
pub mod compile;
mod component_size;
pub mod engine;
mod health;
mod histogram;
pub mod instance;
mod intensity;
mod lane;
mod libraries;
pub mod load;
pub mod manifest;
mod metrics;
mod module;
mod modules;
pub mod outbox;
pub mod query;
pub mod replay;
pub mod restart;
pub mod root;
pub mod roster;
pub mod schema;
pub mod service;
pub mod sources;
mod status;
pub mod threads;

/// What is read of a component before it is compiled, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::component_size::check as component;
}

pub use root::{KernelArgs, KernelError, KernelHandle};
pub use service::{ServiceSpec, Status, StatusSpec};
