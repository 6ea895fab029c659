//! Reads of state at one block, named by its hash (EIP-1898): what they read does not change.

use alloy::primitives::keccak256;
use nexum_host_ifaces::{Hash, interfaces::chain::block};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The parameter of EIP-1898 as far as it names a block for good.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ByHash<'a> {
    block_hash: &'a str,
    #[serde(default)]
    require_canonical: bool,
}

/// Where a request says at which block it reads.
pub struct Pin<'a> {
    pub method: &'static str,
    pub hash: Hash,
    items: Vec<&'a RawValue>,
    position: usize,
}

impl<'a> Pin<'a> {
    /// None where the answer may be another one later: by a number or a tag, or while the block is on the chain.
    pub fn of(method: &str, params: &'a str) -> Option<Self> {
        let (method, position) = block::at_block(method)?;
        let items = block::items(params)?;
        let block = items.get(position)?.get();
        let hash = match serde_json::from_str::<&str>(block) {
            // The hash alone is what some libraries write.
            Ok(text) => text.starts_with("0x").then_some(text)?,
            Err(_) => {
                let by_hash: ByHash = serde_json::from_str(block).ok()?;
                (!by_hash.require_canonical).then_some(by_hash.block_hash)?
            }
        };
        let hash = hash.parse().ok()?;
        Some(Self { method, hash, items, position })
    }

    /// The same for all requests for the same.
    pub fn key(&self) -> [u8; 32] {
        keccak256(format!("{} {}", self.method, self.by_hash())).0
    }

    /// The parameters, with the block as the standard writes it.
    pub fn by_hash(&self) -> String {
        block::replaced(&self.items, self.position, &block::by_hash(&self.hash))
    }

    /// The parameters of the same question about whichever block has this number.
    pub fn by_number(&self, number: u64) -> String {
        block::replaced(&self.items, self.position, &format!("\"{number:#x}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

    #[test]
    fn only_a_read_at_the_hash_of_a_block_is_for_good() {
        let pinned =
            |method: &str, params: &str| Pin::of(method, &params.replace("\"H\"", &format!("\"{HASH}\""))).is_some();
        assert!(pinned("eth_call", "[{}, {\"blockHash\": \"H\"}]"));
        assert!(pinned("eth_call", "[{}, \"H\"]"));
        assert!(pinned("eth_getProof", "[\"0x\", [], {\"blockHash\":\"H\",\"requireCanonical\":false}]"));
        for (method, params) in [
            ("eth_call", "[{}, {\"blockHash\": \"H\", \"requireCanonical\": true}]"),
            ("eth_call", "[{}, {\"blockHash\": \"H\", \"blockNumber\": \"0x1\"}]"),
            ("eth_call", "[{\"blockHash\": \"H\"}, \"latest\"]"),
            ("eth_call", "[{}, {\"blockNumber\": \"0x1\"}]"),
            ("eth_call", "[{}, {\"blockHash\": \"0x12\"}]"),
            ("eth_call", "[{}, \"0x12\"]"),
            ("eth_call", "[{}, \"latest\"]"),
            ("eth_call", "[{}]"),
            ("eth_call", "{}"),
            ("eth_getLogs", "[{\"blockHash\": \"H\"}]"),
        ] {
            assert!(!pinned(method, params), "{method} {params}");
        }
    }

    #[test]
    fn the_key_is_that_of_the_question_and_not_of_how_it_is_written() {
        let key = |method: &str, params: &str| {
            Pin::of(method, &params.replace("\"H\"", &format!("\"{HASH}\""))).map(|pin| pin.key())
        };
        let one = key("eth_getCode", "[\"0x1\", {\"blockHash\": \"H\"}]");
        assert!(one.is_some());
        assert_eq!(one, key("eth_getCode", "[\"0x1\",\"H\"]"));
        assert_eq!(one, key("eth_getCode", " [\"0x1\" ,{ \"requireCanonical\":false, \"blockHash\":\"H\"} ] "));
        assert_ne!(one, key("eth_getBalance", "[\"0x1\", {\"blockHash\": \"H\"}]"));
        assert_ne!(one, key("eth_getCode", "[\"0x2\", {\"blockHash\": \"H\"}]"));
        assert_ne!(one, key("eth_getCode", &format!("[\"0x1\", {{\"blockHash\": \"{}\"}}]", HASH.replace('1', "2"))));
    }

    #[test]
    fn the_same_question_can_be_put_by_number_and_in_the_form_of_the_standard() {
        let alone = format!("[\"0x1\", \"{HASH}\"]");
        let standard = format!("[\"0x1\",{{\"blockHash\":\"{HASH}\"}}]");
        assert_eq!(Pin::of("eth_getCode", &alone).unwrap().by_hash(), standard);
        let params = format!("[{{\"to\": 1}}, {{\"blockHash\": \"{HASH}\"}}, {{}}]");
        assert_eq!(Pin::of("eth_call", &params).unwrap().by_number(255), "[{\"to\": 1},\"0xff\",{}]");
    }
}
