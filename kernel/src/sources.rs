//! The sources of events: one file for each kind, and the table of them.
//!
//! A source's file has all that is its own: what a manifest says to have one, its name, how it is asked, what its positions
//! are, when something is due there, and how it is told to people. Everybody else goes through `Source` and the functions
//! here, so that another kind of source is a file and a row.

mod chain;
mod cron;
mod kind;
mod message;
mod outcome;
mod reading;
mod source;
mod written;

/// The example of docs/ARCHITECTURE.md, whose file would be here.
#[cfg(feature = "echo")]
#[path = "../../fixtures/echo/kernel/src/sources"]
mod example {
    pub(super) mod echo;
}

use std::sync::Arc;

use nexum_host_ifaces::{event::Delivery, store::RedeliveryItem};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

#[cfg(test)]
pub(crate) use chain::ChainSource;
use kind::{SourceKind, SubscriptionKind};
pub(crate) use reading::Reading;
pub use source::{Calendar, Due, Heads, Now, Outcomes, Pull, Reach, Shown, Source};
use written::{Field, Written};

use crate::manifest::values::Finding;

/// Every kind of source, in the order in which messages name what they take.
const SOURCES: &[SourceKind] = &[
    chain::KIND,
    cron::KIND,
    message::KIND,
    outcome::KIND,
    #[cfg(feature = "echo")]
    example::echo::KIND,
];

/// A `[[subscription]]` as it is written.
pub(crate) struct Subscription(Written);

impl<'de> Deserialize<'de> for Subscription {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::read(deserializer, &fields()).map(Self)
    }
}

/// What can be written in a subscription of any kind.
fn fields() -> Vec<Field> {
    let mut fields = Vec::<Field>::new();
    for field in SOURCES.iter().flat_map(|source| source.fields) {
        if fields.iter().all(|known| known.name != field.name) {
            fields.push(*field);
        }
    }
    fields
}

fn subscriptions() -> impl Iterator<Item = &'static SubscriptionKind> {
    SOURCES.iter().flat_map(|source| source.subscriptions)
}

/// Checks one subscription and adds what it asks for to the sources.
pub(crate) fn read(subscription: Spanned<Subscription>, reading: &mut Reading<'_>) -> Result<(), Finding> {
    let span = subscription.span();
    let Subscription(mut written) = subscription.into_inner();
    written.span = span;
    let kind = written.kind().get_ref().as_str();
    let Some(found) = subscriptions().find(|it| it.name == kind || it.alias == Some(kind)) else {
        let known: Vec<_> = subscriptions().map(|it| it.name).collect();
        let message = format!("unknown subscription kind `{kind}`; known are {}", known.join(", "));
        return Err((written.kind().span(), message));
    };
    if let Some((field, span)) = written.set_fields().find(|(field, _)| !found.takes.contains(field)) {
        let message = format!("a {kind} subscription has no `{field}`; it takes {}", found.takes.join(", "));
        return Err((span, message));
    }
    (found.read)(&written, reading)
}

/// All sources of a manifest: those of its subscriptions, then those that it has for the capabilities it asks for.
pub(crate) fn all(mut reading: Reading<'_>) -> Vec<Arc<dyn Source>> {
    let asked = reading.asked;
    for source in SOURCES.iter().filter_map(|source| source.given.and_then(|given| given(asked))) {
        reading.add(source);
    }
    reading.finish()
}

/// The delivery of an item that needs no source: what it says is in the item.
pub(crate) fn known(item: &RedeliveryItem) -> Option<Delivery> {
    let event = SOURCES.iter().find_map(|source| source.known.and_then(|known| known(item)))?;
    Some(Delivery { id: item.event.clone(), event: Arc::new(event), cursor: item.cursor.clone(), seen_ns: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_subscriptions_have_an_order_and_one_shape_each() {
        let names: Vec<_> = fields().iter().map(|field| field.name).collect();
        let expected = "chain_id address topics event_signature start_block confirmations finality missed schedule every \
                        content_topic history";
        assert_eq!(names.join(" "), expected);
        for field in SOURCES.iter().flat_map(|source| source.fields) {
            assert!(fields().contains(field), "{field:?} has another shape elsewhere");
        }
    }

    #[test]
    fn what_a_subscription_takes_is_a_field_of_its_source() {
        for source in SOURCES {
            for subscription in source.subscriptions {
                for name in subscription.takes {
                    assert!(source.fields.iter().any(|field| field.name == *name), "{}: {name}", subscription.name);
                }
            }
        }
        let mut names: Vec<_> = subscriptions().flat_map(|it| [Some(it.name), it.alias]).flatten().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a kind is taken twice");
    }
}
