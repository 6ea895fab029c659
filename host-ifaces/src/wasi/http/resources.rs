//! The resources of `wasi:http` that a guest can have, the streams of bodies, and the bindings over them.
//!
//! Invariant: whatever a resource holds of a guest's or a server's bytes is charged to the instance's share before it is kept,
//! and given back when the resource is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use self::wasi_http::types::{ErrorCode, HeaderError, Scheme};
use crate::{
    interfaces::http::{
        guest::weight,
        port::{BODY_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX, Header, Request},
    },
    limits::Meter,
    recording::meter::Charge,
    wasi::stdio::WRITE_BYTES_MAX,
};

#[allow(dead_code, reason = "generated for all of the interfaces")]
mod generated {
    wasmtime::component::bindgen!({
        path: "packages/wasi-http",
        world: "client",
        imports: {
            "wasi:http/outgoing-handler.handle": async | trappable,
            "wasi:http/types.[static]outgoing-body.finish": async | trappable,
            default: trappable,
        },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:http/types.fields": crate::wasi::http::resources::Fields,
            "wasi:http/types.outgoing-request": crate::wasi::http::resources::OutgoingRequest,
            "wasi:http/types.outgoing-body": crate::wasi::http::resources::OutgoingBody,
            "wasi:http/types.request-options": crate::wasi::http::resources::RequestOptions,
            "wasi:http/types.future-incoming-response": crate::wasi::http::resources::FutureIncomingResponse,
            "wasi:http/types.incoming-response": crate::wasi::http::resources::IncomingResponse,
            "wasi:http/types.incoming-body": crate::wasi::http::resources::IncomingBody,
            "wasi:http/types.future-trailers": crate::wasi::http::resources::FutureTrailers,
        },
    });
}
pub(crate) use self::generated::wasi::http as wasi_http;

/// What a guest is told that holds too much.
pub const FULL: &str = "this instance holds as many bytes of requests and responses as it may: drop what was read";

/// Headers that are held.
pub struct HeaderList {
    pub headers: Vec<Header>,
    pub charge: Charge,
}

pub struct Fields {
    /// Shared with a request or a response, as whose part nobody changes it.
    pub list: Arc<HeaderList>,
    pub is_part: bool,
}

impl Fields {
    /// Takes away the headers of a name, and adds others.
    ///
    /// # Errors
    /// That it is part of something else, or would have more than a request may.
    pub fn change(&mut self, without: Option<&str>, with: Vec<Header>) -> Result<(), HeaderError> {
        let list = Arc::get_mut(&mut self.list).filter(|_| !self.is_part).ok_or(HeaderError::Immutable)?;
        let stays = |header: &Header| without.is_none_or(|name| !header.name.eq_ignore_ascii_case(name));
        let next = list.headers.iter().filter(|header| stays(header)).chain(&with);
        let (count, bytes) =
            next.fold((0, 0), |(count, bytes), header| (count + 1, bytes + header.name.len() + header.value.len()));
        let is_within = count <= HEADERS_MAX && bytes <= HEADER_BYTES_MAX;
        if !is_within || !list.charge.resize(count * size_of::<Header>() + bytes) {
            return Err(HeaderError::Forbidden);
        }
        list.headers.retain(stays);
        list.headers.extend(with);
        Ok(())
    }
}

pub struct OutgoingRequest {
    /// One that a module may use.
    pub method: &'static str,
    pub scheme: Option<Scheme>,
    pub authority: Option<String>,
    pub path: Option<String>,
    /// Of authority and path.
    pub charge: Charge,
    pub headers: Arc<HeaderList>,
    /// Absent while nobody has asked for its body.
    pub exchange: Option<Exchange>,
}

/// Times in nanoseconds.
#[derive(Default)]
pub struct RequestOptions {
    pub connect: Option<u64>,
    pub first_byte: Option<u64>,
    pub between_bytes: Option<u64>,
}

pub struct OutgoingBody {
    pub exchange: Exchange,
    /// There is one stream of a body.
    pub has_stream: bool,
}

pub struct FutureIncomingResponse(pub Exchange);

pub struct IncomingResponse {
    pub status: u16,
    pub headers: Arc<HeaderList>,
    pub body: Option<HeldBody>,
}

/// Until its stream is taken.
pub struct IncomingBody(pub Option<HeldBody>);

/// Whether it was asked: there are never any.
#[derive(Default)]
pub struct FutureTrailers(pub bool);

/// What is left of the body of a response.
pub struct HeldBody {
    pub bytes: Bytes,
    pub _charge: Charge,
}

/// A request from the first byte of its body to its answer. The resources that stand for its parts share it.
#[derive(Clone)]
pub struct Exchange(Arc<Mutex<State>>);

struct State {
    body: Vec<u8>,
    /// Of the body.
    charge: Charge,
    /// What the request says of its body, bytes.
    announced: Option<u64>,
    phase: Phase,
}

enum Phase {
    /// The body is being written. The request, once it is handed over.
    Open(Option<Request>),
    /// The body is whole, and the request not handed over.
    Whole,
    /// The request is being sent.
    Sent,
    Answered(Result<IncomingResponse, ErrorCode>),
    /// The answer was taken, or nobody wants it.
    Over,
}

