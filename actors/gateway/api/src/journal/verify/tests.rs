//! A journal with nothing wrong, and everything that can be.

use super::*;
use nexum_records::{
    entry::{JournalEntry, UnitKind},
    event::{Cursor, EventId, SourceId},
    journal::{EngineKey, Place},
};

fn key() -> EngineKey {
    EngineKey::from_secret(&[7; 32])
}

fn entries(count: u64) -> Vec<JournalEntry> {
    let mut previous = Hash::default();
    let make = |seq: u64| {
        let entry = JournalEntry {
            seq,
            at_ms: seq * 1000,
            kind: UnitKind::Handled,
            event: EventId::Block { chain_id: 1, number: seq, hash: Hash([seq as u8; 32]) },
            source: Some(SourceId::new("chain:1")),
            cursor_before: None,
            cursor: Some(Cursor::block(seq, Hash([seq as u8; 32]))),
            component: Hash([9; 32]),
            fuel: 5,
            state_digest: Hash([seq as u8; 32]),
            effects_digest: Hash::default(),
            previous,
        };
        previous = entry.digest();
        entry
    };
    (1..=count).map(make).collect()
}

fn receipt(entry: &JournalEntry) -> Receipt {
    let place = Place { seq: entry.seq, digest: entry.digest(), component: entry.component, at_ms: entry.at_ms };
    key().receipt(&"m".into(), place)
}

/// Nine entries from the first on, with receipts for 4 and 8, after a rewind from 6 to 3.
fn export() -> Vec<Line> {
    let entries = entries(9);
    let last = entries.last().unwrap();
    let mut rewound = RewindRecord {
        number: 1,
        at_ms: 9_000,
        from_seq: 6,
        from_digest: Hash([6; 32]),
        to_seq: 3,
        to_digest: entries[2].digest(),
        key: None,
        signature: None,
        withdrawn: Vec::new(),
    };
    key().rewound(&"m".into(), &mut rewound);
    let header = ExportHeader {
        format: EXPORT_FORMAT,
        module: "m".into(),
        oldest: 1,
        newest: 9,
        digest: last.digest(),
        rewinds: 1,
        key: Some(key().public()),
    };
    let mut lines = vec![Line::Journal(header), Line::Rewind(rewound)];
    for entry in &entries {
        lines.push(Line::Entry(Box::new(entry.clone().into())));
        if [4, 8].contains(&entry.seq) {
            lines.push(Line::Receipt(receipt(entry)));
        }
    }
    lines.push(Line::End(ExportEnd { entries: 9, receipts: 2 }));
    lines
}

fn verify(lines: &[Line], expected: Option<PublicKey>, claim: Option<Receipt>) -> Result<Report, Bad> {
    let mut verifier = Verifier::new(expected, claim);
    lines.iter().try_for_each(|line| verifier.take(line))?;
    verifier.finish()
}

#[test]
fn a_sound_journal_is_reported() {
    let report = verify(&export(), Some(key().public()), None).unwrap();
    assert_eq!((report.entries, report.receipts, report.signed_to, report.rewinds), (9, 2, Some(8), 1));
    assert_eq!(report.keys.into_iter().collect::<Vec<_>>(), [key().public()]);
}

/// The export as an engine that signs nothing, or not yet, would have written it.
fn unsigned(key: Option<PublicKey>, count: usize) -> Vec<Line> {
    let mut lines: Vec<Line> =
        export().into_iter().filter(|line| !matches!(line, Line::Receipt(_) | Line::Rewind(_))).collect();
    lines.drain(1 + count..10);
    for line in &mut lines {
        match line {
            Line::Journal(header) => {
                let newest = entries(count as u64).last().map(|entry| (entry.seq, entry.digest()));
                (header.newest, header.digest) = newest.unwrap_or_default();
                header.oldest = u64::from(count > 0);
                (header.key, header.rewinds) = (key, 0);
            }
            Line::End(end) => *end = ExportEnd { entries: count as u64, receipts: 0 },
            _ => {}
        }
    }
    lines
}

