//! What a receiver has, repetitions left out, is exactly what the module meant: nothing lost, nothing twice, in order
//! where a lane was asked for. The engine is killed around every send; the receiver fails, hangs and restarts.

use std::{collections::BTreeMap, time::Duration};

use super::{
    anvil::Anvil,
    engine::{Engine, FROM_THE_FIRST, Setup, eventually},
    outbox::{EAGER, sender, sent},
    prove_exactly_once::Moments,
    receiver::{Hit, Mood, Receiver},
};

/// How often the engine is killed: 5 in CI, more with `make prove-outbox KILLS=n`.
fn kills() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "set by the Makefile")]
    std::env::var("NEXUM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn handled_the_head(anvil: &Anvil, engine: &Engine) {
    let head = anvil.head().to_string();
    engine.module_until("sender", "handled the head", |node| node["cursors"]["chain:31337"] == head.as_str());
}

/// Waits until every effect has ended and the module was told of each.
fn settled(engine: &Engine) {
    eventually("every effect has ended", || {
        let sent: usize = sent(engine).iter().map(|(_, ids)| ids.len()).sum();
        let told = engine.state("sender", "o/").len();
        let pending = engine.module("sender")["outbox_pending"].as_u64();
        if told >= sent && pending == Some(0) {
            Ok(())
        } else {
            Err(format!("{sent} sent, {told} told, {pending:?} pending\n{}", engine.ctl(&["tree"])))
        }
    });
}

fn numbers<'a>(hits: impl IntoIterator<Item = &'a Hit>) -> Vec<u64> {
    hits.into_iter().filter(|hit| hit.path == "/lane").map(|hit| hit.body.parse().unwrap()).collect()
}

/// What has arrived is what the module meant, and it was told so: how many effects it meant, and the receiver has.
fn arrived(anvil: &Anvil, engine: &Engine, receiver: &Receiver) -> (usize, usize) {
    let meant: BTreeMap<String, u64> =
        sent(engine).into_iter().flat_map(|(number, ids)| ids.into_iter().map(move |id| (id, number))).collect();
    assert_eq!(meant.len() as u64, 2 * anvil.head());
    let took = receiver.deduplicated();
    assert_eq!(took.len(), meant.len(), "effects taken and effects meant");
    for hit in &took {
        assert_eq!(meant.get(&hit.key).map(u64::to_string), Some(hit.body.clone()), "{hit:?}");
    }
    assert_eq!(numbers(&took), (1..=anvil.head()).collect::<Vec<_>>(), "the lane's order");
    let repeated = numbers(&receiver.hits());
    assert!(repeated.is_sorted(), "an effect came after a later one of its lane: {repeated:?}");
    for (key, told) in engine.state("sender", "o/") {
        assert_eq!((&told["status"], &told["count"]), (&"delivered".into(), &1.into()), "{key}: {told:#}");
    }
    (meant.len(), took.len())
}

#[test]
fn prove_outbox_when_the_engine_is_killed_and_the_receiver_fails() {
    let anvil = Anvil::start();
    let mut receiver = Receiver::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
    let mut engine = sender(setup, &receiver.url(), "lane", &[FROM_THE_FIRST]).start();
    let mut moments = Moments(0x6a09_e667_f3bc_c908);
    let moods = [Mood::Fine, Mood::LosesAnswers, Mood::Refuses(503), Mood::Confused, Mood::Hangs, Mood::Refuses(429)];
    for round in 0..kills() {
        receiver.set(moods[(round % moods.len() as u64) as usize]);
        for _ in 0..1 + moments.below(4) {
            anvil.mine();
        }
        // Somewhere between the block and the last answer.
        std::thread::park_timeout(Duration::from_millis(moments.below(150)));
        engine.kill9();
        if moments.below(3) == 0 {
            receiver.stop();
        }
        anvil.mine();
        engine.launch();
        std::thread::park_timeout(Duration::from_millis(moments.below(100)));
        receiver.resume();
    }
    receiver.set(Mood::Fine);
    handled_the_head(&anvil, &engine);
    settled(&engine);

    let (meant, took) = arrived(&anvil, &engine, &receiver);
    println!(
        "engine killed {} times: {meant} effects, {} requests taken, {took} after the receiver left out repetitions; the lane in order",
        kills(),
        receiver.hits().len(),
    );
    assert!(engine.terminate().success());
}

