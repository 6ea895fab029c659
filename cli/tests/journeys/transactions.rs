//! Transactions of an account, through the real binary and on a real node; what becomes of them when everything fails is in
//! `prove_transactions`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use nexum_testkit::{ACCOUNTS, KEYSTORE, SENDS_TRANSACTIONS, import_key, transfer_policy, within};
use serde_json::{Value, json};

use super::{
    anvil::{ACCOUNT, Anvil},
    engine::{Engine, FROM_THE_FIRST, NEXUM, Setup, eventually},
    outbox::{EAGER, sent, sent_by},
};

/// Everything quicker than people want it.
pub const QUICK: &str =
    "[chains.rpc]\npoll_interval = \"100ms\"\ntimeout = \"1s\"\n[chains.transactions]\nreplace_after = \"1s\"\n";

/// Long enough for hundreds of transfers on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A module that sends a transfer with every block.
pub struct Payer {
    pub module: &'static str,
    /// Which of `ACCOUNTS` pays.
    pub account: usize,
    /// Where in a block's hash its receiver begins, so that no two modules pay the same.
    pub first: usize,
}

pub const SENDER: [Payer; 1] = [Payer { module: "sender", account: 0, first: 0 }];

impl Payer {
    pub fn address(&self) -> &'static str {
        ACCOUNTS[self.account].0
    }

    /// The account that a block's transfer is for.
    pub fn receiver(&self, hash: &str) -> String {
        format!("0x{}", &hash[2 + 2 * self.first..42 + 2 * self.first])
    }
}

/// Modules that send a transfer with every block up to `until`, from accounts whose keys were imported. `more` of their policies.
pub fn transferring(setup: Setup, payers: &[Payer], until: u64, more: &str) -> Setup {
    for account in payers.iter().map(|payer| payer.account).collect::<BTreeSet<_>>() {
        import_key(NEXUM, setup.dir.path(), account);
    }
    let policies: String = payers.iter().map(|payer| transfer_policy(payer.module, payer.address(), more)).collect();
    sending(setup.with(&format!("{KEYSTORE}{policies}")), payers, until)
}

/// The same modules, whoever may have what signed.
pub fn sending(setup: Setup, payers: &[Payer], until: u64) -> Setup {
    let until = format!("until = {until}");
    payers.iter().fold(setup, |setup, payer| {
        let first = format!("first = {}", payer.first);
        let mut changes = SENDS_TRANSACTIONS.to_vec();
        changes.extend([
            FROM_THE_FIRST,
            ("mode = \"lane\"", "mode = \"transfer\""),
            ("until = 1_000_000_000", until.as_str()),
            ("first = 0", first.as_str()),
        ]);
        setup.module("sender", payer.module, &changes)
    })
}

/// What the module was told of an effect.
pub fn told(engine: &Engine, id: &str) -> Value {
    let found = engine.state("sender", &format!("o/{id}"));
    let [(_, outcome)] = found.as_slice() else { panic!("{id}: {found:#?}") };
    outcome.clone()
}

/// Mines on until every module was told of every transfer up to a block.
pub fn settled(anvil: &Anvil, engine: &Engine, payers: &[Payer], until: u64) {
    within(PATIENCE, Duration::from_millis(25), "every transfer has ended", || {
        anvil.mine();
        for payer in payers {
            let node = engine.module(payer.module);
            let told = engine.state(payer.module, "o/").len() as u64;
            let sent = sent_by(engine, payer.module).len() as u64;
            if sent < until || told < sent || node["outbox_pending"] != 0 {
                let (tree, list) = (engine.ctl(&["tree"]), engine.ctl(&["tx", "list"]));
                return Err(format!("{}: {sent} sent, {told} told\n{tree}\n{list}", payer.module));
            }
        }
        Ok(())
    });
}

/// Of each block up to `until` every module's transfer is on the chain, once, and so it was told, once.
pub fn assert_each_once(anvil: &Anvil, engine: &Engine, payers: &[Payer], until: u64) {
    let blocks = anvil.blocks(1);
    let mut nonces = BTreeSet::new();
    for payer in payers {
        let sent = sent_by(engine, payer.module);
        assert_eq!(sent.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=until).collect::<Vec<_>>());
        let told: BTreeMap<String, Value> = engine.state(payer.module, "o/").into_iter().collect();
        for (key, outcome) in &told {
            assert_eq!(outcome["count"], 1, "{} {key}: {outcome:#}", payer.module);
        }
        for (number, ids) in sent {
            let [id] = ids.as_slice() else { panic!("{ids:?}") };
            let (_, hash) = &blocks[number as usize - 1];
            assert_eq!(anvil.balance(&payer.receiver(hash)), u128::from(1_000 + number), "block {number}");
            let outcome = &told[&format!("o/{id}")];
            assert_eq!(outcome["status"], "delivered", "{outcome:#}");
            let mined: Value = serde_json::from_str(outcome["detail"].as_str().unwrap()).unwrap();
            let receipt = anvil.rpc("eth_getTransactionReceipt", json!([mined["hash"]]));
            assert_eq!(
                (&receipt["status"], &receipt["blockHash"]),
                (&json!("0x1"), &mined["block_hash"]),
                "{receipt:#}"
            );
            assert_eq!(receipt["from"], payer.address(), "{receipt:#}");
            let nonce = mined["nonce"].as_u64().unwrap();
            assert!(nonces.insert((payer.account, nonce)), "nonce {nonce} twice");
        }
        let count = |tag: &str| anvil.rpc("eth_getTransactionCount", json!([payer.address(), tag]));
        assert_eq!(count("latest"), count("pending"), "nothing is left on its way");
    }
    assert_eq!(anvil.rpc("txpool_status", json!([]))["queued"], "0x0", "no nonce is missing");
}

