//! Content on Swarm, through the real binary: stored, read, proved, and kept in feeds, whatever nodes do and whoever is killed.

use std::collections::BTreeSet;

use nexum_testkit_swarm::{BATCH, Bee, Mood};
use serde_json::{Value, json};

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
    identity::{ACCOUNT, with_key},
    outbox::EAGER,
};

const CHAIN: &str = "chain_id = 31337\nname = \"slow\"\nseed = 1\nfirst_timestamp_s = 1_700_000_000\nblock_interval_ms = 200\nendless = true\n";

/// The topic of the manifest.
const TOPIC: &str = "0x7070707070707070707070707070707070707070707070707070707070707070";

/// An engine's nodes, each with the postage batch.
fn nodes(setup: Setup, bees: &[&Bee]) -> Setup {
    let node = |bee: &&Bee| format!("[[remote-store.nodes]]\nurl = \"{}\"\npostage_batch = \"{BATCH}\"\n", bee.url());
    let nodes: String = bees.iter().map(node).collect();
    setup.with(&format!("[remote-store]\ntimeout = \"1s\"\n{nodes}"))
}

/// The guest in one of its modes.
fn storer(setup: Setup, mode: &str, changes: &[(&str, &str)]) -> Setup {
    let mode = format!("mode = \"{mode}\"");
    let mut all = vec![("mode = \"calls\"", mode.as_str())];
    all.extend(changes);
    setup.module("storer", "storer", &all)
}

/// An account, and a policy that lets the guest write the feed under this topic.
fn with_feed(setup: Setup, topic: &str) -> Setup {
    with_key(&setup);
    setup.with(&format!(
        "[identity]\nkeystore = \"keys\"\npassword = \"file:pw\"\n[[identity.policies]]\nmodule = \"storer\"\n\
         account = \"{ACCOUNT}\"\nmethods = [\"feed\"]\nfeeds = [\"{topic}\"]\n"
    ))
}

/// What the calls of a block answered, of the newest block for which that is as wanted.
fn seen_until(engine: &Engine, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
    eventually(what, || {
        let blocks = engine.state("storer", "b/");
        let lines = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
        };
        let found = blocks.iter().rev().map(|(_, value)| lines(value)).find(|lines| wanted(lines));
        found.ok_or_else(|| format!("{:?}\n{}", blocks.last(), engine.ctl(&["tree"])))
    })
}

/// The service's node in the tree.
fn node_until(engine: &Engine, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let tree = engine.json(&["tree"]);
        let node = tree["children"].as_array().unwrap().iter().find(|node| node["name"] == "remote-store").cloned();
        node.filter(&wanted).ok_or_else(|| format!("{tree:#}"))
    })
}

#[test]
fn content_is_stored_and_read_again() {
    let bee = Bee::start();
    let setup = nodes(Setup::new().mock(31337, CHAIN), &[&bee]);
    let engine = storer(setup, "calls", &[("bytes = 5_000", "bytes = 600_000")]).start();
    let seen = seen_until(&engine, "content was read again", |lines| lines[1] == "content 600000");
    assert_eq!(seen[0].len(), 64, "{}", seen[0]);
    assert!(bee.uploads().contains(&seen[0]) && bee.has(&seen[0]));
    let asked =
        |operation| engine.metric("nexum_remote_store_requests_total", &[("operation", operation), ("result", "ok")]);
    assert!(asked("upload") >= 1.0 && asked("download") >= 1.0);
    assert!(engine.metric("nexum_remote_store_chunks_total", &[("source", "node")]) >= 148.0);
    let has_batch =
        |node: &Value| node["children"][0]["summary"].as_str().is_some_and(|text| text.contains("batch 6 % full"));
    let node = node_until(&engine, "the batch is shown", has_batch);
    assert_eq!((&node["state"], &node["children"][0]["state"]), (&json!("UP"), &json!("UP")), "{node:#}");
}

