//! What fails again and again, since when, and why: for health, where somebody waits for it.

use crate::interfaces::chain::port::ChainWait;

/// How long it is told after the last time: the outbox tries an effect again within ten minutes.
const TOLD_NS: u64 = 20 * 60 * 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// Something that failed, and has not been done since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    since_ns: u64,
    last_ns: u64,
    /// Of the last time.
    why: String,
}

impl Failing {
    /// It failed now, and may have before.
    pub fn again(earlier: Option<Self>, now_ns: u64, why: String) -> Self {
        let since_ns = earlier.map_or(now_ns, |earlier| earlier.since_ns);
        Self { since_ns, last_ns: now_ns, why }
    }

    /// Whether somebody still wants it, as far as can be known.
    pub fn is_recent(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_ns) < TOLD_NS
    }

    /// As operators are told that a module, or everybody, waits for `what`; none when nobody has tried for a while.
    pub fn wait(&self, module: Option<&str>, what: &str, now_ns: u64) -> Option<ChainWait> {
        self.is_recent(now_ns).then(|| ChainWait {
            module: module.map(str::to_owned),
            reason: format!("{what}; {}", self.why),
            age_ms: now_ns.saturating_sub(self.since_ns) / NS_PER_MS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_says_since_when_the_last_one_why_and_whether_it_is_still_wanted() {
        let first = Failing::again(None, 5 * NS_PER_MS, "one".into());
        let second = Failing::again(Some(first), 8 * NS_PER_MS, "two".into());
        let wait = ChainWait { module: Some("m".into()), reason: "bread; two".into(), age_ms: 4 };
        assert_eq!(second.wait(Some("m"), "bread", 9 * NS_PER_MS), Some(wait));
        assert_eq!(second.wait(None, "bread", 8 * NS_PER_MS + TOLD_NS), None);
    }
}
