//! Crashes and recordings, as the store keeps them.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nexum_host_ifaces::{recording::Wanted, store::StoreMsg};

use super::{Api, READ_DEADLINE};
use crate::{api::crashes::CrashList, error::ApiError};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/modules/{name}/crashes", get(list))
        .route("/v1/modules/{name}/crashes/{number}", get(crash))
        .route("/v1/modules/{name}/recordings/{seq}", get(handled))
}

async fn list(State(api): State<Api>, name: Result<Path<String>, PathRejection>) -> Result<Json<CrashList>, ApiError> {
    let Path(name) = name?;
    let crashes = api.store.call(READ_DEADLINE, |reply| StoreMsg::Crashes { name, reply }).await??;
    Ok(Json(CrashList { crashes }))
}

async fn bytes(api: &Api, name: String, wanted: Wanted) -> Result<Response, ApiError> {
    let bytes = api.store.call(READ_DEADLINE, |reply| StoreMsg::Recording { name, wanted, reply }).await??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// One crash, by its number or as `last`, in the form that `nexum replay --capsule` reads.
async fn crash(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((name, number)) = path?;
    let wanted = match number.as_str() {
        "last" => Wanted::LastCrash,
        number => Wanted::Crash(number.parse().map_err(|_| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("`{number}` is no crash: expected its number, or last"))
        })?),
    };
    bytes(&api, name, wanted).await
}

async fn handled(
    State(api): State<Api>,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((name, seq)) = path?;
    bytes(&api, name, Wanted::Unit(seq)).await
}
