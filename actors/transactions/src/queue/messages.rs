//! What a queue is told and what it wants to be done.

use std::sync::Arc;

use nexum_host_ifaces::{
    Hash, HostError,
    interfaces::identity::port::{Admission, SignedTransaction, TransactionRequest, UnsignedTransaction},
    store::RecordWrite,
};

use crate::{classify::Class, fees::Market, record::Mined};

/// What was last seen of the chain and the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Of the chain that is followed.
    pub head: u64,
    /// Transactions of the account up to the head.
    pub nonce: u64,
    /// Endpoints that say so, and those that the chain has, whether they answered or not.
    pub voices: usize,
    pub configured: usize,
    /// Wei; what does not fit counts as the most that fits.
    pub balance: u128,
    pub market: Market,
}

/// A call that stands for a transaction which is not signed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub module: Arc<str>,
    pub request: TransactionRequest,
    /// Absent: to be estimated.
    pub gas_limit: Option<u64>,
    /// On top of this block; absent: of what is not in a block yet.
    pub block: Option<u64>,
    /// Only the estimate is wanted.
    pub skip: bool,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Simulated {
    /// With this much gas, without a margin.
    Succeeds { gas: u64 },
    Reverts {
        message: String,
        data: Option<String>,
        /// A second endpoint says so of the same block, or there is none.
        agreed: bool,
    },
    /// The account has too little for it.
    Poor,
    /// Nobody could say.
    Unknown(String),
}

/// A receipt that an endpoint has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub mined: Mined,
    /// What the chain that is followed has at that height; absent where that is not known yet.
    pub followed: Option<Hash>,
}

impl Found {
    /// Of a block of the chain that is followed.
    pub fn is_ours(&self) -> bool {
        self.followed == Some(self.mined.block_hash)
    }
}

/// What endpoints said of a nonce that is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Votes {
    /// The receipts that they have.
    pub found: Vec<Found>,
    /// Those by which the nonce was used at that block and none of the hashes is in one.
    pub against: usize,
    /// Those by which it was not used then.
    pub unused: usize,
    /// Those that said of each of the hashes whether they have its receipt.
    pub answered: usize,
    /// Endpoints that the chain has, whether they answered or not.
    pub configured: usize,
}

impl Votes {
    /// What most say where it is in a block of the chain that is followed, and how many do.
    pub(super) fn most(&self) -> Option<(&Mined, usize)> {
        let same = |a: &Mined, b: &Mined| (a.hash, a.block_hash, a.succeeded) == (b.hash, b.block_hash, b.succeeded);
        let ours = || self.found.iter().filter(|found| found.is_ours()).map(|found| &found.mined);
        ours().map(|mined| (mined, ours().filter(|other| same(mined, other)).count())).max_by_key(|(_, says)| *says)
    }
}

/// Something to be done, whose result `take` wants to hear.
#[derive(Debug, Clone)]
pub enum Action {
    Observe {
        module: Arc<str>,
    },
    Admit {
        order: i64,
        module: Arc<str>,
        intent: String,
        request: Box<TransactionRequest>,
    },
    Simulate {
        order: i64,
        call: Box<Call>,
    },
    Ceiling {
        nonce: u64,
        module: Arc<str>,
        request: Box<TransactionRequest>,
    },
    Sign {
        draft: u64,
        nonce: u64,
        module: Arc<str>,
        intent: String,
        transaction: Box<UnsignedTransaction>,
    },
    Write {
        writes: Vec<RecordWrite>,
        written: Vec<Written>,
    },
    Broadcast {
        nonce: u64,
        hash: Hash,
        raw: Arc<[u8]>,
    },
    Receipts {
        nonce: u64,
        module: Arc<str>,
        hashes: Vec<Hash>,
    },
    /// Ask several endpoints: how many transactions the account had at that block, and for receipts of these.
    Doubt {
        nonce: u64,
        module: Arc<str>,
        hashes: Vec<Hash>,
        block: u64,
    },
}

/// What a write makes durable of one nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub nonce: u64,
    /// None: the record is removed.
    pub variants: Option<usize>,
    pub(super) changes: u64,
    pub(super) urgent: bool,
}

/// What came of an action.
#[derive(Debug, Clone)]
pub enum Input {
    Observed(Result<Facts, String>),
    /// With the policy's ceiling on fees.
    Admitted {
        order: i64,
        answer: Result<(Admission, Option<u128>), HostError>,
    },
    Simulated {
        order: i64,
        answer: Simulated,
    },
    Ceiling {
        nonce: u64,
        answer: Result<Option<u128>, HostError>,
    },
    Signed {
        draft: u64,
        nonce: u64,
        answer: Result<SignedTransaction, HostError>,
    },
    Written {
        written: Vec<Written>,
        answer: Result<(), String>,
    },
    /// From each endpoint, what it means and its words.
    Broadcast {
        nonce: u64,
        answers: Vec<(Class, String)>,
    },
    /// Those that were found.
    Receipts {
        nonce: u64,
        answer: Result<Vec<Found>, String>,
    },
    Doubted {
        nonce: u64,
        votes: Votes,
    },
}

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// An intent ended.
    Ended(&'static str),
    Replaced,
    /// Nonces used by transactions that are not of this engine.
    Foreign(u64),
    GapFilled,
    /// A block with one of ours went.
    Reorged,
    /// An endpoint has a receipt of a block that is not of the chain that is followed.
    Contradicted,
}
