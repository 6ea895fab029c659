//! Events per second through the kernel, without and with a disk, beside a bare loop over the same guests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nexum_host_ifaces::{
    Hash,
    clock::SystemClock,
    commit_queue::CommitQueue,
    cron::ScheduleCheck,
    grants::{AskedCapabilities, Grants},
    host::{HostArgs, HostState},
    interfaces::local_store::CAPABILITY,
    limits::Limits,
    ports::Ports,
    recording::TapeMode,
    store::{ModuleId, ModuleRecord},
    unit::drafts::Quota,
};
use nexum_kernel::{engine::WasmEngine, instance, manifest::Manifest};
use nexum_testkit::bundle;
use nexum_testkit_engine::{Bed, Disk, block_event};
use tempfile::TempDir;
use wasmtime::Store;

use crate::figures::{Figures, Goal, median};

/// Blocks per wake, as after a short outage.
const BLOCKS: u64 = 16;
const ROUNDS: usize = 15;

#[allow(clippy::disallowed_methods, reason = "a benchmark reads the machine's clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The manifest of a bundle without schedules.
pub fn manifest(bundle_name: &str) -> Manifest {
    let check: ScheduleCheck = Arc::new(|_| Ok(()));
    Manifest::read(&bundle(bundle_name).join("nexum.toml"), &check).unwrap()
}

/// The bench guest, linked, and what its Stores are made from.
pub struct Guests {
    pub prepared: instance::Prepared,
    pub args: HostArgs,
    _cache: TempDir,
}

impl Guests {
    pub fn new() -> Self {
        let cache = TempDir::new().unwrap();
        let engine = WasmEngine::new(cache.path()).unwrap();
        let manifest = manifest("bench");
        let component = engine.component(&bundle("bench").join("module.wasm"), manifest.component).unwrap();
        let asked = AskedCapabilities { required: &[CAPABILITY], optional: &[] };
        let grants = Grants::decide(asked, &[CAPABILITY].into(), &[].into()).unwrap();
        let prepared = instance::prepare(&engine, &component, grants.interfaces(), "bench").unwrap();
        let ports = Ports::unbound([]);
        let args = HostArgs {
            module: "bench".into(),
            id: ModuleId(1),
            component: Hash::default(),
            limits: Arc::new(Limits::default()),
            clock: Arc::new(SystemClock::new()),
            commits: Arc::new(CommitQueue::new(ports.store())),
            ports,
            grants: Arc::new(grants),
            taping: TapeMode::Off,
            quota: Quota::new(0),
        };
        Self { prepared, args, _cache: cache }
    }

    async fn bare(&self, count: usize) -> Vec<(Store<HostState>, nexum_host_ifaces::EventModule)> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let mut store = Store::new(self.prepared.engine(), HostState::new(&self.args, ModuleRecord::default()));
            store.set_fuel(u64::MAX / 2).unwrap();
            store.set_epoch_deadline(1 << 40);
            let guest = self.prepared.instantiate_async(&mut store).await.unwrap();
            guest.call_init(&mut store, &Vec::new()).await.unwrap().unwrap();
            all.push((store, guest));
        }
        all
    }
}

/// Processor time of this process and all its threads so far, microseconds. Unlike a rate it does not depend on what else
/// the machine does.
fn processor_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name, which may contain spaces: user and system time, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 1e4
}

/// Guest calls in a bare loop: events per second, and microseconds of processor time per event.
async fn bare_loop(modules: usize) -> (f64, f64) {
    let guests = Guests::new();
    let mut all = guests.bare(modules).await;
    let events: Vec<_> = (1..=BLOCKS).map(block_event).collect();
    let mut rates = Vec::new();
    let before = processor_us();
    for _ in 0..ROUNDS {
        let start = now();
        for (store, guest) in &mut all {
            for (_, event) in &events {
                guest.call_on_event(&mut *store, event).await.unwrap().unwrap();
            }
        }
        rates.push((modules as u64 * BLOCKS) as f64 / start.elapsed().as_secs_f64());
    }
    (median(rates), per_event(before, modules))
}

