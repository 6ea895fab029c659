//! Hostile neighbours: each meets its limit, the FSM goes where it should, and nobody else loses an event.

use serde_json::Value;

use super::engine::{Engine, FAST_CHAIN, Setup, eventually};

pub const QUICK: (&str, &str) = ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"50ms\"]");
const BUDGET: (&str, &str) = ("max_consecutive_failures = 10", "max_consecutive_failures = 4");
const SHORT: (&str, &str) = ("event_deadline = \"2s\"", "event_deadline = \"500ms\"");
/// For those that are to meet another limit first, however busy the machine is.
const LONG: (&str, &str) = ("event_deadline = \"2s\"", "event_deadline = \"60s\"");

fn hostile(setup: Setup, mode: &str, changes: &[(&str, &str)]) -> Setup {
    let wanted = format!("mode = \"{mode}\"");
    let mut all = vec![("mode = \"good\"", wanted.as_str()), QUICK];
    all.extend_from_slice(changes);
    setup.module("hostile", mode, &all)
}

/// Every block from the first it saw to its cursor, once each.
pub fn assert_handled_every_block(engine: &Engine, module: &str) {
    let entries = engine.state(module, "b/");
    let numbers: Vec<u64> = entries.iter().map(|(key, _)| key[2..].parse().unwrap()).collect();
    let first = *numbers.first().unwrap_or_else(|| panic!("{module} saw no block"));
    let expected: Vec<u64> = (first..first + numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "{module} has a gap");
    assert!(entries.iter().all(|(_, value)| value["count"] == 1), "{module} has a double");
}

fn assert_dead(engine: &Engine, module: &str, reason: &str) -> Value {
    let node = engine.module_until(module, "DEAD", |node| node["state"] == "DEAD");
    let error = node["last_error"].as_str().unwrap_or_default();
    assert!(error.contains(reason), "{module} died of `{error}`, not of `{reason}`");
    node
}

#[test]
fn each_meets_its_limit_and_the_neighbours_handle_every_event() {
    let mut setup = Setup::new().mock(31337, FAST_CHAIN);
    setup = setup.module("recorder", "witness-a", &[]).module("recorder", "witness-b", &[]);
    for mode in ["fuel", "memory", "trap", "error", "init-trap"] {
        setup = hostile(setup, mode, &[BUDGET, LONG]);
    }
    setup = hostile(setup, "sleep", &[BUDGET, SHORT]);
    // Each request waits for several threads, which takes long on a busy machine.
    let requests = ("mode = \"rpc-bomb\"", "mode = \"rpc-bomb\"\nrepeat = 500");
    setup = hostile(setup, "rpc-bomb", &[LONG, requests]);
    for mode in ["log-bomb", "state-bomb"] {
        setup = hostile(setup, mode, &[LONG]);
    }
    let engine = setup.start();
    // Budget 4 with 3 attempts per event: dead on the first attempt at the second event.
    for (mode, reason) in
        [("fuel", "out of fuel"), ("memory", "trap"), ("trap", "trap"), ("error", "failed"), ("sleep", "deadline")]
    {
        let node = assert_dead(&engine, mode, reason);
        assert!(node["last_error"].as_str().unwrap().contains("budget spent 4/4"), "{node:#}");
        assert_eq!((&node["dead_letters"], &node["restarts"]), (&1.into(), &3.into()), "{mode}: {node:#}");
    }
    let node = assert_dead(&engine, "init-trap", "trap");
    assert_eq!((&node["dead_letters"], &node["restarts"]), (&0.into(), &3.into()), "{node:#}");
    // Bombs that only meet a limit go on: refused writes and dropped lines are not failures.
    for mode in ["log-bomb", "state-bomb", "rpc-bomb"] {
        let node = engine.module_until(mode, "handles blocks", |node| node["events_processed"].as_u64() > Some(5));
        assert_eq!((&node["state"], &node["events_failed"]), (&"RUN".into(), &0.into()), "{mode}: {node:#}");
    }
    for witness in ["witness-a", "witness-b"] {
        let processed = engine.module(witness)["events_processed"].as_u64().unwrap();
        engine.module_until(witness, "goes on", |node| node["events_processed"].as_u64() > Some(processed + 20));
        assert_handled_every_block(&engine, witness);
        assert_eq!(engine.module(witness)["events_failed"], 0);
    }
    assert!(engine.log_text().contains("log lines dropped"), "the log bomb met its rate");
}

