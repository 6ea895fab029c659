//! Tables of the cases that wire decides.

use super::*;

const HASH: &str = "0x2222222222222222222222222222222222222222222222222222222222222222";
/// Ethereum's first block, without its hash.
const GENESIS: &str = r#""number":"0x0","parentHash":"0x0","timestamp":"0x0",
    "sha3Uncles":"0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347","miner":"0x0",
    "stateRoot":"0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544","difficulty":"0x400000000",
    "transactionsRoot":"0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
    "receiptsRoot":"0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421","gasLimit":"0x1388",
    "gasUsed":"0x0","extraData":"0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa",
    "mixHash":"0x0","nonce":"0x42","totalDifficulty":17179869184,"uncles":[],"transactions":[]"#;
const GENESIS_HASH: &str = "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3";

fn zeros() -> String {
    format!("\"0x{}\"", "00".repeat(256))
}

/// A header with these fields in front. What is told later counts, so they are only those that are not told again.
fn header_with(extra: &str) -> Result<Option<Header>, String> {
    header(&format!(r#"{{"number":"0x10","hash":"{HASH}","parentHash":"{HASH}","timestamp":"0x5"{extra}}}"#))
}

#[test]
fn a_header_is_read_whatever_its_forms() {
    let expected = header_with("").unwrap().unwrap();
    assert_eq!((expected.number, expected.timestamp_s, expected.gas_used), (16, 5, None));
    let same = [
        r#","number":16"#,
        r#","number":"16","timestamp":"0x05""#,
        r#","number":16.0,"timestamp":5"#,
        r#","hash":"2222222222222222222222222222222222222222222222222222222222222222""#,
        r#","logsBloom":null,"gasUsed":null"#,
        r#","logsBloom":"0x","difficulty":"","nonce":null,"miner":"0x","extraData":5"#,
        r#","logsBloom":"0x0","mixHash":"0xzz","withdrawalsRoot":{"a":[]}"#,
        r#","logsBloom":[],"sealFields":["0x","?"],"l1BatchNumber":null"#,
        r#","sealFields":{},"step":"x","signature":null,"validators":[],"penalties":"""#,
        r#","transactions":[{"a":[[[["\ud800"]]]]},null,"0x"]"#,
    ];
    for extra in same {
        assert_eq!(header_with(extra), Ok(Some(expected.clone())), "{extra}");
    }
    for json in ["", " null ", "\"\""] {
        assert_eq!(header(json), Ok(None), "{json:?}");
    }
}

#[test]
fn a_header_that_cannot_be_is_refused_by_the_fields_name() {
    let cases = [
        (r#","number":null"#, "no `number`"),
        (r#","number":"latest""#, "`number`: `latest` is no number"),
        (r#","number":"0x10000000000000000""#, "`number`: 0x10000000000000000 does not fit"),
        (r#","hash":null"#, "no hash"),
        (r#","hash":"0x""#, "no hash"),
        (r#","hash":"0x0000000000000000000000000000000000000000000000000000000000000000""#, "no hash"),
        (r#","hash":"0xzz""#, "`hash`: `0xzz` is not in"),
        (r#","parentHash":null"#, "no `parentHash`"),
        (r#","timestamp":"2024-01-01T00:00:00Z""#, "`timestamp`: `2024-01-01T00:00:00Z` is no number"),
        (r#","timestamp":-1"#, "`timestamp`: -1 is below zero"),
    ];
    for (extra, expected) in cases {
        let error = header_with(extra).unwrap_err();
        assert!(error.contains(expected), "{extra}: {error}");
    }
    for (json, expected) in [("{}", "no `number`"), ("[]", "a list"), ("\"0x\"", "a text"), ("{", "EOF")] {
        let error = header(json).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn an_empty_bloom_counts_only_where_no_gas_was_spent() {
    let (zeros, full) = (zeros(), format!("\"0x{}\"", "fF".repeat(256)));
    let some = format!("\"0x{}1\"", "0".repeat(511));
    let short = format!("\"0x{}\"", "01".repeat(255));
    let cases = [
        (zeros.as_str(), "\"0x0\"", true),
        (zeros.as_str(), "0", true),
        (zeros.as_str(), "\"0x5208\"", false),
        (zeros.as_str(), "null", false),
        (zeros.as_str(), "\"much\"", false),
        (some.as_str(), "\"0x5208\"", true),
        // Filecoin sets every bit.
        (full.as_str(), "\"0x5208\"", false),
        (full.as_str(), "\"0x0\"", false),
        (short.as_str(), "\"0x5208\"", false),
    ];
    for (bloom, gas, expected) in cases {
        let header = header_with(&format!(r#","logsBloom":{bloom},"gasUsed":{gas}"#)).unwrap().unwrap();
        assert_eq!(header.bloom.is_some(), expected, "{bloom} {gas}");
    }
}

#[test]
fn a_header_is_sealed_only_by_the_hash_that_its_fields_have() {
    let read = |extra: String| header(&format!("{{{GENESIS}{extra}}}"));
    let genesis: Hash = Hash(form::read::<Fixed<32>>(&format!("\"{GENESIS_HASH}\"")).unwrap().0);
    let bloom = format!(r#","logsBloom":{}"#, zeros());
    let sealed = read(format!(r#"{bloom},"hash":"{GENESIS_HASH}""#)).unwrap().unwrap();
    assert_eq!((sealed.hash, sealed.receipts_root.is_some()), (genesis, true));
    assert_eq!(sealed.gas_used, Some(0));
    // `author` is what some nodes call the miner.
    let author = read(format!(r#"{bloom},"miner":"0x00","author":"0x1","hash":"{GENESIS_HASH}""#)).unwrap().unwrap();
    assert_eq!(author, sealed);
    let unsealed = [
        format!(r#"{bloom},"hash":"{HASH}""#),
        format!(r#"{bloom},"hash":"{GENESIS_HASH}","gasLimit":"0x1389""#),
        format!(r#"{bloom},"hash":"{GENESIS_HASH}","mixHash":null"#),
        format!(r#","logsBloom":"0x","hash":"{GENESIS_HASH}""#),
        // No hash was told that could agree.
        bloom.clone(),
    ];
    for extra in unsealed {
        assert_eq!(read(extra).unwrap().unwrap().receipts_root, None);
    }
    assert_eq!(read(format!(r#"{bloom},"hash":null"#)).unwrap().unwrap().hash, genesis);
    // What cannot be read may be part of the hash, and another chain has another hash.
    for extra in [r#""requestsHash":"?""#, r#""extDataHash":"0x1""#, r#""sealFields":[]"#] {
        let error = read(format!(r#"{bloom},"hash":null,{extra}"#)).unwrap_err();
        assert!(error.contains("no hash"), "{error}");
    }
}

#[test]
fn a_head_is_a_hint_wherever_it_stands() {
    let hash = Some(Hash([0x22; 32]));
    let cases = [
        (format!(r#"{{"number":"0x10","hash":"{HASH}"}}"#), Some((Some(16), hash))),
        (r#"{"number":16,"hash":null,"logsBloom":null}"#.to_owned(), Some((Some(16), None))),
        (r#"{"number":"0x10","hash":"?"}"#.to_owned(), Some((Some(16), None))),
        (format!(r#"{{"hash":"{HASH}","number":"?"}}"#), Some((None, hash))),
        (format!(r#"{{"result":{{"number":"0x10","hash":"{HASH}"}}}}"#), Some((Some(16), hash))),
        (r#"{"hash":null,"data":"x","block":{"number":"0x10"}}"#.to_owned(), Some((Some(16), None))),
        ("null".to_owned(), None),
    ];
    for (json, expected) in cases {
        let head = head(&json).unwrap().map(|head| (head.number, head.hash));
        assert_eq!(head, expected, "{json}");
    }
    for json in ["{}", r#"{"a":{"number":null}}"#, "[]", "\"0x\"", r#"{"result":{"result":{"number":1}}}"#] {
        assert!(head(json).is_err(), "{json}");
    }
}

#[test]
fn numbers_are_read_whatever_their_forms() {
    let cases = [("\"0x1f\"", 31), (" 31 ", 31), ("\"31\"", 31), ("31.0", 31), ("\"0x\"", 0)];
    for (json, expected) in cases {
        assert_eq!(quantity(json), Ok(expected), "{json}");
    }
    for json in ["null", "", "\"\"", "{}", "[]", "\"latest\"", "\"0x1", "1 1", "-1"] {
        assert!(quantity(json).is_err(), "{json}");
    }
}

#[test]
fn a_node_that_has_arrived_is_not_syncing_whatever_it_tells() {
    let cases = [
        ("false", false),
        ("null", false),
        ("\"false\"", false),
        ("{}", false),
        ("[]", false),
        ("true", true),
        (r#"{"startingBlock":"0x0","currentBlock":"0x5","highestBlock":"0x9"}"#, true),
        (r#"{"currentBlock":"0x9","highestBlock":"0x9","stages":[{"a":1}],"txIndexRemainingBlocks":"0x7"}"#, false),
        (r#"{"currentBlock":10,"highestBlock":"9"}"#, false),
        (r#"{"currentBlock":"0x0","highestBlock":"0x0"}"#, false),
        (r#"{"batchSeen":1,"msgCount":"0x2"}"#, true),
    ];
    for (json, expected) in cases {
        assert_eq!(is_syncing(json), expected, "{json}");
    }
}

fn log_with(block: &str, index: &str, transaction: u8, extra: &str) -> String {
    let address = "11".repeat(20);
    let hash = format!("{:02x}", transaction + 1).repeat(32);
    format!(
        r#"{{"address":"0x{address}","topics":[],"data":"0x","blockNumber":{block},"blockHash":"{HASH}",
        "transactionHash":"0x{hash}","transactionIndex":{transaction},"logIndex":{index}{extra}}}"#
    )
}

fn array(logs: &[String]) -> String {
    format!("[{}]", logs.join(","))
}

fn one(extra: &str) -> Result<ReadLog, String> {
    logs(1, &array(&[log_with("1", "0", 0, extra)])).map(|mut logs| logs.remove(0))
}

fn refused(json: &str, expected: &str) {
    let error = logs(1, json).unwrap_err();
    assert!(error.contains(expected), "{json}: {error}");
}

#[test]
fn logs_are_sorted_and_dated_where_they_are() {
    let told = [
        log_with("\"0x2\"", "\"0x0\"", 0, ""),
        log_with("1", "7", 0, r#","blockTimestamp":"0x5""#),
        log_with("\"1\"", "3.0", 0, ""),
    ];
    let read = logs(1, &array(&told)).unwrap();
    let places: Vec<_> = read.iter().map(|read| (read.log.block_number, read.log.log_index, read.dated)).collect();
    assert_eq!(places, [(1, 3, false), (1, 7, true), (2, 0, false)]);
    assert_eq!(read[1].log.block_timestamp, 5_000);
    assert!(read.iter().all(|read| !read.renumbered));
}

#[test]
fn no_logs_are_told_in_many_forms() {
    for json in ["[]", "null", "", "\"\"", r#"{"logs":[]}"#, r#"{"logs":null}"#, r#"{"logs":"","cursor":[1]}"#] {
        assert_eq!(logs(1, json), Ok(vec![]), "{json}");
    }
    assert_eq!(logs(1, &format!(r#"{{"logs":{}}}"#, array(&[log_with("1", "0", 0, "")]))).unwrap().len(), 1);
    // A log by itself holds a list too.
    refused(&log_with("1", "0", 0, ""), "it is an object where a list is expected");
    for (json, expected) in
        [("{}", "an object"), ("\"x\"", "a text"), ("7", "a number"), ("[null]", "log 0: it is null")]
    {
        refused(json, expected);
    }
}

#[test]
fn a_log_is_read_whatever_its_forms() {
    let expected = one("").unwrap();
    let same = [
        r#","topics":null"#,
        r#","topics":"""#,
        r#","topics":[null,"",null]"#,
        r#","data":null"#,
        r#","data":"""#,
        r#","removed":null"#,
        r#","removed":"false""#,
        r#","removed":true,"removed":0"#,
        r#","blockTimestamp":null"#,
        r#","blockTimestamp":0"#,
        r#","blockTimestamp":"0x0""#,
        r#","blockTimestamp":"2024-01-01T00:00:00Z""#,
        r#","address":"0x0000000000000000000000001111111111111111111111111111111111111111""#,
        r#","transactionLogIndex":"0x5","type":"mined","logType":7"#,
    ];
    for extra in same {
        assert_eq!(one(extra), Ok(expected.clone()), "{extra}");
    }
    let topics = one(r#","topics":["0x1","22",null]"#).unwrap().log.topics;
    assert_eq!(topics.iter().map(|topic| topic[31]).collect::<Vec<_>>(), [1, 0x22]);
}

#[test]
fn a_log_that_cannot_be_is_refused_by_the_fields_name() {
    let cases = [
        (r#","removed":true"#, "removed log"),
        (r#","removed":"maybe""#, "`removed`"),
        (r#","logIndex":null"#, "log 0: it has no `logIndex`"),
        (r#","logIndex":"0x100000000""#, "`logIndex`: 0x100000000 is too large"),
        (r#","transactionIndex":null"#, "no `transactionIndex`"),
        (r#","blockHash":null"#, "no `blockHash`"),
        (r#","blockHash":"0x0""#, "no `blockHash`"),
        (r#","blockNumber":null"#, "no `blockNumber`"),
        (r#","transactionHash":"0x""#, "no `transactionHash`"),
        (r#","address":null"#, "no `address`"),
        (r#","address":"0x01020304050607080910111213141516171819202122""#, "`address`: 22 bytes"),
        (r#","data":"0x0""#, "`data`: `0x0` has an odd number"),
        (r#","data":[1]"#, "`data`"),
        (r#","topics":["0x1","0x2","0x3","0x4","0x5"]"#, "`topics`: more than 4"),
        (r#","topics":[null,"0x1"]"#, "`topics`: one after an empty one"),
        (r#","topics":{}"#, "`topics`: it is an object"),
    ];
    for (extra, expected) in cases {
        let error = one(extra).unwrap_err();
        assert!(error.contains(expected), "{extra}: {error}");
    }
}

#[test]
fn a_log_told_twice_is_one_and_two_in_one_place_are_none() {
    let plain = log_with("1", "4", 0, "");
    let dated = log_with("1", "4", 0, r#","blockTimestamp":9"#);
    for told in [[plain.clone(), plain.clone()], [plain.clone(), dated.clone()], [dated.clone(), plain.clone()]] {
        let read = logs(1, &array(&told)).unwrap();
        assert_eq!((read.len(), read[0].dated), (1, told.contains(&dated)));
    }
    let other = log_with("1", "4", 0, r#","data":"0x01""#);
    refused(&array(&[plain.clone(), other.clone(), plain.clone()]), TWICE);
    refused(&array(&[dated, log_with("1", "4", 0, r#","blockTimestamp":8"#)]), TWICE);
    let fork = log_with("1", "5", 0, r#","blockHash":"0x33""#);
    refused(&array(&[plain, fork]), "two blocks with one number");
}

#[test]
fn indexes_that_count_in_each_transaction_are_told_from_those_of_the_block() {
    let at = |block: u64, transaction, index: u64| log_with(&block.to_string(), &index.to_string(), transaction, "");
    let place = |read: &ReadLog| (read.log.block_number, read.log.log_index >> 16, read.log.log_index & 0xffff);
    let told = [at(2, 0, 0), at(1, 5, 1), at(1, 2, 0), at(1, 5, 0), at(1, 9, 0), at(1, 5, 0), at(2, 0, 1)];
    let read = logs(1, &array(&told)).unwrap();
    let all = [(1, 2, 0), (1, 5, 0), (1, 5, 1), (1, 9, 0), (2, 0, 0), (2, 0, 1)];
    assert_eq!(read.iter().map(place).collect::<Vec<_>>(), all);
    assert_eq!(read.iter().map(|read| read.renumbered).collect::<Vec<_>>(), [true, true, true, true, false, false]);
    // A filter leaves some of them. Each keeps the index that it has beside the others.
    let some = logs(1, &array(&[at(1, 5, 1), at(1, 9, 1), at(2, 7, 3)])).unwrap();
    let places: Vec<_> = some.iter().map(|read| (read.log.block_number, read.log.log_index)).collect();
    assert_eq!(places, [(1, 5 << 16 | 1), (1, 9 << 16 | 1), (2, 3)]);
    // What shows it may come in several answers.
    let parts = [[at(1, 5, 0), at(1, 9, 0)], [at(1, 5, 1), at(1, 9, 3)]];
    let mut joined: Vec<ReadLog> = parts.iter().flat_map(|part| logs(1, &array(part)).unwrap()).collect();
    in_place(&mut joined).unwrap();
    assert_eq!(joined.iter().map(place).collect::<Vec<_>>(), [(1, 5, 0), (1, 5, 1), (1, 9, 0), (1, 9, 3)]);
    let same_hash = log_with("1", "0", 1, &format!(r#","transactionHash":"0x{}""#, "01".repeat(32)));
    let other_hash = log_with("1", "1", 0, &format!(r#","transactionHash":"0x{}""#, "09".repeat(32)));
    refused(&array(&[at(1, 0, 0), same_hash]), TWICE);
    refused(&array(&[at(1, 0, 0), at(1, 1, 0), other_hash]), TWICE);
    refused(&array(&[at(1, 0, 65_536), at(1, 1, 65_536)]), "above 65535");
}
