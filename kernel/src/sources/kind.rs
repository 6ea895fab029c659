//! What every kind of source is to the table of them.

use nexum_host_ifaces::{capability::Capability, store::RedeliveryItem, types::Event};

use super::{
    reading::Reading,
    source::Source,
    written::{Field, Written},
};
use crate::manifest::values::Finding;

/// The source that comes with what a module asks for.
pub(crate) type Given = fn(&[Capability]) -> Option<Box<dyn Source>>;

/// One kind of source.
pub(crate) struct SourceKind {
    /// The subscriptions that make one.
    pub subscriptions: &'static [SubscriptionKind],
    /// What can be written in any of them, in the order in which fields are named.
    pub fields: &'static [Field],
    /// The source that a module has without a subscription, because of what it asks for.
    pub given: Option<Given>,
    /// The event of an item that needs no source to be delivered again: what it says is in the item.
    pub known: Option<fn(&RedeliveryItem) -> Option<Event>>,
}

/// One `kind` of `[[subscription]]`.
pub(crate) struct SubscriptionKind {
    pub name: &'static str,
    /// Another name for the same, which messages do not list.
    pub alias: Option<&'static str>,
    /// The fields that may be set, in the order in which messages list them.
    pub takes: &'static [&'static str],
    /// Checks a subscription and adds it to the sources.
    pub read: fn(&Written, &mut Reading<'_>) -> Result<(), Finding>,
}
