//! What a call of a library costs, beside a call of the host.

use std::sync::Arc;

use nexum_host_ifaces::{
    capability::Capability,
    grants::{AskedCapabilities, Grants, Library},
    host::HostArgs,
    library,
    store::{ModuleRecord, UnitKind},
    types::ConfigValue,
};
use nexum_kernel::{
    engine::WasmEngine,
    instance::{self, Instance, Prepared},
    manifest::Manifest,
};
use nexum_testkit::bundle;
use nexum_testkit_engine::block_event;
use tempfile::TempDir;

use crate::{
    dispatch::{Guests, manifest, now},
    figures::{Figures, Goal, median},
};

const CALLS: u64 = 1_000;
const EVENTS: u64 = 50;
const ROUNDS: u64 = 9;

fn grants(manifest: &Manifest) -> Grants {
    let provided = Capability::all().collect();
    let asked = AskedCapabilities { required: &manifest.required, optional: &[] };
    Grants::decide(asked, &provided, &[].into()).unwrap()
}

/// The module with its library, linked, and what its Stores are made from.
fn linked(cache: &TempDir) -> (Prepared, HostArgs) {
    let engine = WasmEngine::new(cache.path()).unwrap();
    let component = |name: &str, manifest: &Manifest| {
        engine.component(&bundle(name).join("module.wasm"), manifest.component).unwrap()
    };
    let of_library = manifest("probe");
    let library = Library::new(
        of_library.name.clone(),
        of_library.version.clone(),
        of_library.component,
        Arc::new(grants(&of_library)),
        Arc::default(),
    );
    let interfaces = library.grants.interfaces();
    let linked = library::prepare(engine.wasm(), &component("probe", &of_library), interfaces, library.name()).unwrap();
    let of_module = manifest("probing");
    let grants = grants(&of_module).with_libraries([library]);
    let component = component("probing", &of_module);
    let prepared =
        instance::prepare_with(&engine, &component, grants.interfaces(), "probing", &[Arc::new(linked)]).unwrap();
    (prepared, HostArgs { grants: Arc::new(grants), ..Guests::new().args.clone() })
}

/// Microseconds of each call that an instance makes in this mode.
async fn call_us(instance: &mut Instance, first: u64) -> f64 {
    let start = now();
    for number in first..first + EVENTS {
        let (id, event) = block_event(number);
        instance.handle(&id, &event).await.unwrap();
        let unit = instance.host().seal(UnitKind::Handled, None, 0);
        instance.host().send(unit);
        instance.host().settled();
    }
    start.elapsed().as_secs_f64() * 1e6 / (EVENTS * CALLS) as f64
}

async fn calling(prepared: &Prepared, args: &HostArgs, mode: &str) -> Instance {
    let mut instance = Instance::start(prepared, args, ModuleRecord::default()).await.unwrap();
    let calls = ConfigValue::Integer(i64::try_from(CALLS).unwrap());
    let config = vec![("mode".to_owned(), ConfigValue::String(mode.to_owned())), ("calls".to_owned(), calls)];
    instance.init(&config).await.unwrap();
    instance
}

pub async fn calls(figures: &mut Figures) {
    let cache = TempDir::new().unwrap();
    let (prepared, args) = linked(&cache);
    let (mut of_library, mut of_host) =
        (calling(&prepared, &args, "library").await, calling(&prepared, &args, "host").await);
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(call_us(&mut of_library, 1 + round * EVENTS).await);
        floor.push(call_us(&mut of_host, 1 + round * EVENTS).await);
    }
    let name = "call of a library, beside one of the host's clock";
    figures.add(name, median(ours), "µs", Some(median(floor)), Goal::Most(5.0));
}
