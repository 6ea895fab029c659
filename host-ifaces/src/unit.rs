//! What an event leaves behind, while it is made: the overlay of its writes, the ledger that units are sealed by, and the
//! commit queue that takes them to the store.
//!
//! Invariant: nothing reaches the store before the event is over, except through `flush`. That makes writes durable, and
//! never effects: the effects of an event are `drafts`, beside its unit, and join the unit that ends the event.

pub mod drafts;
mod listing;
pub mod overlay;
mod seen;
mod undo;

use std::{sync::Arc, time::Duration};

use crate::{
    HostError,
    call::Call,
    clock::Clock,
    commit_queue::{CommitQueue, NotCommitted},
    event::{Cursor, EventId, SourceId},
    host::args::HostArgs,
    journal::REWIND_UNITS,
    ledger::{Ledger, UnitParts},
    outbox::EffectEntry,
    recording::{Captured, Session, TapeMode, meter::RecordedBytes},
    state::{ModuleId, StateView},
    store::{EventUnit, JournalEntry, ModuleRecord, UnitKind},
    unit::overlay::{Overlay, failed, invalid},
};

/// The unit of the event at hand.
pub(crate) struct Unit {
    overlay: Overlay,
    ledger: Ledger,
    commits: Arc<CommitQueue>,
    /// The event at hand, until its unit is sealed. The start of an instance belongs to `init`.
    event: Option<EventId>,
    /// State bytes and last unit when the call at hand began.
    began: (u64, u64),
    /// Since when the guest waits for a flush to be written, monotonic nanoseconds.
    flushing_since_ns: Option<u64>,
    /// `flush` changes nothing: the writes wait for the end of the event.
    flushes_held: bool,
    poisoned: Option<String>,
}

impl Unit {
    /// The unit of an instance that starts, over what is committed.
    pub(crate) fn new(args: &HostArgs, record: ModuleRecord, recorded: &RecordedBytes) -> Self {
        let mut overlay =
            Overlay::new(args.ports.view.clone(), args.id, record.state_bytes, args.limits.max_state_bytes);
        if !matches!(args.taping, TapeMode::Off) {
            overlay = overlay.noting(recorded);
        }
        Self {
            overlay,
            began: (record.state_bytes, record.seq),
            ledger: Ledger { module: args.id, component: args.component, record },
            commits: args.commits.clone(),
            event: Some(EventId::Init),
            flushing_since_ns: None,
            flushes_held: false,
            poisoned: None,
        }
    }

    pub(crate) fn begin(&mut self, id: &EventId) {
        self.event = Some(id.clone());
        self.flushing_since_ns = None;
        // What the start of the instance saw and wrote belongs to `init`.
        if *id != EventId::Init {
            self.began = (self.overlay.used_bytes(), self.ledger.record.seq);
            self.overlay.begin();
        }
    }

    /// The state as the event at hand sees it.
    pub(crate) fn state(&mut self) -> &mut Overlay {
        &mut self.overlay
    }

    pub(crate) fn event(&self) -> Option<&EventId> {
        self.event.as_ref()
    }

    /// The event that a guest which runs is called for.
    ///
    /// # Panics
    /// When there is none: a guest runs only between the beginning of an event and its unit.
    pub(crate) fn event_at_hand(&self) -> EventId {
        let Some(event) = &self.event else { panic!("a guest runs, and no event is at hand") };
        event.clone()
    }

    pub(crate) fn record(&self) -> &ModuleRecord {
        &self.ledger.record
    }

    pub(crate) fn began(&self) -> (u64, u64) {
        self.began
    }

    pub(crate) fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    pub(crate) fn hold_flushes(&mut self, held: bool) {
        self.flushes_held = held;
    }

    /// Makes the unit that ends the event at hand.
    ///
    /// # Panics
    /// See `HostState::seal`.
    pub(crate) fn seal(
        &mut self,
        kind: UnitKind,
        moved: Option<(SourceId, Cursor)>,
        at_ms: u64,
        fuel: u64,
        effects: Vec<EffectEntry>,
    ) -> EventUnit {
        let Some(event) = self.event.take() else { panic!("a unit is sealed, and no event is at hand") };
        let unit = self.ledger.seal(UnitParts {
            kind,
            event,
            moved,
            at_ms,
            fuel,
            changes: self.overlay.take_changes(),
            state_bytes: self.overlay.used_bytes(),
            effects,
        });
        let JournalEntry { event, cursor_before, cursor, .. } = &unit.entry;
        assert!(
            !unit.entry.goes_back(),
            "{event} would take its source back from {cursor_before:?} to {cursor:?}, which only a reorg may"
        );
        unit
    }

    /// Puts the unit on its way.
    ///
    /// # Panics
    /// See `HostState::send`.
    pub(crate) fn send(&mut self, unit: EventUnit) {
        let (last, entry) = (&self.ledger.record, &unit.entry);
        assert!(
            entry.seq == last.seq + 1 && entry.previous == last.journal && unit.record.seq == entry.seq,
            "unit {} does not follow unit {}, which was sent before it",
            entry.seq,
            last.seq
        );
        self.ledger.adopt(unit.record.clone());
        self.overlay.unit_sent(unit.entry.seq, &unit.changes);
        self.commits.push(unit);
    }

