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

use std::{
    fs::{self, File, OpenOptions},
    hash::{Hash as _, Hasher as _},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use file::{Content, Fnv};
use nexum_host_ifaces::event::EventId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Deaths of the process during one event before it is set aside: the first may be a neighbour's, and one more a chance.
pub const DEATHS_MAX: u32 = 3;
/// Events that may run at once, more than there can be modules.
const TURNS: u32 = 1 << 20;

/// What a module can be at.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// Its component is verified, compiled and linked.
    Load,
    Event(&'a EventId),
}

impl What<'_> {
    /// Enough of its name to know it again, in this build of the engine.
    fn key(self) -> u64 {
        let mut hash = Fnv::default();
        match self {
            Self::Load => 0_u8.hash(&mut hash),
            // It is told with the head of the moment, which another attempt may find moved on.
            Self::Event(EventId::NthReorg { chain_id, nth, .. }) => (1_u8, chain_id, nth).hash(&mut hash),
            Self::Event(id) => (2_u8, id).hash(&mut hash),
        }
        hash.finish()
    }
}

/// The marks of all modules.
pub struct Marks {
    path: PathBuf,
    /// Absent: nothing is marked and nobody is a suspect.
    file: Option<File>,
    deaths_max: u32,
    slots: Mutex<Vec<Known>>,
    /// Suspects of all modules together. There are only those that were found at the start, so that once there are none,
    /// no event has to wait for another.
    suspects: AtomicUsize,
    turns: Arc<Semaphore>,
    /// A mark could not be written, which was told.
    failed: AtomicBool,
}

struct Known {
    slot: file::Slot,
    /// No other module was at anything when the process died, and that is not counted against this one yet.
    alone: bool,
}

impl Marks {
    /// Marks nothing.
    pub fn none() -> Self {
        Self::new(PathBuf::new(), None, DEATHS_MAX, Vec::new())
    }

