//! Where a chain is read from: nodes over JSON-RPC, or a script. The only thing the two kinds of chain actor differ in.

use async_trait::async_trait;
use nexum_host_ifaces::{Hash, HostError, chain::EndpointStatus, types::Log};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

use crate::{
    filter::Union,
    header::Header,
    tracker::{Failure, Tag},
};

/// A head as a backend tells it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub header: Header,
    /// When it was seen, by the injected clock.
    pub seen_ns: u64,
}

/// A source of one chain. Every method may be called concurrently; none may block.
/// Blocks below the head that endpoints are compared at: nodes follow a reorg within that many of each other.
pub const SETTLED_DEPTH: u64 = 3;

#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Tells every head until it is dropped; never gives up.
    async fn follow(&self, heads: mpsc::Sender<Seen>);
    /// These headers, in the order of `numbers`; fails unless all are there.
    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure>;
    /// The same of blocks that nothing links to the chain that is followed: from whoever has that chain.
    async fn history(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure>;
    /// `None` when no endpoint knows the hash.
    async fn header(&self, hash: Hash) -> Result<Option<Header>, Failure>;
    async fn tagged(&self, tag: Tag) -> Result<Option<Header>, Failure>;
    /// All logs of exactly this block that the union covers, by log index.
    async fn block_logs(&self, block: &Header, union: &Union) -> Result<Vec<Log>, Failure>;
    /// All logs from `from` to `to` that the union covers, by block and log index, each with its timestamp, and the hash
    /// of block `to`. Both are of one node, which has that block.
    async fn range_logs(&self, from: u64, to: u64, union: &Union) -> Result<(Vec<Log>, Hash), Failure>;
    /// One JSON-RPC request; `params` and the result are JSON text.
    async fn request(&self, method: &str, params: &str, deadline: Duration) -> Result<String, HostError>;
    /// One JSON-RPC batch; as many answers as requests, in order.
    async fn request_batch(
        &self,
        requests: Vec<(String, String)>,
        deadline: Duration,
    ) -> Result<Vec<Result<String, HostError>>, HostError>;
    fn endpoints(&self) -> Vec<EndpointStatus>;
    /// The actor has read the chain up to this block, and has that one `SETTLED_DEPTH` below it.
    fn read_up_to(&self, number: u64, settled: Option<(u64, Hash)>);
    /// The highest head that any endpoint told.
    fn best_head(&self) -> Option<u64>;
}

/// A shared backend.
pub type DynBackend = Arc<dyn Backend>;