fn per_event(before_us: f64, modules: usize) -> f64 {
    (processor_us() - before_us) / (ROUNDS as u64 * BLOCKS * modules as u64) as f64
}

async fn through_the_kernel(bed: &Bed, modules: usize) -> (f64, f64) {
    let mut rates = Vec::new();
    let before = processor_us();
    for _ in 0..ROUNDS {
        let start = now();
        bed.feed.add(BLOCKS);
        bed.feed.all_at_head(modules as u64).await;
        rates.push((modules as u64 * BLOCKS) as f64 / start.elapsed().as_secs_f64());
    }
    (median(rates), per_event(before, modules))
}

pub async fn in_memory(figures: &mut Figures, modules: usize) {
    let (floor, floor_us) = bare_loop(modules).await;
    let bed = Bed::start(modules, Disk::None).await;
    let (rate, us) = through_the_kernel(&bed, modules).await;
    println!("processor time per event: {us:.2} µs, floor {floor_us:.2} µs");
    figures.add(format!("dispatch in memory, {modules} modules"), rate, "events/s", Some(floor), Goal::Slower(1.6));
    end(bed).await;
}

async fn end(bed: Bed) {
    bed.kernel.kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(bed.dir);
}

/// Guest calls and one synced batch per round over all modules, two keys per event, in a bare loop.
async fn bare_group_commit(modules: usize) -> f64 {
    let guests = Guests::new();
    let mut all = guests.bare(modules).await;
    let (dir, database, options) = database();
    let (_, event) = block_event(1);
    let mut rates = Vec::new();
    for round in 0..ROUNDS * 4 {
        let start = now();
        let mut batch = rocksdb::WriteBatch::default();
        for (index, (store, guest)) in all.iter_mut().enumerate() {
            guest.call_on_event(&mut *store, &event).await.unwrap().unwrap();
            batch.put((index as u64).to_be_bytes(), [1; 8]);
            batch.put([(index as u64).to_be_bytes(), (round as u64).to_be_bytes()].concat(), [2; 64]);
        }
        database.write_opt(batch, &options).unwrap();
        rates.push(modules as f64 / start.elapsed().as_secs_f64());
    }
    drop(dir);
    median(rates)
}

fn database() -> (TempDir, rocksdb::DB, rocksdb::WriteOptions) {
    let dir = TempDir::with_prefix("nexum-bench.").unwrap();
    let database = rocksdb::DB::open_default(dir.path()).unwrap();
    let mut options = rocksdb::WriteOptions::default();
    options.set_sync(true);
    (dir, database, options)
}

pub async fn durable(figures: &mut Figures, modules: usize) {
    let floor = bare_group_commit(modules).await;
    let bed = Bed::start(modules, Disk::RocksDb).await;
    let (rate, _) = through_the_kernel(&bed, modules).await;
    figures.add(format!("durable events, {modules} modules"), rate, "events/s", Some(floor), Goal::Slower(2.0));
    end(bed).await;
}

pub async fn one_durable_event(figures: &mut Figures) {
    const EVENTS: usize = 300;
    let (dir, database, options) = database();
    let mut floor = Vec::new();
    for index in 0..EVENTS as u64 {
        let start = now();
        database.put_opt(index.to_be_bytes(), [1; 64], &options).unwrap();
        floor.push(start.elapsed().as_secs_f64() * 1e3);
    }
    drop((database, dir));
    let bed = Bed::start(1, Disk::RocksDb).await;
    let mut took = Vec::new();
    for _ in 0..EVENTS {
        let start = now();
        bed.feed.add(1);
        bed.feed.all_at_head(1).await;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    figures.add("one durable event alone, p50", median(took), "ms", Some(median(floor)), Goal::TimesFloor(2.0));
    end(bed).await;
}
