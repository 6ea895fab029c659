//! Which logs a module wants: matching, what a header's bloom rules out, and the union that one read serves all with.
//!
//! Invariant: a union matches whatever any of its filters matches, and a bloom never rules out a log that is there.

use std::collections::BTreeSet;

use alloy::primitives::{Bloom, BloomInput, keccak256};
use nexum_host_ifaces::{Address, Hash, interfaces::chain::port::LogFilter, types::Log};

/// Nodes refuse long lists (geth: 1,000 per position). Past this a union asks for everything at that position instead.
const UNION_ADDRESSES_MAX: usize = 500;
const UNION_TOPICS_MAX: usize = 200;

/// The three bits of a 2048-bit bloom that one address or topic sets.
#[derive(Debug, Clone, Copy)]
struct BloomBits([u16; 3]);

impl BloomBits {
    fn of(bytes: &[u8]) -> Self {
        let hash = keccak256(bytes);
        Self([0, 2, 4].map(|i| u16::from_be_bytes([hash[i], hash[i + 1]]) & 0x7ff))
    }

    fn set_in(self, bloom: &Bloom) -> bool {
        self.0.iter().all(|bit| bloom[255 - usize::from(bit >> 3)] & (1 << (bit & 7)) != 0)
    }
}

/// One filter with its bloom bits.
#[derive(Debug)]
struct Compiled {
    filter: LogFilter,
    addresses: Vec<BloomBits>,
    topics: [Vec<BloomBits>; 4],
}

impl Compiled {
    fn new(filter: &LogFilter) -> Self {
        Self {
            addresses: filter.addresses.iter().map(|address| BloomBits::of(&address.0)).collect(),
            topics: filter.topics.each_ref().map(|set| set.iter().map(|topic| BloomBits::of(&topic.0)).collect()),
            filter: filter.clone(),
        }
    }

    fn possible_in(&self, number: u64, bloom: &Bloom) -> bool {
        let any = |bits: &Vec<BloomBits>| bits.is_empty() || bits.iter().any(|bits| bits.set_in(bloom));
        // Where nothing at all was logged not even a filter without conditions finds something.
        number >= self.filter.from_block && !bloom.is_zero() && any(&self.addresses) && self.topics.iter().all(any)
    }
}

/// Whether a log is what the filter asks for.
pub fn matches(filter: &LogFilter, log: &Log) -> bool {
    if log.block_number < filter.from_block {
        return false;
    }
    let address_wanted = filter.addresses.is_empty()
        || Address::try_from(log.address.as_slice()).is_ok_and(|address| filter.addresses.contains(&address));
    address_wanted
        && filter.topics.iter().enumerate().all(|(position, wanted)| {
            wanted.is_empty()
                || log
                    .topics
                    .get(position)
                    .and_then(|topic| Hash::try_from(topic.as_slice()).ok())
                    .is_some_and(|topic| wanted.contains(&topic))
        })
}

/// The log filters of one interest, ready to be asked often.
#[derive(Debug)]
pub struct Filters(Vec<Compiled>);

impl Filters {
    pub fn new(filters: &[LogFilter]) -> Self {
        Self(filters.iter().map(Compiled::new).collect())
    }

    /// True when no log can ever be wanted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a block with this bloom may hold a wanted log.
    pub fn possible_in(&self, number: u64, bloom: Option<&Bloom>) -> bool {
        match bloom {
            Some(bloom) => self.0.iter().any(|filter| filter.possible_in(number, bloom)),
            None => self.0.iter().any(|filter| number >= filter.filter.from_block),
        }
    }

    pub fn wants(&self, log: &Log) -> bool {
        self.0.iter().any(|filter| matches(&filter.filter, log))
    }

    /// The first block that any filter looks at; the end of time when there is none.
    pub fn first_block(&self) -> u64 {
        self.0.iter().map(|filter| filter.filter.from_block).min().unwrap_or(u64::MAX)
    }
}

/// A single `eth_getLogs` filter that covers several filters. `None` at a position means anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Union {
    /// False until a filter was added: then it matches nothing.
    filled: bool,
    addresses: Option<BTreeSet<Address>>,
    topics: [Option<BTreeSet<Hash>>; 4],
}