#[test]
fn a_module_sends_from_the_operators_account_and_hears_what_became_of_it() {
    let anvil = Anvil::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, &SENDER, 3, "").start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    (0..3).for_each(|_| anvil.mine());
    settled(&anvil, &engine, &SENDER, 3);
    assert_each_once(&anvil, &engine, &SENDER, 3);

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
    settled(&anvil, &engine, &SENDER, 3);
    assert_each_once(&anvil, &engine, &SENDER, 3);
    assert!(engine.terminate().success());
}

#[test]
fn what_people_have_to_approve_waits_for_them_and_holds_nothing_up() {
    let anvil = Anvil::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, &SENDER, 2, "ask = true\napproval_timeout = \"1h\"").start();
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
    settled(&anvil, &engine, &SENDER, 2);
    let (approved, denied) = (told(&engine, &first[0]), told(&engine, &second[0]));
    assert_eq!(approved["status"], "delivered", "{approved:#}");
    assert_eq!(denied["status"], "failed", "{denied:#}");
    let failure: Value = serde_json::from_str(denied["detail"].as_str().unwrap()).unwrap();
    assert_eq!(failure["kind"], "denied", "{failure:#}");
    let blocks = anvil.blocks(1);
    let balances = [0, 1].map(|at| anvil.balance(&SENDER[0].receiver(&blocks[at].1)));
    assert_eq!(balances, [1_001, 0]);
    let states: BTreeSet<_> =
        engine.json(&["approvals", "list"]).as_array().unwrap().iter().map(|a| a["state"].to_string()).collect();
    assert_eq!(states, BTreeSet::from(["\"denied\"".to_owned(), "\"used\"".to_owned()]));
    assert!(engine.terminate().success());
}

#[test]
fn what_cannot_be_paid_is_given_up_by_its_effect_and_taken_up_again_as_another_transaction() {
    let anvil = Anvil::start();
    anvil.rpc("anvil_setBalance", json!([ACCOUNT, "0x0"]));
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, &SENDER, 1, "").start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    anvil.mine();
    let is_poor = |what: &Value| what.as_str().is_some_and(|what| what.contains("the account has 0 wei"));
    let id = eventually("it waits for the balance", || {
        let list = engine.json(&["tx", "list"]);
        match (&list[0]["nonce"], list[0]["effect"].as_str()) {
            (Value::Null, Some(id)) if is_poor(&list[0]["what"]) => Ok(id.to_owned()),
            _ => Err(format!("{list:#}")),
        }
    });
    let health = engine.json(&["health"]);
    let waits = health["services"]["transactions"]["waits"].as_array().unwrap();
    assert!(waits.iter().any(|wait| wait["module"] == "sender" && is_poor(&wait["reason"])), "{health:#}");
    let until_told = |engine: &Engine, status: &str| {
        eventually("its module is told", || {
            anvil.mine();
            let found = engine.state("sender", &format!("o/{id}"));
            let told = found.first().filter(|(_, outcome)| outcome["status"] == status).cloned();
            told.map(|(_, outcome)| outcome).ok_or_else(|| format!("{found:#?}\n{}", engine.ctl(&["tx", "list"])))
        })
    };
    engine.ctl(&["tx", "cancel", ACCOUNT, &id]);
    let failure: Value = serde_json::from_str(until_told(&engine, "failed")["detail"].as_str().unwrap()).unwrap();
    assert_eq!(failure["kind"], "cancelled", "{failure:#}");

    // It stays so, and is another transaction when it is taken up again.
    engine.kill9();
    engine.launch();
    anvil.rpc("anvil_setBalance", json!([ACCOUNT, "0x21e19e0c9bab2400000"]));
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    engine.ctl(&["outbox", "retry", "sender", &id]);
    until_told(&engine, "delivered");
    let (_, hash) = &anvil.blocks(1)[0];
    assert_eq!(anvil.balance(&SENDER[0].receiver(hash)), 1_001);
    assert_eq!(engine.json(&["tx", "list"])[0]["effect"], format!("{id}~1"));
    assert!(engine.terminate().success());
}

#[test]
fn what_was_sent_is_followed_though_the_accounts_are_gone_from_the_configuration() {
    let anvil = Anvil::start();
    let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
    let mut engine = transferring(setup, &SENDER, 1, "").start();
    engine.module_until("sender", "runs", |node| node["state"] == "RUN");
    anvil.mine();
    let until_it_is = |engine: &Engine, state: &str| {
        eventually(state, || {
            let list = engine.json(&["tx", "list"]);
            if list[0]["state"] == state {
                return Ok(());
            }
            // It is in no block before somebody wants it to be final.
            if state == "final" {
                anvil.mine();
            }
            Err(format!("{list:#}"))
        });
    };
    until_it_is(&engine, "broadcast");
    engine.kill9();
    let config = fs::read_to_string(&engine.config).unwrap();
    let from = config.find("[identity]").unwrap();
    let to = from + config[from..].find("\n[[modules]]").unwrap();
    fs::write(&engine.config, format!("{}{}", &config[..from], &config[to..])).unwrap();
    engine.launch();
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains("[identity] is not in its configuration any more"), "{tree}");
    until_it_is(&engine, "final");

    // Its module hears of it once it can be loaded again.
    engine.kill9();
    fs::write(&engine.config, config).unwrap();
    engine.launch();
    settled(&anvil, &engine, &SENDER, 1);
    assert_each_once(&anvil, &engine, &SENDER, 1);
    assert!(engine.terminate().success());
}
