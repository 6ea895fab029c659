//! One request: sent, its redirects followed one by one, its answer read up to a limit.
//!
//! Invariant: every URL that is connected to was checked against the allowlist, and every address against what no
//! module reaches. A connection ends with its request, so that there are no more of them than requests under way.
//! Errors say what happened, in the kinds that modules know; they never carry a URL's path or query. What the operator
//! adds to a request on its way out (`credentials`) is for one hop, and in nothing that is answered.

use std::sync::Arc;

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    bounded::{MESSAGE_BYTES_MAX, cut},
    interfaces::http::{
        grant::Allowlist,
        port::{self as http, Fetch, Header, Request, Response, URL_BYTES_MAX},
    },
};
use reqwest::{
    Method, StatusCode,
    header::{self, HeaderValue},
    redirect,
};
use url::Url;

use crate::{
    credentials::{Credentials, Exposed, Via},
    dial::{CHECKED, Checked, Gate},
    ledger::{Ledger, Origin},
    proxy::Proxy,
    tls::{Roots, innermost, what_to_do},
};

/// Longer chains are loops.
const REDIRECTS_MAX: usize = 5;

/// Headers that a redirect to another scheme, host or port takes along. Any other may hold a secret that is meant for the
/// first one alone: servers choose the names of theirs, such as `X-API-Key`.
const PLAIN: [&str; 16] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
    "user-agent",
];
/// Headers that speak of a body that a redirect left behind.
const OF_BODY: [&str; 4] = ["content-type", "content-encoding", "content-language", "content-location"];

pub(crate) fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new("http", kind, message)
}

/// What all requests are sent by.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Why no request over https can be made, if none can.
    no_tls: Option<Arc<str>>,
    gate: Gate,
    pub ledger: Arc<Ledger>,
    credentials: Credentials,
}

impl Client {
    /// The client, which speaks no https where there are no certificates, or none that may be read: nobody needs one
    /// for http.
    pub fn new(
        gate: Gate,
        ledger: Arc<Ledger>,
        roots: Result<Roots, String>,
        credentials: Credentials,
    ) -> Result<Self, reqwest::Error> {
        let builder = || builder(gate.proxy.as_ref());
        let built = roots.and_then(|roots| {
            let builder = match roots {
                Roots::System => builder(),
                Roots::Only(authorities) => builder().tls_certs_only(authorities.certificates()),
            };
            builder.build().map_err(|failed| innermost(&failed))
        });
        let (http, no_tls) = match built {
            Ok(http) => (http, None),
            Err(cause) => (builder().tls_certs_only([]).build()?, Some(cause.into())),
        };
        Ok(Self { http, no_tls, gate, ledger, credentials })
    }

    /// Why no request over https can be made, if none can.
    pub fn no_tls(&self) -> Option<&str> {
        self.no_tls.as_deref()
    }

    /// Refuses what needs TLS where there is none.
    fn can_speak(&self, url: &Url) -> Result<(), HostError> {
        match &self.no_tls {
            Some(cause) if url.scheme() == "https" => {
                Err(error(HostErrorKind::Unavailable, format!("the engine cannot set up TLS: {cause}")))
            }
            _ => Ok(()),
        }
    }
}

/// Proxies of the environment are not used: the way out is the configuration's to say, where everybody sees it.
fn builder(proxy: Option<&Proxy>) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .dns_resolver(Checked)
        // Idle connections are kept per host and port, of which one server has thousands.
        .pool_max_idle_per_host(0)
        // Old servers and devices write lines that are no headers between their headers, and browsers and curl read on. An
        // effect would be sent again and again although it arrived. What a connection goes on with after a head that is
        // read otherwise elsewhere does not matter: nothing does.
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        // A module gets the bytes that it asked for, and says itself what it accepts. Nothing is unpacked here, whatever
        // another crate has this client compiled with.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .user_agent(concat!("nexum/", env!("CARGO_PKG_VERSION")));
    match proxy {
        Some(proxy) => builder.proxy(proxy.dialled()),
        None => builder,
    }
}

