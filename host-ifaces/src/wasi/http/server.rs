//! What `wasi:http/types` has for servers, defined because components import all of the interface, and refused: no request
//! comes to a module.

use wasmtime::component::Resource;

use super::{
    WasiHttp,
    resources::{
        Fields, IncomingBody, OutgoingBody,
        wasi_http::types::{self, ErrorCode, IncomingRequest, Method, OutgoingResponse, ResponseOutparam, Scheme},
    },
};

impl WasiHttp<'_> {
    fn refuse<T>(&self, what: &str) -> wasmtime::Result<T> {
        let module = self.call.module();
        let message =
            format!("`{what}` of `wasi:http/types` is refused to module {module}: no request comes to a module");
        Err(wasmtime::Error::msg(message))
    }
}

impl types::HostIncomingRequest for WasiHttp<'_> {
    fn method(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Method> {
        self.refuse("incoming-request")
    }

    fn path_with_query(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        self.refuse("incoming-request")
    }

    fn scheme(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Option<Scheme>> {
        self.refuse("incoming-request")
    }

    fn authority(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        self.refuse("incoming-request")
    }

    fn headers(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Resource<Fields>> {
        self.refuse("incoming-request")
    }

    fn consume(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        self.refuse("incoming-request")
    }

    fn drop(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<()> {
        self.refuse("incoming-request")
    }
}

impl types::HostResponseOutparam for WasiHttp<'_> {
    fn set(
        &mut self,
        _: Resource<ResponseOutparam>,
        _: Result<Resource<OutgoingResponse>, ErrorCode>,
    ) -> wasmtime::Result<()> {
        self.refuse("response-outparam")
    }

    fn drop(&mut self, _: Resource<ResponseOutparam>) -> wasmtime::Result<()> {
        self.refuse("response-outparam")
    }
}

impl types::HostOutgoingResponse for WasiHttp<'_> {
    fn new(&mut self, _: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingResponse>> {
        self.refuse("outgoing-response")
    }

    fn status_code(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<u16> {
        self.refuse("outgoing-response")
    }

    fn set_status_code(&mut self, _: Resource<OutgoingResponse>, _: u16) -> wasmtime::Result<Result<(), ()>> {
        self.refuse("outgoing-response")
    }

    fn headers(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<Resource<Fields>> {
        self.refuse("outgoing-response")
    }

    fn body(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        self.refuse("outgoing-response")
    }

    fn drop(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<()> {
        self.refuse("outgoing-response")
    }
}
