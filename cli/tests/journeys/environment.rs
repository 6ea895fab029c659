//! Bad surroundings: each gives one clear message and loses nothing.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    process::Command,
};

use nexum_testkit::memory_bytes;

use super::{
    anvil::Anvil,
    engine::{Engine, FAST_CHAIN as CHAIN, NEXUM, NEXUMCTL, Setup, free_port, path},
    prove_exactly_once::{Moments, check, mine_some, recording},
};

/// Starts an engine that must end by itself with a failure; its log.
fn refused(setup: Setup) -> String {
    let mut engine = setup.prepare();
    engine.spawn();
    let status = engine.wait();
    assert!(!status.success());
    engine.log_text()
}

#[test]
fn a_second_engine_on_the_same_directory_is_refused() {
    let engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    let config = fs::read_to_string(&engine.config).unwrap();
    let other = engine.dir.path().join("other.toml");
    let moved = config.replace("health_listen", "#").replace("metrics_listen", "#");
    fs::write(
        &other,
        moved.replace("[observability]", "[observability]\nhealth_listen = \"off\"\nmetrics_listen = \"off\""),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nexum")).args(["run", "--config"]).arg(&other).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("another nexum engine uses"), "{said}");
    engine.module_until("a", "unharmed", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn a_component_that_is_not_the_one_of_the_manifest_is_not_run() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "witness", &[]);
    let dir = setup.write_bundle("recorder", "tampered", &[]);
    let file = dir.join("module.wasm");
    let mut component = fs::read(&file).unwrap();
    component.push(0);
    fs::write(&file, component).unwrap();
    let engine = setup.with(&format!("[[modules]]\nsource = \"{}\"\n", dir.display())).start();
    let node = engine.module_until("tampered", "DEAD", |node| node["state"] == "DEAD");
    assert!(node["last_error"].as_str().unwrap().contains("but the manifest names sha256:"), "{node:#}");
    let found = engine.json(&["state", "inspect", "tampered"]);
    assert_eq!((&found["state"], &found["reason"]), (&"DEAD".into(), &node["last_error"]), "{found:#}");
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains(node["last_error"].as_str().unwrap()), "cut in a pipe: {tree}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn a_busy_port_is_named() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let mut engine = Setup::new().mock(31337, CHAIN).prepare();
    let config = fs::read_to_string(&engine.config).unwrap();
    let line = config.lines().find(|line| line.starts_with("metrics_listen")).unwrap().to_owned();
    fs::write(&engine.config, config.replace(&line, &format!("metrics_listen = \"{address}\""))).unwrap();
    engine.spawn();
    assert!(!engine.wait().success());
    let said = engine.log_text();
    assert!(said.contains(&address) && said.contains("metrics_listen"), "{said}");
}

#[test]
fn a_damaged_store_is_said_and_left_alone() {
    let mut engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "runs", |node| node["events_processed"].as_u64() > Some(3));
    assert!(engine.terminate().success());
    let manifests: Vec<_> =
        walk(&engine.dir.path().join("state")).into_iter().filter(|path| path.contains("MANIFEST-")).collect();
    assert!(!manifests.is_empty());
    for manifest in &manifests {
        fs::write(manifest, b"not a manifest").unwrap();
    }
    engine.spawn();
    assert!(!engine.wait().success());
    let said = engine.log_text();
    assert!(said.contains("damaged"), "{said}");
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path.display().to_string()] }).collect()
}

#[test]
fn an_unreachable_endpoint_at_boot_is_shown_and_waited_for() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let engine = Setup::new().chain(31337, &[url]).module("recorder", "a", &[]).start();
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains("0/1 endpoints"), "{tree}");
    engine.module_until("a", "waits in RUN", |node| node["state"] == "RUN");
}

#[test]
fn a_wrong_chain_id_at_the_endpoint_is_refused_and_named() {
    let anvil = Anvil::start();
    let engine = Setup::new().chain(1, &[anvil.http()]).start();
    super::engine::eventually("the wrong id is shown", || {
        let tree = engine.ctl(&["tree"]);
        if tree.contains("31337") { Ok(()) } else { Err(tree) }
    });
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let setup = Setup::new();
    let file = setup.dir.path().join("state");
    fs::write(&file, b"a file where the directory should be").unwrap();
    let said = refused(setup.mock(31337, CHAIN));
    assert!(said.contains(&file.display().to_string()), "{said}");
}

