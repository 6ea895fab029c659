//! Blocks and logs of no chain, as an endpoint tells them that makes them up.

use alloy::consensus::Header;
use serde_json::{Value, json};

use super::{Fault, Shared, ask_node, number};

/// The head of an endpoint that is far ahead of everything.
pub const FAR: u64 = 1 << 40;
/// Hashes of blocks far ahead begin like this, and end with the block's number.
const FAR_PREFIX: &str = "0xfa";
/// A bloom that excludes next to nothing.
const BLOOM_BYTES: usize = 256;
/// Logs that are made up for one answer about a range.
const LOGS_MAX: usize = 3;

/// The chain above the node's head.
struct Invention {
    head: Value,
    /// The blocks above the head, the lowest first; none where they are far too many.
    near: Option<Vec<Value>>,
    /// The lowest block that is made up.
    lowest: u64,
}

impl Invention {
    async fn of(shared: &Shared, fault: Fault) -> Option<Self> {
        let head = ask(shared, "eth_getBlockByNumber", json!(["latest", false])).await?;
        let above = number(&head["number"]) + 1;
        Some(match fault {
            Fault::NearHead(blocks) => Self { near: Some(near(&head, blocks)?), head, lowest: above },
            Fault::FarChain => Self { near: None, head, lowest: 0 },
            _ => Self { near: None, head, lowest: above },
        })
    }

    fn top(&self) -> u64 {
        self.near.as_ref().map_or(FAR, |near| self.lowest + near.len() as u64 - 1)
    }

    fn block(&self, at: u64) -> Option<Value> {
        if at < self.lowest || at > self.top() {
            return None;
        }
        match &self.near {
            Some(near) => near.get(usize::try_from(at - self.lowest).ok()?).cloned(),
            None => Some(self.far(at)),
        }
    }

    fn far(&self, at: u64) -> Value {
        let mut block = self.head.clone();
        let base = number(&self.head["timestamp"]).saturating_sub(number(&self.head["number"]));
        block["number"] = json!(format!("{at:#x}"));
        block["hash"] = json!(far_hash(at));
        block["parentHash"] = match at {
            0 => json!(format!("0x{}", "00".repeat(32))),
            at if at == self.lowest => self.head["hash"].clone(),
            at => json!(far_hash(at - 1)),
        };
        block["timestamp"] = json!(format!("{:#x}", base + at));
        block["transactions"] = json!([]);
        block["logsBloom"] = json!(format!("0x{}fe", "ff".repeat(BLOOM_BYTES - 1)));
        block
    }

    fn by_hash(&self, hash: &Value) -> Option<Value> {
        match &self.near {
            Some(near) => near.iter().find(|block| block["hash"] == *hash).cloned(),
            None => self.block(far_number(hash.as_str()?)?),
        }
    }
}

fn far_hash(at: u64) -> String {
    format!("{FAR_PREFIX}{at:062x}")
}

fn far_number(hash: &str) -> Option<u64> {
    let digits = hash.strip_prefix(FAR_PREFIX)?;
    let (zeros, at) = digits.split_at_checked(digits.len().checked_sub(16)?)?;
    zeros.bytes().all(|digit| digit == b'0').then(|| u64::from_str_radix(at, 16).ok())?
}

/// Empty blocks upon this one, each with the hash of its fields.
fn near(head: &Value, blocks: u64) -> Option<Vec<Value>> {
    let mut header: Header = serde_json::from_value(head.clone()).ok()?;
    let mut hash = head["hash"].as_str()?.parse().ok()?;
    let mut near = Vec::new();
    for _ in 0..blocks {
        header.number += 1;
        header.timestamp += 1;
        header.parent_hash = hash;
        header.logs_bloom.0.fill(0xff);
        header.logs_bloom.0[BLOOM_BYTES - 1] = 0xfe;
        hash = header.hash_slow();
        let mut block = head.clone();
        for (name, value) in serde_json::to_value(&header).ok()?.as_object()? {
            block[name] = value.clone();
        }
        block["hash"] = json!(hash);
        block["transactions"] = json!([]);
        near.push(block);
    }
    Some(near)
}

