//! Compiling: who waits for it, how often it is done, and what becomes of machine code that a disk has damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use nexum_host_ifaces::{Hash, blocking::Blocking, cron::ScheduleCheck, limits::Limits, ports::Ports};
use nexum_kernel::{
    admin::ModuleSpec,
    compile::{Compile, Refusal, compile_alone},
    engine::WasmEngine,
    load::{Loader, Unprepared},
    manifest::Manifest,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);
const MANY: u64 = 1 << 20;

/// A component that exports nothing, another one for each letter.
fn component(letter: u8) -> Vec<u8> {
    // A custom section without content; the letter is its name.
    [b"\0asm\x0d\0\x01\0".as_slice(), &[0, 2, 1, letter]].concat()
}

fn hash(letter: u8) -> Hash {
    Hash(Sha256::digest(component(letter)).into())
}

/// A bundle of such a component; the path of its directory.
fn bundle(dir: &Path, letter: u8) -> PathBuf {
    let name = char::from(letter);
    let source = dir.join(name.to_string());
    if source.exists() {
        // Somebody may be reading it.
        return source;
    }
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("module.wasm"), component(letter)).unwrap();
    let component = hex::encode(hash(letter).0);
    let manifest = format!(
        "[module]\nname = \"{name}\"\nversion = \"0.1.0\"\ncomponent = \"sha256:{component}\"\n\
         [capabilities]\nrequired = [\"logging\"]\n"
    );
    fs::write(source.join("nexum.toml"), manifest).unwrap();
    source
}

/// Compiles, or refuses, and counts.
#[derive(Default)]
struct Counting {
    asked: AtomicUsize,
    refusal: Option<Refusal>,
}

impl Counting {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Compile for Counting {
    fn compile(&self, component: File, hash: Hash, mut code: File) -> Result<(), Refusal> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        code.write_all(&compile_alone(component, hash, MANY)?).unwrap();
        Ok(())
    }
}

/// Says what it begins, and refuses it when the other end of `go_on` is gone.
struct Stuck {
    begun: SyncSender<Hash>,
    go_on: Mutex<Receiver<()>>,
}

impl Compile for Stuck {
    fn compile(&self, _: File, hash: Hash, _: File) -> Result<(), Refusal> {
        self.begun.send(hash).unwrap();
        let _ = self.go_on.lock().unwrap().recv();
        Err(Refusal::Component("too much".to_owned()))
    }
}

#[test]
fn machine_code_that_a_disk_has_damaged_is_made_anew() {
    let dir = TempDir::new().unwrap();
    let (file, cache) = (bundle(dir.path(), b'a').join("module.wasm"), dir.path().join("cache"));
    let compiler = Arc::new(Counting::default());
    let load = || {
        let engine = WasmEngine::new(&cache).unwrap().compiled_by(compiler.clone(), MANY);
        engine.component(&file, hash(b'a')).unwrap();
        compiler.asked()
    };
    assert_eq!((load(), load()), (1, 1), "it is compiled once");
    let inner = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let kept: Vec<_> = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [code] = &kept[..] else { panic!("{kept:?}") };
    let whole = fs::read(code).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (damage, asked) in [(&flipped[..], 2), (&whole[..whole.len() - 1], 3), (&whole[..3], 4), (&whole[..0], 5)] {
        fs::write(code, damage).unwrap();
        assert_eq!(load(), asked, "{} of {} bytes", damage.len(), whole.len());
        assert_eq!(load(), asked, "and kept again");
    }
}

#[test]
fn machine_code_of_another_component_or_that_others_could_have_written_is_made_anew() {
    let dir = TempDir::new().unwrap();
    let cache = dir.path().join("cache");
    let compiler = Arc::new(Counting::default());
    let load = |letter| {
        let engine = WasmEngine::new(&cache).unwrap().compiled_by(compiler.clone(), MANY);
        engine.component(&bundle(dir.path(), letter).join("module.wasm"), hash(letter)).unwrap();
        compiler.asked()
    };
    assert_eq!((load(b'a'), load(b'b')), (1, 2));
    let inner = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let code = |letter| inner.join(format!("{}.cwasm", hex::encode(hash(letter).0)));
    fs::copy(code(b'a'), code(b'b')).unwrap();
    assert_eq!((load(b'b'), load(b'b')), (3, 3), "of another component");
    fs::set_permissions(code(b'b'), fs::Permissions::from_mode(0o620)).unwrap();
    assert_eq!((load(b'b'), load(b'b')), (4, 4), "of whoever is in the group");
    fs::remove_file(code(b'b')).unwrap();
    fs::create_dir(code(b'b')).unwrap();
    assert_eq!(load(b'b'), 5, "no file");
}