#[test]
fn a_node_that_lies_is_caught_and_another_one_is_asked() {
    let (liar, honest) = (Bee::start(), Bee::start());
    let content: Vec<u8> = (0..2_000u32).flat_map(u32::to_le_bytes).collect();
    let reference = liar.keep(&content);
    assert_eq!(honest.keep(&content), reference);
    liar.set(Mood::Lies);
    let change = format!("reference = \"{reference}\"");
    let changes = [("reference = \"\"", change.as_str())];

    let alone = storer(nodes(Setup::new().mock(31337, CHAIN), &[&liar]), "download", &changes).start();
    let seen = seen_until(&alone, "the lie was told", |_| true);
    assert!(seen[0].starts_with("Unavailable 0 corrupt: "), "{}", seen[0]);
    assert!(seen[0].contains("the chunk is not the one of its address"), "{}", seen[0]);
    assert!(alone.metric("nexum_remote_store_corrupt_total", &[("node", &liar.url())]) >= 1.0);
    let lied = |node: &Value| {
        let text = node["children"][0]["summary"].as_str().unwrap_or_default();
        node["state"] == "DOWN" && text.contains("not what was asked for")
    };
    node_until(&alone, "the tree says that it lied", lied);

    let both = storer(nodes(Setup::new().mock(31337, CHAIN), &[&liar, &honest]), "download", &changes).start();
    let hex: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
    seen_until(&both, "the honest one was asked", |lines| lines[0] == hex);
    assert!(both.metric("nexum_remote_store_corrupt_total", &[("node", &liar.url())]) >= 1.0);
}

#[test]
fn whatever_a_node_does_the_module_is_told_what_it_was() {
    let bee = Bee::start();
    let engine = storer(nodes(Setup::new().mock(31337, CHAIN), &[&bee]), "calls", &[]).start();
    let works = |lines: &[String]| lines[1] == "content 5000";
    seen_until(&engine, "it works", works);
    for (mood, at, told) in [
        (Mood::BatchFull, 0, "Unavailable 402 batch-full: "),
        (Mood::BatchExpired, 0, "Unavailable 422 batch-unusable: "),
        (Mood::Syncs, 0, "Unavailable 503 syncing: "),
        (Mood::Misnames, 0, "Unavailable 0 corrupt: "),
        (Mood::Halves, 0, "Unavailable 0 half-answer: "),
        (Mood::LosesAnswers, 0, "Unavailable 0 unreachable: "),
        (Mood::Fails(500), 0, "Unavailable 500 failed: "),
        (Mood::Fails(429), 0, "RateLimited 429 1000: "),
        (Mood::Fails(403), 0, "Denied 403 denied: "),
        (Mood::Forgets, 1, "InvalidInput 404 not-found: "),
        (Mood::Lies, 1, "Unavailable 0 corrupt: "),
        (Mood::Hangs, 0, "Timeout 0 slow: "),
    ] {
        bee.set(mood);
        seen_until(&engine, &format!("{mood:?}: {told}"), |lines| lines[at].starts_with(told));
    }
    bee.set(Mood::Fine);
    let before = engine.state("storer", "b/").len();
    eventually("it works again", || {
        let blocks = engine.state("storer", "b/");
        let again = blocks.iter().skip(before).any(|(_, value)| value[1] == "content 5000");
        if again { Ok(()) } else { Err(format!("{:?}", blocks.last())) }
    });
}

#[test]
fn a_feed_is_written_and_read_within_its_policy() {
    let bee = Bee::start();
    let setup = with_feed(nodes(Setup::new().mock(31337, CHAIN), &[&bee]), TOPIC);
    // Larger than a chunk: the update stands above a tree.
    let engine = storer(setup, "feed", &[]).start();
    let mut addresses = BTreeSet::new();
    eventually("the feed has three updates, each read after it was written", || {
        for (_, value) in engine.state("storer", "b/") {
            if value[1] == "content 5000" {
                addresses.insert(value[0].as_str().unwrap().to_owned());
            }
        }
        if addresses.len() >= 3 { Ok(()) } else { Err(format!("{addresses:?}\n{}", engine.ctl(&["tree"]))) }
    });
    assert!(addresses.iter().all(|address| address.len() == 64 && bee.has(address)), "{addresses:?}");
    assert!(engine.metric("nexum_identity_sign_total", &[("module", "storer")]) >= 3.0);

    let other = TOPIC.replace('7', "8");
    let setup = with_feed(nodes(Setup::new().mock(31337, CHAIN), &[&bee]), &other);
    let engine = storer(setup, "feed", &[]).start();
    let seen = seen_until(&engine, "it is refused", |lines| lines[0].starts_with("Denied 0 -: "));
    assert!(seen[0].contains("`feeds` of policy 1"), "{}", seen[0]);
}

