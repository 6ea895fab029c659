//! `[chains.transactions]`: how the engine's accounts send on a chain.

use nexum_ctl::period::Period;
use nexum_identity::parse_fee;
use serde::{Deserialize, Serialize};

use super::{
    identity::{Scalar, Wrong},
    secret::Secret,
};

/// Transactions of one account in flight at most.
const IN_FLIGHT_MAX: usize = 1_000;
/// More than so much above an estimate is no margin.
const GAS_MARGIN_PERCENT_MAX: u32 = 1_000;

/// Absent values are the transactions actor's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transactions {
    /// Where they go instead of to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<Secret>,
    /// Of one account, broadcast and not mined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<usize>,
    /// How long one may wait to be mined before it is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_after: Option<Period>,
    /// What a unit of gas may cost, whatever policies and modules say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fee_per_gas: Option<Scalar>,
    /// The same in percent of what the market pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub market_percent: Option<u32>,
    /// Gas above what was estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_margin_percent: Option<u32>,
}

impl Transactions {
    pub(super) fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// Wei; none when nothing is said, or what is said was refused.
    pub fn fee_per_gas(&self) -> Option<u128> {
        parse_fee(&self.max_fee_per_gas.as_ref()?.text()).ok()
    }

    /// What the values say for themselves, but for the relay.
    ///
    /// # Errors
    /// The first thing that is wrong; `path` is that of the table.
    pub(super) fn check(&self, path: &str) -> Result<(), Wrong> {
        let wrong = |key: &str, message: String| Err(Wrong { path: format!("{path}.{key}"), message, bare: None });
        if let Some(count) = self.max_in_flight.filter(|count| !(1..=IN_FLIGHT_MAX).contains(count)) {
            return wrong("max_in_flight", format!("{count} is not between 1 and {IN_FLIGHT_MAX}"));
        }
        if let Some(percent) = self.market_percent.filter(|percent| *percent < 100) {
            return wrong("market_percent", format!("{percent} is less than the market pays: expected 100 or more"));
        }
        if let Some(percent) = self.gas_margin_percent.filter(|percent| *percent > GAS_MARGIN_PERCENT_MAX) {
            return wrong("gas_margin_percent", format!("{percent} is more than {GAS_MARGIN_PERCENT_MAX}"));
        }
        match self.max_fee_per_gas.as_ref().map(|fee| parse_fee(&fee.text())) {
            Some(Err(what)) => return wrong("max_fee_per_gas", what),
            Some(Ok(0)) => return wrong("max_fee_per_gas", "0 would let nothing be sent; leave it out".to_owned()),
            Some(Ok(_)) | None => {}
        }
        match self.replace_after {
            Some(period) if period.0.is_zero() => wrong("replace_after", "must be longer than nothing".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_would_send_nothing_are_refused_where_they_stand() {
        let refusal = |text: &str| {
            let settings: Transactions = toml::from_str(text).unwrap();
            settings.check("chains.0.transactions").err().map(|wrong| (wrong.path, wrong.message))
        };
        for text in [
            "",
            "relay = \"https://relay.example/key\"\nmax_in_flight = 16\nreplace_after = \"1m\"",
            "max_fee_per_gas = \"500 gwei\"\nmarket_percent = 300\ngas_margin_percent = 20",
            "max_fee_per_gas = 500_000_000_000",
        ] {
            assert_eq!(refusal(text), None, "{text}");
        }
        for (text, key, what) in [
            ("max_in_flight = 0", "max_in_flight", "0 is not between 1 and 1000"),
            ("market_percent = 99", "market_percent", "expected 100 or more"),
            ("gas_margin_percent = 1001", "gas_margin_percent", "1001 is more than 1000"),
            ("max_fee_per_gas = \"0\"", "max_fee_per_gas", "0 would let nothing be sent"),
            ("max_fee_per_gas = \"5 eth\"", "max_fee_per_gas", "is no amount"),
            ("replace_after = \"0s\"", "replace_after", "must be longer than nothing"),
        ] {
            let (path, message) = refusal(text).unwrap();
            assert_eq!(path, format!("chains.0.transactions.{key}"));
            assert!(message.contains(what), "{text}: {message}");
        }
        assert!(!format!("{:?}", toml::from_str::<Transactions>("relay = \"https://k3y\"").unwrap()).contains("k3y"));
        let settings: Transactions = toml::from_str("max_fee_per_gas = \"1.5 gwei\"").unwrap();
        assert_eq!((settings.fee_per_gas(), Transactions::default().fee_per_gas()), (Some(1_500_000_000), None));
    }
}
