//! What a module's journal may hold, in units, in bytes and by age, and what goes so that it holds no more.

use nexum_host_ifaces::{
    journal::REWIND_UNITS,
    store::{JournalRoom, ModuleId, StoreError},
};

use crate::{
    db::Moment,
    store::Store,
    tables::{
        journal::{self, At, Span},
        modules, recordings,
    },
};

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

/// The oldest entry kept, or what is before it when it cannot be read; `None` when there is none.
fn oldest(store: &Store, module: ModuleId) -> Option<u64> {
    match journal::entries(&store.db, module, 0).next()? {
        Ok(entry) => Some(entry.seq),
        Err(error) => {
            unreadable(module, 0, &error);
            Some(0)
        }
    }
}

/// The half-open range of journal entries to drop with unit `seq`: an eighth of the journal at a time, and at a module's
/// first unit everything that an earlier setting may have kept.
pub(crate) fn outdated(seq: u64, kept: u64, first: bool) -> Option<(u64, u64)> {
    let end = seq.checked_sub(kept)? + 1;
    let step = (kept / 8).max(1);
    match (first, seq % step) {
        (true, _) => Some((0, end)),
        (false, 0) => Some((end.saturating_sub(step), end)),
        _ => None,
    }
}

/// The half-open range of entries made before `cutoff_ms`, milliseconds since the Unix epoch. A clock that was set back
/// in between makes it a little less exact.
pub(crate) fn entries_before(
    store: &Store,
    module: ModuleId,
    cutoff_ms: u64,
) -> Result<Option<(u64, u64)>, StoreError> {
    let Some(oldest) = oldest(store, module) else { return Ok(None) };
    let next = modules::record(&store.db, module)?.seq + 1;
    let is_old = |seq: u64| {
        let found = journal::get(&store.db, module, seq);
        let entry = found.and_then(|found| found.map(|bytes| journal::decode_entry(&bytes)).transpose());
        match entry {
            Ok(entry) => entry.is_some_and(|entry| entry.at_ms < cutoff_ms),
            Err(error) => unreadable(module, seq, &error) && seq + REWIND_UNITS < next,
        }
    };
    let from = first_that_stays((oldest, next), is_old);
    Ok((from > oldest).then_some((oldest, from)))
}

/// What is to be dropped, oldest first, so that what is left up to `end` is no more than the journal may hold: units,
/// but never one that a rewind needs, of which `newest` is the last; and when only these are left, their recordings.
pub(crate) fn past(store: &Store, module: ModuleId, end: At, newest: u64) -> Result<Past, StoreError> {
    let excess = end.all.saturating_sub(store.options.journal_bytes);
    if excess == 0 {
        return Ok(Past::default());
    }
    let Some(oldest) = oldest(store, module) else { return Ok(Past::default()) };
    let next = modules::record(&store.db, module)?.seq + 1;
    let kept = (newest + 1).saturating_sub(REWIND_UNITS).min(next);
    let span = |seq| journal::span(&store.db, module, seq);
    // Nothing has the number of an oldest one that cannot be read: it goes.
    let is_past = |seq| match span(seq) {
        Ok(span) => span.is_none_or(|span| span.from.all < excess),
        Err(error) => unreadable(module, seq, &error),
    };
    let first = first_that_stays((oldest, kept), is_past);
    let units = (first > oldest).then_some((oldest, first));
    if first < kept {
        return Ok(Past { units, recordings: None });
    }
    let from = match span(first) {
        Ok(span) => span.map_or(At::default(), |span| span.from),
        // How much it is too much cannot be told: the next look is at another one.
        Err(error) => {
            unreadable(module, first, &error);
            return Ok(Past { units, recordings: None });
        }
    };
    let excess = excess.saturating_sub(from.all);
    let is_too_much = |seq| match span(seq) {
        Ok(span) => span.is_none_or(|span| span.from.recorded.saturating_sub(from.recorded) < excess),
        Err(error) => unreadable(module, seq, &error),
    };
    let whole = first_that_stays((first, next), is_too_much);
    Ok(Past { units, recordings: (whole > first).then_some((first, whole)) })
}

