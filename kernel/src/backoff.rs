//! How long to wait before what has failed is tried again.

use std::time::Duration;

/// Doubles from the first wait to the cap, less up to a quarter of it, so that what failed together is not tried again
/// together. `failures` counts the last one; `jitter` is drawn uniformly from 0 to 1.
pub(crate) fn backoff(first: Duration, cap: Duration, failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    first.saturating_mul(1 << doublings).min(cap).mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_cap_and_jitter_shortens_them() {
        let wait = |failures, jitter| backoff(Duration::from_secs(1), Duration::from_secs(300), failures, jitter);
        let waits: Vec<_> = (1..=11).map(|failures| wait(failures, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(wait(3, 1.0), Duration::from_secs(3));
        assert_eq!(wait(200, 0.0).as_secs(), 300);
    }
}
