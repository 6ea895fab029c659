//! Compares what two engines did with the same events. Pure.
//!
//! Sequence numbers differ between engines, because restarts, flushes and positions without an event take some; so units
//! are compared by the event they handled, source by source, over the stretch that both journals have.

use std::collections::{BTreeMap, HashMap};

use nexum_records::{
    Hash,
    entry::{JournalEntry, UnitKind},
    event::EventId,
};
use serde::Serialize;

use super::{Line, kind};

/// An event, and which time it came: a block that was retracted and came back is handled twice under `notify`.
type Key = (EventId, u32);

/// What one engine's journal says.
#[derive(Debug, Default)]
pub struct Side {
    pub module: String,
    units: Vec<(Key, JournalEntry)>,
    seen: HashMap<EventId, u32>,
}

impl Side {
    /// An event as every engine names it: each counts the reorgs that it saw.
    fn common(event: &EventId) -> EventId {
        match event {
            EventId::Reorg { chain_id, old_head, new_head, nth: _ } => {
                EventId::Reorg { chain_id: *chain_id, old_head: *old_head, new_head: *new_head, nth: 0 }
            }
            other => other.clone(),
        }
    }

    pub fn take(&mut self, line: &Line) {
        match line {
            Line::Journal(header) => self.module.clone_from(&header.module),
            Line::Entry(line) if matches!(line.entry.kind, UnitKind::Handled | UnitKind::Quarantined) => {
                let entry = line.entry.clone();
                // An instance's start, a position and a retry are an engine's own affair.
                if !matches!(entry.event, EventId::Init | EventId::Advance { .. } | EventId::Retry { .. }) {
                    let event = Self::common(&entry.event);
                    let times = self.seen.entry(event.clone()).or_default();
                    *times += 1;
                    self.units.push(((event, *times), entry));
                }
            }
            _ => {}
        }
    }

    /// Places of the units in the journal, per source.
    fn by_source(&self) -> BTreeMap<String, Vec<usize>> {
        let mut sources: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, (_, entry)) in self.units.iter().enumerate() {
            let source = entry.source.as_ref().map(ToString::to_string).unwrap_or_default();
            sources.entry(source).or_default().push(at);
        }
        sources
    }
}

/// One event of which the engines say different things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub event: String,
    /// Number of the unit in each journal; absent where there is none.
    pub a_seq: Option<u64>,
    pub b_seq: Option<u64>,
    /// One line each.
    pub what: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub a: Summary,
    pub b: Summary,
    /// Events that both handled.
    pub common: u64,
    pub equal: u64,
    pub differences: u64,
    pub first: Option<Difference>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub module: String,
    /// Events handled or given up, over the whole export.
    pub events: u64,
}

impl Comparison {
    /// Whether both did the same with every event of the stretch that both have.
    pub fn is_equal(&self) -> bool {
        self.differences == 0 && self.common > 0
    }
}

/// Reorgs are seen only by an engine that was there, so that one of them alone is no difference.
fn must_be_in_both(event: &EventId) -> bool {
    matches!(event, EventId::Block { .. } | EventId::Logs { .. } | EventId::Tick { .. })
}

fn differing(a: &JournalEntry, b: &JournalEntry) -> Vec<String> {
    let mut what = Vec::new();
    let mut compare = |name: &str, a: String, b: String| {
        if a != b {
            what.push(format!("{name}: {a} in A, {b} in B"));
        }
    };
    let digest = |digest: Hash| if digest == Hash::default() { "none".to_owned() } else { digest.to_string() };
    compare("outcome", kind(&a.kind).into(), kind(&b.kind).into());
    compare("state changes", digest(a.state_digest), digest(b.state_digest));
    // Effects are named after their event, so that those of a reorg that has another number have other names.
    if a.event == b.event {
        compare("effects", digest(a.effects_digest), digest(b.effects_digest));
    }
    if !what.is_empty() && a.component != b.component {
        what.push(format!("component: {} in A, {} in B", a.component, b.component));
    }
    what
}

/// The first and last index in `of` whose event the other side has, too.
fn stretch(
    of: &[usize],
    units: &[(Key, JournalEntry)],
    other: &HashMap<&Key, &JournalEntry>,
) -> Option<(usize, usize)> {
    let common = |at: &&usize| other.contains_key(&units[**at].0);
    let first = of.iter().find(common)?;
    let last = of.iter().rfind(common)?;
    Some((*first, *last))
}