/// Carries out a request within its deadline. Of an effect any status is an answer once it has come, with as much of the
/// body as came within the limit and the deadline.
///
/// # Errors
/// `unavailable` without a connection, or without TLS for https, `timeout`, `denied` for what no module reaches, for a
/// redirect to where this one may not go and for a secret that is not its own, `rate-limited` when the module's DNS
/// lookups hang, `invalid-input` for a request that cannot be made or an answer that is too large.
pub(crate) async fn fetch(client: &Client, fetch: Fetch, response_bytes_max: usize) -> Result<Response, HostError> {
    let Fetch { module, library, request, allow, deadline, max_reply_bytes, is_effect } = fetch;
    let limit = max_reply_bytes.min(response_bytes_max);
    let whose = (&module, library.as_ref().unwrap_or(&module));
    let mut trip = Trip::default();
    let done =
        tokio::time::timeout(deadline, follow(client, whose, request, &allow, limit, is_effect, &mut trip)).await;
    let Trip { heard, at, exposed } = trip;
    let received_bytes = heard.as_ref().map_or(0, |heard| heard.body.len());
    let late = |_| error(HostErrorKind::Timeout, format!("no answer within {} ms", deadline.as_millis()));
    let answer = match (done.map_err(late).flatten(), heard) {
        (Err(_), Some(heard)) if is_effect => Ok(exposed.clean(heard, false)),
        (Ok(()), Some(heard)) => Ok(exposed.clean(heard, true)),
        (Ok(()), None) => Err(error(HostErrorKind::Internal, "a request ended without an answer")),
        // Names of hosts and of certificates are servers' to choose.
        (Err(error), _) => {
            let message = cut(exposed.clean_message(&error.message), MESSAGE_BYTES_MAX);
            Err(HostError { message, ..error })
        }
    };
    // What was refused before it went anywhere stands in no origin's account, and no secret in any.
    if let Some(origin) = at {
        client.ledger.ended(&origin, received_bytes, answer.as_ref().err());
    }
    answer
}

/// How far a request has come.
#[derive(Default)]
struct Trip {
    /// The last answer, as far as it came, as the server gave it.
    heard: Option<Response>,
    /// Where it goes, or went last.
    at: Option<Origin>,
    exposed: Exposed,
}

/// `owner` is whom the operator's secrets are for.
async fn follow(
    client: &Client,
    (module, owner): (&Arc<str>, &Arc<str>),
    mut request: Request,
    allow: &Allowlist,
    limit: usize,
    is_effect: bool,
    trip: &mut Trip,
) -> Result<(), HostError> {
    let mut url = http::check(&request.method, &request.url, &request.headers, request.body.as_deref(), allow)?;
    let mut via = Via::Module;
    for _ in 0..=REDIRECTS_MAX {
        trip.at = Some(client.ledger.begun(&url, request.body.as_ref().map_or(0, Vec::len)));
        // After the allowlist: a module is told of TLS only where it may go.
        client.can_speak(&url)?;
        let addresses = client.gate.addresses(module, &url).await?;
        let armed = client.credentials.armed(owner, &request, &url, via, &mut trip.exposed)?;
        let (sent, to) = armed.as_ref().map_or((&request, &url), |(request, url)| (request, url));
        let answer = CHECKED.scope(addresses, send(&client.http, sent, to)).await?;
        // What comes through a tunnel is the server's.
        let proxy = client.gate.proxy.as_ref().filter(|_| url.scheme() == "http");
        if let Some(refusal) = proxy.and_then(|proxy| proxy.refusal(answer.status())) {
            return Err(error(HostErrorKind::Unavailable, refusal));
        }
        let location = answer.headers().get(header::LOCATION);
        match redirected(answer.status(), location, &request.method, to, is_effect)? {
            None => return read(answer, limit, &mut trip.heard).await,
            Some((next, becomes_get)) => {
                if url.origin() != next.origin() && trip.exposed.is_in(next.as_str()) {
                    let message = "redirected to another origin, with a secret of the operator's in its URL";
                    return Err(error(HostErrorKind::Denied, message));
                }
                allow
                    .check(&next)
                    .map_err(|refusal| HostError { message: format!("redirected: {}", refusal.message), ..refusal })?;
                turn(&mut request, &url, &next, becomes_get);
                let is_away = via == Via::CrossOrigin || url.origin() != next.origin();
                via = if is_away { Via::CrossOrigin } else { Via::SameOrigin };
                url = next;
            }
        }
    }
    Err(error(HostErrorKind::Unavailable, format!("more than {REDIRECTS_MAX} redirects")))
}

