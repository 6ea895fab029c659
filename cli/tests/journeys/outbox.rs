//! Effects and direct requests, through the real binary: sent, refused, tried again, given up, taken up, withdrawn.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{EGRESS, Engine, FROM_THE_FIRST, Setup, eventually, free_port},
    receiver::{Mood, Receiver},
};

/// A block every 200 ms, without end.
pub const CHAIN: &str = "chain_id = 31337\nname = \"slow\"\nseed = 1\nfirst_timestamp_s = 1_700_000_000\nblock_interval_ms = 200\nendless = true\n";

/// Retries within a test's patience.
pub const EAGER: &str =
    "[outbox]\ntimeout = \"1s\"\nbackoff_first = \"50ms\"\nbackoff_cap = \"200ms\"\nmax_attempts = 1_000_000\n";

/// The sender in one of its modes; `changes` to its manifest besides.
pub fn sender(setup: Setup, url: &str, mode: &str, changes: &[(&str, &str)]) -> Setup {
    let (url, mode) = (format!("url = \"{url}\""), format!("mode = \"{mode}\""));
    let mut all = vec![("url = \"http://127.0.0.1:9\"", url.as_str()), ("mode = \"lane\"", mode.as_str())];
    all.extend(changes);
    setup.module("sender", "sender", &all)
}

/// The engine, once the module runs.
pub fn started(setup: Setup) -> Engine {
    let engine = setup.start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    engine
}

/// Ids of what the module sent, by block.
pub fn sent(engine: &Engine) -> Vec<(u64, Vec<String>)> {
    sent_by(engine, "sender")
}

/// The same of the sender under another name.
pub fn sent_by(engine: &Engine, module: &str) -> Vec<(u64, Vec<String>)> {
    let ids = |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    engine.state(module, "s/").iter().map(|(key, value)| (key[2..].parse().unwrap(), ids(value))).collect()
}

/// What the module was told of an effect.
fn outcome(engine: &Engine, id: &str) -> Value {
    eventually(&format!("the outcome of {id}"), || {
        let found = engine.state("sender", &format!("o/{id}"));
        found.first().map(|(_, value)| value.clone()).ok_or_else(|| engine.ctl(&["outbox", "list", "sender"]))
    })
}

/// The first effect that the engine lists as wanted.
pub fn listed(engine: &Engine, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let list = engine.json(&["outbox", "list", "sender"]);
        list.as_array().unwrap().iter().find(|effect| wanted(effect)).cloned().ok_or_else(|| format!("{list:#}"))
    })
}

/// What the module saw of its first direct request.
pub fn first_fetch(engine: &Engine) -> String {
    let seen = eventually("the module fetched", || {
        engine.state("sender", "f/").into_iter().next().map(|(_, value)| value).ok_or_else(|| "nothing yet".to_owned())
    });
    seen.as_str().unwrap().to_owned()
}

#[test]
fn a_direct_request_is_answered_or_refused_in_the_handler() {
    let receiver = Receiver::start();
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &receiver.url(), "fetch", &[]));
    assert_eq!(first_fetch(&engine), "200 took ");
    assert!(receiver.hits()[0].path.starts_with("/fetch?n="));

    let other = [("allow = [\"127.0.0.1\"]", "allow = [\"*.example.org\"]")];
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &receiver.url(), "fetch", &other));
    let denied = first_fetch(&engine);
    assert!(denied.starts_with("Denied: http: host `127.0.0.1` is not allowed to this module"), "{denied}");

    let nobody = format!("http://127.0.0.1:{}", free_port());
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &nobody, "fetch", &[]));
    assert!(first_fetch(&engine).starts_with("Unavailable: http: http://127.0.0.1:"), "{}", first_fetch(&engine));
}

