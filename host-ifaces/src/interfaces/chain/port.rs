//! The port of a chain actor. One actor per chain, real or mock, behind the same messages.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use nexum_records::{
    rpc::{RpcBudget, RpcRow, RpcSpent, RpcUsage},
    wait::ChainWait,
};
use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::{
    Address, Hash, HostError,
    event::{Cursor, SourceId, Subscriber},
};

/// A block's place in the chain: all that fork detection needs, and what is kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub number: u64,
    pub hash: Hash,
    pub parent: Hash,
}

/// How far behind the head a subscription's events are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub enum Hold {
    #[default]
    Latest,
    Confirmations(u64),
    Safe,
    Finalized,
}

/// A block that the chain itself calls old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Safe,
    Finalized,
}

/// How far a chain is safe or final, as its endpoints agree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Final {
    /// Through which block; absent when no endpoint knows.
    pub through: Option<u64>,
    /// The hashes of the blocks that were asked for, in order; absent where endpoints differ, or have not come so far.
    pub hashes: Vec<Option<Hash>>,
}

/// Which blocks a module wants as `block` events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Blocks {
    None,
    All,
    /// Only the newest head when catching up; what is skipped is counted.
    Latest,
}

/// One log subscription. A log matches when its address is listed (or the list is empty) and, for each position, its
/// topic is listed (or that list is empty).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogFilter {
    pub addresses: BTreeSet<Address>,
    pub topics: [BTreeSet<Hash>; 4],
    /// First block whose logs may match.
    pub from_block: u64,
}

/// What a module wants of one chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interest {
    pub blocks: Blocks,
    pub logs: Vec<LogFilter>,
    /// First block of interest; absent: from the head at first load.
    pub start_block: Option<u64>,
    pub hold: Hold,
}

/// One module's request for what follows its cursor.
#[derive(Debug, Clone)]
pub struct ChainPull {
    pub module: Arc<str>,
    pub source: SourceId,
    pub token: u64,
    /// `None` on the very first pull: answer at once with no delivery and the starting point as `progress`
    /// (`start_block - 1`, or the current head), so that it is durable before anything is delivered.
    pub after: Option<Cursor>,
    pub interest: Arc<Interest>,
    pub size: AnswerSize,
    pub to: Subscriber,
}

/// How much one answer to a pull carries, and how little.
#[derive(Debug, Clone, Copy)]
pub struct AnswerSize {
    pub deliveries_max: usize,
    /// An answer without a delivery comes once the position has moved by this many blocks, so that it can be made durable.
    pub blocks_min: u64,
}

/// State of one endpoint, for the tree. `name` never carries a URL's key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub name: String,
    pub connected: bool,
    /// For how long it has been so; absent for one that never was connected.
    pub since_ms: Option<u64>,
    /// How often it was lost in the last ten minutes.
    pub losses: u32,
    /// Connected, and not demoted.
    pub healthy: bool,
    /// The first choice: its heads are followed.
    pub leads: bool,
    /// How much of what it was asked lately it answered, 0 to 100.
    pub score: u32,
    pub head: Option<u64>,
    /// Blocks behind the best head that any endpoint told.
    pub lag: Option<u64>,
    /// Median of the last exchanges.
    pub latency_p50_ms: Option<f64>,
    /// How often others were preferred because of what it did.
    pub demotions: u64,
    pub last_error: Option<String>,
    /// How much it was found to take at once, where that is less than is configured.
    pub learnt: Vec<String>,
}

/// State of a chain actor, for the tree and health.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChainStatus {
    pub chain_id: u64,
    pub name: String,
    pub connected: bool,
    pub head: Option<(u64, Hash)>,
    /// The newest blocks that are safe and final, as far as somebody waited for such blocks.
    pub safe: Option<u64>,
    pub finalized: Option<u64>,
    /// Blocks between the best head any endpoint reported and the newest block this actor has read.
    pub blocks_behind: u64,
    pub endpoints: Vec<EndpointStatus>,
    pub waiting_modules: usize,
    pub reorgs: u64,
    /// What was found out about the chain itself.
    pub learnt: Vec<String>,
    /// What is waited for, the oldest first, and how many others wait besides.
    pub waits: Vec<ChainWait>,
    pub more_waits: usize,
}

