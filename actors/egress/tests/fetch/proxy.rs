//! The operator's own way out: a proxy, and certificates of authorities that nobody else knows.

use nexum_egress::{Authorities, Proxy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use super::{
    gate::{allowed, defaults, hosts, named},
    *,
};

/// Vouches for `localhost`, `secure.test` and 127.0.0.1, until 2120.
const AUTHORITY: &[u8] = include_bytes!("tls/authority.pem");
const SERVER: &[u8] = include_bytes!("tls/server.pem");
const SERVER_KEY: &[u8] = include_bytes!("tls/server.key");
/// Of an authority, for `localhost`, until 2120.
const SELF_SIGNED: &[u8] = include_bytes!("tls/self-signed.pem");
const SELF_SIGNED_KEY: &[u8] = include_bytes!("tls/self-signed.key");

/// `me:k3y`, as Basic authentication writes it.
const SIGNED_IN: &str = "proxy-authorization: Basic bWU6azN5";

fn with_authority(args: Args) -> Args {
    let read = || Authorities::parse(AUTHORITY).map(Roots::Only);
    Args { certificates: Arc::new(read), ..args }
}

fn through(port: u16, args: Args) -> Args {
    // The operator's own proxy needs no network to be allowed.
    let proxy = Proxy::parse(&format!("http://me:k3y@127.0.0.1:{port}")).unwrap();
    Args { proxy: Some(proxy), rules: rules(&[], &["denied.test"]), ..args }
}

fn acceptor() -> TlsAcceptor {
    acceptor_with(SERVER, SERVER_KEY)
}

fn acceptor_with(certificate: &[u8], key: &[u8]) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

/// The head of a request.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        let byte = stream.read_u8().await.ok()?;
        text.push(char::from(byte));
    }
    Some(text)
}

/// Answers a request with its head.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Some(head) = head(&mut stream).await else { return };
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{head}", head.len());
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A server over TLS.
async fn secure() -> u16 {
    secure_with(SERVER, SERVER_KEY).await
}

async fn secure_with(certificate: &'static [u8], key: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A client that does not know the authority ends it.
                if let Ok(stream) = acceptor_with(certificate, key).accept(stream).await {
                    echo(stream).await;
                }
            });
        }
    });
    port
}

/// A proxy that is every server itself, but for `closed.test`, and how many came to it.
async fn proxying() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, came) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = came.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Some(asked) = head(&mut stream).await else { return };
                // In a request for a tunnel names are written as in books.
                let signed_in = asked.to_lowercase().contains(&SIGNED_IN.to_lowercase());
                assert!(signed_in, "{asked}");
                let answer = match asked.split(' ').collect::<Vec<_>>()[..2] {
                    ["CONNECT", "closed.test:443"] => "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    ["CONNECT", _] => "HTTP/1.1 200 Connected\r\n\r\n".to_owned(),
                    _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{asked}", asked.len()),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                if asked.starts_with("CONNECT secure.test:443 ") {
                    echo(acceptor().accept(stream).await.unwrap()).await;
                }
            });
        }
    });
    (port, came)
}

#[tokio::test]
async fn the_operators_authorities_vouch_in_place_of_the_systems() {
    let port = secure().await;
    let url = format!("https://localhost:{port}/x?k3y");
    let actor = started(with_authority(named(hosts))).await;
    let answer = text(ask(&actor, allowed(&url)).await.unwrap());
    assert!(answer.starts_with("GET /x?k3y HTTP/1.1\r\n"), "{answer}");
    // The name counts, too.
    let other = ask(&actor, allowed(&format!("https://both.test:{port}/"))).await.unwrap_err();
    assert_eq!(other.kind.name(), "unavailable", "{}", other.message);

    let nobody = Args { certificates: Arc::new(|| Err::<Roots, _>("ca.pem is no file".to_owned())), ..named(hosts) };
    let refused = ask(&started(nobody).await, allowed(&url)).await.unwrap_err();
    assert_eq!(refused.message, "the engine cannot set up TLS: ca.pem is no file");
    let unknown = ask(&started(named(hosts)).await, allowed(&url)).await.unwrap_err();
    assert!(unknown.kind.name() == "unavailable" && !unknown.message.contains("k3y"), "{}", unknown.message);
    // A self-signed certificate that is an authority's.
    let port = secure_with(SELF_SIGNED, SELF_SIGNED_KEY).await;
    let read = || Authorities::parse(SELF_SIGNED).map(Roots::Only);
    let actor = started(Args { certificates: Arc::new(read), ..named(hosts) }).await;
    let told = ask(&actor, allowed(&url)).await.unwrap_err().message;
    assert!(told.ends_with("whom the engine trusts: [egress] ca_file, or the system's store"), "{told}");
    let refused = ask(&actor, allowed(&format!("https://localhost:{port}/"))).await.unwrap_err();
    assert!(refused.message.ends_with("this authority signed, or one without CA:TRUE"), "{}", refused.message);
}

