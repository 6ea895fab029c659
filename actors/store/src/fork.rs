//! Which unit is the first that a fork retracts. Pure, over the journal read backwards.

use nexum_host_ifaces::{
    event::{Cursor, EventId, SourceId},
    store::{JournalEntry, StoreError, UnitKind},
};

/// Whether a position lies past a block.
pub(crate) fn past(cursor: Option<&Cursor>, block: u64) -> bool {
    matches!(cursor, Some(Cursor::Chain { number, .. }) if *number > block)
}

/// The unit that took `source` past `ancestor`, or the first flush of its event. The newest crossing counts: what lies
/// before an older one has been undone already. `None` when no kept entry crosses.
pub(crate) fn first_retracted(
    newest_first: impl Iterator<Item = Result<JournalEntry, StoreError>>,
    source: &SourceId,
    ancestor: u64,
) -> Result<Option<u64>, StoreError> {
    let mut found: Option<(u64, EventId)> = None;
    for entry in newest_first {
        let entry = entry?;
        let ours = entry.source.as_ref() == Some(source);
        match &mut found {
            None if ours && past(entry.cursor.as_ref(), ancestor) && !past(entry.cursor_before.as_ref(), ancestor) => {
                found = Some((entry.seq, entry.event));
            }
            None => {}
            // What the source delivered before it stands, and so do flushes that came before that.
            Some(_) if ours => break,
            // An attempt that flushed and then failed left its flush behind; other sources may have gone on in between.
            Some((seq, event)) if entry.kind == UnitKind::Flushed && entry.event == *event => *seq = entry.seq,
            Some(_) => {}
        }
    }
    Ok(found.map(|(seq, _)| seq))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_host_ifaces::Hash;

    fn entry(seq: u64, source: &str, before: Option<u64>, after: Option<u64>, kind: UnitKind) -> JournalEntry {
        let cursor = |number: Option<u64>| number.map(|number| Cursor::block(number, Hash::default()));
        JournalEntry {
            seq,
            at_ms: 0,
            kind,
            event: EventId::Block { chain_id: 1, number: after.or(before).unwrap_or(0), hash: Hash::default() },
            source: after.map(|_| SourceId::new(source)),
            cursor_before: after.and(cursor(before)),
            cursor: cursor(after),
            component: Hash::default(),
            fuel: 0,
            state_digest: Hash::default(),
            effects_digest: Hash::default(),
            previous: Hash::default(),
        }
    }

    #[test]
    fn the_newest_crossing_counts_and_takes_its_flushes_along_however_far_back() {
        use UnitKind::*;
        let mut entries = vec![
            entry(1, "chain:1", None, Some(9), Handled),
            entry(2, "chain:1", Some(9), Some(11), Handled),
            entry(3, "chain:1", Some(11), Some(10), Handled),
            entry(4, "chain:2", Some(50), Some(51), Handled),
            entry(5, "chain:1", Some(11), None, Flushed),
        ];
        entries.extend((6..1_000).map(|seq| entry(seq, "chain:2", Some(seq + 50), Some(seq + 51), Handled)));
        entries.extend([
            entry(1_000, "chain:1", Some(10), Some(11), Handled),
            entry(1_001, "chain:1", Some(11), Some(12), Handled),
        ]);
        let first = |ancestor| {
            let newest_first = entries.iter().rev().cloned().map(Ok);
            first_retracted(newest_first, &SourceId::new("chain:1"), ancestor).unwrap()
        };
        assert_eq!(first(11), Some(1_001));
        assert_eq!(first(10), Some(5));
        assert_eq!(first(8), Some(1));
        assert_eq!(first(12), None);
    }
}
