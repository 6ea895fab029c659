//! `outbox`: effects that leave once their event is committed.

pub mod guest;

use crate::{capability::Capability, interfaces::row::Interface};

pub const CAPABILITY: Capability = Capability::named("outbox");

pub const INTERFACE: Interface = Interface { link: Some(guest::link), ..Interface::of(CAPABILITY) };
