//! Real blocks verify, and no change to one of them does.

use std::{fs, path::PathBuf};

use alloy::primitives::{Address, B64, B256, Bloom, Bytes, U256};
use nexum_host_ifaces::Hash;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::rpc::form::{Data, Fixed, Quantity, Wide};

/// What the nodes of a chain answered for one block.
struct Fixture {
    name: String,
    header: Option<Value>,
    receipts: Option<Vec<Value>>,
    /// Where the header is not to be had.
    root: Option<B256>,
}

fn fixtures() -> Vec<Fixture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/chains/proofs");
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        fixtures.push(Fixture {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            header: file.get_mut("header").map(Value::take),
            receipts: file.get_mut("receipts").map(|receipts| receipts.as_array().unwrap().clone()),
            root: file.get("receiptsRoot").map(|root| root.as_str().unwrap().parse().unwrap()),
        });
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    fixtures
}

fn optional<T: DeserializeOwned>(header: &Value, name: &str) -> Option<T> {
    let value = header.get(name)?;
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn fields(header: &Value) -> HeaderFields {
    let hash = |name| optional::<Fixed<32>>(header, name).map(|hash| B256::from(hash.0));
    let number = |name| optional::<Quantity>(header, name).map(|number| number.0);
    let wide = |name| optional::<Wide>(header, name).map(|number| number.0);
    let bytes = |name| optional::<Data>(header, name).map(|data| Bytes::from(data.0));
    HeaderFields {
        parent_hash: hash("parentHash").unwrap(),
        ommers_hash: hash("sha3Uncles"),
        beneficiary: optional::<Fixed<20>>(header, "miner").map(|miner| Address::from(miner.0)),
        state_root: hash("stateRoot"),
        transactions_root: hash("transactionsRoot"),
        receipts_root: hash("receiptsRoot"),
        logs_bloom: optional::<Fixed<256>>(header, "logsBloom").map(|bloom| Bloom::from(bloom.0)),
        difficulty: wide("difficulty"),
        number: number("number").unwrap(),
        gas_limit: number("gasLimit"),
        gas_used: number("gasUsed"),
        timestamp: number("timestamp").unwrap(),
        extra_data: bytes("extraData"),
        mix_hash: hash("mixHash"),
        nonce: optional::<Fixed<8>>(header, "nonce").map(|nonce| B64::from(nonce.0)),
        base_fee_per_gas: number("baseFeePerGas"),
        withdrawals_root: hash("withdrawalsRoot"),
        blob_gas_used: number("blobGasUsed"),
        excess_blob_gas: number("excessBlobGas"),
        parent_beacon_block_root: hash("parentBeaconBlockRoot"),
        requests_hash: hash("requestsHash"),
        block_access_list_hash: hash("blockAccessListHash"),
        slot_number: number("slotNumber"),
        seal_fields: optional::<Vec<Data>>(header, "sealFields")
            .map(|items| items.into_iter().map(|item| Bytes::from(item.0)).collect()),
        step: wide("step"),
        signature: bytes("signature"),
        ext_data_hash: hash("extDataHash"),
        ext_data_gas_used: wide("extDataGasUsed"),
        block_gas_cost: wide("blockGasCost"),
        timestamp_milliseconds: number("timestampMilliseconds"),
        min_delay_excess: number("minDelayExcess"),
        parent_proposer_pubkey: bytes("parentProposerPubkey"),
        validators: bytes("validators"),
        validator: bytes("validator"),
        penalties: bytes("penalties"),
    }
}

fn sealed(header: &Value) -> bool {
    is_sealed(&fields(header), optional::<Fixed<32>>(header, "hash").unwrap().0.into())
}

fn root(fixture: &Fixture) -> Hash {
    let told = fixture.header.as_ref().map(|header| fields(header).receipts_root.unwrap());
    Hash(told.or(fixture.root).unwrap().0)
}

fn read(told: &[Value]) -> Result<Receipts, String> {
    receipts(1, &serde_json::to_string(told).unwrap())
}

fn proven(root: Hash, told: &[Value]) -> bool {
    read(told).is_ok_and(|receipts| proves(root, &receipts))
}

/// Each fixture that has receipts.
fn blocks() -> impl Iterator<Item = (String, Hash, Vec<Value>)> {
    fixtures().into_iter().filter_map(|fixture| {
        let root = root(&fixture);
        Some((fixture.name, root, fixture.receipts?))
    })
}

#[test]
fn real_headers_are_sealed() {
    let headers: Vec<_> = fixtures().into_iter().filter_map(|it| Some((it.name, it.header?))).collect();
    assert!(headers.len() >= 15, "fixtures are missing");
    for (name, header) in headers {
        assert!(sealed(&header), "{name}");
    }
}

#[test]
fn real_receipts_are_proven() {
    for fixture in fixtures() {
        let Some(told) = &fixture.receipts else { continue };
        let name = &fixture.name;
        let receipts = read(told).unwrap();
        assert!(proves(root(&fixture), &receipts), "{name}");
        assert_eq!(receipts.count, told.len(), "{name}");
        let logs: Vec<&Value> = told.iter().flat_map(|it| it["logs"].as_array().unwrap()).collect();
        assert_eq!(receipts.logs.len(), logs.len(), "{name}");
        for (index, (log, told)) in receipts.logs.iter().zip(logs).enumerate() {
            assert_eq!(log.log_index as usize, index, "{name}");
            assert_eq!(json!(format!("0x{}", hex::encode(&log.data))), told["data"], "{name}");
        }
        let Some(header) = &fixture.header else { continue };
        let header = fields(header);
        assert_eq!(header.logs_bloom, Some(*receipts.bloom), "{name}");
        assert_eq!(header.gas_used, Some(receipts.gas_used), "{name}");
        assert!(receipts.logs.iter().all(|log| log.block_number == header.number), "{name}");
    }
}

/// `text` with the hexadecimal digit at `at` changed.
fn flipped(text: &str, at: usize) -> String {
    let digit = text[at..=at].chars().next().unwrap().to_digit(16).unwrap();
    format!("{}{:x}{}", &text[..at], digit ^ 1, &text[at + 1..])
}

/// Fields that a header's hash may cover. The rest is what nodes add.
const HASHED: [&str; 34] = [
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
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
    "step",
    "signature",
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

#[test]
fn any_changed_digit_of_a_header_is_found() {
    for fixture in fixtures() {
        let Some(header) = &fixture.header else { continue };
        for name in HASHED.into_iter().chain(["hash"]) {
            let Some(text) = header[name].as_str() else { continue };
            // Some of the digits will do: the bloom is long.
            let step = if name == "logsBloom" { 101 } else { 9 };
            for at in (2..text.len()).rev().step_by(step) {
                let mut changed = header.clone();
                changed[name] = json!(flipped(text, at));
                assert!(!sealed(&changed), "{}: {name} at {at}", fixture.name);
            }
        }
    }
}

#[test]
fn a_header_without_a_field_that_every_hash_covers_is_not_sealed() {
    for fixture in fixtures() {
        let Some(header) = &fixture.header else { continue };
        for name in HASHED {
            if header.get(name).is_none() || ["parentHash", "number", "timestamp"].contains(&name) {
                continue;
            }
            // What is missing before a later field counts as empty, and so does a zero.
            let zero = header[name].as_str().is_some_and(|text| text == "0x0" || text == "0x");
            if zero && !HASHED[..15].contains(&name) {
                continue;
            }
            let mut without = header.clone();
            without.as_object_mut().unwrap().remove(name);
            assert!(!sealed(&without), "{}: {name}", fixture.name);
            if HASHED[..15].contains(&name) {
                assert_eq!(header_hash(&fields(&without)), None, "{}: {name}", fixture.name);
            }
        }
    }
}

#[test]
fn fields_that_a_chain_does_not_hash_do_no_harm() {
    for fixture in fixtures() {
        let Some(header) = &fixture.header else { continue };
        if !header["extDataHash"].is_null() || !header["blockGasCost"].is_null() {
            continue;
        }
        // Those that come after the last field of this header.
        for name in ["slotNumber", "requestsHash", "withdrawalsRoot", "baseFeePerGas"] {
            if !header[name].is_null() {
                break;
            }
            let mut added = header.clone();
            let quantity = ["slotNumber", "baseFeePerGas"].contains(&name);
            added[name] = if quantity { json!("0x7") } else { json!(format!("0x{}", "11".repeat(32))) };
            assert!(sealed(&added), "{}: {name}", fixture.name);
        }
    }
}

#[test]
fn the_standard_form_is_alloys() {
    let mut header = alloy::consensus::Header {
        parent_hash: B256::repeat_byte(1),
        beneficiary: Address::repeat_byte(2),
        difficulty: U256::MAX,
        number: 0x1234,
        gas_limit: u64::MAX,
        gas_used: 0,
        timestamp: 0x7f,
        extra_data: Bytes::from_static(b"extra"),
        nonce: B64::repeat_byte(3),
        ..Default::default()
    };
    let optional: [fn(&mut alloy::consensus::Header); 9] = [
        |_| (),
        |header| header.base_fee_per_gas = Some(0),
        |header| header.withdrawals_root = Some(B256::repeat_byte(4)),
        |header| header.blob_gas_used = Some(131_072),
        |header| header.excess_blob_gas = Some(0),
        |header| header.parent_beacon_block_root = Some(B256::repeat_byte(5)),
        |header| header.requests_hash = Some(B256::repeat_byte(6)),
        |header| header.block_access_list_hash = Some(B256::repeat_byte(7)),
        |header| header.slot_number = Some(u64::MAX),
    ];
    for add in optional {
        add(&mut header);
        let told = serde_json::to_value(&header).unwrap();
        assert_eq!(header_hash(&fields(&told)), Some(header.hash_slow()), "{told}");
    }
}

#[test]
fn dropped_added_and_moved_receipts_and_logs_are_found() {
    for (name, root, told) in blocks() {
        let without = |at: usize| {
            let mut rest = told.clone();
            rest.remove(at);
            rest
        };
        let numbered = |mut told: Vec<Value>| {
            told.iter_mut().enumerate().for_each(|(index, it)| it["transactionIndex"] = json!(format!("{index:#x}")));
            told
        };
        let found = |told: &[Value], what: &str| assert!(!proven(root, told), "{name}: {what}");
        for at in 0..told.len() {
            found(&without(at), "a receipt left out");
            found(&numbered(without(at)), "a receipt left out, and the others counted anew");
            let mut twice = told.clone();
            twice.push(told[at].clone());
            found(&twice, "a receipt twice");
            found(&numbered(twice), "a receipt twice, and all counted anew");
            for log in 0..told[at]["logs"].as_array().unwrap().len() {
                let mut changed = told.clone();
                let moved = changed[at]["logs"].as_array_mut().unwrap().remove(log);
                found(&changed, "a log left out");
                let next = (at + 1) % told.len();
                if next != at {
                    changed[next]["logs"].as_array_mut().unwrap().insert(0, moved.clone());
                    found(&changed, "a log moved to another receipt");
                }
                let mut twice = told.clone();
                twice[at]["logs"].as_array_mut().unwrap().push(moved);
                found(&twice, "a log twice");
            }
            for log in 1..told[at]["logs"].as_array().unwrap().len() {
                let mut swapped = told.clone();
                swapped[at]["logs"].as_array_mut().unwrap().swap(0, log);
                found(&swapped, "two logs swapped");
            }
        }
        if told.len() > 1 {
            let mut swapped = told.clone();
            swapped.swap(0, 1);
            assert!(proven(root, &swapped), "{name}: the order of telling does not matter");
            found(&numbered(swapped), "two receipts swapped");
        }
        if !told.is_empty() {
            found(&[], "no receipts");
        }
    }
}

/// The texts within `value` that the root covers.
fn covered(value: &mut Value, key: &str, visit: &mut dyn FnMut(&str, &mut String)) {
    const COVERED: [&str; 7] = ["type", "status", "root", "cumulativeGasUsed", "address", "topics", "data"];
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| covered(value, key, visit)),
        Value::Array(items) => items.iter_mut().for_each(|item| covered(item, key, visit)),
        Value::String(text) if COVERED.contains(&key) => visit(key, text),
        _ => (),
    }
}

