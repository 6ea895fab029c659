//! Holding a module's units back while its past is replaced.

use std::sync::{Arc, PoisonError};

use nexum_host_ifaces::{
    blocking::Blocking,
    outbox::OutboxChange,
    store::{ModuleId, StoreError},
};

use super::{
    queue::{Queue, stopped},
    shared::CommitterShared,
};
use crate::store::{Lease, lock};

/// A module whose past is being replaced. Until it is dropped, no unit of the module is taken.
pub(crate) struct Fence {
    shared: Arc<CommitterShared>,
    module: ModuleId,
    /// Every group below this number was there before the fence.
    until: u64,
    _lease: Arc<Lease>,
}

impl Fence {
    /// Refuses units of the module from now on. Its past may be replaced after `settle`.
    pub fn around(shared: &Arc<CommitterShared>, module: ModuleId) -> Result<Self, StoreError> {
        let mut queue = lock(&shared.queue);
        queue.admit(&shared.store, module)?;
        let lease = lock(&shared.lease).clone().ok_or_else(stopped)?;
        queue.fenced.insert(module);
        let until = if queue.waiting.is_empty() { queue.number } else { queue.number + 1 };
        Ok(Self { shared: shared.clone(), module, until, _lease: lease })
    }

    /// Waits until everything that queued before the fence is answered. Blocks.
    pub fn settle(&self) -> Result<(), StoreError> {
        if self.shared.store.options.blocking == Blocking::Inline {
            self.shared.drain();
        }
        let queue = lock(&self.shared.queue);
        let unsettled = |queue: &mut Queue| !queue.gone && queue.answered < self.until;
        let queue = self.shared.settled.wait_while(queue, unsettled).unwrap_or_else(PoisonError::into_inner);
        if queue.gone { Err(stopped()) } else { Ok(()) }
    }

    /// Tells the outbox actor what became of the module's past.
    pub fn tell(&self, change: OutboxChange) {
        self.shared.change_feed.push(vec![change]);
    }

    /// Tells it that nobody knows whether the past was replaced.
    pub fn lose(&self) {
        self.shared.change_feed.lose();
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.fenced.remove(&self.module);
        queue.sequence.remove(&self.module);
        queue.kept.remove(&self.module);
    }
}
