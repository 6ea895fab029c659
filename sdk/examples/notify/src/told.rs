//! What was said of a rule, so that it is said again only when there is reason to.

use serde::{Deserialize, Serialize};

/// The state of a rule, in the module's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Milliseconds since the Unix epoch, by the event's own time; 0 when nothing was said yet.
    pub last_ms: u64,
    /// Alerts since the state began.
    pub alerts: u64,
    /// What was kept back since the last alert.
    pub more: u64,
    /// Of a rule about a state: that it holds, and that this was said.
    pub holds: bool,
    /// What stands for the state that was said to hold.
    pub incident: String,
}

/// What is to be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Nothing,
    Alert,
    Over,
}

impl Told {
    fn is_quiet(&self, now_ms: u64, cooldown_ms: u64) -> bool {
        self.last_ms != 0 && now_ms.saturating_sub(self.last_ms) < cooldown_ms
    }

    /// Something happened, such as a log.
    pub fn happened(&self, now_ms: u64, cooldown_ms: u64) -> Next {
        if self.is_quiet(now_ms, cooldown_ms) { Next::Nothing } else { Next::Alert }
    }

    /// A state was looked at. It is told once, again after each cooldown that there is, and when it is over.
    pub fn looked(&self, holds: bool, now_ms: u64, cooldown_ms: u64) -> Next {
        match (holds, self.holds) {
            (true, false) => self.happened(now_ms, cooldown_ms),
            (true, true) if cooldown_ms > 0 => self.happened(now_ms, cooldown_ms),
            (false, true) => Next::Over,
            _ => Next::Nothing,
        }
    }

    pub fn said(&mut self, now_ms: u64) {
        self.last_ms = now_ms;
        self.alerts = self.alerts.saturating_add(1);
        self.more = 0;
    }

    pub fn kept_back(&mut self) {
        self.more = self.more.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_within_the_cooldown_is_kept_back() {
        let mut told = Told::default();
        assert_eq!(told.happened(1_000, 500), Next::Alert);
        told.said(1_000);
        assert_eq!((told.happened(1_499, 500), told.happened(1_500, 500)), (Next::Nothing, Next::Alert));
        assert_eq!(told.happened(900, 500), Next::Nothing, "a clock that went back");
        assert_eq!(told.happened(1_000, 0), Next::Alert);
        told.kept_back();
        assert_eq!((told.more, told.alerts), (1, 1));
        told.said(2_000);
        assert_eq!((told.more, told.alerts), (0, 2));
    }

    #[test]
    fn a_state_is_told_once_and_again_after_its_cooldown_and_when_it_is_over() {
        let mut told = Told::default();
        assert_eq!(told.looked(false, 1_000, 0), Next::Nothing);
        assert_eq!(told.looked(true, 1_000, 0), Next::Alert);
        told.said(1_000);
        told.holds = true;
        assert_eq!(told.looked(true, 9_000, 0), Next::Nothing);
        assert_eq!((told.looked(true, 1_400, 500), told.looked(true, 1_500, 500)), (Next::Nothing, Next::Alert));
        assert_eq!(told.looked(false, 1_100, 500), Next::Over);
        told.holds = false;
        assert_eq!(told.looked(true, 1_200, 500), Next::Nothing, "it comes and goes");
    }
}
