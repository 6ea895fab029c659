//! Drain and shutdown within a deadline, and events that wait too long: what is not finished is told, and nothing is lost.

use std::fs;

use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{Engine, FAST_CHAIN as CHAIN, FROM_THE_FIRST, Setup, eventually},
    outbox::sender,
    receiver::{Mood, Receiver},
};

/// An event that outlasts the test, were it not for a deadline.
const SLEEPS: [(&str, &str); 2] =
    [("mode = \"good\"", "mode = \"sleep\""), ("event_deadline = \"2s\"", "event_deadline = \"60s\"")];

fn answer(engine: &Engine, args: &[&str]) -> (Option<i32>, Value) {
    let output = engine.raw_ctl(args);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Waits until the module is in the middle of an event.
fn in_an_event(engine: &Engine, module: &str) {
    eventually("an event is handed to the guest", || {
        let metrics = engine.json(&["metrics"]);
        let mut samples = metrics.as_array().unwrap().iter();
        let dispatched = samples.any(|sample| {
            sample["name"] == "nexum_events_dispatched_total"
                && (&sample["labels"]["module"], &sample["labels"]["event_type"]) == (&module.into(), &"block".into())
        });
        if dispatched { Ok(()) } else { Err(String::new()) }
    });
}

#[test]
fn drained_modules_are_paused_and_lose_nothing() {
    let short = ("event_deadline = \"2s\"", "event_deadline = \"5s\"");
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).module("recorder", "b", &[]);
    let mut engine = setup.module("hostile", "slow", &[SLEEPS[0], short]).start();
    engine.module_until("a", "runs", |node| node["events_processed"].as_u64() > Some(5));
    in_an_event(&engine, "slow");

    // The order stands when the answer had to be given before it was carried out.
    let (code, drained) = answer(&engine, &["module", "drain", "slow", "--deadline", "100ms", "--json"]);
    assert_eq!((code, &drained["drained"]), (Some(1), &Value::Array(Vec::new())), "{drained:#}");
    assert!(drained["unfinished"][0].as_str().unwrap().contains("did not finish within 100ms"), "{drained:#}");
    engine.module_until("slow", "paused after its event", |node| node["state"] == "PAUSED");

    let (code, drained) = answer(&engine, &["drain", "--json"]);
    assert_eq!((code, &drained["drained"]), (Some(0), &serde_json::json!(["a", "b"])), "{drained:#}");
    assert_eq!((&engine.module("a")["state"], &engine.module("b")["state"]), (&"PAUSED".into(), &"PAUSED".into()));
    let resumed = engine.json(&["resume"]);
    assert_eq!(resumed["resumed"], serde_json::json!(["a", "b", "slow"]));
    engine.module_until("a", "runs again", |node| node["state"] == "RUN");

    // By name it is an order about the module; of the whole engine it ends with the process.
    engine.ctl(&["module", "drain", "b"]);
    engine.ctl(&["drain"]);
    assert!(engine.terminate().success());
    engine.launch();
    engine.module_until("a", "runs", |node| node["state"] == "RUN");
    engine.module_until("b", "stays paused", |node| node["state"] == "PAUSED");
    let blocks = engine.state("a", "b/");
    let numbers: Vec<u64> = blocks.iter().map(|(key, _)| key[2..].parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| *b == a + 1), "{numbers:?}");
    assert!(blocks.iter().all(|(_, value)| value["count"] == 1));
}

#[test]
fn a_drain_waits_for_effects_that_can_go_out_and_names_the_others() {
    let mut receiver = Receiver::start();
    receiver.set(Mood::Hangs);
    let finalized = ("release = \"committed\"", "release = \"finalized\"");
    let anvil = Anvil::start();
    let setup =
        Setup::new().chain(31337, &[anvil.ws()]).with("[outbox]\ntimeout = \"60s\"\nbackoff_first = \"50ms\"\n");
    let setup = sender(setup, &receiver.url(), "lane", &[FROM_THE_FIRST]);
    let setup = setup.module("sender", "late", &[finalized, FROM_THE_FIRST]);
    let mut engine = setup.start();
    for name in ["sender", "late"] {
        engine.module_until(name, "runs", |node| node["state"] == "RUN");
    }
    anvil.mine();
    for name in ["sender", "late"] {
        engine.module_until(name, "has sent", |node| node["outbox_pending"] == 2);
    }

    let (code, drained) = answer(&engine, &["module", "drain", "sender", "--deadline", "300ms", "--json"]);
    assert_eq!((code, &drained["drained"]), (Some(1), &serde_json::json!([])), "{drained:#}");
    assert_eq!(drained["outbox"]["sender"]["unsettled"], 2, "{drained:#}");
    let line = drained["unfinished"][0].as_str().unwrap();
    assert!(line.starts_with("module sender: 2 effects not settled, the oldest sent "), "{line}");
    // What waits for finality is named, and waited for by nobody.
    let (code, drained) = answer(&engine, &["module", "drain", "late", "--json"]);
    assert_eq!((code, &drained["drained"]), (Some(0), &serde_json::json!(["late"])), "{drained:#}");
    let line = drained["held"][0].as_str().unwrap();
    assert!(line.starts_with("module late: 2 effects wait for finality, the oldest sent "), "{line}");

    // A drain answers when the receiver has taken what there is, though nothing else happens.
    let waits = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| answer(&engine, &["drain", "--deadline", "50s", "--json"]));
        receiver.stop();
        receiver.set(Mood::Fine);
        receiver.resume();
        waiting.join().unwrap()
    });
    assert_eq!((waits.0, &waits.1["unfinished"]), (Some(0), &serde_json::json!([])), "{:#}", waits.1);
    assert_eq!(receiver.deduplicated().len(), 2);
    assert!(waits.1["outbox"].get("sender").is_none(), "{:#}", waits.1);

    // At the end nobody waits, and what is left is told.
    receiver.set(Mood::Refuses(503));
    engine.ctl(&["resume"]);
    anvil.mine();
    engine.module_until("sender", "has sent", |node| node["outbox_pending"] == 2);
    assert_eq!(engine.terminate().code(), Some(0));
    let log = engine.log_text();
    assert!(log.contains("module sender: 2 effects not settled") && log.contains("after the next start"), "{log}");
}

