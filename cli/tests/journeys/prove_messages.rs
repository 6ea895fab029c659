//! Each message that a Waku node has stored is handled exactly once: whichever comes late or twice, whoever is killed or
//! restarted meanwhile, and however much waited. What the node no longer has is told.

use std::{collections::BTreeMap, time::Duration};

use nexum_testkit::{
    waku::{Publishing, Waku, now_ns},
    within,
};
use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
    outbox::EAGER,
    prove_exactly_once::{Moments, kills},
};

const TOPIC: &str = "/journey/1/orders/plain";
const SOURCE: &str = "message:/journey/1/orders/plain";
const NS_PER_S: u64 = 1_000_000_000;
/// How late a message may come here, seconds: less than in an engine as it is shipped, so that a test sees it settled.
const DISORDER_S: u64 = 10;

/// Messages of history: fewer in CI, more with `make prove-messages MESSAGES=n`.
fn history() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    std::env::var("NEXUM_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000)
}

/// What an engine needs that has these nodes.
fn messaging(nodes: &[String]) -> String {
    let nodes: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    format!(
        "[messaging]\nnodes = [{}]\npoll_interval = \"1s\"\nlive_interval = \"50ms\"\nmax_disorder = \"{DISORDER_S}s\"\n",
        nodes.join(", ")
    )
}

/// An engine with the recorder, which wants the topic's messages and nothing else; `more` is about the subscription.
fn recording(nodes: &[String], more: &str) -> Engine {
    recording_in(Setup::new(), nodes, more)
}

fn recording_in(setup: Setup, nodes: &[String], more: &str) -> Engine {
    let topic = format!("[[subscription]]\nkind = \"message\"\ncontent_topic = \"{TOPIC}\"\n{more}");
    let chains =
        "[[subscription]]\nkind = \"block\"\nchain_id = 31337\n\n[[subscription]]\nkind = \"log\"\nchain_id = 31337";
    let changes = [
        ("required = [31337]", "required = []"),
        ("required = [\"local-store\"]", "required = [\"local-store\", \"messaging\"]"),
        (chains, topic.as_str()),
    ];
    setup.with(&messaging(nodes)).module("recorder", "recorder", &changes).start()
}

/// Once the module has a position, whatever comes later is its.
fn begun(engine: &Engine) {
    engine.module_until("recorder", "has a position", |node| node["cursors"][SOURCE].is_string());
}

/// How often each payload was handled, in the order of the first time.
fn handled(engine: &Engine) -> (Vec<String>, BTreeMap<String, u32>) {
    let (mut order, mut times) = (Vec::new(), BTreeMap::<String, u32>::new());
    for (_, value) in engine.state("recorder", "m/") {
        assert_eq!(value["topic"], TOPIC, "{value}");
        let payload = String::from_utf8(hex::decode(&value["payload"].as_str().unwrap()[2..]).unwrap()).unwrap();
        let count = times.entry(payload.clone()).or_default();
        *count += 1;
        if *count == 1 {
            order.push(payload);
        }
    }
    (order, times)
}

/// Waits until so many messages were handled, each once.
fn all_handled(engine: &Engine, count: u64) -> Vec<String> {
    let patience = Duration::from_secs(120 + count / 100);
    within(patience, Duration::from_millis(100), "every message is handled", || {
        match engine.state_value("recorder", "n").and_then(|n| n.as_u64()) {
            Some(n) if n >= count => Ok(()),
            n => Err(format!("{n:?} of {count}\n{}", engine.ctl(&["tree"]))),
        }
    });
    let (order, times) = handled(engine);
    assert!(
        times.values().all(|times| *times == 1),
        "handled twice: {:?}",
        times.iter().find(|(_, times)| **times > 1)
    );
    assert_eq!(order.len() as u64, count);
    let node = engine.module("recorder");
    assert_eq!((&node["dead_letters"], &node["events_failed"]), (&0.into(), &0.into()), "{node:#}");
    order
}

