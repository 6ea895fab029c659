//! The messages of a topic. Each topic is a source of its own.
//!
//! Its positions are times, and messages may come later than younger ones: what of the last while was handled is in the
//! cursor by name, which the messaging actor goes by.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    event::{Cursor, Part, SourceId},
    grants::Grant,
    interfaces::messaging::{
        CAPABILITY,
        port::{MessagePull, MessagingMsg, check_topic},
    },
    port::PortError,
};

use super::{
    kind::{SourceKind, SubscriptionKind},
    reading::Reading,
    source::{Calendar, Due, Now, Pull, Reach, Shown, Source},
    written::{Field, Shape, Written},
};
use crate::manifest::values::{Finding, duration};

/// How far the position moves without a message before it is made durable: what a node has dropped since is told from it.
const KEEP_EVERY_NS: u64 = 10 * 60 * 1_000_000_000;

pub(super) const KIND: SourceKind = SourceKind {
    subscriptions: &[SubscriptionKind {
        name: "message",
        alias: None,
        takes: &["content_topic", "history"],
        read: topic,
    }],
    fields: &[Field::new("content_topic", Shape::Text), Field::new("history", Shape::Length)],
    given: None,
    known: None,
};

#[derive(Debug)]
struct MessageSource {
    id: SourceId,
    topic: Arc<str>,
    /// How far back it begins at the first load.
    history: Option<Duration>,
}

impl MessageSource {
    fn new(topic: &str, history: Option<Duration>) -> Self {
        Self { id: SourceId::new(format!("message:{topic}")), topic: topic.into(), history }
    }
}

impl Source for MessageSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn is_served(&self, reach: &Reach<'_>) -> bool {
        reach.grants.get(CAPABILITY) == Some(Grant::Served)
    }

    fn pull(&self, reach: &Reach<'_>, pull: Pull) -> Result<(), PortError> {
        // A stub has no messages, so that none come.
        if !self.is_served(reach) {
            return Ok(());
        }
        let Pull { module, token, after, every_event: at_once, deliveries_max, to } = pull;
        let (source, topic, history) = (self.id.clone(), self.topic.clone(), self.history);
        let pull = MessagePull { module, source, token, topic, history, after, at_once, deliveries_max, to };
        reach.ports.of().cast(MessagingMsg::Pull(Box::new(pull)))
    }

    fn forget(&self, reach: &Reach<'_>, module: Arc<str>) -> Result<(), PortError> {
        match self.is_served(reach) {
            true => reach.ports.of().cast(MessagingMsg::Forget { module }),
            false => Ok(()),
        }
    }

    fn position(&self, cursor: &Cursor) -> (u64, Part) {
        match cursor {
            Cursor::Message { time_ns, .. } => (*time_ns, Part::Block),
            other => unreachable!("a topic's position is a time and a hash, not {other}"),
        }
    }

    fn is_worth_keeping(&self, kept: &Cursor, cursor: &Cursor) -> bool {
        self.position(cursor).0.saturating_sub(self.position(kept).0) >= KEEP_EVERY_NS
    }

    /// That a message waits at a node, nobody knows but the node.
    fn due(&self, _: Option<&Cursor>, _: &Now<'_>) -> Due {
        Due::No
    }

    fn shown(&self, _: &Calendar<'_>) -> Vec<Shown> {
        let from = match self.history {
            Some(history) => format!("{} before the first load", humantime::format_duration(history)),
            None => "the first load".to_owned(),
        };
        vec![Shown { what: format!("messages of topic {}, from {from} on", self.topic), next_ms: None }]
    }

    fn may_end_early(&self) -> bool {
        true
    }
}

fn topic(written: &Written, reading: &mut Reading<'_>) -> Result<(), Finding> {
    let Some(topic) = written.text("content_topic") else {
        return Err((written.span.clone(), "a message subscription needs content_topic".into()));
    };
    check_topic(topic.get_ref()).map_err(|wrong| (topic.span(), format!("content_topic: {wrong}")))?;
    if !reading.asked.contains(&CAPABILITY) {
        let message = "message subscriptions need the capability `messaging`: list it in [capabilities]".to_owned();
        return Err((written.kind().span(), message));
    }
    let history = written.length("history").map(duration).transpose()?;
    let source = MessageSource::new(topic.get_ref(), history);
    if reading.has(source.id()) {
        return Err((topic.span(), "this topic is subscribed twice".into()));
    }
    reading.add(Box::new(source));
    Ok(())
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::Hash;

    use super::*;

    fn at(time_ns: u64) -> Cursor {
        Cursor::Message { time_ns, hash: Some(Hash([7; 32])), handled: Vec::new() }
    }

    #[test]
    fn the_key_of_a_cursor_is_the_topic_and_what_is_shown_says_from_when_on() {
        let source = MessageSource::new("/app/1/x/proto", Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(source.id().as_str(), "message:/app/1/x/proto");
        let next: nexum_host_ifaces::cron::ScheduleNext = Arc::new(|_, _| None);
        let calendar = Calendar { next: &next, now_ms: 0, times: 1 };
        let what = "messages of topic /app/1/x/proto, from 7days before the first load on";
        assert_eq!(source.shown(&calendar)[0].what, what);
        let what = "messages of topic /app/1/x/proto, from the first load on";
        assert_eq!(MessageSource::new("/app/1/x/proto", None).shown(&calendar)[0].what, what);
    }

    #[test]
    fn a_position_without_a_message_is_kept_now_and_then() {
        let source = MessageSource::new("/app/1/x/proto", None);
        assert!(!source.is_worth_keeping(&at(5), &at(4 + KEEP_EVERY_NS)));
        assert!(source.is_worth_keeping(&at(5), &at(5 + KEEP_EVERY_NS)));
        assert!(source.position(&at(5)) < source.position(&at(6)));
    }
}
