//! Keys of clouds: stand-ins for AWS KMS and Google's Cloud KMS on the loopback, which hold requests to what is published of them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use alloy_primitives::{B256, U256, keccak256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nexum_host_ifaces::{Address, HostError, HostErrorKind, interfaces::identity::port::SignatureAnswer, sync::lock};
use nexum_identity::{Aws, Kms, Policy, Provider, ReadSecret, Settings, config::Method};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    harness::{Harness, eventually, message},
    stand_in::{self, answer, header, ok, path},
};

/// The key that is there, 32 times, and another one.
const KMS_BYTE: u8 = 0x47;
const OTHER_BYTE: u8 = 0x48;
/// What must never be shown.
const SECRETS: [&str; 4] = ["AKIDS3CRET", "acc3ssk3y", "t0ken1", "t0ken2"];
const AWS_KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/11042ada-3fd4-4c66-ad8b-2ed4ad3287b8";
const GCP_KEY: &str = "projects/p/locations/europe/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1";
/// Of secp256k1.
const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

fn key(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[byte; 32]).unwrap()
}

fn address_of(byte: u8) -> Address {
    Address(key(byte).address().into_array())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cloud {
    Aws,
    Google,
}

/// What a stand-in answers to one kind of request.
#[derive(Debug, Clone)]
enum Answers {
    With(u8),
    /// A signature with the higher value of `s`.
    High,
    /// A signature of something else.
    Another,
    /// These bytes in place of the key or the signature.
    Bytes(Vec<u8>),
    Raw(String),
    Never,
}

struct StandIn {
    cloud: Cloud,
    keys: Mutex<Answers>,
    signs: Mutex<Answers>,
    /// The newest token; requests must have it.
    token: Mutex<&'static str>,
    keys_total: AtomicUsize,
    signs_total: AtomicUsize,
}

/// A `SubjectPublicKeyInfo`.
fn public_key(byte: u8) -> Vec<u8> {
    let prefix = "3056301006072a8648ce3d020106052b8104000a03420004";
    [hex::decode(prefix).unwrap().as_slice(), key(byte).public_key().as_slice()].concat()
}

fn integer(number: U256) -> Vec<u8> {
    let bytes = number.to_be_bytes_trimmed_vec();
    let zero: &[u8] = if bytes.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    let bytes = [zero, bytes.as_slice()].concat();
    [&[2, u8::try_from(bytes.len()).unwrap()][..], &bytes].concat()
}

fn signature(byte: u8, hash: &B256, is_high: bool) -> Vec<u8> {
    let signed = key(byte).sign_hash_sync(hash).unwrap().normalized_s();
    let s = if is_high { U256::from_str_radix(ORDER, 16).unwrap() - signed.s() } else { signed.s() };
    let both = [integer(signed.r()), integer(s)].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat()
}

impl StandIn {
    async fn start(cloud: Cloud) -> (Arc<Self>, Harness) {
        let stand_in = Arc::new(Self {
            cloud,
            keys: Mutex::new(Answers::With(KMS_BYTE)),
            signs: Mutex::new(Answers::With(KMS_BYTE)),
            token: Mutex::new("t0ken1"),
            keys_total: AtomicUsize::new(0),
            signs_total: AtomicUsize::new(0),
        });
        let serving = stand_in.clone();
        let port = stand_in::serve(move |head, body| serving.answer(head, body)).await;
        let text = |text: &'static str| ReadSecret::new(move || Ok(Zeroizing::new(text.to_owned())));
        let reading = stand_in.clone();
        let token = ReadSecret::new(move || match *lock(&reading.token) {
            "" => Err("/run/secrets/token cannot be read".to_owned()),
            token => Ok(Zeroizing::new(token.to_owned())),
        });
        let (key, provider) = match cloud {
            Cloud::Aws => {
                let (access_key_id, secret_access_key) = (text("AKIDS3CRET"), text("acc3ssk3y"));
                let (region, session_token) = ("eu-central-1".to_owned(), Some(token));
                (AWS_KEY, Provider::Aws(Aws { region, access_key_id, secret_access_key, session_token }))
            }
            Cloud::Google => (GCP_KEY, Provider::Gcp { token }),
        };
        let (account, endpoint) = (address_of(KMS_BYTE), format!("http://127.0.0.1:{port}"));
        let kms = Kms { account, key: key.to_owned(), endpoint, ca_file: None, provider };
        let policies = vec![Policy { methods: [Method::Message].into(), ..Policy::new("m", account) }];
        let harness = Harness::with(Settings { kms: vec![kms], policies, ..Settings::default() }).await;
        (stand_in, harness)
    }

    fn answer(&self, head: &str, body: &str) -> Option<String> {
        let (hash, wanted) = match self.cloud {
            Cloud::Aws => (self.aws(head, body), lock(&self.token)),
            Cloud::Google => (self.google(head, body), lock(&self.token)),
        };
        let has_token = head.contains(*wanted);
        drop(wanted);
        if !has_token {
            return Some(answer("403 Forbidden", "", r#"{"error":{"message":"t0ken1","status":"PERMISSION_DENIED"}}"#));
        }
        let (answers, bytes): (_, Option<Vec<u8>>) = match hash {
            None => {
                self.keys_total.fetch_add(1, Ordering::SeqCst);
                let answers = lock(&self.keys).clone();
                let bytes = if let Answers::With(byte) = answers { Some(public_key(byte)) } else { None };
                (answers, bytes)
            }
            Some(hash) => {
                self.signs_total.fetch_add(1, Ordering::SeqCst);
                let answers = lock(&self.signs).clone();
                let bytes = match answers {
                    Answers::With(byte) => Some(signature(byte, &hash, false)),
                    Answers::High => Some(signature(KMS_BYTE, &hash, true)),
                    Answers::Another => Some(signature(KMS_BYTE, &keccak256("another"), false)),
                    _ => None,
                };
                (answers, bytes)
            }
        };
        match (answers, bytes) {
            (_, Some(bytes)) | (Answers::Bytes(bytes), None) => Some(ok(&self.written(hash.is_some(), &bytes))),
            (Answers::Raw(text), None) => Some(text),
            (_, None) => None,
        }
    }

    /// As the service writes it.
    fn written(&self, is_signature: bool, bytes: &[u8]) -> String {
        let text = STANDARD.encode(bytes);
        match (self.cloud, is_signature) {
            (Cloud::Aws, false) => json!({ "KeyId": AWS_KEY, "KeySpec": "ECC_SECG_P256K1", "PublicKey": text }),
            (Cloud::Aws, true) => {
                json!({ "KeyId": AWS_KEY, "Signature": text, "SigningAlgorithm": "ECDSA_SHA_256" })
            }
            (Cloud::Google, false) => {
                let lines: Vec<&str> =
                    text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
                let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
                json!({ "pem": pem, "algorithm": "EC_SIGN_SECP256K1_SHA256", "name": GCP_KEY, "pemCrc32c": "1" })
            }
            (Cloud::Google, true) => json!({ "signature": text, "name": GCP_KEY, "signatureCrc32c": "1" }),
        }
        .to_string()
    }

    /// The hash that is to be signed; none when the public key is asked for.
    fn aws(&self, head: &str, body: &str) -> Option<B256> {
        assert!(head.starts_with("POST / HTTP/1.1"), "{head}");
        assert_eq!(header(head, "content-type"), Some("application/x-amz-json-1.1"));
        assert_eq!(header(head, "x-amz-date"), Some("19700101T000000Z"));
        let signed = "AWS4-HMAC-SHA256 Credential=AKIDS3CRET/19700101/eu-central-1/kms/aws4_request, \
                      SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature=";
        let digits = header(head, "authorization").unwrap().strip_prefix(signed).unwrap();
        assert_eq!(hex::decode(digits).unwrap().len(), 32);
        assert!(header(head, "x-amz-security-token").is_some());
        let body: Value = serde_json::from_str(body).unwrap();
        match header(head, "x-amz-target").unwrap() {
            "TrentService.GetPublicKey" => {
                assert_eq!(body, json!({ "KeyId": AWS_KEY }));
                None
            }
            target => {
                assert_eq!(target, "TrentService.Sign");
                let message = STANDARD.decode(body["Message"].as_str().unwrap()).unwrap();
                let algorithm = "ECDSA_SHA_256";
                let wanted = json!({ "KeyId": AWS_KEY, "Message": body["Message"], "MessageType": "DIGEST", "SigningAlgorithm": algorithm });
                assert_eq!(body, wanted);
                Some(B256::from_slice(&message))
            }
        }
    }

    fn google(&self, head: &str, body: &str) -> Option<B256> {
        assert!(header(head, "authorization").unwrap().starts_with("Bearer t0ken"), "{head}");
        if head.starts_with("GET ") {
            assert_eq!((path(head), body), (format!("/v1/{GCP_KEY}/publicKey").as_str(), ""));
            return None;
        }
        assert!(head.starts_with("POST "), "{head}");
        assert_eq!(path(head), format!("/v1/{GCP_KEY}:asymmetricSign"));
        assert_eq!(header(head, "content-type"), Some("application/json"));
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, json!({ "digest": { "sha256": body["digest"]["sha256"] } }));
        Some(B256::from_slice(&STANDARD.decode(body["digest"]["sha256"].as_str().unwrap()).unwrap()))
    }
}

async fn sign(harness: &Harness, text: &str) -> Result<SignatureAnswer, HostError> {
    harness.begin_sign("m", address_of(KMS_BYTE), None, message(text)).answer().await.unwrap()
}

/// What the key signs when it is here.
fn signed(text: &str) -> SignatureAnswer {
    let preimage = alloy_primitives::utils::eip191_message(text);
    SignatureAnswer::Signed(Box::new(key(KMS_BYTE).sign_hash_sync(&keccak256(preimage)).unwrap().as_bytes()))
}

fn assert_no_secret(shown: &str) {
    assert!(SECRETS.iter().all(|secret| !shown.contains(secret)), "{shown}");
}

#[tokio::test]
async fn a_key_of_a_cloud_signs_as_it_would_here() {
    for (cloud, kind) in [(Cloud::Aws, "aws-kms"), (Cloud::Google, "gcp-kms")] {
        let (stand_in, harness) = StandIn::start(cloud).await;
        for number in 0..4 {
            let text = format!("message {number}");
            *lock(&stand_in.signs) = if number % 2 == 0 { Answers::With(KMS_BYTE) } else { Answers::High };
            assert_eq!(sign(&harness, &text).await.unwrap(), signed(&text), "{cloud:?}");
        }
        // The key is looked at once.
        assert_eq!(stand_in.keys_total.load(Ordering::SeqCst), 1);
        // The token is replaced, and the new one is used.
        *lock(&stand_in.token) = "t0ken2";
        assert_eq!(sign(&harness, "five").await.unwrap(), signed("five"), "{cloud:?}");
        let status = harness.status().await;
        assert_eq!(status.accounts.get(&address_of(KMS_BYTE).to_string()).map(String::as_str), Some(kind));
        assert_no_secret(&format!("{status:?}{}", harness.metrics_text()));
    }
}

#[tokio::test]
async fn what_a_cloud_answers_wrongly_is_no_signature_and_shows_no_credential() {
    let whole = signature(KMS_BYTE, &keccak256("x"), false);
    let elsewhere = "location: http://127.0.0.1:1/t0ken1\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 132\r\n\r\n{\"Signature\":\"";
    let named = r#"{"__type":"ThrottlingException","message":"AKIDS3CRET"}"#;
    for cloud in [Cloud::Aws, Cloud::Google] {
        let (stand_in, harness) = StandIn::start(cloud).await;
        for (answers, why) in [
            (Answers::With(OTHER_BYTE), "a signature that is not one of"),
            (Answers::Another, "a signature that is not one of"),
            (Answers::Bytes(whole[..whole.len() - 1].to_vec()), "something that is no signature"),
            (Answers::Bytes([whole.as_slice(), &[0]].concat()), "something that is no signature"),
            (Answers::Bytes(vec![0x11; 64]), "something that is no signature"),
            (Answers::Bytes(Vec::new()), "something that is no signature"),
            (Answers::Raw(ok("{}")), "ignature` in base64"),
            (Answers::Raw(ok(r#"{"Signature":7,"signature":7}"#)), "ignature` in base64"),
            (Answers::Raw(ok(r#"{"Signature":"%","signature":"%"}"#)), "ignature` in base64"),
            (Answers::Raw(ok("<html>t0ken1</html>")), "something that is no JSON"),
            (Answers::Raw(ok(&"0".repeat(10 << 20))), "it answered with more than 16384 bytes"),
            (Answers::Raw(answer("400 Bad Request", "", named)), "it answered 400 Bad Request: ThrottlingException"),
            (Answers::Raw(answer("500 Internal Server Error", "", "t0ken1")), "it answered 500"),
            (Answers::Raw(answer("302 Found", elsewhere, "")), "it answered 302"),
            (Answers::Raw(answer("307 Temporary Redirect", elsewhere, "")), "it answered 307"),
            (Answers::Raw(cut.to_owned()), "-kms http://127.0.0.1:"),
            (Answers::Raw(String::new()), "-kms http://127.0.0.1:"),
        ] {
            *lock(&stand_in.signs) = answers.clone();
            let before = stand_in.signs_total.load(Ordering::SeqCst);
            let refused = sign(&harness, "hello").await.unwrap_err();
            assert_eq!(refused.kind, HostErrorKind::Unavailable, "{answers:?}: {refused:?}");
            assert!(refused.message.contains(why), "{why}: {}", refused.message);
            assert_no_secret(&format!("{refused:?}"));
            assert!(stand_in.signs_total.load(Ordering::SeqCst) > before, "{answers:?}");
        }
        *lock(&stand_in.token) = "";
        let refused = sign(&harness, "hello").await.unwrap_err();
        assert!(refused.message.contains("its credentials cannot be read"), "{}", refused.message);
        assert!(!refused.message.contains("/run/secrets"), "{}", refused.message);
        assert_eq!(harness.status().await.signatures_total, 0);
        *lock(&stand_in.token) = "t0ken1";
        *lock(&stand_in.signs) = Answers::With(KMS_BYTE);
        assert_eq!(sign(&harness, "hello").await.unwrap(), signed("hello"));
    }
}

#[tokio::test]
async fn a_key_of_another_account_is_never_asked_to_sign() {
    let other = public_key(KMS_BYTE)[..80].to_vec();
    for cloud in [Cloud::Aws, Cloud::Google] {
        let (stand_in, harness) = StandIn::start(cloud).await;
        let of_another = format!("its key is that of account {}, and not of", address_of(OTHER_BYTE));
        for (answers, why) in [
            (Answers::With(OTHER_BYTE), of_another.as_str()),
            (Answers::Bytes(other.clone()), "no public key of secp256k1"),
            (Answers::Bytes(Vec::new()), "no public key of secp256k1"),
            (Answers::Raw(ok("{}")), "its answer has no `"),
            (Answers::Raw(answer("404 Not Found", "", "")), "it answered 404"),
        ] {
            *lock(&stand_in.keys) = answers.clone();
            let refused = sign(&harness, "hello").await.unwrap_err();
            assert_eq!(refused.kind, HostErrorKind::Unavailable, "{answers:?}");
            assert!(refused.message.contains(why), "{why}: {}", refused.message);
        }
        assert_eq!(stand_in.signs_total.load(Ordering::SeqCst), 0);
        // Once it is the right one, all is well.
        *lock(&stand_in.keys) = Answers::With(KMS_BYTE);
        assert_eq!(sign(&harness, "hello").await.unwrap(), signed("hello"));
    }
}

#[tokio::test]
async fn a_cloud_that_never_answers_is_given_up() {
    let (stand_in, harness) = StandIn::start(Cloud::Aws).await;
    assert_eq!(sign(&harness, "one").await.unwrap(), signed("one"));
    *lock(&stand_in.signs) = Answers::Never;
    let waiting = harness.begin_sign("m", address_of(KMS_BYTE), None, message("two"));
    eventually("it is on its way", async || match stand_in.signs_total.load(Ordering::SeqCst) {
        2 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    // From here on time passes as soon as nothing else happens.
    tokio::time::pause();
    let refused = waiting.answer().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, HostErrorKind::Timeout, "{refused:?}");
    assert_no_secret(&refused.message);
    tokio::time::resume();
    *lock(&stand_in.signs) = Answers::With(KMS_BYTE);
    assert_eq!(sign(&harness, "two").await.unwrap(), signed("two"));
}
