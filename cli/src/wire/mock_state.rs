//! Where the state of a `run --mock` is, which no configuration says: a note beside its admin socket, for the commands that
//! read a state directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::config::Config;

/// Lies in the directory of the admin socket.
const NOTE: &str = "mock-state-dir";

/// Goes with the engine.
pub struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        // One that stays names a directory that is not there, which readers see.
        let _ = fs::remove_file(&self.0);
    }
}

/// Says where the state is, in the log and in the note.
pub fn note(config: &Config) -> anyhow::Result<Note> {
    let state_dir = &config.engine.state_dir;
    let directory = config.observability.admin_socket.as_deref().and_then(Path::parent).unwrap_or(state_dir);
    let path = directory.join(NOTE);
    fs::write(&path, state_dir.as_os_str().as_encoded_bytes()).with_context(|| path.display().to_string())?;
    tracing::info!(
        "the state is in {} and is removed when the engine stops; give --state-dir to keep it",
        state_dir.display()
    );
    Ok(Note(path))
}

/// The state directory that the note in `directory` names, while it is there.
pub fn noted(directory: &Path) -> Option<PathBuf> {
    let noted = fs::read_to_string(directory.join(NOTE)).ok().map(PathBuf::from);
    noted.filter(|state_dir| state_dir.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_found_until_the_engine_or_its_state_is_gone() {
        let (here, state) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
        let mut config = Config::default();
        config.engine.state_dir = state.path().to_owned();
        config.observability.admin_socket = Some(here.path().join("admin.sock"));
        assert_eq!(noted(here.path()), None);
        let kept = note(&config).unwrap();
        assert_eq!(noted(here.path()).as_deref(), Some(state.path()));
        drop(kept);
        assert_eq!(noted(here.path()), None);
        std::mem::forget(note(&config).unwrap());
        drop(state);
        assert_eq!(noted(here.path()), None);
    }
}
