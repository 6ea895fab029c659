//! The `local-store` interface: an overlay of this event's writes over the module's committed state.
//!
//! Invariant: reads see the event's own writes and never cross a mailbox; nothing reaches the store before the event is
//! committed, except through `flush`.

mod seen;
mod undo;

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::{
    HostError, HostErrorKind,
    ahead::NotKept,
    bindings::nexum::host::local_store::{self, Entry, Write},
    event::EventId,
    host::HostState,
    ledger::Outcome,
    store::{Change, Entries, ModuleId, StateView, StoreError, UnitKind},
};

/// RocksDB copies keys into every index block; a key longer than this belongs into the value.
pub const KEY_BYTES_MAX: usize = 1024;
/// One `list-keys` or `list-entries` answers at most this many entries; page with `after`.
pub const LIST_ENTRIES_MAX: usize = 10_000;

#[derive(Debug, Clone)]
struct Written {
    new: Option<Vec<u8>>,
    old: Option<Vec<u8>>,
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
    /// What the event at hand read, when that is recorded.
    notes: Option<Box<seen::Notes>>,
}

pub(crate) use seen::Seen;

fn size(key: &str, value: Option<&Vec<u8>>) -> u64 {
    value.map_or(0, |value| (key.len() + value.len()) as u64)
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
        Self { view, module, writes, sent, sent_bytes: 0, used_bytes, limit_bytes, notes: None }
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
        if key.len() > KEY_BYTES_MAX {
            return Err(invalid(format!("a key of {} bytes, at most {KEY_BYTES_MAX}", key.len())));
        }
        let (replaced, known) = match self.writes.get(&key) {
            Some(written) => (size(&key, written.new.as_ref()), None),
            None => {
                let old = self.before(&key)?;
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
                if let Some(written) = self.writes.get_mut(&key) {
                    written.new = new;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, writes: Vec<Write>) -> Result<(), HostError> {
        let before = (self.writes.clone(), self.used_bytes);
        for write in writes {
            let result = match write {
                Write::Put(Entry { key, value }) => self.put(key, Some(value)),
                Write::Delete(key) => self.put(key, None),
            };
            if let Err(error) = result {
                for key in std::mem::replace(&mut self.writes, before.0).into_keys() {
                    self.note_read(key);
                }
                self.used_bytes = before.1;
                return Err(error);
            }
        }
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, HostError> {
        let start = (Bound::Included(prefix), Bound::Unbounded);
        let wanted = |key: &str| after.is_none_or(|after| key > after);
        let mut overlaid: BTreeMap<&String, &Option<Vec<u8>>> = BTreeMap::new();
        let sent = self.sent.range::<str, _>(start).take_while(|(key, _)| key.starts_with(prefix));
        overlaid.extend(sent.filter(|(key, _)| wanted(key)));
        let written = self.writes.range::<str, _>(start).take_while(|(key, _)| key.starts_with(prefix));
        overlaid.extend(written.filter(|(key, _)| wanted(key)).map(|(key, written)| (key, &written.new)));
        // Every overlaid key may hide a committed one, so read that many more.
        let committed = self.view.scan(self.module, prefix, after, limit + overlaid.len()).map_err(failed)?;
        if overlaid.is_empty() {
            return Ok(committed);
        }
        let mut merged: BTreeMap<String, Vec<u8>> = committed.into_iter().collect();
        for (key, value) in overlaid {
            match value {
                Some(value) => {
                    merged.insert(key.clone(), value.clone());
                }
                None => {
                    merged.remove(key);
                }
            }
        }
        Ok(merged.into_iter().take(limit).collect())
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

impl local_store::Host for HostState {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, HostError> {
        self.count_host_call("local-store")?;
        let value = self.overlay.get(&key);
        self.overlay.note_read(key);
        value
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), HostError> {
        self.count_host_call("local-store")?;
        self.overlay.put(key, Some(value))
    }

    fn delete(&mut self, key: String) -> Result<(), HostError> {
        self.count_host_call("local-store")?;
        self.overlay.put(key, None)
    }

    fn list_keys(&mut self, prefix: String) -> Result<Vec<String>, HostError> {
        self.count_host_call("local-store")?;
        self.overlay.note_scan(&prefix, None, LIST_ENTRIES_MAX + 1);
        let entries = self.overlay.list(&prefix, None, LIST_ENTRIES_MAX + 1)?;
        if entries.len() > LIST_ENTRIES_MAX {
            return Err(invalid(format!(
                "more than {LIST_ENTRIES_MAX} keys start with `{prefix}`: page with list-entries"
            )));
        }
        Ok(entries.into_iter().map(|(key, _)| key).collect())
    }

    fn list_entries(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<Entry>, HostError> {
        self.count_host_call("local-store")?;
        let limit = (limit as usize).min(LIST_ENTRIES_MAX);
        self.overlay.note_scan(&prefix, after.as_deref(), limit);
        let mut entries = self.overlay.list(&prefix, after.as_deref(), limit)?;
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
        self.count_host_call("local-store")?;
        self.overlay.apply(writes)
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
        assert_eq!(keys(overlay.list("", None, 2).unwrap()), ["a", "bb"]);
        assert_eq!(keys(overlay.list("", Some("bb"), 9).unwrap()), ["c"]);
        assert_eq!(keys(overlay.list("b", None, 9).unwrap()), ["bb"]);
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
    }

    #[test]
    fn what_is_on_its_way_to_the_store_is_seen_by_the_next_event() {
        let mut overlay = overlay(&[("a", "1"), ("b", "2")], 100);
        overlay.put("a".into(), None).unwrap();
        overlay.put("c".into(), Some(b"3".to_vec())).unwrap();
        overlay.take_changes();
        assert_eq!(overlay.get("a").unwrap(), None);
        assert_eq!(overlay.list("", None, 9).unwrap().len(), 2);
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
