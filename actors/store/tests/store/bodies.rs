//! What effects that have ended carried: bounded together, the newest kept, and the effects themselves stay known.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_host_ifaces::{
    outbox::{Effect, EffectEntry, Ended, Listed, Location, OutboxRequest, PendingEffect, Progress, Released},
    store::StoreError,
};
use nexum_store::{Disk, Options, Written};

use crate::{
    harness::{Harness, Module, directory, effect, options},
    outbox::{ask, at, end, live_ids, release, show},
};

/// Four of them make a unit of 1 MiB, the most that one event may send.
const BODY_BYTES: usize = 256 << 10;
const IN_UNIT: u32 = 4;
/// Units that send more than what is kept.
const UNITS: u64 = 70;

fn with_body(id: &str, bytes: Option<usize>) -> EffectEntry {
    let mut entry = effect(id);
    if let Effect::Http(effect) = &mut entry.effect {
        effect.body = bytes.map(|bytes| vec![7; bytes]);
    }
    entry
}

async fn send(harness: &Harness, module: &mut Module, outbox: Vec<EffectEntry>) {
    let mut unit = module.unit(Vec::new());
    unit.outbox = outbox;
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
}

fn name(seq: u64, ordinal: u32) -> String {
    format!("{seq}/{ordinal}")
}

/// So many units with large effects.
async fn send_large(harness: &Harness, module: &mut Module, units: u64) {
    for _ in 0..units {
        let seq = module.ledger.record.seq + 1;
        let outbox = (0..IN_UNIT).map(|ordinal| with_body(&name(seq, ordinal), Some(BODY_BYTES))).collect();
        send(harness, module, outbox).await;
    }
}

async fn fail(harness: &Harness, module: &Module, id: &str, at: Option<Location>) {
    let Released::Now { progress, .. } = release(harness, module, id, at).await else { panic!("{id} is not there") };
    end(harness, module, id, at, progress, Ended::Failed).await;
}

async fn fail_large(harness: &Harness, module: &Module, units: RangeInclusive<u64>) {
    for seq in units {
        for ordinal in 0..IN_UNIT {
            fail(harness, module, &name(seq, ordinal), at(seq, ordinal)).await;
        }
    }
}

async fn prune(harness: &Harness, module: &Module) {
    let id = module.info.id;
    ask(harness, |reply| OutboxRequest::Prune { module: id, reply }).await.unwrap();
    // What was dropped is written with what follows.
    harness.module("after").await;
}

async fn list(harness: &Harness) -> Vec<Listed> {
    ask(harness, |reply| OutboxRequest::List { name: "a".into(), limit: 10_000, reply }).await.unwrap()
}

async fn retry(harness: &Harness, id: &str) -> Result<PendingEffect, StoreError> {
    ask(harness, |reply| OutboxRequest::Reopen { name: "a".into(), id: id.into(), now_ms: 9, reply }).await
}

