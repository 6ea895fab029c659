//! What a transaction effect says, and what becomes of it.

use serde::Deserialize;

use crate::bindings::nexum::host::outbox::{AccessListItem, FeePolicy, TransactionEffect};
use crate::outbox::Effect;
use crate::{Context, Outcome, OutcomeStatus, Result};

/// An amount in wei, or in wei per unit of gas.
pub trait Wei {
    /// Big-endian, without leading zeros.
    fn big_endian(self) -> Vec<u8>;
}

impl Wei for u64 {
    fn big_endian(self) -> Vec<u8> {
        without_zeros(&self.to_be_bytes())
    }
}

impl Wei for u128 {
    fn big_endian(self) -> Vec<u8> {
        without_zeros(&self.to_be_bytes())
    }
}

impl Wei for [u8; 32] {
    fn big_endian(self) -> Vec<u8> {
        without_zeros(&self)
    }
}

#[cfg(feature = "alloy")]
impl Wei for alloy_primitives::U256 {
    fn big_endian(self) -> Vec<u8> {
        without_zeros(&self.to_be_bytes::<32>())
    }
}

fn without_zeros(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}

impl Effect<TransactionEffect> {
    /// The account that pays and signs. Without it the one account that the operator's policy gives this module on this
    /// chain.
    pub fn from(mut self, account: impl AsRef<[u8]>) -> Self {
        self.effect.account = Some(account.as_ref().to_vec());
        self
    }

    /// Without it the data creates a contract.
    pub fn to(mut self, to: impl AsRef<[u8]>) -> Self {
        self.effect.to = Some(to.as_ref().to_vec());
        self
    }

    pub fn value(mut self, wei: impl Wei) -> Self {
        self.effect.value = wei.big_endian();
        self
    }

    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.effect.data = data.into();
        self
    }

    /// A call declared with `sol!`, as the data.
    #[cfg(feature = "alloy")]
    pub fn call(self, call: impl alloy_sol_types::SolCall) -> Self {
        self.data(call.abi_encode())
    }

    /// Without it gas is estimated.
    pub fn gas_limit(mut self, gas: u64) -> Self {
        self.effect.gas_limit = Some(gas);
        self
    }

    /// The most per unit of gas; the operator's policy may say less.
    pub fn max_fee(mut self, wei_per_gas: impl Wei) -> Self {
        self.fees().max_fee_per_gas = Some(wei_per_gas.big_endian());
        self
    }

    /// The most of it that whoever builds the block gets.
    pub fn max_priority_fee(mut self, wei_per_gas: impl Wei) -> Self {
        self.fees().max_priority_fee_per_gas = Some(wei_per_gas.big_endian());
        self
    }

    /// The most in percent of what the market pays, such as 300.
    pub fn market_percent(mut self, percent: u32) -> Self {
        self.fees().market_percent = Some(percent);
        self
    }

    fn fees(&mut self) -> &mut FeePolicy {
        self.effect.fees.get_or_insert(FeePolicy {
            max_fee_per_gas: None,
            max_priority_fee_per_gas: None,
            market_percent: None,
        })
    }

    /// Slots of a contract that the transaction says beforehand it will touch.
    pub fn access(mut self, address: impl AsRef<[u8]>, storage_keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let storage_keys = storage_keys.into_iter().map(Vec::from).collect();
        self.effect.access_list.push(AccessListItem { address: address.as_ref().to_vec(), storage_keys });
        self
    }

    /// How many blocks make it final, its own included; 1 unless said otherwise.
    pub fn confirmations(mut self, blocks: u32) -> Self {
        self.effect.confirmations = Some(blocks);
        self
    }

    /// When it was not broadcast by then, it ends as [`FailureKind::Expired`]. Milliseconds since the Unix epoch.
    pub fn deadline(mut self, at_ms: u64) -> Self {
        self.effect.deadline = Some(at_ms);
        self
    }

    /// Broadcasts it although the simulation says that it reverts.
    pub fn skip_simulation(mut self) -> Self {
        self.effect.skip_simulation = true;
        self
    }
}

/// What became of a transaction effect. Each is told once and is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// It is on the chain and did not revert.
    Mined(Mined),
    Failed(Failed),
    /// The effect was withdrawn before it left, by a reorg or by the operator. Nothing was sent.
    Withdrawn(String),
}

/// Hashes and addresses are in lower-case hex with `0x`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Mined {
    pub hash: String,
    pub nonce: u64,
    pub block_number: u64,
    pub block_hash: String,
    pub gas_used: u64,
    /// Wei per unit of gas, decimal.
    pub effective_gas_price: String,
    /// Of a contract that was created.
    #[serde(default)]
    pub contract_address: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Failed {
    pub kind: FailureKind,
    pub message: String,
    /// What the contract returned, 0x-hex, cut to 1,024 bytes.
    #[serde(default)]
    pub data: Option<String>,
    /// Of the transaction that was broadcast.
    #[serde(default)]
    pub hash: Option<String>,
}

