//! Components that make a compiler work or allocate without end: they are refused, and nobody else notices.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use nexum_testkit::{signal, wasm};
use serde_json::Value;

use super::engine::{Engine, FAST_CHAIN, Setup, children_of, eventually, has_ended, put_component};

/// A component with a core module of so many functions. Each changes all its variables within all its loops, so that every
/// loop hands every variable on: what a compiler has to keep grows with the product of the two.
pub fn bomb(functions: usize, variables: usize, loops: usize) -> Vec<u8> {
    // One group of locals, all of type i32.
    let mut body = [vec![1], wasm::number(variables), vec![0x7f]].concat();
    // loop
    body.extend([0x03, 0x40].repeat(loops));
    for variable in 0..variables {
        let variable = wasm::number(variable);
        // local.get, i32.const 1, i32.add, local.set
        body.extend([&[0x20][..], &variable, &[0x41, 1, 0x6a, 0x21], &variable].concat());
    }
    // local.get 0, br_if 0, end
    body.extend([0x20, 0, 0x0d, 0, 0x0b].repeat(loops));
    body.push(0x0b);
    let types = wasm::section(1, &[1, 0x60, 0, 0]);
    let sections = [types, wasm::entries(3, functions, &[0]), wasm::entries(10, functions, &wasm::sized(&body))];
    wasm::component(&[wasm::core_module(&sections), wasm::core_instances(1)])
}

/// A component with a list of lists of lists, so many deep: whoever walks through that type by recursion runs out of stack.
fn deep(lists: usize) -> Vec<u8> {
    // Their types are written as signed numbers.
    let signed = |mut number: usize| {
        let mut bytes = Vec::new();
        while number > 0x3f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    // The first has items of type u8.
    let mut types = [wasm::number(lists), vec![0x70, 0x7d]].concat();
    for before in 0..lists - 1 {
        types.push(0x70);
        types.extend(signed(before));
    }
    wasm::component(&[wasm::section(7, &types)])
}

/// A component with a core module of so many globals, and as many instances of it as there may be.
fn wide(globals: usize) -> Vec<u8> {
    wasm::component(&[wasm::core_module(&[wasm::globals(globals)]), wasm::core_instances(64)])
}

/// An engine with these settings, the module of that bundle, and a witness. The machine code of the witness is there by
/// then, so that it meets no limit, however busy the machine is.
fn engine_with(setup: Setup, settings: &str, source: &Path) -> Engine {
    let mut engine = setup.mock(31337, FAST_CHAIN).module("recorder", "witness", &[]).start();
    engine.module_until("witness", "runs", |node| node["state"] == "RUN");
    assert!(engine.terminate().success());
    let config = fs::read_to_string(&engine.config).unwrap();
    let config = config.replacen("[engine]\n", &format!("[engine]\n{settings}\n"), 1);
    let module = format!("[[modules]]\nsource = \"{}\"\n", source.display());
    fs::write(&engine.config, config + &module).unwrap();
    engine.launch();
    engine
}

/// Waits until the module is dead; of what.
fn dead_of(engine: &Engine, module: &str) -> String {
    let node = engine.module_until(module, "DEAD", |node| node["state"] == "DEAD");
    node["last_error"].as_str().unwrap_or_default().to_owned()
}

/// The one process that this one has started and that still runs.
fn compiler_of(parent: u32) -> u32 {
    eventually("one component is compiled", || {
        let found = children_of(parent);
        match found[..] {
            [compiler] => Ok(compiler),
            _ => Err(format!("{found:?}")),
        }
    })
}

/// Does to a process what the system does when memory is short.
fn kill(pid: u32) {
    signal(pid, "KILL");
}

#[test]
fn a_component_that_compiles_for_ever_is_refused_and_not_tried_over_and_over() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(300, 200, 200), "slow");
    let engine = engine_with(setup, "compile_timeout = \"1s\"", &source);
    let slow = "it takes longer than [engine] compile_timeout = 1s";
    let error = dead_of(&engine, "slow");
    assert!(error.ends_with(slow), "{error}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    let health = engine.get("health_listen", "/health");
    assert!(health.starts_with("HTTP/1.1 503"), "a module is dead: {health}");
    assert!(engine.get("health_listen", "/live").starts_with("HTTP/1.1 200"));
    let refusals = || engine.log_text().matches(slow).count();

    // Whoever asks for it once more is not told what was found before.
    engine.ctl(&["module", "restart", "slow"]);
    eventually("it is tried again", || if refusals() > 1 { Ok(()) } else { Err(engine.module("slow").to_string()) });
    assert!(!engine.log_text().contains("it was not tried again"), "{}", engine.log_text());
    let error = eventually("the new version is tried", || {
        let error = engine.try_ctl(&["module", "upgrade", "slow"]).unwrap_err();
        // Then it had less than a quarter of a processor, and nothing is known of it.
        if error.contains("the machine is busy") { Err(error) } else { Ok(error) }
    });
    assert!(error.contains(slow) && !error.contains("not tried again"), "{error}");
}

