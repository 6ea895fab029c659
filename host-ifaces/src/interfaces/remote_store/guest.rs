//! What a guest calls of `remote-store`: charged, counted, recorded, and then asked of the actor.

use std::time::Duration;

use ractor::RpcReplyPort;
use serde::{Serialize, Serializer, de::DeserializeOwned};

use crate::{
    HostError,
    bindings::nexum::host::remote_store,
    call::Call,
    interfaces::{
        identity::grant::FEED,
        remote_store::port::{DOMAIN, RemoteStoreMsg, check_content, check_reference, owner, topic},
    },
};

/// The actor keeps the deadline; the call waits longer only for its word.
const GRACE: Duration = Duration::from_secs(1);

impl remote_store::Host for Call {
    async fn upload(&mut self, data: Vec<u8>) -> Result<Vec<u8>, HostError> {
        // Charged first: a call over the limit has brought its arguments, too.
        self.take(data.len());
        self.count(DOMAIN)?;
        check_content(data.len())?;
        let (module, deadline) = (self.module().clone(), self.limits().host_call_deadline);
        let request = Content(data);
        let reference = store(self, "remote-store.upload", request, move |reply, Content(data)| {
            RemoteStoreMsg::Upload { module, data, deadline, reply }
        });
        let reference: Vec<u8> = reference.await?;
        self.give(reference.len());
        Ok(reference)
    }

    async fn download(&mut self, reference: Vec<u8>) -> Result<Vec<u8>, HostError> {
        self.take(reference.len());
        self.count(DOMAIN)?;
        check_reference(&reference)?;
        let (module, deadline) = (self.module().clone(), self.limits().host_call_deadline);
        let bytes_max = self.limits().max_reply_bytes;
        let request = Content(reference);
        let data = store(self, "remote-store.download", request, move |reply, Content(reference)| {
            RemoteStoreMsg::Download { module, reference, bytes_max, deadline, reply }
        });
        let data: Vec<u8> = data.await?;
        self.give(data.len());
        Ok(data)
    }

    async fn read_feed(&mut self, owner: Vec<u8>, topic: Vec<u8>) -> Result<Option<Vec<u8>>, HostError> {
        self.take(owner.len() + topic.len());
        self.count(DOMAIN)?;
        let feed = (self::owner(&owner)?, self::topic(&topic)?);
        let (module, deadline) = (self.module().clone(), self.limits().host_call_deadline);
        let bytes_max = self.limits().max_reply_bytes;
        let data = store(self, "remote-store.read-feed", feed, move |reply, (owner, topic)| RemoteStoreMsg::ReadFeed {
            module,
            owner,
            topic,
            bytes_max,
            deadline,
            reply,
        });
        let data: Option<Vec<u8>> = data.await?;
        self.give(data.as_ref().map_or(0, Vec::len));
        Ok(data)
    }

    async fn write_feed(&mut self, topic: Vec<u8>, data: Vec<u8>) -> Result<Vec<u8>, HostError> {
        self.take(topic.len() + data.len());
        self.count(DOMAIN)?;
        self.grants().may_sign(FEED)?;
        check_content(data.len())?;
        let update = (self::topic(&topic)?, Content(data));
        let (module, deadline) = (self.module().clone(), self.limits().host_call_deadline);
        let address = store(self, "remote-store.write-feed", update, move |reply, (topic, Content(data))| {
            RemoteStoreMsg::WriteFeed { module, topic, data, again: false, deadline, reply }
        });
        let address: Vec<u8> = address.await?;
        self.give(address.len());
        Ok(address)
    }
}

