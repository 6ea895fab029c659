//! Events that end the process: counted over its deaths, tried alone and set aside; and who does not pay for them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
};

/// Nothing but the end of the process ends it.
const ENDLESS: (&str, &str) = ("max_fuel_per_event = 100_000_000", "max_fuel_per_event = 100_000_000_000");
const PATIENT: (&str, &str) = ("event_deadline = \"2s\"", "event_deadline = \"10m\"");

fn killer(setup: Setup, mode: &str) -> Setup {
    let setup = setup.module("hostile", "killer", &[("mode = \"good\"", mode), ENDLESS, PATIENT, FROM_THE_FIRST]);
    setup.module("recorder", "witness", &[FROM_THE_FIRST])
}

/// Waits until the hostile module has begun to spin so many times.
fn spins(engine: &Engine, times: usize) {
    says(engine, "spinning", times);
}

/// Waits until the log has said it so many times.
fn says(engine: &Engine, what: &str, times: usize) {
    eventually(what, || match engine.log_text().matches(what).count() {
        count if count >= times => Ok(()),
        count => Err(format!("{count} of {times} times")),
    });
}

/// Asks for an end in order, waits until the engine has begun with it for so many times, and gives up waiting.
fn terminate_then_kill(engine: &mut Engine, times: usize) {
    engine.signal("TERM");
    says(engine, "stopping: modules finish", times);
    engine.kill9();
}

#[test]
fn an_event_that_ends_the_process_each_time_becomes_a_dead_letter_and_its_neighbour_pays_nothing() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 3\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 3").start();
    (0..4).for_each(|_| anvil.mine());
    engine.module_until("witness", "has handled all", |node| node["cursors"]["chain:31337"] == "4");
    for deaths in 1..=3 {
        spins(&engine, deaths);
        engine.kill9();
        engine.launch();
    }
    let node = engine.module_until("killer", "is past it", |node| node["cursors"]["chain:31337"] == "4");
    assert_eq!(
        (&node["state"], &node["dead_letters"], &node["budget"]["spent"]),
        (&"RUN".into(), &1.into(), &0.into())
    );
    // The first time it may have been another module.
    assert!(node["restarts"].as_u64() >= Some(2), "{node:#}");
    let letters = engine.json(&["dlq", "list", "killer"]);
    let shown = engine.json(&["dlq", "show", "killer", &letters[0]["seq"].to_string()]);
    assert!(shown["event"].as_str().unwrap().starts_with("block:31337:3:0x"), "{shown:#}");
    assert_eq!((&shown["attempts"], &shown["error"]), (&3.into(), &"the process died 3 times while it ran".into()));

    anvil.mine();
    for module in ["killer", "witness"] {
        engine.module_until(module, "goes on", |node| node["cursors"]["chain:31337"] == "5");
    }
    let node = engine.module("witness");
    assert_eq!((&node["dead_letters"], &node["restarts"]), (&0.into(), &0.into()), "{node:#}");
    assert_eq!(engine.log_text().matches("spinning").count(), 3);
}

#[test]
fn whoever_waits_for_an_event_that_is_tried_alone_says_so() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 3\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 1").start();
    anvil.mine();
    engine.module_until("witness", "has handled it", |node| node["cursors"]["chain:31337"] == "1");
    spins(&engine, 1);
    engine.kill9();
    engine.launch();
    spins(&engine, 2);
    anvil.mine();
    let why = |text: &str| text.contains("an event of another module that is tried alone");
    engine.module_until("witness", "waits", |node| node["waits"]["reason"].as_str().is_some_and(why));
    eventually("the metric shows it", || match engine.metric("nexum_turn_wait_seconds", &[]) {
        seconds if seconds >= 1.0 => Ok(()),
        seconds => Err(format!("{seconds} s")),
    });
    let health = engine.get("health_listen", "/health");
    assert!(why(&health), "{health}");
    engine.module_until("witness", "shows it", |node| node["summary"].as_str().is_some_and(why));
}

#[test]
fn an_event_that_holds_up_the_end_until_a_probe_loses_its_patience_becomes_a_dead_letter() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 3\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 2").start();
    (0..3).for_each(|_| anvil.mine());
    engine.module_until("witness", "has handled all", |node| node["cursors"]["chain:31337"] == "3");
    for deaths in 1..=3 {
        spins(&engine, deaths);
        terminate_then_kill(&mut engine, deaths);
        engine.launch();
    }
    let node = engine.module_until("killer", "is past it", |node| node["cursors"]["chain:31337"] == "3");
    assert_eq!((&node["state"], &node["dead_letters"]), (&"RUN".into(), &1.into()), "{node:#}");
    let letters = engine.json(&["dlq", "list", "killer"]);
    let shown = engine.json(&["dlq", "show", "killer", &letters[0]["seq"].to_string()]);
    assert_eq!((&shown["attempts"], &shown["error"]), (&3.into(), &"the process died 3 times while it ran".into()));
    let node = engine.module_until("witness", "runs", |node| node["state"] == "RUN");
    assert_eq!((&node["dead_letters"], &node["restarts"]), (&0.into(), &0.into()), "{node:#}");
    assert_eq!(engine.log_text().matches("spinning").count(), 3);
}

