//! Whether the endpoints that stand by have the same blocks as the one that is followed.
//!
//! Pure. A few blocks below the head nodes of one chain agree, but for moments; one that does not is on another branch,
//! or makes its blocks up. Which one that is the majority says, and between two the order of preference.

use nexum_host_ifaces::Hash;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// The endpoint that was compared is the odd one.
    Odd,
    /// The one that is followed is.
    LeaderOdd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stance {
    Unknown,
    Agrees,
    /// Once: it may be in a reorg.
    Doubts,
    Dissents,
}

#[derive(Debug)]
pub struct Agreement {
    /// A block of the followed chain.
    settled: Option<(u64, Hash)>,
    stances: Vec<Stance>,
    /// The block of the followed chain that an endpoint was last seen to have.
    vouched: Vec<Option<(u64, Hash)>>,
}

impl Agreement {
    pub fn new(endpoints: usize) -> Self {
        Self { settled: None, stances: vec![Stance::Unknown; endpoints], vouched: vec![None; endpoints] }
    }

    /// The followed chain has this block, a few below its head.
    pub fn settled(&mut self, block: Option<(u64, Hash)>) {
        self.settled = block;
    }

    /// The block that an endpoint should be asked for.
    pub fn asked_for(&self) -> Option<u64> {
        self.settled.map(|(number, _)| number)
    }

    /// The block that shows whether what an endpoint says of history up to `number` is of the followed chain; none when
    /// it has shown it, or there is nothing to compare with.
    pub fn anchor(&self, index: usize, number: u64) -> Option<(u64, Hash)> {
        self.settled.filter(|settled| settled.0 > number && self.vouched[index] != Some(*settled))
    }

    /// An endpoint has this block.
    pub fn vouch(&mut self, index: usize, block: (u64, Hash)) {
        self.vouched[index] = Some(block);
    }

    /// Another endpoint is followed: what was compared with the one before counts no more.
    pub fn forget(&mut self) {
        self.stances.fill(Stance::Unknown);
    }

    /// An endpoint has this block. A comparison with what is not asked for any more says nothing.
    pub fn compare(&mut self, index: usize, number: u64, told: Hash) -> Verdict {
        let Some((_, hash)) = self.settled.filter(|(settled, _)| *settled == number) else { return Verdict::Fine };
        let stance = match self.stances[index] {
            _ if told == hash => Stance::Agrees,
            Stance::Unknown | Stance::Agrees => Stance::Doubts,
            Stance::Doubts | Stance::Dissents => Stance::Dissents,
        };
        self.stances[index] = stance;
        if stance != Stance::Dissents {
            return Verdict::Fine;
        }
        let count = |wanted: &[Stance]| self.stances.iter().filter(|stance| wanted.contains(stance)).count();
        // The one that is followed agrees with itself.
        let agree = count(&[Stance::Agrees]) + 1;
        match count(&[Stance::Doubts, Stance::Dissents]) > agree {
            true => Verdict::LeaderOdd,
            false => Verdict::Odd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Hash = Hash([1; 32]);
    const THEIRS: Hash = Hash([2; 32]);

    fn agreement(endpoints: usize) -> Agreement {
        let mut agreement = Agreement::new(endpoints);
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::Fine, "there is nothing to compare with");
        agreement.settled(Some((5, OURS)));
        agreement
    }

    #[test]
    fn between_two_the_one_that_is_followed_is_believed() {
        let mut agreement = agreement(2);
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::Fine, "once may be a reorg");
        assert_eq!(agreement.compare(1, 4, THEIRS), Verdict::Fine, "of another block");
        assert_eq!(agreement.compare(1, 5, OURS), Verdict::Fine);
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::Fine);
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::Odd);
        agreement.forget();
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::Fine, "another one is followed");
    }

    #[test]
    fn history_is_taken_from_whoever_has_the_followed_chain() {
        let mut agreement = agreement(2);
        assert_eq!(agreement.anchor(1, 4), Some((5, OURS)));
        assert_eq!(agreement.anchor(1, 5), None, "no history");
        agreement.vouch(1, (5, OURS));
        assert_eq!((agreement.anchor(1, 4), agreement.anchor(0, 4)), (None, Some((5, OURS))));
        agreement.settled(Some((6, OURS)));
        assert_eq!(agreement.anchor(1, 4), Some((6, OURS)), "once for each block");
    }

    #[test]
    fn the_majority_is_believed() {
        let mut agreement = agreement(3);
        for index in [1, 2] {
            assert_eq!(agreement.compare(index, 5, THEIRS), Verdict::Fine);
        }
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::LeaderOdd);
        assert_eq!(agreement.compare(2, 5, OURS), Verdict::Fine);
        assert_eq!(agreement.compare(1, 5, THEIRS), Verdict::Odd, "two say otherwise");
    }
}
