//! Swarm's chunks, references and feeds, without a network: what an address proves, and what an answer of a node means.
//!
//! `chunk` is the unit that is stored: at most 4,096 bytes with their span, under an address that is a hash of both.
//! `split` makes a tree of them out of data, and `join` data out of a tree. `encryption` is for trees whose references
//! carry a key. `soc` are chunks that an account signed, `feed` where the updates of a feed are, `node` the answers of a
//! Bee node.
//!
//! Invariant: nothing here trusts whoever brought a chunk. What is handed out was checked against the address that was
//! asked for, and no answer decides on how much is kept.

pub mod chunk;
pub mod encryption;
pub mod feed;
pub mod join;
pub mod node;
pub mod reference;
pub mod soc;
pub mod split;

pub use chunk::{Chunk, ChunkAddress, PAYLOAD_BYTES_MAX, SPAN_BYTES};
pub use reference::Reference;

/// What is wrong with a chunk that a node sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    #[error("a chunk of {0} bytes: expected a span of 8 bytes and at most 4096 bytes more")]
    Size(usize),
    #[error("the chunk is not the one of its address")]
    Address,
    #[error("the chunk is of the address, and not signed by the owner")]
    Signature,
}

/// Why content cannot be made out of chunks although each is the one of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the content has {bytes} bytes, at most {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: usize },
    #[error("the content is stored with erasure codes, which are not read")]
    ErasureCodes,
    #[error("the address is not that of a tree of chunks")]
    NoTree,
}
