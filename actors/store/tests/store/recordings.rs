//! Recordings: the newest crashes are kept, and those of handled events go with their units.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    recording::{Crash, CrashBrief, Wanted},
    store::{StoreError, StoreMsg},
};
use nexum_store::{Disk, Options, Written};

use crate::harness::{Harness, Module, directory, options};

/// A crash at an event of its own.
fn crash(at_ms: u64) -> Box<Crash> {
    let brief = CrashBrief {
        number: 0,
        at_ms,
        event: format!("block:1:{at_ms}:0x00"),
        component: Hash([7; 32]),
        error: "trap".into(),
        fuel: 5,
        handled_before: 0,
        whole: true,
        bytes: 0,
    };
    Box::new(Crash { brief, recording: vec![at_ms as u8; 3], charge: None })
}

async fn keep(harness: &Harness, module: &Module, at_ms: u64) {
    put(harness, module, crash(at_ms));
    // Written with what follows.
    harness.module("after").await;
}

fn put(harness: &Harness, module: &Module, crash: Box<Crash>) {
    harness.actor.send_message(StoreMsg::PutCrash { module: module.info.id, crash }).unwrap();
}

async fn numbers(harness: &Harness) -> Vec<u64> {
    let kept = harness.ask(|reply| StoreMsg::Crashes { name: "a".into(), reply }).await.unwrap();
    kept.iter().map(|crash| crash.number).collect()
}

async fn recording(harness: &Harness, wanted: Wanted) -> Result<Vec<u8>, StoreError> {
    harness.ask(|reply| StoreMsg::Recording { name: "a".into(), wanted, reply }).await
}

#[tokio::test]
async fn the_newest_crashes_are_kept_and_counted_on_over_restarts() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let module = harness.module("a").await;
    assert!(recording(&harness, Wanted::LastCrash).await.unwrap_err().to_string().contains("no crash of module `a`"));
    for at_ms in 1..=65 {
        keep(&harness, &module, at_ms).await;
    }
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    let module = harness.module("a").await;
    keep(&harness, &module, 66).await;
    assert_eq!(numbers(&harness).await, (3..=66).collect::<Vec<_>>());
    let kept = harness.ask(|reply| StoreMsg::Crashes { name: "a".into(), reply }).await.unwrap();
    assert!(kept.iter().all(|crash| crash.at_ms == crash.number && crash.bytes == 3), "{kept:?}");
    assert_eq!(recording(&harness, Wanted::Crash(5)).await.unwrap(), [5; 3]);
    assert_eq!(recording(&harness, Wanted::LastCrash).await.unwrap(), [66; 3]);
    assert!(matches!(recording(&harness, Wanted::Crash(2)).await, Err(StoreError::UnknownRecording(_))));
}

#[tokio::test]
async fn of_the_attempts_at_one_event_the_newest_is_kept_though_several_wait_for_the_disk() {
    let directory = directory();
    let disk = Arc::new(Moody::default());
    let harness = Harness::open_with(directory.path(), &Options { disk: Some(disk.clone()), ..options() }).await;
    let module = harness.module("a").await;
    keep(&harness, &module, 1).await;
    {
        let held = disk.held.lock().unwrap();
        for at_ms in [2, 1, 2, 1, 3] {
            put(&harness, &module, crash(at_ms));
        }
        tokio::join!(harness.module("after"), async {
            // Answered in turn: by then all of them wait, the first perhaps in a group of its own.
            assert_eq!(numbers(&harness).await, [1]);
            drop(held);
        });
    }
    assert_eq!(numbers(&harness).await, [4, 5, 6]);
    for (number, at_ms) in [(4, 2), (5, 1), (6, 3)] {
        assert_eq!(recording(&harness, Wanted::Crash(number)).await.unwrap(), [at_ms; 3]);
    }
    harness.close().await;
}

#[tokio::test]
async fn recordings_are_bounded_together() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let module = harness.module("a").await;
    for at_ms in 1..=20 {
        let large = Crash { recording: vec![7; 4 << 20], ..*crash(at_ms) };
        put(&harness, &module, Box::new(large));
        harness.module("after").await;
    }
    // Sixteen would be as much as is kept, but for what says of each which it is.
    assert_eq!(numbers(&harness).await, (6..=20).collect::<Vec<_>>());
    harness.close().await;
}

#[tokio::test]
async fn crashes_that_were_lost_with_their_group_are_not_counted_among_the_kept() {
    let directory = directory();
    let disk = Arc::new(Moody::default());
    let harness = Harness::open_with(directory.path(), &Options { disk: Some(disk.clone()), ..options() }).await;
    let module = harness.module("a").await;
    keep(&harness, &module, 1).await;
    disk.refuses.store(true, Ordering::Relaxed);
    put(&harness, &module, crash(1));
    let name = Arc::from("refused");
    harness.ask(|reply| StoreMsg::Open { name, reply }).await.unwrap_err();
    disk.refuses.store(false, Ordering::Relaxed);
    assert_eq!(numbers(&harness).await, [1]);
    keep(&harness, &module, 1).await;
    assert_eq!(numbers(&harness).await, [3], "the first was still there to be dropped");
    harness.close().await;
}

/// A disk that takes nothing while it is told so, and lets everybody wait while it is held.
#[derive(Default)]
struct Moody {
    refuses: AtomicBool,
    held: Mutex<()>,
}

impl Disk for Moody {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        drop(self.held.lock());
        if self.refuses.load(Ordering::Relaxed) { Err("no".into()) } else { Ok(()) }
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn recordings_of_handled_events_go_with_their_units_and_crashes_stay() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &Options { journal_entries: 16, ..options() }).await;
    let mut module = harness.module("a").await;
    keep(&harness, &module, 1).await;
    for seq in 1..=40u8 {
        let mut unit = module.unit(vec![]);
        unit.recording = Some(vec![seq]);
        let record = unit.record.clone();
        harness.commit(unit).await.unwrap();
        module.ledger.adopt(record);
    }
    assert_eq!(recording(&harness, Wanted::Unit(40)).await.unwrap(), [40]);
    assert!(matches!(recording(&harness, Wanted::Unit(5)).await, Err(StoreError::UnknownRecording(_))));
    harness.rewind(&mut module, 38).await.unwrap();
    assert!(matches!(recording(&harness, Wanted::Unit(39)).await, Err(StoreError::UnknownRecording(_))));
    assert_eq!(recording(&harness, Wanted::Unit(38)).await.unwrap(), [38]);
    assert_eq!(recording(&harness, Wanted::LastCrash).await.unwrap(), [1; 3]);
    harness.ask(|reply| StoreMsg::Purge { name: "a".into(), reply }).await.unwrap();
    harness.module("a").await;
    assert!(matches!(recording(&harness, Wanted::LastCrash).await, Err(StoreError::UnknownRecording(_))));
}
