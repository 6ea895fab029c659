//! The blocks and logs of a chain. Subscriptions of one chain that are held back alike are one source, so that its blocks
//! and logs stay in order.

use std::{collections::BTreeSet, sync::Arc};

use nexum_host_ifaces::{
    Address, Hash,
    event::{Cursor, EventId, Part, SourceId},
    interfaces::chain::port::{AnswerSize, Blocks, ChainMsg, ChainPull, Hold, Interest, LogFilter},
    port::{Port, PortError},
    store::RedeliveryItem,
    types::Event,
};
use toml::Spanned;

use super::{
    kind::{SourceKind, SubscriptionKind},
    reading::Reading,
    source::{Calendar, Due, Heads, Now, Pull, Reach, Shown, Source},
    written::{Field, Shape, Written},
};
use crate::manifest::{ceilings, values::Finding};

/// Blocks without concern after which the position is made durable.
const KEEP_EVERY_BLOCKS: u64 = 64;
/// Addresses, or values of one topic, that the words about a filter name.
const NAMED_MAX: usize = 3;

pub(super) const KIND: SourceKind = SourceKind {
    subscriptions: &[
        SubscriptionKind {
            name: "block",
            alias: None,
            takes: &["chain_id", "start_block", "confirmations", "finality", "missed"],
            read: blocks,
        },
        SubscriptionKind {
            name: "log",
            alias: Some("chain-log"),
            takes: &["chain_id", "address", "topics", "event_signature", "start_block", "confirmations", "finality"],
            read: logs,
        },
    ],
    fields: &[
        Field::new("chain_id", Shape::Number),
        Field::new("address", Shape::Texts),
        Field::new("topics", Shape::Positions),
        Field::new("event_signature", Shape::Text),
        Field::new("start_block", Shape::Number),
        Field::new("confirmations", Shape::Number),
        Field::new("finality", Shape::Text),
        Field::new("missed", Shape::Text),
    ],
    given: None,
    known: Some(known),
};

#[derive(Debug)]
pub(crate) struct ChainSource {
    id: SourceId,
    chain_id: u64,
    interest: Arc<Interest>,
}

impl ChainSource {
    pub(crate) fn new(chain_id: u64, interest: Interest) -> Self {
        let id = match interest.hold {
            Hold::Latest => format!("chain:{chain_id}"),
            Hold::Confirmations(count) => format!("chain:{chain_id}:confirmations={count}"),
            Hold::Safe => format!("chain:{chain_id}:safe"),
            Hold::Finalized => format!("chain:{chain_id}:finalized"),
        };
        Self { id: SourceId::new(id), chain_id, interest: Arc::new(interest) }
    }

    fn port<'a>(&self, reach: &Reach<'a>) -> Option<&'a Port<ChainMsg>> {
        reach.ports.chain(self.chain_id)
    }
}

