//! After a reorg a module's state equals that of a module that only ever saw the chain that stands.

use super::{
    anvil::Anvil,
    prove_exactly_once::{Moments, check, kills, mine_some, recording},
};

/// Blocks below every reorg, so that none reaches the contract's deployment.
const BELOW: u64 = 5;

fn grow(anvil: &Anvil, emitter: &str, moments: &mut Moments, depth: u64) {
    let wanted = anvil.head() + depth + BELOW;
    while anvil.head() < wanted {
        mine_some(anvil, emitter, moments);
    }
}

#[test]
fn prove_reorg_while_running() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x1234_5678_9abc_def1);
    for depth in 1..=20 {
        grow(&anvil, &emitter, &mut moments, depth);
        check(&anvil, &emitter, &engine);
        anvil.reorg(depth);
        mine_some(&anvil, &emitter, &mut moments);
        check(&anvil, &emitter, &engine);
    }
    let told = engine.state("recorder", "r/").len();
    assert_eq!(told, 20, "reorg events");
    println!("20 reorgs of depth 1 to 20 while running: the record equals the chain each time");
}

#[test]
fn prove_reorg_after_a_kill_at_an_orphaned_head() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x5851_f42d_4c95_7f2d);
    grow(&anvil, &emitter, &mut moments, 20);
    for _ in 0..kills() {
        let depth = 1 + moments.below(4);
        mine_some(&anvil, &emitter, &mut moments);
        // As soon as the module has the head: whatever is not durable with the cursor is lost.
        let head = anvil.head().to_string();
        engine.module_until("recorder", "has the head", |node| node["cursors"]["chain:31337"] == head.as_str());
        engine.kill9();
        anvil.reorg(depth);
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
        check(&anvil, &emitter, &engine);
    }
    assert!(!engine.log_text().contains("dead branch"), "{}", engine.log_text());
    println!("killed {} times at a head that was then orphaned: the record equals the chain each time", kills());
}

#[test]
fn prove_reorg_while_stopped() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x0fed_cba9_8765_4321);
    for depth in [1, 2, 3, 5, 8, 13, 20] {
        grow(&anvil, &emitter, &mut moments, depth);
        check(&anvil, &emitter, &engine);
        assert!(engine.terminate().success(), "{}", engine.log_text());
        anvil.reorg(depth);
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
        check(&anvil, &emitter, &engine);
    }
    println!("7 reorgs of depth 1 to 20 while stopped: the record equals the chain each time");
}
