//! The operator's orders: checked against the module's state, and carried out once its actor has stopped.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::store::{ModuleHealth, Standing, StoreError, StoreMsg};
use ractor::ActorRef;

use super::{
    Msg, ORDER_DEADLINE, Order, State, answer,
    slot::{Phase, Slot, Then, missing},
};
use crate::{
    admin::{AdminError, AdminReply, ModuleSpec, ResyncOrder, Resynced},
    health,
    load::{Loader, Plan},
    module::{self, Resync},
    restart,
};

impl State {
    pub(super) async fn put_health(&self, name: &Arc<str>, health: ModuleHealth) -> Result<(), AdminError> {
        health::put(&self.shared.ports.store(), ORDER_DEADLINE, name, health).await.map_err(AdminError::Unavailable)
    }

    /// Loads a module now. Once that is written it is there after a restart of the engine, too.
    pub(super) async fn load_by_order(
        &mut self,
        myself: &ActorRef<Msg>,
        spec: ModuleSpec,
    ) -> Result<String, AdminError> {
        let spec = self.pinned(spec)?;
        // What was configured and unloaded comes back as configured.
        let configured = self.unloaded.iter().find(|unloaded| **unloaded == spec).cloned();
        let name = self.load(myself, spec, configured.clone(), false).await?;
        self.unloaded.retain(|unloaded| Some(unloaded) != configured.as_ref());
        Ok(name)
    }

    pub(super) async fn order(&mut self, myself: &ActorRef<Msg>, module: &str, order: Order, reply: AdminReply<()>) {
        let name: Arc<str> = module.into();
        let Some(slot) = self.slots.get_mut(&name) else {
            return answer(reply, Err(AdminError::UnknownModule(module.to_owned())));
        };
        let then = match slot.accept(module, order) {
            Ok(then) => then,
            Err(error) => return answer(reply, Err(error)),
        };
        // What would not start again must not be stopped.
        if matches!(then, Then::Start { afresh: true })
            && let Err(error) = slot.replanned(&self.shared.loader)
        {
            return answer(reply, Err(error));
        }
        if slot.actor.is_some() {
            tracing::info!(module = %name, ?order, "ordered; an event in flight is finished first");
            slot.then = Some((then, reply));
            slot.ask_to_stop();
            return;
        }
        let done = self.finish_order(myself, &name, then).await;
        self.conclude(myself, &name, then, done, reply);
    }

    /// Nothing is loaded meanwhile: this actor does one thing at a time.
    pub(super) async fn purge(&self, name: String) -> Result<Result<(), StoreError>, AdminError> {
        if let Some(slot) = self.slots.get(name.as_str()) {
            let hint = format!("`nexumctl module unload {name}` first");
            return Err(AdminError::WrongState { module: name, state: slot.phase.name().to_owned(), hint });
        }
        let purged = self.shared.ports.store().call(ORDER_DEADLINE, |reply| StoreMsg::Purge { name, reply }).await;
        purged.map_err(|error| AdminError::Unavailable(error.to_string()))
    }

    /// Starts a module that shall find its place on a chain first. A fresh actor does it before it asks any source.
    pub(super) async fn resync(
        &mut self,
        myself: &ActorRef<Msg>,
        module: &str,
        order: ResyncOrder,
        reply: AdminReply<Resynced>,
    ) {
        let name: Arc<str> = module.into();
        let Some(slot) = self.slots.get_mut(&name) else {
            return answer(reply, Err(AdminError::UnknownModule(module.to_owned())));
        };
        let hint = match slot.phase {
            _ if slot.then.is_some() || slot.resync.is_some() => Some("another order waits for its event in flight"),
            _ if slot.is_being_written() => Some("another order is being carried out"),
            Phase::Init | Phase::Run | Phase::Restart { .. } => None,
            Phase::Paused => Some("let it go on with `module resume` first"),
            _ => Some("it must run, or wait for its restart"),
        };
        if let Some(hint) = hint {
            let (state, hint) = (slot.phase.name().to_owned(), hint.to_owned());
            return answer(reply, Err(AdminError::WrongState { module: module.to_owned(), state, hint }));
        }
        slot.resync = Some(Resync { order, reply });
        if slot.actor.is_some() {
            // Who waits is told by the actor that carries it out.
            let unheard = ractor::concurrency::oneshot().0.into();
            slot.then = Some((Then::Start { afresh: false }, unheard));
            slot.ask_to_stop();
        } else {
            self.start(myself, &name).await;
        }
    }

