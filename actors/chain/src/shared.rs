//! Reads that several modules ask for, asked once: while one is under way, and for a while after it was answered.
//!
//! Invariant: only answers that cannot become others are kept, and no errors. Whoever waits for an answer waits as long as
//! its own deadline lets it: neither the one that asked first nor one that gives up ends the read for the others. What is
//! asked in a batch takes as long as the longest in it, and may fail with it: those who wait are told that it is one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nexum_host_ifaces::{HostError, HostErrorKind, clock::Clock};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Answers kept of one chain, together: some tens of thousands of balances, or a few hundred proofs.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// The longest answer that is kept.
const KEPT_ANSWER_BYTES_MAX: usize = 256 << 10;
const KEPT_ANSWERS_MAX: usize = 4_096;
/// What an answer takes besides its text, roughly: its key twice, and what is around it.
const OVERHEAD_BYTES: usize = 160;
/// Five slots of Ethereum: modules that lag by as much share what those at the head have read.
const KEPT_FOR_NS: u64 = 60_000_000_000;

/// What stands for a question.
pub type Key = [u8; 32];
/// An answer as it is shared.
pub type SharedAnswer = Result<Arc<str>, HostError>;

type Answering = watch::Sender<Option<SharedAnswer>>;

struct Kept {
    text: Arc<str>,
    since_ns: u64,
}

#[derive(Default)]
struct Inner {
    kept: HashMap<Key, Kept>,
    /// Those that are kept, the oldest first.
    order: VecDeque<Key>,
    bytes: usize,
    /// Each with whether it is in a batch. Nobody here waits for the answer.
    under_way: HashMap<Key, (Answering, bool)>,
}

pub struct SharedReads {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
}

/// Whose turn it is to ask.
pub enum Turn {
    /// Nobody's: this is the answer.
    Answered(Arc<str>),
    /// Somebody else asks.
    Waits(Waiting),
    /// The caller's.
    Asks(Asking),
}

/// A read that is under way, to be answered by whoever has this. When it is dropped before that, those who wait are told.
pub struct Asking {
    reads: Arc<SharedReads>,
    key: Key,
    answer: Answering,
    in_batch: bool,
}

/// The answer to a read that is under way.
#[derive(Clone)]
pub struct Waiting {
    answer: watch::Receiver<Option<SharedAnswer>>,
    in_batch: bool,
}

impl Waiting {
    /// Whether it is asked along with others.
    pub fn is_in_batch(&self) -> bool {
        self.in_batch
    }

    /// Waits at most until then. None when the request has ended without an answer.
    pub async fn answer(mut self, until: Instant) -> Option<SharedAnswer> {
        match timeout_at(until, self.answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) => None,
            Err(_) => Some(Err(HostError::new("chain", HostErrorKind::Timeout, "the chain did not answer in time"))),
        }
    }
}

impl Asking {
    pub fn waiting(&self) -> Waiting {
        Waiting { answer: self.answer.subscribe(), in_batch: self.in_batch }
    }

    /// Returns when nobody waits for the answer.
    pub async fn unheard(&self) {
        self.answer.closed().await;
    }

    /// Tells all who wait, and keeps the answer if it may be kept.
    pub fn answered(self, answer: SharedAnswer) {
        if let Ok(text) = &answer {
            self.reads.keep(self.key, text);
        }
        self.answer.send_replace(Some(answer));
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.reads.lock().under_way.remove(&self.key);
    }
}

