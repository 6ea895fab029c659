//! What an operator sees and does, where a module, a pipe or another process is against it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    engine::{Engine, FAST_CHAIN as CHAIN, Setup, eventually, free_port},
    hostile::QUICK,
    outbox::sender,
};

/// An engine that logs text, as most people read it.
fn with_text_log(setup: Setup) -> Engine {
    let engine = setup.prepare();
    let config = fs::read_to_string(&engine.config).unwrap();
    fs::write(&engine.config, config.replace("log_format = \"json\"", "log_format = \"pretty\"")).unwrap();
    engine
}

#[test]
fn a_module_forges_no_line_and_sends_nothing_to_the_operators_terminal() {
    let mode = "mode = \"x\\n2026-01-01T00:00:00Z  INFO nexum: FORGED \\u001b[2J\\u202e\"";
    let setup = Setup::new().mock(31337, CHAIN).module("hostile", "evil", &[("mode = \"good\"", mode), QUICK]);
    let mut engine = with_text_log(setup);
    engine.launch();
    let node = engine.module_until("evil", "DEAD", |node| node["state"] == "DEAD");
    assert!(node["last_error"].as_str().unwrap().contains("FORGED \u{1b}[2J"), "the module said it: {node:#}");
    let texts = [
        ("the log", engine.log_text()),
        ("tree", engine.ctl(&["tree"])),
        ("state inspect", engine.ctl(&["state", "inspect", "evil"])),
        ("logs", engine.ctl(&["logs"])),
        ("logs --json", engine.ctl(&["logs", "--json"])),
        ("tree --json", engine.ctl(&["tree", "--json"])),
    ];
    for (what, text) in texts {
        assert!(text.contains("FORGED"), "{what}: {text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{what}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{what}: {text}");
    }
}

#[test]
fn a_stderr_that_nobody_reads_stops_neither_the_engine_nor_its_end() {
    let bomb = ("mode = \"good\"", "mode = \"log-bomb\"\nrepeat = 600");
    // Together their bursts are more than the pipe and the queue hold.
    let names: Vec<String> = (0..12).map(|n| format!("chatty-{n}")).collect();
    let setup = names.iter().fold(Setup::new().mock(31337, CHAIN), |setup, name| {
        setup.module("hostile", name, &[bomb, QUICK, ("event_deadline = \"2s\"", "event_deadline = \"60s\"")])
    });
    let mut engine = setup.prepare();
    // The end that would be read stays open in this process.
    engine.launch_with(|command| _ = command.stderr(Stdio::piped()));
    eventually("lines are dropped", || match engine.metric("nexum_stderr_lines_dropped_total", &[]) > 0.0 {
        true => Ok(()),
        false => Err("none".to_owned()),
    });
    let processed = engine.module("chatty-0")["events_processed"].as_u64();
    engine.module_until("chatty-0", "goes on", |node| node["events_processed"].as_u64() > processed.map(|n| n + 3));
    let live = engine.get("health_listen", "/live");
    assert!(live.starts_with("HTTP/1.1 200"), "{live}");
    assert!(engine.terminate().success());
}

#[test]
fn without_a_store_of_certificates_only_what_needs_tls_fails_and_says_why() {
    let port = free_port();
    let url = format!("https://127.0.0.1:{port}");
    let setup = sender(Setup::new().mock(31337, CHAIN), &url, "fetch", &[]).chain(1, std::slice::from_ref(&url));
    let mut engine = setup.prepare();
    let missing = engine.dir.path().join("no-certificates");
    engine.launch_with(|command| _ = command.env("SSL_CERT_FILE", &missing).env("SSL_CERT_DIR", &missing));
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    let seen = eventually("the module fetched", || {
        engine.state("sender", "f/").into_iter().next().map(|(_, value)| value).ok_or_else(|| engine.log_text())
    });
    let seen = seen.as_str().unwrap();
    assert!(seen.starts_with("Unavailable: http: the engine cannot set up TLS: "), "{seen}");
    assert!(engine.log_text().contains("requests over https fail"), "{}", engine.log_text());
    // What needs no TLS goes on, and the chain that does waits for it.
    engine.module_until("sender", "handles blocks", |node| node["events_processed"].as_u64() > Some(5));
    assert!(engine.ctl(&["tree"]).contains("0/1 endpoints"), "{}", engine.ctl(&["tree"]));
    assert!(engine.terminate().success());
}

#[test]
fn a_store_of_certificates_that_nobody_writes_keeps_no_engine_from_starting() {
    let url = format!("https://127.0.0.1:{}", free_port());
    let mut engine = Setup::new().mock(31337, CHAIN).chain(1, std::slice::from_ref(&url)).prepare();
    let pipe = engine.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    engine.launch_with(|command| _ = command.env("SSL_CERT_FILE", &pipe));
    eventually("https is said to fail", || {
        let log = engine.log_text();
        if log.contains("requests over https fail") && log.contains("it is a pipe") { Ok(()) } else { Err(log) }
    });
    assert!(engine.ctl(&["tree"]).contains("0/1 endpoints"), "{}", engine.ctl(&["tree"]));
    assert!(engine.terminate().success());
}

