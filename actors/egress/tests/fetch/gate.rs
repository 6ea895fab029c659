//! Where modules get to, and where no spelling, no redirect and no name server gets them.

use std::sync::atomic::AtomicU64;

use nexum_host_ifaces::clock::Clock;
use url::Url;

use super::*;

/// What ends a refusal of a network that is closed.
const CLOSED: &str = ", closed to modules unless the operator has it in [egress] allow_networks";

pub fn defaults() -> Args {
    args(EgressLimits::default(), EgressMetrics::register(&prometheus::Registry::new()).unwrap())
}

/// Args whose names are looked up like this.
pub fn named(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Args {
    let args = defaults();
    let names = Resolver::new(Arc::new(look_up), args.clock.clone(), &args.metrics);
    Args { names, ..args }
}

/// Addresses as a name server gives them.
pub fn found(addresses: &[&str]) -> io::Result<Vec<SocketAddr>> {
    Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect())
}

/// The hosts of these tests.
pub fn hosts(name: &str) -> io::Result<Vec<SocketAddr>> {
    match name.trim_end_matches('.') {
        "localhost" => found(&["127.0.0.1", "::1"]),
        "metadata.test" => found(&["169.254.169.254"]),
        "private.test" => found(&["10.0.0.1", "192.168.0.1"]),
        "both.test" => found(&["10.0.0.1", "127.0.0.1", "fe80::1"]),
        "mapped.test" => found(&["::ffff:172.16.0.1"]),
        "nat64.test" => found(&["64:ff9b::10.0.0.1"]),
        "xn--bcher-kva.test" => found(&["fd00::1"]),
        "public.test" => found(&["8.8.8.8"]),
        _ => Err(io::Error::other("no such name")),
    }
}

/// A request that its module's manifest allows.
pub fn allowed(url: &str) -> Fetch {
    let host = Url::parse(url).unwrap().host_str().unwrap().trim_end_matches('.').to_owned();
    Fetch { allow: Arc::new(Allowlist::new([host])), ..fetch_of("GET", url.to_owned()) }
}

