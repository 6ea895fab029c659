//! Orders to and questions about modules, and their dead letters.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
    routing::{delete, get, post},
};
use nexum_host_ifaces::{
    port::PortError,
    store::{DeadLetter, StoreError, StoreMsg},
};
use nexum_kernel::admin::{
    AdminError, AdminMsg, Drained, ModuleSpec, ModulesOrder, Node, Order, ResyncOrder, Resynced, Upgraded, Wanted,
};

use super::{Api, ORDER_DEADLINE, READ_DEADLINE, check_absolute, within};
use crate::{
    api::{DrainRequest, Dropped, FailedRetry, Letter, Loaded, Resumed, Retried, RetryRequest, UpgradeRequest},
    error::ApiError,
    shapes,
};

/// Nobody waits longer for modules to finish: a day.
const DRAIN_DEADLINE_MS_MAX: u64 = 24 * 3_600_000;

type Named = Result<Path<String>, PathRejection>;
type Numbered = Result<Path<(String, u64)>, PathRejection>;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/modules", get(list).post(load))
        .route("/v1/modules/{name}", delete(unload))
        .route("/v1/modules/{name}/upgrade", post(upgrade))
        .route("/v1/modules/{name}/restart", post(restart))
        .route("/v1/modules/{name}/pause", post(pause))
        .route("/v1/modules/{name}/resume", post(resume))
        .route("/v1/modules/{name}/drain", post(drain))
        .route("/v1/drain", post(drain_all))
        .route("/v1/resume", post(resume_all))
        .route("/v1/modules/{name}/resync", post(resync))
        .route("/v1/modules/{name}/dlq", get(dead_letters).delete(drop_dead_letters))
        .route("/v1/modules/{name}/dlq/retry", post(retry_dead_letters))
        .route("/v1/modules/{name}/dlq/{seq}", get(dead_letter).delete(drop_dead_letter))
        .route("/v1/modules/{name}/dlq/{seq}/retry", post(retry_dead_letter))
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<Node>>, ApiError> {
    api.modules().await.map(Json)
}

async fn load(
    State(api): State<Api>,
    body: Result<Json<ModuleSpec>, JsonRejection>,
) -> Result<(StatusCode, Json<Loaded>), ApiError> {
    let Json(spec) = body?;
    check_absolute("source", &spec.source)?;
    let spec = Box::new(spec);
    let load = |reply| AdminMsg::Modules(ModulesOrder::Load { spec, reply });
    let name = api.admin.call(ORDER_DEADLINE, load).await??;
    Ok((StatusCode::CREATED, Json(Loaded { name })))
}

async fn upgrade(
    State(api): State<Api>,
    name: Named,
    body: Result<Json<UpgradeRequest>, JsonRejection>,
) -> Result<Json<Upgraded>, ApiError> {
    let (Path(module), Json(UpgradeRequest { source, allow_capabilities })) = (name?, body?);
    if let Some(source) = &source {
        check_absolute("source", source)?;
    }
    let wanted = Wanted { module, source, allow_capabilities };
    let upgrade = |reply| AdminMsg::Modules(ModulesOrder::Upgrade { wanted, reply });
    Ok(Json(api.admin.call(ORDER_DEADLINE, upgrade).await??))
}

