//! The exact words of each client, and a test that every line of the table is met by some of them.

use std::collections::BTreeSet;

use super::*;

const SAID: &[(&str, i32, &str, Class)] = &[
    ("geth", -32000, "already known", Class::AlreadyKnown),
    ("geth 1.8", -32000, "known transaction: 7f657507aee0511e36d2d1972a6b22e917cc89f92b6c12c4", Class::AlreadyKnown),
    ("besu", -32000, "Known transaction", Class::AlreadyKnown),
    ("zksync", 3, "known transaction. transaction with hash 0x60… is already in the system", Class::AlreadyKnown),
    ("anvil", -32603, "transaction already imported", Class::AlreadyKnown),
    ("anvil", -32603, "Tx: [0x1234] already Imported", Class::AlreadyKnown),
    ("openethereum", -32010, "Transaction with the same hash was already imported.", Class::AlreadyKnown),
    ("erigon", -32000, "existing txn with same hash", Class::AlreadyKnown),
    ("erigon", -32000, "INTERNAL_ERROR: existing tx with same hash", Class::AlreadyKnown),
    ("erigon", -32000, "ALREADY_EXISTS: already known", Class::AlreadyKnown),
    ("nethermind", -32010, "AlreadyKnown", Class::AlreadyKnown),
    ("moonbeam", -32603, "submit transaction to pool failed: Pool(AlreadyImported)", Class::AlreadyKnown),
    ("sei", -32000, "tx already exists in cache", Class::AlreadyKnown),
    ("geth", -32000, "future transaction tries to replace pending", Class::PoolFull),
    ("geth", -32000, "replacement transaction underpriced", Class::Underpriced),
    ("geth", -32000, "replacement transaction underpriced: new tx gas fee cap 100 <= 110 queued", Class::Underpriced),
    ("besu", -32000, "Replacement transaction underpriced", Class::Underpriced),
    ("erigon", -32000, "INTERNAL_ERROR: could not replace existing tx", Class::Underpriced),
    ("anvil", -32603, "Tx: [0x12] insufficient gas price to replace existing transaction", Class::Underpriced),
    (
        "openethereum",
        -32010,
        "Transaction gas price 100wei is too low. There is another transaction with same nonce in the queue with gas price \
         150wei. Try increasing the gas price or incrementing the nonce.",
        Class::Underpriced,
    ),
    ("nethermind", -32010, "ReplacementNotAllowed", Class::Underpriced),
    ("klaytn", -32000, "there is another tx which has the same nonce in the tx pool", Class::Underpriced),
    ("zksync", 3, "insertion of another transaction with the same nonce is in progress", Class::Busy),
    ("geth", -32000, "transaction underpriced", Class::FeeTooLow),
    ("bor", -32000, "transaction underpriced: gas tip cap 1000000000, minimum needed 25000000000", Class::FeeTooLow),
    ("bsc", -32000, "transaction underpriced: tip needed 1000000000, tip permitted 10", Class::FeeTooLow),
    ("reth", -32003, "max fee per gas less than block base fee", Class::FeeTooLow),
    (
        "arbitrum",
        -32000,
        "max fee per gas less than block base fee: address 0x01, maxFeePerGas: 10 baseFee: 20",
        Class::FeeTooLow,
    ),
    ("reth", -32003, "transaction priority fee below minimum required priority fee 25", Class::FeeTooLow),
    ("besu", -32009, "Gas price below configured minimum gas price", Class::FeeTooLow),
    ("besu", -32009, "Gas price below current base fee", Class::FeeTooLow),
    (
        "openethereum",
        -32010,
        "Transaction gas price is too low. It does not satisfy your node's minimal gas price (minimal: 100 got: 50). Try \
         increasing the gas price.",
        Class::FeeTooLow,
    ),
    ("nethermind", -32010, "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 50, BaseFee: 100", Class::FeeTooLow),
    ("nethermind", -32010, "FeeTooLowToCompete", Class::FeeTooLow),
    ("arbitrum classic", -32000, "gas price too low", Class::FeeTooLow),
    (
        "metis",
        -32000,
        "gas price too low: 18000000000 wei, use at least tx.gasPrice = 19500000000 wei",
        Class::FeeTooLow,
    ),
    ("optimism", -32000, "fee too low: 1, use at least tx.gasLimit = 2 and tx.gasPrice = 3", Class::FeeTooLow),
    ("erigon", -32000, "fee too low", Class::FeeTooLow),
    ("erigon", -32000, "underpriced", Class::FeeTooLow),
    ("astar", -32603, "gas price less than block base fee", Class::FeeTooLow),
    (
        "zksync",
        3,
        "virtual machine entered unexpected state. Error description: The operator included transaction with an \
         unacceptable gas price",
        Class::FeeTooLow,
    ),
    ("geth", -32000, "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)", Class::FeeTooHigh),
    ("besu", -32000, "Transaction fee cap exceeded", Class::FeeTooHigh),
    ("geth", -32000, "nonce too low: next nonce 87, tx nonce 86", Class::NonceTooLow),
    ("reth", -32003, "nonce too low: next nonce 87, tx nonce 86", Class::NonceTooLow),
    ("besu", -32001, "Nonce too low", Class::NonceTooLow),
    ("arbitrum", -32000, "nonce too low: address 0x33, tx: 8089 state: 8090", Class::NonceTooLow),
    ("zksync", 3, "nonce too low. allowed nonce range: 427 - 447, actual: 426", Class::NonceTooLow),
    ("openethereum", -32010, "Transaction nonce is too low. Try incrementing the nonce.", Class::NonceTooLow),
    ("nethermind", -32010, "OldNonce, Current nonce: 22, nonce of rejected tx: 17", Class::NonceTooLow),
    ("moonbeam", -32603, "submit transaction to pool failed: Pool(Stale)", Class::NonceTooLow),
    ("evmos", -32000, "tx nonce is lower than account nonce", Class::NonceTooLow),
    ("harmony", -32000, "transaction already finalized", Class::NonceTooLow),
    ("arbitrum", -32000, "nonce too high: address 0x33, tx: 8092 state: 8090", Class::NonceTooHigh),
    ("anvil", -32003, "Nonce too high", Class::NonceTooHigh),
    ("zksync", 3, "nonce too high. allowed nonce range: 427 - 477, actual: 527", Class::NonceTooHigh),
    ("nethermind", -32010, "NonceGap, Future nonce. Expected nonce: 10", Class::NonceTooHigh),
    ("nethermind", -32010, "nonce too far in future", Class::NonceTooHigh),
    ("besu", -32000, "Transaction nonce is too distant from current sender nonce", Class::NonceTooHigh),
    ("besu", -32000, "An invalid transaction with a lower nonce exists", Class::NonceTooHigh),
    ("evmos", -32000, "tx nonce is higher than account nonce", Class::NonceTooHigh),
    ("geth", -32000, "gapped-nonce tx from delegated accounts", Class::NonceTooHigh),
    (
        "geth",
        -32000,
        "insufficient funds for gas * price + value: balance 1, tx cost 2, overshot 1",
        Class::InsufficientFunds,
    ),
    ("anvil", -32003, "Insufficient funds for gas * price + value", Class::InsufficientFunds),
    ("zksync", 3, "insufficient funds for gas + value. balance: 1, fee: 2, value: 3", Class::InsufficientFunds),
    ("besu", -32004, "Upfront cost exceeds account balance", Class::InsufficientFunds),
    ("nethermind", -32010, "InsufficientFunds, Account balance: 1, cumulative cost: 2", Class::InsufficientFunds),
    ("openethereum", -32010, "Insufficient balance for transaction. Balance=1, Cost=2", Class::InsufficientFunds),
    ("arbitrum classic", -32000, "not enough funds for gas", Class::InsufficientFunds),
    ("zksync", 3, "not enough balance to cover the fee. error message: x", Class::InsufficientFunds),
    ("geth", -32000, "transaction would cause overdraft", Class::InsufficientFunds),
    ("geth", -32000, "intrinsic gas too low: gas 20000, minimum needed 21000", Class::IntrinsicGas),
    ("erigon", -32000, "IntrinsicGas", Class::IntrinsicGas),
    ("besu", -32003, "Intrinsic gas exceeds gas limit", Class::IntrinsicGas),
    ("geth", -32000, "insufficient gas for floor data gas cost: gas 1, minimum needed 2", Class::IntrinsicGas),
    (
        "openethereum",
        -32010,
        "Transaction gas is too low. There is not enough gas to cover minimal cost of the transaction",
        Class::IntrinsicGas,
    ),
    ("geth", -32000, "exceeds block gas limit", Class::GasLimitExceeded),
    ("besu", -32005, "Transaction gas limit exceeds block gas limit", Class::GasLimitExceeded),
    ("geth", -32000, "transaction gas limit too high (cap: 16777216, tx: 20000000)", Class::GasLimitExceeded),
    ("erigon", -32000, "gas limit is too high", Class::GasLimitExceeded),
    ("nethermind", -32010, "gas limit reached", Class::GasLimitExceeded),
    ("nethermind", -32010, "GasLimitExceeded, Gas limit: 1", Class::GasLimitExceeded),
    ("reth", -32000, "intrinsic gas too high", Class::GasLimitExceeded),
    (
        "anvil",
        -32003,
        "Transaction gas limit is greater than the block gas limit, gas_limit: 2, cap: 1",
        Class::GasLimitExceeded,
    ),
    ("openethereum", -32010, "Transaction cost exceeds current gas limit. Limit: 1, got: 2.", Class::GasLimitExceeded),
    ("geth", -32000, "gas uint64 overflow", Class::GasLimitExceeded),
    ("erigon", -32000, "GasUintOverflow", Class::GasLimitExceeded),
    (
        "polygon zkevm",
        -32000,
        "failed to add tx to the pool: not enough keccak counters to continue the execution",
        Class::GasLimitExceeded,
    ),
    (
        "x layer",
        -32000,
        "failed to add tx to the pool: out of counters at node level (Steps, Sha256Hashes)",
        Class::GasLimitExceeded,
    ),
    ("geth", -32000, "oversized data: transaction size 131073, limit 131072", Class::TooLarge),
    ("nethermind", -32010, "transaction too large", Class::TooLarge),
    ("erigon", -32000, "RLPTooLong", Class::TooLarge),
    ("openethereum", -32010, "Transaction is too big, see chain specification for the limit.", Class::TooLarge),
    ("geth", -32000, "max initcode size exceeded: code size 1, limit 2", Class::TooLarge),
    ("erigon", -32000, "initcode too large", Class::TooLarge),
    ("geth", -32000, "invalid chain id for signer: have 1 want 2", Class::WrongChain),
    ("reth", -32000, "invalid chain ID", Class::WrongChain),
    ("besu", -32000, "Wrong chainId", Class::WrongChain),
    ("besu", -32000, "ChainId not supported", Class::WrongChain),
    ("anvil", -32003, "Incompatible EIP-155 transaction, signed for another chain", Class::WrongChain),
    ("geth", -32000, "invalid sender", Class::InvalidSender),
    ("besu", -32002, "Invalid signature", Class::InvalidSender),
    ("nethermind", -32010, "failed to recover sender", Class::InvalidSender),
    ("geth", -32000, "sender not an eoa: address 0x01, len(code): 2", Class::InvalidSender),
    ("reth", -32003, "sender is not an EOA", Class::InvalidSender),
    ("besu", -32007, "Sender account not authorized to send transactions", Class::InvalidSender),
    ("arbitrum classic", -32000, "forbidden sender address", Class::InvalidSender),
    ("arbitrum", -32000, "execution reverted", Class::WouldRevert),
    ("geth", -32000, "txpool is full", Class::PoolFull),
    ("erigon", -32000, "pending sub-pool is full", Class::PoolFull),
    ("arbitrum", -32000, "queue full", Class::PoolFull),
    ("optimism", -32000, "sequencer pending tx pool full, please try again", Class::PoolFull),
    (
        "openethereum",
        -32010,
        "There are too many transactions in the queue. Your transaction was dropped due to limit. Try increasing the fee.",
        Class::PoolFull,
    ),
    ("bsc", -32000, "account limit exceeded: pooled 16 txs", Class::PoolFull),
    ("geth", -32000, "in-flight transaction limit reached for delegated accounts", Class::PoolFull),
    ("erigon", -32000, "spammer", Class::PoolFull),
    ("nethermind", -32010, "node is syncing", Class::Busy),
    ("besu", -32008, "Initial sync is still in progress", Class::Busy),
    (
        "besu",
        -32002,
        "Transaction pool not enabled. (Either txpool explicitly disabled, or node not yet in sync).",
        Class::Busy,
    ),
    ("zksync", 3, "server shutting down", Class::Busy),
    ("zksync", 3, "too many transactions", Class::Busy),
    ("hosted", 429, "Too Many Requests", Class::Busy),
    ("hosted", -32000, "rate limit reached", Class::Busy),
    ("infura", -32005, "project ID request rate: daily limit exceeded", Class::Busy),
    ("another", -32000, "limit exceeded", Class::Uncertain),
    // Either the nonce is too low or it is too high.
    ("arbitrum classic", -32000, "invalid transaction nonce", Class::Uncertain),
    // Of another transaction with this nonce.
    ("nethermind", -32010, "OwnNonceAlreadyUsed", Class::Uncertain),
    ("erigon", -32000, "mined", Class::Uncertain),
    ("hosted", -32603, "Internal error", Class::Uncertain),
    ("hosted", -32000, "context deadline exceeded", Class::Uncertain),
    ("tomorrow's", -32000, "the gasometer is cross", Class::Uncertain),
];

