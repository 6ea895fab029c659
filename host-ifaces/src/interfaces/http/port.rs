//! The port of the egress actor, and what a request may look like, for `http.fetch` and for effects of the outbox alike.

use std::{sync::Arc, time::Duration};

use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};
use url::Url;

pub use crate::bindings::nexum::host::http::{Header, Request, Response};
use crate::{
    HostError,
    bounded::{NAME_BYTES_MAX, cut},
    interfaces::http::grant::{Allowlist, invalid},
    ports::Service,
};

/// A longer URL is refused by common servers and proxies.
pub const URL_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request: servers commonly take 100.
pub const HEADERS_MAX: usize = 64;
/// Names and values of a request's headers together: common servers take 8 to 16 KiB.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Body of a direct request. What is larger is an upload, which has interfaces of its own.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The header that a receiver tells repeated requests by. The outbox sets it, within the bounds above.
pub const KEY_HEADER: &str = "Idempotency-Key";

/// The methods a module may use. `CONNECT` and `TRACE` are for proxies.
pub const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Headers that belong to the connection, and are the host's alone.
const RESERVED: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "proxy-authorization",
    "proxy-connection",
];

/// Whether a header can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !name.is_empty() && name.chars().all(token)
}

/// Whether a header can have this value.
pub(crate) fn is_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

/// Whether a header is the host's to set.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// Scheme, host and port of a URL, for lists and limits; paths and queries may hold secrets.
pub fn origin(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "invalid".to_owned(), |url| url.origin().ascii_serialization())
}

/// Whether a request is one that may go out.
///
/// # Errors
/// `invalid-input` with what would be right, `denied` for a host that is not allowed.
pub fn check(
    method: &str,
    url: &str,
    headers: &[Header],
    body: Option<&[u8]>,
    allow: &Allowlist,
) -> Result<Url, HostError> {
    if !METHODS.contains(&method) {
        let named = cut(method, NAME_BYTES_MAX);
        return Err(invalid(format!("method `{named}`: expected one of {}", METHODS.join(", "))));
    }
    if url.len() > URL_BYTES_MAX {
        return Err(invalid(format!("a URL of {} bytes, at most {URL_BYTES_MAX}", url.len())));
    }
    let parsed = Url::parse(url).map_err(|why| invalid(format!("what is given as URL is none: {why}")))?;
    allow.check(&parsed)?;
    if headers.len() > HEADERS_MAX {
        return Err(invalid(format!("{} headers, at most {HEADERS_MAX}", headers.len())));
    }
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(invalid(format!("headers of {bytes} bytes, at most {HEADER_BYTES_MAX}")));
    }
    for Header { name, value } in headers {
        check_name(name)?;
        if !is_value(value) {
            return Err(invalid(format!("header `{name}`: its value has a control character")));
        }
    }
    let body = body.map_or(0, <[u8]>::len);
    if body > BODY_BYTES_MAX {
        return Err(invalid(format!("a body of {body} bytes, at most {BODY_BYTES_MAX}")));
    }
    Ok(parsed)
}

/// Whether a request may have a header of this name.
///
/// # Errors
/// `invalid-input` for what is no name, and for a header of the connection.
pub fn check_name(name: &str) -> Result<(), HostError> {
    if !is_name(name) {
        return Err(invalid(format!("`{name}` is no header name")));
    }
    if is_reserved(name) {
        return Err(invalid(format!("header `{name}` is the host's to set")));
    }
    Ok(())
}

/// One request on its way out. Where the operator's secrets go it has `${secret:NAME}`, also while it is kept and shown:
/// they are put in where it leaves.
#[derive(Debug, Clone)]
pub struct Fetch {
    pub module: Arc<str>,
    /// The library of the module that asks for it, as credentials name it: then it leaves with that one's secrets, and with
    /// none of the module's.
    pub library: Option<Arc<str>>,
    pub request: Request,
    pub allow: Arc<Allowlist>,
    /// From connecting to the last byte of the body, redirects included.
    pub deadline: Duration,
    /// A larger body is an error, unless this is an effect.
    pub max_reply_bytes: usize,
    /// What counts is that the request arrived, and the status says so: of a body that is larger, breaks off or is late,
    /// what came is answered. And no redirect is followed that would change the method, because the answer to another
    /// request says nothing about this one.
    pub is_effect: bool,
}

