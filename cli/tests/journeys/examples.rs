//! The examples as they are shipped.

use std::{fs, path::Path};

use super::engine::{Setup, bundle, path};

/// Some examples send transactions, which an engine has to have accounts for: here one that no policy names.
const IDENTITY: &str = "[[identity.remote]]\nurl = \"https://127.0.0.1:9\"\n\
     accounts = [\"0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266\"]";

/// Others want messages, for which the operator names a node. It need not be there.
const MESSAGING: &str = "[messaging]\nnodes = [\"http://127.0.0.1:9\"]";

fn examples() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/examples");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// What an example needs is in its manifest: whoever tries one changes nothing in it before it runs.
#[test]
fn every_example_loads_as_shipped_and_runs() {
    let names = examples();
    assert!(names.len() > 3, "{names:?}");
    let demo = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/chains/demo.toml")).unwrap();
    // Without logs: some examples answer them with requests to servers that are not here.
    let quiet = demo.split("# An ERC-20 token").next().unwrap();
    assert!(quiet.contains("[[call]]") && !quiet.contains("[[emit]]"), "{quiet}");
    let library = format!("[[libraries]]\nsource = \"{}\"\n", path(&bundle("cow")));
    let setup = Setup::new().mock(31337, quiet).with(IDENTITY).with(MESSAGING).with(&library);
    let engine = names.iter().fold(setup, |setup, name| setup.module(name, name, &[])).start();
    for name in &names {
        let node = engine.module_until(name, "RUN", |node| node["state"] == "RUN");
        assert_eq!((&node["events_failed"], &node["restarts"]), (&0.into(), &0.into()), "{node:#}");
    }
    engine.module_until("price-alert", "handles blocks", |node| node["events_processed"].as_u64() > Some(1));
    let status: serde_json::Value = serde_json::from_str(&engine.ctl(&["query", "price-alert", "status"])).unwrap();
    assert!(status["last"]["price"].is_string() && status["alerts"].is_u64(), "{status}");
}
