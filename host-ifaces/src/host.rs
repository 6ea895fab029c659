//! What one module's Store holds: its overlay, its ports, its limits, and the WASI context.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, sockets::WasiSocketsView as _};

use crate::{
    Hash, HostError, HostErrorKind,
    ahead::Ahead,
    bindings::nexum::host::types,
    chain::ChainMsg,
    clock::Clock,
    event::{Cursor, EventId, SourceId},
    grants::Grants,
    http::EgressMsg,
    ledger::{Ledger, Outcome},
    limits::{Limits, MemoryLimiter, Meter},
    local_store::Overlay,
    logging::LogBudget,
    outbox::{Drafts, Quota},
    port::Port,
    recording::{RecordedBytes, Tape, Taping},
    store::{EventUnit, JournalEntry, ModuleId, ModuleRecord, StateView, UnitKind},
    wasi::{Lookups, Polls, RESOURCES_MAX, Stdio, WasiTape},
};

/// Everything a module's Store is built from; shared by every instance of the module.
#[derive(Clone)]
pub struct HostArgs {
    pub module: Arc<str>,
    pub id: ModuleId,
    pub component: Hash,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    pub ahead: Arc<Ahead>,
    pub view: Arc<dyn StateView>,
    pub grants: Arc<Grants>,
    /// The ports of the chains that are granted.
    pub chains: Arc<BTreeMap<u64, Port<ChainMsg>>>,
    /// Whether what the guest sees of the world is recorded, or comes from a recording.
    pub taping: Taping,
    pub egress: Port<EgressMsg>,
    pub quota: Arc<Quota>,
}

/// What the log lines of the event at hand carry.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventLabel {
    pub kind: &'static str,
    pub chain_id: Option<u64>,
    pub block: Option<u64>,
}

/// What one event used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub host_calls: u64,
    pub log_lines_dropped: u64,
}