impl Exchange {
    /// One whose body is begun, or that has none.
    pub fn new(charge: Charge, announced: Option<u64>, has_body: bool) -> Self {
        let phase = if has_body { Phase::Open(None) } else { Phase::Whole };
        Self(Arc::new(Mutex::new(State { body: Vec::new(), charge, announced, phase })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is handed over. Answers what is to be sent now: nothing while its body is not whole.
    pub fn submit(&self, request: Request) -> Option<Request> {
        let mut guard = self.state();
        let state = &mut *guard;
        match state.phase {
            Phase::Open(None) => state.phase = Phase::Open(Some(request)),
            Phase::Whole => return Some(state.whole(request)),
            // Its body failed.
            Phase::Answered(Err(_)) => {}
            Phase::Open(Some(_)) | Phase::Sent | Phase::Answered(Ok(_)) | Phase::Over => {
                unreachable!("a request is handed over twice")
            }
        }
        None
    }

    /// The body is whole. Answers what is to be sent now: nothing while the request is not handed over.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn finish(&self) -> Result<Option<Request>, ErrorCode> {
        let mut guard = self.state();
        let state = &mut *guard;
        let written = state.body.len() as u64;
        if matches!(state.phase, Phase::Open(_)) && state.announced.is_some_and(|announced| announced != written) {
            state.fail(ErrorCode::HttpRequestBodySize(Some(written)));
        }
        match std::mem::replace(&mut state.phase, Phase::Over) {
            Phase::Open(None) => state.phase = Phase::Whole,
            Phase::Open(Some(request)) => return Ok(Some(state.whole(request))),
            Phase::Answered(Err(code)) => {
                state.fail(code.clone());
                return Err(code);
            }
            // Nobody wants the answer.
            Phase::Over => {}
            Phase::Whole | Phase::Sent | Phase::Answered(Ok(_)) => unreachable!("a body is whole twice"),
        }
        Ok(None)
    }

    /// The body is dropped. Unless it is whole, that is the end of the request.
    pub fn abandon_body(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Open(_)) {
            state.fail(ErrorCode::InternalError(Some("the body of the request was dropped, and not finished".into())));
        }
    }

    /// What became of a request that was sent.
    pub fn answer(&self, answer: Result<IncomingResponse, ErrorCode>) {
        self.state().phase = Phase::Answered(answer);
    }

    /// The answer, once; an error the next time.
    pub fn take_answer(&self) -> Option<Result<Result<IncomingResponse, ErrorCode>, ()>> {
        let mut state = self.state();
        match std::mem::replace(&mut state.phase, Phase::Over) {
            Phase::Answered(answer) => Some(Ok(answer)),
            Phase::Over => Some(Err(())),
            pending => {
                state.phase = pending;
                None
            }
        }
    }

    /// Nobody wants the answer any more: what is not sent by now is not sent.
    pub fn give_up(&self) {
        let mut state = self.state();
        (state.phase, state.body) = (Phase::Over, Vec::new());
        state.charge.resize(0);
    }

    fn is_settled(&self) -> bool {
        matches!(self.state().phase, Phase::Answered(_) | Phase::Over)
    }

    /// How much may be written at once; nothing when the body is written no more. One that is full still takes a write, which
    /// fails, so that nobody waits for room.
    fn permit(&self) -> Option<usize> {
        let state = self.state();
        let is_open = matches!(state.phase, Phase::Open(_));
        is_open.then(|| (BODY_BYTES_MAX - state.body.len()).max(WRITE_BYTES_MAX))
    }

    fn write(&self, bytes: &[u8]) -> Result<(), ErrorCode> {
        let mut state = self.state();
        let total = state.body.len() + bytes.len();
        let refusal = if total > BODY_BYTES_MAX {
            Some(ErrorCode::HttpRequestBodySize(Some(total as u64)))
        } else if !state.charge.resize(total) {
            Some(ErrorCode::InternalError(Some(FULL.into())))
        } else {
            None
        };
        if let Some(code) = refusal {
            state.fail(code.clone());
            return Err(code);
        }
        state.body.extend_from_slice(bytes);
        Ok(())
    }
}

impl State {
    /// The request with its body, on its way.
    fn whole(&mut self, request: Request) -> Request {
        self.phase = Phase::Sent;
        let body = std::mem::take(&mut self.body);
        self.charge.resize(0);
        Request { body: Some(body).filter(|body| !body.is_empty()), ..request }
    }

    fn fail(&mut self, code: ErrorCode) {
        (self.phase, self.body) = (Phase::Answered(Err(code)), Vec::new());
        self.charge.resize(0);
    }
}

#[async_trait::async_trait]
impl Pollable for FutureIncomingResponse {
    async fn ready(&mut self) {
        // An answer is there when the call returns that sent the request. What is not sent waits for the guest, which does
        // nothing while it waits here for this alone.
        if !self.0.is_settled() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait::async_trait]
impl Pollable for FutureTrailers {
    async fn ready(&mut self) {}
}

/// The stream that a guest writes a body to.
pub(crate) struct BodyWriter {
    pub exchange: Exchange,
    pub meter: Arc<Meter>,
}

#[async_trait::async_trait]
impl Pollable for BodyWriter {
    async fn ready(&mut self) {}
}

impl OutputStream for BodyWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.meter.take(bytes.len());
        if self.exchange.permit().is_none() {
            return Err(StreamError::Closed);
        }
        self.exchange.write(&bytes).map_err(|code| StreamError::LastOperationFailed(wasmtime::Error::new(code)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.exchange.permit().ok_or(StreamError::Closed)
    }
}

/// The stream that a guest reads a body from.
pub(crate) struct BodyReader {
    pub body: HeldBody,
    pub meter: Arc<Meter>,
}

#[async_trait::async_trait]
impl Pollable for BodyReader {
    async fn ready(&mut self) {}
}

impl InputStream for BodyReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let left = self.body.bytes.len();
        if left == 0 {
            return Err(StreamError::Closed);
        }
        let part = self.body.bytes.split_to(size.min(left));
        self.meter.give(part.len());
        Ok(part)
    }
}

impl HeaderList {
    pub fn weight(&self) -> usize {
        weight(&self.headers, &[])
    }
}
