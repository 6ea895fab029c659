//! A configuration that a component has a schema for: what does not fit is refused where it is written, and the schema is told.

use std::{fs, process::Command};

use serde_json::Value;

use super::engine::{Engine, FAST_CHAIN, NEXUM, Setup, bundle, path};

/// What `nexum` answers, or what it says on stderr.
fn nexum(args: &[&str]) -> Result<String, String> {
    let output = Command::new(NEXUM).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The line of the first file in which this stands, from 1 on.
fn line_of(file: &std::path::Path, what: &str) -> usize {
    let text = fs::read_to_string(file).unwrap();
    text.lines().position(|line| line.starts_with(what)).unwrap() + 1
}

fn typed(config: &str) -> Setup {
    let setup = Setup::new().mock(31337, FAST_CHAIN).module("price-alert", "price-alert", &[]);
    setup.with(&format!("[modules.config]\n{config}"))
}

#[test]
fn a_value_of_the_operator_that_does_not_fit_is_refused_before_the_module_runs() {
    let mut engine = typed("chain_id = \"31337\"").prepare();
    let line = line_of(&engine.config, "chain_id = \"31337\"");
    let config = path(&engine.config).to_owned();
    let wanted = format!("{config}:{line}: ");
    let refused = nexum(&["check-config", "--config", &config]).unwrap_err();
    assert!(refused.contains(&wanted) && refused.contains("chain_id: expected a whole number"), "{refused}");
    engine.launch();
    // What could not be planned is in the tree by its source.
    let source = path(&engine.dir.path().join("price-alert")).to_owned();
    let node = engine.module(&source);
    let error = node["last_error"].as_str().unwrap();
    assert_eq!(node["state"], "DEAD");
    assert!(error.contains(&wanted) && error.contains("[modules.config] chain_id: expected a whole number"), "{error}");
    assert!(!engine.log_text().contains("init failed"), "it never ran");
}

#[test]
fn a_misspelt_key_is_refused_with_the_one_that_is_meant() {
    let engine = typed("threshold = [\"1\"]").prepare();
    let refused = nexum(&["check-config", "--config", path(&engine.config)]).unwrap_err();
    assert!(refused.contains("threshold: unknown key, did you mean `thresholds`?"), "{refused}");
}

fn load(engine: &Engine, dir: &std::path::Path) -> Result<String, String> {
    engine.try_ctl(&["module", "load", path(dir)])
}

#[test]
fn a_bundle_whose_own_configuration_does_not_fit_is_not_loaded() {
    let setup = Setup::new().mock(31337, FAST_CHAIN);
    let good = setup.write_bundle("price-alert", "good", &[]);
    let misspelt = setup.write_bundle("price-alert", "misspelt", &[("feed = ", "fed = ")]);
    let missing = setup.write_bundle("price-alert", "missing", &[("thresholds = ", "# ")]);
    let engine = setup.start();
    load(&engine, &good).unwrap();
    let line = line_of(&misspelt.join("nexum.toml"), "fed = ");
    let refused = load(&engine, &misspelt).unwrap_err();
    let wanted = format!("misspelt/nexum.toml:{line}: [config] fed: unknown key, did you mean `feed`?");
    assert!(refused.contains(&wanted), "{refused}");
    let refused = load(&engine, &missing).unwrap_err();
    assert!(refused.contains("[config] thresholds: is missing: expected a list, each item text"), "{refused}");
    let over = engine.try_ctl(&["module", "load", path(&misspelt), "--set", "fed=1"]).unwrap_err();
    assert!(over.contains("as the operator has it: [modules.config] fed: unknown key"), "{over}");
}

#[test]
fn a_schema_is_told_as_a_table_and_as_json_schema() {
    let bundle = bundle("keeper");
    let table = nexum(&["module", "config", path(&bundle)]).unwrap();
    let row = |key: &str| table.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap();
    assert!(row("pool").contains("must be given") && row("pool").contains("The lending pool."), "{table}");
    assert!(row("valid_for").contains("\"15m\"") && row("valid_for").contains("from 1s to 1d"), "{table}");
    let schema: Value = serde_json::from_str(&nexum(&["module", "config", path(&bundle), "--json"]).unwrap()).unwrap();
    assert_eq!(schema["properties"]["confirmations"]["minimum"], 1);
    assert!(schema["required"].as_array().unwrap().contains(&"pool".into()));
    let silent = nexum(&["module", "config", path(&super::engine::bundle("heartbeat"))]).unwrap();
    assert!(silent.contains("does not say what its configuration may hold"), "{silent}");
}
