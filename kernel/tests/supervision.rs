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
    limits::Limits,
    port::Port,
    ports::Ports,
};
use nexum_kernel::{
    KernelArgs, KernelError, KernelHandle, ServiceSpec,
    admin::{AdminMsg, ModuleSpec},
    roster::{Change, Keep, Roster},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
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

/// A kernel whose one service cannot be started at the starts in `fails`.
async fn kernel(ports: &Arc<Ports>, dir: &TempDir, fails: &'static [usize]) -> KernelHandle {
    let roster = Arc::new(Roster::new(dir.path().join("modules.json")));
    kernel_of(ports, Port::new("admin"), dir.path(), fails, Vec::new(), roster).await
}

async fn kernel_of(
    ports: &Arc<Ports>,
    admin: Port<AdminMsg>,
    dir: &Path,
    fails: &'static [usize],
    modules: Vec<ModuleSpec>,
    roster: Arc<dyn Keep>,
) -> KernelHandle {
    let (port, starts) = (ports.of::<CronMsg>(), Arc::new(AtomicUsize::new(0)));
    let unbound = port.clone();
    let service = ServiceSpec {
        name: "frail".into(),
        start: Arc::new(move |supervisor| {
            let (port, start) = (port.clone(), starts.fetch_add(1, Ordering::SeqCst) + 1);
            Box::pin(async move {
                if fails.contains(&start) {
                    return Err("its address is taken".to_owned());
                }
                let spawned = Actor::spawn_linked(None, Frail, start, supervisor).await;
                let (actor, _) = spawned.map_err(|error| error.to_string())?;
                let cell = actor.get_cell();
                port.bind(actor);
                Ok(cell)
            })
        }),
        unbind: Arc::new(move || unbound.unbind()),
    };
    KernelHandle::start(KernelArgs {
        services: vec![service],
        ports: ports.clone(),
        admin,
        modules,
        record: Default::default(),
        ceiling: Limits::default(),
        restart: Default::default(),
        begun: Arc::new(nexum_kernel::begun::Marks::none()),
        roster,
        engine: nexum_kernel::engine::WasmEngine::new(dir).unwrap(),
        blocking: Default::default(),
        pin_threads: false,
        clock: Arc::new(SystemClock::new()),
        registry: prometheus::Registry::new(),
        module_histograms: false,
        map_limit: None,
        schedule_check: Arc::new(|_| Ok(())),
        schedule_next: Arc::new(|_, _| None),
        shutdown_deadline: Duration::from_secs(20),
        event_age_threshold: Duration::from_secs(600),
        outbox: Default::default(),
        jitter: Arc::new(|| 0.5),
    })
    .await
    .unwrap()
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

/// A roster on a disk that stalls at each write until it is told to go on.
struct Stalling {
    file: Roster,
    goes_on: Mutex<bool>,
    told: Condvar,
    begun: AtomicUsize,
}

impl Keep for Stalling {
    fn read(&self) -> Result<Vec<Change>, String> {
        self.file.read()
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), String> {
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
    let specs = sources.iter().map(|source| -> ModuleSpec {
        let toml = toml::Table::from_iter([("source".to_owned(), toml::Value::String(source.clone()))]);
        toml.try_into().unwrap()
    });
    let _kernel = kernel_of(&ports, admin.clone(), dir.path(), &[], specs.collect(), roster.clone()).await;
    let unload = |nth: usize| {
        let (admin, module) = (admin.clone(), sources[nth].clone());
        tokio::spawn(async move { admin.call(PATIENCE, |reply| AdminMsg::Unload { module, reply }).await })
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