#[test]
fn health_says_who_waits_for_which_topic_and_why() {
    let mut node = Waku::start();
    let engine = recording_in(Setup::new().with("event_age_threshold = \"1s\""), &[node.url()], "");
    begun(&engine);
    node.stop();
    let told = format!("messaging: module recorder waits for messages of topic {TOPIC}; Waku node {}", node.url());
    let health = |what: &str, fits: &dyn Fn(&str) -> bool| {
        eventually(what, || match engine.get("health_listen", "/health") {
            health if fits(&health) => Ok(()),
            health => Err(health),
        });
    };
    health("it is unhealthy", &|health| health.starts_with("HTTP/1.1 503") && health.contains(&told));
    node.resume();
    node.put(TOPIC, "0", now_ns());
    all_handled(&engine, 1);
    health("it is healthy again", &|health| health.starts_with("HTTP/1.1 200"));
}

fn service(engine: &Engine) -> Value {
    let tree = engine.json(&["tree"]);
    let children = tree["children"].as_array().unwrap();
    children.iter().find(|node| node["name"] == "messaging").unwrap_or_else(|| panic!("{tree:#}")).clone()
}

#[test]
fn prove_messages_that_come_late_and_twice_are_handled_once_whoever_is_killed() {
    let mut node = Waku::start();
    let mut engine = recording(&[node.url()], "");
    begun(&engine);
    let mut moments = Moments(0x3c6e_f372_fe94_f82b);
    let mut sent = 0;
    let put = |node: &Waku, moments: &mut Moments, sent: &mut u64| {
        for _ in 0..5 + moments.below(15) {
            // Some are as young as can be, and some nearly too old.
            let late_ns = moments.below((DISORDER_S - 3) * 1_000) * 1_000_000;
            node.put(TOPIC, sent.to_string(), now_ns() - late_ns);
            *sent += 1;
        }
    };
    for round in 0..kills() {
        node.repeat(round % 2 == 1);
        put(&node, &mut moments, &mut sent);
        std::thread::park_timeout(Duration::from_millis(moments.below(400)));
        let takes_node = moments.below(2) == 0;
        if takes_node {
            node.stop();
            put(&node, &mut moments, &mut sent);
        }
        match moments.below(3) {
            0 => _ = engine.ctl(&["service", "restart", "messaging"]),
            _ => {
                engine.kill9();
                engine.launch();
            }
        }
        if takes_node {
            node.resume();
        }
        put(&node, &mut moments, &mut sent);
    }
    all_handled(&engine, sent);
    assert_eq!(engine.metric("nexum_messaging_gaps_total", &[]), 0.0, "{:#}", service(&engine));
    println!("engine and node killed {} times: {sent} messages, late and twice, each handled once", kills());
    assert!(engine.terminate().success());
}

#[test]
fn prove_messages_of_a_long_history_are_read_in_pages_and_in_order() {
    let (node, count) = (Waku::start(), history());
    let first_ns = now_ns() - 3_600 * NS_PER_S;
    // Two share each time.
    (0..count).for_each(|n| node.put(TOPIC, format!("{n:06}"), first_ns + n / 2 * 1_000));
    node.put("/journey/1/other/plain", "older than all", first_ns - 7_200 * NS_PER_S);
    let mut engine = recording(&[node.url()], "history = \"2h\"");
    for part in 1..4 {
        let wanted = count * part / 4;
        within(Duration::from_secs(120 + count / 100), Duration::from_millis(20), "some are handled", || match engine
            .state_value("recorder", "n")
            .and_then(|n| n.as_u64())
        {
            Some(n) if n >= wanted => Ok(()),
            n => Err(format!("{n:?} of {wanted}")),
        });
        engine.kill9();
        engine.launch();
    }
    let order = all_handled(&engine, count);
    assert!(
        order
            .chunks(2)
            .zip((0..).step_by(2))
            .all(|(pair, first)| { pair.iter().all(|payload| payload.parse::<u64>().unwrap() / 2 * 2 == first) })
    );
    assert!(node.page_max() <= 100, "{} messages at once", node.page_max());
    // A look for every pull, and a few for nothing.
    let looks = node.queries();
    assert!(looks < count / 8 + 2_000, "{looks} questions for {count} messages");
    assert_eq!(engine.metric("nexum_messaging_gaps_total", &[]), 0.0, "{:#}", service(&engine));
    println!("{count} messages of history, the engine killed 3 times: each once, in order, {looks} questions");
    // And on it goes with what comes now.
    node.put(TOPIC, "999999", now_ns());
    all_handled(&engine, count + 1);
    assert!(engine.terminate().success());
}

