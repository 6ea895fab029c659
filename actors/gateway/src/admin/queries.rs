//! Questions to modules about their state, which they answer themselves.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nexum_kernel::{
    admin::{AdminMsg, ModulesOrder},
    query::Question,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Api;
use crate::{api::QueryRequest, error::ApiError};

/// The kernel has a deadline of its own for the module, which is shorter unless the operator wants to wait that long.
const QUERY_DEADLINE: Duration = Duration::from_secs(300);
/// A method is a name.
const METHOD_BYTES_MAX: usize = 256;

type Named = Result<Path<String>, PathRejection>;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/modules/{name}/query", get(ask_by_address).post(ask))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    method: String,
    /// JSON text; absent: `null`.
    params: Option<String>,
}

/// For browsers and dashboards, which ask by an address.
async fn ask_by_address(
    State(api): State<Api>,
    name: Named,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (Path(module), Query(Asked { method, params })) = (name?, query?);
    if let Some(params) = &params
        && serde_json::from_str::<&RawValue>(params).is_err()
    {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "`params` is not JSON"));
    }
    answer(&api, module, method, params).await
}

async fn ask(
    State(api): State<Api>,
    name: Named,
    body: Result<Json<QueryRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let (Path(module), Json(QueryRequest { method, params })) = (name?, body?);
    answer(&api, module, method, params.map(|params| params.get().to_owned())).await
}

async fn answer(api: &Api, module: String, method: String, params: Option<String>) -> Result<Response, ApiError> {
    if method.is_empty() || method.len() > METHOD_BYTES_MAX {
        let message = format!("`method` must have 1 to {METHOD_BYTES_MAX} bytes, not {}", method.len());
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    let question = Question { method, params: params.unwrap_or_else(|| "null".to_owned()) };
    let query = |reply| AdminMsg::Modules(ModulesOrder::Query { module, question, reply });
    let text = api.admin.call(QUERY_DEADLINE, query).await???;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
