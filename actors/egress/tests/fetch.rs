//! The egress actor against a real server on the loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nexum_egress::{Args, Credential, EgressLimits, EgressMetrics, LookUp, Resolver, Roots, Rules};
use nexum_host_ifaces::{
    HostError,
    clock::SystemClock,
    interfaces::http::{
        grant::Allowlist,
        port::{EgressMsg, Fetch, Header, Request, Response},
    },
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[path = "fetch/gate.rs"]
mod gate;
#[path = "fetch/proxy.rs"]
mod proxy;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

async fn actor(limits: EgressLimits) -> ActorRef<EgressMsg> {
    actor_with(limits, EgressMetrics::register(&prometheus::Registry::new()).unwrap()).await
}

async fn actor_with(limits: EgressLimits, metrics: EgressMetrics) -> ActorRef<EgressMsg> {
    started(args(limits, metrics)).await
}

/// The hosts of these tests.
fn look_up() -> LookUp {
    Arc::new(|name: &str| -> io::Result<Vec<SocketAddr>> {
        match name {
            "localhost" | "localhost." => Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]),
            _ => Err(io::Error::other("no such name")),
        }
    })
}

/// An engine whose modules may reach the loopback, where these tests listen.
fn args(limits: EgressLimits, metrics: EgressMetrics) -> Args {
    let clock = Arc::new(SystemClock::new());
    let names = Resolver::new(look_up(), clock.clone(), &metrics);
    let certificates = Arc::new(|| Ok::<Roots, String>(Roots::System));
    let (listeners, rules) = (watch::channel(Vec::new()).1, rules(&["127.0.0.0/8", "::1"], &[]));
    let credentials = Arc::new(Vec::<Credential>::new);
    Args { limits, clock, metrics, names, listeners, certificates, rules, proxy: None, credentials }
}

fn rules(allow_networks: &[&str], deny: &[&str]) -> Arc<Rules> {
    let owned = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
    Arc::new(Rules::new(&owned(allow_networks), &owned(deny)).unwrap())
}

async fn started(args: Args) -> ActorRef<EgressMsg> {
    let (parent, _) = Actor::spawn(None, Parent, ()).await.unwrap();
    nexum_egress::spawn(args, parent.get_cell()).await.unwrap().0
}

/// A server whose answer depends on the path, and which echoes what it was asked.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, port));
        }
    });
    port
}

async fn serve(mut stream: TcpStream, port: u16) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    // Requests of these tests come with their length, or without a body.
    let complete = |text: &str| {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        (body.len() >= length.map_or(0, |length| length.parse().unwrap())).then_some(())
    };
    while complete(&text).is_none() {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
        }
    }
    let path = text.split([' ', '?']).nth(1).unwrap();
    let redirect = |status: &str, to: &str| format!("HTTP/1.1 {status} x\r\nlocation: {to}\r\n");
    let (head, body) = match path {
        "/hang" => return std::future::pending().await,
        "/drop" => return,
        "/stall" | "/cut" => {
            let _ = stream.write_all(b"HTTP/1.1 201 made\r\ncontent-length: 9\r\n\r\nhalf").await;
            return if path == "/stall" {
                std::future::pending().await
            };
        }
        "/big" => ("HTTP/1.1 200 OK\r\n".to_owned(), "x".repeat(2_000)),
        "/503" => ("HTTP/1.1 503 no\r\nretry-after: 7\r\n".to_owned(), String::new()),
        "/relative" => (redirect("307", "/echo"), String::new()),
        "/other" => (redirect("303", "/echo"), String::new()),
        "/elsewhere" => (redirect("302", &format!("http://localhost:{port}/echo")), String::new()),
        "/forbidden" => (redirect("302", "http://evil.test/"), String::new()),
        "/loop" => (redirect("302", "/loop"), String::new()),
        "/raw" => (redirect("302", "/echo/b\u{fc}cher a?n=\u{fc}#part"), String::new()),
        "/odd" => {
            let lines = "Bad Name: x\r\nno colon\r\nx-del: a\x7fb\r\nx-folded: a\r\n b\r\nX-Spaced : y\r\n";
            (format!("HTTP/1.1 200\r\n{lines}"), "as it is".to_owned())
        }
        "/packed" => ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n".to_owned(), "as it is".to_owned()),
        "/file" => (redirect("302", "file:///etc/passwd"), String::new()),
        "/data" => (redirect("302", "data:text/plain,x"), String::new()),
        "/no-url" => (redirect("302", "http://[::1/"), String::new()),
        path if path.starts_with("/to/") => (redirect("302", &path.replacen("/to/", "http://", 1)), String::new()),
        _ => ("HTTP/1.1 200 OK\r\n".to_owned(), text.clone()),
    };
    let answer = format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn fetch_of(method: &str, url: String) -> Fetch {
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    Fetch {
        module: "m".into(),
        library: None,
        request: Request {
            method: method.into(),
            url,
            headers: vec![header("authorization", "secret"), header("content-type", "text/plain")],
            body: (method == "POST").then(|| b"the body".to_vec()),
            timeout_ms: None,
        },
        allow: Arc::new(Allowlist::new(["127.0.0.1".to_owned(), "localhost".to_owned()])),
        deadline: PATIENCE,
        max_reply_bytes: 1_000,
        is_effect: false,
    }
}

