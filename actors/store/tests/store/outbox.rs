//! Effects in the store: part of their unit, marked before they leave, and neither lost nor repeated by a rewind.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Hash,
    event::{Cursor, EventId, SourceId},
    outbox::{
        BlockPoint, Changes, EffectEntry, EndEffect, Ended, Listed, Location, OutboxChange, OutboxRequest,
        OutcomeRecord, PendingEffect, Progress, Released, SOURCE,
    },
    store::{Reply, Rewound, StoreError, StoreMsg},
    types::OutcomeStatus,
};
use nexum_store::{Disk, Options, Written};

use crate::harness::{Harness, Module, directory, effect, options};

pub async fn ask<T: Send + 'static>(
    harness: &Harness,
    build: impl FnOnce(Reply<T>) -> OutboxRequest,
) -> Result<T, StoreError> {
    harness.ask(|reply| StoreMsg::Outbox(build(reply))).await
}

/// One unit that sends these effects.
async fn send(harness: &Harness, module: &mut Module, ids: &[&str]) -> u64 {
    let mut unit = module.unit(Vec::new());
    unit.outbox = ids.iter().map(|id| effect(id)).collect();
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
    module.ledger.record.seq
}

/// One unit that handles outcomes up to a number.
async fn handle_outcome(harness: &Harness, module: &mut Module, number: u64) {
    let mut outcome = module.outcome(Vec::new());
    outcome.moved = Some((SourceId::new(SOURCE), Cursor::Number { number }));
    let unit = module.ledger.seal(outcome);
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
}

async fn live(harness: &Harness) -> Vec<PendingEffect> {
    ask(harness, |reply| OutboxRequest::Pending { reply }).await.unwrap()
}

pub async fn live_ids(harness: &Harness) -> Vec<String> {
    live(harness).await.into_iter().map(|live| live.id).collect()
}

pub async fn release(harness: &Harness, module: &Module, id: &str, at: Option<Location>) -> Released {
    let (module, id) = (module.info.id, id.to_owned());
    ask(harness, |reply| OutboxRequest::Release { module, id, at, now_ms: 5, reply }).await.unwrap()
}

pub async fn end(harness: &Harness, module: &Module, id: &str, at: Option<Location>, progress: Progress, how: Ended) {
    let status = match how {
        Ended::Delivered => OutcomeStatus::Delivered(b"ok".to_vec()),
        Ended::Failed => OutcomeStatus::Failed("no".into()),
        _ => OutcomeStatus::Cancelled("no".into()),
    };
    let (id, key) = (id.to_owned(), format!("key of {id}"));
    let end = Box::new(EndEffect { module: module.info.id, id, key, at, progress, how, now_ms: 9, status });
    ask(harness, |reply| OutboxRequest::End { end, reply }).await.unwrap();
}

async fn deliver(harness: &Harness, module: &Module, id: &str, at: Option<Location>) {
    let Released::Now { progress, .. } = release(harness, module, id, at).await else { panic!("{id} is not there") };
    let progress = Progress { attempts: progress.attempts + 1, ..progress };
    end(harness, module, id, at, progress, Ended::Delivered).await;
}

async fn rewind(harness: &Harness, module: &mut Module, to_seq: u64) -> Vec<String> {
    let Rewound { released, .. } = harness.rewind(module, to_seq).await.unwrap().unwrap();
    released.into_iter().map(|effect| effect.id).collect()
}

async fn outcomes(harness: &Harness, after: u64) -> Vec<OutcomeRecord> {
    ask(harness, |reply| OutboxRequest::Outcomes { name: "a".into(), after, limit: 99, reply }).await.unwrap()
}

pub async fn show(harness: &Harness, id: &str) -> Result<Listed, StoreError> {
    ask(harness, |reply| OutboxRequest::Show { name: "a".into(), id: id.into(), reply }).await
}

pub fn at(seq: u64, ordinal: u32) -> Option<Location> {
    Some(Location { seq, ordinal })
}

