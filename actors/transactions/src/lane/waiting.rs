//! Intents that wait for a nonce: the policy's leave, the simulation, and the nonce itself.

use std::mem;

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    interfaces::identity::port::{Admission, Purpose, SignedTransaction},
    transactions::{FailureKind, Intent, SubmitAnswer, TransactionFailure},
};

use super::{
    AGAIN_MS, AT_ONCE, Action, Call, Draft, Facts, KEPT, Lane, Live, Note, Place, Simulated, Slot, WAITING_BYTES_MAX,
    WAITING_MAX, answers::result_name, cost, gas_cost, in_u128, unsigned,
};
use crate::{
    fees::{self, Kind, TooDear},
    record::{Standing, Variant},
};

/// A simulation older than this is made again before a nonce is taken.
const SIMULATION_AGE_MS: u64 = 15_000;
/// What is kept of an error for people.
const MESSAGE_CHARS_MAX: usize = 300;

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
    pub what: String,
    pub at_ms: u64,
    /// An action for it is under way.
    busy: bool,
    /// Nothing is done for it before.
    look_ms: u64,
    ceiling: Option<u128>,
    /// Nothing of this lane was ahead of it when it was simulated, neither in flight nor about to be.
    alone: bool,
}

impl Waiting {
    fn new(intent: Box<Intent>, at_ms: u64) -> Self {
        let what = "waits for the policy".to_owned();
        Self { intent, stage: Stage::New, what, at_ms, busy: false, look_ms: 0, ceiling: None, alone: false }
    }

    fn hold(&mut self, what: String, until_ms: u64) {
        self.what = what;
        self.look_ms = until_ms;
    }

    fn is_late(&self, now: u64) -> bool {
        is_late(&self.intent, now)
    }
}

/// Its deadline has passed.
pub(super) fn is_late(intent: &Intent, now: u64) -> bool {
    intent.deadline_ms.is_some_and(|deadline| deadline <= now)
}

impl Lane {
    /// Takes an intent on unless it is known, and says where it stands.
    pub fn submit(&mut self, intent: &Intent, now: u64) -> SubmitAnswer {
        if let Some(answer) = self.answer(&intent.id) {
            self.told(&intent.id);
            return answer;
        }
        let bytes = intent.request.data.len();
        if self.waiting.len() >= WAITING_MAX || self.waiting_bytes + bytes > WAITING_BYTES_MAX {
            let what = format!("{} transactions of this account wait already, which is the limit", self.waiting.len());
            return SubmitAnswer::Underway { what, after: self.settings.poll, hash: None };
        }
        self.module = intent.module.clone();
        self.next_order += 1;
        self.wait(self.next_order, Box::new(intent.clone()), now);
        let Some(answer) = self.answer(&intent.id) else { unreachable!("an intent that was taken on is unknown") };
        answer
    }

    /// Whether the intent is this lane's.
    pub fn knows(&self, intent: &str) -> bool {
        self.places.contains_key(intent)
    }

    fn wait(&mut self, order: i64, intent: Box<Intent>, now: u64) {
        self.waiting_bytes += intent.request.data.len();
        self.places.insert(intent.id.clone(), Place::Waiting(order));
        self.waiting.insert(order, Waiting::new(intent, now));
    }

    /// An intent whose nonce was used by another transaction goes before all others.
    pub(super) fn wait_again(&mut self, intent: Box<Intent>, now: u64) {
        self.first_order -= 1;
        self.wait(self.first_order, intent, now);
    }

    fn leave(&mut self, order: i64) -> Waiting {
        let Some(waiting) = self.waiting.remove(&order) else { unreachable!("intent {order} does not wait") };
        self.waiting_bytes -= waiting.intent.request.data.len();
        waiting
    }

    /// An intent ends without a nonce.
    fn end(&mut self, order: i64, kind: FailureKind, message: String, data: Option<String>) {
        let waiting = self.leave(order);
        let failure = TransactionFailure { kind, message, data, hash: None };
        self.remember(waiting.intent.id, SubmitAnswer::Failed(Box::new(failure)));
        self.notes.push(Note::Ended(result_name(kind)));
    }

