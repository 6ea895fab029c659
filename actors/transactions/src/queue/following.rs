//! What the chain says of signed nonces: receipts, reorgs, use of the key elsewhere, and the end.
//!
//! Invariant: a receipt that is missing proves nothing, and one counts only of a block of the chain that is followed; an end
//! is told once a second endpoint has it, too. A nonce is another transaction's only when it was used long enough ago and
//! more than one endpoint says so; and not when it was used so long ago that endpoints may have dropped receipts.

use nexum_host_ifaces::{outbox::is_of_call, transactions::FailureKind};

use super::{
    AT_ONCE, Action, CALLS_KEPT, FOREIGN_DEPTH, FOREIGN_DEPTH_MAX, Facts, Found, GUARD_MS, GUARDED, KEPT, Live, Note,
    Queue, RECEIPTS_MS, Votes,
    answers::{mined_name, result_name},
    short,
    waiting::is_late,
};
use crate::record::{Mined, Standing};

impl Queue {
    /// Looks at the chain, as long as there is something to look for.
    pub(super) fn observe(&mut self, now: u64, out: &mut Vec<Action>) {
        let stale = self.facts.is_none() || now >= self.facts_ms + self.poll_ms();
        if !self.observing && stale && now >= self.observe_ms && self.is_active(now) {
            self.observing = true;
            self.looks += 1;
            out.push(Action::Observe { module: self.module.clone() });
        }
    }

    pub(super) fn observed(&mut self, answer: Result<Facts, String>, now: u64) {
        self.observing = false;
        self.observe_ms = now + self.poll_ms();
        let facts = match answer {
            Ok(facts) => facts,
            Err(error) => {
                self.chain_trouble = Some(format!("the chain cannot be asked: {}", short(&error)));
                return;
            }
        };
        // An account that was never used here has whatever nonce it has.
        let explained = self.facts.map(|facts| facts.nonce).max(self.counted);
        let is_explained = explained.map_or(facts.configured <= 1, |explained| facts.nonce <= explained);
        if facts.voices >= 2 || is_explained {
            self.nonce_alone.clear();
        } else if !self.nonce_alone.note(facts.head) {
            let nonce = facts.nonce;
            let expected = explained.map_or_else(
                || "of which nothing is known here".to_owned(),
                |explained| format!("where {explained} was expected"),
            );
            self.chain_trouble = Some(format!(
                "one endpoint alone says that the account's next nonce is {nonce}, {expected}: waits for a second one, or for \
                 it to say so at three heads"
            ));
            return;
        }
        self.chain_trouble = None;
        if let Some(before) = self.facts {
            // One endpoint may lag; a reorg is seen again.
            if facts.head < before.head && !self.regressed {
                self.regressed = true;
                return;
            }
            if facts.head != before.head {
                self.head_ms = now;
            }
            if facts.nonce != before.nonce {
                self.nonce_ms = now;
            }
        } else {
            (self.head_ms, self.nonce_ms) = (now, now);
        }
        self.regressed = false;
        self.count_foreign(facts.nonce);
        (self.facts, self.facts_ms, self.facts_look) = (Some(facts), now, self.looks);
        self.facts_number += 1;
        for (_, live) in self.slots.range_mut(facts.nonce..) {
            live.watched = true;
        }
        self.reopen(&facts);
    }

    /// Notices nonces that were used although nothing was signed with them here.
    fn count_foreign(&mut self, nonce: u64) {
        // The first look at an account that was never used here: what it did before is nobody's business.
        let from = self.counted.unwrap_or(nonce);
        if nonce > from {
            self.note_foreign(nonce - from, from);
        }
        self.counted = Some(nonce.max(from));
    }

    fn note_foreign(&mut self, count: u64, from: u64) {
        self.foreign += count;
        self.notes.push(Note::Foreign(count));
        let (chain_id, account) = (self.key.chain_id, self.key.account);
        tracing::warn!(
            chain_id,
            %account,
            nonce = from,
            count,
            "nonces were used by transactions that are not of this engine: its key is used elsewhere"
        );
    }

    /// By the chain these nonces are unused again: a reorg took their blocks away. The same bytes go out once more.
    fn reopen(&mut self, facts: &Facts) {
        let chain = facts.nonce;
        let mined = |nonce: &u64| matches!(self.slots[nonce].slot.standing, Standing::Mined(_));
        let gone: Vec<u64> = self.live.range(chain..).filter(|nonce| mined(nonce)).copied().collect();
        for nonce in gone {
            self.unmined(nonce);
        }
        let failed = |live: &Live| match live.slot.standing {
            Standing::Foreign => true,
            _ => live.slot.has_reverted() && !live.slot.is_stripped(),
        };
        let freed: Vec<u64> =
            self.slots.range(chain..).filter(|(_, live)| failed(live)).map(|(nonce, _)| *nonce).collect();
        if freed.is_empty() {
            self.freed_alone.clear();
        } else if facts.voices >= 2 || self.freed_alone.note(facts.head) {
            freed.into_iter().for_each(|nonce| self.freed(nonce));
        }
    }