    /// Takes in what the process before left at `path`, counts it, and begins the file anew. `deaths_max` is how often the
    /// process may die during one event. To be called by the one engine that uses the directory.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, deaths_max: u32) -> io::Result<Self> {
        let Content { slots, damaged } = read(path)?;
        if damaged > 0 {
            tracing::warn!(path = %path.display(), damaged, "marks that cannot be read count for nothing");
        }
        let begun = slots.iter().filter(|slot| slot.begun.is_some()).count();
        let mut known = Vec::new();
        for mut slot in slots {
            let at_something = slot.died();
            if at_something {
                tracing::warn!(
                    module = slot.name,
                    others = begun - 1,
                    "the process died while this module was at an event or was started; that is tried alone now"
                );
            }
            if !slot.suspects.is_empty() {
                known.push(Known { slot, alone: at_something && begun == 1 });
            }
        }
        let mut bytes = file::header(false).to_vec();
        known.iter().for_each(|known| bytes.extend(file::encode(&known.slot)));
        let draft = path.with_extension("draft");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&draft)?;
        file.write_all_at(&bytes, 0)?;
        fs::rename(&draft, path)?;
        Ok(Self::new(path.to_owned(), Some(file), deaths_max, known))
    }

    fn new(path: PathBuf, file: Option<File>, deaths_max: u32, known: Vec<Known>) -> Self {
        let suspects: usize = known.iter().map(|known| known.slot.suspects.len()).sum();
        Self {
            path,
            file,
            deaths_max,
            slots: Mutex::new(known),
            suspects: AtomicUsize::new(suspects),
            turns: Arc::new(Semaphore::new(TURNS as usize)),
            failed: AtomicBool::new(false),
        }
    }

    /// From here on the process ends because somebody wants it to: what is under way then counts for nothing.
    pub fn close(&self) {
        self.write(&file::header(true), 0);
    }

    /// Where a module's marks go.
    pub fn slot(self: &Arc<Self>, module: &str) -> Slot {
        Slot { marks: self.clone(), index: self.index(module) }
    }

    fn index(&self, module: &str) -> Option<usize> {
        self.file.as_ref()?;
        let mut slots = self.lock();
        if let Some(index) = slots.iter().position(|known| known.slot.name == module) {
            return Some(index);
        }
        let index = slots.len();
        if index >= file::SLOTS_MAX {
            tracing::warn!(module, "not marked: there are {index} marks already");
            return None;
        }
        let slot = file::Slot { name: module.to_owned(), ..file::Slot::default() };
        // One after the other, so that the file has no holes.
        self.write(&file::encode(&slot), file::offset(index));
        slots.push(Known { slot, alone: false });
        Some(index)
    }

    /// The operator starts a module afresh: what it died of before it handled an event may be mended.
    pub fn forgive(&self, module: &str) {
        let starting = [What::Load, What::Event(&EventId::Init)].map(What::key);
        self.keep(module, |key| !starting.contains(&key));
    }

    /// A module is unloaded.
    pub fn forget(&self, module: &str) {
        self.keep(module, |_| false);
    }

    fn keep(&self, module: &str, keep: impl Fn(u64) -> bool) {
        let index = self.lock().iter().position(|known| known.slot.name == module);
        if let Some(index) = index {
            self.retain(index, keep);
        }
    }

    /// Drops suspects of a module that is at nothing now, or is at what is dropped.
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
            self.write(&file::encode(slot), file::offset(index));
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
    async fn turn(&self, index: usize, key: u64) -> Option<OwnedSemaphorePermit> {
        if !self.has_suspects() {
            return None;
        }
        let turns = if self.deaths(index, key) > 0 { TURNS } else { 1 };
        // Nobody closes the semaphore.
        self.turns.clone().acquire_many_owned(turns).await.ok()
    }

    fn mark(&self, index: usize, begun: Option<u64>) {
        self.write(&file::mark(begun), file::mark_offset(index));
    }

    fn write(&self, bytes: &[u8], offset: u64) {
        let Some(file) = &self.file else { return };
        if let Err(error) = file.write_all_at(bytes, offset)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            let path = self.path.display();
            tracing::error!(%path, "not written: {error}; an event that ends the process may begin again for ever");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The marks of one module.
#[derive(Clone)]
pub struct Slot {
    marks: Arc<Marks>,
    /// Absent: nothing is marked.
    index: Option<usize>,
}

impl Slot {
    /// Marks that the module begins something, once it may: the first attempt since the process died of it runs alone. One
    /// thing at a time.
    pub async fn begin(&self, what: What<'_>) -> Begun {
        let Some(index) = self.index else { return Begun { at: None, _turn: None } };
        let key = what.key();
        let turn = self.marks.turn(index, key).await;
        self.marks.mark(index, Some(key));
        Begun { at: Some((self.marks.clone(), index, key)), _turn: turn }
    }

    /// How often the process died of it, once that is too often.
    pub fn deadly(&self, what: What<'_>) -> Option<u32> {
        let index = self.index.filter(|_| self.marks.has_suspects())?;
        let deaths = self.marks.deaths(index, what.key());
        (deaths >= self.marks.deaths_max).then_some(deaths)
    }

    /// It is done with otherwise.
    pub fn clear(&self, what: What<'_>) {
        if let Some(index) = self.index {
            let key = what.key();
            self.marks.retain(index, |suspect| suspect != key);
        }
    }

    /// Whether the process last died of this module and no other can be the cause, and that is not counted yet.
    pub fn died_alone(&self) -> bool {
        self.index.is_some_and(|index| self.marks.lock()[index].alone)
    }

    /// That is counted.
    pub fn counted(&self) {
        if let Some(index) = self.index {
            self.marks.lock()[index].alone = false;
        }
    }
}

/// Something that a module is at. When it is dropped the module is at nothing any more, unless the process dies first.
#[must_use = "the module is at it for as long as this is kept"]
pub struct Begun {
    at: Option<(Arc<Marks>, usize, u64)>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Begun {
    /// It has come to its end, well or badly: it is no suspect any more.
    pub fn ended(self) {
        if let Some((marks, index, key)) = &self.at {
            marks.retain(*index, |suspect| suspect != *key);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some((marks, index, _)) = &self.at {
            marks.mark(*index, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tempfile::TempDir;

    use super::*;

    fn block(number: u64) -> EventId {
        EventId::Block { chain_id: 1, number, hash: Default::default() }
    }

    fn open(dir: &TempDir) -> Arc<Marks> {
        Arc::new(Marks::open(&dir.path().join("begun"), 3).unwrap())
    }

    /// Begins something that runs at once.
    fn begin(slot: &Slot, what: What<'_>) -> Begun {
        slot.begin(what).now_or_never().expect("nothing else runs")
    }

    /// The process dies while this module is at something: nothing of it is dropped.
    fn die(marks: &Arc<Marks>, module: &str, id: &EventId) {
        std::mem::forget(begin(&marks.slot(module), What::Event(id)));
    }

    #[test]
    fn an_event_that_ends_the_process_each_time_is_counted_until_it_is_too_often() {
        let dir = TempDir::new().unwrap();
        for deaths in 0..3 {
            let marks = open(&dir);
            let slot = marks.slot("killer");
            assert_eq!(slot.deadly(What::Event(&block(7))), None, "after {deaths} deaths");
            // What it does before it comes there again ends well.
            begin(&slot, What::Load).ended();
            begin(&slot, What::Event(&EventId::Init)).ended();
            begin(&slot, What::Event(&block(6))).ended();
            die(&marks, "killer", &block(7));
        }
        let marks = open(&dir);
        let slot = marks.slot("killer");
        assert_eq!(slot.deadly(What::Event(&block(7))), Some(3));
        assert_eq!(slot.deadly(What::Event(&block(8))), None, "another event");
        assert_eq!(marks.slot("other").deadly(What::Event(&block(7))), None, "the same event of another module");
        slot.clear(What::Event(&block(7)));
        assert_eq!(open(&dir).slot("killer").deadly(What::Event(&block(7))), None);
    }

    #[test]
    fn a_suspect_runs_alone_and_clears_itself_when_it_only_was_a_neighbour() {
        let dir = TempDir::new().unwrap();
        let marks = open(&dir);
        die(&marks, "killer", &block(7));
        die(&marks, "neighbour", &block(7));

        let marks = open(&dir);
        let [killer, neighbour, third] = ["killer", "neighbour", "third"].map(|module| marks.slot(module));
        assert!(!killer.died_alone() && !neighbour.died_alone(), "it may have been either");
        let other = begin(&third, What::Event(&block(7)));
        let id = block(7);
        let mut suspect = Box::pin(neighbour.begin(What::Event(&id)));
        assert!(suspect.as_mut().now_or_never().is_none(), "while another event runs");
        other.ended();
        let alone = suspect.now_or_never().expect("now it is alone");
        assert!(third.begin(What::Event(&block(8))).now_or_never().is_none(), "while a suspect runs");
        alone.ended();
        die(&marks, "killer", &block(7));

        let marks = open(&dir);
        assert!(marks.slot("killer").died_alone() && !marks.slot("neighbour").died_alone());
        marks.slot("killer").counted();
        assert!(!marks.slot("killer").died_alone(), "once");
        let counts = |module| {
            let index = marks.slot(module).index.unwrap();
            marks.deaths(index, What::Event(&block(7)).key())
        };
        assert_eq!((counts("killer"), counts("neighbour")), (2, 0));
        // Without suspects nothing waits for anything.
        begin(&marks.slot("killer"), What::Event(&block(7))).ended();
        let _one = begin(&marks.slot("neighbour"), What::Event(&block(8)));
        let _other = begin(&marks.slot("third"), What::Event(&block(8)));
    }

    #[test]
    fn an_engine_that_is_stopped_in_order_leaves_no_suspect() {
        let dir = TempDir::new().unwrap();
        for _ in 0..5 {
            let marks = open(&dir);
            assert!(!marks.has_suspects());
            marks.close();
            die(&marks, "slow", &block(7));
        }
        // An event that is cut short is not one that has ended, and no death either.
        let marks = open(&dir);
        drop(begin(&marks.slot("slow"), What::Event(&block(7))));
        assert!(!open(&dir).has_suspects());
    }

    #[test]
    fn a_reorg_that_is_told_with_another_head_is_the_same_event() {
        let told = |head: u8, nth| {
            let new_head = nexum_host_ifaces::Hash([head; 32]);
            What::Event(&EventId::NthReorg { chain_id: 1, old_head: Default::default(), new_head, nth }).key()
        };
        assert_eq!(told(1, 7), told(2, 7));
        assert_ne!(told(1, 7), told(1, 8));
    }

    #[test]
    fn what_nobody_here_wrote_counts_for_nothing() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("begun");
        let marks = open(&dir);
        die(&marks, "a", &block(1));
        die(&marks, "b", &block(1));
        let whole = fs::read(&path).unwrap();
        let suspects = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            open(&dir).suspects.load(Ordering::Relaxed)
        };
        assert_eq!(suspects(&whole), 2);
        let longer = [whole.as_slice(), [0; 77].as_slice()].concat();
        let cases: [(&[u8], usize); 5] =
            [(b"", 0), (b"{}", 0), (&[0xff; 4096], 0), (&whole[..whole.len() - 1], 1), (&longer, 2)];
        for (bytes, left) in cases {
            assert_eq!(suspects(bytes), left, "{} bytes", bytes.len());
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            assert!(suspects(&damaged) < 2, "byte {at}");
        }
        let endless = vec![0; usize::try_from(file::BYTES_MAX).unwrap() + 1];
        assert_eq!(suspects(&endless), 0);
    }

    #[test]
    fn an_operator_forgives_a_start_and_forgets_a_module() {
        let dir = TempDir::new().unwrap();
        let starts = |marks: &Arc<Marks>| marks.slot("m").deadly(What::Event(&EventId::Init));
        for _ in 0..3 {
            die(&open(&dir), "m", &EventId::Init);
        }
        let marks = open(&dir);
        assert_eq!(starts(&marks), Some(3));
        marks.forgive("m");
        assert_eq!((starts(&marks), starts(&open(&dir))), (None, None));
        die(&open(&dir), "m", &block(1));
        let marks = open(&dir);
        marks.forgive("m");
        assert!(marks.has_suspects(), "an event is no start");
        marks.forget("m");
        assert!(!marks.has_suspects() && !open(&dir).has_suspects());
    }

    #[test]
    fn without_a_file_nothing_is_marked_and_nothing_waits() {
        let marks = Arc::new(Marks::none());
        let slot = marks.slot("m");
        die(&marks, "m", &block(1));
        let _begun = begin(&slot, What::Event(&block(1)));
        assert_eq!(slot.deadly(What::Event(&block(1))), None);
        assert!(!slot.died_alone());
    }
}
