//! What identity keeps: every signature, which is what policies count and what the audit shows, and every approval. In memory, and the
//! same as records of the store.
//!
//! Invariant: a signature is in the book before it is given out. It counts from the time that was recorded with it, so that neither
//! a restart nor midnight begins a budget anew; a clock that was set back frees nothing. What was signed for an intent before is not
//! counted again, and nothing else is signed for it.

use std::collections::{BTreeMap, HashMap};

use nexum_host_ifaces::{
    Address, HostError, HostErrorKind,
    interfaces::identity::port::{Approval, ApprovalState, AuditEntry, Purpose},
    store::{RecordWrite, Records},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    approvals::{self, Approvals, IntentKey, Standing},
    policy::{Counted, DAY_MS, Decision, Facts, HOUR_MS, Policies, Refusal},
    request::{Request, error},
};

/// Signatures that are kept at least.
pub const SIGNATURES_KEPT: usize = 10_000;
/// Signatures of one day that are kept at most: past it nothing is signed until some are older than a day.
pub const SIGNATURES_MAX: usize = 200_000;
/// The same of one module, so that none uses up what all have.
pub const MODULE_SIGNATURES_MAX: usize = 50_000;
/// Old ones that go with each new one, at most.
const REMOVED_MAX: usize = 8;

/// How the keys of records begin.
pub const SIGNATURE: &str = "signature/";
pub const APPROVAL: &str = "approval/";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    entry: AuditEntry,
    account: Address,
    /// What the policy that allowed it covers.
    scope: u64,
    facts: Facts,
    /// False of what had been signed before with another nonce or fee, and of what moves nothing.
    counts: bool,
}

#[derive(Debug, Default)]
pub struct Book {
    signatures: BTreeMap<u64, Signature>,
    /// How many of these each module has.
    of_modules: HashMap<String, usize>,
    /// The signature that an intent was counted with.
    intents: HashMap<IntentKey, u64>,
    approvals: Approvals,
    next_signature: u64,
    next_approval: u64,
}

/// Something that a module wants signed, or wants to know whether it would be.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub module: &'a str,
    pub intent: Option<&'a str>,
    pub request: &'a Request,
    pub purpose: Purpose,
    /// It is signed at once if it may be.
    pub signs: bool,
    /// The operator may be asked.
    pub may_ask: bool,
}

/// What comes of it, once the writes are durable.
#[derive(Debug)]
pub enum Step {
    Granted(Vec<RecordWrite>),
    Waits { number: u64, expires_at_ms: u64, writes: Vec<RecordWrite> },
    Refused { error: HostError, writes: Vec<RecordWrite> },
}

impl Step {
    fn refused(error: HostError) -> Self {
        Self::Refused { error, writes: Vec::new() }
    }

    fn denied(message: impl Into<String>) -> Self {
        Self::refused(error(HostErrorKind::Denied, message))
    }
}

impl Book {
    /// What the store has.
    pub fn read(signatures: Records, approvals: Records) -> Result<Self, String> {
        let mut book = Self::default();
        for (key, value) in signatures {
            let signature: Signature = parsed(&key, &value)?;
            book.insert(signature);
        }
        for (key, value) in approvals {
            book.approvals.put(parsed(&key, &value)?);
        }
        book.next_signature = book.signatures.keys().next_back().copied().unwrap_or(0) + 1;
        book.next_approval = book.approvals.last_number() + 1;
        Ok(book)
    }

    fn insert(&mut self, signature: Signature) {
        let number = signature.entry.number;
        if let (true, Some(intent)) = (signature.counts, &signature.entry.intent) {
            self.intents.insert((signature.entry.module.clone(), intent.clone()), number);
        }
        *self.of_modules.entry(signature.entry.module.clone()).or_default() += 1;
        let before = self.signatures.insert(number, signature);
        assert!(before.is_none(), "two signatures have the number {number}");
    }

