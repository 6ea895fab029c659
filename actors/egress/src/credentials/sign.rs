//! Requests that are signed with an HMAC, as exchanges and receivers of webhooks ask for.
//!
//! What is signed is the request as it leaves, with its secrets, at the time that the clock says then: a redirect and a
//! further attempt are signed anew.

use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use nexum_host_ifaces::HostError;
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512};
use url::{Position, Url};
use zeroize::Zeroizing;

use super::{placeholder::is_name, value::Value};

/// Pieces of a payload. The longest that are in use have ten.
const PARTS_MAX: usize = 64;
const KNOWN: &str = "timestamp, method, host, path, query, path_and_query, body or secret:NAME";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Sha256,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// In small letters.
    Hex,
    /// With padding.
    Base64,
}

/// What a timestamp counts since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    #[default]
    Ms,
    S,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Timestamp,
    Method,
    Host,
    Path,
    Query,
    PathAndQuery,
    Body,
    Secret(String),
}

fn part(name: &str) -> Option<Part> {
    Some(match name {
        "timestamp" => Part::Timestamp,
        "method" => Part::Method,
        "host" => Part::Host,
        "path" => Part::Path,
        "query" => Part::Query,
        "path_and_query" => Part::PathAndQuery,
        "body" => Part::Body,
        name => Part::Secret(name.strip_prefix("secret:").filter(|name| is_name(name.as_bytes()))?.to_owned()),
    })
}

/// What is signed of a request, such as `${timestamp}${method}${path_and_query}${body}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(Vec<Part>);

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let (name, behind) = after.split_once('}').ok_or("has `${` without its `}`")?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(part(name).ok_or_else(|| format!("has `{name}` in `${{…}}`: expected {KNOWN}"))?);
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        match parts.len() {
            0 => Err(format!("is empty: expected what is signed, with ${{…}} for {KNOWN}")),
            1..=PARTS_MAX => Ok(Self(parts)),
            _ => Err(format!("has more than {PARTS_MAX} pieces")),
        }
    }
}

impl Payload {
    /// Whether it has the time, which the other side then has to be told.
    pub fn has_timestamp(&self) -> bool {
        self.0.contains(&Part::Timestamp)
    }

    /// The names of the secrets that it has.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// How requests are signed.
#[derive(Debug, Clone)]
pub struct Signing {
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    pub payload: Payload,
    /// The header that gets the signature.
    pub header: String,
    /// The header that gets the time.
    pub timestamp_header: Option<String>,
    pub timestamp: TimeUnit,
}

/// A request as it is signed.
pub(super) struct Signed<'a> {
    pub method: &'a str,
    pub url: &'a Url,
    pub body: &'a [u8],
    pub timestamp: &'a str,
}

impl Signing {
    /// The time as the other side reads it.
    pub(super) fn timestamp(&self, now_ms: u64) -> String {
        match self.timestamp {
            TimeUnit::Ms => now_ms.to_string(),
            TimeUnit::S => (now_ms / 1000).to_string(),
        }
    }

    /// The signature. `secret` knows what stands for the names in the payload.
    ///
    /// # Errors
    /// Those of `secret`.
    pub(super) fn sign(
        &self,
        key: &Value,
        request: &Signed<'_>,
        secret: impl Fn(&str) -> Result<String, HostError>,
    ) -> Result<String, HostError> {
        let url = request.url;
        let mut payload = Zeroizing::new(Vec::new());
        for part in &self.payload.0 {
            match part {
                Part::Text(text) => payload.extend_from_slice(text.as_bytes()),
                Part::Timestamp => payload.extend_from_slice(request.timestamp.as_bytes()),
                Part::Method => payload.extend_from_slice(request.method.as_bytes()),
                Part::Host => payload.extend_from_slice(url[Position::BeforeHost..Position::AfterPort].as_bytes()),
                Part::Path => payload.extend_from_slice(url.path().as_bytes()),
                Part::Query => payload.extend_from_slice(url.query().unwrap_or_default().as_bytes()),
                Part::PathAndQuery => {
                    payload.extend_from_slice(url[Position::BeforePath..Position::AfterQuery].as_bytes());
                }
                Part::Body => payload.extend_from_slice(request.body),
                Part::Secret(name) => payload.extend_from_slice(Zeroizing::new(secret(name)?).as_bytes()),
            }
        }
        let tag = match self.algorithm {
            Algorithm::Sha256 => tag(Hmac::<Sha256>::new_from_slice(key.bytes()), &payload),
            Algorithm::Sha512 => tag(Hmac::<Sha512>::new_from_slice(key.bytes()), &payload),
        };
        Ok(match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => STANDARD.encode(tag),
        })
    }
}

