//! Reaching the simulated nodes: the chain actor's transports, with nothing but time between the two ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use nexum_chain::{Broken, Dial, Http, Meter, Reply, Room, Socket};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use url::Url;

use crate::{
    endpoints::{Outcome, Refusal},
    receiver::{Receivers, SEND_RAW},
    scenario::Ways,
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

struct Request {
    /// As the node tells it.
    id: Value,
    method: String,
    params: Value,
}

impl Request {
    fn of(value: &Value, ways: &Ways) -> Self {
        let method = value["method"].as_str().unwrap_or_default().to_owned();
        let id = if ways.ids_are_texts { value["id"].to_string().into() } else { value["id"].clone() };
        Self { id, method, params: value["params"].clone() }
    }

    /// What is answered to it.
    fn respond(&self, answer: Result<Value, Refusal>) -> Value {
        envelope(&self.id, answer)
    }

    /// Whether its answer may be long.
    fn asks_for_much(&self) -> bool {
        let filter = &self.params[0];
        self.method == "eth_getLogs" && filter["fromBlock"] != filter["toBlock"]
    }
}

fn envelope(id: &Value, answer: Result<Value, Refusal>) -> Value {
    match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err((code, message)) => json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}),
    }
}

/// What a request that is carried out is answered.
type Carried = Option<Result<Value, Refusal>>;

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

    fn answer(&self, at: Address, request: &Request) -> Value {
        let answered = lock(&self.world).chains[at.chain].answer(at.node, &request.method, &request.params);
        request.respond(answered)
    }

    fn ways(&self, at: Address) -> Ways {
        lock(&self.world).chains[at.chain].nodes[at.node].plan.ways.clone()
    }

    fn suffers(&self, at: Address, trouble: Trouble) -> bool {
        lock(&self.world).chains[at.chain].nodes[at.node].suffers(trouble)
    }

    /// Carries out what a request is to do besides asking. It has arrived then, whatever becomes of the answer.
    fn carry_out(&self, at: Address, request: &Request, outcome: &mut Outcome) -> Carried {
        *outcome = lock(&self.receivers).worsen(&request.method, *outcome);
        let websocket = lock(&self.world).chains[at.chain].nodes[at.node].plan.websocket;
        let outcome = match *outcome {
            Outcome::Status(_) if websocket => Outcome::Error,
            outcome => outcome,
        };
        let now_ms = self.clock.elapsed_ms();
        let answered = lock(&self.receivers).asked(now_ms, &request.method, &request.params, outcome);
        if answered.is_none() && request.method == SEND_RAW {
            let mut world = lock(&self.world);
            let chain = &mut world.chains[at.chain];
            return chain.accounts.sent(&chain.canon, &request.params, outcome);
        }
        Some(answered?.map_err(|message| (-32_000, message)))
    }

    async fn exchange(&self, at: Address, body: &str, reply_bytes_max: usize) -> Result<(u16, String), Broken> {
        let (delay, mut outcome) = self.plan(at);
        let ways = self.ways(at);
        let packet: Value = serde_json::from_str(body).map_err(|error| Broken::Lost(error.to_string()))?;
        let mut carried_out = match &packet {
            Value::Array(_) => None,
            request => self.carry_out(at, &Request::of(request, &ways), &mut outcome),
        };
        tokio::time::sleep(delay).await;
        match outcome {
            Outcome::Answer | Outcome::Error => {}
            Outcome::Lost => std::future::pending().await,
            Outcome::Refused => return Err(Broken::Lost("connection refused".into())),
            Outcome::Status(status) => return Ok((status, "trouble".into())),
        }
        if ways.forbids && packet["method"] == "eth_syncing" {
            return Ok((403, "not here".into()));
        }
        let is_large = match &packet {
            Value::Array(_) => true,
            request => Request::of(request, &ways).asks_for_much(),
        };
        if is_large && self.suffers(at, Trouble::Large) {
            return Err(Broken::TooLarge { bytes_max: reply_bytes_max });
        }
        let mut one = |request: &Value| {
            let request = Request::of(request, &ways);
            match (outcome, carried_out.take()) {
                (Outcome::Error, _) => request.respond(Err((-32_603, "internal trouble".into()))),
                (_, Some(answer)) => request.respond(answer),
                (_, None) => self.answer(at, &request),
            }
        };
        let takes = |count: usize| ways.batches && (ways.batch_max == 0 || count <= ways.batch_max);
        let answer = match &packet {
            Value::Array(requests) if !takes(requests.len()) => {
                envelope(&Value::Null, Err((-32_600, ways.refusal.1.to_owned())))
            }
            Value::Array(requests) => {
                let mut answers: Vec<Value> = requests.iter().map(&mut one).collect();
                let of_blocks = requests.iter().map(|request| request["method"] == "eth_getBlockByNumber");
                let nulls = answers.iter_mut().zip(of_blocks).skip(2).step_by(3);
                nulls.filter(|(_, is_block)| ways.null_blocks && *is_block).for_each(|(answer, _)| {
                    *answer = envelope(&answer["id"], Ok(Value::Null));
                });
                Value::Array(answers)
            }
            request => one(request),
        };
        Ok((200, answer.to_string()))
    }

    /// One connection, until either end closes it.
    async fn serve(
        self,
        at: Address,
        mut asked: mpsc::Receiver<String>,
        told: mpsc::Sender<Result<String, Broken>>,
        changed: Arc<Notify>,
        message_bytes_max: usize,
    ) {
        let ways = self.ways(at);
        let lost = || Err(Broken::Lost("the connection was lost".into()));
        let _open = Open::new(&self.world, at);
        let mut answers = FuturesUnordered::new();
        let mut subscribed: Option<u64> = None;
        let mut subscriptions = 0_u64;
        loop {
            tokio::select! {
                biased;
                text = asked.recv() => {
                    let Some(text) = text else { return };
                    let request = Request::of(&serde_json::from_str(&text).unwrap_or_default(), &ways);
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
                        // The other end may be gone already.
                        Outcome::Refused => return drop(told.send(lost()).await),
                        Outcome::Status(_) | Outcome::Error => {
                            request.respond(Err((-32_603, "internal trouble".into())))
                        }
                        Outcome::Answer if request.asks_for_much() && self.suffers(at, Trouble::Large) => {
                            let too_large = Broken::TooLarge { bytes_max: message_bytes_max };
                            return drop(told.send(Err(too_large)).await);
                        }
                        Outcome::Answer if request.method == "eth_subscribe" && !ways.subscribes => {
                            request.respond(Err((-32_601, ways.refusal.1.to_owned())))
                        }
                        Outcome::Answer if request.method == "eth_subscribe" => {
                            subscriptions += 1;
                            subscribed = Some(lock(&self.world).chains[at.chain].nodes[at.node].version);
                            request.respond(Ok(format!("{subscriptions:#x}").into()))
                        }
                        Outcome::Answer if request.method == "eth_unsubscribe" => {
                            subscribed = None;
                            request.respond(Ok(true.into()))
                        }
                        Outcome::Answer => match carried_out {
                            Some(answer) => request.respond(answer),
                            None => self.answer(at, &request),
                        },
                    };
                    if told.send(Ok(response.to_string())).await.is_err() {
                        return;
                    }
                }
                () = changed.notified() => {
                    if self.suffers(at, Trouble::Down) {
                        return drop(told.send(lost()).await);
                    }
                    for header in self.news(at, &mut subscribed) {
                        let params = json!({"subscription": format!("{subscriptions:#x}"), "result": header});
                        let note = json!({"jsonrpc": "2.0", "method": "eth_subscription", "params": params});
                        if told.send(Ok(note.to_string())).await.is_err() {
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
        let [head, before] = [Some(head), before].map(|header| header.map(|header| node.hint(header)));
        let Some(head) = head else { return vec![] };
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

#[async_trait::async_trait]
impl Dial for Net {
    fn http(&self, url: &Url) -> Result<Arc<dyn Http>, String> {
        let at = address(url).ok_or("no such node")?;
        Ok(Arc::new(Endpoint { net: self.clone(), at }))
    }

    async fn ws(&self, url: &Url, _: Duration, room: &Arc<Room>) -> Result<Socket, Broken> {
        let at = address(url).ok_or_else(|| Broken::Lost("no such node".into()))?;
        let (delay, outcome) = self.plan(at);
        tokio::time::sleep(delay).await;
        match outcome {
            Outcome::Answer => {}
            Outcome::Lost => std::future::pending().await,
            _ => return Err(Broken::Lost("connection refused".into())),
        }
        let (to_node, asked) = mpsc::channel(16);
        let (told, from_node) = mpsc::channel(16);
        let changed = Arc::new(Notify::new());
        lock(&self.connections).push(changed.clone());
        tokio::spawn(self.clone().serve(at, asked, told, changed, room.message_bytes_max()));
        Ok(Socket { to_node, from_node })
    }
}

struct Endpoint {
    net: Net,
    at: Address,
}

#[async_trait::async_trait]
impl Http for Endpoint {
    async fn post(&self, body: String, reply_bytes_max: usize, meter: &Meter) -> Result<Reply, Broken> {
        let (status, text) = self.net.exchange(self.at, &body, reply_bytes_max).await?;
        if text.len() > reply_bytes_max {
            return Err(Broken::TooLarge { bytes_max: reply_bytes_max });
        }
        Ok(Reply { status, retry_after: None, body: text.into_bytes(), held: meter.begin() })
    }
}
