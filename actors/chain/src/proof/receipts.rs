//! A block's receipts as the consensus encodes them, and the root of their trie.
//!
//! The bloom that a node tells is not read: each receipt's is made from its logs.

use alloy::{
    consensus::proofs::ordered_trie_root_with_encoder,
    primitives::{Address, B256, Bloom},
    rlp::{self, Encodable},
};
use nexum_host_ifaces::{Hash, types::Log};

use crate::rpc::form::{self, Data, Fixed, Quantity, Wide};

/// A deposit on the OP stack.
const DEPOSIT: u8 = 0x7e;
/// A transaction of Celo whose fee is paid in another currency.
const CELO_FEE_CURRENCY: u8 = 0x7b;
/// Higher ones would be read as the beginning of a list or a long text.
const HIGHEST_TYPE: u64 = 0x7f;
/// The EVM knows no more of one log.
const TOPICS_MAX: usize = 4;
/// Polygon and its test networks.
const POLYGON: [u64; 3] = [137, 80_001, 80_002];

/// What follows from a block's receipts.
#[derive(Debug, Clone)]
pub struct Receipts {
    /// The root of the receipts' trie.
    pub root: Hash,
    /// In the block's order. `block_timestamp` is 0: no receipt tells it.
    pub logs: Vec<Log>,
    /// How many receipts.
    pub count: usize,
    /// The last receipt's cumulative gas; not always the header's `gasUsed` on chains that count otherwise.
    pub gas_used: u64,
    /// The bloom of all logs, for comparison with the header's.
    pub bloom: Box<Bloom>,
}

/// Where a receipt says that it belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    block_number: u64,
    block_hash: B256,
}

/// What became of the transaction, as the consensus says it.
enum Outcome {
    Status(bool),
    /// The state's root after it, before Byzantium.
    State(B256),
}

/// What of a log is hashed.
struct RawLog {
    address: Address,
    topics: Vec<B256>,
    data: Vec<u8>,
}

/// A receipt as a node told it, its forms settled.
struct Receipt {
    place: Place,
    transaction_hash: B256,
    transaction_index: u64,
    kind: u8,
    outcome: Outcome,
    cumulative_gas_used: u64,
    bloom: Bloom,
    logs: Vec<RawLog>,
    /// Items that a chain appends to the list, already encoded.
    appended: Vec<u8>,
}

fn list(payload: &[u8], out: &mut Vec<u8>) {
    rlp::Header { list: true, payload_length: payload.len() }.encode(out);
    out.extend_from_slice(payload);
}

/// Walks a list, for which nothing and `null` stand when it is empty.
fn each<'a>(json: Option<&'a str>, mut take: impl FnMut(&'a str) -> Result<(), String>) -> Result<(), String> {
    match json.map(str::trim) {
        None | Some("null") => Ok(()),
        Some(json) => form::items(json, &mut take),
    }
}

impl RawLog {
    fn read(json: &str) -> Result<Self, String> {
        let [address, topics, data] = form::fields(json, &["address", "topics", "data"])?;
        let mut log = Self {
            address: form::required::<Fixed<20>>("address", address)?.0.into(),
            topics: Vec::new(),
            data: form::optional::<Data>("data", data)?.unwrap_or_default().0,
        };
        each(topics, |topic| {
            if log.topics.len() == TOPICS_MAX {
                return Err(format!("a log has more than {TOPICS_MAX} topics"));
            }
            log.topics.push(form::read::<Fixed<32>>(topic)?.0.into());
            Ok(())
        })?;
        Ok(log)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (mut payload, mut topics) = (Vec::new(), Vec::with_capacity(33 * self.topics.len()));
        self.topics.iter().for_each(|topic| topic.encode(&mut topics));
        self.address.encode(&mut payload);
        list(&topics, &mut payload);
        self.data[..].encode(&mut payload);
        list(&payload, out);
    }
}

/// A receipt's status, which some nodes tell as `true` or `false`, and the state's root of old.
fn outcome(status: Option<&str>, root: Option<&str>) -> Result<Outcome, String> {
    let number = match status.map(|status| status.trim().trim_matches('"')) {
        Some("true") => Some(1),
        Some("false") => Some(0),
        _ => form::optional::<Quantity>("status", status)?.map(|status| status.0),
    };
    match number {
        Some(number @ (0 | 1)) => Ok(Outcome::Status(number == 1)),
        Some(number) => Err(format!("status {number} is unknown")),
        None => match form::optional::<Data>("root", root)?.map(|root| B256::try_from(&root.0[..])) {
            Some(Ok(root)) => Ok(Outcome::State(root)),
            _ => Err("a receipt has neither status nor root".into()),
        },
    }
}

