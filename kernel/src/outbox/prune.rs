//! When effects that have ended are looked through for those that nobody needs any more.

/// After so many of a module that have ended, because each time what is known of all of them is read.
pub(super) const EVERY: u32 = 512;

/// Whether it is time, with this end of a module's effects since the start. With the first it is: an engine that is started
/// often would never come to the others.
pub(super) fn is_due(ended: u64, every: u32) -> bool {
    ended == 1 || ended.is_multiple_of(u64::from(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_after_a_start_and_every_so_many_is_due() {
        let due: Vec<u64> = (1..=1_100).filter(|ended| is_due(*ended, EVERY)).collect();
        assert_eq!(due, [1, 512, 1_024]);
        assert!((1..20).all(|ended| is_due(ended, 1)));
    }
}
