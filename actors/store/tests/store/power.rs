//! Loss of power: what is on the disk when it is acknowledged, and what a store makes of a log that ends too early.
//!
//! The tests cannot cut the power. They count the syncs of the log, and open copies of a store whose log ends where it was
//! synced last, or anywhere behind that.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nexum_host_ifaces::store::{ModuleHealth, StateView, StoreMsg};
use nexum_store::{Durability, Options, Syncs};

use crate::harness::{Hands, Harness, Module, PATIENCE, directory, options, put};

/// A module's next unit, which counts itself.
async fn count(harness: &Harness, module: &mut Module) {
    let seq = module.ledger.record.seq + 1;
    let old = (seq > 1).then(|| (seq - 1).to_string());
    let changes = vec![put("seq", &seq.to_string(), old.as_deref()), put(&format!("u/{seq}"), "", None)];
    harness.handle(module, changes).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_synced() {
    let (directory, syncs) = (directory(), Syncs::new());
    let options = Options { syncs: Some(syncs.clone()), ..options() };
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut before = syncs.count();
    let mut synced = |what: &str| {
        let now = syncs.count();
        assert!(now > before, "{what} was acknowledged, and the log was not synced");
        before = now;
    };
    let mut module = harness.module("a").await;
    synced("the name of a module");
    for _ in 0..20 {
        count(&harness, &mut module).await;
        synced("a unit");
    }
    let (id, health) = (module.info.id, Box::new(ModuleHealth { restarts_total: 1, ..ModuleHealth::default() }));
    harness.ask(|reply| StoreMsg::PutHealth { module: id, health, reply }).await.unwrap();
    synced("a counter of failures");
    let unit = module.quarantine();
    let (letter, record) = (unit.entry.seq, unit.record.clone());
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
    synced("a dead letter");
    let name = "a".to_owned();
    harness.ask(|reply| StoreMsg::DropDeadLetter { name, seq: letter, reply }).await.unwrap();
    synced("the end of a dead letter");
    harness.rewind(&mut module, 10).await.unwrap().unwrap();
    synced("a rewind");
    let name = "a".to_owned();
    harness.ask(|reply| StoreMsg::Purge { name, reply }).await.unwrap();
    synced("the removal of a module");
    harness.close().await;
}

fn periodic(clock: &Arc<Hands>, syncs: &Syncs) -> Options {
    let (durability, clock) = (Durability::Periodic, clock.clone());
    Options { durability, clock, syncs: Some(syncs.clone()), ..options() }
}

#[tokio::test]
async fn with_periodic_durability_the_log_is_synced_in_time_though_writes_never_pause() {
    let (directory, clock, syncs) = (directory(), Arc::new(Hands::default()), Syncs::new());
    let harness = Harness::open_with(directory.path(), &periodic(&clock, &syncs)).await;
    let mut module = harness.module("a").await;
    let mut before = syncs.count();
    for _ in 0..10 {
        count(&harness, &mut module).await;
    }
    assert_eq!(syncs.count(), before, "no time has passed");
    for _ in 0..5 {
        for _ in 0..4 {
            assert_eq!(syncs.count(), before, "not yet");
            clock.pass(Duration::from_millis(25));
            count(&harness, &mut module).await;
        }
        before += 1;
    }
    assert_eq!(syncs.count(), before);
    harness.close().await;
    assert_eq!(syncs.count(), before + 1, "what is left is synced at an orderly end");
}

#[tokio::test]
async fn with_periodic_durability_the_last_write_before_a_pause_is_synced_too() {
    let (directory, syncs) = (directory(), Syncs::new());
    let options = Options { durability: Durability::Periodic, syncs: Some(syncs.clone()), ..options() };
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut module = harness.module("a").await;
    let before = syncs.count();
    count(&harness, &mut module).await;
    let synced = async {
        while syncs.count() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, synced).await.unwrap();
    harness.close().await;
}

/// The log that is being written, and its length.
fn log(directory: &Path) -> (PathBuf, u64) {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let newest = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "log")).max().unwrap();
    let length = newest.metadata().unwrap().len();
    (newest, length)
}

/// A copy of a running store as a power failure would leave it: its newest log ends after so many bytes.
fn left_by_a_power_failure(from: &Path, length: u64) -> tempfile::TempDir {
    let to = directory();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    let newest = to.path().join(log(from).0.file_name().unwrap());
    fs::OpenOptions::new().write(true).open(newest).unwrap().set_len(length).unwrap();
    to
}

/// Opens such a copy: the last unit of the module there. Everything of it and of those before is there, and nothing else.
async fn last_unit(copy: &Path) -> u64 {
    let harness = Harness::open(copy).await;
    let info = harness.store.inspect("a").unwrap();
    let seq = info.record.seq;
    let journal = harness.store.journal(info.id, 0, usize::MAX).unwrap();
    assert_eq!(journal.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (1..=seq).collect::<Vec<_>>());
    assert!(journal.windows(2).all(|pair| pair[1].previous == pair[0].digest()));
    assert_eq!(journal.last().map(|entry| entry.digest()).unwrap_or_default(), info.record.journal);
    assert_eq!(harness.store.scan(info.id, "u/", None, usize::MAX).unwrap().len() as u64, seq);
    let stored = harness.store.get(info.id, "seq").unwrap();
    assert_eq!(stored, (seq > 0).then(|| seq.to_string().into_bytes()));
    // And it is written to again.
    let mut module = harness.module("a").await;
    count(&harness, &mut module).await;
    harness.close().await;
    seq
}

#[tokio::test]
async fn what_was_synced_survives_and_of_what_follows_a_beginning() {
    let (directory, clock, syncs) = (directory(), Arc::new(Hands::default()), Syncs::new());
    let harness = Harness::open_with(directory.path(), &periodic(&clock, &syncs)).await;
    let mut module = harness.module("a").await;
    let before = syncs.count();
    for _ in 0..10 {
        count(&harness, &mut module).await;
    }
    let (_, synced) = log(directory.path());
    clock.pass(Duration::from_millis(100));
    // The next write finds that it is time.
    for _ in 0..5 {
        count(&harness, &mut module).await;
    }
    assert_eq!(syncs.count(), before + 1);
    let (_, whole) = log(directory.path());
    // Also in the middle of writes, and of the words before them.
    for length in (synced..whole).step_by(197).chain([synced + 1, whole - 1, whole]) {
        let copy = left_by_a_power_failure(directory.path(), length);
        let last = last_unit(copy.path()).await;
        assert!((10..=15).contains(&last), "{last} units of a log of {length} bytes, synced up to {synced}");
        if length == whole {
            assert_eq!(last, 15);
        }
        if length == synced {
            assert_eq!(last, 10, "those behind are not in the log");
        }
    }
    harness.close().await;
}
