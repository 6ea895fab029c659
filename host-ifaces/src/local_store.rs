//! The `local-store` interface: an overlay of this event's writes over the module's committed state.
//!
//! Invariant: reads see the event's own writes and never cross a mailbox; nothing reaches the store before the event is
//! committed, except through `flush`.

mod listing;
mod seen;
#[cfg(test)]
mod tests;
mod undo;

use std::{
    collections::{BTreeMap, VecDeque, btree_map},
    sync::Arc,
};

use crate::{
    HostError, HostErrorKind,
    ahead::NotKept,
    bindings::nexum::host::local_store::{self, Entry, Write},
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
    /// Of the units on their way those that replace something: their numbers, and what the journal keeps of it, bytes.
    replacing: VecDeque<(u64, u64)>,
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
        Self {
            view,
            module,
            writes: BTreeMap::new(),
            sent: BTreeMap::new(),
            sent_bytes: 0,
            replacing: VecDeque::new(),
            used_bytes,
            limit_bytes,
            copied_bytes: 0,
            notes: None,
        }
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
        self.replacing.clear();
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
        if self.flushes_held || self.tape.flushes_were_held() {
            self.tape.note_flush_held();
            return Ok(());
        }
        self.check_journal()?;
        let changes = self.overlay.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.overlay.note_flush(&changes);
        let unit = self.ledger.seal(Outcome {
            kind: UnitKind::Flushed,
            event: self.event_at_hand(),
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
        self.flushing_since_ns = Some(self.clock.monotonic_ns());
        let settled = ahead.settle(deadline).await;
        self.flushing_since_ns = None;
        settled.map_err(|error| {
            // Whether it was written is not known, and the overlay is gone: the event must not go on.
            self.poison(format!("flush failed: {error}"));
            match error {
                NotKept::Store(error) => failed(error),
                NotKept::Port(error) => error.to_host_error("local-store"),
            }
        })
    }
}
