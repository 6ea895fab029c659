//! What is left of modules' effects, for whoever wants to stop something once nothing is.
//!
//! Invariant: an answer counts every effect that was durable when the question came. The actor hears of effects a moment
//! after they are durable, so a question first learns from the store how much there was to hear.

use std::collections::{BTreeMap, BTreeSet};

use nexum_host_ifaces::{outbox::OutboxRequest, store::StoreMsg};
use ractor::{ActorRef, RpcReplyPort};

use super::{Msg, STORE_DEADLINE, State, TaskResult, flat};
use crate::admin::Outstanding;

/// By module; those that have nothing are left out.
pub type Left = BTreeMap<String, Outstanding>;

/// A question that waits for its answer.
pub(super) struct PendingQuestion {
    /// Answered no earlier than none of these has anything that could go out.
    settled: BTreeSet<String>,
    /// How much there was to hear when the question came; absent until the store has said so.
    told: Option<u64>,
    number: u64,
    reply: RpcReplyPort<Left>,
}

impl State {
    pub(super) fn ask_left(&mut self, myself: &ActorRef<Msg>, settled: BTreeSet<String>, reply: RpcReplyPort<Left>) {
        let number = self.ask_told(myself);
        self.asked_left.push(PendingQuestion { settled, told: None, number, reply });
    }

    /// Asks the store how much there is to hear; the number that its answer comes with.
    fn ask_told(&mut self, myself: &ActorRef<Msg>) -> u64 {
        self.questions += 1;
        let number = self.questions;
        let store = self.args.ports.store();
        self.task(myself, async move {
            let told = store.call(STORE_DEADLINE, |reply| StoreMsg::Outbox(OutboxRequest::Told { reply })).await;
            TaskResult::Told { number, told: flat(told) }
        });
        number
    }

    pub(super) fn told(&mut self, number: u64, told: Result<u64, String>) {
        match told {
            Ok(told) => {
                if let Some(asked) = self.asked_left.iter_mut().find(|asked| asked.number == number) {
                    asked.told = Some(told);
                }
            }
            // Without a store nothing is known, and dropping the reply says so.
            Err(_) => self.asked_left.retain(|asked| asked.number != number),
        }
    }

    /// Everything was read anew, and what follows is counted from there.
    pub(super) fn heard_all(&mut self, myself: &ActorRef<Msg>) {
        self.heard = Some(0);
        for mut asked in std::mem::take(&mut self.asked_left) {
            (asked.number, asked.told) = (self.ask_told(myself), None);
            self.asked_left.push(asked);
        }
    }

    /// Answers the questions that can be answered now.
    pub(super) fn answer_left(&mut self) {
        for asked in std::mem::take(&mut self.asked_left) {
            let heard = asked.told.zip(self.heard).is_some_and(|(told, heard)| told <= heard);
            if heard && self.schedule.is_settled(|module| asked.settled.contains(module)) {
                // Nobody to tell when the caller gave up.
                let _ = asked.reply.send(self.schedule.outstanding().collect());
            } else if !asked.reply.is_closed() {
                self.asked_left.push(asked);
            }
        }
    }
}
