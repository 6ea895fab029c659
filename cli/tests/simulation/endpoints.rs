//! What a node answers to one request: from its own view of the chain, or with the trouble it has.

use std::{sync::Arc, time::Duration};

use nexum_chain::Verify;
use serde_json::{Value, json};

use crate::{
    block::Block,
    scenario::{ByHash, Dates, Heads, contract, signature},
    world::{Chain, Node, Trouble, hexed},
};

/// An answer, after `delay`; none at all when the request or its answer is lost.
pub struct Plan {
    pub delay: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answer,
    Lost,
    Refused,
    Status(u16),
    /// A JSON-RPC error.
    Error,
}

impl Node {
    /// Draws what becomes of a request that arrives now.
    pub fn plan(&mut self, calm: bool) -> Plan {
        let mut delay_ms = self.chance.between(1, self.plan.delay_ms_max);
        if self.suffers(Trouble::Slow) {
            delay_ms += self.chance.between(500, 8_000);
        }
        let hiccup = !calm && self.chance.per_myriad(self.plan.hiccups);
        let outcome = if self.suffers(Trouble::Down) {
            Outcome::Refused
        } else if self.suffers(Trouble::Hangs) {
            Outcome::Lost
        } else if self.suffers(Trouble::Refuses) || hiccup {
            use Outcome::*;
            *self.chance.pick(&[Status(429), Status(500), Status(503), Error, Lost])
        } else {
            Outcome::Answer
        };
        Plan { delay: Duration::from_millis(delay_ms), outcome }
    }

    /// The head as it tells it; a liar may make one up.
    pub fn head(&mut self) -> Option<Value> {
        let head = self.view.last()?.clone();
        if self.suffers(Trouble::Lies) && self.chance.percent(20) {
            let mut header = head.header.clone();
            header["hash"] = hexed(self.chance.hash()).into();
            return Some(header);
        }
        Some(head.header.clone())
    }

    /// What a subscription tells of a header.
    pub fn hint(&mut self, mut header: Value) -> Value {
        match self.plan.ways.heads {
            Heads::Whole => {}
            Heads::OtherHash => header["hash"] = hexed(self.chance.hash()).into(),
            Heads::NoHash => drop(header.as_object_mut().and_then(|fields| fields.remove("hash"))),
            Heads::Number => header = json!({ "number": header["number"] }),
        }
        if self.plan.ways.decimals {
            decimal(&mut header);
        }
        header
    }
}

/// Why a node does not answer: code and words.
pub type Refusal = (i64, String);

impl Chain {
    /// The result of a request, or a refusal.
    pub fn answer(&mut self, nth: usize, method: &str, params: &Value) -> Result<Value, Refusal> {
        let answered = self.plainly(nth, method, params);
        let ways = &self.nodes[nth].plan.ways;
        answered.map(|mut result| {
            if ways.decimals {
                decimal(&mut result);
            }
            match &result {
                Value::Array(logs) if logs.is_empty() && ways.nulls && method == "eth_getLogs" => Value::Null,
                _ => result,
            }
        })
    }

