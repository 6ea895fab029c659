//! What a node's answer to `eth_sendRawTransaction` means. Pure; the table is data.
//!
//! Invariant: words that the table does not know mean `Uncertain`, which is never a reason to sign anew.

use nexum_host_ifaces::{HostError, HostErrorKind};

/// What an endpoint said of the bytes it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It has them now.
    Accepted,
    /// It had them before.
    AlreadyKnown,
    /// The account's nonce is past this one: some transaction used it, perhaps this one.
    NonceTooLow,
    /// A lower nonce is missing there.
    NonceTooHigh,
    /// Another transaction with this nonce is there, and this one does not pay enough more.
    Underpriced,
    /// Less than the base fee, or than the endpoint's own minimum.
    FeeTooLow,
    /// More than the endpoint's own maximum.
    FeeTooHigh,
    InsufficientFunds,
    /// The gas limit does not even pay for the transaction's bytes.
    IntrinsicGas,
    GasLimitExceeded,
    TooLarge,
    WrongChain,
    InvalidSender,
    /// The endpoint ran it and takes nothing that reverts.
    WouldRevert,
    PoolFull,
    Busy,
    /// It may have them, or not.
    Uncertain,
}

impl Class {
    /// The endpoint has the bytes.
    pub fn is_taken(self) -> bool {
        matches!(self, Self::Accepted | Self::AlreadyKnown)
    }

    /// The endpoint does not have the bytes and never takes them, whatever happens on the chain.
    pub fn is_refused(self) -> bool {
        matches!(
            self,
            Self::IntrinsicGas
                | Self::GasLimitExceeded
                | Self::TooLarge
                | Self::WrongChain
                | Self::InvalidSender
                | Self::WouldRevert
        )
    }

    /// The endpoint said in so many words that it did not take the bytes, now.
    pub fn is_not_taken(self) -> bool {
        self.is_refused()
            || matches!(
                self,
                Self::NonceTooHigh
                    | Self::Underpriced
                    | Self::FeeTooLow
                    | Self::FeeTooHigh
                    | Self::InsufficientFunds
                    | Self::PoolFull
            )
    }
}

/// One line: who says so, in which words, and what it means.
struct Line {
    client: &'static str,
    /// JSON-RPC code that must come with the words; most clients use one code for everything.
    code: Option<i32>,
    /// In lower case, anywhere in the message.
    words: &'static str,
    class: Class,
}

const fn line(client: &'static str, words: &'static str, class: Class) -> Line {
    Line { client, code: None, words, class }
}

