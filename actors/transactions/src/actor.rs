//! The transactions actor: holds the queues, reads their records when it starts, and answers for them.
//!
//! Invariant: until every record has been read, nothing is taken on: an intent that has a nonce already would get another
//! one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nexum_host_ifaces::{
    Address, HostError, HostErrorKind,
    clock::Clock,
    outbox::is_of_call,
    ports::Ports,
    store::{Records, StoreMsg},
    transactions::{
        Intent, SubmitAnswer, TransactionOrder, TransactionSummary, TransactionsMsg, TransactionsStatus, Which,
    },
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, concurrency::JoinHandle};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    metrics::TransactionsMetrics,
    queue::{ChainSettings, Queue, newest},
    record::{GIVEN_UP, PREFIX, QueueKey, SERVICE, Slot, of_given_up, of_key},
    task::{Handle, Time, run, signs},
};

/// Records read at once; each is at most a mebibyte.
const PAGE: usize = 32;
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Between attempts to read the records.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Transactions in one list.
const LIST_MAX: usize = 10_000;

/// What a transactions actor is started with.
#[derive(Clone)]
pub struct Args {
    /// Chains on which transactions are sent.
    pub chains: BTreeMap<u64, ChainSettings>,
    pub ports: Arc<Ports>,
    pub clock: Arc<dyn Clock>,
    pub metrics: TransactionsMetrics,
}

/// The queues, and what they share.
struct Shared {
    args: Arc<Args>,
    time: Arc<Time>,
    queues: Mutex<Queues>,
    /// A queue was added.
    added: Notify,
}

/// What is durable of an account on a chain.
#[derive(Default)]
struct Kept {
    slots: Vec<Slot>,
    /// Intents that were given up without a nonce.
    given_up: Vec<String>,
}

#[derive(Default)]
struct Queues {
    all: BTreeMap<QueueKey, Arc<Handle>>,
    /// Those without a task.
    idle: Vec<Arc<Handle>>,
    /// Why nothing is taken on; none once every record has been read.
    closed: Option<String>,
}

pub struct State {
    shared: Arc<Shared>,
    /// Aborted with the actor, and with it the queues' tasks.
    _tasks: JoinSet<()>,
}

pub struct TransactionsActor;

/// Starts the transactions actor under `supervisor`.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<TransactionsMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, TransactionsActor, args, supervisor).await
}

