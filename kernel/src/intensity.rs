//! Bounded supervision intensity: how many restarts of one child in a sliding window are still normal. Pure.

use std::{collections::VecDeque, time::Duration};

/// Restarts of one service in the window before its supervisor gives up.
pub const RESTARTS_MAX: usize = 5;
/// A service that fails more often than this is not going to recover by itself; systemd or Kubernetes takes over.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The restarts of one child.
#[derive(Debug, Default)]
pub struct Intensity {
    restarts_ns: VecDeque<u64>,
}

impl Intensity {
    /// Notes a failure at `now_ns`; whether the child may be started again.
    pub fn allow(&mut self, now_ns: u64) -> bool {
        if self.spent(now_ns) >= RESTARTS_MAX {
            return false;
        }
        self.restarts_ns.push_back(now_ns);
        true
    }

    /// Failures within the window that ends now.
    pub fn spent(&mut self, now_ns: u64) -> usize {
        let window = WINDOW.as_nanos() as u64;
        while self.restarts_ns.front().is_some_and(|&at| now_ns.saturating_sub(at) > window) {
            self.restarts_ns.pop_front();
        }
        self.restarts_ns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_a_minute_and_then_no_more_until_the_window_has_passed() {
        let second = 1_000_000_000;
        let mut intensity = Intensity::default();
        for at in 0..5 {
            assert!(intensity.allow(at * second));
        }
        assert!(!intensity.allow(5 * second));
        assert_eq!((intensity.spent(5 * second), intensity.spent(61 * second)), (5, 4));
        assert!(intensity.allow(61 * second));
    }
}
