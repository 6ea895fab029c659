//! Loss of power: how far the store's log is on the disk for certain, and what is left of it when the power fails.
//!
//! The death of a process loses nothing that was written, a power failure what was not synced: from some point on, which may
//! lie in the middle of a write. RocksDB says how often it has synced its log. What is behind the last sync may be cut off
//! once the engine is gone.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

use nexum_store::Syncs;

use crate::{chance::Chance, scenario::FaultPlan};

/// The log that is written to, and its length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    path: PathBuf,
    length: u64,
}

pub fn newest(directory: &Path) -> Option<Log> {
    let files = fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let path = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "log")).max()?;
    let length = path.metadata().ok()?.len();
    Some(Log { path, length })
}

pub struct Power {
    chance: Chance,
    percent: u64,
    in_write: u64,
    pub syncs: Syncs,
    /// The newest log as far as it is synced.
    synced: Option<Log>,
    /// How often the log had been synced before the write at hand, and that log then.
    writing: (u64, Option<Log>),
    /// Where the log ends when the engine starts again.
    cut: Option<Log>,
}

impl Power {
    pub fn new(seed: u64, plan: &FaultPlan) -> Self {
        Self {
            chance: Chance::new(seed, "power"),
            percent: plan.power_percent,
            in_write: plan.power_in_write,
            syncs: Syncs::new(),
            synced: None,
            writing: (0, None),
            cut: None,
        }
    }

    /// What lies in the directory when an engine has opened the store is on the disk.
    pub fn opened(&mut self, directory: &Path) {
        self.synced = newest(directory);
    }

    /// Before a write.
    pub fn begin(&mut self, directory: &Path) {
        self.writing = (self.syncs.count(), newest(directory));
    }

    /// After a write, which is on the disk if it was synced.
    pub fn written(&mut self, directory: &Path) {
        if self.syncs.count() > self.writing.0 {
            self.synced = newest(directory);
        }
    }

    /// Whether the power fails in the write that was just made.
    pub fn fails_within(&mut self) -> bool {
        self.chance.per_myriad(self.in_write)
    }

    /// It does: whether the write is there all the same.
    pub fn fail_within(&mut self, directory: &Path) -> bool {
        let (is_there, share) = (self.chance.percent(25), self.chance.below(100));
        if !is_there && let Some(after) = newest(directory) {
            // Nobody waited for what is behind the last write that was acknowledged.
            let from =
                self.writing.1.take().filter(|before| before.path == after.path).map_or(0, |before| before.length);
            self.cut = Some(Log { length: from + after.length.saturating_sub(from) * share / 100, ..after });
        }
        is_there
    }

    /// The engine dies. Whether it does so because the power fails.
    pub fn fail(&mut self, directory: &Path) -> bool {
        let (fails, keeps) = (self.chance.percent(self.percent), self.chance.percent(50));
        if fails
            && !keeps
            && let Some(now) = newest(directory)
        {
            let synced =
                self.synced.as_ref().filter(|synced| synced.path == now.path).map_or(0, |synced| synced.length);
            self.cut = Some(Log { length: synced.min(now.length), ..now });
        }
        fails
    }

    /// The engine dies by a loss of power, and the log ends where it ended then.
    pub fn fail_at(&mut self, then: Option<&Log>, directory: &Path) {
        if let Some(now) = newest(directory) {
            // What another log held is in a table.
            let length = then.filter(|then| then.path == now.path).map_or(0, |then| then.length);
            self.cut = Some(Log { length: length.min(now.length), ..now });
        }
    }

    /// Takes away what was lost. The engine is gone.
    pub fn take_away(&mut self) -> Result<(), String> {
        let Some(Log { path, length }) = self.cut.take() else { return Ok(()) };
        // It may have been flushed into a table meanwhile.
        let Ok(file) = OpenOptions::new().write(true).open(&path) else { return Ok(()) };
        let now = file.metadata().map_err(|error| error.to_string())?.len();
        file.set_len(length.min(now)).map_err(|error| format!("{}: {error}", path.display()))
    }
}