#[test]
fn prove_outbox_when_what_carries_it_out_is_killed() {
    let anvil = Anvil::start();
    let receiver = Receiver::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
    let mut engine = sender(setup, &receiver.url(), "lane", &[FROM_THE_FIRST]).start();
    let mut moments = Moments(0x94d0_49bb_1331_11eb);
    let moods = [Mood::Fine, Mood::LosesAnswers, Mood::Hangs, Mood::Confused];
    for round in 0..kills() {
        for name in ["egress", "outbox", "the engine"] {
            receiver.set(moods[moments.below(moods.len() as u64) as usize]);
            (0..1 + moments.below(4)).for_each(|_| anvil.mine());
            // Somewhere between the block and the last answer.
            std::thread::park_timeout(Duration::from_millis(moments.below(100)));
            match name {
                // Its failures are counted within a minute, but not over this.
                "the engine" => {
                    engine.kill9();
                    engine.launch();
                }
                service => _ = engine.ctl(&["service", "restart", service, "--kill"]),
            }
        }
        // Nothing else has to come for what waits to go on.
        receiver.set(Mood::Fine);
        if round % 2 == 0 {
            handled_the_head(&anvil, &engine);
            settled(&engine);
        }
    }
    for service in ["egress", "outbox"] {
        (0..4).for_each(|_| anvil.mine());
        engine.ctl(&["service", "restart", service, "--kill"]);
        handled_the_head(&anvil, &engine);
        settled(&engine);
        assert_eq!(engine.metric("nexum_service_restarts_total", &[("service", service)]), 1.0);
    }
    let (meant, took) = arrived(&anvil, &engine, &receiver);
    let node = engine.module("sender");
    assert_eq!((&node["state"], &node["events_failed"]), (&"RUN".into(), &0.into()), "{node:#}");
    println!(
        "egress, outbox and engine killed {} times each: {meant} effects, {took} arrived; the lane in order",
        kills()
    );
    assert!(engine.terminate().success());
}

#[test]
fn prove_outbox_what_waits_for_finality_never_leaves_an_orphaned_block() {
    let anvil = Anvil::start_with(&["--slots-in-an-epoch", "2"]);
    let receiver = Receiver::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
    let finalized = ("release = \"committed\"", "release = \"finalized\"");
    let mut engine = sender(setup, &receiver.url(), "lane", &[FROM_THE_FIRST, finalized]).start();
    let mine = |count: u64| (0..count).for_each(|_| anvil.mine());
    for depth in [1, 2, 3] {
        mine(6);
        handled_the_head(&anvil, &engine);
        if depth == 2 {
            engine.kill9();
        }
        anvil.reorg(depth);
        mine(2);
        if depth == 2 {
            engine.launch();
        }
        handled_the_head(&anvil, &engine);
    }
    mine(6);
    handled_the_head(&anvil, &engine);
    let finalized = anvil.number_of("finalized");
    let canonical: BTreeMap<String, u64> =
        sent(&engine).into_iter().flat_map(|(number, ids)| ids.into_iter().map(move |id| (id, number))).collect();
    let through = canonical.values().filter(|number| **number <= finalized).count();
    let took = eventually("everything final has arrived", || {
        let took = receiver.deduplicated();
        if took.len() >= through { Ok(took) } else { Err(format!("{} of {through}", took.len())) }
    });
    for hit in &took {
        let number = canonical.get(&hit.key).unwrap_or_else(|| panic!("of an orphaned block: {hit:?}"));
        assert!(*number <= finalized && hit.body == number.to_string(), "{hit:?}");
    }
    assert_eq!(numbers(&took), (1..=finalized).collect::<Vec<_>>());
    assert!(engine.state("sender", "r/").iter().all(|(_, keys)| keys.as_array().is_some_and(Vec::is_empty)));
    println!("3 reorgs: {} effects of final blocks arrived, none of an orphaned one", took.len());
}

