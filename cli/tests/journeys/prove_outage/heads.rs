//! Endpoints that make blocks up, contradict each other, or do not have the chain yet: none moves anything alone.

use serde_json::json;

use super::bed::{Bed, Place, Plan, http, is_long, places, ws};
use crate::{
    anvil::Anvil,
    engine::eventually,
    prove_exactly_once::compare_through,
    proxy::{
        Fault::{self, FarChain, FarHead, NearHead, NewHeads, Syncing},
        Notice,
    },
    resync::parked,
};

/// Confirmations that one endpoint alone cannot make.
const CONFIRMATIONS: u64 = 3;
/// The chain grows in bursts here. Endpoints that stand still between them keep their say for so long.
const PATIENT: &str = "stall_after = \"20s\"";

/// Endpoints that stand by are compared every four seconds: seldomer than a module that waits for a confirmation has them
/// asked.
const SELDOM: &str = "stall_after = \"12s\"";

/// The module with confirmations has what the chain has so far below the head, and was never told of a reorg.
fn held_is_right(bed: &Bed) {
    eventually("the confirmed record equals the chain", || {
        compare_through(bed.anvil.head() - CONFIRMATIONS, &bed.anvil, &bed.emitter, &bed.engine, "held")
    });
    assert_eq!(bed.engine.state("held", "r/").len(), 0, "what was confirmed was taken back");
}

fn among_others(place: Place, fault: Fault, from_the_start: bool) {
    let plan = Plan::at(place).held(CONFIRMATIONS).rpc(PATIENT);
    let plan = if from_the_start { plan.starting_with(fault) } else { plan };
    let mut bed = plan.start();
    if !from_the_start {
        bed.grow();
        bed.bad().set(fault);
    }
    for _ in 0..3 {
        goes_on(&bed);
    }
    bed.is_demoted("ahead");
    assert_eq!(bed.reorgs(), 0.0, "{place:?} {fault:?}: somebody was led astray");
    bed.recovers();
    held_is_right(&bed);
}

/// The chain grows without a pause; everybody follows it, and nothing else.
fn goes_on(bed: &Bed) {
    let target = bed.anvil.head() + 12;
    for module in ["recorder", "held"] {
        eventually("it goes on", || {
            bed.anvil.emit(&bed.emitter, target);
            bed.anvil.mine();
            let node = bed.engine.module(module);
            let cursors = node["cursors"].as_object().into_iter().flat_map(|cursors| cursors.values());
            let mut numbers = cursors.filter_map(|cursor| cursor.as_str()?.parse::<u64>().ok());
            if numbers.any(|number| number >= target) { Ok(()) } else { Err(format!("{target}: {node}")) }
        });
        bed.has_nothing_false(module);
    }
}

#[test]
fn prove_outage_of_a_far_head_among_others() {
    for place in places(&[ws(0, 2), http(0, 3)], &[2, 3]) {
        among_others(place, FarHead, false);
        if is_long() {
            among_others(place, FarHead, true);
        }
    }
}

#[test]
fn prove_outage_of_a_far_head_among_others_from_the_start() {
    for place in places(&[http(1, 2)], &[2]) {
        among_others(place, FarHead, true);
        among_others(place, FarChain, true);
    }
}

#[test]
fn prove_outage_of_a_made_up_chain_among_others() {
    for place in places(&[http(0, 2)], &[2, 3]) {
        among_others(place, FarChain, false);
    }
}

/// Whoever stands still loses its say in a moment, and still nobody is led to blocks without a seal.
#[test]
fn prove_outage_of_a_far_head_above_a_quiet_chain() {
    for place in places(&[ws(0, 2)], &[2, 3]) {
        let mut bed = Plan::at(place).held(CONFIRMATIONS).start();
        bed.grow();
        bed.bad().set(FarHead);
        bed.grow();
        held_is_right(&bed);
        assert_eq!(bed.reorgs(), 0.0, "{place:?}");
        bed.recovers();
    }
}