/// Compares two exports.
pub fn compare(a: &Side, b: &Side) -> Comparison {
    let index = |side: &'_ Side| -> HashMap<Key, usize> {
        side.units.iter().enumerate().map(|(at, (key, _))| (key.clone(), at)).collect()
    };
    let in_a: HashMap<&Key, &JournalEntry> = a.units.iter().map(|(key, entry)| (key, entry)).collect();
    let in_b: HashMap<&Key, &JournalEntry> = b.units.iter().map(|(key, entry)| (key, entry)).collect();
    let place_in_a = index(a);
    // Differences by where they lie in A; what only B has lies behind what it follows.
    let mut found: Vec<(usize, bool, Difference)> = Vec::new();
    let (mut common, mut equal) = (0, 0);
    for (at, (key, entry)) in a.units.iter().enumerate() {
        let Some(other) = in_b.get(key) else { continue };
        common += 1;
        let what = differing(entry, other);
        if what.is_empty() {
            equal += 1;
            continue;
        }
        let (a_seq, b_seq) = (Some(entry.seq), Some(other.seq));
        found.push((at, false, Difference { event: entry.event.to_string(), a_seq, b_seq, what }));
    }
    for places in a.by_source().values() {
        let Some((first, last)) = stretch(places, &a.units, &in_b) else { continue };
        for at in places.iter().filter(|at| (first..=last).contains(*at)) {
            let (key, entry) = &a.units[*at];
            if must_be_in_both(&key.0) && !in_b.contains_key(key) {
                let what = vec![format!("{} in A, not at all in B", kind(&entry.kind))];
                let event = key.0.to_string();
                found.push((*at, false, Difference { event, a_seq: Some(entry.seq), b_seq: None, what }));
            }
        }
    }
    for places in b.by_source().values() {
        let Some((first, last)) = stretch(places, &b.units, &in_a) else { continue };
        let mut behind = 0;
        for at in places.iter().filter(|at| (first..=last).contains(*at)) {
            let (key, entry) = &b.units[*at];
            match place_in_a.get(key) {
                Some(place) => behind = *place,
                None if must_be_in_both(&key.0) => {
                    let what = vec![format!("{} in B, not at all in A", kind(&entry.kind))];
                    let event = key.0.to_string();
                    found.push((behind, true, Difference { event, a_seq: None, b_seq: Some(entry.seq), what }));
                }
                None => {}
            }
        }
    }
    found.sort_by_key(|(at, behind, _)| (*at, *behind));
    let summary = |side: &Side| Summary { module: side.module.clone(), events: side.units.len() as u64 };
    Comparison {
        a: summary(a),
        b: summary(b),
        common,
        equal,
        differences: found.len() as u64,
        notes: notes(a, b, &in_a, &in_b, common),
        first: found.into_iter().next().map(|(_, _, difference)| difference),
    }
}

