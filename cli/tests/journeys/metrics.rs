//! How many series a module has in a scrape of the real engine: whoever keeps them pays for each.

use super::{
    engine::{Engine, Setup, eventually},
    outbox::sender,
    receiver::Receiver,
};

/// A log in every block, five blocks a second.
const CHAIN: &str = "chain_id = 31337\nname = \"logs\"\nseed = 1\nfirst_timestamp_s = 1_700_000_000\nblock_interval_ms = 200\nendless = true\n\
                     [[emit]]\naddress = \"0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512\"\n";
const BLOCKS: &str = "kind = \"block\"\nchain_id = 31337";
const BLOCKS_AND_LOGS: &str =
    "kind = \"block\"\nchain_id = 31337\n\n[[subscription]]\nkind = \"log\"\nchain_id = 31337";

fn processed(engine: &Engine, module: &str, kind: &str) -> f64 {
    engine.metric("nexum_events_processed_total", &[("module", module), ("event_type", kind)])
}

/// The series of a module, once it has handled an event of each of these kinds.
fn series(engine: &Engine, module: &str, kinds: &[&str]) -> Vec<String> {
    eventually(&format!("{module} handles each of {kinds:?}"), || {
        let missing = kinds.iter().find(|kind| processed(engine, module, kind) == 0.0);
        missing.map_or(Ok(()), |kind| Err(format!("no {kind} yet")))
    });
    let label = format!("module=\"{module}\"");
    engine.metrics_text().lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
}

#[test]
fn a_module_has_few_series() {
    let receiver = Receiver::start();
    let setup = Setup::new().mock(31337, CHAIN).module("bench", "blocks", &[]);
    let engine = sender(setup, &receiver.url(), "keyed", &[(BLOCKS, BLOCKS_AND_LOGS)]).start();
    let blocks = series(&engine, "blocks", &["init", "block"]);
    assert!(blocks.len() <= 14, "{blocks:#?}");
    let sender = series(&engine, "sender", &["init", "block", "logs", "outcome"]);
    assert!(sender.len() <= 20, "{sender:#?}");
    for counter in ["nexum_module_busy_seconds_total", "nexum_module_fuel_total"] {
        assert!(engine.metric(counter, &[("module", "sender")]) > 0.0, "{sender:#?}");
    }
    // What is not there for each is there for all of them.
    for histogram in ["nexum_event_duration_seconds", "nexum_dispatch_latency_seconds", "nexum_fuel_consumed"] {
        assert!(engine.metric(&format!("{histogram}_count"), &[]) > 0.0, "{}", engine.metrics_text());
    }
}