/// They are where the system put them, under whatever name the module may use.
#[test]
fn a_module_does_not_reach_the_engines_own_listeners() {
    let setup = Setup::new().mock(31337, CHAIN);
    let changes =
        [("allow = [\"127.0.0.1\"]", "allow = [\" LocalHost. \", \"127.1\"]"), ("mode = \"lane\"", "mode = \"fetch\"")];
    let bundle = setup.write_bundle("sender", "sender", &changes);
    let mut engine = setup.prepare();
    let config = fs::read_to_string(&engine.config).unwrap();
    let anywhere = |line: &str| match line.split_once("_listen = ") {
        Some((what, _)) => format!("{what}_listen = \"127.0.0.1:0\"\n"),
        None => format!("{line}\n"),
    };
    fs::write(&engine.config, config.lines().map(anywhere).collect::<String>()).unwrap();
    engine.launch();
    for listener in ["health", "metrics"] {
        let port = eventually("it says where it listens", || {
            let log = engine.log_text();
            let told = log.split_once(&format!("\"{listener}\":\"Some(127.0.0.1:"));
            let port = told.and_then(|(_, rest)| rest.split_once(')')).map(|(port, _)| port.to_owned());
            port.ok_or(log)
        });
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("url=http://{host}:{port}");
            engine.ctl(&["module", "load", bundle.to_str().unwrap(), "--set", &url]);
            engine.module_until("sender", "runs", |node| node["state"] == "RUN");
            let own = format!("http://{host}:{port} is the engine's own listener 127.0.0.1:{port}, closed to modules");
            eventually("it is refused", || match engine.state("sender", "f/").pop() {
                Some((_, seen)) if seen == format!("Denied: http: {own}") => Ok(()),
                other => Err(format!("{other:?}")),
            });
            engine.ctl(&["module", "unload", "sender"]);
        }
    }
}

/// Where a server listens that sends whoever asks to the same path below this URL, whatever the method.
pub fn redirecting(to: String) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let head: Vec<_> =
                stream.by_ref().lines().map(|line| line.unwrap()).take_while(|line| !line.is_empty()).collect();
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            let path = head[0].split(' ').nth(1).unwrap();
            let answer =
                format!("HTTP/1.1 307 x\r\nconnection: close\r\nlocation: {to}{path}\r\ncontent-length: 0\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    url
}

#[test]
fn a_redirect_is_followed_only_to_where_the_module_may_go() {
    let elsewhere = Receiver::start();
    let url = redirecting(elsewhere.url().replace("127.0.0.1", "localhost"));
    let refused = "redirected: host `localhost` is not allowed";
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &url, "fetch", &[]));
    let denied = first_fetch(&engine);
    assert!(denied.starts_with(&format!("Denied: http: {refused} to this module")), "{denied}");
    assert!(engine.metric("nexum_egress_requests_total", &[("module", "sender"), ("result", "denied")]) > 0.0);
    // An effect is not tried again: the next attempt would be sent to the same place.
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &url, "keyed", &[]));
    let failed = listed(&engine, "an effect failed", |effect| effect["state"] == "failed");
    assert_eq!(failed["attempts"], 1);
    assert!(failed["last_error"].as_str().unwrap().contains(refused), "{failed:#}");
    assert_eq!(elsewhere.hits(), []);

    let both = [("allow = [\"127.0.0.1\"]", "allow = [\"127.0.0.1\", \"localhost\"]")];
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &url, "keyed", &both));
    let arrived = eventually("it is followed", || elsewhere.hits().pop().ok_or_else(|| engine.ctl(&["tree"])));
    assert!(arrived.path == "/keyed" && arrived.key.starts_with("block-"), "{arrived:?}");
}

