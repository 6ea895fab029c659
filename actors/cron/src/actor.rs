//! The cron actor: holds the pulls that wait, and one timer for the first of them.
//!
//! Invariant: the timer only says when to look; what is due is decided by the injected clock. So a clock that jumps, or
//! a machine that slept, is noticed at the next look, which is never more than `LOOK_MS_MAX` away.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    clock::Clock,
    cron::{CronMsg, CronPull, CronStatus},
    event::{Answer, Cursor, Delivery, EventId, SourceId, SourceReply},
    types::{Event, Tick},
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, MessagingErr, SpawnErr, concurrency::JoinHandle};

use crate::{
    due::{Due, due},
    schedule::Plan,
};

/// The timer runs on the machine's monotonic clock, schedules on the calendar's: this bounds how long they may disagree.
const LOOK_MS_MAX: u64 = 30_000;

/// What a cron actor is started with.
pub struct Args {
    pub clock: Arc<dyn Clock>,
}

pub struct State {
    clock: Arc<dyn Clock>,
    waiting: HashMap<(Arc<str>, SourceId), Waiting>,
    /// The armed timer, and when it goes off.
    timer: Option<(Timer, u64)>,
}

type Timer = JoinHandle<Result<(), MessagingErr<CronMsg>>>;

struct Waiting {
    pull: CronPull,
    plan: Plan,
    /// When there is something; none when the schedule fires no more.
    next_ms: Option<u64>,
}

pub struct CronActor;

/// Starts the cron actor under `supervisor`.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<CronMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, CronActor, args, supervisor).await
}

impl Actor for CronActor {
    type Msg = CronMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<CronMsg>, Args { clock }: Args) -> Result<State, ActorProcessingErr> {
        Ok(State { clock, waiting: HashMap::new(), timer: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<CronMsg>,
        message: CronMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CronMsg::Pull(pull) => state.pull(pull),
            CronMsg::Forget { module } => state.waiting.retain(|(waiting, _), _| *waiting != module),
            CronMsg::Wake => {
                state.disarm();
                state.look();
            }
            CronMsg::Status(reply) => {
                // Nobody to tell when the caller gave up.
                let _ = reply.send(state.status());
            }
        }
        state.arm(&myself);
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl Waiting {
    /// Whether the pull may have an answer: its time has come, or the clock was set back behind it.
    fn worth_a_look(&self, now: u64) -> bool {
        self.next_ms.is_some_and(|next| next <= now) || self.pull.after.is_some_and(|after| after > now)
    }
}

impl State {
    fn pull(&mut self, pull: CronPull) {
        let key = (pull.module.clone(), pull.source.clone());
        self.waiting.remove(&key);
        match Plan::new(&pull.schedule) {
            Ok(plan) => {
                let now = self.clock.now_ms();
                if let Some(waiting) = settle(pull, plan, now) {
                    self.waiting.insert(key, waiting);
                }
            }
            // The manifest check refuses such schedules; one that slipped through must not wait for ever.
            Err(reason) => answer(&pull, Answer::Stuck { reason }),
        }
    }

    /// Answers whatever is due.
    fn look(&mut self) {
        let now = self.clock.now_ms();
        let ready: Vec<_> = self.waiting.extract_if(|_, waiting| waiting.worth_a_look(now)).collect();
        for (key, Waiting { pull, plan, .. }) in ready {
            if let Some(waiting) = settle(pull, plan, now) {
                self.waiting.insert(key, waiting);
            }
        }
    }

    fn disarm(&mut self) {
        if let Some((timer, _)) = self.timer.take() {
            timer.abort();
        }
    }

    /// Sees to it that the timer goes off in time for the first pull.
    fn arm(&mut self, myself: &ActorRef<CronMsg>) {
        let now = self.clock.now_ms();
        let first = self.waiting.values().filter_map(|waiting| waiting.next_ms).min();
        // Nobody waits for a time.
        let Some(first) = first else { return self.disarm() };
        let at = first.min(now.saturating_add(LOOK_MS_MAX));
        // A timer that goes off earlier arms the next one.
        if self.timer.as_ref().is_some_and(|(_, armed)| *armed <= at) {
            return;
        }
        self.disarm();
        let timer = myself.send_after(Duration::from_millis(at.saturating_sub(now)), || CronMsg::Wake);
        self.timer = Some((timer, at));
    }

    fn status(&self) -> CronStatus {
        let now = self.clock.now_ms();
        let first = self.waiting.values().filter_map(|waiting| waiting.next_ms).min();
        CronStatus { schedules: self.waiting.len(), next_in_ms: first.map(|first| first.saturating_sub(now)) }
    }
}

/// Answers the pull if something is due, or says until when it waits.
fn settle(pull: CronPull, plan: Plan, now: u64) -> Option<Waiting> {
    let next_ms = match due(&plan, pull.missed, pull.after, pull.max, now) {
        Due::At(next) => Some(next),
        Due::Never => None,
        Due::Now { fired_at, progress, skipped } => {
            let deliveries = fired_at.into_iter().map(|fired_at| delivery(&pull.source, fired_at)).collect();
            let progress = Some(Cursor::Cron { fired_at: progress });
            answer(&pull, Answer::Events { deliveries, progress, skipped });
            return None;
        }
    };
    Some(Waiting { pull, plan, next_ms })
}

fn delivery(source: &SourceId, fired_at: u64) -> Delivery {
    Delivery {
        id: EventId::Tick { source: source.clone(), fired_at },
        event: Arc::new(Event::Tick(Tick { fired_at })),
        cursor: Cursor::Cron { fired_at },
        seen_ns: 0,
    }
}

fn answer(pull: &CronPull, answer: Answer) {
    let reply = SourceReply { source: pull.source.clone(), token: pull.token, answer };
    if pull.to.send_message(reply).is_err() {
        // It stopped meanwhile; its next instance pulls again.
        tracing::debug!(module = %pull.module, source = %pull.source, "a tick came for a module that is gone");
    }
}

#[cfg(test)]
mod tests;
