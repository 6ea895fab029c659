//! Reaching the simulated nodes: the chain actor's transports, with nothing but time between the two ends.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    primitives::U256,
    pubsub::{ConnectionHandle, ConnectionInterface},
    rpc::json_rpc::{
        ErrorPayload, EthNotification, Id, PubSubItem, RequestPacket, Response, ResponsePacket, ResponsePayload, SubId,
    },
    transports::{BoxTransport, TransportError, TransportErrorKind, TransportFut, TransportResult},
};
use futures::{StreamExt, stream::FuturesUnordered};
use nexum_chain::Dial;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::Notify;
use tower::Service;
use url::Url;

use crate::{
    endpoints::Outcome,
    receiver::Receivers,
    trace::{SimClock, lock},
    world::{Trouble, World},
};

/// The network of one incarnation of the engine.
#[derive(Clone)]
pub struct Net {
    pub world: Arc<Mutex<World>>,
    receivers: Arc<Mutex<Receivers>>,
    clock: Arc<SimClock>,
    /// One per open connection, told when the world has changed.
    connections: Arc<Mutex<Vec<Arc<Notify>>>>,
}

/// Which node.
#[derive(Debug, Clone, Copy)]
struct Address {
    chain: usize,
    node: usize,
}

/// The URL of a node, as `address` reads it.
pub fn url(chain: usize, node: usize, websocket: bool) -> String {
    format!("{}://c{chain}n{node}.example/", if websocket { "ws" } else { "http" })
}

fn address(url: &Url) -> Option<Address> {
    let (chain, node) = url.host_str()?.strip_prefix('c')?.split('.').next()?.split_once('n')?;
    Some(Address { chain: chain.parse().ok()?, node: node.parse().ok()? })
}

#[derive(Deserialize)]
struct Request {
    id: Id,
    method: String,
    #[serde(default)]
    params: Value,
}

impl Net {
    pub fn new(world: Arc<Mutex<World>>, receivers: Arc<Mutex<Receivers>>, clock: Arc<SimClock>) -> Self {
        Self { world, receivers, clock, connections: Arc::default() }
    }

