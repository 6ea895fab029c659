//! The exports of a module that answers queries, generated from the world `query-module`. Its imports and types are those
//! of [`bindings`](crate::bindings).
#![allow(unsafe_code, missing_docs, clippy::all)]

wit_bindgen::generate!({
    world: "query-module",
    path: "../host-ifaces/wit",
    with: {
        "nexum:host/types@0.3.0": crate::bindings::nexum::host::types,
        "nexum:host/chain@0.3.0": crate::bindings::nexum::host::chain,
        "nexum:host/identity@0.3.0": crate::bindings::nexum::host::identity,
        "nexum:host/local-store@0.3.0": crate::bindings::nexum::host::local_store,
        "nexum:host/remote-store@0.3.0": crate::bindings::nexum::host::remote_store,
        "nexum:host/messaging@0.3.0": crate::bindings::nexum::host::messaging,
        "nexum:host/logging@0.3.0": crate::bindings::nexum::host::logging,
        "nexum:host/clock@0.3.0": crate::bindings::nexum::host::clock,
        "nexum:host/random@0.3.0": crate::bindings::nexum::host::random,
        "nexum:host/http@0.3.0": crate::bindings::nexum::host::http,
        "nexum:host/outbox@0.3.0": crate::bindings::nexum::host::outbox,
    },
    pub_export_macro: true,
    export_macro_name: "__export_query_module",
    default_bindings_module: "nexum_sdk::query_bindings",
    // Those of `bindings` have every import already.
    disable_custom_section_link_helpers: true,
});
