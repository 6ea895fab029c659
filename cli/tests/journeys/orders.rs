//! The operator's orders, and a clean end.

use super::engine::{FAST_CHAIN as CHAIN, Setup, eventually};

#[test]
fn pause_resume_restart_load_and_unload_touch_one_module_alone() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).module("recorder", "b", &[]);
    let late = setup.write_bundle("recorder", "late", &[]);
    let mut engine = setup.start();
    let processed = |engine: &super::engine::Engine, name: &str| engine.module(name)["events_processed"].as_u64();
    engine.module_until("a", "runs", |node| node["events_processed"].as_u64() > Some(5));

    engine.ctl(&["module", "pause", "a"]);
    assert_eq!(engine.module("a")["state"], "PAUSED");
    let (paused, other) = (processed(&engine, "a"), processed(&engine, "b"));
    engine.module_until("b", "goes on", |node| node["events_processed"].as_u64() > other.map(|count| count + 10));
    assert_eq!(processed(&engine, "a"), paused);

    // Paused outlives the process, and so does every event that came meanwhile.
    assert!(engine.terminate().success(), "{}", engine.log_text());
    engine.launch();
    engine.module_until("a", "still paused", |node| node["state"] == "PAUSED");
    engine.ctl(&["module", "resume", "a"]);
    engine.module_until("a", "runs again", |node| node["state"] == "RUN");

    engine.ctl(&["module", "load", late.to_str().unwrap()]);
    engine.module_until("late", "runs", |node| node["events_processed"].as_u64() > Some(3));
    let twice = engine.try_ctl(&["module", "load", late.to_str().unwrap()]).unwrap_err();
    assert!(twice.contains("loaded already"), "{twice}");
    engine.ctl(&["module", "restart", "late"]);
    engine.module_until("late", "runs", |node| node["state"] == "RUN");
    engine.ctl(&["module", "unload", "late"]);
    let unknown = engine.try_ctl(&["module", "pause", "late"]).unwrap_err();
    assert!(unknown.contains("no module `late`"), "{unknown}");
    assert!(engine.terminate().success());
}

#[test]
fn what_was_loaded_and_unloaded_stays_so_until_the_configuration_changes() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).module("recorder", "b", &[]);
    let (late, early) = (setup.write_bundle("recorder", "late", &[]), setup.dir.path().join("a"));
    let mut engine = setup.start();
    let names = |engine: &super::engine::Engine| -> Vec<String> {
        let modules = engine.json(&["module", "list"]);
        modules.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    };
    engine.ctl(&["module", "load", late.to_str().unwrap()]);
    engine.ctl(&["module", "unload", "a"]);
    assert_eq!(names(&engine), ["b", "late"]);
    // Over the end of the supervisor, and of the process, in order and at once.
    engine.ctl(&["service", "restart", "modules", "--kill"]);
    eventually("the supervisor is back", || match names(&engine) {
        names if names == ["b", "late"] => Ok(()),
        names => Err(format!("{names:?}")),
    });
    engine.module_until("late", "runs", |node| node["state"] == "RUN");
    assert!(engine.terminate().success());
    engine.launch();
    assert_eq!(names(&engine), ["b", "late"]);
    engine.kill9();
    engine.launch();
    assert_eq!(names(&engine), ["b", "late"]);

    // The configured one comes back as configured; what was loaded goes for good.
    engine.ctl(&["module", "load", early.to_str().unwrap()]);
    engine.ctl(&["module", "unload", "late"]);
    engine.kill9();
    engine.launch();
    assert_eq!(names(&engine), ["a", "b"]);

    // Unloaded as it was configured then; a module that is configured otherwise is another matter.
    engine.ctl(&["module", "unload", "a"]);
    assert!(engine.terminate().success());
    let config = std::fs::read_to_string(&engine.config).unwrap();
    let source = format!("source = \"{}\"\n", early.display());
    let changed = config.replace(&source, &format!("{source}denied = [\"http\"]\n"));
    assert_ne!(changed, config);
    std::fs::write(&engine.config, changed).unwrap();
    engine.launch();
    assert_eq!(names(&engine), ["a", "b"]);
    let kept = std::fs::read_to_string(engine.dir.path().join("state/modules.json")).unwrap();
    assert!(kept.contains("changes"), "{kept}");
    std::fs::write(engine.dir.path().join("state/modules.json"), "{").unwrap();
    assert!(engine.terminate().success());
    engine.spawn();
    assert_eq!(engine.wait().code(), Some(1));
    let log = engine.log_text();
    assert!(log.contains("without this file the modules of the configuration run"), "{log}");
}

#[test]
fn a_restore_brings_back_which_modules_ran_at_the_backup() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).module("recorder", "b", &[]);
    let late = setup.write_bundle("recorder", "late", &[]);
    let mut engine = setup.start();
    let names = |engine: &super::engine::Engine| -> Vec<String> {
        let modules = engine.json(&["module", "list"]);
        modules.as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    };
    let state = engine.dir.path().join("state");
    let backup = |name: &str| engine.dir.path().join(name).to_str().unwrap().to_owned();
    let (plain, ordered) = (backup("plain"), backup("ordered"));
    engine.ctl(&["state", "backup", "--to", &plain]);
    engine.ctl(&["module", "load", late.to_str().unwrap()]);
    engine.ctl(&["module", "unload", "a"]);
    engine.ctl(&["state", "backup", "--to", &ordered]);
    engine.ctl(&["module", "unload", "late"]);
    for (from, expected) in [(&ordered, ["b", "late"]), (&plain, ["a", "b"])] {
        assert!(engine.terminate().success());
        std::fs::remove_dir_all(state.join("store")).unwrap();
        let restored = std::process::Command::new(env!("CARGO_BIN_EXE_nexum"))
            .args(["state", "restore", "--from", from, "--state-dir", state.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        engine.launch();
        assert_eq!(names(&engine), expected);
    }
}

#[test]
fn dead_is_left_only_by_order_and_survives_the_process() {
    let changes = [
        ("mode = \"good\"", "mode = \"trap\""),
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"20ms\"]"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 2"),
    ];
    let mut engine = Setup::new().mock(31337, CHAIN).module("hostile", "bad", &changes).start();
    engine.module_until("bad", "DEAD", |node| node["state"] == "DEAD");
    engine.kill9();
    engine.launch();
    let node = engine.module_until("bad", "still DEAD", |node| node["state"] == "DEAD");
    assert!(node["last_error"].as_str().unwrap().contains("budget spent 2/2"), "{node:#}");
    engine.ctl(&["module", "restart", "bad"]);
    engine.module_until("bad", "tried again", |node| node["restarts"].as_u64() > Some(1));
}
