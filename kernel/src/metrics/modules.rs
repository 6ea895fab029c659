//! What is counted of each module: a few hundred bytes for a module, which become series when somebody scrapes.
//!
//! Whoever scrapes and keeps series pays for each, so that a module has those that an operator acts on. Histograms are of
//! all modules together, unless the operator wants them for each.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use nexum_host_ifaces::sync::lock;
use prometheus::{
    core::{Collector, Desc},
    proto::{self, MetricType},
};

use crate::histogram::{Histogram, Scale};

/// What a module can be called with.
const KINDS: [&str; 8] = ["init", "block", "logs", "tick", "reorg", "outcome", "retry", "message"];

/// In how many parts a histogram of all modules is kept: more than one for each thread of most machines, so that hardly
/// ever two write the same.
const PARTS: usize = 16;

/// From a tenth of a millisecond (a block handler) to the default event deadline.
static DURATION: Scale = Scale {
    bounds: &[
        100_000,
        500_000,
        1_000_000,
        5_000_000,
        10_000_000,
        50_000_000,
        100_000_000,
        500_000_000,
        1_000_000_000,
        5_000_000_000,
        30_000_000_000,
        120_000_000_000,
    ],
    in_one: 1e9,
};
/// Fine around the goals: a head reaches its guests within milliseconds.
static LATENCY: Scale = Scale {
    bounds: &[
        100_000,
        200_000,
        300_000,
        500_000,
        750_000,
        1_000_000,
        1_500_000,
        2_000_000,
        3_000_000,
        5_000_000,
        7_500_000,
        10_000_000,
        15_000_000,
        20_000_000,
        30_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        1_000_000_000,
        10_000_000_000,
    ],
    in_one: 1e9,
};
static FUEL: Scale =
    Scale { bounds: &[1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000], in_one: 1.0 };

/// A number that many may add to, or that one sets.
#[derive(Default)]
pub struct Number(AtomicU64);

impl Number {
    pub fn inc(&self) {
        self.inc_by(1);
    }

    pub fn inc_by(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64
    }

    /// The value; none while it is 0.
    fn used(&self) -> Option<f64> {
        Some(self.value()).filter(|value| *value > 0.0)
    }
}

/// Events of one kind.
#[derive(Default)]
pub struct KindCounts {
    pub dispatched: Number,
    pub processed: Number,
    pub failed: Number,
}

/// Of one module, or of all of them.
struct Histograms {
    duration: [Histogram; KINDS.len()],
    latency: [Histogram; KINDS.len()],
    fuel: Histogram,
}

impl Histograms {
    fn new(width: usize) -> Self {
        Self {
            duration: std::array::from_fn(|_| Histogram::new(&DURATION, width)),
            latency: std::array::from_fn(|_| Histogram::new(&LATENCY, width)),
            fuel: Histogram::new(&FUEL, width),
        }
    }
}

/// What is counted of one module, over all of its instances, until it is unloaded.
pub struct ModuleMetrics {
    kinds: [KindCounts; KINDS.len()],
    pub skipped: Number,
    pub restarts: Number,
    pub consecutive_failures: Number,
    pub state_bytes_used: Number,
    state_bytes_limit: Number,
    pub memory_bytes_used: Number,
    pub expected_event_age: Number,
    pub log_lines_dropped: Number,
    /// How long its work kept a thread.
    pub busy_ns: Number,
    /// Of all of its calls, however they ended.
    pub fuel: Number,
    /// Whether there is or was an instance, which is what most of it is about.
    has_started: AtomicBool,
    histograms: Arc<Histograms>,
    /// Which part of each histogram it writes.
    part: usize,
}

impl ModuleMetrics {
    fn new(histograms: Arc<Histograms>, part: usize) -> Self {
        Self {
            kinds: Default::default(),
            skipped: Number::default(),
            restarts: Number::default(),
            consecutive_failures: Number::default(),
            state_bytes_used: Number::default(),
            state_bytes_limit: Number::default(),
            memory_bytes_used: Number::default(),
            expected_event_age: Number::default(),
            log_lines_dropped: Number::default(),
            busy_ns: Number::default(),
            fuel: Number::default(),
            has_started: AtomicBool::new(false),
            histograms,
            part,
        }
    }

    /// Takes in that the module gets an instance, with this quota of its state.
    pub fn start(&self, state_bytes_limit: u64) {
        self.state_bytes_limit.set(state_bytes_limit);
        self.has_started.store(true, Ordering::Relaxed);
    }

    /// The counters of one event kind.
    pub fn kind(&self, kind: &str) -> &KindCounts {
        &self.kinds[index(kind)]
    }

    /// How long guest and host calls of one event took.
    pub fn observe_duration(&self, kind: &str, ns: u64) {
        self.histograms.duration[index(kind)].observe(self.part, ns);
    }

