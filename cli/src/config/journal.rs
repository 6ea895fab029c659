//! `[journal]`: what is kept of what modules did, and who vouches for it.

use std::{path::PathBuf, time::Duration};

use nexum_ctl::period::Period;
use nexum_host_ifaces::{
    journal::{REWIND_UNITS, SMALL_UNIT_BYTES},
    recording::Record,
};
use serde::{Deserialize, Serialize};

use super::check::Problem;

/// Longer than any chain takes to make a block final.
const AGE_MIN: Duration = Duration::from_secs(3600);
/// What the units that a rewind needs may take whatever else is refused.
const BYTES_MIN: u64 = REWIND_UNITS * SMALL_UNIT_BYTES;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Entries kept per module, which is also how far a rewind can go back.
    pub entries: u64,
    /// Bytes kept per module, its units with what they replaced and their recordings.
    pub bytes: u64,
    /// How old an entry may become; absent: however old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Period>,
    /// Whether receipts are signed.
    pub receipts: bool,
    /// File with the secret key; `<state_dir>/journal.key`, made at the first start, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// A receipt after this many units of a module,
    pub receipt_entries: u64,
    /// and with the first unit after this time since the one before.
    pub receipt_interval: Period,
    /// What is recorded of events, to be replayed.
    pub record: Record,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            entries: nexum_store::JOURNAL_ENTRIES,
            bytes: nexum_store::JOURNAL_BYTES,
            age: None,
            receipts: true,
            key: None,
            receipt_entries: 1000,
            receipt_interval: Period(Duration::from_secs(600)),
            record: Record::default(),
        }
    }
}

pub(super) fn check(journal: &Journal) -> Result<(), Problem> {
    for (key, number) in [("entries", journal.entries), ("receipt_entries", journal.receipt_entries)] {
        if number == 0 {
            return Err(super::check::problem(&format!("journal.{key}"), "must be at least 1"));
        }
    }
    if journal.bytes < BYTES_MIN {
        let wanted = format!("must be at least {BYTES_MIN}: what a rewind needs of small units takes as much");
        return Err(super::check::problem("journal.bytes", &wanted));
    }
    if journal.age.is_some_and(|age| age.0 < AGE_MIN) {
        let wanted = format!("must be at least {}: a rewind goes back no further", Period(AGE_MIN));
        return Err(super::check::problem("journal.age", &wanted));
    }
    if journal.key.is_some() && !journal.receipts {
        return Err(super::check::problem("journal.key", "is not used: receipts = false"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_that_a_rewind_could_not_live_with_is_refused() {
        let with = |age| check(&Journal { age: Some(Period(age)), ..Journal::default() });
        assert!(with(AGE_MIN).is_ok() && check(&Journal::default()).is_ok());
        assert!(with(AGE_MIN - Duration::from_millis(1)).is_err());
    }

    #[test]
    fn fewer_bytes_than_a_rewind_needs_are_refused() {
        let with = |bytes| check(&Journal { bytes, ..Journal::default() });
        assert!(with(BYTES_MIN).is_ok());
        assert!(with(BYTES_MIN - 1).is_err());
    }
}
