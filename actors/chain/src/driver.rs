//! The task that carries out what the core decides: runs its reads, sends its answers, listens for heads.

use std::{sync::Arc, time::Duration};

use nexum_host_ifaces::{
    Hash,
    clock::Clock,
    event::{SourceId, SourceReply, Subscriber},
    interfaces::chain::port::{ChainPull, ChainStatus, ChainWait},
    port::{Port, PortError},
    store::StoreMsg,
};
use ractor::RpcReplyPort;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use crate::{
    backend::{DynBackend, Ranged, Seen},
    backfill::Segment,
    history::History,
    metrics::ChainMetrics,
    tracker::{Effect, Failure, Job, ReadResult, Tracker},
};

/// Messages handled before the effects of all of them are carried out.
const BURST_MESSAGES: usize = 256;
/// Heads waiting to be taken in; a backend waits when it is full.
pub const HEADS_MAX: usize = 64;

/// How soon answers are tried again that the store's absence held up.
const HELD_RETRY: Duration = Duration::from_millis(50);

/// A read whose repetition waited this long has failed about five times.
const RETRY_LOUD: Duration = Duration::from_secs(2);
/// How often it is looked at what is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// A wait of this long is told in the log, once.
const WAIT_LOUD_NS: u64 = 15_000_000_000;
/// Heads whose pace says how long none may come.
const PACE_HEADS_MIN: u32 = 32;
/// No head within this many times the mean is worth telling, and never within this.
const QUIET_PACES: u64 = 50;
const QUIET_NS_MIN: u64 = 60_000_000_000;

/// What the actor leaves to its driver, of its messages. Requests it answers itself.
pub enum ForDriver {
    Pull(ChainPull),
    /// Drop whatever this module waits for.
    Forget {
        module: Arc<str>,
    },
    /// Must reply.
    Followed {
        numbers: Vec<u64>,
        reply: RpcReplyPort<Vec<Option<Hash>>>,
    },
    /// Must reply.
    Status(RpcReplyPort<ChainStatus>),
}

struct Ended {
    job: Job,
    /// How long it had to wait for its turn after earlier failures.
    waited: Duration,
    result: Result<ReadResult, Failure>,
}

/// Hands headers to the store.
pub struct Keeper {
    pub chain_id: u64,
    pub history: History,
    pub store: Option<Port<StoreMsg>>,
}

impl Keeper {
    /// Hands over what is new. Units of the blocks that are answered afterwards are behind it in the store's queue.
    fn keep(&self) -> Result<(), PortError> {
        // A chain that begins anew with each run.
        let Some(store) = &self.store else { return Ok(()) };
        let chain_id = self.chain_id;
        let put = |headers, dropped| StoreMsg::PutHeaders { chain_id, anew: false, headers, dropped };
        self.history.hand_over(|headers, dropped| store.cast(put(headers, dropped)))
    }
}

/// An answer that waits for the store.
struct Held {
    subscription: usize,
    to: Subscriber,
    reply: SourceReply,
}

pub struct Driver {
    chain_id: u64,
    name: String,
    tracker: Tracker,
    keeper: Keeper,
    held: Vec<Held>,
    backend: DynBackend,
    metrics: ChainMetrics,
    /// Return addresses by subscription, with the token of the pull that they belong to.
    subscribers: Vec<Option<(u64, SourceId, Subscriber)>>,
    jobs: JoinSet<Ended>,
    clock: Arc<dyn Clock>,
    /// The newest block that the backend was told of.
    told: Option<((u64, Hash), Option<u64>)>,
    blooms_are_distrusted: bool,
    pace: Pace,
    /// Whether the longest wait has been told in the log.
    loud: bool,
}

/// How often heads come.
#[derive(Debug, Default)]
struct Pace {
    heads: u32,
    mean_ns: u64,
    last_ns: u64,
}

impl Pace {
    fn seen(&mut self, number_of_blocks: u64, now_ns: u64) {
        if self.heads > 0 {
            let each_ns = now_ns.saturating_sub(self.last_ns) / number_of_blocks.max(1);
            let weight = u64::from(self.heads.min(PACE_HEADS_MIN));
            self.mean_ns = (self.mean_ns * (weight - 1) + each_ns) / weight;
        }
        (self.heads, self.last_ns) = (self.heads.saturating_add(1), now_ns);
    }

