//! What modules ask of nodes: asked once for all of them, within their budgets, and told to the operator.

use serde_json::Value;

use super::{
    anvil::Anvil,
    engine::{Engine, Setup, eventually},
    proxy::Proxy,
};

const READERS: u64 = 100;

/// A module that calls the same with every block, at that block.
fn reader(setup: Setup, name: &str) -> Setup {
    let changes = [("kind = \"block\"\nchain_id = 31337", "kind = \"block\"\nchain_id = 31337\nstart_block = 1")];
    setup.module("reader", name, &changes)
}

/// What a module saw, block by block, once there are as many.
fn seen(engine: &Engine, module: &str, blocks: usize) -> Vec<String> {
    eventually(&format!("{module} has handled {blocks} blocks"), || {
        let seen = engine.state(module, "f/");
        let seen: Vec<_> = seen.into_iter().map(|(_, value)| value.as_str().unwrap_or_default().to_owned()).collect();
        if seen.len() == blocks { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
}

fn sum(rows: &[Value], key: &str) -> u64 {
    rows.iter().map(|row| row[key].as_u64().unwrap()).sum()
}

#[test]
fn a_hundred_modules_that_ask_the_same_at_one_block_are_one_request() {
    let anvil = Anvil::start();
    let proxy = Proxy::before(anvil.port());
    let names: Vec<String> = (0..READERS).map(|number| format!("reader-{number:03}")).collect();
    let setup = Setup::new().chain(31337, &[proxy.http()]);
    let engine = names.iter().fold(setup, |setup, name| reader(setup, name)).start();
    for blocks in 1..=3 {
        anvil.mine();
        // Before the next one: what is kept is kept for a while only.
        eventually("all have asked", || match engine.metric("nexum_module_rpc_requests_total", &[]) {
            asked if asked == (READERS * blocks) as f64 => Ok(()),
            asked => Err(format!("{asked} requests")),
        });
    }
    for name in [&names[0], &names[99]] {
        assert_eq!(seen(&engine, name, 3), ["\"0x\""; 3]);
    }
    assert_eq!(proxy.asked().get("eth_call"), Some(&3));
    let rows = eventually("all were answered", || {
        let usage = engine.json(&["rpc"]);
        let rows = usage["rows"].as_array().unwrap().clone();
        if sum(&rows, "shared") == READERS * 3 - 3 { Ok(rows) } else { Err(format!("{usage:#}")) }
    });
    assert_eq!((sum(&rows, "requests"), sum(&rows, "units"), sum(&rows, "errors")), (3, 3 * 26, 0));
    assert!(rows.iter().all(|row| row["method"] == "eth_call" && row["chain_id"] == 31337), "{rows:?}");
    assert!(engine.ctl(&["rpc", "--module", "reader-007"]).contains("reader-007"));
}

#[test]
fn a_module_over_its_budget_is_told_so_and_a_restart_does_not_give_the_day_back() {
    let anvil = Anvil::start();
    let proxy = Proxy::before(anvil.port());
    let frugal = reader(Setup::new().chain(31337, &[proxy.http()]), "frugal").with("rpc = { requests_per_day = 3 }");
    let mut engine = reader(frugal, "neighbour").start();
    (0..5).for_each(|_| anvil.mine());
    let told = seen(&engine, "frugal", 5);
    assert_eq!(told[..3], ["\"0x\""; 3]);
    for told in &told[3..] {
        assert!(told.starts_with("RateLimited -32029: "), "{told}");
        assert!(told.contains("has used up its RPC budget of 3 requests per day"), "{told}");
        assert!(told.contains("`rpc.requests_per_day` of its [[modules]] entry"), "{told}");
    }
    assert_eq!(seen(&engine, "neighbour", 5), ["\"0x\""; 5]);
    let usage = engine.json(&["rpc", "--module", "frugal"]);
    let spent = &usage["budgets"][0];
    assert_eq!((&spent["requests_today"], &spent["refused"]), (&3.into(), &2.into()), "{usage:#}");
    assert_eq!(engine.metric("nexum_module_rpc_refused_total", &[("module", "frugal")]), 2.0);

    engine.kill9();
    engine.launch();
    anvil.mine();
    let told = seen(&engine, "frugal", 6);
    assert!(told[5].contains("has used up its RPC budget of 3 requests per day"), "{}", told[5]);
    assert_eq!(seen(&engine, "neighbour", 6)[5], "\"0x\"");
}
