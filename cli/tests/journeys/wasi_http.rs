//! A module that sends its requests by `wasi:http`, as those of other languages do, goes through the gate that `http.fetch`
//! goes through.

use std::fs;

use super::{
    crashes::{handled_block, replay, state},
    engine::{EGRESS, Engine, FAST_CHAIN as CHAIN, FROM_THE_FIRST, Setup, eventually, path},
    outbox::redirecting,
    receiver::Receiver,
};

fn client(setup: Setup, url: &str, changes: &[(&str, &str)]) -> Setup {
    let url = format!("url = \"{url}\"");
    let mut all = vec![("url = \"http://127.0.0.1:9\"", url.as_str()), FROM_THE_FIRST];
    all.extend(changes);
    setup.module("wasi-http", "client", &all)
}

fn started(setup: Setup, url: &str, changes: &[(&str, &str)]) -> Engine {
    client(setup.mock(31337, CHAIN), url, changes).start()
}

/// What the first request of each kind came to: the block's number, of its GET, and of its POST.
fn first(engine: &Engine) -> (u64, String, String) {
    eventually("the module sent its requests", || {
        let said = |kind: &str| engine.state("client", kind).into_iter().next();
        let (Some((key, got)), Some((_, posted))) = (said("g/"), said("p/")) else {
            return Err(engine.ctl(&["tree"]));
        };
        Ok((key[2..].parse().unwrap(), got.as_str().unwrap().to_owned(), posted.as_str().unwrap().to_owned()))
    })
}

#[test]
fn a_host_that_is_allowed_answers_and_has_the_whole_request() {
    let receiver = Receiver::start();
    let engine = started(Setup::new(), &receiver.url(), &[]);
    let (number, got, posted) = first(&engine);
    assert_eq!((got.as_str(), posted), ("200 took ", format!("200 took {number}")));
    let hits = receiver.hits();
    let asked: Vec<_> = hits[..2].iter().map(|hit| (hit.path.clone(), hit.body.clone())).collect();
    assert_eq!(asked, [(format!("/get?n={number}"), String::new()), ("/post".to_owned(), number.to_string())]);
    assert!(engine.metric("nexum_egress_requests_total", &[("module", "client"), ("result", "2xx")]) > 0.0);
}

#[test]
fn what_the_manifest_does_not_allow_is_denied_and_the_log_says_why() {
    let receiver = Receiver::start();
    let granted = "required = [\"local-store\", \"http\"]\n[capabilities.http]\nallow = [\"127.0.0.1\"]";
    for (changes, why) in [
        (("allow = [\"127.0.0.1\"]", "allow = [\"*.example.org\"]"), "host `127.0.0.1` is not allowed to this module"),
        ((granted, "required = [\"local-store\"]"), "capability `http` is not granted to module client"),
    ] {
        let engine = started(Setup::new(), &receiver.url(), &[changes]);
        let (_, got, posted) = first(&engine);
        assert_eq!((got.as_str(), posted.as_str()), ("ErrorCode::HttpRequestDenied", "ErrorCode::HttpRequestDenied"));
        let log = engine.log_text();
        assert!(log.contains(&format!("wasi:http: {why}")), "{log}");
    }
    assert_eq!(receiver.hits(), []);
}

#[test]
fn a_redirect_is_followed_only_to_where_the_module_may_go() {
    let elsewhere = Receiver::start();
    let url = redirecting(elsewhere.url().replace("127.0.0.1", "localhost"));
    let engine = started(Setup::new(), &url, &[]);
    assert_eq!(first(&engine).1, "ErrorCode::HttpRequestDenied");
    assert_eq!(elsewhere.hits(), []);
    let both = [("allow = [\"127.0.0.1\"]", "allow = [\"127.0.0.1\", \"localhost\"]")];
    let engine = started(Setup::new(), &url, &both);
    let (number, got, posted) = first(&engine);
    assert_eq!((got.as_str(), posted), ("200 took ", format!("200 took {number}")));
}

#[test]
fn an_answer_past_the_operators_bound_is_refused() {
    let receiver = Receiver::start();
    let engine = started(Setup::new().egress(&format!("{EGRESS}max_response_bytes = 4")), &receiver.url(), &[]);
    assert_eq!(first(&engine).1, "ErrorCode::HttpResponseBodySize(None)");
}

#[test]
fn an_answer_comes_from_the_recording() {
    let mut receiver = Receiver::start();
    let mut engine = started(Setup::new().with("[journal]\nrecord = \"all\""), &receiver.url(), &[]);
    let seq = handled_block(&engine, "client");
    engine.kill9();
    receiver.stop();
    let took = receiver.hits().len();
    let (code, said) = replay(&["client", "--event", &seq, "--state-dir", &state(&engine)]);
    assert_eq!((code, &said["equal"], &said["missing"]), (0, &true.into(), &serde_json::json!([])), "{said:#}");
    assert_eq!(said["replayed"]["changed_keys"].as_array().unwrap().len(), 2, "{said:#}");
    receiver.resume();
    let (code, said) = replay(&["client", "--event", &seq, "--state-dir", &state(&engine)]);
    assert_eq!((code, receiver.hits().len()), (0, took), "the receiver was asked: {said:#}");
}

#[test]
fn a_recording_has_the_name_of_a_secret_as_the_module_wrote_it() {
    const PLACEHOLDER: &str = "${secret:tea}";
    let receiver = Receiver::start();
    let header = format!("header = \"{PLACEHOLDER}\"");
    let changes = [("header = \"green\"", header.as_str()), ("traps = false", "traps = true")];
    let engine = started(Setup::new(), &receiver.url(), &changes);
    engine.module_until("client", "failed", |node| node["dead_letters"].as_u64() > Some(0));
    let capsule = engine.dir.path().join("crash.rec");
    engine.ctl(&["crash", "export", "client", "--to", path(&capsule)]);
    let recorded = fs::read(&capsule).unwrap();
    // In the module's configuration, in its GET and in its POST, whatever they came to.
    let named = recorded.windows(PLACEHOLDER.len()).filter(|part| *part == PLACEHOLDER.as_bytes()).count();
    assert!(named >= 3, "{named}: {}", String::from_utf8_lossy(&recorded));
}
