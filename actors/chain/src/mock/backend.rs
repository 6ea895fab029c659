//! The backend over a mock chain: the same reads as a node serves, with scripted faults.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use nexum_host_ifaces::{
    Address, Hash, HostError, HostErrorKind,
    clock::Clock,
    interfaces::chain::port::{CODE_BLOCK_GONE, EndpointAnswer, EndpointStatus, Final},
    types::Log,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::chain::{Called, FaultKind, MockBlock, MockChain};
use crate::{
    backend::{Ask, Backend, Bounds, Ranged, Seen, Survey},
    filter::Union,
    header::Header,
    tracker::{Failure, Tag},
    usage::Usage,
};

/// Heads told at once when many blocks were made since the last look.
const HEADS_PER_LOOK: usize = 32;
/// What geth says for a reverted call.
const CODE_REVERTED: i32 = 3;
const CODE_UNKNOWN_METHOD: i32 = -32601;
const CODE_BAD_PARAMS: i32 = -32602;
const CODE_FAULT: i32 = -32000;
/// The name of its one endpoint.
const NAME: &str = "mock";

pub struct MockBackend {
    chain: MockChain,
    clock: Arc<dyn Clock>,
    /// Blocks come by themselves.
    plays: bool,
    usage: Usage,
}

impl MockBackend {
    pub fn playing(chain: MockChain, clock: Arc<dyn Clock>, usage: Usage) -> Self {
        chain.date_from(clock.now_ms() / 1_000);
        Self { chain, clock, plays: true, usage }
    }

    pub fn manual(chain: MockChain, clock: Arc<dyn Clock>, usage: Usage) -> Self {
        Self { chain, clock, plays: false, usage }
    }

    async fn fault(&self, method: &str) -> Result<(), Failure> {
        match self.chain.fault(method) {
            None => Ok(()),
            Some(FaultKind::Error) => Err(Failure::Failed(format!("scripted fault of {method}"))),
            Some(FaultKind::Stall) => std::future::pending().await,
        }
    }

