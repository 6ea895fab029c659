//! Requests over TLS that leave with an operator's credential: who gets it, who does not, and by what way.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
};

use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{
    engine::{EGRESS, Engine, Setup, eventually},
    outbox::{CHAIN, EAGER, first_fetch, listed, sender, started},
};

/// Vouches for `localhost`, `secure.test` and 127.0.0.1, until 2120.
const AUTHORITY: &str = include_str!("../../../actors/egress/tests/fetch/tls/authority.pem");
const SERVER: &[u8] = include_bytes!("../../../actors/egress/tests/fetch/tls/server.pem");
const SERVER_KEY: &[u8] = include_bytes!("../../../actors/egress/tests/fetch/tls/server.key");

const SECRET: &str = "k3y-48151623";

/// What a server was asked, head and body.
type Asked = Arc<Mutex<Vec<String>>>;

/// The head and the body of a request.
fn request(stream: &mut impl Read) -> Option<String> {
    let (mut text, mut byte) = (String::new(), [0]);
    let mut missing = None;
    while missing != Some(0) {
        stream.read_exact(&mut byte).ok()?;
        text.push(char::from(byte[0]));
        missing = missing.map(|left: usize| left - 1);
        if missing.is_none() && text.ends_with("\r\n\r\n") {
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            missing = Some(length.map_or(0, |length| length.parse().unwrap()));
        }
    }
    Some(text)
}

/// Answers one request; what asks for `/to/PORT/…` is sent there, over TLS.
fn answer(stream: &mut (impl Read + Write), asked: &Asked) -> Option<()> {
    let text = request(stream)?;
    let to = text.split(' ').nth(1)?.strip_prefix("/to/").map(str::to_owned);
    asked.lock().unwrap().push(text);
    let head = match to {
        Some(to) => format!("HTTP/1.1 307 x\r\nlocation: https://127.0.0.1:{to}\r\ncontent-length: 0\r\n"),
        None => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n".to_owned(),
    };
    let body = if head.ends_with(" 4\r\n") { "took" } else { "" };
    stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).ok()
}

