//! The service that sends what modules have the operator's accounts do, in an engine whose operator has accounts, or had.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use nexum_host_ifaces::{clock::Clock, ports::Ports, transactions::TransactionsMsg};
use nexum_kernel::ServiceSpec;
use nexum_transactions::{ChainSettings, TransactionsMetrics};
use prometheus::Registry;

use crate::{
    config::{Chain, Config},
    status,
};

/// The service; from now on the ports say that there is one.
pub(super) fn service(
    config: &Config,
    ports: &Arc<Ports>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> anyhow::Result<ServiceSpec> {
    let chains: BTreeMap<u64, ChainSettings> =
        config.chains.iter().map(|chain| (chain.chain_id, settings(chain))).collect();
    let metrics = TransactionsMetrics::register(registry).context("metrics")?;
    let (port, ports, clock) = (ports.with::<TransactionsMsg>(), ports.clone(), clock.clone());
    let status = status::transactions(port.clone());
    let service = ServiceSpec::new("transactions", port, move |supervisor| {
        let (chains, ports, clock, metrics) = (chains.clone(), ports.clone(), clock.clone(), metrics.clone());
        let args = nexum_transactions::Args { chains, ports, clock, metrics };
        async move { nexum_transactions::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    Ok(service.with_status(status))
}

/// The actor's defaults, and what the operator changed.
fn settings(chain: &Chain) -> ChainSettings {
    let (defaults, given) = (ChainSettings::default(), &chain.transactions);
    ChainSettings {
        max_in_flight: given.max_in_flight.unwrap_or(defaults.max_in_flight),
        replace_after: given.replace_after.map_or(defaults.replace_after, |period| period.0),
        max_fee_per_gas: given.fee_per_gas().unwrap_or(defaults.max_fee_per_gas),
        market_percent: given.market_percent.unwrap_or(defaults.market_percent),
        gas_margin_percent: given.gas_margin_percent.unwrap_or(defaults.gas_margin_percent),
        poll: chain.rpc.poll_interval.map_or(defaults.poll, |period| period.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Period, Transactions};

    #[test]
    fn a_chain_keeps_the_actors_defaults_but_for_what_is_said() {
        let mut chain = Chain::mock(10, "x.toml".into());
        assert_eq!(settings(&chain), ChainSettings::default());
        let text = "max_in_flight = 3\nreplace_after = \"7s\"\nmax_fee_per_gas = \"9 gwei\"\nmarket_percent = 150\n\
                    gas_margin_percent = 5\n";
        chain.transactions = toml::from_str::<Transactions>(text).unwrap();
        chain.rpc.poll_interval = Some(Period(std::time::Duration::from_millis(50)));
        let settings = settings(&chain);
        assert_eq!((settings.max_in_flight, settings.max_fee_per_gas), (3, 9_000_000_000));
        assert_eq!((settings.market_percent, settings.gas_margin_percent), (150, 5));
        assert_eq!((settings.replace_after.as_secs(), settings.poll.as_millis()), (7, 50));
    }
}
