//! Transactions of an account, through the real binary and on a real node: each once, whatever is killed, lost, forgotten or
//! taken back.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    anvil::{ACCOUNT, Anvil},
    engine::{Engine, FROM_THE_FIRST, NEXUM, Setup, eventually, path},
    outbox::{EAGER, sender, sent},
    prove_exactly_once::{Moments, kills},
    proxy::{Fault, Proxy},
};

/// Of Anvil's first account, which everybody knows.
const PRIVATE_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// Everything quicker than people want it.
pub const QUICK: &str =
    "[chains.rpc]\npoll_interval = \"100ms\"\ntimeout = \"1s\"\n[chains.transactions]\nreplace_after = \"1s\"\n";

pub fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The same from an account whose key was imported. `more` of its policy.
fn transferring(setup: Setup, until: u64, more: &str) -> Setup {
    let dir = setup.dir.path();
    let [password, private_key, keys] = ["password", "private-key", "keys"].map(|name| dir.join(name));
    secret(&password, "correct horse");
    secret(&private_key, PRIVATE_KEY);
    let imported = Command::new(NEXUM)
        .args(["key", "import", "--keystore", path(&keys), "--password-file", path(&password)])
        .args(["--private-key-file", path(&private_key)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&imported.stdout).into_owned();
    assert!(imported.status.success() && said.starts_with(ACCOUNT), "{said}{imported:?}");
    fs::remove_file(private_key).unwrap();
    transfers(setup, until, "keystore = \"keys\"\npassword = \"file:password\"\n", ACCOUNT, more)
}

/// A module that sends a transfer with every block up to `until`, from an account whose key is where `keys` of `[identity]` say.
pub fn transfers(setup: Setup, until: u64, keys: &str, account: &str, more: &str) -> Setup {
    let policy = format!(
        "[identity]\n{keys}\
         [[identity.policies]]\nmodule = \"sender\"\naccount = \"{account}\"\nmethods = [\"transaction\"]\nchains = [31337]\n\
         to = [\"*\"]\nselectors = [\"\"]\nmax_value = \"1 gwei\"\nmax_value_per_day = \"1 ether\"\n\
         max_fee_per_gas = \"2000 gwei\"\nmax_per_hour = 1_000_000\n{more}"
    );
    let until = format!("until = {until}");
    let changes = [
        FROM_THE_FIRST,
        (
            "required = [\"local-store\", \"http\", \"outbox\"]",
            "required = [\"local-store\", \"http\", \"outbox\", \"identity\"]",
        ),
        ("[capabilities.http]", "[capabilities.identity]\nmethods = [\"transaction\"]\n[capabilities.http]"),
        ("until = 1_000_000_000", until.as_str()),
    ];
    sender(setup.with(&policy), "http://127.0.0.1:9", "transfer", &changes)
}

/// The account that a block's transfer is for.
pub fn receiver(hash: &str) -> &str {
    &hash[..42]
}

/// What the module was told of an effect.
pub fn told(engine: &Engine, id: &str) -> Value {
    let found = engine.state("sender", &format!("o/{id}"));
    let [(_, outcome)] = found.as_slice() else { panic!("{id}: {found:#?}") };
    outcome.clone()
}

/// Mines on until the module was told of every transfer up to a block.
pub fn settled(anvil: &Anvil, engine: &Engine, until: u64) {
    eventually("every transfer has ended", || {
        anvil.mine();
        let node = engine.module("sender");
        let (sent, told) = (sent(engine).len() as u64, engine.state("sender", "o/").len() as u64);
        if sent >= until && told >= sent && node["outbox_pending"] == 0 {
            return Ok(());
        }
        Err(format!("{sent} sent, {told} told\n{}\n{}", engine.ctl(&["tree"]), engine.ctl(&["tx", "list"])))
    });
}

/// Of each block up to `until` the transfer is on the chain, once, and so it was told.
fn assert_each_once(anvil: &Anvil, engine: &Engine, until: u64) {
    let sent = sent(engine);
    assert_eq!(sent.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=until).collect::<Vec<_>>());
    let blocks = anvil.blocks(1);
    let mut nonces = BTreeSet::new();
    for (number, ids) in sent {
        let [id] = ids.as_slice() else { panic!("{ids:?}") };
        let (_, hash) = &blocks[number as usize - 1];
        assert_eq!(anvil.balance(receiver(hash)), u128::from(1_000 + number), "block {number}");
        let outcome = told(engine, id);
        assert_eq!((&outcome["status"], &outcome["count"]), (&json!("delivered"), &json!(1)), "{outcome:#}");
        let mined: Value = serde_json::from_str(outcome["detail"].as_str().unwrap()).unwrap();
        let receipt = anvil.rpc("eth_getTransactionReceipt", json!([mined["hash"]]));
        assert_eq!((&receipt["status"], &receipt["blockHash"]), (&json!("0x1"), &mined["block_hash"]), "{receipt:#}");
        assert!(nonces.insert(mined["nonce"].as_u64().unwrap()), "nonce {} twice", mined["nonce"]);
    }
    let count = |tag: &str| anvil.rpc("eth_getTransactionCount", json!([ACCOUNT, tag]));
    assert_eq!(count("latest"), count("pending"), "nothing is left on its way");
    assert_eq!(anvil.rpc("txpool_status", json!([]))["queued"], "0x0", "no nonce is missing");
}

