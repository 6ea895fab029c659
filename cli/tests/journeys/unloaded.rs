//! What is left of a module that was unloaded.

use std::{fs, path::Path};

use super::{
    engine::{Setup, eventually},
    outbox::sender,
    receiver::Receiver,
};

#[test]
fn a_module_that_was_unloaded_has_no_series() {
    let demo = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/chains/demo.toml")).unwrap();
    let receiver = Receiver::start();
    let setup = sender(Setup::new().mock(31337, &demo), &receiver.url(), "fetch", &[]);
    let engine = setup.module("price-alert", "price-alert", &[]).start();
    for (metric, module) in
        [("nexum_egress_requests_total", "sender"), ("nexum_module_rpc_requests_total", "price-alert")]
    {
        eventually("it asked", || match engine.metric(metric, &[("module", module)]) {
            asked if asked > 0.0 => Ok(()),
            _ => Err(engine.ctl(&["tree"])),
        });
        engine.ctl(&["module", "unload", module]);
        // What was under way may end, and is not counted.
        let series = format!("module=\"{module}\"");
        eventually("its series are gone", || {
            let text = engine.metrics_text();
            let is_left = |line: &&str| line.starts_with(metric) && line.contains(&series);
            let left: Vec<&str> = text.lines().filter(is_left).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }
}
