//! The JSON shapes of the journal, of which the lines of an export are the stable form that is verified and compared.

pub mod diff;
pub mod verify;

use nexum_records::{
    Hash, PublicKey,
    effect::EffectSummary,
    entry::{JournalEntry, UnitKind},
    journal::{ChangedKey, JournalPage, Receipt, RewindRecord, UnitDetail},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the export.
pub const EXPORT_FORMAT: u32 = 2;

/// An entry with what is computed from it: the event's name and the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryLine {
    /// The event's id, such as `block:1:21934117:0x…`.
    pub id: String,
    #[serde(flatten)]
    pub entry: JournalEntry,
    /// Of the entry, which contains the digest of the one before.
    pub digest: Hash,
}

impl From<JournalEntry> for EntryLine {
    fn from(entry: JournalEntry) -> Self {
        Self { id: entry.event.to_string(), digest: entry.digest(), entry }
    }
}

/// The first line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportHeader {
    pub format: u32,
    pub module: String,
    /// The oldest entry kept; 0 when there is none.
    pub oldest: u64,
    /// The newest entry and its digest, as the module's record has them.
    pub newest: u64,
    pub digest: Hash,
    /// Number of the newest rewind; 0 when there was none.
    pub rewinds: u64,
    /// Who signs; absent when nothing is signed.
    pub key: Option<PublicKey>,
}

impl ExportHeader {
    pub fn new(module: &str, page: &JournalPage) -> Self {
        Self {
            format: EXPORT_FORMAT,
            module: module.to_owned(),
            oldest: page.oldest,
            newest: page.newest,
            digest: page.digest,
            rewinds: page.rewinds,
            key: page.key,
        }
    }
}

/// The last line of an export that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportEnd {
    pub entries: u64,
    pub receipts: u64,
}

/// One line of an export: the header, the rewinds, the entries each followed by its receipt if it has one, the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Line {
    Journal(ExportHeader),
    Rewind(RewindRecord),
    Entry(Box<EntryLine>),
    Receipt(Receipt),
    End(ExportEnd),
    /// In place of the end: why the export could not go on, such as a rewind meanwhile.
    Broken {
        reason: String,
    },
}

impl Line {
    /// Reads a line, which may say nothing but what an export says: whatever else is in it, nobody could verify.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        let line: Self = serde_json::from_str(text).map_err(|error| not_known(text, &error))?;
        // An entry's fields are flattened, of which unknown ones are passed over.
        let said: Value = serde_json::from_str(text).map_err(wrong)?;
        let known = serde_json::to_value(&line).map_err(wrong)?;
        match unknown(&said, &known) {
            Some(key) => Err(format!("unknown field `{key}`: {NOT_OURS}")),
            None => Ok(line),
        }
    }
}

/// Why a line says what no line of ours does.
const NOT_OURS: &str = "a newer version of nexum wrote this, or somebody changed it";

/// What is said of an export of another format.
pub(crate) fn other_format(format: u64) -> String {
    let by = if format > u64::from(EXPORT_FORMAT) { "a newer version of nexum made it: it" } else { "the export" };
    format!("{by} has format {format}, this nexum reads {EXPORT_FORMAT}")
}

/// What is wrong with a line that cannot be read. The format says more than what it brings.
fn not_known(text: &str, error: &serde_json::Error) -> String {
    let said: Value = serde_json::from_str(text).unwrap_or_default();
    let format = said.pointer("/journal/format").and_then(Value::as_u64);
    let error = error.to_string();
    match format.filter(|format| *format != u64::from(EXPORT_FORMAT)) {
        Some(format) => other_format(format),
        None if error.starts_with("unknown ") => format!("{error}: {NOT_OURS}"),
        None => error,
    }
}

/// The first field that is not among those that are known.
fn unknown<'a>(said: &'a Value, known: &Value) -> Option<&'a str> {
    match (said, known) {
        (Value::Object(said), Value::Object(known)) => said.iter().find_map(|(key, value)| match known.get(key) {
            Some(known) => unknown(value, known),
            None => Some(key.as_str()),
        }),
        (Value::Array(said), Value::Array(known)) => {
            said.iter().zip(known).find_map(|(said, known)| unknown(said, known))
        }
        _ => None,
    }
}

/// A page of `GET /v1/modules/{name}/journal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalList {
    pub oldest: u64,
    /// Of all that is kept, with what undoes it and its recordings.
    pub bytes: u64,
    pub newest: u64,
    pub digest: Hash,
    pub rewinds: u64,
    pub entries: Vec<EntryLine>,
    pub receipts: Vec<Receipt>,
    /// `from` of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

impl From<JournalPage> for JournalList {
    fn from(page: JournalPage) -> Self {
        let next = page.entries.last().map(|entry| entry.seq + 1).filter(|next| *next <= page.newest);
        Self {
            oldest: page.oldest,
            bytes: page.bytes,
            newest: page.newest,
            digest: page.digest,
            rewinds: page.rewinds,
            entries: page.entries.into_iter().map(EntryLine::from).collect(),
            receipts: page.receipts,
            next,
        }
    }
}

/// One unit: its entry, what it changed, and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalUnit {
    #[serde(flatten)]
    pub entry: EntryLine,
    pub changes: Vec<ChangedKey>,
    pub state_bytes_before: u64,
    /// The dead letter that the unit handled after all.
    pub resolved: Option<u64>,
    /// What it asked to send, in order.
    pub effects: Vec<EffectSummary>,
    /// The oldest receipt that covers the unit; absent when none does yet.
    pub receipt: Option<Receipt>,
}

impl From<UnitDetail> for JournalUnit {
    fn from(unit: UnitDetail) -> Self {
        let UnitDetail { entry, changes, state_bytes_before, resolved, effects, receipt } = unit;
        Self { entry: entry.into(), changes, state_bytes_before, resolved, effects, receipt }
    }
}

/// The answer to `GET /v1/journal/key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalKey {
    /// Absent when nothing is signed.
    pub key: Option<PublicKey>,
}

/// A unit's kind as it is shown.
pub fn kind(kind: &UnitKind) -> &'static str {
    match kind {
        UnitKind::Handled => "handled",
        UnitKind::Flushed => "flushed",
        UnitKind::Quarantined => "quarantined",
        UnitKind::Advanced => "advanced",
    }
}
