//! What may become durable after what was.

use nexum_host_ifaces::{
    event::{Cursor, EventId, SourceId},
    store::{ModuleHealth, ModuleInfo, ModuleRecord, Standing, StateView, UnitKind},
};
use nexum_store::Store;

use super::{SimDisk, short};
use crate::{manifest::Version, trace::lock};

impl SimDisk {
    /// A module is dead when its budget is spent, and no sooner; no event has more attempts than it may.
    pub(super) fn in_budget(&self, module: &ModuleInfo) -> Result<(), String> {
        let Some((failures_max, attempts_max)) = self.budgets.get(&module.name) else { return Ok(()) };
        let ModuleHealth { standing, consecutive_failures, attempts, .. } = &module.health;
        let is_dead = matches!(standing, Standing::Dead { .. });
        if is_dead != (consecutive_failures >= failures_max) || consecutive_failures > failures_max {
            return Err(format!("{standing:?} after {consecutive_failures} failures of {failures_max}"));
        }
        match attempts.values().find(|attempt| attempt.count > *attempts_max) {
            Some(attempt) => Err(format!("{} has had {} attempts of {attempts_max}", attempt.event, attempt.count)),
            None => Ok(()),
        }
    }

    /// What the `init` of a version wrote is durable only once that version is the one to start: the one before must never
    /// meet it.
    pub(super) fn in_force(&self, store: &Store, module: &ModuleInfo, rewound: bool) -> Result<(), String> {
        let version = store.get(module.id, "v").map_err(|error| error.to_string())?;
        let version = version.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let mut inner = lock(&self.inner);
        let starts = inner.rostered.get(&module.name).map_or(Version::First.number(), String::as_str).to_owned();
        let before = inner.versions.insert(module.name.clone(), version.clone()).flatten();
        match version {
            Some(version) if !rewound && before.as_ref() != Some(&version) && version != starts => {
                Err(format!("the init of {version} is durable, and {starts} would start"))
            }
            _ => Ok(()),
        }
    }

    /// Units were added: numbers without a gap, each entry chained to the one before, cursors that do not go back.
    pub(super) fn advanced(&self, store: &Store, module: &ModuleInfo, before: &ModuleRecord) -> Result<(), String> {
        let (name, record) = (&module.name, &module.record);
        if record.seq <= before.seq {
            return Err(format!("unit {} was followed by {}", before.seq, record.seq));
        }
        let entries = store.journal(module.id, before.seq + 1, usize::MAX).map_err(|error| error.to_string())?;
        let (mut seq, mut digest, mut cursors) = (before.seq, before.journal, before.cursors.clone());
        if let Some(first) =
            entries.first().filter(|first| first.seq > seq + 1 && entries.len() >= self.journal_entries)
        {
            // More at once than the journal keeps: what is gone already cannot be looked at.
            (seq, digest, cursors) = (first.seq - 1, first.previous, record.cursors.clone());
            for entry in entries.iter().rev() {
                match (&entry.source, &entry.cursor_before) {
                    (Some(source), Some(before)) => drop(cursors.insert(source.clone(), before.clone())),
                    (Some(source), None) => drop(cursors.remove(source)),
                    (None, _) => {}
                }
            }
        }
        for entry in &entries {
            if entry.seq != seq + 1 || entry.previous != digest {
                return Err(format!("journal entry {} does not follow {seq}", entry.seq));
            }
            (seq, digest) = (entry.seq, entry.digest());
            let at = entry.cursor.as_ref().map_or_else(String::new, |cursor| format!(" -> {cursor}"));
            let short = short(&entry.event);
            self.trace.note(format_args!("commit {name} #{seq} {:?} {short}{at}", entry.kind));
            if let (Some(source), Some(cursor)) = (&entry.source, &entry.cursor) {
                if cursors.get(source) != entry.cursor_before.as_ref() {
                    return Err(format!("unit {seq} takes {source} from where it was not"));
                }
                let may_go_back = matches!(entry.event, EventId::Reorg { .. });
                if let Some(known) = cursors.get(source).filter(|_| !may_go_back)
                    && !goes_on(known, cursor, source, &entry.kind)
                {
                    return Err(format!("unit {seq} takes {source} from {known} to {cursor}"));
                }
                self.stood(name, source, cursor);
                cursors.insert(source.clone(), cursor.clone());
            }
        }
        if seq != record.seq || digest != record.journal || cursors != record.cursors {
            return Err(format!("the record of unit {} does not agree with the journal", record.seq));
        }
        Ok(())
    }

    pub(super) fn rewound(&self, store: &Store, module: &ModuleInfo, before: &ModuleRecord) -> Result<(), String> {
        let (name, record) = (&module.name, &module.record);
        self.trace.note(format_args!("rewind {name} #{} -> #{}", before.seq, record.seq));
        if record.seq >= before.seq {
            return Err(format!("a rewind went from unit {} to {}", before.seq, record.seq));
        }
        record.cursors.iter().for_each(|(source, cursor)| self.stood(name, source, cursor));
        let entries = store.journal(module.id, record.seq, 2).map_err(|error| error.to_string())?;
        match entries.as_slice() {
            [last] if last.digest() == record.journal => Ok(()),
            [] if record.seq == 0 => Ok(()),
            entries => Err(format!("{} entries at the end of the rewound journal, or another digest", entries.len())),
        }
    }
}

/// Whether a cursor moved as it may.
fn goes_on(from: &Cursor, to: &Cursor, _: &SourceId, kind: &UnitKind) -> bool {
    match (from, to) {
        (Cursor::Chain { number: a, part: p, .. }, Cursor::Chain { number: b, part: q, .. }) => {
            let moved = (a, p) < (b, q);
            // A position may be told again when nothing concerned the module.
            moved || (*kind == UnitKind::Advanced && (a, p) == (b, q))
        }
        (Cursor::Cron { fired_at: a }, Cursor::Cron { fired_at: b }) => a < b || *kind == UnitKind::Advanced,
        // Outcomes are numbered without a gap, and none is passed over.
        (Cursor::Number { number: a }, Cursor::Number { number: b }) => a + 1 == *b,
        _ => false,
    }
}
