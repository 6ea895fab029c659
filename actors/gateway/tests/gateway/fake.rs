//! A kernel and a store that answer from a table and remember the orders they got.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use nexum_gateway::Accounts;
use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    event::{Cursor, EventId, SourceId},
    port::Port,
    recording::CrashBrief,
    store::{DeadLetter, ModuleHealth, ModuleId, ModuleInfo, ModuleRecord, Standing, StoreError, StoreMsg},
    types::{Event, Tick},
};
use nexum_kernel::admin::{
    AdminError, AdminMsg, ChainHealthReport, Drained, EffectOrder, Health, ModuleHealthReport, ModulesOrder, Node,
    NodeKind, Order, Resynced,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

#[derive(Default)]
struct Shared {
    orders: Vec<String>,
    unhealthy: Option<String>,
    modules_down: bool,
    stop: Option<ActorCell>,
}

#[derive(Clone)]
pub struct Engine {
    pub admin: Port<AdminMsg>,
    pub store: Port<StoreMsg>,
    pub accounts: Accounts,
    shared: Arc<Mutex<Shared>>,
}

impl Engine {
    pub async fn start() -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let (admin, store) = (Port::new("kernel"), Port::new("store"));
        admin.bind(Actor::spawn(None, FakeKernel(shared.clone()), ()).await.unwrap().0);
        store.bind(Actor::spawn(None, FakeStore(shared.clone()), ()).await.unwrap().0);
        Self { admin, store, accounts: crate::accounts::start().await, shared }
    }

    /// The orders since the last call.
    pub fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().orders)
    }

    pub fn set_unhealthy(&self, reason: &str) {
        self.shared.lock().unwrap().unhealthy = Some(reason.to_owned());
    }

    /// From now on the supervisor of modules is too slow to show in the tree.
    pub fn hide_modules(&self) {
        self.shared.lock().unwrap().modules_down = true;
    }

    /// Stops this actor, without waiting, before a shutdown is answered.
    pub fn stop_on_shutdown(&self, actor: ActorCell) {
        self.shared.lock().unwrap().stop = Some(actor);
    }
}

/// A supervisor that accepts whatever happens.
pub struct Root(ActorRef<()>);

struct Accepting;

impl Root {
    pub async fn start() -> Self {
        Self(Actor::spawn(None, Accepting, ()).await.unwrap().0)
    }

    pub fn cell(&self) -> ActorCell {
        self.0.get_cell()
    }
}

impl Actor for Accepting {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: ractor::SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct FakeKernel(Arc<Mutex<Shared>>);

impl Actor for FakeKernel {
    type Msg = AdminMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<AdminMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<AdminMsg>, message: AdminMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut shared = self.0.lock().unwrap();
        match message {
            AdminMsg::Tree(reply) => reply.send(tree(shared.modules_down))?,
            AdminMsg::Health(reply) => reply.send(health(shared.unhealthy.clone()))?,
            AdminMsg::Modules(order) => modules_order(&mut shared.orders, order)?,
            AdminMsg::Effects(EffectOrder::Retry { module, id, reply }) => {
                shared.orders.push(format!("retry effect {module} {id}"));
                reply.send(Ok(()))?;
            }
            AdminMsg::Effects(EffectOrder::Cancel { module, id, reply }) => {
                reply.send(Err(AdminError::Refused(format!("effect `{id}` of {module} is under way"))))?;
            }
            AdminMsg::Effects(EffectOrder::Waits { reply, .. }) => reply.send(Ok(BTreeMap::new()))?,
            AdminMsg::Drain { module, reply, .. } => {
                let drained = module.into_iter().collect();
                reply.send(Ok(Drained { drained, ..Drained::default() }))?;
            }
            AdminMsg::Services(reply) => reply.send(Vec::new())?,
            AdminMsg::RestartService { service, kill, reply } => {
                shared.orders.push(format!("restart service {service} kill={kill}"));
                reply.send(Ok(()))?;
            }
            AdminMsg::Shutdown { reply } => {
                if let Some(actor) = shared.stop.take() {
                    actor.stop(None);
                }
                reply.send(vec!["module slow: still in an event".to_owned()])?;
            }
        }
        Ok(())
    }
}

