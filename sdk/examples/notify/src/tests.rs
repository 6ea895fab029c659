//! Rules from an event to the requests that leave.

use nexum_sdk::{BlockRef, ReleasedEffect, Value as ConfigValue, alloy::primitives::U256, testing};

use super::*;

const TOKEN: &str = "0x5FbDB2315678afecb367f032d93F642f64180aa3";

/// A module with one rule and two channels.
fn module(rule: &[(&str, &str)]) -> Notify {
    testing::reset();
    let channels = [
        ("channels.chat.kind", "slack"),
        ("channels.chat.url", "https://hooks.slack.com/${secret:slack}"),
        ("channels.pager.kind", "pagerduty"),
        ("channels.pager.routing_key", "${secret:pager}"),
    ];
    let channels = channels.map(|(key, value)| (key.to_owned(), ConfigValue::from(value)));
    let rule = rule.iter().map(|(key, value)| (format!("rules.big.{key}"), ConfigValue::from(*value)));
    Notify::init(channels.into_iter().chain(rule).collect()).unwrap()
}

fn transfer(value: u64, block: u8, log_index: u32) -> Log {
    let signature = abi::Signature::event("Transfer(address indexed from, address indexed to, uint256 value)").unwrap();
    Log {
        chain_id: 1,
        address: hex::decode(TOKEN).unwrap(),
        topics: vec![signature.hash().to_vec(), vec![0; 32], vec![0; 32]],
        data: U256::from(value).to_be_bytes::<32>().to_vec(),
        block_number: block.into(),
        block_hash: vec![block; 32],
        block_timestamp: u64::from(block) * 1_000,
        transaction_hash: vec![2; 32],
        transaction_index: 0,
        log_index,
    }
}

fn block(number: u8) -> Block {
    let (hash, parent_hash) = (vec![number; 32], vec![number - 1; 32]);
    Block { chain_id: 1, number: number.into(), hash, parent_hash, timestamp: u64::from(number) * 1_000 }
}

