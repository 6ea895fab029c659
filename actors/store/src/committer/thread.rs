//! The thread: it writes whatever queued while its last write went to the disk. There is no timer: waiting to collect
//! more was measured to be slower at every load.

use std::{sync::PoisonError, time::Duration};

use rocksdb::WriteOptions;

use super::{
    group::Group,
    shared::{CommitterShared, ExitGuard},
};
use crate::{options::Durability, store::lock};

/// With periodic durability, how much a power failure may cost.
const SYNC_PERIOD: Duration = Duration::from_millis(100);

impl CommitterShared {
    pub(super) fn run(&self) {
        let _bye = ExitGuard(self);
        let synced = crate::open::synced();
        let options = match self.store.options.durability {
            Durability::Sync => crate::open::synced(),
            Durability::Periodic => WriteOptions::default(),
        };
        // Since when something is written that may not be on the disk.
        let mut unsynced_ns = None;
        loop {
            match self.next(unsynced_ns) {
                Next::Write(group) => {
                    if self.store.options.durability == Durability::Periodic {
                        unsynced_ns = unsynced_ns.or_else(|| Some(self.store.options.clock.monotonic_ns()));
                    }
                    let is_synced = group.is_synced;
                    if !self.write(group, if is_synced { &synced } else { &options }) {
                        return;
                    }
                }
                Next::Sync => {
                    self.sync();
                    unsynced_ns = None;
                }
                Next::Stop => break,
            }
        }
        if unsynced_ns.is_some() {
            self.sync();
        }
    }

    /// What to do next. What has not been synced since `unsynced_ns` is in time, also when writes never pause.
    fn next(&self, unsynced_ns: Option<u64>) -> Next {
        let mut queue = lock(&self.queue);
        loop {
            let left = unsynced_ns.map(|since_ns| {
                let waited_ns = self.store.options.clock.monotonic_ns().saturating_sub(since_ns);
                SYNC_PERIOD.saturating_sub(Duration::from_nanos(waited_ns))
            });
            if left == Some(Duration::ZERO) {
                return Next::Sync;
            }
            if !queue.waiting.is_empty() {
                return Next::Write(queue.take());
            }
            if queue.stopping && !queue.owed.is_empty() {
                return Next::Write(queue.take());
            }
            if queue.stopping {
                return Next::Stop;
            }
            queue.sleeping = true;
            queue = match left {
                Some(left) => self.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.sleeping = false;
        }
    }

    fn sync(&self) {
        if let Err(error) = self.store.db.rocks.flush_wal(true) {
            tracing::error!(error = %self.store.db.failed(&error), "the log could not be synced");
        }
    }
}

enum Next {
    Write(Group),
    Sync,
    Stop,
}
