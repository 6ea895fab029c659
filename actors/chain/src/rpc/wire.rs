//! Reading nodes' JSON: headers, heads, logs and numbers, no more of them than is needed.
//!
//! What is handed out can be true of a chain: a header has a hash and a parent, logs are in order and no two of them are
//! in one place. What was not told is absent, never made up. An error names the field that is wrong.
//!
//! Leaves to others: how values are written ([`form`]), receipts and the hash of a header ([`crate::proof`]), and whether
//! an answer is one to what was asked.

#[cfg(test)]
mod tests;

use alloy::primitives::{Address, B64, B256, Bloom, Bytes, U256};
use nexum_host_ifaces::{Hash, types::Log};

use super::form::{self, Data, Fixed, Quantity, Wide};
use crate::{
    header::Header,
    proof::{self, HeaderFields},
};

/// The EVM knows no more of them.
const TOPICS_MAX: usize = 4;
const BLOOM_BYTES: usize = 256;
/// The year 5138.
const SECONDS_MAX: u64 = 100_000_000_000;
/// AuRa has two, and nobody more than a few.
const SEAL_FIELDS_MAX: usize = 16;
/// The fields of headers that are read.
const HEADER: [&str; 39] = [
    "number",
    "hash",
    "parentHash",
    "timestamp",
    "sha3Uncles",
    "miner",
    "author",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "gasLimit",
    "gasUsed",
    "extraData",
    "mixHash",
    "nonce",
    "baseFeePerGas",
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
    "blockAccessListHash",
    "slotNumber",
    "sealFields",
    "step",
    "auraStep",
    "signature",
    "auraSignature",
    "extDataHash",
    "extDataGasUsed",
    "blockGasCost",
    "timestampMilliseconds",
    "minDelayExcess",
    "parentProposerPubkey",
    "validators",
    "validator",
    "penalties",
];
/// Those that no header in Ethereum's form has.
const FOREIGN: [&str; 14] = [
    "sealFields",
    "step",
    "auraStep",
    "signature",
    "auraSignature",
    "extDataHash",
    "extDataGasUsed",
    "blockGasCost",
    "timestampMilliseconds",
    "minDelayExcess",
    "parentProposerPubkey",
    "validators",
    "validator",
    "penalties",
];
const TWICE: &str = "it holds two logs in one place";

/// Whether a node told nothing: no text at all, `null`, or an empty text.
fn is_nothing(json: &str) -> bool {
    matches!(json.trim(), "" | "null" | "\"\"")
}

/// The fields that only a header's hash needs. One that cannot be read is as if it had not been told.
#[derive(Default)]
struct Lenient {
    misread: bool,
}

impl Lenient {
    fn read<T: serde::de::DeserializeOwned>(&mut self, json: Option<&str>) -> Option<T> {
        let value = form::optional("", json);
        self.misread |= value.is_err();
        value.ok().flatten()
    }

    fn hash(&mut self, json: Option<&str>) -> Option<B256> {
        self.read::<Fixed<32>>(json).map(|hash| B256::from(hash.0))
    }

    fn address(&mut self, json: Option<&str>) -> Option<Address> {
        self.read::<Fixed<20>>(json).map(|address| Address::from(address.0))
    }

    fn quantity(&mut self, json: Option<&str>) -> Option<u64> {
        self.read::<Quantity>(json).map(|number| number.0)
    }

    fn wide(&mut self, json: Option<&str>) -> Option<U256> {
        self.read::<Wide>(json).map(|number| number.0)
    }

    /// An empty text is empty bytes here, as `"0x"` is.
    fn bytes(&mut self, json: Option<&str>) -> Option<Bytes> {
        let json = json.map(str::trim).filter(|json| *json != "null")?;
        let data = form::read::<Data>(json);
        self.misread |= data.is_err();
        data.ok().map(|data| Bytes::from(data.0))
    }

