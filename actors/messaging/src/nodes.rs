//! The operator's nodes: one is asked, and the next when it does not answer.
//!
//! Invariant: nothing of a URL but what may be shown is ever shown; an answer is read up to a bound; only so many requests run at
//! once.

use std::{
    error::Error as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    bounded::{MESSAGE_BYTES_MAX, cut},
    clock::Clock,
    interfaces::messaging::port::NodeStatus,
    secrets::shown_url,
    sync::lock,
};
use reqwest::{Client, Method, redirect};
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    metrics::MessagingMetrics,
    settings::{PublishBy, Settings},
    wire::{self, Page, error},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a node says of a message that it took, or of a subscription.
const WORD_BYTES_MAX: usize = 16 * 1024;
/// The largest message with its Base64, and what stands around it.
const RECORD_BYTES_MAX: usize = 256 * 1024;
/// A node keeps a few dozen messages that it heard; of all topics together they are bounded by this.
const HEARD_BYTES_MAX: usize = 64 * RECORD_BYTES_MAX;

/// One request, to whichever node.
#[derive(Debug)]
pub struct Request {
    /// What for, as metrics name it.
    operation: &'static str,
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<String>,
    answer_bytes_max: usize,
}

/// Which stored messages are asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub topic: Option<Arc<str>>,
    pub start_ns: Option<u64>,
    pub end_ns: Option<u64>,
    pub newest_first: bool,
    pub count: usize,
    /// As the page before said.
    pub after: Option<String>,
}

struct Node {
    url: Url,
    shown: String,
    /// How many requests were begun.
    begun: AtomicU64,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failing_since_ms: Option<u64>,
    /// Requests that were begun before it was last seen to be away: their answers say nothing of it now.
    outdated: u64,
    last_error: Option<String>,
}

pub struct Nodes {
    http: Client,
    nodes: Vec<Node>,
    /// The one that answered last.
    preferred: AtomicUsize,
    room: Semaphore,
    settings: Settings,
    clock: Arc<dyn Clock>,
    metrics: MessagingMetrics,
}