/// Nobody is there to say otherwise, but what is told has no seal, though all of the chain had.
#[test]
fn prove_outage_of_a_far_head_alone() {
    for place in places(&[ws(0, 1)], &[1]) {
        let mut bed = Plan::at(place).held(CONFIRMATIONS).start();
        bed.grow();
        bed.bad().set(FarHead);
        bed.mine();
        let reason = bed.is_unhealthy(&[]);
        println!("{place:?}: {reason}");
        bed.has_nothing_false("recorder");
        bed.has_nothing_false("held");
        bed.recovers();
        held_is_right(&bed);
    }
}

#[test]
fn prove_outage_of_a_made_up_chain_alone() {
    for place in places(&[http(0, 1)], &[1]) {
        let mut bed = Plan::at(place).held(CONFIRMATIONS).start();
        bed.grow();
        bed.bad().set(FarChain);
        bed.mine();
        let reason = bed.is_unhealthy(&[]);
        println!("{place:?}: {reason}");
        bed.has_nothing_false("recorder");
        bed.has_nothing_false("held");
        bed.recovers();
        held_is_right(&bed);
    }
}

/// A few blocks more than the others have may be what they will have in a moment. Then the chain goes another way.
#[test]
fn prove_outage_long_of_one_block_too_many() {
    for place in places(&[ws(0, 2)], &[1, 2, 3]) {
        let mut bed = Plan::at(place).held(CONFIRMATIONS).rpc(PATIENT).start();
        bed.grow();
        bed.bad().set(NearHead(1));
        for _ in 0..4 {
            bed.mine();
        }
        if place.of > 1 {
            held_is_right(&bed);
        }
        bed.bad().set(Fault::None);
        bed.grow();
        bed.is_healthy();
        held_is_right(&bed);
    }
}

/// Blocks that have seals, and that nobody else has: nothing is confirmed by them, and who is led there is demoted or waited
/// for with a reason. The newest blocks are told as one endpoint has them, and taken back.
#[test]
fn prove_outage_long_of_some_blocks_too_many() {
    for blocks in [5, 100] {
        for place in places(&[http(0, 2)], &[2, 3]) {
            let mut bed = Plan::at(place).held(CONFIRMATIONS).rpc(PATIENT).start();
            bed.grow();
            bed.bad().set(NearHead(blocks));
            let before = bed.state("held", "b/").len();
            let reason = eventually("it goes on or says why not", || {
                bed.anvil.emit(&bed.emitter, 1);
                bed.anvil.mine();
                let health = bed.health();
                let reason = health["reasons"][0].as_str().map(str::to_owned);
                let demoted = bed.of_endpoint("nexum_endpoint_demotions_total", place.bad) > 0.0;
                let goes_on = bed.state("held", "b/").len() > before + 10;
                reason.or((demoted || goes_on).then(String::new)).ok_or_else(|| format!("{health:#}"))
            });
            println!("{place:?}, {blocks} blocks: {reason}");
            bed.has_nothing_false("held");
            bed.recovers();
            held_is_right(&bed);
        }
    }
}

/// Alone it is believed: its blocks have seals. What the chain then has instead is told as a reorg.
#[test]
fn prove_outage_of_some_blocks_too_many_alone() {
    for place in places(&[http(0, 1)], &[1]) {
        let mut bed = Plan::at(place).start();
        bed.grow();
        bed.bad().set(NearHead(5));
        bed.mine();
        bed.bad().set(Fault::None);
        bed.grow();
        bed.is_healthy();
    }
}

