//! The service behind `remote-store`, in an engine whose operator has Bee nodes.

use std::sync::Arc;

use anyhow::Context;
use nexum_host_ifaces::{
    blocking::Blocking, clock::Clock, interfaces::remote_store::port::RemoteStoreMsg, ports::Ports,
};
use nexum_kernel::ServiceSpec;
use nexum_remote_store::RemoteStoreMetrics;
use prometheus::Registry;

use crate::{config::RemoteStore, status};

/// The service; from now on the ports say that there is one.
pub(super) fn service(
    store: &RemoteStore,
    ports: &Arc<Ports>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> anyhow::Result<ServiceSpec> {
    let settings = store.settings();
    let metrics = RemoteStoreMetrics::register(registry).context("metrics")?;
    let (port, ports, clock) = (ports.with::<RemoteStoreMsg>(), ports.clone(), clock.clone());
    let status = status::remote_store(port.clone());
    let service = ServiceSpec::new("remote-store", port, move |supervisor| {
        let (settings, ports, clock, metrics) = (settings.clone(), ports.clone(), clock.clone(), metrics.clone());
        let args = nexum_remote_store::Args { settings, ports, clock, blocking: Blocking::Threads, metrics };
        async move { nexum_remote_store::spawn(args, supervisor).await.map(|(actor, _)| actor) }
    });
    Ok(service.with_status(status))
}
