//! `state restore`: fills a state directory from a backup, where no engine runs.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use nexum_host_ifaces::clock::SystemClock;
use serde_json::json;

use crate::{
    args::Output,
    exit::Failure,
    render::{print, print_json},
    wire,
};

pub(super) fn restore(from: &Path, state_dir: &Path, output: &Output) -> Result<(), Failure> {
    let to = filled(from, state_dir)?;
    match output.json {
        true => print_json(&json!({ "restored": to.to_string_lossy() })),
        false => print(&format!("restored to {}\n", to.display())),
    }
}

/// Where the store is that was made.
fn filled(from: &Path, state_dir: &Path) -> anyhow::Result<PathBuf> {
    let to = wire::store_directory(state_dir);
    let held = match state_dir.is_dir() {
        true => Some(wire::lock::hold(state_dir, "restore")?),
        false => None,
    };
    let mut options = nexum_store::Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
    options.companions = wire::companions(state_dir);
    let restore = nexum_store::Restore::check(from, &to, &options)?;
    // A directory that is not there is not made before the backup has been read, and is held before anything is in it.
    let _lock = match held {
        Some(lock) => lock,
        None => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
            made.with_context(|| state_dir.display().to_string())?;
            wire::lock::hold(state_dir, "restore")?
        }
    };
    restore.put_in_place()?;
    Ok(to)
}
