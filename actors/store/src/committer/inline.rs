//! Group commit without a thread: a task on the actor's executor takes the thread's place.

use std::sync::Arc;

use super::shared::CommitterShared;
use crate::store::lock;

impl CommitterShared {
    /// What the thread does, on the actor's own. Nothing is taken over an await, so that `drain` leaves nothing behind.
    pub(super) async fn run_as_task(self: Arc<Self>) {
        loop {
            let idle = {
                let mut queue = lock(&self.queue);
                queue.sleeping = queue.waiting.is_empty();
                queue.sleeping
            };
            if idle {
                self.filled_task.notified().await;
            }
            if let Some(disk) = &self.store.options.disk {
                tokio::time::sleep(disk.latency()).await;
            }
            self.drain();
        }
    }

    /// Writes what waits.
    pub(super) fn drain(&self) {
        loop {
            let group = {
                let mut queue = lock(&self.queue);
                match queue.waiting.is_empty() {
                    true => return,
                    false => queue.take(),
                }
            };
            self.write(group, &crate::open::synced());
        }
    }
}
