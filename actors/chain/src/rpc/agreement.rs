//! Whether the endpoints that stand by have the same blocks as the one that is followed.
//!
//! Pure. A few blocks below the head nodes of one chain agree, but for moments; one that does not is on another branch,
//! or makes its blocks up. Which one that is a proof says, or the majority. Between two nobody can tell: the block is
//! disputed, and nothing from there on is delivered until one of them changes its mind, or says nothing more about it.

use std::collections::VecDeque;

use nexum_host_ifaces::Hash;

use crate::backend::SETTLED_DEPTH;

/// Blocks of the followed chain that are remembered for comparing.
const RECENT_MAX: usize = 128;

/// A block as somebody told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub number: u64,
    pub hash: Hash,
    /// Whether the hash is that of the header's fields.
    pub sealed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadVerdict {
    Fine,
    /// The endpoint that was compared is the odd one.
    Odd,
    /// The one that is followed is.
    LeaderOdd,
    /// As many say one thing as the other.
    Tie,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stance {
    Unknown,
    Agrees,
    /// Once: it may be in a reorg.
    Doubts,
    Dissents,
}

/// A block that as many contradict as have it.
#[derive(Debug, Clone, Copy)]
struct Dispute {
    number: u64,
    /// The endpoint that has another one.
    by: usize,
    /// When it last said so.
    upheld_ns: u64,
}

#[derive(Debug)]
pub struct Agreement {
    /// How long a dispute lasts that nobody upholds: the endpoint may be gone, or refuse to answer, or be too far behind
    /// to be asked.
    upheld_for_ns: u64,
    /// The endpoint that is followed, or was last.
    leader: Option<usize>,
    /// Blocks of the followed chain, ascending, up to its head.
    recent: VecDeque<Told>,
    /// The newest of them that nodes should not differ about.
    settled: u64,
    /// What each endpoint said last of them, and when.
    stances: Vec<(Stance, u64)>,
    /// The block of the followed chain that an endpoint was last seen to have.
    vouched: Vec<Option<(u64, Hash)>>,
    disputed: Option<Dispute>,
}

impl Agreement {
    /// A dispute that is not upheld ends after so long.
    pub fn new(endpoints: usize, upheld_for_ns: u64) -> Self {
        Self {
            upheld_for_ns,
            leader: None,
            recent: VecDeque::new(),
            settled: 0,
            stances: vec![(Stance::Unknown, 0); endpoints],
            vouched: vec![None; endpoints],
            disputed: None,
        }
    }

    /// The newest block that nodes should not differ about.
    pub fn settled(&self) -> Option<Told> {
        self.at(self.settled)
    }

    /// The followed chain has these blocks, ascending, the newest of them its head. Nodes should not differ about those up
    /// to `settled`.
    pub fn follow(&mut self, settled: u64, blocks: impl IntoIterator<Item = Told>) {
        self.settled = settled;
        let blocks: Vec<Told> = blocks.into_iter().collect();
        if let Some(first) = blocks.first() {
            self.recent.retain(|told| told.number < first.number);
            if let Some(disputed) = &mut self.disputed {
                // Whether the endpoint that contradicts has the new branch, it has not said yet.
                disputed.number = disputed.number.min(first.number);
            }
        }
        for told in blocks {
            while self.recent.back().is_some_and(|last| last.number >= told.number) {
                self.recent.pop_back();
            }
            self.recent.push_back(told);
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
    }

    /// The first block that [`Agreement::follow`] has not been given yet, when it goes on from this one.
    pub fn next(&self, tip: u64, hash_at: &dyn Fn(u64) -> Option<Hash>) -> u64 {
        let known = self.recent.iter().rev().find(|told| told.number <= tip && hash_at(told.number) == Some(told.hash));
        let least = tip.saturating_sub(RECENT_MAX as u64 - 1);
        let reaches =
            self.recent.front().is_some_and(|first| first.number <= least || hash_at(first.number - 1).is_none());
        known.filter(|_| reaches).map_or(least, |told| (told.number + 1).max(least))
    }

    /// The newest block that an endpoint with this head can be asked for: one that nodes should not differ about, or, when
    /// somebody waits for it to be confirmed, the newest of all.
    pub fn asked_for(&self, head: u64, newest: bool) -> Option<u64> {
        let most = if newest { head } else { head.min(self.settled) };
        let reached = |told: &&Told| told.number <= most;
        self.recent.iter().rev().find(reached).map(|told| told.number)
    }

    fn at(&self, number: u64) -> Option<Told> {
        self.recent.iter().rev().find(|told| told.number == number).copied()
    }

    /// The block that shows whether what an endpoint says of history up to `number` is of the followed chain; none when
    /// it has shown it, or there is nothing to compare with.
    pub fn anchor(&self, index: usize, number: u64) -> Option<(u64, Hash)> {
        let settled = self.settled().filter(|settled| settled.number > number)?;
        let shown = self.vouched[index].is_some_and(|block| block.0 > number && self.is_ours(block));
        (!shown).then_some((settled.number, settled.hash))
    }

    /// An endpoint has this block.
    pub fn vouch(&mut self, index: usize, block: (u64, Hash)) {
        if self.vouched[index].is_none_or(|(number, _)| number < block.0) || self.at(block.0).is_some() {
            self.vouched[index] = Some(block);
        }
    }

    /// An endpoint tells this head. Far below a block that it had it is not where it was: it has to show anew what it has.
    pub fn head(&mut self, index: usize, number: u64) {
        let vouched = &mut self.vouched[index];
        *vouched = vouched.filter(|(had, _)| number.saturating_add(SETTLED_DEPTH) >= *had);
    }

    /// The highest block of the followed chain that anybody but `leader` was seen to have.
    pub fn vouched(&self, leader: usize) -> Option<u64> {
        let others = self.vouched.iter().enumerate().filter(|(index, _)| *index != leader);
        others.filter_map(|(_, block)| *block).filter(|block| self.is_ours(*block)).map(|(number, _)| number).max()
    }

    /// Whether a block is of the followed chain, as far as is remembered.
    fn is_ours(&self, (number, hash): (u64, Hash)) -> bool {
        match self.at(number) {
            Some(told) => told.hash == hash,
            // Older than that.
            None => self.recent.front().is_some_and(|first| number < first.number),
        }
    }

    /// The block that is disputed, and which endpoint has another one.
    pub fn disputed(&self, now_ns: u64) -> Option<(u64, usize)> {
        let upheld = |disputed: &Dispute| now_ns.saturating_sub(disputed.upheld_ns) < self.upheld_for_ns;
        self.disputed.filter(upheld).map(|disputed| (disputed.number, disputed.by))
    }

    /// This endpoint is followed now: what was compared with the one before counts no more. When it is one that had another
    /// block, then that is said by the one before.
    pub fn lead(&mut self, leader: usize, now_ns: u64) {
        let before = self.leader.replace(leader);
        // The first one that is followed, or still the same: nothing was compared with another.
        let Some(before) = before.filter(|before| *before != leader) else { return };
        let disputed = self.disputed(now_ns).filter(|(_, by)| *by == leader || self.dissents(leader, now_ns));
        self.stances.fill((Stance::Unknown, now_ns));
        if let Some((number, _)) = disputed {
            self.stances[before] = (Stance::Dissents, now_ns);
            self.disputed = Some(Dispute { number, by: before, upheld_ns: now_ns });
        }
    }

    /// What an endpoint said last, unless it did not say so again for too long: it may be gone.
    fn stance(&self, index: usize, now_ns: u64) -> Stance {
        let (stance, said_ns) = self.stances[index];
        if now_ns.saturating_sub(said_ns) < self.upheld_for_ns { stance } else { Stance::Unknown }
    }

    fn dissents(&self, index: usize, now_ns: u64) -> bool {
        matches!(self.stance(index, now_ns), Stance::Doubts | Stance::Dissents)
    }

    /// An endpoint disputes nothing.
    fn withdraw(&mut self, index: usize) {
        if self.disputed.is_some_and(|disputed| disputed.by == index) {
            self.disputed = None;
        }
    }

    /// An endpoint has this block at a number that was asked for; none when it says that there is no such block, though
    /// its head is far above. One that does not speak, because it stands still, is left behind on a branch that is gone. A
    /// comparison with what is not asked for any more says nothing.
    pub fn compare(&mut self, index: usize, number: u64, told: Option<Told>, speaks: bool, now_ns: u64) -> HeadVerdict {
        let Some(ours) = self.at(number) else { return HeadVerdict::Fine };
        if told.is_some_and(|told| told.hash == ours.hash) {
            self.withdraw(index);
            self.stances[index] = (Stance::Agrees, now_ns);
            self.vouch(index, (number, ours.hash));
            return HeadVerdict::Fine;
        }
        if number > self.settled {
            return HeadVerdict::Fine;
        }
        let is_first = !self.dissents(index, now_ns);
        self.stances[index] = (if is_first { Stance::Doubts } else { Stance::Dissents }, now_ns);
        if is_first {
            return HeadVerdict::Fine;
        }
        let verdict = self.judge(told, ours, speaks, now_ns);
        match verdict {
            HeadVerdict::Odd => self.withdraw(index),
            HeadVerdict::Tie => {
                let before = self.disputed(now_ns).map_or(number, |(disputed, _)| disputed);
                self.disputed = Some(Dispute { number: before.min(number), by: index, upheld_ns: now_ns });
            }
            HeadVerdict::Fine | HeadVerdict::LeaderOdd => {}
        }
        verdict
    }

    /// Which of two blocks is right: that of an endpoint that dissents, or that of the one that is followed.
    fn judge(&mut self, told: Option<Told>, ours: Told, speaks: bool, now_ns: u64) -> HeadVerdict {
        // A hash that is not that of its header was made up.
        match told.map(|told| told.sealed) {
            Some(true) if !ours.sealed => return HeadVerdict::LeaderOdd,
            Some(false) | None if ours.sealed => return HeadVerdict::Odd,
            _ if !speaks => return HeadVerdict::Odd,
            _ => {}
        }
        let everybody = 0..self.stances.len();
        let dissent = everybody.clone().filter(|index| self.dissents(*index, now_ns)).count();
        // The one that is followed agrees with itself.
        let agree = everybody.filter(|index| self.stance(*index, now_ns) == Stance::Agrees).count() + 1;
        match dissent.cmp(&agree) {
            std::cmp::Ordering::Greater => HeadVerdict::LeaderOdd,
            std::cmp::Ordering::Equal => HeadVerdict::Tie,
            std::cmp::Ordering::Less => {
                // Whoever else dissents is outvoted, too.
                self.disputed = None;
                HeadVerdict::Odd
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(number: u64, branch: u8) -> Told {
        Told { number, hash: Hash([branch; 32]), sealed: false }
    }

    const OURS: u8 = 1;
    const THEIRS: u8 = 2;
    const UPHELD_FOR_NS: u64 = 100;

    fn agreement(endpoints: usize) -> Agreement {
        let mut agreement = Agreement::new(endpoints, UPHELD_FOR_NS);
        assert_eq!(
            agreement.compare(1, 5, Some(told(5, THEIRS)), true, 0),
            HeadVerdict::Fine,
            "there is nothing to compare with"
        );
        agreement.follow(5, (0..=5).map(|number| told(number, OURS)));
        agreement
    }

    #[test]
    fn between_two_nobody_is_believed() {
        let mut agreement = agreement(2);
        let mut compare = |number, branch| agreement.compare(1, number, Some(told(number, branch)), true, 0);
        assert_eq!(compare(5, THEIRS), HeadVerdict::Fine, "once may be a reorg");
        assert_eq!(compare(9, THEIRS), HeadVerdict::Fine, "of another block");
        assert_eq!(compare(5, OURS), HeadVerdict::Fine);
        assert_eq!(compare(5, THEIRS), HeadVerdict::Fine);
        assert_eq!(compare(5, THEIRS), HeadVerdict::Tie);
        assert_eq!(compare(4, THEIRS), HeadVerdict::Tie);
        assert_eq!(agreement.disputed(0), Some((4, 1)));
        agreement.follow(3, [told(3, OURS)]);
        agreement.follow(4, [told(4, OURS)]);
        assert_eq!(agreement.disputed(0), Some((3, 1)), "nobody has asked it about the new branch");
        assert_eq!(agreement.compare(1, 4, Some(told(4, OURS)), true, 0), HeadVerdict::Fine);
        assert_eq!(agreement.disputed(0), None, "it changed its mind");
    }

    #[test]
    fn a_dispute_with_the_endpoint_that_comes_to_be_followed_is_upheld_by_the_one_before() {
        let mut agreement = Agreement::new(3, UPHELD_FOR_NS);
        agreement.lead(2, 0);
        agreement.follow(5, [told(5, OURS)]);
        for _ in 0..2 {
            agreement.compare(0, 5, Some(told(5, THEIRS)), true, 0);
        }
        assert_eq!(agreement.disputed(0), Some((5, 0)));
        agreement.lead(0, 90);
        assert_eq!(
            agreement.disputed(90 + UPHELD_FOR_NS - 1),
            Some((5, 2)),
            "nobody else is asked about the one that is followed"
        );
        agreement.follow(5, [told(5, THEIRS)]);
        agreement.compare(1, 5, Some(told(5, THEIRS)), true, 90);
        assert_eq!(agreement.disputed(90), Some((5, 2)), "what a third one says is not what the other one says");
        agreement.lead(1, 90);
        assert_eq!(agreement.disputed(90), Some((5, 2)));
        agreement.compare(2, 5, Some(told(5, THEIRS)), true, 90);
        assert_eq!(agreement.disputed(90), None, "it came over");
    }

    #[test]
    fn of_two_against_two_it_does_not_matter_who_said_it_last() {
        let mut agreement = Agreement::new(4, UPHELD_FOR_NS);
        agreement.lead(0, 0);
        agreement.follow(5, [told(5, OURS)]);
        agreement.compare(1, 5, Some(told(5, OURS)), true, 0);
        for index in [2, 3, 2, 3] {
            agreement.compare(index, 5, Some(told(5, THEIRS)), true, 0);
        }
        assert_eq!(agreement.disputed(0), Some((5, 3)));
        agreement.lead(2, 1);
        agreement.follow(5, [told(5, THEIRS)]);
        agreement.compare(3, 5, Some(told(5, THEIRS)), true, 1);
        assert_eq!(agreement.disputed(1), Some((5, 0)), "the two others have not come over");
    }

    #[test]
    fn the_word_of_one_that_is_gone_does_not_count() {
        let mut agreement = agreement(3);
        agreement.compare(2, 5, Some(told(5, OURS)), true, 0);
        for now_ns in [UPHELD_FOR_NS, UPHELD_FOR_NS + 1] {
            let verdict = agreement.compare(1, 5, Some(told(5, THEIRS)), true, now_ns);
            let expected = if now_ns == UPHELD_FOR_NS { HeadVerdict::Fine } else { HeadVerdict::Tie };
            assert_eq!(verdict, expected, "the third one agreed too long ago");
        }
        agreement.compare(2, 5, Some(told(5, THEIRS)), true, UPHELD_FOR_NS + 2);
        let later_ns = 2 * UPHELD_FOR_NS + 2;
        assert_eq!(
            agreement.compare(1, 5, Some(told(5, THEIRS)), true, later_ns),
            HeadVerdict::Fine,
            "once, after so long"
        );
        assert_eq!(
            agreement.compare(1, 5, Some(told(5, THEIRS)), true, later_ns),
            HeadVerdict::Tie,
            "and nobody besides"
        );
    }

    #[test]
    fn a_dispute_that_nobody_upholds_ends() {
        let mut agreement = agreement(2);
        for now_ns in [0, 10, 50] {
            agreement.compare(1, 5, Some(told(5, THEIRS)), true, now_ns);
        }
        assert_eq!(agreement.disputed(50 + UPHELD_FOR_NS - 1), Some((5, 1)));
        assert_eq!(agreement.disputed(50 + UPHELD_FOR_NS), None);
        // One that ended before says nothing of the next one's number.
        agreement.follow(6, [told(6, OURS)]);
        for now_ns in [500, 510] {
            agreement.compare(1, 6, Some(told(6, THEIRS)), true, now_ns);
        }
        assert_eq!(agreement.disputed(510), Some((6, 1)));
    }

    #[test]
    fn a_proof_decides_between_two() {
        for (ours, theirs, verdict) in
            [(true, false, HeadVerdict::Odd), (false, true, HeadVerdict::LeaderOdd), (true, true, HeadVerdict::Tie)]
        {
            let mut agreement = Agreement::new(2, UPHELD_FOR_NS);
            agreement.follow(5, [Told { sealed: ours, ..told(5, OURS) }]);
            let other = Some(Told { sealed: theirs, ..told(5, THEIRS) });
            agreement.compare(1, 5, other, true, 0);
            assert_eq!(agreement.compare(1, 5, other, true, 0), verdict, "{ours} {theirs}");
        }
    }

    #[test]
    fn one_that_is_far_ahead_and_lacks_the_block_dissents() {
        let mut agreement = agreement(3);
        assert_eq!(agreement.compare(2, 5, Some(told(5, OURS)), true, 0), HeadVerdict::Fine);
        assert_eq!(agreement.compare(1, 5, None, true, 0), HeadVerdict::Fine);
        assert_eq!(agreement.compare(1, 5, None, true, 0), HeadVerdict::Odd);
    }

    #[test]
    fn history_is_taken_from_whoever_has_the_followed_chain() {
        let mut agreement = agreement(2);
        let hash = Hash([OURS; 32]);
        assert_eq!(agreement.anchor(1, 4), Some((5, hash)));
        assert_eq!(agreement.anchor(1, 5), None, "no history");
        agreement.vouch(1, (5, hash));
        assert_eq!((agreement.anchor(1, 4), agreement.anchor(0, 4)), (None, Some((5, hash))));
        agreement.follow(6, [told(6, OURS)]);
        assert_eq!(agreement.anchor(1, 4), None, "it has shown a later block than is asked for");
        assert_eq!(agreement.anchor(1, 5), Some((6, hash)));
        agreement.vouch(1, (6, Hash([OURS; 32])));
        agreement.head(1, 6 - SETTLED_DEPTH);
        assert_eq!(agreement.anchor(1, 4), None, "a block or two are the network's doing");
        agreement.head(1, 6 - SETTLED_DEPTH - 1);
        assert_eq!(agreement.anchor(1, 4), Some((6, hash)), "it has begun anew");
        agreement.vouch(1, (6, hash));
        agreement.follow(5, [told(5, THEIRS)]);
        assert_eq!(agreement.anchor(1, 4), Some((5, Hash([THEIRS; 32]))), "of the branch that was left");
    }

    #[test]
    fn the_majority_is_believed() {
        let mut agreement = agreement(3);
        for index in [1, 2] {
            assert_eq!(agreement.compare(index, 5, Some(told(5, THEIRS)), true, 0), HeadVerdict::Fine);
        }
        assert_eq!(agreement.compare(1, 5, Some(told(5, THEIRS)), true, 0), HeadVerdict::LeaderOdd);
        assert_eq!(agreement.compare(2, 5, Some(told(5, OURS)), true, 0), HeadVerdict::Fine);
        assert_eq!(agreement.compare(1, 5, Some(told(5, THEIRS)), true, 0), HeadVerdict::Odd, "two say otherwise");
    }

    #[test]
    fn a_block_counts_as_seen_by_others_while_it_is_on_the_chain() {
        let mut agreement = agreement(3);
        assert_eq!(agreement.vouched(0), None);
        agreement.compare(1, 4, Some(told(4, OURS)), true, 0);
        assert_eq!((agreement.vouched(0), agreement.vouched(1)), (Some(4), None));
        assert_eq!((agreement.asked_for(9, false), agreement.asked_for(3, false)), (Some(5), Some(3)));
        agreement.follow(5, [told(6, OURS)]);
        assert_eq!((agreement.asked_for(9, false), agreement.asked_for(9, true)), (Some(5), Some(6)));
        assert_eq!(
            agreement.compare(1, 6, Some(told(6, THEIRS)), true, 0),
            HeadVerdict::Fine,
            "nodes differ at the head"
        );
        agreement.compare(1, 6, Some(told(6, OURS)), true, 0);
        assert_eq!(agreement.vouched(0), Some(6));
        agreement.follow(4, [told(4, THEIRS)]);
        assert_eq!(agreement.vouched(0), None, "it was another block");
    }

    #[test]
    fn only_what_is_new_is_taken_in() {
        let mut agreement = Agreement::new(1, UPHELD_FOR_NS);
        let ours = |_| Some(Hash([OURS; 32]));
        assert_eq!(agreement.next(1_000, &ours), 1_000 - 127);
        agreement.follow(1_000, (873..=1_000).map(|number| told(number, OURS)));
        assert_eq!(agreement.next(1_001, &ours), 1_001);
        let forked = |number| Some(Hash([if number > 990 { THEIRS } else { OURS }; 32]));
        assert_eq!(agreement.next(1_001, &forked), 991);
    }
}