#[test]
fn a_running_engine_keeps_its_directory_when_its_store_is_moved_away() {
    let mut engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "has state", |node| node["events_processed"].as_u64() > Some(3));
    let (state, backup) = (engine.dir.path().join("state"), engine.dir.path().join("backup"));
    engine.ctl(&["state", "backup", "--to", backup.to_str().unwrap()]);
    fs::rename(state.join("store"), state.join("store.before")).unwrap();

    let restore = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexum"));
        command.args(["state", "restore", "--from"]).arg(&backup).arg("--state-dir").arg(&state).output().unwrap()
    };
    let holder = format!("another nexum engine uses {}: process {} holds", state.display(), engine.pid());
    let refused = restore();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains(&holder), "{said}");
    assert!(!state.join("store").exists());
    let second =
        Command::new(env!("CARGO_BIN_EXE_nexum")).args(["run", "--config"]).arg(&engine.config).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains(&holder), "{said}");
    assert!(!state.join("store").exists());

    // The lock goes with its process.
    engine.kill9();
    assert!(restore().status.success());
    engine.launch();
    engine.module_until("a", "goes on", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn a_name_that_became_free_hands_its_state_to_no_stranger_unasked() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "m", &[]);
    let other = setup.write_bundle("hostile", "other", &[]);
    let manifest = other.join("nexum.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("name = \"other\"", "name = \"m\"")).unwrap();
    let mut engine = setup.start();
    let first = engine.dir.path().join("m");
    let (first, other) = (first.to_str().unwrap(), other.to_str().unwrap());
    engine.module_until("m", "has state", |node| node["events_processed"].as_u64() > Some(3));
    engine.ctl(&["module", "unload", "m"]);

    let asks = "there is state of a module `m` already, written by sha256:";
    let refused = engine.try_ctl(&["module", "load", other]).unwrap_err();
    assert!(refused.contains(asks) && refused.contains("--adopt-state"), "{refused}");
    // Whoever wrote it gets it back.
    engine.ctl(&["module", "load", first]);
    engine.module_until("m", "is back", |node| node["state"] == "RUN");
    assert!(engine.terminate().success());

    let config = fs::read_to_string(&engine.config).unwrap();
    let source = |bundle: &str| format!("source = \"{bundle}\"\n");
    assert!(config.contains(&source(first)), "{config}");
    let file = engine.config.clone();
    let configure = |more: &str| {
        fs::write(&file, config.replace(&source(first), &format!("{}{more}", source(other)))).unwrap();
    };
    configure(&format!("component = \"sha256:{}\"\n", "11".repeat(32)));
    let check = ["check-config", "--config", file.to_str().unwrap()];
    let checked = Command::new(env!("CARGO_BIN_EXE_nexum")).args(check).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("but the operator wants sha256:1111"), "{said}");

    configure("");
    engine.launch();
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains(asks) && tree.contains("adopt_state = true"), "{tree}");
    assert!(engine.terminate().success());

    configure("adopt_state = true\n");
    engine.launch();
    engine.module_until("m", "has the state", |node| node["state"] == "RUN");
    assert!(!engine.state("m", "b/").is_empty());
}

#[test]
fn a_configured_component_is_wanted_of_what_an_order_loads_too() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "m", &[]);
    let other = setup.write_bundle("hostile", "other", &[]);
    let manifest = |bundle: &Path| fs::read_to_string(bundle.join("nexum.toml")).unwrap();
    fs::write(other.join("nexum.toml"), manifest(&other).replace("name = \"other\"", "name = \"m\"")).unwrap();
    let mut engine = setup.start();
    assert!(engine.terminate().success());
    let first = engine.dir.path().join("m");
    let component = |bundle: &Path| {
        let text = manifest(bundle);
        text.lines().find(|line| line.starts_with("component = \"sha256:")).unwrap().to_owned()
    };
    let (wanted, strange) = (component(&first), component(&other));
    assert_ne!(wanted, strange);
    let config = fs::read_to_string(&engine.config).unwrap();
    let source = format!("source = \"{}\"\n", first.display());
    assert!(config.contains(&source), "{config}");
    fs::write(&engine.config, config.replace(&source, &format!("{source}{wanted}\n"))).unwrap();
    engine.launch();
    engine.module_until("m", "runs", |node| node["state"] == "RUN");
    engine.ctl(&["module", "unload", "m"]);

    // By its name, from somewhere else.
    let refused = engine.try_ctl(&["module", "load", other.to_str().unwrap(), "--adopt-state"]).unwrap_err();
    assert!(refused.contains("but the operator wants sha256:"), "{refused}");
    // From its place, under whatever name.
    let kept = engine.dir.path().join("kept");
    fs::rename(&first, &kept).unwrap();
    fs::rename(&other, &first).unwrap();
    let load = ["module", "load", first.to_str().unwrap(), "--adopt-state"];
    let refused = engine.try_ctl(&load).unwrap_err();
    assert!(refused.contains("but the operator wants sha256:"), "{refused}");
    let digest = strange.trim_start_matches("component = ").trim_matches('"').to_owned();
    let refused = engine.try_ctl(&[&load[..], &["--component", &digest]].concat()).unwrap_err();
    assert!(refused.contains("of the configuration wants sha256:"), "{refused}");

    fs::rename(&first, &other).unwrap();
    fs::rename(&kept, &first).unwrap();
    let refused = engine.try_ctl(&["module", "load", kept.to_str().unwrap()]);
    assert!(refused.is_err(), "nothing is there");
    engine.ctl(&["module", "load", first.to_str().unwrap()]);
    engine.module_until("m", "is back", |node| node["state"] == "RUN");
}

#[test]
fn an_engine_that_is_stopped_keeps_no_probe_for_ever() {
    let engine = Setup::new().mock(31337, CHAIN).start();
    engine.signal("STOP");
    let asked = engine.raw_ctl(&["health"]);
    engine.signal("CONT");
    let said = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(3), "{said}");
    assert!(said.contains("has not answered within 5s: is it stopped, or stuck?"), "{said}");
    engine.ctl(&["tree"]);
}
