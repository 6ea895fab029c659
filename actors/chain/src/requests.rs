//! What modules ask of a chain: paid from their budgets, asked once where several ask the same, and counted.

use std::{pin::pin, sync::Arc, time::Duration};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    interfaces::chain::port::{RpcBudget, RpcUsage},
};
use ractor::RpcReplyPort;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    backend::{Ask, DynBackend},
    budget::Cost,
    budgets::Budgets,
    pin::Pin,
    shared::{Asking, SharedReads, Turn, Waiting},
    usage::Usage,
};

/// Requests of modules in flight to the endpoints of one chain; more are refused as rate-limited.
pub const REQUESTS_MAX: usize = 512;
/// Calls at hand, with those that wait for their budgets or for what others ask: more than an engine bears modules.
const CALLS_MAX: usize = 16_384;
/// How long a read that others may wait for goes on, whatever the deadline of whoever asked it first: as long as an engine lets
/// any call wait that configures nothing.
const SHARED_DEADLINE: Duration = Duration::from_secs(120);
/// Reads that go on though nobody waits for them any more: whoever gave up may ask again. More are given up, too, or modules
/// of little patience would have all that may be in flight.
const UNHEARD_MAX: usize = 64;
/// How long anybody waits for what others ask in a batch, which takes as long as the longest in it.
const BATCH_PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer to such a read. Whoever may have a longer one asks for it alone.
const SHARED_BYTES_MAX: usize = 1 << 20;

type Answer = Result<String, HostError>;

/// Who asks, and what is allowed.
pub struct Asked {
    pub module: Arc<str>,
    /// Absent: nothing is paid.
    pub budget: Option<RpcBudget>,
    pub deadline: Duration,
    pub reply_bytes_max: usize,
}

/// What answering takes; cloned into the task of each call.
#[derive(Clone)]
pub struct Requests {
    backend: DynBackend,
    budgets: Budgets,
    usage: Usage,
    reads: Arc<SharedReads>,
    /// In flight.
    permits: Arc<Semaphore>,
    /// At hand.
    calls: Arc<Semaphore>,
    unheard: Arc<Semaphore>,
}

impl Requests {
    pub fn new(backend: DynBackend, budgets: Budgets, usage: Usage, reads: Arc<SharedReads>) -> Self {
        let [permits, calls, unheard] =
            [REQUESTS_MAX, CALLS_MAX, UNHEARD_MAX].map(|most| Arc::new(Semaphore::new(most)));
        Self { backend, budgets, usage, reads, permits, calls, unheard }
    }

    /// Room for what is in flight.
    pub fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// What was counted.
    pub fn usage(&self) -> RpcUsage {
        RpcUsage { rows: self.usage.rows(), budgets: self.budgets.spent() }
    }

    /// Carries out one request, and goes on with a read that others wait for after its own caller was answered.
    pub async fn request(self, asked: Asked, method: String, params: String, reply: RpcReplyPort<Answer>) {
        let until = Instant::now() + asked.deadline;
        let cost = self.cost(std::iter::once(&*method));
        let begun = self.begin(&asked, cost).await;
        let (turn, params) = match &begun {
            Ok(_) => self.turn(&method, params, false),
            Err(_) => (None, params),
        };
        let answer = match begun {
            Err(refused) => Err(refused),
            Ok(_call) => match turn {
                None => self.alone(&asked, &method, &params, until).await,
                Some(Turn::Answered(text)) => {
                    self.usage.shared(&asked.module, &method);
                    within(&text, asked.reply_bytes_max)
                }
                Some(Turn::Waits(waiting)) => {
                    self.usage.shared(&asked.module, &method);
                    self.heard(&asked, (&method, &params), waiting, (patience(), until)).await
                }
                Some(Turn::Asks(asking)) => {
                    let waiting = asking.waiting();
                    let asks = self.ask_for_all(&asked.module, &method, &params, asking);
                    let answers = async {
                        // The caller may have given up.
                        let _ = reply.send(self.heard(&asked, (&method, &params), waiting, (patience(), until)).await);
                    };
                    tokio::join!(asks, answers);
                    return;
                }
            },
        };
        // The caller may have given up.
        let _ = reply.send(answer);
    }