/// What the module's unit `seq` and those before it that are not written yet may add, so that they fit together with the
/// units that a rewind needs with them. Recordings do not count: they give way.
pub(crate) fn room(store: &Store, module: ModuleId, seq: u64) -> Result<JournalRoom, StoreError> {
    let (moment, bytes) = (store.db.moment(), store.options.journal_bytes);
    let newest = modules::record(&moment, module)?.seq;
    let needed = (seq + 1).saturating_sub(REWIND_UNITS);
    let last = journal::span(&moment, module, newest)?;
    let Some(last) = last.filter(|_| needed <= newest) else { return Ok(JournalRoom { newest, bytes }) };
    let from = match journal::rows(&moment, module, needed).next() {
        Some(row) => journal::decode_span(&row?.1)?.from,
        None => last.from,
    };
    let taken = last.end().undo().saturating_sub(from.undo());
    Ok(JournalRoom { newest, bytes: bytes.saturating_sub(taken) })
}

/// What the units from the oldest to the newest take, without those of their recordings that have gone before them.
pub(crate) fn bytes(moment: &Moment<'_>, module: ModuleId, (oldest, newest): (u64, u64)) -> Result<u64, StoreError> {
    let begin = journal::span(moment, module, oldest)?.map_or(At::default(), |span| span.from);
    let end = journal::span(moment, module, newest)?.map_or(At::default(), Span::end);
    let kept_from = match recordings::first(moment, module, oldest)? {
        Some(seq) => journal::span(moment, module, seq)?.map_or(0, |span| span.from.recorded),
        None => end.recorded,
    };
    let gone = kept_from.saturating_sub(begin.recorded);
    Ok(end.all.saturating_sub(begin.all).saturating_sub(gone))
}

/// Bytes that the recording of a handled event may have, so that no single one takes much of a journal.
pub(crate) fn recorded_max(store: &Store) -> u64 {
    store.options.journal_bytes / (2 * REWIND_UNITS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nexum_host_ifaces::{Hash, clock::SystemClock, ledger::Ledger, store::ModuleRecord};
    use rocksdb::{WriteBatch, WriteOptions};

    use super::*;
    use crate::{commit::unit::tests::write, disk::Written, options::Options};

    #[test]
    fn the_journal_keeps_at_least_its_number_and_at_most_an_eighth_more() {
        for kept in [1, 7, 8, 100] {
            let mut journal = std::collections::BTreeSet::new();
            for seq in 1..1000u64 {
                journal.insert(seq);
                if let Some((from, to)) = outdated(seq, kept, seq == 500) {
                    assert!(to - from <= (kept / 8).max(1) || from == 0);
                    journal.retain(|seq| *seq < from || *seq >= to);
                }
                let oldest = *journal.first().unwrap();
                assert_eq!(journal.len() as u64, seq - oldest + 1, "no hole");
                assert!(journal.len() as u64 >= kept.min(seq) && journal.len() as u64 <= kept + kept / 8);
            }
        }
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
        let stays = 301 - REWIND_UNITS;
        assert_eq!(past(&store, module, end, 300).unwrap().units, Some((1, stays)));
        let spoil = |seq: u64| {
            let mut batch = WriteBatch::new();
            journal::put(&mut batch, &store.db, module, seq, &[9, 9]);
            store.db.write(Written::Group, batch, &WriteOptions::default()).unwrap();
        };
        (2..stays).for_each(spoil);
        assert_eq!(past(&store, module, end, 300).unwrap().units, Some((1, stays)));
        spoil(1);
        assert_eq!(past(&store, module, end, 300).unwrap().units, Some((0, stays)));
        assert_eq!(entries_before(&store, module, 1).unwrap(), Some((0, stays)), "none is older than that");
        // What a rewind would have to get past is not dropped for it.
        spoil(150);
        assert_eq!(past(&store, module, end, 300).unwrap().units, Some((0, stays)));
        assert_eq!(entries_before(&store, module, 1).unwrap(), Some((0, stays)));
    }
}