    fn plainly(&mut self, nth: usize, method: &str, params: &Value) -> Result<Value, Refusal> {
        let unknown = || Err((-32_601, format!("the method {method} does not exist")));
        let node = &mut self.nodes[nth];
        let (head, ways) = (node.view.last().map_or(0, |block| block.number), &node.plan.ways);
        let refused = Err((ways.refusal.0, ways.refusal.1.to_owned()));
        match method {
            "eth_chainId" => Ok(json!(format!("{:#x}", self.plan.id))),
            "eth_syncing" if node.suffers(Trouble::Syncs) => Ok(json!({
                "startingBlock": "0x0",
                "currentBlock": format!("{head:#x}"),
                "highestBlock": format!("{:#x}", head + 100),
            })),
            "eth_syncing" => Ok(json!(false)),
            "eth_blockNumber" => Ok(json!(format!("{head:#x}"))),
            "eth_getBlockByNumber" => match params[0].as_str() {
                Some("latest") => Ok(node.head().unwrap_or_default()),
                Some("safe" | "finalized") if !ways.tags => refused,
                Some("safe" | "finalized") if node.suffers(Trouble::Claims) => Ok(header_at(&node.view, head)),
                Some("safe") => Ok(header_at(&node.view, node.honest_head().saturating_sub(self.plan.safe_lag))),
                Some("finalized") => {
                    Ok(header_at(&node.view, node.honest_head().saturating_sub(self.plan.finalized_lag)))
                }
                Some(number) => Ok(header_at(&node.view, quantity(number)?)),
                None => Err((-32_602, "no block is named".into())),
            },
            "eth_getBlockByHash" => {
                let found = params[0].as_str().and_then(|hash| known(node, hash));
                Ok(found.map_or(Value::Null, |block| block.header.clone()))
            }
            "eth_getBlockReceipts" if !self.plan.receipts => unknown(),
            "eth_getBlockReceipts" => {
                let named = params[0].as_str().unwrap_or_default();
                let block = match named.len() {
                    66 => known(node, named),
                    _ => usize::try_from(quantity(named)?).ok().and_then(|index| node.view.get(index).cloned()),
                };
                let Some(block) = block else { return Ok(Value::Null) };
                let hides = node.suffers(Trouble::Hides) || node.suffers(Trouble::Omits);
                let whole = !(hides && node.chance.percent(50) && self.others_know(nth, &block));
                Ok(block.receipts(whole))
            }
            "eth_getLogs" => self.logs(nth, &params[0]),
            _ => self.accounts.answer(&node.view, method, params).unwrap_or_else(unknown),
        }
    }

    /// Whether everybody who could be asked besides has a block.
    fn others_know(&self, nth: usize, block: &Block) -> bool {
        let knows = |other: &Node| {
            let reached = !other.plan.websocket || other.connections > 0;
            let index = usize::try_from(block.number).unwrap_or(usize::MAX);
            reached && other.view.get(index).is_some_and(|known| known.hash == block.hash)
        };
        match self.plan.guard {
            Some(guard) => knows(&self.nodes[guard]),
            None => self.nodes.iter().enumerate().filter(|(index, _)| *index != nth).all(|(_, other)| knows(other)),
        }
    }

    fn logs(&mut self, nth: usize, filter: &Value) -> Result<Value, Refusal> {
        let node = &self.nodes[nth];
        let ways = &node.plan.ways;
        let refused = Err((ways.refusal.0, ways.refusal.1.to_owned()));
        let length = |list: &Value| list.as_array().map_or(0, Vec::len);
        if ways.list_max > 0 && length(&filter["address"]).max(length(&filter["topics"][0])) > ways.list_max {
            return refused;
        }
        if let Some(hash) = filter["blockHash"].as_str() {
            let by_hash = ways.by_hash;
            if by_hash == ByHash::Refused {
                return refused;
            }
            let block = known(node, hash).ok_or((-32_000, "unknown block".to_owned()))?;
            if by_hash == ByHash::Empty {
                return Ok(json!([]));
            }
            return Ok(self.block_logs(nth, &block, filter));
        }
        let (from, to) = (quantity_of(&filter["fromBlock"])?, quantity_of(&filter["toBlock"])?);
        let blocks: Vec<Arc<Block>> =
            node.view.iter().filter(|block| (from..=to).contains(&block.number)).cloned().collect();
        if from == to {
            let only = blocks.first().cloned();
            return Ok(only.map_or_else(|| json!([]), |block| self.block_logs(nth, &block, filter)));
        }
        if ways.range_max > 0 && to.saturating_sub(from) >= ways.range_max {
            return refused;
        }
        let omits = node.suffers(Trouble::Omits);
        // The same ones each time.
        let left_out = |block: &Block| omits && block.hash[0].is_multiple_of(2) && self.others_know(nth, block);
        let told = blocks.iter().filter(|block| !left_out(block));
        let logs: Vec<Value> = told.flat_map(|block| matching(node, block, filter)).collect();
        if ways.logs_max > 0 && logs.len() > ways.logs_max {
            return refused;
        }
        Ok(logs.into())
    }

