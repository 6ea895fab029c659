//! Reading nodes' JSON: headers and logs, no more of them than is needed.

use alloy::primitives::{Address, B256, Bloom, Bytes, U64};
use nexum_host_ifaces::{Hash, types::Log};
use serde::Deserialize;

use crate::header::Header;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHeader {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    #[serde(default)]
    logs_bloom: Option<Bloom>,
    #[serde(default)]
    gas_used: Option<U64>,
}

/// The header in a block's or a `newHeads` notification's JSON; `None` for `null`.
pub fn header(json: &str) -> Result<Option<Header>, serde_json::Error> {
    let header: Option<WireHeader> = serde_json::from_str(json)?;
    Ok(header.map(|header| {
        let gas_used = header.gas_used.is_none_or(|gas| !gas.is_zero());
        // Some chains leave the bloom empty. Where gas was spent, an empty bloom is no proof that nothing was logged.
        let bloom = header.logs_bloom.filter(|bloom| !bloom.is_zero() || !gas_used);
        Header {
            number: header.number.to(),
            hash: Hash(header.hash.0),
            parent: Hash(header.parent_hash.0),
            timestamp_s: header.timestamp.to(),
            bloom: bloom.map(Box::new),
        }
    }))
}

/// A quantity such as a block number.
pub fn quantity(json: &str) -> Result<u64, serde_json::Error> {
    serde_json::from_str::<U64>(json).map(|number| number.to())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: U64,
    block_hash: B256,
    #[serde(default)]
    block_timestamp: Option<U64>,
    transaction_hash: B256,
    transaction_index: U64,
    log_index: U64,
    #[serde(default)]
    removed: bool,
}

/// A log as a node told it.
pub struct ReadLog {
    pub log: Log,
    /// Whether the node told the block's timestamp; otherwise it is 0.
    pub dated: bool,
}

/// The answer to `eth_getLogs`, sorted by block and log index. An answer with retracted logs is an error.
pub fn logs(chain_id: u64, json: &str) -> Result<Vec<ReadLog>, String> {
    let wire: Vec<WireLog> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut logs = Vec::with_capacity(wire.len());
    for log in wire {
        if log.removed {
            return Err("it holds a removed log".into());
        }
        let small = |number: U64| u32::try_from(number.to::<u64>()).map_err(|_| format!("index {number} is too large"));
        logs.push(ReadLog {
            dated: log.block_timestamp.is_some(),
            log: Log {
                chain_id,
                address: log.address.to_vec(),
                topics: log.topics.iter().map(|topic| topic.to_vec()).collect(),
                data: log.data.to_vec(),
                block_number: log.block_number.to(),
                block_hash: log.block_hash.to_vec(),
                block_timestamp: log.block_timestamp.map_or(0, |seconds| seconds.to::<u64>().saturating_mul(1_000)),
                transaction_hash: log.transaction_hash.to_vec(),
                transaction_index: small(log.transaction_index)?,
                log_index: small(log.log_index)?,
            },
        });
    }
    logs.sort_by_key(|read| (read.log.block_number, read.log.log_index));
    let twice = |pair: &[ReadLog]| {
        let (a, b) = (&pair[0].log, &pair[1].log);
        a.block_number == b.block_number && (a.log_index == b.log_index || a.block_hash != b.block_hash)
    };
    match logs.windows(2).any(twice) {
        true => Err("it holds two logs in one place".into()),
        false => Ok(logs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u64, index: u64, extra: &str) -> String {
        let (b, h) = ("11".repeat(20), "22".repeat(32));
        format!(
            r#"{{"address":"0x{b}","topics":[],"data":"0x","blockNumber":"{number:#x}","blockHash":"0x{h}",
            "transactionHash":"0x{h}","transactionIndex":"0x0","logIndex":"{index:#x}"{extra}}}"#
        )
    }

    #[test]
    fn logs_are_sorted_and_impossible_answers_refused() {
        let array = |logs: &[String]| format!("[{}]", logs.join(","));
        let read = logs(1, &array(&[log(2, 0, ""), log(1, 7, r#","blockTimestamp":"0x5""#), log(1, 3, "")])).unwrap();
        let places: Vec<_> = read.iter().map(|read| (read.log.block_number, read.log.log_index, read.dated)).collect();
        assert_eq!(places, [(1, 3, false), (1, 7, true), (2, 0, false)]);
        assert_eq!(read[1].log.block_timestamp, 5_000);
        let cases = [
            (array(&[log(1, 0, ""), log(1, 0, "")]), "it holds two logs in one place"),
            (array(&[log(1, 0, r#","removed":true"#)]), "it holds a removed log"),
            ("{}".to_owned(), "invalid type"),
            (array(&[log(1, u64::MAX, "")]), "too large"),
        ];
        for (json, expected) in cases {
            let error = logs(1, &json).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_empty_bloom_counts_only_where_no_gas_was_spent() {
        let json = |gas: &str| {
            let (h, bloom) = ("22".repeat(32), "00".repeat(256));
            format!(
                r#"{{"number":"0x10","hash":"0x{h}","parentHash":"0x{h}","timestamp":"0x5","logsBloom":"0x{bloom}",
                "gasUsed":"{gas}","transactions":["0x{h}"]}}"#
            )
        };
        assert!(header(&json("0x0")).unwrap().unwrap().bloom.is_some());
        assert!(header(&json("0x5208")).unwrap().unwrap().bloom.is_none());
        assert_eq!(header("null").unwrap(), None);
        assert!(header("{}").is_err());
    }
}
