//! Queries: what modules answer about their state, beside their actors.
//!
//! Invariant: a query delays nobody. It is not an event: it has an instance of its own on the threads of slow work, and
//! what becomes of it concerns whoever asked. More than there is room for is refused at once, so that nothing queues.

mod metrics;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use nexum_host_ifaces::{
    limits::Limits,
    port::Port,
    store::{ModuleInfo, StoreMsg},
    sync::lock,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use crate::instance::query::Question;
use crate::{
    admin::AdminError,
    engine::WasmEngine,
    instance::{
        Prepared,
        query::{self, Answering},
    },
    load::Plan,
};
pub(crate) use metrics::Outcome;
pub use metrics::QueryMetrics;

/// The store's answers are of its memory and take a millisecond.
const STORE_DEADLINE: Duration = Duration::from_secs(5);
/// Questions to the store at once: a quarter of what it bears of everybody besides commits, so that nobody else is refused
/// for queries.
const LOOKS_MAX: usize = 8;
/// What memory is given out in.
const MIB: usize = 1024 * 1024;

/// The bounds of queries, besides those of the module that is asked, which hold as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLimits {
    /// Starting, `init` and the query together. Whoever asks waits for it.
    pub deadline: Duration,
    /// Fuel for the same: about a fifth of a second of computing.
    pub max_fuel: u64,
    pub max_reply_bytes: usize,
    /// At once, of one module: a dashboard and somebody who looks.
    pub max_running_per_module: usize,
    /// Memory of all queries at once. Each counts with the most that it may take.
    pub max_memory_bytes: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            max_fuel: 1_000_000_000,
            max_reply_bytes: MIB,
            max_running_per_module: 4,
            max_memory_bytes: 512 * MIB,
        }
    }
}

/// A module as queries find it, whatever its actor is at.
pub struct Asked {
    pub plan: Arc<Plan>,
    pub prepared: Arc<Prepared>,
}

/// A plan, and its component linked for queries; nothing where it answers none.
type Linked = (Arc<Plan>, Option<Arc<Answering>>);

/// What all queries share.
pub struct Queries {
    pub limits: QueryLimits,
    /// So many MiB are left.
    memory: Arc<Semaphore>,
    looks: Semaphore,
    /// How many run, by module; absent where none does.
    running: Arc<Mutex<BTreeMap<Arc<str>, usize>>>,
    /// Each module's component as it was last linked for queries, and the plan that it was linked for.
    linked: Mutex<BTreeMap<Arc<str>, Linked>>,
    pub metrics: QueryMetrics,
}

/// Room for one query, given back when it is dropped.
pub struct Room {
    module: Arc<str>,
    running: Arc<Mutex<BTreeMap<Arc<str>, usize>>>,
    metrics: QueryMetrics,
    /// What its instance may have.
    memory_bytes: usize,
    _memory: OwnedSemaphorePermit,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        let Some(count) = running.get_mut(&self.module) else { unreachable!("a query of {} had no room", self.module) };
        *count -= 1;
        if *count == 0 {
            running.remove(&self.module);
        }
        self.metrics.running.dec();
    }
}

impl Queries {
    pub fn new(limits: QueryLimits, metrics: QueryMetrics) -> Self {
        let memory = Arc::new(Semaphore::new((limits.max_memory_bytes / MIB).min(Semaphore::MAX_PERMITS)));
        let looks = Semaphore::new(LOOKS_MAX);
        Self { limits, memory, looks, running: Arc::default(), linked: Mutex::default(), metrics }
    }

    /// Room for a query of a module whose instances may have so much memory.
    ///
    /// # Errors
    /// That there is none now.
    pub fn room(&self, module: &Arc<str>, max_memory_bytes: usize) -> Result<Room, AdminError> {
        let busy = |what: &str| {
            self.metrics.count(module, Outcome::Busy);
            AdminError::Busy(format!("{module}: {what}: ask again later"))
        };
        let memory_bytes = max_memory_bytes.min(self.limits.max_memory_bytes);
        let mut running = lock(&self.running);
        let count = running.get(module).copied().unwrap_or_default();
        if count >= self.limits.max_running_per_module {
            return Err(busy("as many of its queries run as may at once"));
        }
        // What is left of the last MiB is nobody's.
        let mebibytes = memory_bytes.div_ceil(MIB).min(self.limits.max_memory_bytes / MIB);
        let permits = u32::try_from(mebibytes).unwrap_or(u32::MAX);
        let Ok(memory) = self.memory.clone().try_acquire_many_owned(permits) else {
            return Err(busy("the queries that run have all the memory that they may"));
        };
        running.insert(module.clone(), count + 1);
        self.metrics.running.inc();
        let (module, running, metrics) = (module.clone(), self.running.clone(), self.metrics.clone());
        Ok(Room { module, running, metrics, memory_bytes, _memory: memory })
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        lock(&self.linked).remove(module);
        self.metrics.forget(module);
    }

