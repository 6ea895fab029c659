//! How many blocks to ask for at once: as many as were answered last, grown slowly while all are.

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

    /// Of a read of `span` blocks so many were answered.
    pub fn answered(&mut self, span: u64, blocks: u64) {
        if blocks < span { self.current = blocks.max(1) } else { self.accepted(span) }
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
    fn it_follows_what_is_answered_in_part() {
        let mut range = AdaptiveRange::new(2_000);
        range.answered(2_000, 90);
        assert_eq!(range.current(), 90);
        range.answered(90, 90);
        assert_eq!(range.current(), 102);
    }

    #[test]
    fn it_grows_back_to_its_limit() {
        let mut range = AdaptiveRange::new(2_000);
        range.answered(2_000, 1_000);
        range.answered(10, 10);
        assert_eq!(range.current(), 1_000, "the short last read of a range proves nothing");
        range.answered(1_000, 1_000);
        assert_eq!(range.current(), 1_126);
        (0..20).for_each(|_| range.answered(range.current(), range.current()));
        assert_eq!(range.current(), 2_000);
        range.answered(2_000, 0);
        assert_eq!(range.current(), 1, "a single block is the least");
    }
}
