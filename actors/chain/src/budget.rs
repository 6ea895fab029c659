//! How far one module has used its budget. Pure: time and what was kept come in, decisions go out.

use std::time::Duration;

use nexum_host_ifaces::interfaces::chain::port::RpcBudget;
use serde::{Deserialize, Serialize};

const SECOND_NS: u64 = 1_000_000_000;
const DAY_MS: u64 = 86_400_000;
/// What is written ahead of a day's budget, as a part of it: a restart costs at most so much, and a write is due so often.
const WRITTEN_AHEAD: u64 = 64;

/// What some requests cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    pub requests: u64,
    pub units: u64,
}

/// Which limit, as its key is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    RequestsPerSecond(u64),
    UnitsPerSecond(u64),
    RequestsPerDay(u64),
    UnitsPerDay(u64),
}

impl Limit {
    pub fn key(self) -> &'static str {
        match self {
            Self::RequestsPerSecond(_) => "requests_per_second",
            Self::UnitsPerSecond(_) => "units_per_second",
            Self::RequestsPerDay(_) => "requests_per_day",
            Self::UnitsPerDay(_) => "units_per_day",
        }
    }

    pub fn of(self) -> u64 {
        match self {
            Self::RequestsPerSecond(limit)
            | Self::UnitsPerSecond(limit)
            | Self::RequestsPerDay(limit)
            | Self::UnitsPerDay(limit) => limit,
        }
    }
}

/// That a budget does not allow something, and when it will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub limit: Limit,
    pub retry_after: Duration,
}

/// At most so much per second on average, and a second's worth at once after a pause.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// When the next would go if there were no bursts.
    due_ns: u64,
}

impl Pace {
    /// When this may go, and the pace after that. What is more than a second's worth goes when it is first, and whoever
    /// comes next waits for it.
    fn next(self, now_ns: u64, amount: u64, per_second: u64) -> (u64, Self) {
        let cost = u128::from(amount) * u128::from(SECOND_NS) / u128::from(per_second.max(1));
        let cost_ns = u64::try_from(cost).unwrap_or(u64::MAX);
        let due_ns = self.due_ns.max(now_ns).saturating_add(cost_ns);
        (due_ns.saturating_sub(cost_ns.max(SECOND_NS)).max(now_ns), Self { due_ns })
    }
}

/// The paces of one module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paces {
    requests: Pace,
    units: Pace,
}

impl Paces {
    /// How long this has to wait, and the paces when it goes.
    ///
    /// # Errors
    /// The limit for which it would wait longer than it may.
    pub fn wait(
        self,
        budget: &RpcBudget,
        cost: Cost,
        now_ns: u64,
        at_most: Duration,
    ) -> Result<(Duration, Self), Refusal> {
        let (mut paces, mut longest) = (self, None::<Refusal>);
        let limits = [
            (&mut paces.requests, budget.requests_per_second.map(Limit::RequestsPerSecond), cost.requests),
            (&mut paces.units, budget.units_per_second.map(Limit::UnitsPerSecond), cost.units),
        ];
        for (pace, limit, amount) in limits {
            // What has no limit, or costs nothing, waits for nobody.
            let Some(limit) = limit.filter(|_| amount > 0) else { continue };
            let (go_ns, next) = pace.next(now_ns, amount, limit.of());
            *pace = next;
            let retry_after = Duration::from_nanos(go_ns - now_ns);
            if longest.is_none_or(|longest| longest.retry_after < retry_after) {
                longest = Some(Refusal { limit, retry_after });
            }
        }
        match longest {
            Some(refusal) if refusal.retry_after > at_most => Err(refusal),
            longest => Ok((longest.map_or(Duration::ZERO, |longest| longest.retry_after), paces)),
        }
    }
}

/// What was used of a day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Day {
    /// Days since the Unix epoch.
    pub number: u64,
    pub requests: u64,
    pub units: u64,
}

impl Day {
    /// The same as the clock moves. A new day begins with nothing used.
    ///
    /// A clock that goes back gives nothing back. By a day or less, what was used goes on to count for the later of both
    /// days, until that is over: around midnight nobody gets two days. By more than that the later day was a mistake, and
    /// what was used counts for the day that it is.
    fn at(self, now_ms: u64) -> Self {
        let today = now_ms / DAY_MS;
        match self.number {
            number if number < today => Self { number: today, ..Self::default() },
            number if number - today > 1 => Self { number: today, ..self },
            _ => self,
        }
    }

    /// When the next one begins.
    pub fn ends_ms(&self) -> u64 {
        (self.number + 1).saturating_mul(DAY_MS)
    }

    /// Whether nothing of what is limited was used beyond this.
    fn covers(&self, used: &Self, budget: &RpcBudget) -> bool {
        self.number == used.number
            && (self.requests >= used.requests || budget.requests_per_day.is_none())
            && (self.units >= used.units || budget.units_per_day.is_none())
    }
}

