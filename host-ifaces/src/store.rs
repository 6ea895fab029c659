//! The port of the store actor, and the records it keeps.
//!
//! Invariant: everything one event leaves behind is one `EventUnit` and one atomic write. Reads of a module's own state
//! do not cross the mailbox: they go through `StateView`, in `state`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

pub use nexum_records::entry::{JournalEntry, UnitKind};
use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};

pub use crate::state::{Entries, JournalRoom, ModuleId, Reply, StateView, StoreError};
use crate::{
    Hash, PublicKey,
    event::{Cursor, EventId, SourceId},
    interfaces::chain::port::Link,
    journal::{JournalPage, JournalStart, RewindRecord, UnitDetail},
    outbox::{EffectEntry, OutboxRequest, ReleasedEffect},
    port::Port,
    ports::{Ports, Service},
    recording::{Crash, CrashBrief, Wanted},
    types::{self, Event},
};

/// What is durable about a module's progress. One record per module, replaced by every unit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModuleRecord {
    /// Sequence number of the last unit.
    pub seq: u64,
    pub cursors: BTreeMap<SourceId, Cursor>,
    /// Keys plus values of the state, bytes, counted exactly.
    pub state_bytes: u64,
    /// Digest of the last journal entry.
    pub journal: Hash,
}

/// What is durable about a module's failures; the restart budget survives the process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModuleHealth {
    pub standing: Standing,
    pub consecutive_failures: u32,
    pub restarts_total: u64,
    /// Per source, the event that failed last and how often.
    pub attempts: BTreeMap<SourceId, Attempt>,
    pub last_error: Option<String>,
}

/// What should become of the module when the engine starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Standing {
    #[default]
    Running,
    Paused,
    Dead {
        reason: String,
    },
}

/// Failed attempts at one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub event: EventId,
    pub count: u32,
    pub error: String,
    /// Wasm backtrace, when there was one.
    pub backtrace: Option<String>,
    pub fuel: u64,
}

/// One change of one key, with what it replaced so that it can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    pub key: String,
    pub new: Option<Vec<u8>>,
    pub old: Option<Vec<u8>>,
}

/// What a module's dead letters may take in the store, bytes: thousands of the usual size, a few kilobytes, and dozens of
/// the largest events. One that would be set aside past it stops the module instead.
pub const DEAD_LETTERS_BYTES_MAX: u64 = 256 << 20;

/// An event that the module could not handle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The unit that quarantined it; its number for `nexumctl dlq`.
    pub seq: u64,
    pub at_ms: u64,
    pub id: EventId,
    pub event: Event,
    pub component: Hash,
    pub attempts: u32,
    pub error: String,
    pub backtrace: Option<String>,
    pub fuel: u64,
}

/// Everything that one event leaves behind: one atomic write.
#[derive(Debug, Clone)]
pub struct EventUnit {
    pub module: ModuleId,
    pub entry: JournalEntry,
    pub changes: Vec<StateChange>,
    /// The whole record after this unit; `record.seq == entry.seq`.
    pub record: ModuleRecord,
    /// Written with the unit, when failure counters changed with it.
    pub health: Option<ModuleHealth>,
    pub quarantined: Option<Box<DeadLetter>>,
    /// A dead letter that this unit handled after all.
    pub resolved: Option<u64>,
    /// What the event sends, by ordinal.
    pub outbox: Vec<EffectEntry>,
    /// An encoded `Recording` of the event, kept as long as the entry.
    pub recording: Option<Vec<u8>>,
    /// What the module was told, when the event is a reorg: kept with the unit, so that it is told again when the unit
    /// is undone.
    pub told: Option<Box<types::Reorg>>,
    /// Positions in the redelivery queue that are done with this unit.
    pub redelivered: Vec<u64>,
    /// How many reorgs the module has been told of, when this unit is the first to tell of one.
    pub reorgs: Option<u64>,
}

