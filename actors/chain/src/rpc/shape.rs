//! How much one endpoint is asked for at once: blocks in a range, requests in a batch, addresses in a filter.
//!
//! Pure. What a node refuses it says in any words, or in none. So a refusal makes the next question smaller whatever it
//! says, and only a smaller question that is answered shows that it was the size.

use nexum_host_ifaces::Hash;

use super::{pinned::ByHash, untold::Untold};

/// How long a size that was refused is not tried again.
pub(super) const FORGOTTEN_AFTER_NS: u64 = 600_000_000_000;
/// Failures in a row that say nothing of size, after which a smaller question is tried all the same.
const SILENT_FAILURES_MAX: u32 = 2;

/// So many blocks that promise nothing are asked for by their numbers besides; then one in [`SAMPLED`].
const ASKED_TWICE: u32 = 16;
const SAMPLED: u8 = 16;

pub(super) fn is_remembered(since_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(since_ns) < FORGOTTEN_AFTER_NS
}

/// Why a question brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node answered, but not this.
    Refused,
    /// Nothing was heard, or something that any request may meet: an overloaded server, a lost connection.
    Failed,
}

/// One dimension of a question: how much of it is asked for at once.
#[derive(Debug, Clone)]
pub struct Size {
    current: u64,
    max: u64,
    /// The smallest size that was refused while a smaller one was answered, and when.
    refused: Option<(u64, u64)>,
    /// The smallest size that failed since the last answer.
    failing: Option<u64>,
    failures: u32,
}

impl Size {
    pub fn new(max: u64) -> Self {
        let max = max.max(1);
        Self { current: max, max, refused: None, failing: None, failures: 0 }
    }

    pub fn current(&self) -> u64 {
        self.current
    }

    /// Whether something smaller than the most has been learnt.
    pub fn is_learnt(&self) -> bool {
        self.refused.is_some()
    }

    /// A question of this size was not answered. True when a smaller one is worth trying at once.
    pub fn refused(&mut self, size: u64, refusal: Refusal) -> bool {
        if size <= 1 {
            // It was not the size.
            (self.current, self.failing, self.failures) = (self.learnt_max(), None, 0);
            return false;
        }
        self.failing = Some(self.failing.map_or(size, |failing| failing.min(size)));
        self.failures = self.failures.saturating_add(1);
        if refusal == Refusal::Failed && self.failures < SILENT_FAILURES_MAX {
            return false;
        }
        self.current = self.current.min(size / 2).max(1);
        // A server in trouble is not asked again and again at once.
        refusal == Refusal::Refused
    }

    fn learnt_max(&self) -> u64 {
        self.refused.map_or(self.max, |(size, _)| (size - 1).clamp(1, self.max))
    }

    /// A question of this size was answered.
    pub fn accepted(&mut self, size: u64, now_ns: u64) {
        self.failures = 0;
        match self.failing.take() {
            Some(failing) if failing > size => {
                let least = self.refused.map_or(failing, |(refused, _)| refused.min(failing));
                self.refused = Some((least.max(size + 1), now_ns));
            }
            _ => {}
        }
        if let Some((refused, at_ns)) = self.refused
            && (size >= refused || now_ns.saturating_sub(at_ns) >= FORGOTTEN_AFTER_NS)
        {
            self.refused = None;
        }
        // Only full ones say that more may go.
        if size >= self.current {
            self.current = (size + size / 8 + 1).min(self.learnt_max()).max(self.current.min(self.max));
        }
    }
}

/// What one endpoint takes.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Blocks of one `eth_getLogs`.
    pub range: Size,
    /// Requests of one batch.
    pub batch: Size,
    /// Addresses, and topics of one position, of one `eth_getLogs`.
    pub list: Size,
    /// How many questions it had answered when it last refused a range in words that say nothing of size.
    unexplained: Option<u64>,
    /// Whether it serves `eth_getBlockReceipts`, as far as it is known.
    pub receipts: Option<bool>,
    /// Whether it ever found logs by the hash of their block.
    found_by_hash: bool,
    /// Since when it is known not to.
    lacks_by_hash: Option<u64>,
    /// How often it told none, asked in either way.
    found_none: u32,
    /// Since when it is known to leave out logs of a range that it has when it is asked for their block alone.
    leaves_out: Option<u64>,
    /// Blocks whose logs it did not tell.
    pub untold: Untold,
    /// Whether the times that it gives logs are those of their blocks.
    pub dates: bool,
    /// Whether it takes a block's hash where state is read at a block.
    pub by_hash: ByHash,
}

impl Shape {
    pub fn new(range_max: u64, batch_max: u64, list_max: u64) -> Self {
        Self {
            range: Size::new(range_max),
            batch: Size::new(batch_max),
            list: Size::new(list_max),
            unexplained: None,
            receipts: None,
            found_by_hash: false,
            lacks_by_hash: None,
            found_none: 0,
            leaves_out: None,
            untold: Untold::default(),
            dates: true,
            by_hash: ByHash::default(),
        }
    }

    /// A range was refused in words that mean something else, such as too many requests, when it had given so many
    /// `answers`. Whether that may be the range's size all the same: not while it answers nothing else either.
    pub fn may_be_size(&mut self, answers: u64) -> bool {
        let before = self.unexplained.replace(answers);
        before.is_none_or(|before| answers > before)
    }

    /// Whether it finds logs by the hash of their block in `eth_getLogs`, as far as it is known.
    pub fn finds_by_hash(&self, now_ns: u64) -> Option<bool> {
        match self.lacks_by_hash {
            Some(since_ns) if is_remembered(since_ns, now_ns) => Some(false),
            _ => self.found_by_hash.then_some(true),
        }
    }

