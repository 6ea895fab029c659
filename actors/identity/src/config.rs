//! What the operator says: where keys are, and what each module may have signed with them.
//!
//! Plain values, and how each is written as text in the configuration. What they mean is `policy`'s to say.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use alloy_primitives::{U256, keccak256};
use nexum_host_ifaces::{Address, Hash, interfaces::identity::port::Wei, secrets::shown_url};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::typed_data;

/// How long an approval may be waited for, when a policy does not say.
pub const APPROVAL_TIMEOUT: Duration = Duration::from_secs(3_600);

/// `[identity]`.
#[derive(Clone, Default)]
pub struct Settings {
    /// Directory of key files.
    pub keystore: Option<PathBuf>,
    /// Of the key files.
    pub password: Option<Zeroizing<String>>,
    pub remotes: Vec<Remote>,
    pub kms: Vec<Kms>,
    /// In the order of the file: the first that fits decides.
    pub policies: Vec<Policy>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("keystore", &self.keystore)
            .field("remotes", &self.remotes)
            .field("kms", &self.kms)
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

/// `[[identity.remote]]`: a signer that speaks Web3Signer's API.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    pub url: String,
    pub accounts: Vec<Address>,
    /// Certificates that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, accounts, ca_file } = self;
        f.debug_struct("Remote")
            .field("url", &shown_url(url))
            .field("accounts", accounts)
            .field("ca_file", ca_file)
            .finish()
    }
}

/// `[[identity.aws_kms]]` and `[[identity.gcp_kms]]`: one key of a key management service.
#[derive(Debug, Clone)]
pub struct Kms {
    pub account: Address,
    /// As the service names it.
    pub key: String,
    /// A URL of scheme, host and port.
    pub endpoint: String,
    /// Certificates that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub provider: Provider,
}

/// Whose service it is, and what it is asked with.
#[derive(Debug, Clone)]
pub enum Provider {
    Aws(Aws),
    Gcp {
        /// The bearer token of a service account.
        token: ReadSecret,
    },
}

#[derive(Debug, Clone)]
pub struct Aws {
    pub region: String,
    pub access_key_id: ReadSecret,
    pub secret_access_key: ReadSecret,
    pub session_token: Option<ReadSecret>,
}

/// Reads a secret whenever it is needed, since one that lies in a file may be replaced there. What an error says, it says to people.
#[derive(Clone)]
pub struct ReadSecret(Arc<dyn Fn() -> Result<Zeroizing<String>, String> + Send + Sync>);

