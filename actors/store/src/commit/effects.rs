//! What the outbox actor writes: marks, attempts and ends, each in the same groups as the units.
//!
//! Each change is decided when it queues, from what is on the disk and, of what is known of an effect, from what waits to
//! be written: the outbox actor asks again when a slow disk lets it wait for too long. A unit never touches what is known
//! of an effect, and a rewind waits for the queue and shuts it. So an entry that is found here is still the same when the
//! group is written.

use nexum_host_ifaces::{
    outbox::{EffectEntry, End, EndEffect, Ended, Location, OutcomeRecord, PendingEffect, Progress, Released, digest},
    store::{ModuleId, StoreError},
    types::Outcome,
};

use crate::{
    committer::queue::Turn,
    prune::Body,
    tables::{
        outbox::{self, EffectTable, StoredEffect},
        outcomes, progress,
    },
};

impl Turn<'_> {
    /// Marks an effect as released; its body leaves once the mark is durable.
    pub fn release(
        &mut self,
        module: ModuleId,
        id: &str,
        at: Option<Location>,
        now_ms: u64,
    ) -> Result<Released, StoreError> {
        self.admit(module)?;
        let known = self.known(module, id)?;
        let mut progress = known.clone().unwrap_or_default();
        let located = self.located(module, at, id)?;
        if progress.ended.is_some() {
            if let Some((at, entry)) = located {
                progress.at = Some(at);
                self.shelve(module, at, entry, &progress)?;
            }
            return Ok(Released::Ended);
        }
        let entry = match located {
            Some((at, entry)) => {
                progress.at = Some(at);
                // Sent again by the same event after a rewind: it belongs to a unit again.
                outbox::delete_retracted(&mut self.queue.waiting.batch, module, digest(id));
                entry
            }
            None => match outbox::retracted(&self.store.db, module, digest(id))? {
                Some(shelved) => shelved.entry,
                None => return Ok(Released::Gone),
            },
        };
        let again = progress.released;
        progress.released = true;
        if progress.first_attempt_ms == 0 {
            progress.first_attempt_ms = now_ms;
        }
        if known.as_ref() != Some(&progress) {
            self.put_progress(module, id, &progress)?;
        }
        Ok(Released::Now { entry: Box::new(entry), progress, again })
    }

    pub fn attempted(&mut self, module: ModuleId, id: &str, progress: &Progress) -> Result<(), StoreError> {
        self.admit(module)?;
        self.put_progress(module, id, progress)
    }

    pub fn end(&mut self, end: &EndEffect) -> Result<(), StoreError> {
        self.admit(end.module)?;
        let EndEffect { module, id, .. } = end;
        let module = *module;
        let mut progress = end.progress.clone();
        let ended_before = self.known(module, id)?.and_then(|known| known.ended);
        let located = self.located(module, end.at, id)?;
        let outcome = match ended_before {
            Some(before) => {
                progress.ended = Some(before);
                None
            }
            None => {
                let number = self.next_outcome(module)?;
                progress.ended = Some(End { how: end.how, at_ms: end.now_ms, outcome: number });
                let outcome = Outcome {
                    effect_id: id.clone(),
                    key: end.key.clone(),
                    attempts: progress.attempts,
                    status: end.status.clone(),
                };
                let record = OutcomeRecord { number, at_ms: end.now_ms, round: progress.round, outcome };
                Some((number, outcomes::encode(&record)?))
            }
        };
        match located {
            Some((at, entry)) => {
                progress.at = Some(at);
                self.shelve(module, at, entry, &progress)?;
            }
            None => {
                self.put_progress(module, id, &progress)?;
                if !progress.ended.is_some_and(|end| outbox::is_reopenable(end.how)) {
                    outbox::delete_retracted(&mut self.queue.waiting.batch, module, digest(id));
                }
            }
        }
        if let Some((number, encoded)) = outcome {
            outcomes::put(&mut self.queue.waiting.batch, module, number, &encoded);
            self.queue.outcomes.insert(module, number);
        }
        Ok(())
    }

    pub fn reopen(&mut self, name: &str, id: &str, now_ms: u64) -> Result<PendingEffect, StoreError> {
        let module = self.store.id(name)?;
        self.admit(module)?;
        if self.queue.progress.contains_key(&(module, digest(id))) {
            return Err(StoreError::Refused(format!("a change of effect `{id}` is being written: try again")));
        }
        let unknown = || StoreError::UnknownEffect { module: name.to_owned(), id: id.to_owned() };
        let mut progress = progress::get(&self.store.db, module, id)?.ok_or_else(unknown)?;
        let how = progress.ended.as_ref().map(|end| end.how);
        if !how.is_some_and(outbox::is_reopenable) {
            let state = how.map_or("pending", |how| match how {
                Ended::Delivered => "delivered",
                _ => "withdrawn with its block",
            });
            return Err(StoreError::Refused(format!(
                "effect `{id}` is {state}: only a failed or cancelled one is retried"
            )));
        }
        let located = match progress.at {
            Some(at) => outbox::ended_at(&self.store.db, module, at, digest(id))?.map(|shelved| (Some(at), shelved)),
            None => None,
        };
        let (at, shelved) = match located {
            Some(located) => located,
            // Its unit was undone; it goes on without one.
            None => (None, outbox::retracted(&self.store.db, module, digest(id))?.ok_or_else(unknown)?),
        };
        if shelved.bare {
            return Err(StoreError::Refused(format!(
                "effect `{id}` cannot be retried, since what it carried is no longer kept: of a module's effects that have \
                 ended, only the newest 64 MiB are kept whole. Let the module send it again with another event"
            )));
        }
        let entry = shelved.entry;
        progress.ended = None;
        progress.round += 1;
        progress.attempts = 0;
        // Its age counts from now.
        progress.first_attempt_ms = now_ms;
        progress.next_attempt_ms = 0;
        if let Some(at) = at {
            outbox::delete(&mut self.queue.waiting.batch, EffectTable::Ended, module, at);
            outbox::put_live(&mut self.queue.waiting.batch, module, at, &outbox::encode(&entry)?);
        }
        self.put_progress(module, id, &progress)?;
        Ok(PendingEffect::new(module, name.into(), at, &entry, progress))
    }

    /// Drops the body of an effect, unless something has become of the effect since it was found, or is about to. Losing
    /// that loses nothing.
    pub fn strip(&mut self, module: ModuleId, body: &Body) -> Result<(), StoreError> {
        self.admit(module)?;
        if self.queue.progress.contains_key(&(module, body.name)) {
            return Ok(());
        }
        match (body.strip(&self.store.db, module)?, body.at) {
            (Some(bare), Some(at)) => outbox::put_ended(&mut self.queue.waiting.batch, module, at, &bare),
            (Some(bare), None) => outbox::put_retracted(&mut self.queue.waiting.batch, module, &bare),
            (None, _) => Ok(()),
        }
    }

    /// The pending entry of an effect and its place, if that is where it lies.
    fn located(
        &self,
        module: ModuleId,
        at: Option<Location>,
        id: &str,
    ) -> Result<Option<(Location, EffectEntry)>, StoreError> {
        match at {
            Some(at) => Ok(outbox::live_at(&self.store.db, module, at, id)?.map(|entry| (at, entry))),
            None => Ok(None),
        }
    }

    /// Moves an entry to the ended ones. What may be taken up again keeps its body, as long as there is room.
    fn shelve(
        &mut self,
        module: ModuleId,
        at: Location,
        entry: EffectEntry,
        progress: &Progress,
    ) -> Result<(), StoreError> {
        let name = digest(&entry.id);
        self.put_progress(module, &entry.id, progress)?;
        let shelved = match progress.ended.as_ref().is_some_and(|end| outbox::is_reopenable(end.how)) {
            true => StoredEffect { entry, bare: false },
            false => StoredEffect::bare(&entry),
        };
        let batch = &mut self.queue.waiting.batch;
        outbox::delete(batch, EffectTable::Pending, module, at);
        outbox::delete_retracted(batch, module, name);
        outbox::put_ended(batch, module, at, &shelved)
    }

    /// What is known of an effect once everything that waits is written.
    fn known(&self, module: ModuleId, id: &str) -> Result<Option<Progress>, StoreError> {
        match self.queue.progress.get(&(module, digest(id))) {
            Some((_, waits)) => Ok(Some(waits.clone())),
            None => progress::get(&self.store.db, module, id),
        }
    }

    fn put_progress(&mut self, module: ModuleId, id: &str, progress: &Progress) -> Result<(), StoreError> {
        let name = digest(id);
        progress::put(&mut self.queue.waiting.batch, module, name, progress)?;
        self.queue.progress.insert((module, name), (self.queue.number, progress.clone()));
        Ok(())
    }

    fn next_outcome(&self, module: ModuleId) -> Result<u64, StoreError> {
        let last = match self.queue.outcomes.get(&module) {
            Some(last) => *last,
            None => outcomes::last(&self.store.db, module)?,
        };
        Ok(last + 1)
    }
}
