//! `messaging`: messages of and to others. It has no actor yet.

use crate::{capability::Capability, interfaces::row::Interface};

pub const CAPABILITY: Capability = Capability::named("messaging");

pub const INTERFACE: Interface = Interface::of(CAPABILITY);