    /// Keeps an answer that no record has.
    pub(super) fn remember(&mut self, intent: String, answer: SubmitAnswer) {
        self.places.insert(intent.clone(), Place::Ended);
        self.ended.insert(intent.clone(), answer);
        self.ended_order.push_back(intent);
        if self.ended_order.len() > KEPT
            && let Some(oldest) = self.ended_order.pop_front()
        {
            // It may have been taken on anew since, with a record.
            if matches!(self.places.get(&oldest), Some(Place::Ended)) {
                self.places.remove(&oldest);
            }
            self.ended.remove(&oldest);
        }
    }

    pub(super) fn expire(&mut self, now: u64) {
        let late = |waiting: &Waiting| waiting.stage != Stage::Drafted && waiting.is_late(now);
        let late: Vec<i64> =
            self.waiting.iter().filter(|(_, waiting)| late(waiting)).map(|(order, _)| *order).collect();
        for order in late {
            self.end(order, FailureKind::Expired, "its deadline passed before it was broadcast".to_owned(), None);
        }
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
                waiting.what = "waits for its simulation".to_owned();
            }
            Ok((Admission::AwaitsApproval { number, .. }, _)) => {
                waiting.hold(format!("waits for approval {number}"), now + AGAIN_MS);
            }
            Err(error) if is_final(&error) => self.end(order, FailureKind::Denied, short(&error.message), None),
            Err(error) => {
                waiting.hold(format!("the policy cannot be asked: {}", short(&error.message)), now + AGAIN_MS)
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
        for (order, waiting) in &mut self.waiting {
            if room == 0 {
                break;
            }
            if !could(waiting) {
                // The policy was not heard yet: it may be about to go.
                ahead |= waiting.stage == Stage::New && waiting.look_ms == 0;
                continue;
            }
            room -= 1;
            let alone = !mem::replace(&mut ahead, true);
            if let Stage::Ready { at_ms, .. } = waiting.stage
                && at_ms + SIMULATION_AGE_MS < now
            {
                waiting.stage = Stage::Admitted;
            }
            let least = gas_cost(super::EMPTY_GAS, facts.market.floor());
            let needed = in_u128(&waiting.intent.request.value).saturating_add(least);
            if needed > left {
                self.short = Some(too_little(&facts, needed));
                waiting.what = "waits for the account's balance".to_owned();
                break;
            }
            left -= needed;
            if waiting.stage != Stage::Admitted || waiting.busy {
                continue;
            }
            let intent = &waiting.intent;
            if let (true, Some(gas_limit)) = (intent.skip_simulation, intent.gas_limit) {
                waiting.stage = Stage::Ready { gas_limit, at_ms: now };
                continue;
            }
            (waiting.busy, waiting.alone) = (true, alone);
            let call = Call {
                module: intent.module.clone(),
                request: intent.request.clone(),
                gas_limit: intent.gas_limit,
                pending,
                skip: intent.skip_simulation,
            };
            out.push(Action::Simulate { order: *order, call: Box::new(call) });
        }
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
                waiting.what = "waits for a nonce".to_owned();
            }
            // What is ahead of it may change that: only on its own is a revert certain.
            Simulated::Reverts { .. } if !waiting.alone => {
                waiting.hold("would revert before what is ahead of it is mined".to_owned(), now + poll);
            }
            Simulated::Reverts { message, .. } if waiting.intent.skip_simulation => {
                let message = format!("without a gas limit it is estimated, which fails: {}", short(&message));
                self.end(order, FailureKind::Refused, message, None);
            }
            Simulated::Reverts { message, data } => self.end(order, FailureKind::WouldRevert, short(&message), data),
            Simulated::Poor => waiting.hold("waits for the account's balance".to_owned(), now + poll),
            Simulated::Unknown(error) => {
                waiting.hold(format!("the simulation failed: {}", short(&error)), now + AGAIN_MS);
            }
        }
    }

    /// Takes nonces for those that are ready, in their order.
    pub(super) fn draft(&mut self, now: u64, out: &mut Vec<Action>) {
        // Asked for; until then nothing is signed.
        let Some(facts) = self.fresh(now) else { return };
        let mut room = self.settings.max_in_flight.saturating_sub(self.in_flight());
        let ready = |waiting: &Waiting| matches!(waiting.stage, Stage::Ready { .. }) && waiting.look_ms <= now;
        let orders: Vec<i64> =
            self.waiting.iter().filter(|(_, waiting)| ready(waiting)).map(|(order, _)| *order).collect();
        for order in orders {
            if room == 0 || self.short.is_some() {
                break;
            }
            room -= usize::from(self.draft_one(order, &facts, now, out));
        }
    }

    fn draft_one(&mut self, order: i64, facts: &Facts, now: u64, out: &mut Vec<Action>) -> bool {
        let (poll, committed) = (self.poll_ms(), self.committed(facts.nonce));
        let waiting = &self.waiting[&order];
        let Stage::Ready { gas_limit, .. } = waiting.stage else { unreachable!("intent {order} is not ready") };
        let bounds = self.bounds(Some(&waiting.intent), waiting.ceiling);
        let fees = fees::first(&facts.market, &bounds, Kind::Asked);
        let (id, module, request) =
            (waiting.intent.id.clone(), waiting.intent.module.clone(), waiting.intent.request.clone());
        let nonce = self.free_nonce(facts.nonce);
        let Some(waiting) = self.waiting.get_mut(&order) else { unreachable!("intent {order} does not wait") };
        let fees = match fees {
            Ok(fees) => fees,
            Err(TooDear { most, floor }) => {
                waiting.hold(format!("pays at most {most} wei per gas, and the chain takes {floor}"), now + poll);
                return false;
            }
        };
        let transaction = unsigned(request, nonce, gas_limit, fees, Purpose::Asked);
        let needed = cost(&transaction).saturating_add(committed);
        if needed > facts.balance {
            self.short = Some(too_little(facts, needed));
            waiting.what = "waits for the account's balance".to_owned();
            return false;
        }
        waiting.stage = Stage::Drafted;
        waiting.what = "is being signed".to_owned();
        let (draft, action) = self.sign(nonce, module.clone(), id, transaction.clone());
        self.drafts.insert(nonce, Draft { id: draft, order: Some(order), transaction, module, signed: None });
        out.push(action);
        true
    }

    /// Closes the lowest gap with a transfer of nothing, when nothing that waits takes it.
    pub(super) fn fill_gap(&mut self, now: u64, out: &mut Vec<Action>) {
        // Asked for; until then nothing is signed.
        let Some(facts) = self.fresh(now) else { return };
        let nonce = self.free_nonce(facts.nonce);
        // A final one above it went with its block, and is sent again as well.
        let sends = |live: &Live| live.slot.is_open() || matches!(live.slot.standing, Standing::Final(_));
        let blocks = self.slots.range(nonce..).any(|(_, above)| sends(above));
        if !blocks {
            self.gap = None;
            return;
        }
        match self.gap {
            Some((gap, since)) if gap == nonce => {
                if now < since + 2 * self.poll_ms() || now < self.gap_ms {
                    return;
                }
            }
            Some(_) | None => {
                self.gap = Some((nonce, now));
                return;
            }
        }
        let Ok(fees) = fees::first(&facts.market, &self.bounds(None, None), Kind::Empty) else {
            self.gap_ms = now + self.poll_ms();
            return;
        };
        let transaction = unsigned(self.nothing(), nonce, self.empty_gas, fees, Purpose::Empty);
        // What is above cannot be mined before, so only this one has to be paid.
        if cost(&transaction) > facts.balance {
            self.short = Some(too_little(&facts, cost(&transaction)));
            return;
        }
        let (module, name) = (self.module.clone(), self.gap_name(nonce));
        let (draft, action) = self.sign(nonce, module.clone(), name, transaction.clone());
        self.drafts.insert(nonce, Draft { id: draft, order: None, transaction, module, signed: None });
        out.push(action);
    }

    pub(super) fn signed(&mut self, draft: u64, nonce: u64, answer: Result<SignedTransaction, HostError>, now: u64) {
        if self.slots.get(&nonce).is_some_and(|live| live.draft.is_some_and(|(id, _)| id == draft)) {
            self.signed_anew(nonce, answer, now);
            return;
        }
        // Another draft took its place: these bytes go nowhere.
        let Some(found) = self.drafts.get_mut(&nonce).filter(|found| found.id == draft) else { return };
        match answer {
            Ok(signed) => {
                found.signed = Some(signed);
                self.settle_drafts(now);
            }
            Err(error) => self.unsigned(nonce, &error, now),
        }
    }

    /// A nonce that was not signed is not taken; whoever was to have a higher one gets a lower one.
    fn unsigned(&mut self, nonce: u64, error: &HostError, now: u64) {
        let order = self.drafts[&nonce].order;
        self.drop_drafts(nonce, now);
        let Some(order) = order else {
            tracing::warn!(nonce, "a gap cannot be closed: {}", error.message);
            self.gap_ms = now + AGAIN_MS;
            return;
        };
        if is_final(error) {
            self.end(order, FailureKind::Denied, short(&error.message), None);
        } else if let Some(waiting) = self.waiting.get_mut(&order) {
            waiting.hold(format!("cannot be signed: {}", short(&error.message)), now + AGAIN_MS);
        }
    }

    /// Forgets drafts from a nonce on: their bytes never left, so their intents may be signed with other nonces.
    fn drop_drafts(&mut self, from: u64, now: u64) {
        for draft in self.drafts.split_off(&from).into_values() {
            let gas_limit = draft.transaction.gas_limit;
            if let Some(waiting) = draft.order.and_then(|order| self.waiting.get_mut(&order)) {
                waiting.stage = Stage::Ready { gas_limit, at_ms: now };
            }
        }
    }

    /// The lowest drafts that are signed become records.
    pub(super) fn settle_drafts(&mut self, now: u64) {
        while let Some(entry) = self.drafts.first_entry() {
            // What the nonce was used for before is over, and is told so once that is durable: not before its record goes.
            if entry.get().signed.is_none() || self.slots.get(entry.key()).is_some_and(|live| !live.is_settled()) {
                break;
            }
            let Draft { order, transaction, module, signed, .. } = entry.remove();
            let Some(signed) = signed else { unreachable!("a draft lost its signature") };
            let nonce = transaction.nonce;
            if let Some(order) = order
                && self.waiting[&order].is_late(now)
            {
                self.end(order, FailureKind::Expired, "its deadline passed before it was broadcast".to_owned(), None);
                self.drop_drafts(nonce, now);
                break;
            }
            let intent = order.map(|order| self.leave(order).intent);
            let variant = Variant {
                raw: signed.raw.into(),
                hash: signed.hash,
                fees: transaction.fees,
                gas_limit: transaction.gas_limit,
                at_ms: now,
                empty: intent.is_none(),
            };
            match &intent {
                Some(intent) => {
                    self.places.insert(intent.id.clone(), Place::Nonce(nonce));
                }
                None => self.notes.push(Note::GapFilled),
            }
            self.forget_void(nonce);
            let variants = vec![variant];
            // A call has its hash, and nobody asks further.
            let told = intent.as_ref().is_some_and(|intent| nexum_host_ifaces::outbox::is_of_call(&intent.id));
            let slot =
                Slot { nonce, module, intent, variants, standing: Standing::Signed, withdrawn: None, told, at_ms: now };
            let mut live = Live::new(slot, 0, false);
            // The nonce was unused when it was taken.
            (live.born, live.watched) = (self.changes, true);
            self.slots.insert(nonce, live);
            self.live.insert(nonce);
            self.counted = self.counted.max(Some(nonce + 1));
            self.change(nonce, true);
        }
    }

    /// The record of a free nonce makes way for another one; what it says of its intent is kept.
    fn forget_void(&mut self, nonce: u64) {
        // Mostly there is none.
        let Some(mut live) = self.slots.remove(&nonce) else { return };
        assert_eq!(live.slot.standing, Standing::Void, "nonce {nonce} is taken");
        if let (Some(answer), Some(intent)) = (self.end_of(&live.slot), mem::take(&mut live.slot.intent)) {
            self.remember(intent.id, answer);
        }
    }
}

fn too_little(facts: &Facts, needed: u128) -> String {
    format!("the account has {} wei, and what is next needs {needed} with what is under way", facts.balance)
}

/// Asking again would bring the same answer.
pub(super) fn is_final(error: &HostError) -> bool {
    matches!(error.kind, HostErrorKind::Denied | HostErrorKind::Unsupported | HostErrorKind::InvalidInput)
}

/// The beginning of a message that another side wrote.
pub(super) fn short(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}
