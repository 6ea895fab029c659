//! Reading logs: of one block by its hash, of several by their range, and what of the answers is believed.
//!
//! Invariant: a range's answer is held against everything that is known of its blocks: their hashes, their blooms, what
//! another endpoint says. Only what nothing contradicts is handed on; the rest is settled block by block, or fails with a
//! reason. How much is asked at once is what the endpoint has shown to take.

use std::time::Duration;

use nexum_host_ifaces::types::Log;
use serde_json::Value;

use super::{
    RpcBackend,
    endpoint::{Purpose, raw},
    errors::CallError,
    follow::by_number,
    headers::{HeaderRequest, refusal},
    settle::{By, INDEXING, Settled, WITNESS, of_block},
    shape::{Refusal, Shape},
    trust::Doubts,
    untold::Why,
    wire,
};
use crate::{
    config::{BloomUse, Verify},
    filter::{Union, allows, is_doubtful},
    header::Header,
    tracker::Failure,
};

/// One that is to confirm a new block is looked at so often before it is asked.
const BEHIND_LOOKS: usize = 10;

/// What one endpoint says that a block's logs are.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub index: usize,
    pub logs: Vec<Log>,
}

/// Why an answer about one block's logs cannot be; `None` when it can.
pub fn impossible(block: &Header, union: &Union, logs: &[Log]) -> Option<&'static str> {
    if logs.iter().any(|log| log.block_hash != block.hash.0 || log.block_number != block.number) {
        return Some("logs of another block");
    }
    if logs.iter().any(|log| !union.covers(log)) {
        return Some("logs that were not asked for");
    }
    None
}

/// Why an answer about one block has to be settled, if it has to.
pub(super) fn doubts_about(block: &Header, union: &Union, logs: &[Log]) -> Doubts {
    let Some(bloom) = block.promises() else { return Doubts { gap: has_gaps(union, logs), ..Doubts::default() } };
    Doubts {
        promised: is_doubtful(union, bloom, logs),
        excluded: logs.iter().any(|log| !allows(bloom, log)),
        gap: has_gaps(union, logs),
    }
}

/// Whether all logs of a block were asked for, and some are missing before the last that is there.
pub(super) fn has_gaps(union: &Union, logs: &[Log]) -> bool {
    let follows = |place: usize, log: &Log| match place.checked_sub(1).map(|before| &logs[before]) {
        Some(last) if last.transaction_index == log.transaction_index => {
            log.log_index.checked_sub(1) == Some(last.log_index)
        }
        _ => u64::from(log.log_index) == u64::from(log.transaction_index) << 16,
    };
    let is_by_block = (0..).zip(logs).all(|(place, log)| log.log_index == place);
    let is_by_transaction = logs.iter().enumerate().all(|(place, log)| follows(place, log));
    union.is_everything() && !is_by_block && !is_by_transaction
}

pub(super) fn of(number: u64, logs: &[Log]) -> &[Log] {
    let from = logs.partition_point(|log| log.block_number < number);
    let to = logs.partition_point(|log| log.block_number <= number);
    &logs[from..to]
}

impl RpcBackend {
    /// Asks for logs. Where they are those of one block, `block`, it is noted when they are not told.
    pub(super) async fn ask_logs(
        &self,
        index: usize,
        purpose: Purpose,
        filter: Value,
        block: Option<u64>,
        may_be_too_large: bool,
        patience: Duration,
    ) -> Result<Vec<wire::ReadLog>, CallError> {
        let endpoint = &self.shared.endpoints[index];
        let now_ns = self.shared.clock.monotonic_ns();
        let one_by_one = endpoint.shape().untold.is_one_by_one(now_ns);
        let _turn = if one_by_one { endpoint.large_turn.take(now_ns).await } else { None };
        let question = endpoint.large.begin();
        let logs = self.logs_from(index, purpose, filter, may_be_too_large, patience).await;
        if let (Some(number), Err(error)) = (block, &logs)
            && let Some(why) = Why::of(error, refusal(error) == Some(Refusal::Refused))
        {
            self.untold(index, number, why, question.is_alone());
        }
        logs
    }

