//! What was said of a rule, so that it is said again only when there is reason to.

use std::collections::BTreeMap;

use nexum_sdk::Result;
use serde::{Deserialize, Serialize};

use crate::settings::Table;
use crate::value::Scope;

/// Values of `per` that have a cooldown each.
const VALUES_MAX: usize = 256;

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

/// When something was told of one value, by the event's own time, and what was kept back since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cooldown(u64, u64);

impl Cooldown {
    fn is_quiet(self, now_ms: u64, cooldown_ms: u64) -> bool {
        self.0 != 0 && now_ms.saturating_sub(self.0) < cooldown_ms
    }
}

/// The cooldowns of the values of `per`, such as addresses.
///
/// Invariant: there are no more than `VALUES_MAX` of them, and none that is within its cooldown makes place for another.
/// While there is no place, all values without one have one cooldown together. So however many values there are, no more
/// than that is said within a cooldown, and nothing that is kept back is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cooldowns {
    values: BTreeMap<String, Cooldown>,
    others: Cooldown,
}

impl Cooldowns {
    /// Whether an alert of this value is kept back; a value that is new gets a place if there is one.
    pub fn is_quiet(&mut self, value: &str, now_ms: u64, cooldown_ms: u64) -> bool {
        if !self.values.contains_key(value) && self.values.len() >= VALUES_MAX {
            let over = self.values.extract_if(.., |_, since| !since.is_quiet(now_ms, cooldown_ms));
            self.others.1 = over.fold(self.others.1, |more, (_, since)| more.saturating_add(since.1));
        }
        if self.values.len() < VALUES_MAX {
            self.values.entry(value.to_owned()).or_default();
        }
        self.values.get(value).unwrap_or(&self.others).is_quiet(now_ms, cooldown_ms)
    }

    /// What an alert of this value says was kept back: of its own, and of those that have no place.
    pub fn more(&self, value: &str) -> u64 {
        self.values.get(value).map_or(0, |since| since.1).saturating_add(self.others.1)
    }

    fn of(&mut self, value: &str) -> &mut Cooldown {
        self.values.get_mut(value).unwrap_or(&mut self.others)
    }

    pub fn said(&mut self, value: &str, now_ms: u64) {
        *self.of(value) = Cooldown(now_ms, 0);
        self.others.1 = 0;
    }

    pub fn kept_back(&mut self, value: &str) {
        let since = self.of(value);
        since.1 = since.1.saturating_add(1);
    }
}

/// The fields that a rule's `per` names.
///
/// # Errors
/// It has no cooldown that they could be for, or names what the event does not have.
pub fn per(table: &mut Table<'_>, scope: &Scope, cooldown_ms: u64) -> Result<Vec<String>> {
    let Some(names) = table.texts("per")? else { return Ok(Vec::new()) };
    if names.is_empty() || cooldown_ms == 0 {
        return Err(table.wrong("`per` names fields, each value of which has a `cooldown` of its own"));
    }
    match names.iter().find(|name| scope.find(name).is_none()) {
        Some(unknown) => Err(table.wrong(format!("`per`: {}", scope.unknown(unknown)))),
        None => Ok(names.into_iter().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a value at a time, with a cooldown of 500 ms: how many were kept back, if it is said at all.
    fn told(cooldowns: &mut Cooldowns, value: &str, now_ms: u64) -> Option<u64> {
        if cooldowns.is_quiet(value, now_ms, 500) {
            cooldowns.kept_back(value);
            return None;
        }
        let more = cooldowns.more(value);
        cooldowns.said(value, now_ms);
        Some(more)
    }

    #[test]
    fn each_value_has_its_own_cooldown() {
        let mut cooldowns = Cooldowns::default();
        let seen = [("a", 1_000), ("b", 1_100), ("a", 1_499), ("b", 1_499), ("a", 1_500), ("b", 1_599), ("b", 1_600)];
        let told = seen.map(|(value, at)| told(&mut cooldowns, value, at));
        assert_eq!(told, [Some(0), Some(0), None, None, Some(1), None, Some(2)]);
        let json = serde_json::to_string(&cooldowns).unwrap();
        assert_eq!(json, r#"{"values":{"a":[1500,0],"b":[1600,0]},"others":[0,0]}"#);
        assert_eq!(serde_json::from_str::<Cooldowns>(&json).unwrap(), cooldowns);
    }

    #[test]
    fn values_without_end_have_accounts_with_an_end_and_nothing_is_lost() {
        let mut cooldowns = Cooldowns::default();
        let (mut said, mut counted) = (0, 0);
        for at in 0..1_000_u64 {
            if let Some(more) = told(&mut cooldowns, &at.to_string(), 10_000 + at % 100) {
                (said, counted) = (said + 1, counted + more);
            }
        }
        assert_eq!((cooldowns.values.len(), said), (VALUES_MAX, VALUES_MAX as u64 + 1));
        // One that has its place keeps it, and its cooldown.
        assert_eq!(told(&mut cooldowns, "7", 10_200), None);
        assert_eq!(told(&mut cooldowns, "new", 10_200), None);
        // All are over, and make place; the next one tells of all that was kept back.
        let more = told(&mut cooldowns, "next", 20_000).unwrap();
        assert_eq!((cooldowns.values.len(), said + 1 + counted + more), (1, 1_000 + 2 + 1));
    }

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