    /// How long after a source saw it an event was handed to the guest.
    pub fn observe_latency(&self, kind: &str, ns: u64) {
        self.histograms.latency[index(kind)].observe(self.part, ns);
    }

    /// What one event took.
    pub fn observe_fuel(&self, fuel: u64) {
        self.histograms.fuel.observe(self.part, fuel);
    }

    /// What is only there once there was an instance.
    fn started(&self, value: f64) -> Option<f64> {
        self.has_started.load(Ordering::Relaxed).then_some(value)
    }
}

fn index(kind: &str) -> usize {
    match KINDS.iter().position(|known| *known == kind) {
        Some(index) => index,
        None => unreachable!("no module is called with a `{kind}`"),
    }
}

/// Series of every module.
struct OfModule {
    name: &'static str,
    help: &'static str,
    shape: MetricType,
    read: fn(&ModuleMetrics) -> Option<f64>,
}

/// Series of every module for each kind of event that it was called with: counters.
struct OfKind {
    name: &'static str,
    help: &'static str,
    read: fn(&KindCounts) -> Option<f64>,
}

/// A histogram, and the kind of event that it is about, if it is about one.
type Labelled<'a> = (Option<&'static str>, &'a Histogram);

/// Histograms of one name.
struct OfHistograms {
    name: &'static str,
    help: &'static str,
    has_kinds: bool,
    all: fn(&Histograms) -> Vec<Labelled<'_>>,
}

static OF_MODULE: [OfModule; 10] = [
    OfModule {
        name: "nexum_events_skipped_total",
        help: "Events a subscription's `missed` rule left out.",
        shape: MetricType::COUNTER,
        read: |module| module.skipped.used(),
    },
    OfModule {
        name: "nexum_restarts_total",
        help: "Fresh instances after a failure.",
        shape: MetricType::COUNTER,
        read: |module| module.restarts.used(),
    },
    OfModule {
        name: "nexum_consecutive_failures",
        help: "Failures in a row; a handled event resets it.",
        shape: MetricType::GAUGE,
        read: |module| Some(module.consecutive_failures.value()),
    },
    OfModule {
        name: "nexum_state_bytes_used",
        help: "Keys plus values of the module's state.",
        shape: MetricType::GAUGE,
        read: |module| module.started(module.state_bytes_used.value()),
    },
    OfModule {
        name: "nexum_state_bytes_limit",
        help: "Quota of the module's state.",
        shape: MetricType::GAUGE,
        read: |module| module.started(module.state_bytes_limit.value()),
    },
    OfModule {
        name: "nexum_memory_bytes_used",
        help: "Linear memory of the module's instance.",
        shape: MetricType::GAUGE,
        read: |module| module.started(module.memory_bytes_used.value()),
    },
    OfModule {
        name: "nexum_expected_event_age_seconds",
        help: "How long the oldest event waits that the module should have handled.",
        shape: MetricType::GAUGE,
        read: |module| Some(module.expected_event_age.value()),
    },
    OfModule {
        name: "nexum_log_lines_dropped_total",
        help: "Log lines over the module's rate.",
        shape: MetricType::COUNTER,
        read: |module| module.log_lines_dropped.used(),
    },
    OfModule {
        name: "nexum_module_busy_seconds_total",
        help: "How long the module's work kept a thread.",
        shape: MetricType::COUNTER,
        read: |module| module.started(module.busy_ns.value() / 1e9),
    },
    OfModule {
        name: "nexum_module_fuel_total",
        help: "Fuel of the module's calls, failed ones too.",
        shape: MetricType::COUNTER,
        read: |module| module.started(module.fuel.value()),
    },
];

static OF_KIND: [OfKind; 3] = [
    OfKind {
        name: "nexum_events_dispatched_total",
        help: "Events handed to a guest.",
        read: |kind| kind.dispatched.used(),
    },
    OfKind {
        name: "nexum_events_processed_total",
        help: "Events handled and committed.",
        // From the first event that was handed over, so that what hangs is seen beside it.
        read: |kind| kind.dispatched.used().map(|_| kind.processed.value()),
    },
    OfKind { name: "nexum_events_failed_total", help: "Failed attempts at events.", read: |kind| kind.failed.used() },
];

static OF_HISTOGRAMS: [OfHistograms; 3] = [
    OfHistograms {
        name: "nexum_event_duration_seconds",
        help: "Guest and host calls of one event.",
        has_kinds: true,
        all: durations,
    },
    OfHistograms {
        name: "nexum_dispatch_latency_seconds",
        help: "From a source seeing an event to the guest's call.",
        has_kinds: true,
        all: latencies,
    },
    OfHistograms { name: "nexum_fuel_consumed", help: "Fuel per event.", has_kinds: false, all: fuels },
];

fn durations(of: &Histograms) -> Vec<(Option<&'static str>, &Histogram)> {
    KINDS.into_iter().map(Some).zip(&of.duration).collect()
}