/// The day of one module, and how much of it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    used: Day,
    /// At least as much: what a restart takes for used.
    written: Day,
}

/// What comes of asking for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub days: Days,
    /// To be written before anything is asked.
    pub write: Option<Day>,
    /// The limit that would be exceeded: all may be asked, or nothing.
    pub refusal: Option<Refusal>,
}

impl Days {
    /// As what was written says; nothing was.
    pub fn of(written: Option<Day>) -> Self {
        let written = written.unwrap_or_default();
        Self { used: written, written }
    }

    pub fn used(&self, now_ms: u64) -> Day {
        self.used.at(now_ms)
    }

    /// Whether this may be asked as well.
    pub fn step(self, budget: &RpcBudget, cost: Cost, now_ms: u64) -> Step {
        let before = self.used.at(now_ms);
        let used = Day {
            requests: before.requests.saturating_add(cost.requests),
            units: before.units.saturating_add(cost.units),
            ..before
        };
        let limit = match (budget.requests_per_day, budget.units_per_day) {
            (Some(most), _) if used.requests > most => Some(Limit::RequestsPerDay(most)),
            // What costs nothing is free when all is used, too.
            (_, Some(most)) if used.units > most && cost.units > 0 => Some(Limit::UnitsPerDay(most)),
            _ => None,
        };
        if let Some(limit) = limit {
            let retry_after = Duration::from_millis(before.ends_ms().saturating_sub(now_ms));
            // A day that was a mistake is not read again after a restart: each day then would begin with all of it used.
            let write = Some(before).filter(|before| before.number < self.written.number);
            let days = Self { used: before, written: write.unwrap_or(self.written) };
            return Step { days, write, refusal: Some(Refusal { limit, retry_after }) };
        }
        let ahead = |used: u64, most: Option<u64>| {
            most.map_or(used, |most| used.saturating_add(most / WRITTEN_AHEAD).min(most.max(used)))
        };
        let write = Some(Day {
            number: used.number,
            requests: ahead(used.requests, budget.requests_per_day),
            units: ahead(used.units, budget.units_per_day),
        });
        let write = write.filter(|_| !self.written.covers(&used, budget));
        Step { days: Self { used, written: write.unwrap_or(self.written) }, write, refusal: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Cost = Cost { requests: 1, units: 26 };
    const NOON_MS: u64 = 20_000 * DAY_MS + DAY_MS / 2;

    fn per_day(requests: Option<u64>, units: Option<u64>) -> RpcBudget {
        RpcBudget { requests_per_day: requests, units_per_day: units, ..RpcBudget::default() }
    }

    #[test]
    fn a_second_of_requests_goes_at_once_and_then_one_after_the_other() {
        let budget = RpcBudget { requests_per_second: Some(5), ..RpcBudget::default() };
        let (mut paces, wait_max) = (Paces::default(), Duration::from_secs(1));
        for _ in 0..5 {
            let (wait, next) = paces.wait(&budget, ONE, 7, wait_max).unwrap();
            assert!(wait.is_zero());
            paces = next;
        }
        for nth in 1..=5 {
            let (wait, next) = paces.wait(&budget, ONE, 7, wait_max).unwrap();
            assert_eq!(wait, Duration::from_millis(200 * nth));
            paces = next;
        }
        let refusal = paces.wait(&budget, ONE, 7, wait_max).unwrap_err();
        assert_eq!((refusal.limit, refusal.retry_after), (Limit::RequestsPerSecond(5), Duration::from_millis(1_200)));
        // What was refused takes no place.
        assert_eq!(paces.wait(&budget, ONE, 7, Duration::from_secs(2)).unwrap().0, Duration::from_millis(1_200));
        assert!(paces.wait(&budget, ONE, 2 * SECOND_NS, Duration::ZERO).is_ok());
    }

    #[test]
    fn the_scarcer_of_requests_and_units_decides() {
        let budget = RpcBudget { requests_per_second: Some(100), units_per_second: Some(26), ..RpcBudget::default() };
        let (_, paces) = Paces::default().wait(&budget, ONE, 0, Duration::ZERO).unwrap();
        let refusal = paces.wait(&budget, ONE, 0, Duration::ZERO).unwrap_err();
        assert_eq!((refusal.limit, refusal.retry_after), (Limit::UnitsPerSecond(26), Duration::from_secs(1)));
        let free = Cost { requests: 1, units: 0 };
        assert!(paces.wait(&budget, free, 0, Duration::ZERO).is_ok());
        // A batch of more than a second goes when nothing went before, and is paid for afterwards.
        let batch = Cost { requests: 10, units: 260 };
        let (wait, paces) = Paces::default().wait(&budget, batch, 0, Duration::ZERO).unwrap();
        assert!(wait.is_zero());
        assert_eq!(paces.wait(&budget, ONE, 0, Duration::from_secs(60)).unwrap().0, Duration::from_secs(10));
        let unlimited = RpcBudget::default();
        assert!(paces.wait(&unlimited, batch, 0, Duration::ZERO).unwrap().0.is_zero());
    }

    fn goes(days: Days, budget: &RpcBudget, cost: Cost, now_ms: u64) -> (Days, Option<Day>) {
        let step = days.step(budget, cost, now_ms);
        assert_eq!(step.refusal, None);
        (step.days, step.write)
    }

    fn refused(days: Days, budget: &RpcBudget, cost: Cost, now_ms: u64) -> Refusal {
        days.step(budget, cost, now_ms).refusal.unwrap()
    }

    #[test]
    fn a_day_that_is_used_up_is_refused_until_it_ends() {
        let (budget, midnight_ms) = (per_day(Some(2), None), 20_001 * DAY_MS);
        let (days, write) = goes(Days::of(None), &budget, ONE, NOON_MS);
        assert_eq!(write, Some(Day { number: 20_000, requests: 1, units: 26 }));
        // Nothing of a batch that is too large is asked.
        refused(days, &budget, Cost { requests: 2, units: 52 }, NOON_MS);
        let (days, _) = goes(days, &budget, ONE, NOON_MS);
        let refusal = refused(days, &budget, ONE, NOON_MS);
        assert_eq!(refusal.limit, Limit::RequestsPerDay(2));
        assert_eq!(refusal.retry_after, Duration::from_secs(12 * 3_600));
        let (days, write) = goes(days, &budget, ONE, midnight_ms);
        assert_eq!(write, Some(Day { number: 20_001, requests: 1, units: 26 }));
        // A tighter budget counts for what was used before it, too.
        assert_eq!(refused(days, &per_day(Some(1), None), ONE, midnight_ms).limit, Limit::RequestsPerDay(1));
        let tighter = per_day(None, Some(51));
        assert_eq!(refused(days, &tighter, ONE, midnight_ms).limit, Limit::UnitsPerDay(51));
        goes(days, &tighter, Cost { requests: 1, units: 0 }, midnight_ms);
    }

    #[test]
    fn a_restart_gives_nothing_of_the_day_back_and_costs_little_of_it() {
        let (budget, mut days, mut kept, mut writes) = (per_day(Some(6_400), None), Days::of(None), None, 0);
        for _ in 0..1_000 {
            let (next, write) = goes(days, &budget, ONE, NOON_MS);
            writes += u64::from(write.is_some());
            (days, kept) = (next, write.or(kept));
        }
        assert!(writes <= 11, "{writes}");
        let after = Days::of(kept).used(NOON_MS).requests;
        assert!((1_000..=1_100).contains(&after), "{after}");
        // The last of it can be used, however much is written ahead.
        let last = Days::of(Some(Day { number: 20_000, requests: 6_399, units: 0 }));
        let (days, _) = goes(last, &budget, ONE, NOON_MS);
        refused(days, &budget, ONE, NOON_MS);
    }

    #[test]
    fn a_day_of_many_requests_is_written_a_few_times() {
        let (budget, mut days, mut writes) = (per_day(Some(6_400), Some(6_400 * 26)), Days::of(None), 0);
        for _ in 0..6_400 {
            let (next, write) = goes(days, &budget, ONE, NOON_MS);
            writes += u64::from(write.is_some());
            days = next;
        }
        assert!(writes <= 2 * WRITTEN_AHEAD, "{writes}");
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_day_back() {
        let budget = per_day(Some(10), None);
        let used = |requests, number| Days::of(Some(Day { number, requests, units: 0 }));
        // Over midnight and back: what is used counts for the day that had begun.
        let (days, _) = goes(used(10, 20_000), &budget, ONE, 20_001 * DAY_MS);
        let back = days.used(20_001 * DAY_MS - 1);
        assert_eq!((back.number, back.requests), (20_001, 1));
        assert_eq!(days.used(20_001 * DAY_MS).requests, 1, "and it does not begin anew");
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_use_up_all_days_until_then() {
        let budget = per_day(Some(10), None);
        let step = Days::of(Some(Day { number: 40_000, requests: 10, units: 0 })).step(&budget, ONE, NOON_MS);
        assert!(step.refusal.is_some(), "what was used is used");
        let today = Day { number: 20_000, requests: 10, units: 0 };
        assert_eq!((step.write, step.days.used(NOON_MS)), (Some(today), today));
        for days in [step.days, Days::of(step.write)] {
            let (days, _) = goes(days, &budget, ONE, NOON_MS + DAY_MS);
            assert_eq!(days.used(NOON_MS + DAY_MS), Day { number: 20_001, requests: 1, units: 26 });
        }
    }
}