#[test]
fn what_cannot_be_compiled_is_not_tried_again_until_somebody_asks_for_it() {
    let dir = TempDir::new().unwrap();
    let file = bundle(dir.path(), b'a').join("module.wasm");
    let cache = dir.path().join("cache");
    let refusing = |refusal| {
        let compiler = Arc::new(Counting { refusal: Some(refusal), ..Counting::default() });
        (WasmEngine::new(&cache).unwrap().compiled_by(compiler.clone(), MANY), compiler)
    };
    let refused = |engine: &WasmEngine| engine.component(&file, hash(b'a')).err().unwrap().to_string();

    let (engine, compiler) = refusing(Refusal::Component("too \u{1b}[31mlarge\u{202e}".to_owned()));
    let first = refused(&engine);
    assert!(first.ends_with("does not compile: too \\u{1b}[31mlarge\\u{202e}"), "{first}");
    let second = refused(&engine);
    assert!(second.starts_with(&first) && second.contains("it was not tried again"), "{second}");
    assert_eq!(compiler.asked(), 1);
    engine.try_again(hash(b'a'));
    assert_eq!((refused(&engine), compiler.asked()), (first, 2));

    let (engine, compiler) = refusing(Refusal::Surroundings("the disk is full".to_owned()));
    assert_eq!(refused(&engine), refused(&engine));
    assert_eq!(compiler.asked(), 2, "which says nothing of the component");
}

#[test]
fn a_component_that_is_too_large_or_no_file_is_not_read() {
    let dir = TempDir::new().unwrap();
    let file = bundle(dir.path(), b'a').join("module.wasm");
    let compiler = Arc::new(Counting::default());
    let engine = WasmEngine::new(&dir.path().join("cache")).unwrap().compiled_by(compiler.clone(), 11);
    let large = engine.component(&file, hash(b'a')).err().unwrap().to_string();
    assert!(large.ends_with("has 12 bytes, more than [engine] max_component_bytes = 11; it is not read"), "{large}");
    // It has no bytes, and gives as many as anybody reads.
    let endless = engine.component(Path::new("/dev/zero"), hash(b'a')).err().unwrap().to_string();
    assert!(endless.starts_with("component /dev/zero is not a file"), "{endless}");
    assert_eq!(compiler.asked(), 0);
}

#[test]
fn what_a_killed_engine_left_unfinished_is_removed() {
    let dir = TempDir::new().unwrap();
    let engine = WasmEngine::new(dir.path()).unwrap();
    let inner = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let draft = inner.join(".draft-1a2b3c");
    fs::write(&draft, "half of it").unwrap();
    let engine = engine.compiled_by(Arc::new(Counting::default()), MANY);
    assert!(draft.exists(), "somebody beside this one may be at it");
    let _engine = engine.without_drafts();
    assert!(!draft.exists());
}

#[test]
fn a_cache_that_another_could_write_to_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(WasmEngine::new(dir.path()).unwrap());
    let inner = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&inner, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &inner).unwrap();
    let refused = WasmEngine::new(dir.path()).err().unwrap().to_string();
    assert!(refused.contains("a directory, not a link"), "{refused}");
}

/// Loads modules, each on a task of its own.
struct Bed {
    dir: TempDir,
    runtime: tokio::runtime::Runtime,
    loader: Arc<Loader>,
}

impl Bed {
    /// The machine code of the components in `compiled` is in the cache.
    fn new(compiled: &[u8], compiler: Arc<dyn Compile>) -> Self {
        let dir = TempDir::new().unwrap();
        let cache = dir.path().join("cache");
        for letter in compiled {
            let file = bundle(dir.path(), *letter).join("module.wasm");
            WasmEngine::new(&cache).unwrap().component(&file, hash(*letter)).unwrap();
        }
        let engine = WasmEngine::new(&cache).unwrap().compiled_by(compiler, MANY);
        let loader = Arc::new(Loader::new(engine, Ports::unbound([]), Limits::default(), Arc::new(|_| Ok(()))));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        Self { dir, runtime, loader }
    }

    /// Begins to load; answers why that fails, which it does: the component is no module.
    fn load(&self, letter: u8) -> tokio::task::JoinHandle<Unprepared> {
        let spec = ModuleSpec {
            source: bundle(self.dir.path(), letter),
            denied: Vec::new(),
            ceiling: None,
            config: BTreeMap::new(),
            extra_methods: Vec::new(),
            record: None,
            component: None,
            adopt_state: false,
        };
        let (loader, plan) = (self.loader.clone(), Arc::new(self.loader.plan(&spec).unwrap()));
        self.runtime.spawn(async move { loader.prepare(Blocking::Threads, &plan).await.err().unwrap() })
    }

    fn end_of(&self, load: tokio::task::JoinHandle<Unprepared>) -> Unprepared {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, load).await }).unwrap().unwrap()
    }

    /// The same of a component that is to blame for it.
    fn refusal_of(&self, load: tokio::task::JoinHandle<Unprepared>) -> String {
        match self.end_of(load) {
            Unprepared::Refused(said) => said,
            Unprepared::Surroundings(said) => panic!("it is not to blame: {said}"),
        }
    }
}

