//! One table per rule.

use super::*;

const TOKEN: &str = "123:s3cr3t/k3y";

/// A clock that stands still.
struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        1_700_000_000_123
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

fn credential(name: &str, adds: Adds) -> Credential {
    Credential {
        name: Some(name.to_owned()),
        hosts: Allowlist::new(["a.org".to_owned(), "*.b.org".to_owned()]),
        modules: vec!["m".to_owned(), "n".to_owned()],
        value: Value::text(TOKEN.as_bytes().to_vec()),
        adds,
        body: false,
        allow_http: false,
    }
}

fn with(all: Vec<Credential>) -> Credentials {
    Credentials::new(all, Arc::new(Still))
}

fn request(url: &str, headers: &[(&str, &str)], body: Option<&str>) -> Request {
    let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
    Request {
        method: "POST".into(),
        url: url.into(),
        headers: headers.iter().map(header).collect(),
        body: body.map(|body| body.as_bytes().to_vec()),
        timeout_ms: None,
    }
}

/// How a request of a module leaves, if it has anything of an operator's.
fn armed(all: &Credentials, module: &str, request: &Request) -> Result<Option<(Request, Url)>, HostError> {
    all.armed(module, request, &Url::parse(&request.url).unwrap(), Via::Module, &mut Exposed::default())
}

fn said(all: &Credentials, module: &str, request: &Request) -> String {
    let error = armed(all, module, request).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::Denied, "{}", error.message);
    assert!(!error.message.contains("s3cr3t"), "{}", error.message);
    error.message
}

fn sent_headers(request: &Request) -> Vec<(&str, &str)> {
    request.headers.iter().map(|header| (header.name.as_str(), header.value.as_str())).collect()
}

#[test]
fn a_secret_stands_where_its_name_stood() {
    let all = with(vec![Credential { body: true, ..credential("s", Adds::Nothing) }]);
    let given = request(
        "https://a.org/bot${secret:s}/send?t=${secret:s}&u=%24%7Bsecret:s%7D",
        &[("Authorization", "Bearer ${secret:s}"), ("accept", "*/*")],
        Some("{\"key\":\"${secret:s}\"}"),
    );
    let (out, url) = armed(&all, "m", &given).unwrap().unwrap();
    let expected = "https://a.org/bot123:s3cr3t/k3y/send?t=123%3As3cr3t%2Fk3y&u=%24%7Bsecret:s%7D";
    assert_eq!(url.as_str(), expected, "what is encoded is a text");
    let expected = [("Authorization", "Bearer 123:s3cr3t/k3y"), ("accept", "*/*"), ("accept-encoding", "identity")];
    assert_eq!(sent_headers(&out), expected);
    assert_eq!(out.body.as_deref(), Some(format!("{{\"key\":\"{TOKEN}\"}}").as_bytes()));
    assert_eq!((&*out.method, &*out.url), ("POST", &*given.url), "what is shown has the names alone");
}

#[test]
fn a_request_without_anything_of_an_operators_leaves_as_it_is() {
    let all = with(vec![credential("s", Adds::Header("X-Key".into()))]);
    for (module, url) in [
        ("other", "https://a.org/"),
        ("m", "https://c.org/"),
        ("m", "https://b.org/"),
        ("m", "http://a.org/"),
        ("M", "https://a.org/"),
    ] {
        let given = request(url, &[("x-key", "own"), ("range", "bytes=0-1")], Some("${secret:s} ${secret:"));
        assert_eq!(armed(&all, module, &given), Ok(None), "{module} {url}");
    }
}

#[test]
fn a_header_is_added_for_exactly_these_modules_hosts_and_schemes() {
    let all = with(vec![
        credential("s", Adds::Header("X-Key".into())),
        Credential { allow_http: true, hosts: Allowlist::new(["c.org".to_owned()]), ..credential("t", Adds::Nothing) },
    ]);
    for url in ["https://a.org/", "https://A.ORG.:8443/", "https://x.b.org/", "https://x.y.b.org/?q"] {
        for module in ["m", "n"] {
            let (out, to) = armed(&all, module, &request(url, &[], None)).unwrap().unwrap();
            assert_eq!(sent_headers(&out), [("accept-encoding", "identity"), ("X-Key", TOKEN)], "{module} {url}");
            assert_eq!((to, out.body), (Url::parse(url).unwrap(), None));
        }
    }
    let (_, to) = armed(&all, "m", &request("http://c.org/${secret:t}", &[], None)).unwrap().unwrap();
    assert_eq!(to.as_str(), "http://c.org/123:s3cr3t/k3y");
}