#[test]
fn an_engine_that_a_second_signal_ends_holds_nothing_against_the_event() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 1").start();
    anvil.mine();
    for stops in 1..=3 {
        spins(&engine, stops);
        engine.signal("TERM");
        says(&engine, "stopping: modules finish", stops);
        engine.signal("INT");
        assert_eq!(engine.wait().code(), Some(130));
        engine.launch();
    }
    spins(&engine, 4);
    let node = engine.module("killer");
    assert_eq!((&node["dead_letters"], &node["restarts"]), (&0.into(), &0.into()), "{node:#}");
}

#[test]
fn an_engine_that_is_stopped_in_order_during_an_event_holds_nothing_against_it() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 1").prepare();
    engine.under = ["env", "NEXUM_ENGINE__SHUTDOWN_DEADLINE=100ms"].map(str::to_owned).to_vec();
    engine.launch();
    anvil.mine();
    for stops in 1..=3 {
        spins(&engine, stops);
        assert!(engine.terminate().success(), "{}", engine.log_text());
        engine.launch();
    }
    spins(&engine, 4);
    let node = engine.module("killer");
    assert_eq!((&node["dead_letters"], &node["restarts"]), (&0.into(), &0.into()), "{node:#}");
}

#[test]
fn a_terminal_that_is_closed_ends_the_engine_in_order() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 1").prepare();
    engine.under = ["env", "NEXUM_ENGINE__SHUTDOWN_DEADLINE=500ms"].map(str::to_owned).to_vec();
    engine.launch();
    anvil.mine();
    for (stops, name) in (1..).zip(["HUP", "QUIT", "HUP"]) {
        spins(&engine, stops);
        engine.signal(name);
        says(&engine, "stopping: modules finish", stops);
        // The shell tells of it, too.
        engine.signal("HUP");
        assert!(engine.wait().success(), "{}", engine.log_text());
        engine.launch();
    }
    spins(&engine, 4);
    let node = engine.module("killer");
    assert_eq!((&node["dead_letters"], &node["restarts"]), (&0.into(), &0.into()), "{node:#}");
}

#[test]
fn an_engine_that_is_to_outlive_its_terminal_does() {
    let anvil = Anvil::start();
    let mut engine = killer(Setup::new().chain(31337, &[anvil.ws()]), "mode = \"good\"").prepare();
    engine.under = vec!["nohup".to_owned()];
    engine.launch();
    engine.signal("HUP");
    anvil.mine();
    engine.module_until("witness", "goes on", |node| node["cursors"]["chain:31337"] == "1");
    assert!(engine.terminate().success());
}

#[test]
fn a_module_that_ends_the_process_in_init_is_given_up_until_the_operator_starts_it_again() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"init-spin\"").start();
    for deaths in 1..=2 {
        spins(&engine, deaths);
        engine.kill9();
        engine.launch();
    }
    for _ in 0..2 {
        let node = engine.module_until("killer", "is given up", |node| node["state"] == "DEAD");
        assert_eq!(node["last_error"], "the process died 2 times while this module was started", "{node:#}");
        engine.module_until("witness", "runs", |node| node["state"] == "RUN");
        assert!(engine.terminate().success());
        engine.launch();
    }
    engine.ctl(&["module", "restart", "killer"]);
    spins(&engine, 3);
}

/// Gives an order that ends the process, which says that it spins for so many times by then.
fn dies_of(engine: &mut Engine, order: &[&str], spinning: usize) {
    std::thread::scope(|scope| {
        let ordered = scope.spawn(|| engine.try_ctl(order));
        spins(engine, spinning);
        engine.signal("KILL");
        assert!(ordered.join().unwrap().is_err(), "nobody answers {order:?}");
    });
    engine.wait();
    engine.launch();
}

fn pays_nothing(engine: &Engine, name: &str) {
    let node = engine.module_until(name, "runs", |node| node["state"] == "RUN");
    let paid = (&node["dead_letters"], &node["restarts"], &node["budget"]["spent"]);
    assert_eq!(paid, (&0.into(), &0.into(), &0.into()), "{node:#}");
}