#[test]
fn who_has_its_machine_code_waits_for_nobody_who_compiles() {
    let (begun, begins) = sync_channel(64);
    let (end, go_on) = sync_channel(1);
    let bed = Bed::new(b"a", Arc::new(Stuck { begun, go_on: Mutex::new(go_on) }));
    // Before the bed, which waits for those who compile: a test that fails must end.
    let release = end;
    // More than there are processors or places, and two modules of each.
    let stuck: Vec<_> = (b'b'..=b'q').flat_map(|letter| [bed.load(letter), bed.load(letter)]).collect();
    for _ in 0..2 {
        begins.recv_timeout(PATIENCE).unwrap();
    }
    let quick = bed.refusal_of(bed.load(b'a'));
    assert!(quick.contains("does not export a nexum module"), "{quick}");
    assert_eq!(begins.try_iter().count(), 0, "no more than two at once");
    drop(release);
    for load in stuck {
        let said = bed.refusal_of(load);
        assert!(said.contains("does not compile: too much"), "{said}");
    }
    assert_eq!(2 + begins.try_iter().count(), 16, "each component once");
}

#[test]
fn a_component_of_many_modules_is_compiled_once() {
    let compiler = Arc::new(Counting::default());
    let bed = Bed::new(&[], compiler.clone());
    let loads: Vec<_> = (0..32).map(|_| bed.load(b'a')).collect();
    for load in loads {
        let said = bed.refusal_of(load);
        assert!(said.contains("does not export a nexum module"), "{said}");
    }
    assert_eq!(compiler.asked(), 1);
}

#[test]
fn only_what_is_around_lets_a_module_be_loaded_again() {
    let refusing = |refusal| {
        let bed = Bed::new(&[], Arc::new(Counting { refusal: Some(refusal), ..Counting::default() }));
        (bed.end_of(bed.load(b'a')), bed)
    };
    let (full, bed) = refusing(Refusal::Surroundings("the disk is full".to_owned()));
    let Unprepared::Surroundings(said) = &full else { panic!("{full:?}") };
    assert!(said.ends_with("cannot be compiled now: the disk is full"), "{said}");
    // A cache that cannot be written to is none of a component's business either.
    let cache = bed.dir.path().join("cache");
    fs::remove_dir_all(&cache).unwrap();
    let gone = bed.end_of(bed.load(b'a'));
    assert!(matches!(&gone, Unprepared::Surroundings(said) if said.starts_with("cache directory ")), "{gone:?}");
    // Nobody but the operator puts a file there.
    fs::remove_file(bed.dir.path().join("a").join("module.wasm")).unwrap();
    let missing = bed.end_of(bed.load(b'a'));
    assert!(matches!(missing, Unprepared::Refused(_)), "{missing:?}");

    for refusal in [Refusal::Component("bad magic".to_owned()), Refusal::Memory] {
        let (refused, _bed) = refusing(refusal);
        assert!(matches!(refused, Unprepared::Refused(_)), "{refused:?}");
    }
}

#[test]
fn a_pipe_in_a_bundle_is_refused_and_nobody_waits_at_it() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let engine = WasmEngine::new(&dir.path().join("cache")).unwrap();
    let component = engine.component(&pipe, hash(b'a')).err().unwrap().to_string();
    assert!(component.contains("is not a file"), "{component}");
    let any_schedule: ScheduleCheck = Arc::new(|_| Ok(()));
    let manifest = Manifest::read(&pipe, &any_schedule).unwrap_err().to_string();
    assert!(manifest.contains("it is a pipe, expected a file"), "{manifest}");
}

/// A component that imports 21 interfaces with a hundred resources each.
fn importing() -> Vec<u8> {
    let named = |name: String| [vec![0x00, u8::try_from(name.len()).unwrap()], name.into_bytes()].concat();
    let section = |id: u8, content: Vec<u8>| {
        // Its length, in two bytes.
        let length = [((content.len() & 0x7f) | 0x80) as u8, u8::try_from(content.len() >> 7).unwrap()];
        [vec![id], length.to_vec(), content].concat()
    };
    // (type (instance (export "r0" (type (sub resource))) …))
    let resource = |nth: usize| [vec![0x04], named(format!("r{nth}")), vec![0x03, 0x01]].concat();
    let exports: Vec<u8> = (0..100).flat_map(resource).collect();
    let instance = [vec![1, 0x42, 100], exports].concat();
    // (import "wasi:http/a0@0.2.0" (instance (type 0))) …
    let import = |nth: usize| [named(format!("wasi:http/a{nth}@0.2.0")), vec![0x05, 0]].concat();
    let imports = [vec![21], (0..21).flat_map(import).collect()].concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(7, instance), section(10, imports)].concat()
}

#[test]
fn a_component_that_imports_more_than_is_hosted_is_refused_and_its_machine_code_is_not_kept() {
    let dir = TempDir::new().unwrap();
    let engine = WasmEngine::new(&dir.path().join("cache")).unwrap();
    let (path, bytes) = (dir.path().join("module.wasm"), importing());
    fs::write(&path, &bytes).unwrap();
    let hash = Hash(Sha256::digest(&bytes).into());
    let said = engine.component(&path, hash).err().unwrap().to_string();
    let reason = "does not compile: the component imports more than 2000 items, those in its interfaces among them";
    assert!(said.ends_with(reason), "{said}");
    assert!(engine.kept(hash).is_none());
    assert!(engine.component(&path, hash).err().unwrap().to_string().contains("that was found before"));
}
