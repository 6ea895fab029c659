//! Messages on a topic: published through the messaging actor.
//!
//! Each carries the digest of its effect's id, by which an attempt whose answer was lost is found again among the messages
//! that a node has stored.

use std::time::Duration;

use serde_json::{Value, json};

use super::kind::{ANSWER_BYTES_MAX, Attempting, EffectKind, Verdict, hex, limited, missing, retry};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{Effect, MessageEffect},
    grants::{Grant, Grants},
    interfaces::messaging::{
        CAPABILITY as MESSAGING,
        port::{self, MessagingMsg, Publish},
    },
    outbox::digest,
};

#[async_trait::async_trait]
impl EffectKind for MessageEffect {
    fn name(&self) -> &'static str {
        "message"
    }

    fn destination(&self) -> String {
        format!("topic:{}", self.content_topic)
    }

    fn bytes(&self) -> usize {
        self.content_topic.len() + self.payload.len()
    }

    fn stripped(&self) -> Effect {
        Effect::Message(Self { payload: Vec::new(), ..self.clone() })
    }

    fn payload(&self) -> Value {
        json!({ "content_topic": self.content_topic, "payload": hex(&self.payload) })
    }

    fn granted(&self, module: &str, grants: &Grants) -> Result<(), HostError> {
        match grants.get(MESSAGING) {
            Some(Grant::Served) => Ok(()),
            _ => Err(missing(MESSAGING, module, "effects with messages")),
        }
    }

    fn check(&self, _key: &str, _grants: &Grants) -> Result<(), HostError> {
        port::check(&self.content_topic, &self.payload)
    }

    async fn attempt(&self, with: &Attempting<'_>) -> Verdict {
        let publish = Box::new(Publish {
            topic: self.content_topic.as_str().into(),
            payload: self.payload.clone(),
            effect: Some(digest(with.id)),
            again: with.again,
            deadline: with.deadline,
        });
        // The actor keeps the deadline; the call waits longer only for its word.
        let waited = with.deadline.saturating_add(Duration::from_secs(1));
        let ask = |reply| MessagingMsg::Publish { publish, reply };
        let answer = with.ports.of::<MessagingMsg>().call(waited, ask).await;
        of_messaging(answer.unwrap_or_else(|error| Err(error.to_host_error(MESSAGING.name()))))
    }
}

/// What an answer means.
fn of_messaging(answer: Result<Vec<u8>, HostError>) -> Verdict {
    let error = match answer {
        Ok(mut said) => {
            said.truncate(ANSWER_BYTES_MAX);
            return Verdict::Delivered(said);
        }
        Err(error) => error,
    };
    match error.kind {
        HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::Internal => retry(error.message),
        HostErrorKind::RateLimited => limited(error),
        _ => Verdict::Failed(error.message),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{clock::SystemClock, grants::AskedCapabilities, ports::Ports};

    /// Says what it was to publish.
    struct Network;

    impl Actor for Network {
        type Msg = MessagingMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<MessagingMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<MessagingMsg>,
            message: MessagingMsg,
            _: &mut (),
        ) -> Result<(), ActorProcessingErr> {
            if let MessagingMsg::Publish { publish, reply } = message {
                let Publish { topic, payload, effect, again, .. } = *publish;
                assert_eq!(effect, Some(digest("m/1")));
                drop(reply.send(Ok(format!("{topic} {} {again}", payload.len()).into_bytes())));
            }
            Ok(())
        }
    }

    fn effect(topic: &str, payload: &[u8]) -> MessageEffect {
        MessageEffect { content_topic: topic.into(), payload: payload.to_vec() }
    }

    fn grants(denied: bool) -> Grants {
        let asked = AskedCapabilities { required: &[], optional: &[MESSAGING] };
        let denied: BTreeSet<_> = denied.then_some(MESSAGING).into_iter().collect();
        Grants::decide(asked, &BTreeSet::from([MESSAGING]), &denied).unwrap()
    }

    #[tokio::test]
    async fn an_attempt_publishes_under_the_name_that_the_effect_always_has() {
        let (actor, _) = Actor::spawn(None, Network, ()).await.unwrap();
        let ports = Ports::unbound([]);
        let with = Attempting {
            module: &Arc::from("m"),
            id: "m/1",
            key: "k",
            again: true,
            round: 0,
            deadline: Duration::from_secs(10),
            grants: &grants(false),
            ports: &ports,
            clock: &SystemClock::new(),
        };
        let message = effect("/app/1/x/proto", b"hello");
        assert!(matches!(message.attempt(&with).await, Verdict::Retry { counts: true, .. }), "nobody is there");
        ports.of::<MessagingMsg>().bind(actor.clone());
        assert_eq!(message.attempt(&with).await, Verdict::Delivered(b"/app/1/x/proto 5 true".to_vec()));
        actor.kill();
    }

    #[test]
    fn what_passes_with_time_is_tried_again_and_what_does_not_has_failed() {
        let of = |kind| of_messaging(Err(HostError::new("messaging", kind, "why")));
        for kind in [HostErrorKind::Denied, HostErrorKind::InvalidInput, HostErrorKind::Unsupported] {
            assert_eq!(of(kind), Verdict::Failed("why".into()));
        }
        for kind in [HostErrorKind::Unavailable, HostErrorKind::Timeout, HostErrorKind::Internal] {
            assert_eq!(of(kind), retry("why".into()));
        }
        let limited = HostError::new("messaging", HostErrorKind::RateLimited, "why").with_data("1500");
        let after = Some(Duration::from_millis(1_500));
        let of = |code| of_messaging(Err(limited.clone().with_code(code)));
        assert_eq!(of(429), Verdict::Retry { error: "why".into(), after, counts: true });
        let own = Verdict::Retry { error: "why".into(), after, counts: false };
        assert_eq!(of(0), own, "what others send at once does not use up its attempts");
    }

    #[test]
    fn it_needs_the_capability_a_topic_and_a_payload() {
        let message = effect("/app/1/x/proto", b"hello");
        assert_eq!(message.granted("m", &grants(false)), Ok(()));
        let denied = message.granted("m", &grants(true)).unwrap_err();
        let expected = "capability `messaging` is not granted to module m, and effects with messages need it";
        assert_eq!((denied.kind, denied.message.as_str()), (HostErrorKind::Unsupported, expected));
        assert_eq!(message.check("k", &grants(false)), Ok(()));
        for wrong in [effect("/t", b"hello"), effect("/app/1/x/proto", b"")] {
            assert_eq!(wrong.check("k", &grants(false)).unwrap_err().kind, HostErrorKind::InvalidInput);
        }
    }
}