impl Union {
    pub fn of<'a>(filters: impl IntoIterator<Item = &'a LogFilter>) -> Self {
        let mut union = Self::default();
        for filter in filters {
            union.add(filter);
        }
        union
    }

    pub fn is_empty(&self) -> bool {
        !self.filled
    }

    /// Whether every log is covered.
    pub fn is_everything(&self) -> bool {
        self.filled && self.addresses.is_none() && self.topics.iter().all(Option::is_none)
    }

    pub fn add(&mut self, filter: &LogFilter) {
        let filled = std::mem::replace(&mut self.filled, true);
        merge(&mut self.addresses, &filter.addresses, filled, UNION_ADDRESSES_MAX);
        for (mine, theirs) in self.topics.iter_mut().zip(&filter.topics) {
            merge(mine, theirs, filled, UNION_TOPICS_MAX);
        }
    }

    /// Whether a block with this bloom may hold a log of this union.
    pub fn possible_in(&self, bloom: &Bloom) -> bool {
        let set = |bytes: &[u8]| BloomBits::of(bytes).set_in(bloom);
        let address = self.addresses.as_ref().is_none_or(|any| any.iter().any(|address| set(&address.0)));
        let topic = |any: &Option<BTreeSet<Hash>>| any.as_ref().is_none_or(|any| any.iter().any(|topic| set(&topic.0)));
        self.filled && !bloom.is_zero() && address && self.topics.iter().all(topic)
    }

    /// Whether a node may answer with this log.
    pub fn covers(&self, log: &Log) -> bool {
        let address_fits = self
            .addresses
            .as_ref()
            .is_none_or(|set| Address::try_from(log.address.as_slice()).is_ok_and(|address| set.contains(&address)));
        self.filled
            && address_fits
            && self.topics.iter().enumerate().all(|(position, wanted)| {
                wanted.as_ref().is_none_or(|wanted| {
                    log.topics
                        .get(position)
                        .and_then(|topic| Hash::try_from(topic.as_slice()).ok())
                        .is_some_and(|topic| wanted.contains(&topic))
                })
            })
    }

    /// The longest list of its filter: what a node may find too long.
    pub fn longest_list(&self) -> u64 {
        let addresses = self.addresses.as_ref().map_or(0, BTreeSet::len);
        let topics = self.topics.iter().flatten().map(BTreeSet::len).max().unwrap_or(0);
        addresses.max(topics) as u64
    }

    /// Unions that together cover the same, none with a list longer than `most`.
    pub fn parts(&self, most: u64) -> Vec<Union> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        let mut parts = vec![self.clone()];
        let split = |set: &BTreeSet<Address>| -> Vec<BTreeSet<Address>> {
            let all: Vec<Address> = set.iter().copied().collect();
            all.chunks(most).map(|chunk| chunk.iter().copied().collect()).collect()
        };
        if let Some(addresses) = self.addresses.as_ref().filter(|addresses| addresses.len() > most) {
            parts = split(addresses).into_iter().map(|some| Union { addresses: Some(some), ..self.clone() }).collect();
        }
        for position in 0..self.topics.len() {
            let Some(topics) = self.topics[position].as_ref().filter(|topics| topics.len() > most) else { continue };
            let all: Vec<Hash> = topics.iter().copied().collect();
            let chunks: Vec<BTreeSet<Hash>> = all.chunks(most).map(|chunk| chunk.iter().copied().collect()).collect();
            parts = parts
                .iter()
                .flat_map(|part| {
                    chunks.iter().map(|some| {
                        let mut part = part.clone();
                        part.topics[position] = Some(some.clone());
                        part
                    })
                })
                .collect();
        }
        parts
    }

    /// The `address` and `topics` members of an `eth_getLogs` filter.
    pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut json = serde_json::Map::new();
        if let Some(addresses) = &self.addresses {
            json.insert("address".into(), addresses.iter().map(Address::to_string).collect());
        }
        if let Some(last) = self.topics.iter().rposition(Option::is_some) {
            let topics = self.topics[..=last].iter().map(|set| match set {
                None => serde_json::Value::Null,
                Some(set) => set.iter().map(Hash::to_string).collect(),
            });
            json.insert("topics".into(), topics.collect());
        }
        json
    }
}

