//! Rewind: the store is as if the undone units had never been.

use nexum_host_ifaces::{
    Hash,
    event::{Cursor, EventId, SourceId},
    ledger::UnitParts,
    store::{
        Entries, Fork, ModuleRecord, RedeliveryItem, Rewound, StateChange, StateView, StoreError, StoreMsg, UnitKind,
    },
    types::{BlockRef, ReleasedEffect, Reorg},
};
use nexum_store::Options;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::harness::{self, Harness, Module, directory, options, put};

/// Everything about a module that a rewind must restore.
#[derive(Debug, Clone, PartialEq)]
struct Snapshot {
    record: ModuleRecord,
    state: Entries,
    letters: Vec<u64>,
    journal: usize,
}

fn snapshot(harness: &Harness, module: &Module) -> Snapshot {
    let store = &harness.store;
    let state = store.scan(module.info.id, "", None, usize::MAX).unwrap();
    let record = store.inspect(&module.name).unwrap().record;
    let used: usize = state.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(record.state_bytes, used as u64, "the size is exact");
    let letters: Vec<u64> = store.dead_letters(&module.name).unwrap().into_iter().map(|letter| letter.seq).collect();
    assert_eq!(store.inspect(&module.name).unwrap().dead_letters, letters.len() as u64);
    let journal = store.journal(module.info.id, 0, usize::MAX).unwrap().len();
    Snapshot { record, state, letters, journal }
}

async fn rewind(harness: &Harness, module: &mut Module, to_seq: u64) -> Result<(), StoreError> {
    let at = module.ledger.record.seq;
    let rewound = harness.rewind(module, to_seq).await?;
    assert_eq!(rewound.is_some(), at > to_seq);
    // Its only source delivers anew.
    assert!(rewound.is_none_or(|rewound| matches!(rewound.redelivery[..], [RedeliveryItem { told: Some(_), .. }])));
    Ok(())
}

/// One random unit: a few changes of few keys, now and then a quarantined event or a resolved one.
async fn random_unit(harness: &Harness, module: &mut Module, random: &mut StdRng) {
    let store = &harness.store;
    let mut unit = match random.random_range(0..10) {
        0 => module.quarantine(),
        _ => {
            let mut keys: Vec<u8> = (0..8).filter(|_| random.random_bool(0.3)).collect();
            keys.dedup();
            let changes = keys.into_iter().map(|key| {
                let key = format!("key-{key}");
                let old = store.get(module.info.id, &key).unwrap();
                let value = vec![random.random(); random.random_range(0..40)];
                StateChange { key, new: random.random_bool(0.7).then_some(value), old }
            });
            let changes = changes.filter(|change| change.new != change.old).collect();
            module.unit(changes)
        }
    };
    let letters = store.dead_letters(&module.name).unwrap();
    if unit.quarantined.is_none() && random.random_bool(0.1) {
        unit.resolved = letters.first().map(|letter| letter.seq);
    }
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
}

#[tokio::test]
async fn after_a_rewind_the_store_is_what_it_was_then() {
    for seed in 0..20 {
        let random = &mut StdRng::seed_from_u64(seed);
        let directory = directory();
        let harness = Harness::open(directory.path()).await;
        let mut module = harness.module("a").await;
        let mut neighbour = harness.module("b").await;
        harness.handle(&mut neighbour, vec![put("key-1", "untouched", None)]).await;
        let mut past = vec![snapshot(&harness, &module)];
        for _ in 0..60 {
            if random.random_bool(0.15) {
                let to_seq = random.random_range(0..past.len());
                rewind(&harness, &mut module, to_seq as u64).await.unwrap();
                past.truncate(to_seq + 1);
                assert_eq!(snapshot(&harness, &module), past[to_seq], "seed {seed}, to {to_seq}");
            }
            random_unit(&harness, &mut module, random).await;
            past.push(snapshot(&harness, &module));
        }
        harness.close().await;
        let harness = Harness::open(directory.path()).await;
        rewind(&harness, &mut module, 0).await.unwrap();
        assert_eq!(snapshot(&harness, &module), past[0], "seed {seed}, after a reopen");
        assert_eq!(harness.store.get(neighbour.info.id, "key-1").unwrap(), Some(b"untouched".to_vec()));
    }
}

#[tokio::test]
async fn a_rewind_takes_in_what_queued_before_it_and_hurts_no_neighbour() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let mut neighbour = harness.module("b").await;
    for _ in 0..20 {
        let first = module.unit(vec![put("k", "v", None)]);
        let mut behind = module.ledger.clone();
        behind.adopt(first.record.clone());
        let late = behind.seal(module.outcome(vec![]));
        let next = neighbour.unit(vec![]);
        let next_record = next.record.clone();
        let id = module.info.id;
        // All four queue before any is answered.
        let (first, rewound, late, next) = tokio::join!(
            harness.commit(first),
            harness.ask(|reply| harness::rewind(&module, 0, reply)),
            harness.commit(late),
            harness.commit(next),
        );
        assert_eq!((first, next), (Ok(()), Ok(())));
        assert!(late.is_err(), "it follows a unit that is gone");
        neighbour.ledger.adopt(next_record);
        let rewound = rewound.unwrap().unwrap().record;
        assert_eq!((rewound.seq, rewound.state_bytes), (0, 0));
        assert_eq!(harness.store.get(id, "k").unwrap(), None);
        module.ledger.adopt(rewound);
    }
}

