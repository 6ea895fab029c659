//! Reading a module's committed state: whose it is, the direct read path, which crosses no mailbox, and how the store
//! fails. The messages of the store actor, by which all else is asked of it, are in `store`.

use std::sync::Arc;

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

use crate::event::SourceId;

/// The store's own number for a module name; the prefix of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModuleId(pub u32);

/// Why the store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk or the database failed; nothing of the request was written.
    #[error("store: {0}")]
    Failed(String),
    /// The same, because there is no space left on the disk.
    #[error("store: {0}")]
    DiskFull(String),
    #[error("module `{0}` has no state here")]
    UnknownModule(String),
    #[error("module `{module}` has no dead letter {seq}")]
    UnknownDeadLetter { module: String, seq: u64 },
    #[error("module `{module}` has no unit {seq} in its journal, which holds {oldest} to {newest}")]
    UnknownUnit { module: String, seq: u64, oldest: u64, newest: u64 },
    /// Undoing would reach units that retention has dropped.
    #[error("block {block} of {source_id} is below the kept journal, which begins with unit {oldest}")]
    BelowJournal { source_id: SourceId, block: u64, oldest: u64 },
    #[error("{0}")]
    UnknownRecording(String),
    #[error("module `{module}` has no effect `{id}` in its outbox")]
    UnknownEffect { module: String, id: String },
    /// What was asked does not fit the state of the effect, or is more than the store takes.
    #[error("{0}")]
    Refused(String),
    /// The unit's sequence number does not follow the stored one: it comes from a superseded instance.
    #[error("unit {got} does not follow {stored}: it comes from a superseded instance")]
    OutOfSequence { stored: u64, got: u64 },
}

pub type Reply<T> = RpcReplyPort<Result<T, StoreError>>;

/// A page of state entries, keys in byte order.
pub type Entries = Vec<(String, Vec<u8>)>;

/// The direct read path of one module's committed state.
pub trait StateView: Send + Sync {
    fn get(&self, module: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Entries with `prefix` whose key is greater than `after`, in byte order, at most `limit`.
    fn scan(&self, module: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError>;

    /// The same, and how many keys it went past that were deleted, or values that are no longer the newest. Past
    /// [`DELETED_KEYS_MAX`](crate::limits::DELETED_KEYS_MAX) of them it ends, as if nothing followed.
    fn scan_past(
        &self,
        module: ModuleId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Entries, u64), StoreError> {
        self.scan(module, prefix, after, limit).map(|entries| (entries, 0))
    }

    /// The same as it is now, whatever is written later.
    fn at_this_moment(self: Arc<Self>) -> Result<Arc<dyn StateView>, StoreError> {
        Err(StoreError::Failed("this state cannot be held still".into()))
    }

    /// What the module's journal has left for its unit `seq`, so that the units which a rewind needs stay within the
    /// journal's bound.
    fn journal_room(&self, _module: ModuleId, _seq: u64) -> Result<JournalRoom, StoreError> {
        Ok(JournalRoom { newest: u64::MAX, bytes: u64::MAX })
    }
}

/// A state that nothing was written to.
pub struct NoState;

impl StateView for NoState {
    fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
        Ok(Entries::new())
    }
}

/// What a module's journal has left for a unit that is to be written, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRoom {
    /// The newest unit that is counted: those between it and the unit to be are not durable yet.
    pub newest: u64,
    /// Bytes that these may add together, the unit to be among them.
    pub bytes: u64,
}
