//! What people have reported of endpoints that other programs read: each of it befalls an engine that reads history, and one
//! that follows the head.

use super::bed::{Place, Plan, http, places, ws};
use crate::{
    anvil::Anvil,
    proxy::{
        Fault::{self, Forms, Logs, LogsMax, NewHeads, NullBlocks, Without},
        Form, Lie, Notice, Refusal,
    },
};

const HISTORY: u64 = 330;

/// History is read under the fault, then some blocks more, and the record equals the chain.
fn read_under(place: Place, fault: Fault) {
    let mut bed = Plan::at(place).prepared(Anvil::start());
    bed.mine_history(HISTORY, 2);
    bed.bad().set(fault);
    bed.engine.launch();
    for _ in 0..4 {
        bed.grow();
    }
    bed.recovers();
    assert_eq!(bed.reorgs(), 0.0, "{place:?} {fault:?}");
}

/// Some of the nodes behind one address have no logs of a block that they know.
#[test]
fn prove_outage_of_a_balancer_of_which_some_nodes_have_no_logs() {
    for place in places(&[http(0, 1), ws(0, 2)], &[1, 2, 3]) {
        read_under(place, Logs(Lie::Sometimes));
    }
}

/// One node told the head, and another one, which does not have it yet, is asked for its logs.
#[test]
fn prove_outage_of_a_balancer_of_which_some_nodes_are_behind() {
    for place in places(&[ws(0, 1), http(0, 2)], &[1, 2, 3]) {
        read_under(place, Logs(Lie::Behind(5)));
    }
}

/// What is recommended is what was refused.
#[test]
fn prove_outage_of_a_refusal_that_recommends_the_same_range() {
    for place in places(&[http(0, 1)], &[1, 2]) {
        read_under(place, LogsMax(5, Refusal::SameRange));
    }
}

/// The connection answers all questions, and tells no head.
#[test]
fn prove_outage_of_a_subscription_that_was_taken_and_tells_nothing() {
    for place in places(&[ws(0, 1), ws(0, 2)], &[1, 2, 3]) {
        if place.ws {
            read_under(place, NewHeads(Notice::Never));
        }
    }
}

/// What it pushes has a hash of its own, which nothing else that it answers knows.
#[test]
fn prove_outage_of_heads_with_another_hash_than_their_blocks() {
    for place in places(&[ws(0, 1)], &[1, 2, 3]) {
        if place.ws {
            read_under(place, NewHeads(Notice::OwnHash));
        }
    }
}

/// Everything else on the connection is answered.
#[test]
fn prove_outage_of_a_subscription_that_is_never_answered() {
    for place in places(&[ws(0, 1)], &[1, 2, 3]) {
        if place.ws {
            read_under(place, NewHeads(Notice::Unanswered));
        }
    }
}

/// What stands before the node lets other questions pass.
#[test]
fn prove_outage_of_an_endpoint_that_forbids_to_ask_whether_it_syncs() {
    for place in places(&[http(0, 1), ws(0, 2)], &[1, 2, 3]) {
        read_under(place, Without("eth_syncing"));
    }
}

/// Some of the nodes behind one address do not have a block that others have.
#[test]
fn prove_outage_of_a_balancer_of_which_some_nodes_lack_blocks() {
    for place in places(&[http(0, 1), ws(0, 1), ws(0, 2)], &[1, 2, 3]) {
        read_under(place, NullBlocks);
    }
}

/// Logs are found by the number of their block alone, and there are no receipts to prove any.
#[test]
fn prove_outage_of_an_endpoint_that_finds_no_logs_by_hash() {
    for place in places(&[ws(0, 1), http(0, 2)], &[1, 2, 3]) {
        read_under(place, Logs(Lie::ByHash));
    }
}

/// Log indexes are not those of the block. The receipts tell which log is which.
#[test]
fn prove_outage_of_log_indexes_that_count_in_each_transaction() {
    for place in places(&[http(0, 1), ws(0, 2)], &[1, 2, 3]) {
        read_under(place, Logs(Lie::PerTransaction));
    }
}

/// The same, of whatever transaction they are.
#[test]
fn prove_outage_of_logs_that_all_have_one_index() {
    for place in places(&[http(0, 1)], &[1, 2, 3]) {
        read_under(place, Logs(Lie::OneIndex));
    }
}

/// No range is small enough for a block with two logs. Its receipts have them.
#[test]
fn prove_outage_of_a_block_with_more_logs_than_are_told_at_once() {
    for place in places(&[http(0, 1), ws(0, 2)], &[1, 2, 3]) {
        read_under(place, LogsMax(1, Refusal::Named));
    }
}

#[test]
fn prove_outage_of_addresses_with_the_letters_of_their_chain() {
    for place in places(&[http(0, 1)], &[1, 2]) {
        read_under(place, Forms(&[Form::Xdc]));
    }
}

/// Times in milliseconds are told in seconds, as those of every other chain.
#[test]
fn prove_outage_of_times_in_milliseconds() {
    for place in places(&[ws(0, 1), http(0, 1)], &[1, 2]) {
        read_under(place, Forms(&[Form::TimeMillis]));
    }
}

#[test]
fn prove_outage_of_a_total_difficulty_that_cannot_be() {
    for place in places(&[ws(0, 1)], &[1, 2]) {
        read_under(place, Forms(&[Form::TotalDifficultyZero]));
    }
}
