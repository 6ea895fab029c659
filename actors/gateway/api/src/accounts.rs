//! The JSON of what the engine's accounts send and sign, and of what its operator decides about it.

use nexum_records::Hash;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A transaction of one of the accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub chain_id: u64,
    pub account: String,
    /// Absent while it waits for one.
    pub nonce: Option<u64>,
    pub module: String,
    /// The effect that it carries out; absent of a transfer of nothing that uses a nonce up.
    pub effect: Option<String>,
    /// Absent when it creates a contract.
    pub to: Option<String>,
    /// Wei, decimal.
    pub value: String,
    /// `waiting`, `signed`, `broadcast`, `mined`, `final` or `failed`.
    pub state: String,
    /// What it waits for, or why it failed.
    pub what: String,
    pub age_ms: u64,
    /// Every hash that its nonce was signed with, oldest first.
    pub hashes: Vec<Hash>,
    /// The most that it pays now, wei per unit of gas, decimal.
    pub fee_per_gas: Option<String>,
}

/// The answer to an order about a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// What was done.
    pub done: String,
}

/// What waits for the operator, or was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its name for `show`, `approve` and `deny`.
    pub number: u64,
    pub module: String,
    pub effect: String,
    pub account: String,
    /// What is to be signed.
    pub what: Value,
    /// SHA-256 of what is to be signed.
    pub digest: Hash,
    /// The policy that asks.
    pub policy: String,
    /// `waiting`, `approved`, `denied`, `expired`, or `used` once it was signed.
    pub state: String,
    pub asked_at_ms: u64,
    pub expires_at_ms: u64,
    pub decided_at_ms: Option<u64>,
}

/// The body of `POST /v1/approvals/{number}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub approve: bool,
    /// Who decides, as the audit is to have it.
    #[serde(default)]
    pub by: Option<String>,
}

/// A signature that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub number: u64,
    pub at_ms: u64,
    pub module: String,
    /// The effect that it was for; absent of one that a call asked for.
    pub effect: Option<String>,
    pub account: String,
    /// `message`, `typed-data` or `transaction`.
    pub kind: String,
    /// SHA-256 of what was signed.
    pub digest: Hash,
    /// The policy that allowed it.
    pub policy: String,
}
