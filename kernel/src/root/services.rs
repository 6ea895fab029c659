//! The root's children by name: bringing one back, the operator's orders about them, and their end in order.

use nexum_admin_api::state::ServiceState;
use ractor::{ActorCell, ActorId, ActorRef};

use super::{Child, Msg, START_AGAIN, STOP_DEADLINE, State};
use crate::{
    admin::{AdminError, AdminReply, Budget, ServiceReport},
    intensity::RESTARTS_MAX,
    modules,
};

/// The end of a child that the operator ordered.
pub(super) struct Ordered {
    /// Whether it counts like a failure.
    pub(super) counts: bool,
    pub(super) reply: AdminReply<()>,
}

impl State {
    pub(super) fn name(&self, child: Child) -> &str {
        match child {
            Child::Service(index) => &self.args.services[index].name,
            Child::Modules => "modules",
            Child::AdminDesk => "admin",
        }
    }

    pub(super) fn cell(&self, myself: &ActorRef<Msg>, id: ActorId) -> Option<ActorCell> {
        myself.get_cell().get_children().into_iter().find(|cell| cell.get_id() == id)
    }

    /// Starts a child that ended. A service that does not start is tried again, which counts as another failure.
    pub(super) async fn bring_back(&mut self, myself: &ActorRef<Msg>, child: Child, reply: Option<AdminReply<()>>) {
        let started = match child {
            Child::Service(index) => self.start_service(myself, index).await,
            // The two know each other's address, so they start together.
            Child::Modules | Child::AdminDesk => self.start_modules(myself).await,
        };
        let answer = match (started, child) {
            (Ok(()), Child::Service(_)) => {
                if let Some(modules) = &self.modules {
                    // A supervisor that is gone is started anew, and its modules pull then.
                    let _ = modules.send_message(modules::Msg::PullAgain);
                }
                Ok(())
            }
            (Ok(()), _) => Ok(()),
            (Err(error), Child::Service(index)) => {
                let name = self.name(child).to_owned();
                tracing::error!(service = name, "not started: {error}");
                if self.may_restart(myself, &name, &error.to_string()) {
                    myself.send_after(START_AGAIN, move || Msg::StartAgain(index));
                }
                Err(AdminError::Unavailable(error.to_string()))
            }
            (Err(error), _) => {
                let answer = AdminError::Unavailable(error.to_string());
                self.give_up(myself, error);
                Err(answer)
            }
        };
        if let Some(reply) = reply {
            // Whoever ordered it may have gone.
            let _ = reply.send(answer);
        }
    }

    pub(super) fn reports(&mut self) -> Vec<ServiceReport> {
        let now_ns = self.args.clock.monotonic_ns();
        let all = (0..self.args.services.len()).map(Child::Service).chain([Child::Modules, Child::AdminDesk]);
        let up: Vec<Child> = self.children.values().copied().collect();
        all.map(|child| {
            let name = self.name(child).to_owned();
            let spent = self.intensities.get_mut(&name).map_or(0, |intensity| intensity.spent(now_ns)) as u32;
            let state = if up.contains(&child) { ServiceState::Up } else { ServiceState::Down };
            ServiceReport {
                state: state.name().to_owned(),
                restarts: self.restarts.get(&name).copied().unwrap_or(0),
                failures: Budget { spent, max: RESTARTS_MAX as u32 },
                name,
            }
        })
        .collect()
    }

    /// Stops or kills a child; its end is answered when supervision has brought it back.
    pub(super) fn order_restart(&mut self, myself: &ActorRef<Msg>, service: &str, kill: bool, reply: AdminReply<()>) {
        let found = self.children.iter().find(|(_, child)| self.name(**child) == service).map(|(id, _)| *id);
        let cell = found.and_then(|id| self.cell(myself, id));
        let Some(cell) = cell.filter(|cell| !self.ordered.contains_key(&cell.get_id())) else {
            let known = (0..self.args.services.len()).any(|index| self.name(Child::Service(index)) == service);
            let error = match known || found.is_some() {
                true => AdminError::Unavailable(format!("{service} is being restarted already")),
                false => AdminError::UnknownService(service.to_owned()),
            };
            // Whoever ordered it may have gone.
            let _ = reply.send(Err(error));
            return;
        };
        self.ordered.insert(cell.get_id(), Ordered { counts: kill, reply });
        if kill {
            cell.kill();
        } else if cell.drain().is_err() {
            tracing::debug!(service, "it ends already");
        }
    }

    /// Each after what depends on it. Their mailboxes are worked off first, so that a last write without a reply, such as
    /// a module's failure counters, is not lost.
    pub(super) async fn stop_in_order(&mut self, myself: &ActorRef<Msg>) {
        let mut children: Vec<(ActorId, Child)> = self.children.drain().collect();
        children.sort_by_key(|(_, child)| match child {
            Child::AdminDesk => 0,
            Child::Modules => 1,
            Child::Service(index) => 2 + self.args.services.len() - index,
        });
        for (id, child) in children {
            let Some(cell) = self.cell(myself, id) else { continue };
            if let Err(error) = cell.drain_and_wait(Some(STOP_DEADLINE)).await {
                tracing::warn!(service = self.name(child), "did not end in order: {error}");
                cell.kill();
            }
        }
    }
}
