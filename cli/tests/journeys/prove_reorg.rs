//! After a reorg a module's state equals that of a module that only ever saw the chain that stands.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
    prove_exactly_once::{Moments, check, kills, mine_some, recording, recording_over},
    proxy::{Proxy, SUBSCRIPTION},
    resync::parked,
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
pub fn reorganize(anvil: &Anvil, emitter: &str, moments: &mut Moments, depth: u64) {
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

/// Every unit with a receipt.
const SIGNED: &str = "[journal]\nreceipt_entries = 1";

/// What `journal verify` says of a journal that it finds sound, with these arguments besides.
fn verified(engine: &Engine, args: &[&str]) -> Value {
    let verdict = engine.json(&[&["journal", "verify", "recorder"], args].concat());
    assert_eq!(verdict["sound"], true, "{verdict:#}");
    verdict["report"].clone()
}

/// Saves the newest receipt to a file, as who keeps it elsewhere does; the unit that it is for.
fn save_receipt(engine: &Engine) -> u64 {
    let export = engine.ctl(&["journal", "export", "recorder"]);
    let lines = export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let receipt = lines.filter_map(|mut line| Some(line.get_mut("receipt")?.take())).next_back().unwrap();
    std::fs::write(engine.dir.path().join("receipt.json"), receipt.to_string()).unwrap();
    receipt["seq"].as_u64().unwrap()
}

/// What `journal verify` says of that receipt.
fn said_of_receipt(engine: &Engine) -> String {
    let file = engine.dir.path().join("receipt.json");
    let report = verified(engine, &["--receipt", file.to_str().unwrap()]);
    report["claim"].as_str().unwrap_or_else(|| panic!("{report:#}")).to_owned()
}

#[test]
fn prove_reorg_while_running() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = recording_over(&[anvil.ws()], SIGNED, Some(&emitter));
    let mut moments = Moments(0x1234_5678_9abc_def1);
    for (nth, depth) in (1..).zip(depths()) {
        grow(&anvil, &emitter, &mut moments, depth);
        check(&anvil, &emitter, &engine);
        let seq = save_receipt(&engine);
        assert_eq!(said_of_receipt(&engine), format!("entry {seq} is the one that was signed"));
        reorganize(&anvil, &emitter, &mut moments, depth);
        mine_some(&anvil, &emitter, &mut moments);
        check(&anvil, &emitter, &engine);
        let undone = format!("unit {seq} was undone by rewind {nth}, which kept the receipt");
        assert_eq!(said_of_receipt(&engine), undone);
    }
    assert_eq!(verified(&engine, &[])["rewinds"], depths().len());
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
    let mut engine = recording_over(&[anvil.ws()], SIGNED, Some(&emitter));
    let mut moments = Moments(seed);
    for (nth, depth) in (1..).zip(depths()) {
        grow(&anvil, &emitter, &mut moments, depth);
        check(&anvil, &emitter, &engine);
        let seq = save_receipt(&engine);
        end(&mut engine);
        reorganize(&anvil, &emitter, &mut moments, depth);
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
        check(&anvil, &emitter, &engine);
        let undone = format!("unit {seq} was undone by rewind {nth}, which kept the receipt");
        assert_eq!(said_of_receipt(&engine), undone);
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
    // It need not have handled any of the blocks that were taken away.
    assert!(verified(&engine, &[])["rewinds"].as_u64() <= Some(kills()));
    println!("killed {} times at a head that was then orphaned: the record equals the chain each time", kills());
}

#[test]
fn prove_reorg_with_a_journal_that_is_hardly_longer() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let short = "[journal]\nentries = 20\nreceipt_entries = 1";
    let engine = recording_over(&[anvil.ws()], short, Some(&emitter));
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    let first = save_receipt(&engine);
    for _ in 0..4 {
        grow(&anvil, &emitter, &mut moments, 10);
        check(&anvil, &emitter, &engine);
        reorganize(&anvil, &emitter, &mut moments, 3);
        mine_some(&anvil, &emitter, &mut moments);
        check(&anvil, &emitter, &engine);
    }
    let report = verified(&engine, &[]);
    let (entries, oldest) = (report["entries"].as_u64().unwrap(), report["oldest"].as_u64().unwrap());
    assert!(entries <= 20 + 20 / 8 && oldest > first && report["rewinds"] == 4, "{report:#}");
    assert_eq!(report["signed_to"], report["newest"], "{report:#}");
    assert_eq!(said_of_receipt(&engine), format!("entry {first} is no longer kept"));
    // A unit for each block, at least: further than the journal goes back.
    grow(&anvil, &emitter, &mut moments, 25);
    check(&anvil, &emitter, &engine);
    let seq = save_receipt(&engine);
    reorganize(&anvil, &emitter, &mut moments, 25);
    mine_some(&anvil, &emitter, &mut moments);
    parked(&engine);
    assert_eq!(said_of_receipt(&engine), format!("entry {seq} is the one that was signed"));
    assert_eq!(verified(&engine, &[])["rewinds"], 4);
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
    assert_eq!(verified(&engine, &[])["rewinds"], 0);
    println!("removed logs injected into the subscription and beside it: the record equals the chain");
}

