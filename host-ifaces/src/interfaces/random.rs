//! `random`: secure randomness.

pub mod guest;

use wasmtime::component::HasSelf;

use crate::{
    bindings::nexum::host::random, call::Call, capability::Capability, host::HostState, interfaces::row::Interface,
};

pub const CAPABILITY: Capability = Capability::named("random");

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| random::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    in_query: true,
    ..Interface::of(CAPABILITY)
};
