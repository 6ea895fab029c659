//! One node: its transport, its pace, its shape, its errors and numbers. Knows nothing of the other endpoints.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::clock::Clock;
use serde_json::value::RawValue;
use url::Url;

use super::{
    dial::{Dial, Http, Meter, Room},
    envelope::{self, Answer, AnswerId, BATCH_MAX, Packet},
    errors::{CallError, NOT_CONNECTED},
    limiter::{Caller, Limiter},
    secrets::{Secrets, public_name},
    shape::Shape,
    socket::{Connection, LARGE_BYTES_MIN, Payload},
    untold::{Questions, Turns},
};
use crate::{
    config::{ChainConfig, EndpointConfig},
    metrics::ChainMetrics,
};

/// What one answer to the engine may take: the logs of a full range on a busy chain.
pub const ENGINE_REPLY_BYTES_MAX: usize = 64 << 20;
/// What is around a result: ids, names, blanks.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;
/// What one message of the connection for modules' requests may take.
const MODULE_MESSAGE_BYTES_MAX: usize = (8 << 20) + ENVELOPE_BYTES_MAX;
/// Bytes of answers that are held at once: for the engine, and for all modules together.
const ENGINE_BYTES_HELD_MAX: usize = 192 << 20;
const MODULE_BYTES_HELD_MAX: usize = 64 << 20;
/// An answer to `eth_unsubscribe` is waited for so long.
const UNSUBSCRIBE: Duration = Duration::from_millis(500);
/// Most addresses in one filter.
const LIST_MAX: u64 = 500;

/// What a request is for: who waits for it, and who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The head, and whether the endpoint is there.
    Head,
    /// Headers by number or hash.
    Headers,
    Logs,
    /// Asked although somebody has answered: something was doubtful.
    SecondOpinion,
    /// Receipts that prove a block's logs.
    Proof,
    /// What a module asked, and how long its answer may be, in bytes.
    Module {
        reply_bytes_max: usize,
    },
    /// A transaction of the engine's accounts: over the connection of modules, and waiting for none of them.
    Transaction,
}

impl Purpose {
    /// The label in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Headers => "headers",
            Self::Logs => "logs",
            Self::SecondOpinion => "second-opinion",
            Self::Proof => "proof",
            Self::Module { .. } => "module",
            Self::Transaction => "transaction",
        }
    }

    /// Whether it says nothing of how well the chain is served: what is asked is not for reading it.
    pub fn is_module(self) -> bool {
        matches!(self, Self::Module { .. } | Self::Transaction)
    }

    fn reply_bytes_max(self) -> usize {
        match self {
            Self::Module { reply_bytes_max } => reply_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
            Self::Transaction => ENVELOPE_BYTES_MAX,
            _ => ENGINE_REPLY_BYTES_MAX,
        }
    }
}

enum Transport {
    Http(Arc<dyn Http>),
    Ws {
        url: Url,
        keepalive: Duration,
        dial: Arc<dyn Dial>,
        /// What the engine reads over.
        engine: Mutex<Option<Connection>>,
        /// What modules ask over: an answer that ends a connection ends this one, and nobody's heads.
        modules: tokio::sync::Mutex<Option<Connection>>,
    },
    /// It cannot be used, and why.
    Unusable(String),
}

pub struct Endpoint {
    /// Scheme, host and port: all of the URL that is ever shown.
    pub name: String,
    chain_label: String,
    /// What one request may take.
    timeout: Duration,
    transport: Transport,
    pub secrets: Secrets,
    limiter: Limiter,
    shape: Mutex<Shape>,
    /// Questions for logs and receipts that are under way.
    pub large: Questions,
    /// Of questions for logs, while these are asked one at a time.
    pub large_turn: Turns,
    /// Questions of the engine that it has answered, if only with an error.
    answers: AtomicU64,
    next_id: AtomicU64,
    engine_bytes: Meter,
    module_bytes: Meter,
    clock: Arc<dyn Clock>,
    metrics: ChainMetrics,
}

