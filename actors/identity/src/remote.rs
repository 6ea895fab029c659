//! A signer elsewhere, through Web3Signer's API: `POST /api/v1/eth1/sign/{identifier}` hashes what it is sent and signs the hash.
//!
//! A key is named there by its public key; `GET /api/v1/eth1/publicKeys` lists them. Services that speak the same API and list
//! nothing are asked by address.
//!
//! Invariant: an answer proves nothing before `signer` has checked it.

use std::sync::Arc;

use alloy_primitives::Signature;
use nexum_host_ifaces::{Address, HostError};
use reqwest::StatusCode;
use serde_json::json;
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    config::Remote,
    http::Server,
    signer::{Signer, Signing, address_of_point},
};

const SIGNATURE_BYTES_MAX: usize = 1_024;
/// A few thousand keys.
const KEYS_BYTES_MAX: usize = 1 << 20;

struct RemoteSigner {
    /// For all of its accounts.
    server: Arc<Server>,
    account: Address,
    /// The key's name there, once it was found.
    identifier: OnceCell<String>,
}

/// Signers by their accounts.
pub type Signers = Vec<(Address, Arc<dyn Signer>)>;

/// One signer for each of the accounts. Nothing is connected to yet.
pub fn signers(remote: &Remote, accounts: &[Address]) -> Result<Signers, String> {
    let server = Arc::new(Server::new("remote signer", &remote.url, remote.ca_file.as_deref())?);
    let signer = |account: &Address| -> (Address, Arc<dyn Signer>) {
        (*account, Arc::new(RemoteSigner { server: server.clone(), account: *account, identifier: OnceCell::new() }))
    };
    Ok(accounts.iter().map(signer).collect())
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
        let server = &self.server;
        let identifier = match self.identifier.get() {
            Some(identifier) => identifier.clone(),
            None => match key_of(server, self.account).await? {
                // Found by whoever looks it up first, and the same for all.
                Some(key) => self.identifier.get_or_init(|| async move { key }).await.clone(),
                None => self.account.to_string(),
            },
        };
        let url = path(server, &["sign", &identifier]);
        let body = json!({ "data": format!("0x{}", hex::encode(preimage)) }).to_string();
        let answer = server.send(server.http.post(url).header("content-type", "application/json").body(body)).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(server.unavailable(format!("it has no key of {}", self.account)));
            }
            status => return Err(server.unavailable(format!("it answered {status}"))),
        }
        let text = server.read(answer, SIGNATURE_BYTES_MAX).await?;
        parsed(&text).ok_or_else(|| server.unavailable("it answered with something that is no signature"))
    }
}

fn path(server: &Server, rest: &[&str]) -> Url {
    let mut url = server.url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["api", "v1", "eth1"]).extend(rest);
    }
    url
}

/// The public key of an account as the service lists it; none when it lists none of it.
async fn key_of(server: &Server, account: Address) -> Result<Option<String>, HostError> {
    let answer = server.send(server.http.get(path(server, &["publicKeys"]))).await?;
    if answer.status() != StatusCode::OK {
        return Ok(None);
    }
    let text = server.read(answer, KEYS_BYTES_MAX).await?;
    Ok(keys(&text).into_iter().find(|key| address_of(key) == Some(account)))
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

/// Of an uncompressed public key in hex.
pub(crate) fn address_of(key: &str) -> Option<Address> {
    address_of_point(&hex::decode(key.strip_prefix("0x").unwrap_or(key)).ok()?)
}
