//! Histograms by label, small enough for ten thousand modules: those of the client library take more than a kilobyte each.
//!
//! Invariant: what a scrape reads of one histogram is consistent in itself, because its count is the sum of its buckets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus::{
    core::{Collector, Desc},
    proto,
};

/// Counts observations by upper bound. Written by one module's actor, read by scrapes.
pub struct Histogram {
    bounds: Arc<[f64]>,
    /// One per bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum_bits: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, value: f64) {
        let index = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It always answers a new sum, so that the update cannot fail.
        let _ = self.sum_bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn read(&self) -> proto::Histogram {
        let mut total = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (index, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(index) {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(total);
                buckets.push(bucket);
            }
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(total);
        histogram.set_sample_sum(f64::from_bits(self.sum_bits.load(Ordering::Relaxed)));
        histogram
    }
}

type Labels = Box<[Box<str>]>;

/// The histograms of one name, by the values of its labels.
#[derive(Clone)]
pub struct HistogramVec(Arc<Inner>);

struct Inner {
    desc: Desc,
    bounds: Arc<[f64]>,
    all: Mutex<BTreeMap<Labels, Arc<Histogram>>>,
}

impl HistogramVec {
    /// `bounds` are upper bounds in ascending order; everything above the last is counted too.
    pub fn new(name: &str, help: &str, labels: &[&str], bounds: &[f64]) -> prometheus::Result<Self> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        Ok(Self(Arc::new(Inner { desc, bounds: bounds.into(), all: Mutex::default() })))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Labels, Arc<Histogram>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The histogram of these label values, in the order of the labels; made when there is none.
    pub fn with_label_values(&self, values: &[&str]) -> Arc<Histogram> {
        let key: Labels = values.iter().map(|value| Box::from(*value)).collect();
        let bounds = &self.0.bounds;
        let fresh = || {
            let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
            Arc::new(Histogram { bounds: bounds.clone(), counts, sum_bits: AtomicU64::new(0) })
        };
        self.all().entry(key).or_insert_with(fresh).clone()
    }

    /// Forgets a histogram, if there is one.
    pub fn remove_label_values(&self, values: &[&str]) {
        let key: Labels = values.iter().map(|value| Box::from(*value)).collect();
        self.all().remove(&key);
    }
}

impl Collector for HistogramVec {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let desc = &self.0.desc;
        let label = |name: &String, value: &str| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value.to_owned());
            pair
        };
        let metric = |(values, histogram): (&Labels, &Arc<Histogram>)| {
            let mut labels: Vec<_> =
                desc.variable_labels.iter().zip(values).map(|(name, value)| label(name, value)).collect();
            labels.sort_by(|a, b| a.name().cmp(b.name()));
            let mut metric = proto::Metric::from_label(labels);
            metric.set_histogram(histogram.read());
            metric
        };
        let mut family = proto::MetricFamily::default();
        family.set_name(desc.fq_name.clone());
        family.set_help(desc.help.clone());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(self.all().iter().map(metric).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, Registry, TextEncoder};

    use super::*;

    #[test]
    fn it_reads_like_the_client_librarys() {
        let (ours, theirs) = (Registry::new(), Registry::new());
        let bounds = [0.5, 1.0, 10.0];
        let compact = HistogramVec::new("h", "help", &["module", "event_type"], &bounds).unwrap();
        let options = HistogramOpts::new("h", "help").buckets(bounds.to_vec());
        let reference = prometheus::HistogramVec::new(options, &["module", "event_type"]).unwrap();
        ours.register(Box::new(compact.clone())).unwrap();
        theirs.register(Box::new(reference.clone())).unwrap();
        for (module, value) in [("a", 0.1), ("a", 0.5), ("b", 0.75), ("a", 3.0), ("b", 99.0), ("gone", 1.0)] {
            compact.with_label_values(&[module, "block"]).observe(value);
            reference.with_label_values(&[module, "block"]).observe(value);
        }
        compact.remove_label_values(&["gone", "block"]);
        reference.remove_label_values(&["gone", "block"]).unwrap();
        let text = |registry: &Registry| TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert_eq!(text(&ours), text(&theirs));
    }
}
