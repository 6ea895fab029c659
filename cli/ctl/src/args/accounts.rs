//! The arguments of `tx`, `approvals` and `audit`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Tx {
    /// Transactions that have not ended, then the newest that have
    List {
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10000))]
        limit: u16,
    },
    /// One of them, with every hash that its nonce was signed with
    Show(Which),
    /// Replace one that is not mined by the same with higher fees, now
    Bump(Which),
    /// Replace one that is not mined by a transfer of nothing, so that it does not happen; give one up that has no nonce
    Cancel(Which),
}

/// One transaction.
#[derive(Debug, Args)]
pub struct Which {
    /// The account that sends it
    pub account: String,
    /// Its nonce, or the effect that it carries out: that it has before it has a nonce
    #[arg(value_name = "NONCE|EFFECT")]
    pub which: String,
    /// Where it is sent; needed when the account has such a one on several chains
    #[arg(long, value_name = "ID")]
    pub chain: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum Approvals {
    /// What waits for a decision, and what was decided, newest first
    List {
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10000))]
        limit: u16,
    },
    /// One of them, with what is to be signed
    Show { number: u64 },
    /// Let it be signed: exactly what `show` says, once
    Approve(Decide),
    /// Let it not be signed; its module is told
    Deny(Decide),
}

#[derive(Debug, Args)]
pub struct Decide {
    pub number: u64,
    /// Who decides, for the audit
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

#[derive(Debug, Args)]
pub struct Audit {
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10000))]
    pub limit: u16,
}
