//! The journal as a tool: verified while it grows and after kills, found out when a byte is changed, compared between
//! engines.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::engine::{Engine, FAST_CHAIN as CHAIN, FROM_THE_FIRST, Setup, eventually, path};

const OFTEN: &str = "[journal]\nreceipt_entries = 10\n";

/// Exit code, standard output and standard error of `nexum`, which needs no engine for these.
fn nexum(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nexum")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn handled(engine: &Engine, module: &str, more_than: u64) {
    engine.module_until(module, "handled", |node| node["events_processed"].as_u64() > Some(more_than));
}

#[test]
fn a_journal_is_sound_after_kills_and_every_receipt_is_signed_by_the_engines_key() {
    let setup = Setup::new().with(OFTEN).mock(31337, CHAIN).module("recorder", "a", &[FROM_THE_FIRST]);
    let mut engine = setup.start();
    for round in 0..3 {
        handled(&engine, "a", 15);
        engine.kill9();
        let state = engine.dir.path().join("state");
        let (code, said, error) = nexum(&["journal", "verify", "a", "--state-dir", path(&state)]);
        assert_eq!(code, 0, "round {round}: {said}{error}");
        engine.launch();
    }
    handled(&engine, "a", 15);
    let key = engine.ctl(&["journal", "key"]).trim().to_owned();
    let verdict = engine.json(&["journal", "verify", "a", "--key", &key]);
    assert_eq!(verdict["sound"], true, "{verdict:#}");
    let report = &verdict["report"];
    assert!(report["receipts"].as_u64() > Some(3) && report["keys"] == serde_json::json!([key]), "{report:#}");
    let other = format!("0x{}", "11".repeat(32));
    let refused = engine.try_ctl(&["journal", "verify", "a", "--key", &other]).unwrap_err();
    assert!(refused.contains(&format!("signed by {key}, not by {other}")), "{refused}");

    // Without its receipts the export is a chain that anybody could have made: the key says nothing of it.
    let export = engine.ctl(&["journal", "export", "a"]);
    let (mut bare, mut receipts) = (Vec::new(), 0);
    for line in export.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if let Some(end) = line.get_mut("end") {
            end["receipts"] = 0.into();
        }
        match line.get("receipt") {
            Some(_) => receipts += 1,
            None => bare.push(line.to_string()),
        }
    }
    assert!(receipts > 3);
    let file = engine.dir.path().join("bare.jsonl");
    fs::write(&file, bare.join("\n") + "\n").unwrap();
    let (code, said, error) = nexum(&["journal", "verify", "--file", path(&file)]);
    assert_eq!((code, said.contains("receipts: none; ")), (0, true), "{said}{error}");
    let (code, said, error) = nexum(&["journal", "verify", "--file", path(&file), "--key", &key]);
    assert_eq!((code, error.contains("signed nothing")), (1, true), "{said}{error}");

    // An orderly stop leaves nothing unsigned, and the key stays.
    assert!(engine.terminate().success());
    let state = engine.dir.path().join("state");
    let (code, said, error) = nexum(&["journal", "verify", "a", "--state-dir", path(&state), "--json"]);
    assert_eq!(code, 0, "{said}{error}");
    let report = serde_json::from_str::<Value>(&said).unwrap()["report"].clone();
    assert_eq!(report["signed_to"], report["newest"], "{report:#}");
    let mode = Command::new("stat").args(["-c", "%a", path(&state.join("journal.key"))]).output().unwrap();
    assert_eq!(mode.stdout, b"600\n");
}

