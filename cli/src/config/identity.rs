//! `[identity]`: where keys are, and what each module may have signed with them.
//!
//! What is written here is kept as it is written; `settings` says what it means, and what is wrong with it.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use nexum_ctl::period::Period;
use nexum_host_ifaces::interfaces::identity::port::Wei;
use nexum_identity::{
    AnyOf, Method, Policy as SigningPolicy, Remote as RemoteSigner, Settings, TypedDataRule, parse_address, parse_fee,
    parse_type, parse_wei,
};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use super::{
    kms::{AwsKms, GcpKms},
    secret::{self, Secret, Unreadable},
};

/// Stands for any.
const ANY: &str = "*";
/// Stands for the creation of contracts.
const CREATE: &str = "create";
/// The longest name of a module.
const MODULE_CHARS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// Directory of key files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keystore: Option<PathBuf>,
    /// Of the key files: `file:`, `credential:`, or the password itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// What that comes to.
    #[serde(skip)]
    read: Option<Secret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remote: Vec<Remote>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aws_kms: Vec<AwsKms>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gcp_kms: Vec<GcpKms>,
    /// Where systemd has put credentials.
    #[serde(skip)]
    credentials: BTreeMap<String, String>,
    pub policies: Vec<Policy>,
}

/// A signer elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    pub url: Secret,
    pub accounts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// What one module may have signed with one account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub module: String,
    pub account: String,
    pub methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<Scalar>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selectors: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value_per_day: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fee_per_gas: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_fee: Option<Scalar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_hour: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ask: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_timeout: Option<Period>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub typed_data: Vec<TypedData>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feeds: Vec<String>,
}

/// Typed data that may be signed; `*` stands for any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedData {
    pub verifying_contract: String,
    pub chain_id: Scalar,
    pub primary_type: String,
}

/// What is wrong, and at which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Dotted, such as `identity.policies.0.to`.
    pub path: String,
    pub message: String,
    /// The same without any value, where that may be said although the value is hidden.
    pub bare: Option<String>,
}

pub(super) fn wrong(path: &str, message: impl Into<String>) -> Wrong {
    Wrong { path: path.to_owned(), message: message.into(), bare: None }
}

impl Wrong {
    fn bare(self, bare: impl Into<String>) -> Self {
        Self { bare: Some(bare.into()), ..self }
    }
}

/// A number, or a text such as `*` or `0.5 ether`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a whole number or a string")]
pub enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    /// As it would be written as a text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

impl Identity {
    /// What the actor is started with.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn settings(&self) -> Result<Settings, Wrong> {
        let remotes = self.remote.iter().enumerate().map(|(index, remote)| remote.signer(&at("remote", index)));
        let aws =
            self.aws_kms.iter().enumerate().map(|(index, kms)| kms.meaning(&at("aws_kms", index), &self.credentials));
        let gcp =
            self.gcp_kms.iter().enumerate().map(|(index, kms)| kms.meaning(&at("gcp_kms", index), &self.credentials));
        let policies = self.policies.iter().enumerate().map(|(index, policy)| policy.meaning(&at("policies", index)));
        Ok(Settings {
            keystore: self.keystore.clone(),
            password: self.read.as_ref().map(|Secret(password)| password.clone().into()),
            remotes: remotes.collect::<Result<_, _>>()?,
            kms: aws.chain(gcp).collect::<Result<_, _>>()?,
            policies: policies.collect::<Result<_, _>>()?,
        })
    }

    /// What the values say for themselves.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Wrong> {
        match (&self.keystore, &self.password) {
            (Some(_), None) => {
                let wanted =
                    "needs password, such as \"file:/run/secrets/keystore\", \"credential:NAME\" or \"${VAR}\"";
                return Err(wrong("identity.keystore", wanted));
            }
            (None, Some(_)) => return Err(wrong("identity.password", "is not used: there is no keystore")),
            (None, None) if self.remote.is_empty() && self.aws_kms.is_empty() && self.gcp_kms.is_empty() => {
                let wanted = "has no keys: give keystore and password, [[identity.remote]], [[identity.aws_kms]] or \
                              [[identity.gcp_kms]]";
                return Err(wrong("identity", wanted));
            }
            _ => {}
        }
        self.settings().map(drop)
    }

    /// Every path, and its key.
    pub fn paths(&mut self) -> impl Iterator<Item = (String, &mut PathBuf)> {
        let keystore = self.keystore.as_mut().map(|path| ("identity.keystore".to_owned(), path));
        let remote = self.remote.iter_mut().map(|remote| &mut remote.ca_file).enumerate();
        let aws = self.aws_kms.iter_mut().map(|kms| &mut kms.ca_file).enumerate();
        let gcp = self.gcp_kms.iter_mut().map(|kms| &mut kms.ca_file).enumerate();
        let remote = remote.map(|(index, file)| ("remote", index, file));
        let clouds = aws.map(|(index, file)| ("aws_kms", index, file));
        let clouds = clouds.chain(gcp.map(|(index, file)| ("gcp_kms", index, file)));
        let files = remote.chain(clouds).filter_map(|(table, index, file)| {
            let path = file.as_mut()?;
            Some((format!("{}.ca_file", at(table, index)), path))
        });
        keystore.into_iter().chain(files)
    }

    /// Reads what is named, if everything is there.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn read(&mut self, environment: &BTreeMap<String, String>) -> Result<(), Wrong> {
        for (key, path) in self.paths() {
            let (is_there, expected) = match key == "identity.keystore" {
                true => (path.is_dir(), "is no directory: `nexum key new` makes one"),
                false => (path.is_file(), "is no file: expected certificates in PEM"),
            };
            if !is_there {
                return Err(wrong(&key, format!("{} {expected}", path.display())).bare(expected));
            }
        }
        let directory = environment.get_key_value(secret::DIRECTORY);
        self.credentials = directory.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let read = |key: &str, Secret(named): &Secret| {
            secret::read(named, &self.credentials).map_err(|Unreadable { what, wrong: why }| {
                // Where a secret is may be said, whatever may not be said of a secret.
                let message = format!("{what} {why}");
                wrong(key, message.as_str()).bare(message)
            })
        };
        let aws = self.aws_kms.iter().enumerate().flat_map(|(index, kms)| kms.secrets(at("aws_kms", index)));
        let gcp = self.gcp_kms.iter().enumerate().flat_map(|(index, kms)| kms.secrets(at("gcp_kms", index)));
        for (key, secret) in aws.chain(gcp) {
            drop(Zeroizing::new(read(&key, secret)?));
        }
        self.read = match &self.password {
            Some(password) => Some(Secret(read("identity.password", password)?)),
            None => None,
        };
        Ok(())
    }
}

