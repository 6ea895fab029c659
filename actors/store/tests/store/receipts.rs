//! Receipts and rewinds: when a receipt is written, what a rewind does to it, and that neither outlives its journal.

use std::{path::Path, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    journal::{EngineKey, JournalPage, JournalStart, Receipt},
    store::{StoreError, StoreMsg},
};
use nexum_store::{Options, Receipts};

use crate::harness::{Harness, Module, directory, options, put};

fn key() -> Arc<EngineKey> {
    Arc::new(EngineKey::from_secret(&[7; 32]))
}

fn signing(every_units: u64, every_ms: u64) -> Options {
    let receipts = Receipts { key: key(), every_units, every: Duration::from_millis(every_ms) };
    Options { receipts: Some(receipts), ..options() }
}

async fn open(directory: &Path, every_units: u64, every_ms: u64) -> Harness {
    Harness::open_with(directory, &signing(every_units, every_ms)).await
}

async fn units(harness: &Harness, module: &mut Module, count: u64) {
    for _ in 0..count {
        let value = module.ledger.record.seq.to_string();
        let old = (value != "0").then(|| (module.ledger.record.seq - 1).to_string());
        harness.handle(module, vec![put("n", &value, old.as_deref())]).await;
    }
}

fn page(harness: &Harness) -> JournalPage {
    harness.store.journal_page("a", JournalStart::At(0), 10_000).unwrap()
}

fn numbers(receipts: &[Receipt]) -> Vec<u64> {
    receipts.iter().map(|receipt| receipt.seq).collect()
}

/// Every receipt is genuine and fits its entry.
fn assert_good(page: &JournalPage) {
    for receipt in &page.receipts {
        let entry = page.entries.iter().find(|entry| entry.seq == receipt.seq).unwrap();
        assert_eq!((receipt.digest, receipt.component, receipt.at_ms), (entry.digest(), entry.component, entry.at_ms));
        assert!(receipt.is_genuine() && &*receipt.module == "a" && receipt.key == key().public());
    }
}

#[tokio::test]
async fn one_in_so_many_units_and_one_at_an_orderly_stop() {
    let directory = directory();
    let harness = open(directory.path(), 10, u64::MAX).await;
    let mut module = harness.module("a").await;
    units(&harness, &mut module, 25).await;
    assert_eq!(numbers(&page(&harness).receipts), [10, 20]);
    harness.close().await;
    let harness = open(directory.path(), 10, u64::MAX).await;
    assert_eq!(numbers(&page(&harness).receipts), [10, 20, 25]);
    let mut module = harness.module("a").await;
    units(&harness, &mut module, 12).await;
    let found = page(&harness);
    assert_eq!(numbers(&found.receipts), [10, 20, 25, 35], "counted on from the last one");
    assert_good(&found);
    assert_eq!((found.oldest, found.newest, found.key), (1, 37, Some(key().public())));
    assert_eq!(found.digest, found.entries.last().unwrap().digest());
}

#[tokio::test]
async fn the_first_unit_after_the_interval_gets_one() {
    let directory = directory();
    // A unit's time is its number in milliseconds.
    let harness = open(directory.path(), 1000, 7).await;
    let mut module = harness.module("a").await;
    units(&harness, &mut module, 20).await;
    assert_eq!(numbers(&page(&harness).receipts), [8, 15]);
}

#[tokio::test]
async fn a_rewind_keeps_the_receipts_that_it_withdraws_and_signs_why() {
    let directory = directory();
    let harness = open(directory.path(), 5, u64::MAX).await;
    let mut module = harness.module("a").await;
    units(&harness, &mut module, 13).await;
    let before = page(&harness);
    harness.rewind(&mut module, 7).await.unwrap();
    let after = page(&harness);
    assert_eq!((numbers(&after.receipts), after.newest, after.rewinds), (vec![5], 7, 1));

    // Other units than those that were undone.
    harness.handle(&mut module, vec![put("other", "way", None)]).await;
    units(&harness, &mut module, 5).await;
    let rewinds = harness.ask(|reply| StoreMsg::Rewinds { name: "a".into(), reply }).await.unwrap();
    let [rewound] = rewinds.as_slice() else { panic!("{rewinds:?}") };
    assert!(rewound.is_genuine("a"));
    assert_eq!((rewound.from_seq, rewound.from_digest), (13, before.digest));
    assert_eq!((rewound.to_seq, rewound.to_digest), (7, after.digest));
    assert_eq!(rewound.withdrawn, before.receipts[1..]);
    let now = page(&harness);
    assert_eq!(numbers(&now.receipts), [5, 10], "the new unit 10 has a receipt of its own");
    assert_ne!(now.receipts[1], before.receipts[1]);
    assert_good(&now);
}

#[tokio::test]
async fn receipts_go_with_their_entries_and_with_the_module() {
    let directory = directory();
    let options = Options { journal_entries: 16, ..signing(4, u64::MAX) };
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut module = harness.module("a").await;
    units(&harness, &mut module, 40).await;
    let found = page(&harness);
    assert!(found.oldest > 20 && numbers(&found.receipts).iter().all(|seq| *seq >= found.oldest), "{found:?}");
    assert_good(&found);
    harness.rewind(&mut module, 38).await.unwrap();
    harness.ask(|reply| StoreMsg::Purge { name: "a".into(), reply }).await.unwrap();
    harness.module("a").await;
    let empty = page(&harness);
    assert_eq!((empty.entries.len(), empty.receipts.len(), empty.newest, empty.rewinds), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_page_and_a_unit_say_what_the_journal_holds() {
    let directory = directory();
    let harness = open(directory.path(), 4, u64::MAX).await;
    let mut module = harness.module("a").await;
    units(&harness, &mut module, 6).await;
    let newest = harness.store.journal_page("a", JournalStart::Newest, 2).unwrap();
    assert_eq!(newest.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [5, 6]);
    assert!(newest.receipts.is_empty());
    let unit = harness.ask(|reply| StoreMsg::JournalUnit { name: "a".into(), seq: 3, reply }).await.unwrap();
    assert_eq!(unit.entry.seq, 3);
    let [change] = unit.changes.as_slice() else { panic!("{unit:?}") };
    assert_eq!((change.key.as_str(), change.old_bytes, change.new_bytes), ("n", Some(1), Some(1)));
    assert_eq!(unit.receipt.unwrap().seq, 4, "the receipt of a later unit covers it");
    let missing = harness.ask(|reply| StoreMsg::JournalUnit { name: "a".into(), seq: 7, reply }).await;
    assert!(matches!(missing, Err(StoreError::UnknownUnit { oldest: 1, newest: 6, .. })), "{missing:?}");
}
