//! What the programs promise to scripts: exit codes, JSON, one line on stderr.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::engine::{FAST_CHAIN as CHAIN, NEXUM, NEXUMCTL, Setup, bundle, eventually, free_port, path};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).env_remove("NEXUM_SOCKET").output().unwrap()
}

/// Exit code and the one line on stderr.
fn refused(program: &str, args: &[&str]) -> (i32, String) {
    let output = run(program, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty(), "{args:?}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    (output.status.code().unwrap(), said.trim_end().to_owned())
}

#[test]
fn every_failure_has_its_exit_code_and_one_line() {
    let engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "runs", |node| node["state"] == "RUN");
    let socket = path(&engine.socket);
    let ctl = |args: &[&str]| refused(NEXUMCTL, &[&["--socket", socket], args].concat());

    assert_eq!(ctl(&["module", "pause", "nobody"]), (5, "nexumctl: no module `nobody` is loaded".into()));
    assert_eq!(ctl(&["state", "get", "a", "no/such"]), (5, "nexumctl: module `a` has no key `no/such`".into()));
    assert_eq!(ctl(&["dlq", "show", "a", "7"]), (5, "nexumctl: module `a` has no dead letter 7".into()));
    let (code, said) = ctl(&["state", "purge", "a", "--yes"]);
    assert_eq!(code, 1);
    assert!(said.contains("module `a` is RUN: `nexumctl module unload a` first"), "{said}");
    assert_eq!(ctl(&["state", "purge", "a"]).0, 2);
    assert_eq!(ctl(&["module", "load", "/nonexistent"]).0, 1);
    assert_eq!(ctl(&["logs", "-m", "nobody"]), (5, "nexumctl: module `nobody` has no state here".into()));

    let nobody = refused(NEXUMCTL, &["--socket", "/nonexistent/admin.sock", "tree"]);
    let said = "nexumctl: no engine answers at /nonexistent/admin.sock: is `nexum run` running? give --socket";
    assert_eq!(nobody, (3, said.to_owned()));
    let (code, said) = refused(NEXUM, &["run", "--config", "/nonexistent.toml"]);
    assert_eq!(code, 1);
    assert!(said.starts_with("nexum: /nonexistent.toml cannot be read: "), "{said}");
    assert_eq!(run(NEXUMCTL, &["tree", "--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn flags_count_before_variables_and_an_empty_one_not_at_all() {
    let engine = Setup::new().mock(31337, CHAIN).start();
    let with = |program: &str, args: &[&str], variables: &[(&str, &str)]| {
        let output = Command::new(program).args(args).envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (url, token) = (("NEXUM_URL", "http://127.0.0.1:1"), ("NEXUM_TOKEN", "k3y-0123456789abcdef"));
    let fine = (Some(0), String::new());
    let socket = path(&engine.socket);
    assert_eq!(with(NEXUMCTL, &["--socket", socket, "tree"], &[url, token]), fine);
    assert_eq!(with(NEXUMCTL, &["tree"], &[("NEXUM_SOCKET", socket), ("NEXUM_URL", "")]), fine);
    let (code, said) = with(NEXUMCTL, &["--url", url.1, "tree"], &[("NEXUM_SOCKET", socket), token]);
    assert!(code == Some(3) && said.starts_with("nexumctl: no engine answers at http://127.0.0.1:1: "), "{said}");
    let (code, said) = with(NEXUMCTL, &["tree"], &[url, token, ("NEXUM_SOCKET", socket)]);
    assert!(code == Some(2) && said.starts_with("nexumctl: NEXUM_URL and NEXUM_SOCKET are both set"), "{said}");
    assert_eq!(with(NEXUMCTL, &["--url", url.1, "--socket", socket, "tree"], &[]).0, Some(2));
    // Whatever asks no engine does not look at them.
    let config = [url, ("NEXUM_SOCKET", ""), ("NEXUM_CONFIG", path(&engine.config))];
    assert_eq!(with(NEXUM, &["check-config"], &config).0, Some(0));
    let named = ["check-config", "--config", path(&engine.config)];
    assert_eq!(with(NEXUM, &named, &[("NEXUM_CONFIG", "/none")]).0, Some(0));
}

#[test]
fn a_journal_that_is_not_there_is_not_called_unsound() {
    let empty = tempfile::TempDir::new().unwrap();
    let (code, said) = refused(NEXUM, &["journal", "verify", "--file", "/nonexistent.jsonl"]);
    assert_eq!((code, said.contains("not sound")), (5, false), "{said}");
    assert!(said.starts_with("nexum: /nonexistent.jsonl cannot be read: "), "{said}");
    let (code, said) = refused(NEXUM, &["journal", "verify", "m", "--state-dir", path(empty.path())]);
    assert_eq!((code, said.contains("not sound")), (5, false), "{said}");
    assert!(said.contains("there is no store in "), "{said}");
    let (code, said) = refused(NEXUM, &["journal", "verify", "--file", path(empty.path())]);
    assert_eq!((code, said.contains("is a directory")), (2, true), "{said}");
}

#[test]
fn check_config_finds_a_module_that_would_be_dead() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]);
    let missing = setup.with("[[modules]]\nsource = \"nowhere\"").prepare();
    let (code, said) = refused(NEXUM, &["check-config", "--config", path(&missing.config)]);
    let place = "[[modules]] source: ";
    assert_eq!((code, said.contains(place), said.contains("nowhere/nexum.toml")), (1, true, true), "{said}");
    let (code, said) = refused(NEXUM, &["check-config", "--mock", "/nonexistent.toml"]);
    assert_eq!((code, said.matches("No such file").count()), (1, 1), "{said}");
    assert!(said.starts_with("nexum: --mock: cannot read fixture /nonexistent.toml: "), "{said}");
}

#[test]
fn an_engine_that_is_not_healthy_is_exit_code_four() {
    let changes = [
        ("mode = \"good\"", "mode = \"trap\""),
        ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"20ms\"]"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 2"),
    ];
    let engine = Setup::new().mock(31337, CHAIN).module("hostile", "bad", &changes).start();
    engine.module_until("bad", "DEAD", |node| node["state"] == "DEAD");
    let output = run(NEXUM, &["health", "--json", "--socket", path(&engine.socket)]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(4), &b""[..]));
    let health: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reason = health["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("module bad is dead: "), "{reason}");
}

#[test]
fn every_answer_has_a_json_form() {
    let engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "has state", |node| node["state_bytes"].as_u64() > Some(0));
    let key = engine.json(&["state", "list", "a", "--limit", "1"])["entries"][0]["key"].as_str().unwrap().to_owned();
    assert_eq!(engine.json(&["state", "get", "a", &key])["key"], key.as_str());
    assert_eq!(engine.json(&["state", "inspect", "a"])["state"], "RUN");
    assert_eq!(engine.json(&["health"])["status"], "healthy");
    assert_eq!(engine.json(&["module", "list"])[0]["name"], "a");
    assert_eq!(engine.json(&["dlq", "list", "a"]), Value::Array(Vec::new()));
    assert_eq!(engine.json(&["module", "pause", "a"])["done"], "paused");
    let metrics = engine.json(&["metrics"]);
    let loaded = metrics.as_array().unwrap().iter().find(|sample| sample["name"] == "nexum_modules_loaded").unwrap();
    assert_eq!(loaded["value"], 1.0);
    let shown = run(NEXUM, &["check-config", "--json", "--config", path(&engine.config)]);
    assert_eq!(serde_json::from_slice::<Value>(&shown.stdout).unwrap()["chains"][0]["chain_id"], 31337);
    assert!(engine.ctl(&["tree"]).contains("└─ modules"));
}

