//! When a receipt is due, and when to look for entries that are too old or too many, per module.
//!
//! Invariant: a receipt is written in the same atomic write as the unit it covers, or in one that follows it in the
//! queue; so whatever survives a crash, no receipt covers a unit that did not.

use nexum_host_ifaces::{
    Hash,
    journal::{Place, Receipt},
    store::{EventUnit, ModuleId, StoreError},
};

use crate::{
    bound::{self, Past},
    store::Store,
    tables::{
        journal::{self, At, Span},
        modules, receipts,
    },
};

/// A module's last unit, and its last receipt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    place: Place,
    signed_seq: u64,
    signed_ms: u64,
    /// When it was seen last which entries are too old.
    aged_ms: Option<u64>,
    /// Where the journal ends.
    end: At,
    /// Where it ended when it was seen last which entries are too many.
    looked_end: Option<u64>,
}

impl Last {
    /// As the store has it, before `unit`, which is the first one since the actor started.
    pub fn read(store: &Store, unit: &EventUnit) -> Result<Self, StoreError> {
        let record = modules::record(&store.db, unit.module)?;
        let receipt = receipts::last(&store.db, unit.module)?;
        let (signed_seq, signed_ms) = receipt.map_or((0, unit.entry.at_ms), |receipt| (receipt.seq, receipt.at_ms));
        let (seq, digest) = (record.seq, record.journal);
        let place = Place { seq, digest, component: unit.entry.component, at_ms: signed_ms };
        let end = journal::span(&store.db, unit.module, seq)?.map_or(At::default(), Span::end);
        Ok(Self { place, signed_seq, signed_ms, aged_ms: None, end, looked_end: None })
    }

    /// Where the next unit begins in the journal.
    pub fn end(&self) -> At {
        self.end
    }

    /// The journal has grown by a unit.
    pub fn grow(&mut self, span: Span) {
        self.end = span.end();
    }

    pub fn seq(&self) -> u64 {
        self.place.seq
    }

    pub fn digest(&self) -> Hash {
        self.place.digest
    }

    /// Moves on to `unit`; answers its receipt when one is due.
    pub fn follow(&mut self, store: &Store, unit: &EventUnit) -> Option<Receipt> {
        let entry = &unit.entry;
        self.place =
            Place { seq: entry.seq, digest: unit.record.journal, component: entry.component, at_ms: entry.at_ms };
        let receipts = store.options.receipts.as_ref()?;
        let due = entry.seq.saturating_sub(self.signed_seq) >= receipts.every_units
            || u128::from(entry.at_ms.saturating_sub(self.signed_ms)) >= receipts.every.as_millis();
        if due { self.sign(store, unit.module) } else { None }
    }

    /// The entries that are too old by the time of `unit`, when it is time to look: an eighth of the age after the last
    /// time.
    pub fn aged(&mut self, store: &Store, unit: &EventUnit) -> Result<Option<(u64, u64)>, StoreError> {
        let Some(age_ms) = store.options.journal_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        else {
            return Ok(None);
        };
        let now_ms = unit.entry.at_ms;
        if self.aged_ms.is_some_and(|looked_ms| now_ms.saturating_sub(looked_ms) < (age_ms / 8).max(1)) {
            return Ok(None);
        }
        self.aged_ms = Some(now_ms);
        bound::entries_before(store, unit.module, now_ms.saturating_sub(age_ms))
    }

    /// What has to make room for others before `unit`, when it is time to look: with the first unit, then once an eighth of
    /// what the journal may hold has been added.
    pub fn past(&mut self, store: &Store, unit: &EventUnit) -> Result<Past, StoreError> {
        let step = (store.options.journal_bytes / 8).max(1);
        if self.looked_end.is_some_and(|looked| self.end.all.saturating_sub(looked) < step) {
            return Ok(Past::default());
        }
        self.looked_end = Some(self.end.all);
        bound::past(store, unit.module, self.end, unit.entry.seq)
    }

    /// A receipt for the last unit, unless it has one.
    pub fn sign(&mut self, store: &Store, module: ModuleId) -> Option<Receipt> {
        let receipts = store.options.receipts.as_ref().filter(|_| self.place.seq > self.signed_seq)?;
        let name = store.name(module)?;
        (self.signed_seq, self.signed_ms) = (self.place.seq, self.place.at_ms);
        Some(receipts.key.receipt(&name, self.place))
    }
}
