//! Where a chain is read from: nodes over JSON-RPC, or a script. The only thing the two kinds of chain actor differ in.

use async_trait::async_trait;
use nexum_host_ifaces::{
    Hash, HostError,
    interfaces::chain::port::{EndpointAnswer, EndpointStatus, Final},
    types::Log,
};
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

/// Blocks below the head that endpoints are compared at: nodes follow a reorg within that many of each other.
pub const SETTLED_DEPTH: u64 = 3;

/// Logs of a range, as far as one answer reached.
#[derive(Debug)]
pub struct Ranged {
    /// By block and log index, each with its timestamp.
    pub logs: Vec<Log>,
    /// The last block that was read: at or below the one that was asked for.
    pub to: u64,
    pub end_hash: Hash,
}

/// What the endpoints say of blocks that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// Endpoints that have the newest of them.
    pub have: usize,
    /// The same, of those that are ahead of all others and not believed about it.
    pub ahead_have: usize,
    /// Those that have another block in the place of the oldest that they were asked for.
    pub contradict: usize,
    /// Those that lack the newest, and contradict nothing.
    pub lack: usize,
    /// Those that did not answer.
    pub silent: usize,
}

/// How far what the followed endpoint says may be relied on, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Others have a say, and have the chain up to this block.
    pub vouched: Option<u64>,
    /// From this block on two endpoints contradict each other, and the one that is not followed is this one.
    pub disputed: Option<(u64, String)>,
}

/// For whom something is asked, and how much may come of it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub module: &'a str,
    pub deadline: Duration,
    /// Of all results together.
    pub reply_bytes_max: usize,
}

/// A source of one chain. Every method may be called concurrently; none may block.
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
    /// How far the chain is safe or final, and what it has at these numbers as far as that.
    async fn finality(&self, tag: Tag, numbers: &[u64]) -> Result<Final, Failure>;
    /// All logs of exactly these blocks that the union covers, by log index; one list for each block, in order. The blocks
    /// are consecutive. The first lists alone may come back, at least one.
    async fn block_logs(&self, blocks: &[Header], union: &Union) -> Result<Vec<Vec<Log>>, Failure>;
    /// Logs from `from` to `to` that the union covers. `known` are the headers of some of these blocks, ascending.
    async fn range_logs(&self, from: u64, to: u64, union: &Union, known: &[Header]) -> Result<Ranged, Failure>;
    /// Asks every endpoint for these blocks, ascending.
    async fn survey(&self, known: &[(u64, Hash)]) -> Survey;
    /// One JSON-RPC request; `params` and the result are JSON text.
    async fn request(&self, method: &str, params: &str, ask: Ask<'_>) -> Result<String, HostError>;
    /// One JSON-RPC batch; as many answers as requests, in order.
    async fn request_batch(
        &self,
        requests: Vec<(String, String)>,
        ask: Ask<'_>,
    ) -> Result<Vec<Result<String, HostError>>, HostError>;
    /// The same request to each of up to so many endpoints that are connected, the best first.
    async fn request_each(
        &self,
        method: &str,
        params: &str,
        endpoints_max: usize,
        ask: Ask<'_>,
    ) -> Result<Vec<EndpointAnswer>, HostError>;
    /// Sends a signed transaction to whoever is to have it; one answer from each, as they come.
    async fn broadcast(&self, raw: &[u8], deadline: Duration, answers: mpsc::Sender<EndpointAnswer>);
    fn endpoints(&self) -> Vec<EndpointStatus>;
    /// What has been learnt of the chain, for whoever looks.
    fn learnt(&self) -> Vec<String>;
    /// The actor has read the chain up to this block; the blocks of its window by number.
    fn read_up_to(&self, tip: u64, header_at: &dyn Fn(u64) -> Option<Header>);
    /// The highest head that any endpoint told.
    fn best_head(&self) -> Option<u64>;
    fn bounds(&self) -> Bounds;
    /// Why heads that are told are not followed, and since when by the monotonic clock; none when they are.
    fn held_back(&self) -> Option<(String, u64)>;
    /// Questions that wait until others were answered, and since when.
    fn turns(&self) -> Vec<(String, u64)>;
    /// Whether blooms have been found to leave out logs.
    fn distrusts_blooms(&self) -> bool;
    /// Somebody waits for what the other endpoints have: the best of them is asked, or, after a while, every one.
    fn want_vouched(&self, of_anybody: bool);
    /// Waits until another endpoint was heard.
    async fn heard(&self);
    /// Waits until an endpoint is connected again after none was.
    async fn returned(&self);
}

/// A shared backend.
pub type DynBackend = Arc<dyn Backend>;
