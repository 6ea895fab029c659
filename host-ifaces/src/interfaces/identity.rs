//! `identity`: signatures with the operator's keys. It has no actor yet.

pub mod grant;
pub mod port;

use crate::{capability::Capability, interfaces::row::Interface};

pub const CAPABILITY: Capability = Capability::named("identity");

pub const INTERFACE: Interface = Interface { table: grant::TABLE, ..Interface::of(CAPABILITY) };
