//! The overlay, over a store in memory.

use super::*;
use crate::state::Entries;

struct Fixed(BTreeMap<String, Vec<u8>>);

impl StateView for Fixed {
    fn get(&self, _: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, _: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
        let matching = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
        let after = matching.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        Ok(after.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

pub(in crate::unit) fn overlay(committed: &[(&str, &str)], limit: u64) -> Overlay {
    let committed: BTreeMap<String, Vec<u8>> =
        committed.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
    let used = committed.iter().map(|(key, value)| size(key, Some(value))).sum();
    Overlay::new(Arc::new(Fixed(committed)), ModuleId(1), used, limit)
}

pub(in crate::unit) fn put(key: &str, value: &str) -> Write {
    Write::Put(Entry { key: key.into(), value: value.into() })
}

#[test]
fn reads_see_the_events_own_writes() {
    let mut overlay = overlay(&[("a", "1"), ("b", "2"), ("c", "3")], 100);
    overlay.put("b".into(), None).unwrap();
    overlay.put("bb".into(), Some(b"new".to_vec())).unwrap();
    assert_eq!(overlay.get("b").unwrap(), None);
    assert_eq!(overlay.get("bb").unwrap(), Some(b"new".to_vec()));
    let keys = |entries: Entries| entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(overlay.list("", None, 2, usize::MAX).unwrap()), ["a", "bb"]);
    assert_eq!(keys(overlay.list("", Some("bb"), 9, usize::MAX).unwrap()), ["c"]);
    assert_eq!(keys(overlay.list("b", None, 9, usize::MAX).unwrap()), ["bb"]);
}

#[test]
fn paging_leaves_out_nothing_whatever_the_event_and_those_before_it_have_deleted() {
    let all: Vec<String> = (0..6).map(|number| format!("k/{number}")).collect();
    let committed: Vec<(&str, &str)> = all.iter().map(|key| (key.as_str(), "v")).chain([("l", "v")]).collect();
    // Each key stays, is deleted by an event whose unit is on its way, or by the one at hand.
    for fates in 0..3_usize.pow(6) {
        let fate = |nth: usize| fates / 3_usize.pow(nth as u32) % 3;
        let mut overlay = overlay(&committed, 1_000);
        let with = |wanted: usize| -> Vec<String> {
            (0..all.len()).filter(|nth| fate(*nth) == wanted).map(|nth| all[nth].clone()).collect()
        };
        with(1).into_iter().for_each(|key| overlay.put(key, None).unwrap());
        overlay.take_changes();
        with(2).into_iter().for_each(|key| overlay.put(key, None).unwrap());
        let left = with(0);
        for limit in 1..=4 {
            let (mut paged, mut after) = (Vec::new(), None::<String>);
            loop {
                let page = overlay.list("k/", after.as_deref(), limit, usize::MAX).unwrap();
                assert!(page.len() <= limit);
                after = page.last().map(|(key, _)| key.clone());
                let whole = page.len() == limit;
                paged.extend(page.into_iter().map(|(key, _)| key));
                if !whole {
                    break;
                }
            }
            assert_eq!(paged, left, "{fates}, {limit} at a time");
        }
    }
}

#[test]
fn the_quota_is_counted_exactly_and_a_refused_write_changes_nothing() {
    let mut overlay = overlay(&[("a", "1")], 10);
    overlay.put("bb".into(), Some(vec![0; 6])).unwrap();
    assert_eq!(overlay.used_bytes(), 10);
    let error = overlay.put("c".into(), Some(vec![])).unwrap_err();
    assert_eq!(error.kind, HostErrorKind::InvalidInput);
    assert_eq!(error.message, "state quota: this write would make 11 bytes of the 10 allowed");
    overlay.put("bb".into(), Some(vec![0; 5])).unwrap();
    overlay.put("c".into(), Some(vec![])).unwrap();
    overlay.put("a".into(), None).unwrap();
    assert_eq!(overlay.used_bytes(), 8);
}

#[test]
fn apply_is_all_or_nothing() {
    let mut overlay = overlay(&[("a", "1")], 6);
    overlay.apply(vec![put("b", "1"), Write::Delete("a".into()), put("c", "123456")]).unwrap_err();
    assert_eq!(overlay.get("a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(overlay.get("b").unwrap(), None);
    assert_eq!(overlay.used_bytes(), 2);
    overlay.put("b".into(), Some(b"2".to_vec())).unwrap();
    overlay.apply(vec![put("b", "3"), Write::Delete("b".into()), put("c", "123456")]).unwrap_err();
    assert_eq!((overlay.get("b").unwrap(), overlay.used_bytes()), (Some(b"2".to_vec()), 4));
}

#[test]
fn apply_copies_what_it_replaces_and_not_all_that_the_event_wrote() {
    let mut overlay = overlay(&[], 10_000);
    overlay.put("large".into(), Some(vec![0; 5_000])).unwrap();
    overlay.put("small".into(), Some(vec![0; 5])).unwrap();
    overlay.take_copied();
    overlay.apply(vec![put("small", "1"), put("small", "2")]).unwrap();
    assert_eq!(overlay.take_copied(), 5);
}

#[test]
fn keys_that_are_written_and_deleted_again_are_not_held() {
    let mut overlay = overlay(&[("old", "1")], 1_000);
    for n in 0..100 {
        overlay.put(format!("k{n}"), Some(vec![0; 50])).unwrap();
        overlay.put(format!("k{n}"), None).unwrap();
    }
    overlay.put("old".into(), None).unwrap();
    assert_eq!((overlay.writes.len(), overlay.used_bytes()), (1, 0));
}

#[test]
fn what_is_too_large_is_refused_by_its_size() {
    let mut overlay = overlay(&[], u64::MAX);
    let refusal = |result: Result<(), HostError>| result.unwrap_err().message;
    let key = "k".repeat(KEY_BYTES_MAX + 1);
    assert_eq!(refusal(overlay.put(key.clone(), None)), "a key of 1025 bytes, at most 1024");
    assert_eq!(refusal(overlay.apply(vec![put("a", "1"), Write::Delete(key)])), "a key of 1025 bytes, at most 1024");
    let value = vec![0; VALUE_BYTES_MAX + 1];
    assert_eq!(refusal(overlay.put("a".into(), Some(value))), "a value of 8388609 bytes, at most 8388608");
    let many = vec![Write::Delete("a".into()); APPLY_WRITES_MAX + 1];
    assert_eq!(refusal(overlay.apply(many)), "10001 writes at once, at most 10000");
    assert!(overlay.writes.is_empty());
}

#[test]
fn what_is_on_its_way_to_the_store_is_seen_by_the_next_event() {
    let mut overlay = overlay(&[("a", "1"), ("b", "2")], 100);
    overlay.put("a".into(), None).unwrap();
    overlay.put("c".into(), Some(b"3".to_vec())).unwrap();
    overlay.take_changes();
    assert_eq!(overlay.get("a").unwrap(), None);
    assert_eq!(overlay.list("", None, 9, usize::MAX).unwrap().len(), 2);
    overlay.put("c".into(), Some(b"4".to_vec())).unwrap();
    let changes = overlay.take_changes();
    assert_eq!((changes[0].old.as_deref(), changes[0].new.as_deref()), (Some(&b"3"[..]), Some(&b"4"[..])));
    overlay.settled();
    assert_eq!(overlay.get("a").unwrap(), Some(b"1".to_vec()), "the store answers again");
}

#[test]
fn changes_carry_what_they_replaced_and_leave_out_what_did_not_change() {
    let mut overlay = overlay(&[("a", "1"), ("b", "2")], 100);
    overlay.put("a".into(), Some(b"9".to_vec())).unwrap();
    overlay.put("b".into(), Some(b"3".to_vec())).unwrap();
    overlay.put("b".into(), Some(b"2".to_vec())).unwrap();
    overlay.put("never".into(), None).unwrap();
    let changes = overlay.take_changes();
    assert_eq!(changes.len(), 1);
    assert_eq!((&*changes[0].key, changes[0].old.as_deref()), ("a", Some(&b"1"[..])));
}
