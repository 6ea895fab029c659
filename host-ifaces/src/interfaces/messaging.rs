//! `messaging`: messages on topics that others read and write. It has no actor yet.

use crate::{capability::Capability, interfaces::row::Interface};

pub const CAPABILITY: Capability = Capability::named("messaging");

pub const INTERFACE: Interface = Interface::of(CAPABILITY);
