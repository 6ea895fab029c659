//! Keeps the balances of an ERC-20 token from its `Transfer` logs, and says when a transfer is large.
//!
//! A reorg needs no code here: with `on_reorg = "rewind"`, the default, the host undoes the balances of retracted
//! blocks before it delivers the new ones.

use nexum_sdk::alloy::primitives::{Address, I256, U256};
use nexum_sdk::alloy::sol_types::SolEvent;
use nexum_sdk::{self as nexum, Config, Error, Log, Result, sol, state::Item, state::Map};
use serde::Deserialize;

sol! {
    #[derive(Debug)]
    event Transfer(address indexed from, address indexed to, uint256 value);
}

/// What each holder received less what it sent since the module's first block. Signed, because a holder may send what it
/// had before.
const BALANCES: Map<Address, I256> = Map::new("balance");
/// Transfers seen.
const TRANSFERS: Item<u64> = Item::new("transfers");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Erc20Watch {
    token: Address,
    /// In the token's smallest unit.
    large: U256,
}

#[nexum::module]
impl Erc20Watch {
    #[init]
    fn init(config: Config) -> Result<Self> {
        config.deserialize()
    }

    #[on_logs]
    fn transfers(&mut self, logs: Vec<Log>) -> Result<()> {
        let mut seen = 0;
        for log in &logs {
            // The subscription already says both; a module that checks survives an edited manifest.
            if log.emitter()? != self.token || !log.is(Transfer::SIGNATURE_HASH) {
                continue;
            }
            self.apply(log.block_number, &log.decode()?)?;
            seen += 1;
        }
        TRANSFERS.update(|transfers| transfers.unwrap_or(0) + seen)?;
        Ok(())
    }

    fn apply(&self, block: u64, transfer: &Transfer) -> Result<()> {
        let Transfer { from, to, value } = *transfer;
        let amount =
            I256::try_from(value).map_err(|_| Error::invalid_input(format!("a transfer of {value} is no ERC-20's")))?;
        // The zero address mints and burns; it holds nothing.
        if !from.is_zero() {
            BALANCES.update(&from, |balance| balance.unwrap_or_default().wrapping_sub(amount))?;
        }
        if !to.is_zero() {
            BALANCES.update(&to, |balance| balance.unwrap_or_default().wrapping_add(amount))?;
        }
        if value >= self.large {
            nexum::info!("block {block}: {from} sent {value} to {to}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_sdk::alloy::primitives::address;
    use nexum_sdk::testing;

    const TOKEN: Address = address!("e7f1725E7734CE288F8367e1Bb143E90bb3F0512");
    const ALICE: Address = Address::repeat_byte(0xaa);
    const BOB: Address = Address::repeat_byte(0xbb);

    fn transfer(emitter: Address, from: Address, to: Address, value: u64) -> Log {
        let data = Transfer { from, to, value: U256::from(value) }.encode_log_data();
        Log {
            chain_id: 31337,
            address: emitter.to_vec(),
            topics: data.topics().iter().map(|topic| topic.to_vec()).collect(),
            data: data.data.to_vec(),
            block_number: 1,
            block_hash: vec![1; 32],
            block_timestamp: 1_000,
            transaction_hash: vec![2; 32],
            transaction_index: 0,
            log_index: 0,
        }
    }

    #[test]
    fn balances_follow_transfers_of_this_token_only() {
        testing::reset();
        let config = [("token", TOKEN.to_string().into()), ("large", "0x64".into())];
        let mut module = Erc20Watch::init(config.into_iter().collect()).unwrap();
        let logs = vec![
            transfer(TOKEN, Address::ZERO, ALICE, 100),
            transfer(TOKEN, ALICE, BOB, 30),
            transfer(BOB, ALICE, BOB, 1),
        ];
        module.transfers(logs).unwrap();

        let balances: Vec<_> = BALANCES.iter().collect::<Result<_>>().unwrap();
        assert_eq!(balances, [(ALICE, I256::unchecked_from(70)), (BOB, I256::unchecked_from(30))]);
        assert_eq!(TRANSFERS.get().unwrap(), Some(2));
        assert_eq!(testing::logged().len(), 1, "only the mint was large");
    }
}
