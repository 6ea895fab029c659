//! A real node behind one to three endpoints, of which one misbehaves, and an engine whose record is compared with the chain.

use serde_json::{Value, json};

use crate::{
    anvil::Anvil,
    engine::{Engine, Setup, eventually},
    prove_exactly_once::{self, Moments, mine_some},
    proxy::{Fault, Proxy},
};

/// Times short enough that a fault is noticed while a test waits.
const QUICK: [&str; 3] = ["timeout = \"500ms\"", "poll_interval = \"50ms\"", "stall_after = \"1s\""];
/// How long something may be waited for before the engine calls itself unhealthy.
const THRESHOLD: &str = "event_age_threshold = \"2s\"";
const BLOCKS: &str = "[[subscription]]\nkind = \"block\"\nchain_id = 31337\n\n";
const LOGS: &str = "[[subscription]]\nkind = \"log\"\nchain_id = 31337";

/// Which of how many endpoints misbehaves, and how they are reached.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub bad: usize,
    pub of: usize,
    pub ws: bool,
}

pub const fn http(bad: usize, of: usize) -> Place {
    Place { bad, of, ws: false }
}

pub const fn ws(bad: usize, of: usize) -> Place {
    Place { bad, of, ws: true }
}

/// Whether every fault is tried at every place: `make prove-outage` does, CI tries each at a few.
pub fn is_long() -> bool {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    let endpoints = std::env::var("NEXUM_ENDPOINTS");
    endpoints.as_deref() == Ok("all")
}

/// These places, or all with as many endpoints as these numbers say.
pub fn places(short: &[Place], of: &[usize]) -> Vec<Place> {
    if !is_long() {
        return short.to_vec();
    }
    let ranks = of.iter().flat_map(|of| (0..*of).map(move |bad| (bad, *of)));
    ranks.flat_map(|(bad, of)| [http(bad, of), ws(bad, of)]).collect()
}

/// What the recorder wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Everything,
    /// Logs of one contract, and no blocks.
    Logs,
}

/// What is tried where.
pub struct Plan {
    place: Place,
    wanted: Wanted,
    /// Lines of `[chains.rpc]`.
    rpc: Vec<&'static str>,
    /// Added to the URLs.
    path: &'static str,
    /// More contracts whose logs are wanted.
    addresses: Vec<String>,
    /// How many modules want the same.
    recorders: usize,
    /// A recorder with so many confirmations besides.
    held: Option<u64>,
    /// Other bundles: the name, and what is changed in the manifest.
    neighbours: Vec<(&'static str, Vec<(&'static str, &'static str)>)>,
    debug: bool,
    fault: Fault,
}

impl Plan {
    pub fn at(place: Place) -> Self {
        Self {
            place,
            wanted: Wanted::Everything,
            rpc: QUICK.to_vec(),
            path: "",
            addresses: Vec::new(),
            recorders: 1,
            held: None,
            neighbours: Vec::new(),
            debug: false,
            fault: Fault::None,
        }
    }

    pub fn wanting(mut self, wanted: Wanted) -> Self {
        self.wanted = wanted;
        self
    }

    /// Instead of what is there of the same name.
    pub fn rpc(mut self, line: &'static str) -> Self {
        let name = |line: &'static str| line.split(' ').next();
        self.rpc.retain(|other| name(other) != name(line));
        self.rpc.push(line);
        self
    }

    pub fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    pub fn addresses(mut self, addresses: Vec<String>) -> Self {
        self.addresses = addresses;
        self
    }

    pub fn recorders(mut self, recorders: usize) -> Self {
        self.recorders = recorders;
        self
    }

    pub fn held(mut self, confirmations: u64) -> Self {
        self.held = Some(confirmations);
        self
    }

    pub fn neighbour(mut self, mode: &'static str, changes: &[(&'static str, &'static str)]) -> Self {
        self.neighbours.push((mode, changes.to_vec()));
        self
    }

    pub fn debug(mut self) -> Self {
        self.debug = true;
        self
    }

