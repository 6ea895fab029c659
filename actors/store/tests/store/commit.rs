//! Commits: atomic, ordered, grouped, durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    ledger::UnitParts,
    outbox::OutboxRequest,
    store::{ModuleHealth, ModuleId, StateView, StoreError, StoreMsg},
};
use nexum_store::{Disk, Durability, Options, Written};

use crate::harness::{Harness, Module, PATIENCE, directory, effect, options, put};

#[tokio::test]
async fn everything_of_a_unit_is_there_after_a_reopen() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("k", "1", None), put("gone", "x", None)]).await;
    let mut unit = module.unit(vec![put("k", "2", Some("1"))]);
    unit.changes.push(nexum_host_ifaces::store::StateChange {
        key: "gone".into(),
        new: None,
        old: Some(b"x".to_vec()),
    });
    unit.record.state_bytes = 2;
    unit.health = Some(ModuleHealth { restarts_total: 5, ..ModuleHealth::default() });
    unit.outbox = vec![effect("one"), effect("two")];
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    harness.close().await;

    let harness = Harness::open(directory.path()).await;
    let again = harness.module("a").await;
    assert_eq!(again.info.id, module.info.id);
    assert_eq!(again.info.record, record);
    assert_eq!(again.info.health.restarts_total, 5);
    let id = again.info.id;
    assert_eq!(harness.store.get(id, "k").unwrap(), Some(b"2".to_vec()));
    assert_eq!(harness.store.get(id, "gone").unwrap(), None);
    let journal = harness.ask(|reply| StoreMsg::Journal { module: id, from_seq: 0, limit: 9, reply }).await.unwrap();
    assert_eq!(journal.len(), 2);
    assert_eq!(journal[1].previous, journal[0].digest());
    assert_eq!(record.journal, journal[1].digest());
    let live = harness.ask(|reply| StoreMsg::Outbox(OutboxRequest::Pending { reply })).await.unwrap();
    assert_eq!(live.iter().map(|live| &*live.id).collect::<Vec<_>>(), ["one", "two"]);
    let tail = harness.ask(|reply| StoreMsg::Journal { module: id, from_seq: 2, limit: 9, reply }).await.unwrap();
    assert_eq!(tail, journal[1..]);
}

#[tokio::test]
async fn modules_are_numbered_once_and_never_share_state() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    // Both before the first is written: they meet in one group.
    let (a, a_again, b) = tokio::join!(harness.module("a"), harness.module("a"), harness.module("b"));
    assert_eq!(a.info.id, a_again.info.id);
    assert_ne!(a.info.id, b.info.id);
    let (mut a, mut b) = (a, b);
    harness.handle(&mut a, vec![put("k", "of a", None), put("kk", "", None)]).await;
    harness.handle(&mut b, vec![put("k", "of b", None)]).await;
    let store = &harness.store;
    assert_eq!(store.get(b.info.id, "k").unwrap(), Some(b"of b".to_vec()));
    let keys = |prefix, after, limit| {
        let entries = store.scan(a.info.id, prefix, after, limit).unwrap();
        entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys("", None, 9), ["k", "kk"]);
    assert_eq!(keys("", None, 1), ["k"]);
    assert_eq!(keys("k", Some("k"), 9), ["kk"]);
    assert_eq!(keys("kk", Some("a"), 9), ["kk"]);
    assert_eq!(keys("k", Some("z"), 9), [""; 0]);
    harness.close().await;
}

