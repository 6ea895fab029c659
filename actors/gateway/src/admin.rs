//! The admin API: `/v1/…` over the Unix socket, and over TCP for those who show the token.

mod accounts;
mod crashes;
mod journal;
mod modules;
mod outbox;
mod queries;
mod rpc;
mod services;
mod state;

use std::{convert::Infallible, fmt::Display, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, Request, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{StatusCode, header},
    middleware::{self, Next as NextLayer},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::stream;
use nexum_host_ifaces::{
    interfaces::chain::port::ChainMsg,
    port::Port,
    secrets,
    store::{StoreError, StoreMsg},
};
use nexum_kernel::admin::{AdminMsg, Node, NodeKind};
use prometheus::Registry;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    actor::{Accounts, Token},
    api::{BackupRequest, Stopped, state::ServiceState},
    error::ApiError,
    logs::{self, Follow, LogTap, Next},
    probes,
};

/// Questions are answered from memory or by one read of the database.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Orders wait for the event in flight (`event_deadline`, 120 s by default) or for a compilation, which may take 240 s.
pub(crate) const ORDER_DEADLINE: Duration = Duration::from_secs(300);
/// A backup is made of links and a flush, but may cross file systems.
const BACKUP_DEADLINE: Duration = Duration::from_secs(600);

/// What the handlers reach.
#[derive(Clone)]
pub(crate) struct Api {
    pub admin: Port<AdminMsg>,
    pub store: Port<StoreMsg>,
    pub accounts: Option<Accounts>,
    pub chains: Vec<Port<ChainMsg>>,
    pub registry: Registry,
    pub logs: LogTap,
    /// Turns true when the gateway stops; ends the log streams.
    pub closed: watch::Receiver<bool>,
}

impl Api {
    async fn tree(&self) -> Result<Node, ApiError> {
        Ok(self.admin.call(READ_DEADLINE, AdminMsg::Tree).await?)
    }

    /// The loaded modules, as nodes of the tree. Fails when their supervisor does not answer: then nobody knows.
    async fn modules(&self) -> Result<Vec<Node>, ApiError> {
        fn find(node: Node) -> Option<Node> {
            if node.kind == NodeKind::Modules { Some(node) } else { node.children.into_iter().find_map(find) }
        }
        let modules = find(self.tree().await?).filter(|node| node.state != ServiceState::Down.name());
        let unknown = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the supervisor of modules does not answer");
        Ok(modules.ok_or_else(unknown)?.children)
    }

    async fn module(&self, name: &str) -> Result<Option<Node>, ApiError> {
        Ok(self.modules().await?.into_iter().find(|module| module.name == name))
    }

    /// Refuses a name that is neither that of a loaded module nor in the store. Whoever cannot be asked may know it.
    async fn check_known(&self, name: &str) -> Result<(), ApiError> {
        let asked = |reply| StoreMsg::Inspect { name: name.to_owned(), reply };
        if let Ok(None) = self.module(name).await
            && let Ok(Err(unknown @ StoreError::UnknownModule(_))) = self.store.call(READ_DEADLINE, asked).await
        {
            return Err(unknown.into());
        }
        Ok(())
    }
}

pub(crate) fn router(api: Api, token: Option<Token>) -> Router {
    let router = Router::new()
        .route("/v1/tree", get(async |State(api): State<Api>| api.tree().await.map(Json)))
        .route("/v1/health", get(health))
        .route("/v1/metrics", get(async |State(api): State<Api>| probes::metrics(&api.registry)))
        .route("/v1/logs", get(follow_logs))
        .route("/v1/backup", post(backup))
        .route("/v1/shutdown", post(shutdown))
        .merge(modules::routes())
        .merge(outbox::routes())
        .merge(rpc::routes())
        .merge(queries::routes())
        .merge(services::routes())
        .merge(state::routes())
        .merge(journal::routes())
        .merge(crashes::routes())
        .merge(accounts::routes())
        .fallback(async |request: Request| ApiError::not_found(format!("no such path: {}", request.uri().path())))
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("{} does not take {}", request.uri().path(), request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .with_state(api);
    match token {
        Some(token) => router.layer(middleware::from_fn_with_state(token, authenticate)),
        None => router,
    }
}

async fn authenticate(State(token): State<Token>, request: Request, next: NextLayer) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // The scheme's case does not matter; the token's does.
    let shown = shown.and_then(|value| value.split_once(' '));
    let shown = shown.and_then(|(scheme, shown)| scheme.eq_ignore_ascii_case("Bearer").then_some(shown));
    if shown.is_some_and(|shown| token.matches(shown)) {
        return next.run(request).await;
    }
    let error = ApiError::new(StatusCode::UNAUTHORIZED, "the admin API over TCP wants `Authorization: Bearer <token>`");
    ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
}