fn error(kind: HostErrorKind, code: i32, message: &str) -> Result<String, HostError> {
    Err(HostError::new("chain", kind, message).with_code(code))
}

#[test]
fn every_client_is_understood_in_its_own_words() {
    for (client, code, message, class) in SAID {
        let got = classify(&error(HostErrorKind::InvalidInput, *code, message));
        assert_eq!(got, *class, "{client}: {message}");
    }
}

#[test]
fn every_line_of_the_table_is_met() {
    let met: BTreeSet<_> =
        SAID.iter().filter_map(|(_, code, message, _)| found(*code, message)).map(|line| line.words).collect();
    let unmet: Vec<_> =
        LINES.iter().filter(|line| !met.contains(line.words)).map(|line| (line.client, line.words)).collect();
    assert_eq!(unmet, Vec::new(), "no sample, or a line above takes it");
}

#[test]
fn what_no_line_knows_or_nobody_heard_is_uncertain() {
    assert_eq!(classify(&Ok("\"0x12\"".into())), Class::Accepted);
    // Whatever the words: the connection was lost while the answer was under way.
    assert_eq!(classify(&error(HostErrorKind::Timeout, 0, "nonce too low")), Class::Uncertain);
    assert_eq!(classify(&error(HostErrorKind::Unavailable, 0, "connection reset")), Class::Uncertain);
    assert_eq!(classify(&error(HostErrorKind::RateLimited, 0, "slow down")), Class::Busy);
    assert!(!Class::Uncertain.is_not_taken() && !Class::Busy.is_not_taken() && !Class::NonceTooLow.is_not_taken());
}
