//! What services keep in the store.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::store::{
    RECORD_BYTES_MAX, RECORD_KEY_BYTES_MAX, RECORD_WRITES_MAX, RecordWrite, Records, StoreError, StoreMsg,
};
use nexum_store::{Disk, Durability, Options, Store, Syncs, Written};

use crate::harness::{Harness, directory, options, put};

fn record(key: &str, value: &str) -> RecordWrite {
    RecordWrite { key: key.into(), value: Some(value.into()) }
}

fn removed(key: &str) -> RecordWrite {
    RecordWrite { key: key.into(), value: None }
}

async fn write(harness: &Harness, service: &'static str, writes: Vec<RecordWrite>) -> Result<(), StoreError> {
    harness.ask(|reply| StoreMsg::WriteRecords { service, writes, reply }).await
}

async fn read(
    harness: &Harness,
    service: &'static str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<(String, String)> {
    let (prefix, after) = (prefix.into(), after.map(Into::into));
    let records = harness.ask(|reply| StoreMsg::Records { service, prefix, after, limit, reply }).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    records.unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_service_reads_what_it_wrote_in_order_and_nothing_of_another() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    assert_eq!(read(&harness, "keys", "", None, 9).await, []);
    let writes = vec![record("b/2", "y"), record("a/1", "x"), record("b/1", ""), record("c", "z"), record("", "all")];
    write(&harness, "keys", writes).await.unwrap();
    // Its name begins with the other's.
    write(&harness, "keysmith", vec![record("b/1", "not yours")]).await.unwrap();
    let whole = pairs(&[("", "all"), ("a/1", "x"), ("b/1", ""), ("b/2", "y"), ("c", "z")]);
    assert_eq!(read(&harness, "keys", "", None, 9).await, whole);
    assert_eq!(read(&harness, "keys", "b/", None, 9).await, whole[2..4]);
    assert_eq!(read(&harness, "keys", "b/", Some("b/1"), 9).await, whole[3..4]);
    assert_eq!(read(&harness, "keys", "b/", Some("a"), 9).await, whole[2..4]);
    assert_eq!(read(&harness, "keys", "b/", Some("c"), 9).await, []);
    assert_eq!(read(&harness, "keys", "", Some("a/1"), 2).await, whole[2..4]);

    let harness = harness.restart().await;
    write(&harness, "keys", vec![removed("b/2"), removed("never there"), record("c", "new")]).await.unwrap();
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    let left = pairs(&[("", "all"), ("a/1", "x"), ("b/1", ""), ("c", "new")]);
    assert_eq!(read(&harness, "keys", "", None, 9).await, left);
    harness.close().await;
}

#[tokio::test]
async fn what_was_written_before_it_was_asked_for_is_in_the_answer() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    for round in 0..100 {
        let value = round.to_string();
        let writes = vec![record("k", &value)];
        let (write, written) = ractor::concurrency::oneshot();
        let message = StoreMsg::WriteRecords { service: "s", writes, reply: write.into() };
        harness.actor.send_message(message).unwrap();
        // Nobody has waited for the write.
        assert_eq!(read(&harness, "s", "", None, 9).await, pairs(&[("k", &value)]));
        written.await.unwrap().unwrap();
    }
    harness.close().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_nothing_of_it_is_written() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let large = "x".repeat(RECORD_BYTES_MAX);
    let longest = "k".repeat(RECORD_KEY_BYTES_MAX);
    write(&harness, "s", vec![record(&longest, &large)]).await.unwrap();
    let whole = read(&harness, "s", "", None, 9).await;
    assert_eq!(whole.len(), 1);
    let first = || record("first", "");
    let refused = [
        vec![first(), record(&format!("{longest}k"), "")],
        vec![first(), record("k", &format!("{large}x"))],
        (0..=RECORD_WRITES_MAX).map(|_| first()).collect(),
        (0..9).map(|index| record(&index.to_string(), &large)).collect(),
    ];
    for writes in refused {
        let error = write(&harness, "s", writes).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
        assert!(error.to_string().contains("`s`") && error.to_string().contains("expected at most"), "{error}");
    }
    assert_eq!(read(&harness, "s", "", None, 9).await, whole);

    // An answer is bounded, too. One that is too large is an error: fewer than were asked for would read like all there are.
    for index in 0..65 {
        write(&harness, "t", vec![record(&format!("{index:02}"), &large)]).await.unwrap();
    }
    let all = |reply| StoreMsg::Records { service: "t", prefix: Vec::new(), after: None, limit: 999, reply };
    let error = harness.ask(all).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("`t`")), "{error}");
    assert_eq!(read(&harness, "t", "", None, 50).await.len(), 50);
    assert_eq!(read(&harness, "t", "", Some("49"), 50).await.len(), 15);
    harness.close().await;
}

