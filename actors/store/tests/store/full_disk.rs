//! A disk without space: how long it is waited for, and what is said meanwhile.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::store::{StateView as _, StoreError, StoreMsg};
use nexum_store::{Disk, Options, Written};

use crate::{
    crash::{child, child_directory},
    harness::{Hands, Harness, Module, PATIENCE, directory, options, put},
};

const PLENTY: u64 = 1 << 40;

/// A disk, and a database on it that may take nothing though there is space again.
struct Space {
    refuses: AtomicBool,
    free_bytes: AtomicU64,
}

impl Space {
    fn is(&self, refuses: bool, free_bytes: u64) {
        self.refuses.store(refuses, Ordering::Relaxed);
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
    }
}

impl Disk for Space {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        match self.refuses.load(Ordering::Relaxed) {
            true => Err("IO error: No space left on device: k".into()),
            false => Ok(()),
        }
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

/// More refusals than end an actor when the disk fails otherwise.
async fn refused(harness: &Harness, module: &Module, times: usize) {
    for _ in 0..times {
        let error = harness.commit(module.unit(vec![])).await.unwrap_err();
        assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_still_refuses_a_minute_after_there_is_space_has_failed_and_not_before() {
    let (directory, clock) = (directory(), Arc::new(Hands::default()));
    clock.pass(Duration::from_secs(1));
    let disk = Arc::new(Space { refuses: AtomicBool::new(false), free_bytes: AtomicU64::new(PLENTY) });
    let options = Options { disk: Some(disk.clone()), clock: clock.clone(), ..options() };
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![]).await;
    assert_eq!(harness.store.status().refusing, None);

    // As long as there is none it is waited for.
    disk.is(true, (256 << 20) - 1);
    for _ in 0..5 {
        refused(&harness, &module, 1).await;
        clock.pass(Duration::from_secs(3_600));
    }
    let refusing = harness.store.status().refusing.unwrap();
    assert_eq!(refusing.age_ms, 5 * 3_600_000);
    assert!(refusing.error.contains("No space left on device"), "{}", refusing.error);
    let text = prometheus::TextEncoder::new().encode_to_string(&options.registry.gather()).unwrap();
    assert!(text.contains("nexum_commit_failed_total{reason=\"disk-full\"} 5"), "{text}");
    assert!(text.contains("nexum_commit_failed_total{reason=\"other\"} 0"), "{text}");

    // From the first refusal with space on, the minute runs; one without begins it anew, and so does a write.
    disk.is(true, 256 << 20);
    refused(&harness, &module, 4).await;
    clock.pass(Duration::from_secs(59));
    refused(&harness, &module, 4).await;
    disk.is(true, 0);
    refused(&harness, &module, 4).await;
    disk.is(true, PLENTY);
    clock.pass(Duration::from_secs(59));
    refused(&harness, &module, 4).await;
    clock.pass(Duration::from_secs(59));
    refused(&harness, &module, 4).await;
    disk.is(false, PLENTY);
    harness.handle(&mut module, vec![]).await;
    assert_eq!(harness.store.status().refusing, None);
    disk.is(true, PLENTY);
    refused(&harness, &module, 4).await;
    clock.pass(Duration::from_secs(60));
    refused(&harness, &module, 3).await;
    // It ends with that one, or with the next message if it was faster.
    let name = Arc::from("a");
    let _ = harness.actor.call(|reply| StoreMsg::Open { name, reply }, Some(PATIENCE)).await;
    disk.is(false, PLENTY);
    let harness = harness.follow().await;
    let mut module = harness.module("a").await;
    assert_eq!(module.info.record.seq, 2, "what was acknowledged before");
    harness.handle(&mut module, vec![]).await;
    harness.close().await;
}

/// Runs a command with a small file system of its own in `directory`, which a user without rights may have where user
/// namespaces are.
fn on_a_small_disk(directory: &Path, command: &Command) -> io::Result<Output> {
    let mounted = "mount -t tmpfs -o size=400m tmpfs \"$1\" && shift && exec \"$@\"";
    let mut unshared = Command::new("unshare");
    unshared.args(["-Urm", "sh", "-c", mounted, "sh"]).arg(directory);
    unshared.arg(command.get_program()).args(command.get_args());
    unshared.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    unshared.output()
}

/// Takes all that is left, to the last page.
fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for bytes in [1 << 20, 4096] {
        let block = vec![7; bytes];
        while file.write_all(&block).is_ok() {}
    }
}

/// Commits a unit of a mebibyte, which moves the module on when it is taken.
async fn commit(harness: &Harness, module: &mut Module) -> Result<(), StoreError> {
    let seq = module.ledger.record.seq + 1;
    let unit = module.unit(vec![put(&format!("{seq:04}"), &"x".repeat(1 << 20), None)]);
    let record = unit.record.clone();
    harness.commit(unit).await.map(|()| module.ledger.adopt(record))
}

/// Not a test of its own: fills the file system that it was given, and makes space again.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn child_fills_its_disk() {
    let Some(disk) = child_directory() else { return };
    let (directory, filler) = (disk.join("store"), disk.join("filler"));
    let harness = Harness::open_with(&directory, &Options { write_buffer_bytes: 8 << 20, ..options() }).await;
    let mut module = harness.module("a").await;
    commit(&harness, &mut module).await.unwrap();
    fill(&filler);
    let mut refused = 0;
    while refused < 10 {
        match commit(&harness, &mut module).await {
            Ok(()) => assert!(module.ledger.record.seq < 400, "there is room without end"),
            Err(StoreError::DiskFull(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let refusing = harness.store.status().refusing.unwrap();
    assert!(refusing.error.contains("no space left on the disk"), "{}", refusing.error);
    std::fs::remove_file(&filler).unwrap();
    let goes_on = async {
        while let Err(error) = commit(&harness, &mut module).await {
            assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, goes_on).await.unwrap();
    assert_eq!(harness.store.status().refusing, None);
    let (id, written) = (module.info.id, module.ledger.record.clone());
    harness.close().await;
    let harness = Harness::open(&directory).await;
    assert_eq!(harness.store.inspect("a").unwrap().record, written);
    assert_eq!(harness.store.scan(id, "", None, usize::MAX).unwrap().len() as u64, written.seq);
    println!("it went on");
}

#[test]
fn a_store_on_a_disk_that_was_full_goes_on_by_itself_once_there_is_space() {
    let directory = directory();
    let tried = on_a_small_disk(directory.path(), &Command::new("true"));
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("no file system of one's own is to be had here: {tried:?}");
        return;
    }
    let filled = child("full_disk::child_fills_its_disk", directory.path());
    let output = on_a_small_disk(directory.path(), &filled).unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success() && said[0].contains("it went on"), "{}{}", said[0], said[1]);
}
