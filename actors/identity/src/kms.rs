//! A key in the key management service of a cloud, which never leaves it: the service is sent a hash, and answers with a signature.
//!
//! `aws` and `gcp` are how each is asked. What they answer has the same form: a public key as an X.509 `SubjectPublicKeyInfo`, and a
//! signature as ASN.1 in DER, with either value of `s` and without the bit that a public key is recovered with.
//!
//! Invariant: a key is used only after it was seen to be the account's. Credentials are read anew for every request, since whoever
//! gives them out replaces them, and are in no error.

mod aws;
mod gcp;

use std::sync::Arc;

use alloy_primitives::{B256, Signature, keccak256};
use alloy_signer::k256::ecdsa;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nexum_host_ifaces::{Address, HostError, HostErrorKind, blocking::Blocking, clock::Clock};
use reqwest::{RequestBuilder, StatusCode, header::HeaderValue};
use serde_json::Value;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::{
    config::{Kms, Provider, ReadSecret},
    http::Server,
    request::error,
    signer::{Signer, Signing, address_of_point},
};

/// An answer. The longest is that with a public key, of about 1 KiB.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// What is shown of the name of an error.
const ERROR_BYTES_MAX: usize = 64;
/// How the `SubjectPublicKeyInfo` of a key of secp256k1 begins; its uncompressed point follows.
const PUBLIC_KEY_PREFIX: [u8; 23] = [
    0x30, 0x56, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x0a, 0x03, 0x42, 0x00,
];

struct KmsSigner {
    server: Server,
    kms: Kms,
    clock: Arc<dyn Clock>,
    blocking: Blocking,
    /// Whether its key was seen to be the account's.
    seen: OnceCell<()>,
}

/// The signer of one key. Nothing is connected to yet.
pub fn signer(kms: &Kms, clock: Arc<dyn Clock>, blocking: Blocking) -> Result<Arc<dyn Signer>, String> {
    let server = Server::new(kind(&kms.provider), &kms.endpoint, kms.ca_file.as_deref())?;
    Ok(Arc::new(KmsSigner { server, kms: kms.clone(), clock, blocking, seen: OnceCell::new() }))
}

fn kind(provider: &Provider) -> &'static str {
    match provider {
        Provider::Aws(_) => "aws-kms",
        Provider::Gcp { .. } => "gcp-kms",
    }
}

impl Signer for KmsSigner {
    fn kind(&self) -> &'static str {
        kind(&self.kms.provider)
    }

    fn sign<'a>(&'a self, preimage: &'a [u8]) -> Signing<'a> {
        Box::pin(self.ask(preimage))
    }
}

impl KmsSigner {
    async fn ask(&self, preimage: &[u8]) -> Result<Signature, HostError> {
        self.seen.get_or_try_init(|| self.see_key()).await?;
        let hash = keccak256(preimage);
        let der = match &self.kms.provider {
            Provider::Aws(_) => self.aws_signature(&hash).await?,
            Provider::Gcp { .. } => self.gcp_signature(&hash).await?,
        };
        signature(&der, &hash, self.kms.account).map_err(|why| self.server.unavailable(why))
    }

    async fn see_key(&self) -> Result<(), HostError> {
        let key = match &self.kms.provider {
            Provider::Aws(_) => self.aws_public_key().await?,
            Provider::Gcp { .. } => self.gcp_public_key().await?,
        };
        let account = self.kms.account;
        let why = match key.strip_prefix(&PUBLIC_KEY_PREFIX).and_then(address_of_point) {
            Some(found) if found == account => return Ok(()),
            Some(found) => format!("its key is that of account {found}, and not of {account}"),
            None => "it answered with something that is no public key of secp256k1".to_owned(),
        };
        tracing::warn!("identity: {}", self.server.unavailable(&why).message);
        Err(self.server.unavailable(why))
    }

    /// What the request is answered, as JSON.
    async fn exchange(&self, request: RequestBuilder) -> Result<Value, HostError> {
        let answer = self.server.send(request).await?;
        let status = answer.status();
        let body = self.server.read(answer, ANSWER_BYTES_MAX).await;
        if status != StatusCode::OK {
            // What else it says may name what is nobody's business, such as who asks.
            let name =
                body.ok().and_then(|body| error_name(&body)).map_or_else(String::new, |name| format!(": {name}"));
            return Err(self.server.unavailable(format!("it answered {status}{name}")));
        }
        let no_json = |_| self.server.unavailable("it answered with something that is no JSON");
        serde_json::from_slice(&body?).map_err(no_json)
    }

    /// A field of an answer that has bytes in base64.
    fn field(&self, answer: &Value, name: &str) -> Result<Vec<u8>, HostError> {
        let bytes = answer[name].as_str().and_then(|text| STANDARD.decode(text).ok());
        bytes.ok_or_else(|| self.server.unavailable(format!("its answer has no `{name}` in base64")))
    }

    async fn secret(&self, read: &ReadSecret) -> Result<Zeroizing<String>, HostError> {
        let read = read.clone();
        let secret = self.blocking.run(move || read.read()).await;
        secret.map_err(|failed| failed.to_string()).flatten().map_err(|why| {
            // Modules need not know where secrets are.
            tracing::warn!("identity: a credential of {} cannot be read: {why}", self.kind());
            self.server.unavailable("its credentials cannot be read")
        })
    }
}

/// A header that nothing shows.
fn secret_header(value: &str) -> Result<HeaderValue, HostError> {
    let wrong = |_| error(HostErrorKind::Unavailable, "a credential has characters that no header has");
    let mut value = HeaderValue::from_str(value).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The signature of the account, or what is wrong with this one.
fn signature(der: &[u8], hash: &B256, account: Address) -> Result<Signature, String> {
    let read = ecdsa::Signature::from_der(der);
    let bytes = read.map_err(|_| "it answered with something that is no signature".to_owned())?.to_bytes();
    let mut both =
        [false, true].into_iter().map(|parity| Signature::from_bytes_and_parity(&bytes, parity).normalized_s());
    let is_its = |signature: &Signature| {
        signature.recover_address_from_prehash(hash).is_ok_and(|signed_by| signed_by.into_array() == account.0)
    };
    both.find(is_its).ok_or_else(|| format!("it answered with a signature that is not one of {account}"))
}

/// How an error is called: `__type` at AWS, `error.status` at Google.
fn error_name(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let name = body["__type"].as_str().or_else(|| body["error"]["status"].as_str())?;
    let name = name.rsplit('#').next().unwrap_or_default();
    let is_name =
        name.len() <= ERROR_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
