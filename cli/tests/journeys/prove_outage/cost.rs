//! What it costs to read a chain at an endpoint that behaves well.

use serde_json::json;

use super::bed::{Bed, Plan, Wanted, http, ws};
use crate::{anvil::Anvil, engine::eventually};

/// Headers below the head that are read before anything is delivered, and what is asked when an endpoint is connected.
const FIXED: f64 = 64.0 + 16.0;
const LIVE_BLOCKS: u64 = 40;

fn requests(bed: &Bed) -> f64 {
    bed.engine.metric("nexum_endpoint_requests_total", &[])
}

#[test]
fn prove_outage_of_nothing_costs_a_request_for_a_block() {
    let mut bed = Plan::at(http(0, 1)).rpc("poll_interval = \"5s\"").prepared(Anvil::start());
    bed.mine_history(900, 5);
    bed.engine.launch();
    bed.check();
    let blocks = bed.anvil.head() as f64;
    let (each, asked) = (requests(&bed) / blocks, bed.bad().asked());
    println!("blocks and logs: {each:.3} requests per block over {blocks} blocks: {asked:?}");
    assert_eq!(bed.bad().requests() as f64, requests(&bed), "the figures are those of the endpoint");
    assert!(each <= 1.05, "{each:.3} requests per block: {asked:?}\n{}", figures(&bed));
}

#[test]
fn prove_outage_of_nothing_costs_hardly_a_request_for_logs_alone() {
    let bed = Plan::at(http(0, 1)).wanting(Wanted::Logs).rpc("poll_interval = \"5s\"").prepared(Anvil::start());
    for word in 0..5 {
        bed.anvil.emit(&bed.emitter, word);
        bed.anvil.rpc("anvil_mine", json!(["0x1b8"]));
    }
    let mut bed = bed;
    bed.engine.launch();
    bed.has_logs(&bed.logs_on_chain());
    let blocks = bed.anvil.head() as f64;
    let (all, asked) = (requests(&bed), bed.bad().asked());
    let each = (all - FIXED).max(0.0) / blocks;
    println!(
        "logs alone: {all} requests over {blocks} blocks, {each:.4} per block besides the {FIXED} of every start: {asked:?}"
    );
    assert!(each <= 0.01, "{each:.4} requests per block: {asked:?}\n{}", figures(&bed));
}

#[test]
fn prove_outage_of_nothing_costs_the_same_for_many_modules() {
    let live = |modules: usize| {
        let bed = Plan::at(ws(0, 1)).recorders(modules).start();
        bed.check();
        let before = requests(&bed);
        for word in 0..LIVE_BLOCKS {
            bed.anvil.emit(&bed.emitter, word);
            bed.anvil.mine();
            let head = bed.anvil.head().to_string();
            eventually("the head is handled", || {
                let tree = bed.engine.json(&["tree"]).to_string();
                let there = tree.matches(&format!("\"chain:31337\":\"{head}\"")).count();
                if there == modules { Ok(()) } else { Err(format!("{there} of {modules}")) }
            });
        }
        let each = (requests(&bed) - before) / LIVE_BLOCKS as f64;
        println!("{modules} modules: {each:.2} requests per live block: {:?}", bed.bad().asked());
        bed.check();
        each
    };
    let (one, many) = (live(1), live(12));
    assert!((one - many).abs() <= 0.1, "{one:.2} requests per block for one module, {many:.2} for twelve");
}

/// A confirmation needs the word of another endpoint about each block, and no more than that.
#[test]
fn prove_outage_of_nothing_costs_a_request_at_a_standby_for_a_confirmation() {
    let mut bed = Plan::at(ws(0, 2)).held(3).rpc("stall_after = \"30s\"").start();
    bed.grow();
    let at_standby = |bed: &Bed| bed.of_endpoint("nexum_endpoint_requests_total", 1);
    let before = at_standby(&bed);
    for word in 0..LIVE_BLOCKS {
        bed.anvil.emit(&bed.emitter, word);
        bed.anvil.mine();
        let confirmed = bed.anvil.head() - 3;
        let cursor = format!("\"{confirmed}\"");
        eventually("the block is confirmed", || {
            let held = bed.engine.module("held").to_string();
            if held.contains(&cursor) { Ok(()) } else { Err(held) }
        });
    }
    let each = (at_standby(&bed) - before) / LIVE_BLOCKS as f64;
    println!("a standby: {each:.2} requests per block that is confirmed: {:?}", bed.proxies[1].asked());
    assert!(each <= 1.5, "{each:.2} requests per block\n{}", figures(&bed));
}

fn figures(bed: &Bed) -> String {
    let text = bed.engine.metrics_text();
    let lines =
        text.lines().filter(|line| line.starts_with("nexum_endpoint_requests_total") || line.starts_with("nexum_rpc_"));
    lines.collect::<Vec<_>>().join("\n")
}
