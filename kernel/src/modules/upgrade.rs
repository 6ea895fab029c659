//! Upgrade: a new version is verified, compiled and linked beside the running one, and tried in its place.
//!
//! Invariant: until the new version's `init` has succeeded, the old one runs on as if nothing had happened; from then on
//! the new one is in force, whatever follows. That is durable before anything that `init` wrote is, so that the old one
//! never meets what the new one made of its state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::Hash;
use ractor::ActorRef;

use super::{
    Msg, State, answer,
    slot::{Phase, Slot, Then, missing},
    standing::Whom,
    writes::Waiter,
};
use crate::{
    admin::{AdminError, AdminReply, ModuleSpec, Upgraded, Wanted},
    begun::What,
    instance::Prepared,
    load::{Plan, Unprepared},
    module,
};

/// How long a restart waits anew while it is being written which version is to start.
const WRITTEN_RETRY: Duration = Duration::from_millis(100);

/// A version that could run in place of the present one.
pub struct Candidate {
    pub plan: Arc<Plan>,
    pub prepared: Arc<Prepared>,
    /// Its `init` has succeeded, and it is the one that starts with the next engine.
    pub passed: AtomicBool,
}

/// An upgrade under way.
pub(super) struct Upgrade {
    number: u64,
    spec: Arc<ModuleSpec>,
    /// The version before.
    from: String,
    /// Absent while it is verified, compiled and linked.
    candidate: Option<Arc<Candidate>>,
    /// It is being written that the new version is the one to run.
    is_being_written: bool,
    reply: AdminReply<Upgraded>,
}

/// What was in force before a new version was.
pub(super) type Before = (Arc<ModuleSpec>, Option<Arc<Plan>>);

/// Who waits for the new version to be the one to run.
pub(super) enum Passing {
    /// The module's actor, which has tried it.
    Tried(AdminReply<()>),
    /// The supervisor: no actor runs.
    InPlace,
}

