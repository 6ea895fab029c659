//! What probes and scrapers read: `/health`, `/ready`, `/live` and `/metrics`.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use nexum_admin_api::health::{HEALTHY, UNHEALTHY};
use nexum_host_ifaces::port::Port;
use nexum_kernel::admin::{AdminMsg, Health};
use prometheus::{Encoder, Registry, TextEncoder};
use serde_json::json;

use crate::error::ApiError;

/// Probes give up after a few seconds; an engine that needs longer is not healthy.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

pub(crate) fn health_router(admin: Port<AdminMsg>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/live", get(async || Json(json!({ "status": "live" }))))
        .with_state(admin)
}

pub(crate) fn metrics_router(registry: Registry) -> Router {
    Router::new()
        .route("/metrics", get(async |State(registry): State<Registry>| metrics(&registry)))
        .with_state(registry)
}

async fn health(State(admin): State<Port<AdminMsg>>) -> Response {
    let (status, health) = read(&admin).await;
    (status, Json(health)).into_response()
}

/// The kernel's health and the status that goes with it; a kernel that does not answer is not healthy.
pub(crate) async fn read(admin: &Port<AdminMsg>) -> (StatusCode, Health) {
    let health = admin.call(PROBE_DEADLINE, AdminMsg::Health).await.unwrap_or_else(|error| Health {
        status: UNHEALTHY.to_owned(),
        ready: false,
        uptime_seconds: 0,
        modules: Default::default(),
        chains: Default::default(),
        services: Default::default(),
        reasons: vec![error.to_string()],
    });
    let status = if health.status == HEALTHY { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health)
}

async fn ready(State(admin): State<Port<AdminMsg>>) -> Response {
    let (_, health) = read(&admin).await;
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": health.ready, "reasons": health.reasons }))).into_response()
}

/// The registry in Prometheus' text format.
pub(crate) fn metrics(registry: &Registry) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => ([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
