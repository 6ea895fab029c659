//! What is asked to be signed: as policies see it, as people are shown it, and as signers hash it.

use alloy_consensus::{SignableTransaction as _, Signed, TxEip1559, TxEip2930, TxLegacy};
use alloy_eips::{
    Encodable2718,
    eip2930::{AccessList, AccessListItem},
};
use alloy_primitives::{B256, Bytes, Signature, TxKind, U256, keccak256, utils::eip191_message};
use nexum_host_ifaces::{
    Address, Hash, HostError, HostErrorKind, bounded,
    interfaces::identity::port::{
        ACCESS_LIST_MAX, DATA_BYTES_MAX, FeedUpdate, Fees, MESSAGE_BYTES_MAX, SignedTransaction, SigningPayload,
        TransactionRequest, UnsignedTransaction,
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{Method, Selector, Target},
    policy::Facts,
    typed_data,
};

pub fn error(kind: HostErrorKind, message: impl Into<String>) -> HostError {
    // Libraries quote what they cannot read, and that may be all of it.
    HostError::new("identity", kind, bounded::cut(message.into(), bounded::MESSAGE_BYTES_MAX))
}

fn invalid(message: impl Into<String>) -> HostError {
    error(HostErrorKind::InvalidInput, message)
}

/// Something that may be signed, whatever signs it.
#[derive(Debug, Clone)]
pub struct Request {
    pub account: Address,
    pub facts: Facts,
    /// SHA-256 of what it is and of whose account: what an approval and a count hold for. Nonce and fees are not in it.
    pub digest: Hash,
    /// Wei per unit of gas, once it is known.
    pub fee_per_gas: Option<u128>,
    /// Wei that all of its gas may cost, once that is known.
    pub fee: Option<U256>,
    /// For people.
    pub what: Value,
}

/// A message or typed data: the request, and what the signer hashes.
pub fn of_payload(account: Address, payload: SigningPayload) -> Result<(Request, Vec<u8>), HostError> {
    let (facts, preimage, what) = match payload {
        SigningPayload::Message(bytes) => {
            if bytes.len() > MESSAGE_BYTES_MAX {
                return Err(invalid(format!("a message of {} bytes, at most {MESSAGE_BYTES_MAX}", bytes.len())));
            }
            let preimage = eip191_message(&bytes);
            let what = match String::from_utf8(bytes) {
                Ok(text) => json!({ "method": "message", "text": text }),
                Err(bytes) => json!({ "method": "message", "data": format!("0x{}", hex::encode(bytes.as_bytes())) }),
            };
            (Facts::Message, preimage, what)
        }
        SigningPayload::TypedData(text) => {
            let read = typed_data::read(&text).map_err(|why| invalid(format!("typed data: {why}")))?;
            (read.facts, read.preimage, json!({ "method": "typed-data", "data": read.json }))
        }
    };
    let digest = digest(facts.method(), account, &preimage);
    Ok((Request { account, facts, digest, fee_per_gas: None, fee: None, what }, preimage))
}

/// An update of a feed: the owner signs the hash of its name and of its content's address, as a message.
pub fn of_feed(account: Address, update: FeedUpdate) -> (Request, Vec<u8>) {
    let FeedUpdate { topic, index, content } = update;
    let identifier = keccak256([&topic.0[..], &index.to_be_bytes()].concat());
    let preimage = eip191_message(keccak256([&identifier[..], &content.0].concat()));
    let what = json!({ "method": "feed", "topic": topic, "index": index, "content": content });
    let digest = digest(Method::Feed, account, &preimage);
    (Request { account, facts: Facts::Feed { topic }, digest, fee_per_gas: None, fee: None, what }, preimage)
}

/// A transaction without nonce and fees.
pub fn of_call(call: &TransactionRequest) -> Result<Request, HostError> {
    if call.data.len() > DATA_BYTES_MAX {
        return Err(invalid(format!("{} bytes of data, at most {DATA_BYTES_MAX}", call.data.len())));
    }
    let listed: usize = call.access_list.iter().map(|(_, keys)| 1 + keys.len()).sum();
    if listed > ACCESS_LIST_MAX {
        return Err(invalid(format!("an access list of {listed} entries, at most {ACCESS_LIST_MAX}")));
    }
    if call.chain_id == 0 {
        return Err(invalid("chain 0, which protects from no replay"));
    }
    let to = call.to.map_or(Target::Create, Target::Account);
    let selector = match *call.data.as_slice() {
        [] => Some(Selector::Transfer),
        [a, b, c, d, ..] => Some(Selector::Call([a, b, c, d])),
        _ => None,
    };
    if to == Target::Create && call.data.is_empty() {
        return Err(invalid("neither `to` nor data: that would create an empty contract"));
    }
    let bytes = postcard::to_stdvec(call).map_err(|failed| error(HostErrorKind::Internal, failed.to_string()))?;
    let what = json!({
        "method": "transaction",
        "chain_id": call.chain_id,
        "to": to.to_string(),
        "value": U256::from_be_bytes(call.value.0).to_string(),
        "data": format!("0x{}", hex::encode(&call.data)),
        "access_list": call.access_list,
    });
    Ok(Request {
        account: call.account,
        facts: Facts::Transaction { chain_id: call.chain_id, to, selector, value: call.value },
        digest: digest(Method::Transaction, call.account, &bytes),
        fee_per_gas: None,
        fee: None,
        what,
    })
}

fn digest(method: Method, account: Address, bytes: &[u8]) -> Hash {
    let hash =
        Sha256::new().chain_update(method.name()).chain_update([0u8]).chain_update(account.0).chain_update(bytes);
    Hash(hash.finalize().into())
}

/// A transaction in the form in which it goes out.
#[derive(Debug, Clone)]
pub enum Unsigned {
    Legacy(TxLegacy),
    Eip2930(TxEip2930),
    Eip1559(TxEip1559),
}

impl Unsigned {
    pub fn new(transaction: &UnsignedTransaction) -> Result<Self, HostError> {
        let UnsignedTransaction { request, nonce, gas_limit, fees, .. } = transaction;
        let (chain_id, nonce, gas_limit) = (request.chain_id, *nonce, *gas_limit);
        let to = request.to.map_or(TxKind::Create, |to| TxKind::Call(to.0.into()));
        let value = U256::from_be_bytes(request.value.0);
        let input = Bytes::copy_from_slice(&request.data);
        let item = |(address, keys): &(Address, Vec<Hash>)| AccessListItem {
            address: address.0.into(),
            storage_keys: keys.iter().map(|key| B256::from(key.0)).collect(),
        };
        let access_list = AccessList(request.access_list.iter().map(item).collect());
        if nonce == u64::MAX {
            return Err(invalid("the last nonce, which no account has (EIP-2681)"));
        }
        Ok(match *fees {
            Fees::Legacy { gas_price } if access_list.0.is_empty() => {
                Self::Legacy(TxLegacy { chain_id: Some(chain_id), nonce, gas_price, gas_limit, to, value, input })
            }
            Fees::Legacy { gas_price } => {
                Self::Eip2930(TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, access_list, input })
            }
            Fees::Dynamic { max_fee_per_gas, max_priority_fee_per_gas } => {
                if max_priority_fee_per_gas > max_fee_per_gas {
                    return Err(invalid("a priority fee above the whole fee"));
                }
                Self::Eip1559(TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit,
                    max_fee_per_gas,
                    max_priority_fee_per_gas,
                    to,
                    value,
                    access_list,
                    input,
                })
            }
        })
    }

    /// Wei that all of its gas may cost.
    pub fn fee(&self) -> U256 {
        let (gas_limit, per_gas) = match self {
            Self::Legacy(transaction) => (transaction.gas_limit, transaction.gas_price),
            Self::Eip2930(transaction) => (transaction.gas_limit, transaction.gas_price),
            Self::Eip1559(transaction) => (transaction.gas_limit, transaction.max_fee_per_gas),
        };
        U256::from(gas_limit).saturating_mul(U256::from(per_gas))
    }

    /// What the signer hashes.
    pub fn preimage(&self) -> Vec<u8> {
        match self {
            Self::Legacy(transaction) => transaction.encoded_for_signing(),
            Self::Eip2930(transaction) => transaction.encoded_for_signing(),
            Self::Eip1559(transaction) => transaction.encoded_for_signing(),
        }
    }

    pub fn signed(self, signature: Signature) -> SignedTransaction {
        let raw = match self {
            Self::Legacy(transaction) => encoded(transaction.into_signed(signature)),
            Self::Eip2930(transaction) => encoded(transaction.into_signed(signature)),
            Self::Eip1559(transaction) => encoded(transaction.into_signed(signature)),
        };
        SignedTransaction { hash: Hash(keccak256(&raw).0), raw }
    }
}

fn encoded<T>(signed: Signed<T>) -> Vec<u8>
where
    Signed<T>: Encodable2718,
{
    signed.encoded_2718()
}

/// Whether it moves nothing anywhere: all that may be signed so that a nonce is used up.
pub fn is_empty(call: &TransactionRequest) -> bool {
    let moves_nothing = call.value == Default::default() && call.data.is_empty() && call.access_list.is_empty();
    call.to == Some(call.account) && moves_nothing
}
