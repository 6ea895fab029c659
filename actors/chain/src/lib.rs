//! The chain actor: follows one EVM chain and answers every module's pulls for what comes after its cursor.
//!
//! Owns: endpoints and failover, heads, logs, backfill, fork detection, what modules ask and may ask of nodes, and the mock
//! chain that plays a fixture. The order and completeness of what is delivered is decided in [`tracker`] alone, which does
//! no input or output; the backends only read.
//!
//! Leaves to others: what a module may ask for (host-ifaces), undoing state after a reorg (kernel), writing headers to
//! the disk (store; this actor hands them over before it answers with their blocks).

mod actor;
mod backend;
mod backfill;
mod branch;
mod budget;
mod budgets;
mod canon;
mod config;
mod driver;
mod filter;
mod header;
mod history;
mod interests;
mod metrics;
pub mod mock;
mod pin;
mod proof;
mod range;
mod requests;
mod rpc;
mod scan;
mod shared;
mod tracker;
mod usage;
mod window;

pub use actor::{Args, ChainActor, Jitter, Source, spawn};
pub use budgets::Budgets;
pub use config::{BloomUse, ChainConfig, EndpointConfig, Verify};
pub use history::{History, KEPT_HEADERS};
pub use metrics::ChainMetrics;
pub use rpc::{Broken, Dial, Held, Http, Meter, Network, Reply, Room, Socket};
pub use usage::Usage;

/// The readers of nodes' answers with what must hold of each, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::rpc::torture::{envelope, head, header, logs, quantity, receipts};
}