    /// The endpoint misbehaves from the start.
    pub fn starting_with(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// A started engine over a new node.
    pub fn start(self) -> Bed {
        self.over(Anvil::start())
    }

    pub fn over(self, anvil: Anvil) -> Bed {
        let mut bed = self.prepared(anvil);
        bed.engine.launch();
        bed
    }

    /// The same with an engine that has not been started yet.
    pub fn prepared(self, anvil: Anvil) -> Bed {
        let Place { bad, of, ws } = self.place;
        let emitter = anvil.deploy_emitter();
        let proxies: Vec<Proxy> = (0..of).map(|_| Proxy::before(anvil.port())).collect();
        proxies[bad].set(self.fault);
        let names: Vec<String> = proxies.iter().map(|proxy| if ws { proxy.ws() } else { proxy.http() }).collect();
        let urls: Vec<String> = names.iter().map(|name| format!("{name}{}", self.path)).collect();
        let rpc = format!("[chains.rpc]\n{}", self.rpc.join("\n"));
        let mut setup = Setup::new().with(THRESHOLD).chain(31337, &urls).with(&rpc);
        for nth in 0..self.recorders {
            let name = if nth == 0 { "recorder".to_owned() } else { format!("recorder-{nth}") };
            setup = recorder(setup, &name, &emitter, &self.addresses, self.wanted, None);
        }
        if self.held.is_some() {
            setup = recorder(setup, "held", &emitter, &self.addresses, self.wanted, self.held);
        }
        for (mode, changes) in &self.neighbours {
            let wanted = format!("mode = \"{mode}\"");
            let mut all = vec![
                ("mode = \"good\"", wanted.as_str()),
                ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"50ms\"]"),
            ];
            all.extend_from_slice(changes);
            setup = setup.module("hostile", mode, &all);
        }
        let engine = setup.prepare();
        if self.debug {
            let text = std::fs::read_to_string(&engine.config).unwrap();
            let text = text.replacen("[engine]\n", "[engine]\nlog_level = \"debug\"\n", 1);
            std::fs::write(&engine.config, text).unwrap();
        }
        Bed { anvil, emitter, proxies, names, engine, place: self.place, moments: Moments(0x6a09_e667_f3bc_c908) }
    }
}

fn recorder(
    setup: Setup,
    name: &str,
    emitter: &str,
    addresses: &[String],
    wanted: Wanted,
    confirmations: Option<u64>,
) -> Setup {
    let held = confirmations.map_or_else(String::new, |blocks| format!("\nconfirmations = {blocks}"));
    let blocks = match wanted {
        Wanted::Everything => format!("{}\nstart_block = 1{held}\n\n", BLOCKS.trim_end()),
        Wanted::Logs => String::new(),
    };
    let of = |address: &str| format!("{LOGS}\naddress = \"{address}\"\nstart_block = 1{held}\n");
    let logs = std::iter::once(emitter).chain(addresses.iter().map(String::as_str)).map(of);
    let logs = logs.collect::<Vec<_>>().join("\n");
    let quick = ("backoff = [\"1s\", \"5m\"]", "backoff = [\"100ms\", \"1s\"]");
    setup.module("recorder", name, &[(BLOCKS, blocks.as_str()), (LOGS, logs.as_str()), quick])
}

pub struct Bed {
    pub anvil: Anvil,
    pub emitter: String,
    pub proxies: Vec<Proxy>,
    /// What the engine calls the endpoints.
    pub names: Vec<String>,
    pub engine: Engine,
    pub place: Place,
    pub moments: Moments,
}

impl Bed {
    /// The endpoint that misbehaves.
    pub fn bad(&self) -> &Proxy {
        &self.proxies[self.place.bad]
    }

    pub fn bad_name(&self) -> &str {
        &self.names[self.place.bad]
    }

    pub fn mine(&mut self) {
        mine_some(&self.anvil, &self.emitter, &mut self.moments);
    }

    /// Blocks with a log in every `every`th.
    pub fn mine_history(&self, blocks: u64, every: u64) {
        for nth in 0..blocks {
            if nth.is_multiple_of(every) {
                self.anvil.emit(&self.emitter, nth);
            }
            self.anvil.mine();
        }
    }

    /// The record equals the chain.
    pub fn check(&self) {
        prove_exactly_once::check(&self.anvil, &self.emitter, &self.engine);
    }

    /// Blocks and logs, and the record equals the chain.
    pub fn grow(&mut self) {
        for _ in 0..2 {
            self.mine();
        }
        self.check();
    }

    /// Waits until the recorded logs are these: keys of the record, with the hash of the transaction.
    pub fn has_logs(&self, expected: &[(String, String)]) {
        eventually("the record has the logs", || {
            let found = self.logs_of("recorder");
            if found == expected { Ok(()) } else { Err(differ(&found, expected)) }
        });
        let counts = self.engine.state("recorder", "l/");
        assert!(counts.iter().all(|(_, value)| value["count"] == 1), "a log was applied twice");
        assert_eq!(self.engine.module("recorder")["dead_letters"], 0);
    }

