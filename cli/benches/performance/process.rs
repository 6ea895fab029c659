//! Figures of the real binary: its memory, its start, and how soon a head reaches the guests.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nexum_testkit::{anvil, bundle, copies, exchange, free_port, memory_bytes, within};
use nexum_testkit_engine::CHAIN;
use tempfile::TempDir;

use crate::{
    dispatch::now,
    figures::{Figures, Goal},
};

const MIB: f64 = 1024.0 * 1024.0;

/// One HTTP exchange on loopback; the body, when the status is 200.
fn http(port: u16, method: &str, path: &str, body: &str) -> Option<String> {
    let text = exchange(("127.0.0.1", port), method, path, body).ok()?;
    text.starts_with("HTTP/1.1 200").then(|| text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())).flatten()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    within(Duration::from_secs(120), Duration::from_millis(2), what, || done().then_some(()).ok_or_else(String::new));
}

/// The real program, with a configuration of its own.
pub struct Engine {
    child: Child,
    health: u16,
    metrics: u16,
    ready_after: Duration,
    dir: TempDir,
}

impl Engine {
    /// Ready with these modules; `chain` is what the configuration says of chains, and of whatever follows them.
    pub fn start(dir: TempDir, chain: &str, modules: &[(PathBuf, String)]) -> Self {
        let (health, metrics) = (free_port(), free_port());
        let mut config = format!(
            "[engine]\nstate_dir = \"{}\"\nlog_level = \"error\"\n[observability]\nhealth_listen = \"127.0.0.1:{health}\"\n\
             metrics_listen = \"127.0.0.1:{metrics}\"\n{chain}\n",
            dir.path().join("state").display()
        );
        for (source, extra) in modules {
            config.push_str(&format!("[[modules]]\nsource = \"{}\"\n{extra}\n", source.display()));
        }
        let file = dir.path().join("nexum-engine.toml");
        fs::write(&file, config).unwrap();
        let start = now();
        let child = Command::new(env!("CARGO_BIN_EXE_nexum"))
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait("the engine is ready", || http(health, "GET", "/ready", "").is_some());
        Self { child, health, metrics, ready_after: start.elapsed(), dir }
    }

    fn scrape(&self) -> String {
        http(self.metrics, "GET", "/metrics", "").unwrap()
    }

    /// Kills it and gives its directory back, with its cache.
    pub fn end(mut self) -> TempDir {
        assert!(http(self.health, "GET", "/live", "").is_some());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.dir
    }
}

fn resident_mib(engine: &Engine) -> f64 {
    memory_bytes(engine.child.id(), "VmRSS:") as f64 / MIB
}

fn mock(interval: u64, dir: &TempDir) -> String {
    let fixture = dir.path().join("chain.toml");
    fs::write(
        &fixture,
        format!("chain_id = {CHAIN}\nname = \"mock\"\nblock_interval_ms = {interval}\nendless = true\n"),
    )
    .unwrap();
    format!("[[chains]]\nchain_id = {CHAIN}\nmock = \"{}\"\n", fixture.display())
}

fn plain(sources: Vec<PathBuf>) -> Vec<(PathBuf, String)> {
    sources.into_iter().map(|source| (source, String::new())).collect()
}

pub fn idle_engine(figures: &mut Figures) {
    let dir = TempDir::with_prefix("nexum-bench.").unwrap();
    let chain = mock(1_000, &dir);
    let engine = Engine::start(dir, &chain, &plain(vec![bundle("bench")]));
    let resident = resident_mib(&engine);
    figures.add("idle engine with one module, resident", resident, "MiB", None, Goal::Most(40.0));
    engine.end();
}

/// As many modules as asked for, or as the machine has memory maps for: then the rest is refused, and said so.
pub fn many_modules(figures: &mut Figures, count: usize) {
    let dir = TempDir::with_prefix("nexum-bench.").unwrap();
    let chain = mock(1_000, &dir);
    let sources = copies(dir.path(), "bench", "m", count);
    // The first start compiles; the second finds the cache, but no state.
    let engine = Engine::start(dir, &chain, &plain(vec![bundle("bench")]));
    let one = resident_mib(&engine);
    let dir = engine.end();
    let engine = Engine::start(dir, &chain, &plain(sources));
    let ready = engine.ready_after.as_secs_f64();
    let ready_goal = if count > 1_000 { 20.0 } else { 2.0 };
    figures.add(format!("ready with {count} modules of one component"), ready, "s", None, Goal::Most(ready_goal));
    // Memory after each has handled some blocks, as it stays. A scrape of many modules is work, so look seldom.
    wait("three blocks each", || {
        std::thread::park_timeout(Duration::from_millis(count as u64));
        processed(&engine.scrape()) >= 3.0 * count as f64
    });
    let resident = resident_mib(&engine);
    let goal = if count > 1_000 { 1024.0 } else { 110.0 };
    figures.add(format!("{count} modules, resident"), resident, "MiB", None, Goal::Most(goal));
    let each = (resident - one) * 1024.0 / (count - 1) as f64;
    figures.add(format!("resident memory per idle module, of {count}"), each, "KiB", None, Goal::Most(64.0));
    let maps = fs::read_to_string(format!("/proc/{}/maps", engine.child.id())).unwrap().lines().count();
    println!("{maps} memory maps with {count} modules");
    engine.end();
}

