//! What the engine's accounts send and sign: lists, and the orders about one of them.

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    routing::{get, post},
};
use nexum_host_ifaces::{
    interfaces::identity::port::IdentityMsg,
    port::Port,
    transactions::{TransactionOrder, TransactionsMsg, Which},
};
use serde::Deserialize;

use super::{Api, ORDER_DEADLINE, READ_DEADLINE, within};
use crate::{
    api::accounts::{Approval, Decision, Ordered, Signature, Transaction},
    error::ApiError,
    shapes,
};

/// Entries of a list when the caller does not say.
const LIST_DEFAULT: usize = 100;
/// Entries of a list at most.
const LIST_MAX: usize = 10_000;
/// Who decides, when the caller does not say; and the longest name of who does.
const SOMEBODY: &str = "the admin API";
const BY_CHARS_MAX: usize = 128;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/transactions", get(transactions))
        .route("/v1/transactions/{chain}/{account}/{which}/{order}", post(order))
        .route("/v1/approvals", get(approvals))
        .route("/v1/approvals/{number}", get(approval).post(decide))
        .route("/v1/audit", get(audit))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
}

impl ListQuery {
    fn limit(&self) -> Result<usize, ApiError> {
        within("limit", self.limit.unwrap_or(LIST_DEFAULT), 1..=LIST_MAX)
    }
}

fn none() -> ApiError {
    ApiError::not_found("this engine has no accounts: [identity] is not in its configuration")
}

fn identity(api: &Api) -> Result<&Port<IdentityMsg>, ApiError> {
    api.accounts.as_ref().map(|accounts| &accounts.identity).ok_or_else(none)
}

fn sender(api: &Api) -> Result<&Port<TransactionsMsg>, ApiError> {
    api.accounts.as_ref().map(|accounts| &accounts.transactions).ok_or_else(none)
}

async fn transactions(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Transaction>>, ApiError> {
    let limit = query?.limit()?;
    let found = sender(&api)?.call(READ_DEADLINE, |reply| TransactionsMsg::List { limit, reply }).await?;
    Ok(Json(found.into_iter().map(shapes::transaction).collect()))
}

async fn order(
    State(api): State<Api>,
    path: Result<Path<(u64, String, String, String)>, PathRejection>,
) -> Result<Json<Ordered>, ApiError> {
    let Path((chain_id, account, which, order)) = path?;
    let order = match order.as_str() {
        "bump" => TransactionOrder::Bump,
        "cancel" => TransactionOrder::Cancel,
        _ => return Err(ApiError::not_found("no such order: expected bump or cancel")),
    };
    let account = account.to_ascii_lowercase();
    // The id of an effect is no number.
    let which = which.parse::<u64>().map_or_else(|_| Which::Intent(which), Which::Nonce);
    let asked = |reply| TransactionsMsg::Order { chain_id, account, which, order, reply };
    let done = sender(&api)?.call(ORDER_DEADLINE, asked).await??;
    Ok(Json(Ordered { done }))
}

async fn approvals(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Approval>>, ApiError> {
    let limit = query?.limit()?;
    let found = identity(&api)?.call(READ_DEADLINE, |reply| IdentityMsg::Approvals { limit, reply }).await??;
    Ok(Json(found.into_iter().map(shapes::approval).collect()))
}

async fn approval(
    State(api): State<Api>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Approval>, ApiError> {
    let Path(number) = number?;
    let asked = |reply| IdentityMsg::Approvals { limit: LIST_MAX, reply };
    let found = identity(&api)?.call(READ_DEADLINE, asked).await??.into_iter().find(|found| found.number == number);
    let unknown = || ApiError::not_found(format!("no approval {number}: `nexumctl approvals list` names them"));
    Ok(Json(shapes::approval(found.ok_or_else(unknown)?)))
}

async fn decide(
    State(api): State<Api>,
    number: Result<Path<u64>, PathRejection>,
    body: Result<Json<Decision>, JsonRejection>,
) -> Result<Json<Approval>, ApiError> {
    let (Path(number), Json(Decision { approve, by })) = (number?, body?);
    let by = by.unwrap_or_else(|| SOMEBODY.to_owned());
    if by.is_empty() || by.chars().count() > BY_CHARS_MAX {
        let message = format!("`by` must have 1 to {BY_CHARS_MAX} characters");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    let asked = |reply| IdentityMsg::Decide { number, approve, by, reply };
    let decided = identity(&api)?.call(ORDER_DEADLINE, asked).await??;
    Ok(Json(shapes::approval(decided)))
}

async fn audit(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Vec<Signature>>, ApiError> {
    let limit = query?.limit()?;
    let found = identity(&api)?.call(READ_DEADLINE, |reply| IdentityMsg::Audit { limit, reply }).await??;
    Ok(Json(found.into_iter().map(shapes::signature).collect()))
}