impl Actor for TransactionsActor {
    type Msg = TransactionsMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<TransactionsMsg>, args: Args) -> Result<State, ActorProcessingErr> {
        let time = Arc::new(Time::new(args.clock.clone()));
        let queues = Queues { closed: Some("its records are being read".to_owned()), ..Queues::default() };
        let shared = Arc::new(Shared { args: Arc::new(args), time, queues: Mutex::new(queues), added: Notify::new() });
        let mut tasks = JoinSet::new();
        let queues = shared.clone();
        tasks.spawn(async move {
            queues.serve().await;
            // Its successor reads the records anew.
            myself.stop(Some("a queue broke off".to_owned()));
        });
        Ok(State { shared, _tasks: tasks })
    }

    async fn handle(
        &self,
        _: ActorRef<TransactionsMsg>,
        message: TransactionsMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let shared = &state.shared;
        // Nobody to tell when the caller gave up.
        match message {
            TransactionsMsg::Submit { intent, may_send, before, reply } => {
                drop(reply.send(shared.submit(&intent, may_send, &before)));
            }
            TransactionsMsg::List { limit, reply } => drop(reply.send(shared.list(limit))),
            TransactionsMsg::Order { chain_id, account, which, order, reply } => {
                drop(reply.send(shared.order(chain_id, &account, &which, order)));
            }
            TransactionsMsg::Status(reply) => drop(reply.send(shared.status())),
        }
        Ok(())
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the records, then runs the queues. Comes back only when one of them broke.
    async fn serve(&self) {
        let records = loop {
            match self.read().await {
                Ok(records) => break records,
                Err(error) => {
                    tracing::warn!("the records of transactions cannot be read: {error}");
                    self.queues().closed = Some(format!("its records cannot be read: {error}"));
                    tokio::time::sleep(READ_AGAIN).await;
                }
            }
        };
        let now = self.time.now_ms();
        {
            let mut queues = self.queues();
            for (key, Kept { slots, given_up }) in records {
                let mut queue = Queue::new(key, self.settings(key.chain_id), slots, now);
                given_up.into_iter().for_each(|intent| queue.load_given_up(intent));
                queues.add(key, queue);
            }
            queues.closed = None;
        }
        let mut tasks = JoinSet::new();
        loop {
            for handle in std::mem::take(&mut self.queues().idle) {
                tasks.spawn(run(handle, self.args.clone(), self.time.clone()));
            }
            tokio::select! {
                () = self.added.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => return,
            }
        }
    }

    /// Of a chain that the configuration does not name any more, what is under way is still followed.
    fn settings(&self, chain_id: u64) -> ChainSettings {
        self.args.chains.get(&chain_id).cloned().unwrap_or_default()
    }

    async fn read(&self) -> Result<BTreeMap<QueueKey, Kept>, String> {
        let (mut queues, mut after) = (BTreeMap::<QueueKey, Kept>::new(), None);
        let wrong = |key: &[u8], why: &str| format!("record {}: {why}", hex::encode(key));
        loop {
            let page = self.page(GIVEN_UP, after.clone()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, _) in &page {
                let (queue, intent) = of_given_up(key).ok_or_else(|| wrong(key, "its key is of no intent"))?;
                queues.entry(queue).or_default().given_up.push(intent);
            }
        }
        after = None;
        loop {
            let page = self.page(PREFIX, after.clone()).await?;
            let Some((last, _)) = page.last() else { return Ok(queues) };
            after = Some(last.clone());
            for (key, value) in &page {
                let wrong = |why: &str| wrong(key, why);
                let (queue, nonce) = of_key(key).ok_or_else(|| wrong("its key is of no nonce"))?;
                let slot = Slot::decode(value).map_err(|error| wrong(&error))?;
                if slot.nonce != nonce {
                    return Err(wrong("its key is of another nonce"));
                }
                queues.entry(queue).or_default().slots.push(slot);
            }
        }
    }

    async fn page(&self, prefix: &[u8], after: Option<Vec<u8>>) -> Result<Records, String> {
        let prefix = prefix.to_vec();
        let ask = |reply| StoreMsg::Records { service: SERVICE, prefix, after, limit: PAGE, reply };
        let answer = self.args.ports.of::<StoreMsg>().call(READ_DEADLINE, ask).await;
        answer.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn submit(&self, intent: &Intent, may_send: bool, before: &[String]) -> Result<SubmitAnswer, HostError> {
        let error = |kind, message: String| HostError::new("transactions", kind, message);
        let mut queues = self.queues();
        if let Some(why) = &queues.closed {
            return Err(error(HostErrorKind::Unavailable, format!("the transactions actor is starting: {why}")));
        }
        // Also when its policy names another account by now.
        let known = queues.all.values().find(|handle| handle.queue().knows(&intent.id)).cloned();
        if known.is_none() && !may_send {
            return Err(error(HostErrorKind::Denied, "its module is not granted transactions any more".to_owned()));
        }
        // A module that decides anew is not to take the hash of what it wanted before for that of what it wants now.
        if let Some(handle) = &known
            && is_of_call(&intent.id)
            && handle.queue().is_another(intent)
        {
            let message = "an earlier attempt at this event sent another transaction in this call, which stands";
            return Err(error(HostErrorKind::InvalidInput, message.to_owned()));
        }
        // A retry is a transaction of its own, and not while one before it may be mined.
        let retried = |before: &String| queues.all.values().find_map(|handle| handle.queue().retried(before));
        if known.is_none()
            && let Some(answer) = before.iter().find_map(retried)
        {
            return Ok(answer);
        }
        let key = QueueKey { chain_id: intent.request.chain_id, account: intent.request.account };
        let handle = match known.or_else(|| queues.all.get(&key).cloned()) {
            Some(handle) => handle,
            None if !self.args.chains.contains_key(&key.chain_id) => {
                let message = format!("this engine sends no transactions on chain {}", key.chain_id);
                return Err(error(HostErrorKind::Unsupported, message));
            }
            None => {
                let handle =
                    queues.add(key, Queue::new(key, self.settings(key.chain_id), Vec::new(), self.time.now_ms()));
                self.added.notify_one();
                handle
            }
        };
        drop(queues);
        let answer = handle.queue().submit(intent, self.time.now_ms());
        handle.wake();
        Ok(answer)
    }

    fn all(&self) -> Vec<Arc<Handle>> {
        self.queues().all.values().cloned().collect()
    }

    fn list(&self, limit: usize) -> Vec<TransactionSummary> {
        let (limit, now) = (limit.min(LIST_MAX), self.time.now_ms());
        let all = self.all().iter().flat_map(|handle| handle.queue().list(limit, now)).collect();
        newest(all, limit)
    }

    fn order(&self, chain_id: u64, account: &str, which: &Which, order: TransactionOrder) -> Result<String, HostError> {
        let wrong = |message: String| HostError::new("transactions", HostErrorKind::InvalidInput, message);
        let account: Address = account.parse().map_err(wrong)?;
        let handle = self.queues().all.get(&QueueKey { chain_id, account }).cloned();
        let none = || wrong(format!("{account} has no transactions on chain {chain_id}"));
        let handle = handle.ok_or_else(none)?;
        let done = handle.queue().order_about(which, order);
        handle.wake();
        done
    }

    fn status(&self) -> TransactionsStatus {
        let now = self.time.now_ms();
        TransactionsStatus {
            queues: self.all().iter().map(|handle| handle.queue().status(now)).collect(),
            signs_nothing: signs(&self.args.ports).err().map(|error| error.message),
        }
    }
}

impl Queues {
    fn add(&mut self, key: QueueKey, queue: Queue) -> Arc<Handle> {
        let handle = Arc::new(Handle::new(queue));
        self.all.insert(key, handle.clone());
        self.idle.push(handle.clone());
        handle
    }
}
