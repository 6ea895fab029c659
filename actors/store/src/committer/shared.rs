//! What the actor and who writes have in common.

use std::sync::{Arc, Condvar, Mutex};

use nexum_host_ifaces::{blocking::Blocking, store::StoreError};
use tokio::sync::Notify;

use super::{
    change_feed::ChangeFeed,
    group::Waiting,
    queue::{Queue, Turn},
};
use crate::store::{Lease, Store, Writer, lock};

pub(crate) struct CommitterShared {
    pub(super) store: Arc<Store>,
    pub(super) queue: Mutex<Queue>,
    /// Something waits, or the thread shall stop.
    pub(super) filled: Condvar,
    /// The same for the task.
    pub(super) filled_task: Notify,
    /// A group was answered, or the thread is gone.
    pub(super) settled: Condvar,
    pub(super) lease: Mutex<Option<Arc<Lease>>>,
    /// What the outbox actor is told.
    pub change_feed: ChangeFeed,
}

impl CommitterShared {
    pub fn new(store: Arc<Store>, lease: Arc<Lease>) -> Self {
        let next_id = store.index().next_id;
        Self {
            store,
            queue: Mutex::new(Queue { next_id, ..Queue::default() }),
            filled: Condvar::new(),
            filled_task: Notify::new(),
            settled: Condvar::new(),
            lease: Mutex::new(Some(lease)),
            change_feed: ChangeFeed::default(),
        }
    }

    /// Queues what nobody waits for.
    pub fn add(&self, take: impl FnOnce(&mut Turn<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut queue = lock(&self.queue);
        take(&mut Turn { queue: &mut queue, store: &self.store })?;
        self.wake(&mut queue);
        Ok(())
    }

    pub(super) fn push(&self, queue: &mut Queue, waiting: Waiting) {
        queue.waiting.waiting.push(waiting);
        self.wake(queue);
    }

    fn wake(&self, queue: &mut Queue) {
        if std::mem::take(&mut queue.sleeping) {
            self.filled.notify_one();
            self.filled_task.notify_one();
        }
    }

    /// Marks everything taken so far as answered.
    pub(super) fn settle(&self) {
        let mut queue = lock(&self.queue);
        let number = queue.number;
        queue.answered = number;
        queue.progress.retain(|_, (group, _)| *group >= number);
        drop(queue);
        self.settled.notify_all();
    }
}

impl Writer for CommitterShared {
    fn stop(&self) {
        let mut queue = lock(&self.queue);
        if !queue.stopping && !queue.gone {
            queue.sign_all(&self.store);
        }
        queue.stopping = true;
        self.wake(&mut queue);
        drop(queue);
        if self.store.options.blocking == Blocking::Inline {
            let _bye = ExitGuard(self);
            self.drain();
        }
        *lock(&self.lease) = None;
    }
}

/// Says that the thread is gone, also when it panicked, and fails what still waits.
pub(super) struct ExitGuard<'a>(pub &'a CommitterShared);

impl Drop for ExitGuard<'_> {
    fn drop(&mut self) {
        // Dropping the replies tells their callers.
        drop(lock(&self.0.queue).take());
        lock(&self.0.queue).gone = true;
        self.0.settle();
    }
}