/// The first line that fits counts, so that a more special one stands above. Clients that are made from another's code
/// (bor, bsc, optimism and arbitrum from geth; op-reth from reth) use its words, and only their own are named for them.
const LINES: &[Line] = &[
    line("geth, erigon, nethermind", "already known", Class::AlreadyKnown),
    line("geth until 1.9, besu, zksync", "known transaction", Class::AlreadyKnown),
    line("anvil, openethereum", "already imported", Class::AlreadyKnown),
    line("erigon", "existing txn with same hash", Class::AlreadyKnown),
    line("erigon until 2", "existing tx with same hash", Class::AlreadyKnown),
    line("nethermind until 1.3", "alreadyknown", Class::AlreadyKnown),
    line("moonbeam", "alreadyimported", Class::AlreadyKnown),
    line("sei", "tx already exists in cache", Class::AlreadyKnown),
    line("geth", "future transaction tries to replace pending", Class::PoolFull),
    line("geth, reth, besu, erigon, nethermind", "replacement transaction underpriced", Class::Underpriced),
    line("erigon", "could not replace existing tx", Class::Underpriced),
    line("anvil", "insufficient gas price to replace existing transaction", Class::Underpriced),
    line("openethereum", "there is another transaction with same nonce in the queue", Class::Underpriced),
    line("nethermind until 1.3", "replacementnotallowed", Class::Underpriced),
    line("klaytn", "there is another tx which has the same nonce in the tx pool", Class::Underpriced),
    line("zksync", "insertion of another transaction with the same nonce is in progress", Class::Busy),
    line("geth, bor, bsc, reth, erigon, nethermind", "transaction underpriced", Class::FeeTooLow),
    line("geth, reth, arbitrum, anvil, zksync", "max fee per gas less than block base fee", Class::FeeTooLow),
    line("reth", "priority fee below minimum required priority fee", Class::FeeTooLow),
    line("besu", "gas price below configured minimum gas price", Class::FeeTooLow),
    line("besu", "gas price below current base fee", Class::FeeTooLow),
    line("openethereum", "does not satisfy your node's minimal gas price", Class::FeeTooLow),
    line("nethermind until 1.3", "feetoolow", Class::FeeTooLow),
    line("arbitrum classic, metis", "gas price too low", Class::FeeTooLow),
    line("erigon, optimism until bedrock", "fee too low", Class::FeeTooLow),
    line("astar", "gas price less than block base fee", Class::FeeTooLow),
    line("zksync", "transaction with an unacceptable gas price", Class::FeeTooLow),
    line("erigon", "underpriced", Class::FeeTooLow),
    line("geth, erigon", "exceeds the configured cap", Class::FeeTooHigh),
    line("besu", "transaction fee cap exceeded", Class::FeeTooHigh),
    line("geth, reth, besu, erigon, arbitrum, zksync, anvil, nethermind", "nonce too low", Class::NonceTooLow),
    line("openethereum", "transaction nonce is too low", Class::NonceTooLow),
    line("nethermind until 1.3", "oldnonce", Class::NonceTooLow),
    line("moonbeam", "pool(stale)", Class::NonceTooLow),
    line("evmos", "tx nonce is lower than account nonce", Class::NonceTooLow),
    line("harmony", "transaction already finalized", Class::NonceTooLow),
    line("geth, reth, besu, arbitrum, zksync, nethermind", "nonce too high", Class::NonceTooHigh),
    line("nethermind until 1.3", "noncegap", Class::NonceTooHigh),
    line("nethermind", "nonce too far in future", Class::NonceTooHigh),
    line("besu", "nonce is too distant from current sender nonce", Class::NonceTooHigh),
    line("besu", "an invalid transaction with a lower nonce exists", Class::NonceTooHigh),
    line("evmos", "tx nonce is higher than account nonce", Class::NonceTooHigh),
    line("geth", "gapped-nonce tx from delegated accounts", Class::NonceTooHigh),
    line("geth, reth, arbitrum, optimism, anvil, erigon, zksync", "insufficient funds", Class::InsufficientFunds),
    line("besu", "upfront cost exceeds account balance", Class::InsufficientFunds),
    line("nethermind until 1.3", "insufficientfunds", Class::InsufficientFunds),
    line("openethereum, geth, zksync", "insufficient balance", Class::InsufficientFunds),
    line("arbitrum classic", "not enough funds for gas", Class::InsufficientFunds),
    line("zksync", "not enough balance to cover the fee", Class::InsufficientFunds),
    line("geth", "transaction would cause overdraft", Class::InsufficientFunds),
    line("geth, reth, anvil", "intrinsic gas too low", Class::IntrinsicGas),
    line("erigon", "intrinsicgas", Class::IntrinsicGas),
    line("besu", "intrinsic gas exceeds gas limit", Class::IntrinsicGas),
    line("geth", "insufficient gas for floor data gas cost", Class::IntrinsicGas),
    line("openethereum", "transaction gas is too low", Class::IntrinsicGas),
    line("geth, besu, zksync", "exceeds block gas limit", Class::GasLimitExceeded),
    line("geth", "transaction gas limit too high", Class::GasLimitExceeded),
    line("erigon", "gas limit is too high", Class::GasLimitExceeded),
    line("nethermind", "gas limit reached", Class::GasLimitExceeded),
    line("nethermind until 1.3", "gaslimitexceeded", Class::GasLimitExceeded),
    line("reth, anvil", "intrinsic gas too high", Class::GasLimitExceeded),
    line("anvil", "gas limit is greater than the block gas limit", Class::GasLimitExceeded),
    line("openethereum", "transaction cost exceeds current gas limit", Class::GasLimitExceeded),
    line("geth, reth", "gas uint64 overflow", Class::GasLimitExceeded),
    line("erigon", "gasuintoverflow", Class::GasLimitExceeded),
    // Gas enough, and still more of something than can be proved.
    line("polygon zkevm, x layer", "counters to continue the execution", Class::GasLimitExceeded),
    line("polygon zkevm, x layer", "out of counters at node level", Class::GasLimitExceeded),
    line("geth, erigon, reth", "oversized data", Class::TooLarge),
    line("nethermind", "transaction too large", Class::TooLarge),
    line("erigon", "rlptoolong", Class::TooLarge),
    line("openethereum", "transaction is too big", Class::TooLarge),
    line("geth, reth, anvil", "max initcode size exceeded", Class::TooLarge),
    line("erigon", "initcode too large", Class::TooLarge),
    line("geth, reth, anvil", "invalid chain id", Class::WrongChain),
    line("besu", "wrong chainid", Class::WrongChain),
    line("besu", "chainid not supported", Class::WrongChain),
    line("anvil", "incompatible eip-155", Class::WrongChain),
    line("geth, erigon", "invalid sender", Class::InvalidSender),
    line("besu, openethereum", "invalid signature", Class::InvalidSender),
    line("nethermind", "failed to recover sender", Class::InvalidSender),
    line("geth, anvil, nethermind", "sender not an eoa", Class::InvalidSender),
    line("reth", "sender is not an eoa", Class::InvalidSender),
    line("besu", "sender account not authorized", Class::InvalidSender),
    line("arbitrum classic", "forbidden sender address", Class::InvalidSender),
    line("arbitrum, zksync", "execution reverted", Class::WouldRevert),
    line("geth, reth", "txpool is full", Class::PoolFull),
    line("erigon", "sub-pool is full", Class::PoolFull),
    line("arbitrum", "queue full", Class::PoolFull),
    line("optimism", "pending tx pool full", Class::PoolFull),
    line("openethereum", "there are too many transactions in the queue", Class::PoolFull),
    line("geth, bsc", "account limit exceeded", Class::PoolFull),
    line("geth", "in-flight transaction limit reached", Class::PoolFull),
    line("erigon", "spammer", Class::PoolFull),
    line("nethermind", "node is syncing", Class::Busy),
    line("besu", "initial sync is still in progress", Class::Busy),
    line("besu", "transaction pool not enabled", Class::Busy),
    line("zksync", "server shutting down", Class::Busy),
    line("zksync until 2023", "too many transactions", Class::Busy),
    line("hosted", "too many requests", Class::Busy),
    line("hosted", "rate limit", Class::Busy),
    Line { client: "infura", code: Some(-32005), words: "limit exceeded", class: Class::Busy },
];

/// What an endpoint's answer means.
pub fn classify(answer: &Result<String, HostError>) -> Class {
    let Err(error) = answer else { return Class::Accepted };
    if error.kind == HostErrorKind::RateLimited {
        return Class::Busy;
    }
    // Whether these bytes arrived nobody knows.
    if matches!(error.kind, HostErrorKind::Timeout) {
        return Class::Uncertain;
    }
    let Some(line) = found(error.code, &error.message) else { return Class::Uncertain };
    tracing::trace!(words = %error.message, of = line.client, class = ?line.class, "an answer to a transaction");
    line.class
}

fn found(code: i32, message: &str) -> Option<&'static Line> {
    let message = message.to_ascii_lowercase();
    LINES.iter().find(|line| line.code.is_none_or(|wanted| wanted == code) && message.contains(line.words))
}

#[cfg(test)]
mod tests;
