//! The budgets of all modules, whatever chain they ask: one for all chain actors, and kept over their restarts.
//!
//! Invariant: what counts for a day is written before it is asked. Each module waits for its own budget alone.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    HostError, HostErrorKind,
    clock::Clock,
    interfaces::chain::port::{CODE_OVER_BUDGET, RpcBudget, RpcSpent},
    port::{Port, PortError},
    store::{RecordWrite, StoreMsg},
};

use crate::{
    budget::{Cost, Day, Days, Limit, Paces, Refusal},
    metrics::ChainMetrics,
};

/// Whose records these are.
const SERVICE: &str = "rpc-budgets";
const STORE_DEADLINE: Duration = Duration::from_secs(10);
/// The longest wait for a budget of a second. A guest that waits longer does nothing else meanwhile, and should know.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Calls of one module that wait at once. A guest makes one at a time; the others are of its outbox.
const WAITING_MAX: usize = 32;

#[derive(Default)]
struct Counted {
    budget: RpcBudget,
    paces: Paces,
    /// Absent until it was read.
    days: Option<Days>,
}

#[derive(Default)]
struct Account {
    /// Held while the day is read and written.
    turn: tokio::sync::Mutex<()>,
    counted: Mutex<Counted>,
    waiting: AtomicUsize,
    refused: AtomicU64,
    waited: AtomicU64,
}

impl Account {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that waits, as long as it is there.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Option<Self> {
        let this = Self(waiting);
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        (before < WAITING_MAX).then_some(this)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Clones count together.
#[derive(Clone)]
pub struct Budgets {
    accounts: Arc<Mutex<HashMap<Arc<str>, Arc<Account>>>>,
    store: Port<StoreMsg>,
    clock: Arc<dyn Clock>,
    metrics: ChainMetrics,
}

impl Budgets {
    pub fn new(store: Port<StoreMsg>, clock: Arc<dyn Clock>, metrics: ChainMetrics) -> Self {
        Self { accounts: Arc::default(), store, clock, metrics }
    }

