//! What an event read of its module's state, noted by key while it runs and looked up when it is wanted.
//!
//! Invariant: until an event is committed the store answers as it did before it, so that a value that was read can be
//! read again; only what the event flushed must be remembered.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::{
    recording::Scan,
    recording::meter::{ENTRY_BYTES, RecordedBytes},
    state::{Entries, ModuleId, StateView},
    store::StateChange,
    unit::overlay::{Overlay, SCAN_STEP, Written},
};

/// Keys that an idle overlay keeps room for.
const KEPT_KEYS: usize = 8;
/// Entries that are looked at again for the listings of one event, all together.
const LISTED_MAX: usize = 500_000;

#[derive(Default)]
pub(super) struct Notes {
    reads: Vec<String>,
    scans: Vec<(String, Option<String>, usize)>,
    /// Values before the event of keys that it flushed.
    before: BTreeMap<String, Option<Vec<u8>>>,
    flushed: Vec<(String, Option<Vec<u8>>)>,
    /// Counts all of it, with the other parts of the recording.
    meter: RecordedBytes,
}

impl Notes {
    /// Whether so many bytes more may be noted. When not, what was noted goes at once.
    fn room(&mut self, bytes: usize) -> bool {
        let room = self.meter.room(bytes);
        if !room {
            *self = Self { meter: self.meter.clone(), ..Self::default() };
        }
        room
    }
}

fn entry_bytes(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

fn bytes_of(value: Option<&Vec<u8>>) -> usize {
    value.map_or(0, Vec::len)
}

/// What an event saw of the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub reads: Vec<(String, Option<Vec<u8>>)>,
    pub scans: Vec<Scan>,
    /// Keys and values that were looked up for it.
    pub bytes: usize,
    pub cut: bool,
}

impl Overlay {
    /// The same overlay, which notes what is read from now on, as long as `meter` has room.
    pub(crate) fn noting(mut self, meter: &RecordedBytes) -> Self {
        self.notes = Some(Box::new(Notes { meter: meter.clone(), ..Notes::default() }));
        self
    }

    /// Counts bytes that go to the store with what the next unit changes.
    pub(crate) fn sent_with(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
    }

    /// Begins the next event.
    pub(crate) fn begin(&mut self) {
        // Nothing is recorded.
        let Some(notes) = &mut self.notes else { return };
        notes.reads.clear();
        notes.reads.shrink_to(KEPT_KEYS);
        notes.scans.clear();
        notes.before.clear();
        notes.flushed.clear();
        notes.meter.reset();
    }

    pub(crate) fn note_read(&mut self, key: String) {
        if let Some(notes) = &mut self.notes
            && notes.room(key.capacity() + ENTRY_BYTES)
        {
            notes.reads.push(key);
        }
    }

    pub(crate) fn note_scan(&mut self, prefix: &str, after: Option<&str>, limit: usize) {
        if let Some(notes) = &mut self.notes
            && notes.room(prefix.len() + after.map_or(0, str::len) + 2 * ENTRY_BYTES)
        {
            notes.scans.push((prefix.to_owned(), after.map(str::to_owned), limit));
        }
    }

    pub(super) fn note_flush(&mut self, changes: &[StateChange]) {
        // Nothing is recorded.
        let Some(notes) = &mut self.notes else { return };
        for StateChange { key, new, old } in changes {
            let first = !notes.before.contains_key(key);
            let before = if first { key.len() + bytes_of(old.as_ref()) + 2 * ENTRY_BYTES } else { 0 };
            if !notes.room(before + key.len() + bytes_of(new.as_ref()) + 2 * ENTRY_BYTES) {
                return;
            }
            if first {
                notes.before.insert(key.clone(), old.clone());
            }
            notes.flushed.push((key.clone(), new.clone()));
        }
    }