#[test]
fn prove_messages_that_the_node_dropped_meanwhile_are_told() {
    const MESSAGES: u64 = 10_000;
    const KEPT: u64 = 10;
    let node = Waku::start();
    let first_ns = now_ns() - 3_600 * NS_PER_S;
    let time_ns = |n: u64| first_ns + n * NS_PER_S / 10;
    node.put("/journey/1/other/plain", "older than all", first_ns - 7_200 * NS_PER_S);
    (0..MESSAGES).for_each(|n| node.put(TOPIC, n.to_string(), time_ns(n)));
    let mut engine = recording(&[node.url()], "history = \"2h\"");
    eventually("some are handled", || match engine.state_value("recorder", "n").and_then(|n| n.as_u64()) {
        Some(n) if n >= 10 => Ok(()),
        n => Err(format!("{n:?}")),
    });
    engine.kill9();
    // The engine was killed on the way through the history, and most of the rest is gone before it is back.
    node.prune(time_ns(MESSAGES - KEPT));
    engine.launch();
    let last = (MESSAGES - 1).to_string();
    eventually("the last is handled", || {
        let (order, _) = handled(&engine);
        if order.last() == Some(&last) { Ok(()) } else { Err(format!("{:?}", order.last())) }
    });
    let (order, times) = handled(&engine);
    let before = order.len() as u64 - KEPT;
    assert!(before < MESSAGES - KEPT, "the engine was killed after it had handled {before}");
    let expected: Vec<String> = (0..before).chain(MESSAGES - KEPT..MESSAGES).map(|n| n.to_string()).collect();
    assert!(order == expected, "{order:?}");
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    eventually("it is told", || {
        let told = service(&engine);
        let summary = told["summary"].as_str().unwrap();
        let expected = format!(", 1 gap, the last: recorder at {SOURCE}: the store has nothing from before ");
        if summary.contains(&expected) { Ok(()) } else { Err(format!("{told:#}")) }
    });
    assert_eq!(engine.metric("nexum_messaging_gaps_total", &[]), 1.0);
    assert!(engine.log_text().contains("messages may be missing: the store no longer has what was before"));
}