#[test]
fn a_module_sends_from_the_operators_account_and_hears_what_became_of_it() {
    let anvil = Anvil::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, 3, "").start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    (0..3).for_each(|_| anvil.mine());
    settled(&anvil, &engine, 3);
    assert_each_once(&anvil, &engine, 3);

    let list = engine.json(&["tx", "list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(3), "{list:#}");
    let nonce = list[0]["nonce"].to_string();
    let one = engine.json(&["tx", "show", &ACCOUNT.to_uppercase().replace('X', "x"), &nonce]);
    assert_eq!((&one["state"], &one["module"], &one["account"]), (&json!("final"), &json!("sender"), &json!(ACCOUNT)));
    assert!(engine.try_ctl(&["tx", "cancel", ACCOUNT, &nonce]).is_err(), "it is over");
    let audit = engine.json(&["audit"]);
    assert_eq!((audit.as_array().map(Vec::len), &audit[0]["kind"]), (Some(3), &json!("transaction")), "{audit:#}");
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains(&format!("31337 {ACCOUNT}")) && tree.contains("0 in flight, 0 waiting"), "{tree}");

    // What it has sent stays sent.
    engine.kill9();
    engine.launch();
    settled(&anvil, &engine, 3);
    assert_each_once(&anvil, &engine, 3);
    assert!(engine.terminate().success());
}

#[test]
fn what_people_have_to_approve_waits_for_them_and_holds_nothing_up() {
    let anvil = Anvil::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, 2, "ask = true\napproval_timeout = \"1h\"").start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    (0..2).for_each(|_| anvil.mine());
    let waiting = |engine: &Engine| {
        eventually("both wait", || {
            let list = engine.json(&["approvals", "list"]);
            let waiting = list.as_array().unwrap().iter().filter(|approval| approval["state"] == "waiting");
            let waiting: Vec<Value> = waiting.cloned().collect();
            if waiting.len() == 2 { Ok(waiting) } else { Err(format!("{list:#}")) }
        })
    };
    waiting(&engine);
    let sent = eventually("both are under way", || {
        let list = engine.json(&["outbox", "list", "sender"]);
        let is_underway = |effect: &Value| effect["underway"].is_string() && effect["attempts"] == 0;
        if list.as_array().unwrap().iter().filter(|effect| is_underway(effect)).count() == 2 {
            Ok(sent(&engine))
        } else {
            Err(format!("{list:#}"))
        }
    });
    let [(_, first), (_, second)] = sent.as_slice() else { panic!("{sent:?}") };
    let refused = engine.try_ctl(&["outbox", "cancel", "sender", &first[0]]).unwrap_err();
    assert!(refused.contains("cannot be called back here"), "{refused}");
    let drained = engine.json(&["drain", "--deadline", "30s"]);
    assert_eq!(drained["unfinished"], json!([]), "{drained:#}");
    assert!(drained["held"][0].as_str().unwrap().contains("2 effects go on where they were handed to"), "{drained:#}");

    // They are asked for in the same words after the engine was killed, and not twice.
    engine.kill9();
    engine.launch();
    for approval in waiting(&engine) {
        let (number, verb) =
            (approval["number"].to_string(), if approval["effect"] == first[0].as_str() { "approve" } else { "deny" });
        let shown = engine.json(&["approvals", "show", &number]);
        assert_eq!(shown["module"], "sender", "{shown:#}");
        engine.ctl(&["approvals", verb, &number, "--by", "ann"]);
    }
    settled(&anvil, &engine, 2);
    let (approved, denied) = (told(&engine, &first[0]), told(&engine, &second[0]));
    assert_eq!(approved["status"], "delivered", "{approved:#}");
    assert_eq!(denied["status"], "failed", "{denied:#}");
    let failure: Value = serde_json::from_str(denied["detail"].as_str().unwrap()).unwrap();
    assert_eq!(failure["kind"], "denied", "{failure:#}");
    let blocks = anvil.blocks(1);
    let balances = [0, 1].map(|at| anvil.balance(receiver(&blocks[at].1)));
    assert_eq!(balances, [1_001, 0]);
    let states: BTreeSet<_> =
        engine.json(&["approvals", "list"]).as_array().unwrap().iter().map(|a| a["state"].to_string()).collect();
    assert_eq!(states, BTreeSet::from(["\"denied\"".to_owned(), "\"used\"".to_owned()]));
    assert!(engine.terminate().success());
}