impl Receipt {
    fn read(json: &str) -> Result<Self, String> {
        let [index, transaction, hash, number, kind, status, root, gas, logs, nonce, version, fee] = form::fields(
            json,
            &[
                "transactionIndex",
                "transactionHash",
                "blockHash",
                "blockNumber",
                "type",
                "status",
                "root",
                "cumulativeGasUsed",
                "logs",
                "depositNonce",
                "depositReceiptVersion",
                "baseFee",
            ],
        )?;
        let kind = form::optional::<Quantity>("type", kind)?.unwrap_or_default().0;
        if kind > HIGHEST_TYPE {
            return Err(format!("receipt type {kind:#x} is unknown"));
        }
        let mut receipt = Self {
            place: Place {
                block_number: form::required::<Quantity>("blockNumber", number)?.0,
                block_hash: form::required::<Fixed<32>>("blockHash", hash)?.0.into(),
            },
            transaction_hash: form::required::<Fixed<32>>("transactionHash", transaction)?.0.into(),
            transaction_index: form::required::<Quantity>("transactionIndex", index)?.0,
            kind: kind as u8,
            outcome: outcome(status, root)?,
            cumulative_gas_used: form::required::<Quantity>("cumulativeGasUsed", gas)?.0,
            bloom: Bloom::ZERO,
            logs: Vec::new(),
            appended: Vec::new(),
        };
        // Before the version came, in Canyon, the nonce was told but not hashed.
        if receipt.kind == DEPOSIT
            && let Some(version) = form::optional::<Quantity>("depositReceiptVersion", version)?
        {
            form::required::<Quantity>("depositNonce", nonce)?.0.encode(&mut receipt.appended);
            version.0.encode(&mut receipt.appended);
        }
        if receipt.kind == CELO_FEE_CURRENCY
            && let Some(fee) = form::optional::<Wide>("baseFee", fee)?
        {
            fee.0.encode(&mut receipt.appended);
        }
        each(logs, |log| {
            let log = RawLog::read(log)?;
            receipt.bloom.accrue_raw_log(log.address, &log.topics);
            receipt.logs.push(log);
            Ok(())
        })?;
        Ok(receipt)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (mut payload, mut logs) = (Vec::new(), Vec::new());
        match &self.outcome {
            Outcome::Status(succeeded) => succeeded.encode(&mut payload),
            Outcome::State(root) => root.encode(&mut payload),
        }
        self.cumulative_gas_used.encode(&mut payload);
        self.bloom.encode(&mut payload);
        self.logs.iter().for_each(|log| log.encode(&mut logs));
        list(&logs, &mut payload);
        payload.extend_from_slice(&self.appended);
        if self.kind != 0 {
            out.push(self.kind);
        }
        list(&payload, out);
    }
}

/// Reads the answer to `eth_getBlockReceipts` and computes its root.
///
/// `null`, receipts of several blocks, and transaction indices with a gap or one twice are errors. The order in which
/// the receipts are told does not matter; the order of the logs in a receipt does.
pub fn receipts(chain_id: u64, json: &str) -> Result<Receipts, String> {
    let json = json.trim();
    if json == "null" {
        return Err("the node has no receipts of this block".into());
    }
    let mut told = Vec::new();
    form::items(json, |receipt| {
        told.push(Receipt::read(receipt)?);
        Ok(())
    })?;
    told.sort_by_key(|receipt| receipt.transaction_index);
    for (expected, receipt) in (0_u64..).zip(&told) {
        if receipt.transaction_index != expected {
            return Err(format!("transaction index {} where {expected} is expected", receipt.transaction_index));
        }
        if receipt.place != told[0].place {
            return Err("the receipts are of several blocks".into());
        }
    }
    let mut read = Receipts {
        root: Hash(ordered_trie_root_with_encoder(&told, Receipt::encode).0),
        logs: Vec::with_capacity(told.iter().map(|receipt| receipt.logs.len()).sum()),
        count: told.len(),
        gas_used: told.last().map_or(0, |receipt| receipt.cumulative_gas_used),
        bloom: Box::new(Bloom::ZERO),
    };
    let small = |index: u64| u32::try_from(index).map_err(|_| format!("index {index} is too large"));
    for receipt in told {
        read.bloom.accrue_bloom(&receipt.bloom);
        for log in receipt.logs {
            read.logs.push(Log {
                chain_id,
                address: log.address.to_vec(),
                topics: log.topics.iter().map(|topic| topic.to_vec()).collect(),
                data: log.data,
                block_number: receipt.place.block_number,
                block_hash: receipt.place.block_hash.to_vec(),
                block_timestamp: 0,
                transaction_hash: receipt.transaction_hash.to_vec(),
                transaction_index: small(receipt.transaction_index)?,
                log_index: small(read.logs.len() as u64)?,
            });
        }
    }
    Ok(read)
}

/// Whether these are all the receipts of a block whose header has this root.
///
/// It means nothing of a header that is not sealed by a trusted hash.
pub fn proves(header_receipts_root: Hash, receipts: &Receipts) -> bool {
    receipts.root == header_receipts_root
}

/// Whether every log that the chain's nodes tell is in a receipt that the root covers.
///
/// Polygon's nodes also tell the logs of state syncs. Until its Madhugiri fork, in 2025, these were in a receipt that
/// no header knows of. Told receipts that include it do not fit the root; those that leave it out do, and hide the logs.
pub fn roots_cover_all_logs(chain_id: u64) -> bool {
    !POLYGON.contains(&chain_id)
}