/// Always 200 when the engine answers: the status code of `/health` is for probes.
async fn health(State(api): State<Api>) -> Response {
    let (_, health) = probes::read(&api.admin).await;
    Json(health).into_response()
}

/// The engine's working directory is not its caller's. An address may hold a password, and is not repeated.
fn check_absolute(key: &str, path: &Path) -> Result<(), ApiError> {
    if path.is_absolute() {
        return Ok(());
    }
    let shown = path.display().to_string();
    let shown = match () {
        () if shown.contains("://") => "an address",
        () if secrets::holds_secret(&shown) => secrets::MASK,
        () => &shown,
    };
    Err(ApiError::new(StatusCode::BAD_REQUEST, format!("`{key}` must be an absolute path, not {shown}")))
}

/// A number that the caller gave, which is refused where another one would be used in its place.
fn within<T: PartialOrd + Display>(key: &str, number: T, range: RangeInclusive<T>) -> Result<T, ApiError> {
    if range.contains(&number) {
        return Ok(number);
    }
    let message = format!("`{key}` must be {} to {}, not {number}", range.start(), range.end());
    Err(ApiError::new(StatusCode::BAD_REQUEST, message))
}

async fn backup(
    State(api): State<Api>,
    body: Result<Json<BackupRequest>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(BackupRequest { to }) = body?;
    check_absolute("to", &to)?;
    api.store.call(BACKUP_DEADLINE, |reply| StoreMsg::Backup { to, reply }).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn shutdown(State(api): State<Api>) -> Result<Json<Stopped>, ApiError> {
    tracing::info!("shutdown asked for over the admin API");
    let unfinished = api.admin.call(ORDER_DEADLINE, |reply| AdminMsg::Shutdown { reply }).await?;
    Ok(Json(Stopped { unfinished }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    /// Only lines about this module.
    module: Option<String>,
    /// Go on with what is logged from now on.
    #[serde(default)]
    follow: bool,
}

struct LogStream {
    lines: Follow,
    module: Option<String>,
    follow: bool,
    closed: watch::Receiver<bool>,
}

/// Recent lines, then with `follow` the live ones, as NDJSON. A line `{"missed":n}` stands for lines that this reader was
/// too slow for.
async fn follow_logs(
    State(api): State<Api>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(LogsQuery { module, follow }) = query?;
    let lines = api.logs.follow();
    // Lines are there for a module that nobody knows any more, and when nobody can be asked.
    if let Some(name) = module.as_ref().filter(|name| !lines.has_line_about(name)) {
        api.check_known(name).await?;
    }
    let stream = LogStream { lines, module, follow, closed: api.closed };
    let body = Body::from_stream(stream::unfold(stream, async |mut stream| {
        let line = stream.next().await?;
        Some((Ok::<_, Infallible>(line), stream))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

impl LogStream {
    async fn next(&mut self) -> Option<Bytes> {
        while let Some(line) = self.lines.recent() {
            if self.wants(&line) {
                return Some(ended(&line));
            }
        }
        while self.follow {
            let next = tokio::select! {
                next = self.lines.live() => next?,
                _ = self.closed.wait_for(|closed| *closed) => return None,
            };
            match next {
                Next::Line(line) if self.wants(&line) => return Some(ended(&line)),
                Next::Line(_) => {}
                Next::Missed(missed) => return Some(ended(&json!({ "missed": missed }).to_string())),
            }
        }
        None
    }

    fn wants(&self, line: &Arc<str>) -> bool {
        self.module.as_ref().is_none_or(|module| logs::is_about(line, module))
    }
}

fn ended(line: &str) -> Bytes {
    Bytes::from(format!("{line}\n"))
}
