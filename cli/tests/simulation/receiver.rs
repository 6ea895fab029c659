//! The destinations of effects, outside the engine, and the egress actor that takes requests there and back.
//!
//! Effects over RPC come to the nodes of a chain, which share what they were sent: `raw.example` stands for raw transactions,
//! of which each is carried out once, `put.example` for a method that carries out whatever comes.
//!
//! `once.example` leaves out what it has carried out before, by its key; `every.example` carries out whatever comes. A
//! request that has left arrives, whether or not the engine is still there to hear the answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::primitives::keccak256;
use nexum_host_ifaces::{
    HostError, HostErrorKind,
    interfaces::http::port::{EgressMsg, EgressStatus, Fetch, Header, Response},
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    chance::Chance,
    endpoints::Outcome,
    scenario::ReceiverPlan,
    trace::{SimClock, Trace, lock},
};

/// Hosts that a module may send to.
pub const HOSTS: [&str; 2] = ["once.example", "every.example"];

/// A host from which nothing comes in place of an answer: something to wait for.
pub const IDLE: &str = "idle.example";

const RAW_HOST: &str = "raw.example";
const PUT_HOST: &str = "put.example";

/// Methods of nodes that carry something out.
pub const SEND_RAW: &str = "eth_sendRawTransaction";
pub const PUT: &str = "sim_put";

/// What a destination has carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub module: String,
    pub host: String,
    /// Lane, release and whether it is to be rejected, as the module's URL says.
    pub path: String,
    pub key: String,
    pub body: String,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The connection is refused: nothing arrives.
    Refused,
    /// Nothing arrives, and nothing comes back.
    Swallowed,
    /// It arrives, and is answered without being carried out.
    Turned(u16),
    /// It is carried out, and the connection ends before the answer.
    Reset,
    /// It is carried out, and no answer comes back.
    Unanswered,
}

struct Arrival {
    hit: Hit,
    carried_out: bool,
}

pub struct Receivers {
    plan: ReceiverPlan,
    chance: Chance,
    trace: Trace,
    /// On their way, by the time at which they arrive (milliseconds) and their number.
    coming: BTreeMap<(u64, u64), Arrival>,
    number: u64,
    /// Whom a bad time befell, and until when.
    moods: BTreeMap<String, (Fate, u64)>,
    /// By module and key.
    taken: BTreeMap<(String, String), Hit>,
    hits: Vec<Hit>,
    /// Module and key of the transactions that nodes know, by hash.
    transactions: BTreeMap<String, (String, String)>,
    node_chance: Chance,
    idle: Chance,
    violations: Vec<String>,
    calm: bool,
}

/// A request on its way.
struct Trip {
    forth: Duration,
    back: Duration,
    fate: Fate,
    patience: Option<u64>,
}

