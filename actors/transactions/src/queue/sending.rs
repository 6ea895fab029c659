//! Signed bytes: made durable, then broadcast, then replaced by others when they are not mined.

use std::mem;

use nexum_host_ifaces::{
    HostError,
    interfaces::identity::port::{Purpose, SignedTransaction},
    store::RecordWrite,
    transactions::FailureKind,
};

use super::{
    AGAIN_MS, AT_ONCE, Action, EMPTY_GAS, Live, Note, Queue, SIGNING_MAX, VARIANTS_MAX, Written,
    answers::result_name,
    millis, short, unsigned,
    waiting::{is_final, is_late},
};
use crate::{
    classify::Class,
    fees::{self, Kind},
    record::{Standing, Variant, given_up, given_up_key, key},
};

/// Records in one write, and what they may take together before the last one, bytes: the store takes 8 MiB.
const WRITES_MAX: usize = 64;
const WRITE_BYTES_MAX: usize = 4 << 20;
/// The same bytes go out again this often, since a node may forget them; a quarter of the time to a replacement lies between.
const SEND_AGAIN_MS: (u64, u64) = (2_000, 15_000);
/// A signed transfer of nothing with what its record says of it.
const EMPTY_BYTES_MAX: usize = 1_024;
/// A transfer of nothing takes no more anywhere.
const EMPTY_GAS_MAX: u64 = 16 * EMPTY_GAS * 16;

