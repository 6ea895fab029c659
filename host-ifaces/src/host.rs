//! What one module's Store holds: what its calls have at hand, the unit of its event, and the WASI context.

use std::{sync::Arc, time::Duration};

use wasmtime::{
    CallHook, Store,
    component::{Func, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, sockets::WasiSocketsView as _};

pub use self::args::HostArgs;
pub use crate::call::Usage;
use crate::{
    HostError,
    bindings::nexum::host::types,
    call::Call,
    clock::Clock,
    event::{Cursor, EventId, SourceId},
    limits::{CALL_BYTES_MAX, HANDLES_MAX, MemoryLimiter},
    recording::{
        Captured, Session,
        meter::{Pool, RecordedBytes},
    },
    state::StateView,
    store::{EventUnit, ModuleRecord, UnitKind},
    unit::{Unit, drafts::Drafts},
    wasi::{
        Polls, RESOURCES_MAX,
        http::{WasiHttp, held_bytes_max},
        lookups::Lookups,
        stdio::Stdio,
        tape::WasiTape,
    },
};

pub mod args;
mod library;

/// The data of one module's Store.
pub struct HostState {
    call: Call,
    unit: Unit,
    drafts: Drafts,
    stdio: Stdio,
    wasi_tape: WasiTape,
    /// When the guest was called, monotonic nanoseconds.
    called_ns: u64,
    clock: Arc<dyn Clock>,
    memory: MemoryLimiter,
    wasi: WasiCtx,
    table: ResourceTable,
    /// What requests and responses of `wasi:http` may hold.
    http_bytes: Arc<Pool>,
    /// Functions of the libraries' instances, in the order of the grants.
    libraries: Vec<Vec<Func>>,
}

/// Holds a fresh Store to the bounds of its module, but for fuel and the epoch, which belong to each call.
pub fn bound(store: &mut Store<HostState>) {
    store.limiter(|state| state.memory());
    store.set_hostcall_fuel(CALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    // Whatever the function answers, the guest does not go on when the event has cost too much.
    store.call_hook(|context, hook| match hook {
        CallHook::ReturningFromHost => context.data().call.may_go_on(),
        CallHook::CallingHost | CallHook::CallingWasm | CallHook::ReturningFromWasm => Ok(()),
    });
}

impl HostState {
    /// The state of a fresh Store, over what is committed.
    pub fn new(args: &HostArgs, record: ModuleRecord) -> Self {
        let recorded = RecordedBytes::of(args.taping.pool());
        let call = Call::new(args, &recorded);
        let wasi_tape = WasiTape::new(&args.taping, &recorded);
        let stdio = Stdio::new(&args.module, &args.clock, call.meter(), &wasi_tape);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            unit: Unit::new(args, record, &recorded),
            drafts: Drafts::new(&args.quota),
            called_ns: args.clock.monotonic_ns(),
            clock: args.clock.clone(),
            memory: MemoryLimiter::new(args.limits.max_memory_bytes),
            wasi: crate::wasi::context(&args.clock, call.meter(), &stdio, &wasi_tape),
            wasi_tape,
            call,
            stdio,
            table,
            http_bytes: Arc::new(Pool::new(held_bytes_max(&args.limits))),
            libraries: Vec::new(),
        }
    }

    /// Begins an event: its label goes into log lines, its id into the journal, and the counters start at zero.
    pub fn begin(&mut self, id: &EventId) {
        self.call.begin(id);
        self.unit.begin(id);
        // What the start of the instance saw belongs to `init`.
        if *id != EventId::Init {
            self.wasi_tape.begin();
        }
        self.drafts.begin(id);
    }

    /// Reads another state from now on, such as that of one moment.
    pub fn read_from(&mut self, view: Arc<dyn StateView>) {
        self.unit.read_from(view);
    }

    /// A query is answered next. What was written before it, by `init`, is seen by it, and nobody else.
    pub fn begin_query(&mut self) {
        self.call.begin_query();
    }

    /// The call of the guest is over: a line that it printed without an end is printed. Answers the last that it said on
    /// stderr, at most 4 KiB, and forgets it.
    pub fn end(&mut self) -> Option<String> {
        self.stdio.end()
    }

    /// The event at hand is another one delivered again; its effects have that one's ids, and it reads at that one's block.
    pub fn stand_for(&mut self, origin: &EventId) {
        self.call.stand_for(origin);
        self.drafts.stand_for(origin);
    }

    /// Makes the unit that ends the event at hand from the overlay. The caller then calls `send`.
    ///
    /// # Panics
    /// When no event is at hand: each is begun before anything of it runs, and has one unit that ends it. And when the unit
    /// would take a chain or the outbox back: a source goes on from where its module stands, a rewind begins with a fresh
    /// state, and only a reorg leads back.
    pub fn seal(&mut self, kind: UnitKind, moved: Option<(SourceId, Cursor)>, fuel: u64) -> EventUnit {
        self.unit.seal(kind, moved, self.clock.now_ms(), fuel, self.drafts.take())
    }

    /// Puts the unit on its way: the next one follows its record. When it is not committed after all, this state must
    /// not be used again.
    ///
    /// # Panics
    /// When the unit does not follow the one sent before: what is sealed is sent before anything else is. The journal
    /// would have a gap, or name a unit that there never was.
    pub fn send(&mut self, unit: EventUnit) {
        self.unit.send(unit);
    }

    /// Every unit sent is committed, and no call is at hand.
    pub fn settled(&mut self) {
        self.unit.settled();
        self.forget_seen();
    }

    /// Size of the state changes that are on their way, bytes.
    pub fn sent_bytes(&self) -> usize {
        self.unit.sent_bytes()
    }

    pub fn record(&self) -> &ModuleRecord {
        self.unit.record()
    }

    /// Size of the state in bytes, and the last unit, when the call at hand began.
    pub fn began(&self) -> (u64, u64) {
        self.unit.began()
    }

    /// Milliseconds since the Unix epoch, of the engine and not of a recording.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// What the event at hand used so far.
    pub fn usage(&self) -> Usage {
        self.call.usage()
    }

    /// While an upgrade tries `init`, nothing of it may become durable: flushes wait for its end.
    pub fn hold_flushes(&mut self, held: bool) {
        self.unit.hold_flushes(held);
    }

    /// Why the event must fail whatever the guest answers, if it must: something around the module failed, not the guest.
    pub fn poisoned(&self) -> Option<&str> {
        self.unit.poisoned()
    }

    /// The event at hand took longer than its deadline, which may be the disk's fault and not the guest's.
    pub fn is_late(&mut self, deadline: Duration) {
        self.unit.is_late(deadline, &*self.clock);
    }

    /// Whether the journal has room for the unit of the event at hand. How much room there was is part of what is recorded,
    /// so that a replay is refused what was refused.
    ///
    /// # Errors
    /// `invalid-input` when the newest units would hold more than the journal may: the event must fail. `unavailable` when
    /// the store does not say how much they hold: the event must fail, too, which is then not held against the module.
    pub fn check_journal(&mut self) -> Result<(), HostError> {
        self.unit.check_journal(&mut self.call)
    }

    /// The guest is called now.
    pub fn called(&mut self) {
        self.called_ns = self.clock.monotonic_ns();
    }

    /// How long the call at hand has taken.
    pub fn called_for(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(self.called_ns))
    }

    pub fn memory(&mut self) -> &mut MemoryLimiter {
        &mut self.memory
    }

    /// Linear memory and tables in use, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    /// What the call at hand saw, when that is recorded or played. To be asked before its changes are taken.
    pub fn capture(&self) -> Option<Captured> {
        let mut captured = self.call.captured()?;
        let (answers, printed) = self.wasi_tape.capture();
        captured.session.wasi = answers;
        captured.lines.extend(printed);
        captured.effects = self.drafts.entries().iter().map(|entry| (entry.brief(), entry.digest())).collect();
        captured.origin = self.drafts.origin().filter(|origin| Some(*origin) != self.unit.event()).cloned();
        self.unit.capture(&mut captured, self.call.is_playing(), self.call.recording_left());
        if self.call.is_playing() {
            captured.missing.extend(self.wasi_tape.missing());
        }
        Some(captured)
    }

    /// Drops what the last call saw, once nobody asks for it any more: an idle instance holds nothing of it.
    fn forget_seen(&mut self) {
        if !self.call.is_playing() {
            self.call.forget_seen();
            self.wasi_tape.begin();
            self.unit.forget_seen();
        }
    }

    /// Counts a recording that goes with a unit among what is on its way to the store.
    pub fn sent_with(&mut self, recording: &[u8]) {
        self.unit.sent_with(recording.len());
    }

    /// Plays this session to the next call, which sees the state that it recorded.
    pub fn play(&mut self, session: &Session, view: Arc<dyn StateView>, state_bytes: u64) {
        self.call.play(session);
        self.wasi_tape.play(&session.wasi);
        self.unit.play(view, state_bytes);
    }

    /// What every interface sees.
    pub(crate) fn call(&mut self) -> &mut Call {
        &mut self.call
    }

    /// What `local-store` sees.
    pub(crate) fn call_and_unit(&mut self) -> (&mut Call, &mut Unit) {
        (&mut self.call, &mut self.unit)
    }

    /// What `outbox` sees.
    pub(crate) fn call_and_drafts(&mut self) -> (&mut Call, &mut Drafts) {
        (&mut self.call, &mut self.drafts)
    }

    /// Counts a call of WASI.
    pub(crate) fn counted(&mut self) -> &mut Self {
        self.call.meter().wasi_call();
        self
    }

    pub(crate) fn polls(&mut self) -> Polls<'_> {
        Polls { table: &mut self.table, meter: self.call.meter() }
    }

    pub(crate) fn http(&mut self) -> WasiHttp<'_> {
        WasiHttp { call: &mut self.call, table: &mut self.table, held: &self.http_bytes }
    }

    pub(crate) fn lookups(&mut self) -> Lookups<'_> {
        let meter = self.call.meter().clone();
        Lookups { sockets: self.sockets(), meter }
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
