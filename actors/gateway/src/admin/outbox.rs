//! Effects of modules: which there are, one of them, and the orders about one.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    routing::{get, post},
};
use nexum_host_ifaces::{outbox::OutboxRequest, store::StoreMsg};
use nexum_kernel::admin::{AdminMsg, AdminReply, EffectOrder};
use serde::Deserialize;

use super::{Api, ORDER_DEADLINE, READ_DEADLINE, within};
use crate::{api::Effect, error::ApiError, shapes};

/// Effects of a list when the caller does not say.
const LIST_DEFAULT: usize = 100;
/// Effects of a list at most, so that an answer stays readable in memory on both sides.
const LIST_MAX: usize = 10_000;

type Named = Result<Path<(String, String)>, PathRejection>;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/modules/{name}/outbox", get(list))
        .route("/v1/modules/{name}/outbox/{id}", get(show).delete(cancel))
        .route("/v1/modules/{name}/outbox/{id}/retry", post(retry))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
}

async fn list(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Effect>>, ApiError> {
    let (Path(name), Query(ListQuery { limit })) = (name?, query?);
    let limit = within("limit", limit.unwrap_or(LIST_DEFAULT), 1..=LIST_MAX)?;
    let mut waits = waits(&api, &name).await;
    let asked = |reply| StoreMsg::Outbox(OutboxRequest::List { name, limit, reply });
    let found = api.store.call(READ_DEADLINE, asked).await??;
    Ok(Json(found.iter().map(|listed| waiting(shapes::brief_effect(listed), &mut waits)).collect()))
}

async fn show(State(api): State<Api>, path: Named) -> Result<Json<Effect>, ApiError> {
    let Path((name, id)) = path?;
    let mut waits = waits(&api, &name).await;
    let asked = |reply| StoreMsg::Outbox(OutboxRequest::Show { name, id, reply });
    Ok(Json(waiting(shapes::effect(&api.store.call(READ_DEADLINE, asked).await??), &mut waits)))
}

/// What effects wait for where they were handed to, by id. Without an outbox nobody knows, and the rest is told.
async fn waits(api: &Api, module: &str) -> BTreeMap<String, String> {
    let module = module.to_owned();
    let asked = |reply| AdminMsg::Effects(EffectOrder::Waits { module, reply });
    api.admin.call(READ_DEADLINE, asked).await.ok().and_then(Result::ok).unwrap_or_default()
}

fn waiting(effect: Effect, waits: &mut BTreeMap<String, String>) -> Effect {
    // One that was pending when it was asked may have ended since.
    let is_released = effect.state == "released";
    Effect { underway: waits.remove(&effect.id).filter(|_| is_released), ..effect }
}

async fn retry(State(api): State<Api>, path: Named) -> Result<StatusCode, ApiError> {
    let Path((module, id)) = path?;
    order(&api, |reply| EffectOrder::Retry { module, id, reply }).await
}

async fn cancel(State(api): State<Api>, path: Named) -> Result<StatusCode, ApiError> {
    let Path((module, id)) = path?;
    order(&api, |reply| EffectOrder::Cancel { module, id, reply }).await
}

/// Gives the kernel an order about one effect; 204 when it is carried out.
async fn order(api: &Api, build: impl FnOnce(AdminReply<()>) -> EffectOrder) -> Result<StatusCode, ApiError> {
    api.admin.call(ORDER_DEADLINE, |reply| AdminMsg::Effects(build(reply))).await??;
    Ok(StatusCode::NO_CONTENT)
}
