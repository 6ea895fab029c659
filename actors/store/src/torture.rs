//! What must hold of every record whatever its bytes are. The tests try what the fuzzer begins with and what it found, and
//! `make fuzz` tries more.

use nexum_host_ifaces::{
    journal::{Receipt, RewindRecord},
    outbox::{OutcomeRecord, Progress},
    recording::CrashBrief,
    store::{DeadLetter, JournalEntry, ModuleHealth, ModuleRecord, RedeliveryItem},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{decode, encode_vec},
    tables::{journal, outbox::StoredEffect},
};

/// What is read of a record is written so that the same is read again.
fn reads<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let written = |bytes: &[u8]| {
        let record: T = decode(bytes, "a record").ok()?;
        Some(encode_vec(&record).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}")))
    };
    if let Some(once) = written(bytes) {
        assert_eq!(written(&once), Some(once), "{bytes:02x?}");
    }
}

/// Reads the bytes as each kind of record.
///
/// # Panics
/// When something does not hold.
pub fn record(bytes: &[u8]) {
    reads::<ModuleRecord>(bytes);
    reads::<ModuleHealth>(bytes);
    reads::<DeadLetter>(bytes);
    reads::<StoredEffect>(bytes);
    reads::<OutcomeRecord>(bytes);
    reads::<Progress>(bytes);
    reads::<Receipt>(bytes);
    reads::<RedeliveryItem>(bytes);
    reads::<RewindRecord>(bytes);
    reads::<JournalEntry>(bytes);
    reads::<CrashBrief>(bytes);
    // A record of the journal has its entry in front and its place behind.
    if let (Ok(event), Ok(span)) = (journal::decode(bytes), journal::decode_span(bytes)) {
        assert_eq!(journal::decode_entry(bytes).as_ref(), Ok(&event.entry));
        assert!(span.end().all >= span.from.all);
    }
}

#[cfg(test)]
mod tests {
    use nexum_testkit::corpus;

    use super::*;

    #[test]
    fn the_corpus_of_records_is_read_or_refused() {
        corpus("record").iter().for_each(|seed| record(seed));
        for record in [encode_vec(&ModuleRecord::default()), encode_vec(&ModuleHealth::default())] {
            super::record(&record.unwrap());
        }
    }
}
