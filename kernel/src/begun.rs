//! Which module was at what when the process died: marks in a file, of every event that was begun and has not ended.
//!
//! Owns the file and the count. An event that ends the process, by its memory or by holding up what a probe asks, would
//! otherwise begin again at every start and never count as failed. A mark is a positioned write without a sync: the page
//! cache outlives the process, and a machine that loses power loses marks and nothing else.
//!
//! Invariant: whoever only ran beside it clears itself. An event that was begun when the process died is a suspect; its next
//! attempt runs while no other event does, so that from then on the process dies of it or it ends. What is read from the
//! file is a claim: content that nobody here wrote is left out, and a wrong count costs a module one event at most.

mod file;
mod slot;
#[cfg(test)]
mod tests;
mod what;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
};

use file::Content;
use nexum_host_ifaces::{
    clock::{Clock, SystemClock},
    sync::lock,
};
use slot::Place;
pub use slot::{Begun, Slot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use what::Kind;
pub use what::What;

/// Deaths of the process during one event before it is set aside: the first may be a neighbour's, and one more a chance.
pub const DEATHS_MAX: u32 = 3;
/// Events that may run at once, more than there can be modules.
const TURNS: u32 = 1 << 20;
/// What a suspect waits for, and what all others do meanwhile.
const ALONE: &str = "the events in flight of other modules: the process died while this ran, so that it is tried alone";
const OTHERS: &str = "an event of another module that is tried alone, because the process died while it ran";

/// The marks of all modules.
pub struct Marks {
    path: PathBuf,
    /// Absent: nothing is marked and nobody is a suspect.
    file: Option<File>,
    deaths_max: u32,
    clock: Arc<dyn Clock>,
    slots: Mutex<Vec<Known>>,
    /// Suspects of all modules together. There are only those that were found at the start, so that once there are none,
    /// no event has to wait for another.
    suspects: AtomicUsize,
    turns: Arc<Semaphore>,
    /// A mark could not be written, which was told.
    failed: AtomicBool,
}

/// A slot of the file. What its module is at now is in the file alone.
#[derive(Default)]
struct Known {
    slot: file::Slot,
    /// No other module was at anything when the process died, and what this one was at is not counted against it yet.
    alone: Option<u64>,
    place: Weak<Place>,
    /// Since when each of its marks waits for its turn.
    waits: [Option<Wait>; file::MARKS],
}

/// What a module waits for before it may begin something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    pub reason: &'static str,
    /// Of the monotonic clock.
    pub since_ns: u64,
}

impl Marks {
    /// Marks nothing.
    pub fn none() -> Self {
        Self::new(PathBuf::new(), None, DEATHS_MAX, Arc::new(SystemClock::new()), Vec::new())
    }

