//! Watches a Chainlink price feed: on every block it reads the newest round with `eth_call`, and says once when the
//! price crosses a threshold. The last round is in state, so that neither a restart nor a retried event repeats an alert.

use nexum_sdk::alloy::primitives::utils::{format_units, parse_units};
use nexum_sdk::alloy::primitives::{Address, I256};
use nexum_sdk::alloy::rpc_types::BlockId;
use nexum_sdk::{
    self as nexum, Block, Context, Error, NexumConfig, Query, Result, block_on, provider, sol, state::Item,
};
use serde::{Deserialize, Serialize};

sol! {
    #[sol(rpc)]
    interface AggregatorV3 {
        function decimals() external view returns (uint8);
        function latestRoundData()
            external view
            returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound);
    }
}

/// The feed's newest round as of the last block.
const LAST: Item<Round> = Item::new("last");
/// Alerts said since the state began.
const ALERTS: Item<u64> = Item::new("alerts");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Round {
    id: String,
    /// In the feed's own unit: the price times 10^decimals.
    price: I256,
    /// Seconds since the Unix epoch.
    updated_at: u64,
}

/// What the query `status` is answered.
#[derive(Debug, PartialEq, Serialize)]
struct Status {
    last: Option<Round>,
    alerts: u64,
}

#[derive(NexumConfig)]
struct Settings {
    /// Where the feed is; one of the manifest's chains.
    chain_id: u64,
    /// The aggregator's contract.
    feed: Address,
    /// Prices as people write them, such as `"2500.50"`; crossing one in either direction is an alert.
    #[config(max_items = 64)]
    thresholds: Vec<String>,
}

struct PriceAlert {
    settings: Settings,
    /// Read at the first block rather than at init, so that an endpoint that is down delays an event and not the start.
    decimals: Option<u8>,
}

#[nexum::module]
impl PriceAlert {
    #[init]
    fn init(settings: Settings) -> Result<Self> {
        for threshold in &settings.thresholds {
            parse_price(threshold, 18)?;
        }
        Ok(Self { settings, decimals: None })
    }

    #[on_block]
    fn check(&mut self, block: Block) -> Result<()> {
        let feed = AggregatorV3::new(self.settings.feed, provider(self.settings.chain_id));
        // At this very block, so that a retried or replayed event reads what it read the first time.
        let at = BlockId::hash_canonical(block.block_hash()?);
        let decimals = match self.decimals {
            Some(decimals) => decimals,
            None => *self.decimals.insert(block_on(feed.decimals().call()).context("decimals")?),
        };
        let answer = block_on(feed.latestRoundData().block(at).call()).context("latestRoundData")?;
        let round = Round {
            id: answer.roundId.to_string(),
            price: answer.answer,
            updated_at: answer.updatedAt.saturating_to(),
        };

        let last = LAST.get()?;
        if last.as_ref() == Some(&round) {
            return Ok(());
        }
        nexum::debug!("round {} at {}: {}", round.id, block.label(), show(round.price, decimals)?);
        if let Some(last) = last {
            self.alert(&last, &round, decimals)?;
        }
        LAST.set(&round)
    }

    /// `status` answers the newest round and how many alerts there were.
    #[query]
    fn answer(&self, query: Query) -> Result<Status> {
        match query.method() {
            "status" => Ok(Status { last: LAST.get()?, alerts: ALERTS.get()?.unwrap_or(0) }),
            _ => Err(query.unknown()),
        }
    }

    fn alert(&self, last: &Round, round: &Round, decimals: u8) -> Result<()> {
        for threshold in &self.settings.thresholds {
            let at = parse_price(threshold, decimals)?;
            let direction = match (last.price < at, round.price < at) {
                (true, false) => "rose to",
                (false, true) => "fell below",
                _ => continue,
            };
            ALERTS.update(|alerts| alerts.unwrap_or(0) + 1)?;
            let (old, new) = (show(last.price, decimals)?, show(round.price, decimals)?);
            nexum::warn!("price {direction} {threshold}: {old} -> {new} (round {})", round.id);
        }
        Ok(())
    }
}

/// A decimal price in the feed's unit.
fn parse_price(text: &str, decimals: u8) -> Result<I256> {
    parse_units(text, decimals)
        .map(|price| price.get_signed())
        .map_err(|error| Error::invalid_input(format!("`{text}` is not a price: {error}")))
}

fn show(price: I256, decimals: u8) -> Result<String> {
    Ok(format_units(price, decimals)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_sdk::alloy::primitives::{U256, Uint, hex};
    use nexum_sdk::alloy::sol_types::{SolCall, SolValue};
    use nexum_sdk::{Config, Level, testing};

    fn block(number: u64) -> Block {
        Block { chain_id: 31337, number, hash: vec![1; 32], parent_hash: vec![0; 32], timestamp: number * 1_000 }
    }

    fn feed_says(round: u64, cents: i64) {
        testing::on_chain(move |_, method, params| {
            assert_eq!(method, "eth_call");
            let answer = if params.contains(&hex::encode(AggregatorV3::decimalsCall::SELECTOR)) {
                U256::from(8).abi_encode()
            } else {
                assert!(params.contains("blockHash"), "{params}");
                let (id, price) = (Uint::<80, 2>::from(round), I256::try_from(cents * 1_000_000).unwrap());
                (id, price, U256::ZERO, U256::from(round), id).abi_encode()
            };
            Ok(format!("\"{}\"", hex::encode_prefixed(answer)))
        });
    }

    #[test]
    fn says_a_crossing_once_and_in_both_directions() {
        testing::reset();
        let thresholds = nexum::Value::List(vec![nexum::Scalar::String("2500".into())]);
        let config = [
            ("chain_id", 31337.into()),
            ("feed", "0x5FbDB2315678afecb367f032d93F642f64180aa3".into()),
            ("thresholds", thresholds),
        ];
        let mut module = PriceAlert::init(config.into_iter().collect::<Config>().typed().unwrap()).unwrap();
        for (number, round, cents) in [(1, 1, 240_000), (2, 2, 260_050), (3, 2, 260_050), (4, 3, 249_900)] {
            feed_says(round, cents);
            module.check(block(number)).unwrap();
        }
        let alerts: Vec<_> =
            testing::logged().into_iter().filter(|(level, _)| *level == Level::Warn).map(|(_, text)| text).collect();
        assert_eq!(
            alerts,
            [
                "price rose to 2500: 2400.00000000 -> 2600.50000000 (round 2)",
                "price fell below 2500: 2600.50000000 -> 2499.00000000 (round 3)",
            ]
        );
        let status = module.answer(Query::new("status", ()).unwrap()).unwrap();
        assert_eq!((status.alerts, status.last.unwrap().id.as_str()), (2, "3"));
    }

    #[test]
    fn a_bad_threshold_is_refused_at_init() {
        let config = [
            ("chain_id", 31337.into()),
            ("feed", "0x5FbDB2315678afecb367f032d93F642f64180aa3".into()),
            ("thresholds", nexum::Value::List(vec![nexum::Scalar::String("cheap".into())])),
        ];
        let error = PriceAlert::init(config.into_iter().collect::<Config>().typed().unwrap()).err().unwrap();
        assert!(error.to_string().contains("`cheap` is not a price"), "{error}");
    }
}
