//! How many bytes a module's journal holds, and what of it is never dropped.

use nexum_host_ifaces::{
    journal::{JournalStart, REWIND_UNITS},
    recording::Wanted,
    store::{StateChange, StateView, StoreError, StoreMsg},
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
        let change = StateChange { key, new: Some(vec![module.ledger.record.seq as u8; bytes]), old };
        harness.handle(module, vec![change]).await;
    }
}

/// What the journal has left for the module's next unit.
fn room(harness: &Harness, module: &Module) -> u64 {
    let room = harness.store.journal_room(module.info.id, module.ledger.record.seq + 1).unwrap();
    assert_eq!(room.newest, module.ledger.record.seq);
    room.bytes
}

/// Commits a unit with a recording of so many bytes and moves the module on.
async fn record(harness: &Harness, module: &mut Module, changes: Vec<StateChange>, bytes: u64) {
    let mut unit = module.unit(changes);
    unit.recording = Some(vec![7; bytes as usize]);
    let record = unit.record.clone();
    harness.commit(unit).await.unwrap();
    module.ledger.adopt(record);
}

async fn recording(harness: &Harness, name: &str, seq: u64) -> Result<Vec<u8>, StoreError> {
    let name = name.to_owned();
    harness.ask(move |reply| StoreMsg::Recording { name, wanted: Wanted::Unit(seq), reply }).await
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
    assert_eq!(room(&harness, &module), BYTES);
    rewrite(&harness, &mut module, 1 << 10, 10).await;
    let first = room(&harness, &module);
    assert!((BYTES - 10 * 2048..BYTES - 9 * 1024).contains(&first), "{first}");
    rewrite(&harness, &mut module, 4 << 10, 400).await;
    assert_eq!(room(&harness, &module), 0);
    let kept = seqs(&harness, &module);
    assert!(kept.len() as u64 >= REWIND_UNITS && (kept.len() as u64) < REWIND_UNITS + 32, "{}", kept.len());

    harness.rewind(&mut module, 410 - 200).await.unwrap().unwrap();
    let value = harness.store.get(module.info.id, "of 4096").unwrap().unwrap();
    assert_eq!(value, vec![209; 4 << 10], "undone with what was kept");
    let before = room(&harness, &module);
    rewrite(&harness, &mut module, 4 << 10, 1).await;
    let after = room(&harness, &module);
    assert!(before - after > 4 << 10, "counted on from where the rewind went: {before} {after}");
    // Small units push what is large out of what a rewind needs, so that there is room again.
    rewrite(&harness, &mut module, 1, REWIND_UNITS).await;
    assert!(room(&harness, &module) > BYTES / 2);
    harness.close().await;
}

#[tokio::test]
async fn a_recording_that_is_too_large_is_left_out_counted_and_said() {
    let (directory, options) = (directory(), bounded(BYTES));
    let harness = Harness::open_with(directory.path(), &options).await;
    let mut module = harness.module("a").await;
    let most = BYTES / (2 * REWIND_UNITS);
    for bytes in [most, most + 1] {
        record(&harness, &mut module, vec![], bytes).await;
    }
    harness.handle(&mut module, vec![]).await;
    assert_eq!(recording(&harness, "a", 1).await.unwrap().len() as u64, most);
    let said = recording(&harness, "a", 2).await.unwrap_err().to_string();
    assert!(said.contains("no recording of unit 2: it had 1025 bytes and was left out"), "{said}");
    let said = recording(&harness, "a", 3).await.unwrap_err().to_string();
    assert!(said.contains("[journal] record = \"all\" keeps them"), "{said}");
    let text = prometheus::TextEncoder::new().encode_to_string(&options.registry.gather()).unwrap();
    assert!(text.contains("nexum_recordings_left_out_total 1"), "{text}");
    harness.close().await;
}

#[tokio::test]
async fn recordings_take_nothing_of_the_room_for_undoing_and_give_way_to_it() {
    let directory = directory();
    let harness = Harness::open_with(directory.path(), &bounded(BYTES)).await;
    let (mut with, mut without) = (harness.module("with").await, harness.module("without").await);
    let most = BYTES / (2 * REWIND_UNITS);
    let change = |module: &Module| {
        let seq = module.ledger.record.seq;
        let value = |seq: u64| Some(vec![seq as u8; 1_200]);
        vec![StateChange { key: "k".into(), new: value(seq + 1), old: if seq > 0 { value(seq) } else { None } }]
    };
    let page = |name: &str| harness.store.journal_page(name, JournalStart::Newest, 1).unwrap();
    for _ in 0..100 {
        let (recorded, plain) = (change(&with), change(&without));
        record(&harness, &mut with, recorded, most).await;
        harness.handle(&mut without, plain).await;
    }
    assert_eq!(room(&harness, &with), room(&harness, &without));
    assert_eq!(page("with").bytes - page("without").bytes, 100 * most);
    recording(&harness, "with", 1).await.unwrap();

    // What 256 units replace fits, but not with all of their recordings.
    for _ in 100..400 {
        let (recorded, plain) = (change(&with), change(&without));
        record(&harness, &mut with, recorded, most).await;
        harness.handle(&mut without, plain).await;
    }
    assert_eq!(room(&harness, &with), room(&harness, &without));
    let needed = 401 - REWIND_UNITS;
    assert!(seqs(&harness, &with)[0] <= needed, "what a rewind needs is all there");
    let bytes = page("with").bytes;
    assert!((BYTES / 2..=BYTES * 9 / 8 + 4096).contains(&bytes), "{bytes} bytes");
    recording(&harness, "with", 400).await.unwrap();
    let said = recording(&harness, "with", needed).await.unwrap_err().to_string();
    assert!(said.contains("it was dropped, because what undoes the newest units takes the room"), "{said}");
    // Those that are left have no gap, and are what the page counts.
    let mut kept = 0;
    for seq in seqs(&harness, &with) {
        let is_kept = recording(&harness, "with", seq).await.is_ok();
        assert!(is_kept || kept == 0, "unit {seq}");
        kept += u64::from(is_kept);
    }
    assert!(kept > 0 && kept < REWIND_UNITS, "{kept}");
    let each = page("without").bytes / seqs(&harness, &without).len() as u64;
    let undo = each * seqs(&harness, &with).len() as u64;
    assert!(bytes.abs_diff(undo + kept * most) < 2 * most, "{bytes}: {undo} to undo, {kept} recordings");
    harness.rewind(&mut with, needed).await.unwrap().unwrap();
    harness.close().await;
}
