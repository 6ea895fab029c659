//! `state restore`: fills a state directory from a backup, where no engine runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

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
        true => print_json(&json!({ "restored": to })),
        false => print(&format!("restored to {}\n", to.display())),
    }
}

/// Where the store is that was made.
fn filled(from: &Path, state_dir: &Path) -> anyhow::Result<PathBuf> {
    let to = wire::store_directory(state_dir);
    // Nobody can use a directory that is not there, and it is not made before the backup has been read.
    let _lock = match state_dir.is_dir() {
        true => Some(wire::lock::hold(state_dir, "restore")?),
        false => None,
    };
    let mut options = nexum_store::Options::new(Arc::new(SystemClock::new()), prometheus::Registry::new());
    options.companions = wire::companions(state_dir);
    nexum_store::restore(from, &to, &options)?;
    Ok(to)
}
