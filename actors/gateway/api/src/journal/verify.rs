//! Verifies a journal line by line: the chain of digests, receipts and rewinds. Pure.
//!
//! Invariant: what comes out as good was computed anew from the entries; nothing that a line says of itself is believed.

use std::{collections::BTreeSet, fmt};

use nexum_records::{
    Hash, PublicKey,
    journal::{Receipt, RewindRecord},
};
use serde::Serialize;

use super::{EXPORT_FORMAT, EntryLine, ExportEnd, ExportHeader, Line, other_format};

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
    /// Entries after it, or all of them: nobody vouches for these yet.
    pub unsigned: u64,
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
            return bad(None, other_format(header.format.into()));
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
        if let Some(last) =
            self.rewinds.last().map(|last| last.number).filter(|last| last.checked_add(1) != Some(*number))
        {
            return bad(None, format!("rewind {last} is followed by rewind {number}"));
        }
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
        if self.signed_to == Some(last) {
            return bad(last, "has more than one receipt");
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
        let rewound = self.rewinds.last().map_or(0, |last| last.number);
        if rewound != header.rewinds {
            let why = format!("the newest rewind is {rewound}, not {} as the journal says", header.rewinds);
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
        // The receipt from elsewhere is as good as one in the journal, if it is for an entry that is there.
        let is_claimed = self.claim.as_ref().is_some_and(|claim| self.claimed == Some(claim.digest));
        if let Some(expected) = self.expected.filter(|_| self.receipts == 0 && !is_claimed) {
            return bad(None, self.nothing_signed(expected, header));
        }
        if let (Some(expected), Some(key)) = (self.expected, header.key)
            && expected != key
        {
            return bad(None, format!("the journal says that the engine signs with {key}, not with {expected}"));
        }
        let newest = self.last.map_or(0, |(seq, _, _)| seq);
        let unsigned = self.signed_to.map_or(self.entries, |seq| newest - seq);
        Ok(Report {
            module: header.module.clone(),
            entries: self.entries,
            oldest: header.oldest,
            newest: header.newest,
            digest: header.digest,
            receipts: self.receipts,
            signed_to: self.signed_to,
            unsigned,
            keys: self.keys,
            rewinds: self.rewinds.len() as u64,
            withdrawn: self.rewinds.iter().map(|rewound| rewound.withdrawn.len() as u64).sum(),
            claim,
        })
    }

    /// Why a key vouches for nothing here, which is not what whoever names one wants to know.
    fn nothing_signed(&self, expected: PublicKey, header: &ExportHeader) -> String {
        let what = match self.entries {
            0 => "the journal is empty".to_owned(),
            count => format!("none of its {count} entries has a receipt"),
        };
        let signer = match header.key {
            None => "the engine signs nothing: [journal] receipts = false".to_owned(),
            Some(key) if key != expected => format!("the engine signs with {key}"),
            Some(_) => {
                "an engine signs every receipt_entries units, with the first unit after receipt_interval, and when \
                        it stops in order"
                    .to_owned()
            }
        };
        format!("{what}, so that {expected} signed nothing; {signer}")
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
mod tests;
