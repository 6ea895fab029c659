//! `chain`: requests to the nodes of chains.

pub mod block;
pub mod grant;
pub mod guest;
pub mod port;
mod wallet;

use wasmtime::component::HasSelf;

pub use self::grant::CAPABILITY;
use crate::{bindings::nexum::host::chain, call::Call, host::HostState, interfaces::row::Interface};

pub const INTERFACE: Interface = Interface {
    link: Some(|linker| chain::add_to_linker::<_, HasSelf<Call>>(linker, HostState::call)),
    is_provided: |ports| !ports.chains().is_empty(),
    table: grant::TABLE,
    beyond: grant::beyond,
    in_query: true,
    ..Interface::of(CAPABILITY)
};
