//! Hostile neighbours, each by itself and all at once, beside fifty ordinary modules: every one of those handles every
//! event once, the engine says all the while that it lives, its memory stays within what its configuration allows, and
//! it ends when it is told to. What the neighbours do to the time from a head to the guest is measured in turns with
//! and without them, and held against what that time does without any. In its long form it is held to a tenth.

mod measure;
mod neighbours;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use measure::{Turns, phase};
use neighbours::{COMPILER, Neighbour, Silent, modes};
use serde_json::Value;

use super::{
    engine::{Engine, FAST_CHAIN, Setup, eventually, get, has_ended},
    hostile::assert_handled_every_block,
};

/// From block to block of the chain.
const BLOCK: Duration = Duration::from_millis(50);
const ORDINARY: usize = 50;
/// The ordinary modules' p99 beside the neighbours over that without them. More is allowed as far as it moves without
/// them: no more can be told apart.
const RATIO_MAX: f64 = 1.10;
/// What all but one of a hundred probes are to be answered within; and what all are, because a machine that is busy
/// with other things stops everybody.
const PROBE_GOAL: Duration = Duration::from_millis(100);
const PROBE_MAX: Duration = Duration::from_secs(2);
/// `[engine] shutdown_deadline`, which cuts some of the neighbours short; and what the services and the process may
/// take after it: what `TimeoutStopSec` is to allow, and what it takes where nothing else is busy. Of that, 5 s are for
/// work that blocks a thread, such as to wait for a compiler.
const STOP_DEADLINE: Duration = Duration::from_secs(1);
const STOP_AFTER_MAX: Duration = Duration::from_secs(25);
const STOP_AFTER_GOAL: Duration = Duration::from_secs(8);
/// `[engine] compile_timeout`: more than a measurement lasts.
const COMPILE_TIMEOUT: &str = "30s";
/// Memory that the engine may take at most besides what the neighbours may, MiB: the pool of recordings (256), and
/// the database with the engine itself (256). For each ordinary module: 1.
const FIXED_MIB: u64 = 256 + 256;
/// A directory without a disk behind it, what has to be free there, and a journal that keeps to that.
const MEMORY_DIR: &str = "/dev/shm";
const MEMORY_BYTES: u64 = 3 << 30;
const SMALL_JOURNAL: &str = "[journal]\nbytes = 67_108_864\n";

/// Turns with the neighbours: 1 in CI, more with `make prove-isolation ROUNDS=n`. Then nothing else runs on the machine.
fn rounds() -> usize {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    std::env::var("NEXUM_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn is_alone() -> bool {
    rounds() > 1
}

fn name(index: usize) -> String {
    format!("m{index:02}")
}

fn is_ordinary(module: &Value) -> bool {
    module.as_str().is_some_and(|module| module.len() == 3 && module.starts_with('m'))
}

/// How much less each thread for slow modules counts than others, as `nice` says it.
fn slow_threads(engine: &Engine) -> Vec<i64> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", engine.pid())).unwrap();
    let stat = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat")).ok();
    // A thread that has ended since is none. The name stands in brackets, and 16 fields after it the nice value.
    let stats = threads.flatten().filter_map(stat).filter(|stat| stat.contains("(nexum-slow)"));
    stats.map(|stat| stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()).collect()
}

