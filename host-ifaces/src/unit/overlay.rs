//! The overlay of an event's writes over the module's committed state.
//!
//! Invariant: reads see the event's own writes and never cross a mailbox.

#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, VecDeque, btree_map},
    sync::Arc,
};

use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::local_store::{Entry, Write},
    state::{ModuleId, StateView, StoreError},
    store::StateChange,
    unit::seen::Notes,
};

/// RocksDB copies keys into every index block; a key longer than this belongs into the value.
pub const KEY_BYTES_MAX: usize = 1024;
/// One value: what an answer may have. Larger content belongs into several keys.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Writes of one `apply`, each of which counts as a host call.
pub const APPLY_WRITES_MAX: usize = 10_000;
/// One `list-keys` or `list-entries` answers at most this many entries; page with `after`.
pub const LIST_ENTRIES_MAX: usize = 10_000;
/// Committed entries that are read in one go, so that a listing stops where its answer is full.
pub(super) const SCAN_STEP: usize = 512;

#[derive(Debug, Clone)]
pub(super) struct Written {
    pub new: Option<Vec<u8>>,
    pub old: Option<Vec<u8>>,
}

impl Written {
    fn bytes(&self) -> usize {
        [&self.new, &self.old].into_iter().flatten().map(Vec::len).sum()
    }
}

/// The writes of one event, over those of events whose units are on their way to the store, over the committed state.
pub struct Overlay {
    pub(super) view: Arc<dyn StateView>,
    pub(super) module: ModuleId,
    pub(super) writes: BTreeMap<String, Written>,
    /// Newest value of what units on their way change.
    pub(super) sent: BTreeMap<String, Option<Vec<u8>>>,
    pub(super) sent_bytes: usize,
    /// Of the units on their way those that replace something: their numbers, and what the journal keeps of it, bytes.
    pub(super) replacing: VecDeque<(u64, u64)>,
    /// Keys plus values, committed and overlaid, bytes.
    pub(super) used_bytes: u64,
    limit_bytes: u64,
    /// What was read and copied since it was last asked, bytes.
    pub(super) copied_bytes: usize,
    /// What the event at hand read, when that is recorded.
    pub(super) notes: Option<Box<Notes>>,
}

pub(super) fn size(key: &str, value: Option<&Vec<u8>>) -> u64 {
    value.map_or(0, |value| (key.len() + value.len()) as u64)
}

/// `what` is the key's role, such as `a key`.
pub(crate) fn check_key(what: &str, key: &str) -> Result<(), HostError> {
    match key.len() <= KEY_BYTES_MAX {
        true => Ok(()),
        false => Err(invalid(format!("{what} of {} bytes, at most {KEY_BYTES_MAX}", key.len()))),
    }
}

pub(crate) fn invalid(message: String) -> HostError {
    HostError::new("local-store", HostErrorKind::InvalidInput, message)
}

pub(super) fn failed(error: StoreError) -> HostError {
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
    pub(crate) fn take_copied(&mut self) -> usize {
        std::mem::take(&mut self.copied_bytes)
    }

    /// Keys plus values as they stand with this event's writes, bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.new.clone()),
            None => self.before(key),
        }
    }

    /// The value as the event at hand found it.
    pub(super) fn before(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        match self.sent.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.view.get(self.module, key).map_err(failed),
        }
    }

    pub(crate) fn put(&mut self, key: String, new: Option<Vec<u8>>) -> Result<(), HostError> {
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

    pub(crate) fn apply(&mut self, writes: Vec<Write>) -> Result<(), HostError> {
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
    pub fn take_changes(&mut self) -> Vec<StateChange> {
        let mut changes = Vec::with_capacity(self.writes.len());
        for (key, Written { new, old }) in std::mem::take(&mut self.writes) {
            if new != old {
                self.sent_bytes += key.len() + new.as_ref().map_or(0, Vec::len);
                self.sent.insert(key.clone(), new.clone());
                changes.push(StateChange { key, new, old });
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
