//! What stands behind an account: a key of the keystore, a signer elsewhere, or a key of a cloud.
//!
//! Invariant: no signature is given out that is not one of the account, over exactly these bytes, with the lower of its two values of
//! `s`.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
};

use alloy_primitives::{Signature, keccak256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use nexum_host_ifaces::{
    Address, HostError, HostErrorKind,
    blocking::Blocking,
    bounded::{MESSAGE_BYTES_MAX, cut},
    clock::Clock,
};

use crate::{config::Settings, keystore, kms, remote, request::error};

/// A signature on its way.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Signature, HostError>> + Send + 'a>>;

/// The key of one account, wherever it is.
pub trait Signer: Send + Sync {
    /// Where it is, for people: `keystore`, `remote`, `aws-kms`, `gcp-kms`.
    fn kind(&self) -> &'static str;
    /// Signs the Keccak-256 hash of these bytes.
    fn sign<'a>(&'a self, preimage: &'a [u8]) -> Signing<'a>;
}

struct Local(PrivateKeySigner);

impl Signer for Local {
    fn kind(&self) -> &'static str {
        "keystore"
    }

    fn sign<'a>(&'a self, preimage: &'a [u8]) -> Signing<'a> {
        Box::pin(async move {
            let signed = self.0.sign_hash_sync(&keccak256(preimage));
            signed.map_err(|why| error(HostErrorKind::Internal, format!("the key does not sign: {why}")))
        })
    }
}

/// A signature of the account over these bytes.
pub async fn sign(signer: &dyn Signer, account: Address, preimage: &[u8]) -> Result<Signature, HostError> {
    let signature = signer.sign(preimage).await?.normalized_s();
    match signature.recover_address_from_prehash(&keccak256(preimage)) {
        Ok(signed_by) if signed_by.into_array() == account.0 => Ok(signature),
        _ => {
            let message =
                format!("the {} signer answered with a signature that is not one of {account}", signer.kind());
            Err(error(HostErrorKind::Unavailable, message))
        }
    }
}

/// The account of an uncompressed public key, with or without the 4 before it.
pub fn address_of_point(bytes: &[u8]) -> Option<Address> {
    let point = match bytes {
        [4, point @ ..] if point.len() == 64 => point,
        point if point.len() == 64 => point,
        _ => return None,
    };
    Address::try_from(&keccak256(point)[12..]).ok()
}

/// The signers of the accounts that policies name, and what does not work.
#[derive(Default)]
pub struct Signers {
    pub of: BTreeMap<Address, Arc<dyn Signer>>,
    pub problems: Vec<String>,
}

/// Problems that are shown.
const PROBLEMS_MAX: usize = 64;

impl Signers {
    /// Opens what the settings name, of the accounts that are wanted alone: a key that nobody may use stays closed. Takes long, by
    /// the design of key files.
    pub fn open(settings: &Settings, wanted: &BTreeSet<Address>, clock: &Arc<dyn Clock>, blocking: Blocking) -> Self {
        let mut signers = Self::default();
        signers.open_keystore(settings, wanted);
        for remote in &settings.remotes {
            let accounts: Vec<Address> =
                remote.accounts.iter().filter(|account| wanted.contains(account)).copied().collect();
            match remote::signers(remote, &accounts) {
                Ok(remotes) => {
                    for (account, signer) in remotes {
                        signers.of.entry(account).or_insert(signer);
                    }
                }
                Err(why) => signers.problem(why),
            }
        }
        for kms in settings.kms.iter().filter(|kms| wanted.contains(&kms.account)) {
            match kms::signer(kms, clock.clone(), blocking) {
                Ok(signer) => _ = signers.of.entry(kms.account).or_insert(signer),
                Err(why) => signers.problem(why),
            }
        }
        for account in wanted {
            if !signers.of.contains_key(account) {
                signers.problem(format!("there is no key of account {account}, which [[identity.policies]] names"));
            }
        }
        signers
    }

    fn open_keystore(&mut self, settings: &Settings, wanted: &BTreeSet<Address>) {
        // There is none.
        let Some(directory) = &settings.keystore else { return };
        let listing = match keystore::list(directory) {
            Ok(listing) => listing,
            Err(why) => return self.problem(format!("keystore: {why}")),
        };
        for skipped in &listing.skipped {
            match skipped.is_key {
                true => self.problem(format!("{}: {}", skipped.path.display(), skipped.why)),
                false => {
                    tracing::info!(file = %skipped.path.display(), why = skipped.why, "not a key file, and skipped")
                }
            }
        }
        for file in &listing.keys {
            if file.account.is_some_and(|account| !wanted.contains(&account) || self.of.contains_key(&account)) {
                continue;
            }
            let Some(password) = &settings.password else {
                self.problem(format!("{}: there is no `password` in [identity]", file.path.display()));
                continue;
            };
            match keystore::open(file, password) {
                Ok(key) => {
                    let account = Address(key.address().into_array());
                    if wanted.contains(&account) {
                        self.of.entry(account).or_insert(Arc::new(Local(key)));
                    }
                }
                Err(why) => self.problem(why.to_string()),
            }
        }
    }

    fn problem(&mut self, problem: String) {
        tracing::warn!("identity: {problem}");
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(cut(problem, MESSAGE_BYTES_MAX));
        }
    }
}

#[cfg(test)]
pub fn local(secret: [u8; 32]) -> Arc<dyn Signer> {
    Arc::new(Local(PrivateKeySigner::from_slice(&secret).unwrap()))
}

#[cfg(test)]
mod tests;
