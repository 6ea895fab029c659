//! Messages of a topic: a subscription that is known, and refused as long as nobody serves it.

use super::{
    kind::{SourceKind, SubscriptionKind},
    reading::Reading,
    written::{Field, Shape, Written},
};
use crate::manifest::values::Finding;

pub(super) const KIND: SourceKind = SourceKind {
    subscriptions: &[SubscriptionKind { name: "message", alias: None, takes: &["content_topic"], read: refuse }],
    fields: &[Field::new("content_topic", Shape::Text)],
    given: None,
    known: None,
};

fn refuse(written: &Written, _: &mut Reading<'_>) -> Result<(), Finding> {
    let message = "message subscriptions need the messaging capability, which no actor serves yet".to_owned();
    Err((written.kind().span(), message))
}