#[test]
fn prove_messages_are_acknowledged_once_while_answers_are_lost_and_the_engine_is_killed() {
    const ORDERS: &str = "/nexum/1/orders/plain";
    const ACKNOWLEDGEMENTS: &str = "/nexum/1/acknowledgements/plain";
    let mut node = Waku::start();
    let setup = Setup::new().with(&messaging(&[node.url()])).with(EAGER);
    let mut engine = setup.module("acknowledge", "acknowledge", &[]).start();
    let source = format!("message:{ORDERS}");
    engine.module_until("acknowledge", "has a position", |node| node["cursors"][&source].is_string());
    let mut moments = Moments(0xa54f_f53a_5f1d_36f1);
    let mut sent: u64 = 0;
    let moods = [Publishing::Takes, Publishing::LosesAnswers, Publishing::NoPeers];
    for round in 0..kills() {
        node.set(moods[(round % 3) as usize]);
        for _ in 0..1 + moments.below(4) {
            node.put(ORDERS, sent.to_string(), now_ns());
            sent += 1;
        }
        std::thread::park_timeout(Duration::from_millis(moments.below(400)));
        if moments.below(3) == 0 {
            node.stop();
        }
        engine.kill9();
        engine.launch();
        node.resume();
    }
    node.set(Publishing::Takes);
    within(Duration::from_secs(180), Duration::from_millis(100), "every order is acknowledged", || {
        let told = engine.state_value("acknowledge", "published").and_then(|n| n.as_u64());
        if told == Some(sent) { Ok(()) } else { Err(format!("{told:?} of {sent}\n{}", engine.ctl(&["tree"]))) }
    });
    let mut acknowledged: Vec<String> =
        node.stored(ACKNOWLEDGEMENTS).into_iter().map(|record| String::from_utf8(record.payload).unwrap()).collect();
    acknowledged.sort();
    let mut expected: Vec<String> = (0..sent).map(|n| format!("seen: {n}")).collect();
    expected.sort();
    assert_eq!(acknowledged, expected);
    assert_eq!(engine.state_value("acknowledge", "seen"), Some(sent.into()));
    assert_eq!(engine.state("acknowledge", "lost/"), []);

    // What a node's membership does not allow now is told, and waits.
    node.set(Publishing::RlnLimit);
    node.put(ORDERS, "one too many", now_ns());
    eventually("the limit is told", || {
        let list = engine.json(&["outbox", "list", "acknowledge"]);
        let limited = |effect: &Value| effect["last_error"].as_str().is_some_and(|error| error.contains("(RLN)"));
        if list.as_array().unwrap().iter().any(limited) { Ok(()) } else { Err(format!("{list:#}")) }
    });
    println!("engine killed {} times: {sent} messages, each acknowledged once", kills());
    assert!(engine.terminate().success());
}

#[test]
fn prove_messages_that_a_rewind_undid_come_again_once() {
    let (anvil, node) = (Anvil::start(), Waku::start());
    let topic = format!("[[subscription]]\nkind = \"message\"\ncontent_topic = \"{TOPIC}\"");
    let changes = [
        FROM_THE_FIRST,
        ("required = [\"local-store\"]", "required = [\"local-store\", \"messaging\"]"),
        ("[[subscription]]\nkind = \"log\"\nchain_id = 31337", topic.as_str()),
    ];
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(&messaging(&[node.url()]));
    let mut engine = setup.module("recorder", "recorder", &changes).start();
    begun(&engine);
    let at_head = |engine: &Engine| {
        let head = anvil.head().to_string();
        engine.module_until("recorder", "handled the head", |node| node["cursors"]["chain:31337"] == head.as_str());
    };
    let once = |engine: &Engine, count: usize| {
        eventually("each message is in the state once", || match handled(engine).1 {
            times if times.len() == count && times.values().all(|times| *times == 1) => Ok(()),
            times => Err(format!("{times:?}\n{}", engine.ctl(&["tree"]))),
        });
    };
    let mut sent = 0;
    for depth in [2, 3, 5] {
        for _ in 0..6 {
            anvil.mine();
            at_head(&engine);
            node.put(TOPIC, sent.to_string(), now_ns());
            sent += 1;
            once(&engine, sent);
        }
        // Those of the last blocks are undone, and come again after the blocks that took their place or before.
        anvil.reorg(depth);
        anvil.mine();
        at_head(&engine);
        once(&engine, sent);
        if depth == 3 {
            engine.kill9();
            engine.launch();
            once(&engine, sent);
        }
    }
    assert!(engine.metric("nexum_reorgs_total", &[]) > 0.0);
    println!("3 reorgs: {sent} messages, each in the state once");
}

#[test]
fn a_module_that_wants_messages_needs_an_engine_with_a_node() {
    let engine = Setup::new().module("acknowledge", "acknowledge", &[]).start();
    let wanted = "capability `messaging` is required but this engine provides no such service";
    eventually("it is refused with the reason", || {
        let log = engine.log_text();
        if log.contains(wanted) { Ok(()) } else { Err(log) }
    });
}
