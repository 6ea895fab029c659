//! What has been learnt of a chain: whether its blooms can be relied on, and what of it can be proven.
//!
//! Pure. Nothing here names an endpoint: what several say, or one says again, is the chain's nature and no lie.

use std::collections::VecDeque;

use nexum_host_ifaces::Hash;

use crate::{
    config::{BloomUse, Verify},
    header::Header,
    proof,
};

/// Whether something of this chain can be proven, as far as it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provable {
    #[default]
    Untried,
    Yes,
    No,
}

/// Why an answer about a block's logs may not be the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Doubts {
    /// The bloom promises logs that were not told.
    pub promised: bool,
    /// The bloom excludes logs that were told.
    pub excluded: bool,
    /// All logs were asked for, and log indexes are missing before the last that was told.
    pub gap: bool,
}

impl Doubts {
    pub fn any(self) -> bool {
        self.kinds().into_iter().any(|raised| raised)
    }

    fn kinds(self) -> [bool; 3] {
        [self.promised, self.excluded, self.gap]
    }
}

/// What is said of a chain that raises doubts of a kind all the time, in the order of [`Doubts::kinds`].
const NATURES: [&str; 3] = [
    "blooms promise logs that are not there",
    "blooms exclude logs that are there",
    "log indexes of a block have gaps",
];

const EXCLUDED: usize = 1;

/// So many doubts of one kind in a row that were unfounded, within so many blocks, are the chain's nature. By chance a bloom
/// promises too much in one block of thirty-two at most.
const UNFOUNDED: usize = 16;
const UNFOUNDED_WITHIN: u64 = 64;
/// Then one doubt of that kind in so many is still settled.
const SAMPLED: u8 = 16;

/// The doubts of one kind that were unfounded.
#[derive(Debug, Default)]
struct Unfounded {
    /// The blocks of the newest since one that was founded, at most [`UNFOUNDED`].
    blocks: VecDeque<u64>,
    /// Whether they come so often that it is no chance.
    is_nature: bool,
    /// Whether any was found so by nothing but what the same endpoint said again.
    on_its_own_word: bool,
}

impl Unfounded {
    /// True when the chain's nature is news.
    fn note(&mut self, number: u64, on_its_own_word: bool) -> bool {
        self.on_its_own_word |= on_its_own_word;
        if !self.blocks.contains(&number) {
            if self.blocks.len() == UNFOUNDED {
                self.blocks.pop_front();
            }
            self.blocks.push_back(number);
        }
        let (least, most) = self.blocks.iter().fold((u64::MAX, 0), |(least, most), n| (least.min(*n), most.max(*n)));
        // Where only some are settled, as many reach further.
        let within = if self.is_nature { UNFOUNDED_WITHIN * u64::from(SAMPLED) } else { UNFOUNDED_WITHIN };
        let is_nature = self.blocks.len() == UNFOUNDED && most - least < within;
        !std::mem::replace(&mut self.is_nature, is_nature) && is_nature
    }
}

#[derive(Debug)]
pub struct Trust {
    pub verify: Verify,
    bloom: BloomUse,
    bloom_is_learnt: bool,
    /// Whether a header's hash is that of its fields.
    headers: Provable,
    /// Whether receipts lead to the header's root.
    receipts: Provable,
    /// Whether there are logs that no receipt of the block has.
    outside_logs: bool,
    /// Whether log indexes are counted per transaction.
    renumbers: bool,
    /// Whether something could not be proven when that was needed.
    is_proof_missed: bool,
    /// In the order of [`Doubts::kinds`].
    unfounded: [Unfounded; 3],
}

/// Chains whose headers' blooms hold exactly the logs of the block: clients of Ethereum without additions of their own.
const EXACT: [u64; 16] = [
    1, 11_155_111, 17_000, 560_048, // Ethereum and its test networks
    100, 10_200, // Gnosis
    56, 97, // BNB Smart Chain
    10, 11_155_420, 8_453, 84_532, // OP stack
    42_161, 421_614, // Arbitrum
    43_114, 43_113, // Avalanche
];
/// Chains whose headers' blooms say nothing: all zero or all ones.
const IGNORED: [u64; 11] = [
    324, 300, // zkSync Era
    295, 296, 297, // Hedera
    314, 314_159, // Filecoin
    250, 4_002, // Fantom
    747, 545, // Flow
];

impl Trust {
    pub fn new(chain_id: u64, bloom: Option<BloomUse>, verify: Verify) -> Self {
        let preset = match chain_id {
            id if EXACT.contains(&id) => BloomUse::Exact,
            id if IGNORED.contains(&id) => BloomUse::Ignore,
            // Whoever relies on a bloom that leaves something out loses it without a word.
            _ => BloomUse::Hint,
        };
        Self {
            verify,
            bloom: bloom.unwrap_or(preset),
            bloom_is_learnt: false,
            headers: Provable::default(),
            receipts: Provable::default(),
            outside_logs: !proof::roots_cover_all_logs(chain_id),
            renumbers: false,
            is_proof_missed: false,
            unfounded: Default::default(),
        }
    }

