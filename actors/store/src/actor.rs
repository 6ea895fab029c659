//! The store actor: takes messages of the port and hands them on. It owns the committer thread, nothing else; the
//! database outlives it.

use std::sync::Arc;

use nexum_host_ifaces::{
    outbox::{OutboxChange, OutboxRequest},
    store::{Reply, StateView, StoreError, StoreMsg},
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, concurrency::JoinHandle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    backup,
    committer::{Committer, fence::Fence, group::Waiting},
    effects, prune, purge, rewind,
    store::Store,
    tables::{outcomes, services::Wanted},
};

/// Reads and administration that run at once beside the commits; more are refused. Each holds a blocking thread.
const JOBS_MAX: usize = 32;

/// What a store actor is started with.
pub struct Args {
    pub store: Arc<Store>,
}

pub struct State {
    store: Arc<Store>,
    committer: Committer,
    jobs: Arc<Semaphore>,
}

pub struct StoreActor;

/// Starts the store actor under `supervisor`. It can be started again on the same store when it died.
pub async fn spawn(args: Args, supervisor: ActorCell) -> Result<(ActorRef<StoreMsg>, JoinHandle<()>), SpawnErr> {
    Actor::spawn_linked(None, StoreActor, args, supervisor).await
}

impl Actor for StoreActor {
    type Msg = StoreMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<StoreMsg>, Args { store }: Args) -> Result<State, ActorProcessingErr> {
        let committer = store.options.blocking.run({
            let store = store.clone();
            move || Committer::start(store)
        });
        let committer = committer.await??;
        Ok(State { store, committer, jobs: Arc::new(Semaphore::new(JOBS_MAX)) })
    }

    async fn handle(
        &self,
        _: ActorRef<StoreMsg>,
        message: StoreMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StoreMsg::Commit { units, reply } => {
                state.committer.take(reply, Waiting::done, |turn| turn.commit(&units));
            }
            // Once everything before is written, so that units of an earlier instance are in the answer.
            StoreMsg::Open { name, reply } => state.committer.take(reply, Waiting::Opened, |turn| turn.open(&name)),
            StoreMsg::PutHealth { module, health, reply } => {
                state.committer.take(reply, Waiting::done, |turn| turn.put_health(module, &health));
            }
            StoreMsg::PutHeaders { chain_id, anew, headers, dropped } => {
                state.committer.put_headers(chain_id, anew, &headers, &dropped);
            }
            StoreMsg::DropDeadLetter { name, seq, reply } => {
                state.committer.take(reply, Waiting::done, |turn| turn.drop_letter(&name, seq));
            }
            StoreMsg::PutDeadLetter { module, letter, reply } => {
                state.committer.take(reply, Waiting::done, |turn| turn.put_letter(module, &letter));
            }
            StoreMsg::Rewind { module, fork, reply } => match Fence::around(state.committer.shared(), module) {
                Ok(fence) => state.job_in_turn(reply, move |store| {
                    fence.settle()?;
                    let rewound = rewind::rewind(store, module, &fork).inspect_err(|_| fence.lose())?;
                    if let Some(rewound) = &rewound {
                        fence.tell(OutboxChange::Rewound { module, to_seq: rewound.record.seq });
                    }
                    Ok(rewound)
                }),
                Err(error) => refuse(reply, error),
            },
            StoreMsg::Purge { name, reply } => {
                let fenced =
                    state.store.id(&name).and_then(|id| Ok((id, Fence::around(state.committer.shared(), id)?)));
                match fenced {
                    Ok((id, fence)) => state.job(reply, move |store| {
                        fence.settle()?;
                        purge::purge(store, &name, id).inspect_err(|_| fence.lose())?;
                        fence.tell(OutboxChange::Purged { module: id });
                        Ok(())
                    }),
                    Err(error) => refuse(reply, error),
                }
            }
            StoreMsg::Redelivery { module, reply } => state.job_in_turn(reply, move |store| store.replay(module)),
            StoreMsg::Outbox(request) => state.outbox(request),
            StoreMsg::Journal { module, from_seq, limit, reply } => {
                state.job(reply, move |store| store.journal(module, from_seq, limit));
            }
            StoreMsg::PutCrash { module, crash } => {
                if let Err(error) = state.committer.shared().add(|turn| turn.put_crash(module, &crash)) {
                    tracing::warn!(module = module.0, %error, "a crash was not kept");
                }
            }
            StoreMsg::Crashes { name, reply } => state.job(reply, move |store| store.crashes(&name)),
            StoreMsg::Recording { name, wanted, reply } => {
                state.job(reply, move |store| store.recording(&name, wanted));
            }
            StoreMsg::JournalPage { name, start, limit, reply } => {
                state.job(reply, move |store| store.journal_page(&name, start, limit));
            }
            StoreMsg::JournalUnit { name, seq, reply } => {
                state.job(reply, move |store| store.journal_unit(&name, seq));
            }
            StoreMsg::Rewinds { name, reply } => state.job(reply, move |store| store.rewinds(&name)),
            StoreMsg::Modules { reply } => state.job(reply, Store::modules),
            StoreMsg::Inspect { name, reply } => state.job(reply, move |store| store.inspect(&name)),
            StoreMsg::StateList { name, prefix, after, limit, reply } => {
                state.job(reply, move |store| store.scan(store.id(&name)?, &prefix, after.as_deref(), limit));
            }
            StoreMsg::StateGet { name, key, reply } => {
                state.job(reply, move |store| store.get(store.id(&name)?, &key));
            }
            StoreMsg::DeadLetters { name, reply } => state.job(reply, move |store| store.dead_letters(&name)),
            StoreMsg::WriteRecords { service, writes, reply } => {
                state.committer.take(reply, Waiting::done, |turn| turn.write_records(service, &writes));
            }
            // Once everything before is written, so that it is in the answer.
            StoreMsg::Records { service, prefix, after, limit, reply } => {
                let wanted = Wanted { service, prefix, after, limit };
                state.committer.take(reply, Waiting::Records, |turn| turn.read_records(wanted));
            }
            StoreMsg::Backup { to, reply } => state.job(reply, move |store| backup::backup(store, &to)),
            StoreMsg::Status(reply) => {
                let store = state.store.clone();
                // Nobody to tell when the caller gave up.
                state.store.options.blocking.detach(move || drop(reply.send(store.status())));
            }
        }
        match state.committer.gone() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    async fn post_stop(&self, _: ActorRef<StoreMsg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Some(thread) = state.committer.stop() {
            tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| "the committer thread panicked")?;
        }
        Ok(())
    }
}