impl Source for ChainSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn is_served(&self, reach: &Reach<'_>) -> bool {
        self.port(reach).is_some()
    }

    fn pull(&self, reach: &Reach<'_>, pull: Pull) -> Result<(), PortError> {
        // An optional chain that this engine does not serve never delivers.
        let Some(port) = self.port(reach) else { return Ok(()) };
        let Pull { module, token, after, every_event, deliveries_max, to } = pull;
        let interest = match (every_event, self.interest.blocks) {
            (true, Blocks::Latest) => Arc::new(Interest { blocks: Blocks::All, ..(*self.interest).clone() }),
            _ => self.interest.clone(),
        };
        let blocks_min = if every_event { 1 } else { KEEP_EVERY_BLOCKS };
        let size = AnswerSize { deliveries_max, blocks_min };
        port.cast(ChainMsg::Pull(ChainPull { module, source: self.id.clone(), token, after, interest, size, to }))
    }

    fn forget(&self, reach: &Reach<'_>, module: Arc<str>) -> Result<(), PortError> {
        self.port(reach).map_or(Ok(()), |port| port.cast(ChainMsg::Forget { module }))
    }

    fn position(&self, cursor: &Cursor) -> (u64, Part) {
        match cursor {
            Cursor::Chain { number, part, .. } => (*number, *part),
            other => unreachable!("a chain's position is a block, not {other}"),
        }
    }

    fn is_worth_keeping(&self, kept: &Cursor, cursor: &Cursor) -> bool {
        self.position(cursor).0.saturating_sub(self.position(kept).0) >= KEEP_EVERY_BLOCKS
    }

    /// Blocks are due when the chain is past the position; that a matching log exists, nobody knows.
    fn due(&self, at: Option<&Cursor>, now: &Now<'_>) -> Due {
        let Some(heads) = now.heads.get(&self.chain_id) else { return Due::Unheard };
        let Some(head) = held(heads, self.interest.hold) else { return Due::No };
        let is_due = match at.map(|at| self.position(at)) {
            // It is to be told where it begins.
            None => self.interest.start_block.is_none_or(|start| start <= head),
            Some((number, part)) => {
                let behind = number < head || (number == head && part == Part::Logs);
                self.interest.blocks != Blocks::None && behind
            }
        };
        if is_due { Due::Yes } else { Due::No }
    }

    /// Its blocks, then each filter of logs.
    fn shown(&self, _: &Calendar<'_>) -> Vec<Shown> {
        let Self { chain_id, interest, .. } = self;
        let held = match interest.hold {
            Hold::Latest => String::new(),
            Hold::Confirmations(count) => format!(", once {count} more blocks follow"),
            Hold::Safe => ", once the block is safe".to_owned(),
            Hold::Finalized => ", once the block is finalized".to_owned(),
        };
        let from = |block: Option<u64>| match block {
            Some(block) => format!(", from block {block} on"),
            None => ", from the head at the first load on".to_owned(),
        };
        let blocks = match interest.blocks {
            Blocks::None => None,
            Blocks::All => Some("every block"),
            Blocks::Latest => Some("blocks, of several that wait only the newest,"),
        };
        let blocks = blocks.map(|blocks| format!("{blocks} of chain {chain_id}{}{held}", from(interest.start_block)));
        let logs = interest.logs.iter().map(|filter| {
            let first = Some(filter.from_block).filter(|block| *block > 0).or(interest.start_block);
            format!("logs of chain {chain_id} {}{}{held}", matching(filter), from(first))
        });
        blocks.into_iter().chain(logs).map(|what| Shown { what, next_ms: None }).collect()
    }

    fn may_end_early(&self) -> bool {
        true
    }

    fn skips(&self, event: &EventId) -> bool {
        self.interest.blocks == Blocks::Latest && matches!(event, EventId::Block { .. })
    }

    fn chain_id(&self) -> Option<u64> {
        Some(self.chain_id)
    }
}

/// The newest block that a hold lets through.
fn held(heads: &Heads, hold: Hold) -> Option<u64> {
    match hold {
        Hold::Latest => Some(heads.latest),
        Hold::Confirmations(confirmations) => heads.latest.checked_sub(confirmations),
        Hold::Safe => heads.safe,
        Hold::Finalized => heads.finalized,
    }
}

/// What a reorg says was found out when it came.
fn known(item: &RedeliveryItem) -> Option<Event> {
    match (&item.event, &item.told) {
        (EventId::Reorg { .. }, Some(told)) => Some(Event::Reorg((**told).clone())),
        _ => None,
    }
}

fn matching(filter: &LogFilter) -> String {
    let mut words = match filter.addresses.is_empty() {
        true => "from any address".to_owned(),
        false => format!("from {}", listed(&filter.addresses)),
    };
    for (position, values) in filter.topics.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
        words += &format!(", with topic {position} {}", listed(values));
    }
    words
}

fn listed<T: ToString>(values: &BTreeSet<T>) -> String {
    let named: Vec<String> = values.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    match values.len() - named.len() {
        0 => named.join(" or "),
        more => format!("{} or {more} more", named.join(" or ")),
    }
}

