//! Shared actors that die: they come back, whoever waited there is served again, and past the bound the process ends.

use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
    outbox::sender,
    prove_exactly_once::{Moments, check, mine_some},
    proxy::{Fault, Proxy},
    receiver::{Mood, Receiver},
};

/// A recorder of blocks, logs and ticks, on a real node.
fn waiting(anvil: &Anvil, emitter: &str) -> Engine {
    let log = format!(
        "kind = \"log\"\nchain_id = 31337\naddress = \"{emitter}\"\nstart_block = 1\n\n\
         [[subscription]]\nkind = \"cron\"\nevery = \"1s\""
    );
    let changes = [FROM_THE_FIRST, ("kind = \"log\"\nchain_id = 31337", log.as_str())];
    Setup::new().chain(31337, &[anvil.ws()]).module("recorder", "recorder", &changes).start()
}

fn service(engine: &Engine, name: &str) -> Value {
    let services = engine.json(&["service", "list"]);
    services.as_array().unwrap().iter().find(|service| service["name"] == name).unwrap().clone()
}

fn ticks(engine: &Engine) -> usize {
    let ticks = engine.state("recorder", "t/");
    assert!(ticks.iter().all(|(_, value)| value["count"] == 1), "{ticks:?}");
    ticks.len()
}

/// Waits for ticks that nobody asked for before.
fn more_ticks(engine: &Engine) {
    let before = ticks(engine);
    eventually("the schedule fires again", || match ticks(engine) {
        now if now > before + 1 => Ok(()),
        now => Err(format!("{now} ticks, {before} before")),
    });
}

#[test]
fn a_module_that_waited_at_a_service_that_died_loses_nothing() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = waiting(&anvil, &emitter);
    let mut moments = Moments(0x1234_5678_9abc_def1);
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    for round in 1..=3 {
        // Its pull waits at the chain actor now, and nothing but a new block would answer it.
        for name in ["chain:31337", "cron", "store"] {
            engine.ctl(&["service", "restart", name, "--kill"]);
            mine_some(&anvil, &emitter, &mut moments);
            check(&anvil, &emitter, &engine);
            let found = service(&engine, name);
            assert_eq!((&found["state"], &found["failures"]["spent"]), (&"UP".into(), &round.into()), "{found:#}");
        }
        more_ticks(&engine);
    }
    // By order it is no failure, however often.
    for _ in 0..7 {
        engine.ctl(&["service", "restart", "chain:31337"]);
        anvil.mine();
    }
    check(&anvil, &emitter, &engine);
    let found = service(&engine, "chain:31337");
    assert_eq!((&found["restarts"], &found["failures"]["spent"]), (&10.into(), &3.into()), "{found:#}");
    let metrics = engine.ctl(&["metrics"]);
    assert!(metrics.contains("nexum_service_restarts_total{service=\"chain:31337\"} 10"), "{metrics}");
    let unknown = engine.try_ctl(&["service", "restart", "nothing"]).unwrap_err();
    assert!(unknown.contains("no service `nothing`"), "{unknown}");
}

#[test]
fn past_the_bound_the_process_ends_with_its_state_intact() {
    for name in ["store", "chain:31337", "egress"] {
        let anvil = Anvil::start();
        let emitter = anvil.deploy_emitter();
        let mut engine = waiting(&anvil, &emitter);
        let mut moments = Moments(0xfeed_beef_1357_9bdf);
        mine_some(&anvil, &emitter, &mut moments);
        check(&anvil, &emitter, &engine);
        for _ in 0..5 {
            engine.ctl(&["service", "restart", name, "--kill"]);
            mine_some(&anvil, &emitter, &mut moments);
        }
        engine.try_ctl(&["service", "restart", name, "--kill"]).unwrap_err();
        assert_eq!(engine.wait().code(), Some(1));
        let log = engine.log_text();
        assert!(log.contains(&format!("{name} failed 5 times in 60s")), "{log}");
        mine_some(&anvil, &emitter, &mut moments);
        engine.launch();
        check(&anvil, &emitter, &engine);
        more_ticks(&engine);
        assert!(engine.terminate().success());
    }
}