#[test]
fn an_answer_past_the_operators_bound_is_refused_and_of_an_effect_cut() {
    let receiver = Receiver::start();
    let setup = || Setup::new().mock(31337, CHAIN).egress(&format!("{EGRESS}max_response_bytes = 4"));
    let engine = started(sender(setup(), &receiver.url(), "fetch", &[]));
    assert_eq!(
        first_fetch(&engine),
        "InvalidInput: http: the answer's body is larger than the limit of 4 bytes (code 200)"
    );
    // What it did is done, and what it says of it is for reading only.
    let engine = started(sender(setup(), &receiver.url(), "keyed", &[]));
    let (_, ids) = eventually("a block", || sent(&engine).into_iter().next().ok_or_else(|| engine.ctl(&["tree"])));
    let told = outcome(&engine, &ids[0]);
    assert_eq!((&told["status"], &told["detail"]), (&"delivered".into(), &"took".into()), "{told:#}");
}

/// A full outbox is no loss: the event that finds it so comes again.
#[test]
fn a_module_with_a_full_outbox_waits_and_goes_on_where_it_stopped() {
    let anvil = Anvil::start();
    let receiver = Receiver::start();
    receiver.set(Mood::Refuses(503));
    let eager = format!("{EAGER}max_pending = 4\n");
    let patient = [
        FROM_THE_FIRST,
        ("max_event_attempts = 3", "max_event_attempts = 1000"),
        ("max_consecutive_failures = 10", "max_consecutive_failures = 1000"),
    ];
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(&eager);
    let engine = started(sender(setup, &receiver.url(), "lane", &patient));
    for (block, pending) in [("1", 2), ("2", 4)] {
        anvil.mine();
        let has = |node: &Value| node["cursors"]["chain:31337"] == block && node["outbox_pending"] == pending;
        engine.module_until("sender", "has sent", has);
    }
    (0..3).for_each(|_| anvil.mine());
    let said = "this module has 4 effects that have not ended yet, which is the limit (outbox: rate-limited)";
    let refused = |node: &Value| {
        node["events_failed"].as_u64() > Some(2)
            && node["last_error"].as_str().is_some_and(|error| error.contains(said))
    };
    let node = engine.module_until("sender", "is refused", refused);
    assert_eq!((&node["cursors"]["chain:31337"], &node["outbox_pending"]), (&"2".into(), &4.into()), "{node:#}");
    assert_eq!(receiver.hits(), []);

    receiver.set(Mood::Fine);
    engine
        .module_until("sender", "goes on", |node| node["cursors"]["chain:31337"] == "5" && node["outbox_pending"] == 0);
    let node = engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    assert_eq!(node["dead_letters"], 0, "{node:#}");
    let lane: Vec<_> = receiver.deduplicated().into_iter().filter(|hit| hit.path == "/lane").collect();
    assert_eq!(lane.iter().map(|hit| &*hit.body).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
}

#[test]
fn what_cannot_be_sent_is_refused_in_the_handler_and_hurts_nothing_else() {
    let receiver = Receiver::start();
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &receiver.url(), "refused", &[]));
    let (_, ids) = eventually("a block", || sent(&engine).into_iter().next().ok_or_else(|| engine.ctl(&["tree"])));
    let (_, seen) = engine.state("sender", "f/").swap_remove(0);
    let seen: Vec<_> = seen.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let expected = [
        "Denied: outbox: host `elsewhere.example.org` is not allowed",
        "InvalidInput: outbox: method `TRACE`: expected one of",
        "InvalidInput: outbox: key `has a space`: expected 1 to 255 visible",
        "InvalidInput: outbox: header `idempotency-key` is the host's to set",
        "InvalidInput: outbox: an effect of 3",
        "Unsupported: outbox: capability `chain` is not granted to module sender, and effects over RPC need it",
        "Unsupported: outbox: capability `identity` is not granted to this module",
        "Unsupported: outbox: capability `messaging` is not granted to module sender, and effects with messages",
    ];
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(expected) {
        assert!(seen.starts_with(expected), "{seen}");
    }
    assert!(ids[0].ends_with("/0"), "what was refused took no place: {ids:?}");
    assert_eq!(outcome(&engine, &ids[0])["status"], "delivered");
}