/// What a module wants of a chain so far, to be added to.
fn interest<'a>(reading: &'a mut Reading<'_>, chain_id: u64, hold: Hold) -> &'a mut Interest {
    let nothing = Interest { blocks: Blocks::None, logs: Vec::new(), start_block: None, hold };
    Arc::make_mut(&mut reading.or_add(ChainSource::new(chain_id, nothing)).interest)
}

fn blocks(written: &Written, reading: &mut Reading<'_>) -> Result<(), Finding> {
    let (chain_id, hold) = place(written, reading.chains)?;
    let blocks = match written.text("missed").map(|missed| (missed.get_ref().as_str(), missed.span())) {
        None | Some(("all", _)) => Blocks::All,
        Some(("latest", _)) => Blocks::Latest,
        Some((other, span)) => {
            return Err((span, format!("missed = `{other}`: a block subscription takes \"all\" or \"latest\"")));
        }
    };
    let interest = interest(reading, chain_id, hold);
    if interest.blocks != Blocks::None {
        return Err((written.kind().span(), "the blocks of this chain are subscribed twice".into()));
    }
    interest.blocks = blocks;
    interest.start_block = earliest(interest.start_block, start(written));
    Ok(())
}

fn logs(written: &Written, reading: &mut Reading<'_>) -> Result<(), Finding> {
    let (chain_id, hold) = place(written, reading.chains)?;
    let mut addresses = BTreeSet::new();
    if let Some(list) = written.texts("address") {
        let count = list.get_ref().as_slice().len();
        ceilings::list(|| list.span(), "addresses", count, ceilings::FILTER_VALUES_MAX)?;
        for text in list.get_ref().as_slice() {
            addresses.insert(text.parse::<Address>().map_err(|message| (list.span(), format!("address {message}")))?);
        }
    }
    let mut topics: [BTreeSet<Hash>; 4] = Default::default();
    if let Some(list) = written.positions("topics") {
        if list.get_ref().len() > topics.len() {
            return Err((list.span(), "a log has at most 4 topics".into()));
        }
        for (position, values) in list.get_ref().iter().enumerate() {
            let count = values.as_slice().len();
            ceilings::list(|| list.span(), "topics at one position", count, ceilings::FILTER_VALUES_MAX)?;
            for text in values.as_slice() {
                // An empty string stands for a position that may hold anything.
                if !text.is_empty() {
                    let topic = text.parse::<Hash>().map_err(|message| (list.span(), format!("topic {message}")))?;
                    topics[position].insert(topic);
                }
            }
        }
    }
    if let Some(signature) = written.text("event_signature") {
        let topic = signature.get_ref().parse::<Hash>();
        topics[0].insert(topic.map_err(|message| (signature.span(), format!("event_signature {message}")))?);
    }
    let start = start(written);
    let filter = LogFilter { addresses, topics, from_block: start.unwrap_or(0) };
    let interest = interest(reading, chain_id, hold);
    interest.logs.push(filter);
    interest.start_block = earliest(interest.start_block, start);
    Ok(())
}

/// Which chain, and how far behind its head.
fn place(written: &Written, chains: &BTreeSet<u64>) -> Result<(u64, Hold), Finding> {
    let Some(chain) = written.number("chain_id") else {
        return Err((written.span.clone(), format!("a {} subscription needs chain_id", written.kind().get_ref())));
    };
    if !chains.contains(chain.get_ref()) {
        let message = format!("chain {} is listed neither in [chains] required nor in optional", chain.get_ref());
        return Err((chain.span(), message));
    }
    let hold = match (written.number("confirmations"), written.text("finality")) {
        (Some(_), Some(finality)) => {
            return Err((finality.span(), "confirmations and finality exclude each other".into()));
        }
        (Some(count), None) if *count.get_ref() == 0 => Hold::Latest,
        (Some(count), None) if *count.get_ref() > ceilings::CONFIRMATIONS_MAX => {
            let message = format!("confirmations: expected at most {}", ceilings::CONFIRMATIONS_MAX);
            return Err((count.span(), message));
        }
        (Some(count), None) => Hold::Confirmations(*count.get_ref()),
        (None, Some(finality)) => match finality.get_ref().as_str() {
            "latest" => Hold::Latest,
            "safe" => Hold::Safe,
            "finalized" => Hold::Finalized,
            other => {
                let message = format!("unknown finality `{other}`; known are latest, safe, finalized");
                return Err((finality.span(), message));
            }
        },
        (None, None) => Hold::Latest,
    };
    Ok((*chain.get_ref(), hold))
}