#[test]
fn a_key_that_signed_nothing_vouches_for_nothing() {
    let expected = key().public();
    let other = EngineKey::from_secret(&[8; 32]).public();
    for (signs, count, says) in [
        (Some(expected), 9, "none of its 9 entries has a receipt"),
        (Some(expected), 0, "the journal is empty"),
        (None, 9, "the engine signs nothing"),
        (Some(other), 9, "the engine signs with"),
    ] {
        let found = verify(&unsigned(signs, count), Some(expected), None).unwrap_err();
        assert!(found.why.contains(says) && found.why.contains("signed nothing"), "{found}");
        let report = verify(&unsigned(signs, count), None, None).unwrap();
        assert_eq!((report.receipts, report.unsigned), (0, count as u64));
    }
    // What was kept elsewhere vouches up to its entry.
    let claim = receipt(&entries(9)[3]);
    assert!(verify(&unsigned(None, 9), Some(expected), Some(claim)).is_ok());
    assert_eq!(verify(&export(), Some(expected), None).unwrap().unsigned, 1);
}

#[test]
fn what_the_first_line_says_must_be_so() {
    let says = |change: &dyn Fn(&mut ExportHeader)| {
        let mut lines = export();
        if let Some(Line::Journal(header)) = lines.first_mut() {
            change(header);
        }
        verify(&lines, Some(key().public()), None).unwrap_err().why
    };
    assert_eq!(says(&|header| header.rewinds = 99), "the newest rewind is 1, not 99 as the journal says");
    let other = EngineKey::from_secret(&[8; 32]).public();
    assert!(says(&|header| header.key = Some(other)).starts_with("the journal says that the engine signs with"));
    let mut again = export();
    again.insert(1, again[1].clone());
    assert_eq!(verify(&again, None, None).unwrap_err().why, "rewind 1 is followed by rewind 1");
}

#[test]
fn a_receipt_counts_once() {
    let mut lines = export();
    let at = lines.iter().position(|line| matches!(line, Line::Receipt(_))).unwrap();
    lines.insert(at, lines[at].clone());
    *lines.last_mut().unwrap() = Line::End(ExportEnd { entries: 9, receipts: 3 });
    let found = verify(&lines, None, None).unwrap_err();
    assert_eq!((found.seq, found.why.as_str()), (Some(4), "has more than one receipt"));
}

#[test]
fn a_line_says_nothing_that_is_not_verified() {
    for line in export() {
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(Line::parse(&text), Ok(line));
        let (kind, fields) = text[1..].split_once(':').unwrap();
        let more = format!("{{{kind}:{}", fields.replacen('{', "{\"approved\":true,", 1));
        let refused = Line::parse(&more).unwrap_err();
        assert!(refused.contains("unknown field `approved`"), "{refused}");
    }
    let entry = serde_json::to_string(&export()[2]).unwrap();
    let within = entry.replacen("\"number\"", "\"approved\":true,\"number\"", 1);
    assert!(within != entry && Line::parse(&within).is_err(), "{within}");
}

#[test]
fn what_a_newer_version_wrote_is_called_that() {
    let newer = "a newer version of nexum wrote this, or somebody changed it";
    let header = serde_json::to_string(&export()[0]).unwrap();
    let entry = serde_json::to_string(&export()[2]).unwrap();
    for text in [
        header.replacen("\"module\"", "\"region\":1,\"module\"", 1),
        entry.replacen("\"fuel\"", "\"gas\":1,\"fuel\"", 1),
        entry.replacen("\"handled\"", "\"merged\"", 1),
        "{\"branch\":{}}".to_owned(),
    ] {
        let refused = Line::parse(&text).unwrap_err();
        assert!(refused.starts_with("unknown ") && refused.ends_with(newer), "{text}: {refused}");
    }
    // The format says it, whatever else is there.
    let why = "a newer version of nexum made it: it has format 3, this nexum reads 2";
    let lone = header.replacen("\"format\":2", "\"format\":3", 1);
    let Line::Journal(lone_header) = Line::parse(&lone).unwrap() else { panic!("{lone}") };
    assert_eq!(verify(&[Line::Journal(lone_header)], None, None).unwrap_err().why, why);
    let more = lone.replacen("\"module\"", "\"region\":1,\"module\"", 1);
    assert_eq!(Line::parse(&more), Err(why.to_owned()));
    assert!(!Line::parse("{").unwrap_err().contains("newer"));
}

