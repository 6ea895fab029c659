//! The hash of a header from its fields, in the forms that chains use.
//!
//! A hash is of one RLP list. The list is the thirteen fields that every form shares, then the seal, then a tail of
//! fields that came with forks.

use alloy::{
    primitives::{Address, B64, B256, Bloom, Bytes, U256, keccak256},
    rlp::{self, Encodable},
};

/// A header's fields as a node told them. Those that are absent were not told.
///
/// Below the fields of Ethereum come those that other chains put into their headers' hashes. A reader fills in what it
/// finds; [`is_sealed`] tries the forms that the fields allow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderFields {
    pub parent_hash: B256,
    /// `sha3Uncles`.
    pub ommers_hash: Option<B256>,
    /// `miner`, or `author` where there is no miner.
    pub beneficiary: Option<Address>,
    pub state_root: Option<B256>,
    pub transactions_root: Option<B256>,
    pub receipts_root: Option<B256>,
    pub logs_bloom: Option<Bloom>,
    pub difficulty: Option<U256>,
    pub number: u64,
    pub gas_limit: Option<u64>,
    pub gas_used: Option<u64>,
    pub timestamp: u64,
    pub extra_data: Option<Bytes>,
    pub mix_hash: Option<B256>,
    pub nonce: Option<B64>,
    pub base_fee_per_gas: Option<u64>,
    pub withdrawals_root: Option<B256>,
    pub blob_gas_used: Option<u64>,
    pub excess_blob_gas: Option<u64>,
    pub parent_beacon_block_root: Option<B256>,
    pub requests_hash: Option<B256>,
    pub block_access_list_hash: Option<B256>,
    pub slot_number: Option<u64>,

    /// AuRa (Gnosis before its merge): `sealFields`, each an RLP item as told. They stand in for mix hash and nonce.
    pub seal_fields: Option<Vec<Bytes>>,
    /// AuRa: `step` or `auraStep`, where no `sealFields` are told. In decimal digits or as a quantity.
    pub step: Option<U256>,
    /// AuRa: `signature` or `auraSignature`; 65 bytes, with or without `0x`.
    pub signature: Option<Bytes>,

    /// Avalanche's C-Chain: `extDataHash`.
    pub ext_data_hash: Option<B256>,
    /// Avalanche's C-Chain: `extDataGasUsed`.
    pub ext_data_gas_used: Option<U256>,
    /// Avalanche's chains: `blockGasCost`.
    pub block_gas_cost: Option<U256>,
    /// Avalanche's chains: `timestampMilliseconds`.
    pub timestamp_milliseconds: Option<u64>,
    /// Avalanche's chains: `minDelayExcess`.
    pub min_delay_excess: Option<u64>,

    /// Berachain: `parentProposerPubkey`, 48 bytes.
    pub parent_proposer_pubkey: Option<Bytes>,

    /// XDC: `validators`.
    pub validators: Option<Bytes>,
    /// XDC: `validator`.
    pub validator: Option<Bytes>,
    /// XDC: `penalties`.
    pub penalties: Option<Bytes>,
}

/// Items of a list, encoded one after the other.
#[derive(Default)]
struct Items(Vec<u8>);

impl Items {
    fn with(mut self, item: &dyn Encodable) -> Self {
        item.encode(&mut self.0);
        self
    }

    /// The list's items from here on as told by a node, each of them encoded already.
    fn with_encoded(mut self, items: &[Bytes]) -> Self {
        items.iter().for_each(|item| self.0.extend_from_slice(item));
        self
    }
}

/// A field of the tail; absent when it was not told.
type Field<'a> = Option<&'a dyn Encodable>;

fn field<T: Encodable>(told: &Option<T>) -> Field<'_> {
    told.as_ref().map(|value| value as &dyn Encodable)
}

/// The fields that every form begins with; absent when one of them is missing.
fn common(fields: &HeaderFields) -> Option<Items> {
    Some(
        Items(Vec::with_capacity(1024))
            .with(&fields.parent_hash)
            .with(fields.ommers_hash.as_ref()?)
            .with(fields.beneficiary.as_ref()?)
            .with(fields.state_root.as_ref()?)
            .with(fields.transactions_root.as_ref()?)
            .with(fields.receipts_root.as_ref()?)
            .with(fields.logs_bloom.as_ref()?)
            .with(fields.difficulty.as_ref()?)
            .with(&fields.number)
            .with(fields.gas_limit.as_ref()?)
            .with(fields.gas_used.as_ref()?)
            .with(&fields.timestamp)
            .with(fields.extra_data.as_ref()?),
    )
}

