//! Group commit: one thread that writes whatever queued while its last write went to the disk. A store that runs inline
//! has a task in the thread's place, and everything it does is done at once.
//!
//! Units and whatever else is written are encoded into the waiting group by the actor (`commit`), so that the thread has
//! nothing to do but write and answer.
//!
//! Invariant: units of a module are written in the order of their sequence, without a gap. When a write fails, the group
//! and everything that queued behind it fails with it, and the sequences are read anew from the disk.

mod change_feed;
pub(crate) mod fence;
pub(crate) mod group;
mod inline;
pub(crate) mod queue;
pub(crate) mod shared;
mod thread;
mod write;

use std::{
    sync::{Arc, Weak},
    thread::JoinHandle,
};

use nexum_host_ifaces::{
    blocking::Blocking,
    interfaces::chain::port::Link,
    store::{Reply, StoreError},
};
use tokio::task::AbortHandle;

use self::{
    group::Waiting,
    queue::{Turn, stopped},
    shared::CommitterShared,
};
use crate::store::{Store, Writer, lock};

/// The actor's end of the queue. Dropping it writes what waits and joins the thread.
pub(crate) struct Committer {
    shared: Arc<CommitterShared>,
    thread: Option<JoinHandle<()>>,
    task: Option<AbortHandle>,
}

impl Committer {
    /// Starts the thread, after stopping whoever wrote before: the actor that died may not have been dropped yet, because
    /// ractor hands its state to the supervisor. Blocks.
    pub fn start(store: Arc<Store>) -> Result<Self, StoreError> {
        let before = lock(&store.writer).as_ref().and_then(Weak::upgrade);
        if let Some(before) = before {
            before.stop();
        }
        let lease = Arc::new(store.lease()?);
        let shared = Arc::new(CommitterShared::new(store, lease.clone()));
        let writer = Arc::downgrade(&shared);
        let writer: Weak<dyn Writer> = writer;
        *lock(&shared.store.writer) = Some(writer);
        if shared.store.options.blocking == Blocking::Inline {
            drop(lease);
            let task = tokio::spawn(shared.clone().run_as_task());
            return Ok(Self { shared, thread: None, task: Some(task.abort_handle()) });
        }
        let thread = std::thread::Builder::new().name("nexum-commit".into()).spawn({
            let shared = shared.clone();
            move || {
                shared.run();
                drop(lease);
            }
        });
        let thread = thread.map_err(|error| StoreError::Failed(format!("cannot start the committer: {error}")))?;
        Ok(Self { shared, thread: Some(thread), task: None })
    }

    /// Takes nothing more. What waits is written before the thread ends.
    pub fn stop(&mut self) -> Option<JoinHandle<()>> {
        self.shared.stop();
        self.thread.take()
    }

    /// Why the thread has ended or is about to, if so: writes failed, a bug, or another actor that took over.
    pub fn gone(&self) -> Option<StoreError> {
        let queue = lock(&self.shared.queue);
        queue.failed.clone().or_else(|| queue.gone.then(stopped))
    }

    /// Takes what a message asks for, and answers it as `waiting` says once everything so far is written.
    pub fn take<T, A>(
        &self,
        reply: Reply<T>,
        waiting: fn(A, Reply<T>) -> Waiting,
        take: impl FnOnce(&mut Turn<'_>) -> Result<A, StoreError>,
    ) {
        let mut queue = lock(&self.shared.queue);
        let taken = take(&mut Turn { queue: &mut queue, store: &self.shared.store });
        match taken {
            Ok(answer) => self.shared.push(&mut queue, waiting(answer, reply)),
            // Nobody to tell when the caller gave up.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Wakes nobody: headers go with whatever is written next.
    pub fn put_headers(&self, chain_id: u64, anew: bool, headers: &[Link], dropped: &[Link]) {
        lock(&self.shared.queue).owed.add(chain_id, anew, headers, dropped);
    }

    /// What those share who queue and who writes, and where the outbox actor's questions are answered.
    pub fn shared(&self) -> &Arc<CommitterShared> {
        &self.shared
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Some(Err(_)) = self.stop().map(JoinHandle::join) {
            tracing::error!("the committer thread panicked");
        }
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
