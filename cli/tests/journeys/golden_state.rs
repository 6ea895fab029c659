//! State as it was written once: one backup in `fixtures/state` of every store format that is read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{
    engine::{Engine, Setup, eventually},
    hostile::{QUICK, assert_handled_every_block},
    outbox::{EAGER, sender},
    receiver::{Mood, Receiver},
};

/// The chain of the next golden state, with a reorg that its modules undo.
const CHAIN: &str = "chain_id = 31337\nname = \"golden\"\nseed = 7\nfirst_timestamp_s = 1_700_000_000\n\
                     block_interval_ms = 50\nendless = true\n[[reorg]]\nat = 12\ndepth = 3\n";

/// One golden state. Its directory has the fixture of its chain, whose blocks are the same for ever, so that a module that
/// handled some of them goes on with the next; a backup; and what is to be read from that.
struct Golden {
    dir: PathBuf,
    modules: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures/state")
}

impl Golden {
    fn of(dir: PathBuf) -> Self {
        let expected = Self::expected(&dir);
        let modules =
            expected.as_array().unwrap().iter().map(|module| module["name"].as_str().unwrap().to_owned()).collect();
        Self { dir, modules }
    }

    fn expected(dir: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap()
    }

    /// A recorder, a module that sends its fifth block to the dead letters, and one that sends effects to a host. When the
    /// state is read that is another one, on which nobody listens, so that what is pending goes to nobody.
    fn setup(&self, host: &str, port: u16) -> Setup {
        let chain = fs::read_to_string(self.dir.join("chain.toml")).unwrap();
        let mut setup = Setup::new().mock(31337, &chain).with("[journal]\nreceipt_entries = 10\n").with(EAGER);
        let block = "kind = \"block\"\nchain_id = 31337";
        let first = (block, &*format!("{block}\nstart_block = 1"));
        for name in &self.modules {
            setup = match name.as_str() {
                "recorder" => setup.module("recorder", name, &[first]),
                "picky" => {
                    setup.module("hostile", name, &[("mode = \"good\"", "mode = \"trap-on\"\non = 5"), QUICK, first])
                }
                "sender" => {
                    let allow = format!("allow = [\"{host}\"]");
                    let changes = [("allow = [\"127.0.0.1\"]", &*allow), first];
                    sender(setup, &format!("http://{host}:{port}"), "keyed", &changes)
                }
                _ => panic!("{name} is in {}", self.dir.display()),
            };
            // The components are those of this version.
            setup = setup.with("adopt_state = true\n");
        }
        setup
    }

    /// What of the paused modules must read the same for ever.
    fn kept(&self, engine: &Engine) -> Value {
        self.modules.iter().map(|name| kept(engine, name)).collect()
    }
}

fn kept(engine: &Engine, name: &str) -> Value {
    let node = engine.module(name);
    let letters = engine.json(&["dlq", "list", name]);
    let letters = letters.as_array().unwrap().iter();
    let letters: Vec<_> = letters.map(|l| json!({ "seq": l["seq"], "attempts": l["attempts"] })).collect();
    let state: Vec<_> = engine.state(name, "").into_iter().map(|(key, value)| json!([key, value])).collect();
    let effects = engine.json(&["outbox", "list", name]);
    let effects = effects.as_array().unwrap().iter();
    let ended = |state: &Value| *state == "delivered";
    let effects = effects.map(|e| json!({ "id": e["id"], "key": e["key"], "delivered": ended(&e["state"]) }));
    let mut effects: Vec<_> = effects.collect();
    effects.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
    json!({
        "name": name, "cursors": node["cursors"], "state_bytes": node["state_bytes"], "restarts": node["restarts"],
        "dead_letters": letters, "state": state, "effects": effects,
    })
}

/// Not a test of its own: writes the state of this version, when `make golden` asks for it.
#[test]
fn golden_write() {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    let Ok(version) = std::env::var("NEXUM_GOLDEN") else { return };
    let dir = fixtures().join(version);
    assert!(!dir.exists(), "{} is there: a golden state is written once", dir.display());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("chain.toml"), CHAIN).unwrap();
    let golden = Golden { dir, modules: ["recorder", "picky", "sender"].map(str::to_owned).to_vec() };
    let receiver = Receiver::start();
    let mut engine = golden.setup("127.0.0.1", receiver.port()).start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    let effects = |what: &str, wanted: &[&str]| {
        eventually(what, || {
            let list = engine.json(&["outbox", "list", "sender"]);
            let has = |state: &&str| list.as_array().unwrap().iter().any(|effect| effect["state"] == **state);
            if wanted.iter().all(has) { Ok(()) } else { Err(format!("{list:#}")) }
        });
    };
    effects("one has arrived", &["delivered"]);
    receiver.set(Mood::Refuses(404));
    effects("one has failed", &["delivered", "failed"]);
    receiver.set(Mood::Refuses(503));
    effects("one is tried again", &["delivered", "failed", "pending"]);
    for name in &golden.modules {
        engine.module_until(name, "has a past", |node| node["events_processed"].as_u64() > Some(20));
        engine.ctl(&["module", "pause", name]);
    }
    let text = serde_json::to_string_pretty(&golden.kept(&engine)).unwrap();
    fs::write(golden.dir.join("expected.json"), text + "\n").unwrap();
    engine.ctl(&["state", "backup", "--to", golden.dir.join("backup").to_str().unwrap()]);
    assert!(engine.terminate().success());
}

#[test]
fn every_golden_state_opens_reads_as_written_and_goes_on() {
    let versions = fs::read_dir(fixtures()).expect("no golden state: run `make golden`");
    let mut versions: Vec<_> = versions.map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    assert!(!versions.is_empty(), "no golden state: run `make golden`");
    for golden in versions.into_iter().map(Golden::of) {
        let mut engine = golden.setup("127.0.0.2", 9).prepare();
        let restored = Command::new(env!("CARGO_BIN_EXE_nexum"))
            .args(["state", "restore", "--from"])
            .arg(golden.dir.join("backup"))
            .arg("--state-dir")
            .arg(engine.dir.path().join("state"))
            .output()
            .unwrap();
        assert!(restored.status.success(), "{}: {}", golden.dir.display(), String::from_utf8_lossy(&restored.stderr));
        engine.launch();
        for name in &golden.modules {
            engine.module_until(name, "is paused, as it was", |node| node["state"] == "PAUSED");
        }
        assert_eq!(golden.kept(&engine), Golden::expected(&golden.dir), "{}", golden.dir.display());
        for name in &golden.modules {
            engine.ctl(&["module", "resume", name]);
            engine.module_until(name, "goes on", |node| node["events_processed"].as_u64() > Some(5));
            engine.ctl(&["journal", "verify", name]);
        }
        assert_handled_every_block(&engine, "recorder");
        assert_eq!(engine.module("picky")["dead_letters"], 1);
        let list = engine.json(&["outbox", "list", "sender"]);
        let failed = list.as_array().unwrap().iter().find(|effect| effect["state"] == "failed").unwrap();
        engine.ctl(&["outbox", "retry", "sender", failed["id"].as_str().unwrap()]);
        assert!(engine.terminate().success());
    }
}