    /// Decides on what was asked, and notes what comes of it. The caller makes the writes durable before it goes on; if that fails, the
    /// book is no longer what the store has, and is to be read again.
    pub fn step(&mut self, policies: &Policies, asked: Asked<'_>, now: u64) -> Step {
        let Asked { module, request, .. } = asked;
        let refused = |refusal: Refusal| Step::refused(refusal_error(refusal, now));
        if let Purpose::Empty = asked.purpose {
            let Facts::Transaction { chain_id, .. } = request.facts else {
                unreachable!("only transactions are empty")
            };
            let Some(policy) = policies.for_empty(module, request.account, chain_id) else {
                return Step::denied(format!("no policy lets module {module} send with {} there", request.account));
            };
            return match policies.check_fee(policy, module, request) {
                Ok(()) => self.granted(policies, asked, policy, false, now),
                Err(refusal) => refused(refusal),
            };
        }

        let key = asked.intent.map(|intent| (module.to_owned(), intent.to_owned()));
        let before = key.as_ref().and_then(|key| self.intents.get(key)).and_then(|number| self.signatures.get(number));
        if let Some(before) = before {
            if before.entry.digest != request.digest {
                return Step::denied("something else has been signed for the same intent");
            }
            let covering = policies.covering(request, module);
            let checked = covering.and_then(|policy| policies.check_fee(policy, module, request).map(|()| policy));
            return match checked {
                Ok(policy) => self.granted(policies, asked, policy, false, now),
                Err(refusal) => refused(refusal),
            };
        }
        // A replacement of something that is not known any more is decided on like anything else.
        let decision = policies.decide(request, module, |policy| self.counted(policies, policy, module, now));
        let (policy, asks) = match decision {
            Decision::Denied(refusal) => return refused(refusal),
            Decision::Allowed { policy } => (policy, false),
            Decision::Ask { policy } => (policy, true),
        };
        let known = key.as_ref().and_then(|key| self.approvals.of_intent(key));
        let standing = known
            .map(|approval| (approval.number, approval.expires_at_ms, Approvals::standing(approval, request, now)));
        match (standing, key) {
            (Some((_, _, Standing::Refused(message))), _) => Step::denied(message),
            (Some((_, _, Standing::Approved)), _) => self.granted(policies, asked, policy, true, now),
            // The policies have been edited, and ask no more.
            (_, _) if !asks => self.granted(policies, asked, policy, true, now),
            (Some((number, _, Standing::JustExpired)), _) => {
                let writes = vec![put_approval(&self.approvals.turn(number, ApprovalState::Expired, now))];
                Step::Refused { error: error(HostErrorKind::Denied, approvals::expired(number)), writes }
            }
            (Some((number, expires_at_ms, Standing::Waits)), _) if asked.may_ask => {
                Step::Waits { number, expires_at_ms, writes: Vec::new() }
            }
            (None, Some(key)) if asked.may_ask => self.ask(policies, &key, request, policy, now),
            (_, _) => Step::denied(format!(
                "policy {policy} asks the operator, and a call does not wait for people: send it as an effect instead"
            )),
        }
    }

    fn ask(&mut self, policies: &Policies, key: &IntentKey, request: &Request, policy: usize, now: u64) -> Step {
        let timeout = u64::try_from(policies.get(policy).approval_timeout.as_millis()).unwrap_or(u64::MAX);
        let (number, expires_at_ms) = (self.next_approval, now.saturating_add(timeout));
        // Whoever asked in a call may never come back to hear that its time is over.
        let mut writes: Vec<RecordWrite> = self.approvals.expire(now).iter().map(put_approval).collect();
        match self.approvals.ask(number, key, request, policy.to_string(), now, expires_at_ms) {
            Err(error) => Step::Refused { error, writes },
            Ok((approval, ended)) => {
                self.next_approval += 1;
                writes.push(put_approval(&approval));
                writes
                    .extend(ended.into_iter().map(|number| RecordWrite { key: key_of(APPROVAL, number), value: None }));
                Step::Waits { number, expires_at_ms, writes }
            }
        }
    }

    /// It may be signed. Notes it, if it is signed at once.
    fn granted(&mut self, policies: &Policies, asked: Asked<'_>, policy: usize, counts: bool, now: u64) -> Step {
        if !asked.signs {
            return Step::Granted(Vec::new());
        }
        let Asked { module, intent, request, .. } = asked;
        let mut writes = Vec::new();
        // A full book refuses only until what is in it is old.
        self.remove_old(now, &mut writes);
        let of_module = self.of_modules.get(module).copied().unwrap_or_default();
        for (count, most, whose) in
            [(of_module, MODULE_SIGNATURES_MAX, " of one module"), (self.signatures.len(), SIGNATURES_MAX, "")]
        {
            if count >= most {
                let message = format!("{most} signatures{whose} within a day, which is the limit");
                let error = error(HostErrorKind::RateLimited, message).with_data("60000");
                return Step::Refused { error, writes };
            }
        }
        let number = self.next_signature;
        self.next_signature += 1;
        let entry = AuditEntry {
            number,
            at_ms: now,
            module: module.to_owned(),
            intent: intent.map(str::to_owned),
            account: request.account.to_string(),
            kind: request.facts.method().name().to_owned(),
            digest: request.digest,
            policy: policy.to_string(),
        };
        let (account, scope, facts) = (request.account, policies.scope(policy), request.facts.clone());
        let signature = Signature { entry, account, scope, facts, counts };
        writes.push(put(SIGNATURE, number, &signature));
        self.insert(signature);
        let key =
            intent.filter(|_| asked.purpose != Purpose::Empty).map(|intent| (module.to_owned(), intent.to_owned()));
        let approval =
            key.and_then(|key| self.approvals.of_intent(&key)).filter(|approval| approval.digest == request.digest);
        let is_open = |approval: &&Approval| matches!(approval.state, ApprovalState::Approved | ApprovalState::Waiting);
        if let Some(number) = approval.filter(is_open).map(|approval| approval.number) {
            writes.push(put_approval(&self.approvals.turn(number, ApprovalState::Used, now)));
        }
        Step::Granted(writes)
    }

