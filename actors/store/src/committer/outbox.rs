//! What the outbox actor writes: marks, attempts and ends, each in the same groups as the units.
//!
//! Each change is decided when it queues, from what is on the disk and, of what is known of an effect, from what waits to
//! be written: the outbox actor asks again when a slow disk lets it wait for too long. A unit never touches what is known
//! of an effect, and a rewind waits for the queue and shuts it. So an entry that is found here is still the same when the
//! group is written.

use std::sync::Arc;

use nexum_host_ifaces::{
    outbox::{Change, End, EndOf, Ended, Entry, Live, Location, OutcomeRecord, Progress, Released, digest},
    store::{ModuleId, Reply, StoreError},
    types::Outcome,
};

use super::{Committer, Fence, Queue, Shared, refuse};
use crate::{
    codec,
    group::Waiting,
    keys,
    news::NewsDesk,
    outbox::{self, Body, Shelved},
    store::{Store, lock},
};

impl Committer {
    /// Where the outbox actor's questions are answered.
    pub fn news(&self) -> &NewsDesk {
        &self.shared.news
    }

    pub fn stripper(&self) -> Stripper {
        Stripper(self.shared.clone())
    }

    /// Marks an effect as released and answers its body, once the mark is durable.
    pub fn release(&self, module: ModuleId, id: &str, at: Option<Location>, now_ms: u64, reply: Reply<Released>) {
        let mut queue = lock(&self.shared.queue);
        match queue.release(&self.shared.store, module, id, at, now_ms) {
            Ok(released) => self.shared.push(&mut queue, Waiting::Released(Box::new(released), reply)),
            Err(error) => refuse(reply, error),
        }
    }

    pub fn attempted(&self, module: ModuleId, id: &str, progress: &Progress, reply: Reply<()>) {
        let mut queue = lock(&self.shared.queue);
        match queue.attempted(&self.shared.store, module, id, progress) {
            Ok(()) => self.shared.push(&mut queue, Waiting::Done(reply)),
            Err(error) => refuse(reply, error),
        }
    }

    pub fn end(&self, end: &EndOf, reply: Reply<()>) {
        let mut queue = lock(&self.shared.queue);
        match queue.end(&self.shared.store, end) {
            Ok(()) => self.shared.push(&mut queue, Waiting::Done(reply)),
            Err(error) => refuse(reply, error),
        }
    }

    pub fn reopen(&self, name: &str, id: &str, now_ms: u64, reply: Reply<Live>) {
        let mut queue = lock(&self.shared.queue);
        match queue.reopen(&self.shared.store, name, id, now_ms) {
            Ok(live) => self.shared.push(&mut queue, Waiting::Reopened(Box::new(live), reply)),
            Err(error) => refuse(reply, error),
        }
    }
}

/// What drops bodies of effects that have ended, beside the commits.
pub(crate) struct Stripper(Arc<Shared>);

impl Stripper {
    /// Bounds what a module's ended effects carry. What is dropped is decided one at a time and written with the groups,
    /// since an effect may be taken up again or its unit undone meanwhile. Answers when it waits to be written: losing
    /// that loses nothing.
    pub fn bound(&self, store: &Store, module: ModuleId) -> Result<(), StoreError> {
        for body in outbox::excess(store, module)? {
            let mut queue = lock(&self.0.queue);
            queue.strip(store, module, &body)?;
            self.0.wake(&mut queue);
        }
        Ok(())
    }
}

impl Fence {
    /// Tells the outbox actor what became of the module's past.
    pub(crate) fn tell(&self, change: Change) {
        self.shared.news.push(vec![change]);
    }

    /// Tells it that nobody knows whether the past was replaced.
    pub(crate) fn lose(&self) {
        self.shared.news.lose();
    }
}

