//! Intents that wait for a nonce: the policy's leave, the balance, and the simulation.
//!
//! They go in the order in which they came; one whose nonce was used by another transaction goes first. One that cannot be
//! paid, is not allowed yet or cannot be simulated lets those behind it go before it.

use std::mem;

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    interfaces::identity::port::Admission,
    transactions::{FailureKind, Intent, SubmitAnswer, WaitKind},
};

use super::{
    AGAIN_MS, AT_ONCE, Action, Call, ChainSettings, Facts, MODULE_PART, Place, Queue, Simulated, WAITING_BYTES_MAX,
    WAITING_MAX, gas_cost, in_u128, short,
};
use crate::fees::{self, Kind};

/// A simulation older than this is made again before a nonce is taken.
const SIMULATION_AGE_MS: u64 = 15_000;

/// How far an intent has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    New,
    /// The policy allows it.
    Admitted,
    /// It would go through, with this much gas.
    Ready {
        gas_limit: u64,
        at_ms: u64,
    },
    /// It is being signed.
    Drafted,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub intent: Box<Intent>,
    pub stage: Stage,
    /// What it waits for, in words as well, and since when.
    pub kind: WaitKind,
    pub what: String,
    pub since_ms: u64,
    pub at_ms: u64,
    /// To end by order, once it is not being signed.
    pub given_up: bool,
    /// An action for it is under way.
    busy: bool,
    /// Nothing is done for it before.
    pub look_ms: u64,
    pub ceiling: Option<u128>,
    /// Looks at the chain that were begun before it came: what they saw may be older than what it was decided by.
    looks: u64,
    /// It was simulated on a block that is not older than that, with nothing of this queue ahead of it, neither in flight nor
    /// about to be.
    on_its_own: bool,
    recent: bool,
}

impl Waiting {
    fn new(intent: Box<Intent>, looks: u64, at_ms: u64) -> Self {
        Self {
            intent,
            stage: Stage::New,
            kind: WaitKind::Policy,
            what: "waits for the policy".to_owned(),
            since_ms: at_ms,
            at_ms,
            given_up: false,
            busy: false,
            look_ms: 0,
            ceiling: None,
            looks,
            on_its_own: false,
            recent: false,
        }
    }

    /// Says what it waits for.
    pub fn wait_for(&mut self, kind: WaitKind, what: String, now: u64) {
        if self.kind != kind {
            (self.kind, self.since_ms) = (kind, now);
        }
        self.what = what;
    }

    /// The same, and lets it be until then.
    pub fn hold(&mut self, kind: WaitKind, what: String, now: u64, until_ms: u64) {
        self.wait_for(kind, what, now);
        self.look_ms = until_ms;
    }

    /// The most that it may cost, as far as that is known, wei.
    fn needed(&self, facts: &Facts, settings: &ChainSettings) -> u128 {
        let bounds = settings.bounds(Some(&self.intent), self.ceiling);
        let gas = match (self.stage, fees::first(&facts.market, &bounds, Kind::Asked)) {
            (Stage::Ready { gas_limit, .. }, Ok(fees)) => gas_cost(gas_limit, fees.per_gas_max()),
            _ => gas_cost(super::EMPTY_GAS, facts.market.floor()),
        };
        in_u128(&self.intent.request.value).saturating_add(gas)
    }

    pub fn is_late(&self, now: u64) -> bool {
        is_late(&self.intent, now)
    }
}

/// Its deadline has passed.
pub(super) fn is_late(intent: &Intent, now: u64) -> bool {
    intent.deadline_ms.is_some_and(|deadline| deadline <= now)
}

impl Queue {
    /// Takes an intent on unless it is known, and says where it stands.
    pub fn submit(&mut self, intent: &Intent, now: u64) -> SubmitAnswer {
        if let Some(answer) = self.answer(&intent.id) {
            self.told(&intent.id);
            return answer;
        }
        let bytes = intent.request.data.len();
        let own = self.waiting.values().filter(|waiting| waiting.intent.module == intent.module);
        let (own, own_bytes) =
            own.fold((0, bytes), |(count, sum), waiting| (count + 1, sum + waiting.intent.request.data.len()));
        let is_full = self.waiting.len() >= WAITING_MAX || self.waiting_bytes + bytes > WAITING_BYTES_MAX;
        if is_full || own >= WAITING_MAX / MODULE_PART || own_bytes > WAITING_BYTES_MAX / MODULE_PART {
            let all = self.waiting.len();
            let what = format!(
                "{all} transactions of this account wait already, {own} of this module: one of the two is the limit"
            );
            return SubmitAnswer::Underway { what, after: self.settings.poll, hash: None };
        }
        self.module = intent.module.clone();
        self.next_order += 1;
        self.wait(self.next_order, Box::new(intent.clone()), now);
        let Some(answer) = self.answer(&intent.id) else { unreachable!("an intent that was taken on is unknown") };
        answer
    }

