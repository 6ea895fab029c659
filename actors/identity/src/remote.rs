//! A signer elsewhere, through Web3Signer's API: `POST /api/v1/eth1/sign/{identifier}` hashes what it is sent and signs the hash.
//!
//! A key is named there by its public key; `GET /api/v1/eth1/publicKeys` lists them. Services that speak the same API and list
//! nothing are asked by address.
//!
//! Invariant: nothing of a URL but its host is ever shown; an answer is read up to a bound, and proves nothing before `signer` has
//! checked it.

use std::{error::Error as _, fs::File, io::Read as _, path::Path, sync::Arc, time::Duration};

use alloy_primitives::{Signature, keccak256};
use nexum_host_ifaces::{
    Address, HostError, HostErrorKind,
    bounded::{MESSAGE_BYTES_MAX, cut},
    secrets::shown_url,
};
use reqwest::{Certificate, Client, StatusCode, redirect};
use serde_json::json;
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    config::Remote,
    request::error,
    signer::{Signer, Signing},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the end of its answer. People may have to press a button there, but not for long.
const TIMEOUT: Duration = Duration::from_secs(30);
const SIGNATURE_BYTES_MAX: usize = 1_024;
/// A few thousand keys.
const KEYS_BYTES_MAX: usize = 1 << 20;
const CA_BYTES_MAX: u64 = 1 << 20;

/// The service, for all of its accounts.
struct Service {
    http: Client,
    url: Url,
    /// The URL as people may see it.
    shown: String,
}

struct RemoteSigner {
    service: Arc<Service>,
    account: Address,
    /// The key's name there, once it was found.
    identifier: OnceCell<String>,
}

/// Signers by their accounts.
pub type Signers = Vec<(Address, Arc<dyn Signer>)>;

/// One signer for each of the accounts. Nothing is connected to yet.
pub fn signers(remote: &Remote, accounts: &[Address]) -> Result<Signers, String> {
    let shown = shown_url(&remote.url);
    let url = Url::parse(&remote.url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| format!("remote signer {shown}: that is no URL of http or https"))?;
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")));
    let builder = match &remote.ca_file {
        None => builder,
        Some(file) => builder.tls_certs_only(certificates(file)?),
    };
    let http = builder.build().map_err(|failed| format!("remote signer {shown}: {}", innermost(&failed)))?;
    let service = Arc::new(Service { http, url, shown });
    let signer = |account: &Address| -> (Address, Arc<dyn Signer>) {
        (*account, Arc::new(RemoteSigner { service: service.clone(), account: *account, identifier: OnceCell::new() }))
    };
    Ok(accounts.iter().map(signer).collect())
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|why| wrong(why.to_string()))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= CA_BYTES_MAX);
    if !is_file {
        return Err(wrong(format!("no regular file of at most {CA_BYTES_MAX} bytes")));
    }
    let mut text = Vec::new();
    file.take(CA_BYTES_MAX).read_to_end(&mut text).map_err(|why| wrong(why.to_string()))?;
    match Certificate::from_pem_bundle(&text) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong("there is no certificate in it".to_owned())),
    }
}

impl Signer for RemoteSigner {
    fn kind(&self) -> &'static str {
        "remote"
    }

    fn sign<'a>(&'a self, preimage: &'a [u8]) -> Signing<'a> {
        Box::pin(self.ask(preimage))
    }
}

impl RemoteSigner {
    async fn ask(&self, preimage: &[u8]) -> Result<Signature, HostError> {
        let identifier = match self.identifier.get() {
            Some(identifier) => identifier.clone(),
            None => match self.service.key_of(self.account).await? {
                // Found by whoever looks it up first, and the same for all.
                Some(key) => self.identifier.get_or_init(|| async move { key }).await.clone(),
                None => self.account.to_string(),
            },
        };
        let url = self.service.path(&["sign", &identifier]);
        let body = json!({ "data": format!("0x{}", hex::encode(preimage)) }).to_string();
        let sent = self.service.http.post(url).header("content-type", "application/json").body(body).send().await;
        let answer = sent.map_err(|failed| self.service.failure(failed))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(self.service.unavailable(format!("it has no key of {}", self.account)));
            }
            status => return Err(self.service.unavailable(format!("it answered {status}"))),
        }
        let text = self.service.read(answer, SIGNATURE_BYTES_MAX).await?;
        parsed(&text)
            .ok_or_else(|| self.service.unavailable("it answered with something that is no signature".to_owned()))
    }
}

impl Service {
    fn path(&self, rest: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1", "eth1"]).extend(rest);
        }
        url
    }

    /// The public key of an account as the service lists it; none when it lists none of it.
    async fn key_of(&self, account: Address) -> Result<Option<String>, HostError> {
        let sent = self.http.get(self.path(&["publicKeys"])).send().await;
        let answer = sent.map_err(|failed| self.failure(failed))?;
        if answer.status() != StatusCode::OK {
            return Ok(None);
        }
        let text = self.read(answer, KEYS_BYTES_MAX).await?;
        Ok(keys(&text).into_iter().find(|key| address_of(key) == Some(account)))
    }

    async fn read(&self, mut answer: reqwest::Response, limit: usize) -> Result<Vec<u8>, HostError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|failed| self.failure(failed))? {
            if body.len() + chunk.len() > limit {
                return Err(self.unavailable(format!("it answered with more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unavailable(&self, what: String) -> HostError {
        error(HostErrorKind::Unavailable, format!("remote signer {}: {what}", self.shown))
    }

    fn failure(&self, failed: reqwest::Error) -> HostError {
        let kind = if failed.is_timeout() { HostErrorKind::Timeout } else { HostErrorKind::Unavailable };
        let cause = cut(innermost(&failed.without_url()), MESSAGE_BYTES_MAX);
        error(kind, format!("remote signer {}: {cause}", self.shown))
    }
}

/// What is at the bottom of an error. What is above it may quote the URL.
fn innermost(failed: &reqwest::Error) -> String {
    let mut cause = failed.to_string();
    let mut inner = failed.source();
    while let Some(error) = inner {
        cause = error.to_string();
        inner = error.source();
    }
    cause
}

/// The public keys that it lists; none when that is no list.
pub(crate) fn keys(text: &[u8]) -> Vec<String> {
    serde_json::from_slice(text).unwrap_or_default()
}

/// 65 bytes in hex, perhaps in quotes.
pub(crate) fn parsed(text: &[u8]) -> Option<Signature> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_matches('"');
    let bytes = hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()?;
    Signature::from_raw(&bytes).ok()
}

/// Of an uncompressed public key, with or without the 4 before it.
pub(crate) fn address_of(key: &str) -> Option<Address> {
    let bytes = hex::decode(key.strip_prefix("0x").unwrap_or(key)).ok()?;
    let point = match bytes.as_slice() {
        [4, point @ ..] if point.len() == 64 => point,
        point if point.len() == 64 => point,
        _ => return None,
    };
    Address::try_from(&keccak256(point)[12..]).ok()
}
