//! Carries out what a queue wants, for as long as the actor lives. One task per queue: a chain that is slow holds up no other.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    clock::Clock,
    interfaces::identity::port::{Admission, IdentityMsg, TransactionRequest},
    port::Port,
    ports::Ports,
    store::StoreMsg,
};
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    actor::Args,
    questions::{Chain, broadcast},
    queue::{Action, Input, Queue, Votes},
    record::{QueueKey, SERVICE},
};

/// How long the policy may take, whose answer is in memory.
const POLICY_DEADLINE: Duration = Duration::from_secs(10);
/// How long a signature may take: the key may be on another machine.
const SIGN_DEADLINE: Duration = Duration::from_secs(30);
/// How long a write may take; one that is late may still become durable.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How often gauges are set while much happens.
const SHOWN_MS: u64 = 500;

/// Milliseconds since the Unix epoch that never go back, so that a clock that is set back stops nothing.
pub(crate) struct Time {
    clock: Arc<dyn Clock>,
    /// The most that the calendar was ahead of the machine's monotonic clock.
    ahead_ms: Mutex<u64>,
}

impl Time {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead_ms: Mutex::new(0) }
    }

    pub fn now_ms(&self) -> u64 {
        let monotonic = self.clock.monotonic_ns() / 1_000_000;
        let mut ahead = self.ahead_ms.lock().unwrap_or_else(PoisonError::into_inner);
        *ahead = self.clock.now_ms().saturating_sub(monotonic).max(*ahead);
        *ahead + monotonic
    }
}

/// A queue, and the way to wake its task.
pub(crate) struct Handle {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Handle {
    pub fn new(queue: Queue) -> Self {
        Self { queue: Mutex::new(queue), wake: Notify::new() }
    }

