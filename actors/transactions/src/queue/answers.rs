//! What a queue says of itself: to whoever submitted, and to people.

use std::cmp::Reverse;

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    transactions::{
        FailureKind, Intent, MinedTransaction, QueueStatus, SubmitAnswer, TransactionFailure, TransactionOrder,
        TransactionSummary, Which,
    },
};

use super::{
    Live, Place, Queue,
    waiting::{Stage, Waiting},
};
use crate::record::{Mined, Slot, Standing};

/// An end, as the metric names it.
pub(super) fn result_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Denied => "denied",
        FailureKind::WouldRevert => "would-revert",
        FailureKind::Reverted => "reverted",
        FailureKind::Expired => "expired",
        FailureKind::Cancelled => "cancelled",
        FailureKind::Replaced => "replaced",
        FailureKind::Refused => "refused",
    }
}

/// The end of a final nonce, as the metric names it.
pub(super) fn mined_name(slot: &Slot) -> &'static str {
    let Standing::Final(mined) = &slot.standing else { unreachable!("nonce {} is not final", slot.nonce) };
    match (is_empty(slot, mined), &slot.withdrawn) {
        (true, Some((kind, _))) => result_name(*kind),
        (true, None) => unreachable!("nonce {} was used up for no reason", slot.nonce),
        (false, _) if mined.succeeded => "mined",
        (false, _) => result_name(FailureKind::Reverted),
    }
}

/// Whether it is a transfer of nothing that was mined.
fn is_empty(slot: &Slot, mined: &Mined) -> bool {
    let Some(variant) = slot.variants.iter().find(|variant| variant.hash == mined.hash) else {
        unreachable!("{} was not signed with nonce {}", mined.hash, slot.nonce)
    };
    variant.empty
}

impl Queue {
    /// Where an intent stands; none of one that this queue does not know.
    pub(super) fn answer(&self, intent: &str) -> Option<SubmitAnswer> {
        match self.places.get(intent)? {
            Place::Ended => self.ended(intent),
            Place::Waiting(order) => {
                let trouble = self.store_trouble.as_ref().or(self.chain_trouble.as_ref());
                let what = trouble.unwrap_or(&self.waiting[order].what).clone();
                Some(SubmitAnswer::Underway { what, after: self.settings.poll, hash: None })
            }
            Place::Nonce(nonce) => {
                let live = &self.slots[nonce];
                let hash = live.slot.variants[..live.written].last().map(|variant| variant.hash);
                let underway = || SubmitAnswer::Underway { what: what(live), after: self.settings.poll, hash };
                // An end is told once it is durable.
                Some(self.end_of(&live.slot).filter(|_| live.is_settled()).unwrap_or_else(underway))
            }
        }
    }

    /// Notes that whoever submitted an intent has heard its end.
    pub(super) fn told(&mut self, intent: &str) {
        let Some(Place::Nonce(nonce)) = self.places.get(intent) else { return }; // Of others there is no record.
        let nonce = *nonce;
        let news = |live: &Live| !live.slot.is_live() && !live.slot.told && live.durable == live.changes;
        if let Some(live) = self.slots.get_mut(&nonce).filter(|live| news(live)) {
            live.slot.told = true;
            self.change(nonce, false);
        }
    }

    /// The end of the intent of a nonce, if it has come.
    pub(super) fn end_of(&self, slot: &Slot) -> Option<SubmitAnswer> {
        let failed = |kind, message: String, hash| {
            Some(SubmitAnswer::Failed(Box::new(TransactionFailure { kind, message, data: None, hash })))
        };
        let withdrawn = |hash| {
            let Some((kind, message)) = &slot.withdrawn else {
                unreachable!("nonce {} ended for no reason", slot.nonce)
            };
            failed(*kind, message.clone(), hash)
        };
        slot.intent.as_ref()?;
        match &slot.standing {
            Standing::Signed | Standing::Accepted | Standing::Mined(_) => None,
            Standing::Void => withdrawn(None),
            Standing::Foreign => withdrawn(Some(slot.newest().hash)),
            Standing::Final(mined) if is_empty(slot, mined) => withdrawn(Some(mined.hash)),
            Standing::Final(mined) if !mined.succeeded => {
                let message = format!("it reverted in block {}", mined.block_number);
                failed(FailureKind::Reverted, message, Some(mined.hash))
            }
            Standing::Final(mined) => Some(SubmitAnswer::Mined(Box::new(MinedTransaction {
                hash: mined.hash,
                nonce: slot.nonce,
                block_number: mined.block_number,
                block_hash: mined.block_hash,
                gas_used: mined.gas_used,
                effective_gas_price: mined.effective_gas_price.to_string(),
                contract_address: mined.contract.map(|contract| contract.to_string()),
            }))),
        }
    }