#[tokio::test]
async fn an_effect_goes_from_its_unit_to_its_outcome_and_survives_a_reopen() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["x", "y"]).await;
    let Released::Now { entry, progress, again } = release(&harness, &module, "x", at(seq, 0)).await else { panic!() };
    assert_eq!((&*entry.key, progress.released, progress.first_attempt_ms, again), ("key of x", true, 5, false));
    let failed = Progress { attempts: 3, last_error: Some("503".into()), ..progress };
    let (id, progress) = (module.info.id, failed.clone());
    ask(&harness, |reply| OutboxRequest::Attempted { module: id, id: "x".into(), progress, reply }).await.unwrap();
    harness.close().await;

    let harness = Harness::open(directory.path()).await;
    let known = live(&harness).await;
    assert_eq!((&*known[0].id, &known[0].progress), ("x", &failed));
    assert_eq!((&*known[1].id, &known[1].progress), ("y", &Progress::default()));
    deliver(&harness, &module, "x", at(seq, 0)).await;
    assert_eq!(live_ids(&harness).await, ["y"]);
    let told = outcomes(&harness, 0).await;
    assert_eq!((told.len(), told[0].number, told[0].outcome.attempts), (1, 1, 4));
    let shown = show(&harness, "x").await.unwrap();
    assert_eq!(shown.progress.ended.map(|end| end.how), Some(Ended::Delivered));
    assert_eq!(shown.entry, effect("x").stripped(), "a delivered body is not kept");
    // Ending twice tells once.
    end(&harness, &module, "x", at(seq, 0), failed, Ended::Failed).await;
    assert_eq!(outcomes(&harness, 0).await.len(), 1);
    harness.close().await;
}

#[tokio::test]
async fn a_rewind_takes_back_what_has_not_left_and_names_what_may_have() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let kept = send(&harness, &mut module, &["kept"]).await;
    let seq = send(&harness, &mut module, &["waiting", "leaving", "left", "dropped"]).await;
    release(&harness, &module, "leaving", at(seq, 1)).await;
    deliver(&harness, &module, "left", at(seq, 2)).await;
    end(&harness, &module, "dropped", at(seq, 3), Progress::default(), Ended::Cancelled).await;
    handle_outcome(&harness, &mut module, 2).await;

    assert_eq!(rewind(&harness, &mut module, kept).await, ["leaving", "left"]);
    let known = live(&harness).await;
    assert_eq!(
        known.iter().map(|live| (&*live.id, live.at)).collect::<Vec<_>>(),
        [("leaving", None), ("kept", at(kept, 0))]
    );
    assert_eq!(release(&harness, &module, "waiting", at(seq, 0)).await, Released::Gone);
    assert_eq!(outcomes(&harness, 0).await.len(), 2, "they are delivered again");

    // The same event comes again, and what it sends is known.
    let again = send(&harness, &mut module, &["waiting", "leaving", "left", "dropped"]).await;
    assert_eq!(again, seq);
    assert_eq!(release(&harness, &module, "left", at(again, 2)).await, Released::Ended);
    assert_eq!(release(&harness, &module, "dropped", at(again, 3)).await, Released::Ended);
    let at_once = release(&harness, &module, "leaving", at(again, 1)).await;
    let Released::Now { progress, again: true, .. } = at_once else { panic!("{at_once:?}") };
    assert_eq!(progress.first_attempt_ms, 5, "it goes on where it was");
    assert_eq!(live_ids(&harness).await, ["kept", "waiting", "leaving"]);
    deliver(&harness, &module, "leaving", at(again, 1)).await;
    deliver(&harness, &module, "waiting", at(again, 0)).await;
    assert_eq!(outcomes(&harness, 0).await.len(), 4, "one each");
    // They have ended, so that a second rewind names them and nothing is left to do.
    assert_eq!(rewind(&harness, &mut module, kept).await, ["waiting", "leaving", "left"]);
    assert_eq!(live_ids(&harness).await, ["kept"]);
    harness.close().await;
}

/// One unit of a source at a block, which sends an effect that then leaves.
async fn act(harness: &Harness, module: &mut Module, source: &str, event: Option<EventId>, number: u64, id: &str) {
    let mut outcome = module.outcome(Vec::new());
    outcome.moved = Some((SourceId::new(source), Cursor::block(number, Hash([number as u8; 32]))));
    outcome.event = event.unwrap_or(outcome.event);
    let mut unit = module.ledger.seal(outcome);
    let block = BlockPoint { chain_id: 1, number, hash: Hash([number as u8; 32]) };
    unit.outbox = vec![EffectEntry { block: Some(block), ..effect(id) }];
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
    deliver(harness, module, id, at(module.ledger.record.seq, 0)).await;
}

