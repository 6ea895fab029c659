//! What must have become of the effects of every module, worked out from what it wrote down when it sent them and from
//! the canonical chains.

use std::collections::{BTreeMap, BTreeSet};

use nexum_host_ifaces::types::{Event, OutcomeStatus};

use crate::{
    accounts::PAID_HOST,
    oracle::{End, Found},
    receiver::Hit,
    world::World,
};

/// How long after its tick an effect may take to its end when nothing is wrong with its destination: a module that fails
/// by itself comes to its ticks late.
const UNDER_WAY_MS: u64 = 180_000;

/// An effect that the module meant: what its state says of it.
struct Meant<'a> {
    key: &'a str,
    host: String,
    lane: &'a str,
    path: String,
    release: &'a str,
    rejected: bool,
    body: &'a str,
}

/// How the block of an effect stands to the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It may have left.
    Due,
    /// On the chain, and not yet as final as the effect asks for.
    Held,
    /// Off the chain. `shown` once something else is as final, so that what waits for it is given up.
    Orphan { shown: bool },
}

/// Everything about the effects of one module.
struct Effects<'a> {
    world: &'a World,
    now_ms: u64,
    rewinds: bool,
    /// No block was given again by order.
    once: bool,
    /// In the order of sending, each once.
    meant: Vec<Meant<'a>>,
    /// In the order of arrival, those that were carried out.
    hits: Vec<&'a Hit>,
    /// The first hit of each key.
    first: BTreeMap<&'a str, usize>,
    /// What the module was told became of an effect, in order.
    ends: BTreeMap<String, Vec<&'static str>>,
    /// What it was told had left when its event was undone.
    told: BTreeSet<String>,
    /// Sent within what a loss of power took: they may have left, and their events may not have come again.
    lost: BTreeSet<&'a str>,
    differences: Vec<String>,
}

impl Found<'_> {
    pub fn effects(&mut self, end: &End<'_>) {
        let End { world, receivers, now_ms, lost, .. } = *end;
        let all = |prefix: &str| {
            let (from, to) = (format!("{prefix}/"), format!("{prefix}0"));
            self.state.range(from..to).map(|(_, text)| text.as_str())
        };
        let mut keys = BTreeSet::new();
        // Keys of the state are in the order of their units; what is told twice was handled twice.
        let meant = all("s").filter_map(meant).filter(|meant| keys.insert(meant.key)).collect();
        // An engine beside the one that sent them has no part in them.
        let paid: Vec<Hit> = match self.plan.pays {
            true => world.chains.iter().flat_map(|chain| chain.accounts.hits(&chain.canon)).collect(),
            false => Vec::new(),
        };
        let hits: Vec<&Hit> = receivers.hits().iter().chain(&paid).filter(|hit| hit.module == self.plan.name).collect();
        let mut first = BTreeMap::new();
        for (index, hit) in hits.iter().enumerate() {
            first.entry(&*hit.key).or_insert(index);
        }
        let mut told: BTreeSet<String> = all("x").map(str::to_owned).collect();
        let mut ends: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for letter in self.letters.values() {
            match &letter.event {
                Event::Reorg(reorg) => told.extend(reorg.released_effects.iter().map(|effect| effect.key.clone())),
                Event::Outcome(outcome) => ends.entry(outcome.key.clone()).or_default().push(status(&outcome.status)),
                _ => {}
            }
        }
        for text in all("o") {
            let mut parts = text.split(' ');
            let (key, end) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let end = ["delivered", "failed", "cancelled"].into_iter().find(|known| *known == end);
            ends.entry(key.to_owned()).or_default().push(end.unwrap_or("?"));
        }
        let (rewinds, once) = (self.is_undone(), !self.is_moved());
        let lost = lost.iter().filter(|(module, _)| *module == self.plan.name).map(|(_, key)| &**key).collect();
        let mut effects =
            Effects { world, now_ms, rewinds, once, meant, hits, first, ends, told, lost, differences: Vec::new() };
        effects.meant();
        effects.taken();
        effects.ended();
        effects.in_order();
        effects.on_chain_once();
        let differences = effects.differences;
        differences.into_iter().for_each(|difference| self.differs(difference));
    }
}

fn status(status: &OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Delivered(_) => "delivered",
        OutcomeStatus::Failed(_) => "failed",
        OutcomeStatus::Cancelled(_) => "cancelled",
    }
}

