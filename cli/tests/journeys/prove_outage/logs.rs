//! Endpoints that leave logs out, or tell some that no receipt has: what can be proven is proven, the rest is agreed on.

use serde_json::json;

use super::bed::{Bed, Plan, Wanted, as_recorded, http, places, ws};
use crate::{
    anvil::Anvil,
    engine::eventually,
    proxy::{Fault, Lie},
};

/// More than is read block by block.
const HISTORY: u64 = 330;

/// An engine that begins with history, of which these blocks' logs are left out.
fn left_out(mut bed: Bed, by_hash: bool) {
    bed.mine_history(HISTORY, 2);
    bed.bad().set(Fault::Logs(Lie::LeftOutOf { from: 100, to: 140, by_hash }));
    bed.engine.launch();
    bed.grow();
    // Recent blocks are read by their hashes.
    let head = bed.anvil.head();
    bed.bad().set(Fault::Logs(Lie::LeftOutOf { from: head + 1, to: head + 1_000, by_hash }));
    bed.grow();
    bed.recovers();
}

#[test]
fn prove_outage_of_logs_left_out_of_ranges() {
    for place in places(&[http(0, 1), http(0, 2)], &[1, 2, 3]) {
        left_out(Plan::at(place).prepared(Anvil::start()), false);
    }
}

#[test]
fn prove_outage_of_logs_left_out_of_blocks() {
    for place in places(&[ws(0, 1), http(1, 2)], &[1, 2, 3]) {
        left_out(Plan::at(place).prepared(Anvil::start()), true);
    }
}

/// Who wants no blocks reads no headers that would tell what is missing: another endpoint does.
#[test]
fn prove_outage_of_logs_left_out_for_who_wants_no_blocks() {
    for place in places(&[http(0, 2)], &[2, 3]) {
        let bed = Plan::at(place).wanting(Wanted::Logs).prepared(Anvil::start());
        logs_only(bed);
    }
}

/// Alone it is only found out with a proof of every block.
#[test]
fn prove_outage_of_logs_left_out_alone_for_who_wants_no_blocks() {
    for place in places(&[http(0, 1)], &[1]) {
        let bed = Plan::at(place).wanting(Wanted::Logs).rpc("verify = \"always\"").prepared(Anvil::start());
        logs_only(bed);
    }
}

/// When most of them are missing, a block that is looked at by itself shows it.
#[test]
fn prove_outage_of_most_logs_left_out_alone_for_who_wants_no_blocks() {
    for place in places(&[http(0, 1), ws(0, 1)], &[1]) {
        let mut bed = Plan::at(place).wanting(Wanted::Logs).prepared(Anvil::start());
        bed.mine_history(HISTORY, 2);
        bed.bad().set(Fault::Logs(Lie::LeftOutOf { from: 10, to: HISTORY - 10, by_hash: false }));
        bed.engine.launch();
        bed.has_logs(&bed.logs_on_chain());
        bed.bad().set(Fault::None);
        bed.mine();
        bed.has_logs(&bed.logs_on_chain());
        bed.is_healthy();
    }
}

fn logs_only(mut bed: Bed) {
    bed.mine_history(HISTORY, 2);
    bed.bad().set(Fault::Logs(Lie::LeftOutOf { from: 100, to: 140, by_hash: true }));
    bed.engine.launch();
    bed.has_logs(&bed.logs_on_chain());
    let head = bed.anvil.head();
    bed.bad().set(Fault::Logs(Lie::LeftOutOf { from: head + 1, to: head + 1_000, by_hash: true }));
    bed.mine();
    bed.has_logs(&bed.logs_on_chain());
    bed.bad().set(Fault::None);
    bed.mine();
    bed.has_logs(&bed.logs_on_chain());
    bed.is_healthy();
}

/// Nothing in the header tells what is missing: another endpoint does, at the head as in history.
#[test]
fn prove_outage_of_logs_left_out_where_blooms_say_nothing() {
    for place in places(&[ws(0, 2), http(0, 2)], &[2, 3]) {
        for verify in ["bloom = \"ignore\"", "bloom = \"ignore\"\nverify = \"off\""] {
            let mut bed = Plan::at(place).rpc(verify).prepared(Anvil::start());
            bed.mine_history(HISTORY, 2);
            bed.bad().set(Fault::Logs(Lie::Empty));
            bed.engine.launch();
            for _ in 0..3 {
                bed.grow();
            }
            bed.recovers();
        }
    }
}

/// Receipts tell what the only endpoint will not. A log too many is another matter: some chains have such, and only
/// `verify = "always"` takes it for a lie.
#[test]
fn prove_outage_of_logs_that_are_denied_alone() {
    for place in places(&[ws(0, 1)], &[1]) {
        let mut bed = Plan::at(place).start();
        bed.grow();
        bed.bad().set(Fault::Logs(Lie::Empty));
        bed.grow();
        bed.recovers();
    }
}

