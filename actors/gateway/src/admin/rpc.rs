//! What modules asked of chains, and how far their budgets are used.

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use nexum_host_ifaces::interfaces::chain::port::{ChainMsg, RpcUsage};
use serde::Deserialize;

use super::{Api, READ_DEADLINE};
use crate::error::ApiError;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/rpc", get(usage))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageQuery {
    /// Only of this module.
    module: Option<String>,
}

async fn usage(
    State(api): State<Api>,
    query: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<Json<RpcUsage>, ApiError> {
    let Query(UsageQuery { module }) = query?;
    let mut all = RpcUsage::default();
    for chain in &api.chains {
        let RpcUsage { rows, budgets } = chain.call(READ_DEADLINE, ChainMsg::Usage).await?;
        all.rows.extend(rows);
        // A budget is for all chains, and each of them tells it.
        all.budgets = budgets;
    }
    if let Some(module) = module {
        all.rows.retain(|row| row.module == module);
        all.budgets.retain(|spent| spent.module == module);
    }
    Ok(Json(all))
}
