//! What a module was granted, and who withheld the rest, as operators see it.

use super::engine::{FAST_CHAIN, Setup};

#[test]
fn what_is_granted_stubbed_and_denied_is_shown_with_who_decided_it() {
    let optional = ("optional = [\"http\"]", "optional = [\"http\", \"messaging\", \"random\"]");
    let setup = Setup::new().mock(31337, FAST_CHAIN).module("hostile", "hostile", &[optional]);
    let engine = setup.with("denied = [\"http\"]").start();
    let node = engine.module_until("hostile", "runs", |node| node["state"] == "RUN");
    let grant = |name: &str| {
        let grants = node["grants"].as_array().unwrap();
        grants.iter().find(|grant| grant["capability"] == name).unwrap()["grant"].as_str().unwrap().to_owned()
    };
    assert_eq!(["chain", "random", "http", "messaging"].map(grant), ["granted", "granted", "denied", "stubbed"]);
    assert_eq!(node["chains"], serde_json::json!([31337]));
    let shown = engine.ctl(&["module", "show", "hostile"]);
    for line in [
        "http denied: by the operator: `denied` in its [[modules]]",
        "messaging stubbed: optional in the manifest, and this engine has no such service",
        "chain granted",
    ] {
        assert!(shown.contains(line), "`{line}` is not in\n{shown}");
    }
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains("messaging stubbed") && tree.contains("http denied"), "{tree}");
    let unknown = engine.raw_ctl(&["module", "show", "nobody"]);
    assert_eq!(unknown.status.code(), Some(5));
}
