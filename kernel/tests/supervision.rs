//! The root's promises about shared actors: one that dies is started again behind the same port, and past the intensity
//! the run ends with a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    clock::SystemClock,
    cron::{CronMsg, CronStatus},
    port::Port,
    ports::Ports,
    store::StoreMsg,
};
use nexum_kernel::{
    KernelArgs, KernelError, KernelHandle, ServiceSpec, Status, StatusSpec,
    admin::{AdminError, AdminMsg, ModuleSpec, ModulesOrder, Node, NodeKind, Order},
    begun::Marks,
    engine::WasmEngine,
    roster::{Keep, Roster, RosterChange},
};
use nexum_testkit_engine::kernel_args;
use prometheus::Registry;
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr};
use tempfile::TempDir;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers `Status` with how often it was started, and dies of `Forget`.
struct Frail;

impl Actor for Frail {
    type Msg = CronMsg;
    type State = usize;
    type Arguments = usize;

    async fn pre_start(&self, _: ActorRef<CronMsg>, starts: usize) -> Result<usize, ActorProcessingErr> {
        Ok(starts)
    }

    async fn handle(
        &self,
        _: ActorRef<CronMsg>,
        message: CronMsg,
        starts: &mut usize,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CronMsg::Status(reply) => reply.send(CronStatus { schedules: *starts, next_in_ms: None })?,
            _ => return Err("told to die".into()),
        }
        Ok(())
    }
}

/// A service that says how it is, and cannot be started at the starts in `fails`.
fn frail(name: &str, kind: NodeKind, port: Port<CronMsg>, fails: &'static [usize]) -> ServiceSpec {
    let starts = AtomicUsize::new(0);
    let shown = |status: CronStatus| Status::up(format!("start {}", status.schedules));
    let status = StatusSpec::new(name, kind, port.clone(), CronMsg::Status, shown);
    let service = ServiceSpec::new(name, port, move |supervisor| {
        let start = starts.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            if fails.contains(&start) {
                return Err(SpawnErr::StartupFailed("its address is taken".into()));
            }
            Actor::spawn_linked(None, Frail, start, supervisor).await.map(|(actor, _)| actor)
        }
    });
    service.with_status(status)
}

/// A kernel whose one service cannot be started at the starts in `fails`.
async fn kernel(ports: &Arc<Ports>, dir: &TempDir, fails: &'static [usize]) -> KernelHandle {
    let roster = Arc::new(Roster::new(dir.path().join("modules.json")));
    let services = vec![frail("frail", NodeKind::Service, ports.of(), fails)];
    kernel_of(ports, Port::new("admin"), dir.path(), services, Vec::new(), roster).await
}

async fn kernel_of(
    ports: &Arc<Ports>,
    admin: Port<AdminMsg>,
    dir: &Path,
    services: Vec<ServiceSpec>,
    modules: Vec<ModuleSpec>,
    roster: Arc<dyn Keep>,
) -> KernelHandle {
    let (engine, begun, clock) = (WasmEngine::new(dir).unwrap(), Arc::new(Marks::none()), Arc::new(SystemClock::new()));
    let args = kernel_args(ports.clone(), admin, engine, roster, begun, clock, Registry::new());
    KernelHandle::start(KernelArgs { services, modules, ..args }).await.unwrap()
}

