//! One request: sent, its redirects followed one by one, its answer read up to a limit.
//!
//! Invariant: every URL that is connected to was checked against the allowlist. Errors say what happened, in the kinds
//! that modules know; they never carry a URL's path or query.

use std::error::Error as _;

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    http::{self, Allowlist, Fetch, Header, Request, Response},
};
use reqwest::{Client, Method, StatusCode, header, redirect};
use url::Url;

/// Longer chains are loops.
const REDIRECTS_MAX: usize = 5;

/// Headers that must not reach another host than the one they were meant for.
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
/// Headers that speak of a body that a redirect left behind.
const OF_BODY: [&str; 4] = ["content-type", "content-encoding", "content-language", "content-location"];

fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new("http", kind, message)
}

/// The one client, and why it cannot speak https, if it cannot: without a store of certificates there is no TLS, which
/// nobody needs for http. Proxies of the environment are not used: where a module may go is the manifest's to say.
pub(crate) fn build() -> Result<(Client, Option<String>), reqwest::Error> {
    let builder = || {
        Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            // A module gets the bytes that it asked for, and says itself what it accepts.
            .no_gzip()
            .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")))
    };
    match builder().build() {
        Ok(client) => Ok((client, None)),
        Err(failed) => Ok((builder().tls_certs_only([]).build()?, Some(innermost(&failed)))),
    }
}

/// What is at the bottom of an error.
fn innermost(failed: &reqwest::Error) -> String {
    let mut cause = failed.to_string();
    let mut inner = failed.source();
    while let Some(error) = inner {
        cause = error.to_string();
        inner = error.source();
    }
    cause
}

/// Carries out a request within its deadline. Of an effect any status is an answer once it has come, with as much of the
/// body as came within the limit and the deadline.
///
/// # Errors
/// `unavailable` without a connection, `timeout`, `denied` for a redirect to where the module may not go,
/// `invalid-input` for a request that cannot be made or an answer that is too large.
pub(crate) async fn fetch(client: &Client, fetch: Fetch, response_bytes_max: usize) -> Result<Response, HostError> {
    let Fetch { request, allow, deadline, max_reply_bytes, is_effect, .. } = fetch;
    let limit = max_reply_bytes.min(response_bytes_max);
    let mut heard = None;
    let done = tokio::time::timeout(deadline, follow(client, request, &allow, limit, is_effect, &mut heard)).await;
    let late = |_| error(HostErrorKind::Timeout, format!("no answer within {} ms", deadline.as_millis()));
    match (done.map_err(late).flatten(), heard) {
        (Err(_), Some(heard)) if is_effect => Ok(heard),
        (Ok(()), Some(heard)) => Ok(heard),
        (Ok(()), None) => Err(error(HostErrorKind::Internal, "a request ended without an answer")),
        (Err(error), _) => Err(error),
    }
}

async fn follow(
    client: &Client,
    mut request: Request,
    allow: &Allowlist,
    limit: usize,
    is_effect: bool,
    heard: &mut Option<Response>,
) -> Result<(), HostError> {
    let mut url = http::check(&request.method, &request.url, &request.headers, request.body.as_deref(), allow)?;
    for _ in 0..=REDIRECTS_MAX {
        let answer = send(client, &request, &url).await?;
        match redirected(&answer, &request, &url, is_effect)? {
            None => return read(answer, limit, heard).await,
            Some((next, becomes_get)) => {
                allow
                    .check(&next)
                    .map_err(|refusal| HostError { message: format!("redirected: {}", refusal.message), ..refusal })?;
                turn(&mut request, &url, &next, becomes_get);
                url = next;
            }
        }
    }
    Err(error(HostErrorKind::Unavailable, format!("more than {REDIRECTS_MAX} redirects")))
}

async fn send(client: &Client, request: &Request, url: &Url) -> Result<reqwest::Response, HostError> {
    let invalid = |what: String| error(HostErrorKind::InvalidInput, what);
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|why| invalid(why.to_string()))?;
    let mut out = client.request(method, url.clone());
    for Header { name, value } in &request.headers {
        out = out.header(name, value);
    }
    if let Some(body) = &request.body {
        out = out.body(body.clone());
    }
    out.send().await.map_err(|failed| failure(failed, url))
}

/// Where the answer leads, and whether the method becomes GET there; none when it is the last one.
fn redirected(
    answer: &reqwest::Response,
    request: &Request,
    url: &Url,
    keep_method: bool,
) -> Result<Option<(Url, bool)>, HostError> {
    let plain = matches!(request.method.as_str(), "GET" | "HEAD");
    let becomes_get = match answer.status() {
        StatusCode::SEE_OTHER => !plain,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => request.method == "POST",
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
        _ => return Ok(None),
    };
    let Some(location) = answer.headers().get(header::LOCATION) else { return Ok(None) };
    if becomes_get && keep_method {
        return Ok(None);
    }
    let unusable = || error(HostErrorKind::Unavailable, "redirected to something that is no URL");
    let next = location.to_str().ok().and_then(|text| url.join(text).ok()).ok_or_else(unusable)?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(error(HostErrorKind::Denied, "redirected from https to http"));
    }
    Ok(Some((next, becomes_get)))
}

/// Makes the request that a redirect asks for.
fn turn(request: &mut Request, from: &Url, to: &Url, becomes_get: bool) {
    let drop = |headers: &mut Vec<Header>, names: &[&str]| {
        headers.retain(|header| !names.iter().any(|name| header.name.eq_ignore_ascii_case(name)));
    };
    if becomes_get {
        request.method = "GET".into();
        request.body = None;
        drop(&mut request.headers, &OF_BODY);
    }
    if from.origin() != to.origin() {
        drop(&mut request.headers, &SECRET);
    }
}

/// Reads the last answer into `heard`, which holds what came so far when this fails or is dropped.
async fn read(mut answer: reqwest::Response, limit: usize, heard: &mut Option<Response>) -> Result<(), HostError> {
    let url = answer.url().clone();
    let status = answer.status().as_u16();
    let header = |(name, value): (&header::HeaderName, &header::HeaderValue)| Header {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    let headers = answer.headers().iter().map(header).collect();
    let heard = heard.insert(Response { status, headers, body: Vec::new() });
    while let Some(chunk) = answer.chunk().await.map_err(|failed| failure(failed, &url))? {
        let room = limit.saturating_sub(heard.body.len());
        heard.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            let message = format!("the answer's body is larger than the limit of {limit} bytes");
            return Err(error(HostErrorKind::InvalidInput, message).with_code(status.into()));
        }
    }
    Ok(())
}

/// What kept a request from its answer.
fn failure(failed: reqwest::Error, url: &Url) -> HostError {
    let place = url.origin().ascii_serialization();
    let failed = failed.without_url();
    let cause = innermost(&failed);
    let kind = match () {
        () if failed.is_timeout() => HostErrorKind::Timeout,
        () if failed.is_builder() => HostErrorKind::InvalidInput,
        () => HostErrorKind::Unavailable,
    };
    error(kind, format!("{place}: {cause}"))
}
