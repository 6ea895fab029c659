//! Upgrade: a new version is verified, compiled and linked beside the running one, and tried in its place.
//!
//! Invariant: until the new version's `init` has succeeded, the old one runs on as if nothing had happened; from then on
//! the new one is in force, whatever follows. That is durable before anything that `init` wrote is, so that the old one
//! never meets what the new one made of its state.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ractor::ActorRef;

use super::{
    Msg, State, answer,
    slot::{Phase, Slot, Then},
};
use crate::{
    admin::{AdminError, AdminReply, ModuleSpec, Upgraded},
    instance::Prepared,
    load::{Plan, Unprepared},
    module,
};

/// A version that could run in place of the present one.
pub struct Candidate {
    pub plan: Arc<Plan>,
    pub prepared: Arc<Prepared>,
    /// Its `init` has succeeded, and it is the one that starts with the next engine.
    pub passed: AtomicBool,
}

/// What the operator asks for.
#[derive(Debug)]
pub struct Wanted {
    pub module: String,
    /// Absent: the present source, read again.
    pub source: Option<PathBuf>,
    /// Whether the new version may reach more than the running one.
    pub allow_capabilities: bool,
}

/// An upgrade under way.
pub(super) struct Upgrade {
    number: u64,
    spec: Arc<ModuleSpec>,
    /// The version before.
    from: String,
    /// Absent while it is verified, compiled and linked.
    candidate: Option<Arc<Candidate>>,
    reply: AdminReply<Upgraded>,
}

impl State {
    /// Verifies and links the new version in the background; `on_candidate` goes on.
    pub(super) fn upgrade(&mut self, myself: &ActorRef<Msg>, wanted: Wanted, reply: AdminReply<Upgraded>) {
        let (spec, from, plan) = match self.plan_upgrade(&wanted) {
            Ok(planned) => planned,
            Err(error) => return answer(reply, Err(error)),
        };
        let name: Arc<str> = wanted.module.as_str().into();
        self.generations += 1;
        let number = self.generations;
        if let Some(slot) = self.slots.get_mut(&name) {
            slot.upgrade = Some(Box::new(Upgrade { number, spec, from, candidate: None, reply }));
        }
        let (shared, myself) = (self.shared.clone(), myself.clone());
        // Whoever asks for this version wants to know what comes of it now.
        shared.loader.engine.try_again(plan.manifest.component);
        let _preparing: tokio::task::JoinHandle<_> = tokio::spawn(async move {
            let prepared = shared.loader.prepare(shared.blocking, &plan).await;
            // A supervisor that is gone drops the operator's reply with the upgrade.
            let _ = myself.send_message(Msg::Candidate { module: name, number, plan, prepared });
        });
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
    pub(super) async fn on_candidate(
        &mut self,
        myself: &ActorRef<Msg>,
        name: &Arc<str>,
        number: u64,
        plan: Arc<Plan>,
        prepared: Result<Arc<Prepared>, Unprepared>,
    ) {
        let Some(slot) = self.slots.get_mut(name) else { return };
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
        let (before, is_paused) = ((slot.spec.clone(), slot.plan.clone()), slot.phase == Phase::Paused);
        let passed = self.pass_upgrade(name).await;
        let Some(slot) = self.slots.get_mut(name) else { return };
        if let Err(error) = passed {
            return slot.refuse_upgrade(error);
        }
        slot.plan = Some(candidate.plan.clone());
        let started = match is_paused {
            true => Ok(()),
            false => self.finish_order(myself, name, Then::Start { afresh: true }).await,
        };
        match (started, self.slots.get_mut(name)) {
            (Err(error), Some(slot)) => {
                (slot.spec, slot.plan) = before;
                slot.refuse_upgrade(error);
                self.take_back(name).await;
            }
            _ => self.end_upgrade(name, ""),
        }
    }

    /// Makes durable again what was in force before an upgrade that failed after it was written, or may have been.
    async fn take_back(&self, name: &Arc<str>) {
        if let Err(error) = self.write_roster().await {
            tracing::error!(module = %name, "the version that was refused may start with the next engine: {error}");
        }
    }

    /// The new version is the one to run.
    pub(super) async fn pass_upgrade(&mut self, name: &Arc<str>) -> Result<(), AdminError> {
        let Some(slot) = self.slots.get_mut(name) else { return Err(AdminError::UnknownModule(name.to_string())) };
        let tried = slot.upgrade.as_ref().and_then(|upgrade| Some((upgrade.spec.clone(), upgrade.candidate.clone()?)));
        let Some((spec, candidate)) = tried else {
            return Err(AdminError::Unavailable(format!("no upgrade of {name} is under way")));
        };
        let before = std::mem::replace(&mut slot.spec, spec);
        let kept = self.write_roster().await.map_err(AdminError::Unavailable);
        match (&kept, self.slots.get_mut(name)) {
            (Err(_), Some(slot)) => {
                slot.spec = before;
                self.take_back(name).await;
            }
            _ => {
                candidate.passed.store(true, Ordering::Release);
                self.note_owners().await;
            }
        }
        kept
    }

    /// The module's actor has tried the new version, or has ended: which version runs is decided now.
    pub(super) fn end_upgrade(&mut self, name: &Arc<str>, reason: &str) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        let tried = slot.upgrade.take_if(|upgrade| upgrade.candidate.is_some());
        let Some(Upgrade { from, candidate: Some(candidate), reply, .. }) = tried.map(|tried| *tried) else {
            return;
        };
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
    /// The version to compare a new one with, when one may come now.
    fn accept_upgrade(&self, module: &str) -> Result<&Plan, AdminError> {
        let wrong = |hint: &str| AdminError::WrongState {
            module: module.to_owned(),
            state: self.phase.name().to_owned(),
            hint: hint.to_owned(),
        };
        if self.then.is_some() || self.upgrade.is_some() {
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