#[tokio::test]
async fn a_rewind_past_the_journal_is_refused_and_one_to_where_the_module_stands_changes_nothing() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &Options { journal_entries: 8, ..options() }).await;
    let mut module = harness.module("a").await;
    for _ in 0..20 {
        harness.handle(&mut module, vec![]).await;
    }
    let before = snapshot(&harness, &module);
    let error = rewind(&harness, &mut module, 5).await.unwrap_err();
    assert_eq!(error.to_string(), "block 5 of chain:1 is below the kept journal, which begins with unit 13");
    rewind(&harness, &mut module, 20).await.unwrap();
    assert_eq!(snapshot(&harness, &module), before);
    rewind(&harness, &mut module, 12).await.unwrap();
    harness.handle(&mut module, vec![]).await;
    assert_eq!(module.ledger.record.seq, 13);
}

/// One unit of a source at a block.
async fn at(harness: &Harness, module: &mut Module, source: &str, number: u64, event: Option<EventId>) {
    let source = SourceId::new(source);
    let hash = Hash([number as u8; 32]);
    let mut outcome = module.outcome(vec![]);
    outcome.event = event.unwrap_or(EventId::Block { chain_id: 1, number, hash });
    outcome.moved = Some((source, Cursor::block(number, hash)));
    let mut unit = module.ledger.seal(outcome);
    if let EventId::Reorg { .. } = unit.entry.event {
        unit.told = Some(Box::new(reorg(number, &["earlier"])));
    }
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
}

fn reorg(number: u64, released: &[&str]) -> Reorg {
    let block = |number| BlockRef { number, hash: vec![0; 32] };
    let effect = |id: &&str| ReleasedEffect { id: (*id).into(), key: (*id).into() };
    Reorg {
        chain_id: 1,
        common_ancestor: block(number),
        old_head: block(number + 1),
        new_head: block(number + 2),
        released_effects: released.iter().map(effect).collect(),
    }
}

fn reorg_id(number: u64) -> EventId {
    EventId::Reorg { chain_id: 1, old_head: Hash([number as u8; 32]), new_head: Hash::default(), nth: number }
}

async fn fork(
    harness: &Harness,
    module: &mut Module,
    source: &str,
    number: u64,
) -> Result<Option<Rewound>, StoreError> {
    let id = module.info.id;
    let fork = Fork {
        source: SourceId::new(source),
        ancestor: (number, Hash([number as u8; 32])),
        event: reorg_id(number),
        reorg: reorg(number, &[]),
    };
    let fork = Box::new(fork);
    let rewound = harness.ask(|reply| StoreMsg::Rewind { module: id, fork, reply }).await?;
    if let Some(rewound) = &rewound {
        module.ledger.adopt(rewound.record.clone());
        assert_eq!(harness.store.replay(id).unwrap(), rewound.redelivery, "what is answered is what is durable");
        assert_eq!(harness.store.inspect(&module.name).unwrap().redelivery, rewound.redelivery.len() as u64);
    }
    Ok(rewound)
}

fn shown(rewound: &Rewound) -> Vec<String> {
    let show = |item: &RedeliveryItem| match &item.told {
        Some(told) => {
            let released: Vec<_> = told.released_effects.iter().map(|effect| effect.id.as_str()).collect();
            format!("{} reorg to {} {released:?}", item.source, item.cursor)
        }
        None => format!("{} {}", item.source, item.cursor),
    };
    rewound.redelivery.iter().map(show).collect()
}

#[tokio::test]
async fn how_many_reorgs_a_module_was_told_of_is_never_taken_back() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    let reorgs = |harness: &Harness| harness.store.inspect("a").unwrap().reorgs;
    for number in 5..8 {
        at(&harness, &mut module, "one", number, None).await;
    }
    // One that was told without undoing anything, and then one that undoes the telling.
    let mut unit = module.ledger.seal(UnitParts { event: reorg_id(1), ..module.outcome(vec![]) });
    (unit.told, unit.reorgs) = (Some(Box::new(reorg(7, &[]))), Some(1));
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
    assert_eq!(reorgs(&harness), 1);
    at(&harness, &mut module, "one", 8, None).await;
    assert_eq!(fork(&harness, &mut module, "one", 6).await.unwrap().unwrap().record.seq, 2);
    assert_eq!(reorgs(&harness), 6);
    // Going through the queue again tells of nothing new.
    at(&harness, &mut module, "one", 6, Some(reorg_id(6))).await;
    harness.close().await;
    let harness = Harness::open(directory.path()).await;
    assert_eq!(harness.module("a").await.info.reorgs, 6);
    harness.ask(|reply| StoreMsg::Purge { name: "a".into(), reply }).await.unwrap();
    assert_eq!(harness.module("a").await.info.reorgs, 0);
}