#[tokio::test]
async fn the_newest_bodies_of_ended_effects_are_kept_and_the_others_stay_known_without() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    send(&harness, &mut module, vec![with_body("empty", None), with_body("cancelled", Some(5))]).await;
    fail(&harness, &module, "empty", at(1, 0)).await;
    end(&harness, &module, "cancelled", at(1, 1), Progress::default(), Ended::Cancelled).await;
    send_large(&harness, &mut module, UNITS).await;
    fail_large(&harness, &module, 2..=UNITS + 1).await;
    prune(&harness, &module).await;
    harness.close().await;

    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let listed = list(&harness).await;
    assert_eq!(listed.len(), 2 + UNITS as usize * IN_UNIT as usize);
    // 64 MiB, but for what says of each what it is; and the one that carried nothing.
    assert_eq!(listed.iter().filter(|listed| listed.body_kept).count(), 255 + 1);
    assert!(!show(&harness, "cancelled").await.unwrap().body_kept, "what is older goes, small as it is");
    let (oldest, newest) = (name(2, 0), name(UNITS + 1, 3));
    let gone = show(&harness, &oldest).await.unwrap();
    assert_eq!((gone.body_kept, &gone.entry), (false, &effect(&oldest).stripped()));
    let kept = show(&harness, &newest).await.unwrap();
    assert_eq!((kept.body_kept, kept.entry), (true, with_body(&newest, Some(BODY_BYTES))));

    let refused = retry(&harness, &oldest).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "effect `{oldest}` cannot be retried, since what it carried is no longer kept: of a module's effects that have \
             ended, only the newest 64 MiB are kept whole. Let the module send it again with another event"
        )
    );
    for id in ["empty", &newest] {
        assert_eq!(retry(&harness, id).await.unwrap().progress.round, 1, "{id}");
    }
    assert_eq!(live_ids(&harness).await, ["empty", &newest]);

    // After a rewind it is known that it failed, and that its body is gone, until the same event sends it again.
    harness.rewind(&mut module, 1).await.unwrap();
    let gone = show(&harness, &oldest).await.unwrap();
    assert_eq!((gone.retracted, gone.body_kept), (true, false));
    assert!(retry(&harness, &oldest).await.is_err());
    send_large(&harness, &mut module, 1).await;
    assert_eq!(release(&harness, &module, &oldest, at(2, 0)).await, Released::Ended);
    assert!(show(&harness, &oldest).await.unwrap().body_kept);
    retry(&harness, &oldest).await.unwrap();
    harness.close().await;
}

#[tokio::test]
async fn what_ended_after_its_unit_was_undone_is_bounded_too_and_what_has_not_ended_keeps_its_body() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    send_large(&harness, &mut module, UNITS).await;
    let all = || (1..=UNITS).flat_map(|seq| (0..IN_UNIT).map(move |ordinal| (seq, ordinal)));
    for (seq, ordinal) in all() {
        release(&harness, &module, &name(seq, ordinal), at(seq, ordinal)).await;
    }
    harness.rewind(&mut module, 0).await.unwrap();
    for (seq, ordinal) in all().skip(2) {
        fail(&harness, &module, &name(seq, ordinal), None).await;
    }
    prune(&harness, &module).await;
    let listed = list(&harness).await;
    assert_eq!(listed.len(), UNITS as usize * IN_UNIT as usize);
    assert_eq!(listed.iter().filter(|listed| listed.body_kept && listed.progress.ended.is_some()).count(), 255);
    for id in [name(1, 0), name(1, 1)] {
        let Released::Now { entry, .. } = release(&harness, &module, &id, None).await else { panic!() };
        assert_eq!(*entry, with_body(&id, Some(BODY_BYTES)));
    }
    harness.close().await;
}

/// A disk that writes no group while somebody else holds it.
#[derive(Default)]
struct SlowGroups(Mutex<()>);

impl Disk for SlowGroups {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, what: Written) -> Result<(), String> {
        if what == Written::Group {
            drop(self.0.lock());
        }
        Ok(())
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn an_effect_that_is_taken_up_again_meanwhile_keeps_its_body() {
    let directory = directory();
    let disk = Arc::new(SlowGroups::default());
    let harness = Harness::open_with(directory.path(), &Options { disk: Some(disk.clone()), ..options() }).await;
    let mut module = harness.module("a").await;
    send_large(&harness, &mut module, UNITS).await;
    fail_large(&harness, &module, 1..=UNITS).await;
    let (oldest, next) = (name(1, 0), name(1, 1));
    {
        let held = disk.0.lock().unwrap();
        let (retried, ()) = tokio::join!(retry(&harness, &oldest), async {
            // Asked for after the retry, which waits; to the disk the effect has failed.
            let id = module.info.id;
            ask(&harness, |reply| OutboxRequest::Prune { module: id, reply }).await.unwrap();
            drop(held);
        });
        retried.unwrap();
    }
    harness.module("after").await;
    assert!(!show(&harness, &next).await.unwrap().body_kept);
    let listed = list(&harness).await;
    assert_eq!(listed.iter().filter(|listed| listed.entry.id == oldest).count(), 1);
    let Released::Now { entry, .. } = release(&harness, &module, &oldest, at(1, 0)).await else { panic!() };
    assert_eq!(*entry, with_body(&oldest, Some(BODY_BYTES)));
    harness.close().await;
}
