//! The roster on the simulated disk: each of its writes is a point where the engine may die or the write may fail, as
//! each of the store's is.

use std::{path::PathBuf, sync::Arc};

use nexum_kernel::roster::{Keep, Roster, RosterChange};
use nexum_store::{Disk, Written};

use crate::disk::SimDisk;

pub struct SimRoster {
    file: Roster,
    disk: Arc<SimDisk>,
}

impl SimRoster {
    pub fn new(path: PathBuf, disk: Arc<SimDisk>) -> Self {
        Self { file: Roster::new(path), disk }
    }
}

impl Keep for SimRoster {
    fn read(&self) -> Result<Vec<RosterChange>, String> {
        self.file.read()
    }

    fn write(&self, changes: Vec<RosterChange>) -> Result<(), String> {
        self.disk.before(Written::Group)?;
        self.file.write(changes.clone())?;
        self.disk.rostered(&changes);
        self.disk.after(Written::Group)
    }
}