/// The data of one module's Store.
pub struct HostState {
    pub(crate) module: Arc<str>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ahead: Arc<Ahead>,
    pub(crate) chains: Arc<BTreeMap<u64, Port<ChainMsg>>>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) egress: Port<EgressMsg>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) drafts: Drafts,
    /// The event that effects are named after: the one at hand, or the one that a retried dead letter holds.
    pub(crate) origin: Option<EventId>,
    pub(crate) overlay: Overlay,
    pub(crate) ledger: Ledger,
    /// The event at hand, until its unit is sealed. The start of an instance belongs to `init`.
    pub(crate) event_id: Option<EventId>,
    pub(crate) event_label: EventLabel,
    pub(crate) log_budget: LogBudget,
    pub(crate) usage: Usage,
    pub(crate) meter: Arc<Meter>,
    stdio: Stdio,
    /// State bytes and last unit when the call at hand began.
    began: (u64, u64),
    pub(crate) tape: Tape,
    pub(crate) wasi_tape: WasiTape,
    poisoned: Option<String>,
    /// When the guest was called, monotonic nanoseconds.
    called_ns: u64,
    /// Since when the guest waits for a flush to be written, monotonic nanoseconds.
    pub(crate) flushing_since_ns: Option<u64>,
    /// `flush` changes nothing: the writes wait for the end of the event.
    pub(crate) flushes_held: bool,
    memory: MemoryLimiter,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl HostState {
    /// The state of a fresh Store, over what is committed.
    pub fn new(args: &HostArgs, record: ModuleRecord) -> Self {
        let meter = Arc::<Meter>::default();
        let mut overlay = Overlay::new(args.view.clone(), args.id, record.state_bytes, args.limits.max_state_bytes);
        let recorded = RecordedBytes::of(&args.taping);
        if !matches!(args.taping, Taping::Off) {
            overlay = overlay.noting(&recorded);
        }
        let wasi_tape = WasiTape::new(&args.taping, &recorded);
        let stdio = Stdio::new(&args.module, &args.clock, &meter, &wasi_tape);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            module: args.module.clone(),
            limits: args.limits.clone(),
            clock: args.clock.clone(),
            ahead: args.ahead.clone(),
            chains: args.chains.clone(),
            grants: args.grants.clone(),
            egress: args.egress.clone(),
            quota: args.quota.clone(),
            drafts: Drafts::default(),
            origin: None,
            overlay,
            ledger: Ledger { module: args.id, component: args.component, record: record.clone() },
            event_id: Some(EventId::Init),
            event_label: EventLabel::default(),
            log_budget: LogBudget::new(args.clock.monotonic_ns()),
            usage: Usage::default(),
            began: (record.state_bytes, record.seq),
            tape: Tape::new(&args.taping, &recorded),
            poisoned: None,
            called_ns: args.clock.monotonic_ns(),
            flushing_since_ns: None,
            flushes_held: false,
            memory: MemoryLimiter::new(args.limits.max_memory_bytes),
            wasi: crate::wasi::context(&args.clock, &meter, &stdio, &wasi_tape),
            wasi_tape,
            meter,
            stdio,
            table,
        }
    }

    /// Begins an event: its label goes into log lines, its id into the journal, and the counters start at zero.
    pub fn begin(&mut self, id: &EventId) {
        let block = id.block();
        self.event_label = EventLabel {
            kind: id.kind(),
            chain_id: block.map(|(chain, _)| chain),
            block: block.map(|(_, number)| number),
        };
        self.event_id = Some(id.clone());
        self.flushing_since_ns = None;
        self.began = (self.overlay.used_bytes(), self.ledger.record.seq);
        // What the start of the instance saw belongs to `init`.
        if *id != EventId::Init {
            self.tape.begin();
            self.wasi_tape.begin();
            self.overlay.begin();
        }
        self.origin = Some(id.clone());
        self.drafts.clear();
        self.usage = Usage::default();
        self.meter.reset();
    }

    /// The call of the guest is over: a line that it printed without an end is printed. Answers the last that it said on
    /// stderr, at most 4 KiB, and forgets it.
    pub fn end(&mut self) -> Option<String> {
        self.stdio.end()
    }

    /// The event at hand is another one delivered again; its effects have that one's ids.
    pub fn stand_for(&mut self, origin: &EventId) {
        self.origin = Some(origin.clone());
    }

    /// Makes the unit that ends the event at hand from the overlay. The caller then calls `send`.
    ///
    /// # Panics
    /// When no event is at hand: each is begun before anything of it runs, and has one unit that ends it. And when the unit
    /// would take a chain or the outbox back: a source goes on from where its module stands, a rewind begins with a fresh
    /// state, and only a reorg leads back.
    pub fn seal(&mut self, kind: UnitKind, moved: Option<(SourceId, Cursor)>, fuel: u64) -> EventUnit {
        let Some(event) = self.event_id.take() else { panic!("a unit is sealed, and no event is at hand") };
        let unit = self.ledger.seal(Outcome {
            kind,
            event,
            moved,
            at_ms: self.clock.now_ms(),
            fuel,
            changes: self.overlay.take_changes(),
            state_bytes: self.overlay.used_bytes(),
            effects: self.drafts.take(),
        });
        let JournalEntry { event, cursor_before, cursor, .. } = &unit.entry;
        assert!(
            !unit.entry.goes_back(),
            "{event} would take its source back from {cursor_before:?} to {cursor:?}, which only a reorg may"
        );
        unit
    }

    /// The event that a guest which runs is called for.
    ///
    /// # Panics
    /// When there is none: a guest runs only between the beginning of an event and its unit.
    pub(crate) fn event_at_hand(&self) -> EventId {
        let Some(event) = &self.event_id else { panic!("a guest runs, and no event is at hand") };
        event.clone()
    }

    /// Puts the unit on its way: the next one follows its record. When it is not committed after all, this state must
    /// not be used again.
    ///
    /// # Panics
    /// When the unit does not follow the one sent before: what is sealed is sent before anything else is. The journal
    /// would have a gap, or name a unit that there never was.
    pub fn send(&mut self, unit: EventUnit) {
        let (last, entry) = (&self.ledger.record, &unit.entry);
        assert!(
            entry.seq == last.seq + 1 && entry.previous == last.journal && unit.record.seq == entry.seq,
            "unit {} does not follow unit {}, which was sent before it",
            entry.seq,
            last.seq
        );
        self.ledger.adopt(unit.record.clone());
        self.overlay.unit_sent(unit.entry.seq, &unit.changes);
        self.ahead.push(unit);
    }

    /// Every unit sent is committed, and no call is at hand.
    pub fn settled(&mut self) {
        self.overlay.settled();
        self.forget_seen();
    }

    /// Size of the state changes that are on their way, bytes.
    pub fn sent_bytes(&self) -> usize {
        self.overlay.sent_bytes()
    }

    pub fn record(&self) -> &ModuleRecord {
        &self.ledger.record
    }

    /// Size of the state in bytes, and the last unit, when the call at hand began.
    pub fn began(&self) -> (u64, u64) {
        self.began
    }

    /// Milliseconds since the Unix epoch, of the engine and not of a recording.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// What the event at hand used so far.
    pub fn usage(&self) -> Usage {
        Usage { log_lines_dropped: self.usage.log_lines_dropped + self.meter.lines_dropped(), ..self.usage }
    }

    /// While an upgrade tries `init`, nothing of it may become durable: flushes wait for its end.
    pub fn hold_flushes(&mut self, held: bool) {
        self.flushes_held = held;
    }

    /// Why the event must fail whatever the guest answers, if it must: something around the module failed, not the guest.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    /// The event at hand took longer than its deadline. When it stands in one flush for half of that, the disk is at fault and
    /// not the guest. A guest that flushes all the time stands in many.
    pub fn is_late(&mut self, deadline: Duration) {
        // It waits for nothing of ours: the guest takes so long.
        let Some(since_ns) = self.flushing_since_ns else { return };
        let waited_ns = self.clock.monotonic_ns().saturating_sub(since_ns);
        if u128::from(waited_ns) * 2 >= deadline.as_nanos() {
            self.poison(format!("a flush was not written within {} ms", waited_ns / 1_000_000));
        }
    }

    /// The guest is called now.
    pub fn called(&mut self) {
        self.called_ns = self.clock.monotonic_ns();
    }

    /// How long the call at hand has taken.
    pub fn called_for(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(self.called_ns))
    }

    pub(crate) fn poison(&mut self, reason: String) {
        self.poisoned = Some(reason);
    }

    pub fn memory(&mut self) -> &mut MemoryLimiter {
        &mut self.memory
    }

    /// Linear memory and tables in use, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    pub(crate) fn count_host_call(&mut self, domain: &str) -> Result<(), HostError> {
        self.usage.host_calls += 1;
        let limit = self.limits.max_host_calls_per_event;
        if self.usage.host_calls > limit {
            let message = format!("more than {limit} host calls in one event");
            return Err(HostError::new(domain, HostErrorKind::RateLimited, message));
        }
        Ok(())
    }

    /// Counts a call that has no error to answer: past the limit it traps.
    pub(crate) fn count_or_trap(&mut self, domain: &str) -> wasmtime::Result<()> {
        self.count_host_call(domain).map_err(|error| wasmtime::Error::msg(error.message))
    }

    /// Counts a call of WASI.
    pub(crate) fn counted(&mut self) -> &mut Self {
        self.meter.wasi_call();
        self
    }

    pub(crate) fn polls(&mut self) -> Polls<'_> {
        Polls { table: &mut self.table, meter: &self.meter }
    }

    pub(crate) fn lookups(&mut self) -> Lookups<'_> {
        let meter = self.meter.clone();
        Lookups { sockets: self.sockets(), meter }
    }

    /// Whether the guest gets back from a call of the host.
    ///
    /// # Errors
    /// What the event has cost too much of. It ends the call as a trap does.
    pub(crate) fn may_go_on(&self) -> wasmtime::Result<()> {
        let limit = self.limits.max_host_calls_per_event;
        let reason = match self.usage.host_calls > limit.saturating_mul(2) {
            true => Some(format!("more than {limit} host calls in one event, and as many again that were refused")),
            false => self.meter.overdrawn(limit),
        };
        reason.map_or(Ok(()), |reason| Err(wasmtime::Error::msg(reason)))
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for HostState {}

#[cfg(test)]
mod tests;
