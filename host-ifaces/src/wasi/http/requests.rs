//! Requests of `wasi:http`: what they are made of, and when one is sent.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::DynOutputStream;

use super::{
    WasiHttp,
    fields::CONTENT_LENGTH,
    full,
    resources::{
        BodyWriter, Exchange, FULL, Fields, FutureIncomingResponse, HeaderList, HeldBody, IncomingResponse,
        OutgoingBody, OutgoingRequest, RequestOptions,
        wasi_http::{
            outgoing_handler,
            types::{self, ErrorCode, Method, Scheme},
        },
    },
};
use crate::{
    HostError, HostErrorKind,
    call::not_in_query,
    grants::Grant,
    interfaces::http::{
        grant::{CAPABILITY, invalid},
        guest::weight,
        port::{METHODS, Request, URL_BYTES_MAX, check},
    },
};

/// A host and a port: no host has a longer name, and no port more digits.
const AUTHORITY_BYTES_MAX: usize = 255 + 6;

fn name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

/// Whether a text is a host and a port, and nothing that a URL would go on with.
fn is_authority(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_graphic() && !b"/?#\\@".contains(&byte);
    (1..=AUTHORITY_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

/// Whether a text is what follows a host and a port.
fn is_path(text: &str) -> bool {
    let is_part = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'#';
    let begins = text.is_empty() || text.starts_with(['/', '?']);
    begins && text.len() <= URL_BYTES_MAX && text.bytes().all(is_part)
}

impl OutgoingRequest {
    fn url(&self) -> Result<String, HostError> {
        let authority = self.authority.as_deref().ok_or_else(|| invalid("the request has no authority"))?;
        let scheme = if matches!(self.scheme, Some(Scheme::Http)) { "http" } else { "https" };
        Ok(format!("{scheme}://{authority}{}", self.path.as_deref().unwrap_or("/")))
    }

    /// Charges for its authority and its path; without room for them it has neither.
    fn charge(&mut self) -> Result<(), ()> {
        let bytes: usize = [&self.authority, &self.path].into_iter().flatten().map(String::len).sum();
        if self.charge.resize(bytes) {
            return Ok(());
        }
        (self.authority, self.path) = (None, None);
        Err(())
    }

    /// What it says of its body, bytes.
    fn announced(&self) -> Option<u64> {
        let mut headers = self.headers.headers.iter();
        headers.find(|header| header.name.eq_ignore_ascii_case(CONTENT_LENGTH))?.value.parse().ok()
    }
}

impl RequestOptions {
    /// One time for the whole request: a guest that bounds nothing but a part of it has the bound of its module.
    pub(super) fn timeout_ms(&self) -> Option<u32> {
        let parts = [self.connect, self.between_bytes].into_iter().flatten();
        let all = parts.fold(self.first_byte?, u64::saturating_add);
        Some(u32::try_from(all.div_ceil(1_000_000)).unwrap_or(u32::MAX))
    }
}

impl WasiHttp<'_> {
    /// The request, without its body, if it may go out.
    fn admit(&mut self, parts: &OutgoingRequest, timeout_ms: Option<u32>) -> Result<Request, HostError> {
        self.call.count(CAPABILITY.name())?;
        if self.call.grants().get(CAPABILITY) != Some(Grant::Served) {
            let refusal = match self.call.grants().get(CAPABILITY) {
                Some(Grant::NotInQuery) => not_in_query(CAPABILITY.name(), "`wasi:http`"),
                _ => {
                    let message = format!("capability `{CAPABILITY}` is not granted to module {}", self.call.module());
                    HostError::new(CAPABILITY.name(), HostErrorKind::Denied, message)
                }
            };
            return Err(refusal);
        }
        let is_sent = |name: &str| !name.eq_ignore_ascii_case(CONTENT_LENGTH);
        let headers = parts.headers.headers.iter().filter(|header| is_sent(&header.name)).cloned().collect();
        let request = Request { method: parts.method.to_owned(), url: parts.url()?, headers, body: None, timeout_ms };
        check(&request.method, &request.url, &request.headers, None, &self.call.grants().hosts())?;
        Ok(request)
    }

    async fn send(&mut self, exchange: &Exchange, request: Request) {
        let answer = self.fetch(request).await;
        exchange.answer(answer.map_err(|error| self.code(error)));
    }

    async fn fetch(&mut self, request: Request) -> Result<IncomingResponse, HostError> {
        let full = || HostError::new(CAPABILITY.name(), HostErrorKind::RateLimited, FULL);
        // The place for the answer is there before it is asked for.
        let place = self.held.take(self.call.limits().max_reply_bytes).ok_or_else(full)?;
        let response = self.call.request(request).await?;
        drop(place);
        let charge = self.held.take(weight(&response.headers, &[])).ok_or_else(full)?;
        let headers = HeaderList { headers: response.headers, charge }.into();
        let charge = self.held.take(response.body.len()).ok_or_else(full)?;
        let body = HeldBody { bytes: response.body.into(), _charge: charge };
        Ok(IncomingResponse { status: response.status, headers, body: Some(body) })
    }
}

impl outgoing_handler::Host for WasiHttp<'_> {
    async fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Resource<FutureIncomingResponse>, ErrorCode>> {
        let mut parts = self.table.delete(request)?;
        let options = options.map(|options| self.table.delete(options)).transpose()?.unwrap_or_default();
        let request = match self.admit(&parts, options.timeout_ms()) {
            Ok(request) => request,
            Err(error) => return Ok(Err(self.code(error))),
        };
        let exchange = match parts.exchange.take() {
            Some(exchange) => exchange,
            None => Exchange::new(self.held.take(0).ok_or_else(full)?, None, false),
        };
        if let Some(request) = exchange.submit(request) {
            self.send(&exchange, request).await;
        }
        Ok(Ok(self.table.push(FutureIncomingResponse(exchange))?))
    }
}

