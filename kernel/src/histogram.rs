//! Histograms of whole numbers that modules on many threads write at once, and that many modules may each have.
//!
//! Invariant: what a scrape reads of one histogram is consistent in itself: its count is the sum of its buckets.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use prometheus::proto;

/// Most bounds that a histogram may have.
const BOUNDS_MAX: usize = 20;

/// What a histogram tells apart.
pub struct Scale {
    /// Upper bounds in ascending order; everything above the last is counted too.
    pub bounds: &'static [u64],
    /// How many of what is counted make one of what is shown, such as nanoseconds of a second.
    pub in_one: f64,
}

/// Counts observations by upper bound. Takes no memory to speak of before the first.
pub struct Histogram {
    scale: &'static Scale,
    /// In how many parts it is kept: threads that write different parts do not wait for each other.
    width: usize,
    parts: OnceLock<Box<[Part]>>,
}

/// On cache lines of its own, in pairs, as processors fetch them.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    /// One per bound, and one for what is above all of them.
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(scale: &'static Scale, width: usize) -> Self {
        assert!(scale.bounds.len() <= BOUNDS_MAX && width > 0, "a histogram has bounds that it can keep, and a part");
        Self { scale, width, parts: OnceLock::new() }
    }

    /// Counts a value; `writer` chooses the part.
    pub fn observe(&self, writer: usize, value: u64) {
        let fresh = || (0..self.width).map(|_| Part::default()).collect();
        let part = &self.parts.get_or_init(fresh)[writer % self.width];
        let bounds = self.scale.bounds;
        let index = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        part.counts[index].fetch_add(1, Ordering::Relaxed);
        part.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What was counted; none before the first observation.
    pub fn read(&self) -> Option<proto::Histogram> {
        let (parts, scale) = (self.parts.get()?, self.scale);
        let shown = |value: u64| value as f64 / scale.in_one;
        let counted = |index: usize| parts.iter().map(|part| part.counts[index].load(Ordering::Relaxed)).sum::<u64>();
        let mut total = 0;
        let mut buckets = Vec::with_capacity(scale.bounds.len());
        for (index, bound) in scale.bounds.iter().enumerate() {
            total += counted(index);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(shown(*bound));
            bucket.set_cumulative_count(total);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(total + counted(scale.bounds.len()));
        histogram.set_sample_sum(parts.iter().map(|part| shown(part.sum.load(Ordering::Relaxed))).sum());
        Some(histogram)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector as _;

    use super::*;

    static THOUSANDTHS: Scale = Scale { bounds: &[500, 1_000, 10_000], in_one: 1_000.0 };

    #[test]
    fn it_reads_like_the_client_librarys_however_many_write_it() {
        for width in [1, 2, 16] {
            let ours = Histogram::new(&THOUSANDTHS, width);
            assert_eq!(ours.read(), None, "nothing was observed");
            let options = prometheus::HistogramOpts::new("h", "help").buckets(vec![0.5, 1.0, 10.0]);
            let theirs = prometheus::Histogram::with_opts(options).unwrap();
            for (writer, thousandths) in [125, 500, 501, 750, 3_000, 10_000, 99_000].into_iter().enumerate() {
                ours.observe(writer, thousandths);
                theirs.observe(thousandths as f64 / 1_000.0);
            }
            let theirs = theirs.collect()[0].get_metric()[0].get_histogram().clone();
            let ours = ours.read().unwrap();
            let counts = |histogram: &proto::Histogram| -> Vec<(u64, u64)> {
                let buckets = histogram.get_bucket().iter();
                buckets.map(|bucket| (bucket.upper_bound().to_bits(), bucket.cumulative_count())).collect()
            };
            assert_eq!(counts(&ours), counts(&theirs));
            assert_eq!(ours.get_sample_count(), theirs.get_sample_count());
            assert!((ours.get_sample_sum() - theirs.get_sample_sum()).abs() < 1e-9);
        }
    }

    #[test]
    fn parts_share_no_cache_line() {
        assert_eq!((align_of::<Part>(), size_of::<Part>() % 128), (128, 0));
    }
}
