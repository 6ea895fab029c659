//! Crashes, each beside what is kept of those before.

use std::collections::hash_map::Entry;

use nexum_host_ifaces::{
    recording::Crash,
    store::{ModuleId, StoreError},
};

use crate::{committer::queue::Queue, store::Store, tables::recordings};

pub(crate) fn put(queue: &mut Queue, store: &Store, module: ModuleId, crash: &Crash) -> Result<(), StoreError> {
    queue.admit(store, module)?;
    // Those of groups that are not written yet are among them.
    let kept = match queue.kept.entry(module) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => unknown.insert(recordings::kept_crashes(&store.db, module)?),
    };
    let newest = kept.last().map_or(0, |crash| crash.number);
    // One that was lost with its group has had its number.
    let number = queue.crashes.get(&module).map_or(newest, |given| newest.max(*given)) + 1;
    recordings::put_crash(&mut queue.waiting.batch, &store.db, module, crash, number, kept)?;
    queue.crashes.insert(module, number);
    Ok(())
}