/// What is wrong by itself is not delivered, and is told as what is waited for.
#[test]
fn prove_outage_of_logs_of_another_block_alone() {
    for place in places(&[http(0, 1)], &[1]) {
        let mut bed = Plan::at(place).rpc("verify = \"off\"").start();
        bed.grow();
        bed.bad().set(Fault::Logs(Lie::OtherBlock));
        bed.anvil.emit(&bed.emitter, 5);
        bed.anvil.mine();
        let number = bed.anvil.head().to_string();
        let reason = bed.is_unhealthy(&["module recorder", &number, "logs of another block"]);
        println!("{place:?}: {reason}");
        bed.has_nothing_false("recorder");
        bed.recovers();
    }
}

/// Who wants proof and has one endpoint, which has none, waits. That is told in every place.
#[test]
fn prove_outage_of_what_cannot_be_proven_is_waited_for() {
    for place in places(&[http(0, 1)], &[1]) {
        let mut bed = Plan::at(place).rpc("verify = \"always\"").start();
        bed.grow();
        // Lies about logs alone change nothing.
        for lie in [Lie::Empty, Lie::Invented, Lie::OtherBlock] {
            bed.bad().set(Fault::Logs(lie));
            bed.grow();
        }
        bed.bad().set(Fault::Logs(Lie::Everywhere));
        bed.anvil.emit(&bed.emitter, 5);
        bed.anvil.mine();
        let block = format!("block {}", bed.anvil.head());
        let words = ["module recorder waits for", &block, "cannot be proven"];
        let reason = bed.is_unhealthy(&words);
        println!("{place:?}: {reason}");
        eventually("the tree says so", || {
            let tree = bed.engine.ctl(&["tree"]);
            if words.iter().all(|word| tree.contains(word)) { Ok(()) } else { Err(tree) }
        });
        eventually("the figures say so", || {
            match bed.engine.metric("nexum_chain_wait_seconds", &[("chain_id", "31337")]) {
                seconds if seconds >= 3.0 => Ok(()),
                seconds => Err(seconds.to_string()),
            }
        });
        assert!(bed.engine.metric("nexum_chain_waits", &[("chain_id", "31337")]) >= 1.0);
        eventually("the log says so", || {
            let log = bed.engine.log_text();
            let said = |line: &str| line.contains("the chain does not go on") && line.contains("cannot be proven");
            if log.lines().any(said) { Ok(()) } else { Err("no such line".to_owned()) }
        });
        bed.has_nothing_false("recorder");
        bed.recovers();
        eventually("no figure says so any more", || {
            match bed.engine.metric("nexum_chain_wait_seconds", &[("chain_id", "31337")]) {
                0.0 => Ok(()),
                seconds => Err(seconds.to_string()),
            }
        });
    }
}

/// Without a proof it is believed that there are none, unless another endpoint has them.
#[test]
fn prove_outage_of_receipts_that_lie_too() {
    for place in places(&[ws(0, 2)], &[2, 3]) {
        let mut bed = Plan::at(place).start();
        bed.grow();
        bed.bad().set(Fault::Logs(Lie::Everywhere));
        bed.grow();
        bed.grow();
        // One that stands by is not asked.
        if place.bad == 0 {
            bed.is_demoted("wrong");
        }
        bed.recovers();
    }
}

/// Some chains have logs that no receipt has. All of their endpoints say so.
#[test]
fn prove_outage_of_logs_that_are_in_no_receipt() {
    for place in places(&[http(0, 1), ws(0, 2)], &[1, 2]) {
        let mut bed = Plan::at(place).prepared(Anvil::start());
        // Blocks with other logs and without, with and without one more.
        bed.mine_history(HISTORY, 2);
        bed.proxies.iter().for_each(|proxy| proxy.set(Fault::Logs(Lie::Outside)));
        bed.engine.launch();
        for _ in 0..3 {
            let filter = json!([{"fromBlock": "0x1", "toBlock": "latest", "address": bed.emitter}]);
            let expected = as_recorded(&bed.bad().ask("eth_getLogs", filter));
            assert!(expected.len() > bed.logs_on_chain().len());
            bed.has_logs(&expected);
            bed.mine();
        }
        assert_eq!(bed.engine.state("recorder", "r/").len(), 0);
        let lies = bed.engine.metric("nexum_endpoint_demotions_total", &[("reason", "wrong")]);
        assert_eq!(lies, 0.0, "{:#}", bed.engine.endpoint(bed.bad_name()));
        bed.is_healthy();
    }
}