    /// Whether the intent is this queue's.
    pub fn knows(&self, intent: &str) -> bool {
        self.places.contains_key(intent)
    }

    /// Whether what is known under the name of an intent calls or moves something else.
    pub fn is_another(&self, intent: &Intent) -> bool {
        let known = match self.places.get(&intent.id) {
            Some(Place::Waiting(order)) => Some((&self.waiting[order].intent, true)),
            Some(Place::Nonce(nonce)) => {
                let slot = &self.slots[nonce].slot;
                slot.intent.as_ref().map(|known| (known, !slot.is_stripped()))
            }
            Some(Place::Ended) | None => None,
        };
        // What ended long ago has no data any more.
        known.is_some_and(|(known, is_whole)| {
            let (ours, theirs) = (&known.request, &intent.request);
            ours.to != theirs.to || ours.value != theirs.value || (is_whole && ours.data != theirs.data)
        })
    }

    fn wait(&mut self, order: i64, intent: Box<Intent>, now: u64) {
        self.waiting_bytes += intent.request.data.len();
        self.places.insert(intent.id.clone(), Place::Waiting(order));
        self.waiting.insert(order, Waiting::new(intent, self.looks, now));
    }

    /// An intent whose nonce was used by another transaction goes before all others.
    pub(super) fn wait_again(&mut self, intent: Box<Intent>, now: u64) {
        self.first_order -= 1;
        self.wait(self.first_order, intent, now);
    }

    pub(super) fn leave(&mut self, order: i64) -> Waiting {
        let Some(waiting) = self.waiting.remove(&order) else { unreachable!("intent {order} does not wait") };
        self.waiting_bytes -= waiting.intent.request.data.len();
        waiting
    }

    fn ask_room(&self) -> usize {
        AT_ONCE.saturating_sub(self.waiting.values().filter(|waiting| waiting.busy).count())
    }

    /// Asks the policy.
    pub(super) fn admit(&mut self, now: u64, out: &mut Vec<Action>) {
        let room = self.ask_room();
        let new = |waiting: &Waiting| waiting.stage == Stage::New && !waiting.busy && waiting.look_ms <= now;
        for (order, waiting) in self.waiting.iter_mut().filter(|(_, waiting)| new(waiting)).take(room) {
            waiting.busy = true;
            let Intent { id, module, request, .. } = &*waiting.intent;
            let request = Box::new(request.clone());
            out.push(Action::Admit { order: *order, module: module.clone(), intent: id.clone(), request });
        }
    }

    pub(super) fn admitted(&mut self, order: i64, answer: Result<(Admission, Option<u128>), HostError>, now: u64) {
        // It expired meanwhile.
        let Some(waiting) = self.waiting.get_mut(&order) else { return };
        waiting.busy = false;
        match answer {
            Ok((Admission::Allowed, ceiling)) => {
                waiting.stage = Stage::Admitted;
                waiting.ceiling = ceiling;
                waiting.wait_for(WaitKind::Simulation, "waits for its simulation".to_owned(), now);
            }
            Ok((Admission::AwaitsApproval { number, .. }, _)) => {
                waiting.hold(WaitKind::Approval, format!("waits for approval {number}"), now, now + AGAIN_MS);
            }
            Err(error) if is_final(&error) => self.end(order, FailureKind::Denied, short(&error.message), None),
            Err(error) => {
                let what = format!("the policy cannot be asked: {}", short(&error.message));
                waiting.hold(WaitKind::Policy, what, now, now + AGAIN_MS);
            }
        }
    }