#[test]
fn a_name_that_stands_for_no_secret_here_sends_nothing() {
    let key =
        Credential { value: Value::key(vec![0xff; 32]), ..credential("key", Adds::Signature(signing("${body}"))) };
    let all = with(vec![credential("s", Adds::Nothing), key]);
    let refused = |why: &str, name: &str| format!("`${{secret:{name}}}`: {why} ([[egress.credentials]])");
    for (module, url, why, name) in [
        ("m", "https://a.org/${secret:x}", "there is no secret of this name", "x"),
        ("m", "https://a.org/?a=${secret:S}", "there is no secret of this name", "S"),
        ("o", "https://a.org/${secret:s}", "it is not for module o", "s"),
        ("m", "https://c.org/${secret:s}", "it is not for host `c.org`", "s"),
        ("m", "http://a.org/${secret:s}", "it leaves over https alone, unless `allow_http = true`", "s"),
        ("m", "https://a.org/${secret:key}", "it is the key of a signature, which is written nowhere", "key"),
    ] {
        assert_eq!(said(&all, module, &request(url, &[], None)), refused(why, name), "{module} {url}");
        let (place, given) = url.split_once("${").map(|(place, name)| (place, format!("x ${{{name}"))).unwrap();
        let given = request(place, &[("x", given.as_str())], None);
        assert_eq!(said(&all, module, &given), refused(why, name), "in a header: {module} {url}");
    }
    for url in ["https://a.org/${secret:", "https://a.org/${secret:a b}", "https://a.org/?${secret:}"] {
        assert!(said(&all, "m", &request(url, &[], None)).contains("expected `${secret:NAME}`"), "{url}");
    }
}

#[test]
fn a_secret_stands_in_no_part_of_a_url_that_says_where_it_leads() {
    let all = with(vec![credential("s", Adds::Nothing)]);
    let given = request("https://b.org/${secret:s}", &[], None);
    let checked = Url::parse("https://a.org/").unwrap();
    let refused = all.armed("m", &given, &checked, Via::Module, &mut Exposed::default()).unwrap_err();
    assert_eq!(refused.message, "a secret may stand in the path and the query of a URL, and nowhere before them");
    // The URL of a redirect is a server's, and so is what stands in it.
    let next = Url::parse("https://a.org/?x=${secret:s}").unwrap();
    let (_, to) = all.armed("m", &given, &next, Via::SameOrigin, &mut Exposed::default()).unwrap().unwrap();
    assert_eq!(to, next);
}

/// An alert tells what somebody else named a token.
#[test]
fn the_texts_of_strangers_in_a_body_neither_get_a_secret_nor_keep_it_from_leaving() {
    let body = "token ${secret:s} ${secret:t} ${secret:x} ${secret: is new";
    let sent = |all: Vec<Credential>| {
        let (out, _) = armed(&with(all), "m", &request("https://a.org/", &[], Some(body))).unwrap().unwrap();
        String::from_utf8(out.body.unwrap()).unwrap()
    };
    let [s, t] = ["s", "t"].map(|name| credential(name, Adds::Nothing));
    assert_eq!(sent(vec![s.clone(), t.clone()]), body);
    let t = Credential { body: true, ..t };
    assert_eq!(sent(vec![s, t.clone()]), body.replace("${secret:t}", TOKEN));
    // What is no text has no names in it.
    let mut packed = request("https://a.org/", &[], Some(body));
    packed.body.as_mut().unwrap().push(0xff);
    assert_eq!(armed(&with(vec![t]), "m", &packed).unwrap().unwrap().0.body, packed.body);
}

#[test]
fn a_header_of_the_operators_is_not_shadowed() {
    let signed = credential("k", Adds::Signature(signing("${body}")));
    let all = with(vec![credential("s", Adds::Header("Authorization".into())), signed]);
    for name in ["authorization", "AUTHORIZATION", "x-signature", "X-Timestamp"] {
        let refused = format!("header `{name}` is the operator's to set ([[egress.credentials]]): leave it out");
        assert_eq!(said(&all, "m", &request("https://a.org/", &[(name, "own")], None)), refused);
    }
}

/// A part of an answer, or one that is packed, could have a secret that is not seen in it.
#[test]
fn an_answer_that_may_have_a_secret_is_asked_for_as_a_whole_and_as_it_is() {
    let all = with(vec![credential("s", Adds::Nothing)]);
    let given = request("https://a.org/", &[("Accept-Encoding", "gzip"), ("RANGE", "bytes=0-9"), ("a", "b")], None);
    let (out, _) = armed(&all, "m", &given).unwrap().unwrap();
    assert_eq!(sent_headers(&out), [("a", "b"), ("accept-encoding", "identity")]);
}

