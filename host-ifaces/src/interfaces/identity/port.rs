//! The port of the identity actor: signatures with the operator's keys, within the operator's policies. Keys stay there.

use std::{collections::BTreeMap, sync::Arc};

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::{Address, Hash, HostError, ports::Service};

/// A message to be signed, bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Typed data to be signed, bytes of JSON.
pub const TYPED_DATA_BYTES_MAX: usize = 256 * 1024;
/// Data of a transaction, bytes: nodes commonly take no larger transactions.
pub const DATA_BYTES_MAX: usize = 128 * 1024;
/// Entries of an access list, addresses and keys together.
pub const ACCESS_LIST_MAX: usize = 1_024;

/// The two parts of a signature, and 27 or 28.
pub type AccountSignature = [u8; 65];

/// A number of wei, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Wei(pub [u8; 32]);

impl Wei {
    /// Of up to 32 bytes, big-endian; none of more, whatever they are.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut wei = [0; 32];
        wei.get_mut(32usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
        Some(Self(wei))
    }
}

impl From<u128> for Wei {
    fn from(value: u128) -> Self {
        let mut wei = [0; 32];
        wei[16..].copy_from_slice(&value.to_be_bytes());
        Self(wei)
    }
}

/// What is signed besides transactions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SigningPayload {
    /// Gets the prefix of EIP-191.
    Message(Vec<u8>),
    /// EIP-712 typed data, as JSON.
    TypedData(String),
}

/// An update of a feed on Swarm, to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedUpdate {
    pub topic: Hash,
    pub index: u64,
    /// The address of its content.
    pub content: Hash,
}

/// What a transaction pays for gas, in wei per unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fees {
    /// Where the chain has no base fee.
    Legacy {
        gas_price: u128,
    },
    Dynamic {
        max_fee_per_gas: u128,
        max_priority_fee_per_gas: u128,
    },
}

impl Fees {
    /// The most that a unit of gas may cost.
    pub fn per_gas_max(&self) -> u128 {
        match self {
            Self::Legacy { gas_price } => *gas_price,
            Self::Dynamic { max_fee_per_gas, .. } => *max_fee_per_gas,
        }
    }
}

/// What a transaction does, whatever nonce and fees it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRequest {
    pub chain_id: u64,
    pub account: Address,
    /// Absent: the data creates a contract.
    pub to: Option<Address>,
    pub value: Wei,
    pub data: Vec<u8>,
    pub access_list: Vec<(Address, Vec<Hash>)>,
}

/// Why a transaction is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// It was asked for. Its policy decides, and counts it once per intent.
    Asked,
    /// It was asked for and has been signed before with this nonce and other fees. Its value is not counted again; the
    /// ceiling on fees holds.
    Replacement,
    /// Nothing to the account itself, so that a nonce is used up. The ceiling on fees holds.
    Empty,
}

/// A transaction that may be signed. For `Empty`, `request` is a transfer of nothing to the account itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedTransaction {
    pub request: TransactionRequest,
    pub nonce: u64,
    pub gas_limit: u64,
    pub fees: Fees,
    pub purpose: Purpose,
}

/// The bytes that go out, and their hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTransaction {
    pub raw: Vec<u8>,
    pub hash: Hash,
}

/// Whether something may be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Allowed,
    /// The operator has been asked. Ask again later with the same intent.
    AwaitsApproval {
        number: u64,
        expires_at_ms: u64,
    },
}

/// What came of a signature that the operator may have to approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureAnswer {
    Signed(Box<AccountSignature>),
    AwaitsApproval { number: u64, expires_at_ms: u64 },
}

/// Where a request for approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalState {
    Waiting,
    Approved,
    Denied,
    Expired,
    /// Approved, and signed since.
    Used,
}

