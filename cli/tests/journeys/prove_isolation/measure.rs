//! What the ordinary modules wait for, from the engine's own histograms: the wait for the guest, the guest's work, and
//! the disk's. Apart from each other, so that a slow disk is not taken for a neighbour; and in turns, with and without
//! the neighbours, so that what drifts on its own is seen as that.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{BLOCK, ORDINARY, is_ordinary};
use crate::engine::{Engine, eventually};

/// Blocks that pass after the neighbours have come or gone before anything is measured.
const SETTLE_BLOCKS: usize = 10;
const SHARES: [f64; 3] = [0.5, 0.9, 0.99];

/// p50, p90 and p99 of a phase, ms.
type Figures = fn(&Phase) -> [f64; 3];

/// Observations by upper bound, each with those of all smaller bounds.
#[derive(Debug, Default, Clone)]
struct Buckets(BTreeMap<u64, f64>);

impl Buckets {
    fn add(&mut self, sample: &Value) {
        let bound = sample["labels"]["le"].as_str().unwrap().parse::<f64>().unwrap_or(f64::INFINITY);
        // Bits of numbers that are not negative are in the order of the numbers.
        *self.0.entry(bound.to_bits()).or_default() += sample["value"].as_f64().unwrap();
    }

    /// What came since these.
    fn since(&self, before: &Self) -> Vec<(f64, f64)> {
        let new = |(bits, count): (&u64, &f64)| (f64::from_bits(*bits), count - before.0.get(bits).unwrap_or(&0.0));
        self.0.iter().map(new).collect()
    }
}

/// These shares of what was observed took no longer, milliseconds.
fn percentiles_ms(counts: &[(f64, f64)]) -> [f64; 3] {
    let total = counts.last().map_or(0.0, |(_, count)| *count);
    assert!(total > 0.0, "nothing was observed");
    SHARES.map(|share| {
        let at = counts.iter().position(|(_, count)| *count >= total * share).unwrap();
        let (lower, below) = if at == 0 { (0.0, 0.0) } else { counts[at - 1] };
        let (upper, count) = counts[at];
        // Between two bounds they are taken as evenly spread, as Prometheus does.
        let within = if upper.is_finite() { (upper - lower) * (total * share - below) / (count - below) } else { 0.0 };
        (lower + within) * 1e3
    })
}

/// How many took longer than the first bound from `limit_s` on.
fn longer(counts: &[(f64, f64)], limit_s: f64) -> f64 {
    let total = counts.last().map_or(0.0, |(_, count)| *count);
    total - counts.iter().find(|(bound, _)| *bound >= limit_s).map_or(0.0, |(_, count)| *count)
}

/// The histograms at one moment, of the ordinary modules' blocks where they are of modules.
#[derive(Default)]
struct Reading {
    events: f64,
    latency: Buckets,
    duration: Buckets,
    commit: Buckets,
}

impl Reading {
    fn of(engine: &Engine) -> Self {
        let mut reading = Self::default();
        for sample in engine.json(&["metrics"]).as_array().unwrap() {
            let of_block = is_ordinary(&sample["labels"]["module"]) && sample["labels"]["event_type"] == "block";
            match sample["name"].as_str().unwrap() {
                "nexum_events_processed_total" if of_block => reading.events += sample["value"].as_f64().unwrap(),
                "nexum_dispatch_latency_seconds_bucket" if of_block => reading.latency.add(sample),
                "nexum_event_duration_seconds_bucket" if of_block => reading.duration.add(sample),
                "nexum_commit_duration_seconds_bucket" => reading.commit.add(sample),
                _ => {}
            }
        }
        reading
    }
}

/// What was measured while so many blocks passed: p50, p90 and p99, milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// From the engine seeing a head to the guest's call.
    pub latency: [f64; 3],
    /// The guest's call.
    pub duration: [f64; 3],
    /// One write of the store, synced.
    pub commit: [f64; 3],
    /// Writes that took longer than it is from block to block: only these can make a module late for the next one.
    pub late_commits: f64,
}

/// Measures the next `blocks` blocks of every ordinary module.
pub fn phase(engine: &Engine, blocks: usize) -> Phase {
    let pass = |blocks: usize| std::thread::park_timeout(BLOCK * u32::try_from(blocks).unwrap());
    pass(SETTLE_BLOCKS);
    let before = Reading::of(engine);
    let wanted = before.events + (blocks * ORDINARY) as f64;
    // Whoever asks takes the modules' time, so nobody does while it is measured.
    pass(blocks);
    let after = eventually("the ordinary modules go on", || match Reading::of(engine) {
        reading if reading.events >= wanted => Ok(reading),
        reading => Err(format!("{} of {wanted} events", reading.events)),
    });
    let commits = after.commit.since(&before.commit);
    Phase {
        latency: percentiles_ms(&after.latency.since(&before.latency)),
        duration: percentiles_ms(&after.duration.since(&before.duration)),
        commit: percentiles_ms(&commits),
        late_commits: longer(&commits, BLOCK.as_secs_f64()),
    }
}

