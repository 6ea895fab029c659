//! Accounts, through the real binary: keys are made and opened, and modules have signed what their policies allow.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use super::{
    anvil::Anvil,
    engine::{Engine, NEXUM, NEXUMCTL, Setup, eventually, path},
};

const CHAIN: &str = "chain_id = 31337\nname = \"slow\"\nseed = 1\nfirst_timestamp_s = 1_700_000_000\nblock_interval_ms = 200\nendless = true\n";

/// The first of Anvil's accounts, so that Anvil signs with it, too.
pub const ACCOUNT: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";
const PRIVATE_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const PASSWORD: &str = "correct-horse-48151623";

/// The example of EIP-712.
const MAIL: &str = r#"{"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],"Person":[{"name":"name","type":"string"},{"name":"wallet","type":"address"}],"Mail":[{"name":"from","type":"Person"},{"name":"to","type":"Person"},{"name":"contents","type":"string"}]},"primaryType":"Mail","domain":{"name":"Ether Mail","version":"1","chainId":1,"verifyingContract":"0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"},"message":{"from":{"name":"Cow","wallet":"0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"},"to":{"name":"Bob","wallet":"0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"},"contents":"Hello, Bob!"}}"#;

/// A policy for everything that the guest has signed.
const ALL: &str = "methods = [\"message\", \"typed-data\"]\n\
     typed_data = [{ verifying_contract = \"0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC\", chain_id = 1, primary_type = \"Mail\" }]";

fn key(args: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(NEXUM);
    command.arg("key").args(args).env("PW", PASSWORD).env("OTHER", "another");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that does not read it closes it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert_no_secret(&said);
    said
}

fn assert_no_secret(text: &str) {
    let lower = text.to_lowercase();
    assert!(!lower.contains(PRIVATE_KEY) && !text.contains(PASSWORD), "{text}");
}

/// Imports the account, and puts the password into a file.
pub fn with_key(setup: &Setup) -> PathBuf {
    let keys = setup.dir.path().join("keys");
    let password = setup.dir.path().join("pw");
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let imported = key(&["import", "--keystore", path(&keys), "--password-env", "PW"], PRIVATE_KEY);
    assert!(imported.status.success(), "{}", said(&imported));
    let line = said(&imported);
    let (account, file) = line.trim_end().split_once(' ').unwrap();
    assert_eq!(account, ACCOUNT);
    PathBuf::from(file)
}

/// The guest with this policy, and changes to its manifest besides.
fn signer(setup: Setup, policy: &str, changes: &[(&str, &str)]) -> Setup {
    let typed_data = format!("typed_data = '{MAIL}'");
    let mut all = vec![("typed_data = \"{}\"", typed_data.as_str())];
    all.extend(changes);
    let identity = format!(
        "[identity]\nkeystore = \"keys\"\npassword = \"file:pw\"\n[[identity.policies]]\nmodule = \"signer\"\n\
         account = \"{ACCOUNT}\"\n{policy}"
    );
    setup.mock(31337, CHAIN).with(&identity).module("signer", "signer", &all)
}

const SHOP: &str = "0x3535353535353535353535353535353535353535";

/// The guest on a node, with calls that send so many wei to the shop.
fn paying(anvil: &Anvil, wei: u64, policy: &str) -> Engine {
    let setup = Setup::new();
    with_key(&setup);
    let identity = format!(
        "[chains.rpc]\npoll_interval = \"100ms\"\n[identity]\nkeystore = \"keys\"\npassword = \"file:pw\"\n\
         [[identity.policies]]\nmodule = \"signer\"\naccount = \"{ACCOUNT}\"\nmethods = [\"transaction\"]\n\
         chains = [31337]\nto = [\"{SHOP}\"]\nselectors = [\"\"]\nmax_value = 5\nmax_value_per_day = 1000\n{policy}"
    );
    let transaction = format!("transaction = '[{{\"to\":\"{SHOP}\",\"value\":\"0x{wei:x}\"}}]'");
    let changes = [
        ("transaction = \"[{}]\"", transaction.as_str()),
        ("methods = [\"sign\", \"sign-typed-data\"]", "methods = [\"transaction\"]"),
    ];
    let engine = setup.chain(31337, &[anvil.ws()]).with(&identity).module("signer", "signer", &changes).start();
    engine.module_until("signer", "runs", |node| node["state"] == "RUN");
    engine
}