#[test]
fn a_module_that_rewrites_more_than_its_journal_may_keep_fails_instead_of_filling_the_disk() {
    let setup = Setup::new().mock(31337, FAST_CHAIN).with("[journal]\nbytes = 16_777_216\n");
    // 25 MiB in its first event, each rewrite with a flush.
    let rewrites = ("mode = \"rewrite-bomb\"", "mode = \"rewrite-bomb\"\nrepeat = 1000");
    let setup = hostile(setup, "rewrite-bomb", &[BUDGET, LONG, rewrites]);
    let engine = setup.module("recorder", "witness", &[]).start();
    let node = assert_dead(&engine, "rewrite-bomb", "journal quota");
    assert_eq!(node["dead_letters"], 1, "what it fails at is set aside like any event: {node:#}");
    engine.module_until("witness", "handles blocks", |node| node["events_processed"].as_u64() > Some(5));
    assert_handled_every_block(&engine, "witness");
}

/// The listings of an event take seconds together, and cost too little fuel for it to give its thread back for that. Did
/// it keep the thread until it is done, nobody could end it at its deadline.
#[test]
fn a_call_that_takes_its_time_again_and_again_keeps_no_thread_past_the_deadline() {
    let lists = ("mode = \"good\"", "mode = \"list-bomb\"\nkeys = 150_000\nrepeat = 60");
    let short = ("event_deadline = \"2s\"", "event_deadline = \"200ms\"");
    let patient = ("max_consecutive_failures = 10", "max_consecutive_failures = 1000000");
    let setup = Setup::new().mock(31337, FAST_CHAIN).module("recorder", "witness", &[]);
    let engine = setup.module("hostile", "list-bomb", &[lists, short, patient, QUICK]).start();
    eventually("it lists", || match engine.state_value("list-bomb", "gone") {
        Some(gone) if gone == 150_000 => Ok(()),
        gone => Err(format!("{gone:?} keys are gone: {:#}", engine.module("list-bomb"))),
    });
    let [failed, handled] = [("list-bomb", "events_failed"), ("witness", "events_processed")]
        .map(|(module, count)| engine.module(module)[count].as_u64().unwrap());
    engine.module_until("list-bomb", "is ended while it lists", |node| {
        let error = node["last_error"].as_str().unwrap_or_default();
        node["events_failed"].as_u64() > Some(failed) && error.contains("deadline: block took longer than 200ms")
    });
    engine.module_until("witness", "goes on", |node| node["events_processed"].as_u64() > Some(handled + 20));
    assert_handled_every_block(&engine, "witness");
    assert_eq!(engine.module("witness")["events_failed"], 0);
    assert!(engine.get("health_listen", "/live").starts_with("HTTP/1.1 200"));
    assert!(engine.get("health_listen", "/health").starts_with("HTTP/1.1 "), "it answers");
}

#[test]
fn a_listing_costs_what_it_goes_past_and_an_event_that_goes_past_too_much_fails() {
    // Of the few bytes that its keys have alone, two hundred listings would be allowed.
    let lists = ("mode = \"list-deleted\"", "mode = \"list-deleted\"\nkeys = 20_000\nrepeat = 200");
    let setup = hostile(Setup::new().mock(31337, FAST_CHAIN), "list-deleted", &[BUDGET, LONG, lists]);
    let engine = setup.module("recorder", "witness", &[]).start();
    let told = "more than 268435456 bytes read and copied for answers of host calls in one event";
    let node = assert_dead(&engine, "list-deleted", told);
    assert_eq!(node["dead_letters"], 1, "{node:#}");
    let letters = engine.json(&["dlq", "list", "list-deleted"]);
    let letter = engine.ctl(&["dlq", "show", "list-deleted", &letters[0]["seq"].to_string()]);
    assert!(letter.contains(told), "{letter}");
    engine.module_until("witness", "handles blocks", |node| node["events_processed"].as_u64() > Some(5));
    assert_handled_every_block(&engine, "witness");
}

