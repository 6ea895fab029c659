//! What requests are carried out with, each in a task of its own.
//!
//! Content is read chunk by chunk, and each is checked against its address before anything is made of it: what a node makes of
//! the chunks itself could not be, where they are encrypted, and would have to be thrown away whole where one is a lie.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use nexum_host_ifaces::{
    Address, Hash, HostError, HostErrorKind,
    blocking::Blocking,
    interfaces::{
        identity::port::{FeedUpdate, IdentityMsg},
        remote_store::port::{DOMAIN, error},
    },
    port::Port,
};
use nexum_swarm::{
    Chunk, ChunkAddress, PAYLOAD_BYTES_MAX, Reference,
    feed::{self, Search},
    join::Join,
    node::Failure,
    soc,
    split::root,
};
use tokio::sync::Semaphore;

use crate::{
    actor::Limits,
    cache::Cache,
    client::Client,
    feeds::{Feed, Feeds},
    metrics::RemoteStoreMetrics,
    trouble::{Trouble, unreadable},
};

/// Chunks of one download that are asked for at once. Of all downloads it is less: requests to nodes have a bound.
const CHUNKS_AT_ONCE: usize = 16;
/// A key may lie in a service elsewhere.
const IDENTITY_DEADLINE: Duration = Duration::from_secs(60);

pub struct Service {
    client: Client,
    limits: Limits,
    cache: Cache,
    feeds: Feeds,
    identity: Port<IdentityMsg>,
    blocking: Blocking,
    metrics: RemoteStoreMetrics,
}

/// An update of a feed.
struct Update {
    index: u64,
    content: Chunk,
}

impl Service {
    pub fn new(
        client: Client,
        limits: Limits,
        identity: Port<IdentityMsg>,
        blocking: Blocking,
        metrics: RemoteStoreMetrics,
    ) -> Self {
        let cache = Cache::new(limits.cache_bytes_max);
        Self { client, limits, cache, feeds: Feeds::default(), identity, blocking, metrics }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn cached_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    pub async fn upload(&self, data: Vec<u8>) -> Result<Vec<u8>, HostError> {
        let (data, root) = self.hashed(data).await?;
        self.store(&data, &root.address).await?;
        Ok(root.address.to_vec())
    }

    async fn store(&self, data: &Bytes, address: &ChunkAddress) -> Result<(), HostError> {
        self.client.upload(data, address).await?;
        self.metrics.sent_bytes.inc_by(data.len() as u64);
        Ok(())
    }

    /// Content and its root, if it may be uploaded at all.
    async fn hashed(&self, data: Vec<u8>) -> Result<(Bytes, Chunk), HostError> {
        let (bytes, bytes_max) = (data.len(), self.limits.content_bytes_max);
        if bytes > bytes_max {
            let message = format!("content of {bytes} bytes, at most {bytes_max}: [remote-store] max_content_bytes");
            return Err(error(HostErrorKind::InvalidInput, message).with_data("too-large"));
        }
        if !self.client.can_write() {
            let message = "nothing can be uploaded: no node has a postage batch, which the operator gives as \
                           [[remote-store.nodes]] postage_batch";
            return Err(error(HostErrorKind::Unsupported, message));
        }
        let data = Bytes::from(data);
        let hashed = data.clone();
        let root = self.blocking.run(move || root(&hashed)).await;
        let root = root.map_err(|failed| error(HostErrorKind::Internal, format!("hashing content: {failed}")))?;
        Ok((data, root))
    }

    /// `share` is how many chunks are asked for at once on behalf of whoever wants it.
    pub async fn download(&self, reference: &[u8], bytes_max: usize, share: &Semaphore) -> Result<Vec<u8>, HostError> {
        let Some(reference) = Reference::of_bytes(reference) else {
            return Err(error(HostErrorKind::InvalidInput, "a reference has 32 bytes, or 64"));
        };
        self.join(Join::new(reference, bytes_max.min(self.limits.content_bytes_max)), share).await
    }

    async fn join(&self, mut join: Join, share: &Semaphore) -> Result<Vec<u8>, HostError> {
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < CHUNKS_AT_ONCE
                && let Some(address) = join.ask()
            {
                asked.push(self.chunk(address, share));
            }
            let Some(chunk) = asked.next().await else { break };
            let chunk = chunk?;
            join.take(&chunk).map_err(unreadable)?;
        }
        let Some(data) = join.finish() else { unreachable!("every chunk has come, and some are to come") };
        self.metrics.received_bytes.inc_by(data.len() as u64);
        Ok(data)
    }