/// What `eth_sendTransaction` answered, mining on until there is such an answer.
fn sent_until(anvil: &Anvil, engine: &Engine, wanted: impl Fn(&str) -> bool) -> String {
    eventually("the call is answered so", || {
        anvil.mine();
        let blocks = engine.state("signer", "b/");
        let answers = blocks.iter().map(|(_, value)| value[6].as_str().unwrap().to_owned());
        let answers: Vec<String> = answers.collect();
        answers.iter().find(|answer| wanted(answer)).cloned().ok_or_else(|| format!("{answers:#?}"))
    })
}

#[test]
fn a_call_sends_a_transaction_and_is_answered_its_hash() {
    let anvil = Anvil::start();
    let mut engine = paying(&anvil, 5, "");
    let hash = sent_until(&anvil, &engine, |answer| answer.starts_with("\"0x"));
    let hash: String = serde_json::from_str(&hash).unwrap();
    let receipt = eventually("it is mined", || {
        anvil.mine();
        let receipt = anvil.rpc("eth_getTransactionReceipt", json!([hash]));
        if receipt["status"] == "0x1" { Ok(receipt) } else { Err(format!("{receipt:#}")) }
    });
    assert_eq!((&receipt["from"], &receipt["to"]), (&json!(ACCOUNT), &json!(SHOP)));
    let audit = engine.json(&["audit"]);
    assert!(audit[0]["effect"].as_str().unwrap().ends_with("/call-0"), "{audit:#}");
    assert!(engine.terminate().success());
}

#[test]
fn a_call_sends_nothing_beyond_its_policy_or_before_people_approved_it() {
    let anvil = Anvil::start();
    let engine = paying(&anvil, 6, "");
    let denied = sent_until(&anvil, &engine, |answer| answer.starts_with("Denied"));
    assert!(denied.contains("`max_value` of policy 1"), "{denied}");
    let asking = paying(&anvil, 5, "ask = true");
    let waits = sent_until(&anvil, &asking, |answer| answer.contains("nexumctl approvals show"));
    assert!(waits.starts_with("Unavailable: identity: the operator decides on it"), "{waits}");
    assert_eq!(anvil.rpc("eth_getTransactionCount", json!([ACCOUNT, "pending"])), "0x0");
    assert_eq!(anvil.balance(SHOP), 0);
}

/// What the calls of a block answered, of the first one after the keys had been opened.
fn seen(engine: &Engine) -> Vec<String> {
    eventually("the module has seen a block", || {
        let blocks = engine.state("signer", "b/");
        let lines = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
        };
        let is_early = |lines: &Vec<String>| lines[1].contains("being opened") || lines[1].contains("from the store");
        let seen = blocks.iter().map(|(_, value)| lines(value)).find(|lines| !is_early(lines));
        seen.ok_or_else(|| format!("{:?}\n{}", blocks.last(), engine.ctl(&["tree"])))
    })
}

/// The service's node in the tree, as soon as it is as wanted.
fn identity_until(engine: &Engine, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let tree = engine.json(&["tree"]);
        let node = tree["children"].as_array().unwrap().iter().find(|node| node["name"] == "identity").cloned();
        node.filter(&wanted).ok_or_else(|| format!("{tree:#}"))
    })
}

