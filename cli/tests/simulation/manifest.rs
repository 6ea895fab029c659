//! What the engine is told of a simulated module: its versions, and the manifest of each.

use std::fmt::Write;

use crate::{
    receiver::{HOSTS, IDLE, PUT, SEND_RAW},
    scenario::{Blocks, ChainPlan, Hold, ModulePlan, contract, signature},
};

/// Versions of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    First,
    /// The same, but for what it does before it fails.
    Second,
    /// Its `init` fails.
    Broken,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::First, Self::Second, Self::Broken];

    pub fn number(self) -> &'static str {
        match self {
            Self::First => "0.3.0",
            Self::Second => "0.4.0",
            Self::Broken => "0.5.0",
        }
    }
}

impl ModulePlan {
    /// The manifest of a version, for a component with this hash.
    pub fn manifest(&self, version: Version, component: &str, chains: &[ChainPlan]) -> String {
        let mut text = format!(
            "[module]\nname = \"{}\"\nversion = \"{}\"\ncomponent = \"sha256:{component}\"\non_reorg = \"{}\"\n\
             [module.resources]\nmax_memory_bytes = 16777216\nmax_fuel_per_event = 8000000\nevent_deadline = \"10s\"\n\
             [module.restart]\nmax_consecutive_failures = {}\nmax_event_attempts = {}\nbackoff = [\"1s\", \"1m\"]\n",
            self.name,
            version.number(),
            if self.rewinds { "rewind" } else { "notify" },
            self.failures_max,
            self.attempts_max,
        );
        let ids: Vec<String> = self.chains.iter().map(|source| chains[source.chain].id.to_string()).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "[chains]\nrequired = [{}]", ids.join(", "));
        let hosts: Vec<&str> = HOSTS.into_iter().chain((self.deadly > 0).then_some(IDLE)).collect();
        let _ = writeln!(
            text,
            "[capabilities]\nrequired = [\"local-store\", \"clock\", \"http\", \"outbox\"{}{}]\n\
             [capabilities.http]\nallow = [\"{}\"]",
            if self.rpc { ", \"chain\"" } else { "" },
            if self.pays { ", \"identity\"" } else { "" },
            hosts.join("\", \"")
        );
        if self.rpc {
            let _ = writeln!(text, "[capabilities.chain]\nextra_methods = [\"{SEND_RAW}\", \"{PUT}\"]");
        }
        if self.pays {
            let _ = writeln!(text, "[capabilities.identity]\nmethods = [\"transaction\"]");
        }
        let first = self.chains.first().map_or(0, |source| chains[source.chain].id);
        let _ = writeln!(
            text,
            "[config]\nname = \"{}\"\nversion = \"{}\"\nrpc = {}\npays = {}\npoison = {}\nhow = \"{}\"\nflaky = {}\nflush = {}\ngaps = {}\nsend = {}\nrelease = \"{}\"\ncostly = {}\nbetween = {}\nlists = {}\ndeadly = {}",
            self.name,
            version.number(),
            if self.rpc { first } else { 0 },
            if self.pays { first } else { 0 },
            self.poison,
            if version == Version::Broken { "not at all" } else { self.how },
            self.flaky,
            self.flush != (version == Version::Second),
            self.chains.iter().any(|source| source.blocks == Blocks::Latest),
            self.send,
            self.release,
            self.costly,
            self.between,
            self.lists,
            self.deadly,
        );
        for source in &self.chains {
            let hold = match source.hold {
                Hold::Latest => String::new(),
                Hold::Confirmations(count) => format!("confirmations = {count}\n"),
                Hold::Safe => "finality = \"safe\"\n".into(),
                Hold::Finalized => "finality = \"finalized\"\n".into(),
            };
            let start = source.start.map_or_else(String::new, |start| format!("start_block = {start}\n"));
            let common = format!("chain_id = {}\n{start}{hold}", chains[source.chain].id);
            if source.blocks != Blocks::None {
                let missed = if source.blocks == Blocks::All { "all" } else { "latest" };
                let _ = write!(text, "[[subscription]]\nkind = \"block\"\nmissed = \"{missed}\"\n{common}");
            }
            for log in &source.logs {
                let list = |items: Vec<String>| items.join("\", \"");
                let _ = write!(text, "[[subscription]]\nkind = \"log\"\n{common}");
                if !log.contracts.is_empty() {
                    let addresses = log.contracts.iter().map(|index| format!("0x{}", hex::encode(contract(*index))));
                    let _ = writeln!(text, "address = [\"{}\"]", list(addresses.collect()));
                }
                if !log.signatures.is_empty() {
                    let topics = log.signatures.iter().map(|index| format!("0x{}", hex::encode(signature(*index))));
                    let _ = writeln!(text, "topics = [[\"{}\"]]", list(topics.collect()));
                }
            }
        }
        if let Some(cron) = &self.cron {
            let _ = write!(
                text,
                "[[subscription]]\nkind = \"cron\"\nevery = \"{}ms\"\nmissed = \"{}\"\n",
                cron.period_ms, cron.missed
            );
        }
        text
    }
}