/// Bytes that are recorded as such, and not one by one.
struct Content(Vec<u8>);

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// Asks the actor, or a recording of it.
async fn store<Q, T>(
    call: &mut Call,
    name: &'static str,
    request: Q,
    message: impl FnOnce(RpcReplyPort<Result<T, HostError>>, Q) -> RemoteStoreMsg + Send,
) -> Result<T, HostError>
where
    Q: Serialize + Send,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let asked = call.ask(name, &request);
    let port = call.ports().of::<RemoteStoreMsg>();
    let waited = call.limits().host_call_deadline.saturating_add(GRACE);
    let live = async move {
        let answer = port.call(waited, |reply| message(reply, request)).await;
        answer.map_err(|error| error.to_host_error(DOMAIN))?
    };
    call.reach(asked, DOMAIN, live).await
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
        interfaces::{
            identity::grant::{CAPABILITY as IDENTITY, SIGN},
            remote_store::{CAPABILITY, port::CONTENT_BYTES_MAX},
        },
        limits::Limits,
        ports::Ports,
        recording::TapeMode,
        state::ModuleId,
        store::ModuleRecord,
        unit::drafts::Quota,
    };

    /// Answers with what it was asked.
    struct Echo;

    impl Actor for Echo {
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
                RemoteStoreMsg::Upload { data, reply, .. } => reply.send(Ok(data))?,
                RemoteStoreMsg::Download { reference, bytes_max, reply, .. } => {
                    assert_eq!(bytes_max, Limits::default().max_reply_bytes);
                    reply.send(Ok(reference))?;
                }
                RemoteStoreMsg::ReadFeed { owner, topic, reply, .. } => {
                    reply.send(Ok(Some([&owner.0[..], &topic.0].concat())))?;
                }
                RemoteStoreMsg::WriteFeed { topic, data, again, reply, .. } => {
                    assert!(!again, "a call is another update whenever it is made");
                    reply.send(Ok([&topic.0[..], &data].concat()))?;
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        }
    }

    /// A module that may have this signed.
    fn module(ports: &Arc<Ports>, methods: &[&str]) -> HostState {
        let (asked, provided) = ([CAPABILITY, IDENTITY], BTreeSet::from([CAPABILITY, IDENTITY]));
        let asked = AskedCapabilities { required: &asked, optional: &[] };
        let grants = Grants::decide(asked, &provided, &BTreeSet::new()).unwrap();
        let grants = grants.with_signing_methods(methods.iter().map(|method| (*method).to_owned()));
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
    async fn a_call_reaches_the_actor_when_its_arguments_can_be() {
        let (actor, _) = Actor::spawn(None, Echo, ()).await.unwrap();
        let ports = Ports::unbound([]);
        let mut host = module(&ports, &[FEED]);
        let nobody = remote_store::Host::upload(host.call(), vec![1]).await.unwrap_err();
        assert_eq!(nobody.kind, HostErrorKind::Unavailable);
        ports.of::<RemoteStoreMsg>().bind(actor.clone());
        assert_eq!(remote_store::Host::upload(host.call(), vec![1]).await, Ok(vec![1]));
        assert_eq!(remote_store::Host::download(host.call(), vec![2; 64]).await, Ok(vec![2; 64]));
        let read = remote_store::Host::read_feed(host.call(), vec![3; 20], vec![3; 32]).await;
        assert_eq!(read, Ok(Some(vec![3; 52])));
        assert_eq!(remote_store::Host::write_feed(host.call(), vec![4; 32], vec![4; 9]).await, Ok(vec![4; 41]));
        let wrong = |answer: Result<Vec<u8>, HostError>| answer.unwrap_err().kind;
        let large = remote_store::Host::upload(host.call(), vec![0; CONTENT_BYTES_MAX + 1]).await;
        assert_eq!(wrong(large), HostErrorKind::InvalidInput);
        let short = remote_store::Host::download(host.call(), vec![0; 31]).await;
        assert_eq!(wrong(short), HostErrorKind::InvalidInput);
        let short = remote_store::Host::write_feed(host.call(), vec![0; 20], Vec::new()).await;
        assert_eq!(wrong(short), HostErrorKind::InvalidInput);
        assert_eq!(host.call().usage().host_calls, 8);

        // Reading a feed needs no account, and writing one does.
        let mut host = module(&ports, &[SIGN]);
        assert!(remote_store::Host::read_feed(host.call(), vec![3; 20], vec![3; 32]).await.is_ok());
        let denied = remote_store::Host::write_feed(host.call(), vec![4; 32], Vec::new()).await;
        assert_eq!(wrong(denied), HostErrorKind::Denied);
        actor.kill();
    }
}