    /// Carries out a batch: what nobody else asks goes out as one.
    pub async fn batch(
        self,
        asked: Asked,
        requests: Vec<(String, String)>,
        reply: RpcReplyPort<Result<Vec<Answer>, HostError>>,
    ) {
        let until = Instant::now() + asked.deadline;
        let cost = self.cost(requests.iter().map(|(method, _)| &**method));
        let begun = self.begin(&asked, cost).await;
        let answers = match begun {
            Err(refused) => Err(refused),
            Ok(_call) => self.batch_within(&asked, requests, until).await,
        };
        let _ = reply.send(answers);
    }

    async fn batch_within(
        &self,
        asked: &Asked,
        mut requests: Vec<(String, String)>,
        until: Instant,
    ) -> Result<Vec<Answer>, HostError> {
        let mut turns = Vec::with_capacity(requests.len());
        let mut sent = Vec::with_capacity(requests.len());
        for (method, params) in &mut requests {
            let turn;
            (turn, *params) = self.turn(method, std::mem::take(params), true);
            match &turn {
                Some(Turn::Answered(_) | Turn::Waits(_)) => self.usage.shared(&asked.module, method),
                Some(Turn::Asks(_)) | None => sent.push((method.clone(), params.clone())),
            }
            turns.push(turn);
        }
        let mut came = match sent.is_empty() {
            true => Ok(Vec::new()),
            false => self.in_flight(self.backend.request_batch(sent, self.ask(asked, until))).await,
        }
        .map(Vec::into_iter);
        // Those who wait for one of these are told before anything else is waited for. Why the batch failed as a whole may be
        // what else is in it: they are told that it has ended, and ask for themselves.
        let mut answers = Vec::with_capacity(turns.len());
        for turn in &mut turns {
            let answer = matches!(turn, None | Some(Turn::Asks(_))).then(|| match &mut came {
                Ok(came) => came.next().unwrap_or_else(|| Err(error(HostErrorKind::Internal, "an answer is missing"))),
                Err(failed) => Err(failed.clone()),
            });
            if let Some(answer) = &answer
                && let Some(Turn::Asks(asking)) = turn.take()
                && came.is_ok()
            {
                asking.answered(answer.clone().map(Arc::from));
            }
            answers.push(answer);
        }
        came?;
        let mut all = Vec::with_capacity(answers.len());
        // Of all that others ask in batches, together.
        let patience = patience();
        // Of one answer that is shared a batch may ask for as many copies as it has requests.
        let mut left = asked.reply_bytes_max;
        for ((turn, answer), (method, params)) in turns.into_iter().zip(answers).zip(&requests) {
            let answer = match (answer, turn) {
                (Some(answer), _) => answer,
                (None, Some(Turn::Answered(text))) => within(&text, asked.reply_bytes_max),
                (None, Some(Turn::Waits(waiting))) => {
                    self.heard(asked, (method, params), waiting, (patience, until)).await
                }
                (None, None | Some(Turn::Asks(_))) => unreachable!("what nobody else asked was sent"),
            };
            if let Ok(text) = &answer {
                left = left.checked_sub(text.len()).ok_or_else(|| {
                    let most = asked.reply_bytes_max;
                    error(HostErrorKind::InvalidInput, format!("the replies are together larger than {most} bytes"))
                })?;
            }
            all.push(answer);
        }
        Ok(all)
    }

    /// Who asks, of a read that may be shared, and the parameters as they are asked.
    fn turn(&self, method: &str, params: String, in_batch: bool) -> (Option<Turn>, String) {
        let pinned = Pin::of(method, &params).map(|pin| (self.reads.turn(pin.key(), in_batch), pin.by_hash()));
        match pinned {
            Some((turn, params)) => (Some(turn), params),
            None => (None, params),
        }
    }