#[tokio::test]
async fn a_reorg_names_what_it_retracts_of_its_source_and_nothing_that_was_named_before() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let reorg = |nth| Some(EventId::Reorg { chain_id: 1, old_head: Hash([1; 32]), new_head: Hash([2; 32]), nth });
    for (source, event, number, id) in [
        ("latest", None, 9, "stands"),
        ("latest", None, 10, "first 10"),
        ("held", None, 10, "held 10"),
        ("latest", reorg(1), 9, "told"),
        ("latest", None, 10, "second 10"),
        ("latest", None, 11, "11"),
        ("latest", reorg(2), 10, "told again"),
        ("latest", None, 11, "second 11"),
    ] {
        act(&harness, &mut module, source, event, number, id).await;
    }
    let above = async |source: &str, number| {
        let (module, source, block) = (module.info.id, SourceId::new(source), (1, number));
        let released = ask(&harness, |reply| OutboxRequest::ReleasedAbove { module, source, block, reply }).await;
        released.unwrap().into_iter().map(|effect| effect.id).collect::<Vec<_>>()
    };
    assert_eq!(above("latest", 10).await, ["second 11"]);
    assert_eq!(above("latest", 9).await, ["second 10", "told again", "second 11"]);
    assert_eq!(above("held", 9).await, ["held 10"]);
    assert!(above("latest", 11).await.is_empty());
    harness.close().await;
}

#[tokio::test]
async fn what_was_withdrawn_with_its_block_is_an_effect_again_when_the_block_comes_back() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["x"]).await;
    end(&harness, &module, "x", at(seq, 0), Progress::default(), Ended::Retracted).await;
    assert_eq!(outcomes(&harness, 0).await.len(), 1);
    assert!(rewind(&harness, &mut module, 0).await.is_empty());
    assert_eq!(outcomes(&harness, 0).await.len(), 1, "it was told");
    let again = send(&harness, &mut module, &["x"]).await;
    assert!(matches!(release(&harness, &module, "x", at(again, 0)).await, Released::Now { .. }));
    harness.close().await;
}

#[tokio::test]
async fn a_place_that_another_unit_took_is_not_taken_for_the_effect() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["old"]).await;
    let Released::Now { progress, .. } = release(&harness, &module, "old", at(seq, 0)).await else { panic!() };
    rewind(&harness, &mut module, 0).await;
    send(&harness, &mut module, &["new"]).await;
    // The attempt that was under way ends where it began.
    end(&harness, &module, "old", at(seq, 0), progress, Ended::Delivered).await;
    assert_eq!(live_ids(&harness).await, ["new"]);
    assert_eq!(outcomes(&harness, 0).await[0].outcome.effect_id, "old");
    harness.close().await;
}

#[tokio::test]
async fn a_failed_effect_is_taken_up_again_by_order() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["x", "y"]).await;
    let reopen = |id: &str| {
        let id = id.to_owned();
        ask(&harness, |reply| OutboxRequest::Reopen { name: "a".into(), id, now_ms: 77, reply })
    };
    assert!(matches!(reopen("z").await, Err(StoreError::UnknownEffect { .. })));
    end(&harness, &module, "x", at(seq, 0), Progress { attempts: 9, ..Progress::default() }, Ended::Failed).await;
    let again = reopen("x").await.unwrap();
    assert_eq!((again.at, again.progress.round, again.progress.attempts), (at(seq, 0), 1, 0));
    let refused = reopen("x").await.unwrap_err().to_string();
    assert_eq!(refused, "effect `x` is pending: only a failed or cancelled one is retried");
    deliver(&harness, &module, "x", at(seq, 0)).await;
    let rounds: Vec<_> = outcomes(&harness, 0).await.iter().map(|told| (told.number, told.round)).collect();
    assert_eq!(rounds, [(1, 0), (2, 1)]);
    harness.close().await;
}

#[tokio::test]
async fn news_come_in_order_and_a_new_actor_says_that_it_knows_nothing() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let news = |harness: &Harness| {
        let actor = harness.actor.clone();
        async move {
            let asked = actor.call(|reply| StoreMsg::Outbox(OutboxRequest::Changes { reply }), None).await.unwrap();
            asked.unwrap().unwrap()
        }
    };
    assert_eq!(news(&harness).await, Changes::Lost, "nobody has read what there is");
    live(&harness).await;
    let (told, seq) = tokio::join!(news(&harness), send(&harness, &mut module, &["x"]));
    let Changes::Known(changes) = told else { panic!() };
    assert!(
        matches!(&changes[..], [OutboxChange::Sent(live)] if live.id == "x" && live.at == at(seq, 0)),
        "{changes:?}"
    );
    send(&harness, &mut module, &["y"]).await;
    rewind(&harness, &mut module, seq).await;
    let Changes::Known(changes) = news(&harness).await else { panic!() };
    assert!(matches!(&changes[..], [OutboxChange::Sent(_), OutboxChange::Rewound { to_seq, .. }] if *to_seq == seq));
    let harness = harness.restart().await;
    assert_eq!(news(&harness).await, Changes::Lost);
    harness.close().await;
}

