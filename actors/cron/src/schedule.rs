//! When a schedule fires. Pure; all times are milliseconds since the Unix epoch, UTC.
//!
//! Cron expressions are those of Vixie cron, with an optional field for the second in front. Sunday is 0 or 7. When a day of
//! the month and a day of the week are named, either is enough; when one of the two fields begins with `*`, as in `*/2`, both
//! must match. The `cron` crate underneath numbers Sunday 1 and always wants both days, so expressions are translated for it.

mod fields;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use nexum_host_ifaces::cron::Schedule;

use self::fields::{DAY, Field, HOUR, MINUTE, MONTH, SECOND, WEEKDAY};

/// A shorter period would be a busy loop: events are at least this far apart.
const PERIOD_MS_MIN: u64 = 100;

/// A longer period is a mistake of units.
const PERIOD_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// A schedule that can be used.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Every {
        period_ms: u64,
    },
    /// Fires when any of these does.
    Cron(Vec<cron::Schedule>),
}

/// Whether a schedule can be used; the message says what would be right.
pub fn check(schedule: &Schedule) -> Result<(), String> {
    Plan::new(schedule).map(drop)
}

/// The first time after `after_ms` at which a schedule fires; none when it cannot be used or fires no more.
pub fn next_after(schedule: &Schedule, after_ms: u64) -> Option<u64> {
    Plan::new(schedule).ok()?.next(after_ms)
}

impl Plan {
    pub fn new(schedule: &Schedule) -> Result<Self, String> {
        match schedule {
            Schedule::Every { period_ms } if *period_ms < PERIOD_MS_MIN => {
                Err(format!("a period of {period_ms} ms is too short: at least {PERIOD_MS_MIN} ms"))
            }
            Schedule::Every { period_ms } if *period_ms > PERIOD_MS_MAX => {
                Err(format!("a period of {period_ms} ms is too long: at most 366 days"))
            }
            Schedule::Every { period_ms } => Ok(Self::Every { period_ms: *period_ms }),
            Schedule::Cron(expression) => parse(expression).map(Self::Cron),
        }
    }

    /// The first time after `after_ms`; none when there is no such time before the year 2100.
    pub fn next(&self, after_ms: u64) -> Option<u64> {
        match self {
            Self::Every { period_ms } => (after_ms / period_ms).checked_add(1)?.checked_mul(*period_ms),
            Self::Cron(any) => {
                let after = time(after_ms)?;
                any.iter().filter_map(|schedule| schedule.after(&after).next()).map(millis).min()
            }
        }
    }

    /// The last time up to and including `now_ms`.
    pub fn last(&self, now_ms: u64) -> Option<u64> {
        match self {
            Self::Every { period_ms } => Some(now_ms / period_ms * period_ms),
            Self::Cron(any) => {
                // The iterator goes back from a time that it leaves out.
                let end = time(now_ms.checked_add(1)?)?;
                any.iter().filter_map(|schedule| schedule.after(&end).next_back()).map(millis).max()
            }
        }
    }

    /// How many times lie in `after_ms < t <= until_ms`, counted up to `max`.
    pub fn count(&self, after_ms: u64, until_ms: u64, max: u64) -> u64 {
        match self {
            Self::Every { period_ms } => (until_ms / period_ms).saturating_sub(after_ms / period_ms).min(max),
            Self::Cron(_) => self.times(after_ms, until_ms).take(max as usize).count() as u64,
        }
    }

    /// Every time in `after_ms < t <= until_ms`, in order.
    pub fn times(&self, after_ms: u64, until_ms: u64) -> impl Iterator<Item = u64> + '_ {
        let within = move |at: &u64| *at <= until_ms;
        std::iter::successors(self.next(after_ms).filter(within), move |at| self.next(*at).filter(within))
    }
}

fn time(at_ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(at_ms).ok()?)
}

fn millis(at: DateTime<Utc>) -> u64 {
    // Runs from before the epoch are asked for only where the clock stands there.
    u64::try_from(at.timestamp_millis()).unwrap_or_default()
}

fn parse(expression: &str) -> Result<Vec<cron::Schedule>, String> {
    let wrong = |why: String| {
        format!("`{expression}`: {why}; a schedule is `minute hour day-of-month month day-of-week`, like `*/5 * * * *`")
    };
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let (second, fields) = match fields[..] {
        [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
        [second, minute, hour, day, month, weekday] => (second, [minute, hour, day, month, weekday]),
        _ if expression.trim_start().starts_with('@') => {
            return Err(wrong("shorthands with @ are not known".to_owned()));
        }
        _ => return Err(wrong(format!("{} fields instead of 5, or 6 with the second first", fields.len()))),
    };
    let [minute, hour, day, month, weekday] = fields;
    // As written: what a field is translated to begins with no star.
    let any_day = |field: &str| field.starts_with(['*', '?']);
    let either = !any_day(day) && !any_day(weekday);
    let read = |field: Field, text: &str| field.read(text).map_err(&wrong);
    let (second, minute, hour) = (read(SECOND, second)?, read(MINUTE, minute)?, read(HOUR, hour)?);
    let (day, month, weekday) = (read(DAY, day)?, read(MONTH, month)?, read(WEEKDAY, weekday)?);
    let one = |day: &str, weekday: &str| {
        let translated = format!("{second} {minute} {hour} {day} {month} {weekday}");
        match cron::Schedule::from_str(&translated) {
            Ok(schedule) => schedule,
            Err(error) => unreachable!("`{translated}` has only numbers within bounds: {error}"),
        }
    };
    let schedules = match either {
        false => vec![one(&day, &weekday)],
        true => vec![one(&day, "*"), one("*", &weekday)],
    };
    // 2000 is a leap year and as good a start as any.
    let Some(start) = DateTime::from_timestamp_millis(946_684_800_000) else { unreachable!("2000 is no year") };
    if schedules.iter().all(|schedule| schedule.after(&start).next().is_none()) {
        return Err(wrong("it never fires".to_owned()));
    }
    Ok(schedules)
}

#[cfg(test)]
mod tests;
