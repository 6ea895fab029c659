//! What follows the end of a module's actor: the order it stopped for, a restart after a wait, or nothing more.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use nexum_host_ifaces::{
    bounded::{MESSAGE_BYTES_MAX, cut},
    cron::CronMsg,
    interfaces::chain::port::ChainMsg,
    store::Standing,
};
use ractor::{ActorCell, ActorProcessingErr, ActorRef};

use super::{
    Msg, ORDER_DEADLINE, State, answer,
    slot::{Phase, missing},
    standing::Whom,
};
use crate::{
    admin::{AdminError, AdminReply},
    health,
    module::Exit,
    outbox,
    restart::{self, Decision, Fault},
};

/// Wait before a module starts again after something around it failed, which is not its fault.
const ENVIRONMENT_RETRY: Duration = Duration::from_secs(1);

/// Longest wait before a module is verified, compiled, linked and started again after something around it kept it from that.
const UNPREPARED_RETRY_MAX: Duration = Duration::from_secs(300);

/// Wait before a module tries again at a cursor that its source cannot serve.
const STUCK_RETRY: Duration = Duration::from_secs(300);

/// Wait before a module is prepared again that could not be so many times in a row. Each time a whole compilation may be in
/// vain, and take processor time and memory that others are short of.
fn unprepared_retry(times: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
    ENVIRONMENT_RETRY.saturating_mul(doubled).min(UNPREPARED_RETRY_MAX)
}

/// Why a module is dead from now on, if it is.
fn budget_spent(exit: &Exit) -> Option<&str> {
    match exit {
        Exit::Fault { health, decision: Decision::Dead, .. } | Exit::Standing(health) => match &health.standing {
            Standing::Dead { reason } => Some(reason),
            _ => None,
        },
        _ => None,
    }
}

impl State {
    /// A module's actor is gone: by order, by a failure it decided about, or by a bug in the host.
    pub(super) async fn on_ended(
        &mut self,
        myself: &ActorRef<Msg>,
        cell: &ActorCell,
        how: Result<Option<String>, ActorProcessingErr>,
    ) {
        // It comes again once it is written which version follows.
        let Some(how) = self.put_off(cell, how) else { return };
        let how = match how {
            // It comes again once the failure is counted; until then the actor is one that has not ended.
            Err(bug) if !bug.is::<Exit>() => return self.count_bug(myself, cell, &bug.to_string()),
            how => how,
        };
        // Every actor is noted as soon as it is spawned, before its end can be heard of.
        let Some(name) = self.by_actor.remove(&cell.get_id()) else { unreachable!("an actor of no module has ended") };
        // It was killed at the end of the shutdown's patience, and its module was unloaded before it was gone.
        let Some(slot) = self.slots.get_mut(&name) else { return };
        slot.actor = None;
        // Supervision events overtake messages: what the actor reported before its end must not count after it.
        self.generations += 1;
        slot.generation = self.generations;
        let then = slot.take_then();
        let exit = match how {
            Ok(_) => None,
            Err(error) => match error.downcast::<Exit>() {
                Ok(exit) => Some(*exit),
                Err(bug) => unreachable!("a bug was counted, and is one still: {bug}"),
            },
        };
        self.note_fault(&name, exit.as_ref());
        let reason = exit.as_ref().map_or_else(|| "it was stopped".to_owned(), ToString::to_string);
        self.end_upgrade(&name, &format!("the running version ended before: {reason}"));
        if let Some((then, reply)) = then {
            if let Some(reason) = exit.as_ref().and_then(budget_spent).filter(|_| !then.leaves_dead()) {
                return self.refuse_dead(&name, reason.to_owned(), reply);
            }
            return self.finish_order(myself, &name, then, Whom::Operator { reply, was_stopped: true }).await;
        }
        let Some(slot) = self.slots.get_mut(&name) else { missing(&name) };
        match exit {
            None => slot.phase = Phase::Stopped,
            Some(Exit::Load(reason)) => {
                tracing::error!(module = %name, "not loaded: {reason}");
                slot.die(reason);
            }
            Some(Exit::Standing(health)) => {
                slot.health = *health;
                slot.phase = match &slot.health.standing {
                    Standing::Dead { reason } => Phase::Dead { reason: reason.clone() },
                    _ => Phase::Paused,
                };
            }
            Some(Exit::Stuck(reason)) => {
                let reason = format!("`nexumctl module resync {name}` has to choose: {reason}");
                self.restart_in(myself, &name, STUCK_RETRY, reason);
            }
            Some(Exit::Unprepared(reason)) => {
                slot.unprepared = slot.unprepared.saturating_add(1);
                let wait = unprepared_retry(slot.unprepared);
                self.restart_in(myself, &name, wait, reason);
            }
            Some(Exit::Environment(reason)) => self.restart_in(myself, &name, ENVIRONMENT_RETRY, reason),
            Some(Exit::Fault { health, decision, .. }) => {
                let reason = health.last_error.clone().unwrap_or_default();
                match decision {
                    Decision::RestartIn(wait) => {
                        self.shared.metrics.module(&name).restarts.inc();
                        self.restart_in(myself, &name, wait, reason);
                    }
                    Decision::Dead => {
                        tracing::error!(module = %name, "dead: {reason}; `nexumctl module restart {name}` starts it again");
                        // Whoever decides that notes why.
                        let Standing::Dead { reason } = &health.standing else {
                            unreachable!("module {name} is dead, and its standing is {:?}", health.standing)
                        };
                        slot.die(reason.clone());
                    }
                }
            }
        }
    }

