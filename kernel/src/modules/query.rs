//! Queries: who is asked is looked up here, and everything else happens beside the supervisor.

use nexum_host_ifaces::HostError;

use super::{State, answer};
use crate::{
    admin::{AdminError, AdminReply},
    query::{self, Asked, Question, Room},
};

impl State {
    /// Has a module answer a query, whatever its actor is at.
    pub(super) fn query(&self, module: &str, question: Question, reply: AdminReply<Result<String, HostError>>) {
        match self.asked(module) {
            Err(error) => answer(reply, Err(error)),
            Ok((asked, room)) => {
                let shared = self.shared.clone();
                let _asking: tokio::task::JoinHandle<_> =
                    tokio::spawn(async move { answer(reply, query::ask(shared, asked, room, question).await) });
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