/// Every block that there ever was, on any branch.
#[derive(Default)]
struct Branches(BTreeSet<(u64, String)>);

impl Branches {
    fn see(&mut self, anvil: &Anvil) {
        self.0.extend(anvil.blocks(anvil.head().saturating_sub(4).max(1)));
    }

    fn mine(&mut self, anvil: &Anvil) {
        anvil.mine();
        self.see(anvil);
    }
}

#[test]
fn prove_transactions_when_everything_around_them_fails() {
    let until = 3 + 3 * kills();
    let anvil = Anvil::start();
    let proxy = Proxy::before(anvil.port());
    let setup = Setup::new().chain(31337, &[proxy.http()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, until, "").start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    let (mut moments, mut branches) = (Moments(0x3c6e_f372_fe94_f82b), Branches::default());
    let rich = "0x21e19e0c9bab2400000";
    (0..3).for_each(|_| branches.mine(&anvil));
    let mut others = 0;
    for round in 0..kills() {
        let trouble = (round + moments.below(3)) % 8;
        match trouble {
            // It was taken, and nobody was told.
            0 => proxy.set(Fault::Truncated),
            1 => proxy.set(Fault::Status(503)),
            2 => proxy.set(Fault::Stall),
            3 => _ = anvil.rpc("anvil_dropAllTransactions", json!([])),
            4 => _ = anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])),
            5 => _ = anvil.rpc("anvil_setBalance", json!([ACCOUNT, "0x0"])),
            6 => {
                let transfer =
                    json!([{"from": ACCOUNT, "to": format!("0x{}", "99".repeat(20)), "value": "0x1", "gas": "0x5208"}]);
                anvil.rpc("eth_sendTransaction", transfer);
                others += 1;
            }
            _ => {
                anvil.reorg(1 + moments.below(2));
                branches.see(&anvil);
            }
        }
        for _ in 0..1 + moments.below(2) {
            branches.mine(&anvil);
        }
        // Somewhere between the block and the receipt.
        std::thread::park_timeout(Duration::from_millis(moments.below(400)));
        engine.kill9();
        branches.mine(&anvil);
        engine.launch();
        std::thread::park_timeout(Duration::from_millis(moments.below(400)));
        proxy.set(Fault::None);
        anvil.rpc("anvil_setBalance", json!([ACCOUNT, rich]));
    }
    while anvil.head() < until {
        branches.mine(&anvil);
    }
    settled(&anvil, &engine, until);
    assert_each_once(&anvil, &engine, until);
    // What left because of a block that was taken back stays; nothing left twice.
    let standing: BTreeSet<(u64, String)> = anvil.blocks(1).into_iter().collect();
    let mut stray = 0;
    for (number, hash) in branches.0.iter().filter(|block| block.0 <= until && !standing.contains(block)) {
        let balance = anvil.balance(receiver(hash));
        assert!([0, u128::from(1_000 + number)].contains(&balance), "block {number} {hash}: {balance}");
        stray += u64::from(balance > 0);
    }
    println!(
        "engine killed {} times: {until} transfers, each once; {stray} of blocks that were taken back; {others} by others",
        kills()
    );
    assert!(engine.terminate().success());
}
