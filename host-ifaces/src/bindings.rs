//! Generated host bindings of `nexum:host@0.3.0`. Exports run on fibers; only imports that really wait are async.

wasmtime::component::bindgen!({
    path: "wit",
    world: "event-module",
    imports: {
        "nexum:host/chain": async,
        "nexum:host/http": async,
        "nexum:host/identity": async,
        "nexum:host/local-store.flush": async,
        "nexum:host/remote-store": async,
        "nexum:host/messaging": async,
        "nexum:host/clock": trappable,
        "nexum:host/logging": trappable,
        "nexum:host/random": trappable,
    },
    exports: { default: async },
    additional_derives: [PartialEq, Eq, serde::Serialize, serde::Deserialize],
});
