//! Writing a group, and what becomes of those who wait for it.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::store::ModuleId;
use rocksdb::WriteOptions;

use super::{
    group::{Group, LetterChange},
    shared::CommitterShared,
};
use crate::{
    disk::Written,
    index::IndexedModule,
    store::{Store, lock},
};

/// Writes that fail in a row before the committer gives up: RocksDB takes nothing more after an error of the disk until
/// it is opened again, which is for whoever supervises the actor, and in the end for whoever starts the process. A disk
/// that is full is another matter (`full_disk`): who writes is told, and may try again.
const FAILED_MAX: u32 = 3;

impl CommitterShared {
    /// Writes one group and answers who waits for it. Whether the database is still to be written to: once several
    /// writes in a row have failed it takes nothing more until it is opened again.
    pub(super) fn write(&self, group: Group, options: &WriteOptions) -> bool {
        let Group { mut batch, units, named, letters, sent, waiting, headers, left_out, is_synced: _ } = group;
        headers.write(&mut batch);
        let touches_disk = !batch.is_empty();
        let written = if !touches_disk {
            Ok(())
        } else {
            let started_ns = self.store.options.clock.monotonic_ns();
            let written = self.store.db.write(Written::Group, batch, options);
            self.measure(units, self.store.options.clock.monotonic_ns().saturating_sub(started_ns));
            written
        };
        match written {
            Ok(()) => {
                self.store.metrics.recordings_left_out.inc_by(left_out);
                self.remember(named, letters);
                self.change_feed.sent(&self.store, sent);
                self.settle();
                // Before whoever waits is told, so that they find it so. A group that only answers says nothing about the
                // disk.
                if touches_disk {
                    self.store.note_written();
                }
                waiting.into_iter().for_each(|waiting| waiting.answer(&self.store, Ok(())));
                true
            }
            Err(error) => {
                self.store.note_refused(&error);
                let failed = match self.store.waits_for_space(&error) {
                    true => 0,
                    false => self.store.failing.fetch_add(1, Ordering::Relaxed) + 1,
                };
                tracing::error!(%error, units, "a group of event units could not be written");
                let behind = {
                    let mut queue = lock(&self.queue);
                    queue.forget();
                    if failed >= FAILED_MAX {
                        queue.failed = Some(error.clone());
                    }
                    let mut behind = queue.take();
                    behind.headers.put_back(headers);
                    // A disk that fails at the end keeps nobody from ending.
                    if !queue.stopping {
                        queue.owed = std::mem::take(&mut behind.headers);
                    }
                    behind
                };
                self.change_feed.lose();
                self.settle();
                let refused = waiting.into_iter().chain(behind.waiting);
                refused.for_each(|waiting| waiting.answer(&self.store, Err(error.clone())));
                failed < FAILED_MAX
            }
        }
    }

    fn measure(&self, units: u64, duration_ns: u64) {
        let Store { metrics, totals, .. } = &*self.store;
        metrics.commit_duration.observe(duration_ns as f64 / 1e9);
        // Failure counters and names are written without a unit.
        if units > 0 {
            metrics.batch_size.observe(units as f64);
        }
        totals.units.fetch_add(units, Ordering::Relaxed);
        totals.commits.fetch_add(1, Ordering::Relaxed);
        lock(&totals.window).push(duration_ns);
    }

    /// Brings the index up to what was written.
    fn remember(&self, named: Vec<(Arc<str>, ModuleId)>, letters: Vec<(ModuleId, LetterChange)>) {
        if named.is_empty() && letters.is_empty() {
            return;
        }
        let mut index = self.store.index();
        for (name, id) in &named {
            index.by_name.insert(name.clone(), *id);
            index.next_id = index.next_id.max(id.0 + 1);
            index.modules.insert(*id, IndexedModule { name: name.clone(), letters: Default::default() });
        }
        for (id, change) in letters {
            let known = index.written(id);
            match change {
                LetterChange::Put { seq, bytes } => known.letters.insert(seq, bytes),
                LetterChange::Removed(seq) => known.letters.remove(&seq),
            };
            self.store.show_letters(known);
        }
        drop(index);
        let mut queue = lock(&self.queue);
        for (name, _) in &named {
            queue.naming.remove(name);
        }
    }
}