    /// Takes in what the process before left at `path`, counts it, and begins the file anew. `deaths_max` is how often the
    /// process may die during one event. To be called by the one engine that uses the directory.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, deaths_max: u32, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let Content { slots, damaged } = read(path)?;
        if damaged > 0 {
            tracing::warn!(path = %path.display(), damaged, "marks that cannot be read count for nothing");
        }
        let begun: usize = slots.iter().map(|slot| slot.begun.iter().flatten().count()).sum();
        let mut known = Vec::new();
        for mut slot in slots {
            let keys = slot.died();
            for key in &keys {
                let (at, others) = (Kind::of(*key).name(), begun - 1);
                tracing::warn!(module = slot.name, at, others, "the process died; the next attempt at this runs alone");
            }
            if !slot.suspects.is_empty() {
                // One whose mark cannot be read may have been at something, too.
                let alone = keys.first().copied().filter(|_| begun == 1 && damaged == 0);
                known.push(Known { slot, alone, ..Known::default() });
            }
        }
        let mut bytes = file::header(false).to_vec();
        known.iter().for_each(|known| bytes.extend(file::encode(&known.slot)));
        let draft = path.with_extension("draft");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&draft)?;
        file.write_all_at(&bytes, 0)?;
        fs::rename(&draft, path)?;
        Ok(Self::new(path.to_owned(), Some(file), deaths_max, clock, known))
    }

    fn new(path: PathBuf, file: Option<File>, deaths_max: u32, clock: Arc<dyn Clock>, known: Vec<Known>) -> Self {
        let suspects: usize = known.iter().map(|known| known.slot.suspects.len()).sum();
        Self {
            path,
            file,
            deaths_max,
            clock,
            slots: Mutex::new(known),
            suspects: AtomicUsize::new(suspects),
            turns: Arc::new(Semaphore::new(TURNS as usize)),
            failed: AtomicBool::new(false),
        }
    }

    /// The process ends now, because somebody wants it to: what is under way counts for nothing.
    pub fn close(&self) {
        self.write(&file::header(true), 0);
    }

    /// Where a module's marks go.
    pub fn slot(self: &Arc<Self>, module: &str) -> Slot {
        if self.file.is_none() {
            return Slot { place: None };
        }
        let mut slots = self.lock();
        if let Some(index) = slots.iter().position(|known| known.slot.name == module) {
            return self.take(&mut slots[index], index);
        }
        // One after the other, so that the file has no holes.
        let index = slots.iter().position(Known::is_free).unwrap_or(slots.len());
        if index >= file::SLOTS_MAX {
            tracing::warn!(module, "not marked: there are {index} marks already");
            return Slot { place: None };
        }
        let slot = file::Slot { name: module.to_owned(), ..file::Slot::default() };
        self.write(&file::encode(&slot), file::offset(index));
        if index == slots.len() {
            slots.push(Known::default());
        }
        slots[index].slot = slot;
        self.take(&mut slots[index], index)
    }

    fn take(self: &Arc<Self>, known: &mut Known, index: usize) -> Slot {
        let place = known.place.upgrade().unwrap_or_else(|| {
            let place = Arc::new(Place { marks: self.clone(), index });
            known.place = Arc::downgrade(&place);
            place
        });
        Slot { place: Some(place) }
    }

    /// The operator starts a module afresh, or another version of it: what it died of by itself before it handled an event,
    /// or when the operator tried something, may be mended.
    pub fn forgive(&self, module: &str) {
        let index = self.lock().iter().position(|known| known.slot.name == module);
        if let Some(index) = index {
            self.retain(index, |key| Kind::of(key) == Kind::Event);
        }
    }

    /// A module is unloaded.
    pub fn forget(&self, module: &str) {
        self.keep(|name| name != module);
    }

    /// Forgets the modules that there are not any more.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        for (index, known) in self.lock().iter_mut().enumerate() {
            if known.slot.name.is_empty() || is_there(&known.slot.name) {
                continue;
            }
            self.suspects.fetch_sub(known.slot.suspects.len(), Ordering::AcqRel);
            (known.slot, known.alone) = (file::Slot::default(), None);
            self.write(&file::encode(&known.slot), file::offset(index));
        }
    }

    /// What modules wait for before they may begin something, by name: each its longest wait.
    pub fn waits(&self) -> BTreeMap<String, Wait> {
        if !self.has_suspects() {
            return BTreeMap::new();
        }
        let slots = self.lock();
        let oldest = |known: &Known| {
            let wait = known.waits.iter().flatten().min_by_key(|wait| wait.since_ns)?;
            Some((known.slot.name.clone(), *wait))
        };
        slots.iter().filter_map(oldest).collect()
    }

    /// Drops suspects of a module, but for those to keep.
    fn retain(&self, index: usize, keep: impl Fn(u64) -> bool) {
        if !self.has_suspects() {
            return;
        }
        let mut slots = self.lock();
        let slot = &mut slots[index].slot;
        let before = slot.suspects.len();
        slot.suspects.retain(|suspect| keep(suspect.key));
        let dropped = before - slot.suspects.len();
        if dropped > 0 {
            self.write(&file::suspects(slot), file::suspects_offset(index));
            self.suspects.fetch_sub(dropped, Ordering::AcqRel);
        }
    }

    fn has_suspects(&self) -> bool {
        self.suspects.load(Ordering::Acquire) > 0
    }

    fn deaths(&self, index: usize, key: u64) -> u32 {
        let slots = self.lock();
        let found = slots[index].slot.suspects.iter().find(|suspect| suspect.key == key);
        found.map_or(0, |suspect| suspect.deaths)
    }

    /// Waits until a suspect can run alone, or until none does. Those who wait are served in order.
    async fn turn(&self, index: usize, nth: usize, key: u64) -> Option<OwnedSemaphorePermit> {
        if !self.has_suspects() {
            return None;
        }
        let (turns, reason) = if self.deaths(index, key) > 0 { (TURNS, ALONE) } else { (1, OTHERS) };
        let mut turn = pin!(self.turns.clone().acquire_many_owned(turns));
        // Nobody closes the semaphore.
        if let Poll::Ready(turn) = futures::poll!(turn.as_mut()) {
            return turn.ok();
        }
        let _waiting = Waiting::begin(self, index, nth, reason);
        turn.await.ok()
    }

    fn mark(&self, index: usize, nth: usize, begun: Option<u64>) {
        self.write(&file::mark(begun), file::mark_offset(index, nth));
    }

    fn write(&self, bytes: &[u8], offset: u64) {
        // Marks that are kept nowhere: of a replay, and of tests.
        let Some(file) = &self.file else { return };
        if let Err(error) = file.write_all_at(bytes, offset)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let path = self.path.display();
            tracing::error!(%path, "not written: {error}; an event that ends the process may begin again for ever");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        lock(&self.slots)
    }
}

impl Known {
    /// Nobody's, and nobody who had it is still about to write there.
    fn is_free(&self) -> bool {
        self.slot.name.is_empty() && self.place.strong_count() == 0
    }
}

/// Shown for as long as somebody waits.
struct Waiting<'a> {
    marks: &'a Marks,
    index: usize,
    nth: usize,
}

impl<'a> Waiting<'a> {
    fn begin(marks: &'a Marks, index: usize, nth: usize, reason: &'static str) -> Self {
        let since_ns = marks.clock.monotonic_ns();
        marks.lock()[index].waits[nth] = Some(Wait { reason, since_ns });
        Self { marks, index, nth }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.marks.lock()[self.index].waits[self.nth] = None;
    }
}

/// What there is at `path`; nothing when nobody here wrote it.
fn read(path: &Path) -> io::Result<Content> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(file::BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(file::decode(&bytes).unwrap_or_else(|reason| {
        tracing::warn!(path = %path.display(), "what it holds counts for nothing: {reason}");
        Content::default()
    }))
}
