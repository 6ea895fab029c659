//! The hostile neighbours: what each is, and what shows that it is at it. Being loaded is not enough: what is refused
//! for another reason than the one that it is there for would harm nobody.

use std::{
    collections::VecDeque,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use crate::{
    compile::bomb,
    engine::{Engine, Setup, eventually, has_ended},
    hostile::QUICK,
};

/// The one that is never loaded: its component keeps the compiler busy.
pub const COMPILER: &str = "compile-bomb";
/// The one whose calls of the host take long.
const LISTER: &str = "list-bomb";
/// Each is a mode of the guest `hostile`, but for `dns-bomb`, which is `http-bomb` with another name in each request,
/// and the compiler's.
const MODES: [&str; 19] = [
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
    "dns-bomb",
    LISTER,
    COMPILER,
];
/// They fail for as long as it takes.
const BUDGET: (&str, &str) = ("max_consecutive_failures = 10", "max_consecutive_failures = 1000000");
/// An event that does what it is to do and is not done with it in time.
const LATE: &str = "deadline: ";
/// Connections that the silent server holds open.
const HELD_MAX: usize = 256;

/// A server that takes every connection and answers nobody.
pub struct Silent {
    url: String,
    taken: Arc<AtomicU64>,
}

impl Silent {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicU64::new(0));
        let counter = taken.clone();
        // Until the end of the test's process.
        std::thread::spawn(move || {
            let mut held: VecDeque<TcpStream> = VecDeque::new();
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                if held.len() == HELD_MAX {
                    held.pop_front();
                }
                held.push_back(stream);
            }
        });
        Self { url, taken }
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

pub struct Neighbour {
    pub mode: &'static str,
    /// Name and bundle, one for each time that it is loaded: a component that could not be compiled is not tried again.
    turns: Vec<(String, PathBuf)>,
    turn: usize,
    /// Connections that the silent server had taken when it was loaded.
    taken: u64,
}

/// Those that take part: all, or `make prove-isolation NEIGHBOURS=fuel,stack`.
pub fn modes() -> Vec<&'static str> {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    let chosen = std::env::var("NEXUM_NEIGHBOURS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|mode| !mode.is_empty()).collect();
    assert!(chosen.iter().all(|mode| MODES.contains(mode)), "{chosen:?} is not all of {MODES:?}");
    MODES.into_iter().filter(|mode| chosen.is_empty() || chosen.contains(mode)).collect()
}

impl Neighbour {
    /// A neighbour that is loaded so many times.
    pub fn new(setup: &Setup, silent: &Silent, mode: &'static str, turns: usize) -> Self {
        let turns = (0..turns).map(|turn| match mode {
            COMPILER => {
                let name = format!("{mode}-{turn}");
                // Another component each time.
                let component = bomb(3_000 + turn, 200, 200);
                let bundle = setup.write_bundle_of(&component, &name);
                (name, bundle)
            }
            _ => (
                mode.to_owned(),
                setup.write_bundle("hostile", mode, &[("mode = \"good\"", &config(mode, silent)), QUICK, BUDGET]),
            ),
        });
        Self { mode, turns: turns.collect(), turn: 0, taken: 0 }
    }

    pub fn name(&self) -> &str {
        &self.turns[self.turn].0
    }

    pub fn is_compiler(&self) -> bool {
        self.mode == COMPILER
    }

    /// Whether others do less beside it than they would, which nobody would see. A compiler has nearly the weight of a
    /// module, so that its own component is not late on a busy machine. Calls that take long give a slow thread back
    /// after a tenth of a second, where others have it for 50 µs.
    pub fn hides_others(&self) -> bool {
        [COMPILER, LISTER].contains(&self.mode)
    }

    /// What the process may take for it, MiB: its own memory as its manifest allows it, and the arguments (16) and the
    /// answer (8) of one call. What is compiled takes the compiler's memory.
    pub fn allowed_mib(&self) -> u64 {
        if self.is_compiler() {
            return 0;
        }
        let manifest = std::fs::read_to_string(self.turns[0].1.join("nexum.toml")).unwrap();
        let memory = manifest.lines().find_map(|line| line.strip_prefix("max_memory_bytes = ")).unwrap();
        (memory.replace('_', "").parse::<u64>().unwrap() >> 20) + 16 + 8
    }

    pub fn load(&mut self, engine: &Engine, silent: &Silent) {
        self.taken = silent.taken();
        let (name, bundle) = &self.turns[self.turn];
        // What it did before shows nothing.
        for key in ["flushed", "rewritten", "refused-after", "rpc/ok", "gone"] {
            assert!(engine.try_ctl(&["state", "get", name, key]).is_err(), "{name} has {key} already");
        }
        engine.ctl(&["module", "load", bundle.to_str().unwrap()]);
    }

    /// Takes it out, with what it left.
    pub fn unload(&mut self, engine: &Engine) {
        let name = self.name();
        if self.is_compiler() {
            engine.module_until(name, "is given up", |node| node["state"] == "DEAD");
        }
        engine.ctl(&["module", "unload", name]);
        if !self.is_compiler() {
            engine.ctl(&["state", "purge", name, "--yes"]);
        }
        self.turn += 1;
    }