fn at(table: &str, index: usize) -> String {
    format!("identity.{table}.{index}")
}

pub(super) fn read<T>(at: &str, key: &str, read: Result<T, String>) -> Result<T, Wrong> {
    read.map_err(|why| wrong(&format!("{at}.{key}"), why))
}

impl Remote {
    fn signer(&self, at: &str) -> Result<RemoteSigner, Wrong> {
        let Self { url: Secret(url), accounts, ca_file } = self;
        let is_usable = |url: &Url| matches!(url.scheme(), "https" | "http") && url.has_host();
        // It may hold a password.
        if !Url::parse(url).is_ok_and(|url| is_usable(&url)) {
            return Err(wrong(&format!("{at}.url"), "is no URL of a signer: expected one such as https://signer:9000"));
        }
        if accounts.is_empty() {
            return Err(wrong(&format!("{at}.accounts"), "is empty: expected the addresses that it has the keys of"));
        }
        let accounts = accounts.iter().map(|account| read(at, "accounts", parse_address(account)));
        Ok(RemoteSigner { url: url.clone(), accounts: accounts.collect::<Result<_, _>>()?, ca_file: ca_file.clone() })
    }
}

impl Policy {
    fn meaning(&self, at: &str) -> Result<SigningPolicy, Wrong> {
        let wrong = |key: &str, message: &str| wrong(&format!("{at}.{key}"), message);
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.module.is_empty() || self.module.len() > MODULE_CHARS_MAX || !self.module.chars().all(is_part) {
            let message = format!("`{}` is no name of a module: expected 1 to 64 of a-z, 0-9 and -", self.module);
            return Err(wrong("module", &message));
        }
        let account = read(at, "account", parse_address(&self.account))?;
        let mut policy = SigningPolicy::new(self.module.as_str(), account);
        let methods = self.methods.iter().map(|method| read(at, "methods", method.parse::<Method>()));
        policy.methods = methods.collect::<Result<_, _>>()?;
        if policy.methods.is_empty() {
            return Err(wrong("methods", "is empty: expected some of transaction, message, typed-data and feed"));
        }
        self.transactions(at, &mut policy)?;
        self.typed_data(at, &mut policy)?;
        match (policy.methods.contains(&Method::Feed), self.feeds.is_empty()) {
            (true, true) => {
                return Err(wrong("feeds", "is empty: list topics, 0x and 64 hex digits, or \"*\" for any"));
            }
            (false, false) => return Err(wrong("feeds", "is not used: feed is not among the methods")),
            _ => policy.feeds = read(at, "feeds", AnyOf::of_texts(self.feeds.iter().map(String::as_str)))?,
        }
        policy.max_per_hour = self.max_per_hour;
        if policy.max_per_hour == Some(0) {
            return Err(wrong("max_per_hour", "0 would allow nothing; leave it out for no limit"));
        }
        policy.ask = self.ask;
        if let Some(Period(timeout)) = self.approval_timeout {
            if !self.ask {
                return Err(wrong("approval_timeout", "is not used: ask = false"));
            }
            if timeout.is_zero() {
                return Err(wrong("approval_timeout", "must be longer than nothing"));
            }
            policy.approval_timeout = timeout;
        }
        Ok(policy)
    }

