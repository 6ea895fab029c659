//! What is answered at once: messages are published, and stored ones are looked up.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    clock::Clock,
    failing::Failing,
    interfaces::{
        chain::port::ChainWait,
        messaging::port::{Publish, Query},
    },
    sync::lock,
    types::Message,
};
use tokio::time::timeout;

use crate::{
    metrics::MessagingMetrics,
    nodes::{Nodes, Wanted, is_silent},
    wire::{error, is_duplicate, outgoing},
};

const NS_PER_MS: u64 = 1_000_000;
/// How far back an attempt is looked for whose answer was lost.
const LOOK_BACK_MS: u64 = 3_600_000;
/// Pages that are looked through for it, newest first.
const LOOK_BACK_PAGES: usize = 5;
/// So long an effect that is tried again keeps its time, so that it is the same message to the network: it may be on its way to
/// the store. Nodes take no times that are more than 20 seconds off.
const SAME_TIME_NS: u64 = 10_000 * NS_PER_MS;
/// Effects whose times are remembered: many more than are published within that time.
const TIMES_MAX: usize = 1_024;

/// What is answered for a node that has the message of an earlier attempt.
const ARRIVED: &[u8] = b"an earlier attempt had arrived";

pub struct Service {
    nodes: Arc<Nodes>,
    clock: Arc<dyn Clock>,
    metrics: MessagingMetrics,
    /// The times that effects were published with, the newest last.
    times: Mutex<VecDeque<(Hash, u64)>>,
    /// Why nothing can be published.
    failing: Mutex<Option<Failing>>,
}

impl Service {
    pub fn new(nodes: Arc<Nodes>, clock: Arc<dyn Clock>, metrics: MessagingMetrics) -> Self {
        Self { nodes, clock, metrics, times: Mutex::default(), failing: Mutex::default() }
    }

    /// The time that a message is published with.
    fn time_ns(&self, effect: Option<Hash>) -> u64 {
        let now_ns = self.clock.now_ms().saturating_mul(NS_PER_MS);
        let Some(effect) = effect else { return now_ns };
        let mut times = lock(&self.times);
        times.retain(|(_, time_ns)| now_ns.saturating_sub(*time_ns) < SAME_TIME_NS);
        if let Some((_, time_ns)) = times.iter().find(|(known, _)| *known == effect) {
            return *time_ns;
        }
        if times.len() == TIMES_MAX {
            times.pop_front();
        }
        times.push_back((effect, now_ns));
        now_ns
    }

    pub async fn publish(&self, publish: &Publish) -> Result<Vec<u8>, HostError> {
        let done = within(publish.deadline, "publish", self.publish_now(publish)).await;
        let mut failing = lock(&self.failing);
        match &done {
            Ok(_) => *failing = None,
            Err(failed) if passes(failed.kind) => {
                let earlier = failing.take();
                *failing = Some(Failing::again(earlier, self.clock.monotonic_ns(), failed.message.clone()));
            }
            // It is about this message, and says nothing of others.
            Err(_) => {}
        }
        drop(failing);
        done
    }

    /// What those wait for who publish.
    pub fn wait(&self, now_ns: u64) -> Option<ChainWait> {
        let failing = lock(&self.failing);
        failing.as_ref()?.wait(None, "a node that takes messages", now_ns)
    }

    async fn publish_now(&self, publish: &Publish) -> Result<Vec<u8>, HostError> {
        let Publish { topic, payload, effect, again, .. } = publish;
        if let Some(effect) = effect.filter(|_| *again)
            && self.is_stored(topic, &effect).await?
        {
            return Ok(ARRIVED.to_vec());
        }
        let time_ns = self.time_ns(*effect);
        let message = outgoing(topic, payload, effect.as_ref(), time_ns);
        let said = match self.nodes.publish(message).await {
            Err(failed) if effect.is_some() && is_duplicate(&failed) => return Ok(ARRIVED.to_vec()),
            answer => answer?,
        };
        self.metrics.published.inc();
        Ok(said)
    }

    /// Whether a store has the message of an effect. A node that has no store cannot know, and it is sent again.
    ///
    /// # Errors
    /// A node that may know does not answer now, so that nothing should be sent either.
    async fn is_stored(&self, topic: &Arc<str>, effect: &Hash) -> Result<bool, HostError> {
        let start_ns = self.clock.now_ms().saturating_sub(LOOK_BACK_MS).saturating_mul(NS_PER_MS);
        let mut wanted = Wanted {
            topic: Some(topic.clone()),
            start_ns: Some(start_ns),
            newest_first: true,
            count: usize::MAX,
            ..Wanted::default()
        };
        let mut on = None;
        for _ in 0..LOOK_BACK_PAGES {
            let (node, page) = match self.nodes.page(on, wanted.clone()).await {
                Ok(found) => found,
                Err(failed) if is_silent(&failed) => return Err(failed),
                Err(_) => return Ok(false),
            };
            if page.messages.iter().any(|stored| stored.meta == effect.0) {
                return Ok(true);
            }
            let Some(next) = page.next.filter(|_| !page.messages.is_empty()) else { return Ok(false) };
            (on, wanted.after) = (Some(node), Some(next));
        }
        Ok(false)
    }

    pub async fn query(&self, query: &Query) -> Result<Vec<Message>, HostError> {
        within(query.deadline, "query", self.query_now(query)).await
    }

    async fn query_now(&self, query: &Query) -> Result<Vec<Message>, HostError> {
        let most = query.messages_max as usize;
        let (mut found, mut bytes, mut on, mut after) = (Vec::new(), 0, None, None);
        let mut seen = HashSet::new();
        while found.len() < most {
            let wanted = Wanted {
                topic: Some(query.topic.clone()),
                start_ns: query.start_ns,
                end_ns: query.end_ns,
                newest_first: false,
                count: most - found.len(),
                after: after.take(),
            };
            let (node, page) = self.nodes.page(on, wanted).await?;
            let (is_empty, seen_before) = (page.messages.is_empty(), seen.len());
            for stored in page.messages {
                // A store may give one twice.
                if found.len() == most || !seen.insert(stored.hash) {
                    continue;
                }
                bytes += stored.message.content_topic.len() + stored.message.payload.len();
                if bytes > query.bytes_max {
                    let message = format!("the messages are larger than the limit of {} bytes", query.bytes_max);
                    return Err(error(HostErrorKind::InvalidInput, message));
                }
                found.push(stored.message);
            }
            match page.next.filter(|_| !is_empty) {
                // Some begin anew when the message that their cursor names is gone.
                Some(_) if seen.len() == seen_before => {
                    let message = "the answer of a store: a page has nothing that was not in those before it";
                    return Err(error(HostErrorKind::Unavailable, message));
                }
                Some(next) => (on, after) = (Some(node), Some(next)),
                None => break,
            }
        }
        Ok(found)
    }
}

/// Whether it is up to the nodes.
fn passes(kind: HostErrorKind) -> bool {
    matches!(kind, HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::RateLimited)
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    work: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    let late = |_| Err(error(HostErrorKind::Timeout, format!("{what}: no Waku node answered in time")));
    timeout(deadline, work).await.unwrap_or_else(late)
}