fn signing(payload: &str) -> Signing {
    Signing {
        algorithm: Algorithm::Sha256,
        encoding: Encoding::Hex,
        payload: payload.parse().unwrap(),
        header: "X-Signature".to_owned(),
        timestamp_header: Some("X-Timestamp".to_owned()),
        timestamp: TimeUnit::Ms,
    }
}

#[test]
fn a_request_is_signed_as_it_leaves() {
    let payload = "${timestamp}${method}${path_and_query}${body}${secret:s}";
    let key = Credential { value: Value::key(b"key".to_vec()), ..credential("k", Adds::Signature(signing(payload))) };
    let all = with(vec![Credential { body: true, ..credential("s", Adds::Nothing) }, key]);
    let given = request("https://a.org/v1/${secret:s}?a=1", &[], Some("b=${secret:s}"));
    let (out, _) = armed(&all, "m", &given).unwrap().unwrap();
    let text = format!("1700000000123POST/v1/123:s3cr3t/k3y?a=1b={TOKEN}{TOKEN}");
    let plain = signing(&text);
    let request = Signed { method: "", url: &Url::parse("https://a.org").unwrap(), body: &[], timestamp: "" };
    let expected = plain.sign(&Value::key(b"key".to_vec()).unwrap(), &request, |_| unreachable!()).unwrap();
    let expected =
        [("accept-encoding", "identity"), ("X-Signature", expected.as_str()), ("X-Timestamp", "1700000000123")];
    assert_eq!(sent_headers(&out), expected);
}

#[test]
fn what_gets_too_large_with_its_secrets_is_refused() {
    let long =
        Credential { value: Value::text(vec![b'k'; VALUE_BYTES_MAX]), body: true, ..credential("s", Adds::Nothing) };
    let all = with(vec![long]);
    let refused = |request: &Request| {
        let error = armed(&all, "m", request).unwrap_err();
        assert_eq!(error.kind, HostErrorKind::InvalidInput, "{}", error.message);
        error.message
    };
    let names = |count: usize| "${secret:s}".repeat(count);
    let url = |count: usize| request(&format!("https://a.org/{}", names(count)), &[], None);
    assert!(armed(&all, "m", &url(1)).is_ok());
    assert_eq!(refused(&url(2)), "with its secrets it is larger than 8192 bytes");
    let (four, one) = (names(4), names(1));
    let headers = |values: &[(&str, &str)]| request("https://a.org/", values, None);
    assert_eq!(refused(&headers(&[("a", four.as_str())])), "with their secrets the headers have more than 16384 bytes");
    assert_eq!(refused(&headers(&[("a", names(5).as_str())])), "with its secrets it is larger than 16384 bytes");
    let three = names(3);
    assert_eq!(
        refused(&headers(&[("a", three.as_str()), ("b", one.as_str())])),
        refused(&headers(&[("a", four.as_str())]))
    );
    let body = request("https://a.org/", &[], Some(&names(1025)));
    assert_eq!(refused(&body), "with its secrets it is larger than 4194304 bytes");
}

#[test]
fn one_that_could_not_be_read_fails_what_needs_it_and_nothing_else() {
    let unread = |adds| Credential { value: Err("in /run/k3y cannot be read".into()), ..credential("s", adds) };
    let (named, added) = (with(vec![unread(Adds::Nothing)]), with(vec![unread(Adds::Header("X-Key".into()))]));
    let plain = request("https://a.org/", &[], None);
    assert!(armed(&named, "m", &plain).is_ok());
    for (all, given) in [(&named, request("https://a.org/${secret:s}", &[], None)), (&added, plain)] {
        let error = armed(all, "m", &given).unwrap_err();
        let message = "the operator's credential `s` cannot be read; the engine's log says why";
        assert_eq!((error.kind, &*error.message), (HostErrorKind::Unavailable, message));
    }
    assert_eq!(armed(&added, "o", &request("https://a.org/", &[], None)), Ok(None));
}

#[test]
fn nothing_that_shows_a_credential_shows_its_value() {
    let shown = format!("{:?}", credential("s", Adds::Header("X-Key".into())));
    assert!(shown.contains("Ok(***)") && !shown.contains("s3cr3t"), "{shown}");
}
