//! Keeps loans out of liquidation: repays a part of one when its health factor in a lending pool falls below a floor.
//!
//! What is done about an account is written down with the event that decides it, and ended by the repayment's outcome: each
//! account has one repayment under way, and a block from before a repayment leads to no second one. What is repaid on one day
//! of UTC is bounded here, since the operator's policy counts ether and no tokens.

use std::time::Duration;

use nexum_sdk::alloy::primitives::utils::{Unit, format_ether, parse_ether};
use nexum_sdk::alloy::primitives::{Address, U256};
use nexum_sdk::alloy::rpc_types::BlockId;
use nexum_sdk::transaction::FailureKind;
use nexum_sdk::{
    self as nexum, Block, Context, Error, NexumConfig, Outcome, Result, TransactionOutcome, block_on, outbox, provider,
    sol,
    state::{Item, Map},
};
use serde::{Deserialize, Serialize};

sol! {
    #[sol(rpc)]
    interface Pool {
        function getUserAccountData(address user)
            external view
            returns (
                uint256 totalCollateralBase,
                uint256 totalDebtBase,
                uint256 availableBorrowsBase,
                uint256 currentLiquidationThreshold,
                uint256 ltv,
                uint256 healthFactor
            );
        function repay(address asset, uint256 amount, uint256 interestRateMode, address onBehalfOf)
            external
            returns (uint256);
    }
}

const DAY_MS: u64 = 86_400_000;
/// How the pool names debts whose interest varies.
const VARIABLE_RATE: u64 = 2;

/// The last repayment of an account, until a block shows what it came to.
const LAST: Map<Address, Repayment> = Map::new("last");
const TODAY: Item<Day> = Item::new("today");

#[derive(NexumConfig)]
struct Settings {
    /// The lending pool.
    pool: Address,
    /// Whose loans they are.
    accounts: Vec<Address>,
    /// The token that is repaid.
    asset: Address,
    /// Of the health factor, such as `"1.1"`: below 1 a loan may be liquidated.
    floor: String,
    /// Of one repayment, in the token's smallest unit.
    amount: U256,
    /// Of all repayments of a day.
    max_per_day: U256,
    /// Blocks that make a repayment final. A reorg that is deeper may lead to a second one.
    #[config(default = 3, min = 1)]
    confirmations: u32,
    /// A repayment that was not broadcast by then is given up.
    #[config(default = "15m", min = "1s", max = "1d")]
    valid_for: Duration,
    /// Between the blocks that decide on a repayment that failed and on the next one.
    #[config(default = "1m", max = "1d")]
    retry_after: Duration,
}

#[derive(Serialize, Deserialize)]
struct Repayment {
    /// Of its effect.
    key: String,
    amount: U256,
    /// The health factor that it was decided by.
    health: U256,
    /// The time of the block that it was decided with, milliseconds since the Unix epoch.
    at_ms: u64,
    state: State,
}

#[derive(Serialize, Deserialize)]
enum State {
    UnderWay,
    MinedIn(u64),
    Failed,
}

#[derive(Serialize, Deserialize)]
struct Day {
    /// Since the Unix epoch.
    number: u64,
    repaid: U256,
    /// Whether it was said that the bound is reached.
    is_told: bool,
}

struct Keeper {
    settings: Settings,
    floor: U256,
}

#[nexum::module]
impl Keeper {
    #[init]
    fn init(settings: Settings) -> Result<Self> {
        let wrong = |what: String| Err(Error::invalid_input(what));
        let floor = match parse_ether(&settings.floor) {
            Ok(floor) if !settings.floor.starts_with('-') && floor > Unit::ETHER.wei() => floor,
            _ => return wrong(format!("`floor`: `{}` is no number above 1, such as 1.1", settings.floor)),
        };
        if settings.amount.is_zero() || settings.amount > settings.max_per_day {
            return wrong("`amount` is 0, or more than `max_per_day`".to_owned());
        }
        Ok(Self { settings, floor })
    }

