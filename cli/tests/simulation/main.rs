//! The simulation: the real engine on one thread, in simulated time, in a world that a seed makes up.
//!
//! Owns how runs are started and reported. Each run is a process of its own, so that nothing of one (counters, hash keys)
//! reaches another and a seed gives the same trace for ever.
//!
//! | called with | does |
//! |---|---|
//! | `--seeds N [--from M]` | runs N seeds, prints those that fail and how to repeat them |
//! | `--seed N` | runs one and prints its trace |
//! | `--periodic N` | runs N seeds with `durability = "periodic"`, in which each death is by a loss of power |
//! | `--case CASE` | the same for `seed:N`, `periodic:N`, `short`, `short:before:W`, `short:after:W` and `short:within:W` |
//! | `--live` | prints the trace of these two as it comes: for a run that does not end |
//! | `--crash-points` | the short scenario, with a crash before and after every write, and a power failure in it |
//! | nothing | the tests, in their short form |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

mod accounts;
mod block;
mod chance;
mod choice;
mod dial;
mod disk;
mod effects;
mod endpoints;
mod engine;
mod health;
mod life;
mod manifest;
mod marks;
mod oracle;
mod periodic;
mod power;
mod receiver;
mod roster;
mod run;
mod scenario;
mod trace;
mod view;
mod world;

use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    process::{Command, ExitCode},
    str::FromStr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use nexum_testkit::bundle;
use run::{Report, Shop};
use scenario::{Scenario, When};
use serde::{Deserialize, Serialize};

/// Seeds that are run twice.
const SEEDS_TWICE: u64 = 8;
/// Seeds that every run of the tests runs.
const SEEDS_SHARE: u64 = 100;
/// Others that found something: what one endpoint alone called final, logs that are in no receipt, a range from a node that
/// climbs anew, and one that tells no logs by the hash of their block.
const SEEDS_KEPT: [u64; 7] = [109, 116, 172, 752, 1_300, 1_333, 1_768];

/// One thing to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Seed(u64),
    /// The same world, with a store that is synced now and then.
    Periodic(u64),
    Short(Option<(u64, When)>),
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => write!(f, "seed:{seed}"),
            Self::Periodic(seed) => write!(f, "periodic:{seed}"),
            Self::Short(None) => write!(f, "short"),
            Self::Short(Some((write, When::Before))) => write!(f, "short:before:{write}"),
            Self::Short(Some((write, When::After))) => write!(f, "short:after:{write}"),
            Self::Short(Some((write, When::Within))) => write!(f, "short:within:{write}"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
        match text.split(':').collect::<Vec<_>>().as_slice() {
            ["seed", seed] => Ok(Self::Seed(number(seed)?)),
            ["periodic", seed] => Ok(Self::Periodic(number(seed)?)),
            ["short"] => Ok(Self::Short(None)),
            ["short", "before", write] => Ok(Self::Short(Some((number(write)?, When::Before)))),
            ["short", "after", write] => Ok(Self::Short(Some((number(write)?, When::After)))),
            ["short", "within", write] => Ok(Self::Short(Some((number(write)?, When::Within)))),
            _ => Err(format!(
                "no case `{text}`: expected seed:N, periodic:N, short, short:before:W, short:after:W or short:within:W"
            )),
        }
    }
}

impl Case {
    fn run(self) -> Result<Report, String> {
        let (seed, scenario, compare) = match self {
            Self::Seed(seed) => (seed, Scenario::draw(seed), true),
            Self::Periodic(seed) => {
                periodic::PERIODIC.store(true, Ordering::Relaxed);
                let mut scenario = Scenario::draw(seed);
                (scenario.faults.crashes_max, scenario.faults.crash_every_ms) = (5, 30_000);
                (seed, scenario, true)
            }
            Self::Short(crash_at) => (0, Scenario::short(crash_at), false),
        };
        chance::from_now_on(seed);
        run::run(seed, scenario, &shop(), compare)
    }

    /// Runs it in a process of its own.
    fn spawn(self) -> Verdict {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).args(["--child", &self.to_string()]).output().unwrap();
        let line = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(line.lines().last().unwrap_or_default()).unwrap_or_else(|_| {
            let died = String::from_utf8_lossy(&output.stderr).into_owned();
            Verdict { error: Some(format!("it died ({}): {died}", output.status)), ..Verdict::default() }
        })
    }
}

/// What a run came to, as its process tells it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Verdict {
    error: Option<String>,
    digest: String,
    lines: usize,
    writes: u64,
    crashes: u32,
    simulated_ms: u64,
    /// States that modules came to.
    states: BTreeSet<String>,
}

impl Verdict {
    fn of(report: Result<Report, String>) -> Self {
        match report {
            Ok(report) => Self {
                error: report.result.err(),
                digest: report.trace.digest(),
                lines: report.trace.lines().len(),
                writes: report.writes,
                crashes: report.crashes,
                simulated_ms: report.simulated_ms,
                states: report.trace.lines().iter().filter_map(|line| state(line)).collect(),
            },
            Err(error) => Self { error: Some(error), ..Self::default() },
        }
    }
}

/// The state that a line of the trace says a module came to.
fn state(line: &str) -> Option<String> {
    let (_, to) = line.split_once("module state from=")?.1.split_once(" to=\"")?;
    to.split('"').next().map(str::to_owned)
}

fn shop() -> Shop {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulation");
    Shop { component: bundle("simulated").join("module.wasm"), cache }
}

