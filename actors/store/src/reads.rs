//! What the store is asked: each answer put together from the tables.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::{
    interfaces::chain::port::Link,
    journal::{ChangedKey, JournalPage, JournalStart, RewindRecord, UnitDetail},
    limits::DELETED_KEYS_MAX,
    recording::{CrashBrief, Wanted},
    store::{
        DeadLetter, Entries, JournalEntry, JournalRoom, ModuleId, ModuleInfo, RedeliveryItem, StateView, StoreError,
        StoreStatus,
    },
};

use crate::{
    bound,
    db::Moment,
    still::Still,
    store::{Store, lock},
    tables::{
        headers,
        journal::{self, Span},
        letters, modules, outbox, receipts, recordings, redelivery, rewinds, services, state,
    },
};

impl Store {
    pub(crate) fn info(&self, module: ModuleId) -> Result<ModuleInfo, StoreError> {
        let (name, dead_letters, dead_letter_bytes) = match self.index().modules.get(&module) {
            Some(known) => (known.name.to_string(), known.letters.len() as u64, known.letters.values().sum::<u64>()),
            None => return Err(StoreError::UnknownModule(format!("#{}", module.0))),
        };
        Ok(ModuleInfo {
            name,
            id: module,
            record: modules::record(&self.db, module)?,
            health: modules::health(&self.db, module)?,
            dead_letters,
            dead_letter_bytes,
            redelivery: redelivery::count(&self.db, module),
            reorgs: modules::reorgs(&self.db, module)?,
        })
    }

    /// One module by name.
    pub fn inspect(&self, name: &str) -> Result<ModuleInfo, StoreError> {
        self.info(self.id(name)?)
    }

    /// Every module, by name.
    pub fn modules(&self) -> Result<Vec<ModuleInfo>, StoreError> {
        let mut ids: Vec<ModuleId> = self.index().modules.keys().copied().collect();
        ids.sort_unstable();
        let mut modules = ids.into_iter().map(|id| self.info(id)).collect::<Result<Vec<_>, _>>()?;
        modules.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(modules)
    }

    /// Dead letters of a module, oldest first.
    pub fn dead_letters(&self, name: &str) -> Result<Vec<DeadLetter>, StoreError> {
        letters::all(&self.db, self.id(name)?)
    }

    /// What a module still has to go through after a rewind, in order.
    pub fn replay(&self, module: ModuleId) -> Result<Vec<RedeliveryItem>, StoreError> {
        redelivery::all(&self.db, module)
    }

    /// The headers that are kept of a chain, by number. Blocks.
    pub fn headers(&self, chain_id: u64) -> Result<Vec<Link>, StoreError> {
        headers::all(&self.db, chain_id)
    }

    /// Whether a service has written anything that is still kept. Blocks.
    pub fn has_records(&self, service: &'static str) -> Result<bool, StoreError> {
        let first = services::Wanted { service, prefix: Vec::new(), after: None, limit: 1 };
        Ok(!services::read(&self.db, &first)?.is_empty())
    }

    /// State of the store, for the tree.
    pub fn status(&self) -> StoreStatus {
        let files = std::fs::read_dir(&self.db.directory).into_iter().flatten().flatten();
        let index = self.index();
        let with_letters = index.modules.values().filter(|known| !known.letters.is_empty());
        let dead_letters = with_letters.map(|known| (known.name.to_string(), known.letters.len() as u64)).collect();
        drop(index);
        StoreStatus {
            dead_letters,
            directory: self.db.directory.clone(),
            disk_bytes: files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum(),
            units_total: self.totals.units.load(Ordering::Relaxed),
            commits_total: self.totals.commits.load(Ordering::Relaxed),
            commit_p99_ms: lock(&self.totals.window).p99_ns() as f64 / 1e6,
            journal_key: self.options.receipts.as_ref().map(|receipts| receipts.key.public()),
            refusing: self.refusing(),
        }
    }

    /// Journal entries with `from_seq <= seq`, oldest first, at most `limit`.
    pub fn journal(&self, module: ModuleId, from_seq: u64, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        journal::entries(&self.db, module, from_seq).take(limit).collect()
    }

    /// Part of a module's journal, all of it read at one moment.
    pub fn journal_page(&self, name: &str, start: JournalStart, limit: usize) -> Result<JournalPage, StoreError> {
        self.page_at(&self.db.moment(), self.id(name)?, start, limit)
    }

    fn page_at(
        &self,
        moment: &Moment<'_>,
        module: ModuleId,
        start: JournalStart,
        limit: usize,
    ) -> Result<JournalPage, StoreError> {
        let record = modules::record(moment, module)?;
        let oldest = journal::entries(moment, module, 0).next().transpose()?.map_or(0, |entry| entry.seq);
        let first = match start {
            JournalStart::At(seq) => seq,
            JournalStart::Newest => (record.seq + 1).saturating_sub(limit as u64),
        };
        let entries = journal::entries(moment, module, first).take(limit).collect::<Result<Vec<_>, _>>()?;
        let receipts = match (entries.first(), entries.last()) {
            (Some(first), Some(last)) => receipts::between(moment, module, first.seq, last.seq)?,
            _ => Vec::new(),
        };
        Ok(JournalPage {
            entries,
            receipts,
            oldest,
            bytes: bound::bytes(moment, module, (oldest, record.seq))?,
            newest: record.seq,
            digest: record.journal,
            rewinds: rewinds::last(moment, module)?,
            key: self.options.receipts.as_ref().map(|receipts| receipts.key.public()),
        })
    }

