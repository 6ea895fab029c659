//! How many blocks to ask for at once: halved when a node refuses, grown slowly when it does not.

#[derive(Debug, Clone, Copy)]
pub struct AdaptiveRange {
    current: u64,
    max: u64,
}

impl AdaptiveRange {
    pub fn new(max: u64) -> Self {
        let max = max.max(1);
        Self { current: max, max }
    }

    pub fn current(&self) -> u64 {
        self.current
    }

    /// A read of `span` blocks was refused.
    pub fn refused(&mut self, span: u64) {
        self.current = self.current.min((span / 2).max(1));
    }

    /// A read of `span` blocks was answered. Only full ones say that more may go.
    pub fn accepted(&mut self, span: u64) {
        if span >= self.current {
            self.current = (self.current + self.current / 8 + 1).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_on_refusal_and_grows_back_to_its_limit() {
        let mut range = AdaptiveRange::new(2_000);
        range.refused(2_000);
        assert_eq!(range.current(), 1_000);
        range.refused(2_000);
        assert_eq!(range.current(), 1_000, "another refusal of the same size says nothing new");
        range.accepted(10);
        assert_eq!(range.current(), 1_000, "the short last read of a range proves nothing");
        range.accepted(1_000);
        assert_eq!(range.current(), 1_126);
        (0..20).for_each(|_| range.accepted(range.current()));
        assert_eq!(range.current(), 2_000);
        (0..20).for_each(|_| range.refused(range.current()));
        assert_eq!(range.current(), 1, "a single block is the least");
    }
}