/// A fork below what a module has handled of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Fork {
    pub source: SourceId,
    /// The last block that stands.
    pub ancestor: (u64, Hash),
    /// What the module is told first.
    pub event: EventId,
    pub reorg: types::Reorg,
}

/// One event that a module still has to go through after a rewind, before its sources go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedeliveryItem {
    /// Orders the queue; its key in the store.
    pub position: u64,
    pub source: SourceId,
    pub event: EventId,
    /// Where the source's cursor stands once it is handled.
    pub cursor: Cursor,
    /// For a reorg event, what it says.
    pub told: Option<Box<types::Reorg>>,
}

/// Lets a reorg say what another one said of effects that had left, each once.
pub fn add_released(told: &mut types::Reorg, more: Vec<types::ReleasedEffect>) {
    for effect in more {
        if told.released_effects.iter().all(|known| known.id != effect.id) {
            told.released_effects.push(effect);
        }
    }
}

/// What a rewind left.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewound {
    pub record: ModuleRecord,
    /// The whole redelivery queue: the reorg, then the undone events of the other sources in their original order, then what
    /// an earlier rewind had left.
    pub redelivery: Vec<RedeliveryItem>,
    /// Effects of the undone units that may have left the host; they are not taken back.
    pub released: Vec<ReleasedEffect>,
}

/// What the store knows of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    pub name: String,
    pub id: ModuleId,
    pub record: ModuleRecord,
    pub health: ModuleHealth,
    pub dead_letters: u64,
    /// What these take in the store, bytes.
    pub dead_letter_bytes: u64,
    /// Events that are still to be gone through after a rewind.
    pub redelivery: u64,
    /// Reorgs that it was told of or will be, those of undone units among them: it never becomes less.
    pub reorgs: u64,
}

/// State of the store, for the tree.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    pub directory: PathBuf,
    pub disk_bytes: u64,
    pub units_total: u64,
    pub commits_total: u64,
    /// By module; those that have none are left out.
    pub dead_letters: BTreeMap<String, u64>,
    /// Of the last thousand synced groups.
    pub commit_p99_ms: f64,
    /// Whose receipts it writes; none when it signs nothing.
    pub journal_key: Option<PublicKey>,
    /// Absent when the last group of units was written.
    pub refusing: Option<RefusedWrites>,
}

/// Writes that the disk or the database does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedWrites {
    /// Of the last one.
    pub error: String,
    /// How long ago the first one since the last that was taken failed.
    pub age_ms: u64,
}

/// The longest key of a service's record, bytes.
pub const RECORD_KEY_BYTES_MAX: usize = 512;
/// The largest record of a service, bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Most records that one message writes.
pub const RECORD_WRITES_MAX: usize = 1_024;
/// The same in bytes, keys and values together.
pub const RECORD_WRITES_BYTES_MAX: usize = 8 << 20;
/// What one answer holds, bytes: whoever keeps large records asks for few at once.
pub const RECORDS_READ_BYTES_MAX: usize = 64 << 20;

/// One change of one record that a service keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWrite {
    pub key: Vec<u8>,
    /// Absent: the record is removed.
    pub value: Option<Vec<u8>>,
}

/// Keys and values.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl Service for StoreMsg {
    const NAME: &'static str = "store";
}

impl Ports {
    /// The way to the store.
    pub fn store(&self) -> Port<StoreMsg> {
        self.of()
    }
}