    /// For how long no head has come, when that is longer than the pace of the chain explains.
    fn quiet_ns(&self, now_ns: u64) -> Option<u64> {
        let quiet_ns = now_ns.saturating_sub(self.last_ns);
        let borne_ns = self.mean_ns.saturating_mul(QUIET_PACES).max(QUIET_NS_MIN);
        (self.heads >= PACE_HEADS_MIN && quiet_ns > borne_ns).then_some(quiet_ns)
    }
}

impl Driver {
    pub fn new(
        chain_id: u64,
        name: String,
        tracker: Tracker,
        keeper: Keeper,
        backend: DynBackend,
        metrics: ChainMetrics,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            chain_id,
            name,
            tracker,
            keeper,
            held: Vec::new(),
            backend,
            metrics,
            subscribers: Vec::new(),
            jobs: JoinSet::new(),
            clock,
            told: None,
            blooms_are_distrusted: false,
            pace: Pace::default(),
            loud: false,
        }
    }

    /// Runs until the actor drops its end.
    pub async fn run(mut self, mut messages: mpsc::Receiver<ForDriver>) {
        let (heads_out, mut heads) = mpsc::channel(HEADS_MAX);
        let backend = self.backend.clone();
        let mut follower = JoinSet::new();
        follower.spawn(async move { backend.follow(heads_out).await });
        let mut burst = Vec::with_capacity(BURST_MESSAGES);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let heard = self.backend.clone();
        self.tracker.at(self.clock.monotonic_ns());
        loop {
            tokio::select! {
                biased;
                Some(seen) = heads.recv() => self.seen(seen),
                Some(ended) = self.jobs.join_next() => match ended {
                    Ok(ended) => self.finished(ended),
                    Err(error) => propagate(error),
                },
                Some(ended) = follower.join_next() => followed(ended),
                () = tokio::time::sleep(HELD_RETRY), if !self.held.is_empty() => {}
                () = heard.heard() => {}
                _ = looks.tick() => self.look(),
                count = messages.recv_many(&mut burst, BURST_MESSAGES) => {
                    if count == 0 {
                        return;
                    }
                    for message in burst.drain(..) {
                        self.take(message);
                    }
                }
            }
            self.carry_out();
        }
    }

    /// Looks at what is waited for, and says so when it takes long.
    fn look(&mut self) {
        self.tracker.at(self.clock.monotonic_ns());
        if self.tracker.is_unconfirmed() {
            self.backend.want_vouched(true);
        }
        let waits = self.waits();
        let oldest = waits.0.first();
        let age_ms = oldest.map_or(0, |wait| wait.age_ms);
        let labels = [&*self.chain_id.to_string()];
        self.metrics.wait_seconds.with_label_values(&labels).set(i64::try_from(age_ms / 1_000).unwrap_or(i64::MAX));
        self.metrics.waits.with_label_values(&labels).set(i64::try_from(waits.0.len() + waits.1).unwrap_or(i64::MAX));
        match oldest.filter(|wait| wait.age_ms > WAIT_LOUD_NS / 1_000_000) {
            Some(wait) if !self.loud => {
                let module = wait.module.as_deref().unwrap_or("all");
                tracing::warn!(chain_id = self.chain_id, module, waits_for = %wait.reason, "the chain does not go on");
                self.loud = true;
            }
            None if self.loud => {
                tracing::info!(chain_id = self.chain_id, "the chain goes on");
                self.loud = false;
            }
            _ => {}
        }
    }

    /// What is waited for, the oldest first, and how many others wait besides.
    fn waits(&self) -> (Vec<ChainWait>, usize) {
        let (waits, more) = self.tracker.waits();
        let now_ns = self.clock.monotonic_ns();
        let quiet = self.pace.quiet_ns(now_ns).map(|quiet_ns| ChainWait {
            module: None,
            reason: format!(
                "a new block; they came every {:?} before",
                Duration::from_millis(self.pace.mean_ns / 1_000_000)
            ),
            age_ms: quiet_ns / 1_000_000,
        });
        let told = waits.into_iter().map(|wait| ChainWait {
            module: wait.module.map(|module| module.to_string()),
            reason: wait.reason,
            age_ms: wait.age_ns / 1_000_000,
        });
        let of_backend = self.backend.held_back().into_iter().chain(self.backend.turns());
        let of_backend = of_backend.map(|(reason, since_ns)| ChainWait {
            module: None,
            reason,
            age_ms: now_ns.saturating_sub(since_ns) / 1_000_000,
        });
        let mut waits: Vec<ChainWait> = quiet.into_iter().chain(of_backend).chain(told).collect();
        waits.sort_by_key(|wait| std::cmp::Reverse(wait.age_ms));
        (waits, more)
    }

    fn seen(&mut self, seen: Seen) {
        let now_ns = self.clock.monotonic_ns();
        self.tracker.at(now_ns);
        let risen = self.tracker.head().map_or(1, |(head, _)| seen.header.number.saturating_sub(head));
        if risen > 0 {
            self.pace.seen(risen, now_ns);
        }
        tracing::trace!(chain_id = self.chain_id, number = seen.header.number, hash = %seen.header.hash, "head");
        self.tracker.head_seen(seen.header, seen.seen_ns);
    }

    fn blocks_behind(&self) -> u64 {
        let head = self.tracker.head().map_or(0, |(number, _)| number);
        self.backend.best_head().map_or(0, |best| best.saturating_sub(head))
    }

    fn finished(&mut self, ended: Ended) {
        self.tracker.at(self.clock.monotonic_ns());
        let Ended { job, waited, result } = ended;
        match &result {
            // It was tried many times by now: somebody should know why nothing comes.
            Err(error) if waited >= RETRY_LOUD => {
                tracing::warn!(chain_id = self.chain_id, %error, what = %job, "a read of the chain fails again and again");
            }
            Err(error) => tracing::debug!(chain_id = self.chain_id, %error, what = %job, "a read of the chain failed"),
            Ok(_) => {}
        }
        self.tracker.finished(job, result);
    }

    fn take(&mut self, message: ForDriver) {
        match message {
            ForDriver::Pull(pull) => {
                let subscription = self.tracker.pull(
                    pull.module,
                    pull.source.clone(),
                    pull.token,
                    pull.after.as_ref(),
                    &pull.interest,
                    pull.size,
                );
                self.held.retain(|held| held.subscription != subscription);
                if self.subscribers.len() <= subscription {
                    self.subscribers.resize_with(subscription + 1, || None);
                }
                self.subscribers[subscription] = Some((pull.token, pull.source, pull.to));
            }
            ForDriver::Forget { module } => {
                for subscription in self.tracker.forget(&module) {
                    self.held.retain(|held| held.subscription != subscription);
                    if let Some(subscriber) = self.subscribers.get_mut(subscription) {
                        *subscriber = None;
                    }
                }
            }
            ForDriver::Followed { numbers, reply } => {
                let hashes = numbers.iter().map(|number| self.tracker.followed(*number)).collect();
                // The caller may have given up.
                let _ = reply.send(hashes);
            }
            ForDriver::Status(reply) => {
                let endpoints = self.backend.endpoints();
                self.tracker.at(self.clock.monotonic_ns());
                let (waits, more_waits) = self.waits();
                let (safe, finalized) = self.tracker.tagged();
                // The caller may have given up; then nobody misses the answer.
                let _ = reply.send(ChainStatus {
                    chain_id: self.chain_id,
                    name: self.name.clone(),
                    connected: endpoints.iter().any(|endpoint| endpoint.healthy),
                    head: self.tracker.head(),
                    safe,
                    finalized,
                    blocks_behind: self.blocks_behind(),
                    endpoints,
                    waiting_modules: self.tracker.waiting(),
                    reorgs: self.tracker.reorgs(),
                    learnt: self.backend.learnt(),
                    waits,
                    more_waits,
                });
            }
        }
    }

    fn carry_out(&mut self) {
        // Also when older blocks came to be known.
        let told = self.tracker.head().map(|head| (head, self.tracker.base()));
        if let Some(((number, _), _)) = told.filter(|told| self.told != Some(*told)) {
            self.told = told;
            self.backend.read_up_to(number, &|number| self.tracker.header_at(number));
        }
        self.tracker.bound(self.backend.bounds());
        if !self.blooms_are_distrusted && self.backend.distrusts_blooms() {
            self.blooms_are_distrusted = true;
            self.tracker.distrust_blooms();
        }
        if self.tracker.wants_vouched() {
            self.backend.want_vouched(false);
        }
        for effect in self.tracker.effects() {
            match effect {
                Effect::Answer { subscription, token, answer } => {
                    // A pull that was replaced needs no answer, and must not take the address of the one after it.
                    let subscriber = self.subscribers.get_mut(subscription);
                    let subscriber = subscriber.and_then(|subscriber| subscriber.take_if(|(of, ..)| *of == token));
                    if let Some((_, source, to)) = subscriber {
                        self.held.push(Held { subscription, to, reply: SourceReply { source, token, answer } });
                    }
                }
                Effect::Start { job, after } => {
                    let backend = self.backend.clone();
                    self.jobs.spawn(async move {
                        if !after.is_zero() {
                            tokio::select! {
                                () = tokio::time::sleep(after) => {}
                                () = backend.returned() => {}
                            }
                        }
                        let result = carry_out(&backend, &job).await;
                        Ended { job, waited: after, result }
                    });
                }
                Effect::Reorged { depth, ancestor } => {
                    self.metrics.reorgs.with_label_values(&[&self.chain_id.to_string()]).inc();
                    tracing::warn!(chain_id = self.chain_id, depth, ancestor, "the chain was reorganized");
                }
            }
        }
        self.answer();
    }

    /// Sends what was decided, once the store has the headers that it depends on. Without them a module whose block is
    /// retracted while the engine is down could not be led back.
    fn answer(&mut self) {
        if let Err(error) = self.keeper.keep() {
            tracing::debug!(chain_id = self.chain_id, %error, answers = self.held.len(), "headers wait for the store");
            return;
        }
        for Held { to, reply, .. } in self.held.drain(..) {
            // A module that is gone needs no answer.
            let _ = to.send_message(reply);
        }
    }
}