/// Runs to the end of the process, which must fail with one last line that names the path; that line.
fn last_words(engine: &mut Engine, path: &Path) -> String {
    assert!(!engine.wait().success());
    let said = engine.log_text();
    let last = said.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("nexum: ") && last.contains(&path.display().to_string()), "{said}");
    last
}

/// Limits the running engine: `fsize`, how large a file may become, or `as`, how much address space it may take. A file that
/// must not grow is what a full disk comes to, and needs no right to mount one.
fn limit(engine: &Engine, what: &str, bytes: &str) {
    let limit = [format!("--pid={}", engine.pid()), format!("--{what}={bytes}:")];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());
}

#[test]
fn a_full_disk_ends_the_run_and_with_room_the_next_one_goes_on_without_gap_or_double() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut moments = Moments(0x9e37_79b9);
    let mut engine = recording(&anvil, &emitter);
    mine_some(&anvil, &emitter, &mut moments);
    assert!(engine.terminate().success());
    // Without this the signal that goes with the limit would end the process before it can say anything.
    engine.under = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    engine.launch();
    // Enough that the log of the database is the largest file, far above what the engine says.
    (0..400).for_each(|_| anvil.mine());
    check(&anvil, &emitter, &engine);
    let store = engine.dir.path().join("state/store");
    let logs = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap());
    let logs = logs.filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"));
    let largest = logs.map(|entry| entry.metadata().unwrap().len()).max().unwrap();
    limit(&engine, "fsize", &(largest + 1_000).to_string());
    for _ in 0..10 {
        mine_some(&anvil, &emitter, &mut moments);
    }
    let said = last_words(&mut engine, &store);
    assert!(said.contains("must not grow further"), "{said}");

    engine.under.clear();
    engine.launch();
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    assert!(engine.terminate().success());
}

#[test]
fn memory_that_the_machine_does_not_have_is_not_the_fault_of_a_module() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]);
    let bundle = setup.write_bundle("recorder", "b", &[]);
    let engine = setup.start();
    // From then on nothing of the component is left to do but to start it.
    engine.module_until("a", "runs", |node| node["state"] == "RUN");
    // Enough for everything but an instance, which sets aside the four gigabytes that its addresses reach.
    limit(&engine, "as", &(memory_bytes(engine.pid(), "VmSize:") + (1 << 30)).to_string());
    engine.ctl(&["module", "load", bundle.to_str().unwrap()]);
    let node = engine.module_until("b", "waits for memory", |node| node["state"] == "RESTART");
    let reason = node["last_error"].as_str().unwrap();
    assert!(reason.contains("cannot be started now: Cannot allocate memory"), "{reason}");
    let counted = [&node["budget"]["spent"], &node["events_failed"], &node["restarts"]];
    assert_eq!(counted, [0_u64; 3], "{node:#}");
    engine.module_until("a", "goes on", |node| node["state"] == "RUN");
    limit(&engine, "as", "unlimited");
    engine.module_until("b", "runs", |node| node["state"] == "RUN");
}

#[test]
fn a_read_only_state_directory_is_named_and_loses_nothing() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut moments = Moments(0x2545_f491);
    let mut engine = recording(&anvil, &emitter);
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    assert!(engine.terminate().success());

    let store = engine.dir.path().join("state/store");
    let mode = |mode| fs::set_permissions(&store, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    // Permissions do not concern root, unless it gives that up.
    if fs::write(store.join("probe"), b"").is_ok() {
        fs::remove_file(store.join("probe")).unwrap();
        engine.under = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"].map(str::to_owned).to_vec();
    }
    engine.spawn();
    let said = last_words(&mut engine, &store);
    assert!(said.contains("cannot write to"), "{said}");

    mode(0o755);
    mine_some(&anvil, &emitter, &mut moments);
    engine.launch();
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    assert!(engine.terminate().success());
}

