//! `logging`: lines of a module.

pub mod guest;

use wasmtime::component::HasSelf;

use crate::{
    bindings::nexum::host::logging, call::Call, capability::Capability, host::HostState, interfaces::row::Interface,
};

pub const CAPABILITY: Capability = Capability::named("logging");

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| logging::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    in_query: true,
    ..Interface::of(CAPABILITY)
};
