//! After a reorg a module's state equals that of a module that only ever saw the chain that stands.

use serde_json::json;

use super::{
    anvil::Anvil,
    engine::{Engine, eventually},
    prove_exactly_once::{Moments, check, kills, mine_some, recording, recording_over},
    proxy::{Proxy, SUBSCRIPTION},
};

/// Blocks below every reorg, so that none reaches the contract's deployment.
const BELOW: u64 = 5;
/// Deep enough for any chain that is not attacked.
const DEPTH_MAX: u64 = 20;

/// The depths to try: a few in CI, every one with `make prove-reorg`.
fn depths() -> Vec<u64> {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    match std::env::var("NEXUM_REORGS").as_deref() {
        Ok("all") => (1..=DEPTH_MAX).collect(),
        _ => vec![1, 2, 3, 5, 8, 13, DEPTH_MAX],
    }
}

fn grow(anvil: &Anvil, emitter: &str, moments: &mut Moments, depth: u64) {
    let wanted = anvil.head() + depth + BELOW;
    while anvil.head() < wanted {
        mine_some(anvil, emitter, moments);
    }
}

/// Replaces the newest blocks by a branch with transactions of its own, in some of its blocks.
fn reorganize(anvil: &Anvil, emitter: &str, moments: &mut Moments, depth: u64) {
    let calls = (0..moments.below(2 * depth + 1)).map(|_| (moments.below(1_000), moments.below(depth)));
    let mut calls: Vec<_> = calls.collect();
    // Nonces are given in this order.
    calls.sort_by_key(|(_, nth)| *nth);
    anvil.reorg_with(depth, emitter, &calls);
}

/// Compares a module that saw every reorg with one that reads the chain for the first time.
fn compare_with_a_fresh_replay(anvil: &Anvil, emitter: &str, engine: &Engine) {
    let fresh = recording(anvil, emitter);
    check(anvil, emitter, &fresh);
    for prefix in ["b/", "l/"] {
        let all = |engine: &Engine| {
            let entries = engine.state("recorder", prefix).into_iter();
            // The order differs by the reorg events; `check` looked at it.
            entries.map(|(key, v)| (key, json!([v["hash"], v["tx"], v["count"]]))).collect::<Vec<_>>()
        };
        assert_eq!(all(engine), all(&fresh));
    }
}

#[test]
fn prove_reorg_while_running() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x1234_5678_9abc_def1);
    for depth in depths() {
        grow(&anvil, &emitter, &mut moments, depth);
        check(&anvil, &emitter, &engine);
        reorganize(&anvil, &emitter, &mut moments, depth);
        mine_some(&anvil, &emitter, &mut moments);
        check(&anvil, &emitter, &engine);
    }
    let told = engine.state("recorder", "r/").len();
    assert_eq!(told, depths().len(), "reorg events");
    assert_eq!(engine.metric("nexum_reorgs_total", &[("chain_id", "31337")]) as usize, told);
    compare_with_a_fresh_replay(&anvil, &emitter, &engine);
    println!("{told} reorgs of depth 1 to {DEPTH_MAX} while running: the record equals the chain each time");
}

#[test]
fn prove_reorg_while_stopped() {
    prove_while_down(|engine| assert!(engine.terminate().success(), "{}", engine.log_text()), 0x0fed_cba9_8765_4321);
}

#[test]
fn prove_reorg_while_killed() {
    prove_while_down(Engine::kill9, 0x6a09_e667_f3bc_c908);
}

#[allow(clippy::print_stdout, reason = "for whoever runs the proof by hand")]
fn prove_while_down(end: impl Fn(&mut Engine), seed: u64) {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = recording(&anvil, &emitter);
    let mut moments = Moments(seed);
    for depth in depths() {
        grow(&anvil, &emitter, &mut moments, depth);
        check(&anvil, &emitter, &engine);
        end(&mut engine);
        reorganize(&anvil, &emitter, &mut moments, depth);
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
        check(&anvil, &emitter, &engine);
    }
    compare_with_a_fresh_replay(&anvil, &emitter, &engine);
    println!("{} reorgs of depth 1 to {DEPTH_MAX} while down: the record equals the chain each time", depths().len());
}

#[test]
fn prove_reorg_after_a_kill_at_an_orphaned_head() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x5851_f42d_4c95_7f2d);
    grow(&anvil, &emitter, &mut moments, DEPTH_MAX);
    for _ in 0..kills() {
        let depth = 1 + moments.below(4);
        mine_some(&anvil, &emitter, &mut moments);
        // As soon as the module has the head: whatever is not durable with the cursor is lost.
        let head = anvil.head().to_string();
        engine.module_until("recorder", "has the head", |node| node["cursors"]["chain:31337"] == head.as_str());
        engine.kill9();
        reorganize(&anvil, &emitter, &mut moments, depth);
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
        check(&anvil, &emitter, &engine);
    }
    assert!(!engine.log_text().contains("dead branch"), "{}", engine.log_text());
    println!("killed {} times at a head that was then orphaned: the record equals the chain each time", kills());
}

#[test]
fn prove_reorg_ignores_removed_logs_that_nobody_asked_for() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let proxy = Proxy::before(anvil.port());
    let engine = recording_over(&[proxy.ws()], "", Some(&emitter));
    let mut moments = Moments(0x3c6e_f372_fe94_f82b);
    grow(&anvil, &emitter, &mut moments, 10);
    check(&anvil, &emitter, &engine);
    let filter = json!([{"fromBlock": "0x1", "toBlock": "latest", "address": emitter}]);
    let mut removed = anvil.rpc("eth_getLogs", filter).as_array().and_then(|logs| logs.last().cloned()).unwrap();
    removed["removed"] = json!(true);
    for subscription in [SUBSCRIPTION, "0xdead"] {
        let params = json!({"subscription": subscription, "result": removed});
        let frame = json!({"jsonrpc": "2.0", "method": "eth_subscription", "params": params});
        // A connection on which such things come may be given up and made anew.
        eventually("somebody listens", || match proxy.inject(&frame) {
            0 => Err("nobody is connected".to_owned()),
            _ => Ok(()),
        });
        mine_some(&anvil, &emitter, &mut moments);
        check(&anvil, &emitter, &engine);
    }
    assert_eq!(engine.metric("nexum_reorgs_total", &[]), 0.0);
    assert_eq!(engine.module("recorder")["restarts"], 0);
    println!("removed logs injected into the subscription and beside it: the record equals the chain");
}
