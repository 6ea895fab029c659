//! What the outbox actor writes: marks, attempts and ends, each in the same groups as the units.
//!
//! Each change is decided when it queues, from what is on the disk and, of what is known of an effect, from what waits to
//! be written: the outbox actor asks again when a slow disk lets it wait for too long. A unit never touches what is known
//! of an effect, and a rewind waits for the queue and shuts it. So an entry that is found here is still the same when the
//! group is written.

use nexum_host_ifaces::{
    outbox::{End, EndOf, Ended, Entry, Live, Location, OutcomeRecord, Progress, Released, digest},
    store::{ModuleId, StoreError},
    types::Outcome,
};

use crate::{
    bodies::{self, Body},
    committer::{queue::Queue, shared::Shared},
    store::Store,
    tables::{
        outbox::{self, Shelf, Shelved},
        outcomes, progress,
    },
};

/// Marks an effect as released; its body leaves once the mark is durable.
pub(crate) fn release(
    queue: &mut Queue,
    store: &Store,
    module: ModuleId,
    id: &str,
    at: Option<Location>,
    now_ms: u64,
) -> Result<Released, StoreError> {
    queue.admit(store, module)?;
    let known = known(queue, store, module, id)?;
    let mut progress = known.clone().unwrap_or_default();
    let located = located(store, module, at, id)?;
    if progress.ended.is_some() {
        if let Some((at, entry)) = located {
            progress.at = Some(at);
            shelve(queue, module, at, entry, &progress)?;
        }
        return Ok(Released::Ended);
    }
    let entry = match located {
        Some((at, entry)) => {
            progress.at = Some(at);
            // Sent again by the same event after a rewind: it belongs to a unit again.
            outbox::delete_retracted(&mut queue.waiting.batch, module, digest(id));
            entry
        }
        None => match outbox::retracted(&store.db, module, digest(id))? {
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
        put_progress(queue, module, id, &progress)?;
    }
    Ok(Released::Now { entry: Box::new(entry), progress, again })
}

pub(crate) fn attempted(
    queue: &mut Queue,
    store: &Store,
    module: ModuleId,
    id: &str,
    progress: &Progress,
) -> Result<(), StoreError> {
    queue.admit(store, module)?;
    put_progress(queue, module, id, progress)
}

pub(crate) fn end(queue: &mut Queue, store: &Store, end: &EndOf) -> Result<(), StoreError> {
    queue.admit(store, end.module)?;
    let EndOf { module, id, .. } = end;
    let module = *module;
    let mut progress = end.progress.clone();
    let ended_before = known(queue, store, module, id)?.and_then(|known| known.ended);
    let located = located(store, module, end.at, id)?;
    let outcome = match ended_before {
        Some(before) => {
            progress.ended = Some(before);
            None
        }
        None => {
            let number = next_outcome(queue, store, module)?;
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
            shelve(queue, module, at, entry, &progress)?;
        }
        None => {
            put_progress(queue, module, id, &progress)?;
            if !progress.ended.is_some_and(|end| outbox::is_reopenable(end.how)) {
                outbox::delete_retracted(&mut queue.waiting.batch, module, digest(id));
            }
        }
    }
    if let Some((number, encoded)) = outcome {
        outcomes::put(&mut queue.waiting.batch, module, number, &encoded);
        queue.outcomes.insert(module, number);
    }
    Ok(())
}

pub(crate) fn reopen(queue: &mut Queue, store: &Store, name: &str, id: &str, now_ms: u64) -> Result<Live, StoreError> {
    let module = store.id(name)?;
    queue.admit(store, module)?;
    if queue.progress.contains_key(&(module, digest(id))) {
        return Err(StoreError::Refused(format!("a change of effect `{id}` is being written: try again")));
    }
    let unknown = || StoreError::UnknownEffect { module: name.to_owned(), id: id.to_owned() };
    let mut progress = progress::get(&store.db, module, id)?.ok_or_else(unknown)?;
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
        Some(at) => outbox::ended_at(&store.db, module, at, digest(id))?.map(|shelved| (Some(at), shelved)),
        None => None,
    };
    let (at, shelved) = match located {
        Some(located) => located,
        // Its unit was undone; it goes on without one.
        None => (None, outbox::retracted(&store.db, module, digest(id))?.ok_or_else(unknown)?),
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
        outbox::delete(&mut queue.waiting.batch, Shelf::Ended, module, at);
        outbox::put_live(&mut queue.waiting.batch, module, at, &outbox::encode(&entry)?);
    }
    put_progress(queue, module, id, &progress)?;
    Ok(Live::new(module, name.into(), at, &entry, progress))
}

