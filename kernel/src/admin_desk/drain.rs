//! Drain: modules stop pulling and finish what they have at hand, effects that can go out do, while the engine runs on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use nexum_admin_api::state::ModuleState;
use nexum_host_ifaces::{clock::Clock, port::Port};
use ractor::{ActorRef, rpc::CallResult};

use super::{Args, STATUS_DEADLINE};
use crate::{
    admin::{AdminError, AdminReply, Drained, ModulesOrder, Order},
    modules,
    outbox::{self, Left},
};

pub(super) struct Drain {
    modules: ActorRef<modules::Msg>,
    outbox: Port<outbox::Msg>,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    begun_ns: u64,
}

/// What is left of effects, now.
async fn look(outbox: &Port<outbox::Msg>, settled: BTreeSet<String>, deadline: Duration) -> Option<Left> {
    outbox.call(deadline, |reply| outbox::Msg::Left { settled, reply }).await.ok()
}

/// One line per module about effects that could still go out.
pub(super) async fn left(desk: &Args) -> Vec<String> {
    let left = look(&desk.outbox, BTreeSet::new(), STATUS_DEADLINE).await.unwrap_or_default();
    let now_ms = desk.clock.now_ms();
    let lines = left.iter().filter_map(|(module, left)| left.unsettled(module, now_ms));
    lines.map(|line| format!("{line}; they go out after the next start")).collect()
}

impl Drain {
    pub fn new(desk: &Args, deadline: Duration) -> Self {
        Self {
            modules: desk.modules.clone(),
            outbox: desk.outbox.clone(),
            clock: desk.clock.clone(),
            deadline,
            begun_ns: desk.clock.monotonic_ns(),
        }
    }

    pub async fn run(self, module: Option<String>, reply: AdminReply<Drained>) {
        let answer = match module {
            // By name it is an order about that module, which outlives the engine as `pause` does.
            Some(name) => self.all(vec![name], Order::Pause, Vec::new()).await,
            None => match self.modules.call(modules::Msg::Reports, Some(STATUS_DEADLINE)).await {
                Ok(CallResult::Success(reports)) => {
                    let idle = [ModuleState::Dead, ModuleState::Paused].map(ModuleState::in_health);
                    let (idle, busy): (Vec<_>, Vec<_>) =
                        reports.into_iter().partition(|(_, report)| idle.contains(&report.state.as_str()));
                    let names = |of: Vec<(String, _)>| of.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
                    // What has nothing to do may have sent something before.
                    self.all(names(busy), Order::Hold, names(idle)).await
                }
                _ => Err(AdminError::Unavailable("the module supervisor does not answer".into())),
            },
        };
        // Whoever ordered it may have gone.
        let _ = reply.send(answer);
    }

    async fn all(&self, busy: Vec<String>, order: Order, idle: Vec<String>) -> Result<Drained, AdminError> {
        let drained = self.stop(&busy, order).await?;
        Ok(self.settle(drained, busy.into_iter().chain(idle).collect()).await)
    }

    fn remaining(&self) -> Duration {
        let spent = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(self.begun_ns));
        self.deadline.saturating_sub(spent)
    }

    async fn stop(&self, names: &[String], order: Order) -> Result<Drained, AdminError> {
        let deadline = self.deadline;
        let orders = names.iter().map(|name| async move {
            let module = name.clone();
            let order = |reply| modules::Msg::Order(ModulesOrder::One { module, order, reply });
            let ordered = self.modules.call(order, Some(deadline)).await;
            (name.clone(), ordered)
        });
        let mut drained = Drained::default();
        for (name, ordered) in join_all(orders).await {
            match ordered {
                Ok(CallResult::Success(Ok(()))) => drained.drained.push(name),
                Ok(CallResult::Success(Err(AdminError::WrongState { state, .. })))
                    if state == ModuleState::Paused.name() =>
                {
                    drained.drained.push(name);
                }
                Ok(CallResult::Success(Err(error))) if order == Order::Pause => return Err(error),
                Ok(CallResult::Success(Err(error))) => drained.unfinished.push(format!("module {name}: {error}")),
                Ok(CallResult::Timeout) => drained.unfinished.push(format!(
                    "module {name}: its event in flight did not finish within {}; it is paused when it has",
                    humantime::format_duration(deadline)
                )),
                Ok(CallResult::SenderError) | Err(_) => {
                    drained.unfinished.push(format!("module {name}: its supervisor was restarted meanwhile"));
                }
            }
        }
        Ok(drained)
    }

    /// Waits for what the modules sent and can go out; a module with some of it left is not drained.
    async fn settle(&self, mut drained: Drained, modules: BTreeSet<String>) -> Drained {
        let settled = look(&self.outbox, modules.clone(), self.remaining()).await;
        let left = match settled {
            Some(left) => Some(left),
            None => look(&self.outbox, BTreeSet::new(), STATUS_DEADLINE).await,
        };
        let Some(left) = left else {
            drained.unfinished.push("the outbox does not answer: what is left in it is not known".into());
            return drained;
        };
        let now_ms = self.clock.now_ms();
        for (name, left) in left.into_iter().filter(|(name, _)| modules.contains(name)) {
            if let Some(line) = left.unsettled(&name, now_ms) {
                drained.drained.retain(|drained| *drained != name);
                drained.unfinished.push(format!("{line}; they go on while the engine runs"));
            }
            drained.held.extend(left.held(&name, now_ms).into_iter().chain(left.underway(&name, now_ms)));
            drained.outbox.insert(name, left);
        }
        drained
    }
}
