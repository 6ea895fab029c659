//! Keys that never leave AWS KMS, through the real binary: moto stands for AWS, and Anvil takes what was signed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
};

use alloy::primitives::{Address, keccak256};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nexum_testkit::{exchange_with, transfer_policy};
use serde_json::{Value, json};

use super::{
    anvil::Anvil,
    engine::{Setup, eventually, free_port},
    outbox::{EAGER, sent},
    transactions::{QUICK, SENDER, sending, settled, told},
};

const ACCESS_KEY: &str = "wJalrXUtnFEMI48151623";

/// A server that answers as AWS does.
struct Moto {
    port: u16,
    child: Child,
}

impl Moto {
    fn start() -> Self {
        let port = free_port();
        let mut command = nexum_testkit::moto(port);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("moto: {error}; run `make test-deps`"));
        let moto = Self { port, child };
        eventually("moto answers", || moto.call("ListKeys", &json!({})));
        moto
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it answers to anybody.
    fn call(&self, action: &str, body: &Value) -> Result<Value, String> {
        let headers = format!(
            "x-amz-target: TrentService.{action}\r\ncontent-type: application/x-amz-json-1.1\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=a/20260101/eu-central-1/kms/aws4_request, SignedHeaders=host, \
             Signature=00\r\n"
        );
        let answer = exchange_with(("127.0.0.1", self.port), "POST", "/", &headers, &body.to_string());
        let text = answer.map_err(|error| error.to_string())?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or("no body")?;
        serde_json::from_str(body).map_err(|error| format!("{error}: {text}"))
    }

    /// A new key, and its account.
    fn key(&self) -> (String, String) {
        let wanted = json!({ "KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY" });
        let made = self.call("CreateKey", &wanted).unwrap();
        let id = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
        let public = self.call("GetPublicKey", &json!({ "KeyId": id })).unwrap();
        let public = STANDARD.decode(public["PublicKey"].as_str().unwrap()).unwrap();
        let account = Address::from_slice(&keccak256(&public[public.len() - 64..])[12..]);
        (id, account.to_string().to_lowercase())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_module_sends_from_an_account_whose_key_never_leaves_aws() {
    let (anvil, moto) = (Anvil::start(), Moto::start());
    let (key, account) = moto.key();
    let (other, _) = moto.key();
    anvil.rpc("anvil_setBalance", json!([account, "0x21e19e0c9bab2400000"]));
    let start = |key: &str| {
        let setup = Setup::new().chain(31337, &[anvil.ws()]).with(QUICK).with(EAGER);
        let file = setup.dir.path().join("aws");
        fs::write(&file, ACCESS_KEY).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let policy = transfer_policy("sender", &account, "");
        let keys = format!(
            "[[identity.aws_kms]]\nkey = \"{key}\"\naccount = \"{account}\"\nregion = \"eu-central-1\"\n\
             endpoint = \"{}\"\naccess_key_id = \"AKIDEXAMPLE\"\nsecret_access_key = \"file:aws\"\n{policy}",
            moto.url()
        );
        let engine = sending(setup.with(&keys), &SENDER, 3).start();
        engine.module_until("sender", "runs", |node| node["state"] == "RUN");
        engine
    };

    // A key of another account is seen to be one, and nothing leaves.
    let mut engine = start(&other);
    anvil.mine();
    eventually("the log says whose key it is", || {
        let log = engine.log_text();
        if log.contains("its key is that of account 0x") { Ok(()) } else { Err(log) }
    });
    let count = || anvil.rpc("eth_getTransactionCount", json!([account, "pending"]));
    assert_eq!(count(), "0x0");
    engine.kill9();

    let mut engine = start(&key);
    (0..3).for_each(|_| anvil.mine());
    settled(&anvil, &engine, &SENDER, 3);
    let blocks = anvil.blocks(1);
    for (number, ids) in sent(&engine) {
        let [id] = ids.as_slice() else { panic!("{ids:?}") };
        let (_, hash) = &blocks[number as usize - 1];
        assert_eq!(anvil.balance(&SENDER[0].receiver(hash)), u128::from(1_000 + number), "block {number}");
        assert_eq!(told(&engine, id)["status"], "delivered");
    }
    assert_eq!(count(), "0x3");
    let tree = engine.ctl(&["tree"]);
    assert!(tree.contains(&account) && tree.contains("aws-kms"), "{tree}");
    assert!(engine.terminate().success());
    assert!(!engine.log_text().contains(ACCESS_KEY) && !tree.contains(ACCESS_KEY));
}
