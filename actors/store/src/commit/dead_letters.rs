//! Dead letters that are put and removed, in the database and in the index.

use nexum_host_ifaces::store::{DeadLetter, ModuleId, StoreError};

use crate::{
    committer::{
        group::{Group, LetterChange},
        queue::Queue,
    },
    store::Store,
    tables::letters,
};

/// Adds an encoded letter to a group.
pub(super) fn add(group: &mut Group, id: ModuleId, seq: u64, encoded: &[u8]) {
    letters::put(&mut group.batch, id, seq, encoded);
    group.letters.push((id, LetterChange::Put { seq, bytes: encoded.len() as u64 }));
}

pub(super) fn remove(group: &mut Group, id: ModuleId, seq: u64) {
    letters::delete(&mut group.batch, id, seq);
    group.letters.push((id, LetterChange::Removed(seq)));
}

/// Drops one.
pub(crate) fn drop(queue: &mut Queue, store: &Store, name: &str, seq: u64) -> Result<(), StoreError> {
    let id = store.id(name)?;
    queue.admit(store, id)?;
    store.check_letter(id, seq)?;
    remove(&mut queue.waiting, id, seq);
    Ok(())
}

/// Puts one in the place of what it was.
pub(crate) fn replace(queue: &mut Queue, store: &Store, id: ModuleId, letter: &DeadLetter) -> Result<(), StoreError> {
    queue.admit(store, id)?;
    store.check_letter(id, letter.seq)?;
    add(&mut queue.waiting, id, letter.seq, &letters::encode(letter)?);
    Ok(())
}
