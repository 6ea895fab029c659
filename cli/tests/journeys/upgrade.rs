//! Upgrades in place: the new version runs on the old one's state, or the old one goes on as if nothing had happened.

use std::{fs, time::Duration};

use nexum_testkit::wasm;
use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{Engine, FAST_CHAIN as CHAIN, FROM_THE_FIRST, Setup},
    prove_exactly_once::{Moments, check, mine_some, recording},
};

const VERSION: (&str, &str) = ("version = \"0.3.0\"", "version = \"0.4.0\"");

fn upgrade(engine: &Engine, bundle: &std::path::Path) -> Value {
    engine.json(&["module", "upgrade", "m", bundle.to_str().unwrap()])
}

fn refused(engine: &Engine, bundle: &std::path::Path) -> String {
    engine.try_ctl(&["module", "upgrade", "m", bundle.to_str().unwrap()]).unwrap_err()
}

/// Writes a bundle of `hostile` under the name of the running module, in a directory of its own.
fn version(setup: &Setup, directory: &str, changes: &[(&str, &str)]) -> std::path::PathBuf {
    version_of(setup, "hostile", directory, changes)
}

/// The same of any bundle.
fn version_of(setup: &Setup, bundle: &str, directory: &str, changes: &[(&str, &str)]) -> std::path::PathBuf {
    let dir = setup.write_bundle(bundle, directory, changes);
    let manifest = dir.join("nexum.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace(&format!("name = \"{directory}\""), "name = \"m\"")).unwrap();
    dir
}

#[test]
fn a_new_version_runs_on_inherited_state_and_is_there_after_a_restart() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "m", &[FROM_THE_FIRST]);
    let next = version(&setup, "next", &[VERSION, ("mode = \"good\"", "mode = \"init-flush\"")]);
    let mut engine = setup.start();
    engine.module_until("m", "runs", |node| node["events_processed"].as_u64() > Some(10));
    let before = engine.module("m");

    // It may reach more than the one that runs: `chain`, `logging`, and hosts.
    let asked = refused(&engine, &next);
    assert!(asked.contains("(capability `chain`, capability `logging`, capability `http`, host"), "{asked}");
    assert!(asked.contains("): say --allow-capabilities"), "{asked}");
    assert_eq!(engine.module("m")["version"], "0.3.0");
    let done = engine.json(&["module", "upgrade", "m", next.to_str().unwrap(), "--allow-capabilities"]);
    assert_eq!((&done["from"], &done["to"], &done["state"]), (&"0.3.0".into(), &"0.4.0".into(), &"RUN".into()));

    let node = engine.module("m");
    assert_ne!(node["component"], before["component"]);
    assert_eq!((&node["version"], &node["restarts"]), (&"0.4.0".into(), &0.into()), "{node:#}");
    // What the old one wrote is there, what `init` wrote too, and the new one goes on where the old one was.
    let recorded = engine.state("m", "b/").len() as u64;
    assert!(recorded > 10);
    assert_eq!(engine.state("m", "init"), [("init".to_owned(), Value::Bool(true))]);
    let counted = |engine: &Engine| engine.state("m", "count").first().map_or(0, |(_, count)| count.as_u64().unwrap());
    engine.module_until("m", "goes on", |node| node["events_processed"].as_u64() > Some(recorded + 10));
    for restarted in [false, true] {
        if restarted {
            engine.kill9();
            engine.launch();
            engine.module_until("m", "is back", |node| node["state"] == "RUN" && node["version"] == "0.4.0");
        }
        engine.ctl(&["module", "pause", "m"]);
        let cursor: u64 = engine.module("m")["cursors"]["chain:31337"].as_str().unwrap().parse().unwrap();
        assert_eq!(recorded + counted(&engine), cursor, "each block once, by the one version or the other");
        engine.ctl(&["module", "resume", "m"]);
    }
}