impl SharedReads {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), clock })
    }

    /// Says who asks this, which is alone or `in_batch`.
    pub fn turn(self: &Arc<Self>, key: Key, in_batch: bool) -> Turn {
        let now_ns = self.clock.monotonic_ns();
        let mut inner = self.lock();
        inner.let_go(now_ns);
        if let Some(kept) = inner.kept.get(&key) {
            return Turn::Answered(kept.text.clone());
        }
        if let Some((answer, in_batch)) = inner.under_way.get(&key) {
            return Turn::Waits(Waiting { answer: answer.subscribe(), in_batch: *in_batch });
        }
        let answer = Answering::new(None);
        inner.under_way.insert(key, (answer.clone(), in_batch));
        Turn::Asks(Asking { reads: self.clone(), key, answer, in_batch })
    }

    fn keep(&self, key: Key, text: &Arc<str>) {
        // Nothing is no answer that stays: the next one may find what this one did not.
        if text.len() > KEPT_ANSWER_BYTES_MAX || text.trim() == "null" {
            return;
        }
        let since_ns = self.clock.monotonic_ns();
        let mut inner = self.lock();
        inner.bytes += text.len() + OVERHEAD_BYTES;
        inner.order.push_back(key);
        let before = inner.kept.insert(key, Kept { text: text.clone(), since_ns });
        assert!(before.is_none(), "a read that is kept is not asked again");
        inner.let_go(since_ns);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Drops what is too old, and the oldest of what is too much.
    fn let_go(&mut self, now_ns: u64) {
        while let Some(key) = self.order.front().copied() {
            let Some(kept) = self.kept.get(&key) else { unreachable!("what is in order is kept") };
            let is_old = now_ns.saturating_sub(kept.since_ns) > KEPT_FOR_NS;
            if !is_old && self.bytes <= KEPT_BYTES_MAX && self.order.len() <= KEPT_ANSWERS_MAX {
                return;
            }
            self.bytes -= kept.text.len() + OVERHEAD_BYTES;
            self.kept.remove(&key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn asks(reads: &Arc<SharedReads>, key: u8) -> Asking {
        let Turn::Asks(asking) = reads.turn([key; 32], false) else { panic!("somebody else asks") };
        asking
    }

    fn kept(reads: &Arc<SharedReads>, key: u8) -> Option<Arc<str>> {
        match reads.turn([key; 32], false) {
            Turn::Answered(text) => Some(text),
            Turn::Waits(_) | Turn::Asks(_) => None,
        }
    }

    fn in_a_while() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn one_asks_and_all_are_answered_then_and_for_a_while() {
        let clock = Arc::new(Hand::default());
        let reads = SharedReads::new(clock.clone());
        let asking = asks(&reads, 1);
        let waiting = asking.waiting();
        let Turn::Waits(other) = reads.turn([1; 32], false) else { panic!("it is under way") };
        // One that gives up is none of the others' business.
        let late = other.clone().answer(Instant::now()).await.unwrap().unwrap_err();
        assert_eq!(late.kind, HostErrorKind::Timeout);
        asking.answered(Ok("\"0x1\"".into()));
        assert_eq!(&*waiting.answer(in_a_while()).await.unwrap().unwrap(), "\"0x1\"");
        assert_eq!(&*other.answer(in_a_while()).await.unwrap().unwrap(), "\"0x1\"");
        assert_eq!(kept(&reads, 1).as_deref(), Some("\"0x1\""));
        clock.0.store(KEPT_FOR_NS + 1, Ordering::Relaxed);
        assert_eq!(kept(&reads, 1), None);
        assert_eq!(reads.lock().bytes, 0);
    }

    #[tokio::test]
    async fn errors_and_nothing_are_told_and_not_kept() {
        let reads = SharedReads::new(Arc::new(Hand::default()));
        let asking = asks(&reads, 1);
        let waiting = asking.waiting();
        asking.answered(Err(HostError::new("chain", HostErrorKind::Unavailable, "no")));
        assert_eq!(waiting.answer(in_a_while()).await.unwrap().unwrap_err().message, "no");
        asks(&reads, 1).answered(Ok("null".into()));
        let asking = asks(&reads, 1);
        let waiting = asking.waiting();
        // As when its task ends.
        drop(asking);
        assert!(waiting.answer(in_a_while()).await.is_none());
        asks(&reads, 1);
    }

    #[test]
    fn what_is_kept_has_a_bound_in_bytes_and_in_number() {
        let reads = SharedReads::new(Arc::new(Hand::default()));
        let long: Arc<str> = "x".repeat(KEPT_ANSWER_BYTES_MAX).into();
        for key in 0..100 {
            asks(&reads, key).answered(Ok(long.clone()));
            assert!(reads.lock().bytes <= KEPT_BYTES_MAX);
        }
        assert!(kept(&reads, 99).is_some() && kept(&reads, 0).is_none());
        asks(&reads, 200).answered(Ok("x".repeat(KEPT_ANSWER_BYTES_MAX + 1).into()));
        assert!(kept(&reads, 200).is_none());
        for number in 0..KEPT_ANSWERS_MAX as u64 + 10 {
            let mut key = [0xff; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let Turn::Asks(asking) = reads.turn(key, false) else { panic!("nobody asked this") };
            asking.answered(Ok("1".into()));
        }
        let inner = reads.lock();
        assert_eq!((inner.order.len(), inner.kept.len()), (KEPT_ANSWERS_MAX, KEPT_ANSWERS_MAX));
    }
}
