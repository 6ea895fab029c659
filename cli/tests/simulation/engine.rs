//! One incarnation of the engine: the real kernel, store, chain and cron actors over the simulated world, composed as the
//! command line composes them, but on one thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexum_chain::{Budgets, ChainConfig, ChainMetrics, EndpointConfig, History, Usage};
use nexum_cli::status;
use nexum_host_ifaces::{
    blocking::Blocking, clock::Clock, cron::CronMsg, interfaces::http::port::EgressMsg, port::Port, ports::Ports,
    store::StoreMsg,
};
use nexum_kernel::{
    KernelArgs, KernelHandle, ServiceSpec, StatusSpec,
    admin::{self, AdminError, AdminMsg, Health, ModuleSpec, ModulesOrder, Node, ResyncOrder, ResyncTo, Wanted},
    begun::Marks,
    engine::WasmEngine,
    outbox::{self, RetryPolicy},
};
use nexum_store::Store;
use nexum_testkit_engine::kernel_args;
use prometheus::Registry;
use ractor::{ActorCell, ActorRef, Message, SpawnErr};

use crate::{
    accounts,
    chance::Chance,
    dial::{self, Net},
    disk::SimDisk,
    manifest::Version,
    receiver::{self, PUT, Receivers, SEND_RAW},
    roster::SimRoster,
    scenario::Scenario,
    trace::{SimClock, Trace, lock},
    view::SimView,
};

const ORDER_DEADLINE: Duration = Duration::from_secs(30);

/// What outlives an incarnation, and what all share.
pub struct Machine {
    pub scenario: Scenario,
    pub directory: PathBuf,
    /// Bundles of the modules, in their first version.
    pub modules: Vec<PathBuf>,
    pub wasm: WasmEngine,
    pub clock: Arc<SimClock>,
    pub disk: Arc<SimDisk>,
    pub receivers: Arc<Mutex<Receivers>>,
    pub jitter: Arc<Mutex<Chance>>,
    pub moved: Moved,
    pub trace: Trace,
}

/// Modules that were, or may have been, put onto a chain with the state that they had. Nobody can say what such a one has of
/// the blocks up to there.
#[derive(Clone, Default)]
pub struct Moved(Arc<Mutex<Moves>>);

#[derive(Default)]
struct Moves {
    /// The blocks after which modules went on, by module and chain.
    with_state: BTreeMap<(String, u64), Vec<u64>>,
    /// Those whose state was undone by order, as far as their journal says.
    undone: BTreeSet<(String, u64)>,
}

impl Moved {
    fn add(&self, module: &str, chain_id: u64, block: u64) {
        lock(&self.0).with_state.entry((module.to_owned(), chain_id)).or_default().push(block);
    }

    /// The order was refused.
    fn take_back(&self, module: &str, chain_id: u64, block: u64) {
        if let Some(blocks) = lock(&self.0).with_state.get_mut(&(module.to_owned(), chain_id))
            && let Some(at) = blocks.iter().position(|known| *known == block)
        {
            blocks.swap_remove(at);
        }
    }

    /// Chains on which the operator may have had the module go back. Then it is told of what was final, too.
    pub fn undone(&self, module: &str) -> BTreeSet<u64> {
        lock(&self.0).undone.iter().filter(|(name, _)| name == module).map(|(_, chain_id)| *chain_id).collect()
    }

    /// The last such block of each chain.
    pub fn of(&self, module: &str) -> BTreeMap<u64, u64> {
        let moved = lock(&self.0);
        let of_module = moved.with_state.iter().filter(|((name, _), _)| name == module);
        of_module.filter_map(|((_, chain_id), blocks)| Some((*chain_id, *blocks.iter().max()?))).collect()
    }
}

/// What an operator may order about a module.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    Pause,
    Resume,
    Restart,
    Upgrade(Version),
}

pub struct Engine {
    admin: Port<AdminMsg>,
    pub store: Arc<Store>,
    begun: Arc<Marks>,
    disk: Arc<SimDisk>,
    directory: PathBuf,
    moved: Moved,
    trace: Trace,
    /// Modules that an order to upgrade is being carried out about: an operator gives one at a time.
    upgrading: Arc<Mutex<BTreeSet<String>>>,
    /// The living actor of each service, by name.
    actors: Arc<Mutex<BTreeMap<String, ActorCell>>>,
}

