//! The port of the egress actor, the allowlist of hosts, and the guest-facing `http` interface over them.
//!
//! What a request may look like and where it may go is decided here, once, for `http.fetch`, for effects of the outbox
//! and for every redirect.

mod patience;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

pub use patience::retry_after;
use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

pub use crate::bindings::nexum::host::http::{Header, Request, Response};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::http,
    bounded::{NAME_BYTES_MAX, cut},
    host::HostState,
};

/// A longer URL is refused by common servers and proxies.
pub const URL_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request: servers commonly take 100.
pub const HEADERS_MAX: usize = 64;
/// Names and values of a request's headers together: common servers take 8 to 16 KiB.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Body of a direct request. What is larger is an upload, which has interfaces of its own.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a part of a host's name between two dots may have, and the whole name, as DNS has it.
const LABEL_BYTES_MAX: usize = 63;
const HOST_BYTES_MAX: usize = 253;

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

fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new("http", kind, message)
}

fn invalid(message: impl Into<String>) -> HostError {
    error(HostErrorKind::InvalidInput, message)
}

/// A host as it is compared and shown: lower case, other scripts as `xn--`, addresses in their usual form, and a name
/// without the final dot, with which it is the same name. The rest is done by whatever parsed it, as `url` does.
fn canonical<S: AsRef<str>>(host: &Host<S>) -> String {
    let mut text = host.to_string();
    if matches!(host, Host::Domain(_)) && text.ends_with('.') {
        text.pop();
    }
    text
}

/// An entry of an allowlist as hosts of requests are compared with it: `*.suffix`, or one host.
///
/// # Errors
/// That it stands for no host, and what would be right where that can be told.
pub fn pattern(text: &str) -> Result<String, String> {
    read_pattern(text).ok_or_else(|| {
        let meant = several(text).or_else(|| meant(text.trim()).map(|meant| format!("`{meant}`")));
        let meant = meant.map_or_else(String::new, |meant| format!("; write {meant}"));
        format!("`{text}`: expected an exact host, or *.suffix, without scheme, port and path{meant}")
    })
}

fn read_pattern(text: &str) -> Option<String> {
    let text = text.trim();
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |suffix| ("*.", suffix));
    // The brackets of an address are for URLs, where a port may follow.
    let host = name.parse::<Ipv6Addr>().map(Host::Ipv6).or_else(|_| Host::parse(name)).ok()?;
    let shown = canonical(&host);
    let is_usable = match host {
        Host::Domain(_) => is_name(&shown),
        // `*.0.0.1` must not stand for addresses, and what is no number must not be taken for a 0.
        Host::Ipv4(_) => star.is_empty() && !name.split('.').any(|part| part.eq_ignore_ascii_case("0x")),
        Host::Ipv6(_) => star.is_empty(),
    };
    is_usable.then(|| format!("{star}{shown}"))
}

/// Whether a host can have this name: URLs may have others, which no server answers to.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= HOST_BYTES_MAX && name.split('.').all(is_label)
}

/// The entries of somebody who wrote them into one.
fn several(text: &str) -> Option<String> {
    let parts = text.split([',', ';']).filter(|part| !part.trim().is_empty());
    let entries: Vec<String> = parts.map(read_pattern).collect::<Option<_>>()?;
    let quoted: Vec<String> = entries.iter().map(|entry| format!("`{entry}`")).collect();
    let count = if entries.len() == 2 { "two".to_owned() } else { entries.len().to_string() };
    (entries.len() > 1).then(|| format!("{count} entries: {}", quoted.join(", ")))
}

/// The entry that somebody may have meant who wrote something else.
fn meant(text: &str) -> Option<String> {
    let below = text.strip_prefix(['.', '*']).and_then(|suffix| read_pattern(&format!("*.{suffix}")));
    below.or_else(|| {
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("https://{text}")) };
        let host = url.as_ref().ok()?.host_str()?;
        // An address that nobody wrote is not what was meant.
        if host.parse::<Ipv4Addr>().is_ok() && !text.contains(host) { None } else { read_pattern(host) }
    })
}

/// The hosts that a manifest allows: exact names, or `*.suffix`, which leaves out the suffix itself. Any port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allowlist(Vec<String>);

