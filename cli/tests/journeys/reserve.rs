//! A marker that was flushed before an effect survives whatever ends the attempt: `pay-once` against a real node.

use std::time::Duration;

use super::{
    anvil::Anvil,
    engine::{Engine, Setup},
    prove_exactly_once::Moments,
};

const AMOUNT: u128 = 0x3b9a_ca00;
/// Addresses that nobody has used.
const FIRST: u64 = 0x00de_adbe_ef00_0000;

fn paying(anvil: &Anvil, emitter: &str) -> Engine {
    let changes = [
        ("0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512", emitter),
        ("kind = \"log\"", "kind = \"log\"\nstart_block = 1"),
        // Not the account that deploys and emits.
        ("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266", "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"),
        ("[config]", "[module.restart]\nbackoff = [\"50ms\", \"200ms\"]\n\n[config]"),
    ];
    let setup = Setup::new().chain(31337, &[anvil.ws()]).module("pay-once", "pay-once", &changes);
    setup.with("extra_methods = [\"eth_sendTransaction\"]").start()
}

fn handled(anvil: &Anvil, engine: &Engine) {
    let head = anvil.head();
    engine.module_until("pay-once", "past every log", |node| {
        let at = node["cursors"]["chain:31337"].as_str().unwrap_or("0");
        at.split('/').next().unwrap().parse::<u64>().unwrap() >= head
    });
}

/// Mines what was paid, and compares.
fn check(anvil: &Anvil, paid: u64) {
    anvil.mine();
    for recipient in FIRST..FIRST + paid {
        assert_eq!(anvil.balance(&format!("0x{recipient:040x}")), AMOUNT, "recipient {recipient:x}");
    }
}

#[test]
fn an_attempt_that_fails_after_it_paid_does_not_pay_again() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = paying(&anvil, &emitter);
    engine.module_until("pay-once", "runs", |node| node["state"] == "RUN");
    anvil.emit(&emitter, FIRST);
    anvil.mine();
    // In one event: a payment, and then something that fails every attempt.
    anvil.emit(&emitter, FIRST + 1);
    anvil.emit_word(&emitter, &"f".repeat(64));
    anvil.mine();
    // What is past the bad one is handled as if nothing had been.
    anvil.emit(&emitter, FIRST + 2);
    anvil.mine();
    let node = engine.module_until("pay-once", "set the bad event aside", |node| node["dead_letters"] == 1);
    assert_eq!(node["events_failed"], 3, "{node:#}");
    handled(&anvil, &engine);
    check(&anvil, 3);
    let reserved = engine.state("pay-once", "payment");
    // That of the payment whose event failed is there; that of the one that could not be sent gave its nonce away.
    assert_eq!(reserved.len(), 3, "{reserved:?}");
}

#[test]
fn no_payment_is_lost_or_repeated_when_the_engine_is_killed() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = paying(&anvil, &emitter);
    engine.module_until("pay-once", "runs", |node| node["state"] == "RUN");
    let mut moments = Moments(0x5ca1_ab1e_0dd5_eed5);
    let mut paid = 0;
    for _ in 0..5 {
        for _ in 0..3 {
            for _ in 0..2 {
                anvil.emit(&emitter, FIRST + paid);
                paid += 1;
            }
            anvil.mine();
        }
        // Somewhere around the reservation, the call and the unit.
        std::thread::park_timeout(Duration::from_millis(moments.below(40)));
        engine.kill9();
        engine.launch();
    }
    handled(&anvil, &engine);
    check(&anvil, paid);
    assert_eq!(engine.module("pay-once")["dead_letters"], 0);
}