/// Bounds what a module's ended effects carry. What is dropped is decided one at a time and written with the groups,
/// since an effect may be taken up again or its unit undone meanwhile. Answers when it waits to be written: losing that
/// loses nothing.
pub(crate) fn bound_bodies(shared: &Shared, store: &Store, module: ModuleId) -> Result<(), StoreError> {
    for body in bodies::excess(&store.db, module)? {
        shared.add(|queue, store| strip(queue, store, module, &body))?;
    }
    Ok(())
}

/// Drops the body of an effect, unless something has become of the effect since it was found, or is about to.
fn strip(queue: &mut Queue, store: &Store, module: ModuleId, body: &Body) -> Result<(), StoreError> {
    queue.admit(store, module)?;
    if queue.progress.contains_key(&(module, body.name)) {
        return Ok(());
    }
    match (body.strip(&store.db, module)?, body.at) {
        (Some(bare), Some(at)) => outbox::put_ended(&mut queue.waiting.batch, module, at, &bare),
        (Some(bare), None) => outbox::put_retracted(&mut queue.waiting.batch, module, &bare),
        (None, _) => Ok(()),
    }
}

/// The live entry of an effect and its place, if that is where it lies.
fn located(
    store: &Store,
    module: ModuleId,
    at: Option<Location>,
    id: &str,
) -> Result<Option<(Location, Entry)>, StoreError> {
    match at {
        Some(at) => Ok(outbox::live_at(&store.db, module, at, id)?.map(|entry| (at, entry))),
        None => Ok(None),
    }
}

/// Moves an entry to the ended ones. What may be taken up again keeps its body, as long as there is room.
fn shelve(
    queue: &mut Queue,
    module: ModuleId,
    at: Location,
    entry: Entry,
    progress: &Progress,
) -> Result<(), StoreError> {
    let name = digest(&entry.id);
    put_progress(queue, module, &entry.id, progress)?;
    let shelved = match progress.ended.as_ref().is_some_and(|end| outbox::is_reopenable(end.how)) {
        true => Shelved { entry, bare: false },
        false => Shelved::bare(&entry),
    };
    let batch = &mut queue.waiting.batch;
    outbox::delete(batch, Shelf::Live, module, at);
    outbox::delete_retracted(batch, module, name);
    outbox::put_ended(batch, module, at, &shelved)
}

/// What is known of an effect once everything that waits is written.
fn known(queue: &Queue, store: &Store, module: ModuleId, id: &str) -> Result<Option<Progress>, StoreError> {
    match queue.progress.get(&(module, digest(id))) {
        Some((_, waits)) => Ok(Some(waits.clone())),
        None => progress::get(&store.db, module, id),
    }
}

fn put_progress(queue: &mut Queue, module: ModuleId, id: &str, progress: &Progress) -> Result<(), StoreError> {
    let name = digest(id);
    progress::put(&mut queue.waiting.batch, module, name, progress)?;
    queue.progress.insert((module, name), (queue.number, progress.clone()));
    Ok(())
}

fn next_outcome(queue: &Queue, store: &Store, module: ModuleId) -> Result<u64, StoreError> {
    let last = match queue.outcomes.get(&module) {
        Some(last) => *last,
        None => outcomes::last(&store.db, module)?,
    };
    Ok(last + 1)
}