#[tokio::test]
async fn a_unit_of_a_superseded_instance_is_refused_and_changes_nothing() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let old = module.unit(vec![put("k", "old", None)]);
    harness.handle(&mut module, vec![put("k", "new", None)]).await;
    assert_eq!(harness.commit(old.clone()).await, Err(StoreError::OutOfSequence { stored: 1, got: 1 }));
    harness.handle(&mut module, vec![]).await;
    let harness = Harness::start(harness.stop().await).await;
    // Also by an actor that has not seen the module yet.
    assert_eq!(harness.commit(old).await, Err(StoreError::OutOfSequence { stored: 2, got: 1 }));
    assert_eq!(harness.store.get(module.info.id, "k").unwrap(), Some(b"new".to_vec()));
    let mut stranger = module.unit(vec![]);
    stranger.module = ModuleId(99);
    assert_eq!(harness.commit(stranger).await, Err(StoreError::UnknownModule("#99".into())));
}

#[tokio::test]
async fn a_unit_that_follows_another_than_the_last_is_refused() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let mut superseded = module.ledger.clone();
    let first = superseded.seal(module.outcome(vec![]));
    superseded.adopt(first.record.clone());
    let second = superseded.seal(module.outcome(vec![]));
    harness.handle(&mut module, vec![put("k", "new", None)]).await;
    assert_eq!(harness.commit(first).await, Err(StoreError::OutOfSequence { stored: 1, got: 1 }));
    // Its number is the next one, but it follows a unit that is not there.
    assert_eq!(harness.commit(second.clone()).await, Err(StoreError::OutOfSequence { stored: 1, got: 2 }));
    let harness = Harness::start(harness.stop().await).await;
    // Also by an actor that has not seen the module yet.
    assert_eq!(harness.commit(second).await, Err(StoreError::OutOfSequence { stored: 1, got: 2 }));
    harness.handle(&mut module, vec![]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_modules_at_once_share_writes_and_lose_nothing() {
    const MODULES: usize = 50;
    const UNITS: u64 = 40;
    let directory = directory();
    let harness = Arc::new(Harness::open(directory.path()).await);
    let tasks: Vec<_> = (0..MODULES)
        .map(|index| {
            let harness = harness.clone();
            tokio::spawn(async move {
                let mut module = harness.module(&format!("m{index}")).await;
                for seq in 1..=UNITS {
                    let old = (seq > 1).then(|| (seq - 1).to_string());
                    harness.handle(&mut module, vec![put("count", &seq.to_string(), old.as_deref())]).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let status = ractor::call!(harness.actor, StoreMsg::Status).unwrap();
    assert_eq!(status.units_total, MODULES as u64 * UNITS);
    assert!(status.commits_total < status.units_total / 2, "{} commits", status.commits_total);
    assert!(status.disk_bytes > 0 && status.commit_p99_ms > 0.0);
    Arc::into_inner(harness).unwrap().close().await;

    let harness = Harness::open(directory.path()).await;
    let modules = harness.ask(|reply| StoreMsg::Modules { reply }).await.unwrap();
    assert_eq!(modules.len(), MODULES);
    for module in modules {
        assert_eq!(module.record.seq, UNITS);
        assert_eq!(module.record.state_bytes, 7);
        assert_eq!(harness.store.get(module.id, "count").unwrap(), Some(UNITS.to_string().into()));
        assert_eq!(harness.store.journal(module.id, 0, usize::MAX).unwrap().len() as u64, UNITS);
    }
}

#[tokio::test]
async fn failure_counters_keep_their_place_among_units() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let health = |failures| ModuleHealth { consecutive_failures: failures, ..ModuleHealth::default() };
    let send = |failures| {
        let (module, health) = (module.info.id, Box::new(health(failures)));
        harness.ask(move |reply| StoreMsg::PutHealth { module, health, reply })
    };
    send(1).await.unwrap();
    send(2).await.unwrap();
    let mut unit = module.unit(vec![]);
    unit.health = Some(health(0));
    harness.commit(unit.clone()).await.unwrap();
    module.ledger.adopt(unit.record);
    assert_eq!(harness.module("a").await.info.health, health(0));
    send(3).await.unwrap();
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.store.inspect("a").unwrap().health, health(3));
}

#[tokio::test]
async fn an_actor_that_dies_leaves_a_store_that_the_next_one_works_on() {
    let directory = directory();
    let mut harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    for seq in 1..=10u64 {
        harness.handle(&mut module, vec![put("k", "v", (seq > 1).then_some("v"))]).await;
        harness = harness.restart().await;
        assert_eq!(harness.module("a").await.info.record.seq, seq);
    }
    harness.close().await;
}

#[tokio::test]
async fn periodic_durability_survives_the_process_without_a_sync_per_group() {
    let directory = directory();
    let periodic = || Options { durability: Durability::Periodic, ..options() };
    let harness = Harness::open_with(directory.path(), &periodic()).await;
    let mut module = harness.module("a").await;
    for _ in 0..100 {
        harness.handle(&mut module, vec![]).await;
    }
    harness.close().await;
    let harness = Harness::open_with(directory.path(), &periodic()).await;
    assert_eq!(harness.store.inspect("a").unwrap().record, module.ledger.record);
}

#[tokio::test]
async fn the_journal_keeps_its_newest_entries_only() {
    let directory = directory();
    let kept = |journal_entries| Options { journal_entries, ..options() };
    let harness = Harness::open_with(directory.path(), &kept(16)).await;
    let mut module = harness.module("a").await;
    for _ in 0..50 {
        harness.handle(&mut module, vec![]).await;
    }
    let seqs = |module: &Module, harness: &Harness| {
        let journal = harness.store.journal(module.info.id, 0, usize::MAX).unwrap();
        journal.into_iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(&module, &harness), (35..=50).collect::<Vec<_>>());
    harness.close().await;
    let harness = Harness::open_with(directory.path(), &kept(4)).await;
    harness.handle(&mut module, vec![]).await;
    assert_eq!(seqs(&module, &harness), [48, 49, 50, 51]);
}

#[tokio::test]
async fn the_journal_keeps_no_entry_past_its_age_but_the_newest() {
    const HOUR_MS: u64 = 3_600_000;
    let directory = directory();
    let kept = |hours: u64| Options { journal_age: Some(Duration::from_millis(hours * HOUR_MS)), ..options() };
    let harness = Harness::open_with(directory.path(), &kept(24)).await;
    let mut module = harness.module("a").await;
    async fn at(harness: &Harness, module: &mut Module, at_ms: u64) -> Vec<u64> {
        let outcome = UnitParts { at_ms, ..module.outcome(vec![]) };
        let unit = module.ledger.seal(outcome);
        let record = unit.record.clone();
        harness.commit(unit).await.unwrap();
        module.ledger.adopt(record);
        let journal = harness.store.journal(module.info.id, 0, usize::MAX).unwrap();
        journal.into_iter().map(|entry| entry.seq).collect()
    }
    let begun_ms = 1_700_000_000_000;
    for hour in 0..24 {
        assert_eq!(at(&harness, &mut module, begun_ms + hour * HOUR_MS).await.len() as u64, hour + 1);
    }
    // From then on there is never less than a day of it, and never more than an eighth above.
    for hour in 24..72 {
        let seqs = at(&harness, &mut module, begun_ms + hour * HOUR_MS).await;
        assert!((25..=28).contains(&seqs.len()) && seqs.is_sorted_by(|a, b| *b == a + 1), "hour {hour}: {seqs:?}");
    }
    // What is left of a module that was idle for long is what it does next, and what a rewind would need is said.
    assert_eq!(at(&harness, &mut module, begun_ms + 1_000 * HOUR_MS).await, [73]);
    let refused = harness.rewind(&mut module, 70).await.unwrap_err();
    assert!(refused.to_string().contains("below the kept journal, which begins with unit 73"), "{refused}");
    harness.close().await;
    // A shorter age counts from the first unit on.
    let harness = Harness::open_with(directory.path(), &kept(24)).await;
    assert_eq!(at(&harness, &mut module, begun_ms + 1_001 * HOUR_MS).await, [73, 74]);
    harness.close().await;
    let harness = Harness::open_with(directory.path(), &kept(1)).await;
    assert_eq!(at(&harness, &mut module, begun_ms + 1_010 * HOUR_MS).await, [75]);
}

#[tokio::test]
async fn metrics_count_groups_and_dead_letters() {
    let directory = directory();
    let options = options();
    let harness = Harness::open_with(directory.path(), &options).await;
    harness.module("b").await;
    let mut module = harness.module("a").await;
    let unit = module.quarantine();
    harness.commit(unit.clone()).await.unwrap();
    module.ledger.adopt(unit.record);
    harness.handle(&mut module, vec![]).await;
    let text = prometheus::TextEncoder::new().encode_to_string(&options.registry.gather()).unwrap();
    assert!(text.contains("nexum_dead_letters{module=\"a\"} 1"), "{text}");
    assert!(!text.contains("module=\"b\""), "it never had any: {text}");
    assert!(text.contains("nexum_commit_batch_size_sum 2"), "{text}");
    assert!(text.contains("nexum_commit_duration_seconds_count 4"), "{text}");
    let bytes = harness.store.inspect("a").unwrap().dead_letter_bytes;
    assert!(bytes > 0);
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.store.inspect("a").unwrap().dead_letter_bytes, bytes, "counted again from the disk");
    harness.close().await;
}

/// Refuses every write of event units, or none.
#[derive(Default)]
struct Failing(AtomicBool);

impl Disk for Failing {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Err("no space left on device".into()) } else { Ok(()) }
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_ends_the_actor_though_answers_that_need_no_write_succeed_in_between() {
    let directory = directory();
    let disk = Arc::new(Failing::default());
    let options = Options { disk: Some(disk.clone()), ..options() };
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("k", "v", None)]).await;
    disk.0.store(true, Ordering::Relaxed);
    // As a module does that starts again after each failure: it opens itself, which writes nothing, and handles the event.
    for _ in 0..2 {
        let error = harness.commit(module.unit(vec![])).await.unwrap_err();
        assert!(error.to_string().contains("no space left on device"), "{error}");
        module = harness.module("a").await;
    }
    // A write that succeeds is news of the disk.
    disk.0.store(false, Ordering::Relaxed);
    harness.handle(&mut module, vec![]).await;
    disk.0.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        harness.commit(module.unit(vec![])).await.unwrap_err();
        module = harness.module("a").await;
    }
    harness.commit(module.unit(vec![])).await.unwrap_err();
    // It ends with that one, or with the next message if it was faster.
    let name = Arc::from("a");
    let _ = harness.actor.call(|reply| StoreMsg::Open { name, reply }, Some(PATIENCE)).await;
    disk.0.store(false, Ordering::Relaxed);
    let harness = harness.follow().await;
    let mut module = harness.module("a").await;
    assert_eq!(module.info.record.seq, 2, "what was acknowledged before");
    harness.handle(&mut module, vec![]).await;
    harness.close().await;
}

/// A disk without space, until there is some.
#[derive(Default)]
struct Filled(AtomicBool);

impl Disk for Filled {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Err("IO error: No space left on device: k".into()) } else { Ok(()) }
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        if self.0.load(Ordering::Relaxed) { 0 } else { 1 << 40 }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_every_write_but_ends_nobody_and_what_follows_is_written_when_there_is_space() {
    let directory = directory();
    let disk = Arc::new(Filled::default());
    let options = Options { disk: Some(disk.clone()), ..options() };
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![put("k", "v", None)]).await;
    disk.0.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        let error = harness.commit(module.unit(vec![])).await.unwrap_err();
        assert!(matches!(&error, StoreError::DiskFull(said) if said.contains("No space left")), "{error}");
    }
    disk.0.store(false, Ordering::Relaxed);
    harness.handle(&mut module, vec![]).await;
    assert_eq!(harness.store.inspect("a").unwrap().record.seq, 2);
    harness.close().await;
}