/// A request that the operator decides on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub number: u64,
    pub module: String,
    /// The effect that it is for.
    pub intent: String,
    /// In lower-case hex, with 0x.
    pub account: String,
    /// What is to be signed, for people; never a key.
    pub what: serde_json::Value,
    /// SHA-256 of what is to be signed: an approval holds for exactly this.
    pub digest: Hash,
    /// The policy that asks, by its number in the configuration.
    pub policy: String,
    pub state: ApprovalState,
    pub asked_at_ms: u64,
    pub expires_at_ms: u64,
    pub decided_at_ms: Option<u64>,
}

/// One signature, as the audit keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub number: u64,
    pub at_ms: u64,
    pub module: String,
    pub intent: Option<String>,
    pub account: String,
    /// `message`, `typed-data`, `transaction` or `feed`.
    pub kind: String,
    /// SHA-256 of what was signed.
    pub digest: Hash,
    /// The policy that allowed it.
    pub policy: String,
}

/// State of the identity actor, for the tree.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// Accounts that it has keys of, in lower-case hex, and where each key is: `keystore`, `remote`.
    pub accounts: BTreeMap<String, String>,
    pub signatures_total: u64,
    pub refusals_total: u64,
    pub approvals_waiting: usize,
    /// How long the oldest of these has waited.
    pub oldest_approval_age_ms: Option<u64>,
    /// What does not work, such as a key file that cannot be opened.
    pub problems: Vec<String>,
}

/// `module` is who asks; the actor answers within its policy alone.
#[derive(Debug)]
pub enum IdentityMsg {
    /// The accounts that a policy gives the module, on one chain when one is named. Must reply.
    Accounts { module: Arc<str>, chain_id: Option<u64>, reply: RpcReplyPort<Result<Vec<Address>, HostError>> },
    /// A signature within a call or for an effect. Without an `intent` a policy that asks refuses: a call does not wait
    /// for people. Must reply.
    Sign {
        module: Arc<str>,
        account: Address,
        payload: SigningPayload,
        intent: Option<String>,
        reply: RpcReplyPort<Result<SignatureAnswer, HostError>>,
    },
    /// The account whose feed a policy gives the module under this topic; the first one, when there are several. Must reply.
    FeedAccount { module: Arc<str>, topic: Hash, reply: RpcReplyPort<Result<Address, HostError>> },
    /// A policy that asks refuses it. Must reply.
    SignFeed {
        module: Arc<str>,
        account: Address,
        update: FeedUpdate,
        reply: RpcReplyPort<Result<Box<AccountSignature>, HostError>>,
    },
    /// Whether a transaction could be signed, before a nonce is taken. Asks the operator when the policy says so. Must reply.
    Admit {
        module: Arc<str>,
        intent: String,
        request: Box<TransactionRequest>,
        reply: RpcReplyPort<Result<Admission, HostError>>,
    },
    /// Must reply, once what the policy counts is durable.
    SignTransaction {
        module: Arc<str>,
        intent: String,
        transaction: Box<UnsignedTransaction>,
        reply: RpcReplyPort<Result<SignedTransaction, HostError>>,
    },
    /// The most that the policy lets this call pay per unit of gas; none where it has no ceiling. Must reply.
    FeeCeiling {
        module: Arc<str>,
        request: Box<TransactionRequest>,
        reply: RpcReplyPort<Result<Option<u128>, HostError>>,
    },
    /// Requests for approval, newest first. Must reply.
    Approvals { limit: usize, reply: RpcReplyPort<Result<Vec<Approval>, HostError>> },
    /// Decides one that waits. `by` says who, for the audit. Must reply with what it is now.
    Decide { number: u64, approve: bool, by: String, reply: RpcReplyPort<Result<Approval, HostError>> },
    /// The newest signatures, newest first. Must reply.
    Audit { limit: usize, reply: RpcReplyPort<Result<Vec<AuditEntry>, HostError>> },
    /// Must reply.
    Status(RpcReplyPort<IdentityStatus>),
}

impl Service for IdentityMsg {
    const NAME: &'static str = "identity";
}