    fn cost<'a>(&self, methods: impl Iterator<Item = &'a str>) -> Cost {
        methods.fold(Cost::default(), |cost, method| Cost {
            requests: cost.requests + 1,
            units: cost.units.saturating_add(self.usage.cost(method)),
        })
    }

    /// Finds room for a call, and has the module pay for it.
    async fn begin(&self, asked: &Asked, cost: Cost) -> Result<OwnedSemaphorePermit, HostError> {
        let call = self.calls.clone().try_acquire_owned().map_err(|_| too_many(CALLS_MAX))?;
        if let Some(budget) = &asked.budget {
            // Whether or not somebody else asks the same: what a module may ask does not depend on its neighbours.
            self.budgets.spend(&asked.module, budget, cost, asked.deadline).await?;
        }
        Ok(call)
    }

    fn ask<'a>(&self, asked: &'a Asked, until: Instant) -> Ask<'a> {
        let deadline = until.saturating_duration_since(Instant::now());
        Ask { module: &asked.module, deadline, reply_bytes_max: asked.reply_bytes_max }
    }

    async fn in_flight<T>(&self, request: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
        let _permit = self.permits.try_acquire().map_err(|_| too_many(REQUESTS_MAX))?;
        request.await
    }

    async fn alone(&self, asked: &Asked, method: &str, params: &str, until: Instant) -> Answer {
        self.in_flight(self.backend.request(method, params, self.ask(asked, until))).await
    }

    async fn ask_for_all(&self, module: &str, method: &str, params: &str, asking: Asking) {
        let ask = Ask { module, deadline: SHARED_DEADLINE, reply_bytes_max: SHARED_BYTES_MAX };
        let mut asked = pin!(self.in_flight(self.backend.request(method, params, ask)));
        let answer = tokio::select! {
            biased;
            answer = &mut asked => answer,
            () = asking.unheard() => {
                // Nobody is told: nobody waits for it any more.
                let Ok(_unheard) = self.unheard.try_acquire() else { return };
                asked.await
            }
        };
        asking.answered(answer.map(Arc::from));
    }

    /// The answer that another request brings, or that an own one does where that one had less room or time, or is a batch's
    /// that takes longer than until `patience`.
    async fn heard(
        &self,
        asked: &Asked,
        (method, params): (&str, &str),
        waiting: Waiting,
        (patience, until): (Instant, Instant),
    ) -> Answer {
        let at_most = if waiting.is_in_batch() { until.min(patience) } else { until };
        let failed = match waiting.answer(at_most).await {
            Some(Ok(text)) => return within(&text, asked.reply_bytes_max),
            Some(Err(failed)) if !is_of_the_other(&failed) => return Err(failed),
            Some(Err(failed)) => failed,
            None => error(HostErrorKind::Unavailable, "the request that this one waited for has ended"),
        };
        if Instant::now() >= until {
            return Err(failed);
        }
        timeout_at(until, self.alone(asked, method, params, until)).await.unwrap_or(Err(failed))
    }
}

/// Until when what others ask in a batch is waited for from now on.
fn patience() -> Instant {
    Instant::now() + BATCH_PATIENCE
}

/// Whether an answer may have taken longer, or been longer, than whoever asked for it had time or room for. Nodes' errors have
/// a code.
fn is_of_the_other(error: &HostError) -> bool {
    [HostErrorKind::InvalidInput, HostErrorKind::Timeout].contains(&error.kind) && error.code == 0
}

fn within(text: &str, bytes_max: usize) -> Answer {
    match text.len() > bytes_max {
        true => Err(error(HostErrorKind::InvalidInput, format!("the reply is larger than {bytes_max} bytes"))),
        false => Ok(text.to_owned()),
    }
}

pub fn too_many(at_most: usize) -> HostError {
    error(HostErrorKind::RateLimited, format!("more than {at_most} requests to this chain are in flight"))
}

fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    HostError::new("chain", kind, message)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nexum_host_ifaces::{clock::SystemClock, interfaces::chain::port::CODE_OVER_BUDGET, port::Port};
    use prometheus::Registry;

    use super::*;
    use crate::{
        metrics::ChainMetrics,
        mock::{FaultKind, Fixture, MockBackend, MockChain},
        usage::tests::usage,
    };

    const CHAIN: &str = "chain_id = 1\nfirst_timestamp_s = 1\nhistory_blocks = 3\n[[call]]\n\
                         to = \"0x00000000000000000000000000000000000000ff\"\nwords = [\"block\"]\n";

    fn requests() -> (Requests, MockChain) {
        let chain = MockChain::new(Fixture::parse(Path::new("f.toml"), CHAIN).unwrap());
        let (clock, usage) = (Arc::new(SystemClock::new()), usage());
        let metrics = ChainMetrics::register(&Registry::new()).unwrap();
        let budgets = Budgets::new(Port::new("store"), clock.clone(), metrics);
        let backend = Arc::new(MockBackend::manual(chain.clone(), clock.clone(), usage.clone()));
        (Requests::new(backend, budgets, usage, SharedReads::new(clock)), chain)
    }

    fn asked(module: &str, budget: Option<RpcBudget>) -> Asked {
        Asked { module: module.into(), budget, deadline: Duration::from_millis(200), reply_bytes_max: 1_000 }
    }

    fn at(block: &str) -> String {
        format!("[{{\"to\":\"0x00000000000000000000000000000000000000ff\"}},{block}]")
    }

    async fn one(requests: &Requests, asked: Asked, params: &str) -> Answer {
        let (sender, receiver) = ractor::concurrency::oneshot();
        let params = params.to_owned();
        tokio::spawn(requests.clone().request(asked, "eth_call".to_owned(), params, sender.into()));
        receiver.await.unwrap()
    }

    fn counted(requests: &Requests) -> (u64, u64) {
        let rows = requests.usage().rows;
        (rows.iter().map(|row| row.requests).sum(), rows.iter().map(|row| row.shared).sum())
    }

    #[tokio::test]
    async fn what_is_asked_at_one_hash_is_asked_once_and_at_a_tag_each_time() {
        let (requests, chain) = requests();
        let pinned = at(&format!("{{\"blockHash\":\"{}\"}}", chain.head().1));
        let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
        let all = names.iter().map(|name| one(&requests, asked(name, None), &pinned));
        let answers = futures::future::join_all(all).await;
        assert!(answers.iter().all(|answer| *answer == answers[0] && answer.is_ok()), "{:?}", answers[0]);
        assert_eq!(counted(&requests), (1, 99));
        for _ in 0..2 {
            one(&requests, asked("m", None), &at("\"latest\"")).await.unwrap();
        }
        assert_eq!(counted(&requests), (3, 99));
        // In a batch each finds its own: one is known, one is asked twice, one names no block for good.
        let other = at(&format!("{{\"blockHash\":\"{}\"}}", chain.hashes()[1].1));
        let batch = [&pinned, &other, &other, &at("\"latest\"")].map(|params| ("eth_call".to_owned(), params.clone()));
        let (sender, receiver) = ractor::concurrency::oneshot();
        requests.clone().batch(asked("m", None), batch.to_vec(), sender.into()).await;
        let told = receiver.await.unwrap().unwrap();
        assert_eq!((&told[0], &told[1], &told[3]), (&answers[0], &told[2], &answers[0]));
        assert_ne!(told[0], told[1]);
        assert_eq!(counted(&requests), (5, 101));
    }

    #[tokio::test]
    async fn whoever_gives_up_first_does_not_end_it_for_the_others_and_no_error_is_kept() {
        let (requests, chain) = requests();
        let pinned = at(&format!("{{\"blockHash\":\"{}\"}}", chain.head().1));
        chain.fail("eth_call", FaultKind::Error, 1);
        assert!(one(&requests, asked("a", None), &pinned).await.is_err());
        chain.fail("eth_call", FaultKind::Stall, 1);
        let patient = Asked { deadline: Duration::from_secs(60), ..asked("b", None) };
        let hasty = async { one(&requests, asked("a", None), &pinned).await.unwrap_err().kind };
        let waits = async { tokio::time::timeout(Duration::from_millis(500), one(&requests, patient, &pinned)).await };
        let (hasty, waits) = tokio::join!(hasty, waits);
        assert_eq!(hasty, HostErrorKind::Timeout);
        assert!(waits.is_err(), "it waits on: {waits:?}");
        assert_eq!(counted(&requests).0, 1, "what is under way was not asked again");
    }

    #[tokio::test]
    async fn so_many_reads_go_on_that_nobody_waits_for() {
        let (requests, chain) = requests();
        let pinned = at(&format!("{{\"blockHash\":\"{}\"}}", chain.head().1));
        requests.unheard.forget_permits(UNHEARD_MAX);
        chain.fail("eth_call", FaultKind::Stall, 1);
        assert_eq!(one(&requests, asked("a", None), &pinned).await.unwrap_err().kind, HostErrorKind::Timeout);
        let ended = async {
            while requests.permits().available_permits() < REQUESTS_MAX {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
        one(&requests, asked("a", None), &pinned).await.unwrap();
    }

    #[tokio::test]
    async fn what_others_ask_in_a_batch_is_not_waited_for_long_and_its_end_is_its_own() {
        let (requests, chain) = requests();
        let pinned = at(&format!("{{\"blockHash\":\"{}\"}}", chain.head().1));
        chain.fail("eth_getCode", FaultKind::Stall, 1);
        let patient = || Asked { deadline: Duration::from_secs(60), ..asked("m", None) };
        let slow = "[\"0x00000000000000000000000000000000000000ff\",\"latest\"]";
        let batch = vec![("eth_getCode".to_owned(), slow.to_owned()), ("eth_call".to_owned(), pinned.clone())];
        let (sender, _receiver) = ractor::concurrency::oneshot();
        tokio::spawn(requests.clone().batch(patient(), batch, sender.into()));
        let began = Instant::now();
        let answer = one(&requests, patient(), &pinned).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        // Nor is each of several waited for anew.
        let keys: Vec<_> =
            (0..5).map(|to| format!("[\"0x{to:040x}\",{{\"blockHash\":\"{}\"}}]", chain.head().1)).collect();
        let turn = |params: &String| requests.reads.turn(Pin::of("eth_getBalance", params).unwrap().key(), true);
        let asked_by_others: Vec<_> = keys.iter().map(turn).collect();
        let (sender, receiver) = ractor::concurrency::oneshot();
        let began = Instant::now();
        let batch = keys.iter().map(|params| ("eth_getBalance".to_owned(), params.clone())).collect();
        requests.clone().batch(patient(), batch, sender.into()).await;
        assert_eq!(receiver.await.unwrap().unwrap().iter().filter(|answer| answer.is_ok()).count(), keys.len());
        assert!(began.elapsed() < BATCH_PATIENCE * 4, "{:?}", began.elapsed());
        drop(asked_by_others);
        // Of one that ended without an answer nothing is told.
        let other = at(&format!("{{\"blockHash\":\"{}\"}}", chain.hashes()[1].1));
        let key = Pin::of("eth_call", &other).unwrap().key();
        let Turn::Asks(asking) = requests.reads.turn(key, true) else { panic!("nobody asks this") };
        let waiting = asking.waiting();
        drop(asking);
        let until = Instant::now() + Duration::from_secs(10);
        let heard = requests.heard(&patient(), ("eth_call", &other), waiting, (until, until)).await;
        assert!(heard.as_ref().is_ok_and(|heard| *heard != answer), "{heard:?}");
    }

    #[tokio::test]
    async fn copies_of_one_answer_count_each_for_what_a_batch_may_bring() {
        let (requests, chain) = requests();
        let pinned = at(&format!("{{\"blockHash\":\"{}\"}}", chain.head().1));
        let bytes = one(&requests, asked("m", None), &pinned).await.unwrap().len();
        let most = asked("m", None).reply_bytes_max / bytes;
        for (count, is_told) in [(most, true), (most + 1, false)] {
            let batch = vec![("eth_call".to_owned(), pinned.clone()); count];
            let (sender, receiver) = ractor::concurrency::oneshot();
            requests.clone().batch(asked("m", None), batch, sender.into()).await;
            let answers = receiver.await.unwrap();
            assert_eq!(answers.is_ok(), is_told, "{count} copies: {answers:?}");
        }
    }

    #[tokio::test]
    async fn each_pays_for_itself_whoever_asked_before() {
        let (requests, chain) = requests();
        let pinned = at(&format!("{{\"blockHash\":\"{}\"}}", chain.head().1));
        let budget = RpcBudget { requests_per_second: Some(1), ..RpcBudget::default() };
        one(&requests, asked("neighbour", None), &pinned).await.unwrap();
        one(&requests, asked("m", Some(budget)), &pinned).await.unwrap();
        let error = one(&requests, asked("m", Some(budget)), &pinned).await.unwrap_err();
        assert_eq!((error.kind, error.code), (HostErrorKind::RateLimited, CODE_OVER_BUDGET));
        assert!(error.data.is_some_and(|millis| millis.parse::<u64>().unwrap() <= 1_000));
        one(&requests, asked("neighbour", None), &pinned).await.unwrap();
        assert_eq!(counted(&requests), (1, 2));
    }
}
