//! Subscriptions that hold events back, until blocks follow or the node calls theirs safe or final.

use super::{
    anvil::Anvil,
    engine::{Engine, Setup, eventually},
    prove_exactly_once::{Moments, compare_through, mine_some},
    prove_reorg::reorganize,
};

/// Modules, and what each adds to its subscriptions; the end of its source's name.
const HELD: [(&str, &str, &str); 3] = [
    ("third", "confirmations = 3", ":confirmations=3"),
    ("safe", "finality = \"safe\"", ":safe"),
    ("finalized", "finality = \"finalized\"", ":finalized"),
];

/// Recorders of the same blocks and logs, which differ in what they wait for, and one that waits for nothing.
fn recorders(anvil: &Anvil, emitter: &str) -> Engine {
    let mut setup = Setup::new().chain(31337, &[anvil.ws()]);
    for (name, held, _) in HELD.into_iter().chain([("latest", "", "")]) {
        let block = format!("kind = \"block\"\nchain_id = 31337\nstart_block = 1\n{held}");
        let log = format!("kind = \"log\"\nchain_id = 31337\naddress = \"{emitter}\"\nstart_block = 1\n{held}");
        let changes = [("kind = \"block\"\nchain_id = 31337", &*block), ("kind = \"log\"\nchain_id = 31337", &*log)];
        setup = setup.module("recorder", name, &changes);
    }
    setup.start()
}

/// The last block that a module may have by now.
fn last(anvil: &Anvil, name: &str) -> u64 {
    match name {
        "third" => anvil.head() - 3,
        tag => anvil.number_of(tag),
    }
}

/// Waits until each has the blocks that it may have, and the logs in them, and fails as soon as one has another.
fn check(anvil: &Anvil, emitter: &str, engine: &Engine) {
    for (name, _, source) in HELD.into_iter().chain([("latest", "", "")]) {
        let source = format!("chain:31337{source}");
        eventually(&format!("{name}: as far as it may"), || {
            let node = engine.module(name);
            // A block number, or one and `/logs`.
            let cursor = node["cursors"][&source].as_str().unwrap_or("0").split('/').next().unwrap().to_owned();
            let (at, last) = (cursor.parse::<u64>().unwrap(), last(anvil, name));
            assert!(at <= last, "{name} is at {at}, and should wait at {last}: {node:#}");
            if at == last { Ok(()) } else { Err(format!("{at} of {last}: {node:#}")) }
        });
        let last = last(anvil, name);
        eventually(&format!("{name}: its record equals the chain"), || {
            compare_through(last, anvil, emitter, engine, name)
        });
    }
}

fn reorgs(engine: &Engine) -> [usize; 4] {
    ["third", "safe", "finalized", "latest"].map(|name| engine.state(name, "r/").len())
}

#[test]
fn what_is_held_back_long_enough_is_spared_reorgs() {
    let anvil = Anvil::start_with(&["--slots-in-an-epoch", "2"]);
    let emitter = anvil.deploy_emitter();
    let mut moments = Moments(0x7137_449b_19a4_c116);
    let grow = |moments: &mut Moments| (0..2).for_each(|_| mine_some(&anvil, &emitter, moments));
    grow(&mut moments);
    let mut engine = recorders(&anvil, &emitter);
    check(&anvil, &emitter, &engine);
    // None of them has what these take away.
    reorganize(&anvil, &emitter, &mut moments, 2);
    grow(&mut moments);
    check(&anvil, &emitter, &engine);
    assert_eq!(reorgs(&engine), [0, 0, 0, 1]);

    engine.kill9();
    engine.launch();
    check(&anvil, &emitter, &engine);
    engine.kill9();
    reorganize(&anvil, &emitter, &mut moments, 2);
    engine.launch();
    check(&anvil, &emitter, &engine);
    grow(&mut moments);
    check(&anvil, &emitter, &engine);
    assert_eq!(reorgs(&engine), [0, 0, 0, 2]);

    // The fourth block from above had three to confirm it, and its retraction is told like any other.
    reorganize(&anvil, &emitter, &mut moments, 4);
    grow(&mut moments);
    check(&anvil, &emitter, &engine);
    let [third, _, finalized, latest] = reorgs(&engine);
    assert_eq!((third, finalized, latest), (1, 0, 3));
    assert!(engine.terminate().success());
}