/// Keys and texts of what was sent to the chat.
fn said() -> Vec<(String, String)> {
    let sent = testing::sent().into_iter().zip(testing::requests());
    let of_chat = sent.filter(|(_, request)| request.url.starts_with("https://hooks.slack.com/"));
    of_chat
        .map(|(sent, request)| {
            let body: serde_json::Value = serde_json::from_slice(&request.body.unwrap()).unwrap();
            (sent.key, body["text"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn texts() -> Vec<String> {
    said().into_iter().map(|(_, text)| text).collect()
}

const TRANSFERS: [(&str, &str); 5] = [
    ("event", "log"),
    ("address", TOKEN),
    ("signature", "Transfer(address indexed from, address indexed to, uint256 value)"),
    ("when", "value >= 5e3"),
    ("message", "{value} moved"),
];

#[test]
fn every_log_that_counts_is_told_once_in_each_channel() {
    let mut module = module(&TRANSFERS);
    module.logs(vec![transfer(4_999, 1, 0), transfer(5_000, 1, 1), transfer(6_000, 1, 2)]).unwrap();
    let hash = "01".repeat(32);
    let key = |index: u32| format!("big/chat/0x{hash}-{index}");
    assert_eq!(said(), [(key(1), "5000 moved".to_owned()), (key(2), "6000 moved".to_owned())]);
    let sent = testing::sent();
    assert_eq!((sent.len(), sent[0].lane.as_deref()), (4, Some("chat")));
    assert_eq!(TOLD.get(&"big".to_owned()).unwrap().unwrap().alerts, 2);
}

#[test]
fn the_cooldown_counts_what_it_keeps_back() {
    let mut module = module(&[&TRANSFERS[..], &[("cooldown", "3s")][..]].concat());
    for at in 1..=5 {
        module.logs(vec![transfer(5_000, at, 0)]).unwrap();
    }
    assert_eq!(texts(), ["5000 moved", "5000 moved (2 more since the last)"]);
}

/// A message that waits for its block to be final must not hold up those of other rules.
#[test]
fn what_waits_for_its_block_waits_in_a_lane_of_its_rule() {
    let mut module = module(&[&TRANSFERS[..], &[("release", "finalized")][..]].concat());
    module.logs(vec![transfer(5_000, 1, 1)]).unwrap();
    let lanes: Vec<_> = testing::sent().into_iter().map(|sent| sent.lane.unwrap()).collect();
    assert_eq!(lanes, ["big/chat", "big/pager"]);
}

#[test]
fn a_cooldown_may_be_of_each_value_by_itself() {
    let per = [("cooldown", "3s"), ("per", "value")];
    let mut module = module(&[&TRANSFERS[..], &per[..]].concat());
    for (value, at) in [(5_000, 1), (6_000, 1), (5_000, 2), (6_000, 3), (6_000, 4), (5_000, 9)] {
        module.logs(vec![transfer(value, at, u32::from(value == 6_000))]).unwrap();
    }
    let told = ["5000 moved", "6000 moved", "6000 moved (1 more since the last)", "5000 moved (1 more since the last)"];
    assert_eq!(texts(), told);
    assert_eq!(TOLD.get(&"big".to_owned()).unwrap().unwrap().alerts, 4);
}

#[test]
fn more_than_one_event_can_send_is_counted() {
    let mut module = module(&TRANSFERS);
    module.logs((0..150).map(|index| transfer(5_000, 1, index)).collect()).unwrap();
    assert_eq!(testing::sent().len(), MESSAGES_MAX);
    module.logs(vec![transfer(7_000, 2, 0)]).unwrap();
    assert_eq!(texts().pop().unwrap(), "7000 moved (50 more since the last)");
}

#[test]
fn a_state_is_told_when_it_begins_and_when_it_is_over() {
    let rule = [
        ("event", "block"),
        ("balance_of", TOKEN),
        ("when", "balance < 1 ether"),
        ("message", "only {balance|ether} left"),
        ("resolved", "{balance|ether} again"),
    ];
    let mut module = module(&rule);
    for (number, wei) in [(1, 2), (2, 0), (3, 0), (4, 3)] {
        testing::on_chain(move |_, _, _| Ok(format!("\"0x{:x}\"", wei * 1_000_000_000_000_000_000u64)));
        module.block(block(number)).unwrap();
    }
    assert_eq!(texts(), ["only 0 left", "Over: 3 again"]);
    let pager: Vec<serde_json::Value> = testing::requests()
        .into_iter()
        .filter(|request| request.url.contains("pagerduty"))
        .map(|request| serde_json::from_slice(&request.body.unwrap()).unwrap())
        .collect();
    let actions: Vec<_> = pager.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "resolve"]);
    assert_eq!(pager[0]["dedup_key"], pager[1]["dedup_key"]);
}

#[test]
fn a_tick_without_a_condition_is_told_every_time() {
    let mut module = module(&[("event", "tick"), ("message", "alive at {time}")]);
    module.tick(Tick { fired_at: 1_700_000_000_000 }).unwrap();
    module.tick(Tick { fired_at: 1_700_000_060_000 }).unwrap();
    assert_eq!(texts(), ["alive at 2023-11-14T22:13:20Z", "alive at 2023-11-14T22:14:20Z"]);
}

#[test]
fn a_reorg_is_told_and_what_left_is_taken_back() {
    let mut module = module(&[("event", "reorg"), ("when", "depth > 1"), ("message", "{depth} blocks")]);
    let place = |number, byte| BlockRef { number, hash: vec![byte; 32] };
    let released = |key: &str| ReleasedEffect { id: "m/e/0".into(), key: key.into() };
    let released_effects = vec![released("big/chat/0x01-1"), released("gone/chat/0x01-1"), released("x")];
    let reorg = Reorg {
        chain_id: 1,
        common_ancestor: place(5, 5),
        old_head: place(7, 7),
        new_head: place(8, 8),
        released_effects,
    };
    module.reorg(reorg).unwrap();
    assert_eq!(texts(), ["2 blocks", "Over: big: what was reported is no longer on the chain, after a reorg"]);
    let warnings: Vec<_> = testing::logged().into_iter().map(|(_, line)| line).collect();
    assert!(warnings[0].contains("gone/chat") && warnings[1].contains("no key of this module"), "{warnings:?}");
}

#[test]
fn a_message_that_was_lost_is_counted() {
    let mut module = module(&TRANSFERS);
    module.logs(vec![transfer(5_000, 1, 1)]).unwrap();
    let sent = testing::sent();
    module.outcome(sent[0].outcome(OutcomeStatus::Failed("status 404".into()))).unwrap();
    module.outcome(sent[1].outcome(OutcomeStatus::Delivered(Vec::new()))).unwrap();
    assert_eq!(LOST.get().unwrap(), Some(1));
    module.outcome(sent[1].outcome(OutcomeStatus::Delivered(br#"{"ok":false,"error":"x"}"#.to_vec()))).unwrap();
    assert_eq!(LOST.get().unwrap(), Some(2));
    assert!(testing::logged()[0].1.contains("did not arrive: status 404"));
}