#[test]
fn a_version_that_wants_more_hosts_waits_for_the_operator() {
    let allow = |hosts: &'static str| ("allow = [\"127.0.0.1\"]", hosts);
    // It sends nothing, and is not told off for it.
    let quiet = ("mode = \"lane\"", "mode = \"fetch\"");
    let setup = Setup::new().mock(31337, CHAIN).module("sender", "m", &[quiet, allow("allow = [\"*.example.org\"]")]);
    let narrower =
        version_of(&setup, "sender", "narrower", &[VERSION, quiet, allow("allow = [\"hooks.example.org\"]")]);
    let wider = version_of(
        &setup,
        "sender",
        "wider",
        &[quiet, allow("allow = [\"hooks.example.org\", \"*.evil.org\", \"10.0.0.1\"]")],
    );
    let engine = setup.start();
    engine.module_until("m", "runs", |node| node["state"] == "RUN");
    assert_eq!(upgrade(&engine, &narrower)["to"], "0.4.0");

    let asked = refused(&engine, &wider);
    assert!(asked.contains("(host `*.evil.org`, host `10.0.0.1`): say --allow-capabilities"), "{asked}");
    // Typed as said it must be the same order again: nothing that leaves the bundle away.
    assert!(!asked.contains("module upgrade m"), "{asked}");
    assert_eq!(engine.module("m")["version"], "0.4.0");
    // A bundle that was changed in place waits for the same word.
    let bundle = narrower.join("nexum.toml");
    let before = fs::read_to_string(&bundle).unwrap();
    fs::write(&bundle, before.replace("\"hooks.example.org\"", "\"hooks.example.org\", \"*.evil.org\"")).unwrap();
    let asked = engine.try_ctl(&["module", "restart", "m"]).unwrap_err();
    assert!(
        asked.contains("(host `*.evil.org`)") && asked.contains("module upgrade m --allow-capabilities"),
        "{asked}"
    );
    let node = engine.module("m");
    assert_eq!((&node["state"], &node["restarts"], &node["version"]), (&"RUN".into(), &0.into(), &"0.4.0".into()));
    fs::write(&bundle, before).unwrap();
    engine.ctl(&["module", "restart", "m"]);

    let done = engine.json(&["module", "upgrade", "m", wider.to_str().unwrap(), "--allow-capabilities"]);
    assert_eq!(done["to"], "0.3.0");
}

#[test]
fn a_dead_module_that_needs_more_is_given_it_by_an_upgrade_in_place() {
    let fails = [
        ("mode = \"good\"", "mode = \"init-error\""),
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"20ms\"]"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 2"),
    ];
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "m", &fails);
    let mended = version(&setup, "mended", &[("\"logging\"]", "\"logging\", \"random\"]")]);
    let engine = setup.start();
    engine.module_until("m", "DEAD", |node| node["state"] == "DEAD");
    fs::copy(mended.join("nexum.toml"), mended.with_file_name("m").join("nexum.toml")).unwrap();
    let asked = engine.try_ctl(&["module", "restart", "m"]).unwrap_err();
    assert!(asked.contains("(capability `random`)"), "{asked}");
    assert_eq!(engine.module("m")["state"], "DEAD");
    engine.ctl(&["module", "upgrade", "m", "--allow-capabilities"]);
    engine.module_until("m", "runs", |node| node["events_processed"].as_u64() > Some(0));
    // It is the one to compare with from now on.
    engine.ctl(&["module", "restart", "m"]);
}

#[test]
fn a_version_that_cannot_start_changes_nothing() {
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "m", &[FROM_THE_FIRST]);
    let traps = version(&setup, "traps", &[VERSION, ("mode = \"good\"", "mode = \"init-flush-trap\"")]);
    let fails = version(&setup, "fails", &[VERSION, ("mode = \"good\"", "mode = \"init-error\"")]);
    let damaged = version(&setup, "damaged", &[VERSION]);
    fs::write(damaged.join("module.wasm"), wasm::COMPONENT).unwrap();
    let stranger = setup.write_bundle("hostile", "stranger", &[]);
    let engine = setup.start();
    engine.module_until("m", "runs", |node| node["events_processed"].as_u64() > Some(3));

    let said = refused(&engine, &traps);
    assert!(said.contains("`m` goes on as it was; the new version was refused: trap"), "{said}");
    assert_eq!(engine.state("m", "init"), [], "what a refused init flushed is not there");
    let said = refused(&engine, &fails);
    assert!(said.contains("init fails, as configured"), "{said}");
    let said = refused(&engine, &damaged);
    assert!(said.contains("but the manifest names sha256:"), "{said}");
    let said = refused(&engine, &stranger);
    assert!(said.contains("holds module `stranger`, not `m`"), "{said}");
    let said = refused(&engine, &engine.dir.path().join("nowhere"));
    assert!(said.contains("nowhere"), "{said}");

    let node = engine.module("m");
    let facts = (&node["state"], &node["version"], &node["restarts"], &node["budget"]["spent"], &node["events_failed"]);
    assert_eq!(facts, (&"RUN".into(), &"0.3.0".into(), &0.into(), &0.into(), &0.into()), "{node:#}");
    let processed = node["events_processed"].as_u64();
    engine.module_until("m", "goes on", |node| node["events_processed"].as_u64() > processed.map(|n| n + 5));
    engine.ctl(&["module", "pause", "m"]);
    let cursor = engine.module("m")["cursors"]["chain:31337"].as_str().unwrap().to_owned();
    assert_eq!(engine.state("m", "count")[0].1.to_string(), cursor, "no block lost and none twice");
}

