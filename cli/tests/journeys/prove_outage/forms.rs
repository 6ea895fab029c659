//! Answers in odd forms, far too long ones, and such as must not be followed or shown.

use std::{fs, net::TcpListener};

use serde_json::json;

use super::bed::{Plan, http, is_long, places, ws};
use crate::{
    anvil::Anvil,
    engine::eventually,
    proxy::{
        Fault::{self, Flooded, Forbidden, Forms, Gzip, Huge, Redirect},
        Flood,
        Form::{self, *},
        Whom,
    },
};

/// What may stand beside each other in one answer, and then each form by itself.
const TOGETHER: [&[Form]; 3] = [
    &[NullForNoLogs, BloomEmpty, RemovedNull, ErrorNull, IdAsText, TimeZero, Zeros, TopicsNull],
    &[BloomAbsent, TimeWrong, Decimal, ErrorNull, NullForNoLogs, TopicsNull],
    &[Capitals, IdAsText, RemovedNull],
];
const EACH: [&[Form]; 12] = [
    &[NullForNoLogs],
    &[BloomEmpty],
    &[BloomAbsent],
    &[RemovedNull],
    &[ErrorNull],
    &[IdAsText],
    &[TimeZero],
    &[TimeWrong],
    &[Decimal],
    &[Zeros],
    &[Capitals],
    &[TopicsNull],
];
/// Deploys a contract that emits one log without topics per call.
const PLAIN_EMITTER: &str = "0x600c600c600039600c6000f360003560005260206000a000";
const KEY: &str = "SECRETKEY123";
const KEY_PATH: &str = "/v3/SECRETKEY123";