/// Phases in turns: quiet, hostile, quiet, …, quiet.
#[derive(Debug, Default)]
pub struct Turns {
    pub quiet: Vec<Phase>,
    pub hostile: Vec<Phase>,
}

/// How a figure moved beside the neighbours.
#[derive(Debug, PartialEq)]
pub struct Moved {
    pub quiet_ms: f64,
    pub hostile_ms: f64,
    /// The median over the hostile phases of each one's figure over the mean of those just before and after it.
    pub ratio: f64,
    /// The most that it moved from one quiet phase to the next, which no neighbour had a part in.
    pub drift: f64,
}

impl Turns {
    pub fn moved(&self, figure: impl Fn(&Phase) -> f64) -> Moved {
        let [quiet, hostile] =
            [&self.quiet, &self.hostile].map(|phases| phases.iter().map(&figure).collect::<Vec<_>>());
        assert_eq!(quiet.len(), hostile.len() + 1, "a quiet phase on each side of every hostile one");
        let pairs: Vec<(f64, f64)> = quiet.iter().copied().zip(quiet.iter().copied().skip(1)).collect();
        let ratios = hostile.iter().zip(&pairs).map(|(beside, (before, after))| beside / ((before + after) / 2.0));
        let drifts = pairs.iter().map(|(before, after)| (before / after).max(after / before));
        Moved {
            quiet_ms: median(quiet.iter().copied()),
            hostile_ms: median(hostile.iter().copied()),
            ratio: median(ratios),
            drift: drifts.fold(1.0, f64::max),
        }
    }

    #[allow(clippy::print_stdout, reason = "figures are what a proof is run for")]
    pub fn print(&self, title: &str) {
        println!("{title}");
        let figures: [(&str, Figures); 3] = [
            ("head to guest", |phase| phase.latency),
            ("guest", |phase| phase.duration),
            ("commit", |phase| phase.commit),
        ];
        for (name, figure) in figures {
            for (at, share) in ["p50", "p90", "p99"].into_iter().enumerate() {
                let Moved { quiet_ms, hostile_ms, ratio, drift } = self.moved(|phase| figure(phase)[at]);
                println!(
                    "  {name} {share}: {quiet_ms:.3} ms without, {hostile_ms:.3} ms beside them, ratio {ratio:.3}, \
                     without them up to {drift:.3} from turn to turn"
                );
            }
        }
        let late = |phases: &[Phase]| phases.iter().map(|phase| phase.late_commits.to_string()).collect::<Vec<_>>();
        let (without, beside) = (late(&self.quiet).join(", "), late(&self.hostile).join(", "));
        println!("  commits longer than {BLOCK:?}, by turn: {without} without; {beside} beside them");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_between_the_bounds_around_it() {
        let counts = [(0.001, 50.0), (0.002, 90.0), (0.004, 98.0), (0.05, 99.0), (f64::INFINITY, 100.0)];
        let found = percentiles_ms(&counts);
        let near = found.iter().zip([1.0, 2.0, 50.0]).all(|(found, wanted)| (found - wanted).abs() < 1e-9);
        assert!(near, "{found:?}");
        let some = [(0.001, 25.0), (0.002, 100.0), (f64::INFINITY, 100.0)];
        let [p50, ..] = percentiles_ms(&some);
        assert!((p50 - 4.0 / 3.0).abs() < 1e-9, "{p50}");
        assert_eq!((longer(&counts, 0.05), longer(&counts, 0.003), longer(&counts, 0.0001)), (1.0, 2.0, 50.0));
    }

    #[test]
    fn what_drifts_by_itself_is_told_from_what_a_neighbour_does() {
        let phase = |ms: f64| Phase { latency: [ms; 3], duration: [1.0; 3], commit: [1.0; 3], late_commits: 0.0 };
        let turns = |quiet: &[f64], hostile: &[f64]| {
            let [quiet, hostile] = [quiet, hostile].map(|figures| figures.iter().map(|ms| phase(*ms)).collect());
            Turns { quiet, hostile }.moved(|phase| phase.latency[2])
        };
        // Slower all the time, and not by them.
        let drifting = turns(&[1.0, 2.0, 3.0, 4.0], &[1.5, 2.5, 3.5]);
        assert_eq!((drifting.ratio, drifting.drift), (1.0, 2.0));
        let theirs = turns(&[2.0, 2.0, 2.0, 2.0], &[3.0, 3.0, 9.0]);
        assert_eq!((theirs.ratio, theirs.drift, theirs.hostile_ms), (1.5, 1.0, 3.0));
    }
}