#[test]
fn without_nodes_a_module_that_stores_does_not_load() {
    let engine = storer(Setup::new().mock(31337, CHAIN), "calls", &[]).start();
    let why = "capability `remote-store` is required but this engine provides no such service";
    eventually("the log says why it is not loaded", || {
        let log = engine.log_text();
        if log.contains(why) { Ok(()) } else { Err(log) }
    });
}

/// Mines on until the module was told of the effects of this many blocks; what it was told, by the order of the blocks.
fn settled(anvil: &Anvil, engine: &Engine, until: usize) -> Vec<Value> {
    let ids = eventually("every effect was sent", || {
        let blocks = engine.state("storer", "b/");
        if blocks.len() >= until { Ok(blocks) } else { Err(format!("{blocks:?}\n{}", engine.ctl(&["tree"]))) }
    });
    eventually("every effect has ended", || {
        anvil.mine();
        let told = engine.state("storer", "o/");
        let of = |id: &Value| {
            let key = format!("o/{}", id.as_str().unwrap());
            told.iter().find(|(found, _)| *found == key).map(|(_, value)| value.clone())
        };
        let all: Option<Vec<Value>> = ids.iter().map(|(_, ids)| of(&ids[0])).collect();
        all.ok_or_else(|| format!("{told:?}\n{}", engine.ctl(&["outbox", "list", "storer"])))
    })
}

fn effects(anvil: &Anvil, bee: &Bee, mode: &str) -> Setup {
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
    let changes = [FROM_THE_FIRST, ("until = 1_000_000_000", "until = 3"), ("bytes = 5_000", "bytes = 3_000")];
    storer(with_feed(nodes(setup, &[bee]), TOPIC), mode, &changes)
}

#[test]
fn what_is_killed_between_an_upload_and_its_answer_is_stored_once() {
    let (anvil, bee) = (Anvil::start(), Bee::start());
    for mode in ["effect", "feed-effect"] {
        let before = bee.uploads().len();
        bee.set(Mood::LosesAnswers);
        let mut engine = effects(&anvil, &bee, mode).start();
        engine.module_until("storer", "runs", |node| node["state"] == "RUN");
        (0..3).for_each(|_| anvil.mine());
        eventually("something was stored, and nobody told so", || {
            if bee.uploads().len() > before { Ok(()) } else { Err(engine.ctl(&["tree"])) }
        });
        engine.kill9();
        bee.set(Mood::Fine);
        engine.launch();
        let told = settled(&anvil, &engine, 3);
        let mut references = BTreeSet::new();
        for outcome in &told {
            assert_eq!((&outcome["status"], &outcome["count"]), (&json!("delivered"), &json!(1)), "{outcome:#}");
            let reference = outcome["detail"].as_str().unwrap().to_owned();
            assert!(reference.len() == 64 && bee.has(&reference), "{reference}");
            references.insert(reference);
        }
        let stored: Vec<String> = bee.uploads().split_off(before);
        assert_eq!(references, stored.iter().cloned().collect(), "{mode}: nothing else was stored");
        assert_eq!(references.len(), 3, "{mode}");
        if mode == "feed-effect" {
            assert_eq!(stored.len(), 3, "no update was written twice: {stored:?}");
        }
        assert!(engine.terminate().success());
    }
}

#[test]
fn an_upload_waits_for_a_batch_with_room_and_says_so() {
    let (anvil, bee) = (Anvil::start(), Bee::start());
    bee.set(Mood::BatchFull);
    let engine = effects(&anvil, &bee, "effect").start();
    engine.module_until("storer", "runs", |node| node["state"] == "RUN");
    (0..3).for_each(|_| anvil.mine());
    let waiting = eventually("an effect waits", || {
        let list = engine.json(&["outbox", "list", "storer"]);
        let waiting = list.as_array().unwrap().iter().find(|effect| effect["underway"].is_string()).cloned();
        waiting.ok_or_else(|| format!("{list:#}"))
    });
    assert_eq!((&waiting["kind"], &waiting["destination"]), (&json!("upload"), &json!("swarm")), "{waiting:#}");
    assert!(waiting["underway"].as_str().unwrap().contains("402, batch is overissued"), "{waiting:#}");
    bee.set(Mood::Fine);
    let told = settled(&anvil, &engine, 3);
    assert!(told.iter().all(|outcome| outcome["status"] == "delivered"), "{told:?}");
}
