//! What of a load is marked: what runs in this process, and neither the wait for it nor the compiler's work.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use nexum_host_ifaces::{Hash, blocking::Blocking, clock::SystemClock, event::EventId};
use nexum_kernel::{
    admin::ModuleSpec,
    begun::{Marks, What},
    engine::WasmEngine,
};
use nexum_testkit::{wasm::COMPONENT, write_bundle};
use nexum_testkit_engine::{Stuck, loader};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn nobody_waits_while_a_component_is_compiled_that_the_process_may_have_died_of() {
    let (dir, component) = (TempDir::new().unwrap(), Hash(Sha256::digest(COMPONENT).into()));
    let open = |deaths_max| {
        let path = dir.path().join("begun");
        Arc::new(Marks::open(&path, deaths_max, Arc::new(SystemClock::new())).unwrap())
    };
    let begin = |marks: &Arc<Marks>, what: What<'_>| marks.slot("other").begin(what).now_or_never();
    // The process died of its load.
    std::mem::forget(open(3).slot("suspect").begin(What::Load(component)).now_or_never().unwrap());
    let marks = open(3);

    let (stuck, begins, end) = Stuck::watched();
    let engine = WasmEngine::new(&dir.path().join("cache")).unwrap().compiled_by(stuck, 1 << 20);
    let mut loader = loader(engine);
    loader.begun = marks.clone();
    let loader = Arc::new(loader);
    let bundle = write_bundle(dir.path(), "suspect", COMPONENT);
    let plan = Arc::new(loader.plan(&ModuleSpec::new(bundle)).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    // Before the runtime, which waits for the compiler: a test that fails must end.
    let release = end;

    let running = begin(&marks, What::Event(&EventId::Init)).unwrap();
    let loading = runtime.spawn(async move { loader.prepare(Blocking::Threads, &plan).await.err().unwrap() });
    let waits = || marks.waits().contains_key("suspect");
    let shown = async {
        while !waits() {
            tokio::task::yield_now().await;
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, shown).await }).unwrap();
    assert!(begins.try_recv().is_err(), "its file is verified first, and alone");
    running.ended();
    begins.recv_timeout(PATIENCE).unwrap();
    let beside = begin(&marks, What::Event(&EventId::Init)).expect("nothing runs but the compiler");
    beside.ended();
    drop(release);
    let said = runtime.block_on(async { tokio::time::timeout(PATIENCE, loading).await }).unwrap().unwrap();
    let said = said.to_string();
    assert!(said.contains("does not compile: too much"), "{said}");
    assert!(open(1).slot("suspect").deadly(What::Load(component)).is_none(), "it was refused, and nobody died");
}