impl Allowlist {
    /// The list of these patterns, each as `pattern` answers it.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        Self(patterns.into_iter().collect())
    }

    fn allows(&self, host: &Host<&str>) -> bool {
        let name = canonical(host);
        self.0.iter().any(|pattern| match (pattern.strip_prefix('*'), host) {
            (Some(suffix), Host::Domain(_)) => name.len() > suffix.len() && name.ends_with(suffix),
            (Some(_), _) => false,
            (None, _) => name == *pattern,
        })
    }

    /// Whether it allows no host at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns that stand for a host which none of another list's patterns stands for.
    pub fn beyond(&self, other: &Self) -> Vec<&str> {
        let covers = |wide: &str, pattern: &str| match wide.strip_prefix('*') {
            // The suffix that a narrower pattern leaves out is one that the wider one has.
            Some(suffix) if pattern.starts_with('*') => pattern.ends_with(suffix),
            Some(_) => Host::parse(pattern).is_ok_and(|host| Self(vec![wide.to_owned()]).allows(&borrowed(&host))),
            None => wide == pattern,
        };
        let known = |pattern: &&str| !other.0.iter().any(|wide| covers(wide, pattern));
        self.0.iter().map(String::as_str).filter(known).collect()
    }

    /// Whether a request may go to this URL, first or by a redirect.
    ///
    /// # Errors
    /// `invalid-input` when it is no plain http or https URL, `denied` when its host is not on the list.
    pub fn check(&self, url: &Url) -> Result<(), HostError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid(format!("the URL has the scheme `{}`: expected http or https", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("the URL carries credentials: put them into a header"));
        }
        let host = url.host().ok_or_else(|| invalid("the URL has no host"))?;
        if self.allows(&host) {
            return Ok(());
        }
        let (name, hint) = (canonical(&host), "add it to [capabilities.http] allow in the manifest");
        Err(error(HostErrorKind::Denied, format!("host `{name}` is not allowed to this module: {hint}")))
    }
}

fn borrowed(host: &Host) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    }
}

impl fmt::Display for Allowlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
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
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(invalid(format!("`{name}` is no header name")));
        }
        if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(invalid(format!("header `{name}` is the host's to set")));
        }
        if value.bytes().any(|byte| byte != b'\t' && (byte < 0x20 || byte == 0x7f)) {
            return Err(invalid(format!("header `{name}`: its value has a control character")));
        }
    }
    let body = body.map_or(0, <[u8]>::len);
    if body > BODY_BYTES_MAX {
        return Err(invalid(format!("a body of {body} bytes, at most {BODY_BYTES_MAX}")));
    }
    Ok(parsed)
}

/// One request on its way out.
#[derive(Debug, Clone)]
pub struct Fetch {
    pub module: Arc<str>,
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
}

#[derive(Debug)]
pub enum EgressMsg {
    /// Must reply. Any status is an answer; an error says why there was none.
    Fetch { fetch: Box<Fetch>, reply: RpcReplyPort<Result<Response, HostError>> },
    /// Must reply.
    Status(RpcReplyPort<EgressStatus>),
}

impl http::Host for HostState {
    async fn fetch(&mut self, request: Request) -> Result<Response, HostError> {
        // Charged first: a call over the limit has brought its arguments, too.
        let carried = weight(&request.headers, request.body.as_deref().unwrap_or_default());
        self.meter.take(request.method.len() + request.url.len() + carried);
        self.count_host_call("http")?;
        check(&request.method, &request.url, &request.headers, request.body.as_deref(), self.grants.hosts())?;
        let limit = self.limits.host_call_deadline;
        let deadline = request.timeout_ms.map_or(limit, |ms| limit.min(Duration::from_millis(ms.into())));
        let asked = self.tape.ask("http.fetch", &request);
        let fetch = Box::new(Fetch {
            module: self.module.clone(),
            request,
            allow: self.grants.hosts().clone(),
            deadline,
            max_reply_bytes: self.limits.max_reply_bytes,
            is_effect: false,
        });
        let egress = self.egress.clone();
        let live = async {
            let answer = egress.call(deadline, |reply| EgressMsg::Fetch { fetch, reply }).await;
            answer.map_err(|error| error.to_host_error("http"))?
        };
        let response = self.reach(asked, "http", live).await?;
        self.meter.give(weight(&response.headers, &response.body));
        Ok(response)
    }
}

