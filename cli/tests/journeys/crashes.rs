//! Crashes that are reproduced by one command, handled events that come out the same again, and a component that is tried
//! on a crash.

use std::{fs, path::Path, process::Command};

use nexum_testkit::wasm;
use serde_json::Value;

use super::{
    engine::{Engine, FAST_CHAIN as CHAIN, FROM_THE_FIRST, Setup, bundle, eventually, path, put_component},
    hostile::QUICK,
    outbox::sender,
    receiver::Receiver,
};

/// Fuel ends first, however slow the machine.
const PATIENT: (&str, &str) = ("event_deadline = \"2s\"", "event_deadline = \"60s\"");

fn hostile(setup: Setup, name: &str, mode: &str) -> Setup {
    let wanted = format!("mode = \"{mode}\"");
    setup.module("hostile", name, &[("mode = \"good\"", &wanted), FROM_THE_FIRST, QUICK, PATIENT])
}

/// Exit code and what `nexum replay` says, as JSON.
pub fn replay(args: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_nexum")).arg("replay").args(args).arg("--json").output().unwrap();
    let said = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), said)
}

pub fn state(engine: &Engine) -> String {
    engine.dir.path().join("state").to_str().unwrap().to_owned()
}

/// The unit that handled a block late enough for the instance to have handled others before.
pub fn handled_block(engine: &Engine, module: &str) -> String {
    engine.module_until(module, "handled some", |node| node["events_processed"].as_u64() > Some(8));
    eventually("six of them were blocks", || {
        let list = engine.json(&["journal", "tail", module, "-n", "1000"]);
        let entries = list["entries"].as_array().unwrap();
        let block = |entry: &&Value| entry["kind"] == "handled" && entry["id"].as_str().unwrap().starts_with("block:");
        let found = entries.iter().filter(block).nth(5).map(|entry| entry["seq"].to_string());
        found.ok_or_else(|| format!("{} units", entries.len()))
    })
}

