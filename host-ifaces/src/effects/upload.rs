//! Content for Swarm as effects: under its address, or as the next update of a feed.

use std::time::Duration;

use serde_json::{Value, json};

use super::kind::{Attempting, EffectKind, Verdict, hex, limited, missing, retry};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{Effect, UploadEffect},
    grants::{Grant, Grants},
    interfaces::{
        identity::grant::FEED,
        remote_store::{
            CAPABILITY as REMOTE_STORE,
            port::{DOMAIN, RemoteStoreMsg, WAITS_FOR_OPERATOR, check_content, topic},
        },
    },
};

/// How often it is asked whether the operator has topped up a batch: people take longer.
const OPERATOR_LOOK: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl EffectKind for UploadEffect {
    fn name(&self) -> &'static str {
        "upload"
    }

    fn destination(&self) -> String {
        match &self.topic {
            None => "swarm".to_owned(),
            Some(topic) => format!("feed:{}", hex(topic)),
        }
    }

    fn bytes(&self) -> usize {
        self.data.len() + self.topic.as_ref().map_or(0, Vec::len)
    }

    fn stripped(&self) -> Effect {
        Effect::Upload(Self { data: Vec::new(), ..self.clone() })
    }

    fn payload(&self) -> Value {
        json!({ "topic": self.topic.as_deref().map(hex), "data": hex(&self.data) })
    }

    fn granted(&self, module: &str, grants: &Grants) -> Result<(), HostError> {
        if grants.get(REMOTE_STORE) != Some(Grant::Served) {
            return Err(missing(REMOTE_STORE, module, "uploads"));
        }
        if self.topic.is_some() { grants.may_sign(FEED) } else { Ok(()) }
    }

    fn check(&self, _key: &str, _grants: &Grants) -> Result<(), HostError> {
        if let Some(bytes) = &self.topic {
            topic(bytes)?;
        }
        check_content(self.data.len())
    }

    async fn attempt(&self, with: &Attempting<'_>) -> Verdict {
        let (port, module, data) = (with.ports.of::<RemoteStoreMsg>(), with.module.clone(), self.data.clone());
        let (deadline, again) = (with.deadline, with.again);
        // The actor keeps the deadline; the call waits longer only for its word.
        let waited = deadline.saturating_add(Duration::from_secs(1));
        let answer = match self.topic.as_deref().map(topic) {
            None => port.call(waited, |reply| RemoteStoreMsg::Upload { module, data, deadline, reply }).await,
            Some(Ok(topic)) => {
                let write = |reply| RemoteStoreMsg::WriteFeed { module, topic, data, again, deadline, reply };
                port.call(waited, write).await
            }
            Some(Err(error)) => return Verdict::Failed(error.message),
        };
        of_store(answer.unwrap_or_else(|error| Err(error.to_host_error(DOMAIN))))
    }
}

