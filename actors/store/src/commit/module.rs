//! A module that begins, and its failures.

use std::sync::Arc;

use nexum_host_ifaces::store::{ModuleHealth, ModuleId, StoreError};

use crate::{committer::queue::Queue, store::Store, tables::modules};

/// The number of a module, which it is given now if the store has not seen it.
pub(crate) fn open(queue: &mut Queue, store: &Store, name: &Arc<str>) -> Result<ModuleId, StoreError> {
    let known = store.index().by_name.get(name).copied().or_else(|| queue.naming.get(name).copied());
    if let Some(id) = known {
        queue.admit(store, id)?;
        return Ok(id);
    }
    // The end of the key range of the last number must be a number too.
    if queue.next_id == u32::MAX {
        return Err(StoreError::Failed("every module number is taken".into()));
    }
    queue.room(store)?;
    let id = ModuleId(queue.next_id);
    modules::add(&mut queue.waiting.batch, name, id)?;
    queue.waiting.named.push((name.clone(), id));
    queue.naming.insert(name.clone(), id);
    queue.next_id += 1;
    Ok(id)
}

pub(crate) fn put_health(
    queue: &mut Queue,
    store: &Store,
    module: ModuleId,
    health: &ModuleHealth,
) -> Result<(), StoreError> {
    queue.admit(store, module)?;
    modules::put_counters(&mut queue.waiting.batch, module, Some(health), None)
}