    async fn play(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(self.chain.interval_ms()));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if !self.chain.play() {
                return;
            }
        }
    }

    async fn tell(&self, heads: mpsc::Sender<Seen>) {
        let mut moved = self.chain.heads();
        let mut told: Option<(u64, Hash)> = None;
        loop {
            moved.mark_unchanged();
            let on_chain = told
                .is_some_and(|(number, hash)| self.chain.block(number).is_some_and(|block| block.header.hash == hash));
            // At first and after a reorg the newest block alone is told, as a node's subscription would.
            let mut fresh = match told {
                Some((number, _)) if on_chain => self.chain.headers_above(Some(number), HEADS_PER_LOOK),
                _ => self.chain.block(self.chain.head().0).map(|block| block.header).into_iter().collect(),
            };
            let more = fresh.len() == HEADS_PER_LOOK;
            for header in fresh.drain(..) {
                if self.chain.fault("heads").is_some() {
                    continue;
                }
                told = Some((header.number, header.hash));
                let seen = Seen { header, seen_ns: self.clock.monotonic_ns() };
                if heads.send(seen).await.is_err() {
                    return;
                }
            }
            if !more && moved.changed().await.is_err() {
                return;
            }
        }
    }

    fn number_of(&self, tag: &Value) -> Result<u64, HostError> {
        let head = self.chain.head().0;
        let behind = |blocks: u64| head.saturating_sub(blocks).max(self.chain.first_number());
        match tag.as_str() {
            None | Some("latest" | "pending") => Ok(head),
            Some("earliest") => Ok(self.chain.first_number()),
            Some("safe") => Ok(behind(self.chain.safe_lag())),
            Some("finalized") => Ok(behind(self.chain.safe_lag() * 2)),
            Some(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16)
                .map_err(|_| bad_params(format!("`{text}` is not a block"))),
        }
    }

    /// The answer to a request, unless a fault is scripted.
    async fn respond(&self, method: &str, params: &str, deadline: Duration) -> Result<String, HostError> {
        match self.chain.fault(method) {
            None => self.answer(method, params),
            Some(FaultKind::Error) => {
                let message = format!("scripted fault of {method}");
                Err(HostError::new("chain", HostErrorKind::Internal, message).with_code(CODE_FAULT))
            }
            Some(FaultKind::Stall) => {
                tokio::time::sleep(deadline).await;
                Err(HostError::new("chain", HostErrorKind::Timeout, format!("{method} was not answered in time")))
            }
        }
    }

    fn answer(&self, method: &str, params: &str) -> Result<String, HostError> {
        let params: Value = serde_json::from_str(params).map_err(|error| bad_params(error.to_string()))?;
        let param = |index: usize| params.get(index).unwrap_or(&Value::Null);
        let result = match method {
            "eth_blockNumber" => json!(quantity(self.chain.head().0)),
            "eth_chainId" => json!(quantity(self.chain.chain_id())),
            "net_version" => json!(self.chain.chain_id().to_string()),
            "eth_gasPrice" => json!(quantity(1_000_000_000)),
            "eth_maxPriorityFeePerGas" => json!(quantity(1_000_000)),
            "eth_estimateGas" => json!(quantity(21_000)),
            "eth_getBalance" => json!(quantity(1_000_000_000_000_000_000)),
            "eth_getTransactionCount" => json!(quantity(0)),
            "eth_getCode" => {
                let address = address(param(0))?;
                json!(if self.chain.is_contract(&address) { "0x00" } else { "0x" })
            }
            "eth_getStorageAt" => json!(Hash::default().to_string()),
            "eth_call" => return self.call(param(0), param(1)),
            "eth_getBlockByNumber" => {
                let block = self.chain.block(self.number_of(param(0))?);
                block.as_ref().map_or(Value::Null, block_json)
            }
            "eth_getBlockByHash" => {
                let block = hash(param(0)).ok().and_then(|hash| self.chain.block_by_hash(&hash));
                block.as_ref().map_or(Value::Null, block_json)
            }
            "eth_getLogs" => self.logs(param(0))?,
            _ => {
                let message = format!("the method {method} does not exist");
                let error = HostError::new("chain", HostErrorKind::InvalidInput, message);
                return Err(error.with_code(CODE_UNKNOWN_METHOD));
            }
        };
        Ok(result.to_string())
    }

    fn call(&self, call: &Value, block: &Value) -> Result<String, HostError> {
        let to = address(&call["to"])?;
        let data = call.get("input").or(call.get("data")).and_then(Value::as_str).unwrap_or("0x");
        let data = hex::decode(data.trim_start_matches("0x")).map_err(|error| bad_params(error.to_string()))?;
        let number = match block.get("blockHash") {
            Some(block_hash) => {
                let block = self.chain.block_by_hash(&hash(block_hash)?);
                let gone = || {
                    HostError::new("chain", HostErrorKind::Unavailable, "the block is not on the chain")
                        .with_code(CODE_BLOCK_GONE)
                };
                block.ok_or_else(gone)?.header.number
            }
            None => self.number_of(block.get("blockNumber").unwrap_or(block))?,
        };
        match self.chain.call(to, &data, number) {
            Some(Called::Returned(bytes)) => Ok(json!(format!("0x{}", hex::encode(bytes))).to_string()),
            Some(Called::Reverted(bytes)) => {
                Err(HostError::new("chain", HostErrorKind::InvalidInput, "execution reverted")
                    .with_code(CODE_REVERTED)
                    .with_data(format!("0x{}", hex::encode(bytes))))
            }
            None => Ok(json!("0x").to_string()),
        }
    }

    fn logs(&self, filter: &Value) -> Result<Value, HostError> {
        let (from, to) = match filter.get("blockHash") {
            Some(block_hash) => {
                let block = self.chain.block_by_hash(&hash(block_hash)?);
                let number = block.ok_or_else(|| bad_params("unknown block".into()))?.header.number;
                (number, number)
            }
            None => (self.number_of(&filter["fromBlock"])?, self.number_of(&filter["toBlock"])?),
        };
        let listed = |value: &Value, text: &str| match value {
            Value::Null => true,
            Value::String(one) => one.eq_ignore_ascii_case(text),
            Value::Array(any) => {
                any.is_empty() || any.iter().any(|v| v.as_str().is_some_and(|one| one.eq_ignore_ascii_case(text)))
            }
            _ => false,
        };
        let none = vec![];
        let topics = filter["topics"].as_array().unwrap_or(&none);
        let wanted = |log: &Log| {
            listed(&filter["address"], &bytes_json(&log.address))
                && topics.iter().enumerate().all(|(position, wanted)| match log.topics.get(position) {
                    Some(topic) => listed(wanted, &bytes_json(topic)),
                    None => wanted.is_null(),
                })
        };
        let blocks = (from..=to).map_while(|number| self.chain.block(number));
        Ok(blocks.flat_map(|block| block.logs).filter(wanted).map(|log| log_json(&log)).collect())
    }
}

