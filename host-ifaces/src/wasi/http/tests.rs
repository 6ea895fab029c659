//! What a guest can do with `wasi:http`, over an egress that answers at once.

use std::{collections::BTreeSet, sync::Mutex};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use wasmtime_wasi::p2::{DynOutputStream, StreamError};

use super::{
    resources::{Fields, FutureIncomingResponse, OutgoingBody, OutgoingRequest},
    wasi_http::{
        outgoing_handler,
        types::{
            HeaderError, HostFields, HostFutureIncomingResponse, HostIncomingBody, HostIncomingResponse,
            HostOutgoingBody, HostOutgoingRequest, HostRequestOptions, Method, Scheme,
        },
    },
    *,
};
use crate::{
    Hash,
    clock::SystemClock,
    commit_queue::CommitQueue,
    event::EventId,
    grants::{AskedCapabilities, Grants},
    host::{HostArgs, HostState},
    interfaces::http::{
        grant::{Allowlist, CAPABILITY},
        port::{EgressMsg, HEADERS_MAX, Header, Request, Response},
    },
    ports::Ports,
    recording::TapeMode,
    state::ModuleId,
    store::ModuleRecord,
    unit::drafts::Quota,
};

/// Answers with the body that it got, or fails as the path says; and notes what it was asked.
struct Echoes(Arc<Mutex<Vec<Request>>>);

impl Actor for Echoes {
    type Msg = EgressMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<EgressMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<EgressMsg>, message: EgressMsg, _: &mut ()) -> Result<(), ActorProcessingErr> {
        let EgressMsg::Fetch { fetch, reply } = message else { return Ok(()) };
        let failed = |kind, message: &str| Err(HostError::new("http", kind, message));
        let answer = match fetch.request.url.rsplit_once('/').unwrap().1 {
            "large" => failed(HostErrorKind::InvalidInput, "larger than the limit").map_err(|e| e.with_code(200)),
            "late" => failed(HostErrorKind::Timeout, "no answer"),
            "unnamed" => failed(HostErrorKind::Unavailable, "DNS: no such name"),
            "down" => failed(HostErrorKind::Unavailable, "connection refused"),
            "moved" => failed(HostErrorKind::Denied, "redirected"),
            _ => Ok(Response {
                status: 201,
                headers: vec![Header { name: "x-tea".into(), value: "green".into() }],
                body: fetch.request.body.clone().unwrap_or_else(|| b"nothing".to_vec()),
            }),
        };
        self.0.lock().unwrap().push(fetch.request);
        reply.send(answer)?;
        Ok(())
    }
}

fn granted() -> Grants {
    let asked = AskedCapabilities { required: &[CAPABILITY], optional: &[] };
    Grants::decide(asked, &BTreeSet::from([CAPABILITY]), &BTreeSet::new())
        .unwrap()
        .with_hosts(&Allowlist::new(["a.org".to_owned()]))
}

fn args(grants: Grants, taping: TapeMode) -> HostArgs {
    let ports = Ports::unbound([]);
    HostArgs {
        module: "m".into(),
        id: ModuleId(1),
        component: Hash::default(),
        limits: Arc::new(Limits { max_reply_bytes: 1_000, ..Limits::default() }),
        clock: Arc::new(SystemClock::new()),
        commits: Arc::new(CommitQueue::new(ports.store())),
        ports,
        grants: Arc::new(grants),
        taping,
        quota: Quota::new(0),
    }
}

fn begun(args: &HostArgs) -> HostState {
    let mut host = HostState::new(args, ModuleRecord::default());
    host.begin(&EventId::Block { chain_id: 1, number: 7, hash: Hash([7; 32]) });
    host
}

/// A host whose requests are answered, and what was asked.
async fn answered(grants: Grants, taping: TapeMode) -> (HostState, Arc<Mutex<Vec<Request>>>) {
    let (args, asked) = (args(grants, taping), Arc::<Mutex<Vec<Request>>>::default());
    let (egress, _) = Actor::spawn(None, Echoes(asked.clone()), ()).await.unwrap();
    args.ports.of::<EgressMsg>().bind(egress);
    (begun(&args), asked)
}

