//! `remote-store`: content on a storage network. It has no actor yet.

use crate::{capability::Capability, interfaces::row::Interface};

pub const CAPABILITY: Capability = Capability::named("remote-store");

pub const INTERFACE: Interface = Interface::of(CAPABILITY);