impl ReadSecret {
    pub fn new(read: impl Fn() -> Result<Zeroizing<String>, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub fn read(&self) -> Result<Zeroizing<String>, String> {
        (self.0)()
    }
}

impl fmt::Debug for ReadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[[identity.policies]]`: what one module may have signed with one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub module: String,
    pub account: Address,
    pub methods: BTreeSet<Method>,
    /// Of transactions.
    pub chains: AnyOf<u64>,
    /// Of transactions. `AnyOf::Any` has no contract creation in it: that is always said by name.
    pub to: AnyOf<Target>,
    /// Of transactions that call something; creations have none.
    pub selectors: AnyOf<Selector>,
    /// Of one transaction.
    pub max_value: Wei,
    /// Of all transactions of the last 24 hours together.
    pub max_value_per_day: Wei,
    /// Wei per unit of gas; absent: no ceiling.
    pub max_fee_per_gas: Option<u128>,
    /// What all the gas of one transaction may cost, its limit times the price of a unit; absent: no ceiling.
    pub max_fee: Option<Wei>,
    /// Signatures within the last hour; absent: as many as are asked for.
    pub max_per_hour: Option<u32>,
    /// Typed data that may be signed; none when it is empty.
    pub typed_data: Vec<TypedDataRule>,
    /// Topics of feeds that may be written.
    pub feeds: AnyOf<Hash>,
    /// The operator approves each.
    pub ask: bool,
    pub approval_timeout: Duration,
}

impl Policy {
    /// A policy that allows nothing yet.
    pub fn new(module: impl Into<String>, account: Address) -> Self {
        Self {
            module: module.into(),
            account,
            methods: BTreeSet::new(),
            chains: AnyOf::default(),
            to: AnyOf::default(),
            selectors: AnyOf::default(),
            max_value: Wei::default(),
            max_value_per_day: Wei::default(),
            max_fee_per_gas: None,
            max_fee: None,
            max_per_hour: None,
            typed_data: Vec::new(),
            feeds: AnyOf::default(),
            ask: false,
            approval_timeout: APPROVAL_TIMEOUT,
        }
    }
}

/// Any, written `*`, or those of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyOf<T> {
    Any,
    Of(Vec<T>),
}

impl<T> Default for AnyOf<T> {
    fn default() -> Self {
        Self::Of(Vec::new())
    }
}

impl<T: PartialEq> AnyOf<T> {
    /// Whether it is one of these.
    pub fn has(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Of(list) => list.contains(value),
        }
    }
}

impl<T: FromStr<Err = String>> AnyOf<T> {
    /// Of a list of texts, in which `*` stands for any.
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut list = Vec::new();
        let mut any = false;
        for text in texts {
            match text {
                "*" => any = true,
                text => list.push(text.parse()?),
            }
        }
        Ok(if any { Self::Any } else { Self::Of(list) })
    }
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    Transaction,
    Message,
    TypedData,
    Feed,
}

impl Method {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Message => "message",
            Self::TypedData => "typed-data",
            Self::Feed => "feed",
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Transaction, Self::Message, Self::TypedData, Self::Feed];
        all.into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| format!("`{text}` is no method: expected transaction, message, typed-data or feed"))
    }
}

/// Where a transaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// It creates a contract; written `create`.
    Create,
    Account(Address),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "create" => Ok(Self::Create),
            text => parse_address(text).map(Self::Account),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create"),
            Self::Account(address) => address.fmt(f),
        }
    }
}

/// What a transaction calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Selector {
    /// No data at all; written as an empty text.
    Transfer,
    Call([u8; 4]),
}

impl FromStr for Selector {
    type Err = String;

    /// Four bytes as 0x-hex, or a signature such as `transfer(address,uint256)`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no selector: expected 0x and 8 hex digits, a signature such as \
                 `transfer(address,uint256)` without blanks or names, or \"\" for transfers without data"
            )
        };
        if text.is_empty() {
            return Ok(Self::Transfer);
        }
        if let Some(digits) = text.strip_prefix("0x") {
            let mut selector = [0; 4];
            hex::decode_to_slice(digits, &mut selector).map_err(|_| wrong())?;
            return Ok(Self::Call(selector));
        }
        let (name, arguments) = text.split_once('(').ok_or_else(wrong)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        let is_type = |c: char| c.is_ascii_alphanumeric() || "(),[]".contains(c);
        let is_aliased = |kind: &str| matches!(kind, "uint" | "int" | "fixed" | "ufixed" | "byte");
        let kinds = || arguments.split(['(', ')', ',']).map(|kind| kind.split('[').next().unwrap_or_default());
        let opened = text.matches('(').count() == text.matches(')').count();
        let right = !name.is_empty() && name.chars().all(is_name) && text.ends_with(')') && opened;
        if !right || !arguments.chars().all(is_type) {
            return Err(wrong());
        }
        if let Some(alias) = kinds().find(|kind| is_aliased(kind)) {
            return Err(format!(
                "`{text}`: `{alias}` is short for another type, which a selector is made of: write that"
            ));
        }
        let hash = keccak256(text);
        Ok(Self::Call([hash[0], hash[1], hash[2], hash[3]]))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transfer => f.write_str("\"\""),
            Self::Call(selector) => write!(f, "0x{}", hex::encode(selector)),
        }
    }
}

/// Typed data that may be signed. An absent field stands for any, written `*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypedDataRule {
    pub verifying_contract: Option<Address>,
    pub chain_id: Option<u64>,
    pub primary_type: Option<String>,
}

/// An address as 0x-hex. One with capitals must have them where EIP-55 wants them: a digit that was mistyped is noticed.
pub fn parse_address(text: &str) -> Result<Address, String> {
    let address: Address = match text.starts_with("0x") {
        true => text.parse()?,
        false => return Err(format!("`{text}` is no address: expected 0x and 40 hex digits")),
    };
    let digits = &text[2..];
    let is_mixed =
        digits.contains(|c: char| c.is_ascii_uppercase()) && digits.contains(|c: char| c.is_ascii_lowercase());
    let checked = alloy_primitives::Address::from(address.0).to_checksum(None);
    match is_mixed && checked != text {
        true => Err(format!("`{text}` is mistyped: capitals and small letters do not fit (EIP-55)")),
        false => Ok(address),
    }
}

/// The name of a type of typed data: whatever such a name may be, but that of the domain's own type.
pub fn parse_type(text: &str) -> Result<String, String> {
    match typed_data::check_name(text) {
        Ok(()) if text != "EIP712Domain" => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no name of a type: expected one such as Order, or \"*\" for any")),
    }
}

