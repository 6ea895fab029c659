//! What is told of events besides their units: what they used, and recordings of every event that failed, and where it is
//! wanted of those that were handled.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::{
    event::EventId,
    grants::{Capability, Grant},
    host::HostArgs,
    recording::{Crash, CrashBrief, Record, Recording, Setting, Taping},
    store::{ModuleHealth, ModuleId, StoreMsg},
    types::Event,
};

use super::{Args, Exit, Running, Shared};
use crate::{
    instance::{Failure, NotStarted},
    load::Plan,
    metrics::ModuleMetrics,
};

/// What is kept of a failure: the newest of each event, those of versions that an upgrade tried among them.
pub(super) fn keep(shared: &Shared, module: ModuleId, recording: &Recording, failure: &Failure) {
    let brief = CrashBrief {
        number: 0,
        at_ms: recording.at_ms,
        event: recording.event_id().to_string(),
        component: recording.setting.component,
        error: failure.message.clone(),
        fuel: failure.fuel,
        handled_before: recording.handled_before,
        whole: recording.is_whole(),
        bytes: 0,
    };
    match recording.encode() {
        Ok(recording) => {
            let crash = Box::new(Crash { brief, recording });
            // A store that is away now costs the recording; the failure itself is counted by the supervisor.
            let _ = shared.store.cast(StoreMsg::PutCrash { module, crash });
        }
        Err(error) => tracing::warn!(module = %recording.setting.module, "the crash is not kept: {error}"),
    }
}

impl Args {
    /// A component that failed before its `init` could be called: kept and counted as if that had failed.
    pub(super) fn not_started(&self, host: &HostArgs, health: ModuleHealth, failed: NotStarted) -> Exit {
        let failure = failed.failure.clone();
        if let Some(recording) = failed.recording(|| self.plan.setting()) {
            keep(&self.shared, host.id, &recording, &failure);
        }
        let mut metrics = ModuleMetrics::new(&self.shared.metrics, self.name());
        let init = metrics.kind("init");
        init.dispatched.inc();
        init.failed.inc();
        self.fault(health, failure, None)
    }
}

impl Plan {
    /// How the module is set up, for whoever runs a recording again.
    pub(super) fn setting(&self) -> Setting {
        let plan = self;
        let served = |capability: &Capability| plan.grants.get(*capability) == Some(Grant::Served);
        Setting {
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            module: plan.manifest.name.clone(),
            component: plan.manifest.component,
            limits: (*plan.limits).clone(),
            config: (*plan.config).clone(),
            served: Capability::ALL.into_iter().filter(served).collect(),
            stubs: plan.grants.refused().into_iter().collect(),
            chains: plan.grants.chains().iter().copied().collect(),
            extra_methods: plan.grants.extra_methods().clone(),
            allow: (**plan.grants.hosts()).clone(),
        }
    }

    /// Whether its instances record.
    pub(super) fn taping(&self) -> Taping {
        if self.record == Record::None { Taping::Off } else { Taping::On }
    }
}

impl Running {
    /// Shows what the event used.
    pub(super) fn note_usage(&mut self, args: &Args) {
        let host = self.instance.host();
        let memory = host.memory_bytes();
        let dropped = host.usage().log_lines_dropped;
        args.status.memory_bytes.store(memory as u64, Ordering::Relaxed);
        self.metrics.memory_bytes_used.set(memory as i64);
        if dropped > 0 {
            self.metrics.log_lines_dropped.inc_by(dropped);
        }
    }

    /// Sends the recording of the call that just failed to the store. To be called while its changes are still there.
    pub(super) fn keep_crash(&mut self, args: &Args, event: Option<(&EventId, &Arc<Event>)>, failure: &Failure) {
        // Then something around the module failed, not the module.
        if self.instance.host().poisoned().is_some() {
            return;
        }
        let setting = || args.plan.setting();
        let Some(recording) = self.instance.recording(setting, event, failure.fuel, Some(failure)) else { return };
        keep(&args.shared, self.host.id, &recording, failure);
    }

    /// The recording of the event that was just handled, when every event is recorded.
    pub(super) fn handled(&mut self, args: &Args, event: (&EventId, &Arc<Event>), fuel: u64) -> Option<Vec<u8>> {
        if args.plan.record != Record::All {
            return None;
        }
        let recording = self.instance.recording(|| args.plan.setting(), Some(event), fuel, None)?;
        recording
            .encode()
            .inspect_err(|error| tracing::warn!(module = %args.name(), "an event is not recorded: {error}"))
            .ok()
    }
}