    /// Waits until it demonstrably is at it.
    pub fn is_at_it(&self, engine: &Engine, silent: &Silent) {
        eventually(&format!("{} is at it", self.mode), || self.bites(engine, silent));
    }

    /// Whether it still is, at the end of a measurement.
    pub fn went_on(&self, engine: &Engine) {
        match self.is_compiler() {
            true => assert!(compiles(engine).is_ok(), "{} was given up before the end", self.mode),
            false => assert_ne!(engine.module(self.name())["state"], "DEAD", "{} went on to the end", self.mode),
        }
    }

    /// What shows that it does what it is there for; else what is seen of it.
    fn bites(&self, engine: &Engine, silent: &Silent) -> Result<(), String> {
        let name = self.name();
        let metric = |metric: &str| engine.metric(metric, &[("module", name)]);
        let fails = |reasons: &[&str]| fails(engine, name, reasons);
        match self.mode {
            "fuel" => fails(&["out of fuel", LATE]),
            "memory" => {
                fails(&["trap"])?;
                // All that its manifest allows but for what is no whole step of its own.
                at_least(metric("nexum_memory_bytes_used"), 12.0 * f64::from(1 << 20), "bytes of memory")
            }
            // Its own stack, which is in its memory, ends first.
            "stack" => fails(&["stack exhausted", "out of bounds memory access"]),
            "sleep" => fails(&[LATE]),
            "log-bomb" | "print-bomb" | "line-ends" => {
                at_least(metric("nexum_log_lines_dropped_total"), 1_000.0, "lines dropped")
            }
            "huge-log" | "key-bomb" => fails(&["bytes of arguments", "out of fuel", LATE]),
            // So many values of 64 KiB before its quota of 1 MiB.
            "state-bomb" => counts(engine, name, "refused-after", 10).or_else(|_| fails(&[LATE])),
            "flush-bomb" => keeps(engine, name, "flushed"),
            "rewrite-bomb" => keeps(engine, name, "rewritten"),
            "error-bomb" => fails(&["bytes cut]"]),
            "timer-bomb" => handles(engine, name).or_else(|_| fails(&[LATE, "out of fuel"])),
            "rpc-bomb" => counts(engine, name, "rpc/ok", 1).or_else(|_| fails(&[LATE])),
            "http-bomb" => at_least((silent.taken() - self.taken) as f64, 2.0, "connections"),
            "dns-bomb" => {
                // Under a top-level name that does not exist there is nothing but lookups.
                let asked =
                    |result| engine.metric("nexum_egress_requests_total", &[("module", name), ("result", result)]);
                let lookups = engine.metric("nexum_egress_dns_lookups", &[]);
                at_least(asked("unavailable") + asked("timeout") + lookups, 4.0, "lookups")
            }
            LISTER => {
                // All that it lists by default is gone.
                counts(engine, name, "gone", 20_000)?;
                // Whichever ends it first: a quick machine comes to the bound within its deadline.
                fails(&[LATE, "bytes read and copied"])
            }
            COMPILER => compiles(engine),
            other => panic!("nothing shows what {other} does"),
        }
    }
}

fn config(mode: &str, silent: &Silent) -> String {
    let (mode, url) = match mode {
        "dns-bomb" => ("http-bomb", "http://name-{n}.invalid/"),
        _ => (mode, silent.url.as_str()),
    };
    format!("mode = \"{mode}\"\nurl = \"{url}\"")
}

fn at_least(found: f64, wanted: f64, what: &str) -> Result<(), String> {
    if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted} {what}")) }
}

/// An event of it failed since it was loaded, for one of these reasons.
fn fails(engine: &Engine, name: &str, reasons: &[&str]) -> Result<(), String> {
    let node = engine.module(name);
    let error = node["last_error"].as_str().unwrap_or_default();
    let failed = node["events_failed"].as_u64() > Some(0) && reasons.iter().any(|reason| error.contains(reason));
    if failed { Ok(()) } else { Err(seen(&node)) }
}

/// It came to the end of an event.
fn handles(engine: &Engine, name: &str) -> Result<(), String> {
    let node = engine.module(name);
    if node["events_processed"].as_u64() > Some(0) { Ok(()) } else { Err(seen(&node)) }
}

/// It has this count, or a larger one, in its state.
fn counts(engine: &Engine, name: &str, key: &str, wanted: u64) -> Result<(), String> {
    let found = engine.state_value(name, key).ok_or_else(|| seen(&engine.module(name)))?;
    if found.as_u64() >= Some(wanted) { Ok(()) } else { Err(format!("{key} is {found}")) }
}

/// What it writes when it got that far is durable.
fn keeps(engine: &Engine, name: &str, key: &str) -> Result<(), String> {
    // The value is no text.
    let found = engine.raw_ctl(&["state", "get", name, key]);
    if found.status.success() { Ok(()) } else { Err(format!("no {key}: {}", seen(&engine.module(name)))) }
}

/// A compiler works for the engine.
fn compiles(engine: &Engine) -> Result<(), String> {
    let is_compiler = |pid: &u32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains("compile-component") && has_ended(*pid).is_err()
    };
    let children = engine.children();
    if children.iter().any(is_compiler) { Ok(()) } else { Err(format!("children: {children:?}")) }
}

fn seen(node: &Value) -> String {
    format!("{} {node:#}", node["state"])
}
