//! Reorgs deeper than what is kept: the module waits with the reason, and the operator chooses where it goes on.

use super::{
    anvil::Anvil,
    engine::Engine,
    prove_exactly_once::{Moments, check, mine_some, recording, recording_over},
};

/// Waits until the module says that it has to be helped; what it says.
fn parked(engine: &Engine) -> String {
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