    /// One kept unit.
    pub fn journal_unit(&self, name: &str, seq: u64) -> Result<UnitDetail, StoreError> {
        let module = self.id(name)?;
        let Some(bytes) = journal::get(&self.db, module, seq)? else {
            let page = self.journal_page(name, JournalStart::Newest, 0)?;
            let (oldest, newest) = (page.oldest, page.newest);
            return Err(StoreError::UnknownUnit { module: name.to_owned(), seq, oldest, newest });
        };
        let event = journal::decode(&bytes)?;
        let changes = event.undo.iter().map(|(key, old, new_bytes)| ChangedKey {
            key: (*key).to_owned(),
            old_bytes: old.map(|old| old.0.len() as u64),
            new_bytes: *new_bytes,
        });
        Ok(UnitDetail {
            changes: changes.collect(),
            state_bytes_before: event.state_bytes_before,
            resolved: event.resolved.map(|(letter, _)| letter),
            effects: outbox::sent_by(&self.db, module, seq)?,
            receipt: receipts::from_unit(&self.db, module, seq).next().transpose()?,
            entry: event.entry,
        })
    }

    /// The newest rewinds of a module, oldest first.
    pub fn rewinds(&self, name: &str) -> Result<Vec<RewindRecord>, StoreError> {
        rewinds::all(&self.db, self.id(name)?)
    }

    /// The crashes kept of a module, oldest first.
    pub fn crashes(&self, name: &str) -> Result<Vec<CrashBrief>, StoreError> {
        recordings::crashes(&self.db, self.id(name)?)
    }

    /// One recording of a module, as it was handed in.
    pub fn recording(&self, name: &str, wanted: Wanted) -> Result<Vec<u8>, StoreError> {
        let module = self.id(name)?;
        let number = match wanted {
            Wanted::Unit(seq) => {
                return match recordings::get(&self.db, module, seq)? {
                    Some(recording) => Ok(recording),
                    None => Err(self.unrecorded(name, module, seq)?),
                };
            }
            Wanted::Crash(number) => number,
            Wanted::LastCrash => recordings::last_crash(&self.db, module)?,
        };
        recordings::crash(&self.db, module, number)?.ok_or_else(|| {
            StoreError::UnknownRecording(match wanted {
                Wanted::LastCrash => format!("no crash of module `{name}` is kept"),
                _ => format!("no crash {number} of module `{name}` is kept"),
            })
        })
    }

    /// Why there is no recording of a unit.
    fn unrecorded(&self, name: &str, module: ModuleId, seq: u64) -> Result<StoreError, StoreError> {
        let why = match journal::span(&self.db, module, seq)? {
            Some(Span { left_out: bytes @ 1.., .. }) => {
                format!(
                    "it had {bytes} bytes and was left out, as each is that takes more than a 512th of [journal] bytes"
                )
            }
            Some(Span { recorded: 1.., .. }) => {
                "it was dropped, because what undoes the newest units takes the room of the journal ([journal] bytes)"
                    .into()
            }
            _ => "[journal] record = \"all\" keeps them, as long as the unit is in the journal".to_owned(),
        };
        Ok(StoreError::UnknownRecording(format!("module `{name}` has no recording of unit {seq}: {why}")))
    }
}

impl StateView for Store {
    fn get(&self, module: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        state::get(&self.db, module, key)
    }

    fn scan(&self, module: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
        state::scan(&self.db, module, prefix, after, limit, u64::MAX).map(|(entries, _)| entries)
    }

    fn scan_past(
        &self,
        module: ModuleId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Entries, u64), StoreError> {
        state::scan(&self.db, module, prefix, after, limit, DELETED_KEYS_MAX)
    }

    fn at_this_moment(self: Arc<Self>) -> Result<Arc<dyn StateView>, StoreError> {
        Ok(Arc::new(Still::of(self)))
    }

    fn journal_room(&self, module: ModuleId, seq: u64) -> Result<JournalRoom, StoreError> {
        bound::room(self, module, seq)
    }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::{Hash, clock::SystemClock, journal::REWIND_UNITS, ledger::Ledger, store::ModuleRecord};

    use super::*;
    use crate::{commit::unit::tests::write, options::Options, tables::journal::At};

    #[test]
    fn a_page_is_of_one_moment_whatever_is_written_and_dropped_meanwhile() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let store = Store::open(directory.path(), &options).unwrap();
        let module = ModuleId(1);
        let mut ledger = Ledger { module, component: Hash::default(), record: ModuleRecord::default() };
        let first = write(&store, &mut ledger, At::default(), None);
        let second = write(&store, &mut ledger, first, None);
        let moment = store.db.moment();
        let page = |moment: &Moment<'_>| store.page_at(moment, module, JournalStart::Newest, 9).unwrap();
        let before = page(&moment);
        assert_eq!((before.oldest, before.newest, before.bytes), (1, 2, second.all));
        let third = write(&store, &mut ledger, second, Some(1));
        assert_eq!(page(&moment), before);
        let after = page(&store.db.moment());
        assert_eq!((after.oldest, after.newest, after.bytes), (2, 3, third.all - first.all));
        let room = bound::room(&store, module, 4).unwrap();
        let whole = store.options.journal_bytes;
        assert_eq!(room, JournalRoom { newest: 3, bytes: whole - after.bytes });
        let ahead = bound::room(&store, module, 3 + REWIND_UNITS).unwrap();
        assert_eq!(ahead.bytes, whole, "far ahead of what is written");
    }
}
