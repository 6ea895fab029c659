//! The operator's credentials through the egress actor: they arrive at a real server, and nothing of them comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_egress::{
    Adds, Algorithm, Args, Credential, EgressLimits, EgressMetrics, Encoding, LookUp, Resolver, Roots, Rules, Signing,
    TimeUnit, Value,
};
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
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

const KEY: &str = "T0/B0/s3cr3t-0123456789";

struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

fn credential(name: &str, adds: Adds) -> Credential {
    Credential {
        name: Some(name.to_owned()),
        hosts: Allowlist::new(["127.0.0.1".to_owned()]),
        modules: vec!["m".to_owned()],
        value: Value::text(KEY.as_bytes().to_vec()),
        adds,
        body: false,
        allow_http: true,
    }
}

/// An actor with these credentials, which it asks for when it starts.
async fn actor(credentials: Vec<Credential>) -> ActorRef<EgressMsg> {
    let (parent, _) = Actor::spawn(None, Parent, ()).await.unwrap();
    let metrics = EgressMetrics::register(&prometheus::Registry::new()).unwrap();
    let clock = Arc::new(SystemClock::new());
    let look_up: LookUp = Arc::new(|name: &str| -> io::Result<Vec<SocketAddr>> {
        match name {
            "localhost" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]),
            _ => Err(io::Error::other("no such name")),
        }
    });
    let args = Args {
        limits: EgressLimits::default(),
        clock: clock.clone(),
        names: Resolver::new(look_up, clock, &metrics),
        metrics,
        listeners: watch::channel(Vec::new()).1,
        certificates: Arc::new(|| Ok::<Roots, String>(Roots::System)),
        rules: Arc::new(Rules::new(&["127.0.0.0/8".to_owned(), "::1".to_owned()], &[]).unwrap()),
        proxy: None,
        credentials: Arc::new(move || credentials.clone()),
    };
    nexum_egress::spawn(args, parent.get_cell()).await.unwrap().0
}

/// A server that writes down what it is asked, and repeats it.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` makes the head of an answer of a request; none closes the connection without a word.
    async fn start(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), asked: Arc::default() };
        let (asked, answer) = (server.asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, answer) = (asked.clone(), answer.clone());
                tokio::spawn(async move {
                    let Some(text) = read(&mut stream).await else { return };
                    asked.lock().unwrap().push(text.clone());
                    let Some(head) = answer(&text) else { return };
                    let length = text.len();
                    let answer = format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{text}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        server
    }

    /// One that repeats what it is asked.
    async fn echo() -> Self {
        Self::start(|_| Some("HTTP/1.1 200 OK\r\n".to_owned())).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The one request so far, and forgets it.
    fn asked_once(&self) -> String {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    /// Every request so far, and forgets them.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

async fn read(stream: &mut TcpStream) -> Option<String> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
        }
    }
}

fn fetch(url: String) -> Fetch {
    let request =
        Request { method: "POST".into(), url, headers: Vec::new(), body: Some(b"x".to_vec()), timeout_ms: None };
    Fetch {
        module: "m".into(),
        library: None,
        request,
        allow: Arc::new(Allowlist::new(["127.0.0.1".to_owned(), "localhost".to_owned()])),
        deadline: PATIENCE,
        max_reply_bytes: 10_000,
        is_effect: false,
    }
}

async fn ask(actor: &ActorRef<EgressMsg>, fetch: Fetch) -> Result<Response, HostError> {
    actor.call(|reply| EgressMsg::Fetch { fetch: Box::new(fetch), reply }, Some(PATIENCE)).await.unwrap().unwrap()
}

/// What came back, as text, after a look for the secret in all of it.
fn told(answer: &Result<Response, HostError>) -> String {
    let told = format!("{answer:?}");
    let body = answer.as_ref().map_or_else(|_| String::new(), |answer| String::from_utf8(answer.body.clone()).unwrap());
    assert!(!told.contains("s3cr3t") && !body.contains("s3cr3t"), "{told}\n{body}");
    format!("{told}{body}")
}

#[tokio::test]
async fn a_secret_arrives_and_an_echo_of_it_does_not_come_back() {
    let all = vec![
        Credential { body: true, ..credential("hook", Adds::Nothing) },
        credential("auth", Adds::Header("X-Auth".into())),
    ];
    let (actor, server) = (actor(all).await, Server::echo().await);
    let mut wanted = fetch(server.url("/services/${secret:hook}?q=${secret:hook}"));
    wanted.request.headers.push(Header { name: "X-Own".into(), value: "key ${secret:hook}".into() });
    wanted.request.body = Some(b"{\"key\":\"${secret:hook}\"}".to_vec());
    let answer = ask(&actor, wanted).await;
    let asked = server.asked_once();
    assert!(asked.starts_with("POST /services/T0/B0/s3cr3t-0123456789?q=T0%2FB0%2Fs3cr3t-0123456789 HTTP"), "{asked}");
    assert!(
        asked.contains(&format!("x-auth: {KEY}\r\n")) && asked.contains(&format!("x-own: key {KEY}\r\n")),
        "{asked}"
    );
    assert!(asked.ends_with(&format!("\r\n\r\n{{\"key\":\"{KEY}\"}}")), "{asked}");
    let told = told(&answer);
    assert!(told.contains("POST /services/***?q=*** HTTP") && told.contains("{\"key\":\"***\"}"), "{told}");
}