#[test]
fn any_change_to_what_the_root_covers_is_found() {
    // A small generator of numbers; the seed makes a failure repeatable.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    for (name, root, told) in blocks() {
        let mut places = 0;
        let mut whole = Value::Array(told);
        covered(&mut whole, "", &mut |_, text| places += usize::from(text.len() > 2));
        if places == 0 {
            continue;
        }
        for _ in 0..60 {
            let chosen = below(places);
            let mut changed = whole.clone();
            let (mut place, mut what) = (0, String::new());
            covered(&mut changed, "", &mut |key, text| {
                if text.len() <= 2 {
                    return;
                }
                if place == chosen {
                    let at = 2 + below(text.len() - 2);
                    what = format!("{key} `{text}` at {at}");
                    *text = flipped(text, at);
                }
                place += 1;
            });
            assert!(!proven(root, changed.as_array().unwrap()), "{name}: {what}");
        }
    }
}

fn receipt(changes: Value) -> Value {
    let mut receipt = json!({
        "type": "0x2", "status": "0x1", "cumulativeGasUsed": "0x5208", "logs": [], "transactionIndex": "0x0",
        "transactionHash": format!("0x{}", "11".repeat(32)), "blockHash": format!("0x{}", "22".repeat(32)),
        "blockNumber": "0x10",
    });
    for (name, value) in changes.as_object().unwrap() {
        receipt[name] = value.clone();
    }
    receipt
}

