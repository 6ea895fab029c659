//! Backups and restores that something is wrong with: nothing is lost by them, and nothing begins anew unasked.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Command, Output},
};

use super::engine::{FAST_CHAIN as CHAIN, NEXUM, NEXUMCTL, Setup};

fn restore(from: &Path, state_dir: &Path) -> Output {
    let mut command = Command::new(NEXUM);
    command.args(["state", "restore", "--json", "--from"]).arg(from).arg("--state-dir").arg(state_dir);
    command.output().unwrap()
}

/// Exit code and stderr.
fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_engine_does_not_begin_anew_where_a_restore_was_cut_short() {
    let mut engine = Setup::new().mock(31337, CHAIN).module("recorder", "a", &[]).start();
    engine.module_until("a", "has state", |node| node["events_processed"].as_u64() > Some(3));
    let [state, backup, other] = ["state", "backup", "other"].map(|name| engine.dir.path().join(name));
    engine.ctl(&["state", "backup", "--to", backup.to_str().unwrap()]);
    let refused = engine.try_ctl(&["state", "backup", "--to", state.join("store/copy").to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("is the engine's own"), "{refused}");
    // The store of an engine that runs is no backup.
    let (code, refused) = said(&restore(&state.join("store"), &other));
    assert!(code == Some(1) && refused.contains("an engine uses ") && !other.exists(), "{refused}");

    engine.kill9();
    let remains = state.join("store.restoring");
    fs::rename(state.join("store"), state.join("store.before")).unwrap();
    fs::create_dir(&remains).unwrap();
    let start = || said(&Command::new(NEXUM).args(["run", "--config"]).arg(&engine.config).output().unwrap());
    let (code, refused) = start();
    assert!(code == Some(1) && refused.contains("is left of a restore that was cut short"), "{refused}");
    assert!(!state.join("store").exists());
    let (code, failed) = said(&restore(&backup, &state));
    assert_eq!((code, remains.exists()), (Some(0), false), "{failed}");
    engine.launch();
    engine.module_until("a", "goes on", |node| node["events_processed"].as_u64() > Some(3));
}

#[test]
fn a_path_that_is_no_text_ends_no_command_in_a_panic() {
    let engine = Setup::new().mock(31337, CHAIN).start();
    let odd = |name: &[u8]| engine.dir.path().join(OsStr::from_bytes(name));
    let (copy, state, backup) = (odd(b"copy-\xff"), odd(b"state-\xff"), odd(b"backup"));
    let mut command = Command::new(NEXUMCTL);
    command.arg("--socket").arg(&engine.socket).args(["state", "backup", "--to"]).arg(&copy);
    let (code, refused) = said(&command.output().unwrap());
    assert!(code == Some(2) && refused.contains("is no UTF-8") && !copy.exists(), "{refused}");
    for flag in ["--mock", "--state-dir", "--module"] {
        let mut command = Command::new(NEXUM);
        command.args(["check-config", "--json", "--config"]).arg(&engine.config).arg(flag).arg(&copy);
        let (code, refused) = said(&command.output().unwrap());
        assert!(code == Some(2) && refused.contains("is no UTF-8"), "{flag}: {refused}");
    }
    let mut command = Command::new(NEXUMCTL);
    command.arg("--socket").arg(&engine.socket).args(["module", "load"]).arg(&copy);
    let (code, refused) = said(&command.output().unwrap());
    assert!(code == Some(2) && refused.contains("is no UTF-8"), "{refused}");
    engine.ctl(&["state", "backup", "--to", backup.to_str().unwrap()]);
    let restored = restore(&backup, &state);
    assert_eq!(said(&restored).0, Some(0), "{}", said(&restored).1);
    assert!(String::from_utf8_lossy(&restored.stdout).contains("state-\u{fffd}"));
    assert!(state.join("store/CURRENT").exists());
}

#[test]
fn what_a_crash_is_exported_to_is_not_overwritten() {
    let dir = tempfile::TempDir::new().unwrap();
    let to = dir.path().join("precious");
    fs::write(&to, "precious").unwrap();
    let mut command = Command::new(NEXUMCTL);
    command.args(["--socket", "/nonexistent/admin.sock", "crash", "export", "a", "--to"]).arg(&to);
    let (code, refused) = said(&command.output().unwrap());
    assert!(code == Some(1) && refused.contains("it exists already"), "{refused}");
    assert_eq!(fs::read_to_string(&to).unwrap(), "precious");
}

#[test]
fn what_has_no_end_is_no_file_to_any_command() {
    let dir = tempfile::TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let wanted = [
        "journal verify --file @",
        "journal verify --file @ --receipt @",
        "journal diff @ @",
        "replay --capsule @",
        "run --mock @",
    ];
    for (args, place) in wanted.iter().flat_map(|args| [(args, "/dev/zero"), (args, pipe.to_str().unwrap())]) {
        let args: Vec<&str> = args.split(' ').map(|arg| if arg == "@" { place } else { arg }).collect();
        let (code, refused) = said(&Command::new(NEXUM).args(&args).current_dir(dir.path()).output().unwrap());
        assert!(matches!(code, Some(1 | 2)) && refused.contains("expected a file"), "{args:?}: {code:?} {refused}");
    }
}