#[test]
fn a_retry_that_ends_the_process_stays_a_dead_letter_and_is_refused_after_a_while() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 2").start();
    (0..2).for_each(|_| anvil.mine());
    engine.module_until("witness", "has handled all", |node| node["cursors"]["chain:31337"] == "2");
    for deaths in 1..=2 {
        spins(&engine, deaths);
        engine.kill9();
        engine.launch();
    }
    let before = engine.module_until("killer", "is past it", |node| node["cursors"]["chain:31337"] == "2");
    let seq = engine.json(&["dlq", "list", "killer"])[0]["seq"].to_string();
    for retries in 1..=2 {
        engine.module_until("killer", "runs", |node| node["state"] == "RUN");
        dies_of(&mut engine, &["dlq", "retry", "killer", &seq], 2 + retries);
        let node = engine.module_until("killer", "runs", |node| node["state"] == "RUN");
        let paid = (&node["dead_letters"], &node["restarts"], &node["budget"]);
        assert_eq!(paid, (&1.into(), &before["restarts"], &before["budget"]), "{node:#}");
        pays_nothing(&engine, "witness");
    }
    let refused = engine.try_ctl(&["dlq", "retry", "killer", &seq]).unwrap_err();
    assert!(refused.contains("the process died 2 times while letter"), "{refused}");
    assert_eq!(engine.log_text().matches("spinning").count(), 4);
    anvil.mine();
    for module in ["killer", "witness"] {
        engine.module_until(module, "goes on", |node| node["cursors"]["chain:31337"] == "3");
    }
}

#[test]
fn a_version_that_ends_the_process_when_it_is_tried_is_not_upgraded_to_and_refused_after_a_while() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let next = killer_of(&setup, "next");
    let mut engine = killer(setup, "mode = \"good\"").start();
    let upgrade = ["module", "upgrade", "killer", next.to_str().unwrap()];
    for trials in 1..=2 {
        engine.module_until("killer", "runs", |node| node["state"] == "RUN");
        dies_of(&mut engine, &upgrade, trials);
        for module in ["killer", "witness"] {
            pays_nothing(&engine, module);
        }
        assert_eq!(engine.module("killer")["version"], "0.3.0");
    }
    let refused = engine.try_ctl(&upgrade).unwrap_err();
    assert!(refused.contains("the process died 2 times while it was loaded or tried"), "{refused}");
    anvil.mine();
    engine.module_until("killer", "goes on", |node| node["cursors"]["chain:31337"] == "1");
    assert_eq!(engine.log_text().matches("spinning").count(), 2);
}

/// The bundle of a further version, the `init` of which ends the process.
fn killer_of(setup: &Setup, directory: &str) -> PathBuf {
    let changes = [("mode = \"good\"", "mode = \"init-spin\""), ("\"0.3.0\"", "\"0.4.0\""), ENDLESS, PATIENT];
    let dir = setup.write_bundle("hostile", directory, &changes);
    rewrite(&dir, &format!("name = \"{directory}\""), "name = \"killer\"");
    dir
}

/// Changes the manifest of a bundle.
fn rewrite(bundle: &Path, from: &str, to: &str) {
    let manifest = bundle.join("nexum.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&manifest, text.replace(from, to)).unwrap();
}

#[test]
fn an_init_that_fails_after_a_death_has_not_ended_the_process() {
    let anvil = Anvil::start();
    let setup = Setup::new().restart("[restart]\nmax_process_deaths = 2\n").chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"init-spin\"").start();
    let bundle = engine.dir.path().join("killer");
    spins(&engine, 1);
    engine.kill9();
    rewrite(&bundle, "init-spin", "init-error");
    engine.launch();
    engine.module_until("killer", "has failed", |node| node["state"] == "RESTART");
    engine.kill9();
    rewrite(&bundle, "init-error", "init-spin");
    // Another two deaths are needed.
    for spinning in 2..=3 {
        engine.launch();
        spins(&engine, spinning);
        engine.kill9();
    }
    engine.launch();
    let node = engine.module_until("killer", "is given up", |node| node["state"] == "DEAD");
    assert_eq!(node["last_error"], "the process died 2 times while this module was started", "{node:#}");
}

#[test]
fn a_module_that_is_not_configured_any_more_is_no_suspect() {
    let anvil = Anvil::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]);
    let mut engine = killer(setup, "mode = \"spin-on\"\non = 1").start();
    anvil.mine();
    spins(&engine, 1);
    engine.kill9();
    let marks = engine.dir.path().join("state/begun");
    let knows = |name: &[u8]| fs::read(&marks).unwrap().windows(name.len()).any(|bytes| bytes == name);
    assert!(knows(b"killer"));
    let configured = format!("[[modules]]\nsource = \"{}\"\n", engine.dir.path().join("killer").display());
    let config = fs::read_to_string(&engine.config).unwrap();
    assert!(config.contains(&configured), "{config}");
    fs::write(&engine.config, config.replace(&configured, "")).unwrap();
    engine.launch();
    engine.module_until("witness", "runs", |node| node["state"] == "RUN");
    assert!(knows(b"witness") && !knows(b"killer"));
}
