//! Events that a module cannot handle: what is known of them, their bound, and the ways out.

use std::{fs, process::Output, thread, time::Duration};

use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{Engine, FAST_CHAIN as CHAIN, FROM_THE_FIRST, Setup},
    prove_exactly_once::Moments,
};

/// A module that traps on every block, three of which it may set aside.
fn full() -> Engine {
    let changes = [
        ("mode = \"good\"", "mode = \"trap\""),
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"20ms\"]"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 1000"),
        ("max_event_attempts = 3", "max_event_attempts = 2"),
        FROM_THE_FIRST,
    ];
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "bad", &changes);
    let engine = setup.with("[modules.limits]\nmax_dead_letters = 3").start();
    engine.module_until("bad", "DEAD", |node| node["state"] == "DEAD");
    engine
}

fn letters(engine: &Engine) -> Vec<Value> {
    engine.json(&["dlq", "list", "bad"]).as_array().unwrap().clone()
}

fn answer(output: &Output) -> (Option<i32>, Value) {
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_letter_says_everything_and_at_the_bound_the_module_stops_and_loses_nothing() {
    let engine = full();
    let node = engine.module("bad");
    assert!(node["last_error"].as_str().unwrap().contains("dead letters full 3/3"), "{node:#}");
    assert_eq!((&node["dead_letters"], &node["cursors"]["chain:31337"]), (&3.into(), &"3".into()), "{node:#}");
    let metrics = engine.ctl(&["metrics"]);
    assert!(metrics.contains("nexum_dead_letters{module=\"bad\"} 3"), "{metrics}");

    let letters = letters(&engine);
    for (letter, number) in letters.iter().zip(1..) {
        let shown = engine.json(&["dlq", "show", "bad", &letter["seq"].to_string()]);
        assert_eq!((&shown["attempts"], &shown["kind"]), (&2.into(), &"block".into()), "{shown:#}");
        assert_eq!(shown["payload"]["block"]["number"], number, "{shown:#}");
        assert!(shown["event"].as_str().unwrap().starts_with(&format!("block:31337:{number}:0x")), "{shown:#}");
        assert!(shown["error"].as_str().unwrap().starts_with("trap: "), "{shown:#}");
        assert!(shown["fuel"].as_u64() > Some(1000), "{shown:#}");
        assert_eq!(shown["component"], node["component"]);
        let backtrace = shown["backtrace"].as_str().unwrap();
        assert!(backtrace.contains("Hostile") && backtrace.contains("act"), "the guest's own names: {backtrace}");
    }

    // Restarted, it tries the event at its cursor again, and stops there again.
    engine.ctl(&["module", "restart", "bad"]);
    engine
        .module_until("bad", "DEAD again", |node| node["state"] == "DEAD" && node["events_failed"].as_u64() > Some(7));
    assert_eq!(engine.module("bad")["cursors"]["chain:31337"], "3");
}

#[test]
fn all_letters_are_retried_in_order_and_dropped_at_once() {
    let engine = full();
    let seqs: Vec<u64> = letters(&engine).iter().map(|letter| letter["seq"].as_u64().unwrap()).collect();
    let refused = engine.raw_ctl(&["dlq", "retry-all", "bad"]);
    assert_eq!(refused.status.code(), Some(1), "a dead module takes no retry");
    assert_eq!(letters(&engine).len(), 3);

    // The cause is put right but for the second block.
    let manifest = engine.dir.path().join("bad/nexum.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("mode = \"trap\"", "mode = \"trap-on\"\non = 2")).unwrap();
    engine.ctl(&["module", "restart", "bad"]);
    engine.module_until("bad", "runs", |node| node["state"] == "RUN" && node["events_processed"].as_u64() > Some(3));
    let restarts = engine.module("bad")["restarts"].clone();

    let (code, retried) = answer(&engine.raw_ctl(&["dlq", "retry-all", "bad", "--json"]));
    assert_eq!((code, &retried["handled"], &retried["not_tried"]), (Some(1), &1.into(), &1.into()), "{retried:#}");
    assert_eq!(retried["failed"][0]["seq"], seqs[1], "{retried:#}");
    let (code, retried) = answer(&engine.raw_ctl(&["dlq", "retry-all", "bad", "--keep-going", "--json"]));
    assert_eq!((code, &retried["handled"], &retried["not_tried"]), (Some(1), &1.into(), &0.into()), "{retried:#}");
    let left = letters(&engine);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((&left[0]["seq"], &left[0]["attempts"]), (&seqs[1].into(), &4.into()), "{left:?}");
    let node = engine.module("bad");
    assert_eq!((&node["state"], &node["restarts"], &node["dead_letters"]), (&"RUN".into(), &restarts, &1.into()));

    assert_eq!(engine.raw_ctl(&["dlq", "drop-all", "bad"]).status.code(), Some(2));
    assert_eq!(engine.json(&["dlq", "drop-all", "bad", "--yes"])["dropped"], 1);
    assert_eq!(letters(&engine), [] as [Value; 0]);
    assert_eq!(engine.module("bad")["dead_letters"], 0);
    let (code, retried) = answer(&engine.raw_ctl(&["dlq", "retry-all", "bad", "--json"]));
    assert_eq!((code, &retried["handled"]), (Some(0), &0.into()), "{retried:#}");
}

/// An event that is given again by order is handled once, or is still a dead letter, whenever the engine dies.
#[test]
fn letters_that_are_retried_around_kills_are_handled_once() {
    const BLOCKS: u64 = 10;
    let changes = [
        ("mode = \"good\"", "mode = \"panic-once\""),
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"20ms\"]"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 1000"),
        ("max_event_attempts = 3", "max_event_attempts = 1"),
        FROM_THE_FIRST,
    ];
    let anvil = Anvil::start();
    let mut engine = Setup::new().chain(31337, &[anvil.ws()]).module("hostile", "bad", &changes).start();
    (0..BLOCKS).for_each(|_| anvil.mine());
    engine.module_until("bad", "has set all aside", |node| node["dead_letters"] == BLOCKS && node["state"] == "RUN");
    let handled =
        |engine: &Engine| engine.state("bad", "count").first().map_or(0, |(_, count)| count.as_u64().unwrap());
    let mut moments = Moments(0x6a09_e667_f3bc_c908);
    for letter in letters(&engine) {
        let (seq, moment) = (letter["seq"].to_string(), Duration::from_millis(moments.below(15)));
        thread::scope(|scope| {
            // Whoever ordered it may not learn what came of it.
            let ordered = scope.spawn(|| engine.try_ctl(&["dlq", "retry", "bad", &seq]).is_ok());
            thread::park_timeout(moment);
            engine.signal("KILL");
            let _ = ordered.join();
        });
        engine.wait();
        engine.launch();
        engine.module_until("bad", "runs", |node| node["state"] == "RUN");
        assert_eq!(handled(&engine) + letters(&engine).len() as u64, BLOCKS, "after letter {seq}");
    }
    engine.ctl(&["dlq", "retry-all", "bad"]);
    assert_eq!((handled(&engine), letters(&engine).len()), (BLOCKS, 0));
}
