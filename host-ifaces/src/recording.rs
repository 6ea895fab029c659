//! Recordings: what one call of a guest depended on and what came of it, enough to run it again anywhere.
//!
//! Invariant: a recording carries everything that the guest saw of the world, every answer in the order of the calls, or
//! says that it was cut. While the guest runs, recording costs little more than keeping what would be dropped; values are
//! read again and encoded only when the recording is kept, which is after the guest is done and before anything of the
//! event is written.

pub mod meter;
pub(crate) mod tape;
pub mod view;

use std::sync::Arc;

pub use nexum_records::crash::{CrashBrief, Record};
use nexum_records::encoded::encoded;
use serde::{Deserialize, Serialize};

pub use self::meter::{Charge, POOL_BYTES, Pool, RECORDING_BYTES_MAX, encoded_bytes};
use crate::{
    Hash, HostError,
    capability::Capability,
    event::EventId,
    grants::{GrantError, Grants, Library},
    interfaces::table::Tables,
    limits::Limits,
    outbox::EffectSummary,
    types::{Config, Event},
};

/// Log lines that are kept for comparison.
pub const LINES_MAX: usize = 256;
/// Log text that is kept for comparison, bytes.
pub const LINE_TEXT_BYTES_MAX: usize = 64 << 10;

/// What a file with a recording begins with; the number is that of the layout.
const MAGIC: &[u8] = b"nexum recording 3\n";

/// Stands among the calls for how much room the journal had; the answer is a number of bytes.
pub(crate) const JOURNAL_ROOM: &str = "local-store.journal-room";

/// What one call saw of the world.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Session {
    /// Keys of the state with their values as the call found them.
    pub reads: Vec<(String, Option<Vec<u8>>)>,
    pub scans: Vec<Scan>,
    /// Calls that left the module, in the order in which they were begun.
    pub exchanges: Vec<Exchange>,
    /// Answers of the `clock` interface.
    pub times: Vec<u64>,
    /// Answers of `random.fill`.
    pub random: Vec<Vec<u8>>,
    pub wasi: WasiAnswers,
    /// More was seen than is kept.
    pub cut: bool,
}

/// What WASI answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WasiAnswers {
    /// Of the instance: what `insecure-seed` answers, always.
    pub seed: u128,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: Vec<u64>,
    pub monotonic_ns: Vec<u64>,
    pub random: Vec<u8>,
}

/// A listing of state as the call found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    pub prefix: String,
    pub after: Option<String>,
    pub entries: Vec<(String, Vec<u8>)>,
    /// Nothing with the prefix follows the entries.
    pub whole: bool,
}

/// One call that left the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Interface and function, such as `chain.request`.
    pub call: String,
    /// The arguments, in postcard.
    pub request: Vec<u8>,
    /// The result as the guest got it, in postcard; absent when the event ended before there was one.
    pub answer: Option<Vec<u8>>,
}

impl Exchange {
    /// What the journal had left for a unit, bytes, when that is what this says.
    pub fn journal_room(&self) -> Option<u64> {
        let answer = self.answer.as_ref().filter(|_| self.call == JOURNAL_ROOM)?;
        postcard::from_bytes(answer).ok()
    }

    /// Chain, method and parameters of a `chain.request`, and the answer if there was one.
    #[expect(clippy::type_complexity, reason = "the parts of a call, taken apart at once")]
    pub fn chain_request(&self) -> Option<((u64, String, String), Option<Result<String, HostError>>)> {
        if self.call != "chain.request" {
            return None;
        }
        let request = postcard::from_bytes(&self.request).ok()?;
        Some((request, self.answer.as_ref().and_then(|answer| postcard::from_bytes(answer).ok())))
    }
}

/// A line that the guest logged or printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The level, or `stdout` or `stderr`.
    pub level: String,
    pub text: String,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecordedOutcome {
    /// Absent when the guest answered Ok.
    pub failure: Option<Fault>,
    pub fuel: u64,
    /// Keys and their new values, those that were flushed first.
    pub changes: Vec<(String, Option<Vec<u8>>)>,
    /// The first lines.
    pub lines: Vec<LogLine>,
    /// What it asked to send, each with its digest; absent when the recording was cut.
    pub effects: Option<Vec<(EffectSummary, Hash)>>,
}

