//! What durability costs: the floors of this disk, and the same work through the store actor.
//!
//! Prints one JSON object per line: `name`, `value`, `unit`, and where they apply `floor` (measured in the same run),
//! `ratio` and `goal`. `NEXUM_BENCH_SECONDS` sets the length of each measurement.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use nexum_host_ifaces::{
    Hash,
    clock::SystemClock,
    event::{Cursor, EventId, SourceId},
    ledger::{Ledger, UnitParts},
    store::{StateChange, StateView, StoreMsg, UnitKind},
};
use nexum_store::{Args, Options, Store};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent, rpc::CallResult};
use rocksdb::{DB, WriteBatch, WriteOptions};

const CALL_DEADLINE: Duration = Duration::from_secs(60);

fn length() -> Duration {
    let seconds = std::env::var("NEXUM_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(4.0))
}

struct Figures {
    cpu_us: f64,
    events_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

/// Resident memory of this process.
fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}

/// Processor time of this process and all its threads so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name, which may contain spaces: user and system time, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

fn figures(mut latencies: Vec<Duration>, elapsed: Duration, cpu_before: Duration) -> Figures {
    let cpu_us = (cpu() - cpu_before).as_secs_f64() * 1e6 / latencies.len() as f64;
    latencies.sort_unstable();
    let at = |quantile: f64| latencies[((latencies.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6;
    Figures {
        cpu_us,
        events_per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        max_us: at(1.0),
    }
}

fn report(name: &str, value: f64, unit: &str, against: Option<(f64, &str)>) {
    let mut line = serde_json::json!({ "name": name, "value": round(value), "unit": unit });
    if let Some((floor, goal)) = against {
        line["floor"] = round(floor).into();
        line["ratio"] = ((value / floor * 100.0).round() / 100.0).into();
        line["goal"] = goal.into();
    }
    println!("{line}");
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn plain(directory: &Path) -> DB {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_allow_concurrent_memtable_write(false);
    DB::open(&options, directory).unwrap()
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// One synced put after the other.
fn floor_put(directory: &Path) -> Figures {
    let db = plain(directory);
    let cpu_before = cpu();
    let started = Instant::now();
    let mut latencies = Vec::new();
    while started.elapsed() < length() {
        let put = Instant::now();
        db.put_opt((latencies.len() as u64).to_be_bytes(), [7; 100], &synced()).unwrap();
        latencies.push(put.elapsed());
    }
    figures(latencies, started.elapsed(), cpu_before)
}

/// A bare committer: a thread that takes whatever queued, two keys per event, and answers when it is synced.
async fn floor_committer(directory: &Path, in_flight: usize) -> Figures {
    type Event = (u32, u64, tokio::sync::oneshot::Sender<()>);
    let db = plain(directory);
    let (sender, queue) = mpsc::sync_channel::<Event>(1 << 16);
    let committer = std::thread::spawn(move || {
        while let Ok(first) = queue.recv() {
            let mut batch = WriteBatch::new();
            let mut replies = Vec::new();
            for (module, seq, reply) in std::iter::once(first).chain(queue.try_iter()) {
                let key = |tag: u8| [&[tag], &module.to_be_bytes()[..]].concat();
                batch.put(key(0), [seq as u8; 100]);
                batch.put(key(1), [seq as u8; 50]);
                replies.push(reply);
            }
            db.write_opt(batch, &synced()).unwrap();
            replies.into_iter().for_each(|reply| reply.send(()).unwrap());
        }
    });
    let cpu_before = cpu();
    let started = Instant::now();
    let modules: Vec<_> = (0..in_flight as u32)
        .map(|module| {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while started.elapsed() < length() {
                    let sent = Instant::now();
                    let (reply, answer) = tokio::sync::oneshot::channel();
                    sender.send((module, latencies.len() as u64, reply)).unwrap();
                    answer.await.unwrap();
                    latencies.push(sent.elapsed());
                }
                latencies
            })
        })
        .collect();
    let latencies = collect(modules).await;
    let elapsed = started.elapsed();
    drop(sender);
    committer.join().unwrap();
    figures(latencies, elapsed, cpu_before)
}

async fn collect(modules: Vec<tokio::task::JoinHandle<Vec<Duration>>>) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for module in modules {
        latencies.extend(module.await.unwrap());
    }
    latencies
}

/// Units of as many modules through the actor, each module waiting for its answer before the next.
async fn ours(directory: &Path, in_flight: usize) -> Figures {
    let options = Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
    let resident_before = resident_mib();
    let store = Store::open(directory, &options).unwrap();
    if in_flight == 1 {
        report("store.open.resident", resident_mib() - resident_before, "MiB", None);
    }
    let (parent, _) = Actor::spawn(None, Parent, ()).await.unwrap();
    let (actor, handle) = nexum_store::spawn(Args { store: store.clone() }, parent.get_cell()).await.unwrap();
    let mut ledgers = Vec::new();
    for index in 0..in_flight {
        let name = Arc::from(format!("module-{index}"));
        let CallResult::Success(info) = actor.call(|reply| StoreMsg::Open { name, reply }, None).await.unwrap() else {
            panic!("no answer");
        };
        let info = info.unwrap();
        ledgers.push(Ledger { module: info.id, component: Hash([9; 32]), record: info.record });
    }
    let cpu_before = cpu();
    let started = Instant::now();
    let modules: Vec<_> = ledgers
        .into_iter()
        .map(|mut ledger| {
            let (actor, store) = (actor.clone(), store.clone());
            tokio::spawn(async move {
                let source = SourceId::new("chain:1");
                let mut latencies = Vec::new();
                let mut old = None;
                while started.elapsed() < length() {
                    let unit = unit(&ledger, &source, old.take());
                    let record = unit.record.clone();
                    old = unit.changes[0].new.clone();
                    let sent = Instant::now();
                    let commit = |reply| StoreMsg::Commit { units: vec![unit], reply };
                    match actor.call(commit, Some(CALL_DEADLINE)).await.unwrap() {
                        CallResult::Success(answer) => answer.unwrap(),
                        _ => panic!("no answer"),
                    }
                    latencies.push(sent.elapsed());
                    ledger.adopt(record);
                }
                assert_eq!(store.get(ledger.module, "last").unwrap(), old);
                latencies
            })
        })
        .collect();
    let latencies = collect(modules).await;
    let elapsed = started.elapsed();
    actor.drain().unwrap();
    handle.await.unwrap();
    parent.stop(None);
    let status = store.status();
    report(
        &format!("commit.{in_flight}.group"),
        status.units_total as f64 / status.commits_total as f64,
        "units",
        None,
    );
    figures(latencies, elapsed, cpu_before)
}

/// A block event whose handler did one put.
fn unit(ledger: &Ledger, source: &SourceId, old: Option<Vec<u8>>) -> nexum_host_ifaces::store::EventUnit {
    let number = ledger.record.seq + 1;
    let hash = Hash([number as u8; 32]);
    ledger.seal(UnitParts {
        kind: UnitKind::Handled,
        event: EventId::Block { chain_id: 1, number, hash },
        moved: Some((source.clone(), Cursor::block(number, hash))),
        at_ms: number,
        fuel: 12_345,
        changes: vec![StateChange { key: "last".into(), new: Some(vec![number as u8; 100]), old }],
        state_bytes: 104,
        effects: Vec::new(),
    })
}

struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    let directory = tempfile::TempDir::new_in(".").unwrap();
    let at = |name: &str| directory.path().join(name);
    let one = ours(&at("one"), 1).await;
    let put = floor_put(&at("put"));
    report("commit.floor.put.p50", put.p50_us, "us", None);
    report("commit.1.p50", one.p50_us, "us", Some((put.p50_us, "ratio <= 2")));
    report("commit.1.p99", one.p99_us, "us", Some((put.p99_us, "")));
    report("commit.1.max", one.max_us, "us", Some((put.max_us, "")));
    for in_flight in [100, 1_000] {
        let floor = floor_committer(&at(&format!("floor-{in_flight}")), in_flight).await;
        let all = ours(&at(&format!("ours-{in_flight}")), in_flight).await;
        let goal = if in_flight == 1_000 { "value >= 150000" } else { "value >= 90000" };
        let name = |what: &str| format!("commit.{in_flight}.{what}");
        report(&name("throughput"), all.events_per_second, "events/s", Some((floor.events_per_second, goal)));
        report(&name("p50"), all.p50_us, "us", Some((floor.p50_us, "")));
        report(&name("p99"), all.p99_us, "us", Some((floor.p99_us, "")));
        report(&name("cpu"), all.cpu_us, "us/event", Some((floor.cpu_us, "")));
        report(&name("max"), all.max_us, "us", Some((floor.max_us, "")));
    }
}