/// Changes one entry of the export.
fn with(mut lines: Vec<Line>, seq: u64, change: impl Fn(&mut EntryLine)) -> Vec<Line> {
    for line in &mut lines {
        if let Line::Entry(entry) = line
            && entry.entry.seq == seq
        {
            change(entry);
        }
    }
    lines
}

#[test]
fn the_first_bad_entry_is_named() {
    let is = |lines: Vec<Line>, seq: Option<u64>, says: &str| {
        let found = verify(&lines, None, None).unwrap_err();
        assert_eq!(found.seq, seq, "{found}");
        assert!(found.why.contains(says), "{found}");
    };
    is(with(export(), 5, |line| line.entry.fuel = 6), Some(5), "not 0x");
    let resealed = with(export(), 5, |line| {
        line.entry.fuel = 6;
        line.digest = line.entry.digest();
    });
    is(resealed, Some(5), "entry 6 says");
    let last = with(export(), 9, |line| {
        line.entry.fuel = 6;
        line.digest = line.entry.digest();
    });
    is(last, Some(9), "the module's record says");
    is(with(export(), 5, |line| line.id = "init".into()), Some(5), "its event is block:1:5");
    let mut gap = export();
    gap.remove(4);
    is(gap, Some(3), "is missing");
    let mut cut = export();
    cut.pop();
    is(cut, None, "not whole");
    let mut short = export();
    short.remove(12);
    is(short, None, "8 entries");
    let mut first = with(export(), 1, |line| line.entry.previous = Hash([1; 32]));
    is(std::mem::take(&mut first), Some(1), "the first entry of all");
}

#[test]
fn receipts_must_be_genuine_fit_and_be_of_the_key_asked_for() {
    let change = |change: &dyn Fn(&mut Receipt)| {
        let mut lines = export();
        for line in &mut lines {
            if let Line::Receipt(receipt) = line {
                change(receipt);
            }
        }
        verify(&lines, None, None).unwrap_err()
    };
    assert!(change(&|receipt| receipt.signature.0[3] ^= 1).why.contains("not signed by"));
    let forged = entries(4);
    let found = change(&|found| {
        let place = Place { seq: 4, digest: Hash([8; 32]), component: forged[3].component, at_ms: 1 };
        *found = key().receipt(&"m".into(), place);
    });
    assert_eq!(found.seq, Some(4));
    assert!(found.why.contains("was signed for 0x0808"), "{found}");
    let other = EngineKey::from_secret(&[8; 32]).public();
    assert!(verify(&export(), Some(other), None).unwrap_err().why.contains("not by"));
}

#[test]
fn a_receipt_from_elsewhere_is_found_explained_or_contradicted() {
    let entries = entries(9);
    let claim = |seq: u64, digest: Hash, at_ms: u64| {
        let place = Place { seq, digest, component: Hash([9; 32]), at_ms };
        verify(&export(), None, Some(key().receipt(&"m".into(), place)))
    };
    let good = claim(4, entries[3].digest(), 4000).unwrap().claim.unwrap();
    assert_eq!(good, "entry 4 is the one that was signed");
    let undone = claim(5, Hash([1; 32]), 5000).unwrap().claim.unwrap();
    assert_eq!(undone, "unit 5 was undone by rewind 1");
    assert!(claim(5, Hash([1; 32]), 9001).unwrap_err().why.contains("was signed"));
    assert!(claim(8, Hash([1; 32]), 8000).unwrap_err().why.contains("but 0x0101"));
    assert!(claim(12, Hash([1; 32]), 12_000).unwrap_err().why.contains("not in the journal"));
}