fn modules_order(orders: &mut Vec<String>, order: ModulesOrder) -> Result<(), ActorProcessingErr> {
    match order {
        ModulesOrder::Load { spec, reply } => {
            orders.push(format!("load {}", spec.source.display()));
            reply.send(match spec.source.ends_with("broken") {
                true => Err(AdminError::Load("nexum.toml:3: unknown key `nmae`".to_owned())),
                false => Ok("gov-watch".to_owned()),
            })?;
        }
        ModulesOrder::One { module, order: Order::Unload, reply } => {
            reply.send(Err(AdminError::UnknownModule(module)))?;
        }
        ModulesOrder::One { module, order: Order::Resume, reply } => {
            let (state, hint) = ("RUN".to_owned(), "it is not paused".to_owned());
            reply.send(Err(AdminError::WrongState { module, state, hint }))?;
        }
        ModulesOrder::One { module, order, reply } => {
            orders.push(format!("{order:?} {module}").to_lowercase());
            reply.send(Ok(()))?;
        }
        ModulesOrder::Resync { module, order, reply } => {
            orders.push(format!("resync {module} {} {:?}", order.chain_id, order.to));
            reply.send(Ok(Resynced { after_block: 7 }))?;
        }
        ModulesOrder::Purge { module, reply } if module == "twap-monitor" => {
            let (state, hint) = ("RUN".to_owned(), "unload it first".to_owned());
            reply.send(Err(AdminError::WrongState { module, state, hint }))?;
        }
        ModulesOrder::Purge { module, reply } => {
            orders.push(format!("purge {module}"));
            reply.send(Ok(Ok(())))?;
        }
        ModulesOrder::RetryDeadLetter { module, seq, reply } => {
            orders.push(format!("retry {module} {seq}"));
            reply.send(Ok(()))?;
        }
        ModulesOrder::Upgrade { wanted, reply } => {
            let reason = "init failed".to_owned();
            reply.send(Err(AdminError::NotUpgraded { module: wanted.module, reason }))?;
        }
        ModulesOrder::ResumeAll(reply) => reply.send(Ok(Vec::new()))?,
        ModulesOrder::Query { module, question, reply } => reply.send(match question.method.as_str() {
            "echo" => Ok(Ok(question.params)),
            "spin" => Err(AdminError::LateAnswer { module, reason: "deadline".to_owned() }),
            "trap" => Err(AdminError::NoAnswer { module, reason: "trap".to_owned() }),
            "busy" => Err(AdminError::Busy(format!("{module}: ask again later"))),
            "none" => Err(AdminError::NoQueries(module)),
            other => {
                Ok(Err(HostError::new("query", HostErrorKind::Unsupported, format!("there is no query `{other}`"))))
            }
        })?,
    }
    Ok(())
}

fn node(name: &str, kind: NodeKind, state: &str, children: Vec<Node>) -> Node {
    Node { name: name.to_owned(), kind, state: state.to_owned(), summary: String::new(), module: None, children }
}

fn tree(modules_down: bool) -> Node {
    let loaded = vec![
        node("twap-monitor", NodeKind::Module, "RUN", vec![]),
        node("old-probe", NodeKind::Module, "DEAD", vec![]),
    ];
    let modules = match modules_down {
        true => node("modules", NodeKind::Modules, "DOWN", vec![]),
        false => node("modules", NodeKind::Modules, "UP", loaded),
    };
    let children = vec![node("store", NodeKind::Store, "UP", vec![]), modules];
    node("nexum", NodeKind::Engine, "UP", children)
}