fn lent<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

fn headers(http: &mut WasiHttp<'_>, headers: &[(&str, &str)]) -> Result<Resource<Fields>, HeaderError> {
    let entries = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    HostFields::from_list(http, entries.collect()).unwrap()
}

/// A request for a path of a host.
fn request(http: &mut WasiHttp<'_>, method: Method, authority: &str, path: &str) -> Resource<OutgoingRequest> {
    let headers = headers(http, &[("accept", "text/tea"), ("Content-Length", "6")]).unwrap();
    let request = HostOutgoingRequest::new(http, headers).unwrap();
    HostOutgoingRequest::set_method(http, lent(&request), method).unwrap().unwrap();
    HostOutgoingRequest::set_authority(http, lent(&request), Some(authority.to_owned())).unwrap().unwrap();
    HostOutgoingRequest::set_path_with_query(http, lent(&request), Some(path.to_owned())).unwrap().unwrap();
    request
}

fn body(http: &mut WasiHttp<'_>, request: &Resource<OutgoingRequest>) -> Resource<OutgoingBody> {
    HostOutgoingRequest::body(http, lent(request)).unwrap().unwrap()
}

/// Writes so many times the same into a body.
fn write(
    http: &mut WasiHttp<'_>,
    body: &Resource<OutgoingBody>,
    part: &'static [u8],
    times: usize,
) -> Result<(), StreamError> {
    let stream: Resource<DynOutputStream> = HostOutgoingBody::write(http, lent(body)).unwrap().unwrap();
    let written = (0..times).try_for_each(|_| http.table.get_mut(&stream).unwrap().write(Bytes::from_static(part)));
    http.table.delete(stream).unwrap();
    written
}

async fn handle(
    http: &mut WasiHttp<'_>,
    request: Resource<OutgoingRequest>,
) -> Result<Resource<FutureIncomingResponse>, ErrorCode> {
    outgoing_handler::Host::handle(http, request, None).await.unwrap()
}

