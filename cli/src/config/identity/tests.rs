//! `[identity]` as it is read, shown and refused.

use std::{fs, os::unix::fs::PermissionsExt as _};

use nexum_host_ifaces::Address;

use super::*;
use crate::config::{Config, Flags, load, shown};

const ACCOUNT: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

/// What a configuration with this `[identity]` comes to, or why not; its keystore is there.
fn loaded(dir: &std::path::Path, toml: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let file = dir.join("nexum-engine.toml");
    fs::create_dir_all(dir.join("keys")).unwrap();
    fs::write(&file, toml.replace("ACCOUNT", ACCOUNT)).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(Some(&file), &variables, &Flags::default()).map_err(|error| error.to_string())
}

fn settings(config: &Config) -> Settings {
    config.identity.as_ref().unwrap().settings().map_err(|wrong| wrong.message).unwrap()
}

const KEYS: &str = "[identity]\nkeystore = \"keys\"\npassword = \"${PASSWORD}\"\n";
const HUNTER: &[(&str, &str)] = &[("PASSWORD", "hunter2")];

#[test]
fn a_policy_means_what_it_says() {
    let dir = tempfile::TempDir::new().unwrap();
    let policy = "[[identity.policies]]\nmodule = \"keeper\"\naccount = \"ACCOUNT\"\n\
                  methods = [\"transaction\", \"typed-data\"]\nchains = [1, 10]\nto = [\"ACCOUNT\", \"create\"]\n\
                  selectors = [\"0xa9059cbb\", \"transfer(address,uint256)\", \"\"]\nmax_value = \"0.5 ether\"\n\
                  max_value_per_day = 1_000_000_000_000_000_000\nmax_fee_per_gas = \"200 gwei\"\nmax_fee = \"0.01 ether\"\nmax_per_hour = 20\n\
                  ask = true\napproval_timeout = \"2h\"\ntyped_data = [{ verifying_contract = \"ACCOUNT\", chain_id = 1, \
                  primary_type = \"*\" }]\n";
    let config = loaded(dir.path(), &format!("{KEYS}{policy}"), HUNTER).unwrap();
    let settings = settings(&config);
    assert_eq!(settings.keystore, Some(dir.path().join("keys")));
    assert_eq!(settings.password.as_ref().map(|password| password.as_str()), Some("hunter2"));
    let [policy] = settings.policies.as_slice() else { panic!("{:?}", settings.policies) };
    let account: Address = ACCOUNT.parse().unwrap();
    assert_eq!((policy.module.as_str(), policy.account), ("keeper", account));
    assert_eq!(policy.methods, [Method::Transaction, Method::TypedData].into());
    assert_eq!(policy.chains, AnyOf::Of(vec![1, 10]));
    assert_eq!(policy.to, AnyOf::of_texts([ACCOUNT, "create"]).unwrap());
    assert_eq!(policy.selectors, AnyOf::of_texts(["0xa9059cbb", "0xa9059cbb", ""]).unwrap());
    assert_eq!(policy.max_value, Wei::from(500_000_000_000_000_000));
    assert_eq!(policy.max_value_per_day, Wei::from(1_000_000_000_000_000_000));
    assert_eq!((policy.max_fee_per_gas, policy.max_per_hour), (Some(200_000_000_000), Some(20)));
    assert_eq!(policy.max_fee, Some(Wei::from(10_000_000_000_000_000)));
    assert_eq!((policy.ask, policy.approval_timeout.as_secs()), (true, 7_200));
    let rule = TypedDataRule { verifying_contract: Some(account), chain_id: Some(1), primary_type: None };
    assert_eq!(policy.typed_data, [rule]);
}

/// Names of types that are in use: of EIP-712's example, of Hyperliquid, and such as Solidity has.
#[test]
fn the_primary_type_of_a_policy_may_be_any_name_of_a_type() {
    let dir = tempfile::TempDir::new().unwrap();
    let of = |name: &str| {
        let policy = format!(
            "[[identity.policies]]\nmodule = \"m\"\naccount = \"ACCOUNT\"\nmethods = [\"typed-data\"]\n\
             typed_data = [{{ verifying_contract = \"*\", chain_id = \"*\", primary_type = \"{name}\" }}]\n"
        );
        loaded(dir.path(), &format!("{KEYS}{policy}"), HUNTER)
            .map(|config| settings(&config).policies[0].typed_data[0].primary_type.clone())
    };
    for name in ["Mail", "HyperliquidTransaction:UsdSend", "$_1", "Ordre\u{e9}"] {
        assert_eq!(of(name), Ok(Some(name.to_owned())));
    }
    assert_eq!(of("*"), Ok(None));
    for name in ["", "Order(", "a b", "EIP712Domain", &"a".repeat(257)] {
        assert!(of(name).unwrap_err().contains("is no name of a type"), "{name}");
    }
}