impl Engine {
    pub async fn start(machine: &Machine, net: &Net) -> Result<(Self, KernelHandle), String> {
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let registry = Registry::new();
        let mut options = nexum_store::Options::new(clock.clone(), registry.clone());
        options.blocking = Blocking::Inline;
        options.disk = Some(machine.disk.clone());
        options.syncs = Some(machine.disk.syncs());
        // As small as the run: opening is what a simulation does most.
        options.write_buffer_bytes = 4 << 20;
        options.journal_entries = machine.scenario.journal_entries;
        let store = Store::open(store_directory(&machine.directory), &options).map_err(|error| error.to_string())?;
        machine.disk.opened(&store);
        let begun = Marks::open(&machine.disk.marks(), machine.scenario.deaths_max, clock.clone());
        let begun = Arc::new(begun.map_err(|error| error.to_string())?);

        let view = Arc::new(SimView::new(store.clone(), machine.disk.clone()));
        let (ports, admin) =
            (Ports::new(view, machine.scenario.chains.iter().map(|chain| chain.id)), Port::new("kernel"));
        let mut histories = Vec::new();
        for plan in &machine.scenario.chains {
            let links = store.headers(plan.id).map_err(|error| error.to_string())?;
            histories.push((plan.id, History::new(plan.kept_headers, links)));
        }
        let histories = Arc::new(histories);
        let actors = Actors::default();
        let mut services = vec![actors.service("store", ports.store(), status::store, {
            let (store, histories, started) = (store.clone(), histories.clone(), AtomicBool::new(false));
            move |supervisor| {
                let (args, histories) = (nexum_store::Args { store: store.clone() }, histories.clone());
                let again = started.swap(true, Ordering::Relaxed);
                async move {
                    let (actor, _) = nexum_store::spawn(args, supervisor).await?;
                    for (chain_id, history) in histories.iter().filter(|_| again) {
                        let (chain_id, headers) = (*chain_id, history.headers());
                        let put = StoreMsg::PutHeaders { chain_id, anew: true, headers, dropped: Vec::new() };
                        actor.send_message(put).map_err(|error| SpawnErr::StartupFailed(error.into()))?;
                    }
                    Ok(actor)
                }
            }
        })];
        let metrics = ChainMetrics::register(&registry).map_err(|error| error.to_string())?;
        let budgets = Budgets::new(ports.store(), clock.clone(), metrics.clone());
        for (index, plan) in machine.scenario.chains.iter().enumerate() {
            let Some(port) = ports.chain(plan.id) else { continue };
            let mut config = ChainConfig::new(plan.id, Vec::<String>::new());
            config.endpoints = (0..)
                .zip(&plan.nodes)
                .map(|(node, plan)| EndpointConfig {
                    url: dial::url(index, node, plan.websocket),
                    priority: u32::try_from(node).unwrap_or(0),
                })
                .collect();
            config.timeout = Duration::from_secs(5);
            config.poll_interval = Duration::from_millis(plan.block_ms.max(1_000));
            config.max_log_range = plan.max_log_range;
            config.window_blocks = plan.window_blocks;
            (config.bloom, config.verify) = (plan.bloom, plan.verify);
            let (net, clock, history) = (net.clone(), clock.clone(), histories[index].1.clone());
            let headers = ports.store();
            let usage = Usage::new(plan.id, BTreeMap::new(), metrics.clone());
            let (metrics, budgets, jitter) = (metrics.clone(), budgets.clone(), machine.jitter.clone());
            let (name, status) = (format!("chain {}", plan.id), |port| status::chain(plan.id, port));
            services.push(actors.service(&name, port.clone(), status, move |supervisor| {
                let source = nexum_chain::Source::Rpc(config.clone(), Arc::new(net.clone()));
                let (clock, metrics, history) = (clock.clone(), metrics.clone(), history.clone());
                let headers = Some(headers.clone());
                let (usage, budgets, chance) = (usage.clone(), budgets.clone(), jitter.clone());
                let jitter = Arc::new(move || lock(&chance).unit());
                let args = nexum_chain::Args { source, clock, metrics, history, headers, usage, budgets, jitter };
                async move { nexum_chain::spawn(args, supervisor).await.map(|(actor, _)| actor) }
            }));
        }
        services.push(actors.service("cron", ports.of::<CronMsg>(), status::cron, {
            let clock = clock.clone();
            move |supervisor| {
                let args = nexum_cron::Args { clock: clock.clone() };
                async move { nexum_cron::spawn(args, supervisor).await.map(|(actor, _)| actor) }
            }
        }));
        services.push(actors.service("egress", ports.of::<EgressMsg>(), status::egress, {
            let args = receiver::Args { receivers: machine.receivers.clone(), clock: machine.clock.clone() };
            move |supervisor| receiver::spawn(args.clone(), supervisor)
        }));

        services.extend(accounts::services(machine, &ports, &clock, &registry, &actors)?);

        let extra_methods = [SEND_RAW, PUT].map(str::to_owned);
        let spec =
            |source: &PathBuf| ModuleSpec { extra_methods: extra_methods.to_vec(), ..ModuleSpec::new(source.clone()) };
        let jitter = machine.jitter.clone();
        let roster = Arc::new(SimRoster::new(machine.directory.join("roster.json"), machine.disk.clone()));
        let kernel = KernelHandle::start(KernelArgs {
            services,
            modules: machine.modules.iter().map(spec).collect(),
            blocking: Blocking::Inline,
            outbox: outbox::Settings {
                policy: RetryPolicy { backoff_cap: Duration::from_secs(60), ..RetryPolicy::default() },
                attempt_deadline: Duration::from_millis(machine.scenario.receivers.attempt_ms),
                prune_every: machine.scenario.receivers.prune_every,
                ..outbox::Settings::default()
            },
            schedule_check: Arc::new(nexum_cron::check),
            schedule_next: Arc::new(nexum_cron::next_after),
            event_age_threshold: Duration::from_millis(machine.scenario.event_age_ms),
            jitter: Arc::new(move || lock(&jitter).unit()),
            ..kernel_args(ports, admin.clone(), machine.wasm.clone(), roster, begun.clone(), clock, registry)
        })
        .await
        .map_err(|error| error.to_string())?;
        let (disk, directory) = (machine.disk.clone(), machine.directory.clone());
        let (moved, trace) = (machine.moved.clone(), machine.trace.clone());
        let upgrading = Arc::default();
        Ok((Self { admin, store, begun, disk, directory, moved, trace, upgrading, actors: actors.0 }, kernel))
    }

