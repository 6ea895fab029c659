//! `identity`: signatures with the operator's keys, which never enter a module.

pub mod grant;
pub mod guest;
pub mod port;

use wasmtime::component::HasSelf;

pub use self::grant::CAPABILITY;
use crate::{bindings::nexum::host::identity, call::Call, host::HostState, interfaces::row::Interface};

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| identity::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    is_provided: |ports| ports.has::<port::IdentityMsg>(),
    table: grant::TABLE,
    beyond: grant::beyond,
    ..Interface::of(CAPABILITY)
};
