//! What every call of the host has at hand: whose it is, what it may reach, what it may cost, and what is recorded of it.
//!
//! A function of an interface counts itself (`count`), charges its arguments (`take`) and its answer (`give`), and asks
//! whatever is outside of the module by `ask` and `reach`, so that a recording has the answer.
//!
//! Invariant: the fields are private. Of a module's Store an interface sees this and, where it has one, its own part: the
//! unit for `local-store`, the drafts for `outbox`.

pub mod log;

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Hash, HostError, HostErrorKind,
    bindings::nexum::host::logging::Level,
    call::log::{EventLabel, LINES_PER_SECOND, LogBudget},
    clock::Clock,
    event::EventId,
    grants::{Grants, Library},
    host::args::HostArgs,
    limits::{Limits, Meter},
    ports::Ports,
    recording::{
        Captured, Session,
        meter::RecordedBytes,
        tape::{CallSource, Tape},
    },
};

/// What one event used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub host_calls: u64,
    pub log_lines_dropped: u64,
}

/// What a query is answered that asks for more than reading.
pub(crate) fn not_in_query(domain: &str, what: &str) -> HostError {
    let message = format!("not in a query: {what} is out of reach, because a query only reads");
    HostError::new(domain, HostErrorKind::Denied, message)
}

/// The calls of one instance.
pub(crate) struct Call {
    module: Arc<str>,
    grants: Arc<Grants>,
    limits: Arc<Limits>,
    ports: Arc<Ports>,
    clock: Arc<dyn Clock>,
    usage: Usage,
    meter: Arc<Meter>,
    tape: Tape,
    log: LogBudget,
    label: EventLabel,
    /// The chain and the hash of the block that the event at hand is of.
    block: Option<(u64, Hash)>,
    in_query: bool,
    /// The event that what is sent in calls is named after: the one at hand, or the one that a retried dead letter holds.
    origin: Option<EventId>,
    /// Transactions that it has sent in calls.
    transactions: usize,
    /// The library whose code runs, by its place in the grants; absent while the module's own does.
    library: Option<usize>,
}

impl Call {
    pub(crate) fn new(args: &HostArgs, recorded: &RecordedBytes) -> Self {
        Self {
            module: args.module.clone(),
            grants: args.grants.clone(),
            limits: args.limits.clone(),
            ports: args.ports.clone(),
            clock: args.clock.clone(),
            usage: Usage::default(),
            meter: Arc::default(),
            tape: Tape::new(&args.taping, recorded),
            log: LogBudget::new(args.clock.monotonic_ns()),
            label: EventLabel::default(),
            block: None,
            in_query: false,
            origin: None,
            transactions: 0,
            library: None,
        }
    }

    /// Begins an event: its label goes into log lines, and the counters start at zero.
    pub(crate) fn begin(&mut self, id: &EventId) {
        let block = id.block();
        self.label = EventLabel {
            kind: id.kind(),
            chain_id: block.map(|(chain, _)| chain),
            block: block.map(|(_, number)| number),
        };
        self.block = id.block_hash();
        (self.origin, self.transactions) = (Some(id.clone()), 0);
        // What the start of the instance saw belongs to `init`.
        if *id != EventId::Init {
            self.tape.begin();
        }
        self.usage = Usage::default();
        self.meter.reset();
    }

    /// The hash of the block that the event at hand is of, if it is one of this chain.
    pub(crate) fn block_of(&self, chain_id: u64) -> Option<Hash> {
        self.block.filter(|(chain, _)| *chain == chain_id).map(|(_, hash)| hash)
    }

    /// From now on a query is answered, which changes nothing.
    pub(crate) fn begin_query(&mut self) {
        self.label = EventLabel { kind: "query", ..EventLabel::default() };
        self.in_query = true;
    }

    /// Whether what is kept may be changed.
    ///
    /// # Errors
    /// `denied` while a query is answered.
    pub(crate) fn may_change(&self, domain: &str, what: &str) -> Result<(), HostError> {
        if self.in_query { Err(not_in_query(domain, &format!("`{domain}.{what}`"))) } else { Ok(()) }
    }

    /// The event at hand is this one delivered again: its block is that one's, and what is sent from now on is named after it.
    pub(crate) fn stand_for(&mut self, origin: &EventId) {
        self.block = origin.block_hash();
        self.origin = Some(origin.clone());
    }

    /// The event, and which of its transactions the next one is that it sends in a call: the same whenever it is tried again.
    ///
    /// # Errors
    /// `unsupported` within `init`.
    pub(crate) fn next_transaction(&mut self) -> Result<(EventId, usize), HostError> {
        let Some(event) = self.origin.as_ref().filter(|event| **event != EventId::Init) else {
            let message = "init sends no transactions: it runs at every start, before any event";
            return Err(HostError::new("chain", HostErrorKind::Unsupported, message));
        };
        let next = (event.clone(), self.transactions);
        self.transactions += 1;
        Ok(next)
    }

    pub(crate) fn module(&self) -> &Arc<str> {
        &self.module
    }

    /// Those of whose code runs: the module's, or a library's.
    pub(crate) fn grants(&self) -> &Grants {
        self.library().map_or(&*self.grants, |library| &*library.grants)
    }

    /// The library whose code runs, if one's does. After a trap it is the one that trapped.
    pub(crate) fn library(&self) -> Option<&Library> {
        self.library.map(|at| &self.grants.libraries()[at])
    }

