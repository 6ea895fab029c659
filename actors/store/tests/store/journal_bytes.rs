//! How many bytes a module's journal holds, and what of it is never dropped.

use nexum_host_ifaces::{
    journal::{JournalStart, REWIND_UNITS},
    recording::Wanted,
    store::{Change, StateView, StoreMsg},
};
use nexum_store::{Durability, Options};

use crate::harness::{Harness, Module, directory, options};

/// What the journal may hold here.
const BYTES: u64 = 512 << 10;

fn bounded(journal_bytes: u64) -> Options {
    Options { journal_bytes, durability: Durability::Periodic, ..options() }
}

/// Replaces the value of one key by another of the same size.
async fn rewrite(harness: &Harness, module: &mut Module, bytes: usize, times: u64) {
    for _ in 0..times {
        let key = format!("of {bytes}");
        let old = harness.store.get(module.info.id, &key).unwrap();
        let change = Change { key, new: Some(vec![module.ledger.record.seq as u8; bytes]), old };
        harness.handle(module, vec![change]).await;
    }
}

/// The numbers of the entries kept, which have no gap.
fn seqs(harness: &Harness, module: &Module) -> Vec<u64> {
    let journal = harness.store.journal(module.info.id, 0, usize::MAX).unwrap();
    let seqs: Vec<u64> = journal.into_iter().map(|entry| entry.seq).collect();
    assert!(seqs.is_sorted_by(|a, b| *b == a + 1), "{seqs:?}");
    seqs
}

#[tokio::test]
async fn the_oldest_entries_go_when_the_journal_holds_too_many_bytes() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &bounded(BYTES)).await;
    let mut module = harness.module("a").await;
    rewrite(&harness, &mut module, 1 << 10, 900).await;
    let kept = seqs(&harness, &module);
    assert_eq!(kept.last(), Some(&900));
    let page = harness.store.journal_page("a", JournalStart::Newest, 1).unwrap();
    assert!((BYTES / 2..=BYTES * 9 / 8 + 2048).contains(&page.bytes), "{} bytes", page.bytes);
    // Each has its kibibyte and some hundred bytes besides; an eighth more may be there.
    assert!((300..BYTES as usize * 9 / 8 / 1024).contains(&kept.len()), "{}", kept.len());
    harness.close().await;
    // A smaller bound counts from the first unit on, but for what a rewind needs.
    let harness = Harness::open_with(directory.path(), &bounded(1)).await;
    rewrite(&harness, &mut module, 1 << 10, 1).await;
    assert_eq!(seqs(&harness, &module), (902 - REWIND_UNITS..=901).collect::<Vec<_>>());
    harness.close().await;
}

#[tokio::test]
async fn what_a_rewind_needs_stays_and_is_all_that_a_module_may_have() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &bounded(BYTES)).await;
    let mut module = harness.module("a").await;
    assert_eq!(harness.store.journal_room(module.info.id).unwrap(), BYTES);
    rewrite(&harness, &mut module, 1 << 10, 10).await;
    let room = harness.store.journal_room(module.info.id).unwrap();
    assert!((BYTES - 10 * 2048..BYTES - 9 * 1024).contains(&room), "{room}");
    rewrite(&harness, &mut module, 4 << 10, 400).await;
    assert_eq!(harness.store.journal_room(module.info.id).unwrap(), 0);
    let kept = seqs(&harness, &module);
    assert!(kept.len() as u64 >= REWIND_UNITS && (kept.len() as u64) < REWIND_UNITS + 32, "{}", kept.len());

    harness.rewind(&mut module, 410 - 200).await.unwrap().unwrap();
    let value = harness.store.get(module.info.id, "of 4096").unwrap().unwrap();
    assert_eq!(value, vec![209; 4 << 10], "undone with what was kept");
    let before = harness.store.journal_room(module.info.id).unwrap();
    rewrite(&harness, &mut module, 4 << 10, 1).await;
    let after = harness.store.journal_room(module.info.id).unwrap();
    assert!(before - after > 4 << 10, "counted on from where the rewind went: {before} {after}");
    // Small units push what is large out of what a rewind needs, so that there is room again.
    rewrite(&harness, &mut module, 1, REWIND_UNITS).await;
    assert!(harness.store.journal_room(module.info.id).unwrap() > BYTES / 2);
    harness.close().await;
}

#[tokio::test]
async fn a_recording_that_would_take_the_room_for_undoing_is_not_kept_with_its_unit() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &bounded(BYTES)).await;
    let mut module = harness.module("a").await;
    let most = BYTES / (2 * REWIND_UNITS);
    for bytes in [most, most + 1] {
        let mut unit = module.unit(vec![]);
        unit.recording = Some(vec![7; bytes as usize]);
        let record = unit.record.clone();
        harness.commit(unit).await.unwrap();
        module.ledger.adopt(record);
    }
    let recording = |seq| {
        let name = "a".into();
        harness.ask(move |reply| StoreMsg::Recording { name, wanted: Wanted::Unit(seq), reply })
    };
    assert_eq!(recording(1).await.unwrap().len() as u64, most);
    recording(2).await.unwrap_err();
}
