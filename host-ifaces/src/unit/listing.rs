//! Listings: the committed entries with those of the event, and of what is on its way to the store, over them.
//!
//! Invariant: a listing reads about what it answers, however much the event has written, and what it goes past costs the
//! event something, also where there is nothing to answer of it: a key of a few bytes that the event deleted.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    HostError,
    limits::{ANSWER_BYTES_MAX, DELETED_KEYS_MAX},
    state::Entries,
    unit::overlay::{Overlay, SCAN_STEP, failed},
};

/// What an entry that a listing goes past counts besides its key and value, bytes: finding it takes as long as copying so
/// many. An event goes past a million.
const PASSED_BYTES: usize = 256;
/// What a key counts that the store goes past without copying it, bytes: one that an earlier event deleted.
const DELETED_BYTES: u64 = 128;
// An event of which the store reads no more ends.
const _: () = assert!(DELETED_KEYS_MAX * DELETED_BYTES >= ANSWER_BYTES_MAX);

impl Overlay {
    /// The first `limit` entries with `prefix` after `after`, or fewer when those have more than `bytes_max` bytes.
    pub(crate) fn list(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Entries, HostError> {
        let (entries, bytes) = self.listed(prefix, after, limit, bytes_max)?;
        self.copied_bytes += bytes;
        Ok(entries)
    }

    /// Newest values that the store does not have yet of keys with `prefix` after `after`, in order, as far as they can
    /// matter to a listing of `limit` entries.
    fn overlaid(&self, prefix: &str, after: Option<&str>, limit: usize) -> BTreeMap<&String, &Option<Vec<u8>>> {
        let start = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let from = (start, Bound::Unbounded);
        let mut sent = self.sent.range::<str, _>(from).peekable();
        let mut written = self.writes.range::<str, _>(from).map(|(key, written)| (key, &written.new)).peekable();
        let (mut found, mut values) = (BTreeMap::new(), 0);
        while values < limit {
            let next = (sent.peek().map(|(key, _)| *key), written.peek().map(|(key, _)| *key));
            let entry = match next {
                (Some(older), Some(newer)) if older < newer => sent.next(),
                (Some(older), Some(newer)) if older == newer => {
                    sent.next();
                    written.next()
                }
                (Some(_), None) => sent.next(),
                (_, Some(_)) => written.next(),
                (None, None) => None,
            };
            let Some((key, value)) = entry.filter(|(key, _)| key.starts_with(prefix)) else { break };
            values += usize::from(value.is_some());
            found.insert(key, value);
        }
        found
    }

    /// The entries, and what was read and copied for them, bytes.
    fn listed(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Entries, usize), HostError> {
        let overlaid = self.overlaid(prefix, after, limit);
        // Every overlaid key may hide a committed one, so read that many more.
        let wanted = limit + overlaid.len();
        let mut committed = Entries::new();
        let (mut read_bytes, mut shown_bytes) = (overlaid.len() * PASSED_BYTES, 0);
        // An event that has read so much ends with this call, whatever it answers.
        let may_read = |read_bytes: usize| read_bytes as u64 <= ANSWER_BYTES_MAX;
        while committed.len() < wanted && shown_bytes <= bytes_max && may_read(read_bytes) {
            let step = (wanted - committed.len()).min(SCAN_STEP);
            let from = committed.last().map(|(key, _)| key.as_str()).or(after);
            let (entries, deleted) = self.view.scan_past(self.module, prefix, from, step).map_err(failed)?;
            let is_end = entries.len() < step;
            let deleted_bytes = usize::try_from(deleted.saturating_mul(DELETED_BYTES)).unwrap_or(usize::MAX);
            read_bytes = read_bytes.saturating_add(deleted_bytes);
            for (key, value) in &entries {
                let bytes = key.len() + value.len();
                read_bytes += PASSED_BYTES + bytes;
                shown_bytes += if overlaid.contains_key(key) { 0 } else { bytes };
            }
            committed.extend(entries);
            if is_end {
                break;
            }
        }
        if overlaid.is_empty() {
            return Ok((committed, read_bytes));
        }
        let mut merged: BTreeMap<String, Vec<u8>> = committed.into_iter().collect();
        for (key, value) in overlaid {
            read_bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => {
                    merged.insert(key.clone(), value.clone());
                }
                None => {
                    merged.remove(key);
                }
            }
        }
        Ok((merged.into_iter().take(limit).collect(), read_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{
        bindings::nexum::host::local_store::Write,
        state::{ModuleId, StateView, StoreError},
        unit::overlay::tests::{overlay, put},
    };

    /// A state of ten thousand entries of a megabyte, none of which is touched, and how many were read.
    #[derive(Default)]
    struct Huge(AtomicUsize);

    impl StateView for Huge {
        fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }

        fn scan(&self, _: ModuleId, _: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
            let from = after.map_or(0, |after| after[1..].parse::<usize>().unwrap() + 1);
            let entries: Entries = (from..10_000).take(limit).map(|n| (format!("k{n:04}"), vec![0; 1 << 20])).collect();
            self.0.fetch_add(entries.len(), Ordering::Relaxed);
            Ok(entries)
        }
    }

    #[test]
    fn a_listing_reads_no_more_than_an_event_may() {
        let huge = Arc::new(Huge::default());
        let mut overlay = Overlay::new(huge.clone(), ModuleId(1), 0, u64::MAX);
        overlay.list("k", None, 10_001, usize::MAX).unwrap();
        assert_eq!(huge.0.load(Ordering::Relaxed), SCAN_STEP);
        assert!(overlay.take_copied() as u64 > ANSWER_BYTES_MAX, "so that the event ends");
    }

    /// A state of which everything was deleted by earlier events.
    struct Deleted(u64);

    impl StateView for Deleted {
        fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }

        fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
            Ok(Entries::new())
        }

        fn scan_past(
            &self,
            module: ModuleId,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<(Entries, u64), StoreError> {
            self.scan(module, prefix, after, limit).map(|entries| (entries, self.0))
        }
    }

    #[test]
    fn what_earlier_events_deleted_counts_where_a_listing_goes_past_it() {
        for (deleted, is_over) in [(1_000, false), (DELETED_KEYS_MAX, false), (DELETED_KEYS_MAX + 1, true)] {
            let mut overlay = Overlay::new(Arc::new(Deleted(deleted)), ModuleId(1), 0, u64::MAX);
            assert!(overlay.list("", None, 10, usize::MAX).unwrap().is_empty());
            let copied = overlay.take_copied() as u64;
            assert_eq!((copied, copied > ANSWER_BYTES_MAX), (deleted * DELETED_BYTES, is_over));
        }
    }

    #[test]
    fn a_page_reads_no_more_of_what_the_event_wrote_than_it_answers() {
        let mut overlay = overlay(&[("k/0500x", "v")], u64::MAX);
        let writes = (0..1_000).map(|n| put(&format!("k/{n:04}"), "value")).collect();
        overlay.apply(writes).unwrap();
        let mut seen: Vec<String> = Vec::new();
        loop {
            let after = seen.last().cloned();
            overlay.take_copied();
            let page = overlay.list("k/", after.as_deref(), 10, usize::MAX).unwrap();
            // Those of the page, and the one that is committed.
            assert!(overlay.take_copied() <= 11 * (PASSED_BYTES + "k/0000value".len()));
            if page.is_empty() {
                break;
            }
            seen.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(seen.len(), 1_001);
        assert!(seen.is_sorted());
    }

    #[test]
    fn a_listing_stops_reading_where_its_answer_is_full() {
        let value = "v".repeat(100);
        let keys: Vec<String> = (0..2_000).map(|n| format!("k{n:04}")).collect();
        let committed: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
        let mut overlay = overlay(&committed, u64::MAX);
        let page = overlay.list("", None, 2_000, 1_000).unwrap();
        let step_bytes = SCAN_STEP * (PASSED_BYTES + "k0000".len() + value.len());
        assert!(page.len() >= 10 && overlay.take_copied() == step_bytes, "{} entries", page.len());
        // What is hidden does not count: the page is not empty as long as there is something to show.
        overlay.apply(keys[..1_500].iter().map(|key| Write::Delete(key.clone())).collect()).unwrap();
        assert_eq!(overlay.list("", None, 1, 1_000).unwrap()[0].0, "k1500");
    }

    #[test]
    fn what_a_listing_goes_past_counts_also_when_the_event_deleted_it() {
        let keys: Vec<String> = (0..4_000).map(|n| format!("k{n:04}")).collect();
        let committed: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
        let mut overlay = overlay(&committed, u64::MAX);
        overlay.apply(keys[..2_000].iter().map(|key| Write::Delete(key.clone())).collect()).unwrap();
        overlay.take_copied();
        assert_eq!(overlay.list("", None, 1, usize::MAX).unwrap()[0].0, "k2000");
        // Each of the deletions, and what they hide.
        assert!(overlay.take_copied() >= 2 * 2_000 * PASSED_BYTES);
        // The same for those whose unit is on its way, and for keys that nothing is committed of.
        overlay.take_changes();
        assert_eq!(overlay.list("", None, 1, usize::MAX).unwrap()[0].0, "k2000");
        assert!(overlay.take_copied() >= 2 * 2_000 * PASSED_BYTES);
        overlay.settled();
        overlay.apply((0..1_000).map(|n| put(&format!("z{n:04}"), "")).collect()).unwrap();
        overlay.take_changes();
        overlay.apply((0..1_000).map(|n| Write::Delete(format!("z{n:04}"))).collect()).unwrap();
        overlay.take_copied();
        assert!(overlay.list("z", None, 1, usize::MAX).unwrap().is_empty());
        assert!(overlay.take_copied() >= 1_000 * PASSED_BYTES);
    }
}