    /// From now on code of this library runs, or the module's own. Answers whose did.
    pub(crate) fn enter(&mut self, library: Option<usize>) -> Option<usize> {
        assert!(library.is_none_or(|at| at < self.grants.libraries().len()), "the module has no such library");
        std::mem::replace(&mut self.library, library)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The engine's clock, and not that of a recording.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) fn tape(&mut self) -> &mut Tape {
        &mut self.tape
    }

    /// What the event at hand used so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage { log_lines_dropped: self.usage.log_lines_dropped + self.meter.lines_dropped(), ..self.usage }
    }

    /// Arguments of so many bytes were taken over.
    pub(crate) fn take(&self, bytes: usize) {
        self.meter.take(bytes);
    }

    /// So many bytes were read or copied for an answer.
    pub(crate) fn give(&self, bytes: usize) {
        self.meter.give(bytes);
    }

    /// Counts a call.
    ///
    /// # Errors
    /// That there were too many.
    pub(crate) fn count(&mut self, domain: &str) -> Result<(), HostError> {
        self.usage.host_calls += 1;
        let limit = self.limits.max_host_calls_per_event;
        if self.usage.host_calls > limit {
            let message = format!("more than {limit} host calls in one event");
            return Err(HostError::new(domain, HostErrorKind::RateLimited, message));
        }
        Ok(())
    }

    /// Counts what one call does in place of so many others.
    pub(crate) fn count_more(&mut self, calls: u64) {
        self.usage.host_calls += calls;
    }

    /// Counts a call that has no error to answer: past the limit it traps.
    pub(crate) fn count_or_trap(&mut self, domain: &str) -> wasmtime::Result<()> {
        self.count(domain).map_err(|error| wasmtime::Error::msg(error.message))
    }

    /// Whether the guest may go on after a call of the host.
    ///
    /// # Errors
    /// What the event has cost too much of. It traps the guest.
    pub(crate) fn may_go_on(&self) -> wasmtime::Result<()> {
        let limit = self.limits.max_host_calls_per_event;
        let reason = match self.usage.host_calls > limit.saturating_mul(2) {
            true => Some(format!("more than {limit} host calls in one event, and as many again that were refused")),
            false => self.meter.overdrawn(limit),
        };
        reason.map_or(Ok(()), |reason| Err(wasmtime::Error::msg(reason)))
    }

    /// What a clock says, or a recording of it.
    pub(crate) fn time(&mut self, read: fn(&dyn Clock) -> u64) -> u64 {
        self.tape.time(|| read(&*self.clock))
    }

    /// So many random bytes, or those of a recording.
    pub(crate) fn random(&mut self, len: usize, draw: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        self.tape.random(len, draw)
    }

    /// Begins a call that leaves the module: says where its answer comes from.
    pub(crate) fn ask(&mut self, call: &'static str, arguments: &impl Serialize) -> CallSource {
        self.tape.ask(call, arguments)
    }

    /// Finishes a call that leaves the module. `live` asks the world; it is dropped when a recording answers.
    pub(crate) async fn reach<T: Serialize + DeserializeOwned>(
        &mut self,
        asked: CallSource,
        domain: &str,
        live: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        match asked {
            CallSource::Live => live.await,
            CallSource::Noted(index) => {
                let result = live.await;
                self.tape.answered(index, &result);
                result
            }
            CallSource::Played(answer) => postcard::from_bytes(&answer).unwrap_or_else(|error| {
                let message = format!("the recorded answer cannot be read: {error}");
                Err(HostError::new(domain, HostErrorKind::Internal, message))
            }),
            CallSource::Unanswered => std::future::pending().await,
            CallSource::Missing => {
                let message = "the recording has no answer to this call";
                Err(HostError::new(domain, HostErrorKind::Unavailable, message))
            }
        }
    }

    /// A line of the guest. A replay prints nothing: what it logs is compared.
    pub(crate) fn log_line(&mut self, level: Level, message: String) {
        if !self.tape.is_playing() {
            self.print(level, &message);
        }
        self.tape.line(log::name(level), message);
    }

    /// Logs one line of the module, or counts it as dropped.
    fn print(&mut self, level: Level, message: &str) {
        let Some(dropped) = self.log.take(self.clock.monotonic_ns()) else {
            self.usage.log_lines_dropped += 1;
            return;
        };
        let module = &*self.module;
        let of_library = self.library().map(|library| format!("{}: {message}", library.name()));
        let message = of_library.as_deref().unwrap_or(message);
        if dropped > 0 {
            tracing::warn!(target: "module", module, dropped, "log lines dropped: more than {LINES_PER_SECOND} per second");
        }
        self.label.print(module, level, message);
    }

    /// What was seen of the world, when that is recorded or played.
    pub(crate) fn captured(&self) -> Option<Captured> {
        self.tape.capture()
    }

    /// Bytes that may still be recorded.
    pub(crate) fn recording_left(&self) -> usize {
        self.tape.left()
    }

    pub(crate) fn is_playing(&self) -> bool {
        self.tape.is_playing()
    }

    /// Drops what was recorded.
    pub(crate) fn forget_seen(&mut self) {
        self.tape.begin();
    }

    /// Plays this session to the next call.
    pub(crate) fn play(&mut self, session: &Session) {
        self.tape.play(session);
    }
}