#[test]
fn a_module_that_does_not_run_takes_the_new_version_as_it_is() {
    let changes = [
        ("mode = \"good\"", "mode = \"trap\""),
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"20ms\"]"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 2"),
    ];
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "m", &changes);
    let good = version(&setup, "good", &[VERSION]);
    let engine = setup.start();
    engine.module_until("m", "DEAD", |node| node["state"] == "DEAD");
    upgrade(&engine, &good);
    engine.module_until("m", "runs", |node| node["version"] == "0.4.0" && node["events_processed"].as_u64() > Some(3));

    // A paused one stays paused. A bundle that was changed in its place is read again.
    engine.ctl(&["module", "pause", "m"]);
    let manifest = good.join("nexum.toml");
    fs::write(&manifest, fs::read_to_string(&manifest).unwrap().replace("0.4.0", "0.5.0")).unwrap();
    let done = engine.json(&["module", "upgrade", "m"]);
    assert_eq!((&done["from"], &done["to"], &done["state"]), (&"0.4.0".into(), &"0.5.0".into(), &"PAUSED".into()));
    engine.ctl(&["module", "resume", "m"]);
    engine.module_until("m", "runs", |node| node["version"] == "0.5.0" && node["state"] == "RUN");
}

#[test]
fn upgrades_between_events_lose_none_and_repeat_none() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = recording(&anvil, &emitter);
    engine.module_until("recorder", "runs", |node| node["state"] == "RUN");
    let mut moments = Moments(0x7777_1234_abcd_ef01);
    let manifest = engine.dir.path().join("recorder/nexum.toml");
    for round in 0..6 {
        mine_some(&anvil, &emitter, &mut moments);
        let text = fs::read_to_string(&manifest).unwrap();
        let (from, to) = (format!("version = \"0.3.{round}\""), format!("version = \"0.3.{}\"", round + 1));
        assert!(text.contains(&from));
        fs::write(&manifest, text.replace(&from, &to)).unwrap();
        engine.ctl(&["module", "upgrade", "recorder"]);
        mine_some(&anvil, &emitter, &mut moments);
    }
    check(&anvil, &emitter, &engine);
    assert_eq!(engine.module("recorder")["version"], "0.3.6");
}

#[test]
fn an_engine_killed_in_an_upgrade_never_runs_the_old_version_on_what_the_new_one_made() {
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "m", &[FROM_THE_FIRST]);
    let next = version(&setup, "next", &[VERSION, ("mode = \"good\"", "mode = \"init-flush\"")]);
    let mut engine = setup.start();
    let mut moments = Moments(0x3c6e_f372_fe94_f82b);
    let upgraded = |engine: &Engine| engine.module("m")["version"] == "0.4.0";
    engine.module_until("m", "runs", |node| node["state"] == "RUN");
    for _ in 0..8 {
        if upgraded(&engine) {
            break;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| engine.raw_ctl(&["module", "upgrade", "m", next.to_str().unwrap()]));
            std::thread::park_timeout(Duration::from_millis(moments.below(80)));
            engine.signal("KILL");
        });
        engine.wait();
        engine.launch();
        engine.module_until("m", "is back", |node| node["state"] == "RUN");
        let wrote = !engine.state("m", "init").is_empty();
        assert_eq!(wrote, upgraded(&engine), "the version that runs is the one that initialised the state");
    }
    if !upgraded(&engine) {
        engine.json(&["module", "upgrade", "m", next.to_str().unwrap()]);
    }
    engine.ctl(&["module", "pause", "m"]);
    let node = engine.module("m");
    let cursor: u64 = node["cursors"]["chain:31337"].as_str().unwrap().parse().unwrap();
    let counted = engine.state("m", "count").first().and_then(|(_, count)| count.as_u64());
    assert_eq!((counted, &node["version"]), (Some(cursor), &"0.4.0".into()), "each block once");
}