/// Widens `mine` by `theirs`, where an empty set means anything.
fn merge<T: Ord + Copy>(mine: &mut Option<BTreeSet<T>>, theirs: &BTreeSet<T>, filled: bool, max: usize) {
    if theirs.is_empty() {
        *mine = None;
    } else if !filled {
        *mine = Some(theirs.clone());
    } else if let Some(set) = mine {
        set.extend(theirs);
    }
    if mine.as_ref().is_some_and(|set| set.len() > max) {
        *mine = None;
    }
}

/// The bloom of some logs.
pub fn bloom_of(logs: &[Log]) -> Bloom {
    let mut bloom = Bloom::default();
    for log in logs {
        bloom.accrue(BloomInput::Raw(&log.address));
        log.topics.iter().for_each(|topic| bloom.accrue(BloomInput::Raw(topic)));
    }
    bloom
}

/// Whether a bloom allows a log.
pub fn allows(bloom: &Bloom, log: &Log) -> bool {
    let bytes = |bytes: &Vec<u8>| bloom.contains_input(BloomInput::Raw(bytes));
    bytes(&log.address) && log.topics.iter().all(bytes)
}

/// Whether an answer about one block is hard to believe: its bloom promises logs that the answer does not have, and is too
/// sparse to do so by chance. Nodes that publish a head before its logs are indexed answer like this, and those that have
/// forgotten them.
pub fn is_doubtful(union: &Union, bloom: &Bloom, logs: &[Log]) -> bool {
    /// Doubts that are unfounded by chance are borne up to this share of all blocks.
    const CHANCE_MAX: f64 = 1.0 / 32.0;
    if bloom.is_zero() || !union.possible_in(bloom) {
        return false;
    }
    if union.is_everything() {
        // A log that the bloom does not have may be the chain's doing; one that it has must be there.
        let told = bloom_of(logs);
        return bloom.iter().zip(told.iter()).any(|(promised, told)| promised & !told != 0);
    }
    let set: u32 = bloom.iter().map(|byte| byte.count_ones()).sum();
    // Of one address or topic: three bits that are set by chance.
    let by_chance = (f64::from(set) / 2_048.0).powi(3);
    let any_of = |count: usize| 1.0 - (1.0 - by_chance).powi(i32::try_from(count).unwrap_or(i32::MAX));
    let of_topics = |from: usize| -> f64 {
        let listed = union.topics[from..].iter().flatten();
        listed.map(|set| any_of(set.len())).product()
    };
    let promised = |bytes: &[u8]| BloomBits::of(bytes).set_in(bloom);
    match (&union.addresses, &union.topics[0]) {
        (Some(addresses), _) => {
            let missing = addresses
                .iter()
                .any(|address| promised(&address.0) && !logs.iter().any(|log| log.address == address.0));
            missing && addresses.len() as f64 * by_chance * of_topics(0) < CHANCE_MAX
        }
        (None, Some(signatures)) => {
            let missing = signatures.iter().any(|topic| {
                let has = |log: &Log| log.topics.first().is_some_and(|first| *first == topic.0);
                promised(&topic.0) && !logs.iter().any(has)
            });
            missing && signatures.len() as f64 * by_chance * of_topics(1) < CHANCE_MAX
        }
        (None, None) => logs.is_empty() && of_topics(1) < CHANCE_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Address {
        Address([n; 20])
    }

    fn topic(n: u8) -> Hash {
        Hash([n; 32])
    }

    fn filter(addresses: &[u8], topics: [&[u8]; 4]) -> LogFilter {
        LogFilter {
            addresses: addresses.iter().map(|n| address(*n)).collect(),
            topics: topics.map(|set| set.iter().map(|n| topic(*n)).collect()),
            from_block: 10,
        }
    }

    fn log(address_byte: u8, topics: &[u8], number: u64) -> Log {
        Log {
            chain_id: 1,
            address: address(address_byte).0.to_vec(),
            topics: topics.iter().map(|n| topic(*n).0.to_vec()).collect(),
            data: vec![],
            block_number: number,
            block_hash: vec![0; 32],
            block_timestamp: 0,
            transaction_hash: vec![0; 32],
            transaction_index: 0,
            log_index: 0,
        }
    }

    #[test]
    fn a_log_matches_by_address_topic_position_and_first_block() {
        let cases: &[(&str, LogFilter, Log, bool)] = &[
            ("no condition", filter(&[], [&[], &[], &[], &[]]), log(1, &[], 10), true),
            ("before its first block", filter(&[], [&[], &[], &[], &[]]), log(1, &[], 9), false),
            ("one of two addresses", filter(&[1, 2], [&[], &[], &[], &[]]), log(2, &[], 10), true),
            ("another address", filter(&[1, 2], [&[], &[], &[], &[]]), log(3, &[], 10), false),
            ("one of two topics", filter(&[], [&[7, 8], &[], &[], &[]]), log(1, &[8], 10), true),
            ("second position only", filter(&[], [&[], &[9], &[], &[]]), log(1, &[1, 9], 10), true),
            ("the topic at another position", filter(&[], [&[], &[9], &[], &[]]), log(1, &[9, 1], 10), false),
            ("too few topics", filter(&[], [&[], &[9], &[], &[]]), log(1, &[9], 10), false),
        ];
        for (name, filter, log, expected) in cases {
            assert_eq!(matches(filter, log), *expected, "{name}");
        }
    }

    #[test]
    fn a_union_covers_each_of_its_filters() {
        let filters = [filter(&[1], [&[7], &[], &[], &[]]), filter(&[2], [&[8], &[5], &[], &[]])];
        let union = Union::of(&filters);
        for log in [log(1, &[7], 10), log(2, &[8, 5], 10)] {
            assert!(union.covers(&log));
        }
        assert!(!union.covers(&log(3, &[7], 10)));
        let json = serde_json::Value::Object(union.to_json());
        assert_eq!(json["address"].as_array().map(Vec::len), Some(2));
        assert_eq!(json["topics"].as_array().map(Vec::len), Some(1), "the second position takes anything");
    }

    #[test]
    fn a_union_that_grows_past_what_nodes_accept_asks_for_everything() {
        let many = (0..=UNION_ADDRESSES_MAX as u32).map(|n| {
            let mut bytes = [0; 20];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            LogFilter { addresses: [Address(bytes)].into(), topics: Default::default(), from_block: 0 }
        });
        let filters: Vec<LogFilter> = many.collect();
        assert!(Union::of(&filters).to_json().is_empty());
        assert!(!Union::default().covers(&log(1, &[], 0)), "an empty union wants nothing");
    }

    #[test]
    fn the_bloom_agrees_with_alloy() {
        let mut bloom = Bloom::default();
        bloom.accrue(BloomInput::Raw(&address(1).0));
        bloom.accrue(BloomInput::Raw(&topic(7).0));
        let wanted = |addresses: &[u8], topics: [&[u8]; 4]| Filters::new(&[filter(addresses, topics)]);
        assert!(wanted(&[1], [&[7], &[], &[], &[]]).possible_in(10, Some(&bloom)));
        assert!(wanted(&[], [&[], &[], &[], &[]]).possible_in(10, Some(&bloom)));
        assert!(!wanted(&[2], [&[7], &[], &[], &[]]).possible_in(10, Some(&bloom)));
        assert!(!wanted(&[1], [&[6], &[], &[], &[]]).possible_in(10, Some(&bloom)));
        assert!(!wanted(&[1], [&[7], &[], &[], &[]]).possible_in(9, Some(&bloom)), "before its first block");
        assert!(wanted(&[2], [&[], &[], &[], &[]]).possible_in(10, None), "an unknown bloom rules nothing out");
        let union = Union::of(&[filter(&[1], [&[7], &[], &[], &[]])]);
        assert!(is_doubtful(&union, &bloom, &[]));
        assert!(!is_doubtful(&union, &Bloom::repeat_byte(0xff), &[]), "a full bloom proves nothing");
        assert!(!is_doubtful(&union, &Bloom::default(), &[]));
        let anything = Union::of(&[filter(&[], [&[], &[], &[], &[]])]);
        assert!(is_doubtful(&anything, &Bloom::repeat_byte(0xff), &[]));
        assert!(!wanted(&[], [&[], &[], &[], &[]]).possible_in(10, Some(&Bloom::default())), "nothing was logged");
    }
}
