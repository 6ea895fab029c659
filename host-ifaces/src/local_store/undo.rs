//! What the journal will have to keep so that an event's writes can be undone, and whether there is room for it.
//!
//! Invariant: what the newest units replaced is kept for a rewind, so a module that replaces more than the journal may
//! hold is refused instead of the disk being filled.

use super::{Overlay, Written, invalid, size};
use crate::{
    HostError,
    host::HostState,
    journal::{REWIND_UNITS, SMALL_UNIT_BYTES},
};

impl Overlay {
    /// Keys plus old values of what the next unit changes, bytes.
    fn replaced_bytes(&self, is_counted: impl Fn(&Written) -> bool) -> u64 {
        let counted = self.writes.iter().filter(|(_, written)| is_counted(written));
        counted.map(|(key, written)| key.len() as u64 + size("", written.old.as_ref())).sum()
    }

    pub(super) fn check_journal(&self) -> Result<(), HostError> {
        // Values are only compared where it may matter.
        if self.replaced_bytes(|_| true) <= SMALL_UNIT_BYTES {
            return Ok(());
        }
        let bytes = self.replaced_bytes(|written| written.new != written.old);
        if bytes <= SMALL_UNIT_BYTES {
            return Ok(());
        }
        // A store that cannot be read now will say so when the unit is written.
        let Ok(room) = self.view.journal_room(self.module) else { return Ok(()) };
        if bytes > room {
            return Err(invalid(format!(
                "journal quota: these writes replace {bytes} bytes, which the journal keeps for a rewind; with them the \
                 newest {REWIND_UNITS} units would have {} more than [journal] bytes allows. Change less in each event, \
                 or let the operator raise it",
                bytes - room
            )));
        }
        Ok(())
    }
}

impl HostState {
    /// Whether the journal has room for the unit of the event at hand.
    ///
    /// # Errors
    /// `invalid-input` when the newest units would hold more than the journal may: the event must fail.
    pub fn check_journal(&self) -> Result<(), HostError> {
        self.overlay.check_journal()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::put;
    use super::*;
    use crate::{
        HostErrorKind,
        store::{Entries, ModuleId, StateView, StoreError},
    };

    /// One value under every key, and little room in the journal.
    struct Full;

    const VALUE_BYTES: u64 = SMALL_UNIT_BYTES;

    impl StateView for Full {
        fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(Some(vec![1; VALUE_BYTES as usize]))
        }

        fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
            Ok(Vec::new())
        }

        fn journal_room(&self, _: ModuleId) -> Result<u64, StoreError> {
            Ok(VALUE_BYTES + 100)
        }
    }

    #[test]
    fn writes_that_replace_more_than_the_journal_may_keep_are_refused_and_small_ones_never() {
        let overlay = || Overlay::new(Arc::new(Full), ModuleId(1), 10 * VALUE_BYTES, 100 * VALUE_BYTES);
        let mut fitting = overlay();
        fitting.apply(vec![put("a", "1")]).unwrap();
        fitting.check_journal().unwrap();
        let mut large = overlay();
        large.apply(vec![put("a", "1"), put("b", "1")]).unwrap();
        let error = large.check_journal().unwrap_err();
        assert_eq!(error.kind, HostErrorKind::InvalidInput);
        assert!(error.message.starts_with("journal quota: these writes replace 131074 bytes"), "{}", error.message);
        // What stays as it was needs no undoing.
        let same = "\u{1}".repeat(VALUE_BYTES as usize);
        let mut unchanged = overlay();
        unchanged.apply(vec![put("a", &same), put("b", &same), put("c", &same)]).unwrap();
        unchanged.check_journal().unwrap();
    }
}