    pub fn found_by_hash(&mut self) {
        (self.found_by_hash, self.lacks_by_hash) = (true, None);
    }

    pub fn lacks_by_hash(&mut self, now_ns: u64) {
        self.lacks_by_hash = Some(now_ns);
    }

    /// It told no logs of a block, asked by its hash and by its number.
    pub fn found_none(&mut self) {
        self.found_none = self.found_none.saturating_add(1);
    }

    /// Whether one that tells no logs of a block by its hash is asked for its number besides, where nothing promises any.
    pub fn is_asked_twice(&self, block: &Hash) -> bool {
        self.found_none < ASKED_TWICE || block.0[31].is_multiple_of(SAMPLED)
    }

    /// It left out logs of a range that it has when it is asked for their block alone.
    pub fn left_out(&mut self, now_ns: u64) {
        self.leaves_out = Some(now_ns);
    }

    pub fn leaves_out(&self, now_ns: u64) -> bool {
        self.leaves_out.is_some_and(|since_ns| is_remembered(since_ns, now_ns))
    }

    /// What has been learnt, for whoever looks.
    pub fn learnt(&self, now_ns: u64) -> Vec<String> {
        let sizes = [(&self.range, "blocks a range"), (&self.batch, "requests a batch"), (&self.list, "addresses")];
        let sizes = sizes.iter().filter(|(size, _)| size.is_learnt());
        let sizes = sizes.map(|(size, what)| format!("{} {what}", size.current()));
        let habits = [
            (self.finds_by_hash(now_ns) == Some(false), "logs by block number only"),
            (self.leaves_out(now_ns), "logs left out of ranges"),
            (self.by_hash.refuses(now_ns), "state by block number only"),
            (self.untold.is_learnt(now_ns), "receipts in place of some blocks' logs"),
        ];
        sizes.chain(habits.iter().filter(|(has, _)| *has).map(|(_, what)| (*what).to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks until it is answered by a node that takes so many; how many questions it took.
    fn ask(size: &mut Size, takes: u64, refusal: Refusal) -> (u64, u32) {
        for questions in 1..100 {
            let asked = size.current();
            if asked <= takes {
                size.accepted(asked, 0);
                return (asked, questions);
            }
            size.refused(asked, refusal);
        }
        panic!("it never got smaller");
    }

    #[test]
    fn a_size_is_found_whatever_the_words() {
        let mut size = Size::new(2_000);
        assert_eq!(ask(&mut size, 100, Refusal::Refused), (62, 6));
        let questions: u32 = (0..100).map(|_| ask(&mut size, 100, Refusal::Refused).1).sum();
        assert!(questions <= 110, "{questions}: what was refused is remembered");
        assert!((90..=100).contains(&size.current()), "{}", size.current());
        size.accepted(size.current(), FORGOTTEN_AFTER_NS);
        assert!(!size.is_learnt() && ask(&mut size, 5_000, Refusal::Refused).1 == 1);
    }

    #[test]
    fn a_server_in_trouble_is_not_taken_for_one_that_refuses() {
        let mut size = Size::new(2_000);
        assert!(!size.refused(2_000, Refusal::Failed));
        assert_eq!(size.current(), 2_000, "once is nothing");
        assert!(!size.refused(2_000, Refusal::Failed));
        assert_eq!(size.current(), 1_000);
        assert_eq!(ask(&mut Size::new(2_000), 1, Refusal::Failed).0, 1, "it gets there all the same");
    }

    #[test]
    fn what_is_refused_at_every_size_was_not_the_size() {
        let mut size = Size::new(64);
        let mut asked = Vec::new();
        loop {
            asked.push(size.current());
            if !size.refused(size.current(), Refusal::Refused) {
                break;
            }
        }
        assert_eq!(asked, [64, 32, 16, 8, 4, 2, 1]);
        assert_eq!((size.current(), size.is_learnt()), (64, false));
        size.accepted(64, 0);
        assert_eq!(size.current(), 64);
    }

    #[test]
    fn whoever_refuses_ranges_and_answers_everything_else_may_mean_their_size() {
        let mut shape = Shape::new(2_000, 100, 500);
        assert!(shape.may_be_size(3) && shape.may_be_size(4));
        assert!(!shape.may_be_size(4) && !shape.may_be_size(4), "it answers nothing at all");
        assert!(shape.may_be_size(5));
    }

    #[test]
    fn what_is_learnt_is_told() {
        let mut shape = Shape::new(2_000, 100, 500);
        assert!(shape.learnt(0).is_empty());
        for _ in 0..2 {
            ask(&mut shape.batch, 1, Refusal::Refused);
        }
        assert_eq!(shape.learnt(0), ["1 requests a batch"]);
    }

    #[test]
    fn a_habit_is_forgotten_after_a_while() {
        let mut shape = Shape::new(2_000, 100, 500);
        assert_eq!((shape.finds_by_hash(0), shape.leaves_out(0)), (None, false));
        shape.lacks_by_hash(5);
        shape.left_out(5);
        let until = 5 + FORGOTTEN_AFTER_NS;
        assert_eq!((shape.finds_by_hash(until - 1), shape.leaves_out(until - 1)), (Some(false), true));
        assert_eq!(shape.learnt(until - 1), ["logs by block number only", "logs left out of ranges"]);
        assert_eq!((shape.finds_by_hash(until), shape.leaves_out(until)), (None, false));
        assert!(shape.learnt(until).is_empty());
        shape.lacks_by_hash(until);
        shape.found_by_hash();
        assert_eq!(shape.finds_by_hash(until), Some(true));
    }
}
