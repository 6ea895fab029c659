//! `wasi:sockets/ip-name-lookup`, whose answer is always no, with names that are charged for.
//!
//! Invariant: a name counts as an argument before anything else is done with it. It was copied by then, and may be as long
//! as the arguments of a call.

use std::sync::Arc;

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    p2::{
        Network, SocketError,
        bindings::sockets::{
            ip_name_lookup::{self, ResolveAddressStream},
            network::{self, ErrorCode, IpAddress},
        },
    },
    sockets::WasiSocketsCtxView,
};
use wasmtime_wasi_io::poll::DynPollable;

use crate::limits::Meter;

pub(super) struct HasLookups;

impl HasData for HasLookups {
    type Data<'a> = Lookups<'a>;
}

pub(crate) struct Lookups<'a> {
    pub sockets: WasiSocketsCtxView<'a>,
    pub meter: Arc<Meter>,
}

impl ip_name_lookup::Host for Lookups<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        self.meter.take(name.len());
        ip_name_lookup::Host::resolve_addresses(&mut self.sockets, network, name)
    }
}

impl ip_name_lookup::HostResolveAddressStream for Lookups<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        ip_name_lookup::HostResolveAddressStream::resolve_next_address(&mut self.sockets, stream)
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        ip_name_lookup::HostResolveAddressStream::subscribe(&mut self.sockets, stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        ip_name_lookup::HostResolveAddressStream::drop(&mut self.sockets, stream)
    }
}

impl network::Host for Lookups<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.sockets, error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.sockets, error)
    }
}

impl network::HostNetwork for Lookups<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.sockets, network)
    }
}
