//! The least surroundings a kernel runs in: a store in memory, and a chain that hands out blocks on command.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    clock::{Clock, SystemClock},
    cron::ScheduleCheck,
    event::{Answer, Cursor, Delivery, EventId, Part, SourceReply},
    interfaces::chain::port::{ChainMsg, ChainPull},
    limits::Limits,
    port::Port,
    ports::Ports,
    state::{ModuleId, NoState, StateView},
    store::{ModuleHealth, ModuleInfo, ModuleRecord, StoreMsg},
    types::{Block, Event},
};
use nexum_kernel::{
    KernelArgs, KernelHandle,
    admin::{AdminMsg, ModuleSpec},
    begun::{DEATHS_MAX, Marks},
    engine::MapLimit,
    manifest::Manifest,
    roster::Roster,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tempfile::TempDir;
use tokio::sync::Notify;

pub const CHAIN: u64 = 31337;

#[allow(clippy::disallowed_methods, reason = "where `make guests` put the bundles")]
pub fn bundle(name: &str) -> PathBuf {
    let bundles = std::env::var("NEXUM_BUNDLES").expect("NEXUM_BUNDLES is set by `make bench`");
    PathBuf::from(bundles).join(name)
}

/// The manifest of a bundle without schedules.
pub fn manifest(bundle_name: &str) -> Manifest {
    let check: ScheduleCheck = Arc::new(|_| Ok(()));
    Manifest::read(&bundle(bundle_name).join("nexum.toml"), &check).unwrap()
}

/// Copies of one bundle under many names, sharing the component.
pub fn copies(dir: &Path, of: &str, prefix: &str, count: usize) -> Vec<PathBuf> {
    let from = bundle(of);
    let manifest = fs::read_to_string(from.join("nexum.toml")).unwrap();
    let copy = |index: usize| {
        let name = format!("{prefix}{index:05}");
        let to = dir.join(&name);
        fs::create_dir_all(&to).unwrap();
        std::os::unix::fs::symlink(from.join("module.wasm"), to.join("module.wasm")).unwrap();
        let renamed = manifest.replace(&format!("name = \"{of}\""), &format!("name = \"{name}\""));
        fs::write(to.join("nexum.toml"), renamed).unwrap();
        to
    };
    (0..count).map(copy).collect()
}

pub fn block_event(number: u64) -> (EventId, Arc<Event>) {
    let hash = hash(number);
    let block = Block {
        chain_id: CHAIN,
        number,
        hash: hash.0.to_vec(),
        parent_hash: hash.0.to_vec(),
        timestamp: 1_700_000_000_000 + number,
    };
    (EventId::Block { chain_id: CHAIN, number, hash }, Arc::new(Event::Block(block)))
}

fn hash(number: u64) -> Hash {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Hash(bytes)
}

/// A chain that has as many blocks as it was told.
#[derive(Default)]
pub struct Feed {
    blocks: Mutex<Vec<(EventId, Arc<Event>)>>,
    waiting: Mutex<HashMap<Arc<str>, ChainPull>>,
    /// Modules whose pull waits at the head.
    at_head: AtomicU64,
    /// How often a module has withdrawn what it waited for.
    pub forgotten: AtomicU64,
    changed: Notify,
}

impl Feed {
    /// Appends blocks and wakes every module that waits.
    pub fn add(&self, count: u64) {
        {
            let mut blocks = self.blocks.lock().unwrap();
            let first = blocks.len() as u64 + 1;
            blocks.extend((first..first + count).map(block_event));
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        self.at_head.store(0, Ordering::SeqCst);
        for pull in waiting.into_values() {
            self.answer(pull);
        }
    }

    /// Waits until this many modules have handled every block.
    pub async fn all_at_head(&self, modules: u64) {
        loop {
            let changed = self.changed.notified();
            if self.at_head.load(Ordering::SeqCst) == modules {
                return;
            }
            changed.await;
        }
    }

    /// Answers every pull that waits with a block that was handled before, as no chain does.
    #[allow(dead_code, reason = "only the test of what cannot be asks for it")]
    pub fn repeat(&self, number: u64) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        self.at_head.store(0, Ordering::SeqCst);
        let (id, event) = block_event(number);
        for pull in waiting.into_values() {
            let cursor = Cursor::block(number, hash(number));
            let deliveries = vec![Delivery { id: id.clone(), event: event.clone(), cursor, seen_ns: 0 }];
            let answer = Answer::Events { deliveries, progress: None, skipped: 0 };
            // A module that is gone needs no answer.
            let _ = pull.to.send_message(SourceReply { source: pull.source.clone(), token: pull.token, answer });
        }
    }

    fn answer(&self, pull: ChainPull) {
        let reply = |answer| SourceReply { source: pull.source.clone(), token: pull.token, answer };
        let send = |answer| {
            // A module that is gone needs no answer.
            let _ = pull.to.send_message(reply(answer));
        };
        let Some(Cursor::Chain { number, .. }) = pull.after else {
            let start = Cursor::Chain { number: 0, hash: Some(hash(0)), part: Part::Block };
            return send(Answer::Events { deliveries: Vec::new(), progress: Some(start), skipped: 0 });
        };
        let blocks = self.blocks.lock().unwrap();
        let next = &blocks[(number as usize).min(blocks.len())..];
        if next.is_empty() {
            drop(blocks);
            self.waiting.lock().unwrap().insert(pull.module.clone(), pull);
            self.at_head.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_waiters();
            return;
        }
        let delivery = |(offset, (id, event)): (usize, &(EventId, Arc<Event>))| {
            let number = number + 1 + offset as u64;
            let cursor = Cursor::block(number, hash(number));
            Delivery { id: id.clone(), event: event.clone(), cursor, seen_ns: 0 }
        };
        let deliveries: Vec<_> = next.iter().take(pull.size.deliveries_max).enumerate().map(delivery).collect();
        drop(blocks);
        send(Answer::Events { deliveries, progress: None, skipped: 0 });
    }
}

struct FeedActor;

impl Actor for FeedActor {
    type Msg = ChainMsg;
    type State = Arc<Feed>;
    type Arguments = Arc<Feed>;

    async fn pre_start(&self, _: ActorRef<ChainMsg>, feed: Arc<Feed>) -> Result<Arc<Feed>, ActorProcessingErr> {
        Ok(feed)
    }

    async fn handle(
        &self,
        _: ActorRef<ChainMsg>,
        message: ChainMsg,
        feed: &mut Arc<Feed>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ChainMsg::Pull(pull) => feed.answer(pull),
            ChainMsg::Forget { .. } => {
                feed.forgotten.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A store that acknowledges everything at once.
pub struct Forgetful;

impl Actor for Forgetful {
    type Msg = StoreMsg;
    type State = u32;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<StoreMsg>, _: ()) -> Result<u32, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(&self, _: ActorRef<StoreMsg>, message: StoreMsg, ids: &mut u32) -> Result<(), ActorProcessingErr> {
        match message {
            StoreMsg::Open { name, reply } => {
                *ids += 1;
                let (record, health) = (ModuleRecord::default(), ModuleHealth::default());
                let id = ModuleId(*ids);
                reply.send(Ok(ModuleInfo {
                    name: name.to_string(),
                    id,
                    record,
                    health,
                    dead_letters: 0,
                    dead_letter_bytes: 0,
                    replay: 0,
                    reorgs: 0,
                }))?;
            }
            StoreMsg::Commit { reply, .. } | StoreMsg::PutHealth { reply, .. } => reply.send(Ok(()))?,
            _ => {}
        }
        Ok(())
    }
}

/// A module as it is configured without any wish of the operator's.
pub fn spec(source: PathBuf) -> ModuleSpec {
    ModuleSpec {
        source,
        denied: Vec::new(),
        record: Default::default(),
        ceiling: None,
        config: BTreeMap::new(),
        extra_methods: Vec::new(),
        component: None,
        adopt_state: false,
    }
}

/// A kernel over a feed.
pub struct Bed {
    pub kernel: KernelHandle,
    #[allow(dead_code, reason = "only the test of refusals asks it")]
    pub admin: Port<AdminMsg>,
    #[allow(dead_code, reason = "only the test of orders takes it away")]
    pub store: Port<StoreMsg>,
    pub feed: Arc<Feed>,
    pub dir: TempDir,
}

/// What keeps the units.
pub enum Disk {
    None,
    RocksDb,
}

impl Bed {
    pub async fn start(modules: usize, disk: Disk) -> Self {
        let bed = Self::with(modules, disk, None).await;
        bed.feed.all_at_head(modules as u64).await;
        bed
    }

    /// The same under a limit of memory maps, without waiting for the modules.
    pub async fn with(modules: usize, disk: Disk, map_limit: Option<MapLimit>) -> Self {
        let dir = TempDir::with_prefix("nexum-bench.").unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let registry = prometheus::Registry::new();
        let feed = Arc::new(Feed::default());
        let (store, view): (_, Arc<dyn StateView>) = match disk {
            Disk::None => (Actor::spawn(None, Forgetful, ()).await.unwrap().0, Arc::new(NoState)),
            Disk::RocksDb => {
                let options = nexum_store::Options::new(clock.clone(), registry.clone());
                let opened = nexum_store::Store::open(dir.path().join("store"), &options).unwrap();
                let args = nexum_store::Args { store: opened.clone() };
                (Actor::spawn(None, nexum_store::StoreActor, args).await.unwrap().0, opened)
            }
        };
        let ports = Ports::new(view, [CHAIN]);
        ports.store().bind(store);
        ports.chain(CHAIN).unwrap().bind(Actor::spawn(None, FeedActor, feed.clone()).await.unwrap().0);
        let sources = copies(dir.path(), "bench", "m", modules);
        let admin = Port::new("admin");
        let kernel = KernelHandle::start(KernelArgs {
            services: Vec::new(),
            ports: ports.clone(),
            admin: admin.clone(),
            modules: sources.into_iter().map(spec).collect(),
            record: Default::default(),
            ceiling: Limits::default(),
            restart: Default::default(),
            begun: Arc::new(Marks::open(&dir.path().join("begun"), DEATHS_MAX, clock.clone()).unwrap()),
            roster: Arc::new(Roster::new(dir.path().join("modules.json"))),
            engine: nexum_kernel::engine::WasmEngine::new(&dir.path().join("cache")).unwrap(),
            blocking: Default::default(),
            pin_threads: true,
            clock,
            registry,
            module_histograms: false,
            map_limit,
            schedule_check: Arc::new(|_| Ok(())),
            schedule_next: Arc::new(|_, _| None),
            shutdown_deadline: Duration::from_secs(20),
            event_age_threshold: Duration::from_secs(600),
            outbox: Default::default(),
            jitter: Arc::new(|| 0.5),
        })
        .await
        .unwrap();
        Self { kernel, admin, store: ports.store(), feed, dir }
    }
}

/// Resident memory of this process, bytes.
pub fn resident_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}