    fn remove_old(&mut self, now: u64, writes: &mut Vec<RecordWrite>) {
        // With the one that is to come.
        let over = (self.signatures.len() + 1).saturating_sub(SIGNATURES_KEPT);
        for _ in 0..over.min(REMOVED_MAX) {
            let is_old =
                |signature: &Signature| !signature.counts || now.saturating_sub(signature.entry.at_ms) >= DAY_MS;
            // Those of the last day count.
            let Some(oldest) = self.signatures.first_entry().filter(|oldest| is_old(oldest.get())) else { break };
            let (number, signature) = oldest.remove_entry();
            if let Some(count) = self.of_modules.get_mut(&signature.entry.module) {
                *count -= 1;
            }
            if let Some(intent) = signature.entry.intent {
                let key = (signature.entry.module, intent);
                if self.intents.get(&key) == Some(&number) {
                    self.intents.remove(&key);
                }
            }
            writes.push(RecordWrite { key: key_of(SIGNATURE, number), value: None });
        }
    }

    /// What has been signed under a policy. What was recorded at a time that is still to come counts as of now.
    fn counted(&self, policies: &Policies, policy: usize, module: &str, now: u64) -> Counted {
        let mut counted = Counted::default();
        for signature in
            self.signatures.values().filter(|signature| signature.counts && signature.entry.module == module)
        {
            let age = now.saturating_sub(signature.entry.at_ms);
            let is_its = || policies.counts(policy, module, signature.account, &signature.facts, signature.scope);
            if age >= DAY_MS || !is_its() {
                continue;
            }
            counted.value_of_day = counted.value_of_day.saturating_add(signature.facts.value());
            if age < HOUR_MS {
                let frees_ms = signature.entry.at_ms.saturating_add(HOUR_MS);
                counted.hour_frees_ms =
                    if counted.of_hour == 0 { frees_ms } else { counted.hour_frees_ms.min(frees_ms) };
                counted.of_hour = counted.of_hour.saturating_add(1);
            }
        }
        counted
    }

    /// Whose intent an approval is for.
    pub fn intent_of(&self, approval: u64) -> Option<IntentKey> {
        self.approvals.get(approval).map(|approval| (approval.module.clone(), approval.intent.clone()))
    }

    /// The operator's decision, what is to be written, and whether it came in time.
    pub fn decide(
        &mut self,
        number: u64,
        approve: bool,
        by: &str,
        now: u64,
    ) -> Result<(Approval, bool, RecordWrite), HostError> {
        let (approval, in_time) = self.approvals.decide(number, approve, by, now)?;
        let write = put_approval(&approval);
        Ok((approval, in_time, write))
    }

    pub fn approvals(&self, limit: usize, now: u64) -> Vec<Approval> {
        self.approvals.newest(limit, now)
    }

    /// How many wait for approval, and since when the oldest of them.
    pub fn waiting(&self, now: u64) -> (usize, Option<u64>) {
        self.approvals.waiting(now)
    }

    pub fn audit(&self, limit: usize) -> Vec<AuditEntry> {
        self.signatures.values().rev().take(limit).map(|signature| signature.entry.clone()).collect()
    }
}

/// The refusal as a module hears it.
pub fn refusal_error(refusal: Refusal, now: u64) -> HostError {
    match refusal.free_at_ms {
        None => error(HostErrorKind::Denied, refusal.message),
        Some(at) => {
            error(HostErrorKind::RateLimited, refusal.message).with_data(at.saturating_sub(now).max(1).to_string())
        }
    }
}

fn key_of(kind: &str, number: u64) -> Vec<u8> {
    format!("{kind}{number:020}").into_bytes()
}

fn put(kind: &str, number: u64, value: &impl Serialize) -> RecordWrite {
    let value = serde_json::to_vec(value);
    let Ok(value) = value else { unreachable!("a record has neither maps with odd keys nor anything that fails") };
    RecordWrite { key: key_of(kind, number), value: Some(value) }
}

fn put_approval(approval: &Approval) -> RecordWrite {
    put(APPROVAL, approval.number, approval)
}

fn parsed<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("record `{}`: {error}", String::from_utf8_lossy(key)))
}

#[cfg(test)]
mod tests;
