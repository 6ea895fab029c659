//! Where modules may send to and by what way, as the operator has it, through the real binary.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use super::{
    engine::{EGRESS, Engine, Setup, eventually},
    outbox::{CHAIN, first_fetch, listed, sender, started},
    receiver::Receiver,
};

/// An engine with a module that makes a request to this URL over and over, as its manifest allows it.
fn fetching(url: &str, host: &str, egress: &str) -> Engine {
    let allow = format!("allow = [\"{host}\"]");
    let setup = Setup::new().mock(31337, CHAIN).egress(egress);
    started(sender(setup, url, "fetch", &[("allow = [\"127.0.0.1\"]", &*allow)]))
}

#[test]
fn a_module_reaches_what_is_public_and_what_the_operator_allows_and_is_told_so() {
    let receiver = Receiver::start();
    let closed = "closed to modules unless the operator has it in [egress] allow_networks";
    let loopback = "127.0.0.1, in the loopback network 127.0.0.0/8";
    let metadata = "169.254.169.254, in the link-local network 169.254.0.0/16";
    for (url, host, leads_to) in [
        ("http://169.254.169.254".to_owned(), "169.254.169.254", metadata),
        ("http://2852039166".to_owned(), "169.254.169.254", metadata),
        (receiver.url(), "127.0.0.1", loopback),
        (receiver.url().replace("127.0.0.1", "0x7f.1"), "127.1", loopback),
    ] {
        let engine = fetching(&url, host, "");
        let told = first_fetch(&engine);
        assert!(
            told.starts_with("Denied: http: http://") && told.ends_with(&format!("{leads_to}, {closed}")),
            "{told}"
        );
    }
    // By its name the loopback may come as either.
    let engine = fetching(&receiver.url().replace("127.0.0.1", "localhost"), "localhost", "");
    let told = first_fetch(&engine);
    assert!(
        told.contains(" leads to ") && told.contains(", in the loopback network ") && told.ends_with(closed),
        "{told}"
    );

    // An effect is not tried again: the operator would have to change something.
    let setup = Setup::new().mock(31337, CHAIN).egress("");
    let engine = started(sender(setup, &receiver.url(), "keyed", &[]));
    let failed = listed(&engine, "an effect failed", |effect| effect["state"] == "failed");
    assert_eq!(failed["attempts"], 1);
    assert!(failed["last_error"].as_str().unwrap().contains(closed), "{failed:#}");
    assert_eq!(receiver.hits(), []);

    let engine = fetching(&receiver.url(), "127.0.0.1", EGRESS);
    assert_eq!(first_fetch(&engine), "200 took ");
}

#[test]
fn what_the_operator_denies_is_reached_by_nobody_and_stands_in_the_tree() {
    let receiver = Receiver::start();
    let url = receiver.url();
    let engine = fetching(&url, "127.0.0.1", &format!("{EGRESS}deny = [\"127.0.0.0/24\"]"));
    let why = "127.0.0.1, denied by the operator: [egress] deny has 127.0.0.0/24";
    assert_eq!(first_fetch(&engine), format!("Denied: http: {url} leads to {why}"));
    let tree = engine.ctl(&["tree"]);
    let line = tree.lines().find(|line| line.contains(&format!("─ {url} "))).unwrap_or_else(|| panic!("{tree}"));
    assert!(
        line.contains(" without an answer, 0 bytes sent, 0 received, last error ") && line.ends_with(why),
        "{tree}"
    );

    let by_name = url.replace("127.0.0.1", "localhost");
    let engine = fetching(&by_name, "localhost", &format!("{EGRESS}deny = [\"LocalHost.\"]"));
    let told = format!("Denied: http: {by_name} is denied to modules by the operator: [egress] deny has it");
    assert_eq!(first_fetch(&engine), told);
    assert_eq!(receiver.hits(), []);
}

/// Where a proxy listens that answers every request itself, with what it was asked for and who signed in.
fn proxy() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), Vec::new());
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let asked = head.split(' ').nth(1).unwrap().split('?').next().unwrap();
            // `me:k3y`
            let signed_in = head.contains("proxy-authorization: Basic bWU6azN5\r\n");
            let body = format!("{asked} {signed_in}");
            let answer = format!("HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[test]
fn requests_go_through_the_operators_proxy_and_nothing_shows_its_password() {
    let egress = format!("proxy = \"http://me:k3y@127.0.0.1:{}\"", proxy());
    let engine = fetching("http://8.8.8.8", "8.8.8.8", &egress);
    assert_eq!(first_fetch(&engine), "200 http://8.8.8.8/fetch true");
    eventually("the tree tells of it", || match engine.ctl(&["tree"]) {
        tree if tree.contains("http://8.8.8.8") => Ok(()),
        tree => Err(tree),
    });
    let shown = [engine.ctl(&["tree"]), engine.log_text(), engine.metrics_text()].concat();
    assert!(!shown.contains("k3y") && !shown.contains("bWU6azN5"), "{shown}");
    let engine = fetching("http://10.0.0.1", "10.0.0.1", &egress);
    let told = first_fetch(&engine);
    assert!(told.starts_with("Denied: http: http://10.0.0.1 leads to 10.0.0.1, in the private network "), "{told}");
}
