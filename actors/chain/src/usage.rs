//! What modules asked of one chain: counted by module, method and endpoint, and what it costs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nexum_host_ifaces::interfaces::chain::port::RpcRow;

use crate::metrics::ChainMetrics;

/// Rows of one chain: a thousand modules with eight methods at two endpoints each.
const ROWS_MAX: usize = 16_384;
/// In place of the modules that there is no row for.
const OTHERS: &str = "other";
/// In place of the endpoint of what was not asked of one.
const SHARED: &str = "shared";

/// What a method costs that nobody says anything of: those that are not here are the heavy ones, which trace.
const COST_OF_OTHERS: u64 = 100;

/// Compute units by method, as Alchemy introduced them and others, such as Gelato, publish them. Providers differ, and change
/// them: an operator who is billed by other figures configures these.
const COSTS: &[(&str, u64)] = &[
    ("eth_blockNumber", 10),
    ("eth_call", 26),
    ("eth_chainId", 0),
    ("eth_estimateGas", 87),
    ("eth_feeHistory", 10),
    ("eth_gasPrice", 19),
    ("eth_getBalance", 19),
    ("eth_getBlockByHash", 21),
    ("eth_getBlockByNumber", 16),
    ("eth_getBlockReceipts", 500),
    ("eth_getCode", 19),
    ("eth_getLogs", 75),
    ("eth_getProof", 21),
    ("eth_getStorageAt", 17),
    ("eth_getTransactionByHash", 17),
    ("eth_getTransactionCount", 26),
    ("eth_getTransactionReceipt", 15),
    ("eth_maxPriorityFeePerGas", 10),
    ("eth_sendRawTransaction", 250),
    ("net_version", 0),
];

#[derive(Default)]
struct Counted {
    requests: u64,
    units: u64,
    errors: u64,
    bytes: u64,
    shared: u64,
}