fn in_forms(forms: &'static [Form], nth: usize) {
    let place = if nth.is_multiple_of(2) { http(0, 1) } else { ws(0, 1) };
    let anvil = Anvil::start();
    let account = anvil.rpc("eth_accounts", json!([]))[0].clone();
    let creation = json!([{"from": account, "data": PLAIN_EMITTER, "gas": "0x100000"}]);
    let hash = anvil.rpc("eth_sendTransaction", creation);
    anvil.mine();
    let plain = anvil.rpc("eth_getTransactionReceipt", json!([hash]))["contractAddress"].as_str().unwrap().to_owned();
    let mut bed = Plan::at(place).addresses(vec![plain.clone()]).starting_with(Forms(forms)).prepared(anvil);
    bed.mine_history(300, 3);
    bed.anvil.emit(&plain, 1);
    bed.engine.launch();
    for _ in 0..3 {
        bed.mine();
        bed.anvil.emit(&plain, 2);
        bed.anvil.emit(&bed.emitter, 3);
        bed.anvil.mine();
        bed.has_logs(&bed.logs_on_chain());
    }
    let blocks = bed.engine.state("recorder", "b/");
    let found: Vec<_> = blocks.iter().map(|(_, value)| value["hash"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<_> = bed.anvil.blocks(1).into_iter().map(|(_, hash)| hash).collect();
    assert_eq!(found, expected[..found.len()], "{forms:?}");
    assert_eq!(bed.reorgs(), 0.0, "{forms:?}");
    assert_eq!(bed.of_endpoint("nexum_endpoint_errors_total", 0), 0.0, "{forms:?}: {}", bed.engine.metrics_text());
    bed.is_healthy();
}

#[test]
fn prove_outage_of_odd_forms() {
    let forms = if is_long() { [&TOGETHER[..], &EACH[..]].concat() } else { TOGETHER.to_vec() };
    for (nth, forms) in forms.into_iter().enumerate() {
        in_forms(forms, nth);
    }
}

#[test]
fn prove_outage_of_compressed_answers() {
    let mut bed = Plan::at(http(0, 1)).starting_with(Gzip).start();
    bed.grow();
    assert_eq!(bed.of_endpoint("nexum_endpoint_errors_total", 0), 0.0, "{}", bed.engine.metrics_text());
    bed.recovers();
}

/// One module's answer that nobody has room for is that module's matter alone.
#[test]
fn prove_outage_of_huge_answers_to_a_module() {
    for place in places(&[http(0, 1), ws(0, 1)], &[1, 2]) {
        let mut bed = Plan::at(place).neighbour("big-reply", &[]).start();
        bed.grow();
        let before = bed.engine.memory_bytes_max();
        bed.bad().set(Huge(Whom::Modules));
        let said = |bed: &super::bed::Bed| bed.state("big-reply", "reply").first().map(|(_, value)| value.to_string());
        bed.grow();
        if place.of == 1 {
            eventually("the module is told", || {
                bed.anvil.mine();
                match said(&bed) {
                    Some(said) if said.contains("larger than") => Ok(()),
                    said => Err(format!("{said:?}")),
                }
            });
        }
        bed.grow();
        assert_eq!(bed.of_endpoint("nexum_endpoint_demotions_total", place.bad), 0.0);
        assert_eq!(bed.engine.metric("nexum_subscription_reconnects_total", &[]), 0.0);
        let grown = bed.engine.memory_bytes_max().saturating_sub(before) >> 20;
        println!("{place:?}: {grown} MB more while answers of 300 MB came");
        assert!(grown < 150, "{grown} MB more");
        bed.recovers();
    }
}

#[test]
fn prove_outage_of_huge_answers_to_the_engine() {
    for place in places(&[http(0, 1), ws(0, 1), ws(0, 2)], &[1, 2]) {
        let mut bed = Plan::at(place).rpc("timeout = \"5s\"").start();
        bed.grow();
        let before = bed.engine.memory_bytes_max();
        bed.bad().set(Huge(Whom::Engine));
        // Receipts tell what the logs do not.
        bed.grow();
        let grown = bed.engine.memory_bytes_max().saturating_sub(before) >> 20;
        println!("{place:?}: {grown} MB more while answers of 300 MB came");
        assert!(grown < 300, "{grown} MB more");
        bed.recovers();
    }
}

/// What no node sends as one message ends the connection, and takes no more than a long answer may.
#[test]
fn prove_outage_of_floods_over_a_websocket() {
    let floods = [(Flood::Answers, "nonsense"), (Flood::Announced, "too-large"), (Flood::Endless, "nonsense")];
    for (flood, kind) in floods {
        // Whatever takes as long as that was not noticed.
        let mut bed = Plan::at(ws(0, 1)).rpc("timeout = \"30s\"").start();
        bed.grow();
        let before = bed.engine.memory_bytes_max();
        bed.bad().set(Flooded(flood));
        let labels = [("endpoint", bed.bad_name()), ("kind", kind)];
        eventually(&format!("{flood:?} is refused twice"), || {
            // The connection from before ends when something is asked over it.
            bed.anvil.mine();
            let live = bed.engine.get("health_listen", "/live");
            assert!(live.starts_with("HTTP/1.1 200"), "{flood:?}: {live}");
            match bed.engine.metric("nexum_endpoint_errors_total", &labels) {
                refused if refused >= 2.0 => Ok(()),
                _ => Err(bed.engine.endpoint(bed.bad_name()).to_string()),
            }
        });
        let grown = bed.engine.memory_bytes_max().saturating_sub(before) >> 20;
        println!("{flood:?}: {grown} MB more");
        assert!(grown < 200, "{flood:?}: {grown} MB more");
        bed.recovers();
    }
}

#[test]
fn prove_outage_of_redirects_that_are_not_followed() {
    for place in places(&[http(0, 1), ws(0, 2)], &[1, 2]) {
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let mut bed = Plan::at(place).start();
        bed.grow();
        bed.bad().set(Redirect(elsewhere.local_addr().unwrap().port()));
        match place.of {
            1 => {
                bed.mine();
                bed.is_unhealthy(&[]);
                // Over a WebSocket the loss of the connection is told first.
                eventually("what was answered is told", || {
                    let node = bed.engine.endpoint(bed.bad_name());
                    let summary = node["summary"].as_str().unwrap();
                    if summary.contains("status 302") { Ok(()) } else { Err(summary.to_owned()) }
                });
            }
            _ => {
                bed.grow();
                bed.grow();
            }
        }
        bed.recovers();
        let came = elsewhere.accept();
        assert!(came.is_err(), "{came:?}");
    }
}

/// An endpoint that names the key in the URL, in the worst place there is.
#[test]
fn prove_outage_of_a_key_that_is_shown_nowhere() {
    for place in places(&[http(0, 1), ws(0, 1)], &[1]) {
        let mut bed = Plan::at(place)
            .path(KEY_PATH)
            .debug()
            .neighbour("big-reply", &[])
            .neighbour("stall", &[("max_consecutive_failures = 10", "max_consecutive_failures = 100")])
            .start();
        bed.grow();
        bed.bad().set(Forbidden(Whom::Modules));
        bed.grow();
        let letters = eventually("an event that failed is kept", || {
            bed.anvil.mine();
            let letters: serde_json::Value =
                serde_json::from_str(&bed.engine.try_ctl(&["dlq", "list", "stall", "--json"])?).unwrap();
            match letters.as_array().is_some_and(|letters| !letters.is_empty()) {
                true => Ok(letters),
                false => Err(letters.to_string()),
            }
        });
        let seq = letters[0]["seq"].to_string();
        let letter = bed.engine.ctl(&["dlq", "show", "stall", &seq]);
        assert!(letter.contains("may not be used"), "the endpoint's words: {letter}");
        // What the module was told stands in the crash that is kept of it.
        let capsule = bed.engine.dir.path().join("stall.rec");
        bed.engine.ctl(&["crash", "export", "stall", "--to", capsule.to_str().unwrap()]);
        let capsule = String::from_utf8_lossy(&fs::read(&capsule).unwrap()).into_owned();
        assert!(capsule.contains("may not be used"), "{capsule}");
        let reply = bed.engine.state("big-reply", "reply");
        let reply = reply.iter().map(|(_, value)| value.to_string()).collect::<String>();
        assert!(reply.contains("may not be used"), "{reply}");
        bed.bad().set(Forbidden(Whom::Everybody));
        bed.anvil.mine();
        bed.is_unhealthy(&[]);
        let everything = [
            bed.engine.log_text(),
            bed.engine.ctl(&["tree"]),
            bed.engine.ctl(&["tree", "--json"]),
            bed.health().to_string(),
            bed.engine.metrics_text(),
            letters.to_string(),
            letter,
            capsule,
            reply,
        ];
        for (nth, text) in everything.iter().enumerate() {
            let line = text.lines().find(|line| line.contains(KEY));
            assert_eq!(line, None, "{place:?}: text {nth} shows the key");
        }
        bed.bad().set(Fault::None);
        bed.grow();
    }
}
