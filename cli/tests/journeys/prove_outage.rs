//! Whatever endpoints do, the record of a module equals the chain, and the figures say what happened.
//!
//! Each fault befalls the preferred endpoint while the chain grows; then the endpoint is well again and is preferred
//! again. The modules below do the same for endpoints that lie, refuse and write in odd ways, each at several ranks.

mod bed;
mod cost;
mod forms;
mod heads;
mod logs;
mod refusals;
mod reports;

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    anvil::Anvil,
    engine::{Engine, eventually},
    prove_exactly_once::{Moments, check, mine_some, recording_over},
    proxy::{
        Fault::{self, Behind, Cut, Garbage, Logs, OtherBranch, Stall, Status, Truncated},
        Lie, Proxy,
    },
};

/// Times short enough that a fault is noticed while a test waits. They are of the chain that was configured last.
const QUICK: &str = "[chains.rpc]\ntimeout = \"500ms\"\npoll_interval = \"50ms\"\nstall_after = \"1s\"";

/// How long everything is down: seconds in CI, minutes with `make prove-outage`.
fn outage_seconds() -> Duration {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    let seconds = std::env::var("NEXUM_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

struct Outage {
    anvil: Anvil,
    emitter: String,
    /// By priority: WebSocket, HTTP, WebSocket; or HTTP first.
    proxies: [Proxy; 3],
    urls: [String; 3],
    engine: Engine,
    http_first: bool,
    moments: Moments,
}

impl Outage {
    fn new(http_first: bool, all_logs: bool, seed: u64) -> Self {
        let anvil = Anvil::start();
        let emitter = anvil.deploy_emitter();
        let proxies = [(); 3].map(|()| Proxy::before(anvil.port()));
        let url = |at: usize, ws: bool| if ws { proxies[at].ws() } else { proxies[at].http() };
        let urls = [url(0, !http_first), url(1, http_first), url(2, true)];
        let contract = Some(emitter.as_str()).filter(|_| !all_logs);
        let engine = recording_over(&urls, QUICK, contract);
        let mut outage = Self { anvil, emitter, proxies, urls, engine, http_first, moments: Moments(seed) };
        outage.is_followed(0);
        outage.grow();
        outage
    }

    /// Blocks and logs, and the record equals the chain.
    fn grow(&mut self) {
        for _ in 0..2 {
            mine_some(&self.anvil, &self.emitter, &mut self.moments);
        }
        check(&self.anvil, &self.emitter, &self.engine);
    }

    fn is_followed(&self, at: usize) {
        eventually(&format!("endpoint {at} is followed"), || {
            let node = self.engine.endpoint(&self.urls[at]);
            let followed = node["summary"].as_str().is_some_and(|summary| summary.contains("followed"));
            if followed && node["state"] == "UP" { Ok(()) } else { Err(node.to_string()) }
        });
    }

    fn of_endpoint(&self, name: &str, at: usize) -> f64 {
        self.engine.metric(name, &[("endpoint", &self.urls[at])])
    }

    /// Waits until an endpoint is shown as demoted, in the tree and in the figures.
    fn is_demoted(&mut self, at: usize, reason: &str) {
        eventually(&format!("endpoint {at} is shown as demoted"), || {
            // Some are only seen when there is more to read.
            mine_some(&self.anvil, &self.emitter, &mut self.moments);
            let node = self.engine.endpoint(&self.urls[at]);
            let summary = node["summary"].as_str().unwrap();
            let shown = node["state"] == "DEMOTED" && summary.contains(" demotions, last error: ");
            if shown && !summary.contains("followed") { Ok(()) } else { Err(node.to_string()) }
        });
        let of_reason = [("endpoint", &*self.urls[at]), ("reason", reason)];
        let counted = self.engine.metric("nexum_endpoint_demotions_total", &of_reason);
        assert!(counted > 0.0, "{}", self.engine.metrics_text());
    }

    /// The preferred endpoint misbehaves; nothing is lost or doubled; it is well again, and preferred again.
    #[allow(clippy::print_stdout, reason = "for whoever runs the proof by hand")]
    fn endure(&mut self, fault: Fault) {
        let (errors, demotions) = ("nexum_endpoint_errors_total", "nexum_endpoint_demotions_total");
        let before = self.of_endpoint(errors, 0) + self.of_endpoint(demotions, 0);
        let fallbacks = self.engine.metric("nexum_rpc_fallbacks_total", &[]);
        self.proxies[0].set(fault);
        self.grow();
        // Some are only seen when there is more to read.
        eventually("the figures show it", || {
            mine_some(&self.anvil, &self.emitter, &mut self.moments);
            let after = self.of_endpoint(errors, 0) + self.of_endpoint(demotions, 0);
            let fell_back = self.engine.metric("nexum_rpc_fallbacks_total", &[]) > fallbacks;
            let node = self.engine.endpoint(&self.urls[0]);
            // It may have been left for a moment's silence just before the fault.
            let left = fell_back || !node["summary"].as_str().unwrap().contains("followed");
            if after > before && left { Ok(()) } else { Err(format!("{fault:?}: {after} after {before}; {node}")) }
        });
        self.grow();
        match fault {
            Logs(lie) => {
                // A log that is removed is no answer to what was asked, which the header need not contradict.
                self.is_demoted(0, if lie == Lie::Removed { "failing" } else { "wrong" });
                assert!(self.of_endpoint("nexum_endpoint_score", 0) < 100.0, "{}", self.engine.metrics_text());
            }
            Behind(_) => {
                self.is_demoted(0, "lagging");
                let lag = self.of_endpoint("nexum_endpoint_lag_blocks", 0);
                let node = self.engine.endpoint(&self.urls[0]);
                assert!(lag > 3.0 && !node["summary"].as_str().unwrap().contains("lag 0"), "{lag}: {node:#}");
            }
            // One that asks for a pause is still there.
            Status(429) if self.http_first => self.is_demoted(0, "rate-limited"),
            // One that cannot be followed any more is down, whatever it was before.
            _ => {}
        }
        self.proxies[0].set(Fault::None);
        self.is_followed(0);
        self.grow();
        let demotions = self.of_endpoint(demotions, 0);
        println!("{fault:?}: {} requests reached it, {demotions} demotions so far", self.proxies[0].requests());
    }
}

/// Two faults to an engine: an endpoint that is lost again and again has to hold longer each time.
fn endure_all(http_first: bool, faults: &[[Fault; 2]]) {
    for (seed, faults) in (0xbb67_ae85_84ca_a73b..).zip(faults) {
        let mut outage = Outage::new(http_first, false, seed);
        for fault in faults {
            outage.endure(*fault);
        }
        if !http_first {
            assert!(outage.engine.metric("nexum_subscription_reconnects_total", &[]) > 0.0);
        }
    }
}

#[test]
fn prove_outage_of_a_websocket_endpoint() {
    endure_all(false, &[[Cut, Stall], [Garbage, Truncated], [Status(429), Status(503)]]);
}

#[test]
fn prove_outage_of_an_http_endpoint() {
    endure_all(true, &[[Cut, Stall], [Garbage, Truncated], [Status(429), Status(500)]]);
}

#[test]
fn prove_outage_of_an_endpoint_that_is_behind() {
    for http_first in [false, true] {
        let mut outage = Outage::new(http_first, false, 0xa54f_f53a_5f1d_36f1);
        let behind = Behind(outage.anvil.head());
        outage.endure(behind);
    }
}

#[test]
fn prove_outage_of_the_truth_about_logs() {
    // Each lie meets an engine that has no reason yet to distrust the endpoint.
    for lie in [Lie::Empty, Lie::OtherBlock, Lie::Invented, Lie::Removed] {
        Outage::new(false, false, 0x510e_527f_ade6_82d1).endure(Logs(lie));
    }
    // Only whoever asks for everything can tell.
    Outage::new(false, true, 0x243f_6a88_85a3_08d3).endure(Logs(Lie::LeftOut));
}

#[test]
fn prove_outage_of_two_liars_and_of_history() {
    let mut outage = Outage::new(false, false, 0x9b05_688c_2b3e_6c1f);
    outage.proxies[0].set(Logs(Lie::OtherBlock));
    outage.proxies[1].set(Logs(Lie::Invented));
    outage.grow();
    assert!(outage.engine.terminate().success());
    // More than the recent blocks that are read one by one: history is read by ranges.
    for _ in 0..320 {
        outage.anvil.emit(&outage.emitter, 7);
        outage.anvil.mine();
    }
    outage.engine.launch();
    outage.grow();
    for at in 0..2 {
        let wrong =
            outage.engine.metric("nexum_endpoint_errors_total", &[("kind", "wrong"), ("endpoint", &outage.urls[at])]);
        assert!(wrong > 0.0, "{}", outage.engine.metrics_text());
    }
}

/// History is what a node may have pruned, and then says nothing about.
#[test]
fn prove_outage_of_logs_of_history() {
    let mut outage = Outage::new(false, false, 0x3c6e_f372_fe94_f82b);
    assert!(outage.engine.terminate().success());
    for _ in 0..320 {
        outage.anvil.emit(&outage.emitter, 7);
        outage.anvil.mine();
    }
    outage.proxies[0].set(Logs(Lie::Empty));
    outage.engine.launch();
    outage.grow();
    outage.is_demoted(0, "wrong");
}

/// A standby that has other blocks is no standby, and is shown as one that lies.
#[test]
fn prove_outage_of_a_standby_on_another_branch() {
    let mut outage = Outage::new(false, false, 0x1f2e_3d4c_5b6a_7988);
    outage.proxies[1].set(OtherBranch);
    outage.is_demoted(1, "wrong");
    outage.is_followed(0);
    outage.grow();
    assert_eq!(outage.of_endpoint("nexum_endpoint_demotions_total", 0), 0.0);
    outage.proxies[1].set(Fault::None);
    eventually("it is well again", || {
        let node = outage.engine.endpoint(&outage.urls[1]);
        if node["state"] == "UP" { Ok(()) } else { Err(node.to_string()) }
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it took is printed, not judged")]
fn prove_outage_of_everything_for_long() {
    let mut outage = Outage::new(false, false, 0x1f83_d9ab_fb41_bd6b);
    let long = outage_seconds();
    for fault in [Cut, Stall] {
        outage.proxies.iter().for_each(|proxy| proxy.set(fault));
        eventually("the chain is shown as lost", || {
            let tree = outage.engine.ctl(&["tree"]);
            if tree.contains("0/3 endpoints") { Ok(()) } else { Err(tree) }
        });
        mine_some(&outage.anvil, &outage.emitter, &mut outage.moments);
        thread::park_timeout(long);
        mine_some(&outage.anvil, &outage.emitter, &mut outage.moments);
        outage.proxies.iter().for_each(|proxy| proxy.set(Fault::None));
        let returned = Instant::now();
        check(&outage.anvil, &outage.emitter, &outage.engine);
        println!("{fault:?} for {long:?}: the record equals the chain {:?} after the return", returned.elapsed());
        outage.is_followed(0);
        outage.grow();
    }
    assert_eq!(outage.engine.module("recorder")["restarts"], 0, "the module is not to blame");
}
