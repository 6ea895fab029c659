//! Reading the logs of a range of blocks, and holding what one endpoint says of it against what is known.
//!
//! Invariant: what is handed on reaches from the first block that was asked for to the one that is named, without a gap.
//! Where nothing is known of the blocks another endpoint is asked, if there is one.

mod one;

use std::{collections::BTreeSet, time::Duration};

use nexum_host_ifaces::types::Log;
use one::Told;

use super::{
    RpcBackend,
    endpoint::Purpose,
    errors::CallError,
    headers::{HeaderRequest, refusal},
    logs::{Claim, doubts_about, impossible, of},
    shape::Refusal,
    wire,
};
use crate::{
    backend::Ranged,
    config::Verify,
    filter::{Union, allows},
    header::Header,
    tracker::Failure,
};

/// How long a second opinion on a range is worth.
const WITNESS: Duration = Duration::from_secs(2);
/// So many blocks of one range are settled one by one; with more doubts the range is asked of another endpoint first.
const SETTLED_MAX: usize = 32;
/// Blocks without logs in a range that are looked at when nobody else can be asked.
const LOOKED_AT: usize = 2;
/// None of a range of fewer blocks is looked at: it is so short because longer ones were refused.
const LOOKED_AT_OF: u64 = 8;

impl RpcBackend {
    pub(super) async fn read_range_logs(
        &self,
        from: u64,
        to: u64,
        union: &Union,
        known: &[Header],
    ) -> Result<Ranged, Failure> {
        if self.shared.trust().verify == Verify::Always {
            return self.each_of_range(from, to, union, known).await;
        }
        let mut failure = Failure::Failed("no endpoint may be used".into());
        let order = self.shared.order();
        if self.all_up(|shape, now_ns| shape.leaves_out(now_ns) || shape.untold.is_any(from..=to, now_ns)) {
            return self.each_of_range(from, to, union, known).await;
        }
        let mut best: Option<(Told, Vec<Header>)> = None;
        let mut was_answered = false;
        for (nth, index) in order.iter().copied().enumerate() {
            let second = best.is_some();
            if second && !self.shared.is_up(index) {
                continue;
            }
            let (patience, purpose) = match second {
                true => (self.shared.config.timeout.min(WITNESS), Purpose::SecondOpinion),
                false => (self.shared.config.timeout, Purpose::Logs),
            };
            match (second, nth) {
                (true, _) => self.shared.confirms(),
                (false, 1..) => self.shared.fell_back(),
                _ => {}
            }
            let to = best.as_ref().map_or(to, |(told, _)| told.to);
            let is_block = from == to || self.shared.endpoints[index].shape().range.current() == 1;
            let told = match self.told_of_range(index, from, to, union, known, patience, purpose).await {
                Ok(Some(told)) => told,
                Ok(None) => {
                    failure = Failure::Failed(format!("{} does not have block {to}", self.shared.name(index)));
                    continue;
                }
                Err(error) => {
                    // What is said of a single block was not said of a range.
                    let is_of_block = is_block && matches!(error, CallError::Node { .. });
                    was_answered |= is_of_block || refusal(&error) == Some(Refusal::Refused);
                    failure = self.shared.failure(index, &error);
                    continue;
                }
            };
            if let Some(what) = self.cannot_be(&told, from, union, known).await? {
                self.shared.lied(index, what);
                failure = Failure::Failed(format!("{}: {what}", self.shared.name(index)));
                continue;
            }
            let doubts = self.doubts(&told, from, union, known);
            match best.take() {
                None if doubts.len() <= SETTLED_MAX && self.covers(known, from, told.to) => {
                    return self.finish(told, from, union, known, doubts, false).await;
                }
                // Nothing is known to hold it against, or too much speaks against it: somebody else is asked.
                None => best = Some((told, doubts)),
                Some((first, first_doubts)) => {
                    return self.compare_ranges(first, first_doubts, told, doubts, from, union, known).await;
                }
            }
        }
        match best {
            Some((told, doubts)) => self.finish(told, from, union, known, doubts, true).await,
            // Its blocks may be had one by one, or from their receipts.
            None if was_answered => self.each_of_range(from, to, union, known).await.map_err(|_| failure),
            None => Err(failure),
        }
    }