#[tokio::test]
async fn nothing_is_sent_with_a_name_that_stands_for_no_secret() {
    let (actor, server) = (actor(vec![credential("hook", Adds::Header("X-Auth".into()))]).await, Server::echo().await);
    let mut refused = vec![fetch(server.url("/${secret:other}")), fetch(server.url("/"))];
    refused[1].request.headers.push(Header { name: "x-auth".into(), value: "own".into() });
    let to_another = server.url("/${secret:hook}").replace("127.0.0.1", "localhost");
    refused.extend([fetch(to_another), Fetch { module: "n".into(), ..fetch(server.url("/${secret:hook}")) }]);
    for wanted in refused {
        let answer = ask(&actor, wanted).await;
        let told = told(&answer);
        let error = answer.unwrap_err();
        assert_eq!(error.kind.name(), "denied", "{told}");
        assert!(error.message.contains("[[egress.credentials]]"), "{told}");
    }
    assert_eq!(server.asked(), Vec::<String>::new());
}

/// Another port is another origin, and the server there another one.
#[tokio::test]
async fn a_redirect_to_another_origin_carries_nothing_of_it() {
    let other = Server::echo().await;
    let (port, away) = (other.port, "localhost");
    let first = Server::start(move |text| {
        let path = text.split(' ').nth(1).unwrap();
        let to = match path.split('/').nth(1).unwrap() {
            "plain" => format!("http://{away}:{port}/plain"),
            "same" => "/echo".to_owned(),
            "deeper" => format!("{path}/").replace("/deeper/", "/echo/"),
            "kept" => format!("http://{away}:{port}{path}"),
            "host" => format!("http://{}.evil.test/", path.rsplit('/').next().unwrap()),
            _ => return Some("HTTP/1.1 200 OK\r\n".to_owned()),
        };
        Some(format!("HTTP/1.1 307 x\r\nlocation: {to}\r\n"))
    })
    .await;
    let actor = actor(vec![credential("hook", Adds::Nothing), credential("auth", Adds::Header("X-Auth".into()))]).await;
    // The header is of the first host alone.
    told(&ask(&actor, fetch(first.url("/plain"))).await);
    let asked = other.asked_once();
    assert!(asked.starts_with("POST /plain") && !asked.contains("s3cr3t") && !asked.contains("x-auth"), "{asked}");
    assert!(first.asked_once().contains(&format!("x-auth: {KEY}")));
    // Within the origin it is there again, and so is what the server put into the URL.
    told(&ask(&actor, fetch(first.url("/same"))).await);
    assert!(first.asked()[1].contains(&format!("x-auth: {KEY}")));
    told(&ask(&actor, fetch(first.url("/deeper/${secret:hook}"))).await);
    assert!(first.asked()[1].starts_with(&format!("POST /echo/{KEY}/ HTTP")));
    // A server that sends the whole URL elsewhere.
    let kept = ask(&actor, fetch(first.url("/kept/${secret:hook}"))).await;
    told(&kept);
    let refused = "redirected to another origin, with a secret of the operator's in its URL";
    assert_eq!((kept.as_ref().unwrap_err().kind.name(), &*kept.unwrap_err().message), ("denied", refused));
    let host = ask(&actor, fetch(first.url("/host/${secret:hook}"))).await;
    told(&host);
    assert_eq!(host.unwrap_err().kind.name(), "denied");
    // A header that names a secret goes to hosts of it alone.
    let mut named = fetch(first.url("/plain"));
    named.request.headers.push(Header { name: "User-Agent".into(), value: "${secret:hook}".into() });
    let named = ask(&actor, named).await.unwrap_err();
    let message = "`${secret:hook}`: it is not for host `localhost` ([[egress.credentials]])";
    assert_eq!((named.kind.name(), &*named.message), ("denied", message));
    assert_eq!(other.asked(), Vec::<String>::new());
}

/// Sends whoever asks for `/to/PORT/…` there.
fn forwarding(text: &str) -> Option<String> {
    let path = text.split(' ').nth(1).unwrap();
    Some(match path.strip_prefix("/to/") {
        Some(to) => format!("HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:{to}\r\n"),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    })
}