    fn list(&mut self, json: Option<&str>) -> Option<Vec<Bytes>> {
        let json = json.filter(|json| !is_nothing(json))?;
        let mut list = Vec::new();
        let read = form::items(json, |item| {
            if list.len() == SEAL_FIELDS_MAX {
                return Err(String::new());
            }
            list.push(Bytes::from(form::read::<Data>(item)?.0));
            Ok(())
        });
        self.misread |= read.is_err();
        read.is_ok().then_some(list)
    }
}

/// A bloom of any other length is as if it had not been told. Nodes that do not fill it in write `0x`, `0x0` or `0x00`.
fn bloom(json: Option<&str>) -> Option<Bloom> {
    let data: Data = form::optional("", json).ok().flatten()?;
    (data.0.len() == BLOOM_BYTES).then(|| Bloom::from_slice(&data.0))
}

/// A block's time in seconds since 1970. Some chains tell milliseconds or less: in seconds that would be after the year 5000.
fn in_seconds(mut told: u64) -> u64 {
    while told > SECONDS_MAX {
        told /= 1_000;
    }
    told
}

/// A hash of zeros only is what some nodes write where there is none yet.
fn hash(name: &str, json: Option<&str>) -> Result<Option<Hash>, String> {
    let json = json.filter(|json| !matches!(json.trim(), "\"0x\"" | "\"0X\""));
    let hash: Option<Fixed<32>> = form::optional(name, json)?;
    Ok(hash.map(|hash| Hash(hash.0)).filter(|hash| hash.0 != [0; 32]))
}

/// The header in the JSON of a block, or in a `newHeads` notification that has all of it. `None` where nothing was told.
///
/// Transactions are passed over unread. A header without a hash gets the one that its fields have in Ethereum's form, if
/// all of them could be read and none of them is another chain's.
pub fn header(json: &str) -> Result<Option<Header>, String> {
    if is_nothing(json) {
        return Ok(None);
    }
    let found = form::fields(json, &HEADER)?;
    let told = |name| HEADER.iter().position(|known| *known == name).and_then(|at| found[at]);
    let number = form::required::<Quantity>("number", told("number"))?.0;
    let told_hash = hash("hash", told("hash"))?;
    let parent: Fixed<32> = form::required("parentHash", told("parentHash"))?;
    let timestamp = form::required::<Quantity>("timestamp", told("timestamp"))?.0;
    let mut lenient = Lenient::default();
    let fields = HeaderFields {
        parent_hash: B256::from(parent.0),
        ommers_hash: lenient.hash(told("sha3Uncles")),
        beneficiary: lenient.address(told("miner").or(told("author"))),
        state_root: lenient.hash(told("stateRoot")),
        transactions_root: lenient.hash(told("transactionsRoot")),
        receipts_root: lenient.hash(told("receiptsRoot")),
        logs_bloom: bloom(told("logsBloom")),
        difficulty: lenient.wide(told("difficulty")),
        number,
        gas_limit: lenient.quantity(told("gasLimit")),
        gas_used: lenient.quantity(told("gasUsed")),
        timestamp,
        extra_data: lenient.bytes(told("extraData")),
        mix_hash: lenient.hash(told("mixHash")),
        nonce: lenient.read::<Fixed<8>>(told("nonce")).map(|nonce| B64::from(nonce.0)),
        base_fee_per_gas: lenient.quantity(told("baseFeePerGas")),
        withdrawals_root: lenient.hash(told("withdrawalsRoot")),
        blob_gas_used: lenient.quantity(told("blobGasUsed")),
        excess_blob_gas: lenient.quantity(told("excessBlobGas")),
        parent_beacon_block_root: lenient.hash(told("parentBeaconBlockRoot")),
        requests_hash: lenient.hash(told("requestsHash")),
        block_access_list_hash: lenient.hash(told("blockAccessListHash")),
        slot_number: lenient.quantity(told("slotNumber")),
        seal_fields: lenient.list(told("sealFields")),
        step: lenient.wide(told("step").or(told("auraStep"))),
        signature: lenient.bytes(told("signature").or(told("auraSignature"))),
        ext_data_hash: lenient.hash(told("extDataHash")),
        ext_data_gas_used: lenient.wide(told("extDataGasUsed")),
        block_gas_cost: lenient.wide(told("blockGasCost")),
        timestamp_milliseconds: lenient.quantity(told("timestampMilliseconds")),
        min_delay_excess: lenient.quantity(told("minDelayExcess")),
        parent_proposer_pubkey: lenient.bytes(told("parentProposerPubkey")),
        validators: lenient.bytes(told("validators")),
        validator: lenient.bytes(told("validator")),
        penalties: lenient.bytes(told("penalties")),
    };
    let is_sealed = told_hash.is_some_and(|hash| proof::is_sealed(&fields, B256::from(hash.0)));
    let computed = || {
        let is_plain = !lenient.misread && FOREIGN.iter().all(|name| told(name).is_none_or(is_nothing));
        is_plain.then(|| proof::header_hash(&fields)).flatten().map(|hash| Hash(hash.0))
    };
    let hash = told_hash.or_else(computed).ok_or("it has no hash")?;
    // Some chains leave the bloom empty, and some set all of its bits. Where gas was spent, an empty bloom is no proof that
    // nothing was logged.
    let gas_used = fields.gas_used;
    let tells = |bloom: &Bloom| match bloom.is_zero() {
        true => gas_used == Some(0),
        false => bloom.0.iter().any(|byte| *byte != 0xff),
    };
    Ok(Some(Header {
        number,
        hash,
        parent: Hash(parent.0),
        timestamp_s: in_seconds(timestamp),
        bloom: fields.logs_bloom.filter(tells).map(Box::new),
        hint: None,
        receipts_root: fields.receipts_root.filter(|_| is_sealed).map(|root| Hash(root.0)),
        gas_used,
    }))
}

