//! The sources of one manifest while its subscriptions are read.

use std::{any::Any, collections::BTreeSet, sync::Arc};

use nexum_host_ifaces::{capability::Capability, cron::ScheduleCheck, event::SourceId};

use super::source::Source;

/// Sources in the order in which they are first named, and what a subscription is held against.
pub(crate) struct Reading<'a> {
    /// The chains that the manifest lists.
    pub chains: &'a BTreeSet<u64>,
    /// Knows which schedules can be used.
    pub schedules: &'a ScheduleCheck,
    /// The capabilities that it asks for.
    pub asked: &'a [Capability],
    sources: Vec<Box<dyn Source>>,
}

impl<'a> Reading<'a> {
    pub fn new(chains: &'a BTreeSet<u64>, schedules: &'a ScheduleCheck, asked: &'a [Capability]) -> Self {
        Self { chains, schedules, asked, sources: Vec::new() }
    }

    pub fn has(&self, id: &SourceId) -> bool {
        self.sources.iter().any(|source| source.id() == id)
    }

    pub fn add(&mut self, source: Box<dyn Source>) {
        assert!(!self.has(source.id()), "{} has a source already", source.id());
        self.sources.push(source);
    }

    /// The source with the id that `made` has: the one that is there, or else `made`.
    pub fn or_add<S: Source>(&mut self, made: S) -> &mut S {
        let index = match self.sources.iter().position(|source| source.id() == made.id()) {
            Some(index) => index,
            None => {
                self.sources.push(Box::new(made));
                self.sources.len() - 1
            }
        };
        let source: &mut dyn Any = &mut *self.sources[index];
        source.downcast_mut::<S>().unwrap_or_else(|| unreachable!("kinds of sources have ids of their own"))
    }

    pub fn finish(self) -> Vec<Arc<dyn Source>> {
        self.sources.into_iter().map(Arc::from).collect()
    }
}