async fn ask(actor: &ActorRef<EgressMsg>, fetch: Fetch) -> Result<Response, HostError> {
    actor.call(|reply| EgressMsg::Fetch { fetch: Box::new(fetch), reply }, Some(PATIENCE)).await.unwrap().unwrap()
}

fn text(response: Response) -> String {
    String::from_utf8(response.body).unwrap()
}

#[tokio::test]
async fn a_request_goes_out_as_it_is_and_any_status_is_an_answer() {
    let (actor, port) = (actor(EgressLimits::default()).await, server().await);
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let echo = text(ask(&actor, fetch_of("POST", url("/echo?q=1"))).await.unwrap());
    assert!(echo.starts_with("POST /echo?q=1 HTTP/1.1\r\n") && echo.ends_with("\r\n\r\nthe body"), "{echo}");
    assert!(echo.contains("authorization: secret") && echo.contains("user-agent: nexum/"), "{echo}");
    let refused = ask(&actor, fetch_of("GET", url("/503"))).await.unwrap();
    assert_eq!(refused.status, 503);
    assert!(!echo.contains("accept-encoding"), "{echo}");
    let packed = ask(&actor, fetch_of("GET", url("/packed"))).await.unwrap();
    assert_eq!(text(packed), "as it is", "what is packed is the module's to unpack");
    assert!(refused.headers.iter().any(|header| header.name == "retry-after" && header.value == "7"));
}

/// An effect that arrived would go out again and again.
#[tokio::test]
async fn lines_that_are_no_headers_keep_no_answer_away() {
    let (actor, port) = (actor(EgressLimits::default()).await, server().await);
    let answer = ask(&actor, fetch_of("POST", format!("http://127.0.0.1:{port}/odd"))).await.unwrap();
    let odd: Vec<_> = answer.headers.iter().filter(|header| header.name.starts_with("x-")).collect();
    let odd: Vec<_> = odd.iter().map(|header| (&*header.name, header.value.split_whitespace().count())).collect();
    assert_eq!(odd, [("x-folded", 2), ("x-spaced", 1)]);
    assert_eq!(text(answer), "as it is");
}