    /// What the event at hand saw, at most `bytes_max` of keys and values. What can no longer be read counts as cut.
    pub(crate) fn seen(&self, bytes_max: usize) -> Seen {
        let Some(notes) = &self.notes else { return Seen::default() };
        let mut seen = Seen { cut: notes.meter.is_cut(), ..Seen::default() };
        let mut bytes = 0;
        let mut reads: BTreeMap<&String, Option<Vec<u8>>> = BTreeMap::new();
        for key in notes.reads.iter().chain(self.writes.keys()).chain(notes.before.keys()) {
            if seen.cut || reads.contains_key(key) {
                continue;
            }
            bytes += key.len() + ENTRY_BYTES;
            // What is in memory is counted before it is copied; of what is not, one value is read at a time.
            let known = match (notes.before.get(key), self.writes.get(key)) {
                (Some(before), _) => Some(before.as_ref()),
                (None, Some(Written { old, .. })) => Some(old.as_ref()),
                (None, None) => None,
            };
            bytes += known.flatten().map_or(0, Vec::len);
            seen.cut |= bytes > bytes_max;
            if seen.cut {
                break;
            }
            let value = match known {
                Some(value) => Ok(value.cloned()),
                None => self.before(key).inspect(|value| bytes += bytes_of(value.as_ref())),
            };
            let Ok(value) = value else {
                seen.cut = true;
                break;
            };
            seen.cut |= bytes > bytes_max;
            reads.insert(key, value);
        }
        // Of listings that began at the same place the longest holds the others.
        let mut scans: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
        for (prefix, after, limit) in &notes.scans {
            let longest = scans.entry((prefix.as_str(), after.as_deref())).or_default();
            *longest = (*longest).max(*limit);
        }
        let mut listed = 0;
        for ((prefix, after), limit) in scans {
            if seen.cut {
                break;
            }
            match self.scan_before(notes, prefix, after, limit, bytes_max.saturating_sub(bytes), &mut listed) {
                Some(scan) => {
                    bytes += scan.entries.iter().map(|(key, value)| entry_bytes(key, value)).sum::<usize>();
                    seen.scans.push(scan);
                }
                None => seen.cut = true,
            }
        }
        if seen.cut {
            return Seen { cut: true, ..Seen::default() };
        }
        seen.bytes = bytes;
        seen.reads = reads.into_iter().map(|(key, value)| (key.clone(), value)).collect();
        seen
    }

    /// Keys that the event at hand changed and their new values, those first that it flushed; `None` when keys and values
    /// of those that it did not flush are more than `bytes_max`.
    pub(crate) fn changed(&self, bytes_max: usize) -> Option<Vec<(String, Option<Vec<u8>>)>> {
        let flushed = self.notes.iter().flat_map(|notes| notes.flushed.iter().cloned());
        let written = || self.writes.iter().filter(|(_, written)| written.new != written.old);
        let bytes: usize = written().map(|(key, written)| key.len() + bytes_of(written.new.as_ref())).sum();
        let all = flushed.chain(written().map(|(key, written)| (key.clone(), written.new.clone())));
        (bytes <= bytes_max).then(|| all.collect())
    }