/// Runs all, on every core, and tells of each as it ends.
fn all(cases: &[Case], tell: impl Fn(Case, &Verdict) + Sync) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts: Vec<Mutex<Verdict>> = cases.iter().map(|_| Mutex::default()).collect();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((index, case)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, *case))
                } {
                    let verdict = case.spawn();
                    tell(case, &verdict);
                    *verdicts[index].lock().unwrap() = verdict;
                }
            });
        }
    });
    verdicts.into_iter().map(|verdict| verdict.into_inner().unwrap()).collect()
}

/// Runs all and prints what fails. True when nothing does.
fn hold(cases: &[Case]) -> bool {
    let verdicts = all(cases, |case, verdict| {
        if let Some(error) = &verdict.error {
            println!("{case} FAILED; `{}` repeats it\n{error}\n", command(case));
        }
    });
    let failed = verdicts.iter().filter(|verdict| verdict.error.is_some()).count();
    let sum = |of: fn(&Verdict) -> u64| verdicts.iter().map(of).sum::<u64>();
    println!(
        "{} runs, {failed} failed: {} h simulated, {} writes, {} crashes",
        cases.len(),
        sum(|verdict| verdict.simulated_ms) / 3_600_000,
        sum(|verdict| verdict.writes),
        sum(|verdict| verdict.crashes.into()),
    );
    failed == 0
}

fn command(case: Case) -> String {
    match case {
        Case::Seed(seed) => format!("make sim SEED={seed}"),
        Case::Periodic(_) | Case::Short(_) => format!("make sim CASE={case}"),
    }
}

fn seeds(from: u64, count: u64) -> bool {
    hold(&(from..from + count).map(Case::Seed).collect::<Vec<_>>())
}

/// Where a module may be when the engine dies.
const STATES: [&str; 5] = ["INIT", "RUN", "RESTART", "PAUSED", "DEAD"];

/// A crash before and after every write of the short scenario, in which modules come to every state, and a power failure in
/// the middle of it.
fn crash_points() -> bool {
    let plain = Case::Short(None).spawn();
    if let Some(error) = plain.error {
        println!("the short scenario fails without any crash:\n{error}");
        return false;
    }
    let missing: Vec<_> = STATES.into_iter().filter(|state| !plain.states.contains(*state)).collect();
    if !missing.is_empty() {
        println!("no module is ever {missing:?} in the short scenario");
        return false;
    }
    let points =
        (1..=plain.writes).flat_map(|write| [When::Before, When::After, When::Within].map(|when| (write, when)));
    hold(&points.map(|point| Case::Short(Some(point))).collect::<Vec<_>>())
}

/// Every run of a seed gives the same trace.
fn twice() -> bool {
    let cases: Vec<Case> = (0..SEEDS_TWICE).flat_map(|seed| [Case::Seed(seed); 2]).collect();
    let verdicts = all(&cases, |_, _| {});
    let mut same = true;
    for (case, pair) in cases.chunks(2).zip(verdicts.chunks(2)) {
        if pair[0].digest != pair[1].digest || pair[0].lines == 0 {
            println!("{} has two traces: {:?} and {:?}", case[0], pair[0], pair[1]);
            same = false;
        }
    }
    same
}

/// Runs one here and prints its trace.
fn show(case: Case) -> bool {
    match case.run() {
        Ok(report) => {
            if !trace::LIVE.load(Ordering::Relaxed) {
                report.trace.lines().iter().for_each(|line| println!("{line}"));
            }
            println!("trace {}, {} writes", report.trace.digest(), report.writes);
            match report.result {
                Ok(()) => println!("{case} holds"),
                Err(ref error) => println!("{case} FAILED\n{error}"),
            }
            report.result.is_ok()
        }
        Err(error) => {
            println!("{case} cannot be run: {error}");
            false
        }
    }
}

type Test = (&'static str, fn() -> bool);

const TESTS: [Test; 4] = [
    ("two_runs_of_a_seed_give_the_same_trace", twice),
    ("every_crash_point_is_survived", crash_points),
    ("a_share_of_the_seeds_ends_as_the_chain_says", || seeds(0, SEEDS_SHARE)),
    ("seeds_that_found_something_end_as_the_chain_says", || hold(&SEEDS_KEPT.map(Case::Seed))),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str| text(name).map(|text| text.parse::<u64>().unwrap());
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    trace::LIVE.store(flag("--live"), Ordering::Relaxed);
    let held = if let Some(case) = text("--child") {
        let verdict = Verdict::of(case.parse::<Case>().unwrap().run());
        println!("{}", serde_json::to_string(&verdict).unwrap());
        true
    } else if let Some(seed) = number("--seed") {
        show(Case::Seed(seed))
    } else if let Some(case) = text("--case") {
        show(case.parse().unwrap())
    } else if let Some(count) = number("--seeds") {
        seeds(number("--from").unwrap_or(0), count)
    } else if let Some(count) = number("--periodic") {
        hold(&(0..count).map(Case::Periodic).collect::<Vec<_>>())
    } else if flag("--crash-points") {
        crash_points()
    } else if flag("--list") {
        // What cargo-nextest asks. Nothing is ignored.
        if !flag("--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        true
    } else {
        let chosen = |name: &str| arguments.iter().all(|argument| argument.starts_with("--") || argument == name);
        TESTS.iter().filter(|(name, _)| chosen(name)).all(|(_, test)| test())
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
