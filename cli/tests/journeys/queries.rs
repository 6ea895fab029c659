//! Queries: what modules answer about their state, whatever they are at, and what a query may not do to anybody.

use std::thread;

use super::{
    engine::{Engine, FAST_CHAIN, FROM_THE_FIRST, Setup, eventually},
    hostile::QUICK,
};

/// No fuel ends what goes on for ever, so that time does.
const FUEL: (&str, &str) = ("max_fuel_per_event = 100_000_000", "max_fuel_per_event = 100_000_000_000_000");
const LONG: (&str, &str) = ("event_deadline = \"2s\"", "event_deadline = \"60s\"");
const BUDGET: (&str, &str) = ("max_consecutive_failures = 10", "max_consecutive_failures = 4");

fn number(engine: &Engine, args: &[&str]) -> u64 {
    let mut all = vec!["query"];
    all.extend(args);
    engine.ctl(&all).trim().parse().unwrap()
}

fn refusal(engine: &Engine, module: &str, method: &str) -> String {
    engine.try_ctl(&["query", module, method]).unwrap_err()
}

#[test]
fn a_module_answers_from_what_is_committed_whether_it_runs_or_not() {
    let setup = Setup::new().mock(31337, FAST_CHAIN).module("recorder", "recorder", &[FROM_THE_FIRST]);
    let mut engine = setup.module("heartbeat", "silent", &[]).start();
    engine.module_until("recorder", "handles blocks", |node| node["events_processed"].as_u64() > Some(5));
    let handled = number(&engine, &["recorder", "handled"]);
    assert!(handled > 5, "{handled}");
    engine.ctl(&["module", "pause", "recorder"]);
    let committed = engine.state_value("recorder", "n").unwrap().as_u64().unwrap();
    assert!(committed >= handled);
    assert_eq!(number(&engine, &["recorder", "handled"]), committed, "paused");
    let blocks = engine.state("recorder", "b/").len() as u64;
    assert_eq!(number(&engine, &["recorder", "count", "\"b/\""]), blocks);
    assert_eq!(number(&engine, &["recorder", r#"{"method": "count", "params": "b/"}"#]), blocks);
    assert!(refusal(&engine, "recorder", "count").contains("params of `count`"), "of the module's own");
    assert!(refusal(&engine, "recorder", "cuont").contains("there is no query `cuont`"));
    assert!(refusal(&engine, "nobody", "count").contains("no module `nobody` is loaded"));
    eventually("a module without the export says so", || {
        let error = refusal(&engine, "silent", "count");
        if error.contains("module `silent` answers no queries") { Ok(()) } else { Err(error) }
    });

    engine.terminate();
    engine.launch();
    engine.module_until("recorder", "is paused again", |node| node["state"] == "PAUSED");
    eventually("its component is there", || engine.try_ctl(&["query", "recorder", "handled"]));
    assert_eq!(number(&engine, &["recorder", "handled"]), committed, "after the engine was started again");
    assert_eq!(engine.state_value("recorder", "n").unwrap(), committed, "and nothing was written");
}

#[test]
fn a_module_that_is_dead_or_fails_again_and_again_is_asked_like_any_other() {
    let setup = Setup::new().mock(31337, FAST_CHAIN);
    let setup = setup.module("hostile", "dead", &[("mode = \"good\"", "mode = \"error\""), QUICK, BUDGET]);
    let waits = ("backoff = [\"1s\", \"5m\"]", "backoff = [\"5m\", \"5m\"]");
    let setup = setup.module("hostile", "waits", &[("mode = \"good\"", "mode = \"trap\""), waits]);
    let setup = setup.module("hostile", "writes", &[("mode = \"good\"", "mode = \"init-flush\"")]);
    let engine = setup.module("hostile", "init", &[("mode = \"good\"", "mode = \"init-error\""), QUICK]).start();
    engine.module_until("dead", "DEAD", |node| node["state"] == "DEAD");
    assert_eq!(engine.ctl(&["query", "dead", "count"]).trim(), "\"0\"");
    engine.module_until("waits", "RESTART", |node| node["state"] == "RESTART");
    assert_eq!(engine.ctl(&["query", "waits", "count"]).trim(), "\"0\"");
    engine.module_until("writes", "handles blocks", |node| node["events_processed"].as_u64() > Some(1));
    engine.ctl(&["query", "writes", "count"]);
    let error = eventually("what init says is told", || {
        let error = refusal(&engine, "init", "count");
        if error.contains("init failed: init fails, as configured") { Ok(error) } else { Err(error) }
    });
    assert!(error.contains("module `init` did not answer"), "{error}");
}

#[test]
fn whatever_a_query_does_it_ends_and_its_module_goes_on() {
    let setup = Setup::new().mock(31337, FAST_CHAIN).with("[queries]\nmax_fuel = 1_000_000_000_000");
    let setup = setup.with("[limits]\nmax_host_calls_per_event = 1000").module("hostile", "hostile", &[FUEL, LONG]);
    let engine = setup.start();
    engine.module_until("hostile", "handles blocks", |node| node["events_processed"].as_u64() > Some(3));
    let before = engine.module("hostile");
    for (method, wanted) in [
        ("spin", "module `hostile` did not answer in time: deadline: query took longer than 5s"),
        ("grow", "max_memory_bytes = 16777216"),
        ("trap", "module `hostile` did not answer: trap: "),
        ("error", "bytes cut"),
        ("set", "not in a query: `local-store.set` is out of reach"),
        ("flush", "not in a query: `local-store.flush` is out of reach"),
        ("fetch", "not in a query: capability `http` is out of reach"),
        ("flood", "host calls in one event"),
        ("long", "its answer has 2097154 bytes, at most 1048576"),
    ] {
        let error = refusal(&engine, "hostile", method);
        assert!(error.contains(wanted) && error.len() < 8192, "{method}: {error}");
    }
    assert_eq!(engine.state_value("hostile", "written"), None);
    let node = engine.module_until("hostile", "goes on", |node| {
        node["events_processed"].as_u64() > before["events_processed"].as_u64().map(|processed| processed + 3)
    });
    assert_eq!((&node["state"], &node["restarts"], &node["events_failed"]), (&"RUN".into(), &0.into(), &0.into()));
    assert_eq!(node["budget"]["spent"], 0);
    let count = |outcome| engine.metric("nexum_queries_total", &[("module", "hostile"), ("outcome", outcome)]);
    assert_eq!((count("late"), count("refused"), count("failed")), (1.0, 4.0, 4.0));
}

#[test]
fn queries_that_go_on_for_ever_take_up_no_more_than_their_room() {
    let setup = Setup::new().mock(31337, FAST_CHAIN);
    let setup = setup.with("[queries]\nmax_fuel = 1_000_000_000_000_000\nmax_concurrent_per_module = 1");
    let setup = setup.module("hostile", "hostile", &[FUEL, LONG]).module("recorder", "witness", &[]);
    let engine = setup.start();
    for module in ["hostile", "witness"] {
        engine.module_until(module, "handles blocks", |node| node["events_processed"].as_u64() > Some(1));
    }
    thread::scope(|scope| {
        let spinning = scope.spawn(|| refusal(&engine, "hostile", "spin"));
        // The other way round it would be the first one that finds no room.
        eventually("the first one runs", || match engine.metric("nexum_queries_running", &[]) {
            running if running >= 1.0 => Ok(()),
            running => Err(format!("{running} run")),
        });
        eventually("a second query is refused at once", || match engine.try_ctl(&["query", "hostile", "count"]) {
            Err(busy) if busy.contains("as many of its queries run as may at once") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert!(number(&engine, &["witness", "handled"]) > 0, "others are answered");
        assert!(spinning.join().unwrap().contains("did not answer in time"));
    });
    engine.ctl(&["query", "hostile", "count"]);
    assert!(engine.metric("nexum_queries_total", &[("module", "hostile"), ("outcome", "busy")]) >= 1.0);
    assert_eq!(engine.metric("nexum_queries_running", &[]), 0.0);
}