    /// A listing as it was before the event, long enough for whatever the event's own writes hide of it; `None` when it
    /// cannot be read, has more than `room` bytes, or too many entries were looked at. Adds to `listed` how many were.
    fn scan_before(
        &self,
        notes: &Notes,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        mut room: usize,
        listed: &mut usize,
    ) -> Option<Scan> {
        let start = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let from = (start, Bound::Unbounded);
        let own = self.writes.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix)).count();
        let sent = || self.sent.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix));
        let flushed = || notes.before.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix));
        let hidden = own + sent().count() + flushed().count();
        *listed += 1 + hidden;
        let (mut found, mut read, mut last) = (BTreeMap::new(), 0, None::<String>);
        let whole = loop {
            let step = (limit + hidden - read).min(SCAN_STEP);
            if step == 0 || *listed > LISTED_MAX {
                break false;
            }
            let from = last.as_deref().or(after);
            let (entries, deleted) = self.view.scan_past(self.module, prefix, from, step).ok()?;
            let is_end = entries.len() < step;
            read += entries.len();
            *listed += entries.len() + usize::try_from(deleted).ok()?;
            last = entries.last().map(|(key, _)| key.clone()).or(last);
            for (key, value) in entries {
                // The store does not have yet what was there before the event.
                if !self.sent.contains_key(&key) && !notes.before.contains_key(&key) {
                    room = room.checked_sub(entry_bytes(&key, &value))?;
                    found.insert(key, value);
                }
            }
            if is_end {
                break true;
            }
        };
        if *listed > LISTED_MAX {
            return None;
        }
        // Past the last one read nothing is known of the store.
        let end = last.filter(|_| !whole);
        let known = |key: &str| end.as_deref().is_none_or(|end| key <= end);
        let mut newest: BTreeMap<&String, &Option<Vec<u8>>> = BTreeMap::new();
        newest.extend(sent());
        newest.extend(flushed());
        for (key, value) in newest {
            if let Some(value) = value.as_ref().filter(|_| known(key)) {
                room = room.checked_sub(entry_bytes(key, value))?;
                found.insert(key.clone(), value.clone());
            }
        }
        let entries: Entries = found.into_iter().collect();
        Some(Scan { prefix: prefix.to_owned(), after: after.map(str::to_owned), entries, whole })
    }

    /// Looks at another state from now on, as if nothing had been written.
    pub(crate) fn rebase(&mut self, view: Arc<dyn StateView>, module: ModuleId, used_bytes: u64) {
        self.writes.clear();
        self.settled();
        (self.view, self.module, self.used_bytes) = (view, module, used_bytes);
        self.begin();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        bindings::nexum::host::local_store::Write,
        recording::RECORDING_BYTES_MAX,
        state::StoreError,
        unit::overlay::tests::{overlay, put},
    };

    /// A state of ten thousand entries of a kilobyte, and how many were read.
    #[derive(Default)]
    struct Large(AtomicUsize);

    impl StateView for Large {
        fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }

        fn scan(&self, _: ModuleId, _: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
            let from = after.map_or(0, |after| after[1..].parse::<usize>().unwrap() + 1);
            let entries: Entries = (from..10_000).take(limit).map(|n| (format!("k{n:04}"), vec![0; 1024])).collect();
            self.0.fetch_add(entries.len(), Ordering::Relaxed);
            Ok(entries)
        }
    }

    #[test]
    fn a_listing_that_there_is_no_room_for_is_not_read_to_its_end() {
        let large = Arc::new(Large::default());
        let mut overlay = Overlay::new(large.clone(), ModuleId(1), 0, u64::MAX).noting(&RecordedBytes::default());
        overlay.begin();
        overlay.note_scan("k", None, 10_001);
        assert!(overlay.seen(100 << 10).cut);
        assert_eq!(large.0.load(Ordering::Relaxed), SCAN_STEP);
        let seen = overlay.seen(usize::MAX);
        assert_eq!((seen.scans[0].entries.len(), seen.scans[0].whole, seen.cut), (10_000, true, false));
    }

    #[test]
    fn a_listing_that_is_read_in_steps_leaves_out_nothing() {
        let keys: Vec<String> = (0..3 * SCAN_STEP).map(|n| format!("k{n:05}")).collect();
        let committed: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "v")).collect();
        let mut overlay = overlay(&committed, u64::MAX).noting(&RecordedBytes::default());
        overlay.begin();
        let around = [SCAN_STEP - 1, SCAN_STEP, SCAN_STEP + 1, 2 * SCAN_STEP];
        overlay.apply(around.iter().map(|nth| Write::Delete(keys[*nth].clone())).collect()).unwrap();
        let flushed = overlay.take_changes();
        overlay.note_flush(&flushed);
        overlay.apply(vec![put("k00000", "new"), put(&keys[SCAN_STEP], "new")]).unwrap();
        for limit in [1, SCAN_STEP, 2 * SCAN_STEP, 3 * SCAN_STEP, 4 * SCAN_STEP] {
            overlay.note_scan("k", None, limit);
            let seen = overlay.seen(usize::MAX);
            let scan = &seen.scans[0];
            assert!(scan.entries.len() >= limit.min(keys.len()), "{} of {limit}", scan.entries.len());
            assert!(scan.entries.iter().zip(&keys).all(|((key, value), expected)| key == expected && value == b"v"));
            assert_eq!(scan.whole, limit + 10 > keys.len(), "{limit}");
        }
    }

    #[test]
    fn values_are_those_before_the_event_whatever_it_wrote_or_flushed() {
        let mut overlay =
            overlay(&[("a", "1"), ("b", "2"), ("p/1", "x"), ("p/2", "y")], 1000).noting(&RecordedBytes::default());
        overlay.begin();
        overlay.apply(vec![put("a", "9")]).unwrap();
        let flushed = overlay.take_changes();
        overlay.note_flush(&flushed);
        overlay.apply(vec![put("a", "10"), put("p/0", "new")]).unwrap();
        overlay.note_read("b".into());
        overlay.note_read("gone".into());
        overlay.note_scan("p/", None, 5);
        let seen = overlay.seen(1000);
        let read = |key: &str| seen.reads.iter().find(|(read, _)| read == key).unwrap().1.clone();
        assert_eq!([read("a"), read("b")], [Some(b"1".to_vec()), Some(b"2".to_vec())]);
        assert_eq!([read("gone"), read("p/0")], [None, None]);
        let keys: Vec<&str> = seen.scans[0].entries.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!((keys.as_slice(), seen.scans[0].whole), (["p/1", "p/2"].as_slice(), true));
        let changed: Vec<String> = overlay.changed(1000).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(changed, ["a", "a", "p/0"]);
        assert!(!seen.cut);
        assert!(overlay.seen(5).cut);
        overlay.begin();
        assert!(overlay.seen(1000).scans.is_empty());
    }

    #[test]
    fn equal_listings_are_looked_up_once_and_the_longest_holds_the_others() {
        let mut overlay = overlay(&[("p/1", "x"), ("p/2", "y")], 1000).noting(&RecordedBytes::default());
        overlay.begin();
        for limit in [1, 9, 9, 2] {
            overlay.note_scan("p/", None, limit);
        }
        overlay.note_scan("p/", Some("p/1"), 9);
        let seen = overlay.seen(1000);
        let lengths: Vec<usize> = seen.scans.iter().map(|scan| scan.entries.len()).collect();
        assert_eq!((lengths, seen.cut), (vec![2, 1], false));
    }

    #[test]
    fn what_is_noted_is_bounded_by_its_bytes_and_goes_when_it_is_too_much() {
        let meter = RecordedBytes::default();
        let mut overlay = overlay(&[("a", "1")], 1 << 30).noting(&meter);
        let large = || "k".repeat(RECORDING_BYTES_MAX);
        overlay.note_read("a".into());
        overlay.note_read(large());
        overlay.note_read("a".into());
        assert!(meter.is_cut());
        assert!(overlay.notes.as_ref().unwrap().reads.is_empty());

        overlay.begin();
        assert!(!meter.is_cut());
        overlay.note_scan(&large(), None, 1);
        assert!(meter.is_cut() && overlay.notes.as_ref().unwrap().scans.is_empty());

        overlay.begin();
        assert!(!meter.is_cut());
        overlay.apply(vec![put("a", "2"), put("b", &large())]).unwrap();
        assert!(overlay.changed(1000).is_none());
        let flushed = overlay.take_changes();
        overlay.note_flush(&flushed);
        let notes = overlay.notes.as_ref().unwrap();
        assert!(meter.is_cut() && notes.before.is_empty() && notes.flushed.is_empty());
        assert!(overlay.seen(usize::MAX).cut);
    }

    #[test]
    fn a_flush_that_changes_nothing_does_not_forget_what_it_compared_with() {
        let mut overlay = overlay(&[("a", "1")], 1000).noting(&RecordedBytes::default());
        overlay.begin();
        overlay.apply(vec![put("a", "1")]).unwrap();
        assert!(overlay.take_changes().is_empty());
        assert_eq!(overlay.seen(1000).reads, [("a".to_owned(), Some(b"1".to_vec()))]);
    }
}