#[test]
fn a_backup_of_a_running_engine_restores_into_another_directory() {
    let engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "has state", |node| node["events_processed"].as_u64() > Some(5));
    let (copy, other) = (engine.dir.path().join("copy"), engine.dir.path().join("other"));
    // As shells complete the name of a directory.
    engine.ctl(&["state", "backup", "--to", &format!("{}/", path(&copy))]);
    let seq = engine.json(&["state", "inspect", "a"])["seq"].as_u64();

    let restore = ["state", "restore", "--from", path(&copy), "--state-dir", path(&other), "--json"];
    let restored = run(NEXUM, &restore);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let (code, said) = refused(NEXUM, &restore);
    assert_eq!(code, 1);
    assert!(said.contains("is not empty: restore into a new directory"), "{said}");
    for directory in [&copy, &other, &other.join("store")] {
        let mode = fs::metadata(directory).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", directory.display());
    }
    // Refused before anything is made.
    let [none, empty] = ["none", "empty"].map(|name| engine.dir.path().join(name));
    fs::create_dir(&empty).unwrap();
    let bad = ["state", "restore", "--from", path(&empty), "--state-dir", path(&none)];
    let (code, said) = refused(NEXUM, &bad);
    assert_eq!((code, none.exists(), said.matches("there is no store").count()), (1, false, 1), "{said}");

    // The module is paused first, so that what is compared stands still.
    engine.ctl(&["module", "pause", "a"]);
    let other_config = engine.dir.path().join("other.toml");
    let config = format!(
        "[engine]\nstate_dir = \"{}\"\n[observability]\nhealth_listen = \"off\"\nmetrics_listen = \"off\"\n",
        path(&other)
    );
    fs::write(&other_config, config).unwrap();
    let mut child = Command::new(NEXUM).args(["run", "-c", path(&other_config)]).stderr(Stdio::null()).spawn().unwrap();
    let socket = other.join("admin.sock");
    let found = eventually("the restored engine answers", || {
        let output = run(NEXUMCTL, &["--socket", path(&socket), "--json", "state", "inspect", "a"]);
        serde_json::from_slice::<Value>(&output.stdout).map_err(|error| error.to_string())
    });
    assert_eq!(found["state"], Value::Null);
    assert!(found["seq"].as_u64() > Some(4) && found["seq"].as_u64() <= seq, "{found:#} of {seq:?}");
    let stopped = run(NEXUMCTL, &["--socket", path(&socket), "shutdown", "--json"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_admin_api_over_tcp_wants_the_token() {
    let address = format!("127.0.0.1:{}", free_port());
    let toml = format!("admin_listen = \"{address}\"\nadmin_token = \"0123456789abcdef\"\n");
    // Straight after the [observability] that every setup begins with.
    let engine = Setup::new().with(&toml).mock(31337, CHAIN).start();
    let url = format!("http://{address}");
    let (right, wrong) = (engine.dir.path().join("right"), engine.dir.path().join("wrong"));
    fs::write(&right, "0123456789abcdef\n").unwrap();
    fs::write(&wrong, "0123456789abcdee\n").unwrap();
    let output = run(NEXUMCTL, &["--url", &url, "--token-file", path(&right), "health", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, said) = refused(NEXUMCTL, &["--url", &url, "--token-file", path(&wrong), "health"]);
    assert_eq!((code, said.as_str()), (1, "nexumctl: the engine refused the token: see --token-file"));
    // A pipe is read once, also when the command is handed on.
    let mut child = Command::new(NEXUMCTL)
        .args(["--url", &url, "--token-file", "/dev/stdin", "crash", "show", "nobody"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"0123456789abcdef\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("nobody")), (Some(5), true), "{said}");
}

#[test]
fn logs_follow_one_module_and_end_with_the_engine() {
    let heartbeat = [("every = \"5s\"", "every = \"1s\"")];
    let setup =
        Setup::new().mock(31337, CHAIN).module("heartbeat", "a", &heartbeat).module("heartbeat", "b", &heartbeat);
    let mut engine = setup.start();
    let mut child = Command::new(NEXUMCTL)
        .args(["--socket", path(&engine.socket), "logs", "-f", "--module", "b", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    for _ in 0..3 {
        let line: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!(line["module"], "b", "{line}");
    }
    assert!(engine.terminate().success());
    assert!(lines.all(|line| line.contains("\"b\"")));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_packaged_module_loads() {
    let engine = Setup::new().mock(31337, CHAIN).start();
    let source = bundle("recorder");
    let out = engine.dir.path().join("packaged");
    let wasm = source.join("module.wasm");
    let args = ["module", "package", path(&source), "--component", path(&wasm), "--out", path(&out), "--json"];
    let made = run(NEXUM, &args);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["module"], "recorder");
    engine.ctl(&["module", "load", path(&out)]);
    engine.module_until("recorder", "runs", |node| node["state"] == "RUN");
}

#[test]
fn a_bundle_and_what_fires_next_are_told_without_an_engine() {
    let setup = Setup::new().mock(31337, CHAIN).module(
        "heartbeat",
        "beat",
        &[("every = \"5s\"", "schedule = \"*/5 * * * *\"")],
    );
    let engine = setup.prepare();
    let source = engine.dir.path().join("beat");
    let told = run(NEXUM, &["module", "inspect", path(&source), "--json"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let size = fs::metadata(source.join("module.wasm")).unwrap().len();
    assert_eq!((told["module"].as_str(), told["component_bytes"].as_u64()), (Some("beat"), Some(size)));
    let next = told["subscriptions"][0]["next_ms"].as_array().unwrap();
    let next: Vec<u64> = next.iter().map(|at| at.as_u64().unwrap()).collect();
    assert_eq!(next.len(), 5);
    assert!(
        next.iter().all(|at| at.is_multiple_of(300_000)) && next.is_sorted() && next[0] > 1_700_000_000_000,
        "{next:?}"
    );

    let shown = run(NEXUM, &["check-config", "--config", path(&engine.config)]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let (_, times) = shown.split_once("\n# beat: schedule `*/5 * * * *` in UTC; ").unwrap();
    assert_eq!(times.lines().filter(|line| line.starts_with("#   2")).count(), 5, "{shown}");

    fs::write(source.join("module.wasm"), b"another").unwrap();
    let (code, said) = refused(NEXUM, &["module", "inspect", path(&source)]);
    assert_eq!((code, said.contains("module.wasm: is not WebAssembly")), (1, true), "{said}");
}

#[test]
fn completions_are_for_the_program_that_prints_them() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(NEXUMCTL, &["completions", shell]).stdout;
        assert!(String::from_utf8(script).unwrap().contains("nexumctl"), "{shell}");
    }
}

#[test]
fn what_needs_an_engines_code_is_handed_on_to_nexum() {
    const CHECK: [&str; 3] = ["check-config", "--config", "/nonexistent.toml"];
    let unreadable = "nexumctl: /nonexistent.toml cannot be read: ";
    let (code, said) = refused(NEXUMCTL, &CHECK);
    assert_eq!((code, said.starts_with(unreadable)), (1, true), "{said}");
    let wrong = run(NEXUMCTL, &["run", "--log-level", "loud"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!((wrong.status.code(), said.contains("`loud` is no log level")), (Some(2), true), "{said}");
    for args in [
        &["journal", "verify", "a", "--state-dir", "/nonexistent"][..],
        &["journal", "export", "a", "--backup", "/nonexistent"],
    ] {
        let (code, said) = refused(NEXUMCTL, args);
        assert_eq!((code, said.starts_with("nexumctl: ")), (5, true), "{args:?}: {said}");
    }

    // A name for each program, where there is nothing else.
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [alone, beside, elsewhere] = ["nexumctl", "nexum", "path"].map(|name| dir.path().join(name));
    fs::create_dir(&elsewhere).unwrap();
    fs::hard_link(NEXUMCTL, &alone).unwrap();
    let check = || {
        let output = Command::new(&alone).args(CHECK).env("PATH", &elsewhere).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let nowhere = "nexumctl: this needs `nexum`, which is neither beside nexumctl nor in PATH\n";
    assert_eq!(check(), (Some(1), nowhere.to_owned()));
    fs::hard_link(NEXUM, elsewhere.join("nexum")).unwrap();
    let (code, said) = check();
    assert_eq!((code, said.starts_with(unreadable)), (Some(1), true), "in PATH: {said}");
    fs::write(&beside, "no program").unwrap();
    let (code, said) = check();
    assert_eq!((code, said.contains("cannot be run")), (Some(1), true), "what is beside is the one: {said}");
}

/// What is loaded of a program: its size once it is stripped, but for a few names of sections.
fn loaded_bytes(program: &str) -> u64 {
    let file = fs::read(program).unwrap();
    let number = |at: usize, bytes: usize| {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(&file[at..at + bytes]);
        u64::from_le_bytes(wide)
    };
    assert_eq!(&file[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
    let (first, size, count) = (number(32, 8) as usize, number(54, 2) as usize, number(56, 2) as usize);
    let headers = (0..count).map(|index| first + index * size);
    let loaded = headers.filter(|at| number(*at, 4) == 1);
    loaded.map(|at| number(at + 8, 8) + number(at + 32, 8)).max().unwrap()
}

#[test]
fn the_client_is_small() {
    const BYTES_MAX: u64 = 6 << 20;
    let (client, engine) = (loaded_bytes(NEXUMCTL), loaded_bytes(NEXUM));
    assert!(client < engine, "{client} bytes of {engine}");
    // Without optimisation every crate takes several times as much.
    assert!(cfg!(debug_assertions) || client <= BYTES_MAX, "nexumctl has {client} bytes");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let changes = [("mode = \"good\"", "mode = \"sleep\""), ("event_deadline = \"2s\"", "event_deadline = \"60s\"")];
    let mut engine = Setup::new().mock(31337, CHAIN).module("hostile", "slow", &changes).start();
    eventually("an event is in flight", || {
        let metrics = engine.json(&["metrics"]);
        let dispatched = |sample: &&Value| {
            // Not `init`, which is over in no time.
            let of_a_block = sample["labels"]["event_type"] == "block";
            sample["name"] == "nexum_events_dispatched_total" && of_a_block && sample["value"] == 1.0
        };
        metrics.as_array().unwrap().iter().find(dispatched).map(|_| ()).ok_or_else(|| "none yet".to_owned())
    });
    engine.signal("TERM");
    eventually("the first signal is heard", || match engine.log_text().contains("stopping: ") {
        true => Ok(()),
        false => Err(engine.log_text()),
    });
    engine.signal("TERM");
    assert_eq!(engine.wait().code(), Some(130));
    // What was in flight is delivered again by the next engine, which replaces the socket that this one left.
    engine.launch();
    engine.module_until("slow", "is back", |node| node["state"] == "RUN");
}
