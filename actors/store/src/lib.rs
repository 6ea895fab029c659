//! RocksDB behind the store port.
//!
//! Owns: the key layout and record encoding, the one database of an engine, group commit, rewind, retention, backup and
//! restore. Every event unit is one atomic write, and units that queue while the disk syncs share the next sync.
//!
//! Invariant: only `open` and `db` know RocksDB's options and errors, only `tables` builds keys. What a unit contains is
//! decided by the ledger in `nexum-host-ifaces`; nothing here looks inside an event.

mod actor;
mod backup;
mod bound;
mod codec;
mod commit;
mod committer;
mod db;
mod disk;
mod effects;
mod fork;
mod full_disk;
mod index;
mod metrics;
mod open;
mod options;
mod prune;
mod purge;
mod reads;
mod rewind;
mod still;
mod store;
mod tables;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;

pub use actor::{Args, StoreActor, spawn};
pub use backup::{Restore, RestoreError, remains, restore};
pub use disk::{Disk, Written};
pub use open::OpenError;
pub use options::{Companion, Durability, JOURNAL_BYTES, JOURNAL_ENTRIES, Options, Receipts, Syncs};
pub use store::Store;

/// What must hold of records, for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod readers {
    pub use crate::torture::record;
}