    fn transactions(&self, at: &str, policy: &mut SigningPolicy) -> Result<(), Wrong> {
        let wrong = |key: &str, message: &str| wrong(&format!("{at}.{key}"), message);
        let lists = [("chains", self.chains.is_empty()), ("to", self.to.is_empty())];
        let amounts = [
            ("max_value", &self.max_value),
            ("max_value_per_day", &self.max_value_per_day),
            ("max_fee_per_gas", &self.max_fee_per_gas),
            ("max_fee", &self.max_fee),
        ];
        if !policy.methods.contains(&Method::Transaction) {
            let lists = lists.into_iter().chain([("selectors", self.selectors.is_empty())]);
            let given = lists.filter(|(_, is_empty)| !is_empty).map(|(key, _)| key);
            let mut given = given.chain(amounts.iter().filter(|(_, amount)| amount.is_some()).map(|(key, _)| *key));
            return match given.next() {
                Some(key) => Err(wrong(key, "is not used: transaction is not among the methods")),
                None => Ok(()),
            };
        }
        if let Some((key, _)) = lists.into_iter().find(|(_, is_empty)| *is_empty) {
            return Err(wrong(key, "is empty, so that no transaction is allowed: list them, or \"*\" for any"));
        }
        let creates = |to: &String| to == CREATE;
        if self.to.iter().any(|to| to == ANY) && self.to.iter().any(creates) {
            return Err(wrong(
                "to",
                "\"*\" has no \"create\" in it: write another policy for the creation of contracts",
            ));
        }
        if self.selectors.is_empty() && !self.to.iter().all(creates) {
            let message =
                "is empty, so that nothing may be called: list them, \"\" for transfers without data, or \"*\" for any";
            return Err(wrong("selectors", message));
        }
        policy.chains = read(at, "chains", chains(&self.chains))?;
        policy.to = read(at, "to", AnyOf::of_texts(self.to.iter().map(String::as_str)))?;
        policy.selectors = read(at, "selectors", AnyOf::of_texts(self.selectors.iter().map(String::as_str)))?;
        let wei = |key: &str, amount: &Option<Scalar>| match amount {
            Some(amount) => read(at, key, parse_wei(&amount.text())),
            None => Ok(Wei::default()),
        };
        policy.max_value = wei("max_value", &self.max_value)?;
        policy.max_value_per_day = wei("max_value_per_day", &self.max_value_per_day)?;
        if policy.max_value > policy.max_value_per_day {
            let message = "is less than max_value, which no transaction could have then";
            return Err(wrong("max_value_per_day", message));
        }
        let fee = self.max_fee_per_gas.as_ref().map(|fee| read(at, "max_fee_per_gas", parse_fee(&fee.text())));
        policy.max_fee_per_gas = fee.transpose()?;
        let fee = self.max_fee.as_ref().map(|fee| read(at, "max_fee", parse_wei(&fee.text())));
        policy.max_fee = fee.transpose()?;
        Ok(())
    }

    fn typed_data(&self, at: &str, policy: &mut SigningPolicy) -> Result<(), Wrong> {
        let wrong = |message: &str| Err(wrong(&format!("{at}.typed_data"), message));
        match (policy.methods.contains(&Method::TypedData), self.typed_data.is_empty()) {
            (true, true) => {
                return wrong(
                    "is empty, so that none is allowed: expected such as { verifying_contract = \"0x…\", chain_id = 1, \
                     primary_type = \"Order\" }, with \"*\" for any",
                );
            }
            (false, false) => return wrong("is not used: typed-data is not among the methods"),
            _ => {}
        }
        for (index, rule) in self.typed_data.iter().enumerate() {
            let at = format!("{at}.typed_data.{index}");
            policy.typed_data.push(TypedDataRule {
                verifying_contract: read(&at, "verifying_contract", any_or(&rule.verifying_contract, parse_address))?,
                chain_id: read(&at, "chain_id", any_or(&rule.chain_id.text(), chain_id))?,
                primary_type: read(&at, "primary_type", any_or(&rule.primary_type, parse_type))?,
            });
        }
        Ok(())
    }
}

/// Nothing for any, or what the text says.
fn any_or<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == ANY { Ok(None) } else { read(text).map(Some) }
}

fn chain_id(text: &str) -> Result<u64, String> {
    let id = u64::from_str(text).ok().filter(|id| *id > 0);
    id.ok_or_else(|| format!("`{text}` is no chain id: expected a number, or \"*\" for any"))
}

fn chains(list: &[Scalar]) -> Result<AnyOf<u64>, String> {
    let ids = list.iter().map(|chain| any_or(&chain.text(), chain_id)).collect::<Result<Vec<_>, _>>()?;
    // Whoever lists any besides some has listed any.
    Ok(ids.into_iter().collect::<Option<Vec<_>>>().map_or(AnyOf::Any, AnyOf::Of))
}

#[cfg(test)]
mod tests;
