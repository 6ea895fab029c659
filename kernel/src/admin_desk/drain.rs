//! Drain: modules stop pulling and finish what they have at hand, while the engine runs on.

use std::time::Duration;

use futures::future::join_all;
use ractor::{ActorRef, rpc::CallResult};

use super::STATUS_DEADLINE;
use crate::{
    admin::{AdminError, AdminReply, Drained},
    modules::{self, Order},
};

pub(super) async fn drain(
    modules: ActorRef<modules::Msg>,
    module: Option<String>,
    deadline: Duration,
    reply: AdminReply<Drained>,
) {
    let answer = match module {
        // By name it is an order about that module, which outlives the engine as `pause` does.
        Some(name) => all(&modules, vec![name], Order::Pause, deadline).await,
        None => match modules.call(modules::Msg::Reports, Some(STATUS_DEADLINE)).await {
            Ok(CallResult::Success(reports)) => {
                let idle = |state: &str| state == "dead" || state == "paused";
                let names = reports.into_iter().filter(|(_, report)| !idle(&report.state)).map(|(name, _)| name);
                all(&modules, names.collect(), Order::Hold, deadline).await
            }
            _ => Err(AdminError::Unavailable("the module supervisor does not answer".into())),
        },
    };
    // Whoever ordered it may have gone.
    let _ = reply.send(answer);
}

async fn all(
    modules: &ActorRef<modules::Msg>,
    names: Vec<String>,
    order: Order,
    deadline: Duration,
) -> Result<Drained, AdminError> {
    let orders = names.into_iter().map(|name| async move {
        let module = name.clone();
        let ordered = modules.call(|reply| modules::Msg::Order { module, order, reply }, Some(deadline)).await;
        (name, ordered)
    });
    let mut drained = Drained::default();
    for (name, ordered) in join_all(orders).await {
        match ordered {
            Ok(CallResult::Success(Ok(()))) => drained.drained.push(name),
            Ok(CallResult::Success(Err(AdminError::WrongState { state, .. }))) if state == "PAUSED" => {
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
