//! Rewind: the store is as if the undone units had never been.

use nexum_host_ifaces::store::{Change, Entries, ModuleRecord, StateView, StoreError, StoreMsg};
use nexum_store::Options;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::harness::{Harness, Module, directory, options, put};

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
    let id = module.info.id;
    let record = harness.ask(|reply| StoreMsg::Rewind { module: id, to_seq, reply }).await?;
    module.ledger.adopt(record);
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
                Change { key, new: random.random_bool(0.7).then_some(value), old }
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
            harness.ask(|reply| StoreMsg::Rewind { module: id, to_seq: 0, reply }),
            harness.commit(late),
            harness.commit(next),
        );
        assert_eq!((first, next), (Ok(()), Ok(())));
        assert!(late.is_err(), "it follows a unit that is gone");
        neighbour.ledger.adopt(next_record);
        let rewound = rewound.unwrap();
        assert_eq!((rewound.seq, rewound.state_bytes), (0, 0));
        assert_eq!(harness.store.get(id, "k").unwrap(), None);
        module.ledger.adopt(rewound);
    }
}

#[tokio::test]
async fn a_rewind_past_the_journal_or_into_the_future_is_refused_and_changes_nothing() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &Options { journal_entries: 8, ..options() }).await;
    let mut module = harness.module("a").await;
    for _ in 0..20 {
        harness.handle(&mut module, vec![]).await;
    }
    let before = snapshot(&harness, &module);
    let error = rewind(&harness, &mut module, 5).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "store: cannot rewind to unit 5: unit 12 is no longer in the journal, which keeps the newest 8"
    );
    let error = rewind(&harness, &mut module, 21).await.unwrap_err();
    assert_eq!(error.to_string(), "store: cannot rewind to unit 21: the last one is 20");
    rewind(&harness, &mut module, 20).await.unwrap();
    assert_eq!(snapshot(&harness, &module), before);
    rewind(&harness, &mut module, 12).await.unwrap();
    harness.handle(&mut module, vec![]).await;
    assert_eq!(module.ledger.record.seq, 13);
}