#[test]
fn a_compiler_that_somebody_kills_is_started_again_and_the_component_is_not_to_blame() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(3_000, 200, 200), "slow");
    let engine = engine_with(setup, "compile_timeout = \"1h\"", &source);
    let mut killed = 0;
    let mut next = || {
        let compiler = eventually("it is tried again", || match compiler_of(engine.pid()) {
            // It is gone, and the engine has not heard of it yet.
            before if before == killed => Err("the one that was killed".to_owned()),
            compiler => Ok(compiler),
        });
        killed = compiler;
        compiler
    };
    // Each wait is twice as long as the one before; the last is long enough to be seen.
    for _ in 0..3 {
        kill(next());
    }
    let node = engine.module_until("slow", "waits for another attempt", |node| node["state"] == "RESTART");
    let error = node["last_error"].as_str().unwrap();
    assert!(error.contains("cannot be compiled now: its compiler was killed by somebody else"), "{error}");
    assert_eq!((&node["budget"]["spent"], &node["events_failed"]), (&0.into(), &0.into()), "{node:#}");
    let _ = next();
    assert_eq!(engine.module("slow")["state"], "LOAD");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn an_upgrade_whose_compiler_is_killed_leaves_the_running_version_as_it_was() {
    let mut engine = Setup::new().mock(31337, FAST_CHAIN).module("recorder", "witness", &[]).start();
    let before = engine.module_until("witness", "runs", |node| node["state"] == "RUN");
    let bundle = engine.dir.path().join("witness");
    let [component, manifest] = ["module.wasm", "nexum.toml"].map(|file| fs::read(bundle.join(file)).unwrap());
    put_component(&bundle, &bomb(3_000, 200, 200));
    let error = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| engine.try_ctl(&["module", "upgrade", "witness"]));
        kill(compiler_of(engine.pid()));
        upgrade.join().unwrap().unwrap_err()
    });
    assert!(error.contains("`witness` goes on as it was; the new version could not be tried"), "{error}");
    let handled = before["events_processed"].as_u64();
    let after = engine.module_until("witness", "goes on", |node| node["events_processed"].as_u64() > handled);
    let running = |node: &Value| ["state", "component", "restarts"].map(|key| node[key].clone());
    assert_eq!(running(&after), running(&before));
    // Nor does the next engine know of it.
    fs::write(bundle.join("module.wasm"), component).unwrap();
    fs::write(bundle.join("nexum.toml"), manifest).unwrap();
    assert!(engine.terminate().success());
    engine.launch();
    let again = engine.module_until("witness", "runs", |node| node["state"] == "RUN");
    assert_eq!(again["component"], before["component"]);
}

#[test]
fn a_component_that_is_tried_on_a_crash_is_compiled_by_a_process_with_limits_too() {
    let trap = ("mode = \"good\"", "mode = \"trap\"");
    let engine = Setup::new().mock(31337, FAST_CHAIN).module("hostile", "m", &[trap]).start();
    eventually("a crash is kept", || match engine.try_ctl(&["crash", "list", "m", "--json"]) {
        Ok(crashes) if crashes.contains("\"number\"") => Ok(()),
        Ok(none) | Err(none) => Err(none),
    });
    let component = engine.dir.path().join("slow.wasm");
    fs::write(&component, bomb(3_000, 200, 200)).unwrap();
    let replay = Command::new(env!("CARGO_BIN_EXE_nexum"))
        .args(["replay", "m", "--state-dir"])
        .arg(engine.dir.path().join("state"))
        .arg("--component")
        .arg(&component)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let compiler = compiler_of(replay.id());
    eventually("it has limits", || {
        let words = fs::read_to_string(format!("/proc/{compiler}/cmdline")).unwrap();
        let is_limited = words.contains("compile-component") && words.contains("--max-memory-bytes");
        if is_limited { Ok(()) } else { Err(words) }
    });
    kill(compiler);
    let ended = replay.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be compiled now: its compiler was killed by somebody else"), "{said}");
}