/// Status, one header and the body of an answer that is there.
fn heard(http: &mut WasiHttp<'_>, future: &Resource<FutureIncomingResponse>) -> Result<(u16, String), ErrorCode> {
    let response = HostFutureIncomingResponse::get(http, lent(future)).unwrap().unwrap().unwrap()?;
    let fields = HostIncomingResponse::headers(http, lent(&response)).unwrap();
    assert_eq!(HostFields::get(http, lent(&fields), "X-Tea".into()).unwrap(), [b"green"]);
    let refused = HostFields::append(http, fields, "x-tea".into(), b"black".to_vec()).unwrap();
    assert!(matches!(refused, Err(HeaderError::Immutable)));
    let body = HostIncomingResponse::consume(http, lent(&response)).unwrap().unwrap();
    assert!(HostIncomingResponse::consume(http, lent(&response)).unwrap().is_err(), "once");
    let stream = HostIncomingBody::stream(http, lent(&body)).unwrap().unwrap();
    let mut text = Vec::new();
    loop {
        match http.table.get_mut(&stream).unwrap().read(4) {
            Ok(part) => text.extend_from_slice(&part),
            Err(StreamError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    Ok((HostIncomingResponse::status(http, response).unwrap(), String::from_utf8(text).unwrap()))
}

async fn get(http: &mut WasiHttp<'_>, authority: &str, path: &str) -> Result<(u16, String), ErrorCode> {
    let request = request(http, Method::Get, authority, path);
    let future = handle(http, request).await?;
    heard(http, &future)
}

#[tokio::test]
async fn a_request_is_sent_once_it_is_whole_whichever_of_its_parts_comes_last() {
    let (mut host, asked) = answered(granted(), TapeMode::Off).await;
    let mut http = host.http();
    assert_eq!(get(&mut http, "a.org", "/x?y=1").await.unwrap(), (201, "nothing".to_owned()));
    for is_body_first in [true, false] {
        let request = request(&mut http, Method::Post, "a.org:8443", "/x");
        HostOutgoingRequest::set_scheme(&mut http, lent(&request), Some(Scheme::Http)).unwrap().unwrap();
        let body = body(&mut http, &request);
        assert!(HostOutgoingRequest::body(&mut http, lent(&request)).unwrap().is_err(), "once");
        let future = if is_body_first {
            write(&mut http, &body, b"tea", 2).unwrap();
            HostOutgoingBody::finish(&mut http, body, None).await.unwrap().unwrap();
            handle(&mut http, request).await.unwrap()
        } else {
            let future = handle(&mut http, request).await.unwrap();
            write(&mut http, &body, b"tea", 2).unwrap();
            assert!(HostFutureIncomingResponse::get(&mut http, lent(&future)).unwrap().is_none());
            assert_eq!(asked.lock().unwrap().len(), 2, "what is not whole is not sent");
            HostOutgoingBody::finish(&mut http, body, None).await.unwrap().unwrap();
            future
        };
        assert_eq!(heard(&mut http, &future).unwrap(), (201, "teatea".to_owned()));
        let again = HostFutureIncomingResponse::get(&mut http, lent(&future)).unwrap();
        assert!(matches!(again, Some(Err(()))), "an answer is heard once");
    }
    let asked = asked.lock().unwrap();
    let told: Vec<_> = asked.iter().map(|request| (&*request.method, &*request.url, request.body.as_deref())).collect();
    let posted = ("POST", "http://a.org:8443/x", Some(&b"teatea"[..]));
    assert_eq!(told, [("GET", "https://a.org/x?y=1", None), posted, posted]);
    // The length is the host's to say.
    assert_eq!(asked[2].headers, [Header { name: "accept".into(), value: "text/tea".into() }]);
}

#[tokio::test]
async fn a_request_whose_body_is_not_finished_or_is_not_what_it_says_is_not_sent() {
    let (mut host, asked) = answered(granted(), TapeMode::Off).await;
    let mut http = host.http();
    // One byte less than announced.
    let first = request(&mut http, Method::Post, "a.org", "/x");
    let short = body(&mut http, &first);
    let future = handle(&mut http, first).await.unwrap();
    write(&mut http, &short, b"teate", 1).unwrap();
    let refused = HostOutgoingBody::finish(&mut http, short, None).await.unwrap();
    assert!(matches!(refused, Err(ErrorCode::HttpRequestBodySize(Some(5)))), "{refused:?}");
    assert!(matches!(heard(&mut http, &future), Err(ErrorCode::HttpRequestBodySize(Some(5)))));
    // Dropped.
    let second = request(&mut http, Method::Post, "a.org", "/x");
    let dropped = body(&mut http, &second);
    let future = handle(&mut http, second).await.unwrap();
    HostOutgoingBody::drop(&mut http, dropped).unwrap();
    assert!(matches!(heard(&mut http, &future), Err(ErrorCode::InternalError(Some(_)))));
    // Nobody waits for the answer.
    let third = request(&mut http, Method::Post, "a.org", "/x");
    let unheard = body(&mut http, &third);
    let future = handle(&mut http, third).await.unwrap();
    HostFutureIncomingResponse::drop(&mut http, future).unwrap();
    assert!(matches!(write(&mut http, &unheard, b"tea", 1), Err(StreamError::Closed)));
    HostOutgoingBody::finish(&mut http, unheard, None).await.unwrap().unwrap();
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_granted_is_denied_and_the_log_says_why() {
    let stub = AskedCapabilities { required: &[], optional: &[CAPABILITY] };
    let stub = Grants::decide(stub, &BTreeSet::new(), &BTreeSet::new()).unwrap();
    for (grants, authority, why) in [
        (Grants::default(), "a.org", "capability `http` is not granted to module m"),
        (stub, "a.org", "capability `http` is not granted to module m"),
        (granted(), "b.org", "host `b.org` is not allowed to this module"),
        (granted(), "a.org.b.org:80", "host `a.org.b.org` is not allowed to this module"),
    ] {
        let (mut host, asked) = answered(grants, TapeMode::On(Default::default())).await;
        let denied = get(&mut host.http(), authority, "/x").await;
        assert!(matches!(denied, Err(ErrorCode::HttpRequestDenied)), "{denied:?}");
        assert_eq!((asked.lock().unwrap().len(), host.usage().host_calls), (0, 1));
        let lines = host.capture().unwrap().lines;
        assert!(lines.len() == 1 && lines[0].text.starts_with(&format!("wasi:http: {why}")), "{lines:?}");
    }
}

#[tokio::test]
async fn what_kept_a_request_from_its_answer_is_told_in_the_codes_of_http() {
    let (mut host, _) = answered(granted(), TapeMode::Off).await;
    let mut http = host.http();
    for (path, expected) in [
        ("/large", "HttpResponseBodySize"),
        ("/late", "HttpResponseTimeout"),
        ("/unnamed", "DnsError"),
        ("/down", "InternalError"),
        ("/moved", "HttpRequestDenied"),
    ] {
        let code = format!("{:?}", get(&mut http, "a.org", path).await.unwrap_err());
        assert!(code.contains(expected), "{path}: {code}");
    }
    let options = HostRequestOptions::new(&mut http).unwrap();
    HostRequestOptions::set_connect_timeout(&mut http, lent(&options), Some(500)).unwrap().unwrap();
    assert_eq!(http.table.get(&options).unwrap().timeout_ms(), None);
    HostRequestOptions::set_first_byte_timeout(&mut http, lent(&options), Some(7_000_000)).unwrap().unwrap();
    assert_eq!(http.table.get(&options).unwrap().timeout_ms(), Some(8));
}

#[tokio::test]
async fn a_replay_answers_what_was_recorded_and_reaches_nothing() {
    let (mut live, asked) = answered(granted(), TapeMode::On(Default::default())).await;
    let answer = get(&mut live.http(), "a.org", "/x").await.unwrap();
    get(&mut live.http(), "a.org", "/late").await.unwrap_err();
    let session = live.capture().unwrap().session;
    let calls: Vec<_> = session.exchanges.iter().map(|exchange| &*exchange.call).collect();
    assert_eq!((calls, asked.lock().unwrap().len()), (vec!["http.fetch"; 2], 2));

    let mut played = begun(&args(granted(), TapeMode::Play(Arc::new(session))));
    assert_eq!(get(&mut played.http(), "a.org", "/x").await.unwrap(), answer);
    assert!(matches!(get(&mut played.http(), "a.org", "/late").await, Err(ErrorCode::HttpResponseTimeout)));
    let captured = played.capture().unwrap();
    assert_eq!((captured.missing, captured.lines), (Vec::new(), live.capture().unwrap().lines));
}

#[tokio::test]
async fn headers_are_those_that_a_request_may_have_and_no_more() {
    let mut host = begun(&args(granted(), TapeMode::Off));
    let mut http = host.http();
    let http = &mut http;
    assert!(matches!(headers(http, &[("Host", "b.org")]), Err(HeaderError::Forbidden)));
    assert!(matches!(headers(http, &[("transfer-encoding", "chunked")]), Err(HeaderError::Forbidden)));
    assert!(matches!(headers(http, &[("a b", "")]), Err(HeaderError::InvalidSyntax)));
    assert!(matches!(headers(http, &[("a", "1\r\nb: 2")]), Err(HeaderError::InvalidSyntax)));
    let many = vec![("a", "1"); HEADERS_MAX];
    let list = headers(http, &many).unwrap();
    let append = HostFields::append(http, lent(&list), "b".into(), b"2".to_vec()).unwrap();
    assert!(matches!(append, Err(HeaderError::Forbidden)));
    HostFields::set(http, lent(&list), "A".into(), vec![b"2".to_vec()]).unwrap().unwrap();
    HostFields::append(http, lent(&list), "b".into(), b"3".to_vec()).unwrap().unwrap();
    let copy = HostFields::clone(http, lent(&list)).unwrap();
    HostFields::delete(http, lent(&copy), "B".into()).unwrap().unwrap();
    assert!(
        HostFields::has(http, lent(&list), "B".into()).unwrap() && !HostFields::has(http, copy, "b".into()).unwrap()
    );
    let entries = HostFields::entries(http, lent(&list)).unwrap();
    assert_eq!(entries, [("A".to_owned(), b"2".to_vec()), ("b".to_owned(), b"3".to_vec())]);
    let long = HostFields::append(http, lent(&list), "c".into(), vec![b'x'; 16 << 10]).unwrap();
    assert!(matches!(long, Err(HeaderError::Forbidden)));
    // Those of a request are its own.
    let request = HostOutgoingRequest::new(http, list).unwrap();
    let list = HostOutgoingRequest::headers(http, lent(&request)).unwrap();
    assert!(matches!(HostFields::delete(http, list, "a".into()).unwrap(), Err(HeaderError::Immutable)));
    for authority in ["", "a.org/x", "me@a.org", "a.org?x", "a.org\r\n", "a b"] {
        let set = HostOutgoingRequest::set_authority(http, lent(&request), Some(authority.into())).unwrap();
        assert!(set.is_err(), "{authority:?}");
    }
    for path in ["x", "/a b", "/#", "/\r\nhost: b.org", &*format!("/{}", "x".repeat(8 << 10))] {
        let set = HostOutgoingRequest::set_path_with_query(http, lent(&request), Some(path.into())).unwrap();
        assert!(set.is_err(), "{path:?}");
    }
    for method in [Method::Trace, Method::Connect, Method::Other("get".into())] {
        assert!(HostOutgoingRequest::set_method(http, lent(&request), method).unwrap().is_err());
    }
}

#[tokio::test]
async fn what_an_instance_holds_is_bounded_and_given_back() {
    const PART: &[u8] = &[b'x'; 64 << 10];
    const WHOLE: usize = BODY_BYTES_MAX / PART.len();
    let (mut host, _) = answered(granted(), TapeMode::Off).await;
    let mut http = host.http();
    let code = |written: Result<(), StreamError>| match written {
        Err(StreamError::LastOperationFailed(error)) => format!("{:?}", error.downcast_ref::<ErrorCode>().unwrap()),
        other => panic!("{other:?}"),
    };
    let open = |http: &mut WasiHttp<'_>| {
        let request = request(http, Method::Post, "a.org", "/x");
        let body = body(http, &request);
        (request, body)
    };
    let (large, body) = open(&mut http);
    assert!(code(write(&mut http, &body, PART, WHOLE + 1)).contains("HttpRequestBodySize"));
    assert!(handle(&mut http, large).await.is_ok(), "its answer says what is wrong");
    // In one write as well.
    let (_, body) = open(&mut http);
    assert!(code(write(&mut http, &body, &[0; BODY_BYTES_MAX + 1], 1)).contains("HttpRequestBodySize"));
    let bodies = [open(&mut http), open(&mut http)];
    for (_, body) in &bodies {
        write(&mut http, body, PART, WHOLE).unwrap();
    }
    let (_, third) = open(&mut http);
    assert!(code(write(&mut http, &third, PART, 1)).contains(FULL));
    let [(request, body), _] = bodies;
    HostOutgoingBody::drop(&mut http, body).unwrap();
    HostOutgoingRequest::drop(&mut http, request).unwrap();
    let (_, fourth) = open(&mut http);
    write(&mut http, &fourth, PART, WHOLE).unwrap();
    // Of the 2,000 bytes besides these two bodies headers have more than 1,000, which the largest answer would need.
    let mut list = headers(&mut http, &[]).unwrap();
    for _ in 0..2 {
        HostFields::append(&mut http, lent(&list), "a".into(), vec![b'x'; 100]).unwrap().unwrap();
        list = HostFields::clone(&mut http, lent(&list)).unwrap();
    }
    assert!(matches!(get(&mut http, "a.org", "/x").await, Err(ErrorCode::InternalError(Some(said))) if said == FULL));
}
