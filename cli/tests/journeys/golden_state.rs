//! State written by earlier versions: one backup per store format in `fixtures/state`, opened by every version since.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{
    engine::{Engine, Setup},
    hostile::{QUICK, assert_handled_every_block},
};

/// The same blocks in every version, so that a module that handled some of them goes on with the next.
const CHAIN: &str = "chain_id = 31337\nname = \"golden\"\nseed = 7\nfirst_timestamp_s = 1_700_000_000\nblock_interval_ms = 50\nendless = true\n";
const MODULES: [&str; 2] = ["recorder", "picky"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures/state")
}

/// A recorder, and a module that sends its fifth block to the dead letters.
fn setup() -> Setup {
    let from_the_first = ("kind = \"block\"\nchain_id = 31337", "kind = \"block\"\nchain_id = 31337\nstart_block = 1");
    Setup::new().mock(31337, CHAIN).module("recorder", MODULES[0], &[from_the_first]).module(
        "hostile",
        MODULES[1],
        &[("mode = \"good\"", "mode = \"trap-on\"\non = 5"), QUICK, from_the_first],
    )
}

/// What of the paused modules must read the same for ever.
fn kept(engine: &Engine) -> Value {
    let module = |name: &str| {
        let node = engine.module(name);
        let letters = engine.json(&["dlq", "list", name]);
        let letters = letters.as_array().or_else(|| letters["letters"].as_array()).unwrap().clone();
        let letters: Vec<_> = letters.iter().map(|l| json!({ "seq": l["seq"], "attempts": l["attempts"] })).collect();
        let state: Vec<_> = engine.state(name, "").into_iter().map(|(key, value)| json!([key, value])).collect();
        json!({
            "name": name, "cursors": node["cursors"], "state_bytes": node["state_bytes"], "restarts": node["restarts"],
            "dead_letters": letters, "state": state,
        })
    };
    Value::from(MODULES.map(module).to_vec())
}

/// Not a test of its own: writes the state of this version, when `make golden` asks for it.
#[test]
fn golden_write() {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    let Ok(version) = std::env::var("NEXUM_GOLDEN") else { return };
    let to = fixtures().join(version);
    assert!(!to.exists(), "{} is there: a golden state is written once", to.display());
    let mut engine = setup().start();
    for name in MODULES {
        engine.module_until(name, "has a past", |node| node["events_processed"].as_u64() > Some(20));
        engine.ctl(&["module", "pause", name]);
    }
    fs::create_dir_all(&to).unwrap();
    let text = serde_json::to_string_pretty(&kept(&engine)).unwrap();
    fs::write(to.join("expected.json"), text + "\n").unwrap();
    engine.ctl(&["state", "backup", "--to", to.join("backup").to_str().unwrap()]);
    assert!(engine.terminate().success());
}

#[test]
fn every_golden_state_opens_reads_as_written_and_goes_on() {
    let mut versions: Vec<_> = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    assert!(!versions.is_empty(), "no golden state: run `make golden`");
    for golden in versions {
        let mut engine = setup().prepare();
        let restored = Command::new(env!("CARGO_BIN_EXE_nexum"))
            .args(["state", "restore", "--from"])
            .arg(golden.join("backup"))
            .arg("--state-dir")
            .arg(engine.dir.path().join("state"))
            .output()
            .unwrap();
        assert!(restored.status.success(), "{}: {}", golden.display(), String::from_utf8_lossy(&restored.stderr));
        engine.launch();
        for name in MODULES {
            engine.module_until(name, "is paused, as it was", |node| node["state"] == "PAUSED");
        }
        let expected: Value = serde_json::from_str(&fs::read_to_string(golden.join("expected.json")).unwrap()).unwrap();
        assert_eq!(kept(&engine), expected, "{}", golden.display());
        for name in MODULES {
            engine.ctl(&["module", "resume", name]);
            engine.module_until(name, "goes on", |node| node["events_processed"].as_u64() > Some(5));
        }
        assert_handled_every_block(&engine, MODULES[0]);
        assert_eq!(engine.module(MODULES[1])["dead_letters"], 1);
        assert!(engine.terminate().success());
    }
}
