//! The `local-store` interface: an overlay of this event's writes over the module's committed state.
//!
//! Invariant: reads see the event's own writes and never cross a mailbox; nothing reaches the store before the event is
//! committed, except through `flush`.

mod listing;
mod seen;
mod undo;

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use crate::{
    HostError, HostErrorKind,
    ahead::NotKept,
    bindings::nexum::host::local_store::{self, Entry, Write},
    event::EventId,
    host::HostState,
    ledger::Outcome,
    store::{Change, ModuleId, StateView, StoreError, UnitKind},
};

/// RocksDB copies keys into every index block; a key longer than this belongs into the value.
pub const KEY_BYTES_MAX: usize = 1024;
/// One value: what an answer may have. Larger content belongs into several keys.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Writes of one `apply`, each of which counts as a host call.
pub const APPLY_WRITES_MAX: usize = 10_000;
/// One `list-keys` or `list-entries` answers at most this many entries; page with `after`.
pub const LIST_ENTRIES_MAX: usize = 10_000;

#[derive(Debug, Clone)]
struct Written {
    new: Option<Vec<u8>>,
    old: Option<Vec<u8>>,
}

impl Written {
    fn bytes(&self) -> usize {
        [&self.new, &self.old].into_iter().flatten().map(Vec::len).sum()
    }
}

/// The writes of one event, over those of events whose units are on their way to the store, over the committed state.
pub struct Overlay {
    view: Arc<dyn StateView>,
    module: ModuleId,
    writes: BTreeMap<String, Written>,
    /// Newest value of what units on their way change.
    sent: BTreeMap<String, Option<Vec<u8>>>,
    sent_bytes: usize,
    /// Keys plus values, committed and overlaid, bytes.
    used_bytes: u64,
    limit_bytes: u64,
    /// What was read and copied since it was last asked, bytes.
    copied_bytes: usize,
    /// What the event at hand read, when that is recorded.
    notes: Option<Box<seen::Notes>>,
}

pub(crate) use seen::Seen;

fn size(key: &str, value: Option<&Vec<u8>>) -> u64 {
    value.map_or(0, |value| (key.len() + value.len()) as u64)
}

/// `what` is the key's role, such as `a key`.
fn check_key(what: &str, key: &str) -> Result<(), HostError> {
    match key.len() <= KEY_BYTES_MAX {
        true => Ok(()),
        false => Err(invalid(format!("{what} of {} bytes, at most {KEY_BYTES_MAX}", key.len()))),
    }
}

fn invalid(message: String) -> HostError {
    HostError::new("local-store", HostErrorKind::InvalidInput, message)
}

fn failed(error: StoreError) -> HostError {
    HostError::new("local-store", HostErrorKind::Unavailable, error.to_string())
}

impl Overlay {
    pub fn new(view: Arc<dyn StateView>, module: ModuleId, used_bytes: u64, limit_bytes: u64) -> Self {
        let (writes, sent) = (BTreeMap::new(), BTreeMap::new());
        Self { view, module, writes, sent, sent_bytes: 0, used_bytes, limit_bytes, copied_bytes: 0, notes: None }
    }

    /// What was read and copied since this was last asked, bytes.
    fn take_copied(&mut self) -> usize {
        std::mem::take(&mut self.copied_bytes)
    }

