//! The host calls that have a native stand-in. On WebAssembly each is the generated import; natively it is
//! [`testing`](crate::testing). Calls without a stand-in use the bindings directly.

#[cfg(target_family = "wasm")]
pub(crate) mod local_store {
    pub(crate) use crate::bindings::nexum::host::local_store::*;
}

#[cfg(target_family = "wasm")]
pub(crate) mod chain {
    pub(crate) use crate::bindings::nexum::host::chain::{request, request_batch};
}

#[cfg(target_family = "wasm")]
pub(crate) mod clock {
    pub(crate) use crate::bindings::nexum::host::clock::{monotonic_ns, now_ms};
}

#[cfg(target_family = "wasm")]
pub(crate) mod identity {
    pub(crate) use crate::bindings::nexum::host::identity::{accounts, sign, sign_typed_data};
}

#[cfg(target_family = "wasm")]
pub(crate) mod logging {
    pub(crate) use crate::bindings::nexum::host::logging::log;
}

#[cfg(target_family = "wasm")]
pub(crate) mod messaging {
    pub(crate) use crate::bindings::nexum::host::messaging::{publish, query};
}

#[cfg(target_family = "wasm")]
pub(crate) mod outbox {
    pub(crate) use crate::bindings::nexum::host::outbox::send;
}

#[cfg(target_family = "wasm")]
pub(crate) mod remote_store {
    pub(crate) use crate::bindings::nexum::host::remote_store::{download, read_feed, upload, write_feed};
}

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::host::{chain, clock, identity, local_store, logging, messaging, outbox, remote_store};