    /// Makes the writes so far durable, and waits for that.
    pub(crate) async fn flush(&mut self, call: &mut Call) -> Result<(), HostError> {
        if self.flushes_held || call.tape().flushes_were_held() {
            call.tape().note_flush_held();
            return Ok(());
        }
        self.check_journal(call)?;
        let changes = self.overlay.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.overlay.note_flush(&changes);
        let unit = self.ledger.seal(UnitParts {
            kind: UnitKind::Flushed,
            event: self.event_at_hand(),
            moved: None,
            at_ms: call.clock().now_ms(),
            fuel: 0,
            changes,
            state_bytes: self.overlay.used_bytes(),
            // They wait for the unit that ends the event.
            effects: Vec::new(),
        });
        if call.is_playing() {
            return Ok(());
        }
        self.send(unit);
        let (commits, deadline) = (self.commits.clone(), call.limits().host_call_deadline);
        self.flushing_since_ns = Some(call.clock().monotonic_ns());
        let settled = commits.settle(deadline).await;
        self.flushing_since_ns = None;
        settled.map_err(|error| {
            // Whether it was written is not known, and the overlay is gone: the event must not go on.
            self.poison(format!("flush failed: {error}"));
            match error {
                NotCommitted::Store(error) => failed(error),
                NotCommitted::Port(error) => error.to_host_error("local-store"),
            }
        })
    }

    /// Whether the journal has room for the unit of the event at hand.
    ///
    /// # Errors
    /// See `HostState::check_journal`.
    pub(crate) fn check_journal(&mut self, call: &mut Call) -> Result<(), HostError> {
        let bytes = self.overlay.weighing_bytes();
        if bytes == 0 {
            return Ok(());
        }
        let Self { overlay, ledger, .. } = self;
        let mut unread = None;
        let room = call.tape().journal_room(|| match overlay.journal_room(ledger.record.seq + 1) {
            Ok(room) => room,
            Err(error) => {
                unread = Some(error);
                u64::MAX
            }
        });
        if let Some(error) = unread {
            self.poison(format!("how much room the journal has cannot be read: {error}"));
            return Err(failed(error));
        }
        if bytes > room {
            return Err(invalid(format!(
                "journal quota: these writes replace {bytes} bytes, which the journal keeps for a rewind; with them the \
                 newest {REWIND_UNITS} units would have {} more than [journal] bytes allows. Change less in each event, \
                 or let the operator raise it",
                bytes - room
            )));
        }
        Ok(())
    }

    /// The event at hand took longer than its deadline. When it stands in one flush for half of that, the disk is at fault
    /// and not the guest. A guest that flushes all the time stands in many.
    pub(crate) fn is_late(&mut self, deadline: Duration, clock: &dyn Clock) {
        // It waits for nothing of ours: the guest takes so long.
        let Some(since_ns) = self.flushing_since_ns else { return };
        let waited_ns = clock.monotonic_ns().saturating_sub(since_ns);
        if u128::from(waited_ns) * 2 >= deadline.as_nanos() {
            self.poison(format!("a flush was not written within {} ms", waited_ns / 1_000_000));
        }
    }

    fn poison(&mut self, reason: String) {
        self.poisoned = Some(reason);
    }

    /// Every unit sent is committed, and no call is at hand.
    pub(crate) fn settled(&mut self) {
        self.overlay.settled();
    }

    /// Size of the state changes that are on their way, bytes.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.overlay.sent_bytes()
    }

    /// Counts bytes that go to the store with what the next unit changes.
    pub(crate) fn sent_with(&mut self, bytes: usize) {
        self.overlay.sent_with(bytes);
    }

    /// Adds what the event at hand saw of the state and changed, as far as there is room for it.
    pub(crate) fn capture(&self, captured: &mut Captured, is_playing: bool, left: usize) {
        if is_playing {
            // What it reads is in the recording; to ask for it again would count as asking.
            captured.changes = self.overlay.changed(usize::MAX).unwrap_or_default();
            return;
        }
        let seen::Seen { reads, scans, bytes, cut } = self.overlay.seen(left);
        match self.overlay.changed(left.saturating_sub(bytes)).filter(|_| !cut && !captured.session.cut) {
            Some(changes) => {
                captured.session.reads = reads;
                captured.session.scans = scans;
                captured.changes = changes;
            }
            None => captured.session = Session::cut_off(),
        }
    }

    /// Drops what was noted of the event at hand.
    pub(crate) fn forget_seen(&mut self) {
        self.overlay.begin();
    }

    /// Reads what another view shows of the same module.
    pub(crate) fn read_from(&mut self, view: Arc<dyn StateView>) {
        self.overlay.view = view;
    }

    /// Looks at another state from now on.
    pub(crate) fn play(&mut self, view: Arc<dyn StateView>, state_bytes: u64) {
        self.overlay.rebase(view, ModuleId(0), state_bytes);
    }
}
