//! The service behind `identity`, in an engine whose operator has accounts.

use std::sync::Arc;

use anyhow::anyhow;
use nexum_host_ifaces::{blocking::Blocking, clock::Clock, interfaces::identity::port::IdentityMsg, ports::Ports};
use nexum_identity::IdentityMetrics;
use nexum_kernel::ServiceSpec;

use crate::{config::Identity, status};

/// The service; from now on the ports say that there is one.
pub(super) fn service(
    identity: &Identity,
    ports: &Arc<Ports>,
    clock: &Arc<dyn Clock>,
    metrics: IdentityMetrics,
) -> anyhow::Result<ServiceSpec> {
    let settings = identity.settings().map_err(|wrong| anyhow!("{}: {}", wrong.path, wrong.message))?;
    let (port, ports, clock) = (ports.with::<IdentityMsg>(), ports.clone(), clock.clone());
    let status = status::identity(port.clone());
    let service = ServiceSpec::new("identity", port, move |supervisor| {
        let (settings, ports, clock, metrics) = (settings.clone(), ports.clone(), clock.clone(), metrics.clone());
        let args = nexum_identity::Args { settings, ports, clock, blocking: Blocking::Threads, metrics };
        async move { nexum_identity::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    Ok(service.with_status(status))
}