#[tokio::test]
async fn a_record_is_on_the_disk_before_its_service_is_told_whatever_units_are() {
    for durability in [Durability::Sync, Durability::Periodic] {
        let (directory, syncs) = (directory(), Syncs::new());
        let options = Options { durability, syncs: Some(syncs.clone()), ..options() };
        let harness = Harness::open_with(directory.path(), &options).await;
        for round in 0..20 {
            let before = syncs.count();
            write(&harness, "s", vec![record("k", &round.to_string())]).await.unwrap();
            assert!(syncs.count() > before, "{durability:?}: acknowledged, and the log was not synced");
        }
        // As a power failure leaves it: whatever RocksDB holds in memory is gone.
        let copy = crate::harness::directory();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let left = Harness::open(copy.path()).await;
        assert_eq!(read(&left, "s", "", None, 9).await, pairs(&[("k", "19")]));
        left.close().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn neither_a_rewind_nor_the_end_of_a_module_touches_what_services_keep_and_a_backup_has_it() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("key", "value", None)]).await;
    write(&harness, "s", vec![record("k", "v")]).await.unwrap();
    harness.handle(&mut module, vec![]).await;
    harness.rewind(&mut module, 1).await.unwrap().unwrap();
    let name = "a".to_owned();
    harness.ask(|reply| StoreMsg::Purge { name, reply }).await.unwrap();
    assert_eq!(read(&harness, "s", "", None, 9).await, pairs(&[("k", "v")]));
    let backup = elsewhere.path().join("backup");
    harness.ask(|reply| StoreMsg::Backup { to: backup.clone(), reply }).await.unwrap();
    harness.close().await;
    let harness = Harness::start(Store::open(&backup, &options()).unwrap()).await;
    assert_eq!(read(&harness, "s", "", None, 9).await, pairs(&[("k", "v")]));
    harness.close().await;
}

/// A disk that is full when it is said to be.
struct Full(AtomicBool);

impl Disk for Full {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        match self.0.load(Ordering::Relaxed) {
            true => Err("IO error: No space left on device: k".into()),
            false => Ok(()),
        }
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn a_full_disk_is_told_to_who_writes_and_what_was_there_stays() {
    let directory = directory();
    let disk = Arc::new(Full(AtomicBool::new(false)));
    let harness = Harness::open_with(directory.path(), &Options { disk: Some(disk.clone()), ..options() }).await;
    write(&harness, "s", vec![record("k", "before")]).await.unwrap();
    disk.0.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        let error = write(&harness, "s", vec![record("k", "meanwhile")]).await.unwrap_err();
        assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
    }
    let records: Records = vec![("k".into(), "before".into())];
    let wanted = |reply| StoreMsg::Records { service: "s", prefix: Vec::new(), after: None, limit: 9, reply };
    assert_eq!(harness.ask(wanted).await.unwrap(), records);
    disk.0.store(false, Ordering::Relaxed);
    write(&harness, "s", vec![record("k", "after")]).await.unwrap();
    assert_eq!(read(&harness, "s", "", None, 9).await, pairs(&[("k", "after")]));
    harness.close().await;
}
