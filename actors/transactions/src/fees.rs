//! What a transaction pays. Pure: the market, bounds and what was paid before, to fees.
//!
//! Invariant: what a module asked for never pays so much that a replacement by nothing could not pay an eighth more within
//! the hard cap: there is always room for a cancel.

use nexum_host_ifaces::interfaces::identity::port::Fees;

/// What the chain takes, as it was last seen. Wei per unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Market {
    /// Without a base fee.
    Legacy { gas_price: u128 },
    Dynamic {
        /// Of the next block.
        base_fee: u128,
        /// What others paid on top.
        priority: u128,
    },
}

impl Market {
    /// What a unit of gas costs now.
    pub fn price(&self) -> u128 {
        match self {
            Self::Legacy { gas_price } => *gas_price,
            Self::Dynamic { base_fee, priority } => base_fee.saturating_add(*priority),
        }
    }

    /// Less than this is not mined.
    pub fn floor(&self) -> u128 {
        match self {
            Self::Legacy { .. } => 0,
            Self::Dynamic { base_fee, .. } => *base_fee,
        }
    }

    /// The most, and the part on top of the base fee, that lasts for some full blocks: six of them double the base fee.
    fn wanted(&self) -> (u128, u128) {
        match self {
            Self::Legacy { gas_price } => (*gas_price, *gas_price),
            Self::Dynamic { base_fee, priority } => (base_fee.saturating_mul(2).saturating_add(*priority), *priority),
        }
    }
}

/// What bounds the fees of one transaction. Wei per unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The least of what the operator's configuration, the policy and the module say.
    pub cap: u128,
    /// Of what the market pays.
    pub market_percent: u32,
    /// What the module pays on top of the base fee at most.
    pub priority: Option<u128>,
}

/// What the fees are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What a module asked for.
    Asked,
    /// A transfer of nothing, so that a nonce is used up.
    Empty,
}

impl Bounds {
    /// The most that may be paid now.
    fn most(&self, market: &Market, kind: Kind) -> u128 {
        match kind {
            Kind::Empty => self.cap,
            // An eighth more is then still within the cap.
            Kind::Asked => {
                let room = self.cap / 9 * 8 + self.cap % 9 * 8 / 9;
                let multiple = market.price().saturating_mul(u128::from(self.market_percent)) / 100;
                room.min(multiple.max(market.price()))
            }
        }
    }
}

/// The bounds are below what the chain takes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooDear {
    pub most: u128,
    pub floor: u128,
}

/// Fees of a transaction whose nonce was not signed before.
pub fn first(market: &Market, bounds: &Bounds, kind: Kind) -> Result<Fees, TooDear> {
    let most = bounds.most(market, kind);
    let floor = market.floor();
    let (wanted, priority) = market.wanted();
    match market {
        Market::Legacy { gas_price } if most < *gas_price => Err(TooDear { most, floor: *gas_price }),
        Market::Legacy { gas_price } => Ok(Fees::Legacy { gas_price: *gas_price }),
        Market::Dynamic { .. } if most < floor => Err(TooDear { most, floor }),
        Market::Dynamic { .. } => {
            let max_fee_per_gas = wanted.min(most);
            let priority = priority.min(bounds.priority.unwrap_or(u128::MAX));
            Ok(Fees::Dynamic { max_fee_per_gas, max_priority_fee_per_gas: priority.min(max_fee_per_gas) })
        }
    }
}

/// An eighth more, rounded up: clients want a tenth, and some round it up.
fn raised(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(8).max(1))
}

