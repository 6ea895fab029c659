//! RocksDB behind the store port.
//!
//! Owns: the key layout and record encoding, the one database of an engine, group commit, rewind, retention, backup and
//! restore. Every event unit is one atomic write, and units that queue while the disk syncs share the next sync.
//!
//! Invariant: only `open` and `store` know RocksDB's options and errors, only `keys` builds keys. What a unit contains
//! is decided by the ledger in `nexum-host-ifaces`; nothing here looks inside an event.

mod actor;
mod backup;
mod codec;
mod committer;
mod disk;
mod fork;
mod group;
mod headers;
mod journal;
mod keys;
mod metrics;
mod news;
mod open;
mod outbox;
mod purge;
mod receipts;
mod recordings;
mod rewind;
mod store;

pub use actor::{Args, StoreActor, spawn};
pub use backup::{RestoreError, restore};
pub use disk::{Disk, Written};
pub use open::{Companion, Durability, JOURNAL_BYTES, JOURNAL_ENTRIES, OpenError, Options, Syncs};
pub use receipts::Receipts;
pub use store::Store;