#[tokio::test]
async fn redirects_are_followed_within_the_allowlist_and_leave_secrets_behind() {
    let (actor, port) = (actor(EgressLimits::default()).await, server().await);
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let same = text(ask(&actor, fetch_of("POST", url("/relative"))).await.unwrap());
    assert!(same.starts_with("POST /echo") && same.contains("authorization") && same.ends_with("the body"), "{same}");
    let other = text(ask(&actor, fetch_of("POST", url("/other"))).await.unwrap());
    assert!(other.starts_with("GET /echo") && !other.contains("content-type") && !other.contains("the body"));
    let elsewhere = text(ask(&actor, fetch_of("GET", url("/elsewhere"))).await.unwrap());
    assert!(elsewhere.contains("host: localhost") && !elsewhere.contains("authorization"), "{elsewhere}");

    let forbidden = ask(&actor, fetch_of("GET", url("/forbidden"))).await.unwrap_err();
    assert_eq!(forbidden.kind.name(), "denied");
    assert!(forbidden.message.starts_with("redirected: host `evil.test` is not allowed"), "{}", forbidden.message);
    let long = format!("/to/{}", "a.".repeat(2_000));
    let forbidden = ask(&actor, fetch_of("GET", url(&long))).await.unwrap_err();
    assert!(forbidden.kind.name() == "denied" && forbidden.message.ends_with("bytes cut]"), "{}", forbidden.message);
    assert!(ask(&actor, fetch_of("GET", url("/loop"))).await.unwrap_err().message.contains("5 redirects"));
    let raw = text(ask(&actor, fetch_of("GET", url("/raw"))).await.unwrap());
    assert!(raw.starts_with("GET /echo/b%C3%BCcher%20a?n=%C3%BC HTTP/1.1\r\n"), "{raw}");
    let no_url = ask(&actor, fetch_of("GET", url("/no-url"))).await.unwrap_err();
    assert_eq!(no_url.message, "redirected to something that is no URL: invalid IPv6 address");
    for (path, said) in [
        ("/file", "the URL has the scheme `file`: expected http or https"),
        ("/data", "the URL has the scheme `data`: expected http or https"),
        ("/to/user:word@127.0.0.1/", "the URL carries credentials: put them into a header"),
    ] {
        let refused = ask(&actor, fetch_of("GET", url(path))).await.unwrap_err();
        assert_eq!((refused.kind.name(), refused.message), ("invalid-input", format!("redirected: {said}")), "{path}");
    }
    // An effect that would become another request is answered as it stands.
    let kept = ask(&actor, Fetch { is_effect: true, ..fetch_of("POST", url("/other")) }).await.unwrap();
    assert_eq!(kept.status, 303);
}

#[tokio::test]
async fn secrets_stay_behind_when_a_redirect_leads_to_another_port_of_the_same_host() {
    let (actor, from, to) = (actor(EgressLimits::default()).await, server().await, server().await);
    let follow = async |port: u16| {
        let mut fetch = fetch_of("GET", format!("http://127.0.0.1:{from}/to/127.0.0.1:{port}/echo"));
        fetch.request.headers.push(Header { name: "Cookie".into(), value: "session=1".into() });
        text(ask(&actor, fetch).await.unwrap())
    };
    let same = follow(from).await;
    assert!(same.contains("authorization: secret") && same.contains("cookie: session=1"), "{same}");
    let other = follow(to).await;
    assert!(other.starts_with("GET /echo") && other.contains(&format!("host: 127.0.0.1:{to}")), "{other}");
    assert!(!other.contains("authorization") && !other.contains("cookie"), "{other}");
}

#[tokio::test]
async fn the_engines_own_listeners_are_closed_to_modules_by_whatever_name() {
    let (own, other) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), server().await);
    let listener = own.local_addr().unwrap();
    let metrics = EgressMetrics::register(&prometheus::Registry::new()).unwrap();
    let listeners = watch::channel(vec![listener]).1;
    let actor = started(Args { listeners, ..args(EgressLimits::default(), metrics) }).await;
    let patterns = ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:7f00:1]", "[::]"];
    let allow = Arc::new(Allowlist::new(patterns.map(str::to_owned)));
    let port = listener.port();
    for url in [
        format!("http://127.0.0.1:{port}/metrics"),
        format!("http://localhost:{port}/metrics"),
        format!("http://0x7f.1:{port}/metrics"),
        format!("http://2130706433:{port}/metrics"),
        format!("http://0177.0.0.1:{port}/metrics"),
        format!("http://127.0.0.1.:{port}/metrics"),
        format!("http://%31%32%37.0.0.1:{port}/metrics"),
        format!("http://\u{ff11}\u{ff12}\u{ff17}.0.0.1:{port}/metrics"),
        format!("http://localhost.:{port}/metrics"),
        format!("http://0.0.0.0:{port}/metrics"),
        format!("http://[::ffff:127.0.0.1]:{port}/metrics"),
        format!("http://[::]:{port}/metrics"),
        format!("http://127.0.0.1:{other}/to/127.0.0.1:{port}/metrics"),
        format!("http://127.0.0.1:{other}/to/localhost:{port}/metrics"),
    ] {
        let refused = ask(&actor, Fetch { allow: allow.clone(), ..fetch_of("GET", url.clone()) }).await.unwrap_err();
        assert_eq!(refused.kind.name(), "denied", "{url}: {}", refused.message);
        let said = format!(":{port} is the engine's own listener {listener}, closed to modules");
        assert!(refused.message.ends_with(&said), "{url}: {}", refused.message);
    }
    // Nobody got as far as to connect, and the machine's other servers are reached.
    let waiting = own.into_std().unwrap();
    assert_eq!(waiting.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(ask(&actor, fetch_of("GET", format!("http://localhost:{other}/echo"))).await.unwrap().status, 200);
}