/// What one endpoint answered.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointAnswer {
    /// Its name, which never carries a URL's key.
    pub endpoint: String,
    pub answer: Result<String, HostError>,
}

#[derive(Debug)]
pub enum ChainMsg {
    /// Must answer once, when there is something. Replaces an earlier pull of the same module and source.
    Pull(ChainPull),
    /// Drop whatever this module waits for.
    Forget { module: Arc<str> },
    /// One JSON-RPC request; `params` is JSON text. Must reply; the caller stops listening after `deadline`.
    /// The result is not longer than `reply_bytes_max`. A read of state at one block may be answered by what another
    /// request for the same brought.
    Request {
        /// For whom.
        module: Arc<str>,
        /// What it is held to; absent for what a service asks in the module's place.
        budget: Option<RpcBudget>,
        method: String,
        params: String,
        deadline: Duration,
        reply_bytes_max: usize,
        reply: RpcReplyPort<Result<String, HostError>>,
    },
    /// One JSON-RPC batch on the wire, answered in order. Must reply.
    RequestBatch {
        module: Arc<str>,
        budget: Option<RpcBudget>,
        requests: Vec<(String, String)>,
        deadline: Duration,
        /// Of all results together.
        reply_bytes_max: usize,
        reply: RpcReplyPort<Result<Vec<Result<String, HostError>>, HostError>>,
    },
    /// One JSON-RPC request to each of up to `endpoints_max` endpoints that are connected, the best first, one answer from
    /// each: for questions on which endpoints may differ. No result is longer than `reply_bytes_max`. Must reply.
    RequestEach {
        module: Arc<str>,
        method: String,
        params: String,
        endpoints_max: usize,
        deadline: Duration,
        reply_bytes_max: usize,
        reply: RpcReplyPort<Vec<EndpointAnswer>>,
    },
    /// Sends a signed transaction to every endpoint that is connected, or to the relay alone where the operator names one.
    /// Must reply, with one answer from each, or once one has taken it and the others had a moment to answer, too.
    Broadcast { raw: Arc<[u8]>, deadline: Duration, reply: RpcReplyPort<Vec<EndpointAnswer>> },
    /// The canonical hashes at these numbers, in order; fails when one is above the head. Must reply.
    Hashes { numbers: Vec<u64>, reply: RpcReplyPort<Result<Vec<Hash>, HostError>> },
    /// The hashes at these numbers of the chain that is followed, in order, as far as its headers are kept; no endpoint is
    /// asked. Must reply.
    Followed { numbers: Vec<u64>, reply: RpcReplyPort<Vec<Option<Hash>>> },
    /// How far the chain is safe or final, and what it has at these numbers as far as that. Must reply.
    Finality { tag: Tag, numbers: Vec<u64>, reply: RpcReplyPort<Result<Final, HostError>> },
    /// What modules asked of this chain, and how far those that have a budget have used it, whatever chain they asked. Must
    /// reply.
    Usage(RpcReplyPort<RpcUsage>),
    /// Must reply.
    Status(RpcReplyPort<ChainStatus>),
}

/// Of a module that has used up its budget. Modules are told it of nothing else, whatever nodes answer, so that nobody takes it
/// for an endpoint's limit.
pub const CODE_OVER_BUDGET: i32 = -32029;
/// EIP-1898: no endpoint has the block that state was to be read at.
pub const CODE_BLOCK_GONE: i32 = -32001;
/// JSON-RPC code of a method that a module may not call.
pub const CODE_METHOD_DENIED: i32 = -32601;
/// JSON-RPC code of a chain that the module's manifest does not name or the operator does not serve.
pub const CODE_UNKNOWN_CHAIN: i32 = -32002;
/// A batch longer than this is refused: public endpoints refuse it too.
pub const BATCH_REQUESTS_MAX: usize = 100;
/// Methods and parameters of one call, bytes: public endpoints refuse more.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