/// What an answer means.
fn of_store(answer: Result<Vec<u8>, HostError>) -> Verdict {
    let error = match answer {
        Ok(reference) => return Verdict::Delivered(reference),
        Err(error) => error,
    };
    if error.data.as_deref().is_some_and(|what| WAITS_FOR_OPERATOR.contains(&what)) {
        return Verdict::Underway { what: error.message, after: OPERATOR_LOOK };
    }
    match error.kind {
        HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::Internal => retry(error.message),
        HostErrorKind::RateLimited => limited(error),
        _ => Verdict::Failed(error.message),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex},
    };

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{
        clock::SystemClock,
        grants::AskedCapabilities,
        interfaces::{
            identity::grant::CAPABILITY as IDENTITY,
            remote_store::port::{CONTENT_BYTES_MAX, error},
        },
        ports::Ports,
    };

    /// What it was asked.
    struct Store(Arc<Mutex<Vec<String>>>);

    impl Actor for Store {
        type Msg = RemoteStoreMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<RemoteStoreMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<RemoteStoreMsg>,
            message: RemoteStoreMsg,
            _: &mut (),
        ) -> Result<(), ActorProcessingErr> {
            match message {
                RemoteStoreMsg::Upload { module, data, reply, .. } => {
                    self.0.lock().unwrap().push(format!("{module} {}", data.len()));
                    reply.send(Ok(vec![1; 32]))?;
                }
                RemoteStoreMsg::WriteFeed { module, topic, data, again, reply, .. } => {
                    self.0.lock().unwrap().push(format!("{module} {} {} {again}", topic.0[0], data.len()));
                    reply.send(Ok(vec![2; 32]))?;
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        }
    }

    fn effect(topic: Option<Vec<u8>>) -> UploadEffect {
        UploadEffect { data: vec![5; 7], topic }
    }

    fn grants(capabilities: &[crate::capability::Capability], methods: &[&str]) -> Grants {
        let provided = BTreeSet::from([REMOTE_STORE, IDENTITY]);
        let asked = AskedCapabilities { required: capabilities, optional: &[] };
        let grants = Grants::decide(asked, &provided, &BTreeSet::new()).unwrap();
        grants.with_signing_methods(methods.iter().map(|method| (*method).to_owned()))
    }

    #[tokio::test]
    async fn an_attempt_stores_content_or_the_next_update_of_a_feed() {
        let asked = Arc::default();
        let (actor, _) = Actor::spawn(None, Store(Arc::clone(&asked)), ()).await.unwrap();
        let ports = Ports::unbound([]);
        let with = Attempting {
            module: &Arc::from("m"),
            id: "m/1",
            key: "k",
            again: true,
            round: 0,
            deadline: Duration::from_secs(10),
            grants: &Grants::default(),
            ports: &ports,
            clock: &SystemClock::new(),
        };
        assert!(matches!(effect(None).attempt(&with).await, Verdict::Retry { counts: true, .. }), "nobody is there");
        ports.of::<RemoteStoreMsg>().bind(actor.clone());
        assert_eq!(effect(None).attempt(&with).await, Verdict::Delivered(vec![1; 32]));
        assert_eq!(effect(Some(vec![9; 32])).attempt(&with).await, Verdict::Delivered(vec![2; 32]));
        assert_eq!(*asked.lock().unwrap(), ["m 7", "m 9 7 true"]);
        actor.kill();
    }

    #[test]
    fn it_waits_for_the_operator_and_tries_again_what_may_pass() {
        let of = |kind, data: &str| of_store(Err(error(kind, "why").with_data(data)));
        for data in WAITS_FOR_OPERATOR {
            let waits = Verdict::Underway { what: "why".into(), after: OPERATOR_LOOK };
            assert_eq!(of(HostErrorKind::Unavailable, data), waits);
        }
        for kind in [HostErrorKind::Unavailable, HostErrorKind::Timeout, HostErrorKind::Internal] {
            assert_eq!(of(kind, "slow"), retry("why".into()));
        }
        let busy = |counts| Verdict::Retry { error: "why".into(), after: Some(Duration::from_secs(1)), counts };
        assert_eq!(of(HostErrorKind::RateLimited, "1000"), busy(false), "the engine's own bound");
        let of_node = error(HostErrorKind::RateLimited, "why").with_code(429).with_data("1000");
        assert_eq!(of_store(Err(of_node)), busy(true), "so that the pauses grow");
        for kind in [HostErrorKind::Denied, HostErrorKind::InvalidInput, HostErrorKind::Unsupported] {
            assert_eq!(of(kind, "refused"), Verdict::Failed("why".into()));
        }
    }

    #[test]
    fn it_needs_what_a_call_needs_and_a_size_that_may_be() {
        let feed = effect(Some(vec![9; 32]));
        let kind = |effect: &UploadEffect, grants: &Grants| effect.granted("m", grants).map_err(|error| error.kind);
        assert_eq!(kind(&effect(None), &grants(&[REMOTE_STORE], &[])), Ok(()));
        assert_eq!(kind(&effect(None), &grants(&[IDENTITY], &[FEED])), Err(HostErrorKind::Unsupported));
        assert_eq!(kind(&feed, &grants(&[REMOTE_STORE, IDENTITY], &[FEED])), Ok(()));
        assert_eq!(kind(&feed, &grants(&[REMOTE_STORE, IDENTITY], &["sign"])), Err(HostErrorKind::Denied));
        assert_eq!(kind(&feed, &grants(&[REMOTE_STORE], &[FEED])), Err(HostErrorKind::Unsupported));
        let checked = |effect: UploadEffect| effect.check("k", &Grants::default()).map_err(|error| error.kind);
        assert_eq!(checked(feed), Ok(()));
        assert_eq!(checked(effect(Some(vec![9; 31]))), Err(HostErrorKind::InvalidInput));
        let large = UploadEffect { data: vec![0; CONTENT_BYTES_MAX + 1], topic: None };
        assert_eq!(checked(large), Err(HostErrorKind::InvalidInput));
    }
}
