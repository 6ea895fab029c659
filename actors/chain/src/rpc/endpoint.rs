//! One node: its transport, its pace, its errors and numbers. Knows nothing of the other endpoints.

use std::{
    borrow::Cow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::{
    primitives::B256,
    pubsub::{PubSubFrontend, RawSubscription},
    rpc::json_rpc::{Id, Request, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest},
    transports::BoxTransport,
};
use nexum_host_ifaces::clock::Clock;
use serde_json::value::RawValue;
use std::sync::Arc;
use tower::Service;
use url::Url;

use super::{
    dial::{self, Dial},
    errors::CallError,
    limiter::{Caller, Limiter},
};
use crate::{config::EndpointConfig, metrics::ChainMetrics};

/// Heads buffered between the socket and the actor; what overflows is fetched as a gap.
const SUBSCRIPTION_ITEMS: usize = 256;

type Payload = Result<Box<RawValue>, CallError>;

enum Transport {
    Http(BoxTransport),
    Ws { url: String, keepalive: Duration, dial: Arc<dyn Dial>, frontend: Mutex<Option<PubSubFrontend>> },
}

pub struct Endpoint {
    /// Scheme, host and port: all of the URL that is ever shown.
    pub name: String,
    chain_label: String,
    transport: Transport,
    /// Parts of the URL that must not appear in any message.
    secrets: Vec<String>,
    limiter: Limiter,
    next_id: AtomicU64,
    clock: Arc<dyn Clock>,
    metrics: ChainMetrics,
}

/// Scheme, host and port of a URL.
pub fn public_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

impl Endpoint {
    pub fn new(
        config: &EndpointConfig,
        chain_id: u64,
        requests_per_second: u32,
        keepalive: Duration,
        dial: Arc<dyn Dial>,
        clock: Arc<dyn Clock>,
        metrics: ChainMetrics,
    ) -> Result<Self, String> {
        // The URL may hold a key, so errors must not quote it.
        let url: Url = config.url.parse().map_err(|error| format!("an endpoint's URL is malformed: {error}"))?;
        let name = public_name(&url);
        let transport = match url.scheme() {
            "http" | "https" => Transport::Http(dial.http(&url).map_err(|error| format!("{name}: {error}"))?),
            "ws" | "wss" => Transport::Ws { url: config.url.clone(), keepalive, dial, frontend: Mutex::new(None) },
            other => return Err(format!("{name}: scheme `{other}` is none of http, https, ws, wss")),
        };
        let mut secrets = vec![config.url.clone(), url.to_string()];
        let parts = [Some(url.path()), url.query(), url.password(), Some(url.username())];
        secrets.extend(parts.into_iter().flatten().filter(|part| part.len() > 3).map(str::to_owned));
        let limiter = Limiter::new(requests_per_second);
        let chain_label = chain_id.to_string();
        Ok(Self { name, chain_label, transport, secrets, limiter, next_id: AtomicU64::new(1), clock, metrics })
    }

    pub fn is_ws(&self) -> bool {
        matches!(self.transport, Transport::Ws { .. })
    }

    /// Opens the socket; does nothing for HTTP.
    pub async fn connect(&self, timeout: Duration) -> Result<(), CallError> {
        let Transport::Ws { url, keepalive, dial, frontend } = &self.transport else { return Ok(()) };
        let connecting = dial::connect(dial.clone(), url.clone(), *keepalive);
        let connected = match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| self.clean(CallError::of_transport(error)))?,
            Err(_) => return Err(CallError::timeout(timeout)),
        };
        connected.set_channel_size(SUBSCRIPTION_ITEMS);
        *frontend.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected);
        Ok(())
    }

    /// Closes the socket; requests in flight fail.
    pub fn disconnect(&self) {
        if let Transport::Ws { frontend, .. } = &self.transport {
            *frontend.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn frontend(&self) -> Result<PubSubFrontend, CallError> {
        match &self.transport {
            Transport::Http(_) => Err(CallError::unavailable("HTTP has no subscriptions")),
            Transport::Ws { frontend, .. } => {
                let frontend = frontend.lock().unwrap_or_else(PoisonError::into_inner).clone();
                frontend.ok_or_else(|| CallError::unavailable("not connected"))
            }
        }
    }

    fn clean(&self, error: CallError) -> CallError {
        error.without(&self.secrets)
    }

    fn serialize(&self, method: &str, params: &RawValue) -> Result<SerializedRequest, CallError> {
        let id = Id::Number(self.next_id.fetch_add(1, Ordering::Relaxed));
        let request = Request::new(Cow::Owned(method.to_owned()), id, params);
        request.serialize().map_err(|error| CallError::nonsense(error.to_string()))
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

    async fn exchange(&self, packet: RequestPacket, timeout: Duration) -> Result<ResponsePacket, CallError> {
        let exchange = async {
            match &self.transport {
                Transport::Http(http) => http.clone().call(packet).await,
                Transport::Ws { .. } => self.frontend()?.send_packet(packet).await,
            }
            .map_err(CallError::of_transport)
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result.map_err(|error| self.clean(error)),
            Err(_) => Err(CallError::timeout(timeout)),
        }
    }

    async fn pace(&self, caller: Caller, requests: usize, timeout: Duration) -> Result<(), CallError> {
        if self.limiter.pass(caller, requests, timeout).await { Ok(()) } else { Err(CallError::Paced) }
    }

    /// One request, one answer, without waiting for its turn: for what keeps the connection alive.
    pub async fn call_now(&self, method: &str, params: &RawValue, timeout: Duration) -> Payload {
        let label = ChainMetrics::method(method);
        self.metrics.rpc_requests.with_label_values(&[&self.chain_label, label]).inc();
        let began_ns = self.clock.monotonic_ns();
        let packet = RequestPacket::Single(self.serialize(method, params)?);
        let result = match self.exchange(packet, timeout).await {
            Ok(ResponsePacket::Single(response)) => self.payload(response),
            Ok(ResponsePacket::Batch(mut responses)) if responses.len() == 1 => self.payload(responses.remove(0)),
            Ok(ResponsePacket::Batch(_)) => Err(CallError::nonsense("a batch for one request")),
            Err(error) => Err(error),
        };
        let seconds = self.clock.monotonic_ns().saturating_sub(began_ns) as f64 / 1e9;
        self.metrics.rpc_duration.with_label_values(&[&self.chain_label, label]).observe(seconds);
        if let Err(error) = &result {
            self.failed(method, error);
        }
        result
    }

    fn payload(&self, response: Response) -> Payload {
        match response.payload {
            ResponsePayload::Success(result) => Ok(result),
            ResponsePayload::Failure(error) => Err(self.clean(CallError::of_payload(&error))),
        }
    }

    /// One batch over HTTP; over a WebSocket, where alloy knows no batches, the requests go out one after the other
    /// without waiting. As many answers as requests, in order.
    async fn batch(&self, requests: &[(&str, &RawValue)], timeout: Duration) -> Result<Vec<Payload>, CallError> {
        let mut packet = Vec::with_capacity(requests.len());
        for (method, params) in requests {
            let labels = [&self.chain_label, ChainMetrics::method(method)];
            self.metrics.rpc_requests.with_label_values(&labels).inc();
            packet.push(self.serialize(method, params)?);
        }
        let ids: Vec<Id> = packet.iter().map(|request| request.id().clone()).collect();
        let began_ns = self.clock.monotonic_ns();
        let answer = self.exchange(RequestPacket::Batch(packet), timeout).await;
        let seconds = self.clock.monotonic_ns().saturating_sub(began_ns) as f64 / 1e9;
        let method = requests.first().map_or("", |(method, _)| method);
        let labels = [&self.chain_label, ChainMetrics::method(method)];
        self.metrics.rpc_duration.with_label_values(&labels).observe(seconds);
        let responses = match answer {
            Ok(ResponsePacket::Batch(responses)) => responses,
            Ok(ResponsePacket::Single(response)) => {
                // The node refuses the batch as a whole.
                let error =
                    self.payload(response).err().unwrap_or_else(|| CallError::nonsense("one answer to a batch"));
                self.failed(method, &error);
                return Err(error);
            }
            Err(error) => {
                self.failed(method, &error);
                return Err(error);
            }
        };
        let mut by_id: std::collections::HashMap<Id, Response> =
            responses.into_iter().map(|response| (response.id.clone(), response)).collect();
        let answers = ids.iter().zip(requests).map(|(id, (method, _))| {
            let answer = match by_id.remove(id) {
                Some(response) => self.payload(response),
                None => Err(CallError::nonsense("an answer of the batch is missing")),
            };
            if let Err(error) = &answer {
                self.failed(method, error);
            }
            answer
        });
        Ok(answers.collect())
    }

    /// One request as such, several as one batch, in their turn. A single request's failure is the outer one.
    pub async fn send(
        &self,
        caller: Caller,
        requests: &[(&str, &RawValue)],
        timeout: Duration,
    ) -> Result<Vec<Payload>, CallError> {
        self.pace(caller, requests.len(), timeout).await?;
        match requests {
            [(method, params)] => Ok(vec![Ok(self.call_now(method, params, timeout).await?)]),
            requests => self.batch(requests, timeout).await,
        }
    }

    /// Subscribes to heads. The local id is for [`Endpoint::unsubscribe`].
    pub async fn subscribe_heads(&self, timeout: Duration) -> Result<(RawSubscription, B256), CallError> {
        let params = raw(&["newHeads"])?;
        let local = self.call_now("eth_subscribe", &params, timeout).await?;
        let local: B256 = serde_json::from_str(local.get()).map_err(|error| CallError::nonsense(error.to_string()))?;
        let subscription = self.frontend()?.get_subscription(local).await;
        Ok((subscription.map_err(|error| self.clean(CallError::of_transport(error)))?, local))
    }

    pub fn unsubscribe(&self, local: B256) {
        if let Ok(frontend) = self.frontend() {
            // A connection that is gone has no subscriptions.
            let _ = frontend.unsubscribe(local);
        }
    }
}

/// JSON text of parameters.
pub fn raw<T: serde::Serialize>(params: &T) -> Result<Box<RawValue>, CallError> {
    serde_json::value::to_raw_value(params).map_err(|error| CallError::nonsense(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_holds_a_key() {
        let cases = [
            ("https://user:pass@mainnet.example.org/v3/0123456789?key=abc#x", "https://mainnet.example.org:443"),
            ("ws://127.0.0.1:8545", "ws://127.0.0.1:8545"),
            ("wss://node.example.org/ws", "wss://node.example.org:443"),
        ];
        for (url, name) in cases {
            assert_eq!(public_name(&url.parse().unwrap()), name);
        }
    }
}