async fn send(client: &reqwest::Client, request: &Request, url: &Url) -> Result<reqwest::Response, HostError> {
    let invalid = |what: String| error(HostErrorKind::InvalidInput, what);
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|why| invalid(why.to_string()))?;
    let mut out = client.request(method, url.clone());
    for Header { name, value } in &request.headers {
        out = out.header(name, value);
    }
    if let Some(body) = &request.body {
        out = out.body(body.clone());
    }
    out.send().await.map_err(|failed| failure(failed, url))
}

/// Where the answer leads, and whether the method becomes GET there; none when it is the last one.
pub(crate) fn redirected(
    status: StatusCode,
    location: Option<&HeaderValue>,
    method: &str,
    url: &Url,
    keep_method: bool,
) -> Result<Option<(Url, bool)>, HostError> {
    let becomes_get = match status {
        StatusCode::SEE_OTHER => !matches!(method, "GET" | "HEAD"),
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == "POST",
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
        _ => return Ok(None),
    };
    // An empty one would lead to where the answer came from, again and again.
    let location = location.filter(|location| !location.as_bytes().trim_ascii().is_empty());
    let Some(location) = location else { return Ok(None) };
    if becomes_get && keep_method {
        return Ok(None);
    }
    let next = target(url, location.as_bytes())?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(error(HostErrorKind::Denied, format!("redirected from https to {}", next.scheme())));
    }
    Ok(Some((next, becomes_get)))
}

/// The URL that a `Location` names. Servers write any bytes there; those beyond ASCII are percent-encoded, as other
/// clients do. Blanks are encoded by the URL's own rules.
fn target(from: &Url, location: &[u8]) -> Result<Url, HostError> {
    let long = |bytes: usize| {
        let message = format!("redirected to a URL of {bytes} bytes, at most {URL_BYTES_MAX}");
        error(HostErrorKind::Unavailable, message)
    };
    if location.len() > URL_BYTES_MAX {
        return Err(long(location.len()));
    }
    let encoded = |&byte: &u8| match byte.is_ascii() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let text: String = location.iter().map(encoded).collect();
    let next = from
        .join(&text)
        .map_err(|why| error(HostErrorKind::Unavailable, format!("redirected to something that is no URL: {why}")))?;
    match next.as_str().len() {
        bytes if bytes > URL_BYTES_MAX => Err(long(bytes)),
        _ => Ok(next),
    }
}

/// Makes the request that a redirect asks for.
pub(crate) fn turn(request: &mut Request, from: &Url, to: &Url, becomes_get: bool) {
    let is_among = |header: &Header, names: &[&str]| names.iter().any(|name| header.name.eq_ignore_ascii_case(name));
    if becomes_get {
        request.method = "GET".into();
        request.body = None;
        request.headers.retain(|header| !is_among(header, &OF_BODY));
    }
    if from.origin() != to.origin() {
        request.headers.retain(|header| is_among(header, &PLAIN));
    }
}

/// Reads the last answer into `heard`, which holds what came so far when this fails or is dropped.
async fn read(mut answer: reqwest::Response, limit: usize, heard: &mut Option<Response>) -> Result<(), HostError> {
    let url = answer.url().clone();
    let status = answer.status().as_u16();
    let header = |(name, value): (&header::HeaderName, &header::HeaderValue)| Header {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    let headers = answer.headers().iter().map(header).collect();
    let heard = heard.insert(Response { status, headers, body: Vec::new() });
    while let Some(chunk) = answer.chunk().await.map_err(|failed| failure(failed, &url))? {
        let room = limit.saturating_sub(heard.body.len());
        heard.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            let message = format!("the answer's body is larger than the limit of {limit} bytes");
            return Err(error(HostErrorKind::InvalidInput, message).with_code(status.into()));
        }
    }
    Ok(())
}

