//! The store actor over a real RocksDB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod bodies;
mod commit;
mod crash;
mod damage;
mod full_disk;
mod harness;
mod headers;
mod journal_bytes;
mod outbox;
mod paging;
mod power;
mod receipts;
mod recordings;
mod rewind;
mod services;