#[test]
fn a_module_has_signed_what_its_policy_allows() {
    let anvil = Anvil::start();
    let hex = |value: Value| value.as_str().unwrap().trim_start_matches("0x").to_owned();
    let message = hex(anvil.rpc("personal_sign", json!(["0x68656c6c6f", ACCOUNT])));
    let mail: Value = serde_json::from_str(MAIL).unwrap();
    let typed = hex(anvil.rpc("eth_signTypedData_v4", json!([ACCOUNT, mail])));

    let setup = Setup::new();
    with_key(&setup);
    let mut engine = signer(setup, ALL, &[("effect = false", "effect = true")]).start();
    let seen = seen(&engine);
    assert_eq!(seen[0], ACCOUNT[2..]);
    assert_eq!((&seen[1], &seen[2]), (&message, &typed));
    assert_eq!(seen[3], format!("[\"{ACCOUNT}\"]"));
    assert_eq!((&seen[4], &seen[5]), (&format!("0x{message}"), &format!("0x{typed}")));
    let unlisted = "Denied: identity: `transaction` is not allowed to this module: add it to [capabilities.identity]";
    assert!(seen[6].starts_with(unlisted), "{}", seen[6]);

    let told = eventually("the effect came back", || {
        engine.state("signer", "o/").into_iter().next().map(|(_, told)| told).ok_or_else(|| engine.ctl(&["tree"]))
    });
    assert_eq!(told, Value::String(message));
    let node = identity_until(&engine, "its account is shown", |node| node["children"][0]["name"] == ACCOUNT);
    assert_eq!(node["state"], "UP", "{node:#}");
    assert!(engine.metric("nexum_identity_sign_total", &[("module", "signer")]) >= 5.0);

    // Nothing of it is left when it dies.
    let limits = fs::read_to_string(format!("/proc/{}/limits", engine.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"], "{limits}");

    let checked = Command::new(NEXUM).args(["check-config", "--config", path(&engine.config)]).output().unwrap();
    assert!(checked.status.success() && said(&checked).contains("[[identity.policies]]"), "{}", said(&checked));
    for order in [&["tree"][..], &["metrics"], &["journal", "tail", "signer"], &["outbox", "list", "signer"]] {
        said(&engine.raw_ctl(order));
    }
    engine.ctl(&["module", "unload", "signer"]);
    eventually("its series are gone", || {
        let text = engine.metrics_text();
        let is_left = |line: &&str| line.starts_with("nexum_identity_") && line.contains("module=\"signer\"");
        let left: Vec<&str> = text.lines().filter(is_left).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    assert!(engine.terminate().success());
    assert_no_secret(&engine.log_text());
    for file in files(&engine.dir.path().join("state")) {
        assert_no_secret(&String::from_utf8_lossy(&fs::read(file).unwrap()));
    }
}

fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.retain(|path| path.is_file());
    files.extend(directories.iter().flat_map(|directory| self::files(directory)));
    files
}

#[test]
fn what_no_policy_allows_is_denied_and_the_refusal_says_where_that_is_changed() {
    let setup = Setup::new();
    with_key(&setup);
    let other = ALL.replace("\"Mail\"", "\"Order\"");
    let engine = signer(setup, &other, &[]).start();
    let seen = seen(&engine);
    assert_eq!(seen[1].len(), 130, "{}", seen[1]);
    for typed in [&seen[2], &seen[5]] {
        assert!(typed.starts_with("Denied: identity: ") && typed.contains("polic"), "{typed}");
    }
}

#[test]
fn a_manifest_asks_for_what_is_signed() {
    let setup = Setup::new();
    with_key(&setup);
    let engine = signer(setup, ALL, &[("methods = [\"sign\", \"sign-typed-data\"]", "methods = [\"sign\"]")]).start();
    let seen = seen(&engine);
    assert_eq!(seen[1].len(), 130, "{}", seen[1]);
    let denied = "Denied: identity: `sign-typed-data` is not allowed to this module: add it to [capabilities.identity]";
    assert!(seen[2].starts_with(denied), "{}", seen[2]);
}

#[test]
fn a_call_does_not_wait_for_people_and_an_effect_does() {
    let setup = Setup::new();
    with_key(&setup);
    let ask = format!("{ALL}\nask = true");
    let engine = signer(setup, &ask, &[("effect = false", "effect = true")]).start();
    let seen = seen(&engine);
    assert!(seen[1].starts_with("Denied: identity: ") && seen[1].contains("effect"), "{}", seen[1]);
    let waits = |node: &Value| node["summary"].as_str().is_some_and(|text| text.contains("1 wait for approval"));
    identity_until(&engine, "a request waits", waits);
    let effect = eventually("the effect waits", || {
        let list = engine.json(&["outbox", "list", "signer"]);
        list.as_array().unwrap().first().cloned().ok_or_else(|| format!("{list:#}"))
    });
    assert_eq!(effect["kind"], "signature", "{effect:#}");
    assert_eq!(engine.state("signer", "o/"), []);
}

#[test]
fn a_key_that_cannot_be_opened_is_a_problem_of_its_account_alone() {
    let setup = Setup::new();
    with_key(&setup);
    fs::write(setup.dir.path().join("pw"), "something else\n").unwrap();
    let engine = signer(setup, ALL, &[]).start();
    let problem = |node: &Value| node["summary"].as_str().is_some_and(|text| text.contains("the password is wrong"));
    let node = identity_until(&engine, "the password is a problem", problem);
    assert_eq!(node["state"], "DOWN", "{node:#}");
    // The module runs, and is told.
    let signature = &seen(&engine)[1];
    assert!(signature.starts_with("Unavailable: identity: "), "{signature}");
}

#[test]
fn a_key_file_that_others_may_read_is_not_opened() {
    let setup = Setup::new();
    let file = with_key(&setup);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let listed = key(&["list", "--keystore", path(file.parent().unwrap())], "");
    assert!(said(&listed).contains("chmod 600"), "{}", said(&listed));
    let engine = signer(setup, ALL, &[]).start();
    let problem = |node: &Value| node["summary"].as_str().is_some_and(|text| text.contains("chmod 600"));
    identity_until(&engine, "the mode is a problem", problem);
}

#[test]
fn without_identity_a_module_that_needs_it_does_not_load() {
    let engine = Setup::new().mock(31337, CHAIN).module("signer", "signer", &[]).start();
    let why = "capability `identity` is required but this engine provides no such service";
    eventually("the log says why it is not loaded", || {
        let log = engine.log_text();
        if log.contains(why) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn keys_are_made_listed_opened_and_encrypted_anew() {
    let dir = tempfile::TempDir::with_prefix("nexum-keys.").unwrap();
    let keys = dir.path().join("keys");
    let keystore = ["--keystore", path(&keys)];
    let run = |args: &[&str], flags: &[&str], stdin: &str| key(&[args, flags].concat(), stdin);
    let with = |flag: &'static str, variable: &'static str| [keystore[0], keystore[1], flag, variable];
    let made = run(&["new"], &with("--password-env", "PW"), "");
    assert!(made.status.success(), "{}", said(&made));
    let line = said(&made);
    let (account, file) = line.trim_end().split_once(' ').unwrap();
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(said(&run(&["list"], &keystore, "")), format!("{account} {file}\n"));
    let json = run(&["list", "--json"], &keystore, "");
    let json: Value = serde_json::from_str(&said(&json)).unwrap();
    assert_eq!((&json["keys"][0]["account"], &json["skipped"]), (&account.into(), &json!([])));

    let opened = |variable: &str| key(&["export-address", file, "--password-env", variable], "");
    assert_eq!(said(&opened("PW")), format!("{account}\n"));
    let wrong = opened("OTHER");
    assert!(wrong.status.code() == Some(1) && said(&wrong).contains(file), "{}", said(&wrong));
    let change = ["--password-env", "PW", "--new-password-env", "OTHER"];
    let changed = run(&["change-password", account], &[&keystore[..], &change].concat(), "");
    assert!(changed.status.success(), "{}", said(&changed));
    assert_eq!((opened("PW").status.code(), opened("OTHER").status.code()), (Some(1), Some(0)));
    let unknown = run(&["change-password", ACCOUNT], &[&keystore[..], &change].concat(), "");
    assert_eq!(unknown.status.code(), Some(5), "{}", said(&unknown));

    let import = |private_key: &str| run(&["import"], &with("--password-env", "PW"), private_key);
    assert!(import(&format!("0x{PRIVATE_KEY}\n")).status.success());
    let again = import(PRIVATE_KEY);
    assert!(again.status.code() == Some(1) && said(&again).contains(path(&keys)), "{}", said(&again));
    let wrong = import(&PRIVATE_KEY[1..]);
    assert!(wrong.status.code() == Some(1) && said(&wrong).contains("32 bytes in hex"), "{}", said(&wrong));
    // The client hands it on.
    let handed_on = Command::new(NEXUMCTL).args(["key", "list"]).args(keystore).args(["--json"]).output().unwrap();
    assert!(handed_on.status.success() && said(&handed_on).contains(ACCOUNT), "{}", said(&handed_on));
    let help = Command::new(NEXUMCTL).args(["key", "new", "--help"]).output().unwrap();
    assert!(help.status.success() && said(&help).contains("--password-file"), "{}", said(&help));
    // In place of the name of what holds it.
    for flag in ["--password-file", "--password-env", "--password-credential"] {
        let refused = run(&["new"], &with(flag, PASSWORD), "");
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
}