    /// Carries out what an order wants once the module's actor is gone. What changes which modules run is to be written
    /// after that.
    pub(super) async fn finish_order(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        then: Then,
    ) -> Result<(), AdminError> {
        // A module whose manifest was wrong has no name and no state yet: an order to start it loads it anew.
        let planned = self.slots.get(name).is_some_and(|slot| slot.plan.is_some());
        match then {
            Then::Start { .. } if !planned => {
                let Some(slot) = self.slots.get(name) else { missing(name) };
                let (spec, configured) = ((*slot.spec).clone(), slot.configured.as_deref().cloned());
                self.load(myself, spec, configured, false).await?;
                self.slots.remove(name);
                Ok(())
            }
            Then::Forget => {
                let slot = self.slots.remove(name);
                self.unloaded.extend(slot.and_then(|slot| slot.configured).map(Arc::unwrap_or_clone));
                self.shared.metrics.forget(name);
                self.shared.permits.remove(name);
                self.shared.begun.forget(name);
                self.shared.outbox_metrics.forget(name);
                Ok(())
            }
            Then::Pause => {
                let mut health = self.health_of_living(name).await?;
                health.standing = Standing::Paused;
                self.put_health(name, health.clone()).await?;
                let Some(slot) = self.slots.get_mut(name) else { missing(name) };
                slot.health = health;
                slot.enter(Phase::Paused);
                Ok(())
            }
            Then::Hold => {
                let Some(slot) = self.slots.get_mut(name) else { missing(name) };
                slot.enter(Phase::Paused);
                Ok(())
            }
            Then::Start { .. } if self.shutting_down => {
                Err(AdminError::Unavailable(format!("{name} starts with the next engine: this one is shutting down")))
            }
            Then::Start { afresh } => {
                let mut health = match afresh {
                    true => self.stored_health(name).await?,
                    false => self.health_of_living(name).await?,
                };
                health.standing = Standing::Running;
                if afresh {
                    let plan = self.slots.get(name).and_then(|slot| slot.plan.as_ref());
                    let policy = plan.map(|plan| plan.manifest.restart.clone()).unwrap_or_default();
                    restart::refill(&mut health, &policy);
                    self.shared.begun.forgive(name);
                }
                let slot = self.slots.get(name).filter(|_| afresh);
                let plan = match slot.map(|slot| slot.replanned(&self.shared.loader)).transpose() {
                    Ok(plan) => plan.map(Arc::new),
                    Err(error) => {
                        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
                        slot.die(error.to_string());
                        return Err(error);
                    }
                };
                // Whoever ordered it may rely on it once it is answered, whatever becomes of the process.
                self.put_health(name, health.clone()).await?;
                let Some(slot) = self.slots.get_mut(name) else { missing(name) };
                slot.status.consecutive_failures.store(health.consecutive_failures, Ordering::Relaxed);
                slot.health = health;
                slot.override_health = None;
                slot.unprepared = 0;
                if let Some(plan) = &plan {
                    slot.plan = Some(plan.clone());
                    slot.prepared = None;
                    self.permit(plan);
                    // Whoever restarts a module wants to know what comes of its component now.
                    self.shared.loader.engine.try_again(plan.manifest.component);
                }
                self.start(myself, name).await;
                Ok(())
            }
        }
    }

    pub(super) async fn resume_all(&mut self, myself: &ActorRef<Msg>) -> Result<Vec<String>, AdminError> {
        let is_free = |slot: &Slot| slot.then.is_none() && !slot.is_being_written();
        let paused = self.slots.iter().filter(|(_, slot)| slot.phase == Phase::Paused && is_free(slot));
        let paused: Vec<Arc<str>> = paused.map(|(name, _)| name.clone()).collect();
        let mut resumed = Vec::new();
        for name in &paused {
            match self.finish_order(myself, name, Then::Start { afresh: false }).await {
                Ok(()) => resumed.push(name.to_string()),
                // It is dead, as the tree says from now on; the others are not to wait for it.
                Err(AdminError::WrongState { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(resumed)
    }

    pub(super) async fn stored_health(&self, name: &Arc<str>) -> Result<ModuleHealth, AdminError> {
        let opened =
            self.shared.ports.store().call(ORDER_DEADLINE, |reply| StoreMsg::Open { name: name.clone(), reply }).await;
        match opened {
            Ok(Ok(info)) => Ok(info.health),
            Ok(Err(error)) => Err(AdminError::Unavailable(error.to_string())),
            Err(error) => Err(AdminError::Unavailable(error.to_string())),
        }
    }

    /// The health of a module that is not dead. One that has just been loaded may be, and not have found it out yet.
    async fn health_of_living(&mut self, name: &Arc<str>) -> Result<ModuleHealth, AdminError> {
        let health = self.stored_health(name).await?;
        let Standing::Dead { reason } = &health.standing else { return Ok(health) };
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        slot.die(reason.clone());
        Err(AdminError::dead(name))
    }

    pub(super) fn retry_dead_letter(&mut self, module: &str, seq: u64, reply: AdminReply<()>) {
        let Some(slot) = self.slots.get(module) else {
            return answer(reply, Err(AdminError::UnknownModule(module.to_owned())));
        };
        let Some(actor) = slot.actor.clone().filter(|_| matches!(slot.phase, Phase::Run)) else {
            let hint = "dead letters are delivered again only to a running module".to_owned();
            let state = slot.phase.name().to_owned();
            return answer(reply, Err(AdminError::WrongState { module: module.to_owned(), state, hint }));
        };
        // A failed send drops the reply port, which the caller sees as "not running".
        let _ = actor.send_message(module::Msg::Retry { seq, reply });
    }
}

impl Slot {
    /// Reads the bundle again: its files may have changed since. The name is the identity of the state and must stay, and
    /// the module must not reach more than it did unless somebody says so.
    fn replanned(&self, loader: &Loader) -> Result<Plan, AdminError> {
        let plan = loader.plan(&self.spec).map_err(AdminError::Load)?;
        let Some(present) = &self.plan else { return Ok(plan) };
        let (name, found) = (&present.manifest.name, &plan.manifest.name);
        if found != name {
            let source = self.spec.source.display();
            return Err(AdminError::Load(format!(
                "{source} now holds module `{found}`, not `{name}`: unload and load it"
            )));
        }
        let beyond = plan.grants.beyond(&present.grants);
        match beyond.is_empty() {
            true => Ok(plan),
            false => Err(AdminError::RestartNeedsApproval { module: name.to_string(), beyond: beyond.join(", ") }),
        }
    }
}
