//! A reorg on one chain does not cost the module what it handled of other chains and schedules: it goes through all of
//! it again, once, in the order it first came in.

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
};

const OTHER: u64 = 31338;

fn watching(forked: &Anvil, other: &Anvil, emitter: &str) -> Engine {
    let subscriptions = format!(
        "kind = \"log\"\nchain_id = {OTHER}\naddress = \"{emitter}\"\nstart_block = 1\n\
         [[subscription]]\nkind = \"cron\"\nevery = \"1s\"\nmissed = \"skip\"\n"
    );
    Setup::new()
        .chain(31337, &[forked.ws()])
        .chain(OTHER, &[other.ws()])
        .module(
            "recorder",
            "recorder",
            &[
                ("required = [31337]", "required = [31337, 31338]"),
                FROM_THE_FIRST,
                ("kind = \"log\"\nchain_id = 31337", &subscriptions),
                ("backoff = [\"1s\", \"5m\"]", "backoff = [\"100ms\", \"1s\"]"),
            ],
        )
        .start()
}

/// What the module recorded of the sources that did not fork, in the order it handled them.
fn others(engine: &Engine) -> Vec<(u64, String)> {
    let mut order = Vec::new();
    for prefix in ["l/", "t/"] {
        for (key, value) in engine.state("recorder", prefix) {
            assert_eq!(value["count"], 1, "{key} was applied more than once");
            order.push((value["seq"].as_u64().unwrap(), key));
        }
    }
    order.sort_unstable();
    order
}

fn handled_head(engine: &Engine, anvil: &Anvil, chain_id: u64) {
    let head = anvil.head().to_string();
    let source = format!("chain:{chain_id}");
    engine.module_until("recorder", "handled the head", |node| node["cursors"][source.as_str()] == head.as_str());
}

/// Waits until the module has handled that many ticks.
fn ticks(engine: &Engine, wanted: usize) {
    eventually("the schedule fires", || match engine.state("recorder", "t/").len() {
        got if got >= wanted => Ok(()),
        got => Err(format!("{got} of {wanted} ticks")),
    });
}

/// Both chains and the schedule take turns, then the first chain forks below everything.
fn prove(crash: bool) {
    let (forked, other) = (Anvil::start(), Anvil::of_chain(OTHER));
    let emitter = other.deploy_emitter();
    let mut engine = watching(&forked, &other, &emitter);
    forked.mine();
    handled_head(&engine, &forked, 31337);
    for round in 1..=3 {
        forked.mine();
        handled_head(&engine, &forked, 31337);
        other.emit(&emitter, round);
        other.mine();
        handled_head(&engine, &other, OTHER);
        ticks(&engine, engine.state("recorder", "t/").len() + 1);
    }
    let before = others(&engine);
    assert!(before.len() >= 6, "{before:?}");
    forked.reorg(3);
    if crash {
        // Somewhere within the rewind and the redelivery.
        eventually("the engine notices", || match engine.log_text().contains("reorg below the module's cursor") {
            true => Ok(()),
            false => Err("no reorg in the log".to_owned()),
        });
        engine.kill9();
        engine.launch();
    }
    forked.mine();
    handled_head(&engine, &forked, 31337);
    let blocks = engine.state("recorder", "b/");
    let expected = forked.blocks(1);
    assert_eq!(blocks.len(), expected.len());
    for ((key, value), (_, hash)) in blocks.iter().zip(&expected) {
        assert_eq!((value["hash"].as_str(), value["count"].as_u64()), (Some(hash.as_str()), Some(1)), "{key}");
    }
    // The blocks that stand come after everything that was delivered again.
    let after = others(&engine);
    let keys = |order: &[(u64, String)]| order.iter().map(|(_, key)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&after)[..before.len()], keys(&before), "what the other sources delivered, in its order");
    let told = engine.state("recorder", "r/");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.is_object() && told[0].1["ancestor"] == forked.head() - 4, "{told:?}");
    let first_new = blocks[blocks.len() - 4].1["seq"].as_u64().unwrap();
    let told_at = told[0].0[2..].parse::<u64>().unwrap();
    let replayed = after[..before.len()].iter().filter(|(seq, _)| *seq > told_at).count();
    assert!(replayed >= 6, "{after:?}");
    assert!(after[before.len() - 1].0 < first_new, "what stands comes after the replay");
}

#[test]
fn a_fork_of_one_chain_replays_the_others_in_their_order() {
    prove(false);
}

#[test]
fn a_crash_within_the_replay_loses_and_repeats_nothing() {
    prove(true);
}
