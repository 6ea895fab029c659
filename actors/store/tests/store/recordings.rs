//! Recordings: the newest crashes are kept, and those of handled events go with their units.

use nexum_host_ifaces::{
    Hash,
    recording::{Crash, CrashBrief, Wanted},
    store::{StoreError, StoreMsg},
};
use nexum_store::Options;

use crate::harness::{Harness, Module, directory, options};

fn crash(at_ms: u64) -> Box<Crash> {
    let brief = CrashBrief {
        number: 0,
        at_ms,
        event: "block:1:7:0x00".into(),
        component: Hash([7; 32]),
        error: "trap".into(),
        fuel: 5,
        handled_before: 0,
        whole: true,
        bytes: 0,
    };
    Box::new(Crash { brief, recording: vec![at_ms as u8; 3] })
}

async fn keep(harness: &Harness, module: &Module, at_ms: u64) {
    harness.actor.send_message(StoreMsg::PutCrash { module: module.info.id, crash: crash(at_ms) }).unwrap();
    // Written with what follows.
    harness.module("after").await;
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
    for at_ms in 1..=9 {
        keep(&harness, &module, at_ms).await;
    }
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    let module = harness.module("a").await;
    keep(&harness, &module, 10).await;
    let kept = harness.ask(|reply| StoreMsg::Crashes { name: "a".into(), reply }).await.unwrap();
    assert_eq!(kept.iter().map(|crash| crash.number).collect::<Vec<_>>(), (3..=10).collect::<Vec<_>>());
    assert!(kept.iter().all(|crash| crash.at_ms == crash.number && crash.bytes == 3), "{kept:?}");
    assert_eq!(recording(&harness, Wanted::Crash(5)).await.unwrap(), [5; 3]);
    assert_eq!(recording(&harness, Wanted::LastCrash).await.unwrap(), [10; 3]);
    assert!(matches!(recording(&harness, Wanted::Crash(2)).await, Err(StoreError::UnknownRecording(_))));
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