fn tag<M: Mac, E>(keyed: Result<M, E>, payload: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = keyed else { unreachable!("a key of any length is one for an HMAC") };
    mac.update(payload);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(algorithm: Algorithm, encoding: Encoding, payload: &str) -> Signing {
        let (header, timestamp_header) = ("X-Signature".to_owned(), Some("X-Timestamp".to_owned()));
        Signing {
            algorithm,
            encoding,
            payload: payload.parse().unwrap(),
            header,
            timestamp_header,
            timestamp: TimeUnit::S,
        }
    }

    fn signed(signing: &Signing, key: &[u8]) -> String {
        let url = Url::parse("https://api.example.org:8443/v1/or%20der?b=2&a=1#part").unwrap();
        let (timestamp, body) = (signing.timestamp(1_700_000_000_123), br#"{"a":1}"#);
        let request = Signed { method: "POST", url: &url, body, timestamp: &timestamp };
        let secret = |name: &str| Ok(format!("<{name}>"));
        signing.sign(&Value::key(key.to_vec()).unwrap(), &request, secret).unwrap()
    }

    /// The second of the test cases in RFC 4231.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let of = |algorithm, encoding| signed(&signing(algorithm, encoding, "what do ya want for nothing?"), b"Jefe");
        let sha256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(of(Algorithm::Sha256, Encoding::Hex), sha256);
        assert_eq!(of(Algorithm::Sha256, Encoding::Base64), STANDARD.encode(hex::decode(sha256).unwrap()));
        let sha512 = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
                      caeab1a34d4a6b4b636e070a38bce737";
        assert_eq!(of(Algorithm::Sha512, Encoding::Hex), sha512);
    }

    #[test]
    fn each_name_in_a_payload_stands_for_its_part_of_the_request() {
        let of = |payload: &str| signed(&signing(Algorithm::Sha256, Encoding::Hex, payload), b"key");
        for (payload, text) in [
            ("${timestamp}", "1700000000"),
            ("${method} ${host}", "POST api.example.org:8443"),
            ("${path}", "/v1/or%20der"),
            ("${query}", "b=2&a=1"),
            ("${path_and_query}", "/v1/or%20der?b=2&a=1"),
            ("${body}", "{\"a\":1}"),
            ("${secret:api-key}$", "<api-key>$"),
            ("a${timestamp}${body}b", "a1700000000{\"a\":1}b"),
        ] {
            assert_eq!(of(payload), of(text), "{payload}");
        }
        let mut milliseconds = signing(Algorithm::Sha256, Encoding::Hex, "${timestamp}");
        milliseconds.timestamp = TimeUnit::Ms;
        assert_eq!(signed(&milliseconds, b"key"), of("1700000000123"));
    }

    #[test]
    fn a_payload_that_is_not_understood_is_refused() {
        let refused = |text: &str| text.parse::<Payload>().unwrap_err();
        assert!(refused("").starts_with("is empty: expected what is signed"));
        assert_eq!(refused("${body"), "has `${` without its `}`");
        assert!(refused("${nonce}").starts_with("has `nonce` in `${…}`: expected timestamp, method, "));
        assert!(refused("${secret:}").starts_with("has `secret:` in "));
        assert_eq!(refused(&"${body}".repeat(65)), "has more than 64 pieces");
        let payload: Payload = "${body}${secret:a}${secret:b}".parse().unwrap();
        assert_eq!((payload.secrets().collect::<Vec<_>>(), payload.has_timestamp()), (vec!["a", "b"], false));
    }
}
