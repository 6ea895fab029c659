//! What all modules together want of the chain, each distinct interest once.
//!
//! Invariant: `version` grows with every interest that is added, and a block read with the union of version `v` serves
//! every interest whose `since` is at most `v`.

use std::{collections::HashMap, sync::Arc};

use nexum_host_ifaces::interfaces::chain::port::Interest;

use crate::filter::{Filters, Union};

/// One distinct interest, shared by every module that has it.
#[derive(Debug)]
pub struct Watch {
    /// Never used twice.
    pub id: u64,
    /// The union's version from which on this interest is part of it.
    pub since: u64,
    pub interest: Arc<Interest>,
    pub filters: Filters,
}

#[derive(Debug, Default)]
pub struct Interests {
    watches: HashMap<Arc<Interest>, (Arc<Watch>, usize)>,
    next_id: u64,
    version: u64,
    union: Arc<Union>,
    /// A watch with filters was dropped since the union was made.
    too_wide: bool,
}

impl Interests {
    /// Takes the interest for one more subscription.
    pub fn add(&mut self, interest: &Arc<Interest>) -> Arc<Watch> {
        if let Some((watch, subscriptions)) = self.watches.get_mut(interest) {
            *subscriptions += 1;
            return watch.clone();
        }
        self.next_id += 1;
        if !interest.logs.is_empty() {
            self.version += 1;
            let union = Arc::make_mut(&mut self.union);
            for filter in &interest.logs {
                union.add(filter);
            }
        }
        let watch = Arc::new(Watch {
            id: self.next_id,
            since: self.version,
            interest: interest.clone(),
            filters: Filters::new(&interest.logs),
        });
        self.watches.insert(interest.clone(), (watch.clone(), 1));
        watch
    }

    /// Gives up one subscription's share; the last one drops the interest.
    pub fn remove(&mut self, watch: &Watch) {
        if let Some((_, subscriptions)) = self.watches.get_mut(&watch.interest) {
            *subscriptions -= 1;
            if *subscriptions == 0 {
                self.watches.remove(&watch.interest);
                self.too_wide |= !watch.interest.logs.is_empty();
            }
        }
    }

    /// The filter that covers everybody, and its version.
    pub fn union(&mut self) -> (Arc<Union>, u64) {
        if std::mem::take(&mut self.too_wide) {
            self.union = Arc::new(Union::of(self.watches.keys().flat_map(|interest| &interest.logs)));
        }
        (self.union.clone(), self.version)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.watches.values().map(|(watch, _)| watch)
    }
}
