//! What a guest calls of `messaging`: messages that go out at once, and those that a node has stored.

use crate::{
    HostError,
    bindings::nexum::host::messaging,
    call::Call,
    interfaces::messaging::{
        CAPABILITY,
        port::{MessagingMsg, Publish, QUERY_MESSAGES, QUERY_MESSAGES_MAX, Query, check, check_topic, invalid},
    },
    types::Message,
};

const DOMAIN: &str = CAPABILITY.name();
const NS_PER_MS: u64 = 1_000_000;

impl messaging::Host for Call {
    async fn publish(&mut self, content_topic: String, payload: Vec<u8>) -> Result<(), HostError> {
        // Charged first: a call over the limit has brought its arguments, too.
        self.take(content_topic.len() + payload.len());
        self.count(DOMAIN)?;
        check(&content_topic, &payload)?;
        let deadline = self.limits().host_call_deadline;
        let asked = self.ask("messaging.publish", &(&content_topic, &payload));
        let port = self.ports().of::<MessagingMsg>();
        let publish = Publish { topic: content_topic.into(), payload, effect: None, again: false, deadline };
        let live = async {
            let ask = |reply| MessagingMsg::Publish { publish: Box::new(publish), reply };
            port.call(deadline, ask).await.map_err(|error| error.to_host_error(DOMAIN))?.map(drop)
        };
        self.reach(asked, DOMAIN, live).await
    }

    async fn query(
        &mut self,
        content_topic: String,
        start_time: Option<u64>,
        end_time: Option<u64>,
        limit: Option<u32>,
    ) -> Result<Vec<Message>, HostError> {
        self.take(content_topic.len());
        self.count(DOMAIN)?;
        check_topic(&content_topic).map_err(invalid)?;
        let messages_max = limit.unwrap_or(QUERY_MESSAGES);
        if messages_max > QUERY_MESSAGES_MAX {
            return Err(invalid(format!("a limit of {messages_max} messages, at most {QUERY_MESSAGES_MAX}")));
        }
        let (deadline, bytes_max) = (self.limits().host_call_deadline, self.limits().max_reply_bytes);
        let asked = self.ask("messaging.query", &(&content_topic, start_time, end_time, messages_max));
        let port = self.ports().of::<MessagingMsg>();
        let query = Query {
            topic: content_topic.into(),
            start_ns: start_time.map(|ms| ms.saturating_mul(NS_PER_MS)),
            // The whole of that millisecond.
            end_ns: end_time.map(|ms| ms.saturating_mul(NS_PER_MS).saturating_add(NS_PER_MS - 1)),
            messages_max,
            bytes_max,
            deadline,
        };
        let live = async {
            let ask = |reply| MessagingMsg::Query { query: Box::new(query), reply };
            port.call(deadline, ask).await.map_err(|error| error.to_host_error(DOMAIN))?
        };
        let messages = self.reach(asked, DOMAIN, live).await?;
        let carried: usize = messages.iter().map(|message| message.content_topic.len() + message.payload.len()).sum();
        self.give(size_of_val(messages.as_slice()) + carried);
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{
        Hash, HostErrorKind,
        clock::SystemClock,
        commit_queue::CommitQueue,
        grants::{AskedCapabilities, Grants},
        host::{HostArgs, HostState},
        limits::Limits,
        ports::Ports,
        recording::TapeMode,
        state::ModuleId,
        store::ModuleRecord,
        unit::drafts::Quota,
    };

    const TOPIC: &str = "/app/1/x/proto";

    /// Takes what is published, and answers a query with one message that says what was asked.
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
            match message {
                MessagingMsg::Publish { publish, reply } => {
                    assert_eq!((&*publish.topic, publish.effect, publish.again), (TOPIC, None, false));
                    let full = HostError::new(DOMAIN, HostErrorKind::RateLimited, "the node's limit");
                    reply.send(if publish.payload == b"one too many" { Err(full) } else { Ok(b"OK".to_vec()) })?;
                }
                MessagingMsg::Query { query, reply } => {
                    let told = format!("{:?} {:?} {}", query.start_ns, query.end_ns, query.messages_max);
                    let message = Message {
                        content_topic: query.topic.to_string(),
                        payload: told.into_bytes(),
                        timestamp: 7,
                        sender: None,
                    };
                    reply.send(Ok(vec![message]))?;
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        }
    }

    fn module(ports: &Arc<Ports>) -> HostState {
        let asked = AskedCapabilities { required: &[CAPABILITY], optional: &[] };
        let grants = Grants::decide(asked, &BTreeSet::from([CAPABILITY]), &BTreeSet::new()).unwrap();
        let args = HostArgs {
            module: "m".into(),
            id: ModuleId(1),
            component: Hash::default(),
            limits: Arc::new(Limits::default()),
            clock: Arc::new(SystemClock::new()),
            commits: Arc::new(CommitQueue::new(ports.store())),
            ports: ports.clone(),
            grants: Arc::new(grants),
            taping: TapeMode::Off,
            quota: Quota::new(100),
        };
        HostState::new(&args, ModuleRecord::default())
    }

    #[tokio::test]
    async fn a_call_publishes_and_asks_within_bounds() {
        let (actor, _) = Actor::spawn(None, Network, ()).await.unwrap();
        let ports = Ports::unbound([]);
        ports.of::<MessagingMsg>().bind(actor.clone());
        let mut host = module(&ports);
        let publish = async |host: &mut HostState, topic: &str, payload: &[u8]| {
            let published = messaging::Host::publish(host.call(), topic.to_owned(), payload.to_vec()).await;
            published.map_err(|error| error.kind)
        };
        assert_eq!(publish(&mut host, TOPIC, b"hello").await, Ok(()));
        assert_eq!(publish(&mut host, TOPIC, b"one too many").await, Err(HostErrorKind::RateLimited));
        assert_eq!(publish(&mut host, TOPIC, b"").await, Err(HostErrorKind::InvalidInput));
        assert_eq!(publish(&mut host, "/app/1/x", b"hello").await, Err(HostErrorKind::InvalidInput));

        let query = async |host: &mut HostState, limit| {
            let found = messaging::Host::query(host.call(), TOPIC.to_owned(), Some(1), Some(2), limit).await;
            found.map_err(|error| error.message)
        };
        let found = query(&mut host, None).await.unwrap();
        assert_eq!(found[0].payload, b"Some(1000000) Some(2999999) 100");
        assert_eq!(query(&mut host, Some(1_001)).await.unwrap_err(), "a limit of 1001 messages, at most 1000");
        actor.kill();
        ports.of::<MessagingMsg>().unbind();
        assert_eq!(query(&mut host, Some(1)).await.unwrap_err(), "messaging is not running");
    }
}