    /// Lets this be asked as soon as the module's budget does, if that is soon enough for a call that may take so long.
    ///
    /// # Errors
    /// `rate-limited` (−32029), with the limit, whose it is, and in `data` after how many milliseconds to try again.
    /// `unavailable` when the day's budget cannot be read or written.
    pub async fn spend(
        &self,
        module: &Arc<str>,
        budget: &RpcBudget,
        cost: Cost,
        deadline: Duration,
    ) -> Result<(), HostError> {
        if budget.is_unlimited() {
            return Ok(());
        }
        let account = self.account(module);
        let refused = |refusal: Refusal| {
            account.refused.fetch_add(1, Ordering::Relaxed);
            self.metrics.module_refused.with_label_values(&[&**module]).inc();
            over(module, refusal)
        };
        // What is left after the wait is for the request.
        let at_most = (deadline / 2).min(WAIT_MAX);
        let waits = {
            let _turn = account.turn.lock().await;
            let paces = account.counted().paces;
            let paced = paces.wait(budget, cost, self.clock.monotonic_ns(), at_most);
            // Nothing is counted of what finds no place to wait.
            let paced = paced.and_then(|(wait, paces)| Ok((place(&account.waiting, budget, wait)?, paces)));
            // The day first: what it refuses is not worth a wait, or a place among those that wait.
            if budget.has_day()
                && let Some(refusal) = self.of_the_day(module, &account, budget, cost, paced.is_ok()).await?
            {
                return Err(refused(refusal));
            }
            let (waits, paces) = paced.map_err(refused)?;
            let mut counted = account.counted();
            (counted.paces, counted.budget) = (paces, *budget);
            waits
        };
        if let Some((wait, _waits)) = waits {
            account.waited.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Counts this for the day, if it `goes`, or tells why it cannot.
    async fn of_the_day(
        &self,
        module: &str,
        account: &Account,
        budget: &RpcBudget,
        cost: Cost,
        goes: bool,
    ) -> Result<Option<Refusal>, HostError> {
        let known = account.counted().days;
        let days = match known {
            Some(days) => days,
            None => Days::of(self.read(module).await?),
        };
        let step = days.step(budget, cost, self.clock.now_ms());
        if step.refusal.is_none() && !goes {
            return Ok(None);
        }
        if let Some(day) = step.write {
            self.write(module, day).await?;
        }
        let mut counted = account.counted();
        (counted.days, counted.budget) = (Some(step.days), *budget);
        Ok(step.refusal)
    }

    async fn read(&self, module: &str) -> Result<Option<Day>, HostError> {
        let prefix = key(module);
        let asked = |reply| StoreMsg::Records { service: SERVICE, prefix, after: None, limit: 1, reply };
        let found = self.store.call(STORE_DEADLINE, asked).await.map_err(no_store)?;
        let found = found.map_err(|error| unavailable(error.to_string()))?;
        let Some((_, record)) = found.into_iter().next() else { return Ok(None) };
        let unread =
            |error| unavailable(format!("what {module} has used of the day's RPC budget cannot be read: {error}"));
        serde_json::from_slice(&record).map(Some).map_err(unread)
    }

    async fn write(&self, module: &str, day: Day) -> Result<(), HostError> {
        let value = serde_json::to_vec(&day).map_err(|error| unavailable(error.to_string()))?;
        let writes = vec![RecordWrite { key: key(module), value: Some(value) }];
        let asked = |reply| StoreMsg::WriteRecords { service: SERVICE, writes, reply };
        let written = self.store.call(STORE_DEADLINE, asked).await.map_err(no_store)?;
        written.map_err(|error| unavailable(error.to_string()))
    }

    fn account(&self, module: &Arc<str>) -> Arc<Account> {
        self.accounts().entry(module.clone()).or_default().clone()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far those are used that were asked of since the engine started, by module.
    pub fn spent(&self) -> Vec<RpcSpent> {
        let now_ms = self.clock.now_ms();
        let spent = |(module, account): (&Arc<str>, &Arc<Account>)| {
            let counted = account.counted();
            let today = counted.days.map(|days| days.used(now_ms)).filter(|_| counted.budget.has_day());
            RpcSpent {
                module: module.to_string(),
                budget: counted.budget,
                requests_today: today.map_or(0, |today| today.requests),
                units_today: today.map_or(0, |today| today.units),
                day_ends_ms: today.map(|today| today.ends_ms()),
                refused: account.refused.load(Ordering::Relaxed),
                waited: account.waited.load(Ordering::Relaxed),
            }
        };
        let mut all: Vec<_> = self.accounts().iter().map(spent).collect();
        all.sort_by(|a, b| a.module.cmp(&b.module));
        all
    }

    /// Forgets a module that was unloaded. What it has used of the day stays written.
    pub fn forget(&self, module: &str) {
        self.accounts().remove(module);
    }
}

/// A place to wait for so long; none is needed where there is no wait.
fn place<'a>(
    waiting: &'a AtomicUsize,
    budget: &RpcBudget,
    wait: Duration,
) -> Result<Option<(Duration, Waits<'a>)>, Refusal> {
    if wait.is_zero() {
        return Ok(None);
    }
    if let Some(waits) = Waits::new(waiting) {
        return Ok(Some((wait, waits)));
    }
    let limit = budget.requests_per_second.map(Limit::RequestsPerSecond);
    let limit = limit.or(budget.units_per_second.map(Limit::UnitsPerSecond));
    let Some(limit) = limit else { unreachable!("only a budget of a second is waited for") };
    Err(Refusal { limit, retry_after: wait })
}

/// Where a module's day is written. No name of a module has a zero in it, so that none begins with another one's.
fn key(module: &str) -> Vec<u8> {
    [module.as_bytes(), &[0]].concat()
}

fn over(module: &str, Refusal { limit, retry_after }: Refusal) -> HostError {
    let (key, most) = (limit.key(), limit.of());
    let (what, period) = key.split_once("_per_").unwrap_or((key, "period"));
    let millis = retry_after.as_millis();
    let message = format!(
        "module {module} has used up its RPC budget of {most} {what} per {period}, which the engine's operator sets as \
         `rpc.{key}` of its [[modules]] entry; try again after {millis} ms"
    );
    HostError::new("chain", HostErrorKind::RateLimited, message)
        .with_code(CODE_OVER_BUDGET)
        .with_data(millis.to_string())
}

fn unavailable(message: String) -> HostError {
    HostError::new("chain", HostErrorKind::Unavailable, message)
}

fn no_store(error: PortError) -> HostError {
    unavailable(format!("the RPC budget of the day: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prometheus::Registry;
    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;

    /// A store that keeps records, in a memory that outlives it.
    struct Memory(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

    impl Actor for Memory {
        type Msg = StoreMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<StoreMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(&self, _: ActorRef<StoreMsg>, message: StoreMsg, _: &mut ()) -> Result<(), ActorProcessingErr> {
            let mut records = self.0.lock().unwrap();
            match message {
                StoreMsg::Records { prefix, reply, .. } => {
                    let found = records.iter().filter(|(key, _)| key.starts_with(&prefix));
                    let found = found.map(|(key, value)| (key.clone(), value.clone())).collect();
                    drop(reply.send(Ok(found)));
                }
                StoreMsg::WriteRecords { writes, reply, .. } => {
                    for write in writes {
                        records.insert(write.key, write.value.unwrap());
                    }
                    drop(reply.send(Ok(())));
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        }
    }

    struct Noon;

    impl Clock for Noon {
        fn now_ms(&self) -> u64 {
            20_000 * 86_400_000 + 43_200_000
        }

        fn monotonic_ns(&self) -> u64 {
            1_000_000_000_000
        }
    }

    const ONE: Cost = Cost { requests: 1, units: 26 };
    const DEADLINE: Duration = Duration::from_secs(1);

    async fn budgets(records: &Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>) -> Budgets {
        let port = Port::new("store");
        port.bind(Actor::spawn(None, Memory(records.clone()), ()).await.unwrap().0);
        Budgets::new(port, Arc::new(Noon), ChainMetrics::register(&Registry::new()).unwrap())
    }

    #[tokio::test]
    async fn a_restart_does_not_give_the_day_back_and_neighbours_have_their_own() {
        let records = Arc::default();
        let budget = RpcBudget { requests_per_day: Some(3), ..RpcBudget::default() };
        let (mine, others): (Arc<str>, Arc<str>) = ("m".into(), "m2".into());
        let before = budgets(&records).await;
        for _ in 0..2 {
            before.spend(&mine, &budget, ONE, DEADLINE).await.unwrap();
        }
        // Another process finds what was written.
        let after = budgets(&records).await;
        after.spend(&mine, &budget, ONE, DEADLINE).await.unwrap();
        let error = after.spend(&mine, &budget, ONE, DEADLINE).await.unwrap_err();
        assert_eq!((error.kind, error.code), (HostErrorKind::RateLimited, CODE_OVER_BUDGET));
        assert_eq!(error.data.as_deref(), Some("43200000"));
        assert_eq!(
            error.message,
            "module m has used up its RPC budget of 3 requests per day, which the engine's operator sets as \
             `rpc.requests_per_day` of its [[modules]] entry; try again after 43200000 ms"
        );
        after.spend(&others, &budget, ONE, DEADLINE).await.unwrap();
        after.forget("m");
        assert!(after.spend(&mine, &budget, ONE, DEADLINE).await.is_err(), "nor does loading it again");
        let spent = after.spent();
        assert_eq!(spent.iter().map(|spent| &*spent.module).collect::<Vec<_>>(), ["m", "m2"]);
        assert_eq!((spent[0].requests_today, spent[0].refused, spent[1].requests_today), (3, 1, 1));
        assert_eq!(spent[0].day_ends_ms, Some(20_001 * 86_400_000));
    }

    #[tokio::test]
    async fn what_cannot_be_counted_is_not_asked() {
        let budgets = Budgets { store: Port::new("store"), ..budgets(&Arc::default()).await };
        let budget = RpcBudget { units_per_day: Some(100), ..RpcBudget::default() };
        let error = budgets.spend(&"m".into(), &budget, ONE, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind, HostErrorKind::Unavailable);
        budgets.spend(&"m".into(), &RpcBudget::default(), ONE, DEADLINE).await.unwrap();
    }

    #[tokio::test]
    async fn what_finds_no_place_to_wait_costs_nothing() {
        let budgets = budgets(&Arc::default()).await;
        let budget = RpcBudget { requests_per_second: Some(1), requests_per_day: Some(100), ..RpcBudget::default() };
        let (module, deadline): (Arc<str>, _) = ("m".into(), Duration::from_secs(20));
        budgets.spend(&module, &budget, ONE, deadline).await.unwrap();
        let account = budgets.account(&module);
        account.waiting.store(WAITING_MAX, Ordering::Relaxed);
        for _ in 0..3 {
            let error = budgets.spend(&module, &budget, ONE, deadline).await.unwrap_err();
            assert_eq!((error.code, error.data.as_deref()), (CODE_OVER_BUDGET, Some("1000")));
        }
        assert_eq!((budgets.spent()[0].requests_today, budgets.spent()[0].refused), (1, 3));
        assert_eq!(account.waiting.load(Ordering::Relaxed), WAITING_MAX);
    }

    #[tokio::test]
    async fn what_is_due_soon_waits_and_what_is_not_is_refused() {
        let budgets = budgets(&Arc::default()).await;
        let budget = RpcBudget { requests_per_second: Some(100), ..RpcBudget::default() };
        let module: Arc<str> = "m".into();
        let burst = Cost { requests: 100, units: 0 };
        budgets.spend(&module, &budget, burst, DEADLINE).await.unwrap();
        budgets.spend(&module, &budget, ONE, DEADLINE).await.unwrap();
        let error = budgets.spend(&module, &budget, burst, DEADLINE).await.unwrap_err();
        assert!(error.message.contains("100 requests per second"), "{}", error.message);
        let spent = budgets.spent();
        assert_eq!((spent[0].refused, spent[0].waited, spent[0].day_ends_ms), (1, 1, None));
    }
}
