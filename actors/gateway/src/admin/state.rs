//! What modules keep in the store: pages of it, single values, and its removal.

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    routing::get,
};
use nexum_host_ifaces::store::{ModuleHealth, ModuleId, ModuleInfo, ModuleRecord, StoreError, StoreMsg};
use nexum_kernel::admin::{AdminMsg, ModulesOrder};
use serde::Deserialize;

use super::{Api, ORDER_DEADLINE, READ_DEADLINE, within};
use crate::{
    api::{Inspection, StateEntry, StatePage},
    error::ApiError,
    shapes,
};

/// Entries of a page when the caller does not say.
const PAGE_DEFAULT: usize = 100;
/// Entries of a page at most, so that an answer stays readable in memory on both sides.
const PAGE_MAX: usize = 1000;

type Named = Result<Path<String>, PathRejection>;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/modules/{name}/inspect", get(inspect))
        .route("/v1/modules/{name}/state", get(list).delete(purge))
        .route("/v1/modules/{name}/state/{*key}", get(value))
}

async fn inspect(State(api): State<Api>, name: Named) -> Result<Json<Inspection>, ApiError> {
    let Path(name) = name?;
    let node = api.module(&name).await?;
    let asked = name.clone();
    let found = api.store.call(READ_DEADLINE, |reply| StoreMsg::Inspect { name: asked, reply }).await?;
    let info = match found {
        // A module that could never start has nothing in the store, and is just what somebody wants to know about.
        Err(StoreError::UnknownModule(_)) if node.is_some() => never_started(name),
        found => found?,
    };
    Ok(Json(shapes::inspection(info, node)))
}

fn never_started(name: String) -> ModuleInfo {
    let (record, health) = (ModuleRecord::default(), ModuleHealth::default());
    ModuleInfo {
        name,
        id: ModuleId(0),
        record,
        health,
        dead_letters: 0,
        dead_letter_bytes: 0,
        redelivery: 0,
        reorgs: 0,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

async fn list(
    State(api): State<Api>,
    name: Named,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<StatePage>, ApiError> {
    let Path(name) = name?;
    let Query(PageQuery { prefix, after, limit }) = query?;
    let limit = within("limit", limit.unwrap_or(PAGE_DEFAULT), 1..=PAGE_MAX)?;
    let build = |reply| StoreMsg::StateList { name, prefix, after, limit, reply };
    let entries = api.store.call(READ_DEADLINE, build).await??;
    let next = if entries.len() == limit { entries.last().map(|(key, _)| key.clone()) } else { None };
    let entries = entries.into_iter().map(|(key, value)| StateEntry::new(key, &value)).collect();
    Ok(Json(StatePage { entries, next }))
}

async fn value(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<StateEntry>, ApiError> {
    let Path((module, key)) = path?;
    let (name, wanted) = (module.clone(), key.clone());
    let found = api.store.call(READ_DEADLINE, |reply| StoreMsg::StateGet { name, key: wanted, reply }).await??;
    let value = found.ok_or_else(|| ApiError::not_found(format!("module `{module}` has no key `{key}`")))?;
    Ok(Json(StateEntry::new(key, &value)))
}

async fn purge(State(api): State<Api>, name: Named) -> Result<StatusCode, ApiError> {
    let Path(module) = name?;
    let purge = |reply| AdminMsg::Modules(ModulesOrder::Purge { module, reply });
    api.admin.call(ORDER_DEADLINE, purge).await???;
    Ok(StatusCode::NO_CONTENT)
}
