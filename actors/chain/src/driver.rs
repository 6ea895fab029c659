//! The task that carries out what the core decides: runs its reads, sends its answers, listens for heads.

use std::time::Duration;

use nexum_host_ifaces::{
    chain::{ChainMsg, ChainStatus},
    event::{SourceId, SourceReply, Subscriber},
    port::{Port, PortError},
    store::StoreMsg,
};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use crate::{
    backend::{DynBackend, SETTLED_DEPTH, Seen},
    backfill::Segment,
    history::History,
    metrics::ChainMetrics,
    tracker::{Effect, Failure, Found, Job, Tracker},
};

/// Messages handled before the effects of all of them are carried out.
const BURST_MESSAGES: usize = 256;
/// Heads waiting to be taken in; a backend waits when it is full.
pub const HEADS_MAX: usize = 64;

/// How soon answers are tried again that the store's absence held up.
const HELD_RETRY: Duration = Duration::from_millis(50);

/// A read whose repetition waited this long has failed about five times.
const RETRY_LOUD: Duration = Duration::from_secs(2);

struct Ended {
    job: Job,
    /// How long it had to wait for its turn after earlier failures.
    waited: Duration,
    result: Result<Found, Failure>,
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
        let Some(store) = &self.store else { return Ok(()) };
        let chain_id = self.chain_id;
        let put = |headers, dropped| StoreMsg::PutHeaders { chain_id, anew: false, headers, dropped };
        self.history.hand_over(|headers, dropped| store.cast(put(headers, dropped)))
    }
}

/// An answer that waits for the store.
struct Held {
    seat: usize,
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
    /// Return addresses by seat, with the token of the pull that they belong to.
    subscribers: Vec<Option<(u64, SourceId, Subscriber)>>,
    jobs: JoinSet<Ended>,
}

impl Driver {
    pub fn new(
        chain_id: u64,
        name: String,
        tracker: Tracker,
        keeper: Keeper,
        backend: DynBackend,
        metrics: ChainMetrics,
    ) -> Self {
        let (subscribers, jobs, held) = (Vec::new(), JoinSet::new(), Vec::new());
        Self { chain_id, name, tracker, keeper, held, backend, metrics, subscribers, jobs }
    }

    /// Runs until the actor drops its end.
    pub async fn run(mut self, mut messages: mpsc::Receiver<ChainMsg>) {
        let (heads_out, mut heads) = mpsc::channel(HEADS_MAX);
        let backend = self.backend.clone();
        let mut follower = JoinSet::new();
        follower.spawn(async move { backend.follow(heads_out).await });
        let mut burst = Vec::with_capacity(BURST_MESSAGES);
        loop {
            tokio::select! {
                biased;
                Some(seen) = heads.recv() => self.seen(seen),
                Some(ended) = self.jobs.join_next() => match ended {
                    Ok(ended) => self.finished(ended),
                    Err(error) => propagate(error),
                },
                Some(ended) = follower.join_next() => if let Err(error) = ended {
                    propagate(error);
                },
                () = tokio::time::sleep(HELD_RETRY), if !self.held.is_empty() => {}
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

    fn seen(&mut self, seen: Seen) {
        tracing::trace!(chain_id = self.chain_id, number = seen.header.number, hash = %seen.header.hash, "head");
        self.tracker.head_seen(seen.header, seen.seen_ns);
    }

    fn blocks_behind(&self) -> u64 {
        let head = self.tracker.head().map_or(0, |(number, _)| number);
        self.backend.best_head().map_or(0, |best| best.saturating_sub(head))
    }

    fn finished(&mut self, ended: Ended) {
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

    fn take(&mut self, message: ChainMsg) {
        match message {
            ChainMsg::Pull(pull) => {
                let seat = self.tracker.pull(
                    pull.module,
                    pull.source.clone(),
                    pull.token,
                    pull.after.as_ref(),
                    &pull.interest,
                    pull.size,
                );
                self.held.retain(|held| held.seat != seat);
                if self.subscribers.len() <= seat {
                    self.subscribers.resize_with(seat + 1, || None);
                }
                self.subscribers[seat] = Some((pull.token, pull.source, pull.to));
            }
            ChainMsg::Forget { module } => {
                for seat in self.tracker.forget(&module) {
                    self.held.retain(|held| held.seat != seat);
                    if let Some(subscriber) = self.subscribers.get_mut(seat) {
                        *subscriber = None;
                    }
                }
            }
            ChainMsg::Status(reply) => {
                let endpoints = self.backend.endpoints();
                // The caller may have given up; then nobody misses the answer.
                let _ = reply.send(ChainStatus {
                    chain_id: self.chain_id,
                    name: self.name.clone(),
                    connected: endpoints.iter().any(|endpoint| endpoint.healthy),
                    head: self.tracker.head(),
                    blocks_behind: self.blocks_behind(),
                    endpoints,
                    waiting_modules: self.tracker.waiting(),
                    reorgs: self.tracker.reorgs(),
                });
            }
            // The actor answers these itself.
            ChainMsg::Request { .. } | ChainMsg::RequestBatch { .. } | ChainMsg::Hashes { .. } => {}
        }
    }

    fn carry_out(&mut self) {
        if let Some((number, _)) = self.tracker.head() {
            self.backend.read_up_to(number, self.tracker.below_head(SETTLED_DEPTH));
        }
        for effect in self.tracker.effects() {
            match effect {
                Effect::Answer { seat, token, answer } => {
                    // A pull that was replaced needs no answer, and must not take the address of the one after it.
                    let subscriber = self.subscribers.get_mut(seat);
                    let subscriber = subscriber.and_then(|subscriber| subscriber.take_if(|(of, ..)| *of == token));
                    if let Some((_, source, to)) = subscriber {
                        self.held.push(Held { seat, to, reply: SourceReply { source, token, answer } });
                    }
                }
                Effect::Start { job, after } => {
                    let backend = self.backend.clone();
                    self.jobs.spawn(async move {
                        if !after.is_zero() {
                            tokio::time::sleep(after).await;
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

/// A bug in a task is a bug of the actor: it dies and is supervised.
fn propagate(error: JoinError) {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn carry_out(backend: &DynBackend, job: &Job) -> Result<Found, Failure> {
    match job {
        Job::Headers { from, to, .. } => {
            let numbers: Vec<u64> = (*from..=*to).collect();
            backend.headers(&numbers).await.map(Found::Headers)
        }
        Job::Segment { segment: Segment::Headers { from, to }, .. } => {
            let numbers: Vec<u64> = (*from..=*to).collect();
            backend.history(&numbers).await.map(Found::Headers)
        }
        Job::Segment { segment: Segment::Check { numbers }, .. } => backend.history(numbers).await.map(Found::Headers),
        Job::Header { hash, .. } => backend.header(*hash).await.map(Found::Header),
        Job::Tag(tag) => backend.tagged(*tag).await.map(Found::Header),
        Job::Logs { header, union, .. } => backend.block_logs(header, union).await.map(Found::Logs),
        Job::Segment { segment: Segment::Logs { from, to, union, .. }, .. } => {
            let (logs, end_hash) = match union.is_empty() {
                true => {
                    let headers = backend.history(std::slice::from_ref(to)).await?;
                    let end = headers.first().ok_or_else(|| Failure::Failed(format!("no header {to}")))?;
                    (vec![], end.hash)
                }
                false => backend.range_logs(*from, *to, union).await?,
            };
            Ok(Found::Segment { logs, end_hash })
        }
    }
}
