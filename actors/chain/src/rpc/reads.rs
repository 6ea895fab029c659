//! What the tracker reads from nodes, and what of it is believed.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use alloy::primitives::{Bloom, BloomInput};
use nexum_host_ifaces::{Hash, types::Log};
use serde_json::{Value, json, value::RawValue};

use super::{BATCH_MAX, RpcBackend, endpoint::raw, errors::CallError, follow::by_number, wire};
use crate::{
    filter::{Union, doubtful_when_empty},
    header::Header,
    tracker::{Failure, Tag},
};

const OTHER_HEADER: &str = "a header that was not asked for";
/// How long a second opinion on a range is worth, and one on a block from an endpoint that seems to be down.
const WITNESS: Duration = Duration::from_secs(1);
/// A lone node that seems not to have indexed a block's logs yet is asked once more after this long.
const INDEXING: Duration = Duration::from_millis(100);

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Failed(error.message())
    }
}

/// Whether a number is missing among all logs of a block, which are in order.
fn has_gap(logs: &[Log]) -> bool {
    (0..).zip(logs).any(|(index, log)| log.log_index != index)
}

fn bloom_of(logs: &[Log]) -> Bloom {
    let mut bloom = Bloom::default();
    for log in logs {
        bloom.accrue(BloomInput::Raw(&log.address));
        log.topics.iter().for_each(|topic| bloom.accrue(BloomInput::Raw(topic)));
    }
    bloom
}

/// Why an answer about one block's logs cannot be; `None` when it can.
pub fn impossible(block: &Header, union: &Union, logs: &[Log]) -> Option<&'static str> {
    if logs.iter().any(|log| log.block_hash != block.hash.0 || log.block_number != block.number) {
        return Some("logs of another block");
    }
    if logs.iter().any(|log| !union.covers(log)) {
        return Some("logs that were not asked for");
    }
    let in_bloom = |bloom: &Bloom, log: &Log| {
        let bytes = |bytes: &Vec<u8>| bloom.contains_input(BloomInput::Raw(bytes));
        bytes(&log.address) && log.topics.iter().all(bytes)
    };
    match &block.bloom {
        Some(bloom) if logs.iter().any(|log| !in_bloom(bloom, log)) => Some("logs that the block's bloom excludes"),
        // Whoever asks for everything can tell what is missing. Nothing at all is another matter: see `read_block_logs`.
        Some(bloom) if union.is_everything() && !logs.is_empty() && (has_gap(logs) || bloom_of(logs) != **bloom) => {
            Some("a block's logs were left out")
        }
        _ => None,
    }
}

/// What every node serves, and what it may not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Blocks,
    /// Blocks that nothing links to the followed chain.
    History,
    Tags,
}

impl RpcBackend {
    /// Asks every endpoint in turn, best first, each once, until one has all of these headers, which are `wanted`.
    async fn first(
        &self,
        asked: Asked,
        requests: &[(&str, &RawValue)],
        highest: u64,
        wanted: impl Fn(&[Header]) -> bool,
    ) -> Result<Option<Vec<Header>>, CallError> {
        let mut result = Err(CallError::unavailable("no endpoint may be used"));
        for (nth, index) in self.shared.order().into_iter().enumerate() {
            if nth > 0 {
                self.shared.fell_back();
            }
            let answer = match asked {
                Asked::History => self.ask_history(index, requests, highest).await,
                _ => self.ask_headers(index, asked, requests).await,
            };
            match answer {
                Ok(Some(found)) if wanted(&found) => return Ok(Some(found)),
                Ok(Some(_)) => {
                    self.shared.lied(index, OTHER_HEADER);
                    if result.is_err() {
                        result = Err(CallError::nonsense(OTHER_HEADER));
                    }
                }
                Ok(None) => result = Ok(None),
                Err(error) => {
                    if result.is_err() {
                        result = Err(error);
                    }
                }
            }
        }
        result
    }