/// By method and endpoint.
type OfModule = HashMap<(&'static str, Arc<str>), Counted>;

#[derive(Default)]
struct Rows {
    by_module: HashMap<Arc<str>, OfModule>,
    count: usize,
}

/// One for each chain, kept over restarts of its actor. Clones count together.
#[derive(Clone)]
pub struct Usage {
    chain_id: u64,
    label: Arc<str>,
    /// What the operator says that methods cost.
    costs: Arc<BTreeMap<String, u64>>,
    rows: Arc<Mutex<Rows>>,
    metrics: ChainMetrics,
}

impl Usage {
    /// `costs` takes the place of what is known of the methods in it.
    pub fn new(chain_id: u64, costs: BTreeMap<String, u64>, metrics: ChainMetrics) -> Self {
        let label = chain_id.to_string().into();
        Self { chain_id, label, costs: Arc::new(costs), rows: Arc::default(), metrics }
    }

    /// Units that a request costs.
    pub fn cost(&self, method: &str) -> u64 {
        let known = || COSTS.iter().find(|(known, _)| *known == method).map(|(_, cost)| *cost);
        self.costs.get(method).copied().or_else(known).unwrap_or(COST_OF_OTHERS)
    }

    /// A request was sent for a module. `bytes` is how long the result was, if there was one.
    pub fn sent(&self, module: &str, method: &str, endpoint: &str, bytes: Option<usize>) {
        let units = self.cost(method);
        self.metrics.module_units.with_label_values(&[&*self.label, module]).inc_by(units);
        self.count(module, method, endpoint, |row| {
            row.requests += 1;
            row.units = row.units.saturating_add(units);
            row.errors += u64::from(bytes.is_none());
            row.bytes += bytes.unwrap_or(0) as u64;
        });
    }

    /// A module was answered by what another request brought.
    pub fn shared(&self, module: &str, method: &str) {
        let labels = [&*self.label, ChainMetrics::method(method)];
        self.metrics.rpc_shared.with_label_values(&labels).inc();
        self.count(module, method, SHARED, |row| row.shared += 1);
    }

    fn count(&self, module: &str, method: &str, endpoint: &str, count: impl FnOnce(&mut Counted)) {
        // Methods are what modules make of them: those that nobody knows are one.
        let method = ChainMetrics::method(method);
        let mut rows = self.lock();
        let key = (method, Arc::from(endpoint));
        let is_there = rows.by_module.get(module).is_some_and(|of_module| of_module.contains_key(&key));
        let module = if is_there || rows.count < ROWS_MAX { module } else { OTHERS };
        let Rows { by_module, count: rows } = &mut *rows;
        // No allocation for a module that is known.
        let of_module = match by_module.get_mut(module) {
            Some(of_module) => of_module,
            None => by_module.entry(module.into()).or_default(),
        };
        let row = of_module.entry(key).or_insert_with(|| {
            *rows += 1;
            Counted::default()
        });
        count(row);
    }

    /// All rows, by module, method and endpoint.
    pub fn rows(&self) -> Vec<RpcRow> {
        let rows = self.lock();
        let of_module = rows.by_module.iter().flat_map(|(module, of_module)| {
            of_module.iter().map(move |((method, endpoint), counted)| RpcRow {
                chain_id: self.chain_id,
                module: module.to_string(),
                method: (*method).to_owned(),
                endpoint: endpoint.to_string(),
                requests: counted.requests,
                units: counted.units,
                errors: counted.errors,
                bytes: counted.bytes,
                shared: counted.shared,
            })
        });
        let mut shown: Vec<RpcRow> = of_module.collect();
        shown.sort_by(|a, b| (&a.module, &a.method, &a.endpoint).cmp(&(&b.module, &b.method, &b.endpoint)));
        shown
    }

    /// Forgets a module that was unloaded.
    pub fn forget(&self, module: &str) {
        let mut rows = self.lock();
        if let Some(of_module) = rows.by_module.remove(module) {
            rows.count -= of_module.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use prometheus::Registry;

    use super::*;

    pub(crate) fn usage() -> Usage {
        Usage::new(1, BTreeMap::new(), ChainMetrics::register(&Registry::new()).unwrap())
    }

    #[test]
    fn requests_are_counted_by_module_method_and_endpoint() {
        let costs = BTreeMap::from([("eth_call".to_owned(), 5), ("trace_block".to_owned(), 9)]);
        let usage = Usage { costs: Arc::new(costs), ..usage() };
        usage.sent("a", "eth_call", "http://x", Some(10));
        usage.sent("a", "eth_call", "http://x", None);
        usage.sent("a", "trace_block", "http://x", Some(1));
        usage.sent("a", "trace_this_and_that", "http://x", Some(2));
        usage.sent("b", "eth_getLogs", "http://y", Some(3));
        usage.shared("b", "eth_call");
        let row = |row: &RpcRow| {
            let names = format!("{} {} {}", row.module, row.method, row.endpoint);
            (names, [row.requests, row.units, row.errors, row.bytes, row.shared])
        };
        let expected = [
            ("a eth_call http://x", [2, 10, 1, 10, 0]),
            ("a other http://x", [2, 9 + COST_OF_OTHERS, 0, 3, 0]),
            ("b eth_call shared", [0, 0, 0, 0, 1]),
            ("b eth_getLogs http://y", [1, 75, 0, 3, 0]),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(names, counts)| (names.to_owned(), counts)).collect();
        assert_eq!(usage.rows().iter().map(row).collect::<Vec<_>>(), expected);
        usage.forget("a");
        assert_eq!(usage.rows().len(), 2);
    }

    #[test]
    fn modules_and_methods_without_number_do_not_take_rows_without_number() {
        let usage = usage();
        for number in 0..ROWS_MAX + 100 {
            usage.sent(&format!("module-{number}"), &format!("method_{number}"), "http://x", Some(1));
        }
        assert_eq!(usage.rows().len(), ROWS_MAX + 1);
        let others: u64 = usage.rows().iter().filter(|row| row.module == OTHERS).map(|row| row.requests).sum();
        assert_eq!(others, 100);
        // Who has a row keeps it, and one that goes makes room.
        usage.sent("module-1", "method", "http://x", Some(1));
        usage.forget("module-2");
        usage.forget("module-3");
        usage.sent("new", "eth_call", "http://x", None);
        let of =
            |module: &str| usage.rows().iter().filter(|row| row.module == module).map(|row| row.requests).sum::<u64>();
        assert_eq!((of("module-1"), of("module-2"), of("new")), (2, 0, 1));
    }
}
