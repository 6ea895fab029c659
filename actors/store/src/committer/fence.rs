//! Holding a module's units back while its past is replaced.

use std::sync::{Arc, PoisonError};

use nexum_host_ifaces::{
    blocking::Blocking,
    store::{ModuleId, StoreError},
};

use super::{Queue, Shared};
use crate::store::{Lease, lock};

/// A module whose past is being replaced. Until it is dropped, no unit of the module is taken.
pub(crate) struct Fence {
    pub(super) shared: Arc<Shared>,
    pub(super) module: ModuleId,
    /// Every group below this number was there before the fence.
    pub(super) until: u64,
    pub(super) _lease: Arc<Lease>,
}

impl Fence {
    /// Waits until everything that queued before the fence is answered. Blocks.
    pub fn settle(&self) -> Result<(), StoreError> {
        if self.shared.store.blocking == Blocking::Inline {
            self.shared.drain();
        }
        let queue = lock(&self.shared.queue);
        let unsettled = |queue: &mut Queue| !queue.gone && queue.answered < self.until;
        let queue = self.shared.settled.wait_while(queue, unsettled).unwrap_or_else(PoisonError::into_inner);
        match queue.gone {
            true => Err(StoreError::Failed("the committer has stopped".into())),
            false => Ok(()),
        }
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
