//! Shared actors: what they are called, how they are doing, and the order to restart one.

use axum::{
    Json, Router,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
    routing::{get, post},
};
use nexum_kernel::admin::{AdminMsg, ServiceReport};

use super::{Api, ORDER_DEADLINE, READ_DEADLINE};
use crate::{api::RestartRequest, error::ApiError};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/services", get(list)).route("/v1/services/{name}/restart", post(restart))
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<ServiceReport>>, ApiError> {
    Ok(Json(api.admin.call(READ_DEADLINE, AdminMsg::Services).await?))
}

/// 204 once the service is back. Whoever restarts the gateway itself sees the connection end.
async fn restart(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    body: Result<Json<RestartRequest>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let (Path(service), Json(RestartRequest { kill })) = (name?, body?);
    api.admin.call(ORDER_DEADLINE, |reply| AdminMsg::RestartService { service, kill, reply }).await??;
    Ok(StatusCode::NO_CONTENT)
}
