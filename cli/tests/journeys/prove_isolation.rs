//! Hostile neighbours, all at once, beside fifty ordinary modules: every one of those handles every event once, the engine
//! says all the while that it lives, its memory stays within what its configuration allows, and it ends when it is told to.
//! What the neighbours do to the time from a head to the guest is reported.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    engine::{Engine, Setup, eventually},
    hostile::{QUICK, assert_handled_every_block},
};

const BLOCK: Duration = Duration::from_millis(50);
/// Twenty blocks a second, without end.
const CHAIN: &str = "chain_id = 31337\nname = \"fast\"\nseed = 1\nfirst_timestamp_s = 1_700_000_000\nblock_interval_ms = 50\nendless = true\n";
const ORDINARY: usize = 50;
const HOSTILE: [&str; 16] = [
    "fuel",
    "memory",
    "stack",
    "sleep",
    "log-bomb",
    "huge-log",
    "print-bomb",
    "line-ends",
    "state-bomb",
    "flush-bomb",
    "rewrite-bomb",
    "error-bomb",
    "key-bomb",
    "timer-bomb",
    "rpc-bomb",
    "http-bomb",
];
/// They fail for as long as it takes.
const BUDGET: (&str, &str) = ("max_consecutive_failures = 10", "max_consecutive_failures = 1000000");
/// Others' p99 beside them over their p99 alone; reported, not asserted, because it is a time.
const RATIO_GOAL: f64 = 1.10;

/// What `/live` is to be answered within, and how long it may take before this fails: a machine that is busy with other
/// things stops everybody.
const LIVE_GOAL: Duration = Duration::from_millis(100);
const LIVE_MAX: Duration = Duration::from_secs(2);
/// `[engine] shutdown_deadline`, and as much again for the process itself.
const STOP_MAX: Duration = Duration::from_secs(40);
/// Memory that the engine may take at most, MiB. Fixed: the pool of recordings (256), and the database with the engine
/// itself. For each hostile module: its `max_memory_bytes` (16 here), and one call's arguments (16) and answer (8). For each
/// ordinary one: 1.
const FIXED_MIB: u64 = 256 + 256;
const MODULE_MIB: u64 = 16 + 16 + 8;