impl Effects<'_> {
    fn ends(&self, key: &str) -> &[&'static str] {
        self.ends.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether an effect was sent just now, by a tick: time goes on when the chains do not.
    fn is_under_way(&self, body: &str) -> bool {
        let fired_at = body.strip_prefix("t/").and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
        fired_at.is_some_and(|fired_at| fired_at + UNDER_WAY_MS > self.now_ms)
    }

    /// What the module meant has arrived, unless it has to wait.
    fn meant(&mut self) {
        let mut differences = Vec::new();
        // Lanes whose first effect waits: nothing behind it goes out.
        let mut shut = BTreeSet::new();
        for meant in &self.meant {
            let (standing, honest) = standing(self.world, meant.release, meant.body);
            let (taken, ends) = (self.first.contains_key(meant.key), self.ends(meant.key));
            let end = ends.last().copied().unwrap_or_default();
            let wrong = match standing {
                Standing::Orphan { shown } => self.rewinds || (shown && end.is_empty() && !shut.contains(meant.lane)),
                Standing::Held => taken || !end.is_empty(),
                Standing::Due if self.is_under_way(meant.body) => false,
                Standing::Due if shut.contains(meant.lane) => false,
                Standing::Due if !honest && end == "cancelled" => taken,
                Standing::Due if meant.rejected => taken || end != "failed",
                Standing::Due => !taken || end != "delivered",
            };
            if wrong {
                let rejected = if meant.rejected { ", to be rejected" } else { "" };
                differences.push(format!("{} is {standing:?}{rejected}: taken {taken}, told {ends:?}", meant.key));
            }
            if meant.lane != "-" && standing != Standing::Due && end.is_empty() {
                shut.insert(meant.lane);
            }
        }
        self.differences.extend(differences);
    }

    /// What arrived was meant; or it was, until its event was undone, and the module was told.
    fn taken(&mut self) {
        let by_key: BTreeMap<&str, &Meant<'_>> = self.meant.iter().map(|meant| (meant.key, meant)).collect();
        let mut differences = Vec::new();
        for (key, index) in &self.first {
            let hit = self.hits[*index];
            match by_key.get(key) {
                Some(meant) if (&meant.host, &meant.path, meant.body) == (&hit.host, &hit.path, &*hit.body) => {}
                Some(_) => differences.push(format!("{hit:?} is not what was meant")),
                // It left before the power failed, and nothing is known of it since.
                None if self.lost.contains(*key) && self.ends(key).is_empty() => continue,
                None if !self.told.contains(*key) => differences.push(format!("not told that {key} had left: {hit:?}")),
                None => {}
            }
            let is_final = standing(self.world, "finalized", &hit.body).0 == Standing::Due;
            if hit.path.contains("/finalized/") && !is_final {
                differences.push(format!("{key} left, and its block was never final"));
            }
            let end = self.ends(key).last().copied().unwrap_or_default();
            if end != "delivered" && !self.is_under_way(&hit.body) {
                differences.push(format!("{key} was taken, told {:?}", self.ends(key)));
            }
        }
        self.differences.extend(differences);
    }

    /// What is on a chain is there once, whatever was sent again.
    fn on_chain_once(&mut self) {
        let mut seen = BTreeSet::new();
        for hit in self.hits.iter().filter(|hit| hit.host == PAID_HOST) {
            if !seen.insert(&*hit.key) {
                self.differences.push(format!("{} is on the chain twice", hit.key));
            }
        }
    }

    /// The module was told once what became of an effect.
    fn ended(&mut self) {
        let meant: BTreeSet<&str> = self.meant.iter().map(|meant| meant.key).collect();
        for (key, ends) in &self.ends {
            let known = meant.contains(&**key) || self.first.contains_key(&**key) || self.told.contains(key);
            // One withdrawn before it left is withdrawn again each time that its block comes back and goes.
            // One given again by order, so long ago that it is forgotten, goes out again.
            let again = self.once && ends.iter().rev().skip(1).any(|end| *end != "cancelled");
            if again || (!known && ends.last() != Some(&"cancelled")) {
                self.differences.push(format!("told of {key}: {ends:?}"));
            }
        }
    }

    /// Effects of one lane arrive for the first time in the order in which they were sent. One that had left when its
    /// event was undone did so in the order of that time.
    fn in_order(&mut self) {
        let mut last: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        let in_lanes = self.meant.iter().filter(|meant| meant.lane != "-" && !self.lost.contains(meant.key));
        for meant in in_lanes.filter(|meant| !self.told.contains(meant.key)) {
            let Some(index) = self.first.get(meant.key) else { continue };
            if let Some((_, other)) = last.get(meant.lane).filter(|(before, _)| before > index) {
                self.differences.push(format!("lane {}: {} arrived before {other}", meant.lane, meant.key));
            }
            last.insert(meant.lane, (*index, meant.key));
        }
    }
}

fn meant(text: &str) -> Option<Meant<'_>> {
    let parts: Vec<&str> = text.split(' ').collect();
    let [key, host, lane, release, answer, body] = parts.as_slice() else { return None };
    Some(Meant {
        key,
        host: format!("{host}.example"),
        lane,
        path: format!("{lane}/{release}/{answer}"),
        release,
        rejected: *answer == "reject",
        body,
    })
}

/// How an effect's block stands, by the effect's body; and whether what the chain calls as final as the effect asks for
/// does stay.
fn standing(world: &World, release: &str, body: &str) -> (Standing, bool) {
    let parts: Vec<&str> = body.split('/').collect();
    let ["b" | "l", chain, number, hash, _] = parts.as_slice() else { return (Standing::Due, true) };
    let chain = world.chains.iter().find(|known| known.plan.id.to_string() == *chain);
    let (Some(chain), Ok(number)) = (chain, number.parse::<u64>()) else {
        return (Standing::Orphan { shown: false }, true);
    };
    let (plan, head) = (&chain.plan, chain.canon.len() as u64 - 1);
    let honest = release != "safe" || plan.safe_lag >= plan.reorg_depth_max || plan.reorg_percent == 0;
    let through = match release {
        "safe" => head.saturating_sub(plan.safe_lag),
        "finalized" => head.saturating_sub(plan.finalized_lag),
        _ => head,
    };
    let block = usize::try_from(number).ok().and_then(|number| chain.canon.get(number));
    let standing = match block {
        Some(block) if hex::encode(block.hash) != *hash => Standing::Orphan { shown: number <= through },
        Some(_) if number <= through => Standing::Due,
        Some(_) => Standing::Held,
        None => Standing::Orphan { shown: false },
    };
    (standing, honest)
}
