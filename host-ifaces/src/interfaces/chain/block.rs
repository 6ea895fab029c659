//! At which block a method reads state: where its parameters say so, and the tag that stands for the block of the event at
//! hand. Reads at that tag are asked by the block's hash (EIP-1898), so that a second attempt at an event, and a replay of
//! it, read what the first attempt read.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{Hash, HostError, HostErrorKind};

/// The tag, as it stands in the place of `latest`: the block that the event at hand is of.
pub const THIS_BLOCK: &str = "this-block";
/// JSON-RPC 2.0, section 5.1.
const CODE_INVALID_PARAMS: i32 = -32602;

/// The methods of EIP-1898, and which of their parameters, from 0 on, is the block.
const AT_BLOCK: &[(&str, usize)] = &[
    ("eth_call", 1),
    ("eth_getBalance", 1),
    ("eth_getCode", 1),
    ("eth_getProof", 2),
    ("eth_getStorageAt", 2),
    ("eth_getTransactionCount", 1),
];

/// The method as it is listed, and which of its parameters says at which block it reads; none for other methods.
pub fn at_block(method: &str) -> Option<(&'static str, usize)> {
    AT_BLOCK.iter().find(|(name, _)| *name == method).copied()
}

/// The longest list of parameters that is looked into: no method that reads at a block has more.
const ITEMS_MAX: usize = 8;

/// A short list of JSON texts.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Short;

        impl<'de> Visitor<'de> for Short {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a short list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == ITEMS_MAX {
                        return Err(A::Error::custom("the list is long"));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }

        deserializer.deserialize_seq(Short)
    }
}

/// The parameters one by one, each as it is written; none of what is no list, or a long one.
pub fn items(params: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(params).ok().map(|Items(items)| items)
}

/// The parameter that means the block with this hash.
pub fn by_hash(hash: &Hash) -> String {
    format!("{{\"blockHash\":\"{hash}\"}}")
}

/// The parameters with another text in one place.
pub fn replaced(items: &[&RawValue], position: usize, text: &str) -> String {
    let items = items.iter().enumerate().map(|(index, item)| if index == position { text } else { item.get() });
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// The parameters with `block` in the place of the tag; none where they do not have it.
///
/// # Errors
/// `invalid-input` (−32602) for an event that is of no block of this chain, and for a method that reads at no block.
pub(super) fn pinned(
    method: &str,
    params: &str,
    chain_id: u64,
    block: Option<Hash>,
) -> Result<Option<String>, HostError> {
    if !params.contains(THIS_BLOCK) {
        return Ok(None);
    }
    let is_tag =
        |item: &&RawValue| item.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(THIS_BLOCK);
    // What is no list is the node's to refuse.
    let Some(items) = items(params).filter(|items| items.iter().any(is_tag)) else {
        return Ok(None);
    };
    let wrong = |message: String| {
        Err(HostError::new("chain", HostErrorKind::InvalidInput, message).with_code(CODE_INVALID_PARAMS))
    };
    let position = at_block(method).map(|(_, position)| position);
    let Some(position) = position.filter(|position| items.get(*position).is_some_and(is_tag)) else {
        let methods: Vec<_> = AT_BLOCK.iter().map(|(method, _)| *method).collect();
        return wrong(format!("`{THIS_BLOCK}` is no block that this is read at: it is one of {}", methods.join(", ")));
    };
    let Some(block) = block else {
        return wrong(format!("`{THIS_BLOCK}`: the event at hand is of no block of chain {chain_id}"));
    };
    Ok(Some(replaced(&items, position, &by_hash(&block))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

    #[test]
    fn this_block_is_asked_for_by_its_hash_and_nothing_else_is_changed() {
        let pinned = |method: &str, params: &str| pinned(method, params, 1, Some(HASH.parse().unwrap()));
        let cases = [
            ("eth_call", "[{\"to\": \"0x1\"}, \"this-block\"]", "[{\"to\": \"0x1\"},{\"blockHash\":\"H\"}]"),
            ("eth_call", "[{},\"this-block\",{\"0x1\":{}}]", "[{},{\"blockHash\":\"H\"},{\"0x1\":{}}]"),
            ("eth_getBalance", "[\"0x1\",\"this-block\"]", "[\"0x1\",{\"blockHash\":\"H\"}]"),
            ("eth_getStorageAt", "[\"0x1\",\"0x0\",\"this-block\"]", "[\"0x1\",\"0x0\",{\"blockHash\":\"H\"}]"),
            ("eth_getProof", "[\"0x1\",[],\"this-block\"]", "[\"0x1\",[],{\"blockHash\":\"H\"}]"),
        ];
        for (method, params, expected) in cases {
            assert_eq!(pinned(method, params), Ok(Some(expected.replace("\"H\"", &format!("\"{HASH}\"")))), "{params}");
        }
        for params in
            ["[{},\"latest\"]", "[{\"data\":\"this-block\"},\"latest\"]", "this-block", "{\"a\":\"this-block\"}", "["]
        {
            assert_eq!(pinned("eth_call", params), Ok(None), "{params}");
        }
    }

    #[test]
    fn this_block_of_no_block_is_refused_with_what_is_wrong() {
        let error = pinned("eth_call", "[{},\"this-block\"]", 10, None).unwrap_err();
        assert_eq!((error.kind, error.code), (HostErrorKind::InvalidInput, CODE_INVALID_PARAMS));
        assert_eq!(error.message, "`this-block`: the event at hand is of no block of chain 10");
        for (method, params) in [("eth_getLogs", "[\"this-block\"]"), ("eth_call", "[\"this-block\",\"latest\"]")] {
            let error = pinned(method, params, 1, Some(HASH.parse().unwrap())).unwrap_err();
            assert!(error.message.contains("it is one of eth_call, eth_getBalance"), "{}", error.message);
        }
    }
}