    /// Ends every actor that is left at the end of the shutdown's patience; what they were at.
    pub(super) fn kill_rest(&mut self) -> Vec<String> {
        let mut unfinished = Vec::new();
        for (name, slot) in &mut self.slots {
            if let Some(actor) = slot.actor.take() {
                unfinished.push(format!("module {name}: {}", slot.unfinished()));
                actor.kill();
            }
        }
        unfinished
    }

    /// Keeps what a failure left of the budget: for the next actor, for whoever looks, and for the next process.
    fn note_fault(&mut self, name: &Arc<str>, exit: Option<&Exit>) {
        // What is not the module's fault is not counted.
        let Some(Exit::Fault { health, written, .. }) = exit else { return };
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        slot.health = (**health).clone();
        slot.status.consecutive_failures.store(health.consecutive_failures, Ordering::Relaxed);
        self.shared.metrics.module(name).consecutive_failures.set(health.consecutive_failures.into());
        if let Err(error) = written {
            tracing::error!(module = %name, "its failure counters were not written: {error}");
            slot.override_health = Some((**health).clone());
        }
    }

    /// The budget was spent by the event that an order waited for: the order would take the module out of DEAD, which is
    /// left by `module restart` alone.
    fn refuse_dead(&mut self, name: &Arc<str>, reason: String, reply: AdminReply<()>) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        let refused = || AdminError::dead(name);
        tracing::error!(module = %name, "dead: {reason}");
        slot.die(reason);
        if let Some(resync) = slot.resync.take() {
            answer(resync.reply, Err(refused()));
        }
        answer(reply, Err(refused()));
    }

    /// A module stopped for an order that then failed: it starts again by itself, unless that is what failed.
    pub(super) fn fall_back(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>, error: &AdminError) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        if let Some(resync) = slot.resync.take() {
            answer(resync.reply, Err(AdminError::Unavailable(error.to_string())));
        }
        if self.shutting_down {
            slot.phase = Phase::Stopped;
        } else if !matches!(slot.phase, Phase::Dead { .. }) {
            self.restart_in(myself, name, ENVIRONMENT_RETRY, error.to_string());
        }
    }

    pub(super) fn restart_in(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>, wait: Duration, reason: String) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        tracing::warn!(module = %name, wait_ms = wait.as_millis() as u64, "restart: {reason}");
        let at_ns = self.shared.clock.monotonic_ns() + wait.as_nanos() as u64;
        slot.enter(Phase::Restart { at_ns, reason });
        let (module, generation) = (name.clone(), slot.generation);
        myself.send_after(wait, move || Msg::Start { module, generation });
    }

    /// Withdraws what an actor that could not do so itself still waits for: a chain would go on reading for a module that may
    /// never start again. One that does asks anew, after this.
    fn withdraw(&self, name: &Arc<str>) {
        let Some(slot) = self.slots.get(name) else { missing(name) };
        let granted = slot.plan.iter().flat_map(|plan| plan.grants.chains());
        for chain in granted.filter_map(|chain| self.shared.ports.chain(*chain)) {
            // A source that is down has forgotten already.
            let _ = chain.cast(ChainMsg::Forget { module: name.clone() });
        }
        // The same.
        let _ = self.shared.ports.of().cast(CronMsg::Forget { module: name.clone() });
        let _ = self.shared.outbox.cast(outbox::Msg::Forget { module: name.clone() });
    }

    /// The actor itself failed, by a panic or an unknown error: counted like a failure of the module, on top of what its
    /// last unit left.
    fn count_bug(&mut self, myself: &ActorRef<Msg>, cell: &ActorCell, bug: &str) {
        let id = cell.get_id();
        let Some(name) = self.by_actor.get(&id).cloned() else { unreachable!("an actor of no module has failed") };
        // A panic may repeat what it was about.
        let bug = cut(bug, MESSAGE_BYTES_MAX);
        tracing::error!(module = %name, bug, "a module's actor failed: this is a bug in nexum");
        // Its module was unloaded before it was gone, as below.
        let Some(slot) = self.slots.get(&name) else {
            self.by_actor.remove(&id);
            return;
        };
        self.withdraw(&name);
        let plan = slot.plan.as_ref();
        let policy = plan.map(|plan| plan.manifest.restart.clone()).unwrap_or_default();
        let fault = Fault { message: format!("host bug: {bug}"), backtrace: None, fuel: 0, event: None };
        let (known, jitter) = (slot.health.clone(), (self.shared.jitter)());
        let (store, cell, myself) = (self.shared.ports.store(), cell.clone(), myself.clone());
        let alive = self.writes.alive();
        let _counting: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let stored = health::read(&store, ORDER_DEADLINE, &name).await;
            // A supervisor that is gone has taken its modules along, and the next one has started them.
            if alive.strong_count() == 0 {
                return;
            }
            let mut health = stored.map_or(known, |info| info.health);
            let decision = restart::decide(&mut health, &fault, &policy, jitter);
            // The actor cannot do that any more.
            let written = health::put(&store, ORDER_DEADLINE, &name, health.clone()).await;
            let exit = Box::new(Exit::Fault { health: Box::new(health), decision, written });
            let _ = myself.send_message(Msg::BugCounted { cell, exit });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_prepared_is_tried_again_ever_later_but_for_ever() {
        let waits = [1, 2, 3, 9, 10, u32::MAX].map(|times| unprepared_retry(times).as_secs());
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }
}