fn health(unhealthy: Option<String>) -> Health {
    let module = ModuleHealthReport {
        state: "running".to_owned(),
        reason: None,
        last_event_age_seconds: Some(2),
        expected_event_age_seconds: None,
        waits: None,
    };
    let chain = ChainHealthReport { connected: true, head_block: Some(19_000_500), blocks_behind: 0, waits: vec![] };
    Health {
        status: if unhealthy.is_some() { "unhealthy" } else { "healthy" }.to_owned(),
        ready: unhealthy.is_none(),
        uptime_seconds: 86_400,
        modules: BTreeMap::from([("twap-monitor".to_owned(), module)]),
        chains: BTreeMap::from([("42161".to_owned(), chain)]),
        services: BTreeMap::new(),
        reasons: unhealthy.into_iter().collect(),
    }
}

struct FakeStore(Arc<Mutex<Shared>>);

impl Actor for FakeStore {
    type Msg = StoreMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<StoreMsg>, message: StoreMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let entries = [("a/1", &b"hi"[..]), ("a/2", &[0xff, 0]), ("a/3", &[]), ("b", b"x")];
        let mut shared = self.0.lock().unwrap();
        match message {
            StoreMsg::StateList { prefix, after, limit, reply, .. } => {
                let matching = entries
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix) && after.as_deref().is_none_or(|after| *key > after));
                reply
                    .send(Ok(matching.take(limit).map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect()))?;
            }
            StoreMsg::StateGet { key, reply, .. } => {
                let found = entries.iter().find(|(known, _)| *known == key);
                reply.send(Ok(found.map(|(_, value)| value.to_vec())))?;
            }
            StoreMsg::Inspect { name, reply } => reply.send(match name.as_str() {
                "nobody" => Err(StoreError::UnknownModule(name)),
                _ => Ok(info(name)),
            })?,
            StoreMsg::DeadLetters { name, reply } => reply.send(match name.as_str() {
                "twap-monitor" => Ok(vec![letter()]),
                _ => Err(StoreError::UnknownModule(name)),
            })?,
            StoreMsg::Crashes { reply, .. } => reply.send(Ok(crashes()))?,
            StoreMsg::DropDeadLetter { name, seq, reply } => {
                shared.orders.push(format!("drop {name} {seq}"));
                reply.send(Ok(()))?;
            }
            StoreMsg::Backup { to, reply } => {
                shared.orders.push(format!("backup {}", to.display()));
                reply.send(Ok(()))?;
            }
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}

fn info(name: String) -> ModuleInfo {
    let record = ModuleRecord {
        seq: 9,
        cursors: BTreeMap::from([(SourceId::new("chain:1"), Cursor::block(21_934_117, Hash::default()))]),
        state_bytes: 6,
        journal: Hash::default(),
    };
    let standing = Standing::Dead { reason: "budget spent".to_owned() };
    ModuleInfo {
        name,
        id: ModuleId(1),
        record,
        health: ModuleHealth { standing, ..Default::default() },
        dead_letters: 1,
        dead_letter_bytes: 100,
        redelivery: 0,
        reorgs: 0,
    }
}

fn letter() -> DeadLetter {
    DeadLetter {
        seq: 7,
        at_ms: 1_700_000_000_500,
        id: EventId::Tick { source: SourceId::new("cron:* * * * *"), fired_at: 1_700_000_000_000 },
        event: Event::Tick(Tick { fired_at: 1_700_000_000_000 }),
        component: Hash::default(),
        attempts: 3,
        error: "trap: unreachable".to_owned(),
        backtrace: Some("on_tick".to_owned()),
        fuel: 12,
    }
}

/// Of another event, of the dead letter, of its retry, and one of that which cannot be replayed.
fn crashes() -> Vec<CrashBrief> {
    let events = ["init", "tick:cron:* * * * *:1700000000000", "retry:7", "retry:7"];
    let crash = |(number, event): (u64, &str)| CrashBrief {
        number,
        at_ms: 1,
        event: event.to_owned(),
        component: Hash::default(),
        error: "trap: unreachable".to_owned(),
        fuel: 12,
        handled_before: 0,
        whole: number < 4,
        bytes: 9,
    };
    (1..).zip(events).map(crash).collect()
}
