//! `fields` of `wasi:http`: lists of headers, within the bounds of those of a request.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::{
    WasiHttp, full,
    resources::{
        Fields, HeaderList,
        wasi_http::types::{self, HeaderError},
    },
};
use crate::interfaces::http::port::{HEADER_BYTES_MAX, HEADERS_MAX, Header, is_name, is_reserved, is_value};

/// What a guest may say, because its libraries do: it is held against the body, and the host sets its own.
pub(super) const CONTENT_LENGTH: &str = "content-length";

/// A header that may go out.
fn header(name: String, value: Vec<u8>) -> Result<Header, HeaderError> {
    let value = String::from_utf8(value).map_err(|_| HeaderError::InvalidSyntax)?;
    if !is_name(&name) || !is_value(&value) {
        return Err(HeaderError::InvalidSyntax);
    }
    if is_reserved(&name) && !name.eq_ignore_ascii_case(CONTENT_LENGTH) {
        return Err(HeaderError::Forbidden);
    }
    Ok(Header { name, value })
}

impl WasiHttp<'_> {
    fn no_fields(&self) -> wasmtime::Result<Fields> {
        let charge = self.held.take(0).ok_or_else(full)?;
        Ok(Fields { list: Arc::new(HeaderList { headers: Vec::new(), charge }), is_part: false })
    }
}

impl types::HostFields for WasiHttp<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        let fields = self.no_fields()?;
        Ok(self.table.push(fields)?)
    }

    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        let text: usize = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.call.take(size_of_val(&*entries) + text);
        if entries.len() > HEADERS_MAX {
            return Ok(Err(HeaderError::Forbidden));
        }
        let headers: Result<Vec<Header>, _> = entries.into_iter().map(|(name, value)| header(name, value)).collect();
        let mut fields = self.no_fields()?;
        match headers.and_then(|headers| fields.change(None, headers)) {
            Ok(()) => Ok(Ok(self.table.push(fields)?)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        self.call.take(name.len());
        let headers = &self.table.get(&fields)?.list.headers;
        let named = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(&name));
        let values: Vec<Vec<u8>> = named.map(|header| header.value.clone().into_bytes()).collect();
        self.call.give(size_of_val(&*values) + values.iter().map(Vec::len).sum::<usize>());
        Ok(values)
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        self.call.take(name.len());
        let headers = &self.table.get(&fields)?.list.headers;
        Ok(headers.iter().any(|header| header.name.eq_ignore_ascii_case(&name)))
    }

    fn set(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        values: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        self.call.take(name.len() + size_of_val(&*values) + values.iter().map(Vec::len).sum::<usize>());
        let fields = self.table.get_mut(&fields)?;
        if values.len() > HEADERS_MAX || name.len() > HEADER_BYTES_MAX {
            return Ok(Err(HeaderError::Forbidden));
        }
        let headers: Result<Vec<Header>, _> = values.into_iter().map(|value| header(name.clone(), value)).collect();
        Ok(headers.and_then(|headers| fields.change(Some(&name), headers)))
    }

    fn delete(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Result<(), HeaderError>> {
        self.call.take(name.len());
        Ok(self.table.get_mut(&fields)?.change(Some(&name), Vec::new()))
    }

    fn append(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        self.call.take(name.len() + value.len());
        let fields = self.table.get_mut(&fields)?;
        Ok(header(name, value).and_then(|header| fields.change(None, vec![header])))
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let list = &self.table.get(&fields)?.list;
        self.call.give(list.weight());
        Ok(list.headers.iter().map(|header| (header.name.clone(), header.value.clone().into_bytes())).collect())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let list = self.table.get(&fields)?.list.clone();
        let mut copy = self.no_fields()?;
        // What a server sent may be more than a request takes, and is kept as it came.
        let Some(kept) = Arc::get_mut(&mut copy.list) else { unreachable!("new fields are shared") };
        if !kept.charge.resize(list.weight()) {
            return Err(full());
        }
        self.call.give(list.weight());
        kept.headers.clone_from(&list.headers);
        Ok(self.table.push(copy)?)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.table.delete(fields)?;
        Ok(())
    }
}