fn quantity(number: u64) -> String {
    format!("{number:#x}")
}

fn bytes_json(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn bad_params(message: String) -> HostError {
    HostError::new("chain", HostErrorKind::InvalidInput, message).with_code(CODE_BAD_PARAMS)
}

fn address(value: &Value) -> Result<Address, HostError> {
    value.as_str().unwrap_or_default().parse().map_err(bad_params)
}

fn hash(value: &Value) -> Result<Hash, HostError> {
    value.as_str().unwrap_or_default().parse().map_err(bad_params)
}

fn block_json(block: &MockBlock) -> Value {
    let header = &block.header;
    json!({
        "number": quantity(header.number),
        "hash": header.hash.to_string(),
        "parentHash": header.parent.to_string(),
        "timestamp": quantity(header.timestamp_s),
        "logsBloom": header.bloom.as_ref().map(|bloom| bytes_json(bloom.as_slice())),
        "gasUsed": "0x0", "gasLimit": "0x1c9c380", "baseFeePerGas": "0x3b9aca00", "transactions": [],
    })
}

fn log_json(log: &Log) -> Value {
    json!({
        "address": bytes_json(&log.address),
        "topics": log.topics.iter().map(|topic| bytes_json(topic)).collect::<Vec<_>>(),
        "data": bytes_json(&log.data),
        "blockNumber": quantity(log.block_number),
        "blockHash": bytes_json(&log.block_hash),
        "blockTimestamp": quantity(log.block_timestamp / 1_000),
        "transactionHash": bytes_json(&log.transaction_hash),
        "transactionIndex": quantity(log.transaction_index.into()),
        "logIndex": quantity(log.log_index.into()),
        "removed": false,
    })
}

#[async_trait]
impl Backend for MockBackend {
    async fn follow(&self, heads: mpsc::Sender<Seen>) {
        if self.plays {
            tokio::join!(self.play(), self.tell(heads));
        } else {
            self.tell(heads).await;
        }
    }

    async fn history(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        self.headers(numbers).await
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Header>, Failure> {
        self.fault("headers").await?;
        let header = |number: &u64| {
            let block = self.chain.block(*number).map(|block| block.header);
            block.ok_or_else(|| Failure::Failed(format!("no block {number}")))
        };
        numbers.iter().map(header).collect()
    }

    async fn header(&self, hash: Hash) -> Result<Option<Header>, Failure> {
        self.fault("headers").await?;
        Ok(self.chain.block_by_hash(&hash).map(|block| block.header))
    }

    async fn tagged(&self, tag: Tag) -> Result<Option<Header>, Failure> {
        self.fault("headers").await?;
        let name = if tag == Tag::Safe { "safe" } else { "finalized" };
        let number = self.number_of(&json!(name)).map_err(|error| Failure::Failed(error.message))?;
        Ok(self.chain.block(number).map(|block| block.header))
    }

    async fn finality(&self, tag: Tag, numbers: &[u64]) -> Result<Final, Failure> {
        let through = self.tagged(tag).await?.map(|header| header.number);
        let hash = |number: &u64| {
            let block = self.chain.block(*number).filter(|_| through.is_some_and(|through| *number <= through));
            block.map(|block| block.header.hash)
        };
        Ok(Final { through, hashes: numbers.iter().map(hash).collect() })
    }

    async fn block_logs(&self, blocks: &[Header], union: &Union) -> Result<Vec<Vec<Log>>, Failure> {
        self.fault("logs").await?;
        let logs = |block: &Header| {
            let found = self.chain.block_by_hash(&block.hash);
            let found = found.ok_or_else(|| Failure::Failed(format!("no block {}", block.hash)))?;
            Ok(found.logs.into_iter().filter(|log| union.covers(log)).collect())
        };
        blocks.iter().map(logs).collect()
    }

    async fn range_logs(&self, from: u64, to: u64, union: &Union, _known: &[Header]) -> Result<Ranged, Failure> {
        self.fault("logs").await?;
        let end = self.chain.block(to).ok_or_else(|| Failure::Failed(format!("no block {to}")))?;
        let blocks = (from..=to).map_while(|number| self.chain.block(number));
        let logs = blocks.flat_map(|block| block.logs).filter(|log| union.covers(log));
        Ok(Ranged { logs: logs.collect(), to, end_hash: end.header.hash })
    }

    async fn survey(&self, known: &[(u64, Hash)]) -> Survey {
        let has =
            |(number, hash): &(u64, Hash)| self.chain.block(*number).is_some_and(|block| block.header.hash == *hash);
        match known.last().is_none_or(has) {
            true => Survey { have: 1, ..Survey::default() },
            false => Survey { contradict: 1, ..Survey::default() },
        }
    }

    async fn request(&self, method: &str, params: &str, ask: Ask<'_>) -> Result<String, HostError> {
        let answer = self.respond(method, params, ask.deadline).await;
        self.usage.sent(ask.module, method, NAME, answer.as_ref().ok().map(String::len));
        answer
    }

    async fn request_batch(
        &self,
        requests: Vec<(String, String)>,
        ask: Ask<'_>,
    ) -> Result<Vec<Result<String, HostError>>, HostError> {
        let mut answers = Vec::with_capacity(requests.len());
        for (method, params) in requests {
            answers.push(self.request(&method, &params, ask).await);
        }
        Ok(answers)
    }

    async fn request_each(
        &self,
        method: &str,
        params: &str,
        endpoints_max: usize,
        ask: Ask<'_>,
    ) -> Result<Vec<EndpointAnswer>, HostError> {
        if endpoints_max == 0 {
            return Ok(Vec::new());
        }
        let answer = self.request(method, params, ask).await;
        Ok(vec![EndpointAnswer { endpoint: NAME.to_owned(), answer }])
    }

    /// It has no transactions: this is refused like any other method that it does not know, unless a fault is scripted.
    async fn broadcast(&self, raw: &[u8], deadline: Duration, answers: mpsc::Sender<EndpointAnswer>) {
        let params = json!([bytes_json(raw)]).to_string();
        let answer = self.respond("eth_sendRawTransaction", &params, deadline).await;
        // Whoever asked may have given up.
        let _ = answers.send(EndpointAnswer { endpoint: NAME.to_owned(), answer }).await;
    }

    fn endpoints(&self) -> Vec<EndpointStatus> {
        let (name, score) = (NAME.to_owned(), 100);
        vec![EndpointStatus { name, score, connected: true, healthy: true, leads: true, ..EndpointStatus::default() }]
    }

    fn learnt(&self) -> Vec<String> {
        Vec::new()
    }

    fn read_up_to(&self, _: u64, _: &dyn Fn(u64) -> Option<Header>) {}

    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    fn distrusts_blooms(&self) -> bool {
        false
    }

    fn held_back(&self) -> Option<(String, u64)> {
        None
    }

    fn turns(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    fn want_vouched(&self, _of_anybody: bool) {}

    async fn heard(&self) {
        std::future::pending().await
    }

    async fn returned(&self) {
        std::future::pending().await
    }

    fn best_head(&self) -> Option<u64> {
        Some(self.chain.head().0)
    }
}