#[test]
fn units_are_shown_with_what_they_changed_and_followed_as_they_come() {
    let engine = Setup::new().with(OFTEN).mock(31337, CHAIN).module("recorder", "a", &[FROM_THE_FIRST]).start();
    handled(&engine, "a", 12);
    let list = engine.json(&["journal", "tail", "a", "-n", "5"]);
    let entries = list["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 5);
    assert!(entries.windows(2).all(|pair| pair[1]["previous"] == pair[0]["digest"]), "{list:#}");
    let tail = engine.ctl(&["journal", "tail", "a", "-n", "3"]);
    assert_eq!(tail.lines().count(), 4, "{tail}");

    let handled: Vec<Value> = engine.json(&["journal", "tail", "a", "-n", "20"])["entries"].as_array().unwrap().clone();
    let entry = handled.iter().find(|entry| entry["id"].as_str().unwrap().starts_with("block:")).unwrap();
    let seq = entry["seq"].to_string();
    let unit = engine.json(&["journal", "show", "a", &seq]);
    assert_eq!((&unit["digest"], &unit["kind"]), (&entry["digest"], &"handled".into()));
    let keys: Vec<&str> = unit["changes"].as_array().unwrap().iter().map(|c| c["key"].as_str().unwrap()).collect();
    assert!(keys.contains(&"n") && keys.iter().any(|key| key.starts_with("b/")), "{unit:#}");
    let shown = engine.ctl(&["journal", "show", "a", &seq]);
    assert!(shown.contains("state changes") && shown.contains("KEY"), "{shown}");
    let missing = engine.try_ctl(&["journal", "show", "a", "999999"]).unwrap_err();
    assert!(missing.contains("has no unit 999999 in its journal, which holds 1 to"), "{missing}");

    // Following goes on until it is stopped; ask for a few lines of it.
    let mut follow = Command::new(env!("CARGO_BIN_EXE_nexumctl"))
        .args(["--socket", path(&engine.socket), "journal", "tail", "a", "-n", "2", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines().take(8);
    let seqs: Vec<u64> =
        lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["seq"].as_u64().unwrap()).collect();
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert_eq!(seqs.len(), 8, "it ended by itself");
    assert_eq!(seqs, (seqs[0]..seqs[0] + 8).collect::<Vec<_>>());
}

/// Stops the module and writes its journal to a file.
fn export(engine: &Engine, module: &str, name: &str) -> std::path::PathBuf {
    let file = engine.dir.path().join(name);
    fs::write(&file, engine.ctl(&["journal", "export", module])).unwrap();
    file
}

#[test]
fn a_changed_byte_is_found_in_an_export_and_in_a_backup() {
    let mut engine = Setup::new().with(OFTEN).mock(31337, CHAIN).module("recorder", "a", &[FROM_THE_FIRST]).start();
    handled(&engine, "a", 30);
    let file = export(&engine, "a", "a.jsonl");
    let (code, said, error) = nexum(&["journal", "verify", "--file", path(&file)]);
    assert_eq!(code, 0, "{said}{error}");

    let text = fs::read_to_string(&file).unwrap();
    let line = text.lines().position(|line| line.contains("\"seq\":17,")).unwrap();
    let changed: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(at, text)| if at == line { text.replacen("\"fuel\":", "\"fuel\":1", 1) } else { text.to_owned() })
        .collect();
    fs::write(&file, changed.join("\n") + "\n").unwrap();
    let (code, _, error) = nexum(&["journal", "verify", "--file", path(&file)]);
    assert_eq!(code, 1);
    assert!(error.contains("the journal is not sound: entry 17: its digest is 0x"), "{error}");
    let (code, said, _) = nexum(&["journal", "verify", "--file", path(&file), "--json"]);
    let verdict: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &verdict["sound"], &verdict["bad"]["seq"]), (1, &false.into(), &17.into()));

    // A backup is verified like a state directory, and a byte of an entry changed in it is found.
    let backup = engine.dir.path().join("backup");
    engine.ctl(&["state", "backup", "--to", path(&backup)]);
    engine.kill9();
    let (code, said, error) = nexum(&["journal", "verify", "a", "--backup", path(&backup)]);
    assert_eq!(code, 0, "{said}{error}");
    change_fuel_of_entry(&backup, 17);
    let (code, _, error) = nexum(&["journal", "verify", "a", "--backup", path(&backup)]);
    assert_eq!(code, 1);
    assert!(error.contains("entry 17: its digest is 0x") && error.contains("but entry 18 says"), "{error}");
    let (code, _, error) = nexum(&["journal", "verify", "nobody", "--backup", path(&backup)]);
    assert_eq!(code, 5, "{error}");
}

/// Changes one byte of a stored journal entry, as somebody with a database tool could: within its event's hash, so that
/// it still reads well.
fn change_fuel_of_entry(directory: &Path, seq: u64) {
    let families = ["default", "state", "events"];
    let present = rocksdb::DB::list_cf(&rocksdb::Options::default(), directory).unwrap();
    let all: Vec<&str> = present.iter().map(String::as_str).collect();
    assert!(families.iter().all(|family| all.contains(family)), "{all:?}");
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), directory, &all).unwrap();
    let events = db.cf_handle("events").unwrap();
    let key = [1u32.to_be_bytes().as_slice(), &seq.to_be_bytes()].concat();
    let mut entry = db.get_cf(events, &key).unwrap().unwrap();
    entry[20] ^= 1;
    db.put_cf(events, key, entry).unwrap();
}

#[test]
fn two_engines_on_one_chain_are_equal_and_another_module_is_found_out() {
    let setup = || Setup::new().with(OFTEN).mock(31337, CHAIN);
    let hostile = |setup: Setup, mode: &str| {
        let wanted = format!("mode = \"{mode}\"");
        let quick = ("backoff = [\"1s\", \"5m\"]", "backoff = [\"10ms\", \"50ms\"]");
        setup.module("hostile", "m", &[("mode = \"good\"", &wanted), FROM_THE_FIRST, quick])
    };
    let first = hostile(setup(), "good").start();
    // This one is killed in between, so that its units have other numbers.
    let mut second = hostile(setup(), "good").start();
    handled(&second, "m", 5);
    second.kill9();
    second.launch();
    // This one gives up on block 12.
    let third = hostile(setup(), "trap-on\"\non = \"12").start();
    for engine in [&first, &second, &third] {
        eventually("past block 20", || {
            let cursor = engine.module("m")["cursors"]["chain:31337"].as_str().unwrap_or("0").parse::<u64>();
            if cursor.clone().is_ok_and(|number| number > 20) { Ok(()) } else { Err(format!("{cursor:?}")) }
        });
    }
    let [a, b, c] = [&first, &second, &third].map(|engine| export(engine, "m", "m.jsonl"));
    let (code, said, error) = nexum(&["journal", "diff", path(&a), path(&b), "--json"]);
    let compared: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &compared["differences"]), (0, &0.into()), "{compared:#}{error}");
    assert!(compared["common"].as_u64() > Some(15), "{compared:#}");

    let (code, said, _) = nexum(&["journal", "diff", path(&a), path(&c), "--json"]);
    let compared: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 1);
    let event = compared["first"]["event"].as_str().unwrap();
    assert!(event.starts_with("block:31337:12:"), "{compared:#}");
    assert_eq!(compared["first"]["what"][0], "outcome: handled in A, quarantined in B");
    let (code, said, _) = nexum(&["journal", "diff", path(&a), path(&c)]);
    assert_eq!(code, 1);
    assert!(said.contains("the first:\n  block:31337:12:0x"), "{said}");
}
