//! The record of a module equals the chain, whatever is killed at whatever moment: no gap, no double.

use std::time::Duration;

use nexum_testkit::PATIENCE;

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
};

/// How often something is killed: 5 in CI, more with `make prove-exactly-once KILLS=n`.
pub fn kills() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    std::env::var("NEXUM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// A small generator with a fixed seed: moments differ within a run, not between runs.
pub struct Moments(pub u64);

impl Moments {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub fn recording(anvil: &Anvil, emitter: &str) -> Engine {
    recording_over(&[anvil.ws()], "", Some(emitter))
}

/// An engine with these endpoints, `more` about them, and the recorder, which wants one contract's logs or all there are.
pub fn recording_over(endpoints: &[String], more: &str, contract: Option<&str>) -> Engine {
    let address = contract.map_or_else(String::new, |address| format!("address = \"{address}\"\n"));
    let log = format!("kind = \"log\"\nchain_id = 31337\n{address}start_block = 1");
    Setup::new()
        .chain(31337, endpoints)
        .with(more)
        .module(
            "recorder",
            "recorder",
            &[
                FROM_THE_FIRST,
                ("kind = \"log\"\nchain_id = 31337", &log),
                ("backoff = [\"1s\", \"5m\"]", "backoff = [\"100ms\", \"1s\"]"),
            ],
        )
        .start()
}

/// A few blocks, most with logs, some with several, some empty.
pub fn mine_some(anvil: &Anvil, emitter: &str, moments: &mut Moments) {
    for _ in 0..3 + moments.below(8) {
        for _ in 0..moments.below(4) {
            anvil.emit(emitter, moments.below(u64::MAX));
        }
        anvil.mine();
    }
}

/// Waits until the record equals the chain; how many blocks and logs there are.
pub fn check(anvil: &Anvil, emitter: &str, engine: &Engine) -> (usize, usize) {
    let head = anvil.head().to_string();
    engine.module_within(3 * PATIENCE, "recorder", "handled the head", |node| {
        node["cursors"]["chain:31337"] == head.as_str()
    });
    // The cursor is shown when a unit is sent, the state when it is written.
    let counts = eventually("the record equals the chain", || compare(anvil, emitter, engine));
    let node = engine.module("recorder");
    assert_eq!(node["dead_letters"], 0, "{node:#}");
    counts
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, recorded: &[T], expected: &[T]) -> Result<(), String> {
    if let Some((left, right)) = recorded.iter().zip(expected).find(|(left, right)| left != right) {
        return Err(format!("{what}: recorded {left:?}, the chain has {right:?}"));
    }
    if recorded.len() != expected.len() {
        return Err(format!("{what}: {} recorded, the chain has {}", recorded.len(), expected.len()));
    }
    Ok(())
}

/// Compares the record with the chain: everything once, and in order.
pub fn compare(anvil: &Anvil, emitter: &str, engine: &Engine) -> Result<(usize, usize), String> {
    compare_through(u64::MAX, anvil, emitter, engine, "recorder")
}

/// The same for a module that handled the blocks up to this one.
pub fn compare_through(
    last: u64,
    anvil: &Anvil,
    emitter: &str,
    engine: &Engine,
    module: &str,
) -> Result<(usize, usize), String> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (blocks, logs) = (engine.state(module, "b/"), engine.state(module, "l/"));
    let recorded: Vec<_> = blocks.iter().map(|(key, v)| (key.clone(), text(&v["hash"]), v["count"].as_u64())).collect();
    let expected = anvil.blocks(1).into_iter().filter(|(number, _)| *number <= last);
    let expected: Vec<_> = expected.map(|(number, hash)| (format!("b/{number:020}"), hash, Some(1))).collect();
    same("blocks", &recorded, &expected)?;
    let recorded: Vec<_> = logs.iter().map(|(key, v)| (key.clone(), text(&v["tx"]), v["count"].as_u64())).collect();
    let expected = anvil.logs(1, emitter).into_iter().filter(|(block, ..)| *block <= last);
    let expected: Vec<_> = expected
        .map(|(block, index, transaction)| (format!("l/{block:020}/{index:06}"), transaction, Some(1)))
        .collect();
    same("logs", &recorded, &expected)?;
    // In order: each event's number is one above the event's before it, logs of a block before the block.
    let seq = |value: &serde_json::Value| value["seq"].as_u64().unwrap();
    let mut order: Vec<(u64, u64, u64)> = Vec::new();
    order.extend(logs.iter().map(|(key, value)| {
        let (block, index) = key[2..].split_once('/').unwrap();
        (block.parse().unwrap(), index.parse().unwrap(), seq(value))
    }));
    order.extend(blocks.iter().map(|(key, value)| (key[2..].parse().unwrap(), u64::MAX, seq(value))));
    order.sort_unstable();
    assert!(order.is_sorted_by_key(|(_, _, seq)| *seq), "an event was handled out of order");
    Ok((blocks.len(), logs.len()))
}

#[test]
fn prove_exactly_once_when_the_engine_is_killed() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x9e37_79b9_7f4a_7c15);
    for _ in 0..kills() {
        mine_some(&anvil, &emitter, &mut moments);
        // Somewhere between the first byte read and the last unit written.
        std::thread::park_timeout(Duration::from_millis(moments.below(120)));
        engine.kill9();
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
    }
    mine_some(&anvil, &emitter, &mut moments);
    let (blocks, logs) = check(&anvil, &emitter, &engine);
    println!("engine killed {} times: {blocks} blocks and {logs} logs, each recorded once", kills());
    assert!(engine.terminate().success());
}

#[test]
fn prove_exactly_once_when_the_node_is_killed() {
    let mut anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = recording(&anvil, &emitter);
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    for _ in 0..kills() {
        mine_some(&anvil, &emitter, &mut moments);
        std::thread::park_timeout(Duration::from_millis(moments.below(120)));
        // SIGTERM, because a node that is killed outright forgets blocks it has announced.
        anvil.stop();
        eventually("the engine notices", || {
            let tree = engine.json(&["tree"]).to_string();
            if tree.contains("\"state\":\"DOWN\"") || tree.contains("0/1 endpoints") { Ok(()) } else { Err(tree) }
        });
        anvil.launch();
        mine_some(&anvil, &emitter, &mut moments);
    }
    let (blocks, logs) = check(&anvil, &emitter, &engine);
    println!("node killed {} times: {blocks} blocks and {logs} logs, each recorded once", kills());
}
