//! The journal as text. Pure: answers in, lines out.

use nexum_admin_api::journal::{EntryLine, JournalUnit, diff::Comparison, kind, verify::Report};
use nexum_records::{Hash, effect::EffectSummary, event::Cursor};

use super::{foreign::shown, one_line, table, units};

/// Enough of a block's hash to tell events apart.
const EVENT_CHARS_MAX: usize = 40;

fn short(digest: Hash) -> String {
    if digest == Hash::default() { "-".to_owned() } else { digest.to_string().chars().take(12).collect() }
}

fn digest(digest: Hash) -> String {
    if digest == Hash::default() { "none".to_owned() } else { digest.to_string() }
}

/// A line per entry, below a line of titles if wanted.
pub fn entries(entries: &[EntryLine], titled: bool) -> String {
    if entries.is_empty() && titled {
        return "the journal is empty\n".to_owned();
    }
    let mut rows = Vec::new();
    if titled {
        rows.push(["SEQ", "AT", "KIND", "EVENT", "FUEL", "STATE", "DIGEST"].map(str::to_owned).to_vec());
    }
    for line in entries {
        let entry = &line.entry;
        rows.push(vec![
            entry.seq.to_string(),
            units::time_ms(entry.at_ms),
            kind(&entry.kind).to_owned(),
            one_line(&line.id, EVENT_CHARS_MAX),
            entry.fuel.to_string(),
            short(entry.state_digest),
            short(line.digest),
        ]);
    }
    table(&rows)
}

fn cursor(cursor: &Option<Cursor>) -> String {
    cursor.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// What an event asked to send.
pub fn effects(effects: &[EffectSummary]) -> String {
    let mut rows = vec![["SENT", "TO", "RELEASE", "LANE", "KEY"].map(str::to_owned).to_vec()];
    for EffectSummary { id: _, key, kind, destination, lane, release } in effects {
        let lane = lane.clone().unwrap_or_else(|| "-".to_owned());
        rows.push(vec![kind.clone(), destination.clone(), release.clone(), lane, key.clone()]);
    }
    table(&rows)
}

pub fn unit(unit: &JournalUnit) -> String {
    let entry = &unit.entry.entry;
    let mut rows = vec![
        vec!["seq".to_owned(), entry.seq.to_string()],
        vec!["at".to_owned(), units::time_ms(entry.at_ms)],
        vec!["kind".to_owned(), kind(&entry.kind).to_owned()],
        vec!["event".to_owned(), unit.entry.id.clone()],
    ];
    if let Some(source) = &entry.source {
        let moved = format!("{source}: {} → {}", cursor(&entry.cursor_before), cursor(&entry.cursor));
        rows.push(vec!["cursor".to_owned(), moved]);
    }
    rows.push(vec!["component".to_owned(), format!("sha256:{}", hex::encode(entry.component.0))]);
    rows.push(vec!["fuel".to_owned(), entry.fuel.to_string()]);
    rows.push(vec!["state before".to_owned(), units::bytes(unit.state_bytes_before)]);
    rows.push(vec!["state changes".to_owned(), digest(entry.state_digest)]);
    rows.push(vec!["effects".to_owned(), digest(entry.effects_digest)]);
    rows.push(vec!["previous".to_owned(), digest(entry.previous)]);
    rows.push(vec!["digest".to_owned(), unit.entry.digest.to_string()]);
    if let Some(letter) = unit.resolved {
        rows.push(vec!["dead letter".to_owned(), format!("{letter} handled after all")]);
    }
    let receipt = match &unit.receipt {
        Some(receipt) => format!("of unit {}, {}, by {}", receipt.seq, units::time_ms(receipt.at_ms), receipt.key),
        None => "none yet".to_owned(),
    };
    rows.push(vec!["receipt".to_owned(), receipt]);
    let mut text = table(&rows);
    if !unit.effects.is_empty() {
        text += &format!("\n{}", effects(&unit.effects));
    }
    if !unit.changes.is_empty() {
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), units::bytes);
        let mut rows = vec![["KEY", "BEFORE", "AFTER"].map(str::to_owned).to_vec()];
        for change in &unit.changes {
            rows.push(vec![change.key.clone(), size(change.old_bytes), size(change.new_bytes)]);
        }
        text += &format!("\n{}", table(&rows));
    }
    text
}

pub fn report(report: &Report) -> String {
    let module = shown(&report.module);
    let mut text = match report.entries {
        0 => format!("{module}: the journal is empty\n"),
        entries => {
            format!("{module}: {entries} entries, {} to {}, the chain of digests holds\n", report.oldest, report.newest)
        }
    };
    text += &match report.signed_to {
        Some(seq) => format!(
            "receipts: {}, all genuine, the last for entry {seq}; {} entries after it are not signed\n",
            report.receipts, report.unsigned
        ),
        None => format!("receipts: none; {} entries are not signed\n", report.unsigned),
    };
    for key in &report.keys {
        text += &format!("signed by {key}\n");
    }
    if report.rewinds > 0 {
        text += &format!("rewinds: {}, which undid {} units with a receipt\n", report.rewinds, report.withdrawn);
    }
    if let Some(claim) = &report.claim {
        text += &format!("the receipt given: {}\n", shown(claim));
    }
    text
}

pub fn comparison(compared: &Comparison) -> String {
    let mut text = format!(
        "A: {}, {} events   B: {}, {} events   in both: {}\n",
        shown(&compared.a.module),
        compared.a.events,
        shown(&compared.b.module),
        compared.b.events,
        compared.common
    );
    match &compared.first {
        None if compared.common > 0 => text += "equal: both did the same with every event of the common stretch\n",
        None => {}
        Some(first) => {
            let seq = |seq: Option<u64>| seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
            text += &format!("{} events differ; the first:\n", compared.differences);
            text += &format!("  {}   unit {} in A, {} in B\n", shown(&first.event), seq(first.a_seq), seq(first.b_seq));
            for what in &first.what {
                text += &format!("  {}\n", shown(what));
            }
        }
    }
    for note in &compared.notes {
        text += &format!("note: {}\n", shown(note));
    }
    text
}
