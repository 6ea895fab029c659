//! Signers elsewhere: a stand-in for Web3Signer on the loopback that answers rightly, wrongly, too much, or never.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use alloy_primitives::keccak256;
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use nexum_host_ifaces::{
    Address, HostError, HostErrorKind,
    interfaces::identity::port::{SignatureAnswer, SigningPayload},
    sync::lock,
};
use nexum_identity::{Policy, Remote, Settings, config::Method};
use serde_json::{Value, json};

use crate::{
    harness::{Harness, KEY_BYTE, account, eventually, message},
    stand_in::{self, answer, ok},
};

/// The key that is elsewhere, 32 times.
const REMOTE_BYTE: u8 = 0x47;
/// What must never be shown.
const SECRETS: [&str; 3] = ["us3r", "pa55", "t0ken"];

fn key(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[byte; 32]).unwrap()
}

fn address_of(byte: u8) -> Address {
    Address(key(byte).address().into_array())
}

/// How the stand-in lists its keys.
#[derive(Debug, Clone)]
enum Keys {
    Listed,
    NoneListed,
    Raw(String),
}

/// How it answers when it is to sign.
#[derive(Debug, Clone)]
enum Signs {
    With(u8),
    /// The same without the 27 that is added to the parity, and in quotes.
    Plainly,
    /// Something else than it was sent.
    Another,
    Raw(String),
    /// It closes the connection.
    Nothing,
    /// The same, the next time only.
    NothingOnce,
    Never,
}

struct StandIn {
    keys: Mutex<Keys>,
    signs: Mutex<Signs>,
    /// What it was asked for: the paths.
    asked: Mutex<Vec<String>>,
    /// Signatures that it was asked for.
    requests: AtomicUsize,
}

