//! `replay`: a recorded event, run again without an engine.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nexum_host_ifaces::{
    Hash,
    clock::SystemClock,
    recording::{Recording, Wanted},
};
use nexum_kernel::{
    compile::CompileLimits,
    load,
    manifest::text,
    replay::{self, Difference, Replayed},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::block_on;
use crate::{
    args::{Output, replay::Replay},
    exit::Failure,
    journal::source,
    render::{self, print, print_json},
    wire::{self, compiler, mock_state},
};

/// State directories are looked for here when nothing is said: the working directory's, or that of a mock run in it, then
/// the machine's.
const STATE_DIRS: [&str; 2] = [".nexum", "/var/lib/nexum"];

/// Many times what a recording may have.
const CAPSULE_BYTES_MAX: u64 = 64 << 20;

pub fn replay(wanted: &Replay, output: &Output) -> Result<(), Failure> {
    let state_dir = wanted.state_dir.clone().or_else(|| {
        let places = STATE_DIRS.iter().flat_map(|dir| [Some(PathBuf::from(dir)), mock_state::noted(Path::new(dir))]);
        places.flatten().find(|dir| wire::store_directory(dir).is_dir())
    });
    let recording = recording(wanted, state_dir.as_deref())?;
    let setting = &recording.setting;
    // Compiled code is kept per component, so that a fix that is tried again starts at once.
    let temporary =
        tempfile::TempDir::with_prefix("nexum-replay-").map_err(|error| Failure::failed(error.to_string()))?;
    let cache = match &state_dir {
        Some(dir) if dir.join("cache").is_dir() => dir.join("cache"),
        _ => temporary.path().to_owned(),
    };
    // Whoever tries a component has not read it either. What the configuration of an engine says is not known here.
    let engine = compiler::limited(&cache, CompileLimits::default());
    let engine = engine.map_err(|error| Failure::failed(error.to_string()))?;
    let (component, hash) = match &wanted.component {
        Some(path) => {
            let hash = digest(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
            (engine.component(path, hash).map_err(|error| Failure::failed(error.to_string()))?, hash)
        }
        None => {
            let found = engine.kept(setting.component).ok_or_else(|| {
                Failure::failed(format!(
                    "the component sha256:{} is not in {}: name its file with --component",
                    hex::encode(setting.component.0),
                    cache.display()
                ))
            })?;
            (found, setting.component)
        }
    };
    let mut replayed: Result<Replayed, String> = Err("it did not run".into());
    let into = &mut replayed;
    let of = &recording;
    block_on(Box::pin(async move {
        *into = replay::replay(&engine, &component, of, Arc::new(SystemClock::new())).await;
        Ok(())
    }))?;
    let replayed = replayed.map_err(Failure::failed)?;
    let same_component = hash == setting.component;
    let fresh = recording.handled_before == 0;
    let differences = replay::compare(&recording.outcome, &replayed.outcome, same_component, fresh);
    match output.json {
        true => print_json(&as_json(&recording, hash, &replayed, &differences))?,
        false => print(&render::replay::replayed(&recording, hash, &replayed, &differences))?,
    }
    if differences.is_empty() && replayed.missing.is_empty() { Ok(()) } else { Err(Failure::failed("")) }
}

/// The hash of a file, which need not fit into memory.
fn digest(path: &Path) -> io::Result<Hash> {
    let mut file = load::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a file"));
    }
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(Hash(hasher.finalize().into()))
}

fn recording(wanted: &Replay, state_dir: Option<&Path>) -> Result<Recording, Failure> {
    if let Some(path) = &wanted.capsule {
        let bytes = text::bytes(path, CAPSULE_BYTES_MAX);
        let bytes = bytes.map_err(|error| Failure::usage(format!("--capsule {}: {error}", path.display())))?;
        return Recording::decode(&bytes).map_err(|error| Failure::failed(format!("{}: {error}", path.display())));
    }
    let Some(module) = &wanted.module else { return Err(Failure::usage("which module?")) };
    let directory = match (&wanted.backup, state_dir) {
        (Some(backup), _) => backup.clone(),
        (None, Some(dir)) => wire::store_directory(dir),
        (None, None) => {
            let looked = STATE_DIRS.join(" or ");
            return Err(Failure::usage(format!(
                "no state directory at {looked}: give --state-dir; that of `run --mock` goes with the engine, unless the \
                 run had --state-dir, too"
            )));
        }
    };
    let which = match (wanted.event, wanted.crash) {
        (Some(seq), _) => Wanted::Unit(seq),
        (None, Some(number)) => Wanted::Crash(number),
        (None, None) => Wanted::LastCrash,
    };
    let bytes = source::open(&directory)?.recording(module, which).map_err(source::failed)?;
    Recording::decode(&bytes).map_err(Failure::failed)
}

fn as_json(recording: &Recording, component: Hash, replayed: &Replayed, differences: &[Difference]) -> Value {
    let result = |failure: &Option<nexum_host_ifaces::recording::Fault>| match failure {
        Some(fault) => json!({ "error": fault.message, "backtrace": fault.backtrace }),
        None => json!("ok"),
    };
    let outcome = |outcome: &nexum_host_ifaces::recording::RecordedOutcome| {
        json!({
            "result": result(&outcome.failure),
            "fuel": outcome.fuel,
            "changed_keys": outcome.changes.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            "effects": render::replay::effects(outcome),
            "lines": outcome.lines,
        })
    };
    let different = |difference: &Difference| {
        let Difference { what, recorded, replayed } = difference;
        json!({ "what": what, "recorded": recorded, "replayed": replayed })
    };
    json!({
        "module": recording.setting.module,
        "event": recording.event_id().to_string(),
        "at_ms": recording.at_ms,
        "handled_before": recording.handled_before,
        "component": { "recorded": recording.setting.component, "replayed": component },
        "recorded": outcome(&recording.outcome),
        "replayed": outcome(&replayed.outcome),
        "equal": differences.is_empty() && replayed.missing.is_empty(),
        "differences": differences.iter().map(different).collect::<Vec<_>>(),
        "missing": replayed.missing,
    })
}