    /// Nobody holds it longer than a step takes. After a panic within one nothing is certain, and nobody goes on.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        match self.queue.lock() {
            Ok(queue) => queue,
            Err(_) => panic!("a queue broke off in the middle"),
        }
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Goes on until it is aborted; comes back only when something broke.
pub(crate) async fn run(handle: Arc<Handle>, args: Arc<Args>, time: Arc<Time>) {
    let key = handle.queue().key;
    let mut jobs: JoinSet<Input> = JoinSet::new();
    let mut shown_ms = 0;
    loop {
        let now = time.now_ms();
        let (actions, notes, look_ms) = {
            let mut queue = handle.queue();
            let actions = queue.step(now);
            if now >= shown_ms + SHOWN_MS || (actions.is_empty() && jobs.is_empty()) {
                shown_ms = now;
                args.metrics.show(&queue.status(now));
            }
            (actions, queue.notes(), queue.next_look(now))
        };
        args.metrics.note(&key, &notes);
        for action in actions {
            jobs.spawn(perform(&args.ports, key, action));
        }
        let rest = Duration::from_millis(look_ms.unwrap_or(now).saturating_sub(now));
        let done = tokio::select! {
            Some(done) = jobs.join_next(), if !jobs.is_empty() => Some(done),
            () = handle.wake.notified() => None,
            () = tokio::time::sleep(rest), if look_ms.is_some() => None,
        };
        let mut done = done;
        while let Some(result) = done {
            match result {
                Ok(input) => handle.queue().take(input, time.now_ms()),
                Err(error) => {
                    tracing::error!(chain_id = key.chain_id, account = %key.account, "a queue's work broke off: {error}");
                    return;
                }
            }
            done = jobs.try_join_next();
        }
    }
}

type Work = Pin<Box<dyn Future<Output = Input> + Send>>;

/// What carries an action out. Messages whose order matters are on their way when this returns.
fn perform(ports: &Arc<Ports>, key: QueueKey, action: Action) -> Work {
    let port = ports.chain(key.chain_id).cloned().unwrap_or_else(|| Port::new("chain"));
    let chain = |module| Chain { port: port.clone(), module };
    let signs = signs(ports);
    match action {
        Action::Observe { module } => {
            let chain = chain(module);
            Box::pin(async move { Input::Observed(chain.facts(&key).await) })
        }
        Action::Admit { order, module, intent, request } => Box::pin(async move {
            let answer = match signs {
                Ok(identity) => admit(identity, module, intent, request).await,
                Err(error) => Err(error),
            };
            Input::Admitted { order, answer }
        }),
        Action::Simulate { order, call } => {
            let chain = chain(call.module.clone());
            Box::pin(async move { Input::Simulated { order, answer: chain.simulate(&call).await } })
        }
        Action::Ceiling { nonce, module, request } => Box::pin(async move {
            let answer = match signs {
                Ok(identity) => ceiling(&identity, module, request).await,
                Err(error) => Err(error),
            };
            Input::Ceiling { nonce, answer }
        }),
        Action::Sign { draft, nonce, module, intent, transaction } => Box::pin(async move {
            let ask = |reply| IdentityMsg::SignTransaction { module, intent, transaction, reply };
            let answer = match signs {
                Ok(identity) => flat(identity.call(SIGN_DEADLINE, ask).await),
                Err(error) => Err(error),
            };
            Input::Signed { draft, nonce, answer }
        }),
        Action::Write { writes, written } => {
            let store = ports.of::<StoreMsg>();
            Box::pin(async move {
                let ask = |reply| StoreMsg::WriteRecords { service: SERVICE, writes, reply };
                let answer = match store.call(WRITE_DEADLINE, ask).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                Input::Written { written, answer }
            })
        }
        Action::Broadcast { nonce, raw, .. } => {
            let answers = broadcast(port, raw);
            Box::pin(async move { Input::Broadcast { nonce, answers: answers.await } })
        }
        Action::Receipts { nonce, module, hashes } => {
            let chain = chain(module);
            Box::pin(async move { Input::Receipts { nonce, answer: chain.receipts(&hashes).await } })
        }
        Action::Doubt { nonce, module, hashes, block } => {
            let chain = chain(module);
            Box::pin(async move {
                let votes: Votes = chain.votes(&key, nonce, &hashes, block).await;
                Input::Doubted { nonce, votes }
            })
        }
    }
}

/// Without accounts nothing is signed until there are some again; what was broadcast is followed all the same.
pub(crate) fn signs(ports: &Ports) -> Result<Port<IdentityMsg>, HostError> {
    if ports.has::<IdentityMsg>() {
        return Ok(ports.of());
    }
    let message = "this engine has no accounts to sign with: [identity] is not in its configuration any more";
    Err(HostError::new("transactions", HostErrorKind::Unavailable, message))
}

async fn admit(
    identity: Port<IdentityMsg>,
    module: Arc<str>,
    intent: String,
    request: Box<TransactionRequest>,
) -> Result<(Admission, Option<u128>), HostError> {
    let (by, wanted) = (module.clone(), request.clone());
    let ask = |reply| IdentityMsg::Admit { module: by, intent, request: wanted, reply };
    match flat(identity.call(POLICY_DEADLINE, ask).await)? {
        Admission::Allowed => Ok((Admission::Allowed, ceiling(&identity, module, request).await?)),
        waits @ Admission::AwaitsApproval { .. } => Ok((waits, None)),
    }
}

async fn ceiling(
    identity: &Port<IdentityMsg>,
    module: Arc<str>,
    request: Box<TransactionRequest>,
) -> Result<Option<u128>, HostError> {
    let ask = |reply| IdentityMsg::FeeCeiling { module, request, reply };
    flat(identity.call(POLICY_DEADLINE, ask).await)
}

fn flat<T>(answer: Result<Result<T, HostError>, nexum_host_ifaces::port::PortError>) -> Result<T, HostError> {
    answer.unwrap_or_else(|error| Err(HostError::new("transactions", HostErrorKind::Unavailable, error.to_string())))
}
