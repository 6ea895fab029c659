//! Block headers as this crate handles them, and the `block` event made of one.

use alloy::primitives::Bloom;
use nexum_host_ifaces::{
    Hash,
    interfaces::chain::port::Link,
    types::{Block, Event},
};

/// A block header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub number: u64,
    pub hash: Hash,
    pub parent: Hash,
    /// Seconds since the Unix epoch, as the chain counts.
    pub timestamp_s: u64,
    /// What it excludes is not in the block. Absent when that cannot be relied on; then every block may hold any log.
    pub bloom: Option<Box<Bloom>>,
    /// A bloom that leaves out some logs, but promises those that it holds.
    pub hint: Option<Box<Bloom>>,
    /// The root of the receipts. Present only when the hash is that of the header's fields, so that it is proven.
    pub receipts_root: Option<Hash>,
    pub gas_used: Option<u64>,
}

impl Header {
    /// A header of which nothing is known but its place.
    pub fn new(number: u64, hash: Hash, parent: Hash, timestamp_s: u64) -> Self {
        Self { number, hash, parent, timestamp_s, bloom: None, hint: None, receipts_root: None, gas_used: None }
    }

    /// The bloom as far as it promises logs.
    pub fn promises(&self) -> Option<&Bloom> {
        self.bloom.as_deref().or(self.hint.as_deref())
    }

    /// The bloom says no more what is not there.
    pub fn distrust_bloom(&mut self) {
        self.hint = self.bloom.take().or(self.hint.take());
    }

    pub fn link(&self) -> Link {
        Link { number: self.number, hash: self.hash, parent: self.parent }
    }

    /// Whether it stands on this block, by hash and by number: a node can make up a header of any number.
    pub fn follows(&self, below: &Self) -> bool {
        self.parent == below.hash && self.number.checked_sub(1) == Some(below.number)
    }

    /// The `block` event of this block.
    pub fn event(&self, chain_id: u64) -> Event {
        Event::Block(Block {
            chain_id,
            number: self.number,
            hash: self.hash.0.to_vec(),
            parent_hash: self.parent.0.to_vec(),
            timestamp: self.timestamp_s.saturating_mul(1_000),
        })
    }
}