    /// The header with as much of its bloom as this chain's blooms are worth.
    pub fn weigh(&self, mut header: Header) -> Header {
        match self.bloom {
            BloomUse::Exact => {}
            BloomUse::Hint => header.hint = header.bloom.take().or(header.hint),
            BloomUse::Ignore => (header.bloom, header.hint) = (None, None),
        }
        header
    }

    pub fn bloom(&self) -> BloomUse {
        self.bloom
    }

    /// A block has logs that its bloom excludes, and that is the chain's truth. True when that is news.
    pub fn bloom_leaves_out(&mut self) -> bool {
        let news = self.bloom == BloomUse::Exact;
        if news {
            (self.bloom, self.bloom_is_learnt) = (BloomUse::Hint, true);
        }
        news
    }

    /// A header's hash is that of its fields.
    pub fn sealed(&mut self) {
        if self.headers == Provable::Untried {
            self.headers = Provable::Yes;
        }
    }

    /// Headers' hashes are not those of their fields, and that is the chain's truth. True when that is news.
    pub fn unsealed(&mut self) -> bool {
        std::mem::replace(&mut self.headers, Provable::No) != Provable::No
    }

    /// Whether a header must be sealed to be believed without further ado.
    pub fn expects_seal(&self) -> bool {
        match self.verify {
            Verify::Off => false,
            Verify::Doubt => self.headers == Provable::Yes,
            Verify::Always => true,
        }
    }

    pub fn receipts(&self) -> Provable {
        self.receipts
    }

    pub fn proven(&mut self) {
        self.receipts = Provable::Yes;
    }

    /// Receipts do not lead to the header's root, and that is the chain's truth. True when that is news.
    pub fn unproven(&mut self) -> bool {
        self.receipts == Provable::Untried && std::mem::replace(&mut self.receipts, Provable::No) != Provable::No
    }

    pub fn has_outside_logs(&self) -> bool {
        self.outside_logs
    }

    /// There are logs that no receipt has. True when that is news.
    pub fn outside_logs(&mut self) -> bool {
        !std::mem::replace(&mut self.outside_logs, true)
    }

    /// Log indexes are counted per transaction. True when that is news.
    pub fn renumbers(&mut self) -> bool {
        !std::mem::replace(&mut self.renumbers, true)
    }