    /// Notes that an endpoint did not tell the logs of a block. `alone` when it had no other large question.
    fn untold(&self, index: usize, number: u64, why: Why, alone: bool) {
        let endpoint = &self.shared.endpoints[index];
        let (answers, now_ns) = (endpoint.answers(), self.shared.clock.monotonic_ns());
        endpoint.shape().untold.note(number, why, alone, answers, now_ns);
    }

    async fn logs_from(
        &self,
        index: usize,
        purpose: Purpose,
        filter: Value,
        may_be_too_large: bool,
        patience: Duration,
    ) -> Result<Vec<wire::ReadLog>, CallError> {
        let params = raw(&[filter])?;
        let answers = self.shared.send(purpose, index, &[("eth_getLogs", &params)], patience, may_be_too_large).await;
        let mut answers = answers.inspect_err(|error| {
            if !may_be_too_large {
                self.refused(index, error);
            }
        })?;
        let json = answers.pop().unwrap_or_else(|| Err(CallError::nonsense("it is empty")))?;
        let logs = wire::logs(self.shared.config.chain_id, json.get());
        let logs = logs.and_then(|logs| self.numbered(logs)).map_err(CallError::nonsense);
        logs.inspect_err(|error| self.misread(index, error))
    }

    /// Logs whose indexes may be those of this chain.
    fn numbered(&self, logs: Vec<wire::ReadLog>) -> Result<Vec<wire::ReadLog>, String> {
        if logs.iter().any(|read| read.renumbered) {
            let mut trust = self.shared.trust();
            // Where receipts can be had, they tell which log is which.
            if !trust.may_renumber() {
                return Err("two of its logs have one index in their block".to_owned());
            }
            if trust.renumbers() {
                let chain_id = self.shared.config.chain_id;
                tracing::warn!(chain_id, "log indexes of this chain are counted per transaction");
            }
        }
        Ok(logs)
    }

    /// Logs that were asked for in several parts.
    pub(super) fn joined(&self, index: usize, mut logs: Vec<wire::ReadLog>) -> Result<Vec<wire::ReadLog>, CallError> {
        let joined = wire::in_place(&mut logs).and_then(|()| self.numbered(logs)).map_err(CallError::nonsense);
        joined.inspect_err(|error| self.misread(index, error))
    }

    /// The logs of one block as one endpoint tells them. What cannot be is held against it.
    pub(super) async fn claim_of_block(
        &self,
        index: usize,
        header: &Header,
        union: &Union,
        patience: Duration,
        purpose: Purpose,
    ) -> Result<Claim, Failure> {
        let mut logs = Vec::new();
        let mut parts = union.parts(self.shared.endpoints[index].shape().list.current());
        let mut nth = 0;
        while let Some(part) = parts.get(nth) {
            match self.part_of_block(index, header, part, patience, purpose).await {
                Ok(some) => {
                    logs.extend(some);
                    nth += 1;
                }
                Err(failure) => {
                    // What was refused may have been too long a list.
                    let most = self.shared.endpoints[index].shape().list.current();
                    if most >= part.longest_list() {
                        return Err(failure);
                    }
                    (parts, nth) = (union.parts(most), 0);
                    logs.clear();
                }
            }
        }
        if parts.len() > 1 {
            logs = self.joined(index, logs).map_err(|error| self.shared.failure(index, &error))?;
        }
        let mut logs: Vec<Log> = logs.into_iter().map(|read| read.log).collect();
        if let Some(what) = impossible(header, union, &logs) {
            self.shared.lied(index, what);
            self.untold(index, header.number, Why::Refused, true);
            return Err(Failure::Failed(format!("{}: {what}", self.shared.name(index))));
        }
        for log in &mut logs {
            log.block_timestamp = header.timestamp_s.saturating_mul(1_000);
        }
        Ok(Claim { index, logs })
    }

