//! `http`: requests to hosts that a manifest allows.

pub mod grant;
pub mod guest;
pub mod patience;
pub mod port;

use wasmtime::component::HasSelf;

pub use self::grant::CAPABILITY;
use crate::{bindings::nexum::host::http, call::Call, host::HostState, interfaces::row::Interface};

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| http::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    table: grant::TABLE,
    beyond: grant::beyond,
    ..Interface::of(CAPABILITY)
};
