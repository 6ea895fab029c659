//! The root's promises about shared actors: one that dies is started again behind the same port, and past the intensity
//! the run ends with a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    clock::SystemClock,
    cron::{CronMsg, CronStatus},
    limits::Limits,
    port::Port,
    store::{Entries, ModuleId, StateView, StoreError},
};
use nexum_kernel::{KernelArgs, KernelError, KernelHandle, Ports, ServiceSpec, roster::Roster};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tempfile::TempDir;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

struct NoState;

impl StateView for NoState {
    fn get(&self, _: ModuleId, _: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: ModuleId, _: &str, _: Option<&str>, _: usize) -> Result<Entries, StoreError> {
        Ok(Entries::new())
    }
}

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
async fn kernel(cron: &Port<CronMsg>, dir: &TempDir, fails: &'static [usize]) -> KernelHandle {
    let (port, starts) = (cron.clone(), Arc::new(AtomicUsize::new(0)));
    let unbound = cron.clone();
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
        ports: Ports {
            store: Port::new("store"),
            view: Arc::new(NoState),
            chains: BTreeMap::new(),
            cron: cron.clone(),
            egress: Port::new("egress"),
            admin: Port::new("admin"),
        },
        modules: Vec::new(),
        record: Default::default(),
        ceiling: Limits::default(),
        restart: Default::default(),
        begun: Arc::new(nexum_kernel::begun::Marks::none()),
        roster: Arc::new(Roster::new(dir.path().join("modules.json"))),
        engine: nexum_kernel::engine::WasmEngine::new(dir.path()).unwrap(),
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
    let (cron, dir) = (Port::new("cron"), TempDir::new().unwrap());
    let mut kernel = kernel(&cron, &dir, &[]).await;
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
    let (cron, dir) = (Port::new("cron"), TempDir::new().unwrap());
    let mut kernel = kernel(&cron, &dir, &[2, 3, 5, 6, 7]).await;
    answers(&cron, 1).await;
    cron.cast(CronMsg::Forget { module: "any".into() }).unwrap();
    answers(&cron, 4).await;
    // Its death and two failed starts; another death and the next failed starts are more than is allowed.
    cron.cast(CronMsg::Forget { module: "any".into() }).unwrap();
    let end = tokio::time::timeout(PATIENCE, kernel.wait()).await.unwrap().unwrap_err();
    assert!(end.to_string().contains("its address is taken"), "{end}");
}
