//! Endpoints that refuse what is too much for them, in whatever words: less is asked, and all is read.

use super::bed::{Bed, Place, Plan, http, is_long, places, ws};
use crate::{
    anvil::Anvil,
    proxy::{
        Fault::{self, AddressMax, BatchMax, LogsMax, NoBatches},
        Refusal,
    },
};

const HISTORY: u64 = 330;
/// Fewer than some block has.
const LOGS_MAX: usize = 5;

/// An engine that begins with history at an endpoint that takes no more than this.
fn reads_all(place: Place, plan: Plan, fault: Fault) -> Bed {
    let mut bed = plan.prepared(Anvil::start());
    bed.mine_history(HISTORY, 1);
    bed.bad().set(fault);
    bed.engine.launch();
    bed.grow();
    if place.of == 1 {
        assert_eq!(bed.engine.module("recorder")["restarts"], 0);
    }
    bed.is_healthy();
    bed
}

#[allow(clippy::print_stdout, reason = "for whoever runs the proof by hand")]
fn of_logs(way: Refusal, short: &[Place]) {
    for place in places(short, &[1, 2]) {
        let mut bed = reads_all(place, Plan::at(place), LogsMax(LOGS_MAX, way));
        let learnt = bed.engine.endpoint(bed.bad_name());
        println!("{way:?} at {place:?}: {}, asked {:?}", learnt["summary"], bed.bad().asked());
        // One block has more than it tells at once. Its receipts have them, or another endpoint.
        (0..3 + LOGS_MAX as u64).for_each(|word| bed.anvil.emit(&bed.emitter, word));
        bed.anvil.mine();
        bed.grow();
        bed.recovers();
    }
}

#[test]
fn prove_outage_of_too_many_logs_named() {
    of_logs(Refusal::Named, &[http(0, 1)]);
}

#[test]
fn prove_outage_of_too_many_logs_in_other_words() {
    of_logs(Refusal::Vague, &[ws(0, 1)]);
}

#[test]
fn prove_outage_of_too_many_logs_in_words_of_a_missing_block() {
    of_logs(Refusal::Missing, &[http(0, 1)]);
}

#[test]
fn prove_outage_of_too_many_logs_without_words() {
    of_logs(Refusal::Status, &[http(0, 1)]);
}

#[test]
fn prove_outage_of_too_many_logs_and_the_connection() {
    of_logs(Refusal::Cut, &[http(0, 1)]);
}

/// Over a WebSocket one question that is cut takes with it all that are under way.
#[test]
fn prove_outage_of_too_many_logs_and_the_websocket() {
    // In the long form the test above has every place.
    if !is_long() {
        of_logs(Refusal::Cut, &[ws(0, 1)]);
    }
}

#[test]
fn prove_outage_of_too_many_logs_and_one_websocket_of_two() {
    if !is_long() {
        of_logs(Refusal::Cut, &[ws(0, 2)]);
    }
}

#[test]
fn prove_outage_of_batches() {
    let of = if is_long() { &[http(0, 1), http(0, 2), http(1, 2), http(2, 3)][..] } else { &[http(0, 1)] };
    for place in of {
        for fault in [NoBatches, BatchMax(7)] {
            let mut bed = reads_all(*place, Plan::at(*place), fault);
            println!("{fault:?} at {place:?}: {}", bed.engine.endpoint(bed.bad_name())["summary"]);
            bed.recovers();
        }
    }
}

#[test]
fn prove_outage_of_long_lists_of_addresses() {
    for place in places(&[http(0, 1)], &[1, 2]) {
        // Nobody lives there.
        let addresses = (1..8).map(|nth| format!("0x{:040x}", nth * 0x1234_5678_u64)).collect();
        let mut bed = reads_all(place, Plan::at(place).addresses(addresses), AddressMax(2));
        println!("{place:?}: {}, asked {:?}", bed.engine.endpoint(bed.bad_name())["summary"], bed.bad().asked());
        bed.recovers();
    }
}
