//! The service behind `messaging`, in an engine whose operator has Waku nodes.

use std::sync::Arc;

use anyhow::Context;
use nexum_host_ifaces::{clock::Clock, interfaces::messaging::port::MessagingMsg, ports::Ports};
use nexum_kernel::ServiceSpec;
use nexum_messaging::MessagingMetrics;
use prometheus::Registry;

use crate::{config::Messaging, status};

/// The service; from now on the ports say that there is one.
pub(super) fn service(
    messaging: &Messaging,
    ports: &Ports,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> anyhow::Result<ServiceSpec> {
    let metrics = MessagingMetrics::register(registry).context("metrics")?;
    let (settings, port, clock) = (messaging.settings(), ports.with::<MessagingMsg>(), clock.clone());
    let status = status::messaging(port.clone());
    let service = ServiceSpec::new("messaging", port, move |supervisor| {
        let (settings, clock, metrics) = (settings.clone(), clock.clone(), metrics.clone());
        let args = nexum_messaging::Args { settings, clock, metrics };
        async move { nexum_messaging::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    Ok(service.with_status(status))
}
