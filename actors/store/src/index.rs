//! The modules of the store, in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use nexum_host_ifaces::store::ModuleId;

use crate::{
    db::Db,
    open::OpenError,
    tables::{letters, modules},
};

#[derive(Default)]
pub(crate) struct Index {
    pub by_name: HashMap<Arc<str>, ModuleId>,
    pub modules: HashMap<ModuleId, IndexedModule>,
    pub next_id: u32,
}

pub(crate) struct IndexedModule {
    pub name: Arc<str>,
    /// Sequence numbers of its dead letters, and how many bytes each takes.
    pub letters: BTreeMap<u64, u64>,
}

impl Index {
    pub fn read(db: &Db) -> Result<Self, OpenError> {
        let mut index = Self { next_id: modules::next_id(db)?, ..Self::default() };
        for module in modules::names(db) {
            let (name, id) = module?;
            index.by_name.insert(name.clone(), id);
            index.modules.insert(id, IndexedModule { name, letters: BTreeMap::new() });
        }
        for letter in letters::sizes(db) {
            let (id, seq, bytes) = letter?;
            if let Some(known) = index.modules.get_mut(&id) {
                known.letters.insert(seq, bytes);
            }
        }
        Ok(index)
    }

    /// A module whose writes somebody sees to: a purge waits for them, so that it is there.
    pub fn written(&mut self, id: ModuleId) -> &mut IndexedModule {
        let Some(known) = self.modules.get_mut(&id) else {
            unreachable!("something of module #{} was written, which is not there", id.0)
        };
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "something of module #7 was written, which is not there")]
    fn what_is_written_is_of_a_module_that_is_there() {
        Index::default().written(ModuleId(7));
    }
}