/// Its hosts are names, and any port of one may be another server's.
#[tokio::test]
async fn a_redirect_to_another_port_of_its_host_carries_nothing_of_it_and_nothing_back() {
    let (first, other) = (Server::start(forwarding).await, Server::start(forwarding).await);
    let hook = Credential { body: true, ..credential("hook", Adds::Nothing) };
    let actor = actor(vec![hook, credential("auth", Adds::Header("X-Auth".into()))]).await;
    let mut wanted = fetch(first.url(&format!("/to/{}/to/{}/echo", other.port, first.port)));
    wanted.request.body = Some(b"${secret:hook}".to_vec());
    told(&ask(&actor, wanted).await);
    let (at_first, at_other) = (first.asked(), other.asked_once());
    assert!(at_first[0].contains(&format!("x-auth: {KEY}")) && at_first[0].ends_with(KEY), "{at_first:?}");
    // The other one says what is asked of the first one then.
    for away in [&at_other, &at_first[1]] {
        assert!(!away.contains("s3cr3t") && !away.contains("x-auth") && away.ends_with("${secret:hook}"), "{away}");
    }
    let mut named = fetch(first.url(&format!("/to/{}/echo", other.port)));
    named.request.headers.push(Header { name: "User-Agent".into(), value: "${secret:hook}".into() });
    let refused = ask(&actor, named).await.unwrap_err();
    let message =
        "`${secret:hook}`: a redirect led to another origin, and it stays with the first one ([[egress.credentials]])";
    assert_eq!((refused.kind.name(), &*refused.message), ("denied", message));
    assert_eq!(other.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn of_an_effect_a_location_and_a_cut_body_have_nothing_of_it() {
    let server = Server::start(|text| {
        let path = text.split(' ').nth(1).unwrap();
        Some(format!("HTTP/1.1 303 x\r\nlocation: {path}/next\r\n"))
    })
    .await;
    let actor = actor(vec![credential("hook", Adds::Nothing)]).await;
    let effect = |limit: usize| Fetch {
        is_effect: true,
        max_reply_bytes: limit,
        ..fetch(server.url("/services/${secret:hook}"))
    };
    let answer = ask(&actor, effect(10_000)).await;
    told(&answer);
    let answer = answer.unwrap();
    assert!(answer.headers.iter().any(|header| header.name == "location" && header.value == "/services/***/next"));
    // "POST /services/" has 15 bytes: wherever the body is cut, no piece of the secret is left.
    for limit in 16..15 + KEY.len() {
        let answer = ask(&actor, effect(limit)).await.unwrap();
        assert_eq!(String::from_utf8(answer.body).unwrap(), "POST /services/", "{limit}");
    }
}

#[tokio::test]
async fn no_error_has_it() {
    let silent = Server::start(|_| None).await;
    // Connected to, and answered by nobody.
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow_url = |path: &str| format!("http://{}{path}", slow.local_addr().unwrap());
    let actor = actor(vec![credential("hook", Adds::Header("X-Auth".into()))]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = "/${secret:hook}?q=${secret:hook}";
    for (wanted, kind) in [
        (fetch(silent.url(url)), "unavailable"),
        (fetch(format!("http://127.0.0.1:{closed}{url}")), "unavailable"),
        (Fetch { deadline: Duration::from_millis(50), ..fetch(slow_url(url)) }, "timeout"),
    ] {
        let answer = ask(&actor, wanted).await;
        told(&answer);
        assert_eq!(answer.unwrap_err().kind.name(), kind);
    }
}

#[tokio::test]
async fn a_signature_arrives_and_its_key_does_not() {
    let signing = Signing {
        algorithm: Algorithm::Sha512,
        encoding: Encoding::Base64,
        payload: "${timestamp}${body}".parse().unwrap(),
        header: "X-Signature".into(),
        timestamp_header: Some("X-Timestamp".into()),
        timestamp: TimeUnit::S,
    };
    let actor = actor(vec![credential("key", Adds::Signature(signing))]).await;
    let server = Server::echo().await;
    ask(&actor, fetch(server.url("/order"))).await.unwrap();
    let asked = server.asked_once();
    let header = |name: &str| {
        let line = asked.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {asked}")).to_owned()
    };
    // 64 bytes, and seconds.
    assert_eq!((header("x-signature: ").len(), header("x-timestamp: ").len()), (88, 10));
    assert!(!asked.contains("s3cr3t"), "{asked}");
}

#[tokio::test]
async fn a_library_of_a_module_leaves_with_its_own_secrets_and_none_of_the_modules() {
    let of_library = Credential { modules: vec!["library:cow".into()], ..credential("key", Adds::Nothing) };
    let (actor, server) = (actor(vec![credential("hook", Adds::Nothing), of_library]).await, Server::echo().await);
    let library = |url: &str| Fetch { library: Some("library:cow".into()), ..fetch(server.url(url)) };
    told(&ask(&actor, library("/${secret:key}")).await);
    assert!(server.asked_once().contains(KEY.rsplit('/').next().unwrap()));
    for (refused, whose) in [
        (library("/${secret:hook}"), "it is not for library cow"),
        (fetch(server.url("/${secret:key}")), "it is not for module m"),
    ] {
        let error = ask(&actor, refused).await.unwrap_err();
        assert!(error.kind.name() == "denied" && error.message.contains(whose), "{}", error.message);
    }
    assert_eq!(server.asked(), Vec::<String>::new());
}
