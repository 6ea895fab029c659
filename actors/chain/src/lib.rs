//! The chain actor: follows one EVM chain and answers every module's pulls for what comes after its cursor.
//!
//! Owns: endpoints and failover, heads, logs, backfill, fork detection, and the mock chain that plays a fixture. The
//! order and completeness of what is delivered is decided in [`tracker`] alone, which does no input or output; the
//! backends only read.
//!
//! Leaves to others: what a module may ask for (host-ifaces), undoing state after a reorg (kernel), writing headers to
//! the disk (store; this actor hands them over before it answers with their blocks).

mod actor;
mod backend;
mod backfill;
mod branch;
mod canon;
mod config;
mod driver;
mod filter;
mod header;
mod history;
mod interests;
mod metrics;
pub mod mock;
mod proof;
mod range;
mod rpc;
mod scan;
mod tracker;
mod window;

pub use actor::{Args, ChainActor, Source, spawn};
pub use config::{BloomUse, ChainConfig, EndpointConfig, Verify};
pub use history::{History, KEPT_HEADERS};
pub use metrics::ChainMetrics;
pub use rpc::{Broken, Dial, Held, Http, Meter, Network, Reply, Room, Socket};

/// The readers of nodes' answers with what must hold of each, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::rpc::torture::{envelope, head, header, logs, quantity, receipts};
}
