//! The new version in the place of the running one, between two events.
//!
//! Invariant: the running instance is not touched before the new one's `init` has succeeded, and nothing that `init`
//! wrote is durable before that.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::{
    commit_queue::CommitQueue,
    host::HostArgs,
    store::{ModuleId, ModuleRecord, UnitKind},
};
use ractor::rpc::CallResult;

use super::{Args, Exit, Shared, State, recording};
use crate::{
    begun::What,
    instance::{Failure, Instance},
    load::Plan,
    modules::{self, Candidate},
    status::RunState,
};

/// What every instance of one version of a module is made from.
pub(super) fn host_args(shared: &Shared, plan: &Plan, id: ModuleId) -> HostArgs {
    HostArgs {
        module: plan.manifest.name.clone(),
        id,
        component: plan.manifest.component,
        limits: plan.limits.clone(),
        clock: shared.clock.clone(),
        commits: Arc::new(CommitQueue::new(shared.ports.store())),
        grants: plan.grants.clone(),
        ports: shared.ports.clone(),
        taping: plan.taping(&shared.recordings),
        quota: plan.quota.clone(),
    }
}

impl State {
    pub(super) async fn on_upgrade(&mut self, candidate: Arc<Candidate>) -> Result<(), Exit> {
        let tried = match self.try_upgrade(&candidate).await? {
            Ok(()) => Ok(()),
            Err(Failure { message, .. }) => Err(message),
        };
        let (module, generation) = (self.args.name().clone(), self.args.generation);
        // A supervisor that is gone takes its actors with it.
        let _ = self.args.supervisor.send_message(modules::Msg::UpgradeTried { module, generation, tried });
        match &mut self.running {
            // The new version has its own sources, none of which has been asked yet.
            Some(running)
                if candidate.passed.load(Ordering::Acquire) && self.args.status.run_state() == RunState::Run =>
            {
                running.go_on_with_all(&self.args).await
            }
            _ => Ok(()),
        }
    }

    /// The inner failure is the new version's, and leaves everything as it was.
    async fn try_upgrade(&mut self, candidate: &Candidate) -> Result<Result<(), Failure>, Exit> {
        // An actor begins before it hears of anything else, and ends when it cannot.
        let Some(running) = &mut self.running else { unreachable!("a module that does not run is to try a version") };
        let (plan, prepared) = (&candidate.plan, &candidate.prepared);
        let host = host_args(&self.args.shared, plan, running.host.id);
        let record = running.instance.host().record().clone();
        let trial = running.begun.begin(What::Trial(plan.manifest.component)).await;
        let started = self.args.start_candidate(candidate, &host, record).await;
        // Well or badly: the process has not died of it.
        trial.ended();
        let (mut instance, fuel) = match started {
            Ok(started) => started,
            Err(failure) => return Ok(Err(failure)),
        };
        let (module, generation) = (self.args.name().clone(), self.args.generation);
        let passed = |reply| modules::Msg::UpgradePassed { module, generation, reply };
        match self.args.supervisor.call(passed, Some(modules::ORDER_DEADLINE)).await {
            Ok(CallResult::Success(Ok(()))) => {}
            Ok(CallResult::Success(Err(error))) => {
                return Ok(Err(Failure { message: error.to_string(), backtrace: None, fuel }));
            }
            // Which version is in force is decided when this actor has ended.
            _ => return Err(Exit::Environment("the supervisor does not answer".into())),
        }

        let unit = instance.host().seal(UnitKind::Handled, None, fuel);
        running.feeds.forget(&self.args);
        running.feeds.replace(&plan.manifest.sources, &unit.record);
        running.instance = instance;
        running.prepared = prepared.clone();
        running.metrics.start(host.limits.max_state_bytes);
        running.metrics.fuel.inc_by(fuel);
        running.host = host;
        self.args.plan = plan.clone();
        self.args.prepared = Some(prepared.clone());
        running.send(&self.args, unit);
        running.settle(&self.args).await?;
        Ok(Ok(()))
    }
}

impl Args {
    /// An instance of the new version whose `init` has succeeded, and the fuel that it took.
    async fn start_candidate(
        &self,
        candidate: &Candidate,
        host: &HostArgs,
        record: ModuleRecord,
    ) -> Result<(Instance, u64), Failure> {
        let plan = &candidate.plan;
        let mut instance = match Instance::start(&candidate.prepared, host, record).await {
            Ok(instance) => instance,
            Err(failed) => {
                let failure = failed.failure.clone();
                if let Some(recording) = failed.recording(|| plan.setting()) {
                    recording::keep(&self.shared, host.id, recording, &failure);
                }
                return Err(failure);
            }
        };
        instance.host().hold_flushes(true);
        match instance.init(&plan.config).await {
            Ok(fuel) => {
                instance.host().hold_flushes(false);
                Ok((instance, fuel))
            }
            Err(failure) => {
                let kept = instance.recording(|| plan.setting(), None, failure.fuel, Some(&failure));
                // What failed around the version is no crash of it.
                if let Some(kept) = kept.filter(|_| instance.host().poisoned().is_none()) {
                    recording::keep(&self.shared, host.id, kept, &failure);
                }
                Err(failure)
            }
        }
    }
}
