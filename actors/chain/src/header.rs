//! Block headers as this crate handles them, and the `block` event made of one.

use alloy::primitives::Bloom;
use nexum_host_ifaces::{
    Hash,
    chain::Link,
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
    /// Absent when the chain does not fill it in; then every block may hold any log.
    pub bloom: Option<Box<Bloom>>,
}

impl Header {
    pub fn link(&self) -> Link {
        Link { number: self.number, hash: self.hash, parent: self.parent }
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
