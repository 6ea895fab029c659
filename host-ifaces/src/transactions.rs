//! The port of the transactions actor: what is sent from the operator's accounts, and what becomes of it.
//!
//! Invariant: an intent (the id of an effect) is one transaction for ever, however often it is submitted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::{Hash, HostError, interfaces::identity::port::TransactionRequest, ports::Service};

/// The most that a transaction may pay, as its module says; the operator's policy may say less.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FeePolicy {
    /// Wei per unit of gas.
    pub max_fee_per_gas: Option<u128>,
    /// Wei per unit of gas.
    pub max_priority_fee_per_gas: Option<u128>,
    /// In percent of what the market pays.
    pub market_percent: Option<u32>,
}

/// A transaction that a module wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The id of the effect.
    pub id: String,
    pub module: Arc<str>,
    pub request: TransactionRequest,
    /// Absent: estimated.
    pub gas_limit: Option<u64>,
    pub fees: FeePolicy,
    /// Blocks that make it final, its own included; at least 1.
    pub confirmations: u32,
    /// Milliseconds since the Unix epoch.
    pub deadline_ms: Option<u64>,
    pub skip_simulation: bool,
}

/// Why a transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The policy does not allow it, or the operator did not approve it.
    Denied,
    /// The simulation reverts; nothing was broadcast.
    WouldRevert,
    /// It is on the chain, and reverted.
    Reverted,
    /// Its deadline passed before it was broadcast.
    Expired,
    /// The operator cancelled it: its nonce was used by a transfer of nothing.
    Cancelled,
    /// Its nonce was used by a transaction that is not of this engine.
    Replaced,
    /// No node takes it.
    Refused,
}

/// What the outcome of a failed transaction says, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionFailure {
    pub kind: FailureKind,
    pub message: String,
    /// What the contract returned, 0x-hex, cut to 1,024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
}

/// What the outcome of a delivered transaction says, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinedTransaction {
    pub hash: Hash,
    pub nonce: u64,
    pub block_number: u64,
    pub block_hash: Hash,
    pub gas_used: u64,
    /// Wei per unit of gas, decimal.
    pub effective_gas_price: String,
    /// Of a contract that was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract_address: Option<String>,
}

/// Where an intent stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitAnswer {
    /// `what` says for people what it waits for; ask again after that time. `hash`: the newest bytes that were broadcast.
    Underway {
        what: String,
        after: Duration,
        hash: Option<Hash>,
    },
    Mined(Box<MinedTransaction>),
    Failed(Box<TransactionFailure>),
}

/// One transaction of a queue, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionSummary {
    pub chain_id: u64,
    /// In lower-case hex, with 0x.
    pub account: String,
    /// Absent while it waits for one.
    pub nonce: Option<u64>,
    pub module: String,
    /// The intent; absent of a transfer of nothing that closes a gap.
    pub intent: Option<String>,
    pub to: Option<String>,
    /// Wei, decimal.
    pub value: String,
    /// `waiting`, `signed`, `broadcast`, `mined`, `final`, `failed`.
    pub state: String,
    /// What it waits for, or why it failed.
    pub what: String,
    pub age_ms: u64,
    /// Every hash that this nonce was signed with, oldest first.
    pub hashes: Vec<Hash>,
    /// The most that it pays now, wei per unit of gas, decimal.
    pub fee_per_gas: Option<String>,
}

/// What a transaction waits for, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// The policy's leave.
    Policy,
    /// The operator's.
    Approval,
    /// What is known of the chain and the account, and what its simulation comes to.
    Simulation,
    Balance,
    /// Lower fees, or what it may pay.
    Fees,
    /// Room among what is in no block, and its turn.
    Nonce,
    Signature,
    /// The store, which has to have what is broadcast.
    Store,
    /// An endpoint that takes it.
    Broadcast,
    /// A block with it.
    Block,
    /// Endpoints that agree on what became of it.
    Agreement,
}

impl WaitKind {
    pub const ALL: [Self; 11] = [
        Self::Policy,
        Self::Approval,
        Self::Simulation,
        Self::Balance,
        Self::Fees,
        Self::Nonce,
        Self::Signature,
        Self::Store,
        Self::Broadcast,
        Self::Block,
        Self::Agreement,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Approval => "approval",
            Self::Simulation => "simulation",
            Self::Balance => "balance",
            Self::Fees => "fees",
            Self::Nonce => "nonce",
            Self::Signature => "signature",
            Self::Store => "store",
            Self::Broadcast => "broadcast",
            Self::Block => "block",
            Self::Agreement => "agreement",
        }
    }
}

/// A transaction that has not ended and is in no block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionWait {
    pub module: String,
    /// The intent, or the nonce of what has none.
    pub which: String,
    pub kind: WaitKind,
    /// In words.
    pub reason: String,
    /// Since it began to wait for that.
    pub age_ms: u64,
}

/// One account on one chain, for the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    pub chain_id: u64,
    pub account: String,
    pub next_nonce: Option<u64>,
    pub in_flight: usize,
    pub waiting: usize,
    /// Why the queue stands still, if it does.
    pub stopped: Option<String>,
    /// How long its oldest transaction has not ended.
    pub oldest_age_ms: Option<u64>,
    /// Nonces used by transactions that this engine did not make.
    pub foreign_nonces: u64,
    /// For how long the queue has stood still.
    pub stopped_age_ms: Option<u64>,
    /// What is waited for, the oldest first, and how many others wait besides.
    pub waits: Vec<TransactionWait>,
    pub more_waits: usize,
    /// The oldest wait of each kind, milliseconds.
    pub oldest_waits: BTreeMap<WaitKind, u64>,
}

/// State of the transactions actor, for the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TransactionsStatus {
    pub queues: Vec<QueueStatus>,
    /// Why nothing is signed, if nothing is.
    pub signs_nothing: Option<String>,
}

/// What an operator may do to one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransactionOrder {
    /// Replace it by one with higher fees, now.
    Bump,
    /// Replace it by a transfer of nothing, or give it up where it has no nonce.
    Cancel,
}

/// The transaction of an account that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    Nonce(u64),
    /// By its intent, which it has before it has a nonce.
    Intent(String),
}

#[derive(Debug)]
pub enum TransactionsMsg {
    /// Takes an intent on, unless it is known, and says where it stands. Must reply.
    Submit {
        intent: Box<Intent>,
        /// If not, it is asked after alone, since it may not be sent any more; one that is not known is denied.
        may_send: bool,
        /// Intents that ended, whose retry this one is, the newest first; while one of them is not known to have failed for
        /// good, its answer is this one's.
        before: Vec<String>,
        reply: RpcReplyPort<Result<SubmitAnswer, HostError>>,
    },
    /// Transactions that have not ended, and the newest of those that have, at most `limit`. Must reply.
    List { limit: usize, reply: RpcReplyPort<Vec<TransactionSummary>> },
    /// Must reply with what was done.
    Order {
        chain_id: u64,
        account: String,
        which: Which,
        order: TransactionOrder,
        reply: RpcReplyPort<Result<String, HostError>>,
    },
    /// Must reply.
    Status(RpcReplyPort<TransactionsStatus>),
}

impl Service for TransactionsMsg {
    const NAME: &'static str = "transactions";
}