#[test]
fn forms_that_mean_the_same_give_the_same_root() {
    let log = json!([{"address": format!("0x{}", "33".repeat(20)), "topics": [], "data": "0x"}]);
    let cases = [
        (json!({"type": "0x0"}), vec![json!({"type": null}), json!({"type": 0}), json!({"type": "0x00"})]),
        (json!({"status": "0x1"}), vec![json!({"status": true}), json!({"status": 1}), json!({"status": "1"})]),
        (json!({"status": "0x0"}), vec![json!({"status": false}), json!({"status": 0}), json!({"status": "0x"})]),
        (json!({}), vec![json!({"logs": null}), json!({"cumulativeGasUsed": 21000}), json!({"root": "0x"})]),
        (json!({"logs": log}), vec![json!({"logs": log, "logsBloom": "0x1234"})]),
        (
            json!({"type": "0x7e"}),
            // The nonce is not hashed before the version came.
            vec![json!({"type": "0x7e", "depositNonce": "0x7"})],
        ),
    ];
    for (plain, others) in cases {
        let expected = read(&[receipt(plain)]).unwrap().root;
        for other in others {
            assert_eq!(read(&[receipt(other.clone())]).unwrap().root, expected, "{other}");
        }
    }
    let mut absent = receipt(json!({"type": "0x0"}));
    absent.as_object_mut().unwrap().remove("type");
    assert_eq!(read(&[absent]).unwrap().root, read(&[receipt(json!({"type": "0x0"}))]).unwrap().root);
}