#[test]
fn prove_outage_of_notices_of_heads() {
    for notice in [Notice::OtherHash, Notice::WithoutHash, Notice::NumberOnly] {
        let of = if is_long() { &[ws(0, 1), ws(0, 2), ws(0, 3)][..] } else { &[ws(0, 1)] };
        for place in of {
            let mut bed = Plan::at(*place).start();
            bed.grow();
            // At the start another one may have been asked, which was there sooner.
            let fallbacks = bed.engine.metric("nexum_rpc_fallbacks_total", &[]);
            bed.bad().set(NewHeads(notice));
            bed.grow();
            bed.grow();
            assert_eq!(bed.reorgs(), 0.0, "{notice:?}");
            let more = bed.engine.metric("nexum_rpc_fallbacks_total", &[]) - fallbacks;
            assert_eq!(more, 0.0, "{notice:?} is no fault");
            bed.is_healthy();
        }
    }
}

/// While another endpoint is followed, this one goes on telling heads, some of which are taken back. When it is followed
/// again they are no news.
#[test]
fn prove_outage_of_heads_that_were_told_while_another_was_followed() {
    let places = if is_long() { &[ws(0, 2), ws(0, 3)][..] } else { &[ws(0, 2)] };
    for place in places {
        let mut bed = Plan::at(*place).start();
        bed.grow();
        bed.bad().set(Fault::Status(429));
        bed.is_demoted("rate-limited");
        for depth in [1, 3] {
            bed.grow();
            bed.anvil.reorg(depth);
            bed.check();
        }
        let reorgs = bed.reorgs();
        assert!(reorgs >= 2.0, "{reorgs}");
        bed.bad().set(Fault::None);
        eventually("it is followed again", || {
            let node = bed.engine.endpoint(bed.bad_name());
            if node["summary"].as_str().unwrap().contains("followed") { Ok(()) } else { Err(node.to_string()) }
        });
        bed.grow();
        assert_eq!(bed.reorgs(), reorgs, "{place:?}: what was told before was taken for the chain");
        let asked = bed.bad().asked();
        let times = |method: &str| asked.get(method).copied().unwrap_or(0);
        assert_eq!((times("eth_subscribe"), times("eth_unsubscribe")), (2, 1), "{asked:?}");
        bed.is_healthy();
    }
}

/// A node that is being set up says so, and has little of the chain.
#[test]
fn prove_outage_of_one_that_has_not_synced() {
    for place in places(&[http(0, 1), ws(0, 1), ws(0, 2)], &[1, 2, 3]) {
        let mut bed = Plan::at(place).prepared(Anvil::start());
        bed.mine_history(100, 3);
        bed.bad().set(Syncing(2));
        bed.engine.launch();
        if place.of > 1 {
            bed.grow();
            let node = bed.engine.endpoint(bed.bad_name());
            assert!(!node["summary"].as_str().unwrap().contains("followed"), "{node:#}");
        }
        for at in [20, 60, 100] {
            bed.bad().set(Syncing(at));
            bed.mine();
            if place.of > 1 {
                bed.check();
            }
        }
        bed.recovers();
        assert_eq!(bed.reorgs(), 0.0, "{place:?}");
    }
}

