//! The roster: which modules run after a restart, where the operator's orders changed that from the configuration.
//!
//! Owns the file and the rule: what was loaded, upgraded or unloaded at run time stays so, over the end of the
//! supervisor and of the process, until the configuration of that very module is changed. Then the configuration counts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use nexum_host_ifaces::{secrets, sync::lock};
use serde::{Deserialize, Serialize};

use crate::admin::ModuleSpec;

/// One module that is not as configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterChange {
    /// As the configuration had it when the order came; absent for a module that was only ever loaded at run time.
    pub configured: Option<ModuleSpec>,
    /// What runs in its place; absent when it was unloaded.
    pub running: Option<ModuleSpec>,
}

/// A module to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub spec: ModuleSpec,
    pub configured: Option<ModuleSpec>,
}

/// What to start, and what is configured but was unloaded. Changes to modules that are configured otherwise by now are
/// left out.
pub fn decide(configured: &[ModuleSpec], changes: Vec<RosterChange>) -> (Vec<Start>, Vec<ModuleSpec>) {
    let (mut starts, mut unloaded) = (Vec::new(), Vec::new());
    for spec in configured {
        match changes.iter().find(|change| change.configured.as_ref() == Some(spec)) {
            None => starts.push(Start { spec: spec.clone(), configured: Some(spec.clone()) }),
            Some(RosterChange { running: Some(running), .. }) => {
                starts.push(Start { spec: running.clone(), configured: Some(spec.clone()) });
            }
            Some(RosterChange { running: None, .. }) => unloaded.push(spec.clone()),
        }
    }
    let loaded = changes.into_iter().filter(|change| change.configured.is_none()).filter_map(|change| change.running);
    starts.extend(loaded.map(|spec| Start { spec, configured: None }));
    (starts, unloaded)
}

/// Modules by name, and the bundle that the state of each comes from.
pub type Owners = BTreeMap<String, PathBuf>;

/// The file of a roster without changes.
pub const EMPTY: &[u8] = b"{\n  \"changes\": []\n}\n";

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    changes: Vec<RosterChange>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    owners: Owners,
}

fn parse(text: &[u8]) -> Result<Content, String> {
    // It holds the configuration of modules.
    serde_json::from_slice(text).map_err(|error| secrets::without_value(&error.to_string()).to_string())
}

/// Whether this is what the file of a roster holds.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &[u8]) -> Result<(), String> {
    parse(text).map(drop)
}

/// Where the changes are kept. All block on the disk.
pub trait Keep: Send + Sync + 'static {
    /// # Errors
    /// What there is cannot be read; the message says where it is.
    fn read(&self) -> Result<Vec<RosterChange>, String>;

    /// Replaces what there is, in one step; durable when it returns.
    ///
    /// # Errors
    /// The disk failed: either is there afterwards.
    fn write(&self, changes: Vec<RosterChange>) -> Result<(), String>;

    /// Whose state lies under which name; nobody's is known where this is not kept.
    ///
    /// # Errors
    /// What there is cannot be read; the message says where it is.
    fn owners(&self) -> Result<Owners, String> {
        Ok(Owners::new())
    }

    /// Replaces the owners, as `write` does the changes.
    ///
    /// # Errors
    /// The disk failed: either is there afterwards.
    fn note_owners(&self, _: Owners) -> Result<(), String> {
        Ok(())
    }
}

/// The file that keeps the changes.
#[derive(Debug, Clone)]
pub struct Roster {
    path: PathBuf,
    /// Held by whoever reads or writes: a write reads first, and one may outlive who ordered it.
    used: Arc<Mutex<()>>,
}

impl Roster {
    pub fn new(path: PathBuf) -> Self {
        Self { path, used: Arc::default() }
    }

    fn used(&self) -> MutexGuard<'_, ()> {
        // The file is replaced in one step: nothing is left half done by whoever panicked.
        lock(&self.used)
    }

    /// A file that is not there holds no change.
    fn content(&self) -> Result<Content, String> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
            Err(error) => return Err(format!("{}: {error}", self.path.display())),
        };
        parse(&text).map_err(|error| {
            format!("{}: {error}; without this file the modules of the configuration run", self.path.display())
        })
    }

    fn put(&self, content: &Content) -> Result<(), String> {
        self.replace(content).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn replace(&self, content: &Content) -> io::Result<()> {
        let draft = self.path.with_extension("draft");
        let mut file = File::create(&draft)?;
        serde_json::to_writer_pretty(&mut file, content)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Keep for Roster {
    fn read(&self) -> Result<Vec<RosterChange>, String> {
        let _used = self.used();
        Ok(self.content()?.changes)
    }

    fn write(&self, changes: Vec<RosterChange>) -> Result<(), String> {
        let _used = self.used();
        self.put(&Content { changes, ..self.content()? })
    }

    fn owners(&self) -> Result<Owners, String> {
        let _used = self.used();
        Ok(self.content()?.owners)
    }

    fn note_owners(&self, owners: Owners) -> Result<(), String> {
        let _used = self.used();
        self.put(&Content { owners, ..self.content()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: &str) -> ModuleSpec {
        ModuleSpec::new(source.into())
    }

    fn change(configured: Option<&str>, running: Option<&str>) -> RosterChange {
        RosterChange { configured: configured.map(spec), running: running.map(spec) }
    }

    #[test]
    fn orders_stand_until_the_configuration_changes() {
        let changes = vec![
            change(Some("/a1"), Some("/a2")),
            change(Some("/b1"), None),
            change(Some("/c1"), Some("/c2")),
            change(None, Some("/d1")),
        ];
        // The operator has configured another `c` since.
        let configured = ["/a1", "/b1", "/c3", "/e1"].map(spec);
        let (starts, unloaded) = decide(&configured, changes);
        let starts: Vec<_> = starts.iter().map(|start| start.spec.source.display().to_string()).collect();
        assert_eq!(starts, ["/a2", "/c3", "/e1", "/d1"]);
        assert_eq!(unloaded, [spec("/b1")]);
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_damage_is_told() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("modules.json");
        let roster = Roster::new(path.clone());
        assert_eq!(roster.read().unwrap(), []);
        roster.write(Vec::new()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), EMPTY);
        assert_eq!(check(EMPTY), Ok(()));
        let mut changed = spec("/a");
        changed.config.insert("interval".into(), toml::Value::Integer(3));
        changed.config.insert("since".into(), toml::Value::Datetime("2026-11-20T00:00:00Z".parse().unwrap()));
        let changes = vec![RosterChange { configured: None, running: Some(changed) }, change(Some("/b"), None)];
        roster.write(changes.clone()).unwrap();
        assert_eq!(roster.read().unwrap(), changes);
        // Each is replaced without the other.
        let owners = Owners::from([("a".to_owned(), PathBuf::from("/a"))]);
        roster.note_owners(owners.clone()).unwrap();
        assert_eq!((roster.read().unwrap(), roster.owners().unwrap()), (changes, owners.clone()));
        roster.write(Vec::new()).unwrap();
        assert_eq!((roster.read().unwrap(), roster.owners().unwrap()), (Vec::new(), owners));
        assert!(check(b"{").unwrap_err().starts_with("EOF while parsing"));
        fs::write(&path, "{").unwrap();
        assert!(roster.read().unwrap_err().contains("without this file the modules of the configuration run"));
    }
}
