//! Proofs that need no second opinion: a header's hash from its fields, and a block's logs from its receipts.
//!
//! Invariant: what these functions accept follows from a hash alone, however many nodes say otherwise. A header that
//! [`is_sealed`] has the fields that its hash stands for. Receipts that [`proves`] accepts for such a header are all of
//! the block's receipts, and their logs are all of the logs in them.
//!
//! The steps belong together. A header's `receiptsRoot` is worth nothing before the header is sealed by a hash that is
//! trusted for another reason, such as being the parent of a trusted block or the word of a majority. Chains that
//! cannot be proven often tell the root of no receipts at all, and an empty list of receipts would fit it.
//!
//! Nothing here does input or output, and nothing decides which hash to trust: that is left to the caller.
//!
//! # Headers
//!
//! These forms are tried: Ethereum of every fork, and what hashes like it (Clique, BSC, Polygon, Linea, Scroll, Arbitrum
//! since Nitro, the OP stack, Celo since its move to a rollup, Gnosis since its merge, Anvil); AuRa's seal in place of
//! mix hash and nonce; Avalanche's C-Chain and Subnet-EVM; Berachain; XDC and Viction. A node may also tell optional
//! fields that its chain does not hash.
//!
//! The first thirteen fields, `parentHash` to `extraData`, are covered by every form. Nothing is said of optional fields
//! that the accepted form leaves out.
//!
//! These cannot be proven, because their block hash is no hash of these fields: Hedera, Tron, Filecoin, zkSync Era and
//! its relatives, Fantom and Sonic, Moonbeam (its header counts milliseconds), the chains of Cosmos and Tendermint
//! (Cronos, Evmos, Kava, Sei), Kaia, Harmony, Flow, Arbitrum before Nitro, and the chains of Istanbul BFT, which leave
//! seals out of the hash (Celo before its move, Quorum, Besu's IBFT and QBFT).
//!
//! # Receipts
//!
//! The root covers of each receipt its type, status, cumulative gas, and logs, and of each log its address, topics, data
//! and place among the block's logs. Nothing more of these can be in the block.
//!
//! The root does not cover hashes and numbers that nodes add. [`receipts`] counts log indices itself and checks that all
//! receipts name one block; the caller compares that block's hash and number with the header's. A log's
//! `transactionHash` is the receipt's and stays the node's word, unless the transactions' root is checked too.
//!
//! Polygon tells logs that no root covers: see [`roots_cover_all_logs`].

mod header;
mod receipts;
#[cfg(test)]
mod tests;

pub use header::{HeaderFields, header_hash, is_sealed};
pub use receipts::{Receipts, proves, receipts, roots_cover_all_logs};
