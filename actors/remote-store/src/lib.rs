//! The remote-store actor: content on Swarm through Bee nodes, none of which is trusted.
//!
//! `nexum_swarm` knows what an address proves; here is who is asked. `client` speaks with nodes over HTTP and goes on to the
//! next one when one fails or lies, `service` carries requests out, `feeds` remembers how far feeds were seen, and `cache`
//! keeps chunks. `watch` looks after postage batches, and `actor` holds how much runs at once.

mod actor;
mod cache;
mod client;
mod feeds;
mod metrics;
mod service;
mod trouble;
mod watch;

pub use actor::{Args, Limits, NodeSettings, RemoteStoreActor, Settings, spawn};
pub use metrics::RemoteStoreMetrics;