    /// Doubts about a block's logs were settled: the answer was right, or not. `on_its_own_word` when nobody but the endpoint
    /// itself could say so. Returns what is news of the chain's nature.
    pub fn doubted(
        &mut self,
        number: u64,
        doubts: Doubts,
        was_right: bool,
        on_its_own_word: bool,
    ) -> Option<&'static str> {
        if !was_right {
            // One lie, and nothing is taken for granted.
            self.unfounded = Default::default();
            return None;
        }
        let mut news = None;
        for ((unfounded, raised), nature) in self.unfounded.iter_mut().zip(doubts.kinds()).zip(NATURES) {
            if raised && unfounded.note(number, on_its_own_word) {
                news = Some(nature);
            }
        }
        news
    }

    /// Whether these doubts about a block's logs are settled. Each is, unless the chain raises doubts of this kind all the
    /// time; then some are. What an endpoint that was alone taught counts only for as long as it is `alone`.
    pub fn settles(&mut self, block: &Hash, doubts: Doubts, alone: bool) -> bool {
        let mut settles = false;
        for (unfounded, raised) in self.unfounded.iter_mut().zip(doubts.kinds()) {
            if unfounded.on_its_own_word && !alone {
                *unfounded = Unfounded::default();
            }
            settles |= raised && (!unfounded.is_nature || block.0[31].is_multiple_of(SAMPLED));
        }
        settles
    }

    /// Whether a block's bloom says anything that an answer about its logs can be held against.
    pub fn says_something(&self, header: &Header) -> bool {
        header.promises().is_some_and(|bloom| {
            let leaves_out = self.bloom_is_learnt || self.unfounded[EXCLUDED].is_nature;
            !(bloom.iter().all(|byte| *byte == u8::MAX) || (bloom.is_zero() && leaves_out))
        })
    }

    /// Whether log indexes that are not those of a block may be the chain's nature. Where receipts lead to headers they are not.
    pub fn may_renumber(&self) -> bool {
        self.receipts != Provable::Yes && (self.headers != Provable::Yes || self.is_proof_missed)
    }

    /// What a block holds had to be proven, and nobody could do so.
    pub fn proof_missed(&mut self) {
        self.is_proof_missed = true;
    }

    /// What has been learnt, for whoever looks.
    pub fn learnt(&self) -> Vec<String> {
        let mut learnt = Vec::new();
        if self.bloom_is_learnt {
            learnt.push("blooms leave out logs".to_owned());
        }
        let natures = self.unfounded.iter().zip(NATURES).filter(|(unfounded, _)| unfounded.is_nature);
        learnt.extend(natures.map(|(_, nature)| nature.to_owned()));
        if self.headers == Provable::No {
            learnt.push("headers cannot be proven".to_owned());
        }
        if self.receipts == Provable::No {
            learnt.push("receipts cannot be proven".to_owned());
        }
        if self.outside_logs {
            learnt.push("some logs are in no receipt".to_owned());
        }
        if self.renumbers {
            learnt.push("log indexes are counted per transaction".to_owned());
        }
        learnt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_chains_are_preset_and_others_are_not_relied_on() {
        let bloom = |chain_id, configured| Trust::new(chain_id, configured, Verify::Doubt).bloom();
        assert_eq!(bloom(1, None), BloomUse::Exact);
        assert_eq!(bloom(137, None), BloomUse::Hint);
        assert_eq!(bloom(324, None), BloomUse::Ignore);
        assert_eq!(bloom(31_337, None), BloomUse::Hint);
        assert_eq!(bloom(31_337, Some(BloomUse::Exact)), BloomUse::Exact);
    }

    const PROMISED: Doubts = Doubts { promised: true, excluded: false, gap: false };
    const GAP: Doubts = Doubts { promised: false, excluded: false, gap: true };
    const PLAIN: Hash = Hash([0xff; 32]);

    #[test]
    fn doubts_are_settled_unless_the_chain_gives_cause_for_them_all_the_time() {
        let mut trust = Trust::new(1, None, Verify::Doubt);
        for number in (0..10_000).step_by(32) {
            let news = trust.doubted(number, PROMISED, true, false);
            assert!(
                news.is_none() && trust.settles(&PLAIN, PROMISED, false),
                "{number}: chance, however long it goes on"
            );
        }
        let news = (20_000..20_100).filter_map(|number| trust.doubted(number, PROMISED, true, false));
        assert_eq!(news.collect::<Vec<_>>(), ["blooms promise logs that are not there"]);
        assert_eq!(trust.learnt(), ["blooms promise logs that are not there"]);
        let mut settles = |block, doubts| trust.settles(&block, doubts, false);
        assert_eq!((settles(PLAIN, PROMISED), settles(Hash([0; 32]), PROMISED)), (false, true));
        assert!(settles(PLAIN, GAP), "a doubt of another kind is another matter");
        assert!(settles(PLAIN, Doubts { gap: true, ..PROMISED }), "and counts beside one that is usual");
        trust.doubted(20_100, PROMISED, false, false);
        assert!(trust.settles(&PLAIN, PROMISED, false) && trust.learnt().is_empty(), "one lie ends it");
        for number in 30_000..30_016 {
            trust.doubted(number, PROMISED, true, false);
        }
        assert!(!trust.settles(&PLAIN, PROMISED, false));
        trust.doubted(40_000, PROMISED, true, false);
        assert!(trust.settles(&PLAIN, PROMISED, false), "what was learnt of a time when all were doubted ends with it");
    }

    #[test]
    fn what_one_endpoint_said_for_itself_counts_for_as_long_as_it_is_alone() {
        let mut trust = Trust::new(1, None, Verify::Doubt);
        for number in 0..16 {
            trust.doubted(number, PROMISED, true, number == 3);
        }
        assert!(!trust.settles(&PLAIN, PROMISED, true));
        assert!(trust.settles(&PLAIN, PROMISED, false), "now there is somebody to ask");
        assert!(trust.settles(&PLAIN, PROMISED, true), "and it begins anew");
    }

    #[test]
    fn some_blooms_say_nothing() {
        let header = |byte: Option<u8>| {
            let mut header = Header::new(1, Hash([1; 32]), Hash([0; 32]), 0);
            header.hint = byte.map(|byte| Box::new(alloy::primitives::Bloom::repeat_byte(byte)));
            header
        };
        let mut trust = Trust::new(31_337, None, Verify::Doubt);
        let says =
            |trust: &Trust| [None, Some(0xff), Some(0x10), Some(0)].map(|byte| trust.says_something(&header(byte)));
        assert_eq!(says(&trust), [false, false, true, true]);
        let excluded = Doubts { excluded: true, ..Doubts::default() };
        let news = (0..16).filter_map(|number| trust.doubted(number, excluded, true, false));
        assert_eq!(news.collect::<Vec<_>>(), ["blooms exclude logs that are there"]);
        assert_eq!(says(&trust), [false, false, true, false], "they are zero whatever the block holds");
    }

    #[test]
    fn one_block_that_is_doubted_often_is_one_doubt() {
        let mut trust = Trust::new(1, None, Verify::Doubt);
        assert!((0..100).all(|_| trust.doubted(7, PROMISED, true, false).is_none()));
    }

    #[test]
    fn what_is_learnt_is_news_once_and_told() {
        let mut trust = Trust::new(1, None, Verify::Doubt);
        assert!(trust.learnt().is_empty() && !trust.expects_seal());
        trust.sealed();
        assert!(trust.expects_seal());
        assert!(trust.bloom_leaves_out() && !trust.bloom_leaves_out());
        assert!(trust.unsealed() && !trust.unsealed() && !trust.expects_seal());
        assert!(trust.unproven() && !trust.unproven());
        let told = ["blooms leave out logs", "headers cannot be proven", "receipts cannot be proven"];
        assert_eq!(trust.learnt(), told);
        let mut trust = Trust::new(1, None, Verify::Always);
        assert!(trust.unsealed() && trust.expects_seal(), "who wants proof waits for it");
    }
}