    async fn part_of_block(
        &self,
        index: usize,
        header: &Header,
        union: &Union,
        patience: Duration,
        purpose: Purpose,
    ) -> Result<Vec<wire::ReadLog>, Failure> {
        let failed = |error: CallError| self.shared.failure(index, &error);
        let list = union.longest_list();
        let now_ns = self.shared.clock.monotonic_ns();
        let finds = self.shared.endpoints[index].shape().finds_by_hash(now_ns);
        if finds != Some(false) {
            let filter = of_block(union, header, true);
            match self.ask_logs(index, purpose, filter, Some(header.number), true, patience).await {
                Ok(logs) if !logs.is_empty() => {
                    let mut shape = self.shared.endpoints[index].shape();
                    shape.found_by_hash();
                    shape.untold.told(header.number, true);
                    return Ok(logs);
                }
                Ok(none) => {
                    self.shared.endpoints[index].shape().untold.told(header.number, false);
                    // Nothing may have shown yet that it finds logs like that: some nodes tell none, without a word.
                    let is_promised = header.promises().map(|bloom| is_doubtful(union, bloom, &[]));
                    let is_asked_twice = finds.is_none()
                        && is_promised
                            .unwrap_or_else(|| self.shared.endpoints[index].shape().is_asked_twice(&header.hash));
                    return match is_asked_twice {
                        false => Ok(none),
                        true => Ok(self.or_by_number(index, header, union, patience, purpose).await),
                    };
                }
                Err(error) if refusal(&error) == Some(Refusal::Refused) => {
                    tracing::debug!(endpoint = %self.shared.name(index), error = %self.shared.said(&error), "logs by hash were refused");
                    if list > 1 {
                        self.shared.endpoints[index].shape().list.refused(list, Refusal::Refused);
                    }
                }
                Err(error) => {
                    self.refused(index, &error);
                    return Err(failed(error));
                }
            }
        }
        // Not every node takes a hash here. By number the answer may be of another branch, and an empty one does not say.
        let filter = of_block(union, header, false);
        let logs = self.ask_logs(index, purpose, filter, Some(header.number), false, patience).await;
        if let Err(error) = &logs
            && list > 1
            && refusal(error) == Some(Refusal::Refused)
        {
            self.shared.endpoints[index].shape().list.refused(list, Refusal::Refused);
        }
        let logs = logs.map_err(failed)?;
        let is_of_branch = match logs.first() {
            Some(read) => read.log.block_number != header.number || read.log.block_hash == header.hash.0,
            None => {
                let params = by_number(header.number).map_err(failed)?;
                let found = self.ask_headers(index, HeaderRequest::Blocks, &[("eth_getBlockByNumber", &*params)]).await;
                let found = found.map_err(failed)?.unwrap_or_default();
                found.first().is_some_and(|found| found.hash == header.hash)
            }
        };
        if !is_of_branch {
            self.untold(index, header.number, Why::Failed, true);
            let what = format!("{} does not have block {} of this branch", self.shared.name(index), header.number);
            return Err(Failure::Failed(what));
        }
        let mut shape = self.shared.endpoints[index].shape();
        shape.untold.told(header.number, !logs.is_empty());
        if finds != Some(false) {
            shape.list.accepted(list, now_ns);
            shape.lacks_by_hash(now_ns);
        }
        Ok(logs)
    }

    /// The logs of a block of which an endpoint told none by its hash.
    async fn or_by_number(
        &self,
        index: usize,
        header: &Header,
        union: &Union,
        patience: Duration,
        purpose: Purpose,
    ) -> Vec<wire::ReadLog> {
        let endpoint = &self.shared.endpoints[index];
        let is_of_block = |read: &wire::ReadLog| read.log.block_hash == header.hash.0;
        let by_number = self.ask_logs(index, purpose, of_block(union, header, false), None, true, patience).await;
        let logs = match by_number {
            Ok(logs) if !logs.is_empty() && logs.iter().all(is_of_block) => logs,
            _ => {
                endpoint.shape().found_none();
                return Vec::new();
            }
        };
        // It may have got them meanwhile.
        match self.ask_logs(index, purpose, of_block(union, header, true), None, true, patience).await {
            Ok(again) if !again.is_empty() => {
                endpoint.shape().found_by_hash();
                again
            }
            Ok(_) => {
                tracing::warn!(endpoint = %endpoint.name, block = header.number, "it finds logs by block number only");
                endpoint.shape().lacks_by_hash(self.shared.clock.monotonic_ns());
                logs
            }
            Err(_) => logs,
        }
    }