/// What the handler was told of an `eth_sendRawTransaction`, with `chain` asked for in this way.
fn told_of_rpc(asked: &str, operator: &str) -> String {
    let changes = [("\"http\", \"outbox\"]", asked)];
    let setup = sender(Setup::new().mock(31337, CHAIN), "http://127.0.0.1:9", "refused", &changes);
    let engine = started(setup.with(operator));
    let (_, seen) = eventually("a block", || engine.state("sender", "f/").pop().ok_or_else(|| engine.ctl(&["tree"])));
    seen[5].as_str().unwrap().to_owned()
}

#[test]
fn an_effect_over_rpc_reaches_what_a_call_of_chain_would_reach() {
    let granted = told_of_rpc("\"http\", \"outbox\", \"chain\"]", "");
    assert!(granted.starts_with("Denied: outbox: method eth_sendRawTransaction is not available"), "{granted}");
    let denied = told_of_rpc("\"http\", \"outbox\"]\noptional = [\"chain\"]", "denied = [\"chain\"]");
    assert!(denied.starts_with("Unsupported: outbox: capability `chain` is not granted to module sender"), "{denied}");
}

#[test]
fn a_handler_that_fails_after_sending_sends_nothing_and_its_retry_has_the_same_id() {
    let receiver = Receiver::start();
    let engine = started(sender(Setup::new().mock(31337, CHAIN), &receiver.url(), "trap-once", &[]));
    let sent = eventually("blocks handled after a trap", || {
        let sent = sent(&engine);
        if sent.len() >= 2 { Ok(sent) } else { Err(engine.ctl(&["tree"])) }
    });
    for (number, ids) in &sent[..2] {
        let told = outcome(&engine, &ids[0]);
        assert_eq!((&told["status"], &told["count"]), (&"delivered".into(), &1.into()));
        assert_eq!(told["detail"], format!("took {number}"));
        let hits: Vec<_> = receiver.hits().into_iter().filter(|hit| hit.body == number.to_string()).collect();
        assert_eq!((hits.len(), &hits[0].key), (1, &ids[0]));
    }
    assert!(engine.module("sender")["events_failed"].as_u64() >= Some(2));
}

#[test]
fn a_refused_effect_fails_and_the_operator_takes_it_up_again() {
    let receiver = Receiver::start();
    receiver.set(Mood::Refuses(404));
    let engine = started(sender(Setup::new().mock(31337, CHAIN).with(EAGER), &receiver.url(), "keyed", &[]));
    let failed = listed(&engine, "an effect failed", |effect| effect["state"] == "failed");
    assert_eq!((&failed["attempts"], &failed["last_error"]), (&1.into(), &"status 404: no".into()));
    assert_eq!(failed["destination"], receiver.url());
    let id = failed["id"].as_str().unwrap();
    let told = outcome(&engine, id);
    assert_eq!((&told["status"], &told["detail"]), (&"failed".into(), &"status 404: no".into()));
    let shown = engine.json(&["outbox", "show", "sender", id]);
    assert_eq!(shown["payload"]["url"], format!("{}/keyed", receiver.url()));

    receiver.set(Mood::Fine);
    engine.ctl(&["outbox", "retry", "sender", id]);
    let again = eventually("told again", || {
        let told = outcome(&engine, id);
        if told["count"] == 2 { Ok(told) } else { Err(told.to_string()) }
    });
    assert_eq!(again["status"], "delivered");
    let key = failed["key"].as_str().unwrap();
    assert!(key.starts_with("block-") && receiver.hits().iter().any(|hit| hit.key == key));
    let refused = engine.try_ctl(&["outbox", "retry", "sender", id]).unwrap_err();
    assert!(refused.contains("is delivered: only a failed or cancelled one is retried"), "{refused}");
    assert!(engine.try_ctl(&["outbox", "show", "sender", "nothing"]).unwrap_err().contains("no effect `nothing`"));
}