/// What a notification of a new head tells: that there is one, and at best which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub number: Option<u64>,
    pub hash: Option<Hash>,
}

/// The head in a `newHeads` notification, or in an object within it; `None` where nothing was told.
///
/// It is a mere hint, so a field that cannot be read is as if it were absent. An error is told only where neither a number
/// nor a hash can be found.
pub fn head(json: &str) -> Result<Option<Head>, String> {
    if is_nothing(json) {
        return Ok(None);
    }
    let within = ["header", "head", "block", "result", "data", "params"];
    let [number, hash, header, head, block, result, data, params] =
        form::fields(json, &["number", "hash", within[0], within[1], within[2], within[3], within[4], within[5]])?;
    let outer = hint(number, hash);
    let inner = [header, head, block, result, data, params].into_iter().flatten();
    let inner = inner.filter_map(|json| form::fields(json, &["number", "hash"]).ok());
    let mut all = std::iter::once(outer).chain(inner.map(|[number, hash]| hint(number, hash)));
    let found = all.find(|head| head.number.is_some() || head.hash.is_some());
    found.map(Some).ok_or_else(|| format!("it has neither number nor hash: {}", form::quote(json)))
}

fn hint(number: Option<&str>, told_hash: Option<&str>) -> Head {
    let number: Option<Quantity> = form::optional("", number).ok().flatten();
    Head { number: number.map(|number| number.0), hash: hash("", told_hash).ok().flatten() }
}

/// A number such as that of a block or a chain.
pub fn quantity(json: &str) -> Result<u64, String> {
    match is_nothing(json) {
        true => Err("it is empty where a number is expected".to_owned()),
        false => form::read::<Quantity>(json).map(|number| number.0),
    }
}

/// Whether the answer to `eth_syncing` says that the node does not have the chain yet.
///
/// Some nodes tell how far they are when they have arrived, or are busy with indexes only. Then the numbers tell.
pub fn is_syncing(json: &str) -> bool {
    let Ok([current, highest]) = form::fields(json, &["currentBlock", "highestBlock"]) else {
        return form::flag("", Some(json)).unwrap_or(false);
    };
    let number = |json| form::optional::<Quantity>("", json).ok().flatten().map(|number| number.0);
    match (number(current), number(highest)) {
        (Some(current), Some(highest)) => current < highest,
        // Arbitrum and others tell other things, and only while they sync.
        _ => json.bytes().any(|byte| byte == b':'),
    }
}