    /// It has given up: what is under way counts for nothing.
    pub fn close(&self) {
        self.begun.close();
    }

    /// Kills the actor of one service, by number. The last one is the outbox, which the kernel starts itself.
    pub async fn kill(&self, nth: u64) -> String {
        let (name, cell) = {
            let actors = lock(&self.actors);
            let nth = usize::try_from(nth).unwrap_or(0) % (actors.len() + 1);
            actors.iter().nth(nth).map_or(("outbox".into(), None), |(name, cell)| (name.clone(), Some(cell.clone())))
        };
        match cell {
            Some(cell) => cell.kill(),
            None => {
                let order = |reply| AdminMsg::RestartService { service: name.clone(), kill: true, reply };
                // One that is just being started again lives on.
                let _ = self.admin.call(Duration::from_secs(5), order).await;
            }
        }
        name
    }

    /// The modules as the tree shows them.
    pub async fn modules(&self) -> Vec<Node> {
        modules(&self.admin).await
    }

    /// What the engine says of how it is; nothing when it does not answer just now.
    pub async fn health(&self) -> Option<Health> {
        self.admin.call(Duration::from_secs(5), AdminMsg::Health).await.ok()
    }

    /// Puts a module onto a chain: undoes its state as far as its journal says, or keeps it and goes on after a block.
    pub fn resync(
        &self,
        module: String,
        chain_id: u64,
        block: Option<u64>,
    ) -> impl Future<Output = Resync> + Send + 'static {
        let (admin, moved, trace) = (self.admin.clone(), self.moved.clone(), self.trace.clone());
        async move {
            let to = block.map_or(ResyncTo::Journal, ResyncTo::Block);
            block.iter().for_each(|block| moved.add(&module, chain_id, *block));
            let order = ResyncOrder { chain_id, to };
            let put = |reply| AdminMsg::Modules(ModulesOrder::Resync { module: module.clone(), order, reply });
            let answer = admin.call(ORDER_DEADLINE, put).await;
            trace.note(format_args!("{module} onto chain {chain_id} by {to:?}: {answer:?}"));
            let refused = matches!(answer, Ok(Err(AdminError::Refused(_) | AdminError::WrongState { .. })));
            if block.is_none() && !refused {
                lock(&moved.0).undone.insert((module.clone(), chain_id));
            }
            match answer {
                Ok(Ok(_)) => Resync::Done,
                Ok(Err(AdminError::Refused(reason))) => {
                    block.iter().for_each(|block| moved.take_back(&module, chain_id, *block));
                    if reason.starts_with("no position in the journal") { Resync::OutOfReach } else { Resync::Undone }
                }
                Ok(Err(AdminError::WrongState { .. })) => {
                    block.iter().for_each(|block| moved.take_back(&module, chain_id, *block));
                    Resync::Undone
                }
                _ => Resync::Undone,
            }
        }
    }

    /// Delivers a dead letter again, in its own time.
    pub fn retry(&self, module: String, seq: u64) -> impl Future<Output = ()> + Send + 'static {
        let (admin, trace) = (self.admin.clone(), self.trace.clone());
        async move {
            let order = |reply| AdminMsg::Modules(ModulesOrder::RetryDeadLetter { module: module.clone(), seq, reply });
            let answer = admin.call(ORDER_DEADLINE, order).await;
            trace.note(format_args!("{module} letter {seq}: {answer:?}"));
        }
    }

    /// Carries out an order about a module, in its own time. One that is refused, or does not work, is given up.
    pub fn order(&self, order: Order, module: String) -> impl Future<Output = ()> + Send + 'static {
        let (admin, disk, directory) = (self.admin.clone(), self.disk.clone(), self.directory.clone());
        let upgrading = self.upgrading.clone();
        async move {
            let order = match order {
                Order::Pause => admin::Order::Pause,
                Order::Resume => admin::Order::Resume,
                Order::Restart => admin::Order::Restart,
                Order::Upgrade(version) => {
                    if !lock(&upgrading).insert(module.clone()) {
                        return;
                    }
                    let source = bundle(&directory, &module, version);
                    if let Err(violation) = upgrade(&admin, &module, source).await {
                        disk.violated(violation);
                    }
                    lock(&upgrading).remove(&module);
                    return;
                }
            };
            // Who asked may not learn what came of it.
            let _ = admin.call(ORDER_DEADLINE, |reply| AdminMsg::order(module, order, reply)).await;
        }
    }
}