/// How the guest failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub message: String,
    pub backtrace: Option<String>,
}

/// How the module was set up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Setting {
    /// Version of the engine.
    pub engine: String,
    pub module: Arc<str>,
    pub component: Hash,
    pub limits: Limits,
    pub config: Config,
    /// Capabilities that are served; those below are stubs.
    pub served: Vec<Capability>,
    pub stubs: Vec<Capability>,
    pub chains: Vec<u64>,
    /// What its grants say besides.
    pub tables: Tables,
    pub libraries: Vec<LibrarySetting>,
}

/// How a library of the module was set up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LibrarySetting {
    pub name: Arc<str>,
    pub version: String,
    pub component: Hash,
    pub config: Config,
    pub served: Vec<Capability>,
    pub stubs: Vec<Capability>,
    pub chains: Vec<u64>,
    pub tables: Tables,
}

impl LibrarySetting {
    pub fn of(library: &Library) -> Self {
        let Library { version, component, grants, config, .. } = library;
        Self {
            name: library.name().clone(),
            version: version.clone(),
            component: *component,
            config: (**config).clone(),
            served: grants.served(),
            stubs: grants.refused().into_iter().collect(),
            chains: grants.chains().iter().copied().collect(),
            tables: grants.tables().clone(),
        }
    }

    /// The library as it was.
    pub fn library(&self) -> Result<Library, GrantError> {
        let Self { name, version, component, config, served, stubs, chains, tables } = self;
        let grants = Grants::recorded((served, stubs), chains, tables)?;
        Ok(Library::new(name.clone(), version.clone(), *component, grants.into(), Arc::new(config.clone())))
    }
}

/// One event of one module, or its `init`, with everything that it depended on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    pub setting: Setting,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The module's last unit before the event.
    pub after_seq: u64,
    /// Events that the instance had handled since its `init`; what they left in its memory is not recorded.
    pub handled_before: u64,
    /// What the instance's start and `init` saw; the whole recording when `event` is absent.
    pub init: Session,
    /// Keys plus values of the state before `init`, bytes.
    pub init_state_bytes: u64,
    pub event: Option<Recorded>,
    pub outcome: RecordedOutcome,
}

/// The event of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub id: EventId,
    pub event: Event,
    /// Keys plus values of the state before it, bytes.
    pub state_bytes: u64,
    pub session: Session,
    /// The event that its effects are named after, when that is another one.
    pub origin: Option<EventId>,
}

/// What the `init` of an idle instance may hold in memory for a later crash: with 10,000 modules, what an instance itself
/// takes.
const INIT_BYTES_MAX: usize = 64 << 10;

impl Session {
    /// One of which nothing is kept.
    pub fn cut_off() -> Self {
        Self { cut: true, ..Self::default() }
    }

    /// Encoded for keeping; one that is large is cut.
    pub fn pack(&self) -> Box<[u8]> {
        let fits = encoded_bytes(self, INIT_BYTES_MAX).is_some();
        if fits { encoded(self).into() } else { encoded(&Self::cut_off()).into() }
    }

    pub fn unpack(packed: &[u8]) -> Self {
        postcard::from_bytes(packed).unwrap_or_else(|_| Self::cut_off())
    }
}

impl Recording {
    /// The bytes of a file with the recording.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        postcard::to_extend(self, MAGIC.to_vec()).map_err(|error| format!("the recording cannot be encoded: {error}"))
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(body) = bytes.strip_prefix(MAGIC) else {
            return Err(match bytes.starts_with(b"nexum recording ") {
                true => "the recording was made by another version of nexum".to_owned(),
                false => "this is no recording".to_owned(),
            });
        };
        postcard::from_bytes(body).map_err(|error| format!("the recording cannot be read: {error}"))
    }

    /// The same, cut when its encoding would be larger than a recording may be.
    pub fn bounded(mut self) -> Self {
        if encoded_bytes(&self, RECORDING_BYTES_MAX).is_none() {
            self.cut();
        }
        self
    }

    /// Leaves of it how the call ended and what it logged: it cannot be replayed any more.
    pub fn cut(&mut self) {
        self.init = Session::cut_off();
        if let Some(recorded) = &mut self.event {
            // Which event it was is told by its id.
            recorded.event = Event::Logs(Vec::new());
            recorded.session = Session::cut_off();
        }
        (self.outcome.changes, self.outcome.effects) = (Vec::new(), None);
    }

    /// Whether everything that is needed for a replay was kept.
    pub fn is_whole(&self) -> bool {
        !self.init.cut && self.event.as_ref().is_none_or(|event| !event.session.cut)
    }

    /// The event's id, or `init`.
    pub fn event_id(&self) -> EventId {
        self.event.as_ref().map_or(EventId::Init, |event| event.id.clone())
    }
}