fn latencies(of: &Histograms) -> Vec<(Option<&'static str>, &Histogram)> {
    KINDS.into_iter().map(Some).zip(&of.latency).collect()
}

fn fuels(of: &Histograms) -> Vec<(Option<&'static str>, &Histogram)> {
    vec![(None, &of.fuel)]
}

type Known = BTreeMap<Arc<str>, Arc<ModuleMetrics>>;

/// What is counted of all modules, as one collector.
#[derive(Clone)]
pub(super) struct Modules(Arc<Inner>);

struct Inner {
    descs: Vec<Desc>,
    /// Of all modules together; absent when each has its own.
    together: Option<Arc<Histograms>>,
    known: Mutex<Known>,
    made: AtomicUsize,
}

impl Modules {
    /// `each`: histograms have the label `module`.
    pub(super) fn new(each: bool) -> prometheus::Result<Self> {
        let of_module = OF_MODULE.iter().map(|series| (series.name, series.help, false, true));
        let of_kind = OF_KIND.iter().map(|series| (series.name, series.help, true, true));
        let histograms = OF_HISTOGRAMS.iter().map(|series| (series.name, series.help, series.has_kinds, each));
        let desc = |(name, help, has_kinds, has_module): (&str, &str, bool, bool)| {
            let labels = [("event_type", has_kinds), ("module", has_module)].into_iter();
            let labels = labels.filter(|(_, has)| *has).map(|(label, _)| label.to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let descs = of_module.chain(of_kind).chain(histograms).map(desc).collect::<prometheus::Result<Vec<_>>>()?;
        let together = (!each).then(|| Arc::new(Histograms::new(PARTS)));
        Ok(Self(Arc::new(Inner { descs, together, known: Mutex::default(), made: AtomicUsize::new(0) })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.0.known)
    }

    pub(super) fn of(&self, module: &Arc<str>) -> Arc<ModuleMetrics> {
        let fresh = || {
            let histograms = self.0.together.clone().unwrap_or_else(|| Arc::new(Histograms::new(1)));
            Arc::new(ModuleMetrics::new(histograms, self.0.made.fetch_add(1, Ordering::Relaxed)))
        };
        self.known().entry(module.clone()).or_insert_with(fresh).clone()
    }

    pub(super) fn forget(&self, module: &str) {
        self.known().remove(module);
    }

    fn histograms(&self, series: &OfHistograms, known: &[(Arc<str>, Arc<ModuleMetrics>)]) -> Vec<proto::Metric> {
        let read = |of: &Histograms, module: Option<&str>| -> Vec<proto::Metric> {
            let read = |(kind, histogram): (Option<&'static str>, &Histogram)| {
                let mut metric = labelled(kind, module);
                metric.set_histogram(histogram.read()?);
                Some(metric)
            };
            (series.all)(of).into_iter().filter_map(read).collect()
        };
        match &self.0.together {
            Some(together) => read(together.as_ref(), None),
            None => known.iter().flat_map(|(name, module)| read(module.histograms.as_ref(), Some(&**name))).collect(),
        }
    }
}

/// A metric with these labels, in the order of their names.
fn labelled(kind: Option<&str>, module: Option<&str>) -> proto::Metric {
    let labels = [("event_type", kind), ("module", module)].into_iter();
    let labels = labels.filter_map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value?.to_owned());
        Some(pair)
    });
    proto::Metric::from_label(labels.collect())
}

fn with_value(mut metric: proto::Metric, shape: MetricType, value: f64) -> proto::Metric {
    if shape == MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

fn family(name: &str, help: &str, shape: MetricType, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(shape);
    family.set_metric(metrics);
    family
}

impl Collector for Modules {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        // Modules that start meanwhile do not wait for a scrape of thousands.
        let known: Vec<_> = self.known().iter().map(|(name, module)| (name.clone(), module.clone())).collect();
        let of_module = OF_MODULE.iter().map(|series| {
            let read = |(name, module): &(Arc<str>, Arc<ModuleMetrics>)| {
                (series.read)(module).map(|value| with_value(labelled(None, Some(&**name)), series.shape, value))
            };
            family(series.name, series.help, series.shape, known.iter().filter_map(read).collect())
        });
        let of_kind = OF_KIND.iter().map(|series| {
            let mut metrics = Vec::new();
            for (name, module) in &known {
                for (kind, counts) in KINDS.into_iter().zip(&module.kinds) {
                    if let Some(value) = (series.read)(counts) {
                        metrics.push(with_value(labelled(Some(kind), Some(&**name)), MetricType::COUNTER, value));
                    }
                }
            }
            family(series.name, series.help, MetricType::COUNTER, metrics)
        });
        let histograms = OF_HISTOGRAMS
            .iter()
            .map(|series| family(series.name, series.help, MetricType::HISTOGRAM, self.histograms(series, &known)));
        of_module.chain(of_kind).chain(histograms).collect()
    }
}

#[cfg(test)]
mod tests;
