//! `messaging`: messages on topics that others read and write.

pub mod guest;
pub mod port;

use wasmtime::component::HasSelf;

use crate::{
    bindings::nexum::host::messaging, call::Call, capability::Capability, host::HostState, interfaces::row::Interface,
};

pub const CAPABILITY: Capability = Capability::named("messaging");

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| messaging::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    is_provided: |ports| ports.has::<port::MessagingMsg>(),
    ..Interface::of(CAPABILITY)
};