#[test]
fn a_store_of_another_format_is_refused_and_left_alone() {
    let mut engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "runs", |node| node["events_processed"].as_u64() > Some(3));
    assert!(engine.terminate().success());
    let store = engine.dir.path().join("state/store");
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, &store).unwrap();
    let put = |version: u16| {
        let database = rocksdb::DB::open_cf(&options, &store, &families).unwrap();
        let before = database.get(b"m/format").unwrap().unwrap();
        database.put(b"m/format", version.to_be_bytes()).unwrap();
        u16::from_be_bytes(before.try_into().unwrap())
    };
    let known = put(999);
    engine.spawn();
    let said = last_words(&mut engine, &store);
    let wanted = format!("written by a newer nexum (store format 999, this one reads up to {known}): run that version");
    assert!(said.contains(&wanted), "{said}");
    assert_eq!(put(1), 999);
    engine.spawn();
    let said = last_words(&mut engine, &store);
    assert!(said.contains("written by an older nexum (store format 1, this one reads none before "), "{said}");
    put(known);
    engine.launch();
    engine.module_until("a", "runs on", |node| node["state"] == "RUN");
}

/// Exit code and what was said on stderr.
fn ended(command: &mut Command) -> (Option<i32>, String) {
    let output = command.env_remove("NEXUM_SOCKET").output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_variable_that_is_no_text_is_refused_by_its_name() {
    let engine = Setup::new().mock(31337, CHAIN).with("[outbox]\nmax_age = \"${AGE}\"").prepare();
    let check = ["check-config", "--config", path(&engine.config)];
    let tree = ["--url", "http://127.0.0.1:1", "tree"];
    let value = OsStr::from_bytes(b"k3y\xa5");
    for (program, args, name, variable) in [
        (NEXUM, &check, "nexum", "NEXUM_ENGINE__STATE_DIR"),
        (NEXUM, &check, "nexum", "NEXUM_OBSERVABILITY__ADMIN_TOKEN"),
        (NEXUMCTL, &tree, "nexumctl", "NEXUM_TOKEN"),
    ] {
        let refused = ended(Command::new(program).args(args).env("AGE", "7d").env(variable, value));
        assert_eq!(refused, (Some(2), format!("{name}: environment variable {variable}: is no UTF-8\n")));
    }
    let (code, said) = ended(Command::new(NEXUM).args(check).env("AGE", value));
    assert!(code == Some(1) && said.contains("[outbox] max_age: the environment has no variable AGE"), "{said}");
    let (code, said) = ended(Command::new(NEXUM).args(check).env("AGE", "7d").env("OTHER", value));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_directory_that_is_no_text_is_not_taken_for_another() {
    let above = tempfile::TempDir::new().unwrap();
    let directory = above.path().join(OsStr::from_bytes(b"d\xa5r"));
    fs::create_dir(&directory).unwrap();
    let config = directory.join("nexum-engine.toml");
    fs::write(&config, "[engine]\nstate_dir = \"state\"\n[[modules]]\nsource = \"m\"\n").unwrap();
    let (code, said) = ended(Command::new(NEXUM).args(["check-config", "--config"]).arg(&config));
    assert!(code == Some(2) && said.contains("is no UTF-8, as a path of the configuration must be"), "{said}");
    // As the working directory.
    let (code, said) = ended(Command::new(NEXUM).arg("check-config").current_dir(&directory));
    assert!(code == Some(1) && said.contains("state_dir: is no UTF-8, as a path of the configuration must"), "{said}");
    assert_eq!(fs::read_dir(above.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_roster_is_not_restored_and_named_where_it_keeps_an_engine_from_its_start() {
    let mut engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "runs", |node| node["events_processed"].as_u64() > Some(3));
    let (copy, other) = (engine.dir.path().join("copy"), engine.dir.path().join("other"));
    engine.ctl(&["state", "backup", "--to", path(&copy)]);
    assert!(engine.terminate().success());
    fs::write(copy.join("modules.json"), "{").unwrap();
    let restore = ["state", "restore", "--from", path(&copy), "--state-dir", path(&other)];
    let (code, said) = ended(Command::new(NEXUM).args(restore));
    let wanted = format!("nexum: the backup cannot be used: {}/modules.json: EOF while parsing", path(&copy));
    assert!(code == Some(1) && said.starts_with(&wanted), "{said}");
    assert!(!other.exists());

    fs::write(engine.dir.path().join("state/modules.json"), "{").unwrap();
    engine.spawn();
    assert!(!engine.wait().success());
    let log = engine.log_text();
    let said = log.lines().last().unwrap();
    assert!(said.contains("state/modules.json: EOF while parsing") && !said.contains("panicked"), "{said}");
}