/// Another header of the same number and parent, with the hash of its fields.
pub fn sealed_otherwise(head: &mut Value) -> Option<()> {
    let mut header: Header = serde_json::from_value(head.clone()).ok()?;
    header.gas_used += 1;
    head["gasUsed"] = json!(format!("{:#x}", header.gas_used));
    head["hash"] = json!(header.hash_slow());
    Some(())
}

/// A log of a block for whoever asks with this filter.
pub fn log(filter: &Value, block: &Value) -> Value {
    let wanted = |value: &Value| {
        value.as_array().map_or_else(|| value.clone(), |list| list.first().cloned().unwrap_or_default())
    };
    let address = Some(wanted(&filter["address"])).filter(Value::is_string);
    let topic = filter["topics"].as_array().and_then(|topics| topics.first()).map(wanted).filter(Value::is_string);
    json!({
        "address": address.unwrap_or_else(|| json!(format!("0x{}", "ad".repeat(20)))),
        "topics": [topic.unwrap_or_else(|| json!(format!("0x{}", "11".repeat(32))))],
        "data": format!("0x{}", "5a".repeat(32)),
        "blockNumber": block["number"],
        "blockHash": block["hash"],
        "blockTimestamp": block["timestamp"],
        "transactionHash": format!("0xf0{:062x}", number(&block["number"])),
        "transactionIndex": "0x0",
        "logIndex": "0x0",
        "removed": false,
    })
}

async fn ask(shared: &Shared, method: &str, params: Value) -> Option<Value> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    Some(ask_node(shared, &request).await?["result"].take())
}

/// The head as the fault would have it.
pub async fn head(shared: &Shared, fault: Fault) -> Option<Value> {
    let invention = Invention::of(shared, fault).await?;
    invention.block(invention.top())
}

/// The made-up result of a request. The inner is none when the node's own is told.
pub async fn result(shared: &Shared, fault: Fault, request: &Value) -> Option<Option<Value>> {
    let method = request["method"].as_str().unwrap_or_default();
    if !matches!(method, "eth_blockNumber" | "eth_getBlockByNumber" | "eth_getBlockByHash" | "eth_getLogs") {
        return Some(None);
    }
    let invention = Invention::of(shared, fault).await?;
    let param = &request["params"][0];
    Some(match method {
        "eth_blockNumber" => Some(json!(format!("{:#x}", invention.top()))),
        "eth_getBlockByNumber" => match param.as_str()? {
            "latest" | "pending" => invention.block(invention.top()),
            "earliest" => invention.block(0),
            "safe" | "finalized" => None,
            _ => invention.block(number(param)),
        },
        "eth_getBlockByHash" => invention.by_hash(param),
        _ => match param.get("blockHash") {
            Some(hash) => invention.by_hash(hash).map(|block| json!([log(param, &block)])),
            None if param["toBlock"] == "latest" => None,
            None => Some(of_range(shared, &invention, param).await?),
        },
    })
}

/// The logs of a range: those of the node as far as its blocks are told, and some of those above.
async fn of_range(shared: &Shared, invention: &Invention, filter: &Value) -> Option<Value> {
    let (from, to) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
    let mut logs = Vec::new();
    if let Some(last) = invention.lowest.checked_sub(1).filter(|last| from <= *last) {
        let mut filter = filter.clone();
        filter["toBlock"] = json!(format!("{:#x}", to.min(last)));
        logs = ask(shared, "eth_getLogs", json!([filter])).await?.as_array()?.clone();
    }
    let above = (from.max(invention.lowest)..=to).take(LOGS_MAX).filter_map(|at| invention.block(at));
    logs.extend(above.map(|block| log(filter, &block)));
    Some(Value::Array(logs))
}
