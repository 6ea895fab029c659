//! What the journal will have to keep so that an event's writes can be undone, and whether there is room for it.
//!
//! Invariant: what the newest units replaced is kept for a rewind, so a module that replaces more than the journal may
//! hold is refused instead of the disk being filled.

use crate::{
    journal::{REWIND_UNITS, SMALL_UNIT_BYTES},
    state::StoreError,
    store::StateChange,
    unit::overlay::{Overlay, Written, size},
};

impl Overlay {
    /// Keys plus old values of what the next unit changes, bytes.
    fn replaced_bytes(&self, is_counted: impl Fn(&Written) -> bool) -> u64 {
        let counted = self.writes.iter().filter(|(_, written)| is_counted(written));
        counted.map(|(key, written)| key.len() as u64 + size("", written.old.as_ref())).sum()
    }

    /// What the next unit replaces as far as the journal's bound is concerned: 0 when it is little enough never to be
    /// refused.
    pub(super) fn weighing_bytes(&self) -> u64 {
        // Values are only compared where it may matter.
        if self.replaced_bytes(|_| true) <= SMALL_UNIT_BYTES {
            return 0;
        }
        let bytes = self.replaced_bytes(|written| written.new != written.old);
        if bytes <= SMALL_UNIT_BYTES { 0 } else { bytes }
    }

    /// A unit is on its way to the store.
    pub(crate) fn unit_sent(&mut self, seq: u64, changes: &[StateChange]) {
        let old_bytes: usize = changes.iter().map(|change| change.old.as_ref().map_or(0, Vec::len)).sum();
        self.sent_bytes += old_bytes;
        if !changes.is_empty() {
            let key_bytes: usize = changes.iter().map(|change| change.key.len()).sum();
            self.replacing.push_back((seq, (key_bytes + old_bytes) as u64));
        }
        // What no rewind needs together with the next unit counts no more, however many an event flushes.
        while self.replacing.front().is_some_and(|(sent, _)| sent + REWIND_UNITS <= seq + 1) {
            self.replacing.pop_front();
        }
    }

    /// What the journal has left for the unit `seq` when those on their way are written, bytes.
    pub(super) fn journal_room(&self, seq: u64) -> Result<u64, StoreError> {
        let room = self.view.journal_room(self.module, seq)?;
        let to_come = self.replacing.iter().filter(|(sent, _)| *sent > room.newest);
        Ok(to_come.fold(room.bytes, |left, (_, bytes)| left.saturating_sub(*bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        state::{Entries, JournalRoom, ModuleId, StateView},
        unit::overlay::tests::put,
    };

    /// One value under every key, and little room in the journal, of which unit 7 is the newest one written.
    struct Full;

    const VALUE_BYTES: u64 = SMALL_UNIT_BYTES;

    impl StateView for Full {
        fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(Some(vec![1; VALUE_BYTES as usize]))
        }

        fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
            Ok(Vec::new())
        }

        fn journal_room(&self, _: ModuleId, _: u64) -> Result<JournalRoom, StoreError> {
            Ok(JournalRoom { newest: 7, bytes: VALUE_BYTES + 100 })
        }
    }

    fn overlay() -> Overlay {
        Overlay::new(Arc::new(Full), ModuleId(1), 10 * VALUE_BYTES, 100 * VALUE_BYTES)
    }

    #[test]
    fn writes_that_replace_much_are_weighed_and_small_ones_never() {
        let mut fitting = overlay();
        fitting.apply(vec![put("a", "1")]).unwrap();
        assert_eq!(fitting.weighing_bytes(), VALUE_BYTES + 1);
        let mut large = overlay();
        large.apply(vec![put("a", "1"), put("b", "1")]).unwrap();
        assert_eq!(large.weighing_bytes(), 2 * VALUE_BYTES + 2);
        // What stays as it was needs no undoing.
        let same = "\u{1}".repeat(VALUE_BYTES as usize);
        let mut unchanged = overlay();
        unchanged.apply(vec![put("a", &same), put("b", &same), put("c", &same)]).unwrap();
        assert_eq!(unchanged.weighing_bytes(), 0);
    }

    #[test]
    fn what_units_on_their_way_replace_is_taken_from_the_room_until_the_store_counts_it() {
        let change = |bytes: usize| vec![StateChange { key: "k".into(), new: None, old: Some(vec![0; bytes]) }];
        let mut overlay = overlay();
        overlay.unit_sent(6, &change(1_000));
        overlay.unit_sent(7, &change(1_000));
        assert_eq!(overlay.journal_room(8), Ok(VALUE_BYTES + 100), "the store has them");
        overlay.unit_sent(8, &change(49));
        overlay.unit_sent(9, &[]);
        assert_eq!(overlay.journal_room(10), Ok(VALUE_BYTES + 50));
        assert_eq!(overlay.sent_bytes(), 2_049, "they are in memory, too");
        overlay.unit_sent(10, &change(1 << 20));
        assert_eq!(overlay.journal_room(11), Ok(0));
        overlay.settled();
        assert_eq!((overlay.journal_room(11), overlay.sent_bytes()), (Ok(VALUE_BYTES + 100), 0));
        // However many an event flushes, no more are remembered than a rewind needs.
        (11..2_000).for_each(|seq| overlay.unit_sent(seq, &change(1)));
        assert!(overlay.replacing.len() as u64 <= REWIND_UNITS, "{}", overlay.replacing.len());
    }
}