impl types::HostOutgoingRequest for WasiHttp<'_> {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingRequest>> {
        let headers = self.table.delete(headers)?.list;
        let charge = self.held.take(0).ok_or_else(full)?;
        let request = OutgoingRequest {
            method: "GET",
            scheme: None,
            authority: None,
            path: None,
            charge,
            headers,
            exchange: None,
        };
        Ok(self.table.push(request)?)
    }

    fn body(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let charge = self.held.take(0).ok_or_else(full)?;
        let request = self.table.get_mut(&request)?;
        if request.exchange.is_some() {
            return Ok(Err(()));
        }
        let exchange = Exchange::new(charge, request.announced(), true);
        request.exchange = Some(exchange.clone());
        Ok(Ok(self.table.push(OutgoingBody { exchange, has_stream: false })?))
    }

    fn method(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Method> {
        Ok(method(self.table.get(&request)?.method))
    }

    fn set_method(&mut self, request: Resource<OutgoingRequest>, method: Method) -> wasmtime::Result<Result<(), ()>> {
        self.call.take(name(&method).len());
        let Some(known) = METHODS.into_iter().find(|known| *known == name(&method)) else { return Ok(Err(())) };
        self.table.get_mut(&request)?.method = known;
        Ok(Ok(()))
    }

    fn path_with_query(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<String>> {
        let path = self.table.get(&request)?.path.clone();
        self.call.give(path.as_ref().map_or(0, String::len));
        Ok(path)
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.call.take(path.as_ref().map_or(0, String::len));
        if !path.as_deref().is_none_or(is_path) {
            return Ok(Err(()));
        }
        let request = self.table.get_mut(&request)?;
        request.path = path;
        Ok(request.charge())
    }

    fn scheme(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<Scheme>> {
        Ok(self.table.get(&request)?.scheme.clone())
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if let Some(Scheme::Other(other)) = &scheme {
            self.call.take(other.len());
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn authority(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<String>> {
        let authority = self.table.get(&request)?.authority.clone();
        self.call.give(authority.as_ref().map_or(0, String::len));
        Ok(authority)
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.call.take(authority.as_ref().map_or(0, String::len));
        if !authority.as_deref().is_none_or(is_authority) {
            return Ok(Err(()));
        }
        let request = self.table.get_mut(&request)?;
        request.authority = authority;
        Ok(request.charge())
    }

    fn headers(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Resource<Fields>> {
        let list = self.table.get(&request)?.headers.clone();
        Ok(self.table.push(Fields { list, is_part: true })?)
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<()> {
        self.table.delete(request)?;
        Ok(())
    }
}

impl types::HostOutgoingBody for WasiHttp<'_> {
    fn write(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let held = self.table.get_mut(&body)?;
        if std::mem::replace(&mut held.has_stream, true) {
            return Ok(Err(()));
        }
        let writer = BodyWriter { exchange: held.exchange.clone(), meter: self.call.meter().clone() };
        let stream: DynOutputStream = Box::new(writer);
        Ok(Ok(self.table.push_child(stream, &body)?))
    }

    async fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let OutgoingBody { exchange, .. } = self.table.delete(body)?;
        if let Some(trailers) = trailers
            && !self.table.delete(trailers)?.list.headers.is_empty()
        {
            exchange.abandon_body();
            return Ok(Err(ErrorCode::InternalError(Some("trailers of requests are not sent".into()))));
        }
        match exchange.finish() {
            Ok(None) => {}
            Ok(Some(request)) => self.send(&exchange, request).await,
            Err(code) => return Ok(Err(code)),
        }
        Ok(Ok(()))
    }

    fn drop(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<()> {
        self.table.delete(body)?.exchange.abandon_body();
        Ok(())
    }
}

impl types::HostRequestOptions for WasiHttp<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        Ok(self.table.push(RequestOptions::default())?)
    }

    fn connect_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.connect)
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.connect = duration;
        Ok(Ok(()))
    }

    fn first_byte_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.first_byte)
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.first_byte = duration;
        Ok(Ok(()))
    }

    fn between_bytes_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.between_bytes)
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.between_bytes = duration;
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.table.delete(options)?;
        Ok(())
    }
}