/// A request under way goes down with the actor that made it, and the module is told so in its handler.
#[test]
fn a_guest_whose_request_died_with_egress_sees_unavailable_and_goes_on() {
    let anvil = Anvil::start();
    let receiver = Receiver::start();
    receiver.set(Mood::Hangs);
    let engine = sender(Setup::new().chain(31337, &[anvil.ws()]), &receiver.url(), "fetch", &[]).start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    for round in 1..=3 {
        anvil.mine();
        eventually("a request is under way", || match engine.metric("nexum_egress_in_flight", &[]) {
            1.0 => Ok(()),
            other => Err(other.to_string()),
        });
        engine.ctl(&["service", "restart", "egress", "--kill"]);
        let seen = eventually("the handler went on", || match engine.state("sender", "f/") {
            seen if seen.len() == round => Ok(seen),
            seen => Err(format!("{seen:?}")),
        });
        assert_eq!(seen[round - 1].1, "Unavailable: http: egress is not running");
        let found = service(&engine, "egress");
        assert_eq!((&found["state"], &found["failures"]["spent"]), (&"UP".into(), &round.into()), "{found:#}");
    }
    receiver.set(Mood::Fine);
    anvil.mine();
    let seen = eventually("it is answered again", || match engine.state("sender", "f/") {
        seen if seen.len() == 4 => Ok(seen),
        seen => Err(format!("{seen:?}")),
    });
    assert_eq!(seen[3].1, "200 took ");
    let node = engine.module("sender");
    assert_eq!((&node["restarts"], &node["events_failed"]), (&0.into(), &0.into()), "{node:#}");
    assert_eq!(engine.metric("nexum_egress_in_flight", &[]), 0.0);
}

/// The same of a chain, to which nobody answers while the actor is killed.
#[test]
fn a_guest_whose_request_died_with_its_chain_sees_unavailable_and_goes_on() {
    let anvil = Anvil::start();
    let proxy = Proxy::before(anvil.port());
    let changes = [
        ("mode = \"good\"", "mode = \"stall\""),
        ("kind = \"block\"\nchain_id = 31337", "kind = \"cron\"\nevery = \"1s\""),
        ("event_deadline = \"2s\"", "event_deadline = \"20s\""),
    ];
    let engine = Setup::new().chain(31337, &[proxy.http()]).module("hostile", "m", &changes).start();
    engine.module_until("m", "is answered", |node| node["events_processed"].as_u64() > Some(0));
    proxy.set(Fault::Stall);
    eventually("a request is under way", || {
        let count = |name: &str| engine.metric(name, &[("module", "m"), ("event_type", "tick")]);
        let [begun, done] = ["nexum_events_dispatched_total", "nexum_events_processed_total"].map(count);
        if begun > done { Ok(()) } else { Err(format!("{begun} begun, {done} done")) }
    });
    engine.ctl(&["service", "restart", "chain:31337", "--kill"]);
    let node = engine.module_until("m", "was told", |node| node["last_error"].is_string());
    let told = node["last_error"].as_str().unwrap();
    assert!(told.contains("unavailable"), "{told}");
    proxy.set(Fault::None);
    let processed = node["events_processed"].as_u64();
    let node = engine.module_until("m", "goes on", |node| node["events_processed"].as_u64() > processed);
    assert_eq!(node["state"], "RUN", "{node:#}");
}

#[test]
fn the_gateway_and_the_supervisor_of_modules_come_back_too() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let engine = waiting(&anvil, &emitter);
    let mut moments = Moments(0x0f0f_3c3c_5a5a_9696);
    for args in [&["service", "restart", "gateway"][..], &["service", "restart", "gateway", "--kill"]] {
        // The connection that carries the order ends with it.
        let _ = engine.try_ctl(args);
        eventually("the gateway answers", || engine.try_ctl(&["tree"]));
    }
    for args in [&["service", "restart", "modules"][..], &["service", "restart", "modules", "--kill"]] {
        engine.ctl(args);
        mine_some(&anvil, &emitter, &mut moments);
        eventually("the module is there", || engine.try_ctl(&["state", "inspect", "recorder"]));
        engine.module_until("recorder", "runs", |node| node["state"] == "RUN");
        check(&anvil, &emitter, &engine);
    }
}