    /// State entries of a module, none before it has stored anything.
    pub fn state(&self, module: &str, prefix: &str) -> Vec<(String, Value)> {
        match self.engine.try_ctl(&["state", "list", module, "--json"]) {
            Ok(_) => self.engine.state(module, prefix),
            Err(_) => Vec::new(),
        }
    }

    pub fn logs_of(&self, module: &str) -> Vec<(String, String)> {
        let logs = self.state(module, "l/").into_iter();
        logs.map(|(key, value)| (key, value["tx"].as_str().unwrap_or_default().to_owned())).collect()
    }

    /// The logs that the chain has, of all contracts or those of one, as the record has them.
    pub fn logs_on_chain(&self) -> Vec<(String, String)> {
        as_recorded(&self.anvil.rpc("eth_getLogs", json!([{"fromBlock": "0x1", "toBlock": "latest"}])))
    }

    /// Nothing that is not on the chain was recorded, and what is recorded is without a gap.
    pub fn has_nothing_false(&self, module: &str) {
        let blocks = self.state(module, "b/");
        let truth = self.anvil.blocks(1);
        for ((key, value), (number, hash)) in blocks.iter().zip(&truth) {
            assert_eq!((key, &value["hash"]), (&format!("b/{number:020}"), &json!(hash)), "{module}");
        }
        assert!(blocks.len() <= truth.len(), "{module}: {:?}", blocks.last());
        let last = truth.get(blocks.len().wrapping_sub(1)).map_or(0, |(number, _)| *number);
        // It may have gone on meanwhile.
        let (found, truth) = (self.logs_of(module), self.logs_on_chain());
        let least = truth.iter().filter(|(key, _)| key[2..22].parse::<u64>().unwrap() <= last).count();
        let fits = found.len() >= least && truth.starts_with(&found);
        assert!(fits, "{module}, at least {least}: {}", differ(&found, &truth));
    }

    pub fn health(&self) -> Value {
        serde_json::from_slice(&self.engine.raw_ctl(&["health", "--json"]).stdout).unwrap_or_default()
    }

    /// Waits until the engine calls itself unhealthy for a reason with all of these words; the reason.
    pub fn is_unhealthy(&self, words: &[&str]) -> String {
        eventually(&format!("unhealthy because of {words:?}"), || {
            let health = self.health();
            let reasons = health["reasons"].as_array().cloned().unwrap_or_default().into_iter();
            let mut reasons = reasons.filter_map(|reason| reason.as_str().map(str::to_owned));
            let found = reasons.find(|reason| words.iter().all(|word| reason.contains(word)));
            found.filter(|_| health["status"] == "unhealthy").ok_or_else(|| format!("{health:#}"))
        })
    }

    pub fn is_healthy(&self) {
        eventually("healthy", || {
            let health = self.health();
            if health["status"] == "healthy" { Ok(()) } else { Err(format!("{health:#}")) }
        });
    }

    pub fn of_endpoint(&self, name: &str, at: usize) -> f64 {
        self.engine.metric(name, &[("endpoint", &self.names[at])])
    }

    /// The endpoint that misbehaves is shown as one that others are preferred to, for this reason.
    pub fn is_demoted(&self, reason: &str) {
        let labels = [("endpoint", self.bad_name()), ("reason", reason)];
        eventually(&format!("demoted as {reason}"), || {
            match self.engine.metric("nexum_endpoint_demotions_total", &labels) > 0.0 {
                true => Ok(()),
                false => Err(self.engine.endpoint(self.bad_name()).to_string()),
            }
        });
    }

    pub fn reorgs(&self) -> f64 {
        self.engine.metric("nexum_reorgs_total", &[])
    }

    /// The endpoint is well again: all is delivered, nothing twice, and nothing is waited for.
    pub fn recovers(&mut self) {
        self.bad().set(Fault::None);
        self.grow();
        self.is_healthy();
    }
}

/// Logs of a node's answer as the recorder has them: the key, and the hash of the transaction.
pub fn as_recorded(logs: &Value) -> Vec<(String, String)> {
    let number = |value: &Value| u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let logs = logs.as_array().unwrap().iter().map(|log| {
        let key = format!("l/{:020}/{:06}", number(&log["blockNumber"]), number(&log["logIndex"]));
        (key, log["transactionHash"].as_str().unwrap().to_owned())
    });
    logs.collect()
}

fn differ(found: &[(String, String)], expected: &[(String, String)]) -> String {
    let first = found.iter().zip(expected).find(|(found, expected)| found != expected);
    format!("{} recorded, {} expected; the first that differ: {first:?}", found.len(), expected.len())
}
