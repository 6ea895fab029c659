//! Requests that the operator decides on.
//!
//! Invariant: an approval is decided once, in time, and holds for exactly what was shown: one intent, and one digest.

use std::collections::{BTreeMap, HashMap};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    bounded::{NAME_BYTES_MAX, cut},
    interfaces::identity::port::{Approval, ApprovalState},
};
use serde_json::json;

use crate::request::{Request, error};

/// Of one module at once.
pub const WAITING_MAX: usize = 32;
/// In all, those that have ended among them.
pub const KEPT: usize = 1_000;
/// What was to be signed is kept whole while it may be; afterwards only as much as tells one from another.
const ENDED_BYTES_MAX: usize = 4 * 1024;

/// Whose intent it is, and which.
pub type IntentKey = (String, String);

#[derive(Debug, Default)]
pub struct Approvals {
    all: BTreeMap<u64, Approval>,
    by_intent: HashMap<IntentKey, u64>,
}

/// What an approval says of a request of the same intent.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    Waits,
    Approved,
    /// Its time is over, and that is not written down yet.
    JustExpired,
    /// In these words.
    Refused(String),
}

impl Approvals {
    pub fn put(&mut self, approval: Approval) {
        self.by_intent.insert((approval.module.clone(), approval.intent.clone()), approval.number);
        self.all.insert(approval.number, approval);
    }

    pub fn last_number(&self) -> u64 {
        self.all.keys().next_back().copied().unwrap_or(0)
    }

    pub fn get(&self, number: u64) -> Option<&Approval> {
        self.all.get(&number)
    }

    pub fn of_intent(&self, key: &IntentKey) -> Option<&Approval> {
        self.by_intent.get(key).and_then(|number| self.all.get(number))
    }

    /// Asks for one. The caller writes it down, and removes from what is written down those that are given back.
    pub fn ask(
        &mut self,
        number: u64,
        key: &IntentKey,
        request: &Request,
        policy: String,
        now: u64,
        expires_at_ms: u64,
    ) -> Result<(Approval, Vec<u64>), HostError> {
        let waits = |approval: &&Approval| approval.module == key.0 && is_waiting(approval, now);
        if self.all.values().filter(waits).count() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} requests of module {} wait for approval, which is the limit", key.0);
            return Err(error(HostErrorKind::RateLimited, message).with_data("60000"));
        }
        let approval = Approval {
            number,
            module: key.0.clone(),
            intent: key.1.clone(),
            account: request.account.to_string(),
            what: request.what.clone(),
            digest: request.digest,
            policy,
            state: ApprovalState::Waiting,
            asked_at_ms: now,
            expires_at_ms,
            decided_at_ms: None,
        };
        self.put(approval.clone());
        let over = self.all.len().saturating_sub(KEPT);
        let has_ended = |approval: &&Approval| approval.state != ApprovalState::Approved && !is_waiting(approval, now);
        let ended: Vec<u64> = self.all.values().filter(has_ended).map(|approval| approval.number).take(over).collect();
        for number in &ended {
            if let Some(approval) = self.all.remove(number) {
                self.by_intent.remove(&(approval.module, approval.intent));
            }
        }
        Ok((approval, ended))
    }

    /// Ends those whose time is over, at most as many as one module may have: what they are for is kept whole no longer. The
    /// caller writes them down.
    pub fn expire(&mut self, now: u64) -> Vec<Approval> {
        let is_over = |approval: &&Approval| approval.state == ApprovalState::Waiting && now >= approval.expires_at_ms;
        let over = self.all.values().filter(is_over).map(|approval| approval.number);
        let over: Vec<u64> = over.take(WAITING_MAX).collect();
        over.into_iter().map(|number| self.turn(number, ApprovalState::Expired, now)).collect()
    }

    /// How a request stands that has asked before.
    pub fn standing(approval: &Approval, request: &Request, now: u64) -> Standing {
        let number = approval.number;
        if approval.digest != request.digest {
            return Standing::Refused(format!("approval {number} of the same intent is for something else"));
        }
        match approval.state {
            ApprovalState::Waiting if now >= approval.expires_at_ms => Standing::JustExpired,
            ApprovalState::Waiting => Standing::Waits,
            // Signed before: for the same intent it is still the same approval.
            ApprovalState::Approved | ApprovalState::Used => Standing::Approved,
            ApprovalState::Denied => Standing::Refused(format!("the operator denied it (approval {number})")),
            ApprovalState::Expired => Standing::Refused(expired(number)),
        }
    }

    /// Puts one that is known into another state. Gives back what is to be written down.
    pub fn turn(&mut self, number: u64, state: ApprovalState, now: u64) -> Approval {
        let Some(approval) = self.all.get_mut(&number) else { unreachable!("approval {number} is gone") };
        approval.state = state;
        if matches!(state, ApprovalState::Denied | ApprovalState::Expired | ApprovalState::Used) {
            let bytes = approval.what.to_string().len();
            if bytes > ENDED_BYTES_MAX {
                approval.what = json!({ "method": approval.what["method"], "bytes": bytes });
            }
        }
        if state != ApprovalState::Used {
            approval.decided_at_ms = Some(now);
        }
        approval.clone()
    }

    /// The operator's decision. `Err` when there is nothing left to decide; `Ok` has what is to be written down, and whether it was in
    /// time.
    pub fn decide(&mut self, number: u64, approve: bool, by: &str, now: u64) -> Result<(Approval, bool), HostError> {
        let wrong = |message: String| error(HostErrorKind::InvalidInput, message);
        let approval = self.all.get_mut(&number).ok_or_else(|| wrong(format!("there is no approval {number}")))?;
        if approval.state != ApprovalState::Waiting {
            let state = format!("{:?}", approval.state).to_lowercase();
            return Err(wrong(format!("approval {number} is {state} already")));
        }
        let in_time = now < approval.expires_at_ms;
        if let Some(what) = approval.what.as_object_mut().filter(|_| in_time) {
            what.insert("decided_by".to_owned(), cut(by, NAME_BYTES_MAX).into());
        }
        let state = match (in_time, approve) {
            (false, _) => ApprovalState::Expired,
            (true, true) => ApprovalState::Approved,
            (true, false) => ApprovalState::Denied,
        };
        Ok((self.turn(number, state, now), in_time))
    }

    /// Newest first; what has waited too long is shown as expired.
    pub fn newest(&self, limit: usize, now: u64) -> Vec<Approval> {
        let shown = |approval: &Approval| match approval.state {
            ApprovalState::Waiting if !is_waiting(approval, now) => {
                Approval { state: ApprovalState::Expired, ..approval.clone() }
            }
            _ => approval.clone(),
        };
        self.all.values().rev().take(limit).map(shown).collect()
    }

    /// How many wait, and since when the oldest of them.
    pub fn waiting(&self, now: u64) -> (usize, Option<u64>) {
        let waiting = || self.all.values().filter(|approval| is_waiting(approval, now));
        (waiting().count(), waiting().map(|approval| approval.asked_at_ms).min())
    }
}

fn is_waiting(approval: &Approval, now: u64) -> bool {
    approval.state == ApprovalState::Waiting && now < approval.expires_at_ms
}

/// What is said of one that nobody decided on.
pub fn expired(number: u64) -> String {
    format!("nobody decided on approval {number} in time")
}