/// A failed event on its way to the store.
#[derive(Debug)]
pub struct Crash {
    /// `number` and `bytes` are the store's to fill in.
    pub brief: CrashBrief,
    pub recording: Vec<u8>,
    /// The memory that the recording takes until the store has it.
    pub charge: Option<Charge>,
}

/// Which recording of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Of the event that this unit handled.
    Unit(u64),
    Crash(u64),
    LastCrash,
}

/// Whether a fresh state records, or plays a recording.
#[derive(Clone, Default)]
pub enum TapeMode {
    #[default]
    Off,
    /// With memory of this pool.
    On(Arc<Pool>),
    /// The session is that of the start and `init`.
    Play(Arc<Session>),
}

/// What the call at hand saw so far, and what it changed and logged.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    pub session: Session,
    pub changes: Vec<(String, Option<Vec<u8>>)>,
    pub lines: Vec<LogLine>,
    pub effects: Vec<(EffectSummary, Hash)>,
    /// The event that they are named after, when that is another one than the one at hand.
    pub origin: Option<EventId>,
    /// What a replay asked for that its recording does not have.
    pub missing: Vec<String>,
}

impl TapeMode {
    /// The memory of recordings, when this is one.
    pub(crate) fn pool(&self) -> Option<&Arc<Pool>> {
        match self {
            Self::On(pool) => Some(pool),
            Self::Off | Self::Play(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the fuzzer begins with.
    #[test]
    fn the_corpus_of_recordings_is_read_or_refused() {
        let read = |seed: &Vec<u8>| Recording::decode(seed).ok().map(|recording| (recording.encode(), seed.clone()));
        let read: Vec<_> = nexum_testkit::corpus("recording").iter().filter_map(read).collect();
        assert!(!read.is_empty());
        for (written, seed) in read {
            assert_eq!(written, Ok(seed));
        }
    }

    #[test]
    fn a_recording_reads_back_whole_and_one_of_another_layout_is_refused() {
        let sent = EffectSummary {
            id: "m/init/0".into(),
            key: "k".into(),
            kind: "http".into(),
            destination: "https://a.org".into(),
            lane: None,
            release: "safe".into(),
        };
        let recording = Recording {
            setting: Setting {
                engine: "0".into(),
                module: "m".into(),
                component: Hash([1; 32]),
                limits: Limits::default(),
                config: Vec::new(),
                served: Vec::new(),
                stubs: Vec::new(),
                chains: Vec::new(),
                tables: Tables::default(),
                libraries: vec![LibrarySetting::default()],
            },
            at_ms: 5,
            after_seq: 6,
            handled_before: 7,
            init: Session::default(),
            init_state_bytes: 8,
            event: Some(Recorded {
                id: EventId::Retry { seq: 3 },
                event: Event::Tick(crate::types::Tick { fired_at: 1 }),
                state_bytes: 9,
                session: Session::default(),
                origin: Some(EventId::Init),
            }),
            outcome: RecordedOutcome {
                fuel: 1,
                effects: Some(vec![(sent, Hash([2; 32]))]),
                ..RecordedOutcome::default()
            },
        };
        assert_eq!(recording.clone().bounded(), recording);
        let mut large = recording.clone();
        large.outcome.changes.push(("k".into(), Some(vec![0; RECORDING_BYTES_MAX])));
        let cut = large.bounded();
        assert!(!cut.is_whole() && cut.outcome.changes.is_empty() && cut.event_id() == recording.event_id());
        let bytes = recording.encode().unwrap();
        assert_eq!(Recording::decode(&bytes).unwrap(), recording);

        let other = [&b"nexum recording 1\n"[..], &bytes[MAGIC.len()..]].concat();
        assert_eq!(Recording::decode(&other).unwrap_err(), "the recording was made by another version of nexum");
    }
}
