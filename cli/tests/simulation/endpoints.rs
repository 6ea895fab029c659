//! What a node answers to one request: from its own view of the chain, or with the trouble it has.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    scenario::{contract, signature},
    world::{Block, Chain, Log, Node, Trouble, hexed},
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
}

impl Chain {
    /// The result of a request, or a message of refusal.
    pub fn answer(&mut self, node: usize, method: &str, params: &Value) -> Result<Value, String> {
        let (safe, finalized) = (self.plan.safe_lag, self.plan.finalized_lag);
        let chain_id = self.plan.id;
        let block_hash = params[0]["blockHash"].as_str().map(str::to_owned);
        let others_know = |hash: &str| {
            let knows = |other: &Node| {
                let reached = !other.plan.websocket || other.connections > 0;
                reached && other.view.iter().any(|block| hexed(block.hash) == hash)
            };
            self.nodes.iter().enumerate().filter(|(index, _)| *index != node).all(|(_, other)| knows(other))
        };
        let may_hide = block_hash.as_deref().is_some_and(others_know);
        // Without a bloom nobody can tell that a block should have logged something else.
        let blooms = self.plan.blooms;
        let node = &mut self.nodes[node];
        let head = node.view.last().map_or(0, |block| block.number);
        match method {
            "eth_chainId" => Ok(json!(format!("{chain_id:#x}"))),
            "eth_blockNumber" => Ok(json!(format!("{head:#x}"))),
            "eth_getBlockByNumber" => match params[0].as_str() {
                Some("latest") => Ok(node.head().unwrap_or_default()),
                Some("safe") => Ok(header_at(&node.view, head.saturating_sub(safe))),
                Some("finalized") => Ok(header_at(&node.view, head.saturating_sub(finalized))),
                Some(number) => Ok(header_at(&node.view, quantity(number)?)),
                None => Err("no block is named".into()),
            },
            "eth_getBlockByHash" => {
                let found = params[0].as_str().and_then(|hash| known(node, hash));
                Ok(found.map_or(Value::Null, |block| block.header.clone()))
            }
            "eth_getLogs" => {
                let filter = &params[0];
                if let Some(hash) = block_hash {
                    let block = known(node, &hash).ok_or("unknown block")?;
                    return Ok(block_logs(node, &block, filter, blooms, may_hide));
                }
                let (from, to) = (quantity_of(&filter["fromBlock"])?, quantity_of(&filter["toBlock"])?);
                let blocks = node.view.iter().filter(|block| (from..=to).contains(&block.number));
                Ok(blocks.flat_map(|block| matching(block, filter)).collect())
            }
            _ => Err(format!("the method {method} does not exist")),
        }
    }
}

/// The logs of one block that a filter wants, unless the node lies.
fn block_logs(node: &mut Node, block: &Block, filter: &Value, blooms: bool, may_hide: bool) -> Value {
    let mut logs: Vec<Value> = matching(block, filter).collect();
    if node.suffers(Trouble::Lies) && !logs.is_empty() {
        match node.chance.below(4) {
            0 => logs.iter_mut().for_each(|log| log["blockHash"] = hexed(node.chance.hash()).into()),
            1 if blooms => logs.iter_mut().for_each(|log| log["address"] = hexed([9; 20]).into()),
            _ => {}
        }
    }
    if may_hide && node.suffers(Trouble::Hides) {
        logs.clear();
    }
    logs.into()
}

fn matching<'a>(block: &'a Block, filter: &'a Value) -> impl Iterator<Item = Value> + 'a {
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
        .map(|log| log_json(block, log))
}

fn log_json(block: &Block, log: &Log) -> Value {
    json!({
        "address": hexed(contract(log.contract)),
        "topics": [hexed(signature(log.signature))],
        "data": "0x01",
        "blockNumber": format!("{:#x}", block.number),
        "blockHash": hexed(block.hash),
        "blockTimestamp": block.header["timestamp"],
        "transactionHash": hexed(log.transaction),
        "transactionIndex": format!("{:#x}", log.index),
        "logIndex": format!("{:#x}", log.index),
    })
}

fn header_at(view: &[Arc<Block>], number: u64) -> Value {
    let block = usize::try_from(number).ok().and_then(|index| view.get(index));
    block.map_or(Value::Null, |block| block.header.clone())
}

fn known(node: &Node, hash: &str) -> Option<Arc<Block>> {
    let bytes = hex::decode(hash.trim_start_matches("0x")).ok()?;
    node.known.get(&<[u8; 32]>::try_from(bytes).ok()?).cloned()
}

fn quantity_of(value: &Value) -> Result<u64, String> {
    quantity(value.as_str().unwrap_or_default())
}

fn quantity(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).map_err(|_| format!("`{text}` is no number"))
}