impl Nodes {
    /// Nothing is connected to yet.
    ///
    /// # Errors
    /// What cannot be used, without what may be secret.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, metrics: MessagingMetrics) -> Result<Self, String> {
        let node = |url: &String| {
            let shown = shown_url(url);
            let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            let url = parsed.ok_or_else(|| format!("Waku node {shown}: that is no URL of http or https"))?;
            Ok::<_, String>(Node { url, shown, begun: AtomicU64::new(0), health: Mutex::default() })
        };
        let nodes = settings.nodes.iter().map(node).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err("there is no Waku node".to_owned());
        }
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(settings.timeout)
            .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")));
        let http = builder.build().map_err(|failed| format!("requests to Waku nodes: {}", innermost(&failed)))?;
        let (preferred, room) =
            (AtomicUsize::new(0), Semaphore::new(settings.requests_max.min(Semaphore::MAX_PERMITS)));
        let nodes = Self { http, nodes, preferred, room, settings, clock, metrics };
        nodes.show_connected();
        Ok(nodes)
    }

    /// Which node is asked first.
    pub fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// A page of stored messages of one node, or of the first that answers.
    pub async fn page(&self, on: Option<usize>, wanted: Wanted) -> Result<(usize, Page), HostError> {
        let Wanted { topic, start_ns, end_ns, newest_first, count, after } = wanted;
        let count = count.clamp(1, self.settings.page_size);
        let mut query = vec![
            ("includeData", true.to_string()),
            ("ascending", (!newest_first).to_string()),
            ("pageSize", count.to_string()),
        ];
        query.extend(topic.as_deref().map(|topic| ("contentTopics", topic.to_owned())));
        query.extend(start_ns.map(|time| ("startTime", time.to_string())));
        query.extend(end_ns.map(|time| ("endTime", time.to_string())));
        query.extend(after.map(|cursor| ("cursor", cursor)));
        query.extend(self.settings.store_peer.clone().map(|peer| ("peerAddr", peer)));
        let request = Request {
            operation: "store",
            method: Method::GET,
            path: path(&["store", "v3", "messages"]),
            query,
            body: None,
            answer_bytes_max: (count + 1) * RECORD_BYTES_MAX,
        };
        let (node, mut page) = self.ask(on, &request, |body| wire::page(&body, topic.as_deref())).await?;
        // Nobody asked for these. One that a node has of the future would be named in positions until its time comes.
        let is_in =
            |time_ns: u64| start_ns.is_none_or(|start| start <= time_ns) && end_ns.is_none_or(|end| time_ns <= end);
        page.messages.retain(|stored| is_in(stored.time_ns));
        Ok((node, page))
    }

    /// Has a message published. The answer is what the node says.
    pub async fn publish(&self, message: Value) -> Result<Vec<u8>, HostError> {
        let (path, body) = match self.settings.publish_by {
            PublishBy::Relay => (path(&["relay", "v1", "auto", "messages"]), message),
            PublishBy::Lightpush => (path(&["lightpush", "v3", "message"]), serde_json::json!({ "message": message })),
        };
        let request = Request {
            operation: "publish",
            method: Method::POST,
            path,
            query: Vec::new(),
            body: Some(body.to_string()),
            answer_bytes_max: WORD_BYTES_MAX,
        };
        self.ask(None, &request, Ok).await.map(|(_, said)| said)
    }

    /// Has a node listen to a topic.
    pub async fn listen(&self, node: usize, topic: &str) -> Result<(), HostError> {
        let request = Request {
            operation: "subscribe",
            method: Method::POST,
            path: path(&["relay", "v1", "auto", "subscriptions"]),
            query: Vec::new(),
            body: Some(serde_json::json!([topic]).to_string()),
            answer_bytes_max: WORD_BYTES_MAX,
        };
        self.ask(Some(node), &request, Ok).await.map(drop)
    }

    /// How many messages a node has heard of a topic since it was asked last.
    pub async fn heard(&self, node: usize, topic: &str) -> Result<usize, HostError> {
        let request = Request {
            operation: "live",
            method: Method::GET,
            path: path(&["relay", "v1", "auto", "messages", topic]),
            query: Vec::new(),
            body: None,
            answer_bytes_max: HEARD_BYTES_MAX,
        };
        self.ask(Some(node), &request, |body| wire::heard(&body)).await.map(|(_, heard)| heard)
    }

    pub fn status(&self) -> Vec<NodeStatus> {
        let now_ms = self.clock.now_ms();
        let status = |node: &Node| {
            let health = lock(&node.health);
            let failing_ms = health.failing_since_ms.map(|since| now_ms.saturating_sub(since));
            NodeStatus { name: node.shown.clone(), failing_ms, last_error: health.last_error.clone() }
        };
        self.nodes.iter().map(status).collect()
    }

    /// Asks one node, or one after the other until one answers. Some have a success to say that they could not reach a store:
    /// what `read` finds to be no answer is none.
    async fn ask<T>(
        &self,
        on: Option<usize>,
        request: &Request,
        read: impl Fn(Vec<u8>) -> Result<T, HostError>,
    ) -> Result<(usize, T), HostError> {
        let first = on.unwrap_or_else(|| self.preferred());
        let tries = if on.is_some() { 1 } else { self.nodes.len() };
        let mut worst: Option<HostError> = None;
        for index in (0..tries).map(|step| (first + step) % self.nodes.len()) {
            let nth = self.nodes[index].begun.fetch_add(1, Ordering::Relaxed);
            let answer = self.send(&self.nodes[index], request).await.and_then(&read);
            self.note(index, nth, request.operation, &answer);
            match answer {
                Ok(answer) => {
                    if on.is_none() {
                        self.preferred.store(index, Ordering::Relaxed);
                    }
                    return Ok((index, answer));
                }
                // That it has the message is as good as that it takes it.
                Err(failed) if may_pass(&failed) && !wire::is_duplicate(&failed) => {
                    // What a node that said nothing knows, no other one's refusal stands for.
                    if worst.as_ref().is_none_or(|worst| !is_silent(worst)) {
                        worst = Some(failed);
                    }
                }
                Err(failed) => return Err(failed),
            }
        }
        let Some(worst) = worst else { unreachable!("there is at least one node") };
        Err(worst)
    }

    async fn send(&self, node: &Node, request: &Request) -> Result<Vec<u8>, HostError> {
        let Ok(_room) = self.room.acquire().await else { unreachable!("nobody closes it") };
        let mut url = node.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut builder = self.http.request(request.method.clone(), url).header("accept", "application/json");
        if let Some(body) = &request.body {
            builder = builder.header("content-type", "application/json").body(body.clone());
        }
        let failure = |failed: reqwest::Error| {
            let kind = if failed.is_timeout() { HostErrorKind::Timeout } else { HostErrorKind::Unavailable };
            let cause = innermost(&failed.without_url());
            error(kind, cut(format!("Waku node {}: {cause}", node.shown), MESSAGE_BYTES_MAX))
        };
        let mut answer = builder.send().await.map_err(failure)?;
        let (status, mut body) = (answer.status(), Vec::new());
        let bytes_max = if status.is_success() { request.answer_bytes_max } else { WORD_BYTES_MAX };
        while let Some(chunk) = answer.chunk().await.map_err(failure)? {
            if body.len() + chunk.len() > bytes_max {
                if !status.is_success() {
                    break;
                }
                let message = format!("Waku node {}: it answered with more than {bytes_max} bytes", node.shown);
                return Err(error(HostErrorKind::Unavailable, message));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        let mut refused = wire::refusal(request.operation, status.as_u16(), &body);
        refused.message = cut(format!("Waku node {}: {}", node.shown, refused.message), MESSAGE_BYTES_MAX);
        Err(refused)
    }

    /// Keeps what became of a request. An answer that refuses something is an answer.
    fn note<T>(&self, index: usize, nth: u64, operation: &str, answer: &Result<T, HostError>) {
        let result = answer.as_ref().map_or_else(|failed| failed.kind.name(), |_| "ok");
        self.metrics.requests.with_label_values(&[operation, result]).inc();
        let node = &self.nodes[index];
        {
            let mut health = lock(&node.health);
            match answer {
                Err(failed) if is_away(operation, failed) => {
                    if health.failing_since_ms.is_none() {
                        tracing::warn!(node = node.shown, error = failed.message, "a Waku node does not answer");
                        health.failing_since_ms = Some(self.clock.now_ms());
                    }
                    health.last_error = Some(failed.message.clone());
                    health.outdated = node.begun.load(Ordering::Relaxed);
                }
                answered => {
                    if nth >= health.outdated && health.failing_since_ms.take().is_some() {
                        tracing::info!(node = node.shown, "a Waku node answers again");
                    }
                    // Of a node that hears nothing live, that is no error: it need not relay.
                    if let (Err(failed), false) = (answered, operation == "live") {
                        health.last_error = Some(failed.message.clone());
                    }
                }
            }
        }
        self.show_connected();
    }

    fn show_connected(&self) {
        let connected = self.nodes.iter().filter(|node| lock(&node.health).failing_since_ms.is_none()).count();
        self.metrics.nodes_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
    }
}

/// Another node may do better.
fn may_pass(failed: &HostError) -> bool {
    matches!(failed.kind, HostErrorKind::Unavailable | HostErrorKind::Timeout)
}

/// Whether a node has said nothing of what it was asked: it may say it later.
pub fn is_silent(failed: &HostError) -> bool {
    failed.code == 0 || failed.code == 429 || failed.code >= 500
}

/// Whether there was no answer, or that of something in front of a node that is away. Of what is published a node may say
/// with such a status that it has no peers.
fn is_away(operation: &str, failed: &HostError) -> bool {
    may_pass(failed) && (failed.code == 0 || (failed.code >= 500 && operation == "store"))
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// What is at the bottom of an error. What is above it may quote the URL.
fn innermost(failed: &reqwest::Error) -> String {
    let mut cause = failed.to_string();
    let mut inner = failed.source();
    while let Some(error) = inner {
        cause = error.to_string();
        inner = error.source();
    }
    cause
}