/// An upper bound of a quantile over the latency histograms of the modules with this prefix, or of all where they have none
/// of their own, milliseconds.
fn latency_ms(before: &str, after: &str, prefix: &str, quantile: f64) -> f64 {
    let buckets = |text: &str| {
        let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("nexum_dispatch_latency_seconds_bucket")) {
            let label = |name: &str| {
                // With what stands before a label, because `le` is the end of `module` too.
                let start =
                    [',', '{'].iter().find_map(|before| line.find(&format!("{before}{name}=\"")))? + name.len() + 3;
                Some(line[start..].split('"').next()?.to_owned())
            };
            if label("module").is_some_and(|module| !module.starts_with(prefix)) {
                continue;
            }
            let bound: f64 = label("le").and_then(|le| le.parse().ok()).unwrap_or(f64::INFINITY);
            let count: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *sums.entry(bound.to_bits()).or_default() += count;
        }
        sums
    };
    let (before, after) = (buckets(before), buckets(after));
    let counts: Vec<_> = after
        .iter()
        .map(|(bound, count)| (f64::from_bits(*bound), count - before.get(bound).unwrap_or(&0.0)))
        .collect();
    let total = counts.last().map_or(0.0, |(_, count)| *count);
    assert!(total > 0.0, "no event was dispatched");
    // Between two bounds the events are taken as evenly spread, as Prometheus does.
    let wanted = total * quantile;
    let at = counts.iter().position(|(_, count)| *count >= wanted).unwrap();
    let (upper, count) = counts[at];
    let (lower, below) = if at == 0 { (0.0, 0.0) } else { counts[at - 1] };
    if upper.is_infinite() {
        return lower * 1e3;
    }
    (lower + (upper - lower) * (wanted - below) / (count - below)) * 1e3
}

/// A node that mines when it is told to.
pub struct Anvil {
    child: Child,
    port: u16,
}

impl Anvil {
    pub fn start() -> Self {
        let port = free_port();
        let child = anvil(port).arg("--silent").stdout(Stdio::null()).spawn().unwrap();
        let anvil = Self { child, port };
        wait("anvil answers", || anvil.call("eth_chainId").is_some());
        anvil
    }

    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    fn call(&self, method: &str) -> Option<String> {
        http(self.port, "POST", "/", &format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":[]}}"))
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn processed(scrape: &str) -> f64 {
    let lines =
        scrape.lines().filter(|line| line.starts_with("nexum_events_processed_total") && line.contains("\"block\""));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

pub fn head_to_guest(figures: &mut Figures, modules: usize, blocks: usize) {
    let anvil = Anvil::start();
    let dir = TempDir::with_prefix("nexum-bench.").unwrap();
    let chain =
        format!("[[chains]]\nchain_id = {CHAIN}\nname = \"anvil\"\n[[chains.endpoints]]\nurl = \"{}\"\n", anvil.ws());
    let sources = copies(dir.path(), "bench", "m", modules);
    let engine = Engine::start(dir, &chain, &plain(sources));
    let mine = || {
        let before = processed(&engine.scrape());
        anvil.call("evm_mine").unwrap();
        // Scraping costs the engine time, so look seldom.
        wait("every module handled the block", || {
            std::thread::park_timeout(Duration::from_millis(50));
            processed(&engine.scrape()) >= before + modules as f64
        });
    };
    mine();
    let before = engine.scrape();
    (0..blocks).for_each(|_| mine());
    let after = engine.scrape();
    let p50 = latency_ms(&before, &after, "m", 0.5);
    figures.add(format!("head seen to guest called, {modules} modules, p50"), p50, "ms", None, Goal::Most(5.0));
    let p99 = latency_ms(&before, &after, "m", 0.99);
    figures.add(format!("head seen to guest called, {modules} modules, p99"), p99, "ms", None, Goal::Most(5.0));
    engine.end();
}

/// Fifty ordinary modules, alone and then beside the hostile ones.
pub fn noisy_neighbour(figures: &mut Figures, blocks: u64) {
    let run = |hostile: &[&str]| {
        let dir = TempDir::with_prefix("nexum-bench.").unwrap();
        let chain = format!("module_histograms = true\n{}", mock(50, &dir));
        let mut modules = plain(copies(dir.path(), "bench", "m", 50));
        for mode in hostile {
            let source = copies(dir.path(), "hostile", &format!("h-{mode}-"), 1).remove(0);
            let file = source.join("nexum.toml");
            let manifest = fs::read_to_string(&file).unwrap();
            let quick = manifest
                .replace("[\"1s\", \"5m\"]", "[\"10ms\", \"50ms\"]")
                .replace("failures = 10", "failures = 100000");
            fs::write(&file, quick).unwrap();
            modules.push((source, format!("[modules.config]\nmode = \"{mode}\"")));
        }
        let engine = Engine::start(dir, &chain, &modules);
        let good = |scrape: &str| {
            let lines = scrape
                .lines()
                .filter(|l| l.starts_with("nexum_events_processed_total{event_type=\"block\",module=\"m"));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        let before = engine.scrape();
        let wanted = good(&before) + (blocks * 50) as f64;
        wait("the ordinary modules handled their blocks", || {
            std::thread::park_timeout(Duration::from_millis(50));
            good(&engine.scrape()) >= wanted
        });
        let p99 = latency_ms(&before, &engine.scrape(), "m", 0.99);
        engine.end();
        p99
    };
    let alone = run(&[]);
    let beside = run(&["fuel", "memory", "sleep", "log-bomb", "state-bomb", "rpc-bomb"]);
    figures.add("p99 of 50 modules beside six hostile ones", beside, "ms", Some(alone), Goal::TimesFloor(1.1));
}
