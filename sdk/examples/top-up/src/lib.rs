//! Keeps the balances of accounts above a floor, by transfers of the operator's account.
//!
//! What an account is sent is written down with the event that decides it and taken away by the transfer's outcome, so that
//! each account has one transfer under way. What left on one day of UTC is bounded, besides the operator's policy.

use nexum_sdk::alloy::primitives::{Address, U256};
use nexum_sdk::alloy::rpc_types::BlockId;
use nexum_sdk::{
    self as nexum, Block, Error, NexumConfig, Outcome, Provider, Result, TransactionOutcome, Wei, block_on, outbox,
    provider,
    state::{Item, Map},
};

const DAY_MS: u64 = 86_400_000;

/// Keys of the transfers under way, by account.
const UNDER_WAY: Map<Address, String> = Map::new("under-way");
/// The day since the Unix epoch, and what left on it.
const SPENT: Item<(u64, U256)> = Item::new("spent");

#[derive(NexumConfig)]
struct TopUp {
    /// Whose balances are kept.
    accounts: Vec<Address>,
    /// Below it a balance is topped up.
    floor: Wei,
    /// What it is topped up to.
    target: Wei,
    /// Of all transfers of one day of UTC.
    max_per_day: Wei,
}

#[nexum::module]
impl TopUp {
    #[init]
    fn init(settings: Self) -> Result<Self> {
        if settings.target < settings.floor {
            return Err(Error::invalid_input("`target` is less than `floor`"));
        }
        Ok(settings)
    }

    #[on_block]
    fn check(&mut self, block: Block) -> Result<()> {
        let at = BlockId::hash_canonical(block.block_hash()?);
        for account in &self.accounts {
            if UNDER_WAY.get(account)?.is_some() {
                continue;
            }
            let balance = block_on(provider(block.chain_id).get_balance(*account).block_id(at))?;
            if balance < U256::from(self.floor.0) {
                self.send(&block, account, U256::from(self.target.0).saturating_sub(balance))?;
            }
        }
        Ok(())
    }

    fn send(&self, block: &Block, account: &Address, wei: U256) -> Result<()> {
        let today = block.timestamp / DAY_MS;
        let spent = SPENT.get()?.filter(|(day, _)| *day == today).map_or(U256::ZERO, |(_, spent)| spent);
        let after = spent.saturating_add(wei);
        if after > U256::from(self.max_per_day.0) {
            nexum::warn!("{account} needs {wei} wei, and {spent} of {} left today", self.max_per_day.0);
            return Ok(());
        }
        let key = format!("{account}-{}", nexum::hex::encode(&block.hash));
        outbox::transaction(block.chain_id).to(account).value(wei).key(key.as_str()).send()?;
        UNDER_WAY.set(account, &key)?;
        SPENT.set(&(today, after))
    }

    /// Whatever became of it, the next block looks at the balance again.
    #[on_outcome]
    fn ended(&mut self, outcome: Outcome) -> Result<()> {
        match outcome.transaction()? {
            TransactionOutcome::Mined(mined) => nexum::info!("{} is on the chain: {}", outcome.key, mined.hash),
            TransactionOutcome::Failed(failed) => nexum::warn!("{} failed: {}", outcome.key, failed.message),
            TransactionOutcome::Withdrawn(why) => nexum::warn!("{} was withdrawn: {why}", outcome.key),
        }
        for entry in UNDER_WAY.iter().collect::<Result<Vec<_>>>()? {
            if entry.1 == outcome.key {
                UNDER_WAY.delete(&entry.0)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_sdk::testing;

    fn block(number: u8) -> Block {
        Block { chain_id: 1, number: number.into(), hash: vec![number; 32], parent_hash: vec![0; 32], timestamp: 0 }
    }

    #[test]
    fn one_transfer_is_under_way_and_a_day_is_bounded() {
        testing::reset();
        testing::on_chain(|_, _, _| Ok("\"0x1\"".to_owned()));
        let (accounts, floor, target, max_per_day) = (vec![Address::repeat_byte(7)], Wei(5), Wei(10), Wei(20));
        let mut module = TopUp { accounts, floor, target, max_per_day };
        module.check(block(1)).unwrap();
        module.check(block(2)).unwrap();
        let sent = testing::transactions();
        assert_eq!((sent.len(), &sent[0].value, sent[0].to.as_deref()), (1, &vec![9], Some(&[7; 20][..])));
        module.ended(testing::sent()[0].mined()).unwrap();
        module.check(block(3)).unwrap();
        module.ended(testing::sent()[1].failed("reverted", "no")).unwrap();
        module.check(block(4)).unwrap();
        assert_eq!(testing::sent().len(), 2, "the third would pass the day's bound");
    }
}