/// What a module has that is only told of reorgs: for every key the hash that came last, and how often it came.
#[derive(Default)]
struct Kept(BTreeMap<String, (String, u64)>);

impl Kept {
    /// The blocks after this one, and their logs, come once.
    fn deliver(&mut self, anvil: &Anvil, emitter: &str, after: u64) {
        let blocks = anvil.blocks(after + 1).into_iter().map(|(number, hash)| (format!("b/{number:020}"), hash));
        let logs = anvil.logs(after + 1, emitter).into_iter();
        let logs = logs.map(|(block, index, transaction)| (format!("l/{block:020}/{index:06}"), transaction));
        for (key, hash) in blocks.chain(logs) {
            let (last, count) = self.0.entry(key).or_default();
            (*last, *count) = (hash, *count + 1);
        }
    }

    /// Waits until the module has exactly that, and its newest blocks in their order behind the last reorg.
    fn check(&self, anvil: &Anvil, engine: &Engine, after: u64) {
        let head = anvil.head().to_string();
        engine.module_until("told", "handled the head", |node| node["cursors"]["chain:31337"] == head.as_str());
        let blocks = eventually("what was told is what is kept", || {
            let (blocks, logs) = (engine.state("told", "b/"), engine.state("told", "l/"));
            let found = blocks.iter().chain(&logs).map(|(key, value)| {
                let hash = value["hash"].as_str().or(value["tx"].as_str()).unwrap();
                (key.clone(), (hash.to_owned(), value["count"].as_u64().unwrap()))
            });
            let found: BTreeMap<_, _> = found.collect();
            match found == self.0 {
                true => Ok(blocks),
                false => Err(format!("{found:#?}\nis not\n{:#?}", self.0)),
            }
        });
        let told = engine.state("told", "r/").last().map_or(0, |(key, _)| key[2..].parse::<u64>().unwrap());
        let new = blocks.iter().filter(|(key, _)| key[2..].parse::<u64>().unwrap() > after);
        let order: Vec<_> = std::iter::once(told).chain(new.map(|(_, value)| value["seq"].as_u64().unwrap())).collect();
        assert!(order.is_sorted_by(|earlier, later| earlier < later), "{order:?}");
        assert_eq!(engine.module("told")["dead_letters"], 0);
    }
}

#[test]
fn prove_reorg_of_which_a_module_is_only_told_keeps_its_state() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let log = format!("kind = \"log\"\nchain_id = 31337\naddress = \"{emitter}\"\nstart_block = 1");
    let changes = [
        FROM_THE_FIRST,
        ("kind = \"log\"\nchain_id = 31337", log.as_str()),
        ("version = \"0.3.0\"", "version = \"0.3.0\"\non_reorg = \"notify\""),
    ];
    let setup = Setup::new().chain(31337, &[anvil.ws()]).module("recorder", "recorder", &changes[..2]);
    let mut engine = setup.module("recorder", "told", &changes).start();
    let mut moments = Moments(0xbf58_476d_1ce4_e5b9);
    let (mut kept, mut stands) = (Kept::default(), 0);
    for (nth, depth) in (1..).zip([1, 3, 8, 2]) {
        grow(&anvil, &emitter, &mut moments, depth);
        kept.deliver(&anvil, &emitter, stands);
        kept.check(&anvil, &engine, stands);
        check(&anvil, &emitter, &engine);
        let head = anvil.head();
        let down = nth % 2 == 0;
        if down {
            engine.kill9();
        }
        reorganize(&anvil, &emitter, &mut moments, depth);
        if down {
            engine.launch();
        }
        mine_some(&anvil, &emitter, &mut moments);
        kept.deliver(&anvil, &emitter, head - depth);
        stands = anvil.head();
        kept.check(&anvil, &engine, head - depth);
        check(&anvil, &emitter, &engine);
        let told = engine.state("told", "r/");
        assert_eq!(told.len(), nth, "{told:?}");
        let (_, reorg) = &told[nth - 1];
        assert_eq!((&reorg["ancestor"], &reorg["old_head"]), (&(head - depth).into(), &head.into()), "{reorg:#}");
        let new_head = reorg["new_head"].as_u64().unwrap();
        assert!((head - depth + 1..=stands).contains(&new_head), "{reorg:#}");
    }
    let entries: u64 = kept.0.values().map(|(_, count)| count).sum();
    println!("4 reorgs told: {} keys kept, {entries} events, each new block once", kept.0.len());
}
