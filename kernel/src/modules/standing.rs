//! What is stored of whether a module is to run, changed beside the supervisor: a store that is slow holds up whoever
//! ordered the change, and nobody else.
//!
//! Invariant: until the store has answered, the module has no actor and takes no other order.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::store::{ModuleHealth, Standing};
use ractor::ActorRef;

use super::{
    Msg, ORDER_DEADLINE, State,
    slot::{Phase, Then, missing},
    upgrade::Before,
};
use crate::{
    admin::{AdminError, AdminReply},
    health::{self, Changed},
    load::Plan,
    restart,
};

/// Who waits for an order to be carried out.
pub(super) enum Whom {
    /// Whoever gave it. A module that was stopped for it starts again by itself when it fails.
    Operator { reply: AdminReply<()>, was_stopped: bool },
    /// An upgrade in the place of what does not run.
    Upgrade(Before),
}

/// What follows once it is stored.
pub(super) struct Changing {
    pub(super) then: Then,
    /// What starts in the place of what ran before.
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) whom: Whom,
}

impl State {
    /// Stores that a module is to run, or to pause; `on_standing_changed` goes on.
    pub(super) fn change_standing(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>, changing: Changing) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        assert!(slot.changing.is_none(), "module {name} is being changed by two orders at once");
        let then = changing.then;
        slot.changing = Some(Box::new(changing));
        let policy = slot.plan.as_ref().map(|plan| plan.manifest.restart.clone()).unwrap_or_default();
        let (store, name, myself) = (self.shared.ports.store(), name.clone(), myself.clone());
        let alive = self.writes.alive();
        let change = move |health: &mut ModuleHealth| {
            if alive.strong_count() == 0 {
                return Err("the supervisor is gone, and the next one has started the module".to_owned());
            }
            // A dead module obeys an order to begin afresh alone. It may not have found out yet that it is dead.
            if let Standing::Dead { reason } = &health.standing
                && !then.leaves_dead()
            {
                return Err(reason.clone());
            }
            health.standing = if then == Then::Pause { Standing::Paused } else { Standing::Running };
            if then == (Then::Start { afresh: true }) {
                restart::refill(health, &policy);
            }
            Ok(())
        };
        let _storing: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let changed = health::change(&store, ORDER_DEADLINE, &name, change).await;
            // A supervisor that is gone dropped the reply of whoever waited.
            let _ = myself.send_message(Msg::StandingChanged { module: name, changed });
        });
    }

    /// It is stored, or could not be: what was ordered is carried out, or failed.
    pub(super) async fn on_standing_changed(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        changed: Result<Changed, String>,
    ) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        let Some(changing) = slot.changing.take() else {
            unreachable!("the standing of module {name} was changed, and nobody ordered that")
        };
        let Changing { then, plan, whom } = *changing;
        let done = match changed {
            Err(error) => Err(AdminError::Unavailable(error)),
            Ok(Err(reason)) => {
                slot.die(reason);
                Err(AdminError::dead(name))
            }
            Ok(Ok(health)) if then == Then::Pause => {
                slot.health = health;
                slot.enter(Phase::Paused);
                Ok(())
            }
            Ok(Ok(health)) => {
                slot.status.consecutive_failures.store(health.consecutive_failures, Ordering::Relaxed);
                slot.health = health;
                slot.override_health = None;
                slot.unprepared = 0;
                if then == (Then::Start { afresh: true }) {
                    self.shared.begun.forgive(name);
                }
                if let Some(plan) = plan {
                    slot.plan = Some(plan.clone());
                    slot.prepared = None;
                    self.permit(&plan);
                    // Whoever restarts a module wants to know what comes of its component now.
                    self.shared.loader.engine.try_again(plan.manifest.component);
                }
                self.start(myself, name).await;
                Ok(())
            }
        };
        self.finished(myself, name, then, done, whom);
        self.report_stopped();
    }

    /// An order was carried out, or failed: whoever waits is told.
    pub(super) fn finished(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        then: Then,
        done: Result<(), AdminError>,
        whom: Whom,
    ) {
        match whom {
            Whom::Operator { reply, was_stopped } => {
                if let (Err(error), true) = (&done, was_stopped) {
                    self.fall_back(myself, name, error);
                }
                self.conclude(myself, name, then, done, reply);
            }
            Whom::Upgrade(before) => self.place_taken(myself, name, done, before),
        }
    }
}