    /// Tries those out that could have a nonce soon.
    pub(super) fn simulate(&mut self, now: u64, out: &mut Vec<Action>) {
        let mut room = self.settings.max_in_flight.saturating_sub(self.in_flight()).min(self.ask_room());
        // Without facts it would not get a nonce.
        let Some(facts) = self.fresh(now) else { return };
        let (mut left, pending) = (facts.balance.saturating_sub(self.committed(facts.nonce)), self.in_flight() > 0);
        // Whether something may be mined before the one that is looked at.
        let mut ahead = pending;
        let could = |waiting: &Waiting| {
            waiting.look_ms <= now && matches!(waiting.stage, Stage::Admitted | Stage::Ready { .. })
        };
        let (mut poor, mut payable) = (None, false);
        for (order, waiting) in &mut self.waiting {
            if room == 0 {
                break;
            }
            if !could(waiting) {
                // The policy was not heard yet: it may be about to go.
                ahead |= waiting.stage == Stage::New && waiting.look_ms == 0;
                continue;
            }
            let alone = !mem::replace(&mut ahead, true);
            let needed = waiting.needed(&facts, &self.settings);
            if needed > left {
                let what = too_little(&facts, needed);
                poor.get_or_insert_with(|| what.clone());
                waiting.wait_for(WaitKind::Balance, what, now);
                continue;
            }
            if let Stage::Ready { at_ms, .. } = waiting.stage {
                if waiting.kind == WaitKind::Balance {
                    waiting.wait_for(WaitKind::Nonce, "waits for a nonce".to_owned(), now);
                }
                if at_ms + SIMULATION_AGE_MS < now {
                    waiting.stage = Stage::Admitted;
                }
            }
            (room, left, payable) = (room - 1, left - needed, true);
            if waiting.stage != Stage::Admitted || waiting.busy {
                continue;
            }
            let intent = &waiting.intent;
            if let (true, Some(gas_limit)) = (intent.skip_simulation, intent.gas_limit) {
                waiting.stage = Stage::Ready { gas_limit, at_ms: now };
                continue;
            }
            (waiting.busy, waiting.on_its_own, waiting.recent) = (true, alone, self.facts_look > waiting.looks);
            let call = Call {
                module: intent.module.clone(),
                request: intent.request.clone(),
                gas_limit: intent.gas_limit,
                block: (!pending).then_some(facts.head),
                skip: intent.skip_simulation,
            };
            out.push(Action::Simulate { order: *order, call: Box::new(call) });
        }
        self.short = poor.filter(|_| !payable);
    }

    pub(super) fn simulated(&mut self, order: i64, answer: Simulated, now: u64) {
        let (poll, margin) = (self.poll_ms(), u64::from(self.settings.gas_margin_percent));
        // It expired meanwhile.
        let Some(waiting) = self.waiting.get_mut(&order) else { return };
        waiting.busy = false;
        match answer {
            Simulated::Succeeds { gas } => {
                let with_margin = gas.saturating_add(gas.saturating_mul(margin) / 100);
                let gas_limit = waiting.intent.gas_limit.unwrap_or(with_margin);
                waiting.stage = Stage::Ready { gas_limit, at_ms: now };
                waiting.wait_for(WaitKind::Nonce, "waits for a nonce".to_owned(), now);
            }
            // What is ahead of it may change that: only on its own is a revert certain, on a block that is not older than
            // what it was decided by, and not by the word of one endpoint where there is another.
            Simulated::Reverts { agreed, .. } if !(waiting.on_its_own && waiting.recent && agreed) => {
                let what = match (waiting.on_its_own, waiting.recent) {
                    (false, _) => "would revert before what is ahead of it is mined",
                    (true, false) => "would revert on a block that may be older than what it was decided by",
                    (true, true) => "would revert, as one endpoint alone says",
                };
                waiting.hold(WaitKind::Simulation, what.to_owned(), now, now + poll);
            }
            Simulated::Reverts { message, .. } if waiting.intent.skip_simulation => {
                let message = format!("without a gas limit it is estimated, which fails: {}", short(&message));
                self.end(order, FailureKind::Refused, message, None);
            }
            Simulated::Reverts { message, data, .. } => {
                self.end(order, FailureKind::WouldRevert, short(&message), data)
            }
            Simulated::Poor => {
                let what = "the account has too little for it, as the simulation says";
                waiting.hold(WaitKind::Balance, what.to_owned(), now, now + poll);
            }
            Simulated::Unknown(error) => {
                let what = format!("the simulation failed: {}", short(&error));
                waiting.hold(WaitKind::Simulation, what, now, now + AGAIN_MS);
            }
        }
    }
}

pub(super) fn too_little(facts: &Facts, needed: u128) -> String {
    format!("the account has {} wei, and {needed} are needed besides what is under way", facts.balance)
}

/// Asking again would bring the same answer.
pub(super) fn is_final(error: &HostError) -> bool {
    matches!(error.kind, HostErrorKind::Denied | HostErrorKind::Unsupported | HostErrorKind::InvalidInput)
}
