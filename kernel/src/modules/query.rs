//! Queries: who is asked is looked up here, and everything else happens beside the supervisor.

use std::sync::Arc;

use nexum_host_ifaces::{
    HostError, commit_queue::CommitQueue, host::HostArgs, recording::TapeMode, store::ModuleInfo, unit::drafts::Quota,
};

use super::{State, answer};
use crate::{
    admin::{AdminError, AdminReply},
    instance::{
        Failure,
        query::{self, NoAnswer},
    },
    module::Shared,
    query::{Asked, Outcome, Question, Room},
};

impl State {
    /// Has a module answer a query, whatever its actor is at.
    pub(super) fn query(&self, module: &str, question: Question, reply: AdminReply<Result<String, HostError>>) {
        match self.asked(module) {
            Err(error) => answer(reply, Err(error)),
            Ok((asked, room)) => {
                let shared = self.shared.clone();
                let _asking: tokio::task::JoinHandle<_> =
                    tokio::spawn(async move { answer(reply, ask(shared, asked, room, question).await) });
            }
        }
    }

    /// The module as it was linked last, and room for its query. One that is paused, dead or about to be started again is
    /// asked like any other: what it has committed is there.
    fn asked(&self, module: &str) -> Result<(Asked, Room), AdminError> {
        let unknown = || AdminError::UnknownModule(module.to_owned());
        let (name, slot) = self.slots.get_key_value(module).ok_or_else(unknown)?;
        let (Some(plan), Some(prepared)) = (&slot.plan, &slot.prepared) else {
            let (state, hint) = (slot.phase.name().to_owned(), "its component is not there to be asked".to_owned());
            return Err(AdminError::WrongState { module: module.to_owned(), state, hint });
        };
        let room = self.shared.queries.room(name, plan.limits.max_memory_bytes)?;
        Ok((Asked { plan: plan.clone(), prepared: prepared.clone() }, room))
    }
}

/// Answers a question, on the threads of slow work.
///
/// # Errors
/// The outer one says why the module has not answered; the inner one is what it says instead of an answer.
async fn ask(
    shared: Arc<Shared>,
    asked: Asked,
    room: Room,
    question: Question,
) -> Result<Result<String, HostError>, AdminError> {
    let began_ns = shared.clock.monotonic_ns();
    let name = asked.plan.manifest.name.clone();
    let asking = {
        let shared = shared.clone();
        async move { answered(&shared, &asked, &room, &question).await }
    };
    let answer = shared.lanes.aside(asking).await;
    let metrics = &shared.queries.metrics;
    metrics.count(&name, Outcome::of(&answer));
    metrics.observe_ns(shared.clock.monotonic_ns().saturating_sub(began_ns));
    answer
}

async fn answered(
    shared: &Shared,
    asked: &Asked,
    room: &Room,
    question: &Question,
) -> Result<Result<String, HostError>, AdminError> {
    let Asked { plan, .. } = asked;
    let (name, queries, ports) = (&plan.manifest.name, &shared.queries, &shared.ports);
    let Some(answering) = queries.answering(&shared.loader.engine, asked)? else {
        return Err(AdminError::NoQueries(name.to_string()));
    };
    let ModuleInfo { id, record, .. } = queries.look(&ports.store(), name).await?;
    let view = ports.view.clone().at_this_moment();
    let view = view.map_err(|error| AdminError::Unavailable(error.to_string()))?;
    let args = HostArgs {
        module: name.clone(),
        id,
        component: plan.manifest.component,
        limits: Arc::new(queries.limits_of(plan, room)),
        clock: shared.clock.clone(),
        commits: Arc::new(CommitQueue::new(ports.store())),
        grants: Arc::new(plan.grants.in_query()),
        ports: ports.clone(),
        taping: TapeMode::Off,
        quota: Quota::new(0),
    };
    let answer =
        query::answer(&answering, (&args, record), view, &plan.config, question, queries.limits.max_reply_bytes);
    answer.await.map_err(|none| {
        let (NoAnswer::Late(failure) | NoAnswer::Failed(failure)) = &none;
        let Failure { message, backtrace, fuel } = failure;
        tracing::warn!(module = %name, fuel, backtrace, "a query was not answered: {message}");
        let (module, reason) = (name.to_string(), message.clone());
        match none {
            NoAnswer::Late(_) => AdminError::LateAnswer { module, reason },
            NoAnswer::Failed(_) => AdminError::NoAnswer { module, reason },
        }
    })
}