    /// Why the queue stands still, if it does.
    pub(super) fn trouble(&self) -> Option<String> {
        [&self.store_trouble, &self.chain_trouble, &self.short].into_iter().flatten().next().cloned()
    }

    /// Does what an operator wants of one transaction.
    ///
    /// # Errors
    /// `invalid-input` where there is nothing to be done.
    pub fn order_about(&mut self, which: &Which, order: TransactionOrder) -> Result<String, HostError> {
        let refused = |message: String| HostError::new("transactions", HostErrorKind::InvalidInput, message);
        let intent = match which {
            Which::Nonce(nonce) => return self.order(*nonce, order),
            Which::Intent(intent) => intent,
        };
        match (self.places.get(intent).copied(), order) {
            (Some(Place::Nonce(nonce)), _) => self.order(nonce, order),
            (Some(Place::Waiting(_)), TransactionOrder::Bump) => {
                Err(refused(format!("{intent} waits for a nonce: there are no fees yet to be raised")))
            }
            (Some(Place::Waiting(place)), TransactionOrder::Cancel) => {
                let Some(waiting) = self.waiting.get_mut(&place) else { unreachable!("intent {place} does not wait") };
                waiting.given_up = true;
                // What is being signed at this moment is thrown away unless its record is there first.
                if waiting.stage != Stage::Drafted {
                    self.give_up(place);
                }
                Ok(format!("{intent} is given up, and gets no nonce"))
            }
            (Some(Place::Ended) | None, _) => Err(refused(format!("{intent} is not under way"))),
        }
    }

    /// The same of one nonce.
    ///
    /// # Errors
    /// `invalid-input` where there is nothing to be done.
    pub fn order(&mut self, nonce: u64, order: TransactionOrder) -> Result<String, HostError> {
        let refused = |message: String| HostError::new("transactions", HostErrorKind::InvalidInput, message);
        let live = self.slots.get_mut(&nonce).filter(|live| live.slot.is_live());
        let live = live.ok_or_else(|| refused(format!("nonce {nonce} has no transaction that is under way")))?;
        if let Standing::Mined(mined) = &live.slot.standing {
            return Err(refused(format!("{} is in block {} already", mined.hash, mined.block_number)));
        }
        match order {
            TransactionOrder::Bump => {
                (live.bump, live.hold_ms) = (true, 0);
                Ok(format!("nonce {nonce} is signed with higher fees, if these are within the bounds"))
            }
            TransactionOrder::Cancel if live.slot.intent.is_none() => {
                Err(refused(format!("nonce {nonce} is a transfer of nothing")))
            }
            TransactionOrder::Cancel => {
                if live.slot.withdrawn.is_none() {
                    live.slot.withdrawn = Some((FailureKind::Cancelled, "the operator cancelled it".to_owned()));
                    live.hold_ms = 0;
                    self.change(nonce, true);
                }
                Ok(format!("nonce {nonce} is replaced by a transfer of nothing; whichever is mined counts"))
            }
        }
    }

    pub fn status(&self, now: u64) -> QueueStatus {
        let open = self.live.iter().filter(|nonce| self.slots[nonce].slot.is_open()).count();
        let slots = self.live.iter().map(|nonce| self.slots[nonce].slot.at_ms);
        let oldest = slots.chain(self.waiting.values().map(|waiting| waiting.at_ms)).min();
        let (waits, more_waits, oldest_waits) = self.waits(now);
        QueueStatus {
            chain_id: self.key.chain_id,
            account: self.key.account.to_string(),
            next_nonce: self.facts.map(|facts| self.free_nonce(facts.nonce)),
            in_flight: open,
            waiting: self.waiting.len(),
            stopped: self.trouble(),
            oldest_age_ms: oldest.map(|at_ms| now.saturating_sub(at_ms)),
            foreign_nonces: self.foreign,
            stopped_age_ms: self.stopped_ms.map(|since_ms| now.saturating_sub(since_ms)),
            waits,
            more_waits,
            oldest_waits,
        }
    }

    /// What has not ended, and the newest of what has, at most `limit`.
    pub fn list(&self, limit: usize, now: u64) -> Vec<TransactionSummary> {
        let live = self.live.iter().map(|nonce| self.of_slot(&self.slots[nonce], now));
        let waiting = self.waiting.values().map(|waiting| self.of_waiting(waiting, now));
        let ended = self.slots.values().rev().filter(|live| !live.slot.is_live()).map(|live| self.of_slot(live, now));
        live.chain(waiting).chain(ended).take(limit).collect()
    }

