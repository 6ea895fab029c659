//! Blocks whose logs one endpoint did not tell, and what that is a reason for.
//!
//! Pure. Some chains have logs that are in no receipt, so receipts stand for the logs of a block only where those cannot
//! be had. Invariant: a connection that was lost, or silence, is no such reason. That the same block is never told while
//! the endpoint answers other questions is one, as is a refusal.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    errors::{CallError, NOT_CONNECTED},
    shape::is_remembered,
};

/// Blocks that are remembered.
const BLOCKS_MAX: usize = 16;
/// A failure weighs less when another large question was under way: it may have been that one's.
const ALONE: u32 = 3;
const BESIDE_OTHERS: u32 = 1;
/// Failures in a row, weighed, after which the block is to blame: three of a question that was alone.
const FAILURES_MAX: u32 = 3 * ALONE;
/// Answers longer than is read, of one block. Once says little: over a WebSocket it may have been another's.
const TOO_LARGE_MAX: u32 = 2;
/// So many blocks in a row whose logs are longer than is read are a habit of the endpoint.
const HABIT: u32 = 2;
/// The same of blocks that fail again and again, each of which was shown to by itself.
const FAILING_HABIT: u32 = 1;
/// Failures within so long of each other may be one.
const TOGETHER_NS: u64 = 100_000_000;

/// What became of a question for the logs of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The endpoint answered, but not this.
    Refused,
    /// The answer is longer than is read.
    TooLarge,
    /// Anything else: a lost connection, silence, trouble of a server.
    Failed,
}

