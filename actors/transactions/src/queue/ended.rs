//! Intents that end without a nonce, and what is kept of that.
//!
//! Invariant: what was given up by order stays so whatever happens to the process: it is told once that is durable. The other
//! ends come again from the same questions, or do not; no end was told then.

use std::collections::BTreeMap;

use nexum_host_ifaces::transactions::{FailureKind, SubmitAnswer, TransactionFailure};

use super::{
    KEPT, Note, Place, Queue,
    answers::result_name,
    waiting::{Stage, Waiting},
};
use crate::record::Standing;

/// Why an intent that was given up has ended.
const GIVEN_UP: &str = "the operator cancelled it before it had a nonce";

impl Queue {
    /// An intent ends without a nonce.
    pub(super) fn end(&mut self, order: i64, kind: FailureKind, message: String, data: Option<String>) {
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
            if self.given_up.remove(&oldest) {
                self.marks.insert(oldest, false);
            }
        }
    }

    pub(super) fn expire(&mut self, now: u64) {
        let late = |waiting: &Waiting| waiting.stage != Stage::Drafted && waiting.is_late(now);
        let late: Vec<i64> =
            self.waiting.iter().filter(|(_, waiting)| late(waiting)).map(|(order, _)| *order).collect();
        for order in late {
            self.end(order, FailureKind::Expired, "its deadline passed before it was broadcast".to_owned(), None);
        }
        let given_up = |waiting: &Waiting| waiting.stage != Stage::Drafted && waiting.given_up;
        let given_up: Vec<i64> =
            self.waiting.iter().filter(|(_, waiting)| given_up(waiting)).map(|(order, _)| *order).collect();
        for order in given_up {
            self.give_up(order);
        }
    }

    /// An intent that waits ends by order.
    pub(super) fn give_up(&mut self, order: i64) {
        let intent = self.waiting[&order].intent.id.clone();
        self.given_up.insert(intent.clone());
        self.marks.insert(intent, true);
        self.end(order, FailureKind::Cancelled, GIVEN_UP.to_owned(), None);
    }

    /// What is durable of an intent that was given up.
    pub fn load_given_up(&mut self, intent: String) {
        let failure =
            TransactionFailure { kind: FailureKind::Cancelled, message: GIVEN_UP.to_owned(), data: None, hash: None };
        self.given_up.insert(intent.clone());
        self.remember(intent, SubmitAnswer::Failed(Box::new(failure)));
    }

    /// The end of an intent without a nonce, once it may be told.
    pub(super) fn ended(&self, intent: &str) -> Option<SubmitAnswer> {
        let unwritten = |marks: &BTreeMap<String, bool>| marks.get(intent).is_some_and(|given_up| *given_up);
        if unwritten(&self.marks) || unwritten(&self.marking) {
            let what = "is being given up".to_owned();
            return Some(SubmitAnswer::Underway { what, after: self.settings.poll, hash: None });
        }
        self.ended.get(intent).cloned()
    }

    /// What a retry of an intent is answered with instead of being taken on: where that intent stands, as long as it may be
    /// mined. None where it failed for good, or nothing is known of it.
    pub fn retried(&self, before: &str) -> Option<SubmitAnswer> {
        let answer = self.answer(before)?;
        let SubmitAnswer::Failed(failure) = &answer else { return Some(answer) };
        let Some(Place::Nonce(nonce)) = self.places.get(before) else { return None };
        // It was given up while nobody could say what had used its nonce.
        let is_open = self.slots[nonce].slot.standing == Standing::Foreign && failure.kind == FailureKind::Cancelled;
        let refused = || TransactionFailure {
            message: format!("{}; it may be mined, so that a retry sends nothing: send it anew", failure.message),
            ..(**failure).clone()
        };
        is_open.then(|| SubmitAnswer::Failed(Box::new(refused())))
    }
}