impl State {
    /// Verifies and links the new version in the background; `on_candidate` goes on.
    pub(super) fn upgrade(&mut self, myself: &ActorRef<Msg>, wanted: Wanted, reply: AdminReply<Upgraded>) {
        let (spec, from, plan) = match self.plan_upgrade(&wanted) {
            Ok(planned) => planned,
            Err(error) => return answer(reply, Err(error)),
        };
        let name: Arc<str> = wanted.module.as_str().into();
        if let Some(reason) = self.deadly(&name, plan.manifest.component) {
            return answer(reply, Err(AdminError::NotUpgraded { module: wanted.module, reason }));
        }
        self.generations += 1;
        let number = self.generations;
        let Some(slot) = self.slots.get_mut(&name) else { missing(&name) };
        slot.upgrade = Some(Box::new(Upgrade { number, spec, from, candidate: None, is_being_written: false, reply }));
        let (shared, myself) = (self.shared.clone(), myself.clone());
        // Whoever asks for this version wants to know what comes of it now.
        shared.loader.engine.try_again(plan.manifest.component);
        let _preparing: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let prepared = shared.loader.prepare(shared.blocking, &plan).await;
            // A supervisor that is gone drops the operator's reply with the upgrade.
            let _ = myself.send_message(Msg::Candidate { module: name, number, plan, prepared });
        });
    }

    /// Why a version with this component is not tried.
    fn deadly(&self, name: &str, component: Hash) -> Option<String> {
        let begun = self.shared.begun.slot(name);
        let deaths = begun.deadly(What::Load(component)).or_else(|| begun.deadly(What::Trial(component)))?;
        Some(format!(
            "the process died {deaths} times while it was loaded or tried; `nexumctl module restart {name}` lets it be \
             tried again"
        ))
    }

    fn plan_upgrade(&self, wanted: &Wanted) -> Result<(Arc<ModuleSpec>, String, Arc<Plan>), AdminError> {
        let module = &wanted.module;
        let slot = self.slots.get(module.as_str()).ok_or_else(|| AdminError::UnknownModule(module.clone()))?;
        let running = slot.accept_upgrade(module)?;
        let mut spec = (*slot.spec).clone();
        if let Some(source) = &wanted.source {
            spec.source.clone_from(source);
        }
        let plan = self.shared.loader.plan(&spec).map_err(AdminError::Load)?;
        if plan.manifest.name != running.manifest.name {
            let (found, source) = (&plan.manifest.name, spec.source.display());
            return Err(AdminError::Load(format!("{source} holds module `{found}`, not `{module}`")));
        }
        let beyond = plan.grants.beyond(&running.grants);
        if !beyond.is_empty() && !wanted.allow_capabilities {
            return Err(AdminError::NeedsApproval { module: module.clone(), beyond: beyond.join(", ") });
        }
        Ok((Arc::new(spec), running.manifest.version.clone(), Arc::new(plan)))
    }

    /// The new version is linked, or is not to be had.
    pub(super) fn on_candidate(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        number: u64,
        plan: Arc<Plan>,
        prepared: Result<Arc<Prepared>, Unprepared>,
    ) {
        // An upgrade that is over by now, and of which whoever ordered it was told.
        let Some(slot) = self.slots.get_mut(name) else { return };
        // The same, with another one under way.
        let Some(upgrade) = slot.upgrade.as_mut().filter(|upgrade| upgrade.number == number) else { return };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(Unprepared::Refused(reason)) => return slot.refuse_upgrade(AdminError::Load(reason)),
            Err(Unprepared::Surroundings(reason)) => {
                let said = format!("`{name}` goes on as it was; the new version could not be tried: {reason}");
                return slot.refuse_upgrade(AdminError::Unavailable(said));
            }
        };
        let candidate = Arc::new(Candidate { plan, prepared, passed: AtomicBool::new(false) });
        upgrade.candidate = Some(candidate.clone());
        if let Some(actor) = &slot.actor {
            // One that has just ended is found out by `end_upgrade`.
            let _ = actor.send_message(module::Msg::Upgrade(candidate));
            return;
        }
        // Nothing runs that could go on instead, so nothing is tried: the new version takes the place.
        self.pass_upgrade(myself, name, Passing::InPlace);
    }

    /// The new version is the one to run, as soon as that is written.
    pub(super) fn pass_upgrade(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>, passing: Passing) {
        let upgrade = self.slots.get_mut(name).and_then(|slot| slot.upgrade.as_mut());
        let Some(upgrade) = upgrade.filter(|upgrade| upgrade.candidate.is_some() && !upgrade.is_being_written) else {
            if let Passing::Tried(reply) = passing {
                answer(reply, Err(AdminError::Unavailable(format!("no upgrade of {name} is under way"))));
            }
            return;
        };
        upgrade.is_being_written = true;
        self.write(myself, Waiter::Upgrade(name.clone(), passing));
    }

    /// It is written that the new version is the one to run, or that failed: then what was in force before is written anew.
    pub(super) async fn upgrade_written(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        passing: Passing,
        written: &Result<(), String>,
    ) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        // The end of an actor waits for the write, and no order is taken meanwhile: nothing else ends it.
        let Some(upgrade) = slot.upgrade.as_mut() else {
            unreachable!("an upgrade of {name} ended while it was written")
        };
        upgrade.is_being_written = false;
        let before = (slot.spec.clone(), slot.plan.clone());
        let kept = written.clone().map_err(AdminError::Unavailable);
        match (&kept, &upgrade.candidate) {
            (Ok(()), Some(candidate)) => {
                candidate.passed.store(true, Ordering::Release);
                slot.spec = upgrade.spec.clone();
                self.shared.begun.forgive(name);
                self.note_owners(myself);
            }
            _ => self.write(myself, Waiter::TakeBack(name.clone())),
        }
        match passing {
            Passing::Tried(reply) => answer(reply, kept),
            Passing::InPlace => self.take_place(myself, name, kept, before).await,
        }
    }

    /// The new version takes the place of one that does not run.
    async fn take_place(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        kept: Result<(), AdminError>,
        before: Before,
    ) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        if let Err(error) = kept {
            return slot.refuse_upgrade(error);
        }
        slot.plan = slot.upgrade.as_ref().and_then(|upgrade| Some(upgrade.candidate.as_ref()?.plan.clone()));
        if slot.phase == Phase::Paused {
            return self.end_upgrade(name, "");
        }
        self.finish_order(myself, name, Then::Start { afresh: true }, Whom::Upgrade(before)).await;
    }

    /// It has taken the place, or could not be started there.
    pub(super) fn place_taken(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        started: Result<(), AdminError>,
        before: Before,
    ) {
        match (started, self.slots.get_mut(name)) {
            (Err(error), Some(slot)) => {
                (slot.spec, slot.plan) = before;
                slot.refuse_upgrade(error);
                self.write(myself, Waiter::TakeBack(name.clone()));
            }
            _ => self.end_upgrade(name, ""),
        }
    }

    /// The wait before a restart is over. While it is being written which version is to start, or whether one is, it
    /// goes on.
    pub(super) async fn start_when_written(&mut self, myself: &ActorRef<Msg>, name: &Arc<str>) {
        let Some(slot) = self.slots.get(name) else { missing(name) };
        if slot.is_being_written() || slot.changing.is_some() {
            let (module, generation) = (name.clone(), slot.generation);
            myself.send_after(WRITTEN_RETRY, move || Msg::Start { module, generation });
            return;
        }
        self.start(myself, name).await;
    }

    /// The module's actor has tried the new version, or has ended: which version runs is decided now.
    pub(super) fn end_upgrade(&mut self, name: &Arc<str>, reason: &str) {
        let Some(slot) = self.slots.get_mut(name) else { missing(name) };
        let tried = slot.upgrade.take_if(|upgrade| upgrade.candidate.is_some());
        // Mostly an actor ends without one. One whose new version is still being linked goes on.
        let Some(Upgrade { from, candidate: Some(candidate), reply, .. }) = tried.map(|tried| *tried) else { return };
        if !candidate.passed.load(Ordering::Acquire) {
            tracing::warn!(module = %name, "not upgraded: {reason}");
            return answer(reply, Err(AdminError::NotUpgraded { module: name.to_string(), reason: reason.to_owned() }));
        }
        let upgraded = Upgraded {
            module: name.to_string(),
            from,
            to: candidate.plan.manifest.version.clone(),
            component: format!("sha256:{}", hex::encode(candidate.plan.manifest.component.0)),
            state: slot.phase.name().to_owned(),
        };
        slot.plan = Some(candidate.plan.clone());
        slot.prepared = Some(candidate.prepared.clone());
        self.permit(&candidate.plan);
        tracing::info!(module = %name, from = upgraded.from, to = upgraded.to, "upgraded");
        answer(reply, Ok(upgraded));
    }
}