    /// The world has changed.
    pub fn stir(&self) {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| Arc::strong_count(connection) > 1);
        connections.iter().for_each(|connection| connection.notify_one());
    }

    fn plan(&self, at: Address) -> (Duration, Outcome) {
        let mut world = lock(&self.world);
        let calm = world.calm;
        let plan = world.chains[at.chain].nodes[at.node].plan(calm);
        (plan.delay, plan.outcome)
    }

    fn answer(&self, at: Address, request: &Request) -> Response {
        let answered = lock(&self.world).chains[at.chain].answer(at.node, &request.method, &request.params);
        let payload = match answered {
            Ok(result) => ResponsePayload::Success(raw(&result)),
            Err(message) => failure(-32_000, message),
        };
        Response { id: request.id.clone(), payload }
    }

    /// Carries out what a request is to do besides asking. It has arrived then, whatever becomes of the answer.
    fn carry_out(&self, at: Address, request: &Request, outcome: &mut Outcome) -> Option<ResponsePayload> {
        *outcome = lock(&self.receivers).worsen(&request.method, *outcome);
        let websocket = lock(&self.world).chains[at.chain].nodes[at.node].plan.websocket;
        let outcome = match *outcome {
            Outcome::Status(_) if websocket => Outcome::Error,
            outcome => outcome,
        };
        let now_ms = self.clock.elapsed_ms();
        let answered = lock(&self.receivers).asked(now_ms, &request.method, &request.params, outcome)?;
        Some(match answered {
            Ok(result) => ResponsePayload::Success(raw(&result)),
            Err(message) => failure(-32_000, message),
        })
    }

    async fn exchange(&self, at: Address, packet: RequestPacket) -> TransportResult<ResponsePacket> {
        let (delay, mut outcome) = self.plan(at);
        let mut carried_out = match &packet {
            RequestPacket::Single(request) => {
                let request: Request =
                    serde_json::from_str(request.serialized().get()).map_err(TransportError::ser_err)?;
                self.carry_out(at, &request, &mut outcome)
            }
            RequestPacket::Batch(_) => None,
        };
        tokio::time::sleep(delay).await;
        match outcome {
            Outcome::Answer | Outcome::Error => {}
            Outcome::Lost => std::future::pending().await,
            Outcome::Refused => return Err(TransportErrorKind::custom_str("connection refused")),
            Outcome::Status(status) => return Err(TransportErrorKind::http_error(status, "trouble".into())),
        }
        let mut one = |text: &RawValue| -> TransportResult<Response> {
            let request: Request = serde_json::from_str(text.get()).map_err(TransportError::ser_err)?;
            Ok(match (outcome, carried_out.take()) {
                (Outcome::Error, _) => {
                    Response { id: request.id, payload: failure(-32_603, "internal trouble".into()) }
                }
                (_, Some(payload)) => Response { id: request.id, payload },
                (_, None) => self.answer(at, &request),
            })
        };
        Ok(match packet {
            RequestPacket::Single(request) => ResponsePacket::Single(one(request.serialized())?),
            RequestPacket::Batch(requests) => {
                let responses = requests.iter().map(|request| one(request.serialized()));
                ResponsePacket::Batch(responses.collect::<Result<_, _>>()?)
            }
        })
    }

    fn is_down(&self, at: Address) -> bool {
        lock(&self.world).chains[at.chain].nodes[at.node].suffers(Trouble::Down)
    }

    /// One connection, until either end closes it.
    async fn serve(self, at: Address, mut interface: ConnectionInterface, changed: Arc<Notify>) {
        let _open = Open::new(&self.world, at);
        let mut answers = FuturesUnordered::new();
        let mut subscribed: Option<u64> = None;
        let mut subscriptions = 0_u64;
        loop {
            tokio::select! {
                biased;
                text = interface.recv_from_frontend() => {
                    let Some(text) = text else { return };
                    let Ok(request) = serde_json::from_str::<Request>(text.get()) else { continue };
                    let net = self.clone();
                    answers.push(async move {
                        let (delay, mut outcome) = net.plan(at);
                        let carried_out = net.carry_out(at, &request, &mut outcome);
                        tokio::time::sleep(delay).await;
                        (request, outcome, carried_out)
                    });
                }
                Some((request, outcome, carried_out)) = answers.next() => {
                    let response = match outcome {
                        Outcome::Lost => continue,
                        Outcome::Refused => return interface.close_with_error(),
                        Outcome::Status(_) | Outcome::Error => {
                            Response { id: request.id, payload: failure(-32_603, "internal trouble".into()) }
                        }
                        Outcome::Answer if request.method == "eth_subscribe" => {
                            subscriptions += 1;
                            subscribed = Some(lock(&self.world).chains[at.chain].nodes[at.node].version);
                            let payload = ResponsePayload::Success(raw(&format!("{subscriptions:#x}").into()));
                            Response { id: request.id, payload }
                        }
                        Outcome::Answer if request.method == "eth_unsubscribe" => {
                            subscribed = None;
                            Response { id: request.id, payload: ResponsePayload::Success(raw(&true.into())) }
                        }
                        Outcome::Answer => match carried_out {
                            Some(payload) => Response { id: request.id, payload },
                            None => self.answer(at, &request),
                        },
                    };
                    if interface.send_to_frontend(PubSubItem::Response(response)).is_err() {
                        return;
                    }
                }
                () = changed.notified() => {
                    if self.is_down(at) {
                        return interface.close_with_error();
                    }
                    for header in self.news(at, &mut subscribed) {
                        let notification =
                            EthNotification { subscription: SubId::Number(U256::from(subscriptions)), result: raw(&header) };
                        if interface.send_to_frontend(PubSubItem::Notification(notification)).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// What a subscriber that knows a version of the view is told; now and then twice, or the one before last.
    fn news(&self, at: Address, subscribed: &mut Option<u64>) -> Vec<Value> {
        let mut world = lock(&self.world);
        let calm = world.calm;
        let node = &mut world.chains[at.chain].nodes[at.node];
        let Some(known) = subscribed else { return vec![] };
        if *known == node.version || node.suffers(Trouble::Silent) || node.suffers(Trouble::Hangs) {
            return vec![];
        }
        *known = node.version;
        let Some(head) = node.head() else { return vec![] };
        let before = node.view.len().checked_sub(2).map(|index| node.view[index].header.clone());
        match node.chance.below(if calm { 1 } else { 20 }) {
            1 => vec![head.clone(), head],
            2 => before.into_iter().chain([head]).collect(),
            3 => [head].into_iter().chain(before).collect(),
            // Lost: the next one reveals the gap.
            4 => vec![],
            _ => vec![head],
        }
    }
}

/// A connection that its node counts.
struct Open(Arc<Mutex<World>>, Address);

impl Open {
    fn new(world: &Arc<Mutex<World>>, at: Address) -> Self {
        lock(world).chains[at.chain].nodes[at.node].connections += 1;
        Self(world.clone(), at)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0).chains[self.1.chain].nodes[self.1.node].connections -= 1;
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_default()
}

fn failure(code: i64, message: String) -> ResponsePayload {
    ResponsePayload::Failure(ErrorPayload { code, message: message.into(), data: None })
}

#[async_trait::async_trait]
impl Dial for Net {
    fn http(&self, url: &Url) -> Result<BoxTransport, String> {
        let at = address(url).ok_or("no such node")?;
        Ok(BoxTransport::new(Http { net: self.clone(), at }))
    }

    async fn ws(&self, url: &str, _: Duration) -> TransportResult<ConnectionHandle> {
        let at = url.parse().ok().and_then(|url| address(&url));
        let at = at.ok_or_else(|| TransportErrorKind::custom_str("no such node"))?;
        let (delay, outcome) = self.plan(at);
        tokio::time::sleep(delay).await;
        match outcome {
            Outcome::Answer => {}
            Outcome::Lost => std::future::pending().await,
            _ => return Err(TransportErrorKind::custom_str("connection refused")),
        }
        let (handle, interface) = ConnectionHandle::new();
        let changed = Arc::new(Notify::new());
        lock(&self.connections).push(changed.clone());
        tokio::spawn(self.clone().serve(at, interface, changed));
        Ok(handle)
    }
}

#[derive(Clone)]
struct Http {
    net: Net,
    at: Address,
}

impl Service<RequestPacket> for Http {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let (net, at) = (self.net.clone(), self.at);
        Box::pin(async move { net.exchange(at, packet).await })
    }
}
