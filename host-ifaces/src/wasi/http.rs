//! `wasi:http/outgoing-handler` over the gate that `http.fetch` goes through: a module whose toolchain speaks HTTP by itself
//! reaches the hosts that its grants allow, and no others.
//!
//! A request is sent, and its answer waited for, within the one call that makes it whole: `handle`, or the `finish` of its
//! body if that comes later. So what a guest sees does not depend on which of two answers came first, and a recording plays
//! it again.
//!
//! Invariant: every byte is counted before it is kept. Arguments and answers are charged as those of any call, what stays
//! between calls comes out of the instance's share (`held_bytes_max`), and no byte leaves but by `Call::request`.

mod fields;
mod requests;
mod resources;
mod responses;
mod server;

use std::sync::Arc;

use wasmtime::component::{HasData, Resource, ResourceTable};

use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::logging::Level,
    bounded::{MESSAGE_BYTES_MAX, cut},
    call::Call,
    interfaces::http::port::BODY_BYTES_MAX,
    limits::Limits,
    recording::meter::Pool,
};

use self::resources::FULL;
pub(crate) use self::resources::wasi_http;
use self::wasi_http::types::{self, DnsErrorPayload, ErrorCode};

/// What an instance may hold of requests and responses at once, bytes: two of the largest of each, one that is read or
/// written and one that was not dropped yet.
pub(crate) fn held_bytes_max(limits: &Limits) -> usize {
    limits.max_reply_bytes.saturating_add(BODY_BYTES_MAX).saturating_mul(2)
}

pub(crate) struct HasHttp;

impl HasData for HasHttp {
    type Data<'a> = WasiHttp<'a>;
}

pub(crate) struct WasiHttp<'a> {
    pub call: &'a mut Call,
    pub table: &'a mut ResourceTable,
    pub held: &'a Arc<Pool>,
}

impl WasiHttp<'_> {
    /// What a guest is told of an error. The codes say little of what happened, so the module's log has it.
    fn code(&mut self, error: HostError) -> ErrorCode {
        let message = cut(&error.message, MESSAGE_BYTES_MAX);
        self.call.log_line(Level::Warn, format!("wasi:http: {message}"));
        match error.kind {
            HostErrorKind::Denied => ErrorCode::HttpRequestDenied,
            HostErrorKind::Timeout => ErrorCode::HttpResponseTimeout,
            // The status of a response that came stands in the error: it was too large.
            HostErrorKind::InvalidInput if error.code != 0 => ErrorCode::HttpResponseBodySize(None),
            HostErrorKind::Unavailable if message.contains("DNS") => {
                ErrorCode::DnsError(DnsErrorPayload { rcode: Some(message), info_code: None })
            }
            _ => ErrorCode::InternalError(Some(message)),
        }
    }
}

/// That there is no room for more, where a function has no error to answer.
fn full() -> wasmtime::Error {
    wasmtime::Error::msg(FULL)
}

impl types::Host for WasiHttp<'_> {
    fn http_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<ErrorCode>().cloned())
    }
}

#[cfg(test)]
mod tests;
