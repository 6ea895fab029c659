//! The operator's orders about single effects.

use nexum_host_ifaces::{
    outbox::{Ended, OutboxRequest},
    port::PortError,
    store::{StoreError, StoreMsg},
    types::OutcomeStatus,
};
use ractor::ActorRef;

use super::{Msg, STORE_DEADLINE, State, TaskResult, attempt::Attempted, schedule::Obstacle};
use crate::admin::{AdminError, AdminReply};

fn refused(error: StoreError) -> AdminError {
    match error {
        StoreError::UnknownEffect { module, id } => AdminError::UnknownEffect { module, id },
        StoreError::UnknownModule(module) => AdminError::UnknownModule(module),
        StoreError::Refused(reason) => AdminError::Refused(reason),
        other => AdminError::Unavailable(other.to_string()),
    }
}

fn elsewhere(id: &str, what: &str) -> String {
    format!(
        "effect `{id}` cannot be called back here ({what}): `nexumctl tx cancel` and `nexumctl approvals deny` can end it"
    )
}

/// Whoever asked may have gone; then there is nobody to tell.
fn answer(reply: AdminReply<()>, answer: Result<(), AdminError>) {
    let _ = reply.send(answer);
}

impl State {
    /// Makes a waiting effect due now, or takes up one that ended without being delivered.
    pub(super) fn retry(&mut self, myself: &ActorRef<Msg>, module: String, id: String, reply: AdminReply<()>) {
        match self.schedule.hurry(&module, &id) {
            Some(Ok(())) => return answer(reply, Ok(())),
            Some(Err(obstacle)) => {
                let what = match obstacle {
                    Obstacle::Flying => "is under way",
                    Obstacle::Held => "waits until its block is as final as it asks for",
                    Obstacle::Behind => "waits for those before it in its lane",
                };
                return answer(reply, Err(AdminError::Refused(format!("effect `{id}` {what}"))));
            }
            None => {}
        }
        let (store, now_ms, myself) = (self.args.ports.store(), self.args.clock.now_ms(), myself.clone());
        self.tasks.spawn(async move {
            let asked = |reply| StoreMsg::Outbox(OutboxRequest::Reopen { name: module, id, now_ms, reply });
            let reopened: Result<_, PortError> = store.call(STORE_DEADLINE, asked).await;
            let done = match reopened {
                Ok(Ok(live)) => {
                    // An actor that is gone reads it from the store when it is back.
                    let _ = myself.send_message(Msg::TaskResult(TaskResult::Reopened(Box::new(live))));
                    Ok(())
                }
                Ok(Err(error)) => Err(refused(error)),
                Err(error) => Err(AdminError::Unavailable(error.to_string())),
            };
            answer(reply, done);
        });
    }

    pub(super) fn cancel(&mut self, myself: &ActorRef<Msg>, module: String, id: String, reply: AdminReply<()>) {
        let live = match self.schedule.seize(&module, &id) {
            None => {
                return answer(reply, Err(AdminError::UnknownEffect { module, id }));
            }
            Some(Err(None)) => {
                let reason = format!("an attempt at effect `{id}` is under way: try again when it has come to its end");
                return answer(reply, Err(AdminError::Refused(reason)));
            }
            // Its end is told by whoever has it; another one would be made up.
            Some(Err(Some(what))) => return answer(reply, Err(AdminError::Refused(elsewhere(&id, &what)))),
            Some(Ok(live)) => live,
        };
        let attempts = self.attempts.clone();
        self.task(myself, async move {
            if let Some(what) = attempts.held_elsewhere(&live).await {
                let reason = elsewhere(&live.id, &what);
                answer(reply, Err(AdminError::Refused(reason.clone())));
                return TaskResult::Attempted { live: Box::new(live), done: Attempted::Trouble(reason, None) };
            }
            let left = if live.progress.released { ", after it may have left" } else { "" };
            let status = OutcomeStatus::Cancelled(format!("by the operator{left}"));
            let done = attempts.end(&live, live.progress.clone(), Ended::Cancelled, status).await;
            answer(
                reply,
                match &done {
                    Attempted::Trouble(error, _) => Err(AdminError::Unavailable(error.clone())),
                    _ => Ok(()),
                },
            );
            TaskResult::Attempted { live: Box::new(live), done }
        });
    }
}