/// Mix hash and nonce.
fn standard_seal(fields: &HeaderFields) -> Option<Items> {
    Some(Items::default().with(fields.mix_hash.as_ref()?).with(fields.nonce.as_ref()?))
}

/// The seals that the fields allow, the likeliest first.
fn seals(fields: &HeaderFields) -> impl Iterator<Item = Items> {
    let masternodes = || {
        let seal = standard_seal(fields)?;
        Some(seal.with(fields.validators.as_ref()?).with(fields.validator.as_ref()?).with(fields.penalties.as_ref()?))
    };
    let aura = || Some(Items::default().with(fields.step.as_ref()?).with(fields.signature.as_ref()?));
    let told = || Some(Items::default().with_encoded(fields.seal_fields.as_ref()?));
    [masternodes(), standard_seal(fields), told(), aura()].into_iter().flatten()
}

/// Ethereum's tail, and Berachain's, which adds a field of its own.
fn standard_tail(fields: &HeaderFields) -> Vec<Field<'_>> {
    let mut tail = vec![
        field(&fields.base_fee_per_gas),
        field(&fields.withdrawals_root),
        field(&fields.blob_gas_used),
        field(&fields.excess_blob_gas),
        field(&fields.parent_beacon_block_root),
        field(&fields.requests_hash),
    ];
    match &fields.parent_proposer_pubkey {
        Some(key) => tail.push(Some(key)),
        None => tail.extend([field(&fields.block_access_list_hash), field(&fields.slot_number)]),
    }
    tail
}

/// The tail of Avalanche's C-Chain, or of Subnet-EVM, which has no atomic transactions.
fn avalanche_tail(fields: &HeaderFields) -> Option<Vec<Field<'_>>> {
    let mut tail = Vec::new();
    match &fields.ext_data_hash {
        Some(hash) => tail.extend([Some(hash as _), field(&fields.base_fee_per_gas), field(&fields.ext_data_gas_used)]),
        None if fields.block_gas_cost.is_some() => tail.push(field(&fields.base_fee_per_gas)),
        None => return None,
    }
    tail.extend([
        field(&fields.block_gas_cost),
        field(&fields.blob_gas_used),
        field(&fields.excess_blob_gas),
        field(&fields.parent_beacon_block_root),
        field(&fields.timestamp_milliseconds),
        field(&fields.min_delay_excess),
    ]);
    Some(tail)
}

/// Up to the last field that was told. A field that is missing before it counts as empty.
fn told<'a, 'f>(tail: &'f [Field<'a>]) -> &'f [Field<'a>] {
    &tail[..tail.iter().rposition(Option::is_some).map_or(0, |last| last + 1)]
}

fn hash(common: &Items, seal: &Items, tail: &[Field<'_>]) -> B256 {
    let empty: &dyn Encodable = &"";
    let mut payload = Vec::with_capacity(common.0.len() + seal.0.len() + 256);
    payload.extend_from_slice(&common.0);
    payload.extend_from_slice(&seal.0);
    tail.iter().for_each(|field| field.unwrap_or(empty).encode(&mut payload));
    let mut list = Vec::with_capacity(payload.len() + 8);
    rlp::Header { list: true, payload_length: payload.len() }.encode(&mut list);
    list.append(&mut payload);
    keccak256(list)
}

/// The hash in Ethereum's form; absent when a field that every fork's hash covers was not told.
pub fn header_hash(fields: &HeaderFields) -> Option<B256> {
    Some(hash(&common(fields)?, &standard_seal(fields)?, told(&standard_tail(fields))))
}

/// Whether `told_hash` is the header's hash in one of the known forms.
///
/// The forms begin alike and RLP lists are read in one way only. So a form that fits cannot give the first thirteen
/// fields another meaning than the chain's own.
pub fn is_sealed(fields: &HeaderFields, told_hash: B256) -> bool {
    let Some(common) = common(fields) else { return false };
    let (standard, avalanche) = (standard_tail(fields), avalanche_tail(fields));
    let full = told(avalanche.as_deref().unwrap_or(&standard));
    // Then without the last fields: a node may have added them to a shorter header.
    let shortest = if avalanche.is_some() { full.len() } else { 0 };
    seals(fields).any(|seal| (shortest..=full.len()).rev().any(|end| hash(&common, &seal, &full[..end]) == told_hash))
}