/// Rounds, each first alone and then beside the hostile ones: 1 in CI, more with `make prove-isolation ROUNDS=n`.
fn rounds() -> usize {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    std::env::var("NEXUM_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Those of the hostile ones that take part: all, or `make prove-isolation NEIGHBOURS=fuel,stack`.
fn neighbours() -> Vec<&'static str> {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    let chosen = std::env::var("NEXUM_NEIGHBOURS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|mode| !mode.is_empty()).collect();
    assert!(chosen.iter().all(|mode| HOSTILE.contains(mode)), "{chosen:?} is not all of {HOSTILE:?}");
    HOSTILE.into_iter().filter(|mode| chosen.is_empty() || chosen.contains(mode)).collect()
}

fn name(index: usize) -> String {
    format!("m{index:02}")
}

fn samples(engine: &Engine) -> Vec<Value> {
    engine.json(&["metrics"]).as_array().unwrap().clone()
}

fn ordinary(sample: &Value) -> bool {
    let module = sample["labels"]["module"].as_str().unwrap_or_default();
    module.len() == 3 && module.starts_with('m')
}

/// Block events that the ordinary modules handled, and their latencies by upper bound, cumulative.
fn handled(engine: &Engine) -> (f64, BTreeMap<u64, f64>) {
    let (mut events, mut buckets) = (0.0, BTreeMap::new());
    for sample in samples(engine).iter().filter(|sample| ordinary(sample) && sample["labels"]["event_type"] == "block")
    {
        let value = sample["value"].as_f64().unwrap();
        match sample["name"].as_str().unwrap() {
            "nexum_events_processed_total" => events += value,
            "nexum_dispatch_latency_seconds_bucket" => {
                let bound = sample["labels"]["le"].as_str().unwrap().parse::<f64>().unwrap_or(f64::INFINITY);
                *buckets.entry(bound.to_bits()).or_default() += value;
            }
            _ => {}
        }
    }
    (events, buckets)
}

/// The p50, p90 and p99 over the next `blocks` blocks of every ordinary module, milliseconds.
fn latency_ms(engine: &Engine, blocks: usize) -> [f64; 3] {
    let (events, before) = handled(engine);
    let wanted = events + (blocks * ORDINARY) as f64;
    // Whoever asks takes the modules' time, so nobody does while it is measured.
    std::thread::park_timeout(BLOCK * u32::try_from(blocks).unwrap());
    let after = eventually("the ordinary modules go on", || match handled(engine) {
        (events, buckets) if events >= wanted => Ok(buckets),
        (events, _) => Err(format!("{events} of {wanted} events")),
    });
    let counts: Vec<(f64, f64)> = after
        .iter()
        .map(|(bound, count)| (f64::from_bits(*bound), count - before.get(bound).unwrap_or(&0.0)))
        .collect();
    let total = counts.last().unwrap().1;
    [0.5, 0.9, 0.99].map(|share| {
        let at = counts.iter().position(|(_, count)| *count >= total * share).unwrap();
        let (lower, below) = if at == 0 { (0.0, 0.0) } else { counts[at - 1] };
        let (upper, count) = counts[at];
        // Between two bounds the events are taken as evenly spread, as Prometheus does.
        let within = if upper.is_finite() { (upper - lower) * (total * share - below) / (count - below) } else { 0.0 };
        (lower + within) * 1e3
    })
}

fn median(rounds: &[[f64; 3]], percentile: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|round| round[percentile]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How much less each thread for slow modules counts than others, as `nice` says it.
fn slow_threads(engine: &Engine) -> Vec<i64> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", engine.pid())).unwrap();
    let stat = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat")).ok();
    // A thread that has ended since is none. The name stands in brackets, and 16 fields after it the nice value.
    let stats = threads.flatten().filter_map(stat).filter(|stat| stat.contains("(nexum-slow)"));
    stats.map(|stat| stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()).collect()
}

/// Asks `/live` again and again until it is told to stop; every answer's time.
fn probe(address: &str, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        #[allow(clippy::disallowed_methods, reason = "how long another process takes is what is measured")]
        let asked = Instant::now();
        let mut answer = String::new();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        took.push(asked.elapsed());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    took
}

/// The most memory that the process has had, MiB.
fn most_mib(engine: &Engine) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn prove_isolation() {
    // A server that takes every connection and answers nobody.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let blocks = if rounds() > 1 { 400 } else { 60 };
    let mut setup = Setup::new().with("module_histograms = true").mock(31337, CHAIN);
    for index in 0..ORDINARY {
        setup = setup.module("recorder", &name(index), &[]);
    }
    let bundle = |mode| {
        let wanted = format!("mode = \"{mode}\"\nurl = \"{url}\"");
        (mode, setup.write_bundle("hostile", mode, &[("mode = \"good\"", &wanted), QUICK, BUDGET]))
    };
    let neighbours: Vec<_> = neighbours().into_iter().map(bundle).collect();
    let mut engine = setup.start();
    let config = fs::read_to_string(&engine.config).unwrap();
    let address = config.lines().find_map(|line| line.strip_prefix("health_listen = ")).unwrap().trim_matches('"');
    let (address, stop) = (address.to_owned(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let probing = std::thread::spawn(move || probe(&address, &stopped));
    for index in 0..ORDINARY {
        engine.module_until(&name(index), "runs", |node| node["events_processed"].as_u64() > Some(0));
    }
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        alone.push(latency_ms(&engine, blocks));
        for (_, bundle) in &neighbours {
            engine.ctl(&["module", "load", bundle.to_str().unwrap()]);
        }
        // Each is at its work before the measurement begins.
        for (mode, _) in &neighbours {
            engine.module_until(mode, "is at it", |node| {
                node["events_failed"].as_u64() > Some(0) || node["events_processed"].as_u64() > Some(0)
            });
        }
        beside.push(latency_ms(&engine, blocks));
        let slow = slow_threads(&engine);
        let aside = !slow.is_empty() && slow.iter().all(|nice| *nice == 19);
        assert!(aside || neighbours.len() < HOSTILE.len(), "they were not put aside: {slow:?}");
        for (mode, _) in &neighbours {
            assert_ne!(engine.module(mode)["state"], "DEAD", "{mode} went on to the end");
            engine.ctl(&["module", "unload", mode]);
        }
    }
    for index in 0..ORDINARY {
        assert_handled_every_block(&engine, &name(index));
        let node = engine.module(&name(index));
        assert_eq!((&node["events_failed"], &node["dead_letters"]), (&0.into(), &0.into()), "{node:#}");
    }
    // All of them once more, for the end.
    for (_, bundle) in &neighbours {
        engine.ctl(&["module", "load", bundle.to_str().unwrap()]);
    }
    stop.store(true, Ordering::Relaxed);
    let mut live = probing.join().unwrap();
    live.sort();
    let allowed = FIXED_MIB + MODULE_MIB * neighbours.len() as u64 + ORDINARY as u64;
    let most = most_mib(&engine);
    #[allow(clippy::disallowed_methods, reason = "how long another process takes is what is measured")]
    let told = Instant::now();
    assert!(engine.terminate().success());
    let ended = told.elapsed();
    let (slowest, late) = (*live.last().unwrap(), live.iter().filter(|took| **took > LIVE_GOAL).count());
    println!("/live asked {} times: {late} took longer than {LIVE_GOAL:?}, the slowest {slowest:?}", live.len());
    println!("memory: {most} MiB at most, {allowed} allowed; ended {ended:?} after SIGTERM");
    assert!(slowest < LIVE_MAX, "/live took {slowest:?}");
    assert!(ended < STOP_MAX, "it ended {ended:?} after SIGTERM");
    assert!(most < allowed, "{most} MiB of {allowed}");
    println!("{ORDINARY} modules, {} hostile neighbours, {} blocks each way", neighbours.len(), blocks * rounds());
    for (percentile, name) in ["p50", "p90", "p99"].into_iter().enumerate() {
        let [alone, beside] = [&alone, &beside].map(|rounds| median(rounds, percentile));
        println!("{name}: {alone:.3} ms alone, {beside:.3} ms beside them, ratio {:.3}", beside / alone);
    }
    let each = alone.iter().zip(&beside).map(|(alone, beside)| format!("{:.2} and {:.2}", alone[2], beside[2]));
    println!("p99 of each round, alone and beside them: {}", each.collect::<Vec<_>>().join(", "));
    println!("the goal for p99 is {RATIO_GOAL}");
}