#[test]
fn the_shutdown_deadline_ends_an_event_that_does_not_end_and_says_so() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).module("hostile", "sleepy", &SLEEPS);
    let mut engine = setup.prepare();
    let config = fs::read_to_string(&engine.config).unwrap();
    fs::write(&engine.config, config.replacen("[engine]\n", "[engine]\nshutdown_deadline = \"300ms\"\n", 1)).unwrap();
    engine.launch();
    in_an_event(&engine, "sleepy");
    engine.module_until("a", "runs", |node| node["events_processed"].as_u64() > Some(5));
    assert_eq!(engine.terminate().code(), Some(0));
    let log = engine.log_text();
    assert!(log.contains("not everything was finished: module sleepy: its event in flight did not finish"), "{log}");
    assert!(!log.contains("did not end in order"), "{log}");

    engine.launch();
    in_an_event(&engine, "sleepy");
    let node = engine.module("sleepy");
    assert_eq!((&node["events_failed"], &node["budget"]["spent"]), (&0.into(), &0.into()), "not its fault: {node:#}");
    let shutdown = engine.json(&["shutdown"]);
    assert!(shutdown["unfinished"][0].as_str().unwrap().starts_with("module sleepy:"), "{shutdown:#}");
    assert_eq!(engine.wait().code(), Some(0));
}

#[test]
fn an_event_that_waits_past_the_threshold_makes_the_engine_unhealthy() {
    let patient = ("backoff = [\"1s\", \"5m\"]", "backoff = [\"5m\", \"5m\"]");
    let trap = ("mode = \"good\"", "mode = \"trap\"");
    let cron = ("kind = \"block\"\nchain_id = 31337", "kind = \"cron\"\nevery = \"1s\"");
    let setup = Setup::new().with("event_age_threshold = \"4s\"").mock(31337, CHAIN);
    let setup = setup.module("recorder", "fine", &[]).module("hostile", "good", &[cron]);
    let engine =
        setup.module("hostile", "blocks", &[trap, patient]).module("hostile", "ticks", &[trap, patient, cron]).start();
    let reasons = |engine: &Engine| {
        let (code, health) = answer(engine, &["health", "--json"]);
        // That the modules are in RESTART is said, too.
        let found = health["reasons"].as_array().cloned().unwrap_or_default().into_iter();
        let found: Vec<_> = found.filter(|reason| reason.to_string().contains("should have handled")).collect();
        (code, found, health)
    };
    eventually("both are found", || match reasons(&engine) {
        (Some(4), found, _) if found.len() == 2 => Ok(()),
        (code, _, health) => Err(format!("{code:?}: {health:#}")),
    });
    let (_, found, health) = reasons(&engine);
    assert!(found[0].as_str().unwrap().starts_with("module blocks should have handled an event"), "{health:#}");
    assert!(found[1].as_str().unwrap().starts_with("module ticks should have handled an event"), "{health:#}");
    let metrics = engine.ctl(&["metrics"]);
    assert!(metrics.contains("nexum_expected_event_age_seconds{module=\"blocks\"}"), "{metrics}");

    // What is paused is not expected to do anything.
    engine.ctl(&["module", "pause", "blocks"]);
    engine.ctl(&["module", "pause", "ticks"]);
    eventually("healthy again", || match reasons(&engine) {
        (Some(0), _, _) => Ok(()),
        (code, _, health) => Err(format!("{code:?}: {health:#}")),
    });
}

#[test]
fn a_module_that_spends_its_budget_while_an_order_waits_is_dead_all_the_same() {
    let short = ("event_deadline = \"2s\"", "event_deadline = \"3s\"");
    let budget = ("max_consecutive_failures = 10", "max_consecutive_failures = 1");
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "m", &[SLEEPS[0], short, budget]);
    let engine = setup.start();
    in_an_event(&engine, "m");
    let refused = engine.try_ctl(&["module", "pause", "m"]).unwrap_err();
    assert!(refused.contains("DEAD") && refused.contains("`nexumctl module restart m`"), "{refused}");
    assert_eq!(engine.module("m")["state"], "DEAD");
    let refused = engine.try_ctl(&["module", "resume", "m"]).unwrap_err();
    assert!(refused.contains("module restart"), "{refused}");
}

#[test]
fn an_order_that_waits_when_the_engine_stops_starts_nothing_any_more() {
    let short = ("event_deadline = \"2s\"", "event_deadline = \"3s\"");
    let mut engine = Setup::new().mock(31337, CHAIN).module("hostile", "m", &[SLEEPS[0], short]).start();
    in_an_event(&engine, "m");
    let refused = std::thread::scope(|scope| {
        let ordered = scope.spawn(|| engine.try_ctl(&["module", "restart", "m"]));
        eventually("the order waits", || match engine.log_text() {
            log if log.contains("an event in flight is finished first") => Ok(()),
            log => Err(log),
        });
        engine.signal("TERM");
        ordered.join().unwrap().unwrap_err()
    });
    assert!(refused.contains("shutting down"), "{refused}");
    assert_eq!(engine.wait().code(), Some(0));
    let log = engine.log_text();
    assert!(!log.contains("not everything was finished"), "{log}");
}