#[test]
fn receipts_that_differ_give_different_roots() {
    let state = |byte: &str| json!({"status": null, "root": format!("0x{}", byte.repeat(32))});
    let cases = [
        json!({}),
        json!({"type": "0x0"}),
        json!({"type": "0x1"}),
        json!({"type": "0x6a"}),
        json!({"type": "0x7e"}),
        json!({"type": "0x7e", "depositNonce": "0x0", "depositReceiptVersion": "0x1"}),
        json!({"type": "0x7e", "depositNonce": "0x1", "depositReceiptVersion": "0x1"}),
        json!({"type": "0x7b"}),
        json!({"type": "0x7b", "baseFee": "0x7"}),
        json!({"status": "0x0"}),
        json!({"cumulativeGasUsed": "0x5209"}),
        state("00"),
        state("01"),
    ];
    let roots: Vec<_> = cases.iter().map(|case| read(&[receipt(case.clone())]).unwrap().root).collect();
    for (at, root) in roots.iter().enumerate() {
        assert!(!roots[..at].contains(root), "{}", cases[at]);
    }
}

#[test]
fn answers_that_cannot_be_are_errors() {
    let other = format!("0x{}", "44".repeat(32));
    let second = |changes: Value| {
        let mut second = receipt(json!({"transactionIndex": "0x1"}));
        changes.as_object().unwrap().iter().for_each(|(name, value)| second[name] = value.clone());
        json!([receipt(json!({})), second])
    };
    let cases = [
        (json!(null), "no receipts"),
        (json!({}), "a list is expected"),
        (json!([null]), "an object is expected"),
        (json!([receipt(json!({"type": "0x80"}))]), "type 0x80"),
        (json!([receipt(json!({"type": "0xf9"}))]), "type 0xf9"),
        (json!([receipt(json!({"type": "0x102"}))]), "type 0x102"),
        (json!([receipt(json!({"status": null}))]), "neither status nor root"),
        (json!([receipt(json!({"status": null, "root": "0x1234"}))]), "neither status nor root"),
        (json!([receipt(json!({"status": "0x2"}))]), "status 2"),
        (json!([receipt(json!({"type": "0x7e", "depositReceiptVersion": "0x1"}))]), "depositNonce"),
        (json!([receipt(json!({"transactionIndex": "0x1"}))]), "transaction index 1 where 0"),
        (second(json!({"transactionIndex": "0x0"})), "transaction index 0 where 1"),
        (second(json!({"transactionIndex": "0x2"})), "transaction index 2 where 1"),
        (second(json!({"blockHash": &other})), "several blocks"),
        (second(json!({"blockNumber": "0x11"})), "several blocks"),
        (json!([receipt(json!({"logs": [{"topics": [], "data": "0x"}]}))]), "address"),
        (
            json!([receipt(
                json!({"logs": [{"address": format!("0x{}", "33".repeat(20)), "topics": vec![&other; 5]}]})
            )]),
            "more than 4 topics",
        ),
    ];
    for (answer, expected) in cases {
        let error = receipts(1, &answer.to_string()).unwrap_err();
        assert!(error.contains(expected), "{answer}: {error}");
    }
}

#[test]
fn no_receipts_have_the_root_of_nothing() {
    let none = receipts(1, "[]").unwrap();
    assert_eq!(none.root, Hash(alloy::consensus::EMPTY_ROOT_HASH.0));
    assert_eq!((none.count, none.gas_used, none.logs.len(), none.bloom.is_zero()), (0, 0, 0, true));
}

#[test]
fn polygon_hides_logs_from_its_roots() {
    assert!(roots_cover_all_logs(1));
    assert!(!roots_cover_all_logs(137));
}
