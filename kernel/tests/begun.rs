//! What of a load is marked: what runs in this process, and neither the wait for it nor the compiler's work.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use futures::FutureExt as _;
use nexum_host_ifaces::{Hash, blocking::Blocking, clock::SystemClock, event::EventId, limits::Limits, ports::Ports};
use nexum_kernel::{
    admin::ModuleSpec,
    begun::{Marks, What},
    compile::{Compile, Refusal},
    engine::WasmEngine,
    load::Loader,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// It exports nothing.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Says that it has begun, and refuses when the other end of `go_on` is gone.
struct Stuck {
    begun: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Compile for Stuck {
    fn compile(&self, _: File, _: Hash, _: File) -> Result<(), Refusal> {
        self.begun.send(()).unwrap();
        let _ = self.go_on.lock().unwrap().recv();
        Err(Refusal::Component("too much".to_owned()))
    }
}

fn bundle(dir: &Path, component: Hash) -> PathBuf {
    let source = dir.join("suspect");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("module.wasm"), COMPONENT).unwrap();
    let manifest = format!(
        "[module]\nname = \"suspect\"\nversion = \"0.1.0\"\ncomponent = \"sha256:{}\"\n\
         [capabilities]\nrequired = [\"logging\"]\n",
        hex::encode(component.0)
    );
    fs::write(source.join("nexum.toml"), manifest).unwrap();
    source
}

fn spec(source: PathBuf) -> ModuleSpec {
    ModuleSpec {
        source,
        denied: Vec::new(),
        ceiling: None,
        config: BTreeMap::new(),
        extra_methods: Vec::new(),
        record: None,
        component: None,
        adopt_state: false,
    }
}

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

    let (begun, begins) = sync_channel(1);
    let (end, go_on) = sync_channel::<()>(1);
    let engine = WasmEngine::new(&dir.path().join("cache")).unwrap();
    let engine = engine.compiled_by(Arc::new(Stuck { begun, go_on: Mutex::new(go_on) }), 1 << 20);
    let mut loader = Loader::new(engine, Ports::unbound([]), Limits::default(), Arc::new(|_| Ok(())));
    loader.begun = marks.clone();
    let loader = Arc::new(loader);
    let plan = Arc::new(loader.plan(&spec(bundle(dir.path(), component))).unwrap());
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
