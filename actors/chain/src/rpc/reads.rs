//! What the tracker reads from nodes, and what of it is believed.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use alloy::primitives::Bloom;
use nexum_host_ifaces::{Hash, types::Log};
use serde_json::{Value, json, value::RawValue};

use super::{
    RpcBackend,
    endpoint::{Endpoint, raw},
    errors::CallError,
    follow::by_number,
    wire,
};
use crate::{
    filter::{Union, doubtful_when_empty},
    header::Header,
    tracker::{Failure, Tag},
};

/// A lone node that seems not to have indexed a block's logs yet is asked once more after this long.
const INDEXING: Duration = Duration::from_millis(100);

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Failed(error.message())
    }
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
        let bytes = |bytes: &Vec<u8>| bloom.contains_input(alloy::primitives::BloomInput::Raw(bytes));
        bytes(&log.address) && log.topics.iter().all(bytes)
    };
    match &block.bloom {
        Some(bloom) if logs.iter().any(|log| !in_bloom(bloom, log)) => Some("logs that the block's bloom excludes"),
        _ => None,
    }
}

impl RpcBackend {
    /// Asks every endpoint in turn, best first, each once, until one has all of these headers.
    async fn first(&self, requests: &[(&str, &RawValue)]) -> Result<Option<Vec<Header>>, CallError> {
        let mut result = Err(CallError::unavailable("no endpoint may be used"));
        for (nth, index) in self.shared.order().into_iter().enumerate() {
            if nth > 0 {
                self.shared.fell_back();
            }
            match self.ask_headers(&self.shared.endpoints[index], requests).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => result = Ok(None),
                Err(error) => {
                    self.shared.let_down(index, &error);
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
        endpoint: &Endpoint,
        requests: &[(&str, &RawValue)],
    ) -> Result<Option<Vec<Header>>, CallError> {
        let answers = endpoint.send(requests, self.shared.config.timeout).await?;
        let mut headers = Vec::with_capacity(requests.len());
        for answer in answers {
            match wire::header(answer?.get()).map_err(|error| CallError::nonsense(error.to_string()))? {
                Some(header) => headers.push(header),
                None => return Ok(None),
            }
        }
        Ok(Some(headers))
    }

    pub(super) async fn read_header(&self, hash: Hash) -> Result<Option<Header>, Failure> {
        let params = raw(&(hash.to_string(), false))?;
        let found = self.first(&[("eth_getBlockByHash", &params)]).await?;
        Ok(found.and_then(|mut headers| headers.pop()).filter(|header| header.hash == hash))
    }

    pub(super) async fn read_tagged(&self, tag: Tag) -> Result<Option<Header>, Failure> {
        let params = raw(&(if tag == Tag::Safe { "safe" } else { "finalized" }, false))?;
        let found = self.first(&[("eth_getBlockByNumber", &params)]).await?;
        Ok(found.and_then(|mut headers| headers.pop()))
    }

    pub(super) async fn read_headers(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        let mut headers = Vec::with_capacity(numbers.len());
        let mut rest = numbers;
        while !rest.is_empty() {
            let count = rest.len().min(self.batch_max.load(Ordering::Relaxed).max(1));
            let (chunk, after) = rest.split_at(count);
            let params = chunk.iter().map(|number| by_number(*number)).collect::<Result<Vec<_>, _>>()?;
            let requests: Vec<(&str, &RawValue)> =
                params.iter().map(|params| ("eth_getBlockByNumber", &**params)).collect();
            match self.first(&requests).await {
                Ok(Some(found)) if found.iter().map(|header| &header.number).eq(chunk) => {
                    headers.extend(found);
                    rest = after;
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

    async fn ask_logs(&self, endpoint: &Endpoint, filter: Value) -> Result<Vec<wire::ReadLog>, CallError> {
        let params = raw(&[filter])?;
        let json = endpoint.call("eth_getLogs", &params, self.shared.config.timeout).await?;
        wire::logs(self.shared.config.chain_id, json.get()).map_err(CallError::nonsense)
    }

    pub(super) async fn read_block_logs(&self, block: &Header, union: &Union) -> Result<Vec<Log>, Failure> {
        let mut filter = union.to_json();
        filter.insert("blockHash".into(), json!(block.hash.to_string()));
        let filter = Value::Object(filter);
        let mut failure = Failure::Failed("no endpoint may be used".into());
        // Endpoints that say nothing was logged, although the bloom makes that hard to believe.
        let mut doubted = Vec::new();
        for (nth, index) in self.shared.order().into_iter().enumerate() {
            if nth > 0 {
                self.shared.fell_back();
            }
            match self.block_logs_from(index, &filter, block, union).await {
                Ok(logs) if logs.is_empty() && doubtful_when_empty(union, block.bloom.as_deref()) => {
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
        self.block_logs_from(*index, &filter, block, union).await
    }

    async fn block_logs_from(
        &self,
        index: usize,
        filter: &Value,
        block: &Header,
        union: &Union,
    ) -> Result<Vec<Log>, Failure> {
        let logs = match self.ask_logs(&self.shared.endpoints[index], filter.clone()).await {
            Ok(logs) => logs,
            Err(error) => {
                self.shared.let_down(index, &error);
                return Err(error.into());
            }
        };
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

    pub(super) async fn read_range_logs(&self, from: u64, to: u64, union: &Union) -> Result<Vec<Log>, Failure> {
        let mut filter = union.to_json();
        filter.insert("fromBlock".into(), json!(format!("{from:#x}")));
        filter.insert("toBlock".into(), json!(format!("{to:#x}")));
        let filter = Value::Object(filter);
        let mut failure = Failure::Failed("no endpoint may be used".into());
        for (nth, index) in self.shared.order().into_iter().enumerate() {
            if nth > 0 {
                self.shared.fell_back();
            }
            match self.ask_logs(&self.shared.endpoints[index], filter.clone()).await {
                Ok(logs) => {
                    let fits = |log: &Log| (from..=to).contains(&log.block_number) && union.covers(log);
                    if logs.iter().all(|read| fits(&read.log)) {
                        return self.date(logs).await;
                    }
                    self.shared.lied(index, "logs that were not asked for");
                    failure = Failure::Failed("logs that were not asked for".into());
                }
                // Before another endpoint is bothered, a smaller question is tried.
                Err(error) if to > from && error.is_too_large() => return Err(Failure::TooLarge(error.message())),
                Err(error) => {
                    self.shared.let_down(index, &error);
                    failure = error.into();
                }
            }
        }
        Err(failure)
    }

    /// Fills in timestamps that the node did not tell.
    async fn date(&self, logs: Vec<wire::ReadLog>) -> Result<Vec<Log>, Failure> {
        let undated: BTreeSet<u64> = logs.iter().filter(|read| !read.dated).map(|read| read.log.block_number).collect();
        let undated: Vec<u64> = undated.into_iter().collect();
        let headers = self.read_headers(&undated).await?;
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
        CallError::Node { message, .. } => {
            let message = message.to_lowercase();
            message.contains("batch") || message.contains("too many") || error.is_too_large()
        }
        CallError::Transport { .. } | CallError::Paced => error.is_too_large(),
    }
}
