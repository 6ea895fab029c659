//! Reads of the journal: entries, pages at one moment, single units, receipts and rewinds.

use nexum_host_ifaces::{
    journal::{ChangedKey, JournalPage, JournalStart, REWIND_UNITS, Receipt, RewindRecord, UnitDetail},
    store::{JournalEntry, ModuleId, ModuleRecord, StoreError},
};
use rocksdb::{Direction, IteratorMode, ReadOptions};

use crate::{
    codec::{self, Span},
    keys, outbox,
    store::Store,
};

/// Rewinds kept per module: enough to explain receipts of weeks on a chain that reorganises daily.
pub(crate) const REWINDS_MAX: u64 = 100;

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
        let module = self.id(name)?;
        let snapshot = self.db.snapshot();
        let events = self.family(keys::EVENTS)?;
        let record: ModuleRecord = match snapshot.get(keys::record(module)).map_err(|error| self.failed(&error))? {
            Some(bytes) => codec::decode(&bytes, "a module record")?,
            None => ModuleRecord::default(),
        };
        let (_, end) = keys::module(module);
        let entries_from = |seq: u64| {
            let from = keys::event(module, seq);
            let mode = IteratorMode::From(&from, Direction::Forward);
            let found = snapshot.iterator_cf_opt(events, until(&end), mode);
            found.map(|item| codec::decode_entry(&item.map_err(|error| self.failed(&error))?.1))
        };
        let oldest = entries_from(0).next().transpose()?.map_or(0, |entry| entry.seq);
        let first = match start {
            JournalStart::At(seq) => seq,
            JournalStart::Newest => (record.seq + 1).saturating_sub(limit as u64),
        };
        let entries = entries_from(first).take(limit).collect::<Result<Vec<_>, _>>()?;
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
        let end = self.span(module, record.seq)?.map_or(0, Span::end);
        let begin = self.span(module, oldest)?.map_or(0, |span| span.from);
        Ok(JournalPage {
            entries,
            receipts,
            oldest,
            bytes: end.saturating_sub(begin),
            newest: record.seq,
            digest: record.journal,
            rewinds: rewound.map_or(0, |rewound| rewound.number),
            key: self.receipts.as_ref().map(|receipts| receipts.key.public()),
        })
    }

    /// The half-open range of entries made before `cutoff_ms`, milliseconds since the Unix epoch. Found by halving, so
    /// that it costs a few reads; a clock that was set back in between makes it a little less exact.
    pub(crate) fn entries_before(&self, module: ModuleId, cutoff_ms: u64) -> Result<Option<(u64, u64)>, StoreError> {
        let Some(oldest) = self.journal(module, 0, 1)?.first().map(|entry| entry.seq) else { return Ok(None) };
        let events = self.family(keys::EVENTS)?;
        let is_old = |seq: u64| {
            let found = self.db.get_pinned_cf(events, keys::event(module, seq)).map_err(|error| self.failed(&error))?;
            let entry = found.map(|bytes| codec::decode_entry(&bytes)).transpose()?;
            Ok::<_, StoreError>(entry.is_some_and(|entry| entry.at_ms < cutoff_ms))
        };
        let (mut from, mut to) = (oldest, self.record(module)?.seq + 1);
        while from < to {
            let middle = from + (to - from) / 2;
            if is_old(middle)? { from = middle + 1 } else { to = middle }
        }
        Ok((from > oldest).then_some((oldest, from)))
    }

    /// Where a unit lies in the bytes of the module's journal; `None` when it is not kept, or when an earlier version wrote
    /// it, which did not count.
    pub(crate) fn span(&self, module: ModuleId, seq: u64) -> Result<Option<Span>, StoreError> {
        let mut options = ReadOptions::default();
        // A large record would take the place of everything that is read often.
        options.fill_cache(false);
        let found = self.db.get_pinned_cf_opt(self.family(keys::EVENTS)?, keys::event(module, seq), &options);
        let found = found.map_err(|error| self.failed(&error))?;
        found.map(|bytes| codec::decode_span(&bytes)).transpose().map(Option::flatten)
    }

    /// The half-open range of entries to drop, oldest first, so that what is left up to `end`, bytes from the first unit
    /// on, is no more than the journal may hold; never one of the units that a rewind needs, of which `newest` is the last.
    /// Found by halving, as above.
    pub(crate) fn entries_past(
        &self,
        module: ModuleId,
        end: u64,
        newest: u64,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let excess = end.saturating_sub(self.journal_bytes);
        if excess == 0 {
            return Ok(None);
        }
        let Some(oldest) = self.journal(module, 0, 1)?.first().map(|entry| entry.seq) else { return Ok(None) };
        let kept = (newest + 1).saturating_sub(REWIND_UNITS);
        let (mut from, mut to) = (oldest, kept.min(self.record(module)?.seq + 1));
        while from < to {
            let middle = from + (to - from) / 2;
            // What an earlier version wrote is older than what is counted.
            let goes = self.span(module, middle)?.is_none_or(|span| span.from < excess);
            if goes { from = middle + 1 } else { to = middle }
        }
        Ok((from > oldest).then_some((oldest, from)))
    }

    /// Bytes that the module's next unit may add, so that it and the units before it that a rewind needs fit together.
    pub(crate) fn room(&self, module: ModuleId) -> Result<u64, StoreError> {
        let newest = self.record(module)?.seq;
        let Some(last) = self.span(module, newest)? else { return Ok(self.journal_bytes) };
        let needed = (newest + 2).saturating_sub(REWIND_UNITS);
        let first = self.journal(module, needed, 1)?.first().map_or(newest, |entry| entry.seq);
        let from = self.span(module, first)?.map_or(0, |span| span.from);
        Ok(self.journal_bytes.saturating_sub(last.end().saturating_sub(from)))
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
