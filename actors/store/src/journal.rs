//! Reads of the journal: entries, pages at one moment, single units, receipts and rewinds.

use nexum_host_ifaces::{
    journal::{ChangedKey, JournalPage, JournalStart, REWIND_UNITS, Receipt, RewindRecord, UnitDetail},
    store::{JournalEntry, JournalRoom, ModuleId, ModuleRecord, StoreError},
};
use rocksdb::{Direction, IteratorMode, ReadOptions, Snapshot};

use crate::{
    codec::{self, At, Span},
    keys, outbox,
    store::{Found, Store},
};

/// Rewinds kept per module: enough to explain receipts of weeks on a chain that reorganises daily.
pub(crate) const REWINDS_MAX: u64 = 100;

/// What goes so that a journal holds no more than it may, each from the first number to before the second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub units: Option<(u64, u64)>,
    /// Units that a rewind needs, of which the recordings go alone.
    pub recordings: Option<(u64, u64)>,
}

/// The first number of the range that stays, where all that go come before all that stay: found by halving, which costs a
/// few reads.
fn first_that_stays((mut from, mut to): (u64, u64), goes: impl Fn(u64) -> bool) -> u64 {
    while from < to {
        let middle = from + (to - from) / 2;
        if goes(middle) { from = middle + 1 } else { to = middle }
    }
    from
}

/// What cannot be read goes in its turn, and keeps neither the journal from being bounded nor its module from going on: no
/// rewind gets past it, so that what is older is of no use to one.
fn unreadable(module: ModuleId, seq: u64, error: &StoreError) -> bool {
    tracing::error!(module = module.0, seq, %error, "an entry of the journal cannot be read");
    true
}

fn until(end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end);
    options
}

impl Store {
    /// Journal entries with `from_seq <= seq`, oldest first, at most `limit`.
    pub fn journal(&self, module: ModuleId, from_seq: u64, limit: usize) -> Result<Vec<JournalEntry>, StoreError> {
        let (_, end) = keys::module(module);
        let from = keys::event(module, from_seq);
        self.range(keys::EVENTS, &from, end.to_vec())?
            .take(limit)
            .map(|item| codec::decode_entry(&item.map_err(|error| self.failed(&error))?.1))
            .collect()
    }

    /// Part of a module's journal, all of it read at one moment.
    pub fn journal_page(&self, name: &str, start: JournalStart, limit: usize) -> Result<JournalPage, StoreError> {
        self.page_at(&self.db.snapshot(), self.id(name)?, start, limit)
    }