/// What kept a request from its answer.
fn failure(failed: reqwest::Error, url: &Url) -> HostError {
    let place = url.origin().ascii_serialization();
    let failed = failed.without_url();
    let cause = innermost(&failed);
    let kind = match () {
        () if failed.is_timeout() => HostErrorKind::Timeout,
        () if failed.is_builder() => HostErrorKind::InvalidInput,
        () => HostErrorKind::Unavailable,
    };
    error(kind, format!("{place}: {cause}{}", what_to_do(&cause)))
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr, time::Duration};

    use nexum_host_ifaces::clock::SystemClock;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::watch,
    };

    use super::*;
    use crate::{
        metrics::EgressMetrics,
        names::{LookUp, Resolver},
        networks::Rules,
    };

    /// A client where there is no store of certificates.
    fn without_tls() -> Client {
        let metrics = EgressMetrics::register(&prometheus::Registry::new()).unwrap();
        let nobody: LookUp = Arc::new(|_: &str| -> io::Result<Vec<SocketAddr>> { Err(io::Error::other("no name")) });
        let clock = Arc::new(SystemClock::new());
        let gate = Gate {
            names: Resolver::new(nobody, clock.clone(), &metrics),
            listeners: watch::channel(Vec::new()).1,
            rules: Arc::new(Rules::new(&["127.0.0.0/8".to_owned()], &[]).unwrap()),
            proxy: None,
        };
        let credentials = Credentials::new(Vec::new(), clock.clone());
        Client::new(gate, Arc::new(Ledger::new(clock)), Err("no certificates".into()), credentials).unwrap()
    }

    /// Redirects whoever comes to https.
    async fn to_https() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = b"HTTP/1.1 302 x\r\nlocation: https://127.0.0.1/\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn without_tls_https_fails_with_the_cause_at_every_hop_and_only_where_it_is_allowed() {
        let (client, port) = (without_tls(), to_https().await);
        let told = async |url: &str| {
            let wanted = Fetch {
                module: "m".into(),
                library: None,
                request: Request {
                    method: "GET".into(),
                    url: url.to_owned(),
                    headers: Vec::new(),
                    body: None,
                    timeout_ms: None,
                },
                allow: Arc::new(Allowlist::new(["127.0.0.1".to_owned()])),
                deadline: Duration::from_secs(30),
                max_reply_bytes: 1_000,
                is_effect: false,
            };
            let error = fetch(&client, wanted, 1_000).await.unwrap_err();
            (error.kind.name(), error.message)
        };
        let no_tls = ("unavailable", "the engine cannot set up TLS: no certificates".to_owned());
        assert_eq!(told("https://127.0.0.1/").await, no_tls);
        assert_eq!(told(&format!("http://127.0.0.1:{port}/")).await, no_tls);
        let (kind, message) = told("https://evil.test/").await;
        assert!(kind == "denied" && message.starts_with("host `evil.test` is not allowed"), "{kind}: {message}");
    }

    #[test]
    fn where_a_redirect_leads_is_read_as_other_clients_read_it() {
        let from = Url::parse("https://a.org/dir/page?q=1").unwrap();
        let to = |location: &[u8]| match target(&from, location) {
            Ok(url) => url.to_string(),
            Err(error) => error.message,
        };
        assert_eq!(to(b"https://b.org/x"), "https://b.org/x");
        assert_eq!(to(b"next"), "https://a.org/dir/next");
        assert_eq!(to(b"/top?a=b#part"), "https://a.org/top?a=b#part");
        assert_eq!(to(b"//b.org"), "https://b.org/");
        assert_eq!(to("/b\u{fc}cher?n=\u{fc}".as_bytes()), "https://a.org/b%C3%BCcher?n=%C3%BC");
        // No UTF-8 at all.
        assert_eq!(to(b"/\xfc"), "https://a.org/%FC");
        assert_eq!(to("https://b\u{fc}cher.example/".as_bytes()), "https://xn--bcher-kva.example/");
        assert_eq!(to(b" /a b?c d "), "https://a.org/a%20b?c%20d");
        assert_eq!(to(b"/a%20b"), "https://a.org/a%20b");
        assert_eq!(to(b"https://"), "redirected to something that is no URL: empty host");
        assert_eq!(to(b"https://\xfc/"), "redirected to something that is no URL: invalid international domain name");
        let long = vec![b'x'; URL_BYTES_MAX];
        assert_eq!(to(&long), "redirected to a URL of 8210 bytes, at most 8192");
        assert!(to(&[long, vec![b'x']].concat()).starts_with("redirected to a URL of 8193 bytes"));
    }

    #[test]
    fn a_redirect_to_nowhere_is_the_answer() {
        let from = Url::parse("https://a.org/x").unwrap();
        for location in [None, Some(""), Some(" "), Some("\t ")] {
            let location = location.map(HeaderValue::from_static);
            for status in [StatusCode::FOUND, StatusCode::SEE_OTHER, StatusCode::PERMANENT_REDIRECT] {
                let led = redirected(status, location.as_ref(), "POST", &from, false).unwrap();
                assert_eq!(led, None, "{status} {location:?}");
            }
        }
    }

    #[test]
    fn https_is_not_left_by_a_redirect() {
        let led = |from: &str, location: &'static str| {
            let location = HeaderValue::from_static(location);
            let from = Url::parse(from).unwrap();
            let led = redirected(StatusCode::TEMPORARY_REDIRECT, Some(&location), "GET", &from, false);
            led.map(|next| next.unwrap().0.to_string()).map_err(|error| (error.kind.name(), error.message))
        };
        let refused = Err(("denied", "redirected from https to http".to_owned()));
        assert_eq!(led("https://a.org/x", "http://a.org/x"), refused);
        assert_eq!(led("https://a.org/x", "http://b.org"), refused);
        assert_eq!(led("https://a.org/x", "//b.org/x"), Ok("https://b.org/x".to_owned()));
        assert_eq!(led("http://a.org/x", "https://a.org/x"), Ok("https://a.org/x".to_owned()));
        assert_eq!(led("http://a.org/x", "/y"), Ok("http://a.org/y".to_owned()));
        let refused = Err(("denied", "redirected from https to file".to_owned()));
        assert_eq!(led("https://a.org/x", "file:///etc/passwd"), refused);
    }

    #[test]
    fn secrets_stay_with_the_scheme_host_and_port_that_they_were_meant_for() {
        let names = ["Authorization", "cookie", "X-API-Key", "Accept", "idempotency-key"];
        let kept = |from: &str, to: &str| {
            let headers = names.map(|name| Header { name: name.into(), value: "x".into() }).to_vec();
            let (method, url) = ("GET".into(), from.into());
            let mut request = Request { method, url, headers, body: None, timeout_ms: None };
            turn(&mut request, &Url::parse(from).unwrap(), &Url::parse(to).unwrap(), false);
            let kept: Vec<&str> = request.headers.iter().map(|header| header.name.as_str()).collect();
            assert!(kept == names || kept == names[3..], "{kept:?}");
            kept == names
        };
        assert!(kept("https://a.org/x", "https://a.org:443/y"));
        assert!(kept("http://a.org:8080/x", "http://A.org:8080/y"));
        assert!(!kept("https://a.org/x", "https://b.org/x"));
        assert!(!kept("https://a.org/x", "https://www.a.org/x"));
        assert!(!kept("https://a.org/x", "https://a.org:8443/x"));
        assert!(!kept("http://a.org/x", "https://a.org/x"));
        assert!(!kept("http://a.org:443/x", "https://a.org/x"));
    }
}