fn start(written: &Written) -> Option<u64> {
    written.number("start_block").map(Spanned::get_ref).copied()
}

fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nexum_host_ifaces::cron::ScheduleNext;

    use super::*;

    fn chain(blocks: Blocks, hold: Hold) -> ChainSource {
        ChainSource::new(1, Interest { blocks, logs: Vec::new(), start_block: None, hold })
    }

    fn beginning(start_block: Option<u64>) -> ChainSource {
        ChainSource::new(1, Interest { blocks: Blocks::None, logs: Vec::new(), start_block, hold: Hold::Latest })
    }

    fn due(source: &ChainSource, at: Option<&Cursor>, chain_id: u64) -> Due {
        let heads = BTreeMap::from([(chain_id, Heads { latest: 10, safe: Some(8), finalized: None })]);
        let next: ScheduleNext = Arc::new(|_, _| None);
        source.due(at, &Now { heads: &heads, next: &next, now_ms: 1_000 })
    }

    #[test]
    fn an_event_is_due_when_the_chain_is_past_the_position() {
        let is_due = |source: &ChainSource, at: Option<&Cursor>| due(source, at, 1) == Due::Yes;
        let block = |number| Cursor::block(number, Hash::default());
        let all = chain(Blocks::All, Hold::Latest);
        assert!(is_due(&all, Some(&block(9))));
        assert!(!is_due(&all, Some(&block(10))));
        assert!(is_due(&all, None), "it is to be told where it starts");
        assert!(is_due(&beginning(Some(10)), None) && !is_due(&beginning(Some(11)), None));
        assert!(is_due(&all, Some(&Cursor::Chain { number: 10, hash: None, part: Part::Logs })));
        let held = chain(Blocks::All, Hold::Confirmations(3));
        assert!(!is_due(&held, Some(&block(7))));
        assert!(is_due(&held, Some(&block(6))));
        assert!(!is_due(&chain(Blocks::All, Hold::Confirmations(11)), Some(&block(0))));
        let safe = chain(Blocks::All, Hold::Safe);
        assert!(is_due(&safe, Some(&block(7))) && !is_due(&safe, Some(&block(8))));
        assert!(!is_due(&chain(Blocks::All, Hold::Finalized), Some(&block(1))), "nobody has told what is final");
        assert!(!is_due(&chain(Blocks::None, Hold::Latest), Some(&block(1))), "a matching log may not exist");
        assert_eq!(due(&all, Some(&block(9)), 2), Due::Unheard, "another chain has told where it stands");
    }

    #[test]
    fn a_position_without_an_event_is_kept_now_and_then() {
        let source = chain(Blocks::None, Hold::Latest);
        let at = |number| Cursor::block(number, Hash::default());
        let kept = |number| source.is_worth_keeping(&at(100), &at(number));
        assert!(!kept(163) && kept(164) && !kept(99));
    }

    #[test]
    fn the_key_of_a_cursor_tells_the_chain_and_what_is_held_back() {
        let id = |hold| chain(Blocks::All, hold).id().to_string();
        let holds = [Hold::Latest, Hold::Confirmations(3), Hold::Safe, Hold::Finalized];
        assert_eq!(holds.map(id), ["chain:1", "chain:1:confirmations=3", "chain:1:safe", "chain:1:finalized"]);
    }
}
