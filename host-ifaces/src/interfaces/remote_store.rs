//! `remote-store`: content on Swarm, which is asked for by addresses that prove it, and feeds of it.

pub mod guest;
pub mod port;

use wasmtime::component::HasSelf;

use crate::{
    bindings::nexum::host::remote_store, call::Call, capability::Capability, host::HostState,
    interfaces::row::Interface,
};

pub const CAPABILITY: Capability = Capability::named("remote-store");

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| remote_store::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    is_provided: |ports| ports.has::<port::RemoteStoreMsg>(),
    ..Interface::of(CAPABILITY)
};