#[test]
fn every_host_call_counts_and_every_dropped_line_too() {
    let calls = "[modules.limits]\nmax_host_calls_per_event = 1000";
    let setup = hostile(Setup::new().mock(31337, FAST_CHAIN), "print-bomb", &[]);
    let lines = ("mode = \"good\"", "mode = \"log-bomb\"\nrepeat = 2_000");
    let engine = setup.module("hostile", "chatty", &[lines, QUICK, BUDGET]).with(calls).start();
    assert_dead(&engine, "chatty", "more than 1000 host calls in one event");
    engine.module_until("print-bomb", "handles blocks", |node| node["events_processed"].as_u64() > Some(2));
    let metrics = engine.json(&["metrics"]);
    let dropped =
        metrics.as_array().unwrap().iter().find(|sample| {
            sample["name"] == "nexum_log_lines_dropped_total" && sample["labels"]["module"] == "print-bomb"
        });
    assert!(dropped.unwrap()["value"].as_f64() > Some(1000.0), "{dropped:?}");
}

#[test]
fn what_is_logged_and_printed_costs_as_much_as_it_is_long() {
    let fuel = ("max_fuel_per_event = 100_000_000", "max_fuel_per_event = 1_000_000_000");
    let setup = hostile(Setup::new().mock(31337, FAST_CHAIN), "huge-log", &[BUDGET, LONG, fuel]);
    let engine = hostile(setup, "line-ends", &[]).start();
    assert_dead(&engine, "huge-log", "bytes of arguments to host calls in one event");
    let node = engine.module_until("line-ends", "handles blocks", |node| node["events_processed"].as_u64() > Some(2));
    assert_eq!((&node["state"], &node["events_failed"]), (&"RUN".into(), &0.into()), "{node:#}");
}

#[test]
fn one_bad_event_goes_to_the_dead_letters_and_comes_back_on_order() {
    let from_the_first = ("kind = \"block\"\nchain_id = 31337", "kind = \"block\"\nchain_id = 31337\nstart_block = 1");
    let changes = [("mode = \"good\"", "mode = \"trap-on\"\non = 5"), QUICK, from_the_first];
    let engine = Setup::new().mock(31337, FAST_CHAIN).module("hostile", "picky", &changes).start();
    let node = engine.module_until("picky", "past the bad block", |node| {
        node["dead_letters"] == 1 && node["events_processed"].as_u64() > Some(10)
    });
    assert_eq!((&node["state"], &node["budget"]["spent"]), (&"RUN".into(), &0.into()), "{node:#}");
    let letters = engine.json(&["dlq", "list", "picky"]);
    let letter = letters.as_array().or_else(|| letters["letters"].as_array()).unwrap()[0].clone();
    assert_eq!(letter["attempts"], 3, "{letter:#}");
    let seq = letter["seq"].to_string();
    let shown = engine.ctl(&["dlq", "show", "picky", &seq]);
    assert!(shown.contains("trap"), "{shown}");
    // It fails again, as often as is tried: the letter counts that, and the module pays nothing.
    let restarts = engine.module("picky")["restarts"].clone();
    for attempt in 4..16 {
        let error = engine.try_ctl(&["dlq", "retry", "picky", &seq]).unwrap_err();
        assert!(error.contains("it failed again: trap"), "{error}");
        let node = engine.module("picky");
        assert_eq!((&node["state"], &node["restarts"]), (&"RUN".into(), &restarts), "{node:#}");
        assert_eq!(engine.json(&["dlq", "show", "picky", &seq])["attempts"], attempt);
    }
    let processed = engine.module("picky")["events_processed"].as_u64();
    engine.module_until("picky", "runs on", |node| node["events_processed"].as_u64() > processed.map(|n| n + 3));
    engine.ctl(&["dlq", "drop", "picky", &seq]);
    let left = engine.json(&["dlq", "list", "picky"]);
    assert_eq!(left.as_array().or_else(|| left["letters"].as_array()).map(Vec::len), Some(0), "{left:#}");
}