/// State of the egress actor, for the tree.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EgressStatus {
    pub in_flight: usize,
    pub requests_total: u64,
    /// Requests without an answer.
    pub errors_total: u64,
    pub origins: Vec<OriginStatus>,
}

/// What went to one origin, each redirect counted where it led.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OriginStatus {
    /// Scheme, host and port, or a word for many of them.
    pub name: String,
    pub requests_total: u64,
    /// Those without an answer.
    pub errors_total: u64,
    /// Bodies of requests.
    pub sent_bytes: u64,
    /// Bodies of answers.
    pub received_bytes: u64,
    pub last_error: Option<String>,
    pub last_error_age_ms: Option<u64>,
}

#[derive(Debug)]
pub enum EgressMsg {
    /// Must reply. Any status is an answer; an error says why there was none.
    Fetch { fetch: Box<Fetch>, reply: RpcReplyPort<Result<Response, HostError>> },
    /// Must reply.
    Status(RpcReplyPort<EgressStatus>),
}

impl Service for EgressMsg {
    const NAME: &'static str = "egress";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(method: &str, url: &str, headers: &[(&str, &str)]) -> String {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
        let headers: Vec<_> = headers.iter().map(header).collect();
        check(method, url, &headers, None, &Allowlist::new(["a.org".to_owned()]))
            .map_or_else(|error| error.message, |url| url.to_string())
    }

    #[test]
    fn what_is_wrong_with_a_request_is_said() {
        assert_eq!(refusal("GET", "https://a.org/x", &[("accept", "*/*")]), "https://a.org/x");
        assert!(refusal("TRACE", "https://a.org", &[]).starts_with("method `TRACE`: expected one of GET"));
        assert!(refusal("GET", "a.org/k3y", &[]).starts_with("what is given as URL is none: "));
        assert!(refusal("GET", "https://b.org", &[]).starts_with("host `b.org` is not allowed to this module"));
        assert_eq!(refusal("GET", "https://a.org", &[("Host", "b.org")]), "header `Host` is the host's to set");
        assert_eq!(refusal("GET", "https://a.org", &[("a b", "")]), "`a b` is no header name");
        assert!(refusal("GET", "https://a.org", &[("a", "1\r\nb: 2")]).contains("control character"));
        assert!(refusal(&"G".repeat(1 << 20), "https://a.org", &[]).len() < 256);
        assert!(refusal("GET / HTTP/1.1\r\nHost: b.org\r\n\r\n", "https://a.org", &[]).contains("expected one of GET"));
        assert!(refusal("GET", "https://a.org", &[("a\r\nb", "")]).ends_with("is no header name"));
        assert_eq!(refusal("GET", "https://a.org/x\r\nHost: b.org", &[]), "https://a.org/xHost:%20b.org");
        // What says where a request ends is the host's.
        for name in ["Content-Length", "transfer-encoding", "CONNECTION", "TE", "Trailer", "Upgrade", "HTTP2-Settings"]
        {
            assert_eq!(
                refusal("POST", "https://a.org", &[(name, "1")]),
                format!("header `{name}` is the host's to set")
            );
        }
        assert_eq!(origin("https://hooks.org:444/secret?token=1"), "https://hooks.org:444");
    }

    #[test]
    fn names_of_secrets_may_stand_wherever_they_say_nothing_of_where_a_request_goes() {
        let secret = "${secret:hook}";
        for url in [format!("https://a.org/{secret}"), format!("https://a.org?key={secret}&x")] {
            assert!(refusal("POST", &url, &[("authorization", secret)]).starts_with("https://a.org/"), "{url}");
            assert_eq!(origin(&url), "https://a.org");
        }
        for url in [
            format!("https://{secret}/"),
            format!("https://{secret}.a.org/"),
            format!("https://a.org{secret}/"),
            format!("https://a.org:{secret}/"),
            format!("https://[{secret}]/"),
            format!("https://{secret}@a.org/"),
            format!("https://user:{secret}@a.org/"),
            format!("{secret}://a.org/"),
            format!("https:{secret}/a.org"),
            format!("https:\\\\{secret}\\a.org"),
        ] {
            assert!(!refusal("POST", &url, &[]).starts_with("https:"), "{url}");
        }
        assert!(refusal("GET", "https://a.org", &[(secret, "x")]).ends_with("is no header name"));
    }
}
