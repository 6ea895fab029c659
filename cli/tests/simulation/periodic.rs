//! Periodic durability: what a loss of power takes from a store that is synced now and then.
//!
//! A store without threads syncs every write. What would not have been synced yet is cut off all the same: its log ends
//! where it ended after one of the writes of the last moment, and everything must be as it was then. Effects that were sent
//! after that may have left, and nobody needs to know of them.

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
    sync::atomic::AtomicBool,
};

use nexum_host_ifaces::store::StateView;
use nexum_store::Store;

use crate::{
    chance::Chance,
    power::{Log, newest},
};

/// Whether this process simulates that.
pub static PERIODIC: AtomicBool = AtomicBool::new(false);

/// How much of the past a loss of power may take, milliseconds.
const PERIOD_MS: u64 = 100;

/// Effects by module and key.
pub type Keys = BTreeSet<(String, String)>;

struct Kept<T> {
    at_ms: u64,
    log: Option<Log>,
    looked: T,
}

/// How everything looked after the writes of the last moment, and after the one before them.
pub struct Periodic<T> {
    chance: Chance,
    kept: VecDeque<Kept<T>>,
    /// The effects that the state told of when the power failed.
    sent: Keys,
    /// Those that it did not tell of any more afterwards.
    pub lost: Keys,
}

impl<T> Periodic<T> {
    pub fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed, "periodic"), kept: VecDeque::new(), sent: Keys::new(), lost: Keys::new() }
    }

    /// Something was written.
    pub fn keep(&mut self, at_ms: u64, directory: &Path, looked: T) {
        self.kept.push_back(Kept { at_ms, log: newest(directory), looked });
        self.forget(at_ms);
    }

    /// What was written a moment ago or longer is synced.
    fn forget(&mut self, now_ms: u64) {
        while self.kept.get(1).is_some_and(|next| next.at_ms + PERIOD_MS <= now_ms) {
            self.kept.pop_front();
        }
    }

    /// The power fails: where the log ends, and how everything looked then.
    pub fn lose<'a>(
        &mut self,
        now_ms: u64,
        store: &Store,
        modules: impl Iterator<Item = &'a String>,
    ) -> Option<(Option<Log>, T)> {
        self.sent = sent(store, modules);
        self.forget(now_ms);
        let index = usize::try_from(self.chance.below(self.kept.len() as u64)).unwrap_or(0);
        let left = self.kept.drain(..).nth(index);
        left.map(|kept| (kept.log, kept.looked))
    }

    /// A new engine has opened what is left.
    pub fn opened<'a>(&mut self, store: &Store, modules: impl Iterator<Item = &'a String>) {
        let before = std::mem::take(&mut self.sent);
        let left = sent(store, modules);
        self.lost.extend(before.into_iter().filter(|key| !left.contains(key)));
    }
}

/// The effects that the modules' states tell of: as sent, or as having left when their event was undone.
fn sent<'a>(store: &Store, modules: impl Iterator<Item = &'a String>) -> Keys {
    let mut keys = Keys::new();
    for name in modules {
        // One that the store does not know yet has sent nothing.
        let Ok(id) = store.id(name) else { continue };
        for prefix in ["s/", "x/"] {
            for (_, value) in store.scan(id, prefix, None, usize::MAX).unwrap_or_default() {
                let text = String::from_utf8_lossy(&value);
                keys.insert((name.clone(), text.split(' ').next().unwrap_or_default().to_owned()));
            }
        }
    }
    keys
}