/// An amount such as `0.5 ether`, `200 gwei`, `7 wei`, or a decimal number of wei.
pub fn parse_wei(text: &str) -> Result<Wei, String> {
    const DIGITS_MAX: usize = 96;
    let wrong =
        |why: &str| format!("`{text}` is no amount: {why}; write such as `0.5 ether`, `200 gwei` or `1000 wei`");
    let mut words = text.split_whitespace();
    let number = words.next().ok_or_else(|| wrong("it is empty"))?;
    let decimals = match words.next() {
        None | Some("wei") => 0,
        Some("gwei") => 9,
        Some("ether") => 18,
        Some(_) => return Err(wrong("the unit is none of ether, gwei and wei")),
    };
    if words.next().is_some() {
        return Err(wrong("there is more than a number and a unit"));
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let are_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let ends_in_dot = number.contains('.') && fraction.is_empty();
    if whole.is_empty() || ends_in_dot || !are_digits(whole) || !are_digits(fraction) || number.len() > DIGITS_MAX {
        return Err(wrong("the number is not decimal"));
    }
    if fraction.len() > decimals {
        return Err(wrong("that is a fraction of a wei"));
    }
    let zeros = "0".repeat(decimals - fraction.len());
    let wei = U256::from_str_radix(&format!("{whole}{fraction}{zeros}"), 10).map_err(|_| wrong("it is too large"))?;
    Ok(Wei(wei.to_be_bytes()))
}

/// The same, of what a unit of gas costs.
pub fn parse_fee(text: &str) -> Result<u128, String> {
    let Wei(bytes) = parse_wei(text)?;
    u128::try_from(U256::from_be_bytes(bytes)).map_err(|_| format!("`{text}` is more than a unit of gas can cost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_every_unit_and_nothing_else_is_one() {
        for (text, wei) in [
            ("0", 0),
            ("7", 7),
            ("7 wei", 7),
            ("200 gwei", 200_000_000_000),
            ("0.5 ether", 500_000_000_000_000_000),
            ("1.000000000000000001 ether", 1_000_000_000_000_000_001),
            ("1.5 gwei", 1_500_000_000),
        ] {
            assert_eq!(parse_wei(text), Ok(Wei::from(wei)), "{text}");
        }
        let most = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        assert_eq!(parse_wei(most), Ok(Wei([0xff; 32])));
        let more = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        for text in ["", "ether", "-1", "+1", "1e18", "0x10", "1 Ether", "1 ether or so", ".5 ether", "1. ether", more]
        {
            assert!(parse_wei(text).is_err(), "{text}");
        }
        assert!(parse_wei("0.5 wei").unwrap_err().contains("a fraction of a wei"));
        assert_eq!(parse_fee("1 gwei"), Ok(1_000_000_000));
        assert!(parse_fee(most).is_err());
    }

    #[test]
    fn selectors_are_four_bytes_or_what_they_are_the_hash_of() {
        let transfer = Ok(Selector::Call([0xa9, 0x05, 0x9c, 0xbb]));
        assert_eq!("0xa9059cbb".parse(), transfer);
        assert_eq!("transfer(address,uint256)".parse(), transfer);
        assert_eq!("".parse(), Ok(Selector::Transfer));
        for text in ["transfer", "0xa9059c", "transfer(address, uint256)", "transfer(address to)", "(address)", "f(x))"]
        {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
        let aliased = "transfer(address,uint)".parse::<Selector>().unwrap_err();
        assert!(aliased.contains("`uint` is short for another type"), "{aliased}");
    }

    #[test]
    fn an_address_with_wrong_capitals_is_mistyped() {
        let right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert!(parse_address(right).is_ok() && parse_address(&right.to_lowercase()).is_ok());
        assert!(parse_address("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD").unwrap_err().contains("EIP-55"));
        assert!(parse_address(&right[2..]).is_err() && parse_address("0x5aAe").is_err());
    }

    #[test]
    fn a_star_stands_for_any_and_a_list_for_itself() {
        assert_eq!(AnyOf::<Target>::of_texts(["*"]), Ok(AnyOf::Any));
        assert_eq!(AnyOf::of_texts(["create"]), Ok(AnyOf::Of(vec![Target::Create])));
        assert_eq!(AnyOf::<Target>::of_texts([]), Ok(AnyOf::Of(Vec::new())));
        assert!(AnyOf::<Target>::of_texts(["*", "nobody"]).is_err());
    }

    #[test]
    fn settings_are_shown_without_what_is_secret() {
        let remote = Remote { url: "https://u:k3y@signer:9000/k3y".into(), accounts: Vec::new(), ca_file: None };
        let password = Some(Zeroizing::new("hunter2".to_owned()));
        let shown = format!("{:?}", Settings { password, remotes: vec![remote], ..Settings::default() });
        assert!(!shown.contains("k3y") && !shown.contains("hunter2"), "{shown}");
    }
}