/// Asks until the actor of this start answers.
async fn answers(cron: &Port<CronMsg>, start: usize) {
    let asking = async {
        while cron.call(PATIENCE, CronMsg::Status).await.map(|status| status.schedules) != Ok(start) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("start {start} never answered"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_dies_is_back_behind_its_port_until_the_intensity_is_spent() {
    let (ports, dir) = (Ports::unbound([]), TempDir::new().unwrap());
    let cron = ports.of::<CronMsg>();
    let mut kernel = kernel(&ports, &dir, &[]).await;
    for start in 1..=6 {
        answers(&cron, start).await;
        cron.cast(CronMsg::Forget { module: "any".into() }).unwrap();
    }
    let end = tokio::time::timeout(PATIENCE, kernel.wait()).await.unwrap().unwrap_err();
    assert!(matches!(&*end, KernelError::IntensitySpent { service, .. } if service == "frail"), "{end}");
    assert!(cron.call(PATIENCE, CronMsg::Status).await.is_err(), "nobody answers once the run has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_start_again_at_once_is_tried_within_the_same_bound() {
    let (ports, dir) = (Ports::unbound([]), TempDir::new().unwrap());
    let cron = ports.of::<CronMsg>();
    let mut kernel = kernel(&ports, &dir, &[2, 3, 5, 6, 7]).await;
    answers(&cron, 1).await;
    cron.cast(CronMsg::Forget { module: "any".into() }).unwrap();
    answers(&cron, 4).await;
    // Its death and two failed starts; another death and the next failed starts are more than is allowed.
    cron.cast(CronMsg::Forget { module: "any".into() }).unwrap();
    let end = tokio::time::timeout(PATIENCE, kernel.wait()).await.unwrap().unwrap_err();
    assert!(end.to_string().contains("its address is taken"), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_stands_in_the_tree_with_what_it_says_and_down_when_it_says_nothing() {
    let (ports, admin, dir) = (Ports::unbound([]), Port::<AdminMsg>::new("admin"), TempDir::new().unwrap());
    let roster = Arc::new(Roster::new(dir.path().join("modules.json")));
    let named = [("store", NodeKind::Store), ("10", NodeKind::Chain), ("2", NodeKind::Chain)];
    let mut services: Vec<_> = named.map(|(name, kind)| frail(name, kind, Port::new("frail"), &[])).into();
    services.push(frail("new", NodeKind::Service, ports.of(), &[]));
    let _kernel = kernel_of(&ports, admin.clone(), dir.path(), services, Vec::new(), roster).await;
    let tree = admin.call(PATIENCE, AdminMsg::Tree).await.unwrap();
    let names = |nodes: &[Node]| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&tree.children), ["store", "chains", "new", "outbox", "modules"]);
    assert_eq!(names(&tree.children[1].children), ["2", "10"], "by their numbers");

    let new = async || {
        let node = admin.call(PATIENCE, AdminMsg::Tree).await.unwrap().children.remove(2);
        (node.name, node.kind, node.state, node.summary)
    };
    let shown =
        |state: &str, summary: &str| ("new".to_owned(), NodeKind::Service, state.to_owned(), summary.to_owned());
    assert_eq!(new().await, shown("UP", "start 1"));
    ports.of::<CronMsg>().unbind();
    assert_eq!(new().await, shown("DOWN", ""));
    let health = admin.call(PATIENCE, AdminMsg::Health).await.unwrap();
    assert_eq!(health.chains.keys().collect::<Vec<_>>(), ["10", "2"]);
}

/// A roster on a disk that stalls at each write until it is told to go on.
struct Stalling {
    file: Roster,
    goes_on: Mutex<bool>,
    told: Condvar,
    begun: AtomicUsize,
}

impl Keep for Stalling {
    fn read(&self) -> Result<Vec<RosterChange>, String> {
        self.file.read()
    }

    fn write(&self, changes: Vec<RosterChange>) -> Result<(), String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let goes_on = self.goes_on.lock().unwrap();
        // A test that fails is not waited for either.
        drop(self.told.wait_timeout_while(goes_on, 4 * PATIENCE, |goes_on| !*goes_on).unwrap());
        self.file.write(changes)
    }
}

/// Asks again until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what}: never"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stalls_at_the_roster_keeps_nobody_waiting_but_whose_order_it_is() {
    let (ports, admin, dir) = (Ports::unbound([]), Port::<AdminMsg>::new("admin"), TempDir::new().unwrap());
    let file = Roster::new(dir.path().join("modules.json"));
    let (goes_on, told, begun) = (Mutex::new(false), Condvar::new(), AtomicUsize::new(0));
    let roster = Arc::new(Stalling { file: file.clone(), goes_on, told, begun });
    // Bundles that are not there: the modules are shown under their sources, and can be unloaded.
    let sources = ["a", "b", "c"].map(|name| dir.path().join(name).display().to_string());
    let specs = sources.iter().map(|source| ModuleSpec::new(source.into()));
    let _kernel = kernel_of(&ports, admin.clone(), dir.path(), Vec::new(), specs.collect(), roster.clone()).await;
    let unload = |nth: usize| {
        let (admin, module) = (admin.clone(), sources[nth].clone());
        tokio::spawn(async move { admin.call(PATIENCE, |reply| AdminMsg::order(module, Order::Unload, reply)).await })
    };
    let modules = async || {
        let tree = admin.call(PATIENCE, AdminMsg::Tree).await.unwrap();
        let modules = tree.children.into_iter().find(|node| node.name == "modules").unwrap();
        format!("{} {}", modules.state, modules.summary)
    };
    until("all are shown", async || modules().await == "UP 3 loaded").await;

    let first = unload(0);
    until("the write has begun", async || roster.begun.load(Ordering::SeqCst) == 1).await;
    // The tree shows what is so, and more orders are carried out.
    until("one is gone", async || modules().await == "UP 2 loaded").await;
    let others = [unload(1), unload(2)];
    until("all are gone", async || modules().await == "UP 0 loaded").await;
    assert_eq!(file.read().unwrap(), []);
    assert!(!first.is_finished() && others.iter().all(|order| !order.is_finished()), "nothing is durable yet");

    *roster.goes_on.lock().unwrap() = true;
    roster.told.notify_all();
    for order in [first].into_iter().chain(others) {
        order.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(file.read().unwrap().len(), 3);
    assert_eq!(roster.begun.load(Ordering::SeqCst), 2, "one write for all who waited meanwhile");
}

/// A store that takes everything, and answers nothing. Counts what orders ask of it.
struct Silent(Arc<AtomicUsize>);

impl Actor for Silent {
    type Msg = StoreMsg;
    type State = Vec<StoreMsg>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<Vec<StoreMsg>, ActorProcessingErr> {
        Ok(Vec::new())
    }

    async fn handle(
        &self,
        _: ActorRef<StoreMsg>,
        message: StoreMsg,
        taken: &mut Vec<StoreMsg>,
    ) -> Result<(), ActorProcessingErr> {
        if matches!(message, StoreMsg::Open { .. } | StoreMsg::Purge { .. }) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        taken.push(message);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_slow_keeps_nobody_waiting_but_whose_order_it_is() {
    let (admin, dir) = (Port::<AdminMsg>::new("admin"), TempDir::new().unwrap());
    // Its component is not what its manifest says, so that it is dead, and has no actor that an order waits for.
    let bundle = dir.path().join("m");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("module.wasm"), "no component").unwrap();
    let manifest = format!(
        "[module]\nname = \"m\"\nversion = \"0.1.0\"\ncomponent = \"sha256:{}\"\n[capabilities]\nrequired = [\"logging\"]\n",
        "0".repeat(64)
    );
    std::fs::write(bundle.join("nexum.toml"), manifest).unwrap();
    let source = toml::Value::String(bundle.display().to_string());
    let spec: ModuleSpec = toml::Table::from_iter([("source".to_owned(), source)]).try_into().unwrap();
    let (ports, roster) = (Ports::unbound([]), Arc::new(Roster::new(dir.path().join("modules.json"))));
    let store = ports.store();
    let _kernel = kernel_of(&ports, admin.clone(), dir.path(), Vec::new(), vec![spec], roster).await;
    let shown = async || {
        let tree = admin.call(PATIENCE, AdminMsg::Tree).await.unwrap();
        let modules = tree.children.into_iter().find(|node| node.name == "modules").unwrap();
        let states: Vec<String> = modules.children.iter().map(|node| format!("{} {}", node.name, node.state)).collect();
        format!("{}: {}", modules.state, states.join(", "))
    };
    until("it is dead", async || shown().await == "UP: m DEAD").await;

    let asked = Arc::new(AtomicUsize::new(0));
    let (silent, _) = Actor::spawn(None, Silent(asked.clone()), ()).await.unwrap();
    store.bind(silent.clone());
    let restart = || {
        let admin = admin.clone();
        let order = |reply| AdminMsg::order("m", Order::Restart, reply);
        tokio::spawn(async move { admin.call(PATIENCE, order).await.unwrap() })
    };
    let first = restart();
    let purge = |module: &str| {
        let (admin, module) = (admin.clone(), module.to_owned());
        let order = |reply| AdminMsg::Modules(ModulesOrder::Purge { module, reply });
        tokio::spawn(async move { admin.call(PATIENCE, order).await.unwrap() })
    };
    let gone = purge("gone");
    until("the store is asked", async || asked.load(Ordering::SeqCst) == 2).await;
    // While it is silent the tree shows the modules, and what is in the way of an order is said at once.
    let refused = restart().await.unwrap().unwrap_err().to_string();
    assert!(refused.ends_with("another order is being carried out"), "{refused}");
    assert!(matches!(purge("gone").await.unwrap(), Err(AdminError::Unavailable(_))), "one is under way");
    assert_eq!(shown().await, "UP: m DEAD");
    assert!(!first.is_finished() && !gone.is_finished(), "nothing is stored yet");

    // Whoever gave an order is told in the end.
    assert!(matches!(first.await.unwrap(), Err(AdminError::Unavailable(_))));
    assert!(matches!(gone.await.unwrap(), Err(AdminError::Unavailable(_))));
    assert_eq!(shown().await, "UP: m DEAD");
    silent.stop(None);
}