    /// Another program's transaction, or one that reverted, went with its block, deeper than it takes for the nonce to count as
    /// used. What was signed with it here may be mined yet and must not, so that a transfer of nothing takes its place.
    fn freed(&mut self, nonce: u64) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        let (kind, message) = match live.slot.has_reverted() {
            true => (FailureKind::Reverted, "it reverted in a block that a reorg took away"),
            false => (
                FailureKind::Replaced,
                "its nonce was used by a transaction that is not of this engine, which a reorg took away",
            ),
        };
        live.slot.standing = Standing::Accepted;
        live.slot.withdrawn.get_or_insert_with(|| (kind, message.to_owned()));
        (live.doubt_ms, live.send_ms, live.hold_ms, live.watched) = (None, 0, 0, true);
        live.alone.clear();
        live.told_alone.clear();
        self.live.insert(nonce);
        self.notes.push(Note::Reorged);
        self.change(nonce, true);
    }

    /// Its block went; what becomes of it is open.
    fn unmined(&mut self, nonce: u64) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        live.slot.standing = Standing::Accepted;
        live.send_ms = 0;
        live.told_alone.clear();
        self.notes.push(Note::Reorged);
        self.change(nonce, false);
    }

    /// Asks for receipts of what the chain may have by now; several endpoints, where there is none, and before it is final.
    pub(super) fn follow(&mut self, now: u64, out: &mut Vec<Action>) {
        // Nothing is known of the chain yet.
        let Some(facts) = self.facts else { return };
        let (number, wait) = (self.facts_number, (2 * self.poll_ms()).max(2_000));
        let used: Vec<u64> = self.live.range(..facts.nonce).copied().collect();
        let mut room = AT_ONCE;
        for nonce in used {
            if room == 0 {
                break;
            }
            let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
            let (module, depth) = (live.slot.module.clone(), live.slot.confirmations());
            let hashes = || live.slot.variants.iter().map(|variant| variant.hash).collect::<Vec<_>>();
            let deep = match &live.slot.standing {
                Standing::Mined(mined) => facts.head >= mined.block_number.saturating_add(depth - 1),
                _ => false,
            };
            if live.asking || live.doubting {
                room -= 1;
            } else if live.doubt_ms.is_some_and(|at_ms| at_ms <= now) || (deep && live.agree_ms <= now) {
                let block = facts.head.saturating_sub(depth.clamp(FOREIGN_DEPTH, FOREIGN_DEPTH_MAX) - 1);
                out.push(Action::Doubt { nonce, module, hashes: hashes(), block });
                live.doubting = true;
                (live.doubt_ms, live.agree_ms) = (live.doubt_ms.map(|_| now + wait), now + wait);
                room -= 1;
            } else if live.asked_at < number {
                out.push(Action::Receipts { nonce, module, hashes: hashes() });
                live.asking = true;
                live.asked_at = number;
                room -= 1;
            }
        }
    }

    pub(super) fn receipts(&mut self, nonce: u64, answer: Result<Vec<Found>, String>, now: u64) {
        let wait = 2 * self.poll_ms();
        // It ended meanwhile.
        let Some(live) = self.slots.get_mut(&nonce).filter(|live| live.asking) else { return };
        live.asking = false;
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                live.what = format!("its receipt cannot be asked for: {}", short(&error));
                return;
            }
        };
        if let Some(ours) = found.iter().find(|found| found.is_ours()) {
            return self.mined(nonce, ours.mined.clone(), false, now);
        }
        live.doubt_ms = live.doubt_ms.or(Some(now + wait));
        if let Some(Found { mined, .. }) = found.iter().find(|found| found.followed.is_none()) {
            live.what = format!("an endpoint has it in block {}, which has not been read", mined.block_number);
            return;
        }
        if let Some(Found { mined, .. }) = found.first() {
            let (number, hash) = (mined.block_number, mined.block_hash);
            live.what =
                format!("an endpoint has it in block {number} ({hash}), which is not of the chain that is followed");
            self.notes.push(Note::Contradicted);
        }
        if matches!(live.slot.standing, Standing::Mined(_)) {
            self.unmined(nonce);
        }
    }

    /// It is in a block of the chain that is followed; `agreed`: not by one endpoint's word alone.
    fn mined(&mut self, nonce: u64, mined: Mined, agreed: bool, now: u64) {
        // Nothing is known of the chain any more.
        let Some(facts) = self.facts else { return };
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        // A late answer to a question about what was there before.
        if !live.slot.is_live() || live.slot.variants.iter().all(|variant| variant.hash != mined.hash) {
            return;
        }
        live.doubt_ms = None;
        live.alone.clear();
        let through = mined.block_number.saturating_add(live.slot.confirmations() - 1);
        let deep = facts.head >= through;
        if agreed && deep {
            return self.finish(nonce, mined, now);
        }
        // What keeps it from being final is told until it is.
        if !deep {
            live.what.clear();
        }
        if live.slot.standing != Standing::Mined(mined.clone()) {
            live.slot.standing = Standing::Mined(mined);
            self.change(nonce, false);
        }
    }

    /// As deep as was asked for.
    fn finish(&mut self, nonce: u64, mined: Mined, now: u64) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        let block = self.guard.map_or(0, |(block, _)| block).max(mined.block_number);
        self.guard = Some((block, now + GUARD_MS));
        live.slot.standing = Standing::Final(mined);
        if live.slot.intent.is_some() && !live.slot.told {
            self.notes.push(Note::Ended(mined_name(&live.slot)));
        }
        self.live.remove(&nonce);
        self.change(nonce, true);
        self.prune(nonce);
    }

    /// Drops what nobody needs any more of what ended long ago.
    fn prune(&mut self, nonce: u64) {
        let guarded = nonce.saturating_sub(GUARDED);
        if let Some((old, live)) = self.slots.range_mut(..guarded).next_back()
            && !live.slot.is_live()
            && !live.slot.is_stripped()
        {
            live.slot.strip();
            let old = *old;
            self.change(old, false);
        }
        // Whoever still waits for an end is known to the outbox, whose own limits bound how many these are.
        while self.slots.len() - self.live.len() > KEPT {
            let is_full = self.slots.len() - self.live.len() > CALLS_KEPT;
            let is_needed = |live: &Live| match &live.slot.intent {
                Some(intent) if is_of_call(&intent.id) => !is_full,
                Some(_) => !live.slot.told,
                None => false,
            };
            let over = |live: &Live| !live.slot.is_live() && !is_needed(live);
            let Some(oldest) = self.slots.iter().find(|(_, live)| over(live)).map(|(nonce, _)| *nonce) else { break };
            if let Some(intent) = self.slots.remove(&oldest).and_then(|live| live.slot.intent) {
                self.places.remove(&intent.id);
            }
            self.dirty.remove(&oldest);
            self.removed.insert(oldest);
        }
    }

    pub(super) fn doubted(&mut self, nonce: u64, votes: Votes, now: u64) {
        let head = self.facts.map_or(0, |facts| facts.head);
        // It ended meanwhile.
        let Some(live) = self.slots.get_mut(&nonce).filter(|live| live.doubting) else { return };
        live.doubting = false;
        let signed_ms = live.slot.variants.iter().map(|variant| variant.at_ms).max().unwrap_or(0);
        let is_recent = now <= signed_ms.saturating_add(RECEIPTS_MS);
        if let Some((mined, says)) = votes.most() {
            // Of old ones the others may have dropped the receipt; others that do not answer are not waited for either.
            let enough = says >= 2 || votes.configured <= 1 || !is_recent;
            let agreed = enough || (votes.answered <= 1 && live.told_alone.note(head));
            let (mined, number) = (mined.clone(), mined.block_number);
            self.mined(nonce, mined, agreed, now);
            if let Some(live) = self.slots.get_mut(&nonce).filter(|live| live.slot.is_live() && !agreed) {
                live.what = format!("is in block {number} as one endpoint alone says; waits for a second one");
            }
            return;
        }
        // Looked for anew meanwhile, or an endpoint is elsewhere.
        if live.doubt_ms.is_none() || votes.unused > 0 || votes.against == 0 || !live.slot.is_open() {
            live.alone.clear();
            return;
        }
        let alone_often = votes.configured <= 1 && live.alone.note(head);
        // Used while nobody looked, so long ago that its own receipt may have been dropped: not to be signed anew.
        let seen = live.watched || is_recent;
        if !seen && live.slot.withdrawn.is_none() {
            live.what = "its nonce was used while this engine was away, and no endpoint has a receipt; it is not sent \
                         anew, since it may be mined; cancel it to give it up"
                .to_owned();
            return;
        }
        live.what = format!("its nonce was used by another transaction, say {} endpoints", votes.against);
        if votes.against >= 2 || alone_often {
            self.lost(nonce, now);
        }
    }

    /// None of what was signed with this nonce can be mined any more.
    fn lost(&mut self, nonce: u64, now: u64) {
        let Some(live) = self.slots.get_mut(&nonce) else { unreachable!("nonce {nonce} went away") };
        live.slot.standing = Standing::Foreign;
        self.live.remove(&nonce);
        let late = live.slot.intent.as_ref().is_some_and(|intent| is_late(intent, now));
        if late && live.slot.withdrawn.is_none() {
            let message = "its nonce was used by a transaction that is not of this engine, and its deadline has passed";
            live.slot.withdrawn = Some((FailureKind::Replaced, message.to_owned()));
        }
        let again = match live.slot.withdrawn {
            None => live.slot.intent.take(),
            Some((kind, _)) => {
                if live.slot.intent.is_some() && !live.slot.told {
                    self.notes.push(Note::Ended(result_name(kind)));
                }
                None
            }
        };
        if let Some(intent) = again {
            self.wait_again(intent, now);
        }
        self.change(nonce, true);
        self.note_foreign(1, nonce);
    }
}