impl Why {
    /// `None` when nothing was asked.
    pub fn of(error: &CallError, is_refused: bool) -> Option<Self> {
        match error {
            CallError::Paced { .. } => None,
            CallError::TooLarge { .. } => Some(Self::TooLarge),
            CallError::Transport { message, .. } if message == NOT_CONNECTED => None,
            _ if is_refused => Some(Self::Refused),
            _ => Some(Self::Failed),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Block {
    refused: bool,
    too_large: u32,
    /// The weight of its failures.
    failures: u32,
    last_ns: Option<u64>,
    /// How many questions the endpoint had answered at the last failure.
    answers: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Untold {
    /// Those since the last answer about each.
    blocks: BTreeMap<u64, Block>,
    /// Blocks in a row that failed again and again, and those whose logs were more than is read; and since when.
    failing: (u32, u64),
    too_large: (u32, u64),
}

impl Untold {
    /// The logs of a block were not told. `alone` when no other large question was under way at the endpoint, which has
    /// given so many `answers` so far.
    pub fn note(&mut self, number: u64, why: Why, alone: bool, answers: u64, now_ns: u64) {
        if !self.blocks.contains_key(&number) && self.blocks.len() >= BLOCKS_MAX {
            let oldest = self.blocks.iter().min_by_key(|(_, block)| block.last_ns).map(|(number, _)| *number);
            if let Some(number) = oldest {
                self.blocks.remove(&number);
            }
        }
        let block = self.blocks.entry(number).or_default();
        if block.last_ns.is_some_and(|last_ns| !is_remembered(last_ns, now_ns)) {
            *block = Block::default();
        }
        let together = block.last_ns.is_some_and(|last_ns| now_ns.saturating_sub(last_ns) < TOGETHER_NS);
        match why {
            Why::Refused => block.refused = true,
            Why::TooLarge if !together => {
                block.too_large += 1;
                if block.too_large == TOO_LARGE_MAX {
                    self.too_large = (self.too_large.0.saturating_add(1), now_ns);
                }
            }
            // One that answers nothing at all says nothing of this block.
            Why::Failed if !together && answers > block.answers => {
                let before = block.failures;
                block.failures = before.saturating_add(if alone { ALONE } else { BESIDE_OTHERS });
                block.answers = answers;
                if before < FAILURES_MAX && block.failures >= FAILURES_MAX {
                    self.failing = (self.failing.0.saturating_add(1), now_ns);
                }
            }
            Why::TooLarge | Why::Failed => return,
        }
        block.last_ns = Some(now_ns);
    }

    /// The logs of a block were told, and whether there were any.
    pub fn told(&mut self, number: u64, any: bool) {
        self.blocks.remove(&number);
        if any {
            (self.failing.0, self.too_large.0) = (0, 0);
        }
    }

    /// Whether there is no use in asking for the logs of a block: they are more than is read, or end the connection.
    pub fn is_useless(&self, number: u64, now_ns: u64) -> bool {
        let failures_max = if is_habit(self.failing, FAILING_HABIT, now_ns) { ALONE } else { FAILURES_MAX };
        let is_useless = |block: &Block| block.too_large >= TOO_LARGE_MAX || block.failures >= failures_max;
        is_habit(self.too_large, HABIT, now_ns) || self.block(number, now_ns).is_some_and(is_useless)
    }

    /// Whether what the receipts of a block say may stand for its logs, which were asked for in vain.
    pub fn cannot_be_had(&self, number: u64, now_ns: u64) -> bool {
        let said_so = |block: &Block| block.refused || block.too_large > 0;
        self.is_useless(number, now_ns) || self.block(number, now_ns).is_some_and(said_so)
    }

    /// Whether the logs of any of these blocks were not told when they were asked for alone.
    pub fn is_any(&self, numbers: RangeInclusive<u64>, now_ns: u64) -> bool {
        let remembered = |block: &Block| block.last_ns.is_some_and(|last_ns| is_remembered(last_ns, now_ns));
        is_habit(self.too_large, HABIT, now_ns) || self.blocks.range(numbers).any(|(_, block)| remembered(block))
    }

    /// Whether large questions are asked one at a time, so that it shows which of them is not answered.
    pub fn is_one_by_one(&self, now_ns: u64) -> bool {
        let failed = |block: &Block| block.failures > 0 && block.last_ns.is_some_and(|at| is_remembered(at, now_ns));
        self.blocks.values().any(failed)
    }

    /// Whether there are blocks that it cannot tell the logs of, for whoever looks.
    pub fn is_learnt(&self, now_ns: u64) -> bool {
        is_habit(self.too_large, HABIT, now_ns) || self.blocks.keys().any(|number| self.is_useless(*number, now_ns))
    }

    fn block(&self, number: u64, now_ns: u64) -> Option<&Block> {
        let block = self.blocks.get(&number)?;
        block.last_ns.is_some_and(|last_ns| is_remembered(last_ns, now_ns)).then_some(block)
    }
}

fn is_habit((count, since_ns): (u32, u64), from: u32, now_ns: u64) -> bool {
    count >= from && is_remembered(since_ns, now_ns)
}

/// Large questions at one endpoint: those for logs and receipts.
#[derive(Debug, Default)]
pub struct Questions {
    under_way: AtomicUsize,
    begun: AtomicU64,
}

impl Questions {
    pub fn begin(&self) -> Question<'_> {
        let was_alone = self.under_way.fetch_add(1, Ordering::Relaxed) == 0;
        Question { all: self, was_alone, nth: self.begun.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

/// One of them, under way until it is dropped.
#[derive(Debug)]
pub struct Question<'a> {
    all: &'a Questions,
    was_alone: bool,
    nth: u64,
}

impl Question<'_> {
    /// Whether no other one was under way at any time since it began.
    pub fn is_alone(&self) -> bool {
        self.was_alone && self.all.begun.load(Ordering::Relaxed) == self.nth
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.all.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Questions that are asked one at a time, and those that wait for that.
#[derive(Debug)]
pub struct Turns {
    free: Semaphore,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    begun: u64,
    /// Since when, by their number.
    since_ns: BTreeMap<u64, u64>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { free: Semaphore::new(1), waiting: Mutex::default() }
    }
}

impl Turns {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One's turn, until it is dropped. They have it in the order in which they asked.
    pub async fn take(&self, now_ns: u64) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.free.try_acquire() {
            return Some(turn);
        }
        let _waits = self.wait(now_ns);
        // Nobody closes the semaphore.
        self.free.acquire().await.ok()
    }

    fn wait(&self, now_ns: u64) -> Waits<'_> {
        let mut waiting = self.waiting();
        waiting.begun += 1;
        let nth = waiting.begun;
        waiting.since_ns.insert(nth, now_ns);
        Waits { turns: self, nth }
    }

    /// How many wait, and since when the first of them does; none when nobody does.
    pub fn waits(&self) -> Option<(usize, u64)> {
        let waiting = self.waiting();
        waiting.since_ns.first_key_value().map(|(_, since_ns)| (waiting.since_ns.len(), *since_ns))
    }
}

/// One that waits for its turn, until it is dropped.
struct Waits<'a> {
    turns: &'a Turns,
    nth: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.turns.waiting().since_ns.remove(&self.nth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::shape::FORGOTTEN_AFTER_NS;

    const SECOND: u64 = 1_000_000_000;

    /// A block's logs are asked for so often, alone; each time the endpoint has answered something else before.
    fn fail(untold: &mut Untold, number: u64, times: u64, from_ns: u64) -> u64 {
        for nth in 0..times {
            untold.note(number, Why::Failed, true, from_ns + nth + 1, from_ns + nth * SECOND);
        }
        from_ns + times * SECOND
    }

    #[tokio::test]
    async fn who_waits_for_a_turn_is_seen_until_it_has_it_or_gives_up() {
        let turns = Turns::default();
        let first = turns.take(1).await;
        assert_eq!(turns.waits(), None, "it did not wait");
        let (mut second, mut third) = (Box::pin(turns.take(5)), Box::pin(turns.take(7)));
        assert!(futures::poll!(second.as_mut()).is_pending() && futures::poll!(third.as_mut()).is_pending());
        assert_eq!(turns.waits(), Some((2, 5)));
        drop(first);
        let turn = second.await;
        assert_eq!((turn.is_some(), turns.waits()), (true, Some((1, 7))));
        drop(third);
        assert_eq!(turns.waits(), None);
    }

    #[test]
    fn lost_connections_are_no_reason_until_the_same_block_loses_them_again_and_again() {
        let mut untold = Untold::default();
        let now = fail(&mut untold, 7, 2, SECOND);
        assert!(untold.is_one_by_one(now) && !Untold::default().is_one_by_one(now));
        assert!(!untold.is_useless(7, now) && !untold.cannot_be_had(7, now) && !untold.is_learnt(now));
        assert!(untold.is_any(1..=7, now) && !untold.is_any(8..=9, now));
        // Other blocks that are lost now and then add nothing to it, nor does an endpoint that answers nobody.
        let now = fail(&mut untold, 8, 2, now);
        for nth in 0..100 {
            untold.note(7, Why::Failed, true, 3, now + nth * SECOND);
        }
        assert!(!untold.cannot_be_had(7, now + 100 * SECOND));
        let now = fail(&mut untold, 7, 1, now + 200 * SECOND);
        assert!(untold.is_useless(7, now) && untold.cannot_be_had(7, now) && untold.is_learnt(now));
        assert!(!untold.cannot_be_had(9, now), "that is another block");
        assert!(!untold.is_useless(7, now + FORGOTTEN_AFTER_NS) && !untold.is_any(1..=9, now + FORGOTTEN_AFTER_NS));
        untold.told(7, true);
        assert!(!untold.is_useless(7, now));
    }

    #[test]
    fn what_fails_beside_other_large_questions_may_be_their_doing() {
        let mut untold = Untold::default();
        for nth in 1..9 {
            untold.note(7, Why::Failed, false, nth, nth * SECOND);
        }
        assert!(!untold.is_useless(7, 9 * SECOND));
        untold.note(7, Why::Failed, false, 9, 9 * SECOND);
        assert!(untold.is_useless(7, 9 * SECOND), "it gets there all the same");
        let questions = Questions::default();
        let first = questions.begin();
        assert!(first.is_alone());
        let second = questions.begin();
        assert!(!first.is_alone() && !second.is_alone());
        drop(second);
        assert!(!first.is_alone(), "it was beside one");
        drop(first);
        assert!(questions.begin().is_alone());
    }

    #[test]
    fn a_refusal_stands_for_itself_and_what_is_too_large_is_not_asked_for_again() {
        let mut untold = Untold::default();
        untold.note(7, Why::Refused, true, 0, SECOND);
        assert!(untold.cannot_be_had(7, SECOND) && !untold.is_useless(7, SECOND));
        untold.note(8, Why::TooLarge, true, 0, SECOND);
        untold.note(8, Why::TooLarge, true, 0, SECOND + TOGETHER_NS - 1);
        assert!(untold.cannot_be_had(8, SECOND) && !untold.is_useless(8, SECOND), "they failed together");
        untold.note(8, Why::TooLarge, true, 0, 2 * SECOND);
        assert!(untold.is_useless(8, 2 * SECOND) && !untold.is_useless(9, 2 * SECOND));
        for at in [3, 4] {
            untold.note(9, Why::TooLarge, true, 0, at * SECOND);
        }
        assert!(untold.is_useless(1_000, 4 * SECOND) && untold.is_any(1_000..=1_001, 4 * SECOND), "all are");
        untold.told(10, false);
        assert!(untold.is_useless(1_000, 4 * SECOND), "a block without logs shows nothing");
        untold.told(10, true);
        assert!(!untold.is_useless(1_000, 4 * SECOND));
    }

    #[test]
    fn where_block_after_block_fails_once_is_enough_until_one_is_told() {
        let mut untold = Untold::default();
        let mut now = SECOND;
        for (number, times) in [(7, 3), (8, 1)] {
            now = fail(&mut untold, number, times, now);
            assert!(untold.is_useless(number, now) && !untold.is_useless(9, now));
        }
        now = fail(&mut untold, 9, 1, now);
        assert!(untold.is_useless(9, now) && !untold.is_useless(10, now), "each is asked for");
        untold.told(10, true);
        assert!(!untold.is_useless(9, now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut untold = Untold::default();
        for number in 0..100 {
            untold.note(number, Why::Refused, true, 0, number * SECOND);
        }
        assert_eq!(untold.blocks.len(), BLOCKS_MAX);
        assert!(untold.cannot_be_had(99, 99 * SECOND) && !untold.cannot_be_had(0, 99 * SECOND));
    }

    #[test]
    fn errors_are_told_apart() {
        let node = CallError::Node { code: -32_000, message: "no".into(), data: None, unsized_limit: false };
        let lost = CallError::unavailable("the connection was lost");
        for (error, is_refused, why) in [
            (&node, true, Some(Why::Refused)),
            (&lost, false, Some(Why::Failed)),
            (&CallError::TooLarge { bytes_max: 1 }, true, Some(Why::TooLarge)),
            (&CallError::unavailable(NOT_CONNECTED), false, None),
            (&CallError::Paced { said: None }, false, None),
        ] {
            assert_eq!(Why::of(error, is_refused), why, "{error:?}");
        }
    }
}
