//! What is told of events besides their units: what they used, and recordings of every event that failed, and where it is
//! wanted of those that were handled.

use std::sync::{Arc, atomic::Ordering};

use nexum_host_ifaces::{
    event::EventId,
    host::HostArgs,
    recording::{
        Crash, CrashBrief, Fault, LibrarySetting, Pool, RECORDING_BYTES_MAX, Record, Recording, Setting, TapeMode,
        encoded_bytes,
    },
    store::{ModuleHealth, ModuleId, StoreMsg},
    types::Event,
};

use super::{Args, Exit, Running, Shared};
use crate::{
    instance::{Failure, NotStarted},
    load::Plan,
};

/// What is kept of an error and of a backtrace, each: more than anybody reads. A guest may answer with all of its memory.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// What is kept of a failure: the newest of each event, those of versions that an upgrade tried among them.
pub(super) fn keep(shared: &Shared, module: ModuleId, recording: Recording, failure: &Failure) {
    let name = recording.setting.module.clone();
    match crash(&shared.recordings, recording, failure) {
        Ok(crash) => {
            let crash = Box::new(crash);
            // A store that is away now costs the recording; the failure itself is counted by the supervisor.
            let _ = shared.ports.store().cast(StoreMsg::PutCrash { module, crash });
        }
        Err(error) => tracing::warn!(module = %name, "the crash is not kept: {error}"),
    }
}

/// The crash with its recording encoded, which is cut when it is too large or when crashes that wait for the store hold
/// all the memory that there is for them.
fn crash(pool: &Arc<Pool>, mut recording: Recording, failure: &Failure) -> Result<Crash, String> {
    let Failure { message: error, backtrace, fuel } = clip(failure);
    recording.outcome.failure = Some(Fault { message: error.clone(), backtrace });
    let mut recording = recording.bounded();
    let mut encoded = recording.encode()?;
    let charge = pool.take(encoded.len());
    if charge.is_none() {
        recording.cut();
        recording.outcome.lines = Vec::new();
        encoded = recording.encode()?;
    }
    let brief = CrashBrief {
        number: 0,
        at_ms: recording.at_ms,
        event: recording.event_id().to_string(),
        component: recording.setting.component,
        error,
        fuel,
        handled_before: recording.handled_before,
        whole: recording.is_whole(),
        bytes: 0,
    };
    Ok(Crash { brief, recording: encoded, charge })
}

/// As much of a failure as is kept of it, here and wherever else it goes.
pub(super) fn clip(failure: &Failure) -> Failure {
    let clipped = |text: &str| text[..text.floor_char_boundary(ERROR_BYTES_MAX)].to_owned();
    Failure {
        message: clipped(&failure.message),
        backtrace: failure.backtrace.as_deref().map(clipped),
        fuel: failure.fuel,
    }
}

impl Args {
    /// A component that failed before its `init` could be called: kept and counted as if that had failed, unless the machine
    /// is to blame.
    pub(super) fn not_started(&self, host: &HostArgs, health: ModuleHealth, failed: NotStarted) -> Exit {
        if failed.is_passing {
            return Exit::Unprepared(failed.failure.message);
        }
        let failure = failed.failure.clone();
        if let Some(recording) = failed.recording(|| self.plan.setting()) {
            keep(&self.shared, host.id, recording, &failure);
        }
        let metrics = self.shared.metrics.module(self.name());
        metrics.fuel.inc_by(failure.fuel);
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
        Setting {
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            module: plan.manifest.name.clone(),
            component: plan.manifest.component,
            limits: (*plan.limits).clone(),
            config: (*plan.config).clone(),
            served: plan.grants.served(),
            stubs: plan.grants.refused().into_iter().collect(),
            chains: plan.grants.chains().iter().copied().collect(),
            tables: plan.grants.tables().clone(),
            libraries: plan.grants.libraries().iter().map(LibrarySetting::of).collect(),
        }
    }

    /// Whether its instances record, and then with memory of which pool.
    pub(super) fn taping(&self, pool: &Arc<Pool>) -> TapeMode {
        if self.record == Record::None { TapeMode::Off } else { TapeMode::On(pool.clone()) }
    }
}

