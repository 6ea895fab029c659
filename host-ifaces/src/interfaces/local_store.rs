//! `local-store`: a module's own state.

pub mod guest;

use crate::{capability::Capability, interfaces::row::Interface};

pub const CAPABILITY: Capability = Capability::named("local-store");

pub const INTERFACE: Interface = Interface { link: Some(guest::link), in_query: true, ..Interface::of(CAPABILITY) };