/// Gives the kernel an order about one module; 204 when it is carried out.
async fn order(api: &Api, name: Named, order: Order) -> Result<StatusCode, ApiError> {
    let Path(module) = name?;
    api.admin.call(ORDER_DEADLINE, |reply| AdminMsg::order(module, order, reply)).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn unload(State(api): State<Api>, name: Named) -> Result<StatusCode, ApiError> {
    order(&api, name, Order::Unload).await
}

async fn restart(State(api): State<Api>, name: Named) -> Result<StatusCode, ApiError> {
    order(&api, name, Order::Restart).await
}

async fn pause(State(api): State<Api>, name: Named) -> Result<StatusCode, ApiError> {
    order(&api, name, Order::Pause).await
}

async fn resume(State(api): State<Api>, name: Named) -> Result<StatusCode, ApiError> {
    order(&api, name, Order::Resume).await
}

async fn drain(
    State(api): State<Api>,
    name: Named,
    body: Result<Json<DrainRequest>, JsonRejection>,
) -> Result<Json<Drained>, ApiError> {
    let (Path(module), Json(request)) = (name?, body?);
    order_drain(&api, Some(module), &request).await
}

async fn drain_all(
    State(api): State<Api>,
    body: Result<Json<DrainRequest>, JsonRejection>,
) -> Result<Json<Drained>, ApiError> {
    let Json(request) = body?;
    order_drain(&api, None, &request).await
}

async fn order_drain(api: &Api, module: Option<String>, request: &DrainRequest) -> Result<Json<Drained>, ApiError> {
    let deadline_ms = within("deadline_ms", request.deadline_ms, 0..=DRAIN_DEADLINE_MS_MAX)?;
    let deadline = Duration::from_millis(deadline_ms);
    let drained = api.admin.call(deadline + READ_DEADLINE, |reply| AdminMsg::Drain { module, deadline, reply });
    Ok(Json(drained.await??))
}

async fn resume_all(State(api): State<Api>) -> Result<Json<Resumed>, ApiError> {
    let resume = |reply| AdminMsg::Modules(ModulesOrder::ResumeAll(reply));
    Ok(Json(Resumed { resumed: api.admin.call(ORDER_DEADLINE, resume).await?? }))
}

async fn resync(
    State(api): State<Api>,
    name: Named,
    body: Result<Json<ResyncOrder>, JsonRejection>,
) -> Result<Json<Resynced>, ApiError> {
    let Path(module) = name?;
    let Json(order) = body?;
    let resync = |reply| AdminMsg::Modules(ModulesOrder::Resync { module, order, reply });
    Ok(Json(api.admin.call(ORDER_DEADLINE, resync).await??))
}

async fn letters(api: &Api, name: String) -> Result<Vec<DeadLetter>, ApiError> {
    Ok(api.store.call(READ_DEADLINE, |reply| StoreMsg::DeadLetters { name, reply }).await??)
}

async fn dead_letters(State(api): State<Api>, name: Named) -> Result<Json<Vec<Letter>>, ApiError> {
    let Path(name) = name?;
    Ok(Json(letters(&api, name).await?.iter().map(shapes::brief_letter).collect()))
}

async fn dead_letter(State(api): State<Api>, path: Numbered) -> Result<Json<Letter>, ApiError> {
    let Path((module, seq)) = path?;
    let letters = letters(&api, module.clone()).await?;
    let letter = letters.iter().find(|letter| letter.seq == seq);
    let letter = letter.ok_or_else(|| StoreError::UnknownDeadLetter { module: module.clone(), seq })?;
    let crashes = api.store.call(READ_DEADLINE, |reply| StoreMsg::Crashes { name: module, reply }).await??;
    Ok(Json(shapes::letter(letter, &crashes)))
}

async fn drop_dead_letter(State(api): State<Api>, path: Numbered) -> Result<StatusCode, ApiError> {
    let Path((name, seq)) = path?;
    api.store.call(READ_DEADLINE, |reply| StoreMsg::DropDeadLetter { name, seq, reply }).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn drop_dead_letters(State(api): State<Api>, name: Named) -> Result<Json<Dropped>, ApiError> {
    let Path(name) = name?;
    let mut dropped = 0;
    for letter in letters(&api, name.clone()).await? {
        let (name, seq) = (name.clone(), letter.seq);
        match api.store.call(READ_DEADLINE, |reply| StoreMsg::DropDeadLetter { name, seq, reply }).await? {
            Ok(()) => dropped += 1,
            // Somebody else was faster.
            Err(StoreError::UnknownDeadLetter { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(Dropped { dropped }))
}

/// Every letter that is there now, oldest first, one after the other. Stops with the caller, too.
async fn retry_dead_letters(
    State(api): State<Api>,
    name: Named,
    body: Result<Json<RetryRequest>, JsonRejection>,
) -> Result<Json<Retried>, ApiError> {
    let (Path(module), Json(RetryRequest { keep_going })) = (name?, body?);
    let mut waiting = letters(&api, module.clone()).await?.into_iter().map(|letter| letter.seq);
    let mut retried = Retried::default();
    for seq in waiting.by_ref() {
        match retry(&api, module.clone(), seq).await? {
            Ok(()) => retried.handled += 1,
            Err(AdminError::UnknownDeadLetter { .. }) => {}
            Err(AdminError::FailedAgain(error)) => {
                retried.failed.push(FailedRetry { seq, error });
                if !keep_going {
                    break;
                }
            }
            // The module does not run (any more): nothing is wrong with the letter.
            Err(error) if retried.handled == 0 && retried.failed.is_empty() => return Err(error.into()),
            Err(error) => {
                retried.not_tried = 1;
                retried.stopped = Some(error.to_string());
                break;
            }
        }
    }
    retried.not_tried += waiting.len();
    Ok(Json(retried))
}

async fn retry_dead_letter(State(api): State<Api>, path: Numbered) -> Result<StatusCode, ApiError> {
    let Path((module, seq)) = path?;
    retry(&api, module, seq).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn retry(api: &Api, module: String, seq: u64) -> Result<Result<(), AdminError>, PortError> {
    let retry = |reply| AdminMsg::Modules(ModulesOrder::RetryDeadLetter { module, seq, reply });
    api.admin.call(ORDER_DEADLINE, retry).await
}
