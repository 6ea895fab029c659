//! The Bee nodes, over HTTP: one after the other until one does what was asked.
//!
//! Invariant: an answer is read up to a bound, and whoever asked for it says whether it is the right one before it counts as
//! an answer. A node that fails or lies is asked after the others for a while. Nothing of a URL but its host is ever shown.

use std::{
    error::Error as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use nexum_host_ifaces::{
    bounded::{MESSAGE_BYTES_MAX as SHOWN_BYTES_MAX, cut},
    clock::Clock,
    interfaces::remote_store::port::{BatchStatus, NodeStatus},
    secrets::shown_url,
    sync::lock,
};
use nexum_swarm::{
    Chunk, ChunkAddress, Corrupt, PAYLOAD_BYTES_MAX, SPAN_BYTES,
    node::{self, Batch, Failure},
    soc::{self, Identifier, Owner, SIGNATURE_BYTES},
};
use reqwest::{RequestBuilder, redirect};
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    actor::{NodeSettings, Settings},
    metrics::RemoteStoreMetrics,
    trouble::Trouble,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest chunk is one that an account signed.
const CHUNK_BYTES_MAX: usize = 32 + SIGNATURE_BYTES + SPAN_BYTES + PAYLOAD_BYTES_MAX;
/// How long a node is asked after the others, once it was of no use.
const ASIDE: Duration = Duration::from_secs(30);
/// From where on a batch is told of in the log.
const BATCH_FULL_PERCENT: u64 = 90;
const BATCH_TTL_MIN_S: u64 = 86_400;

const NS_PER_MS: u64 = 1_000_000;

/// One node.
pub struct Node {
    url: Url,
    /// The URL as people may see it.
    name: String,
    batch: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until when it is asked after the others.
    aside_until_ns: u64,
    /// Since when it is of no use.
    down_since_ns: Option<u64>,
    corrupt_total: u64,
    last_error: Option<String>,
    batch: Option<Batch>,
    /// It says itself that the batch has expired, or is not usable yet.
    is_spent: bool,
}

/// All nodes.
pub struct Client {
    http: reqwest::Client,
    nodes: Vec<Node>,
    slots: Semaphore,
    timeout: Duration,
    is_deferred: bool,
    pins: bool,
    clock: Arc<dyn Clock>,
    metrics: RemoteStoreMetrics,
}

impl Client {
    /// Nothing is connected to yet.
    pub fn new(settings: &Settings, clock: Arc<dyn Clock>, metrics: RemoteStoreMetrics) -> Result<Self, String> {
        let http = builder().build().or_else(|failed| {
            tracing::warn!("nodes over https cannot be asked, because TLS cannot be set up: {}", innermost(&failed));
            // Nobody needs certificates for http.
            builder().tls_certs_only([]).build()
        });
        let http = http.map_err(|failed| innermost(&failed))?;
        let node = |NodeSettings { url, batch }: &NodeSettings| {
            let name = shown_url(url);
            let url = Url::parse(url).map_err(|_| format!("{name} is no URL"))?;
            Ok::<_, String>(Node { url, name, batch: batch.clone(), state: Mutex::default() })
        };
        Ok(Self {
            http,
            nodes: settings.nodes.iter().map(node).collect::<Result<_, String>>()?,
            slots: Semaphore::new(settings.limits.node_requests_max),
            timeout: settings.limits.timeout,
            is_deferred: settings.is_deferred,
            pins: settings.pins,
            clock,
            metrics,
        })
    }

    /// Whether there is a node with a postage batch.
    pub fn can_write(&self) -> bool {
        self.nodes.iter().any(|node| node.batch.is_some())
    }

    /// What is under an address, once `read` has found it to be that.
    pub async fn chunk<T>(
        &self,
        address: &ChunkAddress,
        read: impl Fn(&[u8]) -> Result<T, Corrupt> + Sync,
    ) -> Result<T, Trouble> {
        let (path, read) = (["chunks".to_owned(), hex::encode(address)], &read);
        let mut worst = None;
        for node in self.in_order(false) {
            let request = self.http.get(node.path(&path));
            let answer = self.answer(node, request, CHUNK_BYTES_MAX, false).await;
            let chunk = answer.and_then(|wire| read(&wire).map_err(|why| node.corrupt(why.to_string())));
            match self.judged(node, chunk) {
                Ok(chunk) => return Ok(chunk),
                Err(trouble) => note(&mut worst, trouble),
            }
        }
        Err(worst.unwrap_or_else(no_node))
    }

    /// Stores content whose address is known.
    pub async fn upload(&self, data: &Bytes, address: &ChunkAddress) -> Result<(), Trouble> {
        self.write(&["bytes".to_owned()], &[], data, address).await
    }

    /// Stores a chunk of content that an account signed.
    pub async fn upload_signed(
        &self,
        owner: &Owner,
        identifier: &Identifier,
        signature: &[u8; SIGNATURE_BYTES],
        content: &Chunk,
    ) -> Result<(), Trouble> {
        let path = ["soc".to_owned(), hex::encode(owner), hex::encode(identifier)];
        let query = [("sig", hex::encode(signature))];
        self.write(&path, &query, &Bytes::from(content.wire()), &soc::address(identifier, owner)).await
    }

    async fn write(
        &self,
        path: &[String],
        query: &[(&str, String)],
        body: &Bytes,
        address: &ChunkAddress,
    ) -> Result<(), Trouble> {
        let mut worst = None;
        for node in self.in_order(true) {
            // Only these are in order for it.
            let Some(batch) = &node.batch else { continue };
            let mut url = node.path(path);
            if !query.is_empty() {
                url.query_pairs_mut().extend_pairs(query);
            }
            let request = self.http.post(url).header("content-type", "application/octet-stream");
            let request = request
                .header("swarm-postage-batch-id", batch)
                .header("swarm-deferred-upload", self.is_deferred.to_string())
                .header("swarm-pin", self.pins.to_string())
                // With redundancy content has another address.
                .header("swarm-redundancy-level", "0");
            let answer = self.answer(node, request.body(body.clone()), node::MESSAGE_BYTES_MAX, true).await;
            // An upload asks for nothing that could be missing: whatever is there takes none, or not yet.
            let answer = answer.map_err(|trouble| match trouble.failure {
                Failure::NotFound => Trouble { failure: Failure::Failed, ..trouble },
                _ => trouble,
            });
            let stored = answer.and_then(|answer| match node::is_answer(&answer, address) {
                true => Ok(()),
                false => Err(node.corrupt("it stored something else, or says so".to_owned())),
            });
            let stored = if stored.is_ok() && self.is_spent(node).await { Err(node.spent()) } else { stored };
            match self.judged(node, stored) {
                Ok(()) => return Ok(()),
                Err(trouble) if !trouble.failure.is_of_this_node() => return Err(trouble),
                Err(trouble) => note(&mut worst, trouble),
            }
        }
        Err(worst.unwrap_or_else(no_node))
    }

    /// The nodes, those aside after the others; only those with a postage batch for what is written.
    fn in_order(&self, writes: bool) -> Vec<&Node> {
        let now = self.clock.monotonic_ns();
        let mut nodes: Vec<&Node> = self.nodes.iter().filter(|node| !writes || node.batch.is_some()).collect();
        nodes.sort_by_key(|node| lock(&node.state).aside_until_ns > now);
        nodes
    }

    /// The body of a good answer, at most so many bytes.
    async fn answer(
        &self,
        node: &Node,
        request: RequestBuilder,
        bytes_max: usize,
        is_upload: bool,
    ) -> Result<Vec<u8>, Trouble> {
        let Ok(_slot) = self.slots.acquire().await else { unreachable!("nobody closes the semaphore") };
        let sent = request.timeout(self.timeout).send().await;
        let answer = sent.map_err(|failed| node.unanswered(failed, Failure::Unreachable))?;
        let status = answer.status();
        if status.is_success() {
            return node.body(answer, bytes_max).await;
        }
        let body = node.body(answer, node::MESSAGE_BYTES_MAX).await.unwrap_or_default();
        let failure = Failure::of_status(status.as_u16(), &body, is_upload);
        let mut text = format!("{}: it answered {}", node.name, status.as_u16());
        let told = node::message(&body);
        if !told.is_empty() {
            text.push_str(&format!(", {told}"));
        }
        Err(Trouble { failure, status: status.as_u16(), text })
    }

    /// Takes note of what became of a request.
    fn judged<T>(&self, node: &Node, done: Result<T, Trouble>) -> Result<T, Trouble> {
        let failure = done.as_ref().err().map(|trouble| trouble.failure);
        // These are of what was asked, and not of the node.
        if matches!(failure, Some(Failure::NotFound | Failure::Refused | Failure::Busy)) {
            return done;
        }
        let now_ns = self.clock.monotonic_ns();
        let mut state = lock(&node.state);
        match &done {
            Ok(_) => state.down_since_ns = None,
            Err(Trouble { failure, text, .. }) => {
                if *failure == Failure::Corrupt {
                    state.corrupt_total += 1;
                    self.metrics.corrupt(&node.name);
                    tracing::warn!(node = %node.name, "a storage node is not to be trusted: {text}");
                }
                // With another batch it would be of use.
                if !matches!(failure, Failure::BatchFull | Failure::BatchUnusable) {
                    state.down_since_ns.get_or_insert(now_ns);
                }
                state.last_error = Some(text.clone());
                let aside = u64::try_from(ASIDE.as_nanos()).unwrap_or(u64::MAX);
                state.aside_until_ns = now_ns.saturating_add(aside);
            }
        }
        self.metrics.node_up(&node.name, state.down_since_ns.is_none());
        drop(state);
        done
    }

    /// Asks every node how it is.
    pub async fn look(&self) {
        for node in &self.nodes {
            self.look_at(node).await;
        }
    }

    async fn look_at(&self, node: &Node) {
        let path = match &node.batch {
            Some(batch) => vec!["stamps".to_owned(), batch.clone()],
            None => vec!["health".to_owned()],
        };
        let request = self.http.get(node.path(&path));
        let answer = self.answer(node, request, node::MESSAGE_BYTES_MAX, node.batch.is_some()).await;
        let told = self.judged(node, answer);
        let found = match &told {
            _ if node.batch.is_none() => return,
            Ok(body) => Batch::read(body),
            // It has none of this name.
            Err(Trouble { failure: Failure::BatchUnusable | Failure::NotFound | Failure::Refused, .. }) => None,
            // It says nothing of the batch.
            Err(_) => return,
        };
        let left = found.filter(|batch| batch.is_usable);
        self.metrics.batch(
            &node.name,
            found.map_or(100, |batch| batch.used_percent),
            left.map_or(0, |batch| batch.ttl_s.unwrap_or(u64::MAX)),
        );
        let none = Batch { is_usable: false, ttl_s: None, used_percent: 0, is_mutable: false };
        let known = found.unwrap_or(none);
        let before = {
            let mut state = lock(&node.state);
            // One that knows nothing of a batch may stand before another that does.
            state.is_spent = found.is_some_and(|batch| !batch.is_usable);
            state.batch.replace(known)
        };
        if before.is_none_or(|before| concern(&before) != concern(&known))
            && let Some(what) = concern(&known)
        {
            tracing::warn!(node = %node.name, "the postage batch {what}");
        }
    }

    /// Whether a node that took an upload says itself that the batch is of no use. The network drops what comes with it.
    async fn is_spent(&self, node: &Node) -> bool {
        // It may have become usable since the last look.
        let is_known_usable = lock(&node.state).batch.is_some_and(|batch| batch.is_usable);
        if !is_known_usable {
            self.look_at(node).await;
        }
        lock(&node.state).is_spent
    }

    pub fn status(&self, now_ns: u64) -> Vec<NodeStatus> {
        let shown = |node: &Node| {
            let state = lock(&node.state);
            let batch = |Batch { is_usable, ttl_s, used_percent, .. }| BatchStatus { is_usable, used_percent, ttl_s };
            NodeStatus {
                name: node.name.clone(),
                is_up: state.down_since_ns.is_none(),
                down_ms: state.down_since_ns.map(|since_ns| now_ns.saturating_sub(since_ns) / NS_PER_MS),
                corrupt_total: state.corrupt_total,
                last_error: state.last_error.clone(),
                batch: state.batch.map(batch),
            }
        };
        self.nodes.iter().map(shown).collect()
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_gzip()
        .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")))
}

/// What an operator should know of a batch.
fn concern(batch: &Batch) -> Option<&'static str> {
    match batch {
        Batch { is_usable: false, .. } => Some("is of no use, and uploads wait"),
        Batch { used_percent: BATCH_FULL_PERCENT.., is_mutable: true, .. } => {
            Some("is nearly full, and mutable: dilute it before uploads displace older content without an error")
        }
        Batch { used_percent: BATCH_FULL_PERCENT.., .. } => Some("is nearly full: dilute it before uploads fail"),
        Batch { ttl_s: Some(ttl_s), .. } if *ttl_s < BATCH_TTL_MIN_S => {
            Some("lasts less than a day: top it up before uploads fail")
        }
        _ => None,
    }
}

/// That something is nowhere is only known when every node says so.
fn note(worst: &mut Option<Trouble>, trouble: Trouble) {
    if worst.as_ref().is_none_or(|known| known.failure == Failure::NotFound) {
        *worst = Some(trouble);
    }
}

fn no_node() -> Trouble {
    let text = "there is no node for it: the operator lists them as [[remote-store.nodes]]".to_owned();
    Trouble { failure: Failure::Unreachable, status: 0, text }
}

impl Node {
    fn path(&self, parts: &[String]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    async fn body(&self, mut answer: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, Trouble> {
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|failed| self.unanswered(failed, Failure::Half))? {
            if body.len() + piece.len() > bytes_max {
                return Err(self.corrupt(format!("an answer of more than {bytes_max} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn corrupt(&self, what: String) -> Trouble {
        Trouble { failure: Failure::Corrupt, status: 0, text: format!("{}: {what}", self.name) }
    }

    fn spent(&self) -> Trouble {
        let text = format!("{}: it takes uploads, but its postage batch has expired or is not usable yet", self.name);
        Trouble { failure: Failure::BatchUnusable, status: 0, text }
    }

    fn unanswered(&self, failed: reqwest::Error, otherwise: Failure) -> Trouble {
        let failure = if failed.is_timeout() { Failure::Slow } else { otherwise };
        let cause = match failure {
            Failure::Slow => "no answer in time".to_owned(),
            _ => cut(innermost(&failed.without_url()), SHOWN_BYTES_MAX),
        };
        Trouble { failure, status: 0, text: format!("{}: {cause}", self.name) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_batch_does_to_uploads_is_told() {
        let fine = Batch { is_usable: true, ttl_s: None, used_percent: 89, is_mutable: true };
        let full = Batch { used_percent: 90, is_mutable: false, ..fine };
        for (batch, told) in [
            (fine, None),
            (Batch { is_usable: false, ..fine }, Some("is of no use")),
            (full, Some("is nearly full: dilute it")),
            (Batch { is_mutable: true, ..full }, Some("is nearly full, and mutable")),
            (Batch { ttl_s: Some(86_399), ..fine }, Some("lasts less than a day")),
        ] {
            let said = concern(&batch);
            let is_told = match (said, told) {
                (Some(said), Some(told)) => said.starts_with(told),
                (said, told) => said == told,
            };
            assert!(is_told, "{batch:?}: {said:?}");
        }
    }
}