impl Receivers {
    pub fn new(seed: u64, plan: ReceiverPlan, trace: Trace) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            plan,
            chance: Chance::new(seed, "receivers"),
            trace,
            coming: BTreeMap::new(),
            number: 0,
            moods: BTreeMap::new(),
            taken: BTreeMap::new(),
            hits: Vec::new(),
            transactions: BTreeMap::new(),
            node_chance: Chance::new(seed, "effects at nodes"),
            idle: Chance::new(seed, "idle"),
            violations: Vec::new(),
            calm: false,
        }))
    }

    pub fn calm_down(&mut self) {
        self.calm = true;
    }

    /// What was carried out, in order.
    pub fn hits(&self) -> &[Hit] {
        &self.hits
    }

    /// Requests under one key that were not the same.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Lets arrive what arrives until then.
    pub fn advance_to(&mut self, now_ms: u64) {
        while let Some(first) = self.coming.first_entry().filter(|first| first.key().0 <= now_ms) {
            let Arrival { hit, carried_out } = first.remove();
            match carried_out {
                true => self.carry_out(hit),
                false => self.trace.note(format_args!("{} turns away {} of {}", hit.host, hit.key, hit.module)),
            }
        }
    }

    fn carry_out(&mut self, hit: Hit) {
        let before = self.taken.get(&(hit.module.clone(), hit.key.clone()));
        let left_out = before.is_some() && (hit.host == HOSTS[0] || hit.host == RAW_HOST);
        let what = if left_out { "knows" } else { "takes" };
        self.trace.note(format_args!("{} {what} {} of {}", hit.host, hit.key, hit.module));
        if let Some(before) = before.filter(|before| **before != hit) {
            self.violations.push(format!("{before:?} came again as {hit:?}"));
        }
        self.taken.insert((hit.module.clone(), hit.key.clone()), hit.clone());
        if !left_out {
            self.hits.push(hit);
        }
    }

    /// What becomes of a request to a node that is well; one that carries something out is in for more.
    pub fn worsen(&mut self, method: &str, outcome: Outcome) -> Outcome {
        let carries_out = matches!(method, SEND_RAW | PUT);
        let is_well = carries_out && !self.calm && outcome == Outcome::Answer;
        match is_well && self.node_chance.per_myriad(self.plan.hiccups) {
            true => *self.node_chance.pick(&[Outcome::Lost, Outcome::Lost, Outcome::Status(503), Outcome::Status(429)]),
            false => outcome,
        }
    }

    /// A request comes to a node, whose answer then has this outcome. What the node says to it; nothing when all it does
    /// is ask for something of the chain.
    pub fn asked(
        &mut self,
        now_ms: u64,
        method: &str,
        params: &Value,
        outcome: Outcome,
    ) -> Option<Result<Value, String>> {
        let text = params[0].as_str()?;
        if method == "eth_getTransactionByHash" {
            let known = self.transactions.contains_key(text);
            return Some(Ok(if known { json!({ "hash": text }) } else { Value::Null }));
        }
        let (bytes, host) = match method {
            SEND_RAW => (hex::decode(text.strip_prefix("0x")?).ok()?, RAW_HOST),
            PUT => (text.as_bytes().to_vec(), PUT_HOST),
            _ => return None,
        };
        let words = String::from_utf8(bytes.clone()).ok()?;
        let [module, path, body] = words.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let key = format!("own/{body}");
        let hit = Hit { module: module.into(), host: host.into(), path: path.into(), key, body: body.into() };
        let named = (hit.module.clone(), hit.key.clone());
        self.advance_to(now_ms);
        if path.ends_with("/reject") {
            self.trace.note(format_args!("{host} turns away {} of {module}: {outcome:?}", hit.key));
            return Some(Err("insufficient funds".into()));
        }
        let arrives = match outcome {
            Outcome::Answer => true,
            Outcome::Refused | Outcome::Status(429) => false,
            Outcome::Lost | Outcome::Status(_) | Outcome::Error => self.node_chance.percent(50),
        };
        if !arrives {
            return None;
        }
        self.carry_out(hit);
        let hash = keccak256(&bytes).to_string();
        let known = self.transactions.insert(hash.clone(), named).is_some();
        if host == PUT_HOST || !known {
            return Some(Ok(hash.into()));
        }
        // Nodes have several words for what they know.
        Some(match *self.node_chance.pick(&["already known", "nonce too low", ""]) {
            "" => Ok(hash.into()),
            word => Err(word.into()),
        })
    }

    /// Draws what becomes of a request that leaves now.
    fn depart(&mut self, now_ms: u64, fetch: &Fetch) -> Trip {
        let request = &fetch.request;
        let (host, path) = request.url.trim_start_matches("http://").split_once('/').unwrap_or_default();
        let key = request.headers.iter().find(|header| header.name == "Idempotency-Key");
        let hit = Hit {
            module: fetch.module.to_string(),
            host: host.to_owned(),
            path: path.to_owned(),
            key: key.map_or_else(String::new, |header| header.value.clone()),
            body: String::from_utf8_lossy(request.body.as_deref().unwrap_or_default()).into_owned(),
        };
        let mut fate = self.fate(now_ms, host);
        if path.ends_with("/reject") && !matches!(fate, Fate::Refused | Fate::Swallowed) {
            fate = Fate::Turned(422);
        }
        let plan = &self.plan;
        let slow = !self.calm && self.chance.per_myriad(plan.slow);
        let forth_ms = match slow {
            true => self.chance.between(500, 45_000),
            false => self.chance.between(1, plan.delay_ms_max),
        };
        let back = Duration::from_millis(self.chance.between(1, plan.delay_ms_max));
        if !matches!(fate, Fate::Refused | Fate::Swallowed) {
            let carried_out = !matches!(fate, Fate::Turned(_));
            self.number += 1;
            self.coming.insert((now_ms + forth_ms, self.number), Arrival { hit, carried_out });
        }
        let patience = (fate == Fate::Turned(429)).then(|| self.chance.between(1, 20));
        Trip { forth: Duration::from_millis(forth_ms), back, fate, patience }
    }

    /// How long somebody waits who asks for nothing.
    fn idle(&mut self) -> Duration {
        Duration::from_millis(self.idle.below(3_000))
    }

    fn fate(&mut self, now_ms: u64, host: &str) -> Fate {
        if self.calm {
            return Fate::Answered;
        }
        if let Some((fate, _)) = self.moods.get(host).filter(|(_, until)| *until > now_ms) {
            return *fate;
        }
        let wrong =
            [Fate::Refused, Fate::Swallowed, Fate::Turned(503), Fate::Turned(429), Fate::Reset, Fate::Unanswered];
        if self.chance.per_myriad(self.plan.trouble) {
            let (fate, until) = (*self.chance.pick(&wrong), now_ms + self.chance.between(1_000, 60_000));
            self.trace.note(format_args!("{host}: {fate:?} until {}", until / 1_000));
            self.moods.insert(host.to_owned(), (fate, until));
            return fate;
        }
        match self.chance.per_myriad(self.plan.hiccups) {
            true => *self.chance.pick(&wrong),
            false => Fate::Answered,
        }
    }
}