#[test]
fn what_waits_is_shown_counted_and_can_be_withdrawn() {
    let receiver = Receiver::start();
    receiver.set(Mood::Refuses(503));
    let patient = "[outbox]\nbackoff_first = \"1h\"\nbackoff_cap = \"2h\"\n";
    let engine = started(sender(Setup::new().mock(31337, CHAIN).with(patient), &receiver.url(), "lane", &[]));
    let head = |effect: &Value| effect["lane"] == "blocks" && effect["attempts"] == 1;
    let waiting = listed(&engine, "the head of the lane was tried", head);
    assert_eq!((&waiting["state"], &waiting["last_error"]), (&"released".into(), &"status 503: no".into()));
    let behind = listed(&engine, "one behind it", |effect| effect["lane"] == "blocks" && effect["state"] == "pending");
    assert_eq!(behind["attempts"], 0);

    let node = engine.module_until("sender", "has effects", |node| node["outbox_pending"].as_u64() > Some(3));
    assert!(node["outbox_oldest_age_ms"].is_u64(), "{node:#}");
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains("pending, oldest") && tree.contains("outbox "), "{tree}");
    let metrics = engine.ctl(&["metrics"]);
    let pending = metrics.lines().find(|line| line.starts_with("nexum_outbox_pending{module=\"sender\"}"));
    assert!(pending.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");

    receiver.set(Mood::Fine);
    let id = waiting["id"].as_str().unwrap();
    engine.ctl(&["outbox", "cancel", "sender", id]);
    let told = outcome(&engine, id);
    let reason = "by the operator, after it may have left";
    assert_eq!((&told["status"], &told["detail"]), (&"cancelled".into(), &reason.into()));
    // The lane goes on with the next one.
    let next = outcome(&engine, behind["id"].as_str().unwrap());
    assert_eq!(next["status"], "delivered");
    let gone = engine.try_ctl(&["outbox", "cancel", "sender", id]).unwrap_err();
    assert!(gone.contains("has no effect"), "{gone}");
}

/// A transfer of 1 ether to 0x…dead from Anvil's first account with nonce 0 on chain 31337, signed.
const RAW: &str = "0xf86e808502540be40082520894000000000000000000000000000000000000dead880de0b6b3a76400008082f4f6a013141b6f80ede5162cf82941635d67f71b16d9ba3077025ecadc2d46a66d8099a02c3733844e225716694f0a5a83094f9a454c8ffe3faf39184bfc3dc977b5a01e";

#[test]
fn an_rpc_effect_reaches_the_node_once() {
    let anvil = Anvil::start();
    let chain = (
        "required = [\"local-store\", \"http\", \"outbox\"]",
        "required = [\"local-store\", \"http\", \"chain\", \"outbox\"]\n[capabilities.chain]\nextra_methods = [\"eth_sendRawTransaction\"]",
    );
    let raw = format!("release = \"committed\"\nraw = \"{RAW}\"");
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
    let changes = [chain, ("release = \"committed\"", raw.as_str())];
    let engine = started(
        sender(setup, "http://127.0.0.1:9", "rpc", &changes).with("extra_methods = [\"eth_sendRawTransaction\"]"),
    );
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    anvil.mine();
    let (_, ids) = eventually("a block", || sent(&engine).into_iter().next().ok_or_else(|| engine.ctl(&["tree"])));
    let told = outcome(&engine, &ids[0]);
    assert_eq!(told["status"], "delivered", "{told:#}");
    anvil.mine();
    let balance =
        anvil.rpc("eth_getBalance", serde_json::json!(["0x000000000000000000000000000000000000dEaD", "latest"]));
    assert_eq!(balance, "0xde0b6b3a7640000");
    assert!(told["detail"].as_str().unwrap().starts_with("\"0x"), "the transaction's hash: {told:#}");
}