#[test]
fn an_error_of_megabytes_is_kept_and_shown_at_the_length_of_one() {
    let loud = ("mode = \"good\"", "mode = \"error-bomb\"\nrepeat = 2_000_000");
    let once = ("max_event_attempts = 3", "max_event_attempts = 1");
    let engine =
        Setup::new().mock(31337, FAST_CHAIN).module("hostile", "loud", &[loud, once, QUICK, BUDGET, LONG]).start();
    let node = assert_dead(&engine, "loud", "bytes cut]");
    assert!(node["last_error"].as_str().unwrap().len() < 2048, "{node:#}");
    assert!(node["dead_letters"].as_u64() > Some(0), "{node:#}");
    for args in [&["tree"][..], &["dlq", "list", "loud"], &["crash", "list", "loud"]] {
        assert!(engine.ctl(args).len() < 16 << 10 && engine.json(args).to_string().len() < 64 << 10, "{args:?}");
    }
    let letters = engine.json(&["dlq", "list", "loud"]);
    let shown = engine.json(&["dlq", "show", "loud", &letters[0]["seq"].to_string()]);
    let error = shown["error"].as_str().unwrap();
    assert!(error.starts_with("block failed: xxx") && error.len() < 2048, "{error}");
    let longest = engine.log_text().lines().map(str::len).max();
    assert!(longest < Some(8 << 10), "{longest:?}");
}

#[test]
fn what_was_flushed_survives_the_trap_and_the_event_is_handled_once() {
    let engine = hostile(Setup::new().mock(31337, FAST_CHAIN), "panic-once", &[]).start();
    // Between two attempts it is in RESTART.
    let node = engine.module_until("panic-once", "handled", |node| {
        node["events_processed"].as_u64() > Some(8) && node["state"] == "RUN"
    });
    assert_eq!(node["dead_letters"], 0, "{node:#}");
    assert!(node["events_failed"].as_u64() >= Some(1), "{node:#}");
}

#[test]
fn an_undeclared_import_does_not_load_and_is_named() {
    let engine = Setup::new()
        .mock(31337, FAST_CHAIN)
        .module("undeclared", "undeclared", &[])
        .module("recorder", "witness", &[])
        .start();
    let node = assert_dead(&engine, "undeclared", "nexum:host/http@0.3.0");
    assert!(node["last_error"].as_str().unwrap().contains("[capabilities]"), "{node:#}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn an_optional_capability_that_the_operator_denies_answers_unsupported() {
    let listed = "required = [\"local-store\", \"logging\"]";
    let optional = format!("{listed}\noptional = [\"http\"]");
    let hosts = "[capabilities.http]\nallow = [\"api.example.org\"]";
    let required = format!("required = [\"local-store\", \"logging\", \"http\"]\n{hosts}");
    let engine = Setup::new()
        .mock(31337, FAST_CHAIN)
        .module("undeclared", "optional", &[(listed, &optional)])
        .with("denied = [\"http\"]")
        .module("undeclared", "required", &[(listed, &required)])
        .with("denied = [\"http\"]")
        .start();
    let node = engine.module_until("optional", "was told", |node| node["last_error"].is_string());
    let told = "capability `http` is not granted to module optional (http: unsupported)";
    assert!(node["last_error"].as_str().unwrap().contains(told), "{node:#}");
    let tree = engine.json(&["tree"]).to_string();
    assert!(tree.contains("capability `http` is required but the operator denies it"), "{tree}");
}

#[test]
fn an_oversized_reply_is_refused_to_the_guest_alone() {
    let engine = hostile(Setup::new().mock(31337, FAST_CHAIN), "big-reply", &[]).start();
    engine.module_until("big-reply", "was asked", |node| {
        node["events_processed"].as_u64() > Some(3) || node["events_failed"].as_u64() > Some(0)
    });
}
