//! What recordings hold in memory: counted before it is copied, for each instance and for all instances of an engine.
//!
//! Invariant: a recording that is refused room once is cut. It takes nothing more, and whoever kept a part of it drops
//! that part.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// More than an event reads in practice, and little enough that a module's crashes, which are bounded together, are always
/// those of several events. What needs more is cut, which frees what was kept of it, and cannot be replayed.
pub const RECORDING_BYTES_MAX: usize = 4 << 20;

/// What an entry takes besides its bytes: its place in a list that doubles, and what the allocator adds.
pub(crate) const ENTRY_BYTES: usize = 64;

/// What recordings of one engine may hold in memory together, bytes: sixty-four of the greatest, and tens of thousands of
/// the usual size, a few kilobytes. Only events at hand and crashes on their way to the store hold any.
pub const POOL_BYTES: usize = 256 << 20;

/// Taken from the pool at once, so that most events ask it once.
const STEP_BYTES: usize = 16 << 10;

/// The memory that all recordings of an engine share.
#[derive(Debug)]
pub struct Pool {
    left: AtomicUsize,
}

impl Default for Pool {
    fn default() -> Self {
        Self::new(POOL_BYTES)
    }
}

impl Pool {
    pub fn new(bytes: usize) -> Self {
        Self { left: AtomicUsize::new(bytes) }
    }

    /// Takes bytes until the answer is dropped; `None` when so many are not left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.grant(bytes).then(|| Charge { pool: self.clone(), bytes })
    }

    fn grant(&self, bytes: usize) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Relaxed);
    }
}

/// Bytes of the pool, which has them back when this is dropped.
#[derive(Debug)]
pub struct Charge {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Charge {
    /// Makes it one of so many bytes; answers whether they were left.
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.pool.grant(bytes - self.bytes) {
            return false;
        }
        self.pool.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.give_back(self.bytes);
    }
}

/// Counts what one instance records of the call at hand, in whichever part of its host. Only one thread at a time runs
/// an instance, so that a count is read and written without another in between.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordedBytes(Arc<Metered>);

#[derive(Debug, Default)]
struct Metered {
    bytes: AtomicUsize,
    /// Taken from the pool, at least `bytes`.
    charged: AtomicUsize,
    cut: AtomicBool,
    pool: Arc<Pool>,
}

impl RecordedBytes {
    /// Of a fresh instance. One that does not record counts nothing.
    pub fn of(pool: Option<&Arc<Pool>>) -> Self {
        pool.map_or_else(Self::default, Self::new)
    }

    fn new(pool: &Arc<Pool>) -> Self {
        Self(Arc::new(Metered {
            bytes: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            pool: pool.clone(),
        }))
    }

    /// Whether so many bytes more may be kept, which are counted then. When not, the recording is cut.
    pub fn room(&self, bytes: usize) -> bool {
        let Metered { bytes: counted, charged, cut, pool } = &*self.0;
        if cut.load(Relaxed) {
            return false;
        }
        let total = counted.load(Relaxed).saturating_add(bytes);
        let before = charged.load(Relaxed);
        if total <= RECORDING_BYTES_MAX {
            let more = total.saturating_sub(before).next_multiple_of(STEP_BYTES);
            if more == 0 || pool.grant(more) {
                charged.store(before + more, Relaxed);
                counted.store(total, Relaxed);
                return true;
            }
        }
        cut.store(true, Relaxed);
        false
    }

    pub fn is_cut(&self) -> bool {
        self.0.cut.load(Relaxed)
    }

    /// Bytes that may still be kept.
    pub fn left(&self) -> usize {
        RECORDING_BYTES_MAX.saturating_sub(self.0.bytes.load(Relaxed))
    }

    /// Begins the next call: what the one before kept is gone.
    pub fn reset(&self) {
        self.0.bytes.store(0, Relaxed);
        self.0.cut.store(false, Relaxed);
        self.0.give_back();
    }
}

impl Metered {
    fn give_back(&self) {
        let charged = self.charged.swap(0, Relaxed);
        if charged > 0 {
            self.pool.give_back(charged);
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Bytes of a value in postcard, found without encoding it; `None` when they are more than `bytes_max`.
pub fn encoded_bytes(value: &impl Serialize, bytes_max: usize) -> Option<usize> {
    postcard::serialize_with_flavor(value, Counted { bytes: 0, bytes_max }).ok()
}

struct Counted {
    bytes: usize,
    bytes_max: usize,
}

impl Counted {
    fn add(&mut self, bytes: usize) -> postcard::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max { Err(postcard::Error::SerializeBufferFull) } else { Ok(()) }
    }
}

impl Flavor for Counted {
    type Output = usize;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.add(data.len())
    }

    fn try_push(&mut self, _: u8) -> postcard::Result<()> {
        self.add(1)
    }

    fn finalize(self) -> postcard::Result<usize> {
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_that_is_refused_room_once_is_cut_until_the_next_call() {
        let meter = RecordedBytes::default();
        assert!(meter.room(RECORDING_BYTES_MAX) && !meter.is_cut());
        assert_eq!(meter.left(), 0);
        assert!(!meter.room(1) && meter.is_cut());
        assert!(!meter.room(0), "nothing more, however small");
        meter.reset();
        assert!(meter.room(1) && !meter.is_cut());
        assert!(!meter.room(usize::MAX), "a size that no sum can hold");
    }

    #[test]
    fn all_recordings_of_an_engine_share_one_bound_and_give_back_what_they_took() {
        let pool = Arc::new(Pool::new(3 * STEP_BYTES));
        let (first, second) = (RecordedBytes::new(&pool), RecordedBytes::new(&pool));
        assert!(first.room(STEP_BYTES + 1), "two steps");
        let crash = pool.take(STEP_BYTES).unwrap();
        assert!(!second.room(1) && second.is_cut());
        assert!(pool.take(1).is_none());
        drop(crash);
        second.reset();
        assert!(second.room(1));
        first.reset();
        drop(second);
        let mut all = pool.take(3 * STEP_BYTES).unwrap();
        assert!(!all.resize(3 * STEP_BYTES + 1) && all.resize(1), "all of it is back, and no more");
        drop(pool.take(3 * STEP_BYTES - 1).unwrap());
        assert!(all.resize(3 * STEP_BYTES) && pool.take(1).is_none());
    }

    #[test]
    fn the_size_of_a_value_is_that_of_its_encoding() {
        let value = (7u64, "text", vec![1u8, 2, 3]);
        let bytes = postcard::to_stdvec(&value).unwrap().len();
        assert_eq!(encoded_bytes(&value, bytes), Some(bytes));
        assert_eq!(encoded_bytes(&value, bytes - 1), None);
    }
}