#[test]
fn a_crash_is_reproduced_by_one_command_here_and_elsewhere() {
    let engine = hostile(Setup::new().mock(31337, CHAIN), "m", "trap-on\"\non = \"7").start();
    engine.module_until("m", "past the bad block", |node| node["dead_letters"] == 1);
    let list = engine.json(&["crash", "list", "m"]);
    let crashes = list["crashes"].as_array().unwrap();
    assert_eq!(crashes.len(), 1, "of three attempts the last: {list:#}");
    assert!(crashes[0]["event"].as_str().unwrap().starts_with("block:31337:7:"), "{list:#}");
    assert_eq!((&crashes[0]["number"], &crashes[0]["handled_before"]), (&3.into(), &0.into()), "{list:#}");
    let letters = engine.json(&["dlq", "list", "m"]);
    let letter = engine.ctl(&["dlq", "show", "m", &letters[0]["seq"].to_string()]);
    assert!(letter.contains("3, for `nexum replay MODULE --crash 3`"), "{letter}");
    let shown = engine.ctl(&["crash", "show", "m"]);
    for part in ["backtrace", "guest_hostile.wasm!on-event", "what it logged", "trap on b7, as configured"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    // The message of the panic stands beside the backtrace, there and in the dead letter.
    for shown in [&shown, &letter] {
        let (_, words) = shown.split_once("last on stderr").unwrap_or_else(|| panic!("no last words in\n{shown}"));
        assert!(words.contains("trap on b7, as configured"), "{shown}");
    }

    // The engine runs on meanwhile.
    let (code, said) = replay(&["m", "--last-crash", "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");
    assert_eq!(said["recorded"], said["replayed"]);
    assert!(said["replayed"]["fuel"].as_u64() > Some(0) && said["replayed"]["result"]["backtrace"].is_string());
    assert!(said["replayed"]["result"]["error"].as_str().unwrap().contains("trap"), "{said:#}");

    // Elsewhere, with nothing but the file and the component.
    let capsule = engine.dir.path().join("crash.rec");
    engine.ctl(&["crash", "export", "m", "--to", path(&capsule)]);
    let same = bundle("hostile").join("module.wasm");
    let nowhere = engine.dir.path().join("nowhere");
    let elsewhere = ["--capsule", path(&capsule), "--state-dir", path(&nowhere), "--component"];
    let (code, said) = replay(&[elsewhere.as_slice(), &[path(&same)]].concat());
    assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");

    // A build that does not trap.
    let other = bundle("recorder").join("module.wasm");
    let (code, said) = replay(&[elsewhere.as_slice(), &[path(&other)]].concat());
    assert_eq!((code, &said["equal"], &said["replayed"]["result"]), (1, &false.into(), &"ok".into()), "{said:#}");
    assert_eq!(
        (&said["differences"][0]["what"], &said["differences"][0]["replayed"]),
        (&"result".into(), &"ok".into())
    );
    let missing = said["missing"].as_array().unwrap();
    assert!(missing.iter().any(|missing| missing == "the state key `n`"), "{said:#}");

    let missing = engine.try_ctl(&["crash", "show", "m", "99"]).unwrap_err();
    assert!(missing.contains("no crash 99 of module `m` is kept"), "{missing}");
}

#[test]
fn every_way_to_fail_is_reproduced() {
    let mut setup = Setup::new().mock(31337, CHAIN);
    let modes = ["fuel", "error", "stack", "flush", "panic-once", "init-trap"];
    for mode in modes {
        setup = hostile(setup, mode, mode);
    }
    let short = ("event_deadline = \"2s\"", "event_deadline = \"500ms\"");
    let engine = setup.module("hostile", "sleep", &[("mode = \"good\"", "mode = \"sleep\""), short, QUICK]).start();
    for mode in modes.into_iter().chain(["sleep"]) {
        engine.module_until(mode, "failed", |node| {
            node["events_failed"].as_u64() > Some(1) || node["restarts"].as_u64() > Some(1)
        });
        let (code, said) = replay(&[mode, "--last-crash", "--state-dir", &state(&engine)]);
        assert_eq!((code, &said["equal"]), (0, &true.into()), "{mode}: {said:#}");
    }
    let shown = engine.ctl(&["crash", "show", "error"]);
    assert!(shown.contains("what it saw\nstate count"), "{shown}");
}

#[test]
fn what_the_journal_had_no_room_for_is_refused_again_in_a_replay() {
    let setup = Setup::new().mock(31337, CHAIN).with("[journal]\nbytes = 16_777_216\n");
    // Half a megabyte in each event, and a flush for each half of it.
    let engine = hostile(setup, "m", "rewrite-bomb\"\nrepeat = \"20").start();
    engine.module_until("m", "set one event aside", |node| node["dead_letters"].as_u64() > Some(0));
    let (code, said) = replay(&["m", "--last-crash", "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");
    assert!(said["replayed"]["result"]["error"].as_str().unwrap().contains("journal quota"), "{said:#}");
    let shown = engine.ctl(&["crash", "show", "m"]);
    assert!(shown.contains("room in the journal"), "{shown}");
}

#[test]
fn a_handled_event_comes_out_the_same_and_another_component_does_not() {
    let setup = Setup::new().mock(31337, CHAIN).with("[journal]\nrecord = \"all\"");
    let engine = hostile(setup, "asks", "big-reply").module("recorder", "a", &[FROM_THE_FIRST]).start();
    for module in ["a", "asks"] {
        let seq = handled_block(&engine, module);
        let (code, said) = replay(&[module, "--event", &seq, "--state-dir", &state(&engine)]);
        assert_eq!((code, &said["equal"]), (0, &true.into()), "{module}: {said:#}");
        assert!(said["handled_before"].as_u64() > Some(0), "{said:#}");
        assert!(!said["replayed"]["changed_keys"].as_array().unwrap().is_empty(), "{said:#}");
    }
    let seq = handled_block(&engine, "a");
    let other = bundle("hostile").join("module.wasm");
    let args = ["a", "--event", &seq, "--state-dir", &state(&engine), "--component", path(&other)];
    let output = Command::new(env!("CARGO_BIN_EXE_nexum")).arg("replay").args(args).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("the component imports `nexum:host/chain@0.3.0` but [capabilities] lists"), "{error}");

    // A backup has the recordings too; the compiled component is the engine's.
    let backup = engine.dir.path().join("backup");
    engine.ctl(&["state", "backup", "--to", path(&backup)]);
    let component = bundle("recorder").join("module.wasm");
    let (code, said) = replay(&["a", "--event", &seq, "--backup", path(&backup), "--component", path(&component)]);
    assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");
}

#[test]
fn what_an_event_asks_to_send_is_shown_and_compared() {
    let receiver = Receiver::start();
    let all = "[journal]\nrecord = \"all\"";
    let setup = Setup::new().mock(31337, CHAIN).with(all);
    let engine = sender(setup, &receiver.url(), "lane", &[FROM_THE_FIRST]).start();
    let seq = handled_block(&engine, "sender");
    let unit = engine.json(&["journal", "show", "sender", &seq]);
    let key = format!("sender/{}/0", unit["id"].as_str().unwrap());
    let first = serde_json::json!({
        "id": key, "key": key, "kind": "http", "destination": receiver.url(), "lane": "blocks", "release": "committed",
    });
    assert_eq!((unit["effects"].as_array().unwrap().len(), &unit["effects"][0]), (2, &first), "{unit:#}");
    let shown = engine.ctl(&["journal", "show", "sender", &seq]);
    assert!(shown.contains("RELEASE") && shown.contains(&key), "{shown}");

    let args = ["sender", "--event", &seq, "--state-dir", &state(&engine)];
    let (code, said) = replay(&args);
    assert_eq!((code, &said["equal"], &said["replayed"]["effects"][0]), (0, &true.into(), &first), "{said:#}");
    // One that sends nothing.
    let other = bundle("recorder").join("module.wasm");
    let (code, said) = replay(&[&args[..], &["--component", path(&other)]].concat());
    assert_eq!(code, 1);
    let differences = said["differences"].as_array().unwrap();
    let effects: Vec<_> = differences.iter().filter(|it| it["what"].as_str().unwrap().starts_with("effect ")).collect();
    assert_eq!(effects.len(), 2, "{said:#}");
    assert_eq!((&effects[0]["what"], &effects[0]["replayed"]), (&"effect 1".into(), &"none".into()));
    let recorded = effects[0]["recorded"].as_str().unwrap();
    assert!(recorded.starts_with(&format!("http to {}, key {key}, lane blocks, release committed", receiver.url())));

    // A dead letter that is retried sends under the names of its own event, in a replay too.
    let once = ("max_event_attempts = 3", "max_event_attempts = 1");
    // Time to take it before the next one fails.
    let slow = CHAIN.replace("block_interval_ms = 50", "block_interval_ms = 2000");
    let setup = Setup::new().mock(31337, &slow).with(all);
    let engine = sender(setup, &receiver.url(), "trap-once", &[FROM_THE_FIRST, once]).start();
    engine.module_until("sender", "gave up", |node| node["dead_letters"].as_u64() > Some(0));
    let letters = engine.json(&["dlq", "list", "sender"]);
    let letter = letters.as_array().or_else(|| letters["letters"].as_array()).unwrap()[0]["seq"].to_string();
    eventually("it runs for long enough to take it", || engine.try_ctl(&["dlq", "retry", "sender", &letter]));
    let list = engine.json(&["journal", "tail", "sender", "-n", "1000"]);
    let is_retry = |entry: &&Value| entry["id"] == format!("retry:{letter}").as_str() && entry["kind"] == "handled";
    let seq = list["entries"].as_array().unwrap().iter().find(is_retry).unwrap()["seq"].to_string();
    let (code, said) = replay(&["sender", "--event", &seq, "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");
    assert!(said["replayed"]["effects"][0]["id"].as_str().unwrap().starts_with("sender/block:31337:"), "{said:#}");
}

#[test]
fn an_answer_over_http_comes_from_the_recording() {
    let mut receiver = Receiver::start();
    let setup = Setup::new().mock(31337, CHAIN).with("[journal]\nrecord = \"all\"");
    let mut engine = sender(setup, &receiver.url(), "fetch", &[FROM_THE_FIRST]).start();
    let seq = handled_block(&engine, "sender");
    engine.kill9();
    receiver.stop();
    let took = receiver.hits().len();
    let (code, said) = replay(&["sender", "--event", &seq, "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"], &said["missing"]), (0, &true.into(), &serde_json::json!([])), "{said:#}");
    assert!(!said["replayed"]["changed_keys"].as_array().unwrap().is_empty(), "what was answered is written: {said:#}");
    receiver.resume();
    let (code, said) = replay(&["sender", "--event", &seq, "--state-dir", &state(&engine)]);
    assert_eq!((code, receiver.hits().len()), (0, took), "the receiver was asked: {said:#}");
}

/// The component with one more core module, whose start function has this name and traps.
fn traps_at_start(component: &[u8], name: &str) -> Vec<u8> {
    const CORE_MODULE: u8 = 1;
    let (mut rest, mut modules) = (&component[8..], 0);
    while let [id, body @ ..] = rest {
        let length = body.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let bytes = body[..length].iter().rev().fold(0, |bytes, byte| bytes << 7 | usize::from(byte & 0x7f));
        modules += u8::from(*id == CORE_MODULE);
        rest = &body[length + bytes..];
    }
    let [types, functions, code] = wasm::trapping();
    // The names of its functions: one, of the first.
    let names = wasm::section(1, &[&[1, 0][..], &wasm::string(name)].concat());
    let core = wasm::core_module(&[types, functions, wasm::section(8, &[0]), code, wasm::custom("name", &names)]);
    // The core module, and an instance of it.
    [component, &core, &wasm::section(2, &[1, 0, modules, 0])].concat()
}

/// Puts that component into a bundle.
fn spoil(bundle: &Path, name: &str) {
    put_component(bundle, &traps_at_start(&fs::read(bundle.join("module.wasm")).unwrap(), name));
}

#[test]
fn what_fails_before_init_is_kept_too() {
    let setup = Setup::new().mock(31337, CHAIN).module("recorder", "m", &[]);
    spoil(&setup.dir.path().join("m"), "start");
    let engine = setup.start();
    engine.module_until("m", "fails", |node| node["restarts"].as_u64() > Some(0));
    let list = engine.json(&["crash", "list", "m"]);
    assert_eq!(list["crashes"][0]["event"], "init", "{list:#}");
    let error = list["crashes"][0]["error"].as_str().unwrap();
    assert!(error.contains("unreachable") && error.ends_with("in start"), "{error}");
    assert!(engine.metric("nexum_events_failed_total", &[("module", "m"), ("event_type", "init")]) > 0.0);
    let (code, said) = replay(&["m", "--last-crash", "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");
}

/// A name is a stranger's. Written out, the first of these has half a gigabyte.
#[test]
fn the_name_of_a_function_that_traps_is_shown_up_to_a_length_and_written_out_when_it_is_of_rust() {
    // A C++ name each of whose levels names the one below thirteen times.
    let level = |nth: usize| format!("S_I{}E", format!("S{nth}_").repeat(13));
    let explosive = format!("_Z1f1AIiE{}", (0..7).map(level).collect::<String>());
    let of_rust = format!("_ZN{}17h0123456789abcdefE", "10abcdefghij".repeat(200));
    let long = "x".repeat(50_000);
    let modules = [
        ("explosive", &explosive, format!("!{explosive}")),
        ("of-rust", &of_rust, format!("!{}", "abcdefghij::".repeat(33))),
        ("long", &long, format!("!{}", &long[..400])),
    ];
    let mut setup = Setup::new().mock(31337, CHAIN).module("recorder", "witness", &[]);
    for &(module, name, _) in &modules {
        setup = setup.module("recorder", module, &[QUICK]);
        spoil(&setup.dir.path().join(module), name);
    }
    let engine = setup.start();
    for &(module, _, ref shown) in &modules {
        engine.module_until(module, "fails", |node| node["restarts"].as_u64() > Some(0));
        // It is kept a moment after the module ended.
        let crash = eventually("its crash is kept", || engine.try_ctl(&["crash", "show", module]));
        let line = crash.lines().find(|line| line.contains("<unknown>!")).unwrap_or_else(|| panic!("{crash}"));
        assert!(line.contains(shown) && line.len() < 1_024, "{line}");
    }
    let tree = engine.ctl(&["tree"]);
    assert!(tree.len() < 16 << 10, "{tree}");
    let most = engine.memory_bytes_max();
    assert!(most < 256 << 20, "{most}");
    engine.module_until("witness", "runs", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn a_version_that_an_upgrade_refuses_leaves_a_crash() {
    let setup = hostile(Setup::new().mock(31337, CHAIN), "m", "good");
    let write = |directory: &str, mode: &str| {
        let dir = setup.write_bundle("hostile", directory, &[("mode = \"good\"", mode)]);
        let manifest = dir.join("nexum.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace(&format!("name = \"{directory}\""), "name = \"m\"")).unwrap();
        dir
    };
    let (traps, spoilt) = (write("traps", "mode = \"init-flush-trap\""), write("spoilt", "mode = \"good\""));
    spoil(&spoilt, "start");
    let engine = setup.start();
    engine.module_until("m", "runs", |node| node["state"] == "RUN");
    for (count, (bundle, error)) in [(&traps, "trap"), (&spoilt, "in start")].into_iter().enumerate() {
        let said = engine.try_ctl(&["module", "upgrade", "m", path(bundle)]).unwrap_err();
        assert!(said.contains("`m` goes on as it was") && said.contains(error), "{said}");
        let list = eventually("the crash is kept", || {
            let list = engine.json(&["crash", "list", "m"]);
            if list["crashes"].as_array().unwrap().len() > count { Ok(list) } else { Err(list.to_string()) }
        });
        let crash = &list["crashes"][count];
        assert_eq!(
            (&crash["event"], crash["error"].as_str().unwrap().contains(error)),
            (&"init".into(), true),
            "{list:#}"
        );
        let (code, said) = replay(&["m", "--last-crash", "--state-dir", &state(&engine)]);
        assert_eq!((code, &said["equal"]), (0, &true.into()), "{said:#}");
    }
    let node = engine.module("m");
    assert_eq!((&node["restarts"], &node["events_failed"]), (&0.into(), &0.into()), "not the running one's: {node:#}");
}

#[test]
fn what_was_not_recorded_is_said() {
    let engine = hostile(Setup::new().mock(31337, CHAIN), "quiet", "trap").with("record = \"none\"").start();
    engine.module_until("quiet", "failed", |node| node["events_failed"].as_u64() > Some(0));
    assert_eq!(engine.json(&["crash", "list", "quiet"])["crashes"], Value::Array(Vec::new()));
    let refused = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_nexum")).arg("replay").args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&["quiet", "--state-dir", &state(&engine)]);
    assert_eq!((code, said.as_str()), (5, "nexum: no crash of module `quiet` is kept\n"));
    let (code, said) = refused(&["quiet", "--event", "1", "--state-dir", &state(&engine)]);
    assert_eq!(code, 5);
    assert!(said.contains("has no recording of unit 1: [journal] record = \"all\" keeps them"), "{said}");
    let (code, said) = refused(&["--capsule", path(&engine.config), "--state-dir", &state(&engine)]);
    assert_eq!(code, 1);
    assert!(said.contains("this is no recording"), "{said}");
}