/// Asks the probes again and again until it is told to stop; every answer's time.
fn probe(address: &str, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    // Whether it is well is another question: a module that is late makes it unhealthy.
    for (path, status) in [("/live", "HTTP/1.1 200"), ("/health", "HTTP/1.1 ")].into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        #[allow(clippy::disallowed_methods, reason = "how long another process takes is what is measured")]
        let asked = Instant::now();
        let answer = get(address, path);
        took.push(asked.elapsed());
        assert!(answer.starts_with(status), "{path}: {answer}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    took
}

/// What came of an engine with these neighbours.
struct Report {
    title: String,
    turns: Turns,
    /// Of the probes' answers, in order.
    probes: Vec<Duration>,
    most_mib: u64,
    allowed_mib: u64,
    /// From the signal to the end.
    ended: Duration,
}

/// Fifty ordinary modules, these neighbours in turns, and the end while all of them are at it. `below`: where the
/// state is kept instead of with the system's temporary files. One that would hide what others do is, among others,
/// there for the end alone.
fn prove(modes: &[&'static str], rounds: usize, blocks: usize, below: Option<&Path>) -> Report {
    let silent = Silent::start();
    let setup = below.map_or_else(Setup::new, Setup::below).with("module_histograms = true");
    let setup = if below.is_some() { setup.with(SMALL_JOURNAL) } else { setup };
    let setup = setup.mock(31337, FAST_CHAIN);
    let setup = (0..ORDINARY).fold(setup, |setup, index| setup.module("recorder", &name(index), &[]));
    let mut neighbours: Vec<Neighbour> =
        modes.iter().copied().map(|mode| Neighbour::new(&setup, &silent, mode, rounds + 1)).collect();
    let mut engine = setup.prepare();
    let deadline = format!("NEXUM_ENGINE__SHUTDOWN_DEADLINE={}s", STOP_DEADLINE.as_secs());
    let timeout = format!("NEXUM_ENGINE__COMPILE_TIMEOUT={COMPILE_TIMEOUT}");
    engine.under = vec!["env".to_owned(), deadline, timeout];
    engine.launch();
    let (address, stop) = (engine.address("health_listen"), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let probing = std::thread::spawn(move || probe(&address, &stopped));
    for index in 0..ORDINARY {
        engine.module_until(&name(index), "runs", |node| node["events_processed"].as_u64() > Some(0));
    }

    let mut turns = Turns::default();
    turns.quiet.push(phase(&engine, blocks));
    for _ in 0..rounds {
        let mut taking_part: Vec<&mut Neighbour> =
            neighbours.iter_mut().filter(|neighbour| modes.len() == 1 || !neighbour.hides_others()).collect();
        taking_part.iter_mut().for_each(|neighbour| neighbour.load(&engine, &silent));
        taking_part.iter().for_each(|neighbour| neighbour.is_at_it(&engine, &silent));
        turns.hostile.push(phase(&engine, blocks));
        let slow = slow_threads(&engine);
        let aside = !slow.is_empty() && slow.iter().all(|nice| *nice == 19);
        assert!(aside || !modes.contains(&"fuel"), "they were not put aside: {slow:?}");
        for neighbour in taking_part {
            neighbour.went_on(&engine);
            neighbour.unload(&engine);
        }
        turns.quiet.push(phase(&engine, blocks));
    }
    for index in 0..ORDINARY {
        assert_handled_every_block(&engine, &name(index));
        let node = engine.module(&name(index));
        assert_eq!((&node["events_failed"], &node["dead_letters"]), (&0.into(), &0.into()), "{node:#}");
    }

    // All of them once more, for the end. Those that hide others come last.
    for neighbour in &mut neighbours {
        neighbour.load(&engine, &silent);
        neighbour.is_at_it(&engine, &silent);
    }
    stop.store(true, Ordering::Relaxed);
    let mut probes = probing.join().unwrap();
    probes.sort();
    let most_mib = engine.memory_bytes_max() >> 20;
    let children = engine.children();
    #[allow(clippy::disallowed_methods, reason = "how long another process takes is what is measured")]
    let told = Instant::now();
    assert!(engine.terminate().success(), "{}", engine.log_text());
    let ended = told.elapsed();
    for child in children {
        eventually("a compiler ends with its engine", || has_ended(child));
    }
    let allowed_mib = FIXED_MIB + ORDINARY as u64 + neighbours.iter().map(Neighbour::allowed_mib).sum::<u64>();
    let beside = if modes.len() == 1 { modes[0].to_owned() } else { format!("{} neighbours at once", modes.len()) };
    let place = below.map_or("on the disk".to_owned(), |below| format!("in {}", below.display()));
    let title = format!("{ORDINARY} modules beside {beside}, state {place}, {blocks} blocks in each of {rounds} turns");
    let report = Report { title, turns, probes, most_mib, allowed_mib, ended };
    report.print();
    report.hold();
    report
}

impl Report {
    #[allow(clippy::print_stdout, reason = "figures are what a proof is run for")]
    fn print(&self) {
        self.turns.print(&self.title);
        let (count, slowest) = (self.probes.len(), self.probes.last().copied().unwrap_or_default());
        println!("  probes asked {count} times: p99 {:?}, the slowest {slowest:?}", self.probe_p99());
        let Self { most_mib, allowed_mib, ended, .. } = self;
        println!("  memory: {most_mib} MiB at most, {allowed_mib} allowed; ended {ended:?} after SIGTERM");
    }

    fn probe_p99(&self) -> Duration {
        self.probes[(self.probes.len() * 99).div_ceil(100) - 1]
    }

    fn hold(&self) {
        let Self { title, probes, most_mib, allowed_mib, ended, .. } = self;
        let slowest = probes.last().unwrap();
        assert!(*slowest < PROBE_MAX, "{title}: a probe took {slowest:?}");
        assert!(most_mib < allowed_mib, "{title}: {most_mib} MiB of {allowed_mib}");
        let after = if is_alone() { STOP_AFTER_GOAL } else { STOP_AFTER_MAX };
        assert!(*ended < STOP_DEADLINE + after, "{title}: it ended {ended:?} after SIGTERM");
        if is_alone() {
            assert!(self.probe_p99() < PROBE_GOAL, "{title}: one of a hundred probes took {:?}", self.probe_p99());
        }
    }

    /// Whether the ordinary modules waited longer beside the neighbours than is allowed.
    fn slowed(&self) -> Option<String> {
        let moved = self.turns.moved(|phase| phase.latency[2]);
        let allowed = RATIO_MAX.max(moved.drift);
        (moved.ratio > allowed).then(|| format!("{}: the p99 moved more than {allowed:.3}: {moved:?}", self.title))
    }
}

/// Where nothing that is written waits for a disk.
fn in_memory() -> &'static Path {
    let dir = Path::new(MEMORY_DIR);
    let about = rustix::fs::statvfs(dir).unwrap();
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    assert!(free > MEMORY_BYTES, "{MEMORY_DIR} has {free} bytes, and this needs {MEMORY_BYTES}");
    dir
}

/// With the disk as it is: its share is printed beside the rest, and a stall of it is nobody's fault.
#[test]
fn prove_isolation() {
    let blocks = if is_alone() { 400 } else { 60 };
    prove(&modes(), rounds(), blocks, None);
}

#[test]
fn prove_isolation_in_a_long_run_without_a_disk() {
    assert_eq!(prove(&modes(), rounds().max(3), 400, Some(in_memory())).slowed(), None);
}

/// One that is masked by another when all are there has nobody to hide behind. What a compiler does is printed.
#[test]
fn prove_isolation_in_a_long_run_of_each_by_itself() {
    let reports = modes().into_iter().map(|mode| (mode, prove(&[mode], 3, 200, Some(in_memory()))));
    let slowed = reports.filter_map(|(mode, report)| report.slowed().filter(|_| mode != COMPILER));
    let slowed: Vec<String> = slowed.collect();
    assert!(slowed.is_empty(), "{}", slowed.join("\n"));
}