#[tokio::test]
async fn all_requests_go_through_the_proxy_and_its_password_to_nobody_else() {
    let (port, came) = proxying().await;
    let actor = started(through(port, with_authority(named(hosts)))).await;
    for url in ["http://public.test/echo?x", "http://only-the-proxy-knows.test/", "http://8.8.8.8:81/"] {
        let answer = text(ask(&actor, allowed(url)).await.unwrap());
        assert!(answer.starts_with(&format!("GET {url} HTTP/1.1\r\n")), "{answer}");
    }
    let answer = text(ask(&actor, allowed("https://secure.test/x?k3y")).await.unwrap());
    assert!(answer.starts_with("GET /x?k3y HTTP/1.1\r\n") && !answer.contains("proxy-authorization"), "{answer}");
    assert_eq!(came.load(Ordering::SeqCst), 4);

    let refused = ask(&actor, allowed("https://closed.test/")).await.unwrap_err();
    assert_eq!(refused.kind.name(), "unavailable", "{}", refused.message);
    assert!(!refused.message.contains("k3y") && !refused.message.contains("bWU6azN5"), "{}", refused.message);
    let status = actor.call(EgressMsg::Status, Some(PATIENCE)).await.unwrap().unwrap();
    assert!(!format!("{status:?}").contains("bWU6azN5") && !format!("{status:?}").contains("k3y"), "{status:?}");
}

/// What is wrong with the proxy is no answer of the server's, and an effect is tried again.
#[tokio::test]
async fn a_proxy_that_wants_another_password_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if head(&mut stream).await.is_none() {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 407 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
    });
    let actor = started(through(port, with_authority(named(hosts)))).await;
    let shown =
        format!("the proxy http://***@127.0.0.1:{port} wants another user or password: [egress] proxy has them");
    let refused = ask(&actor, allowed("http://public.test/")).await.unwrap_err();
    assert_eq!((refused.kind.name(), refused.message), ("unavailable", shown));
    let tunnel = ask(&actor, allowed("https://secure.test/")).await.unwrap_err();
    assert!(tunnel.kind.name() == "unavailable" && tunnel.message.contains("proxy"), "{}", tunnel.message);
}

/// It would connect to whatever it is asked for.
#[tokio::test]
async fn a_proxy_is_asked_for_nothing_that_modules_may_not_reach() {
    let (port, came) = proxying().await;
    let actor = started(through(port, named(hosts))).await;
    for url in [
        "http://127.0.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://metadata.test/",
        "https://private.test/",
        "http://denied.test/",
        "http://localhost:9090/",
    ] {
        let refused = ask(&actor, allowed(url)).await.unwrap_err();
        assert_eq!(refused.kind.name(), "denied", "{url}: {}", refused.message);
    }
    // An address of which nobody can tell whether it is this machine's, on the port of a listener on all addresses.
    let listeners = watch::channel(vec!["[::]:81".parse().unwrap()]).1;
    let listening = started(through(port, Args { listeners, ..named(hosts) })).await;
    let refused = ask(&listening, allowed("http://[fe80::1]:81/")).await.unwrap_err();
    assert_eq!(refused.kind.name(), "denied", "{}", refused.message);
    assert_eq!(came.load(Ordering::SeqCst), 0);

    let nowhere = Proxy::parse("http://me:k3y@no-such-proxy.test:3128").unwrap();
    let actor = started(Args { proxy: Some(nowhere), ..defaults() }).await;
    let lost = ask(&actor, allowed("http://8.8.8.8/")).await.unwrap_err();
    assert_eq!(lost.kind.name(), "unavailable");
    assert_eq!(lost.message, "the proxy http://no-such-proxy.test:3128: DNS: no such name");
}
