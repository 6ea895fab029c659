//! The restart decision: history, fault and policy in, decision out. Pure.

use std::time::Duration;

use nexum_host_ifaces::{
    event::{EventId, SourceId},
    store::{Attempt, ModuleHealth, Standing},
};

use crate::{backoff::backoff, manifest::RestartPolicy};

/// One failure of a module, whatever its cause: a trap, an `Err`, a deadline, or a host bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    /// Wasm backtrace with names, when there was one.
    pub backtrace: Option<String>,
    pub fuel: u64,
    /// The event at hand; absent when `init` failed.
    pub event: Option<(SourceId, EventId)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start a fresh instance after this wait.
    RestartIn(Duration),
    /// The budget is spent.
    Dead,
}

/// What the operator lets a manifest ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    pub max_consecutive_failures: u32,
    pub max_event_attempts: u32,
    /// The least that the first wait may be. Each restart costs the engine a fresh instance and a synced write.
    pub backoff_min: Duration,
    /// The most that a wait may become.
    pub backoff_max: Duration,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self {
            max_consecutive_failures: 100,
            max_event_attempts: 100,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Ceiling {
    /// Changes a policy to what is allowed. Says what that was and what it is now, if anything.
    pub fn hold(&self, policy: &mut RestartPolicy) -> Option<String> {
        let mut held = Vec::new();
        let counts = [
            ("max_consecutive_failures", &mut policy.max_consecutive_failures, self.max_consecutive_failures),
            ("max_event_attempts", &mut policy.max_event_attempts, self.max_event_attempts),
        ];
        for (key, asked, most) in counts {
            if *asked > most {
                held.push(format!("{key} = {most} in place of {asked}"));
                *asked = most;
            }
        }
        let (first, cap) = (policy.backoff_first, policy.backoff_cap);
        let cap_held = cap.max(self.backoff_min).min(self.backoff_max);
        let first_held = first.max(self.backoff_min).min(cap_held);
        if (first, cap) != (first_held, cap_held) {
            let [first, cap, first_held, cap_held] =
                [first, cap, first_held, cap_held].map(|wait| humantime::format_duration(wait).to_string());
            held.push(format!("backoff = [\"{first_held}\", \"{cap_held}\"] in place of [\"{first}\", \"{cap}\"]"));
        }
        (policy.backoff_first, policy.backoff_cap) = (first_held, cap_held);
        (!held.is_empty()).then(|| held.join(", "))
    }
}

/// Counts the fault in `health` and decides. `jitter` is a uniform draw from 0 to 1.
pub fn decide(health: &mut ModuleHealth, fault: &Fault, policy: &RestartPolicy, jitter: f64) -> Decision {
    health.consecutive_failures += 1;
    health.last_error = Some(fault.message.clone());
    if let Some((source, event)) = &fault.event {
        let before = health.attempts.get(source).filter(|attempt| attempt.event.is_again(event));
        let attempt = Attempt {
            event: event.clone(),
            count: before.map_or(0, |attempt| attempt.count) + 1,
            error: fault.message.clone(),
            backtrace: fault.backtrace.clone(),
            fuel: fault.fuel,
        };
        health.attempts.insert(source.clone(), attempt);
    }
    if health.consecutive_failures >= policy.max_consecutive_failures {
        let reason = format!("budget spent {0}/{0}: {1}", policy.max_consecutive_failures, fault.message);
        health.standing = Standing::Dead { reason };
        return Decision::Dead;
    }
    health.restarts_total += 1;
    Decision::RestartIn(backoff(policy.backoff_first, policy.backoff_cap, health.consecutive_failures, jitter))
}

/// A handled event resets what the failures before it had spent. Whether anything changed.
pub fn recovered(health: &mut ModuleHealth, source: Option<&SourceId>) -> bool {
    let attempts = source.is_some_and(|source| health.attempts.remove(source).is_some());
    let failures = std::mem::take(&mut health.consecutive_failures) > 0;
    attempts || failures
}

/// Gives back the whole budget, and one attempt more to the event that the module died at, if that had used up its own:
/// what it failed at may be mended. When it died of something else, every event that had is given one. Other attempts
/// stay counted: when several sources stand at events that always fail, the budget may be spent before any of them has
/// used up its attempts, and were they forgotten, no number of restarts would lead past them.
pub fn refill(health: &mut ModuleHealth, policy: &RestartPolicy) {
    health.consecutive_failures = 0;
    let ModuleHealth { attempts, last_error, .. } = health;
    let died_at = |attempt: &Attempt| last_error.as_ref() == Some(&attempt.error);
    let of_an_event = attempts.values().any(died_at);
    let used_up = attempts.values_mut().filter(|attempt| attempt.count >= policy.max_event_attempts);
    // Several may have failed alike: one of them is as good as another.
    let most = if of_an_event { 1 } else { usize::MAX };
    for attempt in used_up.filter(|attempt| !of_an_event || died_at(attempt)).take(most) {
        attempt.count = policy.max_event_attempts.saturating_sub(1);
    }
}

/// Whether this event has used up its attempts and belongs to the dead letters.
pub fn exhausted<'a>(
    health: &'a ModuleHealth,
    source: &SourceId,
    event: &EventId,
    policy: &RestartPolicy,
) -> Option<&'a Attempt> {
    let attempt = health.attempts.get(source).filter(|attempt| attempt.event.is_again(event))?;
    (attempt.count >= policy.max_event_attempts).then_some(attempt)
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::Hash;

    use super::*;

    fn policy(failures: u32, attempts: u32) -> RestartPolicy {
        RestartPolicy { max_consecutive_failures: failures, max_event_attempts: attempts, ..RestartPolicy::default() }
    }

    fn fault(number: u64) -> Fault {
        let event = EventId::Block { chain_id: 1, number, hash: Default::default() };
        Fault { message: "trap".into(), backtrace: None, fuel: 0, event: Some((SourceId::new("chain:1"), event)) }
    }

    #[test]
    fn a_manifest_that_asks_for_restarts_without_a_wait_and_without_an_end_is_held() {
        let hour = Duration::from_secs(3600);
        let mut asked = RestartPolicy {
            max_consecutive_failures: 1_000_000,
            max_event_attempts: 3,
            backoff_first: Duration::ZERO,
            backoff_cap: Duration::ZERO,
        };
        let held = Ceiling::default().hold(&mut asked).unwrap();
        assert_eq!(
            held,
            "max_consecutive_failures = 100 in place of 1000000, backoff = [\"100ms\", \"100ms\"] in place of [\"0s\", \"0s\"]"
        );
        assert_eq!(asked.backoff_first, Duration::from_millis(100));
        assert_eq!((asked.max_consecutive_failures, asked.max_event_attempts), (100, 3));
        assert_eq!(Ceiling::default().hold(&mut asked), None, "what is held is allowed");
        assert_eq!(Ceiling::default().hold(&mut RestartPolicy::default()), None);

        let mut patient = RestartPolicy { backoff_cap: Duration::MAX, ..RestartPolicy::default() };
        assert!(Ceiling { backoff_max: hour, ..Ceiling::default() }.hold(&mut patient).is_some());
        assert_eq!((patient.backoff_first, patient.backoff_cap), (Duration::from_secs(1), hour));
    }

    #[test]
    fn a_reorg_that_fails_while_the_chain_moves_on_is_one_event() {
        let (mut health, source, policy) = (ModuleHealth::default(), SourceId::new("chain:1"), policy(10, 3));
        let told = |new_head: u8, nth| EventId::Reorg {
            chain_id: 1,
            old_head: Default::default(),
            new_head: Hash([new_head; 32]),
            nth,
        };
        for new_head in 1..=3 {
            assert_eq!(exhausted(&health, &source, &told(new_head, 7), &policy), None);
            let fault = Fault { event: Some((source.clone(), told(new_head, 7))), ..fault(0) };
            decide(&mut health, &fault, &policy, 0.0);
        }
        assert!(exhausted(&health, &source, &told(4, 7), &policy).is_some());
        assert_eq!(exhausted(&health, &source, &told(4, 8), &policy), None, "the next reorg");
    }

    #[test]
    fn dead_after_exactly_the_budget() {
        let mut health = ModuleHealth::default();
        for _ in 1..4 {
            assert!(matches!(decide(&mut health, &fault(1), &policy(4, 3), 0.0), Decision::RestartIn(_)));
        }
        assert_eq!(decide(&mut health, &fault(1), &policy(4, 3), 0.0), Decision::Dead);
        assert_eq!(health.standing, Standing::Dead { reason: "budget spent 4/4: trap".into() });
        assert_eq!(health.restarts_total, 3);
    }

    #[test]
    fn restarts_by_order_lead_past_bad_events_of_several_sources_however_small_the_budget() {
        let policy = policy(3, 3);
        let mut health = ModuleHealth::default();
        let mut sources: Vec<Fault> = (0..4).map(fault).collect();
        for (nth, fault) in sources.iter_mut().enumerate() {
            fault.event.as_mut().unwrap().0 = SourceId::new(format!("chain:{nth}"));
            fault.message = format!("trap {nth}");
        }
        let mut restarts = 0;
        while !sources.is_empty() {
            // Whichever source answers first.
            let fault = sources.remove(0);
            let (source, event) = fault.event.clone().unwrap();
            if exhausted(&health, &source, &event, &policy).is_some() {
                health.attempts.remove(&source);
                continue;
            }
            sources.push(fault.clone());
            if decide(&mut health, &fault, &policy, 0.0) == Decision::Dead {
                health.standing = Standing::Running;
                refill(&mut health, &policy);
                restarts += 1;
                assert!(restarts < 10, "{:?}", health.attempts);
            }
        }
        assert!(restarts > 2);
    }

    #[test]
    fn the_event_that_a_module_died_at_is_tried_again_after_a_restart_by_order() {
        let (policy, source) = (policy(2, 2), SourceId::new("chain:1"));
        let (mut health, fault) = (ModuleHealth::default(), fault(1));
        let (_, event) = fault.event.clone().unwrap();
        decide(&mut health, &fault, &policy, 0.0);
        assert_eq!(decide(&mut health, &fault, &policy, 0.0), Decision::Dead);
        assert!(exhausted(&health, &source, &event, &policy).is_some());
        refill(&mut health, &policy);
        assert!(exhausted(&health, &source, &event, &policy).is_none());
        decide(&mut health, &fault, &policy, 0.0);
        assert!(exhausted(&health, &source, &event, &policy).is_some());
    }

    #[test]
    fn attempts_count_per_event_and_a_handled_event_resets() {
        let mut health = ModuleHealth::default();
        let source = SourceId::new("chain:1");
        let poison = |number| fault(number).event.unwrap().1;
        decide(&mut health, &fault(1), &policy(10, 2), 0.0);
        assert!(exhausted(&health, &source, &poison(1), &policy(10, 2)).is_none());
        decide(&mut health, &fault(1), &policy(10, 2), 0.0);
        assert_eq!(exhausted(&health, &source, &poison(1), &policy(10, 2)).unwrap().count, 2);
        assert!(exhausted(&health, &source, &poison(2), &policy(10, 2)).is_none());
        decide(&mut health, &fault(2), &policy(10, 2), 0.0);
        assert_eq!(health.attempts[&source].count, 1);
        assert!(recovered(&mut health, Some(&source)));
        assert_eq!(health.consecutive_failures, 0);
        assert!(!recovered(&mut health, Some(&source)));
    }
}