/// What came of an order to put a module onto a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    Done,
    /// Its journal holds no position that lies on the chain.
    OutOfReach,
    /// It was not carried out, or nobody knows.
    Undone,
}

/// Carries out an upgrade, and sees to it that what runs is what the answer says.
async fn upgrade(admin: &Port<AdminMsg>, module: &str, source: PathBuf) -> Result<(), String> {
    let before = version(admin, module).await;
    let wanted = Wanted { module: module.to_owned(), source: Some(source), allow_capabilities: false };
    let order = |reply| AdminMsg::Modules(ModulesOrder::Upgrade { wanted, reply });
    let Ok(answer) = admin.call(ORDER_DEADLINE, order).await else {
        return Ok(());
    };
    let expected = match answer {
        Ok(upgraded) if upgraded.state == "RUN" && upgraded.to == Version::Broken.number() => {
            return Err(format!("{module}: a version whose init fails is said to run"));
        }
        Ok(upgraded) => Some(upgraded.to),
        Err(AdminError::NotUpgraded { .. }) => before,
        Err(_) => return Ok(()),
    };
    let after = version(admin, module).await;
    match after.is_some() && expected.is_some() && after != expected {
        true => Err(format!("{module}: it is {after:?} after an upgrade, not {expected:?}")),
        false => Ok(()),
    }
}

async fn modules(admin: &Port<AdminMsg>) -> Vec<Node> {
    let tree = admin.call(Duration::from_secs(5), AdminMsg::Tree).await;
    let children = tree.map(|tree| tree.children).unwrap_or_default();
    children.into_iter().find(|node| node.name == "modules").map(|node| node.children).unwrap_or_default()
}

async fn version(admin: &Port<AdminMsg>, module: &str) -> Option<String> {
    let node = modules(admin).await.into_iter().find(|node| node.name == module)?;
    node.module.map(|facts| facts.version)
}

/// Where the bundle of a module's version lies.
pub fn bundle(directory: &Path, module: &str, version: Version) -> PathBuf {
    directory.join("modules").join(format!("{module}-{}", version.number()))
}

pub fn store_directory(directory: &Path) -> PathBuf {
    directory.join("store")
}

/// The services whose living actors are known, by name.
#[derive(Default)]
pub struct Actors(Arc<Mutex<BTreeMap<String, ActorCell>>>);

impl Actors {
    pub fn service<M, F, S>(
        &self,
        name: &str,
        port: Port<M>,
        status: impl FnOnce(Port<M>) -> StatusSpec,
        spawn: S,
    ) -> ServiceSpec
    where
        M: Message,
        F: Future<Output = Result<ActorRef<M>, SpawnErr>> + Send + 'static,
        S: Fn(ActorCell) -> F + Send + Sync + 'static,
    {
        let (actors, named, status) = (self.0.clone(), name.to_owned(), status(port.clone()));
        let service = ServiceSpec::new(name, port, move |supervisor| {
            let (spawning, actors, named) = (spawn(supervisor), actors.clone(), named.clone());
            async move {
                let actor = spawning.await?;
                lock(&actors).insert(named, actor.get_cell());
                Ok(actor)
            }
        });
        service.with_status(status)
    }
}