/// A chain goes back and forth between the same two heads: what the module sends because of it is another effect each
/// time, and the same one when it is only handled again.
#[test]
fn prove_outbox_what_a_reorg_makes_a_module_send_arrives_each_time() {
    for on_reorg in ["rewind", "notify"] {
        let anvil = Anvil::start();
        let receiver = Receiver::start();
        let notify = ("version = \"0.3.0\"", format!("version = \"0.3.0\"\non_reorg = \"{on_reorg}\""));
        let setup = Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
        let mut engine = sender(setup, &receiver.url(), "undo", &[FROM_THE_FIRST, (notify.0, &notify.1)]).start();
        (0..3).for_each(|_| anvil.mine());
        handled_the_head(&anvil, &engine);
        let (mut base, time) = (anvil.snapshot(), anvil.timestamp());
        let mut heads = Vec::new();
        for flip in 0..5 {
            base = anvil.flip(&base, time + 10 + flip % 2);
            heads.push(anvil.blocks(4)[0].1.clone());
            let told = |engine: &Engine| engine.state("sender", "r/").len();
            eventually("the module handled the head", || {
                let at = engine.json(&["state", "inspect", "sender"]);
                let entries = engine.json(&["journal", "tail", "sender", "-n", "50"]);
                let block = format!("block:31337:4:{}", heads.last().unwrap());
                let entries = entries["entries"].as_array().unwrap();
                let last = entries.iter().rev().find(|entry| entry["id"].as_str().unwrap().starts_with("block:"));
                if last.is_some_and(|entry| entry["id"] == block.as_str()) { Ok(()) } else { Err(format!("{at:#}")) }
            });
            // With `rewind` the state of the telling before is undone, too.
            assert!(told(&engine) >= usize::from(flip > 0));
            if flip == 2 {
                engine.kill9();
                engine.launch();
            }
        }
        assert_eq!((&heads[0], &heads[1]), (&heads[2], &heads[3]), "the same two heads, again and again");
        let undone = eventually("every compensation has arrived", || {
            let hits: Vec<_> = receiver.deduplicated().into_iter().filter(|hit| hit.path == "/undo").collect();
            if hits.len() >= 4 { Ok(hits) } else { Err(format!("{hits:?}")) }
        });
        assert_eq!(undone.len(), 4, "{on_reorg}: one for each time: {undone:?}");
    }
}

#[test]
fn prove_outbox_a_reorg_names_what_had_left() {
    let anvil = Anvil::start();
    let receiver = Receiver::start();
    let setup = || Setup::new().chain(31337, &[anvil.ws()]).with(EAGER);
    let engine = sender(setup(), &receiver.url(), "lane", &[FROM_THE_FIRST]).start();
    (0..6).for_each(|_| anvil.mine());
    handled_the_head(&anvil, &engine);
    settled(&engine);
    let before = sent(&engine);
    anvil.reorg(3);
    anvil.mine();
    handled_the_head(&anvil, &engine);
    settled(&engine);
    let orphaned: Vec<String> = before.iter().skip(before.len() - 3).flat_map(|(_, ids)| ids.clone()).collect();
    let named: Vec<String> = eventually("the module was told", || {
        let (_, keys) = engine.state("sender", "r/").pop().ok_or("no reorg yet")?;
        Ok(keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect())
    });
    assert_eq!(named, orphaned);
    // What the new branch sends is new, and arrives.
    let after: Vec<String> = sent(&engine).into_iter().flat_map(|(_, ids)| ids).collect();
    assert!(orphaned.iter().all(|id| !after.contains(id)));
    assert_eq!(receiver.deduplicated().len(), after.len() + orphaned.len());

    // Of the blocks that stand an engine that never saw another one says the same, unit by unit.
    let fresh = sender(setup(), &receiver.url(), "lane", &[FROM_THE_FIRST]).start();
    handled_the_head(&anvil, &fresh);
    settled(&fresh);
    let [a, b] = [("a.jsonl", &engine), ("b.jsonl", &fresh)].map(|(name, of)| {
        let file = engine.dir.path().join(name);
        std::fs::write(&file, of.ctl(&["journal", "export", "sender"])).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let compared = engine.json(&["journal", "diff", &a, &b]);
    assert_eq!((&compared["differences"], &compared["equal"]), (&0.into(), &compared["common"]), "{compared:#}");
    // Each block and the two outcomes of what it sent.
    assert_eq!(compared["common"], 3 * anvil.head(), "{compared:#}");
}