impl Queue {
    fn release(
        &mut self,
        store: &Store,
        module: ModuleId,
        id: &str,
        at: Option<Location>,
        now_ms: u64,
    ) -> Result<Released, StoreError> {
        self.admit(store, module)?;
        let known = self.progress(store, module, id)?;
        let mut progress = known.clone().unwrap_or_default();
        let located = match at {
            Some(at) => outbox::entry_at(store, module, at, id)?.map(|entry| (at, entry)),
            None => None,
        };
        if progress.ended.is_some() {
            if let Some((at, entry)) = located {
                progress.at = Some(at);
                self.shelve(module, at, &entry, &progress)?;
            }
            return Ok(Released::Ended);
        }
        let entry = match located {
            Some((at, entry)) => {
                progress.at = Some(at);
                // Sent again by the same event after a rewind: it belongs to a unit again.
                self.waiting.batch.delete(keys::retracted(module, digest(id)));
                entry
            }
            None => match outbox::retracted(store, module, digest(id))? {
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

    fn attempted(&mut self, store: &Store, module: ModuleId, id: &str, progress: &Progress) -> Result<(), StoreError> {
        self.admit(store, module)?;
        self.put_progress(module, id, progress)
    }

    fn end(&mut self, store: &Store, end: &EndOf) -> Result<(), StoreError> {
        self.admit(store, end.module)?;
        let EndOf { module, id, .. } = end;
        let module = *module;
        let mut progress = end.progress.clone();
        let ended_before = self.progress(store, module, id)?.and_then(|known| known.ended);
        let located = match end.at {
            Some(at) => outbox::entry_at(store, module, at, id)?.map(|entry| (at, entry)),
            None => None,
        };
        let outcome = match ended_before {
            Some(before) => {
                progress.ended = Some(before);
                None
            }
            None => {
                let number = self.next_outcome(store, module)?;
                progress.ended = Some(End { how: end.how, at_ms: end.now_ms, outcome: number });
                let outcome = Outcome {
                    effect_id: id.clone(),
                    key: end.key.clone(),
                    attempts: progress.attempts,
                    status: end.status.clone(),
                };
                let record = OutcomeRecord { number, at_ms: end.now_ms, round: progress.round, outcome };
                Some((number, codec::encode_vec(&record)?))
            }
        };
        match located {
            Some((at, entry)) => {
                progress.at = Some(at);
                self.shelve(module, at, &entry, &progress)?;
            }
            None => {
                self.put_progress(module, id, &progress)?;
                if !progress.ended.is_some_and(|end| outbox::is_reopenable(end.how)) {
                    self.waiting.batch.delete(keys::retracted(module, digest(id)));
                }
            }
        }
        if let Some((number, bytes)) = outcome {
            self.waiting.batch.put(keys::outcome(module, number), bytes);
            self.outcomes.insert(module, number);
        }
        Ok(())
    }

    /// Moves an entry to the ended ones. What may be taken up again keeps its body, as long as there is room.
    fn shelve(&mut self, module: ModuleId, at: Location, entry: &Entry, progress: &Progress) -> Result<(), StoreError> {
        let bytes = match progress.ended.as_ref().is_some_and(|end| outbox::is_reopenable(end.how)) {
            true => codec::encode_vec(entry)?,
            false => Shelved::bare(entry).encode()?,
        };
        self.put_progress(module, &entry.id, progress)?;
        self.waiting.batch.delete(keys::outbox(module, at));
        self.waiting.batch.delete(keys::retracted(module, digest(&entry.id)));
        self.waiting.batch.put(keys::ended(module, at), bytes);
        Ok(())
    }

    /// Drops the body of an effect, unless something has become of the effect since it was found, or is about to.
    fn strip(&mut self, store: &Store, module: ModuleId, body: &Body) -> Result<(), StoreError> {
        self.admit(store, module)?;
        if self.progress.contains_key(&(module, body.name)) {
            return Ok(());
        }
        if let Some((key, bare)) = body.strip(store, module)? {
            self.waiting.batch.put(key, bare.encode()?);
        }
        Ok(())
    }

    /// What is known of an effect once everything that waits is written.
    fn progress(&self, store: &Store, module: ModuleId, id: &str) -> Result<Option<Progress>, StoreError> {
        match self.progress.get(&(module, digest(id))) {
            Some((_, waits)) => Ok(Some(waits.clone())),
            None => outbox::progress(store, module, id),
        }
    }

    fn put_progress(&mut self, module: ModuleId, id: &str, progress: &Progress) -> Result<(), StoreError> {
        let name = digest(id);
        self.waiting.batch.put(keys::progress(module, name), codec::encode_vec(progress)?);
        self.progress.insert((module, name), (self.number, progress.clone()));
        Ok(())
    }

    fn next_outcome(&mut self, store: &Store, module: ModuleId) -> Result<u64, StoreError> {
        let last = match self.outcomes.get(&module) {
            Some(last) => *last,
            None => outbox::last_outcome(store, module)?,
        };
        Ok(last + 1)
    }

    fn reopen(&mut self, store: &Store, name: &str, id: &str, now_ms: u64) -> Result<Live, StoreError> {
        let module = store.id(name)?;
        self.admit(store, module)?;
        if self.progress.contains_key(&(module, digest(id))) {
            return Err(StoreError::Refused(format!("a change of effect `{id}` is being written: try again")));
        }
        let unknown = || StoreError::UnknownEffect { module: name.to_owned(), id: id.to_owned() };
        let mut progress = outbox::progress(store, module, id)?.ok_or_else(unknown)?;
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
            Some(at) => outbox::ended_at(store, module, at, digest(id))?.map(|shelved| (Some(at), shelved)),
            None => None,
        };
        let (at, shelved) = match located {
            Some(located) => located,
            // Its unit was undone; it goes on without one.
            None => (None, outbox::retracted(store, module, digest(id))?.ok_or_else(unknown)?),
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
            self.waiting.batch.delete(keys::ended(module, at));
            self.waiting.batch.put(keys::outbox(module, at), codec::encode_vec(&entry)?);
        }
        self.put_progress(module, id, &progress)?;
        Ok(Live::new(module, name.into(), at, &entry, progress))
    }
}