impl Endpoint {
    pub fn new(
        endpoint: &EndpointConfig,
        config: &ChainConfig,
        dial: &Arc<dyn Dial>,
        clock: Arc<dyn Clock>,
        metrics: ChainMetrics,
    ) -> Result<Self, String> {
        // The URL may hold a key, so errors must not quote it.
        let url: Url = endpoint.url.parse().map_err(|error| format!("an endpoint's URL is malformed: {error}"))?;
        let name = public_name(&url);
        let keepalive = (config.stall_after / 2).clamp(Duration::from_secs(1), Duration::from_secs(10));
        let secrets = Secrets::of(&url);
        let transport = match url.scheme() {
            // What one endpoint lacks is no reason for the others not to be read.
            "http" | "https" => dial.http(&url).map_or_else(Transport::Unusable, Transport::Http),
            "ws" | "wss" => {
                let (engine, modules) = (Mutex::default(), tokio::sync::Mutex::default());
                Transport::Ws { url, keepalive, dial: dial.clone(), engine, modules }
            }
            other => return Err(format!("{name}: scheme `{other}` is none of http, https, ws, wss")),
        };
        Ok(Self {
            name,
            chain_label: config.chain_id.to_string(),
            timeout: config.timeout,
            transport,
            secrets,
            limiter: Limiter::new(config.requests_per_second),
            shape: Mutex::new(Shape::new(config.max_log_range, BATCH_MAX, LIST_MAX)),
            large: Questions::default(),
            large_turn: Turns::default(),
            answers: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            engine_bytes: Meter::new(ENGINE_BYTES_HELD_MAX),
            module_bytes: Meter::new(MODULE_BYTES_HELD_MAX),
            clock,
            metrics,
        })
    }

    pub fn is_ws(&self) -> bool {
        matches!(self.transport, Transport::Ws { .. })
    }

    /// What the endpoint takes at once, as far as it has shown.
    pub fn shape(&self) -> MutexGuard<'_, Shape> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the socket; does nothing for HTTP.
    pub async fn connect(&self, timeout: Duration) -> Result<(), CallError> {
        // Over HTTP each request opens what it needs.
        let Transport::Ws { engine, .. } = &self.transport else { return Ok(()) };
        let connection = self.open(timeout, ENGINE_REPLY_BYTES_MAX, &self.engine_bytes).await?;
        *engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(())
    }

    async fn open(&self, timeout: Duration, bytes_max: usize, meter: &Meter) -> Result<Connection, CallError> {
        let Transport::Ws { url, keepalive, dial, .. } = &self.transport else {
            return Err(CallError::unavailable("HTTP has no connection to open"));
        };
        let room = Arc::new(Room::new(bytes_max, meter, self.timeout));
        match tokio::time::timeout(timeout, dial.ws(url, *keepalive, &room)).await {
            Ok(Ok(socket)) => Ok(Connection::over(socket, room)),
            Ok(Err(broken)) => Err(self.clean(CallError::of_broken(broken))),
            Err(_) => Err(CallError::timeout(timeout)),
        }
    }

