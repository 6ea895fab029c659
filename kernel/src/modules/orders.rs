//! The operator's orders: checked against the module's state, and carried out once its actor has stopped.

use std::sync::Arc;

use nexum_host_ifaces::store::{StoreError, StoreMsg};
use ractor::{ActorRef, rpc::CallResult};

use super::{
    Msg, ORDER_DEADLINE, State, answer,
    owner::Newest,
    slot::{Phase, Slot, Then, missing},
    standing::{Changing, Whom},
    writes::Waiter,
};
use crate::{
    admin::{AdminError, AdminReply, ModuleSpec, ModulesOrder, Order, ResyncOrder, Resynced},
    load::{Loader, Plan},
    module::{self, Resync},
};

/// Purges at once. More are refused.
const PURGES_MAX: usize = 64;

impl State {
    pub(super) async fn carry_out(&mut self, myself: &ActorRef<Msg>, order: ModulesOrder) {
        match order {
            ModulesOrder::Load { spec, reply } => self.order_to_load(myself, spec, reply).await,
            ModulesOrder::One { module, order, reply } => self.order(myself, &module, order, reply).await,
            ModulesOrder::Upgrade { wanted, reply } => self.upgrade(myself, wanted, reply),
            ModulesOrder::Resync { module, order, reply } => self.resync(myself, &module, order, reply).await,
            ModulesOrder::RetryDeadLetter { module, seq, reply } => self.retry_dead_letter(&module, seq, reply),
            ModulesOrder::Purge { module, reply } => self.purge(myself, module, reply),
            ModulesOrder::ResumeAll(reply) => self.resume_all(myself, reply),
            ModulesOrder::Query { module, question, reply } => self.query(&module, question, reply),
        }
    }

    /// Loads a module now. Once that is written it is there after a restart of the engine, too.
    pub(super) async fn load_by_order(
        &mut self,
        myself: &ActorRef<Msg>,
        spec: ModuleSpec,
        newest: Option<Newest>,
        reply: AdminReply<String>,
    ) {
        // What was configured and unloaded comes back as configured.
        let configured = self.unloaded.iter().find(|unloaded| **unloaded == spec).cloned();
        match self.load(myself, spec, configured.clone(), false, newest).await {
            Ok(name) => {
                self.unloaded.retain(|unloaded| Some(unloaded) != configured.as_ref());
                self.write(myself, Waiter::Loaded(name, reply));
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    async fn order(&mut self, myself: &ActorRef<Msg>, module: &str, order: Order, reply: AdminReply<()>) {
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
        self.finish_order(myself, &name, then, Whom::Operator { reply, was_stopped: false }).await;
    }

    /// Has the store remove everything about a module. Nothing of that name is loaded meanwhile.
    fn purge(&mut self, myself: &ActorRef<Msg>, name: String, reply: AdminReply<Result<(), StoreError>>) {
        if let Some(slot) = self.slots.get(name.as_str()) {
            let hint = format!("`nexumctl module unload {name}` first");
            let state = slot.phase.name().to_owned();
            return answer(reply, Err(AdminError::WrongState { module: name, state, hint }));
        }
        if self.purging.len() >= PURGES_MAX || !self.purging.insert(name.clone()) {
            return answer(reply, Err(AdminError::Unavailable(format!("{name}: another purge is under way"))));
        }
        let (store, myself) = (self.shared.ports.store(), myself.clone());
        let _purging: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let purged = store.call(ORDER_DEADLINE, |reply| StoreMsg::Purge { name: name.clone(), reply }).await;
            let purged = purged.map_err(|error| AdminError::Unavailable(error.to_string()));
            // A supervisor that is gone drops the reply.
            let _ = myself.send_message(Msg::Purged { module: name, purged, reply });
        });
    }

    /// Starts a module that shall find its place on a chain first. A fresh actor does it before it asks any source.
    async fn resync(&mut self, myself: &ActorRef<Msg>, module: &str, order: ResyncOrder, reply: AdminReply<Resynced>) {
        let name: Arc<str> = module.into();
        let Some(slot) = self.slots.get_mut(&name) else {
            return answer(reply, Err(AdminError::UnknownModule(module.to_owned())));
        };
        let hint = match slot.phase {
            _ if slot.then.is_some() || slot.resync.is_some() => Some("another order waits for its event in flight"),
            _ if slot.is_being_written() || slot.changing.is_some() => Some("another order is being carried out"),
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
    pub(super) async fn finish_order(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>, then: Then, whom: Whom) {
        // A module whose manifest was wrong has no name and no state yet: an order to start it loads it anew.
        let planned = self.slots.get(name).is_some_and(|slot| slot.plan.is_some());
        let done = match then {
            Then::Start { .. } if !planned => self.load_anew(myself, name).await,
            Then::Forget => {
                let slot = self.slots.remove(name);
                self.unloaded.extend(slot.and_then(|slot| slot.configured).map(Arc::unwrap_or_clone));
                self.shared.metrics.forget(name);
                self.shared.permits.remove(name);
                self.shared.begun.forget(name);
                self.shared.queries.forget(name);
                self.shared.outbox_metrics.forget(name);
                (self.shared.unloaded)(name);
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
            Then::Pause | Then::Start { afresh: false } => {
                return self.change_standing(myself, name, Changing { then, plan: None, whom });
            }
            Then::Start { afresh: true } => {
                let Some(slot) = self.slots.get_mut(name) else { missing(name) };
                match slot.replanned(&self.shared.loader) {
                    // Whoever ordered it may rely on it once it is answered, whatever becomes of the process.
                    Ok(plan) => {
                        let plan = Some(Arc::new(plan));
                        return self.change_standing(myself, name, Changing { then, plan, whom });
                    }
                    Err(error) => {
                        slot.die(error.to_string());
                        Err(error)
                    }
                }
            }
        };
        self.finished(myself, name, then, done, whom);
    }

    async fn load_anew(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>) -> Result<(), AdminError> {
        let Some(slot) = self.slots.get(name) else { missing(name) };
        let (spec, configured) = ((*slot.spec).clone(), slot.configured.as_deref().cloned());
        self.load(myself, spec, configured, false, None).await?;
        self.slots.remove(name);
        Ok(())
    }

    /// Resumes all that are paused now, one after the other.
    fn resume_all(&self, myself: &ActorRef<Msg>, reply: AdminReply<Vec<String>>) {
        let paused = self.slots.iter().filter(|(_, slot)| slot.phase == Phase::Paused && !slot.is_busy());
        let paused: Vec<String> = paused.map(|(name, _)| name.to_string()).collect();
        let myself = myself.clone();
        let _resuming: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let mut resumed = Vec::new();
            for name in paused {
                let module = name.clone();
                let order = |reply| Msg::Order(ModulesOrder::One { module, order: Order::Resume, reply });
                match myself.call(order, None).await {
                    Ok(CallResult::Success(Ok(()))) => resumed.push(name),
                    // It is dead, as the tree says from now on, or somebody was faster; the others are not to wait for it.
                    Ok(CallResult::Success(Err(AdminError::WrongState { .. } | AdminError::UnknownModule(_)))) => {}
                    Ok(CallResult::Success(Err(error))) => return answer(reply, Err(error)),
                    // The supervisor is gone, and whoever asked is told so by the reply that is dropped.
                    Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => return,
                }
            }
            answer(reply, Ok(resumed));
        });
    }

    fn retry_dead_letter(&mut self, module: &str, seq: u64, reply: AdminReply<()>) {
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