/// What an egress actor is started with.
#[derive(Clone)]
pub struct Args {
    pub receivers: Arc<Mutex<Receivers>>,
    pub clock: Arc<SimClock>,
}

pub struct Egress;

pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<ActorRef<EgressMsg>, SpawnErr> {
    Actor::spawn_linked(None, Egress, args, supervisor).await.map(|(actor, _)| actor)
}

impl Actor for Egress {
    type Msg = EgressMsg;
    type State = (Args, JoinSet<()>);
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<EgressMsg>, args: Args) -> Result<Self::State, ActorProcessingErr> {
        Ok((args, JoinSet::new()))
    }

    async fn handle(
        &self,
        _: ActorRef<EgressMsg>,
        message: EgressMsg,
        (args, requests): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        while requests.try_join_next().is_some() {}
        match message {
            EgressMsg::Fetch { fetch, reply } => {
                let args = args.clone();
                requests.spawn(async move {
                    let deadline = fetch.deadline;
                    let answer = tokio::time::timeout(deadline, exchange(&args, &fetch)).await;
                    let late = || Err(failed(HostErrorKind::Timeout, "no answer in time"));
                    // Whoever asked may have gone.
                    let _ = reply.send(answer.unwrap_or_else(|_| late()));
                });
            }
            EgressMsg::Status(reply) => {
                let _ = reply.send(EgressStatus { in_flight: requests.len(), ..EgressStatus::default() });
            }
        }
        Ok(())
    }
}

fn failed(kind: HostErrorKind, message: &str) -> HostError {
    HostError::new("http", kind, message)
}

async fn exchange(args: &Args, fetch: &Fetch) -> Result<Response, HostError> {
    if fetch.request.url.trim_start_matches("http://").starts_with(IDLE) {
        let idle = lock(&args.receivers).idle();
        tokio::time::sleep(idle).await;
        return Err(failed(HostErrorKind::Unavailable, "nobody is there"));
    }
    let trip = lock(&args.receivers).depart(args.clock.elapsed_ms(), fetch);
    tokio::time::sleep(trip.forth).await;
    lock(&args.receivers).advance_to(args.clock.elapsed_ms());
    let header = |seconds: u64| Header { name: "Retry-After".into(), value: seconds.to_string() };
    let headers = trip.patience.into_iter().map(header).collect();
    let status = match trip.fate {
        Fate::Answered => 200,
        Fate::Turned(status) => status,
        Fate::Refused => return Err(failed(HostErrorKind::Unavailable, "connection refused")),
        Fate::Reset => return Err(failed(HostErrorKind::Unavailable, "connection reset")),
        Fate::Swallowed | Fate::Unanswered => std::future::pending().await,
    };
    tokio::time::sleep(trip.back).await;
    Ok(Response { status, headers, body: b"done".to_vec() })
}