    async fn chunk(&self, address: ChunkAddress, share: &Semaphore) -> Result<Arc<Chunk>, HostError> {
        if let Some(chunk) = self.cache.get(&address) {
            self.metrics.chunk(true);
            return Ok(chunk);
        }
        let Ok(_room) = share.acquire().await else { unreachable!("nobody closes the semaphore") };
        let chunk = Arc::new(self.client.chunk(&address, |wire| Chunk::read(wire, &address)).await?);
        self.metrics.chunk(false);
        self.cache.put(&chunk);
        Ok(chunk)
    }

    /// `share` is as with a download.
    pub async fn read_feed(
        &self,
        owner: Address,
        topic: Hash,
        bytes_max: usize,
        share: &Semaphore,
    ) -> Result<Option<Vec<u8>>, HostError> {
        let feed = Feed { owner: owner.0, topic: topic.0 };
        let Some(Update { content, .. }) = self.newest(feed).await? else { return Ok(None) };
        let below = Join::below(&content, bytes_max.min(self.limits.content_bytes_max)).map_err(unreadable)?;
        self.join(below, share).await.map(Some)
    }

    /// The newest update, as far as the nodes have it.
    async fn newest(&self, feed: Feed) -> Result<Option<Update>, HostError> {
        let mut search = Search::from(self.feeds.seen(&feed));
        let mut newest: Option<Update> = None;
        while let Some(index) = search.next() {
            let update = self.update(&feed, index).await?;
            search.answer(index, update.is_some());
            if update.is_some() {
                // What is missing takes a node long to say. A search that is given up for that is not begun anew the next time.
                self.feeds.see(feed, index);
                newest = update;
            }
        }
        match (search.found(), newest) {
            (None, _) => Ok(None),
            (Some(index), Some(update)) if update.index == index => Ok(Some(update)),
            // Seen before, and nothing after it.
            (Some(index), _) => match self.update(&feed, index).await? {
                Some(update) => Ok(Some(update)),
                None => {
                    // It was there, so that it may come back: an effect that is given up here would be lost.
                    let text = format!("update {index} of the feed was there before, and no node has it now");
                    Err(Trouble { failure: Failure::Failed, status: 404, text }.into())
                }
            },
        }
    }

    async fn update(&self, feed: &Feed, index: u64) -> Result<Option<Update>, HostError> {
        let identifier = feed::identifier(&feed.topic, index);
        let address = soc::address(&identifier, &feed.owner);
        match self.client.chunk(&address, |wire| soc::read(wire, &identifier, &feed.owner)).await {
            Ok(content) => Ok(Some(Update { index, content })),
            Err(trouble) if trouble.failure == Failure::NotFound => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    pub async fn write_feed(
        &self,
        module: &Arc<str>,
        topic: Hash,
        data: Vec<u8>,
        again: bool,
    ) -> Result<Vec<u8>, HostError> {
        let (data, content) = self.hashed(data).await?;
        let ask = |reply| IdentityMsg::FeedAccount { module: module.clone(), topic, reply };
        let owner = self.ask_identity(ask).await?;
        let feed = Feed { owner: owner.0, topic: topic.0 };
        // Whoever writes at the same time would take the same number.
        let _turn = self.feeds.turn(feed).await;
        let newest = self.newest(feed).await?;
        let at = |index| soc::address(&feed::identifier(&feed.topic, index), &feed.owner).to_vec();
        if let Some(update) = newest.as_ref().filter(|update| again && update.content.address == content.address) {
            return Ok(at(update.index));
        }
        let index = newest.map_or(0, |update| update.index + 1);
        let update = FeedUpdate { topic, index, content: Hash(content.address) };
        let sign = |reply| IdentityMsg::SignFeed { module: module.clone(), account: owner, update, reply };
        let signature = self.ask_identity(sign).await?;
        if data.len() > PAYLOAD_BYTES_MAX {
            // What the update stands above.
            self.store(&data, &content.address).await?;
        }
        let identifier = feed::identifier(&feed.topic, index);
        self.client.upload_signed(&feed.owner, &identifier, &signature, &content).await?;
        self.feeds.see(feed, index);
        Ok(at(index))
    }

    async fn ask_identity<T: Send + 'static>(
        &self,
        message: impl FnOnce(ractor::RpcReplyPort<Result<T, HostError>>) -> IdentityMsg,
    ) -> Result<T, HostError> {
        let answer = self.identity.call(IDENTITY_DEADLINE, message).await;
        answer.map_err(|error| error.to_host_error(DOMAIN))?
    }
}