#[test]
fn a_component_that_takes_all_memory_to_compile_takes_none_of_the_engine() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(1, 2_000, 700), "large");
    let engine = engine_with(setup, "max_compile_memory_bytes = 67_108_864", &source);
    let error = dead_of(&engine, "large");
    assert!(error.ends_with("it takes more memory than [engine] max_compile_memory_bytes = 67108864"), "{error}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    let most = engine.memory_bytes_max();
    assert!(most < 512 << 20, "{most}");
    assert!(dead_of(&engine, "large").contains("max_compile_memory_bytes"));
}

#[test]
fn a_type_of_any_depth_ends_no_process_but_that_of_its_compiler() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&deep(200_000), "deep");
    let engine = engine_with(setup, "", &source);
    let error = dead_of(&engine, "deep");
    assert!(error.contains("does not compile: "), "{error}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    // A bundle is told about without a look into its component.
    let told = engine.ctl(&["module", "inspect", source.to_str().unwrap()]);
    assert!(told.contains("deep 0."), "{told}");
}

#[test]
fn a_component_whose_instances_would_take_much_memory_is_refused() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&wide(1_000_000), "wide");
    let engine = engine_with(setup, "", &source);
    let error = dead_of(&engine, "wide");
    assert!(error.contains("one of its core modules takes 48000000 bytes"), "{error}");
    assert!(error.ends_with("at most 2097152 are hosted"), "{error}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn a_component_that_imports_more_than_is_hosted_is_refused_and_another_one_loads_meanwhile() {
    let setup = Setup::new();
    // A few bytes for each import, and two hundred resources in each.
    let items = setup.write_bundle_of(&wasm::importing_resources(999, 200), "items");
    let resources = setup.write_bundle_of(&wasm::importing_resources(2, 200), "resources");
    let late = setup.write_bundle("recorder", "late", &[]);
    let engine = engine_with(setup, "", &items);
    for bundle in [&resources, &late] {
        engine.ctl(&["module", "load", bundle.to_str().unwrap()]);
    }
    engine.module_until("late", "runs", |node| node["events_processed"].as_u64() > Some(3));
    for (module, what) in
        [("items", "2000 items, those in its interfaces among them"), ("resources", "256 types of resources")]
    {
        let error = dead_of(&engine, module);
        assert!(error.ends_with(&format!("the component imports more than {what}")), "{error}");
    }
    let most = engine.memory_bytes_max();
    assert!(most < 512 << 20, "{most}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn nobody_who_stops_a_module_waits_for_its_compiler() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(3_000, 200, 200), "slow");
    let mut engine = engine_with(setup, "compile_timeout = \"1h\"", &source);
    let compiler = compiler_of(engine.pid());
    engine.ctl(&["module", "unload", "slow"]);
    eventually("its compiler ends with it", || has_ended(compiler));
    engine.ctl(&["module", "load", source.to_str().unwrap()]);
    let compiler = compiler_of(engine.pid());
    assert_eq!(engine.module("slow")["state"], "LOAD");
    assert!(engine.terminate().success());
    let log = engine.log_text();
    assert!(!log.contains("not everything was finished") && !log.contains("did not finish"), "{log}");
    eventually("the compiler ends", || has_ended(compiler));
}

#[test]
fn while_one_component_compiles_others_run_and_it_ends_with_its_engine() {
    let setup = Setup::new();
    let source = setup.write_bundle_of(&bomb(3_000, 200, 200), "slow");
    let mut engine = engine_with(setup, "compile_timeout = \"1h\"", &source);
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
    assert_eq!(engine.module("slow")["state"], "LOAD");
    assert!(engine.get("health_listen", "/health").starts_with("HTTP/1.1 "), "it answers");
    let compiler = compiler_of(engine.pid());
    engine.kill9();
    eventually("the compiler ends", || has_ended(compiler));
}