/// Nobody tells heads any more. A backend never gives that up: without them the chain would stand still and look quiet.
fn followed(ended: Result<(), JoinError>) {
    match ended {
        Ok(()) => unreachable!("the backend has stopped to follow its chain"),
        Err(error) => propagate(error),
    }
}

/// A bug in a task is a bug of the actor: it dies and is supervised. A task that is cut short goes with the engine.
fn propagate(error: JoinError) {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn carry_out(backend: &DynBackend, job: &Job) -> Result<ReadResult, Failure> {
    match job {
        Job::Headers { from, to, .. } => {
            let numbers: Vec<u64> = (*from..=*to).collect();
            backend.headers(&numbers).await.map(ReadResult::Headers)
        }
        Job::Segment { segment: Segment::Headers { from, to }, .. } => {
            let numbers: Vec<u64> = (*from..=*to).collect();
            backend.history(&numbers).await.map(ReadResult::Headers)
        }
        Job::Segment { segment: Segment::Check { numbers }, .. } => {
            backend.history(numbers).await.map(ReadResult::Headers)
        }
        Job::Header { hash, .. } => backend.header(*hash).await.map(ReadResult::Header),
        Job::Tag(tag) => backend.tagged(*tag).await.map(ReadResult::Header),
        Job::Logs { headers, union, .. } => backend.block_logs(headers, union).await.map(ReadResult::Logs),
        Job::Survey { known } => Ok(ReadResult::Survey(backend.survey(known).await)),
        Job::Cursor { at, .. } => Ok(ReadResult::Survey(backend.survey(&[*at]).await)),
        Job::Segment { segment: Segment::Logs { from, to, union, known, .. }, .. } => {
            if !union.is_empty() {
                return backend.range_logs(*from, *to, union, known).await.map(ReadResult::Segment);
            }
            let headers = backend.history(std::slice::from_ref(to)).await?;
            let end = headers.first().ok_or_else(|| Failure::Failed(format!("no header {to}")))?;
            Ok(ReadResult::Segment(Ranged { logs: vec![], to: *to, end_hash: end.hash }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "stopped to follow")]
    async fn a_backend_that_gives_up_following_ends_the_actor() {
        let mut follower = JoinSet::new();
        follower.spawn(async {});
        followed(follower.join_next().await.unwrap());
    }

    #[tokio::test]
    async fn a_task_that_goes_with_the_engine_is_no_bug() {
        let mut follower = JoinSet::new();
        follower.spawn(std::future::pending());
        follower.abort_all();
        followed(follower.join_next().await.unwrap());
    }
}