/// Serves every connection to this address of the loopback on a thread of its own; where that is. It ends with the process.
fn serving(address: &str, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// A server over TLS at this address of the loopback.
fn secure(address: &str) -> (u16, Asked) {
    let chain = vec![CertificateDer::from_pem_slice(SERVER).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(SERVER_KEY).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let asked = Asked::default();
    let noted = asked.clone();
    let port = serving(address, move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        // One that does not trust this server asks for nothing.
        if answer(&mut stream, &noted).is_some() {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (port, asked)
}

/// A server without TLS.
fn plain() -> (u16, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let port = serving("127.0.0.1", move |mut stream| {
        let _ = answer(&mut stream, &noted);
    });
    (port, asked)
}

/// A proxy that makes tunnels to this machine, and what it was asked and saw of the clients.
fn tunnels() -> (u16, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let port = serving("127.0.0.1", move |mut stream| {
        let Some(text) = request(&mut stream) else { return };
        let to = text.split(' ').nth(1).unwrap().to_owned();
        let is_tunnel = text.starts_with("CONNECT ");
        noted.lock().unwrap().push(text);
        let Some(mut server) = Some(to).filter(|_| is_tunnel).and_then(|to| TcpStream::connect(to).ok()) else {
            return;
        };
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let (mut from_server, mut to_client) = (server.try_clone().unwrap(), stream.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            noted.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            if server.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    (port, asked)
}

/// An engine that trusts the authority, with a module that sends to this URL and a credential for it besides.
fn sending(url: &str, mode: &str, egress: &str, credential: &str) -> Engine {
    let credential = format!(
        "[[egress.credentials]]\nname = \"hook\"\nhosts = [\"127.0.0.1\", \"127.0.0.2\"]\nmodules = [\"sender\"]\n\
         value = \"file:hook\"\nheader = \"X-Key\"\n{credential}"
    );
    let egress = format!("{EGRESS}ca_file = \"authority.pem\"\n{egress}\n{credential}");
    let setup = Setup::new().mock(31337, CHAIN).with(EAGER).egress(&egress);
    fs::write(setup.dir.path().join("authority.pem"), AUTHORITY).unwrap();
    let file = setup.dir.path().join("hook");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let allow = [("allow = [\"127.0.0.1\"]", "allow = [\"127.0.0.1\", \"127.0.0.2\"]")];
    started(sender(setup, url, mode, &allow))
}

/// The first that a server was asked, once it was asked for anything.
fn first(asked: &Asked) -> String {
    eventually("the server is asked", || asked.lock().unwrap().first().cloned().ok_or_else(|| "nothing yet".to_owned()))
}

fn assert_never_given(asked: &Asked) {
    let asked = asked.lock().unwrap();
    assert!(!asked.iter().any(|text| text.contains(SECRET) || text.contains("x-key")), "{asked:?}");
}

#[test]
fn a_credential_arrives_over_tls_and_goes_no_further() {
    let ((port, asked), (away, elsewhere)) = (secure("127.0.0.1"), secure("127.0.0.1"));
    let engine = sending(&format!("https://127.0.0.1:{port}/hooks"), "keyed", "", "");
    let told =
        eventually("the module is told", || engine.state("sender", "o/").pop().ok_or_else(|| engine.ctl(&["tree"])));
    assert_eq!((&told.1["status"], &told.1["attempts"]), (&"delivered".into(), &1.into()), "{told:?}");
    let got = first(&asked);
    assert!(got.starts_with("POST /hooks/keyed HTTP/1.1\r\n"), "{got}");
    assert!(got.contains(&format!("\r\nx-key: {SECRET}\r\n")) && got.contains("\r\nidempotency-key: block-"), "{got}");
    drop(engine);

    let engine = sending(&format!("https://127.0.0.1:{port}/to/{away}"), "keyed", "", "");
    let got = first(&elsewhere);
    assert!(got.starts_with("POST /keyed HTTP/1.1\r\n") && got.contains("\r\nidempotency-key: block-"), "{got}");
    assert_never_given(&elsewhere);
    assert!(!engine.log_text().contains(SECRET));
}

#[test]
fn a_certificate_of_another_host_or_authority_is_refused_with_the_reason() {
    let (port, asked) = secure("127.0.0.2");
    let url = format!("https://127.0.0.2:{port}");
    let told = first_fetch(&sending(&url, "fetch", "", ""));
    let reason = "certificate not valid for name \"127.0.0.2\"";
    assert!(told.starts_with(&format!("Unavailable: http: {url}: ")) && told.contains(reason), "{told}");
    // An effect is tried again: certificates are put right.
    let engine = sending(&url, "keyed", "", "");
    let again = listed(&engine, "it is tried again", |effect| effect["attempts"].as_u64() > Some(1));
    assert!(again["last_error"].as_str().unwrap().contains(reason), "{again:#}");
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn over_plain_http_a_credential_leaves_when_the_operator_says_so_and_not_before() {
    let (port, asked) = plain();
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(first_fetch(&sending(&url, "fetch", "", "")), "200 took");
    assert_never_given(&asked);
    let named = first_fetch(&sending(&format!("{url}/${{secret:hook}}"), "fetch", "", ""));
    let refused = "Denied: http: `${secret:hook}`: it leaves over https alone, unless `allow_http = true`";
    assert!(named.starts_with(refused), "{named}");
    assert_never_given(&asked);

    asked.lock().unwrap().clear();
    let _engine = sending(&url, "keyed", "", "allow_http = true\n");
    let got = first(&asked);
    assert!(got.starts_with("POST /keyed ") && got.contains(&format!("\r\nx-key: {SECRET}\r\n")), "{got}");
}

#[test]
fn a_tunnel_of_the_operators_proxy_carries_it_and_the_proxy_does_not_see_it() {
    let ((port, asked), (proxy, seen)) = (secure("127.0.0.1"), tunnels());
    let url = format!("https://127.0.0.1:{port}/hooks");
    let engine = sending(&url, "keyed", &format!("proxy = \"http://me:k3y@127.0.0.1:{proxy}\""), "");
    let got = first(&asked);
    assert!(got.starts_with("POST /hooks/keyed HTTP/1.1\r\n"), "{got}");
    assert!(got.contains(&format!("\r\nx-key: {SECRET}\r\n")) && !got.contains("proxy-"), "{got}");
    let tunnel = first(&seen);
    assert!(tunnel.starts_with(&format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n")), "{tunnel}");
    // `me:k3y`
    assert!(tunnel.to_lowercase().contains("\r\nproxy-authorization: basic bwu6azn5\r\n"), "{tunnel}");
    assert_never_given(&seen);
    drop(engine);

    // Without TLS to the server the proxy would have it.
    let ((port, asked), (proxy, seen)) = (plain(), tunnels());
    let egress = format!("proxy = \"http://127.0.0.1:{proxy}\"");
    let _engine = sending(&format!("http://127.0.0.1:{port}"), "keyed", &egress, "");
    assert!(first(&seen).starts_with(&format!("POST http://127.0.0.1:{port}/keyed HTTP/1.1\r\n")));
    assert_never_given(&seen);
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}