    /// These headers, or `None` when one of them is not there.
    async fn ask_headers(
        &self,
        index: usize,
        asked: Asked,
        requests: &[(&str, &RawValue)],
    ) -> Result<Option<Vec<Header>>, CallError> {
        let answers = self.shared.send(index, requests, self.shared.config.timeout, requests.len() > 1).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) if error.is_unknown_block() => return Ok(None),
            Err(error) => {
                if asked != Asked::Tags {
                    self.refused(index, &error);
                }
                return Err(error);
            }
        };
        let mut headers = Vec::with_capacity(requests.len());
        for answer in answers {
            let json = match answer {
                Err(error) if error.is_unknown_block() => return Ok(None),
                answer => answer.inspect_err(|error| self.shared.let_down(index, error))?,
            };
            let header = wire::header(json.get()).map_err(|error| CallError::nonsense(error.to_string()));
            match header.inspect_err(|error| self.misread(index, error))? {
                Some(header) => headers.push(header),
                None => return Ok(None),
            }
        }
        Ok(Some(headers))
    }

    /// These headers from an endpoint that is on the followed chain; as if they were not there from any other. One may be
    /// stuck on a branch that everybody else has left, long enough ago that no link would show it.
    async fn ask_history(
        &self,
        index: usize,
        requests: &[(&str, &RawValue)],
        highest: u64,
    ) -> Result<Option<Vec<Header>>, CallError> {
        let (found, ours) =
            tokio::join!(self.ask_headers(index, Asked::History, requests), self.is_ours(index, highest));
        Ok(found?.filter(|_| matches!(ours, Ok(true))))
    }

    /// Whether what an endpoint says of blocks up to `highest` is of the followed chain, as far as can be told.
    async fn is_ours(&self, index: usize, highest: u64) -> Result<bool, CallError> {
        let Some(anchor) = self.shared.agreement().anchor(index, highest) else { return Ok(true) };
        let params = by_number(anchor.0)?;
        let found = self.ask_headers(index, Asked::History, &[("eth_getBlockByNumber", &*params)]).await?;
        let ours = found.is_some_and(|headers| headers.iter().all(|header| header.hash == anchor.1));
        if ours {
            self.shared.agreement().vouch(index, anchor);
        }
        Ok(ours)
    }

    /// An endpoint refused a read that every node serves. `Shared::send` lets that pass, for modules ask what they like.
    fn refused(&self, index: usize, error: &CallError) {
        let excused = error.is_rate_limit() || error.is_too_large() || error.is_unknown_block();
        if matches!(error, CallError::Node { .. }) && !excused {
            self.shared.let_down(index, error);
        }
    }

    /// An answer that arrived cannot be used.
    fn misread(&self, index: usize, error: &CallError) {
        self.shared.endpoints[index].went_wrong(error);
        self.shared.let_down(index, error);
    }

    pub(super) async fn read_header(&self, hash: Hash) -> Result<Option<Header>, Failure> {
        let params = raw(&(hash.to_string(), false))?;
        let is_wanted = |found: &[Header]| found.iter().all(|header| header.hash == hash);
        let found = self.first(Asked::Blocks, &[("eth_getBlockByHash", &params)], 0, is_wanted).await?;
        Ok(found.and_then(|mut headers| headers.pop()))
    }

    pub(super) async fn read_tagged(&self, tag: Tag) -> Result<Option<Header>, Failure> {
        let params = raw(&(if tag == Tag::Safe { "safe" } else { "finalized" }, false))?;
        let found = self.first(Asked::Tags, &[("eth_getBlockByNumber", &params)], 0, |_| true).await?;
        Ok(found.and_then(|mut headers| headers.pop()))
    }

    pub(super) async fn read_headers(&self, asked: Asked, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        let mut headers = Vec::with_capacity(numbers.len());
        let mut rest = numbers;
        while !rest.is_empty() {
            let count = rest.len().min(self.batch_max.load(Ordering::Relaxed).max(1));
            let (chunk, after) = rest.split_at(count);
            let params = chunk.iter().map(|number| by_number(*number)).collect::<Result<Vec<_>, _>>()?;
            let requests: Vec<(&str, &RawValue)> =
                params.iter().map(|params| ("eth_getBlockByNumber", &**params)).collect();
            let are_wanted = |found: &[Header]| found.iter().map(|header| &header.number).eq(chunk);
            let highest = chunk.iter().copied().max().unwrap_or(0);
            match self.first(asked, &requests, highest, are_wanted).await {
                Ok(Some(found)) => {
                    headers.extend(found);
                    rest = after;
                    self.batch_max.fetch_max(BATCH_MAX.min(count + 1), Ordering::Relaxed);
                }
                Ok(_) => {
                    let (from, to) = (chunk.first().unwrap_or(&0), chunk.last().unwrap_or(&0));
                    return Err(Failure::Failed(format!("no endpoint has all of blocks {from} to {to}")));
                }
                Err(error) if count > 1 && refuses_batches(&error) => {
                    self.batch_max.store(count / 2, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(headers)
    }

    async fn ask_logs(
        &self,
        index: usize,
        filter: Value,
        range: bool,
        patience: Duration,
    ) -> Result<Vec<wire::ReadLog>, CallError> {
        let params = raw(&[filter])?;
        let answers = self.shared.send(index, &[("eth_getLogs", &params)], patience, range).await;
        let mut answers = answers.inspect_err(|error| self.refused(index, error))?;
        let json = answers.pop().unwrap_or_else(|| Err(CallError::nonsense("it is empty")))?;
        let logs = wire::logs(self.shared.config.chain_id, json.get()).map_err(CallError::nonsense);
        logs.inspect_err(|error| self.misread(index, error))
    }

    pub(super) async fn read_block_logs(&self, block: &Header, union: &Union) -> Result<Vec<Log>, Failure> {
        let mut filter = union.to_json();
        filter.insert("blockHash".into(), json!(block.hash.to_string()));
        let filter = Value::Object(filter);
        let mut failure = Failure::Failed("no endpoint may be used".into());
        let order = self.shared.order();
        let bloom = block.bloom.as_deref();
        // A second opinion costs one request. Whoever is alone is asked again only when it is hard to believe.
        let doubtful = match order.len() {
            1 => doubtful_when_empty(union, bloom),
            _ => bloom.is_some_and(|bloom| union.possible_in(bloom)),
        };
        // Endpoints that say nothing was logged, although the bloom says that something may have been.
        let mut doubted = Vec::new();
        for (nth, index) in order.into_iter().enumerate() {
            let mut patience = self.shared.config.timeout;
            if !doubted.is_empty() {
                self.shared.confirms();
                // Whoever seemed to be down may be back, and is not worth a long wait at each block.
                if !self.shared.is_up(index) {
                    patience = patience.min(WITNESS);
                }
            } else if nth > 0 {
                self.shared.fell_back();
            }
            match self.block_logs_from(index, &filter, block, union, patience).await {
                Ok(logs) if logs.is_empty() && doubtful => {
                    doubted.push(index);
                    if doubted.len() > 1 {
                        return Ok(logs);
                    }
                }
                Ok(logs) => {
                    for index in doubted.into_iter().filter(|_| !logs.is_empty()) {
                        self.shared.lied(index, "a block's logs were left out");
                    }
                    return Ok(logs);
                }
                Err(error) => failure = error,
            }
        }
        let Some(index) = doubted.first() else { return Err(failure) };
        tokio::time::sleep(INDEXING).await;
        self.block_logs_from(*index, &filter, block, union, self.shared.config.timeout).await
    }

    async fn block_logs_from(
        &self,
        index: usize,
        filter: &Value,
        block: &Header,
        union: &Union,
        patience: Duration,
    ) -> Result<Vec<Log>, Failure> {
        let logs = self.ask_logs(index, filter.clone(), false, patience).await?;
        let mut logs: Vec<Log> = logs.into_iter().map(|read| read.log).collect();
        if let Some(what) = impossible(block, union, &logs) {
            self.shared.lied(index, what);
            return Err(Failure::Failed(what.into()));
        }
        for log in &mut logs {
            log.block_timestamp = block.timestamp_s.saturating_mul(1_000);
        }
        Ok(logs)
    }

    pub(super) async fn read_range_logs(&self, from: u64, to: u64, union: &Union) -> Result<(Vec<Log>, Hash), Failure> {
        let mut filter = union.to_json();
        filter.insert("fromBlock".into(), json!(format!("{from:#x}")));
        filter.insert("toBlock".into(), json!(format!("{to:#x}")));
        let filter = Value::Object(filter);
        let mut failure = Failure::Failed("no endpoint may be used".into());
        // Endpoints that say nothing was logged. History is what a node may have pruned, and says nothing about.
        let mut doubted: Vec<(usize, Hash)> = Vec::new();
        let order = self.shared.order();
        for (nth, index) in order.iter().copied().enumerate() {
            let mut patience = self.shared.config.timeout;
            if !doubted.is_empty() {
                if !self.shared.is_up(index) {
                    continue;
                }
                self.shared.confirms();
                patience = patience.min(WITNESS);
            } else if nth > 0 {
                self.shared.fell_back();
            }
            match self.range_from(index, filter.clone(), from, to, patience).await {
                Ok(Some((logs, end_hash))) => {
                    let fits = |log: &Log| (from..=to).contains(&log.block_number) && union.covers(log);
                    let what = match logs.iter().all(|read| fits(&read.log)) {
                        true => self.sample(&logs, union).await?,
                        false => Some("logs that were not asked for"),
                    };
                    match what {
                        Some(what) => {
                            self.shared.lied(index, what);
                            failure = Failure::Failed(what.into());
                        }
                        None if logs.is_empty() && doubted.is_empty() => doubted.push((index, end_hash)),
                        None => {
                            for (index, _) in doubted.into_iter().filter(|_| !logs.is_empty()) {
                                self.shared.lied(index, "logs of a range were left out");
                            }
                            return Ok((self.date(logs).await?, end_hash));
                        }
                    }
                }
                Ok(None) => failure = Failure::Failed(format!("an endpoint does not have block {to}")),
                // Before another endpoint is bothered, a smaller question is tried; but not for a second opinion's sake.
                Err(error @ Failure::TooLarge(_)) if doubted.is_empty() => return Err(error),
                Err(error) => failure = error,
            }
        }
        // Nobody else could say anything.
        doubted.pop().map(|(_, end_hash)| (Vec::new(), end_hash)).ok_or(failure)
    }

    /// A range's logs as one endpoint tells them, and the hash of its last block. `None` when the endpoint does not have
    /// that block: it would leave out what it has not seen, without a word.
    async fn range_from(
        &self,
        index: usize,
        filter: Value,
        from: u64,
        to: u64,
        patience: Duration,
    ) -> Result<Option<(Vec<wire::ReadLog>, Hash)>, Failure> {
        let params = by_number(to)?;
        let request = [("eth_getBlockByNumber", &*params)];
        let end = self.ask_headers(index, Asked::Blocks, &request);
        let logs = self.ask_logs(index, filter, to > from, patience);
        let (end, logs) = if self.shared.has_told(index, to) {
            tokio::join!(end, logs)
        } else {
            // It may get the block any moment now: only logs asked for afterwards are all of them.
            let Some(end) = end.await? else { return Ok(None) };
            (Ok(Some(end)), logs.await)
        };
        // Logs of another branch name other blocks, and nobody would know.
        if !self.is_ours(index, to).await? {
            return Ok(None);
        }
        let end = end?.and_then(|headers| headers.into_iter().find(|header| header.number == to));
        let logs = logs.map_err(|error| match to > from && error.is_too_large() {
            true => Failure::TooLarge(error.message()),
            false => error.into(),
        })?;
        Ok(end.map(|end| (logs, end.hash)))
    }

    /// Compares some of the blocks that a range's logs name with their headers; why it cannot be, when it cannot.
    async fn sample(&self, logs: &[wire::ReadLog], union: &Union) -> Result<Option<&'static str>, Failure> {
        let places = [0, logs.len() / 2, logs.len().saturating_sub(1)];
        let numbers: BTreeSet<u64> =
            places.iter().filter_map(|place| logs.get(*place)).map(|read| read.log.block_number).collect();
        let numbers: Vec<u64> = numbers.into_iter().collect();
        let headers = self.read_headers(Asked::History, &numbers).await?;
        let wrong = headers.iter().find_map(|header| {
            let of_block = logs.iter().filter(|read| read.log.block_number == header.number);
            impossible(header, union, &of_block.map(|read| read.log.clone()).collect::<Vec<_>>())
        });
        Ok(wrong)
    }

    /// Fills in timestamps that the node did not tell.
    async fn date(&self, logs: Vec<wire::ReadLog>) -> Result<Vec<Log>, Failure> {
        let undated: BTreeSet<u64> = logs.iter().filter(|read| !read.dated).map(|read| read.log.block_number).collect();
        let undated: Vec<u64> = undated.into_iter().collect();
        let headers = self.read_headers(Asked::History, &undated).await?;
        let mut dated = Vec::with_capacity(logs.len());
        for mut read in logs {
            if !read.dated {
                let header = undated.binary_search(&read.log.block_number).ok().and_then(|index| headers.get(index));
                let header = header.filter(|header| header.hash.0.as_slice() == read.log.block_hash.as_slice());
                let header = header.ok_or_else(|| {
                    Failure::Failed(format!("logs and header of block {} disagree", read.log.block_number))
                })?;
                read.log.block_timestamp = header.timestamp_s.saturating_mul(1_000);
            }
            dated.push(read.log);
        }
        Ok(dated)
    }
}

/// Whether a node refuses a batch for being one, or too long.
fn refuses_batches(error: &CallError) -> bool {
    match error {
        // It asks for a pause, not for smaller batches.
        error if error.is_rate_limit() => false,
        CallError::Node { message, .. } => {
            let message = message.to_lowercase();
            message.contains("batch") || message.contains("too many") || error.is_too_large()
        }
        CallError::Transport { .. } | CallError::Paced => error.is_too_large(),
    }
}