/// What headers and a body take, bytes. Headers without a character take something, too.
fn weight(headers: &[Header], body: &[u8]) -> usize {
    let text: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    size_of_val(headers) + text + body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(patterns: &[&str]) -> Allowlist {
        Allowlist::new(patterns.iter().map(|text| pattern(text).unwrap()))
    }

    fn refusal(method: &str, url: &str, headers: &[(&str, &str)]) -> String {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
        let headers: Vec<_> = headers.iter().map(header).collect();
        check(method, url, &headers, None, &allow(&["a.org"])).map_or_else(|error| error.message, |url| url.to_string())
    }

    /// What the fuzzer begins with, and what it found.
    #[test]
    fn an_entry_that_is_taken_allows_the_host_that_it_names() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/fuzz/corpus/allow");
        let mut taken = 0;
        for file in std::fs::read_dir(corpus).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let Ok(entry) = pattern(&text) else { continue };
            assert_eq!(pattern(&entry).as_deref(), Ok(&*entry), "{text:?}");
            let host = entry.strip_prefix("*.").map_or_else(|| entry.clone(), |suffix| format!("a.{suffix}"));
            let url = Url::parse(&format!("https://{host}/")).unwrap();
            assert!(Allowlist::new([entry]).check(&url).is_ok(), "{text:?}");
            taken += 1;
        }
        assert!(taken > 5);
    }

    #[test]
    fn hosts_are_exact_or_below_a_suffix() {
        let list = allow(&["api.cow.fi", "*.Example.org", "127.0.0.1"]);
        let allowed = |url: &str| list.check(&Url::parse(url).unwrap()).is_ok();
        for url in [
            "https://api.cow.fi/x",
            "http://API.cow.fi:8080",
            "https://a.example.org",
            "https://a.b.example.org",
            "http://127.0.0.1:9",
            "https://api.cow.fi.",
        ] {
            assert!(allowed(url), "{url}");
        }
        for url in [
            "https://cow.fi",
            "https://x.api.cow.fi",
            "https://example.org",
            "https://evilexample.org",
            "https://api.cow.fi.evil.org",
            "http://128.0.0.1",
            "http://[::1]/",
            "ftp://api.cow.fi",
            "https://user@api.cow.fi",
            "https://example.org.",
        ] {
            assert!(!allowed(url), "{url}");
        }
    }

    #[test]
    fn an_entry_is_taken_as_it_is_written_or_refused_with_what_would_be_right() {
        for (text, taken, url) in [
            ("API.Cow.fi", "api.cow.fi", "https://api.cow.fi/"),
            (" api.cow.fi\t", "api.cow.fi", "https://api.cow.fi/"),
            ("api.cow.fi.", "api.cow.fi", "https://api.cow.fi/"),
            ("*.Cow.fi.", "*.cow.fi", "https://api.cow.fi./"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example", "https://B\u{dc}CHER.example/"),
            ("*.b\u{fc}cher.example", "*.xn--bcher-kva.example", "https://a.xn--bcher-kva.example/"),
            ("localhost", "localhost", "http://LOCALHOST:80/"),
            ("127.1", "127.0.0.1", "http://127.0.0.1/"),
            ("0x7f.1", "127.0.0.1", "http://0177.1/"),
            ("[::1]", "[::1]", "http://[0:0::1]:8080/"),
            ("::1", "[::1]", "http://[::1]/"),
            ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "http://[::ffff:127.0.0.1]/"),
        ] {
            assert_eq!(pattern(text).as_deref(), Ok(taken));
            assert_eq!(pattern(taken).as_deref(), Ok(taken));
            allow(&[text]).check(&Url::parse(url).unwrap()).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        }
        for (text, right) in [
            ("host.example:8443", Some("host.example")),
            ("https://host.example/", Some("host.example")),
            ("https://me@HOST.example:1/x?y", Some("host.example")),
            ("host.example/api", Some("host.example")),
            ("[::1]:8080", Some("[::1]")),
            (".example.com", Some("*.example.com")),
            ("*example.com", Some("*.example.com")),
            ("https://*.example.com/", Some("*.example.com")),
            ("*.example.com:443", Some("*.example.com")),
            ("*", None),
            ("*.", None),
            ("*.*.example.com", None),
            ("a*.example.com", None),
            ("*.0.0.1", None),
            ("*.[::1]", None),
            ("256.0.0.1", None),
            ("a..example.com", None),
            ("a b.example", None),
            ("", None),
            (".", None),
        ] {
            let hint = right.map_or_else(String::new, |right| format!("; write `{right}`"));
            let refused = format!("`{text}`: expected an exact host, or *.suffix, without scheme, port and path{hint}");
            assert_eq!(pattern(text), Err(refused));
        }
    }

    #[test]
    fn an_entry_is_one_name_that_a_host_can_have() {
        let label = "a".repeat(63);
        let long = [&*label, &label, &label, &"a".repeat(61)].join(".");
        for text in [&*format!("{label}.org"), &long, &format!("*.{long}"), "_dmarc.a-b.org", "xn--bcher-kva.example"] {
            assert_eq!(pattern(text).as_deref(), Ok(text));
        }
        let refused = |text: &str| pattern(text).unwrap_err();
        assert!(refused("a.org,b.org").ends_with("and path; write two entries: `a.org`, `b.org`"));
        assert!(refused("a.org, *.B.org; 127.1,").ends_with("; write 3 entries: `a.org`, `*.b.org`, `127.0.0.1`"));
        let wrong = format!(
            "a{label}.org|a{long}|-a.org|a-.org|*.-a.org|a.org-|a!b.org|a$b.org|a(b).org|a'b.org|a.org%2Cb.org|a+b.org|\
             a~b.org|,|a.org,b c|0x|0X|0x.1|1.0x"
        );
        for text in wrong.split('|') {
            assert!(refused(text).ends_with("without scheme, port and path"), "{}", refused(text));
        }
        assert!(pattern("0x0").is_ok());
    }

    #[test]
    fn a_list_goes_beyond_another_by_what_no_pattern_of_it_covers() {
        let old = allow(&["api.cow.fi", "*.example.org"]);
        let beyond = |patterns: &[&str]| allow(patterns).beyond(&old).join(" ");
        assert_eq!(beyond(&["API.cow.fi", "*.example.org", "a.b.example.org", "*.b.example.org"]), "");
        assert_eq!(beyond(&["cow.fi", "*.cow.fi", "api.cow.fi"]), "cow.fi *.cow.fi");
        // A suffix leaves itself out, and stands for no address.
        assert_eq!(beyond(&["example.org", "*.org", "*.xexample.org"]), "example.org *.org *.xexample.org");
        assert_eq!(beyond(&["127.0.0.1"]), "127.0.0.1");
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
}