#[test]
fn what_is_shown_reads_as_it_was_written_and_has_no_secret() {
    let dir = tempfile::TempDir::new().unwrap();
    let remote =
        "[[identity.remote]]\nurl = \"https://me:k3y@signer.example.org:9000/k3y\"\naccounts = [\"ACCOUNT\"]\n";
    let policy = "[[identity.policies]]\nmodule = \"keeper\"\naccount = \"ACCOUNT\"\nmethods = [\"message\"]\n";
    let config = loaded(dir.path(), &format!("{KEYS}{remote}{policy}"), HUNTER).unwrap();
    let text = shown(&config);
    for secret in ["hunter2", "k3y"] {
        assert!(!text.contains(secret) && !format!("{:?}", config.identity).contains(secret), "{text}");
    }
    assert!(text.contains("password = \"***\"") && text.contains("signer.example.org:9000"), "{text}");
    assert!(text.contains(&policy.replace("ACCOUNT", ACCOUNT)), "{text}");
    fs::write(dir.path().join("pw"), "hunter2\n").unwrap();
    fs::set_permissions(dir.path().join("pw"), fs::Permissions::from_mode(0o600)).unwrap();
    let named = KEYS.replace("${PASSWORD}", "file:pw");
    let config = loaded(dir.path(), &format!("{named}{policy}"), &[]).unwrap();
    let path = dir.path().join("pw");
    assert!(shown(&config).contains(&format!("password = \"file:{}\"", path.display())), "{}", shown(&config));
    assert_eq!(settings(&config).password.as_ref().map(|password| password.as_str()), Some("hunter2"));
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_what_would_be_right() {
    let dir = tempfile::TempDir::new().unwrap();
    let base = "module = \"m\"\naccount = \"ACCOUNT\"\n";
    let of = |keys: &str| format!("{KEYS}[[identity.policies]]\n{base}{keys}");
    let goes = "methods = [\"transaction\"]\nchains = [1]\nto = [\"*\"]\n";
    let sends = &format!("{goes}selectors = [\"*\"]\n");
    for (toml, wanted) in [
        ("[identity]\n".to_owned(), "1: [identity]: has no keys: give keystore and password, [[identity.remote]]"),
        ("[identity]\nkeystore = \"keys\"\n".to_owned(), "2: [identity] keystore: needs password, such as \"file:"),
        ("[identity]\npassword = \"x\"\n".to_owned(), "2: [identity] password: is not used: there is no keystore"),
        (KEYS.replace("\"keys\"", "\"none\""), "2: [identity] keystore: "),
        (KEYS.replace("${PASSWORD}", "file:none"), "3: [identity] password: "),
        (KEYS.replace("${PASSWORD}", "credential:pw"), "CREDENTIALS_DIRECTORY is not set"),
        (format!("{KEYS}keystor = 1\n"), "4: [identity] keystor: unknown key, did you mean keystore?"),
        (of("methods = [\"sign\"]\n"), "7: [[identity.policies]] methods: `sign` is no method: expected transaction,"),
        (of("methods = []\n"), "7: [[identity.policies]] methods: is empty: expected some of transaction, message"),
        (of("methods = [\"message\"]\nto = [\"*\"]\n"), "to: is not used: transaction is not among the methods"),
        (of("methods = [\"feed\"]\n"), "feeds: is empty: list topics"),
        (of("methods = [\"message\"]\nfeeds = [\"*\"]\n"), "feeds: is not used: feed is not among the methods"),
        (of("methods = [\"feed\"]\nfeeds = [\"prices\"]\n"), "feeds: `prices` is not a 32-byte hash"),
        (of("methods = [\"message\"]\nmax_value = 1\n"), "max_value: is not used: transaction is not among"),
        (of("methods = [\"transaction\"]\nchains = [1]\n"), "to: is empty, so that no transaction is allowed"),
        (of("methods = [\"typed-data\"]\n"), "typed_data: is empty, so that none is allowed"),
        (of(&format!("{sends}chain = 1\n")), "11: [[identity.policies]] chain: unknown key, did you mean chains?"),
        (of(&format!("{goes}selectors = [\"transfer\"]\n")), "selectors: `transfer` is no selector: expected 0x"),
        (of(&format!("{sends}max_value = \"1 eth\"\n")), "max_value: `1 eth` is no amount: "),
        (of(&format!("{sends}max_fee = \"1 eth\"\n")), "max_fee: `1 eth` is no amount: "),
        (of("methods = [\"message\"]\nmax_fee = 1\n"), "max_fee: is not used: transaction is not among"),
        (of(&format!("{sends}max_value = 1\n")), "max_value_per_day: is less than max_value"),
        (of(&format!("{sends}max_per_hour = 0\n")), "max_per_hour: 0 would allow nothing"),
        (of(&format!("{sends}approval_timeout = \"1h\"\n")), "approval_timeout: is not used: ask = false"),
        (of(goes), "[[identity.policies]] selectors: is empty, so that nothing may be called"),
        (of(&sends.replace("[\"*\"]\nsel", "[\"*\", \"create\"]\nsel")), "to: \"*\" has no \"create\" in it"),
        (of(&sends.replace("[1]", "[0]")), "chains: `0` is no chain id: expected a number, or \"*\" for any"),
        (
            of(&sends.replace("to = [\"*\"]", "to = [\"0x12\"]")),
            "9: [[identity.policies]] to: `0x12` is not a 20-byte address",
        ),
        (of(sends).replace("module = \"m\"", "module = \"M\""), "module: `M` is no name of a module"),
        (
            format!("{KEYS}[[identity.remote]]\nurl = \"signer\"\naccounts = [\"ACCOUNT\"]\n"),
            "5: [[identity.remote]] url: is no URL of a signer: expected one such as https://",
        ),
    ] {
        let error = loaded(dir.path(), &toml, HUNTER).map(|_| toml.clone()).unwrap_err();
        assert!(error.contains(wanted) && error.contains("nexum-engine.toml:"), "{toml}\n{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
