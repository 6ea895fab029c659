//! Nonces: who gets which, how gaps are closed, and how what was signed becomes a record.

use std::mem;

use nexum_host_ifaces::{
    HostError,
    interfaces::identity::port::{Purpose, SignedTransaction},
    transactions::{FailureKind, WaitKind},
};

use super::{
    AGAIN_MS, Action, Draft, Facts, Live, Note, Place, Queue, SIGNING_MAX, Slot, cost, short, unsigned,
    waiting::{Stage, Waiting, is_final, too_little},
};
use crate::{
    fees::{self, Kind, TooDear},
    record::{Standing, Variant},
};

impl Queue {
    /// Takes nonces for those that are ready, in their order.
    pub(super) fn draft(&mut self, now: u64, out: &mut Vec<Action>) {
        // Asked for; until then nothing is signed.
        let Some(facts) = self.fresh(now) else { return };
        let room = self.settings.max_in_flight.saturating_sub(self.in_flight());
        let mut room = room.min(SIGNING_MAX.saturating_sub(self.drafts.len()));
        let ready = |waiting: &Waiting| matches!(waiting.stage, Stage::Ready { .. }) && waiting.look_ms <= now;
        let orders: Vec<i64> =
            self.waiting.iter().filter(|(_, waiting)| ready(waiting)).map(|(order, _)| *order).collect();
        for order in orders {
            if room == 0 {
                break;
            }
            room -= usize::from(self.draft_one(order, &facts, now, out));
        }
    }

    fn draft_one(&mut self, order: i64, facts: &Facts, now: u64, out: &mut Vec<Action>) -> bool {
        let (poll, committed) = (self.poll_ms(), self.committed(facts.nonce));
        let waiting = &self.waiting[&order];
        let Stage::Ready { gas_limit, .. } = waiting.stage else { unreachable!("intent {order} is not ready") };
        let bounds = self.settings.bounds(Some(&waiting.intent), waiting.ceiling);
        let fees = fees::first(&facts.market, &bounds, Kind::Asked);
        let (id, module, request) =
            (waiting.intent.id.clone(), waiting.intent.module.clone(), waiting.intent.request.clone());
        let nonce = self.free_nonce(facts.nonce);
        let Some(waiting) = self.waiting.get_mut(&order) else { unreachable!("intent {order} does not wait") };
        let fees = match fees {
            Ok(fees) => fees,
            Err(TooDear { most, floor }) => {
                let what = format!("pays at most {most} wei per gas, and the chain takes {floor}");
                waiting.hold(WaitKind::Fees, what, now, now + poll);
                return false;
            }
        };
        let transaction = unsigned(request, nonce, gas_limit, fees, Purpose::Asked);
        let needed = cost(&transaction).saturating_add(committed);
        if needed > facts.balance {
            waiting.wait_for(WaitKind::Balance, too_little(facts, needed), now);
            return false;
        }
        waiting.stage = Stage::Drafted;
        waiting.wait_for(WaitKind::Signature, "is being signed".to_owned(), now);
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
        let Ok(fees) = fees::first(&facts.market, &self.settings.bounds(None, None), Kind::Empty) else {
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
            let what = format!("cannot be signed: {}", short(&error.message));
            waiting.hold(WaitKind::Signature, what, now, now + AGAIN_MS);
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
                && (self.waiting[&order].given_up || self.waiting[&order].is_late(now))
            {
                // Those above it take lower nonces; it ends as what waits does.
                self.drop_drafts(nonce, now);
                let Some(waiting) = self.waiting.get_mut(&order) else { unreachable!("intent {order} does not wait") };
                waiting.stage = Stage::Admitted;
                self.expire(now);
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