    pub(super) async fn read_block_logs(&self, blocks: &[Header], union: &Union) -> Result<Vec<Vec<Log>>, Failure> {
        let [first, ..] = blocks else { return Ok(vec![]) };
        let mut read = Vec::new();
        // What a proven bloom excludes need not be read.
        while let Some(block) = blocks.get(read.len())
            && self.is_ruled_out(block, union)
        {
            read.push(vec![]);
        }
        if !read.is_empty() {
            return Ok(read);
        }
        if self.shared.trust().verify == Verify::Always {
            return Ok(vec![self.settle(first, union, vec![]).await?.logs]);
        }
        let may_prove = self.shared.trust().verify != Verify::Off && first.receipts_root.is_some();
        let number = first.number;
        // Receipts are no more than a block holds. To ask for such logs again would end a WebSocket again, with all that is
        // asked over it.
        if may_prove
            && self.all_up(|shape, now_ns| shape.untold.is_useless(number, now_ns))
            && let Ok(settled) = self.settle(first, union, vec![]).await
        {
            return Ok(vec![settled.logs]);
        }
        if blocks.len() > 1
            && let Some(logs) = self.logs_of_several(blocks, union).await
        {
            return Ok(logs);
        }
        let mut failure = Failure::Failed("no endpoint may be used".into());
        for (nth, index) in self.shared.order().into_iter().enumerate() {
            if nth > 0 {
                self.shared.fell_back();
            }
            match self.claim_of_block(index, first, union, self.shared.config.timeout, Purpose::Logs).await {
                Ok(claim) => {
                    let doubts = doubts_about(first, union, &claim.logs);
                    if !self.is_worth_settling(first, doubts) {
                        return Ok(vec![self.compared(first, union, claim).await?]);
                    }
                    let told = claim.logs.clone();
                    let settled = self.settle(first, union, vec![claim]).await?;
                    self.doubted(first.number, doubts, &told, &settled);
                    return Ok(vec![settled.logs]);
                }
                Err(error) => failure = error,
            }
        }
        // Receipts may be had where logs are not. But a connection that was lost says nothing of what the logs are.
        match may_prove && self.all_up(|shape, now_ns| shape.untold.cannot_be_had(number, now_ns)) {
            true => self.settle(first, union, vec![]).await.map(|settled| vec![settled.logs]).map_err(|_| failure),
            false => Err(failure),
        }
    }

    /// Whether no log of the union can be in a block, without asking anybody.
    pub(super) fn is_ruled_out(&self, block: &Header, union: &Union) -> bool {
        let trust = self.shared.trust();
        let proven = trust.verify == Verify::Always && block.receipts_root.is_some() && !trust.has_outside_logs();
        let bloom = if proven { block.promises() } else { block.bloom.as_deref() };
        bloom.is_some_and(|bloom| !union.possible_in(bloom))
    }

    /// Whether nothing is known that an answer about a block's logs can be held against.
    pub(super) fn is_unheld(&self, block: &Header, logs: &[Log]) -> bool {
        let trust = self.shared.trust();
        // Where nothing is told of blooms, logs may come without gas as well.
        let is_empty = logs.is_empty() && block.gas_used == Some(0) && trust.bloom() != BloomUse::Ignore;
        !is_empty && !trust.says_something(block)
    }

    /// Whether all endpoints that are connected are known for this, and there is one.
    pub(super) fn all_up(&self, habit: impl Fn(&Shape, u64) -> bool) -> bool {
        let now_ns = self.shared.clock.monotonic_ns();
        let mut up = self.shared.order().into_iter().filter(|index| self.shared.is_up(*index)).peekable();
        up.peek().is_some() && up.all(|index| habit(&self.shared.endpoints[index].shape(), now_ns))
    }

