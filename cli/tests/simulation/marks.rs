//! The file of marks over the engine's death: what is in it then outlives the process, and nothing that is written while the
//! runtime is taken down. It is never synced, so that a loss of power leaves what it was at any time, or nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::chance::Chance;

/// Earlier times that are remembered.
const EARLIER_MAX: usize = 8;

/// Absent: there is no such file.
type Content = Option<Vec<u8>>;

pub struct MarksFile {
    path: PathBuf,
    chance: Chance,
    /// What was in it at some times before.
    earlier: Vec<Content>,
    /// What the next engine finds. Absent: what is in it.
    left: Option<Content>,
}

impl MarksFile {
    pub fn new(seed: u64, path: PathBuf) -> Self {
        Self { path, chance: Chance::new(seed, "marks"), earlier: Vec::new(), left: None }
    }

    fn read(&self) -> Result<Content, String> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.path.display())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Now and then remembers what is in it.
    pub fn glance(&mut self) -> Result<(), String> {
        if !self.chance.percent(10) {
            return Ok(());
        }
        let now = self.read()?;
        match self.earlier.len() < EARLIER_MAX {
            true => self.earlier.push(now),
            false => {
                let nth = usize::try_from(self.chance.below(EARLIER_MAX as u64)).unwrap_or(0);
                self.earlier[nth] = now;
            }
        }
        Ok(())
    }

    /// The process dies.
    pub fn stays(&mut self) -> Result<(), String> {
        self.left = Some(self.read()?);
        Ok(())
    }

    /// The power fails. What that leaves, in a word.
    pub fn lose(&mut self) -> Result<&'static str, String> {
        let (word, left) = match self.chance.below(5) {
            0 => ("marks gone", None),
            1 => ("marks empty", Some(Vec::new())),
            2 | 3 if !self.earlier.is_empty() => ("earlier marks", self.chance.pick(&self.earlier).clone()),
            _ => ("all marks", self.read()?),
        };
        self.left = Some(left);
        Ok(word)
    }

    /// Makes it what was left. The engine is gone.
    pub fn put_back(&mut self) -> Result<(), String> {
        let done = match self.left.take() {
            None => Ok(()),
            Some(Some(bytes)) => fs::write(&self.path, bytes),
            Some(None) => match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        done.map_err(|error| self.failed(&error))
    }
}