    /// The logs of one block that a filter wants, unless the node lies.
    fn block_logs(&mut self, nth: usize, block: &Block, filter: &Value) -> Value {
        let may_hide = self.others_know(nth, block);
        // Without a bloom or a proof nobody can tell that a block should have logged something else.
        let may_change = self.plan.relies_on_blooms() || self.plan.verify == Verify::Always;
        let node = &mut self.nodes[nth];
        let mut logs: Vec<Value> = matching(node, block, filter).collect();
        if node.suffers(Trouble::Lies) && !logs.is_empty() {
            match node.chance.below(4) {
                0 => logs.iter_mut().for_each(|log| log["blockHash"] = hexed(node.chance.hash()).into()),
                1 if may_change => logs.iter_mut().for_each(|log| log["address"] = hexed([9; 20]).into()),
                _ => {}
            }
        }
        if may_hide && node.suffers(Trouble::Hides) {
            logs.clear();
        }
        logs.into()
    }
}

fn matching<'a>(node: &'a Node, block: &'a Block, filter: &'a Value) -> impl Iterator<Item = Value> + 'a {
    let listed = |value: &Value, text: &str| match value {
        Value::String(one) => one.eq_ignore_ascii_case(text),
        Value::Array(any) => {
            any.is_empty() || any.iter().any(|one| one.as_str().is_some_and(|o| o.eq_ignore_ascii_case(text)))
        }
        _ => true,
    };
    block
        .logs
        .iter()
        .filter(move |log| {
            listed(&filter["address"], &hexed(contract(log.contract)))
                && listed(&filter["topics"][0], &hexed(signature(log.signature)))
        })
        .map(|log| {
            let mut told = block.log(log);
            match node.plan.ways.dates {
                Dates::Right => {}
                Dates::Zero => told["blockTimestamp"] = "0x0".into(),
                Dates::Wrong => told["blockTimestamp"] = format!("{:#x}", 7 + 1_000 * (block.number % 3)).into(),
                Dates::Absent => drop(told.as_object_mut().and_then(|fields| fields.remove("blockTimestamp"))),
            }
            told
        })
}

/// Writes numbers in decimal digits.
fn decimal(value: &mut Value) {
    const NUMBERS: [&str; 11] = [
        "number",
        "timestamp",
        "gasUsed",
        "gasLimit",
        "blockNumber",
        "blockTimestamp",
        "logIndex",
        "transactionIndex",
        "cumulativeGasUsed",
        "currentBlock",
        "highestBlock",
    ];
    match value {
        Value::Array(all) => all.iter_mut().for_each(decimal),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str().and_then(|text| quantity(text).ok()) {
                    Some(number) if NUMBERS.contains(&&**name) => *field = number.into(),
                    // Bytes stay what they are.
                    _ if field.is_string() => {}
                    _ => decimal(field),
                }
            }
        }
        Value::String(text) if text.len() < 18 => {
            if let Some(number) = text.strip_prefix("0x").and_then(|_| quantity(text).ok()) {
                *value = number.to_string().into();
            }
        }
        _ => {}
    }
}

fn header_at(view: &[Arc<Block>], number: u64) -> Value {
    let block = usize::try_from(number).ok().and_then(|index| view.get(index));
    block.map_or(Value::Null, |block| block.header.clone())
}

fn known(node: &Node, hash: &str) -> Option<Arc<Block>> {
    let bytes = hex::decode(hash.trim_start_matches("0x")).ok()?;
    node.known.get(&<[u8; 32]>::try_from(bytes).ok()?).cloned()
}

fn quantity_of(value: &Value) -> Result<u64, Refusal> {
    quantity(value.as_str().unwrap_or_default())
}

fn quantity(text: &str) -> Result<u64, Refusal> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).map_err(|_| (-32_602, format!("`{text}` is no number")))
}
