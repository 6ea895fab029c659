//! What must hold of what clients send and of exports that somebody may have changed. The tests try what the fuzzer begins with
//! and what it found, and `make fuzz` tries more.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    BackupRequest, DrainRequest, RestartRequest, RetryRequest, UpgradeRequest,
    journal::{
        Line,
        diff::{self, Side},
        verify::Verifier,
    },
    orders::{ModuleSpec, ResyncOrder},
};

/// What is read of a body can be written, and is read again.
fn reads<T: DeserializeOwned + Serialize + Debug>(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<T>(bytes) else { return };
    let again = serde_json::to_string(&body).and_then(|written| serde_json::from_str::<T>(&written));
    assert!(again.is_ok(), "{body:?}: {again:?}");
}

/// Reads the body of an order as each kind of order.
///
/// # Panics
/// When something does not hold.
pub fn order(bytes: &[u8]) {
    reads::<ModuleSpec>(bytes);
    reads::<UpgradeRequest>(bytes);
    reads::<ResyncOrder>(bytes);
    reads::<DrainRequest>(bytes);
    reads::<RestartRequest>(bytes);
    reads::<RetryRequest>(bytes);
    reads::<BackupRequest>(bytes);
}

/// Reads an export, verifies it up to the first thing that is wrong, and compares it with itself.
///
/// # Panics
/// When something does not hold.
pub fn export(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (mut verifier, mut side, mut entries) = (Verifier::new(None, None), Side::default(), 0);
    for line in text.lines() {
        let line = match Line::parse(line) {
            Ok(line) => line,
            Err(why) => return assert!(!why.is_empty()),
        };
        let written = serde_json::to_string(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(Line::parse(&written).as_ref(), Ok(&line), "{written}");
        entries += u64::from(matches!(line, Line::Entry(_)));
        side.take(&line);
        if let Err(bad) = verifier.take(&line) {
            return assert!(!bad.why.is_empty());
        }
    }
    if let Ok(report) = verifier.finish() {
        assert_eq!(report.entries, entries);
        assert_eq!(diff::compare(&side, &side).differences, 0);
    }
}

#[cfg(test)]
mod tests {
    use nexum_testkit::corpus;

    use super::*;

    #[test]
    fn the_corpora_of_orders_and_exports_are_answered() {
        corpus("order").iter().for_each(|seed| order(seed));
        corpus("export").iter().for_each(|seed| export(seed));
    }
}
