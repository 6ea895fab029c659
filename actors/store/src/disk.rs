//! Where a simulation stands in between the store and its disk: it sees every write, and lets it fail, or takes it for the
//! moment at which the engine dies.

use std::time::Duration;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// A group of units, failure counters and names.
    Group,
    /// The undoing of a module's last units.
    Rewind,
    /// The removal of a module.
    Purge,
    /// The forgetting of effects and outcomes that nobody needs any more.
    Prune,
}

/// Called on the thread that writes, with no lock held.
pub trait Disk: Send + Sync {
    /// How long the next group waits for the disk; others may join it meanwhile. Asked only when the store has no thread.
    fn latency(&self) -> Duration;
    /// Before a write. With an error nothing is written, and whoever waits for it is told.
    fn before(&self, what: Written) -> Result<(), String>;
    /// After a write, which is durable now. With an error whoever waits for it is told that it failed, as when the disk
    /// fails between the write and its acknowledgement.
    fn after(&self, what: Written) -> Result<(), String>;
    /// What is free, bytes.
    fn free_bytes(&self) -> u64 {
        u64::MAX
    }
}
