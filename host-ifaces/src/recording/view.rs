//! The state as a recording knows it, in place of the store's.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Mutex, PoisonError},
};

use crate::{
    recording::{Scan, Session},
    state::{Entries, ModuleId, StateView, StoreError},
};

/// Answers reads from a recording, and remembers what it was asked for in vain.
#[derive(Default)]
pub struct RecordedView {
    known: BTreeMap<String, Option<Vec<u8>>>,
    scans: Vec<Scan>,
    missing: Mutex<BTreeSet<String>>,
}

impl RecordedView {
    pub fn new(session: &Session) -> Self {
        let listed = session.scans.iter().flat_map(|scan| &scan.entries);
        let mut known: BTreeMap<_, _> = listed.map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        known.extend(session.reads.iter().cloned());
        Self { known, scans: session.scans.clone(), missing: Mutex::default() }
    }

    /// What was asked for and not recorded, one line each.
    pub fn missing(&self) -> Vec<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn miss(&self, what: String) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
    }
}

impl Scan {
    /// Whether the listing reaches over this key, so that a key that it does not hold was not there.
    fn covers(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| key > after)
            && (self.whole || self.entries.last().is_some_and(|(last, _)| key <= last.as_str()))
    }
}

impl StateView for RecordedView {
    fn get(&self, _: ModuleId, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.known.get(key) {
            Some(value) => Ok(value.clone()),
            None => {
                if !self.scans.iter().any(|scan| scan.covers(key)) {
                    self.miss(format!("the state key `{key}`"));
                }
                Ok(None)
            }
        }
    }

    fn scan(&self, _: ModuleId, prefix: &str, after: Option<&str>, limit: usize) -> Result<Entries, StoreError> {
        let from = self
            .known
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let wanted = from.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let found: Entries = wanted
            .filter_map(|(key, value)| value.as_ref().map(|value| (key.clone(), value.clone())))
            .take(limit)
            .collect();
        // Complete when one listing reaches from the start to the last entry, or over everything when there are fewer.
        let begins = |scan: &&Scan| {
            prefix.starts_with(&scan.prefix)
                && scan.after.as_deref().is_none_or(|began| after.is_some_and(|after| began <= after))
        };
        let reaches = |scan: &Scan| {
            scan.whole || (found.len() == limit && found.last().is_none_or(|(last, _)| scan.covers(last)))
        };
        if !self.scans.iter().filter(begins).any(reaches) {
            self.miss(format!("the list of state keys with `{prefix}`"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> RecordedView {
        let entries = [("a/1", "1"), ("a/2", "2")].map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
        RecordedView::new(&Session {
            reads: vec![("b".into(), Some(b"9".to_vec())), ("c".into(), None)],
            scans: vec![Scan { prefix: "a/".into(), after: None, entries: entries.to_vec(), whole: true }],
            ..Session::default()
        })
    }

    #[test]
    fn what_was_seen_is_answered_and_what_was_not_is_told() {
        let view = view();
        let get = |key: &str| view.get(ModuleId(0), key).unwrap();
        assert_eq!([get("b"), get("c"), get("a/2")], [Some(b"9".to_vec()), None, Some(b"2".to_vec())]);
        assert_eq!(get("a/3"), None);
        assert!(view.missing().is_empty(), "the listing says that there is no a/3");
        assert_eq!(get("d"), None);
        assert_eq!(view.missing(), ["the state key `d`"]);
    }

    #[test]
    fn listings_are_answered_as_far_as_they_reach() {
        let view = view();
        let scan = |prefix: &str, after: Option<&str>, limit: usize| -> Vec<String> {
            let found = view.scan(ModuleId(0), prefix, after, limit).unwrap();
            found.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(scan("a/", None, 9), ["a/1", "a/2"]);
        assert_eq!(scan("a/", Some("a/1"), 9), ["a/2"]);
        assert_eq!(scan("a/2", None, 1), ["a/2"]);
        assert!(view.missing().is_empty(), "{:?}", view.missing());
        scan("", None, 9);
        assert_eq!(view.missing(), ["the list of state keys with ``"]);
    }
}