    /// Closes the socket; requests in flight fail.
    pub fn disconnect(&self) {
        if let Transport::Ws { engine, .. } = &self.transport {
            *engine.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn connection(&self) -> Result<Connection, CallError> {
        match &self.transport {
            Transport::Ws { engine, .. } => {
                let engine = engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
                engine.ok_or_else(|| CallError::unavailable(NOT_CONNECTED))
            }
            _ => Err(CallError::unavailable("HTTP has no subscriptions")),
        }
    }

    /// The connection that requests of this purpose go over.
    async fn connection_for(&self, purpose: Purpose, timeout: Duration) -> Result<Connection, CallError> {
        let Transport::Ws { modules, .. } = &self.transport else { return self.connection() };
        if !purpose.is_module() {
            return self.connection();
        }
        let mut modules = modules.lock().await;
        if let Some(connection) = modules.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(connection.clone());
        }
        let connection = self.open(timeout, MODULE_MESSAGE_BYTES_MAX, &self.module_bytes).await?;
        *modules = Some(connection.clone());
        Ok(connection)
    }

    /// How many questions of the engine it has answered, other than by asking for fewer.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    fn answered(&self, purpose: Purpose, answer: &Payload) {
        let is_answer = matches!(answer, Err(error @ CallError::Node { .. }) if !error.is_rate_limit());
        if !purpose.is_module() && (is_answer || answer.is_ok()) {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn clean(&self, error: CallError) -> CallError {
        error.without(&self.secrets)
    }

    fn failed(&self, method: &str, error: &CallError) {
        let labels = [&self.chain_label, ChainMetrics::method(method), &self.name];
        self.metrics.rpc_errors.with_label_values(&labels).inc();
        self.went_wrong(error);
    }

    /// Counts an error by its kind.
    pub fn went_wrong(&self, error: &CallError) {
        let labels = [self.chain_label.as_str(), &self.name, error.label()];
        self.metrics.endpoint_errors.with_label_values(&labels).inc();
    }

    fn count(&self, purpose: Purpose, method: &str) {
        let label = ChainMetrics::method(method);
        self.metrics.rpc_requests.with_label_values(&[&self.chain_label, label]).inc();
        let labels = [self.chain_label.as_str(), &self.name, purpose.label()];
        self.metrics.endpoint_requests.with_label_values(&labels).inc();
    }

    async fn post(&self, http: &Arc<dyn Http>, purpose: Purpose, body: String) -> Result<Packet, CallError> {
        let meter = if purpose.is_module() { &self.module_bytes } else { &self.engine_bytes };
        let reply = http.post(body, purpose.reply_bytes_max(), meter).await.map_err(CallError::of_broken)?;
        if reply.body.len() >= LARGE_BYTES_MIN {
            tokio::task::yield_now().await;
        }
        let is_success = (200..300).contains(&reply.status);
        let status = |body: &[u8]| CallError::of_status(reply.status, body, reply.retry_after);
        if matches!(reply.status, 300..=399 | 401 | 403 | 429) {
            return Err(status(&reply.body));
        }
        let packet = match std::str::from_utf8(&reply.body) {
            Ok(text) => envelope::read(text),
            Err(_) => Err("it is not UTF-8".to_owned()),
        };
        match packet {
            Ok(packet) if is_success => Ok(packet),
            // Some say what is wrong with a request in JSON and in the status.
            Ok(Packet::One(Answer { id, payload: Err(error) })) => Ok(Packet::One(Answer { id, payload: Err(error) })),
            Ok(_) => Err(status(&reply.body)),
            Err(_) if !is_success => Err(status(&reply.body)),
            Err(what) => Err(CallError::nonsense(what)),
        }
    }

    /// Runs an exchange within a time.
    async fn within<T>(
        &self,
        timeout: Duration,
        exchange: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result.map_err(|error| self.clean(error)),
            Err(_) => Err(CallError::timeout(timeout)),
        }
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// One request, one answer, without waiting for its turn: for what keeps the connection alive.
    pub async fn call_now(&self, purpose: Purpose, method: &str, params: &RawValue, timeout: Duration) -> Payload {
        self.count(purpose, method);
        let began_ns = self.clock.monotonic_ns();
        let id = self.id();
        let text = envelope::request(id, method, params);
        let exchange = async {
            match &self.transport {
                Transport::Unusable(why) => Err(CallError::unavailable(why.clone())),
                Transport::Http(http) => only(id, self.post(http, purpose, text).await?),
                Transport::Ws { .. } => {
                    let connection = self.connection_for(purpose, timeout).await?;
                    connection.call(id, text, purpose.reply_bytes_max()).await
                }
            }
        };
        let result = self.within(timeout, exchange).await.map_err(|error| error.of_method(method));
        self.took(method, began_ns);
        self.answered(purpose, &result);
        if let Err(error) = &result {
            self.failed(method, error);
        }
        result
    }

    fn took(&self, method: &str, began_ns: u64) {
        let seconds = self.clock.monotonic_ns().saturating_sub(began_ns) as f64 / 1e9;
        let labels = [&self.chain_label, ChainMetrics::method(method)];
        self.metrics.rpc_duration.with_label_values(&labels).observe(seconds);
    }

    /// One batch over HTTP; over a WebSocket, which answers in any order anyway, the requests go out one after the other
    /// without waiting. As many answers as requests, in order.
    async fn batch(
        &self,
        purpose: Purpose,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
    ) -> Result<Vec<Payload>, CallError> {
        let numbered: Vec<(u64, &str, &RawValue)> =
            requests.iter().map(|(method, params)| (self.id(), *method, *params)).collect();
        for (method, _) in requests {
            self.count(purpose, method);
        }
        let began_ns = self.clock.monotonic_ns();
        let exchange = async {
            match &self.transport {
                Transport::Unusable(why) => Err(CallError::unavailable(why.clone())),
                Transport::Http(http) => {
                    let packet = self.post(http, purpose, envelope::batch(&numbered)).await?;
                    in_order(&numbered, packet)
                }
                Transport::Ws { .. } => {
                    let connection = self.connection_for(purpose, timeout).await?;
                    let calls = numbered.iter().map(|(id, method, params)| {
                        connection.call(*id, envelope::request(*id, method, params), purpose.reply_bytes_max())
                    });
                    Ok(futures::future::join_all(calls).await)
                }
            }
        };
        let method = requests.first().map_or("", |(method, _)| method);
        let answers = self.within(timeout, exchange).await.map_err(|error| error.of_method(method));
        self.took(method, began_ns);
        let answers = answers.inspect_err(|error| self.failed(method, error))?;
        let clean = answers.into_iter().zip(requests).map(|(answer, (method, _))| {
            self.answered(purpose, &answer);
            let answer = answer.map_err(|error| self.clean(error).of_method(method));
            answer.inspect_err(|error| self.failed(method, error))
        });
        Ok(clean.collect())
    }

    /// One request as such, several as one batch, in their turn. A single request's failure is the outer one.
    pub async fn send(
        &self,
        purpose: Purpose,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
    ) -> Result<Vec<Payload>, CallError> {
        let caller = if matches!(purpose, Purpose::Module { .. }) { Caller::Module } else { Caller::Engine };
        if !self.limiter.pass(caller, requests.len(), timeout).await {
            return Err(CallError::Paced { said: self.limiter.said() });
        }
        let answers = match requests {
            [(method, params)] => self.call_now(purpose, method, params, timeout).await.map(|answer| vec![Ok(answer)]),
            requests => self.batch(purpose, requests, timeout).await,
        };
        let answers = answers.and_then(|answers| match purpose {
            Purpose::Module { reply_bytes_max } => within_bytes(answers, reply_bytes_max),
            _ => Ok(answers),
        });
        let failure = match &answers {
            Err(error) => Some(error),
            Ok(all) => all.iter().filter_map(|answer| answer.as_ref().err()).find(|error| error.is_rate_limit()),
        };
        match failure {
            Some(error) if error.is_rate_limit() => self.limiter.refused(error.message()),
            Some(_) => {}
            None => self.limiter.answered(),
        }
        answers
    }

    /// Subscribes to heads, which [`Endpoint::next_head`] then tells.
    pub async fn subscribe_heads(&self, timeout: Duration) -> Result<String, CallError> {
        let params = raw(&["newHeads"])?;
        let answer = self.call_now(Purpose::Head, "eth_subscribe", &params, timeout).await?;
        envelope::subscription(answer.get()).map_err(CallError::nonsense)
    }

    /// Nothing more of this subscription is wanted. Whatever is answered, it is not listened to any more; and what else is
    /// asked of the endpoint does not wait for that.
    pub async fn unsubscribe(&self, subscription: &str) {
        if let Ok(params) = raw(&[subscription]) {
            let _ = self.call_now(Purpose::Head, "eth_unsubscribe", &params, UNSUBSCRIBE).await;
        }
    }

    /// The next head of the subscription, as the node wrote it.
    pub async fn next_head(&self, subscription: &str) -> Result<Box<RawValue>, CallError> {
        self.connection()?.head(subscription).await
    }
}

/// The answers, if they are not longer together than a module may have.
fn within_bytes(answers: Vec<Payload>, bytes_max: usize) -> Result<Vec<Payload>, CallError> {
    let bytes: usize = answers.iter().flatten().map(|json| json.get().len()).sum();
    if bytes > bytes_max { Err(CallError::TooLarge { bytes_max }) } else { Ok(answers) }
}

/// Gives endpoints of one host different names, for metrics and the operator.
pub fn tell_apart(endpoints: &mut [Endpoint]) {
    for index in 1..endpoints.len() {
        let (before, rest) = endpoints.split_at_mut(index);
        let same = before.iter().filter(|other| other.name.split('#').next() == Some(&*rest[0].name)).count();
        if same > 0 {
            rest[0].name = format!("{}#{}", rest[0].name, same + 1);
        }
    }
}

/// The answer to a single request.
fn only(id: u64, packet: Packet) -> Payload {
    let answer = match packet {
        Packet::One(answer) => answer,
        Packet::Many(mut answers) if answers.len() == 1 => answers.remove(0),
        Packet::Many(_) => return Err(CallError::nonsense("a batch for one request")),
        Packet::Note { .. } => return Err(CallError::nonsense("a notification for a request")),
    };
    match answer.id == AnswerId::Number(id) || answer.id == AnswerId::Missing {
        true => answer.payload.map_err(CallError::of_node),
        false => Err(CallError::nonsense("an answer to another request")),
    }
}

/// The answers to a batch in the order of its requests. A batch that is not answered as a whole is refused as a whole: a
/// smaller one may be answered.
fn in_order(requests: &[(u64, &str, &RawValue)], packet: Packet) -> Result<Vec<Payload>, CallError> {
    let answers = match packet {
        Packet::Many(answers) => answers,
        Packet::One(Answer { payload: Err(error), .. }) => return Err(CallError::of_node(error)),
        Packet::One(_) => return Err(CallError::nonsense("one answer to a batch")),
        Packet::Note { .. } => return Err(CallError::nonsense("a notification for a batch")),
    };
    let mut by_id = std::collections::HashMap::with_capacity(answers.len().min(requests.len()));
    let mut unnamed = None;
    for answer in answers {
        match (answer.id, answer.payload) {
            (AnswerId::Number(id), payload) => drop(by_id.entry(id).or_insert(payload)),
            (AnswerId::Missing, Err(error)) => unnamed = unnamed.or(Some(error)),
            _ => {}
        }
    }
    let mut ordered = Vec::with_capacity(requests.len());
    for (id, ..) in requests {
        match (by_id.remove(id), unnamed.take()) {
            (Some(payload), error) => {
                unnamed = error;
                ordered.push(payload.map_err(CallError::of_node));
            }
            (None, Some(error)) => return Err(CallError::of_node(error)),
            (None, None) => return Err(CallError::nonsense("an answer of the batch is missing")),
        }
    }
    Ok(ordered)
}

/// JSON text of parameters.
pub fn raw<T: serde::Serialize>(params: &T) -> Result<Box<RawValue>, CallError> {
    serde_json::value::to_raw_value(params).map_err(|error| CallError::nonsense(error.to_string()))
}
