//! Verifies a journal line by line: the chain of digests, receipts and rewinds. Pure.
//!
//! Invariant: what comes out as good was computed anew from the entries; nothing that a line says of itself is believed.

use std::{collections::BTreeSet, fmt};

use nexum_gateway::api::journal::{EXPORT_FORMAT, EntryLine, ExportEnd, ExportHeader, Line};
use nexum_host_ifaces::{
    Hash, PublicKey,
    journal::{Receipt, RewindRecord},
};
use serde::Serialize;

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The entry concerned; absent when it is the journal as a whole.
    pub seq: Option<u64>,
    pub why: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seq {
            Some(seq) => write!(f, "entry {seq}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

fn bad<T>(seq: impl Into<Option<u64>>, why: impl Into<String>) -> Result<T, Bad> {
    Err(Bad { seq: seq.into(), why: why.into() })
}

/// What a sound journal comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub module: String,
    pub entries: u64,
    pub oldest: u64,
    pub newest: u64,
    /// Digest of the newest entry.
    pub digest: Hash,
    pub receipts: u64,
    /// The newest entry that a receipt covers, and with it every entry before.
    pub signed_to: Option<u64>,
    /// Whose receipts these are.
    pub keys: BTreeSet<PublicKey>,
    /// Rewinds that are remembered, and the receipts of units that they undid.
    pub rewinds: u64,
    pub withdrawn: u64,
    /// How the journal stands to the receipt that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// Takes the lines of an export one after the other.
#[derive(Debug, Default)]
pub struct Verifier {
    /// The only key whose receipts count.
    expected: Option<PublicKey>,
    /// A receipt from elsewhere.
    claim: Option<Receipt>,
    claimed: Option<Hash>,
    header: Option<ExportHeader>,
    rewinds: Vec<RewindRecord>,
    last: Option<(u64, Hash, Hash)>,
    entries: u64,
    receipts: u64,
    signed_to: Option<u64>,
    keys: BTreeSet<PublicKey>,
    ended: bool,
}

impl Verifier {
    pub fn new(expected: Option<PublicKey>, claim: Option<Receipt>) -> Self {
        Self { expected, claim, ..Self::default() }
    }

    pub fn take(&mut self, line: &Line) -> Result<(), Bad> {
        match (line, &self.header) {
            (_, _) if self.ended => bad(None, "something follows the end of the export"),
            (Line::Journal(header), None) => self.begin(header),
            (Line::Journal(_), Some(_)) => bad(None, "a second journal begins within this one"),
            (_, None) => bad(None, "the export does not begin with the line of the journal"),
            (Line::Rewind(rewound), Some(header)) => {
                let module = header.module.clone();
                self.rewound(rewound, &module)
            }
            (Line::Entry(entry), Some(header)) => {
                let oldest = header.oldest;
                self.entry(entry, oldest)
            }
            (Line::Receipt(receipt), Some(header)) => {
                let module = header.module.clone();
                self.receipt(receipt, &module)
            }
            (Line::End(end), Some(header)) => {
                let header = header.clone();
                self.end(*end, &header)
            }
            (Line::Broken { reason }, Some(_)) => bad(None, format!("the export broke off: {reason}")),
        }
    }

    fn begin(&mut self, header: &ExportHeader) -> Result<(), Bad> {
        if header.format != EXPORT_FORMAT {
            let why = format!("the export has format {}, this nexum reads {EXPORT_FORMAT}", header.format);
            return bad(None, why);
        }
        self.header = Some(header.clone());
        Ok(())
    }

    fn known(&mut self, key: PublicKey, seq: u64) -> Result<(), Bad> {
        match self.expected.filter(|expected| *expected != key) {
            Some(expected) => bad(seq, format!("signed by {key}, not by {expected}")),
            None => {
                self.keys.insert(key);
                Ok(())
            }
        }
    }

    fn rewound(&mut self, rewound: &RewindRecord, module: &str) -> Result<(), Bad> {
        let RewindRecord { number, from_seq, to_seq, key, .. } = rewound;
        if to_seq >= from_seq {
            return bad(None, format!("rewind {number} goes from unit {from_seq} on to {to_seq}"));
        }
        match key {
            Some(key) => {
                if !rewound.is_genuine(module) {
                    return bad(None, format!("rewind {number} is not signed by {key}, as it says"));
                }
                self.known(*key, *from_seq)?;
            }
            None if self.expected.is_some() => return bad(None, format!("rewind {number} is not signed")),
            None => {}
        }
        for receipt in &rewound.withdrawn {
            if !rewound.undid(receipt.seq) || *receipt.module != *module || !receipt.is_genuine() {
                return bad(receipt.seq, format!("the receipt that rewind {number} withdrew is not genuine"));
            }
        }
        self.rewinds.push(rewound.clone());
        Ok(())
    }

    fn entry(&mut self, line: &EntryLine, oldest: u64) -> Result<(), Bad> {
        let entry = &line.entry;
        let digest = entry.digest();
        match self.last {
            None if entry.seq != oldest => return bad(entry.seq, format!("the journal says it begins with {oldest}")),
            None if entry.seq == 1 && entry.previous != Hash::default() => {
                return bad(1, format!("the first entry of all names {} as the one before", entry.previous));
            }
            None => {}
            Some((last, _, _)) if entry.seq != last + 1 => {
                return bad(last + 1, format!("is missing: entry {last} is followed by {}", entry.seq));
            }
            Some((last, before, _)) if entry.previous != before => {
                let why = format!(
                    "its digest is {before}, but entry {} says that it was {}: one of the two was changed",
                    entry.seq, entry.previous
                );
                return bad(last, why);
            }
            Some(_) => {}
        }
        if line.digest != digest {
            return bad(entry.seq, format!("its digest is {digest}, not {} as its line says", line.digest));
        }
        if line.id != entry.event.to_string() {
            return bad(entry.seq, format!("its event is {}, not {} as its line says", entry.event, line.id));
        }
        if self.claim.as_ref().is_some_and(|claim| claim.seq == entry.seq) {
            self.claimed = Some(digest);
        }
        self.last = Some((entry.seq, digest, entry.component));
        self.entries += 1;
        Ok(())
    }

    fn receipt(&mut self, receipt: &Receipt, module: &str) -> Result<(), Bad> {
        let seq = receipt.seq;
        let Some((last, digest, component)) = self.last.filter(|(last, _, _)| *last == seq) else {
            return bad(seq, "has a receipt, but is not the entry before it");
        };
        if *receipt.module != *module {
            return bad(last, format!("its receipt is one of module `{}`", receipt.module));
        }
        if !receipt.is_genuine() {
            return bad(last, format!("its receipt is not signed by {}, as it says", receipt.key));
        }
        self.known(receipt.key, last)?;
        if (receipt.digest, receipt.component) != (digest, component) {
            return bad(last, format!("its digest is {digest}, but its receipt was signed for {}", receipt.digest));
        }
        self.receipts += 1;
        self.signed_to = Some(seq);
        Ok(())
    }

    fn end(&mut self, end: ExportEnd, header: &ExportHeader) -> Result<(), Bad> {
        if (end.entries, end.receipts) != (self.entries, self.receipts) {
            let why = format!(
                "the export holds {} entries and {} receipts, not {} and {} as it says",
                self.entries, self.receipts, end.entries, end.receipts
            );
            return bad(None, why);
        }
        let (seq, digest) = self.last.map_or((0, Hash::default()), |(seq, digest, _)| (seq, digest));
        if seq != header.newest {
            return bad(seq + 1, format!("is missing: the module's record is at unit {}", header.newest));
        }
        if digest != header.digest {
            return bad(seq, format!("its digest is {digest}, but the module's record says {}", header.digest));
        }
        self.ended = true;
        Ok(())
    }

    /// The verdict after the last line.
    pub fn finish(self) -> Result<Report, Bad> {
        let Some(header) = self.header.as_ref().filter(|_| self.ended) else {
            return bad(None, "the export is not whole: its last lines are missing");
        };
        let claim = match &self.claim {
            Some(claim) => Some(self.judge(claim, header)?),
            None => None,
        };
        Ok(Report {
            module: header.module.clone(),
            entries: self.entries,
            oldest: header.oldest,
            newest: header.newest,
            digest: header.digest,
            receipts: self.receipts,
            signed_to: self.signed_to,
            keys: self.keys,
            rewinds: self.rewinds.len() as u64,
            withdrawn: self.rewinds.iter().map(|rewound| rewound.withdrawn.len() as u64).sum(),
            claim,
        })
    }

    /// How the journal stands to a receipt that was given out earlier.
    fn judge(&self, claim: &Receipt, header: &ExportHeader) -> Result<String, Bad> {
        let seq = claim.seq;
        if *claim.module != *header.module {
            return bad(seq, format!("the receipt is one of module `{}`", claim.module));
        }
        if !claim.is_genuine() {
            return bad(seq, format!("the receipt is not signed by {}, as it says", claim.key));
        }
        if let Some(expected) = self.expected.filter(|expected| *expected != claim.key) {
            return bad(seq, format!("the receipt is signed by {}, not by {expected}", claim.key));
        }
        if self.claimed == Some(claim.digest) {
            return Ok(format!("entry {seq} is the one that was signed"));
        }
        let undone = |rewound: &&RewindRecord| rewound.undid(seq) && rewound.at_ms >= claim.at_ms;
        if let Some(rewound) = self.rewinds.iter().find(undone) {
            let kept = if rewound.withdrawn.contains(claim) { ", which kept the receipt" } else { "" };
            return Ok(format!("unit {seq} was undone by rewind {}{kept}", rewound.number));
        }
        match self.claimed {
            Some(digest) => bad(seq, format!("its digest is {digest}, but {} was signed", claim.digest)),
            None if seq < header.oldest => Ok(format!("entry {seq} is no longer kept")),
            None => bad(seq, "was signed, but is not in the journal, and no rewind undid it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_host_ifaces::{
        event::{Cursor, EventId, SourceId},
        journal::{EngineKey, Place},
        store::{JournalEntry, UnitKind},
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
}