    /// Keys plus values as they stand with this event's writes, bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.new.clone()),
            None => self.before(key),
        }
    }

    /// The value as the event at hand found it.
    fn before(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        match self.sent.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.view.get(self.module, key).map_err(failed),
        }
    }

    fn put(&mut self, key: String, new: Option<Vec<u8>>) -> Result<(), HostError> {
        check_key("a key", &key)?;
        if let Some(value) = new.as_ref().filter(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(invalid(format!("a value of {} bytes, at most {VALUE_BYTES_MAX}", value.len())));
        }
        let (replaced, known) = match self.writes.get(&key) {
            Some(written) => (size(&key, written.new.as_ref()), None),
            None => {
                let old = self.before(&key)?;
                self.copied_bytes += old.as_ref().map_or(0, Vec::len);
                (size(&key, old.as_ref()), Some(old))
            }
        };
        let added = size(&key, new.as_ref());
        let used = self.used_bytes.saturating_sub(replaced) + added;
        if added > replaced && used > self.limit_bytes {
            self.note_read(key);
            return Err(invalid(format!(
                "state quota: this write would make {used} bytes of the {} allowed",
                self.limit_bytes
            )));
        }
        self.used_bytes = used;
        match known {
            // A deletion of what never was leaves no trace.
            Some(None) if new.is_none() => self.note_read(key),
            Some(old) => {
                self.writes.insert(key, Written { new, old });
            }
            None => {
                let is_gone = self.writes.get_mut(&key).is_some_and(|written| {
                    written.new = new;
                    written.new.is_none() && written.old.is_none()
                });
                // Written and deleted again within the event: it never was.
                if is_gone {
                    self.writes.remove(&key);
                    self.note_read(key);
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, writes: Vec<Write>) -> Result<(), HostError> {
        if writes.len() > APPLY_WRITES_MAX {
            return Err(invalid(format!("{} writes at once, at most {APPLY_WRITES_MAX}", writes.len())));
        }
        for write in &writes {
            let (Write::Put(Entry { key, .. }) | Write::Delete(key)) = write;
            check_key("a key", key)?;
        }
        let used_bytes = self.used_bytes;
        // What these writes replace, for the case that one of them is refused.
        let mut replaced: BTreeMap<String, Option<Written>> = BTreeMap::new();
        for write in writes {
            let (key, new) = match write {
                Write::Put(Entry { key, value }) => (key, Some(value)),
                Write::Delete(key) => (key, None),
            };
            if let btree_map::Entry::Vacant(place) = replaced.entry(key.clone()) {
                let written = self.writes.get(&key).cloned();
                self.copied_bytes += written.as_ref().map_or(0, Written::bytes);
                place.insert(written);
            }
            if let Err(error) = self.put(key, new) {
                for (key, written) in replaced {
                    match written {
                        Some(written) => drop(self.writes.insert(key, written)),
                        None => {
                            self.writes.remove(&key);
                            self.note_read(key);
                        }
                    }
                }
                self.used_bytes = used_bytes;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the writes so far, for a unit that goes to the store now. Reads see them until `settled` and after.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.writes.len());
        for (key, Written { new, old }) in std::mem::take(&mut self.writes) {
            if new != old {
                self.sent_bytes += key.len() + new.as_ref().map_or(0, Vec::len);
                self.sent.insert(key.clone(), new.clone());
                changes.push(Change { key, new, old });
            } else {
                // What it compared with is something that it saw.
                self.note_read(key);
            }
        }
        changes
    }

    /// Every unit sent is committed: the store answers for it from now on.
    pub fn settled(&mut self) {
        self.sent.clear();
        self.sent_bytes = 0;
    }

    /// Size of what is on its way, bytes.
    pub fn sent_bytes(&self) -> usize {
        self.sent_bytes
    }
}

impl HostState {
    /// Begins a call with so many bytes of arguments.
    fn store_call(&mut self, argument_bytes: usize) -> Result<(), HostError> {
        self.meter.take(argument_bytes);
        self.count_host_call("local-store")
    }

    /// Ends a call: what it read and copied is counted.
    fn store_called(&mut self) {
        let copied = self.overlay.take_copied();
        self.meter.give(copied);
    }
}

impl local_store::Host for HostState {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, HostError> {
        self.store_call(key.len())?;
        check_key("a key", &key)?;
        let value = self.overlay.get(&key);
        self.overlay.note_read(key);
        if let Ok(Some(value)) = &value {
            self.meter.give(value.len());
        }
        value
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), HostError> {
        self.store_call(key.len() + value.len())?;
        let done = self.overlay.put(key, Some(value));
        self.store_called();
        done
    }

    fn delete(&mut self, key: String) -> Result<(), HostError> {
        self.store_call(key.len())?;
        let done = self.overlay.put(key, None);
        self.store_called();
        done
    }

    fn list_keys(&mut self, prefix: String) -> Result<Vec<String>, HostError> {
        self.store_call(prefix.len())?;
        check_key("a prefix", &prefix)?;
        self.overlay.note_scan(&prefix, None, LIST_ENTRIES_MAX + 1);
        let entries = self.overlay.list(&prefix, None, LIST_ENTRIES_MAX + 1, usize::MAX);
        self.store_called();
        let entries = entries?;
        if entries.len() > LIST_ENTRIES_MAX {
            return Err(invalid(format!(
                "more than {LIST_ENTRIES_MAX} keys start with `{prefix}`: page with list-entries"
            )));
        }
        Ok(entries.into_iter().map(|(key, _)| key).collect())
    }

    fn list_entries(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<Entry>, HostError> {
        self.store_call(prefix.len() + after.as_ref().map_or(0, String::len))?;
        check_key("a prefix", &prefix)?;
        check_key("`after`", after.as_deref().unwrap_or_default())?;
        let limit = (limit as usize).min(LIST_ENTRIES_MAX);
        self.overlay.note_scan(&prefix, after.as_deref(), limit);
        let entries = self.overlay.list(&prefix, after.as_deref(), limit, self.limits.max_reply_bytes);
        self.store_called();
        let mut entries = entries?;
        // Cut like by `limit`: the guest pages on from the last key.
        let mut bytes = 0;
        let mut fits = |(key, value): &(String, Vec<u8>)| {
            bytes += key.len() + value.len();
            bytes <= self.limits.max_reply_bytes
        };
        let kept = entries.iter().take_while(|entry| fits(entry)).count();
        entries.truncate(kept.max(1));
        Ok(entries.into_iter().map(|(key, value)| Entry { key, value }).collect())
    }

    fn apply(&mut self, writes: Vec<Write>) -> Result<(), HostError> {
        let bytes = |write: &Write| match write {
            Write::Put(Entry { key, value }) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        };
        self.store_call(writes.iter().map(|write| size_of::<Write>() + bytes(write)).sum())?;
        // The call itself is counted already.
        self.usage.host_calls += writes.len().saturating_sub(1) as u64;
        let done = self.overlay.apply(writes);
        self.store_called();
        done
    }

    async fn flush(&mut self) -> Result<(), HostError> {
        self.count_host_call("local-store")?;
        if self.flushes_held {
            return Ok(());
        }
        self.overlay.check_journal()?;
        let changes = self.overlay.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.overlay.note_flush(&changes);
        let unit = self.ledger.seal(Outcome {
            kind: UnitKind::Flushed,
            event: self.event_id.clone().unwrap_or(EventId::Init),
            moved: None,
            at_ms: self.clock.now_ms(),
            fuel: 0,
            changes,
            state_bytes: self.overlay.used_bytes(),
            // They stay with the event until it is handled.
            effects: Vec::new(),
        });
        if self.tape.is_playing() {
            return Ok(());
        }
        self.send(unit);
        let (ahead, deadline) = (self.ahead.clone(), self.limits.host_call_deadline);
        ahead.settle(deadline).await.map_err(|error| {
            // Whether it was written is not known, and the overlay is gone: the event must not go on.
            self.poison(format!("flush failed: {error}"));
            match error {
                NotKept::Store(error) => failed(error),
                NotKept::Port(error) => error.to_host_error("local-store"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entries;

    struct Fixed(BTreeMap<String, Vec<u8>>);

    impl StateView for Fixed {
        fn get(&self, _: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, _: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
            let matching = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
            let after = matching.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
            Ok(after.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        }
    }

    pub(super) fn overlay(committed: &[(&str, &str)], limit: u64) -> Overlay {
        let committed: BTreeMap<String, Vec<u8>> =
            committed.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        let used = committed.iter().map(|(key, value)| size(key, Some(value))).sum();
        Overlay::new(Arc::new(Fixed(committed)), ModuleId(1), used, limit)
    }

    pub(super) fn put(key: &str, value: &str) -> Write {
        Write::Put(Entry { key: key.into(), value: value.into() })
    }

    #[test]
    fn reads_see_the_events_own_writes() {
        let mut overlay = overlay(&[("a", "1"), ("b", "2"), ("c", "3")], 100);
        overlay.put("b".into(), None).unwrap();
        overlay.put("bb".into(), Some(b"new".to_vec())).unwrap();
        assert_eq!(overlay.get("b").unwrap(), None);
        assert_eq!(overlay.get("bb").unwrap(), Some(b"new".to_vec()));
        let keys = |entries: Entries| entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(overlay.list("", None, 2, usize::MAX).unwrap()), ["a", "bb"]);
        assert_eq!(keys(overlay.list("", Some("bb"), 9, usize::MAX).unwrap()), ["c"]);
        assert_eq!(keys(overlay.list("b", None, 9, usize::MAX).unwrap()), ["bb"]);
    }

    #[test]
    fn paging_leaves_out_nothing_whatever_the_event_and_those_before_it_have_deleted() {
        let all: Vec<String> = (0..6).map(|number| format!("k/{number}")).collect();
        let committed: Vec<(&str, &str)> = all.iter().map(|key| (key.as_str(), "v")).chain([("l", "v")]).collect();
        // Each key stays, is deleted by an event whose unit is on its way, or by the one at hand.
        for fates in 0..3_usize.pow(6) {
            let fate = |nth: usize| fates / 3_usize.pow(nth as u32) % 3;
            let mut overlay = overlay(&committed, 1_000);
            let with = |wanted: usize| -> Vec<String> {
                (0..all.len()).filter(|nth| fate(*nth) == wanted).map(|nth| all[nth].clone()).collect()
            };
            with(1).into_iter().for_each(|key| overlay.put(key, None).unwrap());
            overlay.take_changes();
            with(2).into_iter().for_each(|key| overlay.put(key, None).unwrap());
            let left = with(0);
            for limit in 1..=4 {
                let (mut paged, mut after) = (Vec::new(), None::<String>);
                loop {
                    let page = overlay.list("k/", after.as_deref(), limit).unwrap();
                    assert!(page.len() <= limit);
                    after = page.last().map(|(key, _)| key.clone());
                    let whole = page.len() == limit;
                    paged.extend(page.into_iter().map(|(key, _)| key));
                    if !whole {
                        break;
                    }
                }
                assert_eq!(paged, left, "{fates}, {limit} at a time");
            }
        }
    }

    #[test]
    fn the_quota_is_counted_exactly_and_a_refused_write_changes_nothing() {
        let mut overlay = overlay(&[("a", "1")], 10);
        overlay.put("bb".into(), Some(vec![0; 6])).unwrap();
        assert_eq!(overlay.used_bytes(), 10);
        let error = overlay.put("c".into(), Some(vec![])).unwrap_err();
        assert_eq!(error.kind, HostErrorKind::InvalidInput);
        assert_eq!(error.message, "state quota: this write would make 11 bytes of the 10 allowed");
        overlay.put("bb".into(), Some(vec![0; 5])).unwrap();
        overlay.put("c".into(), Some(vec![])).unwrap();
        overlay.put("a".into(), None).unwrap();
        assert_eq!(overlay.used_bytes(), 8);
    }

    #[test]
    fn apply_is_all_or_nothing() {
        let mut overlay = overlay(&[("a", "1")], 6);
        overlay.apply(vec![put("b", "1"), Write::Delete("a".into()), put("c", "123456")]).unwrap_err();
        assert_eq!(overlay.get("a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(overlay.get("b").unwrap(), None);
        assert_eq!(overlay.used_bytes(), 2);
        overlay.put("b".into(), Some(b"2".to_vec())).unwrap();
        overlay.apply(vec![put("b", "3"), Write::Delete("b".into()), put("c", "123456")]).unwrap_err();
        assert_eq!((overlay.get("b").unwrap(), overlay.used_bytes()), (Some(b"2".to_vec()), 4));
    }

    #[test]
    fn apply_copies_what_it_replaces_and_not_all_that_the_event_wrote() {
        let mut overlay = overlay(&[], 10_000);
        overlay.put("large".into(), Some(vec![0; 5_000])).unwrap();
        overlay.put("small".into(), Some(vec![0; 5])).unwrap();
        overlay.take_copied();
        overlay.apply(vec![put("small", "1"), put("small", "2")]).unwrap();
        assert_eq!(overlay.take_copied(), 5);
    }

    #[test]
    fn keys_that_are_written_and_deleted_again_are_not_held() {
        let mut overlay = overlay(&[("old", "1")], 1_000);
        for n in 0..100 {
            overlay.put(format!("k{n}"), Some(vec![0; 50])).unwrap();
            overlay.put(format!("k{n}"), None).unwrap();
        }
        overlay.put("old".into(), None).unwrap();
        assert_eq!((overlay.writes.len(), overlay.used_bytes()), (1, 0));
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_size() {
        let mut overlay = overlay(&[], u64::MAX);
        let refusal = |result: Result<(), HostError>| result.unwrap_err().message;
        let key = "k".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(refusal(overlay.put(key.clone(), None)), "a key of 1025 bytes, at most 1024");
        assert_eq!(
            refusal(overlay.apply(vec![put("a", "1"), Write::Delete(key)])),
            "a key of 1025 bytes, at most 1024"
        );
        let value = vec![0; VALUE_BYTES_MAX + 1];
        assert_eq!(refusal(overlay.put("a".into(), Some(value))), "a value of 8388609 bytes, at most 8388608");
        let many = vec![Write::Delete("a".into()); APPLY_WRITES_MAX + 1];
        assert_eq!(refusal(overlay.apply(many)), "10001 writes at once, at most 10000");
        assert!(overlay.writes.is_empty());
    }

    #[test]
    fn what_is_on_its_way_to_the_store_is_seen_by_the_next_event() {
        let mut overlay = overlay(&[("a", "1"), ("b", "2")], 100);
        overlay.put("a".into(), None).unwrap();
        overlay.put("c".into(), Some(b"3".to_vec())).unwrap();
        overlay.take_changes();
        assert_eq!(overlay.get("a").unwrap(), None);
        assert_eq!(overlay.list("", None, 9, usize::MAX).unwrap().len(), 2);
        overlay.put("c".into(), Some(b"4".to_vec())).unwrap();
        let changes = overlay.take_changes();
        assert_eq!((changes[0].old.as_deref(), changes[0].new.as_deref()), (Some(&b"3"[..]), Some(&b"4"[..])));
        overlay.settled();
        assert_eq!(overlay.get("a").unwrap(), Some(b"1".to_vec()), "the store answers again");
    }

    #[test]
    fn changes_carry_what_they_replaced_and_leave_out_what_did_not_change() {
        let mut overlay = overlay(&[("a", "1"), ("b", "2")], 100);
        overlay.put("a".into(), Some(b"9".to_vec())).unwrap();
        overlay.put("b".into(), Some(b"3".to_vec())).unwrap();
        overlay.put("b".into(), Some(b"2".to_vec())).unwrap();
        overlay.put("never".into(), None).unwrap();
        let changes = overlay.take_changes();
        assert_eq!(changes.len(), 1);
        assert_eq!((&*changes[0].key, changes[0].old.as_deref()), ("a", Some(&b"1"[..])));
    }
}
