//! Sells a fixed amount every so many blocks. The module has no access to the network: it calls the library `cow`, which has
//! the order book's host and the operator's credential for it.
//!
//! An order depends on its block alone. So an event that is tried again sends the very same one, and the library knows that
//! it has been placed.
//!
//! State: `o/{number:020}` is the UID of the order that was placed with a block.

#[allow(clippy::all, unsafe_code, missing_docs, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        world: "shepherd:cow/client@0.3.0",
        path: ["../../../host-ifaces/wit", "../../libraries/cow/wit"],
        with: { "nexum:host/types@0.3.0": nexum_sdk::wit::types },
    });
}

use bindings::shepherd::cow::cow_api;
use nexum_sdk::{self as nexum, Block, Config, Result, state};
use serde_json::json;

struct Dca {
    every: u64,
    owner: String,
    sell_token: String,
    buy_token: String,
    sell_amount: String,
    buy_amount_min: String,
    valid_for_s: u64,
}

#[nexum::module]
impl Dca {
    #[init]
    fn start(config: Config) -> Result<Self> {
        let text = |key: &str| config.string(key).map(str::to_owned);
        Ok(Self {
            every: config.parse("every")?,
            owner: text("owner")?,
            sell_token: text("sell_token")?,
            buy_token: text("buy_token")?,
            sell_amount: text("sell_amount")?,
            buy_amount_min: text("buy_amount_min")?,
            valid_for_s: config.parse("valid_for_s")?,
        })
    }

    #[on_block]
    fn sell(&mut self, block: Block) -> Result<()> {
        if !block.number.is_multiple_of(self.every) {
            return Ok(());
        }
        let order = self.order(&block).to_string();
        let uid = cow_api::submit_order(block.chain_id, order.as_bytes())?;
        nexum::info!("placed {uid}");
        state::set(&format!("o/{:020}", block.number), &uid)
    }
}

impl Dca {
    fn order(&self, block: &Block) -> serde_json::Value {
        // With the block in it, so that two orders are never the same by chance.
        let app_data = json!({ "version": "1.1.0", "appCode": "cow-dca", "metadata": {}, "block": block.number });
        json!({
            "sellToken": self.sell_token,
            "buyToken": self.buy_token,
            "sellAmount": self.sell_amount,
            "buyAmount": self.buy_amount_min,
            "feeAmount": "0",
            "validTo": block.timestamp / 1_000 + self.valid_for_s,
            "kind": "sell",
            "partiallyFillable": false,
            "appData": app_data.to_string(),
            "from": self.owner,
            "signingScheme": "presign",
            "signature": self.owner,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_depends_on_its_block_alone() {
        let words = ["owner", "sell_token", "buy_token", "sell_amount", "buy_amount_min"];
        let mut config: Vec<(&str, nexum::Value)> = words.into_iter().map(|key| (key, key.into())).collect();
        config.extend([("every", 10.into()), ("valid_for_s", 60.into())]);
        let dca = Dca::start(config.into_iter().collect()).unwrap();
        let block =
            |timestamp| Block { chain_id: 1, number: 10, hash: vec![1; 32], parent_hash: vec![0; 32], timestamp };
        assert_eq!(dca.order(&block(5_000))["validTo"], 65);
        assert_eq!(dca.order(&block(5_000)), dca.order(&block(5_000)));
    }
}