    #[on_block]
    fn check(&mut self, block: Block) -> Result<()> {
        for account in &self.settings.accounts {
            let last = LAST.get(account)?;
            if last.as_ref().is_some_and(|last| self.is_waited_for(last, &block)) {
                continue;
            }
            let health = self.health(&block, account)?;
            if let Some(last) = last {
                if matches!(last.state, State::MinedIn(_)) && health <= last.health {
                    let (before, now) = (format_ether(last.health), format_ether(health));
                    nexum::warn!("repaying {} for {account} did not help: {before} before, {now} now", last.amount);
                }
                LAST.delete(account)?;
            }
            if health < self.floor {
                self.repay(&block, account, health)?;
            }
        }
        Ok(())
    }

    /// Whether nothing is to be done for an account with this block.
    fn is_waited_for(&self, last: &Repayment, block: &Block) -> bool {
        match last.state {
            State::UnderWay => true,
            // What the pool was before it says nothing of what is to be repaid after it.
            State::MinedIn(number) => block.number < number,
            State::Failed => block.timestamp < last.at_ms.saturating_add(millis(self.settings.retry_after)),
        }
    }

    fn health(&self, block: &Block, account: &Address) -> Result<U256> {
        let pool = Pool::new(self.settings.pool, provider(block.chain_id));
        // At this very block, so that an event that is tried again decides as it did the first time.
        let at = BlockId::hash_canonical(block.block_hash()?);
        let data = block_on(pool.getUserAccountData(*account).block(at).call()).context("getUserAccountData")?;
        Ok(data.healthFactor)
    }

    fn repay(&self, block: &Block, account: &Address, health: U256) -> Result<()> {
        let Settings { pool, asset, amount, max_per_day, confirmations, valid_for, .. } = &self.settings;
        let number = block.timestamp / DAY_MS;
        let new = Day { number, repaid: U256::ZERO, is_told: false };
        let mut today = TODAY.get()?.filter(|day| day.number == number).unwrap_or(new);
        let repaid = today.repaid.saturating_add(*amount);
        if repaid > *max_per_day {
            if !today.is_told {
                let (shown, spent) = (format_ether(health), today.repaid);
                nexum::warn!(
                    "{account} is at {shown}, and {spent} of {max_per_day} were repaid today: the bound is reached"
                );
                today.is_told = true;
                TODAY.set(&today)?;
            }
            return Ok(());
        }
        let key = format!("{account}-{}", nexum::hex::encode(&block.hash));
        outbox::transaction(block.chain_id)
            .to(pool)
            .call(Pool::repayCall {
                asset: *asset,
                amount: *amount,
                interestRateMode: U256::from(VARIABLE_RATE),
                onBehalfOf: *account,
            })
            .confirmations(*confirmations)
            .deadline(block.timestamp.saturating_add(millis(*valid_for)))
            .key(key.as_str())
            .send()?;
        nexum::info!("{account} is at {}: repays {amount}", format_ether(health));
        let repayment = Repayment { key, amount: *amount, health, at_ms: block.timestamp, state: State::UnderWay };
        LAST.set(account, &repayment)?;
        TODAY.set(&Day { repaid, ..today })
    }

    #[on_outcome]
    fn ended(&mut self, outcome: Outcome) -> Result<()> {
        let (state, nothing_left) = match outcome.transaction()? {
            TransactionOutcome::Mined(mined) => {
                nexum::info!("{} is on the chain: {}", outcome.key, mined.hash);
                (State::MinedIn(mined.block_number), false)
            }
            TransactionOutcome::Failed(failed) => {
                nexum::warn!("{} failed: {}", outcome.key, failed.message);
                (State::Failed, failed.kind != FailureKind::Other)
            }
            TransactionOutcome::Withdrawn(why) => {
                nexum::warn!("{} was withdrawn: {why}", outcome.key);
                (State::Failed, true)
            }
        };
        let known = LAST.iter().collect::<Result<Vec<_>>>()?;
        let Some((account, last)) = known.into_iter().find(|(_, last)| last.key == outcome.key) else {
            nexum::warn!("{} is of a repayment that the state does not know", outcome.key);
            return Ok(());
        };
        // A repayment that did not happen takes nothing of its day.
        let today = TODAY.get()?.filter(|day| nothing_left && day.number == last.at_ms / DAY_MS);
        if let Some(today) = today {
            TODAY.set(&Day { repaid: today.repaid.saturating_sub(last.amount), ..today })?;
        }
        LAST.set(&account, &Repayment { state, ..last })
    }
}

fn millis(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