#[derive(Debug)]
pub enum StoreMsg {
    /// The module's record, made anew for a name never seen. Must reply.
    Open { name: Arc<str>, reply: Reply<ModuleInfo> },
    /// Write units of one module that follow each other. Must reply, after the sync, which units of many modules share.
    /// After an error those before the one that is at fault may be durable.
    Commit { units: Vec<EventUnit>, reply: Reply<()> },
    /// Replace a module's failure counters and standing. Must reply, after the sync.
    PutHealth { module: ModuleId, health: Box<ModuleHealth>, reply: Reply<()> },
    /// Undo every unit after a point, newest first, and queue what is to be delivered again, as one write. `None`: nothing is
    /// past that point, and nothing was changed. Must reply.
    Rewind { module: ModuleId, fork: Box<Fork>, reply: Reply<Option<Rewound>> },
    /// The redelivery queue of a module, in order. Must reply.
    Redelivery { module: ModuleId, reply: Reply<Vec<RedeliveryItem>> },
    /// Keep headers of a chain and drop others; `anew`: first drop all that are kept. On the disk no later than any unit
    /// that is sent afterwards, and with the next one: alone they cause no write. No reply.
    PutHeaders { chain_id: u64, anew: bool, headers: Vec<Link>, dropped: Vec<Link> },
    /// A question of the outbox actor. Must reply.
    Outbox(OutboxRequest),
    /// Journal entries with `from_seq <= seq`, oldest first, at most `limit`. Must reply.
    Journal { module: ModuleId, from_seq: u64, limit: usize, reply: Reply<Vec<JournalEntry>> },
    /// Part of a module's journal as operators see it, at one moment. Must reply.
    JournalPage { name: String, start: JournalStart, limit: usize, reply: Reply<JournalPage> },
    /// One kept unit with the keys it changed. Must reply.
    JournalUnit { name: String, seq: u64, reply: Reply<UnitDetail> },
    /// Keep a failed event; the oldest ones go. Durable with the next group; no reply.
    PutCrash { module: ModuleId, crash: Box<Crash> },
    /// The crashes kept of a module, oldest first. Must reply.
    Crashes { name: String, reply: Reply<Vec<CrashBrief>> },
    /// An encoded `Recording`. Must reply.
    Recording { name: String, wanted: Wanted, reply: Reply<Vec<u8>> },
    /// The newest rewinds of a module, oldest first. Must reply.
    Rewinds { name: String, reply: Reply<Vec<RewindRecord>> },
    /// Every module the store knows. Must reply.
    Modules { reply: Reply<Vec<ModuleInfo>> },
    /// One module by name. Must reply.
    Inspect { name: String, reply: Reply<ModuleInfo> },
    /// Entries of a module's state with `prefix`, after `after`, at most `limit`. Must reply.
    StateList {
        name: String,
        prefix: String,
        after: Option<String>,
        limit: usize,
        reply: Reply<Vec<(String, Vec<u8>)>>,
    },
    /// Must reply.
    StateGet { name: String, key: String, reply: Reply<Option<Vec<u8>>> },
    /// Remove everything about a module. Must reply.
    Purge { name: String, reply: Reply<()> },
    /// Dead letters of a module, oldest first. Must reply.
    DeadLetters { name: String, reply: Reply<Vec<DeadLetter>> },
    /// Must reply.
    DropDeadLetter { name: String, seq: u64, reply: Reply<()> },
    /// Replace a dead letter by what a failed retry made of it. Must reply.
    PutDeadLetter { module: ModuleId, letter: Box<DeadLetter>, reply: Reply<()> },
    /// Put and remove records of a service, as one write. Must reply, after the sync.
    WriteRecords { service: &'static str, writes: Vec<RecordWrite>, reply: Reply<()> },
    /// Records of a service with `prefix`, after the key `after`, in the order of their keys, at most `limit`; fewer only where
    /// no more follow. Refused when they have more than [`RECORDS_READ_BYTES_MAX`]. What was written before this was asked is
    /// among them. Must reply.
    Records { service: &'static str, prefix: Vec<u8>, after: Option<Vec<u8>>, limit: usize, reply: Reply<Records> },
    /// A consistent copy of everything in a new directory, while running. Must reply.
    Backup { to: PathBuf, reply: Reply<()> },
    /// Must reply.
    Status(RpcReplyPort<StoreStatus>),
}