async fn denied(actor: &ActorRef<EgressMsg>, fetch: Fetch) -> String {
    let url = fetch.request.url.clone();
    match ask(actor, fetch).await {
        Err(error) if error.kind.name() == "denied" => error.message,
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn no_spelling_and_no_name_leads_to_a_network_that_is_closed() {
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = own.local_addr().unwrap().port();
    let actor = started(Args { rules: rules(&[], &[]), ..named(hosts) }).await;
    for (host, leads_to) in [
        ("127.0.0.1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("127.1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("127.0.0.1.", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("0x7f.1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("0x7f000001", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("2130706433", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("0177.0.0.1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("017700000001", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("%31%32%37.0.0.1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("127\u{3002}0\u{3002}0\u{3002}1", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("0.0.0.0", "0.0.0.0, in the unspecified network 0.0.0.0/32"),
        ("0", "0.0.0.0, in the unspecified network 0.0.0.0/32"),
        ("[::]", "::, in the unspecified network ::/128"),
        ("[::1]", "::1, in the loopback network ::1/128"),
        ("[0:0:0:0:0:0:0:1]", "::1, in the loopback network ::1/128"),
        ("[::127.0.0.1]", "::7f00:1, in the IPv4-compatible network ::/96"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1, which is 127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("[::ffff:7f00:1]", "::ffff:127.0.0.1, which is 127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1, which is 127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("[64:ff9b:1::7f00:1]", "64:ff9b:1::7f00:1, in the local NAT64 network 64:ff9b:1::/48"),
        ("[2002:7f00:1::]", "2002:7f00:1::, which is 127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("[2001:0:808:808::80ff:fffe]", "2001:0:808:808::80ff:fffe, in the Teredo network 2001::/32"),
        ("[fe80::1]", "fe80::1, in the link-local network fe80::/10"),
        ("[fec0::1]", "fec0::1, in the site-local network fec0::/10"),
        ("[fd00:ec2::254]", "fd00:ec2::254, in the unique-local network fc00::/7"),
        ("169.254.169.254", "169.254.169.254, in the link-local network 169.254.0.0/16"),
        ("2852039166", "169.254.169.254, in the link-local network 169.254.0.0/16"),
        ("100.64.0.1", "100.64.0.1, in the carrier-grade NAT network 100.64.0.0/10"),
        ("255.255.255.255", "255.255.255.255, in the broadcast network 255.255.255.255/32"),
        ("localhost", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("LOCALHOST.", "127.0.0.1, in the loopback network 127.0.0.0/8"),
        ("metadata.test", "169.254.169.254, in the link-local network 169.254.0.0/16"),
        ("private.test", "10.0.0.1, in the private network 10.0.0.0/8"),
        ("mapped.test", "::ffff:172.16.0.1, which is 172.16.0.1, in the private network 172.16.0.0/12"),
        ("nat64.test", "64:ff9b::a00:1, which is 10.0.0.1, in the private network 10.0.0.0/8"),
        ("b\u{fc}cher.test", "fd00::1, in the unique-local network fc00::/7"),
    ] {
        let url = format!("http://{host}:{port}/k3y?k3y");
        let told = denied(&actor, allowed(&url)).await;
        let place = Url::parse(&url).unwrap().origin().ascii_serialization();
        assert_eq!(told, format!("{place} leads to {leads_to}{CLOSED}"), "{host}");
    }
    // What only looks like a name that is allowed.
    let allow = Arc::new(Allowlist::new(["a.org".to_owned()]));
    for (url, kind) in [
        (format!("http://a.org@127.0.0.1:{port}/"), "invalid-input"),
        (format!("http://a.org:80@127.0.0.1:{port}/"), "invalid-input"),
        (format!("http://a.org%2f@127.0.0.1:{port}/"), "invalid-input"),
        (format!("http://127.0.0.1:{port}\\@a.org/"), "denied"),
        (format!("http://127.0.0.1:{port}#@a.org/"), "denied"),
        (format!("http://127.0.0.1:{port}?@a.org/"), "denied"),
        (format!("http://a.org.127.0.0.1:{port}/"), "invalid-input"),
        (format!("http:127.0.0.1:{port}/"), "denied"),
        (format!("http://[::1%25lo]:{port}/"), "invalid-input"),
        (format!("http://[fe80::1%lo]:{port}/"), "invalid-input"),
    ] {
        let refused = ask(&actor, Fetch { allow: allow.clone(), ..fetch_of("GET", url.clone()) }).await.unwrap_err();
        assert_eq!(refused.kind.name(), kind, "{url}: {}", refused.message);
    }
    // Nobody got as far as to connect.
    assert_eq!(own.into_std().unwrap().accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_redirect_leads_to_no_network_that_is_closed() {
    let (actor, port) = (started(named(hosts)).await, server().await);
    let patterns = ["127.0.0.1", "10.0.0.1", "private.test", "metadata.test", "[::ffff:a9fe:a9fe]", "a.denied.test"];
    let allow = Arc::new(Allowlist::new(patterns.map(str::to_owned)));
    let to = |place: &str| {
        let url = format!("http://127.0.0.1:{port}/to/{place}");
        Fetch { allow: allow.clone(), ..fetch_of("GET", url) }
    };
    for (place, leads_to) in [
        ("10.0.0.1/k3y", "http://10.0.0.1 leads to 10.0.0.1, in the private network 10.0.0.0/8"),
        ("private.test:81/", "http://private.test:81 leads to 10.0.0.1, in the private network 10.0.0.0/8"),
        ("metadata.test/", "http://metadata.test leads to 169.254.169.254, in the link-local network 169.254.0.0/16"),
        ("2852039166.", "redirected: host `169.254.169.254` is not allowed to this module"),
        (
            "[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe] leads to ::ffff:169.254.169.254, which is 169.254.169.254",
        ),
    ] {
        let told = denied(&actor, to(place)).await;
        assert!(told.starts_with(leads_to), "{place}: {told}");
    }
    // What the operator denies, by name before anybody is asked for its address, and by address although it is allowed.
    let args =
        Args { rules: rules(&["127.0.0.0/8"], &["*.denied.test", "127.0.0.9", "2606:4700::/32"]), ..named(hosts) };
    let actor = started(args).await;
    let by_name = denied(&actor, to("a.denied.test:81/")).await;
    assert_eq!(by_name, "http://a.denied.test:81 is denied to modules by the operator: [egress] deny has it");
    assert_eq!(by_name, denied(&actor, allowed("http://A.Denied.test.:81/")).await.replace(".test.:", ".test:"));
    let by_address = denied(&actor, allowed("http://127.0.0.9/")).await;
    let why = "127.0.0.9, denied by the operator: [egress] deny has 127.0.0.9/32";
    assert_eq!(by_address, format!("http://127.0.0.9 leads to {why}"));
    let inside = denied(&actor, allowed("http://[2606:4700::1111]/")).await;
    assert!(inside.ends_with("2606:4700::1111, denied by the operator: [egress] deny has 2606:4700::/32"), "{inside}");
    assert_eq!(ask(&actor, to("127.0.0.1:1")).await.unwrap_err().kind.name(), "unavailable");
}

/// Of a name's addresses those that may be reached are, whatever else its server says.
#[tokio::test]
async fn addresses_that_are_closed_are_left_out_while_there_are_others() {
    let (actor, port) = (started(named(hosts)).await, server().await);
    let answer = ask(&actor, allowed(&format!("http://both.test:{port}/echo"))).await.unwrap();
    assert!(text(answer).contains(&format!("host: both.test:{port}")));
}

/// A clock that stands still until it is put forward.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        0
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A name server that gives one address to whoever checks and another one to whoever connects.
#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let (asked, hand) = (Arc::new(AtomicUsize::new(0)), Arc::new(Hand::default()));
    let count = asked.clone();
    // Every other answer is one that nobody may reach.
    let look_up: LookUp = Arc::new(move |_: &str| match count.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => found(&["127.0.0.1"]),
        _ => found(&["169.254.169.254"]),
    });
    let args = defaults();
    let names = Resolver::new(look_up, hand.clone(), &args.metrics);
    let (actor, port) = (started(Args { names, ..args }).await, server().await);
    let rebinding = |path: &str| allowed(&format!("http://rebinding.test:{port}{path}"));
    for round in 0..3 {
        // The redirect leads to the same name again.
        let answer = ask(&actor, rebinding("/relative")).await.unwrap();
        assert!(text(answer).starts_with("GET /echo"));
        assert_eq!(asked.load(Ordering::SeqCst), 2 * round + 1, "asked once, whoever connects");
        // What was found has been forgotten by then.
        hand.0.fetch_add(3_600_000_000_000, Ordering::SeqCst);
        let told = denied(&actor, rebinding("/relative")).await;
        assert!(told.contains(" leads to 169.254.169.254, in the link-local network "), "{told}");
        hand.0.fetch_add(3_600_000_000_000, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_went_where_is_told_by_origin() {
    let (actor, port) = (started(named(hosts)).await, server().await);
    let here = format!("http://127.0.0.1:{port}");
    ask(&actor, Fetch { allow: allowed(&here).allow, ..fetch_of("POST", format!("{here}/503?k3y")) }).await.unwrap();
    let both = Arc::new(Allowlist::new(["127.0.0.1", "localhost"].map(str::to_owned)));
    ask(&actor, Fetch { allow: both, ..fetch_of("GET", format!("{here}/elsewhere")) }).await.unwrap();
    ask(&actor, allowed(&format!("{here}/drop?k3y"))).await.unwrap_err();
    ask(&actor, allowed("http://private.test/k3y")).await.unwrap_err();
    ask(&actor, fetch_of("GET", "http://not-allowed.test/".into())).await.unwrap_err();
    let status = actor.call(EgressMsg::Status, Some(PATIENCE)).await.unwrap().unwrap();
    assert_eq!(status.requests_total, 5);
    let shown = status.origins.iter().map(|origin| {
        let error = origin.last_error.as_deref().unwrap_or_default();
        assert!(!format!("{origin:?}").contains("k3y") && origin.last_error_age_ms.is_some() != error.is_empty());
        (origin.name.clone(), origin.requests_total, origin.errors_total, origin.sent_bytes)
    });
    let elsewhere = format!("http://localhost:{port}");
    let expected = [(here.clone(), 3, 1, 8), (elsewhere, 1, 0, 0), ("http://private.test".to_owned(), 1, 1, 0)];
    assert_eq!(shown.collect::<Vec<_>>(), expected, "what the manifest does not allow went nowhere");
    assert!(status.origins[1].received_bytes > 10, "{:?}", status.origins);
    let refused = status.origins[2].last_error.as_deref().unwrap();
    assert!(refused.starts_with("denied: http://private.test leads to 10.0.0.1, in the private network"), "{refused}");
}