/// A server that would keep its connections for ever, and how many it has.
async fn keeping() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, open) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = open.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, open)
}

/// Waits until a server has no connection any more.
async fn ends(open: &AtomicUsize, what: &str) {
    let ends = async {
        while open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.unwrap_or_else(|_| panic!("the connection is kept: {what}"));
}

/// A server that begins its answer and goes on with the same bytes for as long as somebody listens, and how many do.
async fn endless(begin: &'static str, more: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, open) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = open.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut written = stream.write_all(begin.as_bytes()).await;
                let more = more.repeat(100);
                while written.is_ok() {
                    written = stream.write_all(more.as_bytes()).await;
                }
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, open)
}

#[tokio::test]
async fn an_answer_without_an_end_is_ended_and_so_is_its_connection() {
    let actor = actor(EgressLimits::default()).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = |rest: &str| -> &'static str { format!("{chunked}{rest}").leak() };
    for (begin, more, kind) in [
        ("", "HTTP/1.1 100 Continue\r\n\r\n", "timeout"),
        ("", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", "timeout"),
        ("HTTP/1.1 200 OK\r\n", "a: b\r\n", "unavailable"),
        ("HTTP/1.1 200 OK\r\na: ", "a long header", "unavailable"),
        ("HTTP/1.1 200 OK\r\n\r\n", "body", "invalid-input"),
        (chunked(""), "1\r\nx\r\n", "invalid-input"),
        (chunked("1"), ";extension=x", "unavailable"),
        (chunked("1\r\nx\r\n0\r\n"), "trailer: x\r\n", "unavailable"),
    ] {
        let (port, open) = endless(begin, more).await;
        let url = format!("http://127.0.0.1:{port}/");
        // Those that nothing else ends.
        let deadline = if kind == "timeout" { Duration::from_millis(500) } else { PATIENCE };
        let failed = ask(&actor, Fetch { deadline, ..fetch_of("GET", url) }).await.unwrap_err();
        assert_eq!(failed.kind.name(), kind, "{begin}{more}: {}", failed.message);
        ends(&open, more).await;
    }
}

/// Each port has connections of its own, so that a host with many of them could have any number.
#[tokio::test]
async fn a_connection_ends_with_its_request() {
    let actor = actor(EgressLimits::default()).await;
    for _ in 0..5 {
        let (port, open) = keeping().await;
        let answer = ask(&actor, fetch_of("GET", format!("http://127.0.0.1:{port}/"))).await.unwrap();
        assert_eq!(text(answer), "ok");
        ends(&open, "after an answer").await;
    }
}

#[tokio::test]
async fn what_goes_wrong_has_its_kind() {
    let (actor, port) = (actor(EgressLimits::default()).await, server().await);
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let kind = async |fetch: Fetch| ask(&actor, fetch).await.unwrap_err().kind.name();
    assert_eq!(kind(fetch_of("GET", url("/big"))).await, "invalid-input");
    assert_eq!(kind(fetch_of("GET", url("/drop"))).await, "unavailable");
    assert_eq!(kind(fetch_of("GET", "http://evil.test/".into())).await, "denied");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(kind(fetch_of("GET", format!("http://127.0.0.1:{closed}/"))).await, "unavailable");
    assert_eq!(kind(fetch_of("GET", "http://127.0.0.1:0/".into())).await, "unavailable");
    assert_eq!(kind(fetch_of("GET", "http://[fe80::1%25lo]/".into())).await, "invalid-input");
    let hanging = Fetch { deadline: Duration::from_millis(50), ..fetch_of("GET", url("/hang")) };
    assert_eq!(kind(hanging).await, "timeout");
    let stalling = Fetch { deadline: Duration::from_millis(500), ..fetch_of("GET", url("/stall")) };
    assert_eq!(kind(stalling).await, "timeout", "the body counts, too");
    let allow = Arc::new(Allowlist::new(["none.test".to_owned()]));
    let unknown = ask(&actor, Fetch { allow, ..fetch_of("GET", "http://none.test:81/x".into()) }).await.unwrap_err();
    assert_eq!((unknown.kind.name(), &*unknown.message), ("unavailable", "http://none.test:81: DNS: no such name"));
    let secret = ask(&actor, fetch_of("GET", url("/drop?token=secret"))).await.unwrap_err();
    assert!(!secret.message.contains("secret"), "{}", secret.message);
}

#[tokio::test]
async fn of_an_effect_the_status_counts_and_not_how_much_of_the_body_came() {
    let (actor, port) = (actor(EgressLimits::default()).await, server().await);
    let effect = |path: &str| Fetch { is_effect: true, ..fetch_of("POST", format!("http://127.0.0.1:{port}{path}")) };
    let came = async |fetch: Fetch| ask(&actor, fetch).await.map(|answer| (answer.status, answer.body.len())).unwrap();
    assert_eq!(came(effect("/big")).await, (200, 1_000));
    assert_eq!(came(effect("/cut")).await, (201, 4));
    // Long enough for the status on a loaded machine; the body never ends.
    assert_eq!(came(Fetch { deadline: Duration::from_secs(2), ..effect("/stall") }).await, (201, 4));
    assert_eq!(ask(&actor, effect("/drop")).await.unwrap_err().kind.name(), "unavailable");
}

#[tokio::test]
async fn past_a_bound_requests_are_refused_at_once() {
    let limits = EgressLimits { requests_max: 3, module_requests_max: 2, ..EgressLimits::default() };
    let (actor, port) = (actor(limits).await, server().await);
    let hanging = || fetch_of("GET", format!("http://127.0.0.1:{port}/hang"));
    let other = || Fetch { module: "other".into(), ..hanging() };
    for fetch in [hanging(), hanging(), other()] {
        let (reply, _) = ractor::concurrency::oneshot();
        actor.send_message(EgressMsg::Fetch { fetch: Box::new(fetch), reply: reply.into() }).unwrap();
    }
    let own = ask(&actor, hanging()).await.unwrap_err();
    assert_eq!(
        (own.kind.name(), &*own.message),
        ("rate-limited", "2 requests of module m are under way, which is the limit")
    );
    let all = ask(&actor, other()).await.unwrap_err();
    assert_eq!((all.kind.name(), &*all.message), ("rate-limited", "3 requests are under way, which is the limit"));
    let status = actor.call(EgressMsg::Status, Some(PATIENCE)).await.unwrap().unwrap();
    assert_eq!((status.in_flight, status.requests_total, status.errors_total), (3, 5, 2));
}

/// Requests of an actor that was killed may end after the next one has started.
#[tokio::test]
async fn what_is_under_way_is_counted_over_the_end_of_the_actor() {
    let registry = prometheus::Registry::new();
    let metrics = EgressMetrics::register(&registry).unwrap();
    let under_way = || {
        let families = registry.gather();
        let found = families.iter().find(|family| family.name() == "nexum_egress_in_flight").unwrap();
        found.get_metric()[0].get_gauge().get_value()
    };
    let reaches = async |wanted: f64| {
        let reached = async {
            while under_way() != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{} is not {wanted}", under_way()));
    };
    let (first, port) = (actor_with(EgressLimits::default(), metrics.clone()).await, server().await);
    let hanging = fetch_of("GET", format!("http://127.0.0.1:{port}/hang"));
    let (reply, _) = ractor::concurrency::oneshot();
    first.send_message(EgressMsg::Fetch { fetch: Box::new(hanging), reply: reply.into() }).unwrap();
    reaches(1.0).await;
    let second = actor_with(EgressLimits::default(), metrics).await;
    assert_eq!(under_way(), 1.0);
    first.kill();
    reaches(0.0).await;
    let status = second.call(EgressMsg::Status, Some(PATIENCE)).await.unwrap().unwrap();
    assert_eq!(status.in_flight, 0);
}