    /// The module's component, linked for queries.
    pub fn answering(&self, engine: &WasmEngine, asked: &Asked) -> Result<Option<Arc<Answering>>, AdminError> {
        let name = &asked.plan.manifest.name;
        if let Some((plan, linked)) = lock(&self.linked).get(name)
            && Arc::ptr_eq(plan, &asked.plan)
        {
            return Ok(linked.clone());
        }
        let grants = asked.plan.grants.in_query();
        let linked = query::prepare(engine, &asked.prepared, &grants, name);
        let linked = linked.map_err(AdminError::Refused)?.map(Arc::new);
        let mut all = lock(&self.linked);
        // Versions that are not in force any more, and modules that were unloaded while a query was linked.
        all.retain(|_, (plan, _)| Arc::strong_count(plan) > 1);
        all.insert(name.clone(), (asked.plan.clone(), linked.clone()));
        Ok(linked)
    }

    /// What the store knows of a module.
    pub async fn look(&self, store: &Port<StoreMsg>, name: &str) -> Result<ModuleInfo, AdminError> {
        // The semaphore is never closed.
        let _place = self.looks.acquire().await;
        let inspect = |reply| StoreMsg::Inspect { name: name.to_owned(), reply };
        let found = store.call(STORE_DEADLINE, inspect).await;
        let found = found.map_err(|error| AdminError::Unavailable(error.to_string()))?;
        found.map_err(|error| AdminError::Unavailable(error.to_string()))
    }

    /// The limits of a query of this module.
    pub fn limits_of(&self, plan: &Plan, room: &Room) -> Limits {
        let event_deadline = plan.limits.event_deadline.min(self.limits.deadline);
        Limits {
            max_memory_bytes: room.memory_bytes,
            max_fuel_per_event: plan.limits.max_fuel_per_event.min(self.limits.max_fuel),
            event_deadline,
            host_call_deadline: plan.limits.host_call_deadline.min(event_deadline),
            ..(*plan.limits).clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::Registry;
    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;

    /// A store that answers nobody, and counts who asks.
    struct Silent(Arc<AtomicUsize>);

    impl Actor for Silent {
        type Msg = StoreMsg;
        type State = Vec<StoreMsg>;
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<Vec<StoreMsg>, ActorProcessingErr> {
            Ok(Vec::new())
        }

        async fn handle(
            &self,
            _: ActorRef<StoreMsg>,
            message: StoreMsg,
            asked: &mut Vec<StoreMsg>,
        ) -> Result<(), ActorProcessingErr> {
            asked.push(message);
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[tokio::test]
    async fn queries_leave_the_store_places_for_others() {
        let (queries, count, port) = (Arc::new(queries(QueryLimits::default()).0), Arc::default(), Port::new("store"));
        port.bind(Actor::spawn(None, Silent(Arc::clone(&count)), ()).await.unwrap().0);
        for _ in 0..LOOKS_MAX + 4 {
            let (queries, port) = (queries.clone(), port.clone());
            tokio::spawn(async move { queries.look(&port, "m").await.is_ok() });
        }
        let reached = async {
            while count.load(Ordering::Relaxed) < LOOKS_MAX {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(4), reached).await.unwrap();
        // All that could come has, by now.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(count.load(Ordering::Relaxed), LOOKS_MAX);
    }

    fn queries(limits: QueryLimits) -> (Queries, QueryMetrics) {
        let metrics = QueryMetrics::register(&Registry::new()).unwrap();
        (Queries::new(limits, metrics.clone()), metrics)
    }

    #[test]
    fn there_is_room_for_so_many_queries_of_a_module_and_so_much_memory_of_all() {
        let limits = QueryLimits { max_running_per_module: 2, max_memory_bytes: 3 * MIB, ..QueryLimits::default() };
        let (queries, metrics) = queries(limits);
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        let first = queries.room(&a, MIB).ok().unwrap();
        let second = queries.room(&a, MIB).ok().unwrap();
        assert_eq!(metrics.running.get(), 2);
        let refusal = |module: &Arc<str>, bytes| queries.room(module, bytes).err().unwrap().to_string();
        assert_eq!(refusal(&a, 1), "a: as many of its queries run as may at once: ask again later");
        assert_eq!(refusal(&b, MIB + 1), "b: the queries that run have all the memory that they may: ask again later");
        let third = queries.room(&b, MIB).ok().unwrap();
        drop((first, second, third));
        assert_eq!(metrics.running.get(), 0);
        let whole = queries.room(&b, usize::MAX).ok().unwrap();
        assert_eq!(whole.memory_bytes, 3 * MIB, "whoever may have more than there is has what there is");
        assert!(queries.room(&a, 1).is_err());
    }
}
