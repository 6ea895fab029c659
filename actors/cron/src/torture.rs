//! What must hold of every schedule that somebody may write. The tests try what the fuzzer begins with and what it found, and
//! `make fuzz` tries more.

use nexum_host_ifaces::cron::Schedule;

use crate::schedule::Plan;

/// The beginning of 2026, milliseconds.
const START_MS: u64 = 1_767_225_600_000;

/// Reads a cron expression. One that is taken fires, at whole seconds, one after another, and alike however it is spaced.
///
/// # Panics
/// When something does not hold.
pub fn schedule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let plan = match Plan::new(&Schedule::Cron(text.to_owned())) {
        Ok(plan) => plan,
        Err(error) => return assert!(error.contains("a schedule is `minute hour"), "{error}"),
    };
    let mut at = START_MS;
    // The last of them may be in 2099.
    for _ in 0..4 {
        let Some(next) = plan.next(at) else { break };
        assert!(next > at && next.is_multiple_of(1_000), "{text:?}: {next} after {at}");
        assert_eq!(plan.last(next), Some(next), "{text:?}");
        assert_eq!(plan.count(at, next, 9), 1, "{text:?}");
        at = next;
    }
    let spaced = text.split_whitespace().collect::<Vec<_>>().join(" \t");
    let again = Plan::new(&Schedule::Cron(spaced));
    assert_eq!(again.map(|again| again.next(START_MS)), Ok(plan.next(START_MS)), "{text:?}");
}

#[cfg(test)]
mod tests {
    use nexum_testkit::corpus;

    use super::*;

    #[test]
    fn the_corpus_of_schedules_is_answered() {
        corpus("schedule").iter().for_each(|seed| schedule(seed));
    }
}