impl Slot {
    /// Whether it is being written that a new version is the one to run.
    pub(super) fn is_being_written(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_being_written)
    }

    /// What the roster says of it: the new version as soon as that is to be the one to run.
    pub(super) fn spec_to_write(&self) -> &ModuleSpec {
        let new = self.upgrade.as_ref().filter(|upgrade| upgrade.is_being_written);
        new.map_or(&self.spec, |upgrade| &upgrade.spec)
    }

    /// The version to compare a new one with, when one may come now.
    fn accept_upgrade(&self, module: &str) -> Result<&Plan, AdminError> {
        let wrong = |hint: &str| AdminError::WrongState {
            module: module.to_owned(),
            state: self.phase.name().to_owned(),
            hint: hint.to_owned(),
        };
        if self.is_busy() {
            return Err(wrong("another order is being carried out"));
        }
        match (&self.phase, &self.plan) {
            (Phase::Stopped, _) => Err(wrong("the engine is shutting down")),
            (Phase::Load, _) => Err(wrong("it is being loaded")),
            (_, None) => Err(wrong("it was never loaded: put its bundle right, then `nexumctl module restart`")),
            (_, Some(plan)) => Ok(plan),
        }
    }

    fn refuse_upgrade(&mut self, error: AdminError) {
        if let Some(upgrade) = self.upgrade.take() {
            answer(upgrade.reply, Err(error));
        }
    }
}
