//! The identity actor over a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod approvals;
mod budgets;
mod harness;
mod kms;
mod policies;
mod remote;
mod stand_in;
mod transactions;
