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