/// Two nodes with one chain up to a block, each with its own from there on: nothing proves which is meant.
#[test]
fn prove_outage_of_two_that_contradict_each_other() {
    let places = if is_long() { &[http(1, 2), ws(1, 2)][..] } else { &[ws(1, 2)] };
    for place in places {
        let mut other = Anvil::start();
        let mut bed = Plan::at(*place).held(CONFIRMATIONS).rpc(SELDOM).prepared(Anvil::start());
        // Both begin once more, and are told the same at the same times.
        bed.anvil.begin_anew();
        other.begin_anew();
        for nth in 0..20 {
            for anvil in [&bed.anvil, &other] {
                anvil.rpc("evm_setNextBlockTimestamp", json!([1_700_000_012 + 12 * nth]));
                match nth {
                    0 => assert_eq!(anvil.deploy_emitter(), bed.emitter, "the address follows from the deployer"),
                    word => {
                        anvil.emit(&bed.emitter, word);
                        anvil.mine();
                    }
                }
            }
        }
        assert_eq!(bed.anvil.blocks(0), other.blocks(0), "one chain so far");
        let fork = bed.anvil.head();
        bed.proxies[1].point(other.port());
        bed.engine.launch();
        bed.check();
        for word in 0..12 {
            bed.anvil.emit(&bed.emitter, word);
            bed.anvil.mine();
            other.emit(&bed.emitter, 1_000 + word);
            other.mine();
            // The engine compares what is a few blocks old, while more come.
            if word % 3 == 2 {
                let known = bed.anvil.head().to_string();
                let chain = || bed.engine.json(&["tree"]).to_string();
                eventually("the head is read", || if chain().contains(&known) { Ok(()) } else { Err(chain()) });
            }
        }
        let reason = bed.is_unhealthy(&["agree on block", bed.bad_name()]);
        println!("{place:?}: {reason}");
        let cursor = |bed: &Bed, module: &str| {
            let node = bed.engine.module(module);
            let mut cursors = node["cursors"].as_object().unwrap().values().map(|cursor| cursor.as_str().unwrap());
            cursors.next().unwrap().parse::<u64>().unwrap()
        };
        assert!(cursor(&bed, "held") <= fork, "what is disputed was taken for confirmed");
        bed.has_nothing_false("held");
        // The other one is put right.
        bed.proxies[1].set(Fault::Cut);
        bed.proxies[1].point(bed.anvil.port());
        bed.proxies[1].set(Fault::None);
        bed.grow();
        bed.is_healthy();
        held_is_right(&bed);
    }
}

/// Behind the address of the only endpoint there is a node of another chain all at once.
#[test]
fn prove_outage_of_an_endpoint_that_serves_another_chain_all_at_once() {
    for place in places(&[http(0, 1)], &[1]) {
        let mut bed = Plan::at(place).start();
        while bed.anvil.head() < 40 {
            bed.mine();
        }
        bed.check();
        let other = Anvil::of_chain(5);
        assert_eq!(other.deploy_emitter(), bed.emitter, "the address follows from the deployer");
        for word in 0..60 {
            other.emit(&bed.emitter, 1_000 + word);
            other.mine();
        }
        let change = |bed: &Bed, port: u16| {
            if place.ws {
                bed.bad().set(Fault::Cut);
            }
            bed.proxies[0].point(port);
            bed.bad().set(Fault::None);
        };
        change(&bed, other.port());
        let reason = bed.is_unhealthy(&["disconnected"]);
        println!("{place:?}: {reason}");
        eventually("it is refused", || {
            let node = bed.engine.endpoint(bed.bad_name());
            let summary = node["summary"].as_str().unwrap();
            if summary.contains("it serves chain 5, not chain 31337") { Ok(()) } else { Err(node.to_string()) }
        });
        bed.has_nothing_false("recorder");
        change(&bed, bed.anvil.port());
        bed.grow();
        assert_eq!(bed.reorgs(), 0.0, "{place:?}");
        bed.is_healthy();
    }
}

/// The node behind an endpoint begins anew: another chain with the same id.
#[test]
fn prove_outage_of_a_chain_that_begins_anew() {
    for (place, restart) in [(http(0, 1), false), (ws(1, 2), true), (ws(0, 1), false), (http(0, 2), true)] {
        let mut bed = Plan::at(place).start();
        while bed.anvil.head() < 40 {
            bed.mine();
        }
        bed.check();
        if restart {
            assert!(bed.engine.terminate().success());
        }
        bed.anvil.begin_anew();
        assert_eq!(bed.anvil.deploy_emitter(), bed.emitter, "the address follows from the deployer");
        bed.mine();
        if restart {
            bed.engine.launch();
        }
        let said = parked(&bed.engine);
        assert!(said.contains("descends from another genesis block") || said.contains("dead branch"), "{said}");
        bed.engine.ctl(&["module", "resync", "recorder", "--chain", "31337", "--rewind"]);
        bed.grow();
        bed.is_healthy();
        if !is_long() && place.of == 2 {
            break;
        }
    }
}