/// A disk that takes everything, and says that it does not.
#[derive(Default)]
struct Unsure(AtomicBool);

impl Disk for Unsure {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        Ok(())
    }

    fn after(&self, _: Written) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Err("no answer from the disk".into()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn what_was_written_though_the_write_failed_is_heard_of() {
    let directory = directory();
    let disk = Arc::new(Unsure::default());
    let harness = Harness::open_with(directory.path(), &Options { disk: Some(disk.clone()), ..options() }).await;
    let mut module = harness.module("a").await;
    assert!(live(&harness).await.is_empty());
    disk.0.store(true, Ordering::Relaxed);
    let mut unit = module.unit(Vec::new());
    unit.outbox = vec![effect("x")];
    assert!(harness.commit(unit).await.is_err());
    disk.0.store(false, Ordering::Relaxed);
    let news = ask(&harness, |reply| OutboxRequest::Changes { reply }).await.unwrap();
    assert_eq!(news, Changes::Lost);
    assert_eq!(live_ids(&harness).await, ["x"]);
    module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["y"]).await;
    disk.0.store(true, Ordering::Relaxed);
    assert!(harness.rewind(&mut module, seq - 1).await.is_err());
    let news = ask(&harness, |reply| OutboxRequest::Changes { reply }).await.unwrap();
    assert_eq!((news, live_ids(&harness).await), (Changes::Lost, vec!["x".to_owned()]));
    harness.close().await;
}

/// A disk that writes nothing while somebody else holds it.
#[derive(Default)]
struct Slow(Mutex<()>);

impl Disk for Slow {
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn before(&self, _: Written) -> Result<(), String> {
        drop(self.0.lock());
        Ok(())
    }

    fn after(&self, _: Written) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test]
async fn an_end_that_is_asked_for_again_while_the_first_waits_for_the_disk_is_told_once() {
    let directory = directory();
    let disk = Arc::new(Slow::default());
    let harness = Harness::open_with(directory.path(), &Options { disk: Some(disk.clone()), ..options() }).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["x"]).await;
    let Released::Now { progress, .. } = release(&harness, &module, "x", at(seq, 0)).await else { panic!() };
    let end = || end(&harness, &module, "x", at(seq, 0), progress.clone(), Ended::Failed);
    let meanwhile = async {
        // Answered in turn: by then the ends above wait.
        let retried =
            ask(&harness, |reply| OutboxRequest::Reopen { name: "a".into(), id: "x".into(), now_ms: 9, reply });
        let retried = retried.await.unwrap_err().to_string();
        assert!(retried.contains("is being written: try again"), "{retried}");
    };
    {
        let held = disk.0.lock().unwrap();
        tokio::join!(end(), end(), end(), async {
            meanwhile.await;
            drop(held);
        });
    }
    let told = outcomes(&harness, 0).await;
    assert_eq!(told.iter().map(|told| told.number).collect::<Vec<_>>(), [1]);
    let retried = ask(&harness, |reply| OutboxRequest::Reopen { name: "a".into(), id: "x".into(), now_ms: 9, reply });
    assert_eq!(retried.await.unwrap().progress.round, 1);
    harness.close().await;
}