impl State {
    fn outbox(&self, request: OutboxRequest) {
        match request {
            OutboxRequest::Pending { reply } => {
                self.committer.shared().change_feed.begin();
                self.job(reply, effects::live);
            }
            OutboxRequest::Changes { reply } => self.committer.shared().change_feed.ask(reply),
            OutboxRequest::Told { reply } => drop(reply.send(Ok(self.committer.shared().change_feed.told()))),
            OutboxRequest::Outcomes { name, after, limit, reply } => {
                self.job_in_turn(reply, move |store| outcomes::after(&store.db, store.id(&name)?, after, limit));
            }
            OutboxRequest::List { name, limit, reply } => {
                self.job(reply, move |store| effects::list(&store.db, store.id(&name)?, limit));
            }
            OutboxRequest::Show { name, id, reply } => self.job(reply, move |store| effects::show(store, &name, &id)),
            OutboxRequest::ReleasedAbove { module, source, block, reply } => {
                self.job_in_turn(reply, move |store| effects::released_above(&store.db, module, &source, block));
            }
            OutboxRequest::Prune { module, reply } => {
                let shared = self.committer.shared().clone();
                self.job(reply, move |store| {
                    prune::prune(store, module)?;
                    // One at a time: an effect may be taken up again or its unit undone meanwhile.
                    prune::excess_bodies(&store.db, module)?
                        .iter()
                        .try_for_each(|body| shared.add(|turn| turn.strip(module, body)))
                });
            }
            OutboxRequest::Release { module, id, at, now_ms, reply } => {
                self.committer.take(reply, Waiting::released, |turn| turn.release(module, &id, at, now_ms));
            }
            OutboxRequest::Attempted { module, id, progress, reply } => {
                self.committer.take(reply, Waiting::done, |turn| turn.attempted(module, &id, &progress));
            }
            OutboxRequest::End { end, reply } => self.committer.take(reply, Waiting::done, |turn| turn.end(&end)),
            OutboxRequest::Reopen { name, id, now_ms, reply } => {
                self.committer.take(reply, Waiting::reopened, |turn| turn.reopen(&name, &id, now_ms));
            }
        }
    }

    /// Runs something that blocks beside the commits, if not too much runs already.
    fn job<T: Send + 'static>(
        &self,
        reply: Reply<T>,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) {
        let Ok(permit) = self.jobs.clone().try_acquire_owned() else {
            return refuse(reply, StoreError::Failed(format!("busy: {JOBS_MAX} requests run already")));
        };
        run(&self.store, permit, reply, work);
    }

    /// The same for what a module cannot go on without, once there is room: a reorg has every module of a chain ask at
    /// once. Each has one such request under way, which bounds how many wait.
    fn job_in_turn<T: Send + 'static>(
        &self,
        reply: Reply<T>,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) {
        match self.jobs.clone().try_acquire_owned() {
            Ok(permit) => run(&self.store, permit, reply, work),
            Err(_) => {
                let (store, jobs) = (self.store.clone(), self.jobs.clone());
                tokio::spawn(async move {
                    // The semaphore is never closed.
                    if let Ok(permit) = jobs.acquire_owned().await {
                        run(&store, permit, reply, work);
                    }
                });
            }
        }
    }
}

fn run<T: Send + 'static>(
    store: &Arc<Store>,
    permit: OwnedSemaphorePermit,
    reply: Reply<T>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) {
    let of_job = store.clone();
    store.options.blocking.detach(move || {
        let result = work(&of_job);
        // Whoever has the answer may close the store.
        drop((of_job, permit));
        // Nobody to tell when the caller gave up.
        let _ = reply.send(result);
    });
}

fn refuse<T>(reply: Reply<T>, error: StoreError) {
    // Nobody to tell when the caller gave up.
    let _ = reply.send(Err(error));
}