    /// The same at the moment of the snapshot.
    fn page_at(
        &self,
        snapshot: &Snapshot<'_>,
        module: ModuleId,
        start: JournalStart,
        limit: usize,
    ) -> Result<JournalPage, StoreError> {
        let record = self.record_at(snapshot, module)?;
        let entries_from = |seq: u64| {
            let entry = |item: Found| codec::decode_entry(&item.map_err(|error| self.failed(&error))?.1);
            Ok::<_, StoreError>(self.events_at(snapshot, module, seq)?.map(entry))
        };
        let oldest = entries_from(0)?.next().transpose()?.map_or(0, |entry| entry.seq);
        let first = match start {
            JournalStart::At(seq) => seq,
            JournalStart::Newest => (record.seq + 1).saturating_sub(limit as u64),
        };
        let entries = entries_from(first)?.take(limit).collect::<Result<Vec<_>, _>>()?;
        let mut receipts = Vec::new();
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let (from, end) = (keys::receipt(module, first.seq), keys::receipt(module, last.seq + 1));
            let mode = IteratorMode::From(&from, Direction::Forward);
            for item in snapshot.iterator_opt(mode, until(&end)) {
                receipts.push(codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a receipt")?);
            }
        }
        let (from, end) = keys::rewinds(module);
        let mut options = until(&end);
        options.set_iterate_lower_bound(from);
        let rewound = snapshot.iterator_opt(IteratorMode::End, options).next();
        let rewound: Option<RewindRecord> = match rewound {
            Some(item) => Some(codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a rewind")?),
            None => None,
        };
        Ok(JournalPage {
            entries,
            receipts,
            oldest,
            bytes: self.bytes_at(snapshot, module, (oldest, record.seq))?,
            newest: record.seq,
            digest: record.journal,
            rewinds: rewound.map_or(0, |rewound| rewound.number),
            key: self.receipts.as_ref().map(|receipts| receipts.key.public()),
        })
    }

    /// What the units from the oldest to the newest take, without those of their recordings that have gone before them.
    fn bytes_at(
        &self,
        snapshot: &Snapshot<'_>,
        module: ModuleId,
        (oldest, newest): (u64, u64),
    ) -> Result<u64, StoreError> {
        let begin = self.span_at(snapshot, module, oldest)?.map_or(At::default(), |span| span.from);
        let end = self.span_at(snapshot, module, newest)?.map_or(At::default(), Span::end);
        let mut recordings =
            snapshot.raw_iterator_cf_opt(self.family(keys::RECORDINGS)?, until(&keys::crash(module, 0)));
        recordings.seek(keys::recording(module, oldest));
        recordings.status().map_err(|error| self.failed(&error))?;
        let kept_from = match recordings.key().and_then(keys::parse_recording) {
            Some(seq) => self.span_at(snapshot, module, seq)?.map_or(0, |span| span.from.recorded),
            None => end.recorded,
        };
        let gone = kept_from.saturating_sub(begin.recorded);
        Ok(end.all.saturating_sub(begin.all).saturating_sub(gone))
    }

    fn record_at(&self, snapshot: &Snapshot<'_>, module: ModuleId) -> Result<ModuleRecord, StoreError> {
        match snapshot.get_pinned(keys::record(module)).map_err(|error| self.failed(&error))? {
            Some(bytes) => codec::decode(&bytes, "a module record"),
            None => Ok(ModuleRecord::default()),
        }
    }

    /// Journal records with `from_seq <= seq`, oldest first.
    fn events_at<'a>(
        &self,
        snapshot: &'a Snapshot<'_>,
        module: ModuleId,
        from_seq: u64,
    ) -> Result<impl Iterator<Item = Found> + use<'a>, StoreError> {
        let (_, end) = keys::module(module);
        let from = keys::event(module, from_seq);
        let mode = IteratorMode::From(&from, Direction::Forward);
        Ok(snapshot.iterator_cf_opt(self.family(keys::EVENTS)?, until(&end), mode))
    }

    /// The half-open range of entries made before `cutoff_ms`, milliseconds since the Unix epoch. A clock that was set back
    /// in between makes it a little less exact.
    pub(crate) fn entries_before(&self, module: ModuleId, cutoff_ms: u64) -> Result<Option<(u64, u64)>, StoreError> {
        let Some(oldest) = self.oldest(module) else { return Ok(None) };
        let (events, next) = (self.family(keys::EVENTS)?, self.record(module)?.seq + 1);
        let is_old = |seq: u64| {
            let found = self.db.get_pinned_cf(events, keys::event(module, seq)).map_err(|error| self.failed(&error));
            let entry = found.and_then(|found| found.map(|bytes| codec::decode_entry(&bytes)).transpose());
            match entry {
                Ok(entry) => entry.is_some_and(|entry| entry.at_ms < cutoff_ms),
                Err(error) => unreadable(module, seq, &error) && seq + REWIND_UNITS < next,
            }
        };
        let from = first_that_stays((oldest, next), is_old);
        Ok((from > oldest).then_some((oldest, from)))
    }

    /// The oldest entry kept, or what is before it when it cannot be read; `None` when there is none.
    fn oldest(&self, module: ModuleId) -> Option<u64> {
        match self.journal(module, 0, 1) {
            Ok(entries) => entries.first().map(|entry| entry.seq),
            Err(error) => {
                unreadable(module, 0, &error);
                Some(0)
            }
        }
    }

    /// Where a unit lies in the bytes of the module's journal; `None` when it is not kept, or when an earlier version wrote
    /// it, which did not count.
    pub(crate) fn span(&self, module: ModuleId, seq: u64) -> Result<Option<Span>, StoreError> {
        self.span_at(&self.db.snapshot(), module, seq)
    }

    fn span_at(&self, snapshot: &Snapshot<'_>, module: ModuleId, seq: u64) -> Result<Option<Span>, StoreError> {
        let mut options = ReadOptions::default();
        // A large record would take the place of everything that is read often.
        options.fill_cache(false);
        let found = snapshot.get_pinned_cf_opt(self.family(keys::EVENTS)?, keys::event(module, seq), options);
        let found = found.map_err(|error| self.failed(&error))?;
        found.map(|bytes| codec::decode_span(&bytes)).transpose().map(Option::flatten)
    }

    /// What is to be dropped, oldest first, so that what is left up to `end` is no more than the journal may hold: units,
    /// but never one that a rewind needs, of which `newest` is the last; and when only these are left, their recordings.
    pub(crate) fn past(&self, module: ModuleId, end: At, newest: u64) -> Result<Past, StoreError> {
        let excess = end.all.saturating_sub(self.journal_bytes);
        if excess == 0 {
            return Ok(Past::default());
        }
        let Some(oldest) = self.oldest(module) else { return Ok(Past::default()) };
        let next = self.record(module)?.seq + 1;
        let kept = (newest + 1).saturating_sub(REWIND_UNITS).min(next);
        // What an earlier version wrote is older than what is counted, here and below.
        let is_past = |seq| match self.span(module, seq) {
            Ok(span) => span.is_none_or(|span| span.from.all < excess),
            Err(error) => unreadable(module, seq, &error),
        };
        let first = first_that_stays((oldest, kept), is_past);
        let units = (first > oldest).then_some((oldest, first));
        if first < kept {
            return Ok(Past { units, recordings: None });
        }
        let from = match self.span(module, first) {
            Ok(span) => span.unwrap_or_default().from,
            // How much it is too much cannot be told: the next look is at another one.
            Err(error) => {
                unreadable(module, first, &error);
                return Ok(Past { units, recordings: None });
            }
        };
        let excess = excess.saturating_sub(from.all);
        let is_too_much = |seq| match self.span(module, seq) {
            Ok(span) => span.is_none_or(|span| span.from.recorded.saturating_sub(from.recorded) < excess),
            Err(error) => unreadable(module, seq, &error),
        };
        let whole = first_that_stays((first, next), is_too_much);
        Ok(Past { units, recordings: (whole > first).then_some((first, whole)) })
    }

    /// What the module's unit `seq` and those before it that are not written yet may add, so that they fit together with the
    /// units that a rewind needs with them. Recordings do not count: they give way.
    pub(crate) fn room(&self, module: ModuleId, seq: u64) -> Result<JournalRoom, StoreError> {
        let snapshot = self.db.snapshot();
        let newest = self.record_at(&snapshot, module)?.seq;
        let all = JournalRoom { newest, bytes: self.journal_bytes };
        let needed = (seq + 1).saturating_sub(REWIND_UNITS);
        let last = self.span_at(&snapshot, module, newest)?;
        let Some(last) = last.filter(|_| needed <= newest) else { return Ok(all) };
        let from = match self.events_at(&snapshot, module, needed)?.next() {
            Some(item) => codec::decode_span(&item.map_err(|error| self.failed(&error))?.1)?.unwrap_or_default().from,
            None => last.from,
        };
        let taken = last.end().undo().saturating_sub(from.undo());
        Ok(JournalRoom { newest, bytes: self.journal_bytes.saturating_sub(taken) })
    }

    /// One kept unit.
    pub fn journal_unit(&self, name: &str, seq: u64) -> Result<UnitDetail, StoreError> {
        let module = self.id(name)?;
        let found = self.db.get_pinned_cf(self.family(keys::EVENTS)?, keys::event(module, seq));
        let Some(bytes) = found.map_err(|error| self.failed(&error))? else {
            let page = self.journal_page(name, JournalStart::Newest, 0)?;
            let (oldest, newest) = (page.oldest, page.newest);
            return Err(StoreError::UnknownUnit { module: name.to_owned(), seq, oldest, newest });
        };
        let event = codec::decode_event(&bytes)?;
        let changes = event.undo.iter().map(|(key, old, new_bytes)| ChangedKey {
            key: (*key).to_owned(),
            old_bytes: old.map(|old| old.0.len() as u64),
            new_bytes: *new_bytes,
        });
        let (_, end) = keys::receipts(module);
        let receipt = match self.range("default", &keys::receipt(module, seq), end.to_vec())?.next() {
            Some(item) => Some(codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a receipt")?),
            None => None,
        };
        Ok(UnitDetail {
            changes: changes.collect(),
            state_bytes_before: event.state_bytes_before,
            resolved: event.resolved.map(|(letter, _)| letter),
            effects: outbox::sent_by(self, module, seq)?,
            receipt,
            entry: event.entry,
        })
    }

    /// The newest rewinds of a module, oldest first.
    pub fn rewinds(&self, name: &str) -> Result<Vec<RewindRecord>, StoreError> {
        self.rewinds_of(self.id(name)?)
    }

    pub(crate) fn rewinds_of(&self, module: ModuleId) -> Result<Vec<RewindRecord>, StoreError> {
        let (from, end) = keys::rewinds(module);
        self.range("default", &from, end.to_vec())?
            .map(|item| codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a rewind"))
            .collect()
    }

    /// Receipts of a module for units from `seq` on, oldest first.
    pub(crate) fn receipts_from(&self, module: ModuleId, seq: u64) -> Result<Vec<Receipt>, StoreError> {
        let (_, end) = keys::receipts(module);
        self.range("default", &keys::receipt(module, seq), end.to_vec())?
            .map(|item| codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a receipt"))
            .collect()
    }

    /// The newest receipt of a module.
    pub(crate) fn last_receipt(&self, module: ModuleId) -> Result<Option<Receipt>, StoreError> {
        let (from, end) = keys::receipts(module);
        let mut options = until(&end);
        options.set_iterate_lower_bound(from);
        match self.db.iterator_opt(IteratorMode::End, options).next() {
            Some(item) => codec::decode(&item.map_err(|error| self.failed(&error))?.1, "a receipt").map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexum_host_ifaces::{
        Hash,
        clock::SystemClock,
        event::EventId,
        ledger::{Ledger, Outcome},
        store::UnitKind,
    };
    use rocksdb::WriteOptions;

    use super::*;
    use crate::{
        disk::Written,
        group::{Gone, Group, Scratch},
        open::Options,
    };

    /// Writes the module's next unit, behind `from`, and drops one; answers where it ends.
    fn write(store: &Store, ledger: &mut Ledger, from: At, gone: Option<u64>) -> At {
        let unit = ledger.seal(Outcome {
            kind: UnitKind::Handled,
            event: EventId::Init,
            moved: None,
            at_ms: 1,
            fuel: 1,
            changes: Vec::new(),
            state_bytes: 0,
            effects: Vec::new(),
        });
        ledger.adopt(unit.record.clone());
        let (mut group, mut scratch) = (Group::default(), Scratch::default());
        let gone = Gone { units: [gone.map(|seq| (seq, seq + 1)), None], recordings: None };
        let span = group.add(store, &unit, (false, from), &gone, &mut scratch).unwrap();
        group.put_record(&unit, &mut scratch).unwrap();
        store.write(Written::Group, group.batch, &WriteOptions::default()).unwrap();
        span.end()
    }

    #[test]
    fn a_page_is_of_one_moment_whatever_is_written_and_dropped_meanwhile() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let store = Store::open(directory.path(), &options).unwrap();
        let module = ModuleId(1);
        let mut ledger = Ledger { module, component: Hash::default(), record: ModuleRecord::default() };
        let first = write(&store, &mut ledger, At::default(), None);
        let second = write(&store, &mut ledger, first, None);
        let snapshot = store.db.snapshot();
        let page = |snapshot: &Snapshot<'_>| store.page_at(snapshot, module, JournalStart::Newest, 9).unwrap();
        let before = page(&snapshot);
        assert_eq!((before.oldest, before.newest, before.bytes), (1, 2, second.all));
        let third = write(&store, &mut ledger, second, Some(1));
        assert_eq!(page(&snapshot), before);
        let after = page(&store.db.snapshot());
        assert_eq!((after.oldest, after.newest, after.bytes), (2, 3, third.all - first.all));
        let room = store.room(module, 4).unwrap();
        assert_eq!(room, JournalRoom { newest: 3, bytes: store.journal_bytes - after.bytes });
        assert_eq!(
            store.room(module, 3 + REWIND_UNITS).unwrap().bytes,
            store.journal_bytes,
            "far ahead of what is written"
        );
    }

    #[test]
    fn entries_that_cannot_be_read_go_in_their_turn_and_keep_no_others_from_going() {
        let directory = tempfile::TempDir::new().unwrap();
        let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
        let options = Options { journal_bytes: 1, ..options };
        let store = Store::open(directory.path(), &options).unwrap();
        let module = ModuleId(1);
        let mut ledger = Ledger { module, component: Hash::default(), record: ModuleRecord::default() };
        let end = (0..300).fold(At::default(), |end, _| write(&store, &mut ledger, end, None));
        let (events, stays) = (store.family(keys::EVENTS).unwrap(), 301 - REWIND_UNITS);
        assert_eq!(store.past(module, end, 300).unwrap().units, Some((1, stays)));
        let spoil = |seq: u64| store.db.put_cf(events, keys::event(module, seq), [9u8, 9]).unwrap();
        (2..stays).for_each(spoil);
        assert_eq!(store.past(module, end, 300).unwrap().units, Some((1, stays)));
        spoil(1);
        assert_eq!(store.past(module, end, 300).unwrap().units, Some((0, stays)));
        assert_eq!(store.entries_before(module, 1).unwrap(), Some((0, stays)), "none is older than that");
        // What a rewind would have to get past is not dropped for it.
        spoil(150);
        assert_eq!(store.past(module, end, 300).unwrap().units, Some((0, stays)));
        assert_eq!(store.entries_before(module, 1).unwrap(), Some((0, stays)));
    }
}