    fn of_slot(&self, live: &Live, now: u64) -> TransactionSummary {
        let Slot { nonce, module, intent, variants, standing, withdrawn, at_ms, .. } = &live.slot;
        let request = intent.as_ref().map(|intent| &intent.request);
        let failed = || withdrawn.as_ref().map(|(_, message)| message.clone());
        let (state, what) = match standing {
            Standing::Signed => ("signed", what(live)),
            Standing::Accepted => ("broadcast", what(live)),
            Standing::Mined(_) => ("mined", what(live)),
            Standing::Final(mined) if mined.succeeded && !is_empty(&live.slot, mined) => {
                ("final", format!("in block {}", mined.block_number))
            }
            Standing::Final(mined) if intent.is_none() => ("final", format!("in block {}", mined.block_number)),
            Standing::Final(mined) if is_empty(&live.slot, mined) => ("failed", failed().unwrap_or_default()),
            Standing::Final(mined) => ("failed", format!("reverted in block {}", mined.block_number)),
            Standing::Foreign => ("failed", "used by a transaction that is not of this engine".to_owned()),
            Standing::Void => ("failed", failed().unwrap_or_default()),
        };
        let mut summary = self.summary(module, intent.as_deref(), state, what, now.saturating_sub(*at_ms));
        summary.nonce = Some(*nonce);
        summary.to = request.map_or(Some(self.key.account.to_string()), |request| request.to.map(|to| to.to_string()));
        summary.hashes = variants.iter().map(|variant| variant.hash).collect();
        summary.fee_per_gas = variants.last().map(|variant| variant.fees.per_gas_max().to_string());
        summary
    }

    fn of_waiting(&self, waiting: &Waiting, now: u64) -> TransactionSummary {
        let Waiting { intent, what, at_ms, .. } = waiting;
        let mut summary =
            self.summary(&intent.module, Some(intent), "waiting", what.clone(), now.saturating_sub(*at_ms));
        summary.to = intent.request.to.map(|to| to.to_string());
        summary
    }

    fn summary(
        &self,
        module: &str,
        intent: Option<&Intent>,
        state: &str,
        what: String,
        age_ms: u64,
    ) -> TransactionSummary {
        TransactionSummary {
            chain_id: self.key.chain_id,
            account: self.key.account.to_string(),
            nonce: None,
            module: module.to_owned(),
            intent: intent.map(|intent| intent.id.clone()),
            to: None,
            value: intent.map_or("0".to_owned(), |intent| decimal(&intent.request.value.0)),
            state: state.to_owned(),
            what,
            age_ms,
            hashes: Vec::new(),
            fee_per_gas: None,
        }
    }
}

/// What a nonce waits for, for people.
pub(super) fn what(live: &Live) -> String {
    let variants = live.slot.variants.len();
    if live.written < variants {
        return "is being written".to_owned();
    }
    match (&live.slot.standing, live.what.as_str()) {
        (Standing::Mined(mined), "") => {
            let through = mined.block_number.saturating_add(live.slot.confirmations() - 1);
            format!("in block {}, final with block {through}", mined.block_number)
        }
        (_, "") if live.slot.withdrawn.is_some() => "is being withdrawn".to_owned(),
        (Standing::Accepted, "") => "waits to be mined".to_owned(),
        (_, "") => "is being broadcast".to_owned(),
        (_, what) => what.to_owned(),
    }
}

/// A big-endian number in decimal.
fn decimal(number: &[u8; 32]) -> String {
    let (mut number, mut digits) = (*number, Vec::new());
    while number.iter().any(|byte| *byte != 0) {
        let rest = number.iter_mut().fold(0u16, |rest, byte| {
            let value = rest * 256 + u16::from(*byte);
            *byte = u8::try_from(value / 10).unwrap_or(u8::MAX);
            value % 10
        });
        digits.push(char::from_digit(u32::from(rest), 10).unwrap_or('0'));
    }
    if digits.is_empty() {
        digits.push('0');
    }
    digits.into_iter().rev().collect()
}

/// The newest of several queues' transactions: what has not ended first, each by its age.
pub fn newest(mut all: Vec<TransactionSummary>, limit: usize) -> Vec<TransactionSummary> {
    let ended = |summary: &TransactionSummary| matches!(summary.state.as_str(), "final" | "failed");
    all.sort_by_key(|summary| {
        (ended(summary), if ended(summary) { summary.age_ms } else { 0 }, Reverse(summary.nonce))
    });
    all.truncate(limit);
    all
}
