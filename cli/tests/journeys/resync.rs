//! Reorgs deeper than what is kept: the module waits with the reason, and the operator chooses where it goes on.

use super::{
    anvil::Anvil,
    engine::{Engine, Setup},
    prove_exactly_once::{Moments, check, mine_some, recording, recording_over},
};

/// Waits until the module says that it has to be helped; what it says.
pub fn parked(engine: &Engine) -> String {
    let waits = |node: &serde_json::Value| {
        let reason = node["last_error"].as_str().or(node["summary"].as_str()).unwrap_or_default();
        node["state"] == "RESTART" && reason.contains("`nexumctl module resync recorder` has to choose")
    };
    let node = engine.module_until("recorder", "waits for a choice", waits);
    assert_eq!(node["restarts"], 0, "it is not to blame: {node:#}");
    node.to_string()
}

#[test]
fn a_module_below_the_kept_headers_is_rewound_by_its_journal() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let mut engine = recording_over(&[anvil.ws()], "", Some(&emitter));
    let text = std::fs::read_to_string(&engine.config).unwrap();
    assert!(engine.terminate().success());
    std::fs::write(&engine.config, text.replace("name = \"anvil\"", "name = \"anvil\"\nkept_headers = 256")).unwrap();
    engine.launch();
    let mut moments = Moments(0x428a_2f98_d728_ae22);
    while anvil.head() < 330 {
        mine_some(&anvil, &emitter, &mut moments);
    }
    check(&anvil, &emitter, &engine);
    assert!(engine.terminate().success());
    anvil.reorg(300);
    mine_some(&anvil, &emitter, &mut moments);
    engine.launch();
    let said = parked(&engine);
    assert!(said.contains("dead branch"), "{said}");
    let above = anvil.head() + 1;
    let refused = engine.try_ctl(&["module", "resync", "recorder", "--chain", "31337", "--to", &above.to_string()]);
    assert!(refused.unwrap_err().contains("is above the head of chain 31337"));
    parked(&engine);
    let answer = engine.ctl(&["module", "resync", "recorder", "--chain", "31337", "--rewind"]);
    assert!(answer.contains("goes on after block"), "{answer}");
    // What was answered outlives the engine: nothing of the order is left to be done.
    engine.kill9();
    engine.launch();
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    assert_eq!(engine.state("recorder", "r/").len(), 1, "it was told");
    // A module that stands on the chain stays where it is.
    engine.ctl(&["module", "resync", "recorder", "--chain", "31337", "--rewind"]);
    mine_some(&anvil, &emitter, &mut moments);
    check(&anvil, &emitter, &engine);
    assert!(engine.terminate().success());
}

#[test]
fn on_another_chain_the_state_is_undone_or_kept_as_the_operator_says() {
    for rewind in [true, false] {
        let mut anvil = Anvil::start();
        let emitter = anvil.deploy_emitter();
        let mut engine = recording(&anvil, &emitter);
        let mut moments = Moments(0xd807_aa98_a303_0242);
        while anvil.head() < 40 {
            mine_some(&anvil, &emitter, &mut moments);
        }
        let (before, _) = check(&anvil, &emitter, &engine);
        anvil.begin_anew();
        assert_eq!(anvil.deploy_emitter(), emitter, "the address follows from the deployer");
        mine_some(&anvil, &emitter, &mut moments);
        let said = parked(&engine);
        assert!(said.contains("descends from another genesis block"), "{said}");
        let unknown = engine.try_ctl(&["module", "resync", "recorder", "--chain", "5", "--to", "head"]).unwrap_err();
        assert!(unknown.contains("does not follow chain 5"), "{unknown}");
        parked(&engine);
        if rewind {
            // The journal reaches back to the module's start.
            engine.ctl(&["module", "resync", "recorder", "--chain", "31337", "--rewind"]);
            mine_some(&anvil, &emitter, &mut moments);
            check(&anvil, &emitter, &engine);
            continue;
        }
        let head = anvil.head();
        let answer = engine.json(&["module", "resync", "recorder", "--chain", "31337", "--to", "head"]);
        assert_eq!(answer["after_block"], head);
        engine.kill9();
        engine.launch();
        anvil.mine();
        let next = (head + 1).to_string();
        engine.module_until("recorder", "goes on", |node| node["cursors"]["chain:31337"] == next.as_str());
        // What it had made of the lost chain is still there, and it was told.
        assert_eq!(engine.state("recorder", "b/").len(), before, "block {next} took the place of another");
        let told = engine.state("recorder", "r/");
        assert_eq!((told.len(), &told[0].1["ancestor"]), (1, &head.into()), "{told:?}");
    }
}

