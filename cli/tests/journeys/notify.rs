//! Alerts without code, as an operator sets them up: rules in the manifest, messages at a receiver.

use serde_json::Value;

use super::{
    engine::{Setup, eventually},
    receiver::Receiver,
};

/// A transfer of four to five ether in every block.
const TRANSFERS: &str = r#"chain_id = 31337
name = "transfers"
seed = 1
first_timestamp_s = 1_700_000_000
block_interval_ms = 100
endless = true
[[emit]]
address = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
topics = [
    "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
]
data = [{ uniform = { min = 4_000_000_000_000_000_000, max = 5_000_000_000_000_000_000 } }]
"#;

#[test]
fn each_log_that_counts_is_one_message_with_its_values() {
    let receiver = Receiver::start();
    let url = format!("url = \"{}/alerts\"", receiver.url());
    let changes = [("url = \"http://127.0.0.1:9099/alerts\"", url.as_str()), ("cooldown = \"10s\"\n", "")];
    let setup = Setup::new().mock(31337, TRANSFERS).module("notify", "notify", &changes);
    let engine = setup.start();
    let hits = eventually("five messages", || {
        let hits = receiver.hits();
        if hits.len() >= 5 { Ok(hits) } else { Err(engine.ctl(&["tree"])) }
    });
    let mut keys: Vec<_> = hits.iter().map(|hit| hit.key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), hits.len(), "each is sent once: {hits:#?}");
    for hit in hits {
        let said: Value = serde_json::from_str(&hit.body).unwrap();
        assert!(hit.path == "/alerts" && hit.key.starts_with("large-transfer/ops/0x"), "{hit:?}");
        assert_eq!((&said["rule"], &said["state"]), (&"large-transfer".into(), &"alert".into()));
        assert_eq!(said["values"]["from"], "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let value = said["values"]["value"].as_str().unwrap();
        assert!(value.len() == 19 && value.starts_with('4') || value == "5000000000000000000", "{value}");
        let message = said["message"].as_str().unwrap();
        assert!(message.contains(" tokens from 0xf39F…2266 to 0x7099…79C8 in 0x"), "{message}");
    }
}

/// Every transfer is of another amount: each has a cooldown of its own, and all together have one.
#[test]
fn a_cooldown_is_of_the_rule_or_of_each_value() {
    for (per, least) in [("", 1), ("per = \"value\"\n", 4)] {
        let receiver = Receiver::start();
        let url = format!("url = \"{}/alerts\"", receiver.url());
        let cooldown = format!("cooldown = \"1d\"\n{per}");
        let changes =
            [("url = \"http://127.0.0.1:9099/alerts\"", url.as_str()), ("cooldown = \"10s\"\n", cooldown.as_str())];
        let engine = Setup::new().mock(31337, TRANSFERS).module("notify", "notify", &changes).start();
        eventually("messages", || if receiver.hits().len() >= least { Ok(()) } else { Err(engine.ctl(&["tree"])) });
        engine.module_until("notify", "went on", |node| node["events_processed"].as_u64() > Some(20));
        let is_one = receiver.hits().len() == 1;
        assert_eq!(is_one, per.is_empty(), "{:#?}", receiver.hits());
    }
}

#[test]
fn a_rule_that_is_wrong_is_named_with_what_would_be_right() {
    let changes = [("when = \"value >= 4 ether", "when = \"valeu >= 4 ether")];
    let engine = Setup::new().mock(31337, TRANSFERS).module("notify", "notify", &changes).start();
    let said = "rule `large-transfer`: `when`, column 1: `valeu` is not known here; known are from, to, value,";
    let tells = |node: &Value| node["last_error"].as_str().is_some_and(|error| error.contains(said));
    engine.module_until("notify", "says what is wrong", tells);
}