/// Fees of a replacement: both fields an eighth above those before, and at least the market's. None where the bounds forbid
/// that, or where it would still not be mined.
pub fn replacement(before: &Fees, market: &Market, bounds: &Bounds, kind: Kind) -> Option<Fees> {
    let most = bounds.most(market, kind);
    let (wanted, priority) = market.wanted();
    match before {
        Fees::Legacy { gas_price } => {
            let least = raised(*gas_price);
            (least <= most).then(|| Fees::Legacy { gas_price: least.max(wanted.min(most)) })
        }
        Fees::Dynamic { max_fee_per_gas, max_priority_fee_per_gas } => {
            let (least, least_priority) = (raised(*max_fee_per_gas), raised(*max_priority_fee_per_gas));
            let dearest = bounds.priority.filter(|_| kind == Kind::Asked).unwrap_or(u128::MAX);
            if least > most || least_priority > dearest {
                return None;
            }
            let max_fee_per_gas = least.max(wanted.min(most));
            let priority = least_priority.max(priority.min(dearest)).min(max_fee_per_gas);
            let fees = Fees::Dynamic { max_fee_per_gas, max_priority_fee_per_gas: priority };
            (max_fee_per_gas >= market.floor()).then_some(fees)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    fn market(base: u128, priority: u128) -> Market {
        Market::Dynamic { base_fee: base * GWEI, priority: priority * GWEI }
    }

    fn dynamic(max: u128, priority: u128) -> Fees {
        Fees::Dynamic { max_fee_per_gas: max, max_priority_fee_per_gas: priority }
    }

    const BOUNDS: Bounds = Bounds { cap: 500 * GWEI, market_percent: 300, priority: None };

    #[test]
    fn the_first_fees_follow_the_market_within_the_bounds() {
        assert_eq!(first(&market(10, 2), &BOUNDS, Kind::Asked), Ok(dynamic(22 * GWEI, 2 * GWEI)));
        let tight = Bounds { market_percent: 150, ..BOUNDS };
        assert_eq!(first(&market(10, 2), &tight, Kind::Asked), Ok(dynamic(18 * GWEI, 2 * GWEI)));
        let frugal = Bounds { priority: Some(GWEI), ..BOUNDS };
        assert_eq!(first(&market(10, 2), &frugal, Kind::Asked), Ok(dynamic(22 * GWEI, GWEI)));
        let poor = Bounds { cap: 9 * GWEI, ..BOUNDS };
        assert_eq!(first(&market(10, 2), &poor, Kind::Asked), Err(TooDear { most: 8 * GWEI, floor: 10 * GWEI }));
        let legacy = Market::Legacy { gas_price: 5 * GWEI };
        assert_eq!(first(&legacy, &BOUNDS, Kind::Asked), Ok(Fees::Legacy { gas_price: 5 * GWEI }));
        assert!(first(&legacy, &Bounds { cap: 5 * GWEI, ..BOUNDS }, Kind::Asked).is_err());
        // A chain where gas costs nothing.
        assert_eq!(first(&market(0, 0), &BOUNDS, Kind::Asked), Ok(dynamic(0, 0)));
    }

    #[test]
    fn a_replacement_raises_both_fees_from_the_larger_of_market_and_before() {
        let calm = replacement(&dynamic(80, 8), &Market::Dynamic { base_fee: 60, priority: 1 }, &BOUNDS, Kind::Asked);
        assert_eq!(calm, Some(dynamic(121, 9)), "a market above the least, and the least above the market");
        let before = dynamic(81, 3);
        let odd = replacement(&before, &Market::Dynamic { base_fee: 40, priority: 1 }, &BOUNDS, Kind::Asked);
        assert_eq!(odd, Some(dynamic(92, 4)), "rounded up");
        let spiked = replacement(&dynamic(22 * GWEI, 2 * GWEI), &market(100, 5), &BOUNDS, Kind::Asked);
        assert_eq!(spiked, Some(dynamic(205 * GWEI, 5 * GWEI)));
        let legacy = Market::Legacy { gas_price: 50 };
        let raised = replacement(&Fees::Legacy { gas_price: 100 }, &legacy, &BOUNDS, Kind::Empty);
        assert_eq!(raised, Some(Fees::Legacy { gas_price: 113 }));
        assert_eq!(replacement(&dynamic(0, 0), &market(1, 0), &BOUNDS, Kind::Asked), Some(dynamic(2 * GWEI, 1)));
    }

    #[test]
    fn at_the_cap_nothing_is_signed_until_fees_fall_and_a_cancel_has_room() {
        let market = |base| market(base, 1);
        for cap in [100 * GWEI, 101, 99, 97, 17] {
            let bounds = Bounds { cap, market_percent: 100_000, priority: None };
            let mut fees = dynamic(1, 1);
            while let Some(more) =
                replacement(&fees, &Market::Dynamic { base_fee: 1, priority: 1 }, &bounds, Kind::Asked)
            {
                fees = more;
            }
            assert!(fees.per_gas_max() <= cap);
            let cancel = replacement(&fees, &Market::Dynamic { base_fee: 1, priority: 1 }, &bounds, Kind::Empty);
            assert!(cancel.is_some_and(|cancel| cancel.per_gas_max() <= cap), "{fees:?} of {cap}");
        }
        let bounds = Bounds { cap: 90 * GWEI, market_percent: 300, priority: None };
        let before = dynamic(22 * GWEI, 2 * GWEI);
        // It would not be mined: kept for when fees have fallen.
        assert_eq!(replacement(&before, &market(200), &bounds, Kind::Asked), None);
        assert_eq!(
            replacement(&before, &market(60), &bounds, Kind::Asked).map(|fees| fees.per_gas_max()),
            Some(80 * GWEI)
        );
        // Far above the market already.
        assert_eq!(replacement(&dynamic(30 * GWEI, GWEI), &market(5), &bounds, Kind::Asked), None);
        assert!(replacement(&dynamic(30 * GWEI, GWEI), &market(5), &bounds, Kind::Empty).is_some());
        let frugal = Bounds { priority: Some(2 * GWEI), ..bounds };
        assert_eq!(
            replacement(&before, &market(20), &frugal, Kind::Asked),
            None,
            "a module's own bound on the priority fee"
        );
    }
}