#[tokio::test]
async fn what_fails_after_its_unit_was_undone_can_be_seen_and_taken_up_again() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["late", "early", "done"]).await;
    let Released::Now { progress, .. } = release(&harness, &module, "late", at(seq, 0)).await else { panic!() };
    let Released::Now { progress: early, .. } = release(&harness, &module, "early", at(seq, 1)).await else { panic!() };
    end(&harness, &module, "early", at(seq, 1), early, Ended::Failed).await;
    deliver(&harness, &module, "done", at(seq, 2)).await;
    assert_eq!(rewind(&harness, &mut module, 0).await, ["late", "early", "done"]);
    end(&harness, &module, "late", at(seq, 0), progress, Ended::Failed).await;
    assert!(live_ids(&harness).await.is_empty());
    let listed = ask(&harness, |reply| OutboxRequest::List { name: "a".into(), limit: 9, reply }).await.unwrap();
    let mut listed: Vec<_> = listed.iter().map(|listed| (&*listed.entry.id, listed.retracted)).collect();
    listed.sort_unstable();
    assert_eq!(listed, [("early", true), ("late", true)]);

    for id in ["late", "early"] {
        assert_eq!(show(&harness, id).await.unwrap().entry, effect(id), "with its body");
        let again = ask(&harness, |reply| OutboxRequest::Reopen { name: "a".into(), id: id.into(), now_ms: 7, reply });
        assert_eq!(again.await.unwrap().at, None);
        deliver(&harness, &module, id, None).await;
        assert!(matches!(show(&harness, id).await, Err(StoreError::UnknownEffect { .. })), "nothing is left to do");
    }

    // The same event comes again: it has failed, and belongs to a unit.
    let again = send(&harness, &mut module, &["other"]).await;
    let Released::Now { progress, .. } = release(&harness, &module, "other", at(again, 0)).await else { panic!() };
    end(&harness, &module, "other", at(again, 0), progress, Ended::Failed).await;
    rewind(&harness, &mut module, 0).await;
    let again = send(&harness, &mut module, &["first", "other"]).await;
    assert_eq!(release(&harness, &module, "other", at(again, 1)).await, Released::Ended);
    let shown = show(&harness, "other").await.unwrap();
    assert_eq!((shown.progress.at, shown.retracted), (at(again, 1), false));
    harness.close().await;
}

#[tokio::test]
async fn forgetting_an_effect_leaves_alone_what_has_its_place_now() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &Options { journal_entries: 8, ..options() }).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["old"]).await;
    let Released::Now { progress, .. } = release(&harness, &module, "old", at(seq, 0)).await else { panic!() };
    rewind(&harness, &mut module, 0).await;
    assert_eq!(send(&harness, &mut module, &["new"]).await, seq);
    end(&harness, &module, "old", at(seq, 0), progress, Ended::Delivered).await;
    end(&harness, &module, "new", at(seq, 0), Progress::default(), Ended::Failed).await;
    for _ in 0..12 {
        handle_outcome(&harness, &mut module, 1).await;
    }
    let id = module.info.id;
    ask(&harness, |reply| OutboxRequest::Prune { module: id, reply }).await.unwrap();
    assert_eq!(show(&harness, "new").await.unwrap().entry, effect("new"));
    assert!(matches!(show(&harness, "old").await, Err(StoreError::UnknownEffect { .. })));
    harness.close().await;
}

#[tokio::test]
async fn a_list_is_short_and_ends_with_the_newest() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["1", "2", "3", "4", "5"]).await;
    for (ordinal, id) in [(0, "1"), (1, "2"), (2, "3")] {
        deliver(&harness, &module, id, at(seq, ordinal)).await;
    }
    for (limit, expected) in
        [(1, &["4"][..]), (2, &["4", "5"]), (4, &["4", "5", "2", "3"]), (9, &["4", "5", "1", "2", "3"])]
    {
        let listed = ask(&harness, |reply| OutboxRequest::List { name: "a".into(), limit, reply }).await.unwrap();
        assert_eq!(listed.iter().map(|listed| &*listed.entry.id).collect::<Vec<_>>(), expected);
    }
    harness.close().await;
}

#[tokio::test]
async fn what_no_rewind_can_reach_is_forgotten() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &Options { journal_entries: 8, ..options() }).await;
    let mut module = harness.module("a").await;
    let seq = send(&harness, &mut module, &["old", "failed", "pending", "twice"]).await;
    let again = send(&harness, &mut module, &["twice"]).await;
    deliver(&harness, &module, "twice", at(again, 0)).await;
    deliver(&harness, &module, "old", at(seq, 0)).await;
    end(&harness, &module, "failed", at(seq, 1), Progress { at: at(seq, 1), ..Progress::default() }, Ended::Failed)
        .await;
    for number in 1..=12 {
        handle_outcome(&harness, &mut module, number.min(2)).await;
    }
    let fresh = send(&harness, &mut module, &["fresh"]).await;
    deliver(&harness, &module, "fresh", at(fresh, 0)).await;
    let id = module.info.id;
    ask(&harness, |reply| OutboxRequest::Prune { module: id, reply }).await.unwrap();
    assert!(matches!(show(&harness, "old").await, Err(StoreError::UnknownEffect { .. })));
    for kept in ["failed", "pending", "fresh"] {
        assert!(show(&harness, kept).await.is_ok(), "{kept}");
    }
    let released = release(&harness, &module, "twice", at(seq, 3)).await;
    assert!(matches!(released, Released::Ended), "it would go out again: {released:?}");
    assert_eq!(outcomes(&harness, 0).await.last().unwrap().number, 4);
    harness.close().await;
}
