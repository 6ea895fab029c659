//! What is kept of modules besides their units: crashes, and the receipts of an orderly stop.

use std::collections::hash_map::Entry;

use nexum_host_ifaces::{
    recording::Crash,
    store::{ModuleId, StoreError},
};

use super::{Committer, Queue};
use crate::{
    recordings,
    store::{Store, lock},
};

impl Committer {
    pub fn put_crash(&self, module: ModuleId, crash: &Crash) -> Result<(), StoreError> {
        let mut queue = lock(&self.shared.queue);
        queue.admit(&self.shared.store, module)?;
        queue.put_crash(&self.shared.store, module, crash)?;
        self.shared.wake(&mut queue);
        Ok(())
    }
}

impl Queue {
    fn put_crash(&mut self, store: &Store, module: ModuleId, crash: &Crash) -> Result<(), StoreError> {
        // Those of groups that are not written yet are among them.
        let kept = match self.kept.entry(module) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(store.kept_crashes(module)?),
        };
        let newest = kept.last().map_or(0, |crash| crash.number);
        // One that was lost with its group has had its number.
        let number = self.crashes.get(&module).map_or(newest, |given| newest.max(*given)) + 1;
        recordings::put(&mut self.waiting.batch, store, module, crash, number, kept)?;
        self.crashes.insert(module, number);
        Ok(())
    }

    /// Signs where every module stands, at an orderly stop.
    pub(super) fn sign_all(&mut self, store: &Store) {
        for (id, last) in &mut self.sequence {
            let Some(receipt) = last.sign(store, *id) else { continue };
            if let Err(error) = self.waiting.put_receipt(*id, &receipt) {
                tracing::warn!(module = id.0, %error, "no receipt at the stop");
            }
        }
    }
}
