//! Modules in Python and in JavaScript, made into components as their tools make them by default: each brings the runtime
//! of its language, and what that imports.

use super::{
    engine::{FAST_CHAIN, Setup, eventually},
    hostile::assert_handled_every_block,
    receiver::Receiver,
};

/// The module, and what it prints when it starts.
const MODULES: [(&str, &str); 2] = [("python", "hello from Python"), ("javascript", "hello from JavaScript")];

/// Their tools are no part of the short form: `make prove-languages` installs them and builds these.
#[test]
fn modules_that_take_long_to_build_load_and_handle_every_block_once() {
    let setup = Setup::new().mock(31337, FAST_CHAIN);
    let mut engine = MODULES.iter().fold(setup, |setup, (name, _)| setup.module(name, name, &[])).start();
    // One after the other: a whole runtime is compiled first, each in its time.
    for (name, _) in MODULES {
        engine.module_until(name, "is compiled", |node| node["state"] != "LOAD");
    }
    for starts in 1..=2 {
        for (name, greeting) in MODULES {
            let node = engine.module_until(name, "handles blocks", |node| node["events_processed"].as_u64() > Some(20));
            assert_eq!((&node["state"], &node["events_failed"]), (&"RUN".into(), &0.into()), "{node:#}");
            assert_handled_every_block(&engine, name);
            assert_eq!(engine.log_text().matches(greeting).count(), starts, "{greeting}");
        }
        // The next instance has the state of the one before.
        assert!(engine.terminate().success());
        engine.launch();
    }
}

#[test]
fn a_module_that_takes_long_to_build_sends_requests_as_its_language_does() {
    let receiver = Receiver::start();
    let url = format!("url = \"{}\"", receiver.url());
    let setup = Setup::new().mock(31337, FAST_CHAIN);
    let engine = setup.module("javascript", "javascript", &[("url = \"\"", &url)]).start();
    engine.module_until("javascript", "is compiled", |node| node["state"] != "LOAD");
    let (key, answer) = eventually("a request is answered", || {
        engine.state("javascript", "f/").into_iter().next().ok_or_else(|| engine.ctl(&["tree"]))
    });
    assert_eq!(answer, format!("200 took {}", &key[2..]));
    assert_eq!(receiver.hits()[0].path, "/block");
}
