//! A disk without space: how long it is waited for, and what is said meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::store::{StoreError, StoreMsg};
use nexum_store::{Disk, Options, Written};

use crate::harness::{Hands, Harness, Module, PATIENCE, directory, options};

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
