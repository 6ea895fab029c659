//! Blocks of the world: their logs, and what nodes tell of their headers and receipts.

use std::sync::Arc;

use alloy::{
    consensus::{
        EMPTY_OMMER_ROOT_HASH, EMPTY_ROOT_HASH, Eip658Value, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom,
        proofs::calculate_receipt_root,
    },
    primitives::{self, Address, B256, Bloom, Bytes},
};
use serde_json::{Value, json};

use crate::{
    chance::Chance,
    scenario::{Blooms, CONTRACTS, ChainPlan, SIGNATURES, contract, signature},
    world::{Hash, hexed},
};

const GAS: u64 = 21_000;

#[derive(Debug)]
pub struct Block {
    pub number: u64,
    pub hash: Hash,
    pub logs: Vec<Log>,
    /// Transactions; each of the first ones has logged one of the logs.
    pub transactions: u64,
    /// What a node tells of it.
    pub header: Value,
    /// When it was made, milliseconds.
    pub born_ms: u64,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub index: u64,
    pub contract: u64,
    pub signature: u64,
    pub transaction: Hash,
    /// It is in no receipt, and in no bloom.
    pub outside: bool,
}

impl Block {
    /// A new block on another one, or the first. `sealed`: with the hash that its fields have.
    pub fn on(
        parent: Option<&Arc<Self>>,
        plan: &ChainPlan,
        sealed: bool,
        now_ms: u64,
        chance: &mut Chance,
    ) -> Arc<Self> {
        let (number, parent) = parent.map_or((0, [0; 32]), |parent| (parent.number + 1, parent.hash));
        let drawn = chance.hash();
        let count = if chance.percent(plan.log_percent) { chance.between(1, 4) } else { 0 };
        let outside = plan.blooms == Blooms::Partial && chance.percent(40);
        let logs: Vec<Log> = (0..count)
            .map(|index| Log {
                index,
                contract: chance.below(CONTRACTS),
                signature: chance.below(SIGNATURES),
                transaction: chance.hash(),
                outside: outside && index + 1 == count,
            })
            .collect();
        let logged = logs.iter().filter(|log| !log.outside).count() as u64;
        let transactions = logged + u64::from(logged == 0 && chance.percent(50));
        let mut header = Header {
            parent_hash: parent.into(),
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            state_root: drawn.into(),
            transactions_root: EMPTY_ROOT_HASH,
            receipts_root: receipts_root(&logs, transactions),
            logs_bloom: bloom(plan.blooms, &logs),
            number,
            gas_limit: 30_000_000,
            gas_used: transactions * GAS,
            timestamp: number * plan.block_ms / 1_000,
            extra_data: Bytes::from_static(b"simulated"),
            ..Header::default()
        };
        header.base_fee_per_gas = Some(7);
        let hash = if sealed { header.hash_slow().0 } else { drawn };
        let mut told = told(&header, hash);
        match plan.blooms {
            Blooms::Short => told["logsBloom"] = "0x".into(),
            Blooms::Absent => drop(told.as_object_mut().and_then(|fields| fields.remove("logsBloom"))),
            Blooms::Exact | Blooms::Partial | Blooms::Zeros | Blooms::Ones => {}
        }
        Arc::new(Self { number, hash, logs, transactions, header: told, born_ms: now_ms })
    }

    /// What a node tells of its receipts; without those of some transactions when it leaves out logs.
    pub fn receipts(&self, whole: bool) -> Value {
        let receipt = |index: u64| {
            let log = self.logs.iter().find(|log| log.index == index && !log.outside && whole);
            let transaction = log.map_or([index as u8; 32], |log| log.transaction);
            json!({
                "type": "0x2",
                "status": "0x1",
                "transactionHash": hexed(transaction),
                "transactionIndex": format!("{index:#x}"),
                "blockHash": hexed(self.hash),
                "blockNumber": format!("{:#x}", self.number),
                "cumulativeGasUsed": format!("{:#x}", (index + 1) * GAS),
                "gasUsed": format!("{GAS:#x}"),
                "logs": log.map(|log| self.log(log)).into_iter().collect::<Vec<_>>(),
            })
        };
        (0..self.transactions).map(receipt).collect()
    }

    /// What a node tells of one of its logs.
    pub fn log(&self, log: &Log) -> Value {
        json!({
            "address": hexed(contract(log.contract)),
            "topics": [hexed(signature(log.signature))],
            "data": "0x01",
            "blockNumber": format!("{:#x}", self.number),
            "blockHash": hexed(self.hash),
            "blockTimestamp": self.header["timestamp"],
            "transactionHash": hexed(log.transaction),
            "transactionIndex": format!("{:#x}", log.index),
            "logIndex": format!("{:#x}", log.index),
        })
    }
}

fn bloom(blooms: Blooms, logs: &[Log]) -> Bloom {
    let mut bloom = Bloom::default();
    match blooms {
        Blooms::Exact | Blooms::Partial => {
            for log in logs.iter().filter(|log| !log.outside) {
                bloom.accrue_raw_log(contract(log.contract).into(), &[B256::from(signature(log.signature))]);
            }
        }
        Blooms::Ones => bloom = Bloom::repeat_byte(0xff),
        Blooms::Zeros | Blooms::Short | Blooms::Absent => {}
    }
    bloom
}

fn receipts_root(logs: &[Log], transactions: u64) -> B256 {
    let receipt = |index: u64| {
        let logs: Vec<primitives::Log> = logs
            .iter()
            .filter(|log| log.index == index && !log.outside)
            .map(|log| {
                let topics = vec![B256::from(signature(log.signature))];
                let address = Address::from(contract(log.contract));
                primitives::Log::new_unchecked(address, topics, Bytes::from_static(&[1]))
            })
            .collect();
        let receipt = Receipt { status: Eip658Value::Eip658(true), cumulative_gas_used: (index + 1) * GAS, logs };
        ReceiptEnvelope::Eip1559(ReceiptWithBloom::from(receipt))
    };
    calculate_receipt_root(&(0..transactions).map(receipt).collect::<Vec<ReceiptEnvelope>>())
}

fn told(header: &Header, hash: Hash) -> Value {
    json!({
        "number": format!("{:#x}", header.number),
        "hash": hexed(hash),
        "parentHash": hexed(header.parent_hash),
        "sha3Uncles": hexed(header.ommers_hash),
        "miner": hexed(header.beneficiary),
        "stateRoot": hexed(header.state_root),
        "transactionsRoot": hexed(header.transactions_root),
        "receiptsRoot": hexed(header.receipts_root),
        "logsBloom": hexed(header.logs_bloom),
        "difficulty": "0x0",
        "gasLimit": format!("{:#x}", header.gas_limit),
        "gasUsed": format!("{:#x}", header.gas_used),
        "timestamp": format!("{:#x}", header.timestamp),
        "extraData": hexed(&header.extra_data),
        "mixHash": hexed(header.mix_hash),
        "nonce": hexed(header.nonce),
        "baseFeePerGas": header.base_fee_per_gas.map(|fee| format!("{fee:#x}")),
    })
}