impl StandIn {
    async fn start() -> (Arc<Self>, Remote) {
        let stand_in = Arc::new(Self {
            keys: Mutex::new(Keys::Listed),
            signs: Mutex::new(Signs::With(REMOTE_BYTE)),
            asked: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let serving = stand_in.clone();
        let port = stand_in::serve(move |head, body| serving.answer(head, body)).await;
        let url = format!("http://us3r:pa55@127.0.0.1:{port}/t0ken");
        (stand_in, Remote { url, accounts: vec![address_of(REMOTE_BYTE)], ca_file: None })
    }

    fn answer(&self, head: &str, body: &str) -> Option<String> {
        let path = stand_in::path(head);
        lock(&self.asked).push(path.to_owned());
        assert!(head.contains("authorization: Basic "), "the signer is asked without the password of its URL: {head}");
        match path.strip_prefix("/t0ken/api/v1/eth1/") {
            Some("publicKeys") => self.keys(),
            Some(path) if path.starts_with("sign/") => {
                self.requests.fetch_add(1, Ordering::SeqCst);
                self.signature(body)
            }
            _ => panic!("nothing is at {path}"),
        }
    }

    fn keys(&self) -> Option<String> {
        let public = hex::encode(key(REMOTE_BYTE).public_key());
        let other = hex::encode(key(KEY_BYTE).public_key());
        let listed = match lock(&self.keys).clone() {
            Keys::Listed => json!([format!("0x{other}"), "0x12", "nonsense", format!("0x{public}")]),
            Keys::NoneListed => json!([]),
            Keys::Raw(answer) => return Some(answer),
        };
        Some(ok(&listed.to_string()))
    }

    fn signature(&self, body: &str) -> Option<String> {
        let body: Value = serde_json::from_str(body).unwrap();
        let data = hex::decode(body["data"].as_str().unwrap().strip_prefix("0x").unwrap()).unwrap();
        let sign = |byte: u8, data: &[u8]| key(byte).sign_hash_sync(&keccak256(data)).unwrap().as_bytes();
        let signs = lock(&self.signs).clone();
        match signs {
            Signs::With(byte) => Some(ok(&format!("0x{}", hex::encode(sign(byte, &data))))),
            Signs::Plainly => {
                let mut signature = sign(REMOTE_BYTE, &data);
                signature[64] -= 27;
                Some(ok(&format!("\"{}\"\n", hex::encode(signature))))
            }
            Signs::Another => Some(ok(&format!("0x{}", hex::encode(sign(REMOTE_BYTE, b"something else"))))),
            Signs::Raw(answer) => Some(answer),
            Signs::Nothing => Some(String::new()),
            Signs::NothingOnce => {
                *lock(&self.signs) = Signs::With(REMOTE_BYTE);
                Some(String::new())
            }
            Signs::Never => None,
        }
    }
}

/// The module `m` signs messages with the account whose key is elsewhere, and module `near` with the one that is here.
async fn start() -> (Arc<StandIn>, Harness) {
    let (stand_in, remote) = StandIn::start().await;
    let messages = |module: &str, account| Policy { methods: [Method::Message].into(), ..Policy::new(module, account) };
    let policies = vec![messages("m", address_of(REMOTE_BYTE)), messages("near", account())];
    let harness = Harness::with(Settings { remotes: vec![remote], policies, ..Settings::default() }).await;
    (stand_in, harness)
}

async fn sign(harness: &Harness, text: &str) -> Result<SignatureAnswer, HostError> {
    harness.begin_sign("m", address_of(REMOTE_BYTE), None, message(text)).answer().await.unwrap()
}

/// What the key signs when it is here.
fn signed(text: &str) -> SignatureAnswer {
    let preimage = alloy_primitives::utils::eip191_message(text);
    let signature = key(REMOTE_BYTE).sign_hash_sync(&keccak256(preimage)).unwrap();
    SignatureAnswer::Signed(Box::new(signature.as_bytes()))
}

#[tokio::test]
async fn a_signature_of_the_account_is_taken_however_it_is_written() {
    let (stand_in, harness) = start().await;
    let public = hex::encode(key(REMOTE_BYTE).public_key());
    assert_eq!(sign(&harness, "one").await.unwrap(), signed("one"));
    *lock(&stand_in.signs) = Signs::Plainly;
    assert_eq!(sign(&harness, "two").await.unwrap(), signed("two"));
    // The key is looked up once.
    let by_key = format!("/t0ken/api/v1/eth1/sign/0x{public}");
    assert_eq!(*lock(&stand_in.asked), ["/t0ken/api/v1/eth1/publicKeys", &by_key, &by_key]);
    let kinds = harness.status().await.accounts;
    let wanted = [(account(), "keystore"), (address_of(REMOTE_BYTE), "remote")];
    assert_eq!(kinds, wanted.map(|(account, kind)| (account.to_string(), kind.to_owned())).into());
}

#[tokio::test]
async fn a_service_that_lists_nothing_is_asked_by_address() {
    let (stand_in, harness) = start().await;
    let by_address = format!("/t0ken/api/v1/eth1/sign/{}", address_of(REMOTE_BYTE));
    for keys in [
        Keys::NoneListed,
        Keys::Raw(ok("{}")),
        Keys::Raw(ok("what?")),
        Keys::Raw(answer("404 Not Found", "", "")),
        Keys::Raw(answer("302 Found", "location: http://127.0.0.1:1/\r\n", "")),
    ] {
        *lock(&stand_in.keys) = keys.clone();
        assert_eq!(sign(&harness, "one").await.unwrap(), signed("one"), "{keys:?}");
        assert_eq!(lock(&stand_in.asked).last(), Some(&by_address), "{keys:?}");
    }
    *lock(&stand_in.keys) = Keys::Raw(ok(&" ".repeat(10 << 20)));
    let refused = sign(&harness, "one").await.unwrap_err();
    assert!(refused.message.contains("it answered with more than 1048576 bytes"), "{}", refused.message);
}

/// As when the signer closes a connection that was idle while a request is on its way.
#[tokio::test]
async fn a_request_whose_connection_was_lost_is_sent_once_more() {
    let (stand_in, harness) = start().await;
    *lock(&stand_in.signs) = Signs::NothingOnce;
    assert_eq!(sign(&harness, "one").await.unwrap(), signed("one"));
    assert_eq!(stand_in.requests.load(Ordering::SeqCst), 2);
    *lock(&stand_in.signs) = Signs::Nothing;
    assert_eq!(sign(&harness, "two").await.unwrap_err().kind, HostErrorKind::Unavailable);
    assert_eq!(stand_in.requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn nothing_else_is_taken_for_a_signature_and_no_error_shows_a_password() {
    let (stand_in, harness) = start().await;
    let elsewhere = "location: http://us3r:pa55@127.0.0.1:1/t0ken\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 132\r\n\r\n0x12";
    for (signs, why) in [
        (Signs::With(KEY_BYTE), "a signature that is not one of"),
        (Signs::Another, "a signature that is not one of"),
        (Signs::Raw(ok(&format!("0x{}1b", "00".repeat(64)))), "a signature that is not one of"),
        (Signs::Raw(ok(&format!("0x{}1b", "ff".repeat(64)))), "a signature that is not one of"),
        (Signs::Raw(ok(&format!("0x{}05", "11".repeat(64)))), "something that is no signature"),
        (Signs::Raw(ok(&format!("0x{}", "11".repeat(64)))), "something that is no signature"),
        (Signs::Raw(ok(&format!("0x{}", "zz".repeat(65)))), "something that is no signature"),
        (Signs::Raw(ok("")), "something that is no signature"),
        (Signs::Raw(ok("{\"error\":\"t0ken\"}")), "something that is no signature"),
        (Signs::Raw(ok(&"0".repeat(10 << 20))), "it answered with more than 1024 bytes"),
        (Signs::Raw(answer("404 Not Found", "", "t0ken")), "it has no key of"),
        (Signs::Raw(answer("500 Internal Server Error", "", "t0ken")), "it answered 500"),
        (Signs::Raw(answer("401 Unauthorized", "", "us3r")), "it answered 401"),
        (Signs::Raw(answer("302 Found", elsewhere, "")), "it answered 302"),
        (Signs::Raw(answer("307 Temporary Redirect", elsewhere, "")), "it answered 307"),
        (Signs::Raw(cut.to_owned()), "remote signer http://***@127.0.0.1:"),
        (Signs::Raw("what?\r\n\r\n".to_owned()), "remote signer http://***@127.0.0.1:"),
        (Signs::Nothing, "remote signer http://***@127.0.0.1:"),
    ] {
        *lock(&stand_in.signs) = signs.clone();
        let before = stand_in.requests.load(Ordering::SeqCst);
        let refused = sign(&harness, "hello").await.unwrap_err();
        assert_eq!(refused.kind, HostErrorKind::Unavailable, "{signs:?}: {refused:?}");
        assert!(refused.message.contains(why), "{why}: {}", refused.message);
        assert!(SECRETS.iter().all(|secret| !format!("{refused:?}").contains(secret)), "{refused:?}");
        assert!(stand_in.requests.load(Ordering::SeqCst) > before, "{signs:?}");
    }
    let status = harness.status().await;
    assert_eq!(status.signatures_total, 0);
    let shown = format!("{status:?}{}", harness.metrics_text());
    assert!(SECRETS.iter().all(|secret| !shown.contains(secret)), "{shown}");
    // It is as good as ever afterwards.
    *lock(&stand_in.signs) = Signs::With(REMOTE_BYTE);
    assert_eq!(sign(&harness, "hello").await.unwrap(), signed("hello"));
}

#[tokio::test]
async fn a_signer_that_never_answers_holds_up_nobody_else_and_is_given_up() {
    let (stand_in, harness) = start().await;
    *lock(&stand_in.signs) = Signs::Never;
    // As many as one module may have.
    let remote = address_of(REMOTE_BYTE);
    let begin = |text: String| harness.begin_sign("m", remote, None, SigningPayload::Message(text.into_bytes()));
    let waiting: Vec<_> = (0..64).map(|number| begin(format!("message {number}"))).collect();
    eventually("all are on their way", async || match stand_in.requests.load(Ordering::SeqCst) {
        64 => Ok(()),
        fewer => Err(fewer.to_string()),
    })
    .await;
    let one_more = begin("one more".to_owned()).answer().await.unwrap().unwrap_err();
    assert_eq!((one_more.kind, one_more.data.as_deref()), (HostErrorKind::RateLimited, Some("1000")));
    // Others, and the operator.
    let near = harness.begin_sign("near", account(), None, message("hello")).answer().await.unwrap();
    assert!(matches!(near, Ok(SignatureAnswer::Signed(_))), "{near:?}");
    assert_eq!(harness.accounts("m", None).await, [remote]);
    assert_eq!(harness.audit().await.len(), 65);
    assert_eq!(harness.status().await.signatures_total, 1);

    // From here on time passes as soon as nothing else happens.
    tokio::time::pause();
    for asked in waiting {
        let refused = asked.answer().await.unwrap().unwrap_err();
        assert_eq!(refused.kind, HostErrorKind::Timeout, "{refused:?}");
        assert!(refused.message.contains("remote signer http://***@127.0.0.1:"), "{}", refused.message);
        assert!(SECRETS.iter().all(|secret| !refused.message.contains(secret)), "{}", refused.message);
    }
    tokio::time::resume();
    *lock(&stand_in.signs) = Signs::With(REMOTE_BYTE);
    assert_eq!(sign(&harness, "hello").await.unwrap(), signed("hello"));
    let text = harness.metrics_text();
    let kinds = ["kind=\"timeout\",module=\"m\"} 64", "kind=\"rate-limited\",module=\"m\"} 1"];
    assert!(kinds.iter().all(|kind| text.contains(kind)), "{text}");
}