impl Failed {
    /// The bytes that the contract returned.
    pub fn revert_data(&self) -> Option<Vec<u8>> {
        crate::hex::decode(self.data.as_deref()?).ok()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The policy does not allow it, or the operator did not approve it.
    Denied,
    /// The simulation reverts; nothing was broadcast.
    WouldRevert,
    /// It is on the chain, and reverted.
    Reverted,
    /// Its deadline passed before it was broadcast.
    Expired,
    /// The operator cancelled it: its nonce was used by a transfer of nothing.
    Cancelled,
    /// Its nonce was used by a transaction that is not of this engine.
    Replaced,
    /// No node takes it.
    Refused,
    /// What the engine says in words alone, and what a newer engine knows and this SDK does not.
    #[serde(other)]
    Other,
}

impl Outcome {
    /// What became of a transaction.
    ///
    /// # Errors
    /// This is not the outcome of a transaction.
    pub fn transaction(&self) -> Result<TransactionOutcome> {
        Ok(match &self.status {
            OutcomeStatus::Delivered(answer) => TransactionOutcome::Mined(
                serde_json::from_slice(answer)
                    .context(format_args!("effect {} is no transaction that was mined", self.effect_id))?,
            ),
            OutcomeStatus::Failed(reason) => {
                let other = || Failed { kind: FailureKind::Other, message: reason.clone(), data: None, hash: None };
                TransactionOutcome::Failed(serde_json::from_str(reason).unwrap_or_else(|_| other()))
            }
            OutcomeStatus::Cancelled(reason) => TransactionOutcome::Withdrawn(reason.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outbox, testing};

    fn outcome(status: OutcomeStatus) -> Result<TransactionOutcome> {
        Outcome { effect_id: "m/e/0".into(), key: "k".into(), attempts: 1, status }.transaction()
    }

    #[test]
    fn what_is_said_of_a_transaction_reaches_the_host() {
        testing::reset();
        outbox::transaction(5)
            .from([1; 20])
            .to([2; 20])
            .value(0x1_00u64)
            .data([0xab])
            .gas_limit(21_000)
            .max_fee(7u64)
            .market_percent(300)
            .access([3; 20], [[4; 32]])
            .confirmations(12)
            .deadline(1_000)
            .skip_simulation()
            .key("once")
            .send()
            .unwrap();
        let transactions = testing::transactions();
        let [sent] = transactions.as_slice() else { panic!("{transactions:?}") };
        assert_eq!(
            (sent.chain_id, sent.account.as_deref(), sent.to.as_deref()),
            (5, Some(&[1; 20][..]), Some(&[2; 20][..]))
        );
        assert_eq!((&sent.value[..], &sent.data[..], sent.gas_limit), (&[1, 0][..], &[0xab][..], Some(21_000)));
        let fees = sent.fees.as_ref().unwrap();
        assert_eq!((fees.max_fee_per_gas.as_deref(), fees.market_percent), (Some(&[7][..]), Some(300)));
        assert_eq!(fees.max_priority_fee_per_gas, None);
        assert_eq!(sent.access_list[0].storage_keys, [[4; 32].to_vec()]);
        assert_eq!((sent.confirmations, sent.deadline, sent.skip_simulation), (Some(12), Some(1_000), true));
        assert_eq!(testing::sent()[0].key, "once");
    }

    #[test]
    fn an_amount_of_nothing_has_no_bytes() {
        assert_eq!((0u64.big_endian(), [0; 32].big_endian()), (Vec::new(), Vec::new()));
        assert_eq!(u128::MAX.big_endian(), [0xff; 16]);
    }

    #[test]
    fn outcomes_are_read_as_the_engine_writes_them() {
        let mined = r#"{"hash":"0xaa","nonce":3,"block_number":9,"block_hash":"0xbb","gas_used":21000,"effective_gas_price":"7"}"#;
        let TransactionOutcome::Mined(mined) = outcome(OutcomeStatus::Delivered(mined.into())).unwrap() else {
            panic!("mined")
        };
        assert_eq!((mined.hash.as_str(), mined.nonce, mined.contract_address), ("0xaa", 3, None));
        assert!(outcome(OutcomeStatus::Delivered(b"took it".to_vec())).is_err());

        let failed = |text: &str| match outcome(OutcomeStatus::Failed(text.into())).unwrap() {
            TransactionOutcome::Failed(failed) => failed,
            other => panic!("{other:?}"),
        };
        let reverted = failed(r#"{"kind":"would-revert","message":"paused","data":"0x08c379a0"}"#);
        assert_eq!(
            (reverted.kind, reverted.revert_data()),
            (FailureKind::WouldRevert, Some(vec![0x08, 0xc3, 0x79, 0xa0]))
        );
        assert_eq!(failed(r#"{"kind":"struck-by-lightning","message":"x"}"#).kind, FailureKind::Other);
        assert_eq!(failed("gave up").message, "gave up");
        let withdrawn = outcome(OutcomeStatus::Cancelled("reorg".into())).unwrap();
        assert_eq!(withdrawn, TransactionOutcome::Withdrawn("reorg".into()));
    }
}
