//! A full disk.
//!
//! Invariant: it ends nothing. RocksDB takes writes again by itself once there is space, so that it is worth waiting; any
//! other failure of the disk is not.

use std::{sync::atomic::Ordering, time::Duration};

use nexum_host_ifaces::store::{RefusedWrites, StoreError};

use crate::{
    metrics::{DISK_FULL, OTHER},
    store::{Store, lock},
};

/// With less than this free a disk counts as full, bytes: several times what RocksDB wants to see before it writes again.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// The same for files: more than a recovery makes.
const FREE_FILES_MIN: u64 = 16;

/// How long after there was space again the database may still refuse: it looks every five seconds.
const RECOVERY: Duration = Duration::from_secs(60);

impl Store {
    /// Whether a write failed only because the disk is full, or was until a moment ago.
    pub(crate) fn waits_for_space(&self, error: &StoreError) -> bool {
        if !matches!(error, StoreError::DiskFull(_)) {
            return false;
        }
        if self.free_bytes() < FREE_BYTES_MIN {
            self.freed_ns.store(0, Ordering::Relaxed);
            return true;
        }
        // 0 says that there is none.
        let now_ns = self.options.clock.monotonic_ns().max(1);
        let freed = self.freed_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
        let freed_ns = freed.err().unwrap_or(now_ns);
        u128::from(now_ns.saturating_sub(freed_ns)) < RECOVERY.as_nanos()
    }

    /// A group was not written.
    pub(crate) fn note_refused(&self, error: &StoreError) {
        let reason = if matches!(error, StoreError::DiskFull(_)) { DISK_FULL } else { OTHER };
        self.metrics.failed.with_label_values(&[reason]).inc();
        let mut refusing = lock(&self.refusing);
        let since_ns = refusing.as_ref().map_or_else(|| self.options.clock.monotonic_ns(), |(since_ns, _)| *since_ns);
        *refusing = Some((since_ns, error.to_string()));
    }

    /// A group was written: there is space, and the database takes it.
    pub(crate) fn note_written(&self) {
        self.failing.store(0, Ordering::Relaxed);
        self.freed_ns.store(0, Ordering::Relaxed);
        *lock(&self.refusing) = None;
    }

    /// What the tree says of writes that are not taken.
    pub(crate) fn refusing(&self) -> Option<RefusedWrites> {
        let refusing = lock(&self.refusing);
        let (since_ns, error) = refusing.as_ref()?;
        let age_ms = self.options.clock.monotonic_ns().saturating_sub(*since_ns) / 1_000_000;
        Some(RefusedWrites { error: error.clone(), age_ms })
    }

    fn free_bytes(&self) -> u64 {
        match &self.options.disk {
            Some(disk) => disk.free_bytes(),
            // What cannot be asked counts as full: it is the disk that has just said so.
            None => rustix::fs::statvfs(&self.db.directory)
                .map_or(0, |disk| usable(disk.f_bavail.saturating_mul(disk.f_frsize), (disk.f_files, disk.f_favail))),
        }
    }
}

/// What is free for new files. Where a file system has a number of files and none is left, there is none for another, which
/// the system reports with the same words. One without such a number says 0.
fn usable(bytes: u64, (files, files_left): (u64, u64)) -> u64 {
    if files > 0 && files_left < FREE_FILES_MIN { 0 } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_on_which_no_more_files_can_be_made_is_full() {
        assert_eq!(usable(7, (1_000, 500)), 7);
        assert_eq!(usable(7, (1_000, FREE_FILES_MIN - 1)), 0);
        assert_eq!(usable(7, (0, 0)), 7, "as many as there is space for");
    }
}