impl Queue {
    /// The record of a nonce is to be written; `urgent`: something waits for that.
    pub(super) fn change(&mut self, nonce: u64, urgent: bool) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        self.changes += 1;
        live.changes = self.changes;
        *self.dirty.entry(nonce).or_default() |= urgent;
        // An older record of this nonce is overwritten.
        self.removed.remove(&nonce);
    }

    pub(super) fn write(&mut self, now: u64, out: &mut Vec<Action>) {
        let urgent = self.dirty.values().chain(self.marks.values()).any(|urgent| *urgent);
        let lazy = !(self.dirty.is_empty() && self.removed.is_empty() && self.marks.is_empty());
        let due = urgent || (now >= self.lazy_ms && lazy);
        if self.writing || now < self.write_ms || !due {
            return;
        }
        let (mut writes, mut written, mut bytes) = (Vec::new(), Vec::new(), 0);
        while writes.len() < WRITES_MAX
            && bytes < WRITE_BYTES_MAX
            && let Some((nonce, urgent)) = self.dirty.pop_first()
        {
            let Live { slot, changes, .. } = &self.slots[&nonce];
            let value = slot.encode();
            bytes += value.len();
            writes.push(RecordWrite { key: key(&self.key, nonce), value: Some(value) });
            written.push(Written { nonce, variants: Some(slot.variants.len()), changes: *changes, urgent });
        }
        // Not before what became of the nonce that an intent had once.
        while writes.len() < WRITES_MAX
            && self.dirty.is_empty()
            && let Some((intent, is_given_up)) = self.marks.pop_first()
        {
            let value = is_given_up.then(given_up);
            writes.push(RecordWrite { key: given_up_key(&self.key, &intent), value });
            self.marking.insert(intent, is_given_up);
        }
        while writes.len() < WRITES_MAX
            && let Some(nonce) = self.removed.pop_first()
        {
            writes.push(RecordWrite { key: key(&self.key, nonce), value: None });
            written.push(Written { nonce, variants: None, changes: 0, urgent: false });
        }
        self.writing = true;
        out.push(Action::Write { writes, written });
    }

    pub(super) fn wrote(&mut self, written: Vec<Written>, answer: Result<(), String>, now: u64) {
        self.writing = false;
        self.lazy_ms = now + self.poll_ms();
        match answer {
            Ok(()) => {
                self.store_trouble = None;
                self.marking.clear();
                for Written { nonce, variants, changes, .. } in written {
                    if let (Some(live), Some(variants)) = (self.slots.get_mut(&nonce), variants)
                        && changes > live.born
                    {
                        live.written = live.written.max(variants);
                        live.durable = live.durable.max(changes);
                    }
                }
                self.settle_drafts(now);
            }
            Err(error) => {
                self.store_trouble = Some(format!("the store does not take records: {}", short(&error)));
                self.write_ms = now + AGAIN_MS;
                for (intent, is_given_up) in mem::take(&mut self.marking) {
                    self.marks.entry(intent).or_insert(is_given_up);
                }
                for Written { nonce, variants, urgent, .. } in written {
                    match variants {
                        Some(_) if self.slots.contains_key(&nonce) => self.change(nonce, urgent),
                        // Removed meanwhile, which is still to be written.
                        Some(_) => {}
                        // Used again meanwhile: the new record overwrites it.
                        None if self.slots.contains_key(&nonce) => {}
                        None => {
                            self.removed.insert(nonce);
                        }
                    }
                }
            }
        }
    }

    fn send_again_ms(&self) -> u64 {
        (millis(self.settings.replace_after) / 4).clamp(SEND_AGAIN_MS.0, SEND_AGAIN_MS.1).max(self.poll_ms())
    }

    /// Broadcasts what is durable and in no block: for the first time, and again.
    pub(super) fn send(&mut self, now: u64, out: &mut Vec<Action>) {
        let from = self.facts.map_or(0, |facts| facts.nonce);
        let mut room = AT_ONCE.saturating_sub(self.slots.range(from..).filter(|(_, live)| live.sending).count());
        let due = |live: &Live| {
            let durable = live.written == live.slot.variants.len();
            // A final one whose nonce is unused again was in a block that went, deeper than was asked for.
            let is_final = matches!(live.slot.standing, Standing::Final(_));
            let missing = live.slot.is_open() || (is_final && !live.slot.has_reverted());
            let has_bytes = !live.slot.newest().raw.is_empty() && !live.is_given_up();
            missing && durable && !live.sending && live.send_ms <= now && has_bytes
        };
        let nonces: Vec<u64> =
            self.slots.range(from..).filter(|(_, live)| due(live)).map(|(nonce, _)| *nonce).collect();
        for nonce in nonces {
            if room == 0 {
                break;
            }
            let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
            let late = live.slot.intent.as_ref().is_some_and(|intent| is_late(intent, now));
            if late && !live.sent && !live.doubtful && live.slot.is_open() {
                self.void(nonce, FailureKind::Expired, "its deadline passed before it was broadcast".to_owned());
                continue;
            }
            let variant = match &live.slot.standing {
                Standing::Final(mined) => live.slot.bytes_of(mined),
                _ => live.slot.newest(),
            };
            out.push(Action::Broadcast { nonce, hash: variant.hash, raw: variant.raw.clone() });
            (live.sending, live.sent) = (true, true);
            room -= 1;
        }
    }

    pub(super) fn broadcast(&mut self, nonce: u64, answers: &[(Class, String)], now: u64) {
        let (again, soon) = (now + self.send_again_ms(), now + self.poll_ms());
        // One of several may keep what it says that it refused, and tell it later.
        let alone = answers.len() <= 1 && self.facts.is_some_and(|facts| facts.configured > 1);
        // Its record made way for another one.
        let Some(live) = self.slots.get_mut(&nonce) else { return };
        live.sending = false;
        let any = |wanted: fn(Class) -> bool| answers.iter().any(|(class, _)| wanted(*class));
        let taken = any(Class::is_taken);
        live.send_ms = if taken { again } else { soon };
        if !live.slot.is_open() {
            return;
        }
        live.what = match answers.iter().find(|(class, _)| !class.is_taken()) {
            _ if taken => String::new(),
            Some((_, words)) => short(words),
            None => "no endpoint is connected".to_owned(),
        };
        if taken {
            if live.slot.standing == Standing::Signed {
                live.slot.standing = Standing::Accepted;
                self.change(nonce, false);
            }
            return;
        }
        live.doubtful |= alone || answers.is_empty() || !answers.iter().all(|(class, _)| class.is_not_taken());
        let only = live.slot.variants.len() == 1;
        if any(|class| class == Class::NonceTooLow) {
            self.observe_ms = 0;
            self.facts_ms = 0;
        } else if any(|class| class == Class::FeeTooLow) || (!only && any(|class| class == Class::Underpriced)) {
            live.bump = true;
        } else if !answers.is_empty() && answers.iter().all(|(class, _)| class.is_refused()) {
            self.refused(nonce);
        }
    }

    /// Every endpoint refused the bytes for good.
    fn refused(&mut self, nonce: u64) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        let message = format!("no node takes it: {}", live.what);
        if live.slot.newest().empty {
            // The chain wants more gas even for a transfer of nothing.
            self.empty_gas = self.empty_gas.max(live.slot.newest().gas_limit.saturating_mul(4)).min(EMPTY_GAS_MAX);
            live.bump = true;
        } else if live.slot.standing == Standing::Signed && !live.doubtful && live.slot.variants.len() == 1 {
            self.void(nonce, FailureKind::Refused, message);
        } else if live.slot.withdrawn.is_none() {
            // Some node may have had it: the nonce is used up before the intent is given up.
            live.slot.withdrawn = Some((FailureKind::Refused, message));
            self.change(nonce, true);
        }
    }

    /// Nobody has the bytes of a nonce, nor ever will: it is free, and its intent is at its end.
    fn void(&mut self, nonce: u64, kind: FailureKind, message: String) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        live.slot.standing = Standing::Void;
        live.slot.withdrawn = Some((kind, message));
        live.sending = false;
        self.live.remove(&nonce);
        self.change(nonce, true);
        self.notes.push(Note::Ended(result_name(kind)));
    }

    /// Signs those anew that are not mined in time, or are to be withdrawn.
    pub(super) fn replace(&mut self, now: u64, out: &mut Vec<Action>) {
        // Asked for; until then nothing is signed.
        let Some(facts) = self.fresh(now) else { return };
        let mut open: Vec<u64> = self.live.range(facts.nonce..).copied().collect();
        if self.is_lost(facts.nonce) {
            open.insert(0, facts.nonce);
        }
        let is_signing = |queue: &Self, nonce: &u64| queue.slots[nonce].draft.is_some();
        let mut signing = open.iter().filter(|nonce| is_signing(self, nonce)).count();
        for nonce in open {
            if signing >= SIGNING_MAX {
                break;
            }
            let live = &self.slots[&nonce];
            let newest = live.slot.newest();
            let withdraw = live.slot.is_open() && live.slot.withdrawn.is_some() && !newest.empty;
            // Those behind the lowest cannot be mined before it, whatever they pay. A chain without a new block mines nothing.
            let waited = newest.at_ms.max(self.nonce_ms) + millis(self.settings.replace_after) <= now;
            let stuck = nonce == facts.nonce && waited && self.head_ms > newest.at_ms;
            let bump = live.bump && newest.at_ms + self.poll_ms() <= now;
            let idle = live.draft.is_none() && !live.asking_ceiling && live.written == live.slot.variants.len();
            if (live.slot.is_open() || self.is_lost(nonce))
                && idle
                && live.hold_ms <= now
                && (withdraw || stuck || bump)
            {
                self.replace_one(nonce, now, out);
                signing += usize::from(is_signing(self, &nonce));
            }
        }
    }

    /// Whether a nonce is the lowest that is unused although it was final: its block went, deeper than was asked for. What was
    /// told stays true only if the same is mined again, for which it may have to pay more by now.
    fn is_lost(&self, nonce: u64) -> bool {
        let is_final = |live: &Live| matches!(live.slot.standing, Standing::Final(_)) && !live.slot.has_reverted();
        let is_next = self.facts.is_some_and(|facts| facts.nonce == nonce);
        is_next && self.slots.get(&nonce).is_some_and(|live| is_final(live) && !live.slot.newest().raw.is_empty())
    }

    fn replace_one(&mut self, nonce: u64, now: u64, out: &mut Vec<Action>) {
        // The caller has them.
        let Some(facts) = self.fresh(now) else { return };
        let live = &self.slots[&nonce];
        let slot = &live.slot;
        let newest = slot.newest();
        let is_empty = match &slot.standing {
            Standing::Final(mined) => slot.bytes_of(mined).empty,
            _ => slot.withdrawn.is_some() || slot.intent.is_none(),
        };
        let kind = if is_empty { Kind::Empty } else { Kind::Asked };
        let hold = |queue: &mut Self, what: String, until: u64| {
            if let Some(live) = queue.slots.get_mut(&nonce) {
                (live.what, live.hold_ms) = (what, until);
            }
        };
        // What was asked for leaves room for the transfer of nothing that may have to follow.
        let bytes = if kind == Kind::Asked { newest.raw.len() + EMPTY_BYTES_MAX } else { EMPTY_BYTES_MAX };
        if slot.variants.len() >= VARIANTS_MAX || !slot.has_room_for(bytes) {
            let what = format!("was signed {} times, which is the limit; it is broadcast on", slot.variants.len());
            let until = now + millis(self.settings.replace_after);
            return hold(self, what, until);
        }
        let age_max = 3 * self.poll_ms();
        let ceiling = match (&slot.intent, live.ceiling) {
            (None, _) => None,
            (Some(_), Some((ceiling, at_ms))) if now <= at_ms + age_max => ceiling,
            (Some(intent), _) => {
                let (module, request) = (slot.module.clone(), Box::new(intent.request.clone()));
                out.push(Action::Ceiling { nonce, module, request });
                if let Some(live) = self.slots.get_mut(&nonce) {
                    live.asking_ceiling = true;
                }
                return;
            }
        };
        let bounds = self.settings.bounds(slot.intent.as_deref(), ceiling);
        let Some(fees) = fees::replacement(&newest.fees, &facts.market, &bounds, kind) else {
            let paid = newest.fees.per_gas_max();
            let what =
                format!("pays {paid} wei per gas, near what it may; it is broadcast on, and raised when that helps");
            let until = now + self.poll_ms();
            return hold(self, what, until);
        };
        let (module, intent) = (slot.module.clone(), slot.intent.as_deref());
        let id = intent.map_or_else(|| self.gap_name(nonce), |intent| intent.id.clone());
        let transaction = match (kind, intent) {
            (Kind::Asked, Some(intent)) => {
                unsigned(intent.request.clone(), nonce, newest.gas_limit, fees, Purpose::Replacement)
            }
            _ => unsigned(self.nothing(), nonce, self.empty_gas, fees, Purpose::Empty),
        };
        let (draft, action) = self.sign(nonce, module, id, transaction.clone());
        if let Some(live) = self.slots.get_mut(&nonce) {
            live.draft = Some((draft, kind));
            live.replacement = Some(transaction);
        }
        out.push(action);
    }

    pub(super) fn ceiling(&mut self, nonce: u64, answer: Result<Option<u128>, HostError>, now: u64) {
        // Its record made way for another one.
        let Some(live) = self.slots.get_mut(&nonce) else { return };
        live.asking_ceiling = false;
        match answer {
            Ok(ceiling) => live.ceiling = Some((ceiling, now)),
            // What takes its place needs no leave for what was asked for.
            Err(error) if live.slot.withdrawn.is_some() && is_final(&error) => live.ceiling = Some((None, now)),
            Err(error) => {
                live.what = format!("the policy cannot be asked: {}", short(&error.message));
                live.hold_ms = now + AGAIN_MS;
            }
        }
    }

    /// A nonce was signed once more.
    pub(super) fn signed_anew(&mut self, nonce: u64, answer: Result<SignedTransaction, HostError>, now: u64) {
        let is_lost = self.is_lost(nonce);
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        let (Some((_, kind)), Some(transaction)) = (live.draft.take(), mem::take(&mut live.replacement)) else {
            unreachable!("nonce {nonce} was not being signed");
        };
        let signed = match answer {
            Ok(signed) => signed,
            Err(error) => {
                live.what = format!("cannot be signed anew: {}", short(&error.message));
                live.hold_ms = now + 5 * AGAIN_MS;
                // Its module may not send any more. Whoever uses the account now has the nonce used up, which holds up all.
                if kind == Kind::Empty && is_final(&error) {
                    live.slot.module = self.module.clone();
                }
                return;
            }
        };
        // Mined meanwhile, or withdrawn: these bytes go nowhere.
        let outdated = kind == Kind::Asked && live.slot.withdrawn.is_some();
        if !is_lost && (!live.slot.is_open() || outdated) {
            return;
        }
        live.slot.push(Variant {
            raw: signed.raw.into(),
            hash: signed.hash,
            fees: transaction.fees,
            gas_limit: transaction.gas_limit,
            at_ms: now,
            empty: kind == Kind::Empty,
        });
        (live.bump, live.send_ms) = (false, 0);
        self.notes.push(Note::Replaced);
        self.change(nonce, true);
    }
}
