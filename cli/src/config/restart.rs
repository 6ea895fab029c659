//! `[restart]`: what a manifest may say of restarts, and how often the process may die during one event.

use std::time::Duration;

use nexum_ctl::period::Period;
use nexum_kernel::{begun::DEATHS_MAX, restart::Ceiling};
use serde::{Deserialize, Serialize};

use super::check::{Problem, check_backoff, problem};

/// Ceilings for the `[module.restart]` of every manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    pub max_consecutive_failures: u32,
    pub max_event_attempts: u32,
    /// The least that a first wait may be.
    pub min_backoff: Period,
    /// The most that a wait may become.
    pub max_backoff: Period,
    /// Deaths of the process during one event after which it goes to the dead letters.
    pub max_process_deaths: u32,
}

impl Default for Restart {
    fn default() -> Self {
        let Ceiling { max_consecutive_failures, max_event_attempts, backoff_min, backoff_max } = Ceiling::default();
        Self {
            max_consecutive_failures,
            max_event_attempts,
            min_backoff: Period(backoff_min),
            max_backoff: Period(backoff_max),
            max_process_deaths: DEATHS_MAX,
        }
    }
}

impl Restart {
    pub fn ceiling(&self) -> Ceiling {
        Ceiling {
            max_consecutive_failures: self.max_consecutive_failures,
            max_event_attempts: self.max_event_attempts,
            backoff_min: self.min_backoff.0,
            backoff_max: self.max_backoff.0,
        }
    }
}

pub(super) fn check(restart: &Restart) -> Result<(), Problem> {
    let counts = [
        ("max_consecutive_failures", restart.max_consecutive_failures),
        ("max_event_attempts", restart.max_event_attempts),
    ];
    if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
        return Err(problem(&format!("restart.{key}"), "is 0: expected at least 1"));
    }
    if restart.min_backoff.0 == Duration::ZERO {
        return Err(problem("restart.min_backoff", "must be longer than nothing"));
    }
    check_backoff("restart", ("min_backoff", restart.min_backoff), ("max_backoff", restart.max_backoff))?;
    if restart.max_process_deaths < 2 {
        // Others that ran when the process died would be set aside with the one that it died of.
        let message = "expected at least 2: an event is tried alone before it is set aside";
        return Err(problem("restart.max_process_deaths", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_that_bounds_nothing_or_everything_is_refused() {
        let wrong = |restart: Restart| check(&restart).err().map(|problem| problem.path.join("."));
        let default = Restart::default;
        assert_eq!(wrong(default()), None);
        assert_eq!(
            wrong(Restart { max_event_attempts: 0, ..default() }).as_deref(),
            Some("restart.max_event_attempts")
        );
        let never = Period(Duration::ZERO);
        assert_eq!(wrong(Restart { min_backoff: never, ..default() }).as_deref(), Some("restart.min_backoff"));
        assert_eq!(wrong(Restart { max_backoff: never, ..default() }).as_deref(), Some("restart.max_backoff"));
        let one = Restart { max_process_deaths: 1, ..default() };
        assert_eq!(wrong(one).as_deref(), Some("restart.max_process_deaths"));
    }
}