/// A log as a node told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLog {
    pub log: Log,
    /// Whether the node told the block's timestamp; otherwise it is 0.
    pub dated: bool,
    /// Whether the node counts each transaction's logs from 0. The index is then the transaction's in the upper 16 bits and
    /// the log's own in the lower ones.
    pub renumbered: bool,
}

impl ReadLog {
    fn place(&self) -> (u64, u32, u32) {
        (self.log.block_number, self.log.log_index, self.log.transaction_index)
    }

    /// Whether both are the same log. One may lack the timestamp.
    fn is(&self, other: &Self) -> bool {
        let (a, b) = (&self.log, &other.log);
        a.log_index == b.log_index
            && a.transaction_index == b.transaction_index
            && a.transaction_hash == b.transaction_hash
            && a.block_number == b.block_number
            && a.block_hash == b.block_hash
            && a.address == b.address
            && a.topics == b.topics
            && a.data == b.data
            && (a.block_timestamp == b.block_timestamp || !self.dated || !other.dated)
    }
}

/// The logs of an answer to `eth_getLogs`, sorted by block and index, no two in one place. None where nothing was told.
///
/// A list within an object counts only as `{"logs": […]}`: any other object may be a log itself. A log that is told twice
/// is dropped once. Retracted logs, and those of a pending block, are an error.
pub fn logs(chain_id: u64, json: &str) -> Result<Vec<ReadLog>, String> {
    let json = match form::kind(json) {
        "an object" => match form::fields(json, &["logs"])? {
            [Some(logs)] => logs,
            [None] => return Err(format!("it is an object where a list is expected: {}", form::quote(json))),
        },
        _ => json,
    };
    if is_nothing(json) {
        return Ok(Vec::new());
    }
    let mut logs = Vec::new();
    form::items(json, |item| {
        logs.push(log(chain_id, item).map_err(|error| format!("log {}: {error}", logs.len()))?);
        Ok(())
    })?;
    in_place(&mut logs)?;
    Ok(logs)
}

/// Sorts logs by block and index, and drops those that are told twice. An error where two others have one place.
///
/// Indexes of a block that are no places in it, because two logs have the same, are taken for ones that count from 0 in each
/// transaction. Such a log's index becomes one that does not depend on what else was asked for: the transaction's in the
/// upper 16 bits, its own in the lower ones.
pub fn in_place(logs: &mut Vec<ReadLog>) -> Result<(), String> {
    let in_one_block = |a: &ReadLog, b: &ReadLog| a.log.block_number == b.log.block_number;
    logs.sort_by_key(ReadLog::place);
    drop_repeated(logs)?;
    for block in logs.chunk_by_mut(in_one_block) {
        let collides = block.windows(2).any(|pair| pair[0].log.log_index == pair[1].log.log_index);
        if collides || block.iter().any(|read| read.renumbered) {
            by_transaction(block)?;
        }
    }
    logs.sort_by_key(ReadLog::place);
    drop_repeated(logs)
}

/// Of logs in order.
fn drop_repeated(logs: &mut Vec<ReadLog>) -> Result<(), String> {
    logs.dedup_by(|later, kept| {
        let same = later.is(kept);
        if same && !kept.dated {
            (kept.dated, kept.log.block_timestamp) = (later.dated, later.log.block_timestamp);
        }
        same
    });
    let in_one_block = |pair: &[ReadLog]| pair[0].log.block_number == pair[1].log.block_number;
    if logs.windows(2).any(|pair| in_one_block(pair) && pair[0].log.block_hash != pair[1].log.block_hash) {
        return Err("it holds logs of two blocks with one number".to_owned());
    }
    match logs.windows(2).any(|pair| pair[0].place() == pair[1].place()) {
        true => Err(TWICE.to_owned()),
        false => Ok(()),
    }
}