fn notes(
    a: &Side,
    b: &Side,
    in_a: &HashMap<&Key, &JournalEntry>,
    in_b: &HashMap<&Key, &JournalEntry>,
    common: u64,
) -> Vec<String> {
    let mut notes = Vec::new();
    if a.module != b.module {
        notes.push(format!("the modules have different names: {} and {}", a.module, b.module));
    }
    if common == 0 {
        notes.push("the two journals have no event in common".to_owned());
        return notes;
    }
    let begins = |name: &str, side: &Side, other: &HashMap<&Key, &JournalEntry>| {
        let before = side.units.iter().take_while(|(key, _)| !other.contains_key(key)).count();
        (before > 0)
            .then(|| format!("{name} begins {before} events earlier; what they did to the state is not compared"))
    };
    notes.extend(begins("A", a, in_b));
    notes.extend(begins("B", b, in_a));
    let order = |side: &Side, other: &HashMap<&Key, &JournalEntry>| -> Vec<Key> {
        side.units.iter().map(|(key, _)| key.clone()).filter(|key| other.contains_key(key)).collect()
    };
    if order(a, in_b) != order(b, in_a) {
        notes.push("the sources took turns in another order, which a module may well depend on".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::EntryLine;
    use nexum_records::event::SourceId;

    fn block(number: u64) -> EventId {
        EventId::Block { chain_id: 1, number, hash: Hash([number as u8; 32]) }
    }

    fn tick(fired_at: u64) -> EventId {
        EventId::Tick { source: SourceId::new("cron:x"), fired_at }
    }

    fn side(first_seq: u64, events: &[(EventId, UnitKind, u8)]) -> Side {
        let mut side = Side::default();
        for (seq, (event, kind, state)) in (first_seq..).zip(events) {
            let source = match event {
                EventId::Tick { source, .. } => Some(source.clone()),
                EventId::Init => None,
                _ => Some(SourceId::new("chain:1")),
            };
            let entry = JournalEntry {
                seq,
                at_ms: 0,
                kind: kind.clone(),
                event: event.clone(),
                source,
                cursor_before: None,
                cursor: None,
                component: Hash::default(),
                fuel: 0,
                state_digest: Hash([*state; 32]),
                effects_digest: Hash::default(),
                previous: Hash::default(),
            };
            side.take(&Line::Entry(Box::new(EntryLine::from(entry))));
        }
        side
    }

    use UnitKind::{Flushed, Handled, Quarantined};

    #[test]
    fn equal_where_both_have_events_whatever_the_numbers_and_ends() {
        let a = side(1, &[(EventId::Init, Handled, 0), (block(1), Handled, 1), (block(2), Handled, 2)]);
        let b = side(
            40,
            &[
                (block(1), Handled, 1),
                (block(2), Flushed, 9),
                (EventId::Init, Handled, 0),
                (block(2), Handled, 2),
                (block(3), Handled, 3),
            ],
        );
        let compared = compare(&a, &b);
        assert!(compared.is_equal(), "{compared:?}");
        assert_eq!((compared.common, compared.equal), (2, 2));
        assert!(compared.notes.is_empty(), "{compared:?}");
    }

    #[test]
    fn the_first_divergence_is_named_with_what_differs() {
        let a = side(1, &[(block(1), Handled, 1), (block(2), Handled, 2), (block(3), Handled, 3)]);
        let b = side(1, &[(block(1), Handled, 1), (block(2), Handled, 7), (block(3), Quarantined, 0)]);
        let compared = compare(&a, &b);
        assert_eq!((compared.equal, compared.differences), (1, 2));
        let first = compared.first.unwrap();
        assert_eq!((first.a_seq, first.b_seq), (Some(2), Some(2)));
        assert!(first.event.starts_with("block:1:2:"), "{first:?}");
        assert!(first.what[0].starts_with("state changes: 0x0202"), "{first:?}");
    }

    #[test]
    fn an_event_that_one_left_out_is_a_difference_but_not_past_the_ends() {
        let all = [block(1), block(2), block(3), block(4)].map(|event| (event, Handled, 1));
        let a = side(1, &all);
        let b = side(1, &[all[1].clone(), all[3].clone()]);
        let compared = compare(&a, &b);
        assert_eq!(compared.differences, 1);
        assert_eq!(compared.first.unwrap().what, ["handled in A, not at all in B"]);
        let turned = compare(&b, &a);
        assert_eq!(turned.first.unwrap().what, ["handled in B, not at all in A"]);
        assert_eq!(turned.notes, ["B begins 1 events earlier; what they did to the state is not compared"]);
    }

    #[test]
    fn sources_are_aligned_apart_and_reorgs_may_be_seen_by_one_alone() {
        let heads = (Hash::default(), Hash([1; 32]));
        let nth = |nth| EventId::Reorg { chain_id: 1, old_head: heads.0, new_head: heads.1, nth };
        let reorg = nth(3);
        let a = side(1, &[(block(1), Handled, 1), (tick(5), Handled, 2), (reorg, Handled, 0), (block(2), Handled, 3)]);
        let b = side(1, &[(tick(5), Handled, 2), (block(1), Handled, 1), (block(2), Handled, 3)]);
        let compared = compare(&a, &b);
        assert!(compared.is_equal(), "{compared:?}");
        assert_eq!(compared.notes, ["the sources took turns in another order, which a module may well depend on"]);
        assert!(!compare(&a, &side(1, &[(block(9), Handled, 1)])).is_equal());
        // Each engine has a number of its own for what both saw.
        let both = side(1, &[(nth(1), Handled, 4)]);
        assert_eq!(compare(&both, &side(1, &[(nth(7), Handled, 4)])).common, 1);
        let differing = compare(&both, &side(1, &[(nth(7), Handled, 5)]));
        assert_eq!(differing.differences, 1);
        assert_eq!(differing.first.unwrap().event, nth(1).to_string(), "as A names it");
    }
}
