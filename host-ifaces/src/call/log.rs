//! A module's lines: they go to `tracing` with its name and the event at hand, at a bounded rate.

use crate::bindings::nexum::host::logging::Level;

/// A line longer than this is cut: a log line is for people.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// Lines a module may log per second in the long run; a monitor that logs more is read by nobody.
pub const LINES_PER_SECOND: u64 = 100;
/// Lines a module may log in a burst, enough for a start-up report or a busy block.
pub const LINES_BURST: u64 = 500;

/// A token bucket over the injected clock.
#[derive(Debug)]
pub struct LogBudget {
    tokens: u64,
    refilled_ns: u64,
    dropped: u64,
}

impl LogBudget {
    pub fn new(now_ns: u64) -> Self {
        Self { tokens: LINES_BURST, refilled_ns: now_ns, dropped: 0 }
    }

    /// Whether a line may be logged now, and how many were dropped since the last one that was.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<u64> {
        const NS_PER_TOKEN: u64 = 1_000_000_000 / LINES_PER_SECOND;
        let refill = now_ns.saturating_sub(self.refilled_ns) / NS_PER_TOKEN;
        if refill > 0 {
            self.tokens = (self.tokens + refill).min(LINES_BURST);
            self.refilled_ns += refill * NS_PER_TOKEN;
        }
        if self.tokens == 0 {
            self.dropped += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.dropped))
    }

    /// Counts lines that were dropped without asking for each.
    pub(crate) fn drop_lines(&mut self, lines: u64) {
        self.dropped += lines;
    }
}

/// What the log lines of the event at hand carry.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventLabel {
    pub kind: &'static str,
    pub chain_id: Option<u64>,
    pub block: Option<u64>,
}

impl EventLabel {
    /// Prints one line of a module.
    pub(super) fn print(&self, module: &str, level: Level, message: &str) {
        let line = &message[..message.floor_char_boundary(LINE_BYTES_MAX)];
        let (chain, block, kind) = (self.chain_id, self.block, self.kind);
        match level {
            Level::Trace => tracing::trace!(target: "module", module, chain, block, kind, "{line}"),
            Level::Debug => tracing::debug!(target: "module", module, chain, block, kind, "{line}"),
            Level::Info => tracing::info!(target: "module", module, chain, block, kind, "{line}"),
            Level::Warn => tracing::warn!(target: "module", module, chain, block, kind, "{line}"),
            Level::Error => tracing::error!(target: "module", module, chain, block, kind, "{line}"),
        }
    }
}

/// The name in recordings.
pub(super) fn name(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_the_drops_are_told_once() {
        let mut budget = LogBudget::new(0);
        for _ in 0..LINES_BURST {
            assert_eq!(budget.take(0), Some(0));
        }
        assert_eq!(budget.take(0), None);
        assert_eq!(budget.take(1), None);
        assert_eq!(budget.take(1_000_000_000 / LINES_PER_SECOND), Some(2));
        assert_eq!(budget.take(1_000_000_000 / LINES_PER_SECOND), None);
    }
}