/// It has handled nothing there, so that there is nothing to undo.
#[test]
fn a_module_that_stands_where_it_began_is_moved_to_the_chain_that_is_there() {
    const START: u64 = 30;
    let mut anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let block = "kind = \"block\"\nchain_id = 31337";
    let from_there = format!("{block}\nstart_block = {START}");
    let changes = [(block, &*from_there)];
    let engine = Setup::new().chain(31337, &[anvil.ws()]).module("recorder", "recorder", &changes).start();
    let grow_to = |anvil: &Anvil, head: u64| {
        while anvil.head() < head {
            anvil.mine();
        }
    };
    let goes_on = |anvil: &Anvil| {
        let head = anvil.head().to_string();
        engine.module_until("recorder", "goes on", |node| node["cursors"]["chain:31337"] == head.as_str());
    };
    grow_to(&anvil, START + 10);
    goes_on(&anvil);
    for head in [START - 1, START + 5] {
        anvil.begin_anew();
        assert_eq!(anvil.deploy_emitter(), emitter, "the address follows from the deployer");
        grow_to(&anvil, head);
        let said = parked(&engine);
        assert!(said.contains("descends from another genesis block"), "{said}");
        let answer = engine.json(&["module", "resync", "recorder", "--chain", "31337", "--rewind"]);
        assert_eq!(answer["after_block"], START - 1);
        goes_on(&anvil);
    }
    grow_to(&anvil, START + 20);
    goes_on(&anvil);
}

#[test]
fn of_two_positions_on_one_chain_only_the_one_that_is_off_it_is_moved() {
    let anvil = Anvil::start();
    let emitter = anvil.deploy_emitter();
    let log = format!("kind = \"log\"\nchain_id = 31337\naddress = \"{emitter}\"\nstart_block = 1");
    let block = "kind = \"block\"\nchain_id = 31337";
    let held = format!("{block}\nstart_block = 1\nconfirmations = 310");
    let changes = [(block, &*held), ("kind = \"log\"\nchain_id = 31337", &*log)];
    let mut engine = Setup::new().chain(31337, &[anvil.ws()]).module("recorder", "recorder", &changes).prepare();
    let text = std::fs::read_to_string(&engine.config).unwrap();
    std::fs::write(&engine.config, text.replace("name = \"anvil\"", "name = \"anvil\"\nkept_headers = 256")).unwrap();
    engine.launch();
    while anvil.head() < 329 {
        anvil.mine();
    }
    let stands = |engine: &Engine, lag: u64| {
        anvil.emit(&emitter, anvil.head());
        anvil.mine();
        let head = anvil.head();
        let (latest, held) = (head.to_string(), (head - lag).to_string());
        engine.module_until("recorder", "stands at both", |node| {
            let cursors = &node["cursors"];
            cursors["chain:31337"] == *latest && cursors["chain:31337:confirmations=310"] == *held
        });
        head - lag
    };
    stands(&engine, 310);
    assert!(engine.terminate().success());
    anvil.reorg(300);
    engine.launch();
    parked(&engine);
    engine.ctl(&["module", "resync", "recorder", "--chain", "31337", "--to", "head"]);
    let held = stands(&engine, 310);
    let blocks = engine.state("recorder", "b/").into_iter().map(|(key, value)| {
        (
            key[2..].parse::<u64>().unwrap(),
            value["hash"].as_str().unwrap_or_default().to_owned(),
            value["count"].as_u64(),
        )
    });
    let expected = anvil.blocks(1).into_iter().filter(|(number, _)| *number <= held);
    assert!(blocks.eq(expected.map(|(number, hash)| (number, hash, Some(1)))), "a held block is missing or doubled");
    // Both stand, and both are moved when the operator says so.
    let head = stands(&engine, 310) + 310;
    let answer = engine.json(&["module", "resync", "recorder", "--chain", "31337", "--to", "head"]);
    assert_eq!(answer["after_block"], head);
    let at_head = head.to_string();
    engine.module_until("recorder", "stands at the head", |node| {
        node["cursors"]["chain:31337:confirmations=310"] == *at_head && node["state"] == "RUN"
    });
    assert!(engine.terminate().success());
}
