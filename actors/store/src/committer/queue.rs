//! The queue between the actor and who writes: the group that waits, and what follows from groups that are not written
//! yet.
//!
//! Invariant: each module's units follow on each other without a gap, here as in the database.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use nexum_host_ifaces::{
    Hash,
    outbox::Progress,
    store::{ModuleId, StoreError},
};

use super::group::{Group, Scratch};
use crate::{
    commit::last::Last,
    store::Store,
    tables::{headers::PendingHeaders, receipts, recordings::Kept},
};

/// Most answers that one group may owe. A module has one unit in flight, so this is reached only when something asks
/// without waiting.
const WAITING_MAX: usize = 1 << 16;

/// Most bytes that may wait for the disk.
const WAITING_BYTES_MAX: usize = 256 << 20;

#[derive(Default)]
pub(crate) struct Queue {
    pub waiting: Group,
    pub scratch: Scratch,
    /// Headers that go with the next group.
    pub(super) owed: PendingHeaders,
    /// Number of the group that waits; every smaller one was taken.
    pub number: u64,
    /// Every group below this number was answered.
    pub(super) answered: u64,
    /// Last unit written or waiting, of the modules that wrote since the actor started.
    pub sequence: HashMap<ModuleId, Last>,
    /// Number of the last crash, of the modules that had one since the actor started.
    pub crashes: HashMap<ModuleId, u64>,
    /// The crashes written or waiting, oldest first, of the modules that had one lately.
    pub kept: HashMap<ModuleId, Vec<Kept>>,
    /// Names given in groups that are not written yet.
    pub naming: HashMap<Arc<str>, ModuleId>,
    /// Number of the last outcome, of the modules whose effects ended since the actor started.
    pub outcomes: HashMap<ModuleId, u64>,
    /// What is known of effects, by module and digest, in groups that are not written yet; and the number of the group.
    pub progress: HashMap<(ModuleId, Hash), (u64, Progress)>,
    pub next_id: u32,
    /// Modules whose past is being replaced.
    pub(super) fenced: HashSet<ModuleId>,
    /// The thread waits to be woken; waking costs a system call.
    pub(super) sleeping: bool,
    pub(super) stopping: bool,
    pub(super) gone: bool,
    /// Why no more is written, once too many writes have failed.
    pub(super) failed: Option<StoreError>,
}

/// What a message may see and change when it is taken. What each one does is said in `commit`.
pub(crate) struct Turn<'a> {
    pub queue: &'a mut Queue,
    pub store: &'a Store,
}

impl Turn<'_> {
    /// Whether something of the module may queue now.
    pub fn admit(&self, module: ModuleId) -> Result<(), StoreError> {
        self.queue.admit(self.store, module)
    }
}

/// What is said to who comes too late.
pub(super) fn stopped() -> StoreError {
    StoreError::Failed("the committer has stopped".into())
}

impl Queue {
    /// Whether anything may queue now.
    pub fn room(&self, store: &Store) -> Result<(), StoreError> {
        if self.gone || self.stopping || self.failed.is_some() {
            return Err(self.failed.clone().unwrap_or_else(stopped));
        }
        if self.waiting.waiting.len() >= WAITING_MAX || self.waiting.batch.size_in_bytes() >= WAITING_BYTES_MAX {
            store.metrics.rejected.inc();
            return Err(StoreError::Failed("too many writes wait for the disk".into()));
        }
        Ok(())
    }

    /// Whether something of the module may queue now.
    pub fn admit(&self, store: &Store, module: ModuleId) -> Result<(), StoreError> {
        self.room(store)?;
        if self.fenced.contains(&module) {
            return Err(StoreError::Failed(format!("module #{} is being rewound or purged", module.0)));
        }
        let known = self.sequence.contains_key(&module) || store.index().modules.contains_key(&module);
        // A module that was named in a group that waits has no units, but may be opened again.
        if known || self.naming.values().any(|id| *id == module) {
            Ok(())
        } else {
            Err(StoreError::UnknownModule(format!("#{}", module.0)))
        }
    }

    /// Takes what waits.
    pub(super) fn take(&mut self) -> Group {
        self.number += 1;
        Group { headers: std::mem::take(&mut self.owed), ..std::mem::take(&mut self.waiting) }
    }

    /// Forgets what follows from groups that were not written: it is read anew from the disk.
    pub(super) fn forget(&mut self) {
        self.sequence.clear();
        self.kept.clear();
        self.naming.clear();
        self.outcomes.clear();
        self.progress.clear();
    }

    /// Signs where every module stands, at an orderly stop.
    pub(super) fn sign_all(&mut self, store: &Store) {
        for (id, last) in &mut self.sequence {
            let Some(receipt) = last.sign(store, *id) else { continue };
            if let Err(error) = receipts::put(&mut self.waiting.batch, *id, &receipt) {
                tracing::warn!(module = id.0, %error, "no receipt at the stop");
            }
        }
    }
}
