//! What is written about a module besides its units: its name, its failures, dead letters and crashes.

use std::{collections::hash_map::Entry, sync::Arc};

use nexum_host_ifaces::{
    recording::Crash,
    store::{DeadLetter, ModuleHealth, ModuleId, StoreError},
};

use crate::{
    committer::queue::Turn,
    tables::{letters, modules, recordings},
};

impl Turn<'_> {
    /// The number of a module, which it is given now if the store has not seen it.
    pub fn open(&mut self, name: &Arc<str>) -> Result<ModuleId, StoreError> {
        let known = self.store.index().by_name.get(name).copied().or_else(|| self.queue.naming.get(name).copied());
        if let Some(id) = known {
            self.admit(id)?;
            return Ok(id);
        }
        // The end of the key range of the last number must be a number too.
        if self.queue.next_id == u32::MAX {
            return Err(StoreError::Failed("every module number is taken".into()));
        }
        self.queue.room(self.store)?;
        let id = ModuleId(self.queue.next_id);
        modules::add(&mut self.queue.waiting.batch, name, id)?;
        self.queue.waiting.named.push((name.clone(), id));
        self.queue.naming.insert(name.clone(), id);
        self.queue.next_id += 1;
        Ok(id)
    }

    pub fn put_health(&mut self, module: ModuleId, health: &ModuleHealth) -> Result<(), StoreError> {
        self.admit(module)?;
        modules::put_counters(&mut self.queue.waiting.batch, module, Some(health), None)
    }

    pub fn drop_letter(&mut self, name: &str, seq: u64) -> Result<(), StoreError> {
        let id = self.store.id(name)?;
        self.admit(id)?;
        self.store.check_letter(id, seq)?;
        self.queue.waiting.remove_letter(id, seq);
        Ok(())
    }

    /// Puts a dead letter in the place of what it was.
    pub fn put_letter(&mut self, id: ModuleId, letter: &DeadLetter) -> Result<(), StoreError> {
        self.admit(id)?;
        self.store.check_letter(id, letter.seq)?;
        self.queue.waiting.put_letter(id, letter.seq, &letters::encode(letter)?);
        Ok(())
    }

    pub fn put_crash(&mut self, module: ModuleId, crash: &Crash) -> Result<(), StoreError> {
        self.admit(module)?;
        let (queue, db) = (&mut *self.queue, &self.store.db);
        // `queue.kept` has the crashes that wait to be written, too; the database does not.
        let kept = match queue.kept.entry(module) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(recordings::kept_crashes(db, module)?),
        };
        let newest = kept.last().map_or(0, |crash| crash.number);
        // A crash whose write failed is not kept, and its number is not given again.
        let number = queue.crashes.get(&module).map_or(newest, |given| newest.max(*given)) + 1;
        recordings::put_crash(&mut queue.waiting.batch, db, module, crash, number, kept)?;
        queue.crashes.insert(module, number);
        Ok(())
    }
}
