//! From machine code in the cache to the first event, and from a trap to a fresh instance.

use nexum_host_ifaces::{
    grants::{AskedCapabilities, Grants},
    host::HostState,
    interfaces::local_store::CAPABILITY,
    store::ModuleRecord,
};
use nexum_kernel::{
    engine::WasmEngine,
    instance::{self, Instance},
};
use nexum_testkit::bundle;
use nexum_testkit_engine::block_event;
use tempfile::TempDir;
use wasmtime::{Store, component::Component};

use crate::{
    dispatch::{Guests, manifest, now},
    figures::{Figures, Goal, median},
};

const SAMPLES: usize = 50;

/// The `.cwasm` that the cache keeps.
fn cached(dir: &std::path::Path) -> std::path::PathBuf {
    let inner = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    std::fs::read_dir(inner).unwrap().next().unwrap().unwrap().path()
}

pub async fn cold_start(figures: &mut Figures) {
    let cache = TempDir::new().unwrap();
    let manifest = manifest("bench");
    let file = bundle("bench").join("module.wasm");
    WasmEngine::new(cache.path()).unwrap().component(&file, manifest.component).unwrap();
    let guests = Guests::new();
    let asked = AskedCapabilities { required: &[CAPABILITY], optional: &[] };
    let grants = Grants::decide(asked, &[CAPABILITY].into(), &[].into()).unwrap();
    let (id, event) = block_event(1);
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        // A new engine each time, because an engine keeps what it has opened.
        let engine = WasmEngine::new(cache.path()).unwrap();
        let start = now();
        let component = engine.component(&file, manifest.component).unwrap();
        let prepared = instance::prepare(&engine, &component, grants.interfaces(), "bench").unwrap();
        let mut instance = Instance::start(&prepared, &guests.args, ModuleRecord::default()).await.unwrap();
        instance.init(&Vec::new()).await.unwrap();
        instance.handle(&id, &event).await.unwrap();
        ours.push(start.elapsed().as_secs_f64() * 1e3);

        let engine = WasmEngine::new(cache.path()).unwrap();
        let code = cached(cache.path());
        let start = now();
        #[allow(unsafe_code, reason = "the file was written by the engine under test a moment ago")]
        let component = unsafe { Component::deserialize_file(engine.wasm(), &code) }.unwrap();
        let prepared = instance::prepare(&engine, &component, grants.interfaces(), "bench").unwrap();
        let mut store = Store::new(prepared.engine(), HostState::new(&guests.args, ModuleRecord::default()));
        store.set_fuel(1_000_000_000).unwrap();
        store.set_epoch_deadline(1 << 40);
        let guest = prepared.instantiate_async(&mut store).await.unwrap();
        guest.call_on_event(&mut store, &event).await.unwrap().unwrap();
        floor.push(start.elapsed().as_secs_f64() * 1e3);
    }
    figures.add(
        "cold start from the cache to the first event",
        median(ours),
        "ms",
        Some(median(floor)),
        Goal::Most(1.0),
    );
}

pub async fn restart_after_a_trap(figures: &mut Figures) {
    let guests = Guests::new();
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES * 4 {
        let old = Instance::start(&guests.prepared, &guests.args, ModuleRecord::default()).await.unwrap();
        let start = now();
        drop(old);
        let mut fresh = Instance::start(&guests.prepared, &guests.args, ModuleRecord::default()).await.unwrap();
        fresh.init(&Vec::new()).await.unwrap();
        ours.push(start.elapsed().as_secs_f64() * 1e3);

        let start = now();
        let mut store = Store::new(guests.prepared.engine(), HostState::new(&guests.args, ModuleRecord::default()));
        store.set_fuel(1_000_000_000).unwrap();
        store.set_epoch_deadline(1 << 40);
        guests.prepared.instantiate_async(&mut store).await.unwrap();
        floor.push(start.elapsed().as_secs_f64() * 1e3);
    }
    figures.add("instance dropped, fresh one initialised", median(ours), "ms", Some(median(floor)), Goal::Most(0.2));
}