    /// The other endpoints that can say what is in a block, best first.
    fn others(&self, index: usize) -> Vec<usize> {
        let mut others = self.shared.board().witnesses(self.shared.clock.monotonic_ns());
        others.retain(|other| *other != index);
        others
    }

    /// An answer that nothing speaks against. Where nothing could, another endpoint has to say the same, if there is one.
    async fn compared(&self, header: &Header, union: &Union, claim: Claim) -> Result<Vec<Log>, Failure> {
        if !self.is_unheld(header, &claim.logs) {
            return Ok(claim.logs);
        }
        for other in self.others(claim.index) {
            // It may be a little behind.
            for _ in 0..BEHIND_LOOKS {
                if self.shared.has_told(other, header.number) {
                    break;
                }
                self.shared.poke[other].notify_one();
                tokio::time::sleep(INDEXING).await;
            }
            self.shared.confirms();
            let second = self.claim_of_block(other, header, union, WITNESS, Purpose::SecondOpinion).await;
            match second {
                Ok(second) if second.logs == claim.logs => return Ok(claim.logs),
                Ok(second) => return Ok(self.settle(header, union, vec![claim, second]).await?.logs),
                Err(_) => {}
            }
        }
        Ok(claim.logs)
    }

    /// Where doubts of a kind are the rule and unfounded, few of them are settled.
    pub(super) fn is_worth_settling(&self, block: &Header, doubts: Doubts) -> bool {
        doubts.any() && {
            let alone = self.shared.order().len() == 1;
            self.shared.trust().settles(&block.hash, doubts, alone)
        }
    }

    /// Doubts about a block's logs were settled.
    pub(super) fn doubted(&self, number: u64, doubts: Doubts, told: &[Log], settled: &Settled) {
        let was_right = settled.logs == told;
        let news = self.shared.trust().doubted(number, doubts, was_right, settled.by == By::Itself);
        if let Some(nature) = news {
            tracing::warn!(
                chain_id = self.shared.config.chain_id,
                block = number,
                "{nature}: few answers are doubted for it from now on"
            );
        }
    }

    /// The logs of several blocks of the window by their range, as far as one answer reaches. `None` when that does not
    /// tell: then they are read one by one.
    async fn logs_of_several(&self, blocks: &[Header], union: &Union) -> Option<Vec<Vec<Log>>> {
        let (first, last) = (blocks.first()?.number, blocks.last()?.number);
        let index = self.shared.order().first().copied()?;
        let leaves_out = self.shared.endpoints[index].shape().leaves_out(self.shared.clock.monotonic_ns());
        let is_compared = blocks.first().is_some_and(|block| self.is_unheld(block, &[]));
        if leaves_out || (is_compared && !self.others(index).is_empty()) {
            return None;
        }
        let told =
            self.told_of_range(index, first, last, union, blocks, self.shared.config.timeout, Purpose::Logs).await;
        let told = told.ok()??;
        let logs = told.logs();
        let blocks: Vec<&Header> = blocks.iter().filter(|block| block.number <= told.to).collect();
        // A node on another branch names other blocks, and leaves out what is on ours alone.
        if blocks.iter().any(|block| impossible(block, union, of(block.number, &logs)).is_some()) {
            return None;
        }
        let mut read = Vec::with_capacity(blocks.len());
        for block in blocks {
            let mut of_block = of(block.number, &logs).to_vec();
            let has_doubts = self.is_worth_settling(block, doubts_about(block, union, &of_block));
            if has_doubts || (self.is_unheld(block, &of_block) && !self.others(index).is_empty()) {
                // What is before it is read; this one comes first the next time.
                return Some(read).filter(|read| !read.is_empty());
            }
            of_block.iter_mut().for_each(|log| log.block_timestamp = block.timestamp_s.saturating_mul(1_000));
            read.push(of_block);
        }
        Some(read)
    }
}
