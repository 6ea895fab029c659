//! What a pull is owed at a given moment. Pure; all times are milliseconds since the Unix epoch.
//!
//! A tick that is late because the module was busy is not missed: a pull that comes while the oldest due run is at most
//! `LATE_MS` old gets every due run, whatever the rule. Past that the module was away, and its rule decides:
//! `all` delivers everything in order; `once` the newest run; `skip` the newest run if it is itself not late, else
//! nothing. What the rule leaves out is counted.

use nexum_host_ifaces::cron::Missed;

use crate::schedule::Plan;

/// How late a run may be without counting as missed. Handling an event takes at most two minutes by default and mostly
/// milliseconds, and a restart of the engine some seconds; Quartz draws the line at a minute too.
const LATE_MS: u64 = 60_000;

/// A clock that was set back by more than this was wrong before: the schedule starts anew instead of standing still
/// until the clock has caught up. Below it, no run happens twice.
const SET_BACK_MS: u64 = 3_600_000;

/// Skipped runs of a cron expression are counted one by one, up to here: some 10 ms of work.
const COUNTED_MAX: u64 = 10_000;

/// What to do about a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// Answer now: these runs, and the position after them.
    Now { fired_at: Vec<u64>, progress: u64, skipped: u64 },
    /// Nothing is due before then.
    At(u64),
    /// The schedule fires no more.
    Never,
}

pub(crate) fn due(plan: &Plan, missed: Missed, after: Option<u64>, max: usize, now: u64) -> Due {
    let start = Due::Now { fired_at: Vec::new(), progress: now, skipped: 0 };
    let Some(after) = after else { return start };
    if after > now.saturating_add(SET_BACK_MS) {
        return start;
    }
    let oldest = match plan.next(after) {
        None => return Due::Never,
        Some(next) if next > now => return Due::At(next),
        Some(oldest) => oldest,
    };
    if missed == Missed::All || oldest >= now.saturating_sub(LATE_MS) {
        let fired_at: Vec<u64> = plan.times(after, now).take(max.max(1)).collect();
        // The oldest of them is due. An answer that gets nowhere would be asked for again at once, for ever.
        let Some(progress) = fired_at.last().copied() else { unreachable!("a run that is due is not among those due") };
        return Due::Now { fired_at, progress, skipped: 0 };
    }
    let newest = plan.last(now).unwrap_or(oldest).max(oldest);
    let delivered = missed == Missed::Once || newest >= now.saturating_sub(LATE_MS);
    let fired_at = if delivered { vec![newest] } else { Vec::new() };
    let skipped = plan.count(after, newest, COUNTED_MAX).saturating_sub(fired_at.len() as u64);
    Due::Now { fired_at, progress: newest, skipped }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::cron::Schedule;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn every(period_ms: u64) -> Plan {
        Plan::new(&Schedule::Every { period_ms }).unwrap()
    }

    fn now(fired_at: &[u64], progress: u64, skipped: u64) -> Due {
        Due::Now { fired_at: fired_at.to_vec(), progress, skipped }
    }

    #[test]
    fn the_first_pull_starts_here() {
        assert_eq!(due(&every(1_000), Missed::All, None, 10, NOW), now(&[], NOW, 0));
    }

    #[test]
    fn a_pull_that_is_up_to_date_waits() {
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            assert_eq!(due(&every(10_000), missed, Some(NOW), 10, NOW), Due::At(NOW + 10_000));
            assert_eq!(due(&every(10_000), missed, Some(NOW), 10, NOW + 10_000), now(&[NOW + 10_000], NOW + 10_000, 0));
        }
    }

    #[test]
    fn a_busy_module_gets_every_run_whatever_the_rule() {
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            let late = due(&every(10_000), missed, Some(NOW), 10, NOW + 35_000);
            assert_eq!(late, now(&[NOW + 10_000, NOW + 20_000, NOW + 30_000], NOW + 30_000, 0));
            // The rest comes with the next pull.
            let first = due(&every(10_000), missed, Some(NOW), 2, NOW + 35_000);
            assert_eq!(first, now(&[NOW + 10_000, NOW + 20_000], NOW + 20_000, 0));
            // Even when less than one was asked for, the pull moves on.
            assert_eq!(due(&every(10_000), missed, Some(NOW), 0, NOW + 10_000), now(&[NOW + 10_000], NOW + 10_000, 0));
        }
    }

    #[test]
    fn after_an_absence_the_rule_decides() {
        let hour = 3_600_000;
        let at =
            |missed| due(&every(600_000), missed, Some(NOW - NOW % 600_000), 4, NOW - NOW % 600_000 + hour + 90_000);
        let start = NOW - NOW % 600_000;
        assert_eq!(at(Missed::Skip), now(&[], start + hour, 6));
        assert_eq!(at(Missed::Once), now(&[start + hour], start + hour, 5));
        let all: Vec<u64> = (1..=4).map(|n| start + n * 600_000).collect();
        assert_eq!(at(Missed::All), now(&all, all[3], 0));
        // Back just in time for a run: it is not missed.
        let back = due(&every(600_000), Missed::Skip, Some(start), 4, start + hour + 1_000);
        assert_eq!(back, now(&[start + hour], start + hour, 5));
    }

    #[test]
    fn a_very_long_absence_costs_little() {
        let seconds = Plan::new(&Schedule::Cron("* * * * * *".into())).unwrap();
        let year = 365 * 86_400_000;
        let after = NOW - NOW % 1_000 - year;
        let newest = NOW - NOW % 1_000;
        assert_eq!(due(&seconds, Missed::Once, Some(after), 9, NOW), now(&[newest], newest, COUNTED_MAX - 1));
        let skipped = due(&every(1_000), Missed::Skip, Some(after), 9, NOW);
        assert_eq!(skipped, now(&[newest], newest, COUNTED_MAX - 1));
    }

    #[test]
    fn a_clock_set_back_repeats_no_run_unless_it_was_wrong_before() {
        let plan = every(60_000);
        let after = NOW - NOW % 60_000;
        assert_eq!(due(&plan, Missed::All, Some(after), 9, after - 600_000), Due::At(after + 60_000));
        let long_before = after - 2 * SET_BACK_MS;
        assert_eq!(due(&plan, Missed::All, Some(after), 9, long_before), now(&[], long_before, 0));
    }
}
