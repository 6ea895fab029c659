//! Bindings generated from the WIT package `nexum:host`. The other modules wrap them; nothing is added here.
#![allow(unsafe_code, missing_docs, clippy::all)]

wit_bindgen::generate!({
    world: "event-module",
    path: "../host-ifaces/wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "__export_event_module",
    default_bindings_module: "nexum_sdk::bindings",
});