impl Running {
    /// Counts the fuel of a call, whatever came of it.
    pub(super) fn count_fuel(&self, called: &Result<u64, Failure>) {
        let (Ok(fuel) | Err(Failure { fuel, .. })) = called;
        self.metrics.fuel.inc_by(*fuel);
    }

    /// Shows what the event used.
    pub(super) fn note_usage(&mut self, args: &Args) {
        let host = self.instance.host();
        let memory = host.memory_bytes();
        let dropped = host.usage().log_lines_dropped;
        args.status.memory_bytes.store(memory as u64, Ordering::Relaxed);
        self.metrics.memory_bytes_used.set(memory as u64);
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
        let failure = clip(failure);
        // Nothing of this module is recorded.
        let Some(recording) = self.recorded(args, event, failure.fuel, Some(&failure)) else { return };
        keep(&args.shared, self.host.id, recording, &failure);
    }

    /// The recording of the call that just ended. An event that is larger than a recording may be is not copied for it.
    fn recorded(
        &self,
        args: &Args,
        event: Option<(&EventId, &Arc<Event>)>,
        fuel: u64,
        failure: Option<&Failure>,
    ) -> Option<Recording> {
        let setting = || args.plan.setting();
        let large = event.filter(|(_, event)| encoded_bytes(&***event, RECORDING_BYTES_MAX).is_none());
        let Some((id, _)) = large else { return self.instance.recording(setting, event, fuel, failure) };
        let nothing = Arc::new(Event::Logs(Vec::new()));
        let mut recording = self.instance.recording(setting, Some((id, &nothing)), fuel, failure)?;
        recording.cut();
        Some(recording)
    }

    /// The recording of the event that was just handled, when every event is recorded.
    pub(super) fn handled(&mut self, args: &Args, event: (&EventId, &Arc<Event>), fuel: u64) -> Option<Vec<u8>> {
        if args.plan.record != Record::All {
            return None;
        }
        let recording = self.recorded(args, Some(event), fuel, None)?.bounded();
        let encoded = recording
            .encode()
            .inspect_err(|error| tracing::warn!(module = %args.name(), "an event is not recorded: {error}"))
            .ok()?;
        self.instance.host().sent_with(&encoded);
        Some(encoded)
    }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::recording::{LogLine, RecordedOutcome, Session};

    use super::*;

    fn recording() -> Recording {
        let lines = vec![LogLine { level: "info".into(), text: "a line".into() }];
        Recording {
            setting: Setting::default(),
            at_ms: 1,
            after_seq: 2,
            handled_before: 3,
            init: Session::default(),
            init_state_bytes: 4,
            event: None,
            outcome: RecordedOutcome { lines, ..RecordedOutcome::default() },
        }
    }

    fn failure(message: &str) -> Failure {
        Failure { message: message.into(), backtrace: None, fuel: 5 }
    }

    #[test]
    fn a_crash_holds_its_memory_until_the_store_has_it_and_without_memory_it_is_cut() {
        let pool = Arc::new(Pool::new(recording().encode().unwrap().len() + 100));
        let first = crash(&pool, recording(), &failure("trap")).unwrap();
        assert!(first.brief.whole && first.charge.is_some());
        let second = crash(&pool, recording(), &failure("trap")).unwrap();
        assert!(!second.brief.whole && second.charge.is_none());
        let kept = Recording::decode(&second.recording).unwrap();
        assert!(kept.outcome.lines.is_empty() && kept.outcome.failure.unwrap().message == "trap");
        drop(first);
        assert!(crash(&pool, recording(), &failure("trap")).unwrap().brief.whole);
    }

    #[test]
    fn an_error_as_large_as_the_guests_memory_is_not_kept_whole() {
        let crash = crash(&Arc::default(), recording(), &failure(&"\u{e9}".repeat(1 << 20))).unwrap();
        assert!(crash.brief.error.len() <= ERROR_BYTES_MAX && crash.recording.len() < 2 * ERROR_BYTES_MAX);
    }
}