    /// Whether the headers of all of these blocks are known, and say something that an answer can be held against.
    fn covers(&self, known: &[Header], from: u64, to: u64) -> bool {
        let mut of_range = known.iter().filter(|header| (from..=to).contains(&header.number));
        let count = known.iter().filter(|header| (from..=to).contains(&header.number)).count() as u64;
        count == to - from + 1 && of_range.all(|header| self.shared.trust().says_something(header))
    }

    /// Why a range's answer cannot be; `None` when it can. Without known headers some of the blocks are looked at.
    async fn cannot_be(
        &self,
        told: &Told,
        from: u64,
        union: &Union,
        known: &[Header],
    ) -> Result<Option<&'static str>, Failure> {
        let fits = |log: &Log| (from..=told.to).contains(&log.block_number) && union.covers(log);
        if !told.logs.iter().all(|read| fits(&read.log)) {
            return Ok(Some("logs that were not asked for"));
        }
        let logs = told.logs();
        let wrong = |header: &Header| {
            if is_misdated(header, told) {
                self.shared.endpoints[told.index].shape().dates = false;
            }
            impossible(header, union, of(header.number, &logs))
        };
        let times = told.logs.iter().filter(|read| read.dated).map(|read| read.log.block_timestamp);
        if !times.is_sorted() {
            self.shared.endpoints[told.index].shape().dates = false;
        }
        let within = known.iter().filter(|header| (from..=told.to).contains(&header.number));
        if let Some(what) = within.into_iter().find_map(wrong) {
            return Ok(Some(what));
        }
        let places = [0, logs.len() / 2, logs.len().saturating_sub(1)];
        let numbers: BTreeSet<u64> =
            places.iter().filter_map(|place| logs.get(*place)).map(|log| log.block_number).collect();
        let headers = self.read_headers(HeaderRequest::History, &unknown(numbers, known)).await?;
        Ok(headers.iter().find_map(|header| {
            let of_block = of(header.number, &logs);
            let excluded = header.bloom.as_deref().is_some_and(|bloom| of_block.iter().any(|log| !allows(bloom, log)));
            // Whether it is the chain's doing is found out where headers are known.
            wrong(header).or_else(|| excluded.then_some("logs that the block's bloom excludes"))
        }))
    }

    /// The known blocks about which the answer has to be settled.
    fn doubts(&self, told: &Told, from: u64, union: &Union, known: &[Header]) -> Vec<Header> {
        let logs = told.logs();
        let within = known.iter().filter(|header| (from..=told.to).contains(&header.number));
        let doubts = |header: &Header| doubts_about(header, union, of(header.number, &logs));
        within.filter(|header| self.is_worth_settling(header, doubts(header))).cloned().collect()
    }

    /// Two endpoints' answers about one range.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to one question")]
    async fn compare_ranges(
        &self,
        first: Told,
        first_doubts: Vec<Header>,
        second: Told,
        second_doubts: Vec<Header>,
        from: u64,
        union: &Union,
        known: &[Header],
    ) -> Result<Ranged, Failure> {
        let (mut one, mut other) = (first.logs(), second.logs());
        // The second may have answered a shorter range.
        let to = first.to.min(second.to);
        let end_hash = if second.to < first.to { second.end_hash } else { first.end_hash };
        one.retain(|log| log.block_number <= to);
        other.retain(|log| log.block_number <= to);
        let differ: BTreeSet<u64> = one
            .iter()
            .chain(&other)
            .map(|log| log.block_number)
            .filter(|number| !same_logs(of(*number, &one), of(*number, &other)))
            .collect();
        if differ.is_empty() && first_doubts.is_empty() {
            let told = Told { index: first.index, to, logs: up_to(first.logs, to), end_hash };
            return self.finish(told, from, union, known, vec![], false).await;
        }
        // Whoever has less speaking against it is gone on with.
        let (told, doubts) = match second_doubts.len() < first_doubts.len() {
            true => (second, second_doubts),
            false => (first, first_doubts),
        };
        let mut numbers: Vec<u64> = differ.into_iter().collect();
        numbers.extend(doubts.iter().map(|header| header.number).filter(|number| *number <= to));
        numbers.sort_unstable();
        numbers.dedup();
        let (to, end_hash) = match numbers.get(SETTLED_MAX) {
            // The rest comes with the next read.
            Some(number) => (number - 1, None),
            None => (to, Some(end_hash)),
        };
        numbers.truncate(SETTLED_MAX);
        let told = Told { index: told.index, to, logs: up_to(told.logs, to), end_hash: end_hash.unwrap_or_default() };
        self.settle_some(told, numbers, end_hash.is_some(), union, known).await
    }

    /// Settles what is in doubt of an answer, and hands on the rest as it was told. `alone` where nobody else answered.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to one answer")]
    async fn finish(
        &self,
        told: Told,
        from: u64,
        union: &Union,
        known: &[Header],
        doubts: Vec<Header>,
        alone: bool,
    ) -> Result<Ranged, Failure> {
        let mut numbers: Vec<u64> = doubts.iter().map(|header| header.number).collect();
        let (mut told, mut has_end) = (told, true);
        if let Some(number) = numbers.get(SETTLED_MAX).copied() {
            numbers.truncate(SETTLED_MAX);
            told = Told { to: number - 1, logs: up_to(told.logs, number - 1), ..told };
            has_end = false;
        }
        if alone && !self.covers(known, from, told.to) && self.leaves_out(&told, from, union, known).await? {
            let endpoint = self.shared.name(told.index);
            tracing::warn!(endpoint, from, to = told.to, "logs were left out of a range: each block is asked for");
            self.shared.endpoints[told.index].shape().left_out(self.shared.clock.monotonic_ns());
            return self.each_of_range(from, told.to, union, known).await;
        }
        self.settle_some(told, numbers, has_end, union, known).await
    }

    /// Whether the answer about a range that nobody else can be asked about leaves out logs, as far as some of its blocks
    /// show. They are among those of which it told none.
    async fn leaves_out(&self, told: &Told, from: u64, union: &Union, known: &[Header]) -> Result<bool, Failure> {
        let has_logs: BTreeSet<u64> = told.logs.iter().map(|read| read.log.block_number).collect();
        let span = told.to - from + 1;
        if span < LOOKED_AT_OF {
            return Ok(false);
        }
        let places = (1..=LOOKED_AT as u64).map(|nth| from + span * nth / (LOOKED_AT as u64 + 1));
        let numbers: BTreeSet<u64> = places.filter(|number| *number <= told.to && !has_logs.contains(number)).collect();
        for header in self.read_headers(HeaderRequest::History, &unknown(numbers, known)).await? {
            let doubts = doubts_about(&header, union, &[]);
            let logs = if self.is_worth_settling(&header, doubts) {
                let claim = Claim { index: told.index, logs: vec![] };
                let settled = self.settle(&header, union, vec![claim]).await?;
                self.doubted(header.number, doubts, &[], &settled);
                settled.logs
            } else if self.is_unheld(&header, &[]) {
                let patience = self.shared.config.timeout;
                let claim = self.claim_of_block(told.index, &header, union, patience, Purpose::SecondOpinion).await;
                // One that does not tell shows nothing.
                claim.map_or(vec![], |claim| claim.logs)
            } else {
                continue;
            };
            if !logs.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn settle_some(
        &self,
        told: Told,
        numbers: Vec<u64>,
        has_end: bool,
        union: &Union,
        known: &[Header],
    ) -> Result<Ranged, Failure> {
        let Told { index, to, logs, mut end_hash } = told;
        let mut logs = self.date(index, logs, known).await?;
        let mut wanted = numbers.clone();
        if !has_end {
            wanted.push(to);
        }
        let read = self.read_headers(HeaderRequest::History, &unknown(wanted, known)).await?;
        let header = |number: u64| known.iter().chain(&read).find(|header| header.number == number);
        if !has_end {
            end_hash =
                header(to).map(|header| header.hash).ok_or_else(|| Failure::Failed(format!("no header {to}")))?;
        }
        for number in numbers.into_iter().filter(|number| *number <= to) {
            let Some(header) = header(number) else { return Err(Failure::Failed(format!("no header {number}"))) };
            let claim = Claim { index, logs: of(number, &logs).to_vec() };
            let told_logs = claim.logs.clone();
            let claims = if told_logs.iter().all(|log| log.block_hash == header.hash.0) { vec![claim] } else { vec![] };
            let settled = self.settle(header, union, claims).await?;
            self.doubted(number, doubts_about(header, union, &told_logs), &told_logs, &settled);
            logs.retain(|log| log.block_number != number);
            let at = logs.partition_point(|log| log.block_number < number);
            logs.splice(at..at, settled.logs);
        }
        Ok(Ranged { logs, to, end_hash })
    }

    /// The beginning of a range, each block read for itself.
    async fn each_of_range(&self, from: u64, to: u64, union: &Union, known: &[Header]) -> Result<Ranged, Failure> {
        let to = to.min(from + SETTLED_MAX as u64 - 1);
        let read = self.read_headers(HeaderRequest::History, &unknown(from..=to, known)).await?;
        let (mut logs, mut end) = (Vec::new(), None);
        for number in from..=to {
            let header = known.iter().chain(&read).find(|header| header.number == number);
            let Some(header) = header else { return Err(Failure::Failed(format!("no header {number}"))) };
            match (self.read_block_logs(std::slice::from_ref(header), union).await, end) {
                (Ok(read), _) => logs.extend(read.into_iter().flatten()),
                // What is read is handed on.
                (Err(_), Some((to, end_hash))) => return Ok(Ranged { logs, to, end_hash }),
                (Err(failure), None) => return Err(failure),
            }
            end = Some((number, header.hash));
        }
        let (to, end_hash) = end.ok_or_else(|| Failure::Failed(format!("no block from {from} to {to}")))?;
        Ok(Ranged { logs, to, end_hash })
    }

    /// Fills in the time of each log: from its header where that is known, else as the node told it, unless its times have
    /// been found to be wrong.
    async fn date(&self, index: usize, logs: Vec<wire::ReadLog>, known: &[Header]) -> Result<Vec<Log>, Failure> {
        let dates = self.shared.endpoints[index].shape().dates;
        let undated = logs.iter().filter(|read| !(read.dated && dates));
        let undated: BTreeSet<u64> = undated.map(|read| read.log.block_number).collect();
        let read = self.read_headers(HeaderRequest::History, &unknown(undated, known)).await?;
        let headers: std::collections::HashMap<u64, &Header> =
            known.iter().chain(&read).map(|header| (header.number, header)).collect();
        let mut dated = Vec::with_capacity(logs.len());
        for mut read in logs {
            match headers.get(&read.log.block_number) {
                Some(header) if header.hash.0.as_slice() != read.log.block_hash.as_slice() => {
                    let number = read.log.block_number;
                    return Err(Failure::Failed(format!("logs and header of block {number} disagree")));
                }
                Some(header) => read.log.block_timestamp = header.timestamp_s.saturating_mul(1_000),
                None => {}
            }
            dated.push(read.log);
        }
        Ok(dated)
    }
}

/// The blocks whose headers are not known.
fn unknown(numbers: impl IntoIterator<Item = u64>, known: &[Header]) -> Vec<u64> {
    numbers.into_iter().filter(|number| !known.iter().any(|header| header.number == *number)).collect()
}

fn up_to(mut logs: Vec<wire::ReadLog>, to: u64) -> Vec<wire::ReadLog> {
    logs.retain(|read| read.log.block_number <= to);
    logs
}

/// Whether two answers tell the same logs of a block, whatever they say of its time.
fn same_logs(one: &[Log], other: &[Log]) -> bool {
    let same = |(one, other): (&Log, &Log)| {
        let timeless = |log: &Log| Log { block_timestamp: 0, ..log.clone() };
        timeless(one) == timeless(other)
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// Whether an endpoint gives logs of a block another time than the block has.
fn is_misdated(header: &Header, told: &Told) -> bool {
    let time = header.timestamp_s.saturating_mul(1_000);
    told.logs
        .iter()
        .any(|read| read.log.block_number == header.number && read.dated && read.log.block_timestamp != time)
}