#[tokio::test]
async fn a_fork_queues_the_reorg_and_the_other_sources_in_their_order() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    for (source, number) in [("one", 5), ("two", 50), ("one", 6), ("two", 51), ("three", 7), ("one", 7), ("two", 52)] {
        at(&harness, &mut module, source, number, None).await;
    }
    assert_eq!(fork(&harness, &mut module, "one", 7).await.unwrap(), None, "nothing is past it");
    let rewound = fork(&harness, &mut module, "one", 5).await.unwrap().unwrap();
    assert_eq!(rewound.record.seq, 2);
    assert_eq!(shown(&rewound), ["one reorg to 5 []", "two 51", "three 7", "two 52"]);

    // Two items are gone through, then the second source forks below the first of them.
    let mut unit = module.ledger.seal(UnitParts { event: reorg_id(5), ..module.outcome(vec![]) });
    unit.told = Some(Box::new(reorg(5, &["earlier"])));
    unit.redelivered = vec![0];
    module.ledger.adopt(unit.record.clone());
    harness.commit(unit).await.unwrap();
    let hash = Hash([51; 32]);
    let moved = Some((SourceId::new("two"), Cursor::block(51, hash)));
    let mut unit = module.ledger.seal(UnitParts { moved, ..module.outcome(vec![]) });
    unit.redelivered = vec![1];
    module.ledger.adopt(unit.record.clone());
    harness.commit(unit).await.unwrap();
    assert_eq!(harness.store.replay(module.info.id).unwrap().len(), 2);
    let rewound = fork(&harness, &mut module, "two", 50).await.unwrap().unwrap();
    assert_eq!(shown(&rewound), ["two reorg to 50 []", "three 7"], "the fork delivers its own; the rest is still due");
    harness.close().await;
}

#[tokio::test]
async fn a_reorg_whose_telling_is_undone_is_told_with_the_next() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    at(&harness, &mut module, "one", 5, None).await;
    at(&harness, &mut module, "one", 8, None).await;
    at(&harness, &mut module, "one", 6, Some(reorg_id(6))).await;
    at(&harness, &mut module, "one", 9, None).await;
    let rewound = fork(&harness, &mut module, "one", 5).await.unwrap().unwrap();
    assert_eq!(rewound.record.seq, 1);
    assert_eq!(shown(&rewound), [r#"one reorg to 5 ["earlier"]"#]);
    harness.close().await;
}

#[tokio::test]
async fn a_source_that_began_after_the_fork_begins_where_it_began() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    for (source, number) in [("one", 5), ("one", 6), ("two", 50), ("two", 90), ("one", 7), ("two", 91)] {
        let source = SourceId::new(source);
        let (event, moved) =
            (EventId::Advance { source: source.clone() }, Some((source, Cursor::block(number, Hash([0; 32])))));
        // Positions without an event, but for the newest of each.
        let kind = if number % 10 == 7 || number == 91 { UnitKind::Handled } else { UnitKind::Advanced };
        let unit = module.ledger.seal(UnitParts { kind, event, moved, ..module.outcome(vec![]) });
        module.ledger.adopt(unit.record.clone());
        harness.commit(unit).await.unwrap();
    }
    let rewound = fork(&harness, &mut module, "one", 5).await.unwrap().unwrap();
    assert_eq!(rewound.record.cursors.len(), 1);
    assert_eq!(shown(&rewound), ["one reorg to 5 []", "two 50", "two 91"]);
    harness.close().await;
}

#[tokio::test]
async fn a_fork_below_the_kept_journal_says_so_and_changes_nothing() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &Options { journal_entries: 8, ..options() }).await;
    let mut module = harness.module("a").await;
    for number in 1..=20 {
        at(&harness, &mut module, "one", number, None).await;
    }
    let before = snapshot(&harness, &module);
    let error = fork(&harness, &mut module, "one", 3).await.unwrap_err();
    assert!(matches!(error, StoreError::BelowJournal { block: 3, .. }), "{error}");
    assert_eq!(snapshot(&harness, &module), before);
    harness.close().await;
}

/// A reorg has every module of a chain rewind at once.
#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_modules_may_rewind_at_once() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    let mut modules = Vec::new();
    for nth in 0..200 {
        let mut module = harness.module(&format!("m{nth}")).await;
        for _ in 0..2 {
            harness.handle(&mut module, vec![]).await;
        }
        modules.push(module);
    }
    // All are asked before any is waited for.
    let mut answers = Vec::new();
    for module in &modules {
        let (reply, answer) = ractor::concurrency::oneshot();
        harness.actor.send_message(harness::rewind(module, 1, reply.into())).unwrap();
        answers.push(answer);
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap().unwrap().record.seq, 1);
    }
    harness.close().await;
}