fn by_transaction(block: &mut [ReadLog]) -> Result<(), String> {
    block.sort_by_key(|read| (read.log.transaction_index, read.log.log_index));
    let contradict = |pair: &[ReadLog]| {
        let (a, b) = (&pair[0].log, &pair[1].log);
        (a.transaction_index == b.transaction_index) != (a.transaction_hash == b.transaction_hash)
    };
    if block.windows(2).any(contradict) {
        return Err(TWICE.to_owned());
    }
    for read in block.iter_mut().filter(|read| !read.renumbered) {
        let (transaction, index) = (u16::try_from(read.log.transaction_index), u16::try_from(read.log.log_index));
        let (Ok(transaction), Ok(index)) = (transaction, index) else {
            return Err("it holds logs counted per transaction, with an index above 65535".to_owned());
        };
        read.log.log_index = u32::from(transaction) << 16 | u32::from(index);
        read.renumbered = true;
    }
    Ok(())
}

fn log(chain_id: u64, json: &str) -> Result<ReadLog, String> {
    let names = [
        "address",
        "topics",
        "data",
        "blockNumber",
        "blockHash",
        "blockTimestamp",
        "transactionHash",
        "transactionIndex",
        "logIndex",
        "removed",
    ];
    let [
        address,
        told_topics,
        data,
        number,
        block_hash,
        timestamp,
        transaction_hash,
        transaction_index,
        log_index,
        removed,
    ] = form::fields(json, &names)?;
    if form::flag("removed", removed)? {
        return Err("it is a removed log".to_owned());
    }
    let index = |name: &str, json| {
        let number: Quantity = form::required(name, json)?;
        u32::try_from(number.0).map_err(|_| format!("`{name}`: {:#x} is too large", number.0))
    };
    let required_hash = |name: &str, json| hash(name, json)?.ok_or_else(|| format!("it has no `{name}`"));
    let address: Fixed<20> = form::required("address", address)?;
    let data: Option<Data> = form::optional("data", data)?;
    let number: Quantity = form::required("blockNumber", number)?;
    // Whoever cannot tell the time in seconds has not told it: the block's header does.
    let timestamp: Option<Quantity> = form::optional("", timestamp).ok().flatten();
    let timestamp_s = timestamp.map_or(0, |told| in_seconds(told.0));
    Ok(ReadLog {
        dated: timestamp_s != 0,
        renumbered: false,
        log: Log {
            chain_id,
            address: address.0.to_vec(),
            topics: topics(told_topics).map_err(|error| format!("`topics`: {error}"))?,
            data: data.map(|data| data.0).unwrap_or_default(),
            block_number: number.0,
            block_hash: required_hash("blockHash", block_hash)?.0.to_vec(),
            block_timestamp: timestamp_s.saturating_mul(1_000),
            transaction_hash: required_hash("transactionHash", transaction_hash)?.0.to_vec(),
            transaction_index: index("transactionIndex", transaction_index)?,
            log_index: index("logIndex", log_index)?,
        },
    })
}

/// A log's topics. Those that are null count as absent at the end, where some nodes fill up to four.
fn topics(json: Option<&str>) -> Result<Vec<Vec<u8>>, String> {
    let mut topics: Vec<Vec<u8>> = Vec::new();
    let Some(json) = json.filter(|json| !is_nothing(json)) else { return Ok(topics) };
    let mut is_over = false;
    form::items(json, |item| {
        if is_nothing(item) {
            is_over = true;
            return Ok(());
        }
        if is_over {
            return Err("one after an empty one".to_owned());
        }
        if topics.len() == TOPICS_MAX {
            return Err(format!("more than {TOPICS_MAX}"));
        }
        topics.push(form::read::<Fixed<32>>(item)?.0.to_vec());
        Ok(())
    })?;
    Ok(topics)
}
