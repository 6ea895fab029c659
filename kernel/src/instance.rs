//! One living instance of a module: a Store and its guest, with the bounds of one event set before every call.

pub mod query;
mod turn;

use std::{io, pin::pin, sync::Arc, task::Poll};

use nexum_host_ifaces::{
    EventModule, EventModulePre, Hash, HostError,
    bounded::{BACKTRACE_BYTES_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, cut, cut_middle},
    commit_queue::CommitQueue,
    event::EventId,
    grants::Interfaces,
    host::{self, HostArgs, HostState},
    library::{self, LinkedLibrary},
    limits, link,
    recording::{Fault, Recorded, RecordedOutcome, Recording, Session, Setting},
    store::ModuleRecord,
    types::{Config, Event},
};
use rustix::io::Errno;
use tokio::time::error::Elapsed;
use wasmtime::{Engine, OutOfMemory, Store, WasmBacktrace, component::Component};

use crate::{
    backtrace::Backtrace,
    engine::{FUEL_YIELD, WasmEngine},
};

/// A component linked against its grants, with its libraries; instances are made from it in microseconds.
pub struct Prepared {
    module: EventModulePre<HostState>,
    libraries: Arc<[Arc<LinkedLibrary>]>,
}

/// Links a component for one module. `Err` names the import that is wrong, in at most [`MESSAGE_BYTES_MAX`] bytes: names in
/// a component have any length.
pub fn prepare(
    engine: &WasmEngine,
    component: &Component,
    interfaces: &Interfaces,
    module: &str,
) -> Result<Prepared, String> {
    prepare_with(engine, component, interfaces, module, &[])
}

/// The same with libraries, in the order in which the module's grants have them.
pub fn prepare_with(
    engine: &WasmEngine,
    component: &Component,
    interfaces: &Interfaces,
    module: &str,
    libraries: &[Arc<LinkedLibrary>],
) -> Result<Prepared, String> {
    let message = |text: std::fmt::Arguments<'_>| cut(text, MESSAGE_BYTES_MAX);
    let linker = link::link_with(engine.wasm(), component, interfaces, module, libraries)
        .map_err(|error| message(format_args!("{error}")))?;
    limits::check_component(component)?;
    limits::check_together(libraries.iter().map(|library| library.component()).chain([component]))?;
    let pre = linker
        .instantiate_pre(component)
        .map_err(|error| message(format_args!("the component does not fit: {error:#}")))?;
    let module = EventModulePre::new(pre)
        .map_err(|error| message(format_args!("the component does not export a nexum module: {error:#}")))?;
    Ok(Prepared { module, libraries: libraries.into() })
}

impl Prepared {
    pub fn engine(&self) -> &Engine {
        self.module.engine()
    }

    /// An instance of the module after one of each of its libraries.
    pub async fn instantiate_async(&self, store: &mut Store<HostState>) -> wasmtime::Result<EventModule> {
        library::start(&self.libraries, store).await?;
        self.module.instantiate_async(store).await
    }
}

/// Modules with the same component and the same interfaces can share what was linked, unless a stub names the module.
pub fn shared_key(component: Hash, interfaces: &Interfaces) -> Option<(Hash, Interfaces)> {
    (!interfaces.has_stubs()).then(|| (component, interfaces.clone()))
}

/// The guest failed; this instance is dead. What the guest had to say of it is cut here, before anybody keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Little more than [`MESSAGE_BYTES_MAX`].
    pub message: String,
    /// At most [`BACKTRACE_BYTES_MAX`].
    pub backtrace: Option<String>,
    pub fuel: u64,
}

/// The component failed before there was an instance: in a start function, which runs before `init`. Or the machine did.
#[derive(Debug)]
pub struct NotStarted {
    pub failure: Failure,
    /// The machine refused what an instance takes: the component is not to blame, and another attempt may succeed.
    pub is_passing: bool,
    /// What it saw until then, when that was recorded; boxed for its size.
    recording: Option<Box<Recording>>,
}

impl NotStarted {
    /// What there is to run again, once it is said how the module is set up.
    pub fn recording(self, setting: impl FnOnce() -> Setting) -> Option<Recording> {
        self.recording.map(|recording| Recording { setting: setting(), ..*recording })
    }
}

pub struct Instance {
    commits: Arc<CommitQueue>,
    store: Store<HostState>,
    guest: EventModule,
    fuel_max: u64,
    deadline: std::time::Duration,
    /// What the start and `init` saw, encoded, and the size of the state before them; absent when nothing is recorded.
    started: Option<(Box<[u8]>, u64)>,
    /// Events that the guest was called with since.
    handled: u64,
}

impl Instance {
    /// A fresh Store over what is committed. `init` is still to be called.
    ///
    /// # Errors
    /// What the component's start functions did wrong: they run here, under the same bounds as an event.
    pub async fn start(prepared: &Prepared, args: &HostArgs, record: ModuleRecord) -> Result<Self, NotStarted> {
        let mut store = Store::new(prepared.engine(), HostState::new(args, record));
        host::bound(&mut store);
        let limits = &args.limits;
        let deadline = limits.event_deadline;
        turn::hold(&mut store, deadline, HostState::called_for);
        let fuel_max = limits.max_fuel_per_event;
        let started = match arm(&mut store, fuel_max) {
            Ok(()) => tokio::time::timeout(deadline, prepared.instantiate_async(&mut store)).await,
            Err(error) => Ok(Err(error)),
        };
        let last_words = store.data_mut().end();
        let (failed, is_passing) = match started {
            Ok(Ok(guest)) => {
                let commits = args.commits.clone();
                return Ok(Self { commits, store, guest, fuel_max, deadline, started: None, handled: 0 });
            }
            Ok(Err(error)) if is_refused_by_machine(&error) => {
                let message = format!("cannot be started now: {}", cut(error.root_cause(), MESSAGE_BYTES_MAX));
                (Failure { message, backtrace: None, fuel: used(&store, fuel_max) }, true)
            }
            Ok(Err(error)) => {
                let failed = failure(&error, "start", used(&store, fuel_max), deadline);
                let failed = blamed(failed, store.data().library());
                (denied(store.data_mut(), said_last(failed, last_words)), false)
            }
            Err(_) => (late("start", used(&store, fuel_max), deadline), false),
        };
        let recording = recording_of(store.data(), &failed).filter(|_| !is_passing);
        Err(NotStarted { failure: failed, is_passing, recording })
    }

    /// Calls `init`; answers the fuel it took.
    pub async fn init(&mut self, config: &Config) -> Result<u64, Failure> {
        self.begin(&EventId::Init)?;
        let called = self.guest.call_init(&mut self.store, config);
        let result = tokio::time::timeout(self.deadline, called).await;
        let called = self.end("init", result);
        let finished = self.within_journal(called)?;
        let host = self.store.data();
        self.started = host.capture().map(|captured| (captured.session.pack(), host.began().0));
        Ok(finished)
    }

    /// Calls `on-event`; answers the fuel it took.
    pub async fn handle(&mut self, id: &EventId, event: &Arc<Event>) -> Result<u64, Failure> {
        self.begin(id)?;
        self.handled += 1;
        let result = self.call(event).await;
        let called = self.end(id.kind(), result);
        self.within_journal(called)
    }

    /// The recording of the call that just ended, when it was recorded. To be asked before its changes are taken.
    pub fn recording(
        &self,
        setting: impl FnOnce() -> Setting,
        event: Option<(&EventId, &Arc<Event>)>,
        fuel: u64,
        failure: Option<&Failure>,
    ) -> Option<Recording> {
        let host = self.store.data();
        let captured = host.capture()?;
        let (state_bytes, after_seq) = host.began();
        let fault =
            |failure: &Failure| Fault { message: failure.message.clone(), backtrace: failure.backtrace.clone() };
        let outcome = RecordedOutcome {
            failure: failure.map(fault),
            fuel,
            changes: captured.changes,
            lines: captured.lines,
            effects: Some(captured.effects),
        };
        let (init, init_state_bytes, event) = match event {
            None => (captured.session, state_bytes, None),
            Some((id, event)) => {
                let (init, init_state_bytes) = self.started.as_ref()?;
                let (id, event) = (id.clone(), Event::clone(event));
                let recorded = Recorded { id, event, state_bytes, session: captured.session, origin: captured.origin };
                (Session::unpack(init), *init_state_bytes, Some(recorded))
            }
        };
        Some(Recording {
            setting: setting(),
            at_ms: host.now_ms(),
            after_seq,
            handled_before: self.handled.saturating_sub(1),
            init,
            init_state_bytes,
            event,
            outcome,
        })
    }

    /// The same for an event that stands for another one: its effects have that one's ids.
    pub async fn handle_again(&mut self, id: &EventId, origin: &EventId, event: &Arc<Event>) -> Result<u64, Failure> {
        self.begin(id)?;
        self.handled += 1;
        self.host().stand_for(origin);
        let result = self.call(event).await;
        let called = self.end(id.kind(), result);
        self.within_journal(called)
    }

    /// Calls the guest. Most answer at once and cost no timer; when one does not, what was handled before it goes on its
    /// way to the disk meanwhile.
    async fn call(&mut self, event: &Arc<Event>) -> Result<wasmtime::Result<Result<(), HostError>>, Elapsed> {
        let mut called = pin!(self.guest.call_on_event(&mut self.store, event));
        match futures::poll!(called.as_mut()) {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => {
                self.commits.dispatch();
                tokio::time::timeout(self.deadline, called).await
            }
        }
    }

    pub fn host(&mut self) -> &mut HostState {
        self.store.data_mut()
    }

    fn begin(&mut self, id: &EventId) -> Result<(), Failure> {
        self.store.data_mut().begin(id);
        arm(&mut self.store, self.fuel_max).map_err(|error| failure(&error, id.kind(), 0, self.deadline))
    }

    /// Ends the call that was begun: what the guest said last goes into the report of its trap.
    fn end<E>(
        &mut self,
        what: &str,
        result: Result<wasmtime::Result<Result<(), HostError>>, E>,
    ) -> Result<u64, Failure> {
        let last_words = self.host().end().filter(|_| matches!(result, Ok(Err(_))));
        self.finish(what, result).map_err(|failure| said_last(failure, last_words))
    }

    /// What came of a call, unless the journal has no room for what would undo it: then the call has failed.
    fn within_journal(&mut self, called: Result<u64, Failure>) -> Result<u64, Failure> {
        let fuel = called?;
        let room = self.host().check_journal();
        room.map(|()| fuel).map_err(|error| Failure { message: error.message, backtrace: None, fuel })
    }

    fn finish<E>(
        &mut self,
        what: &str,
        result: Result<wasmtime::Result<Result<(), HostError>>, E>,
    ) -> Result<u64, Failure> {
        let fuel = used(&self.store, self.fuel_max);
        match result {
            Ok(Ok(Ok(()))) => match self.store.data().poisoned() {
                None => Ok(fuel),
                Some(reason) => {
                    let message = format!("{what}: {}", cut(reason, MESSAGE_BYTES_MAX));
                    Err(Failure { message, backtrace: None, fuel })
                }
            },
            Ok(Ok(Err(error))) => Err(Failure { message: said(what, &error), backtrace: None, fuel }),
            Ok(Err(error)) => Err(blamed(failure(&error, what, fuel, self.deadline), self.store.data().library())),
            Err(_) => {
                self.store.data_mut().is_late(self.deadline);
                Err(late(what, fuel, self.deadline))
            }
        }
    }
}

/// What a component saw that did not start, when that was recorded.
fn recording_of(host: &HostState, failure: &Failure) -> Option<Box<Recording>> {
    let (init_state_bytes, after_seq) = host.began();
    host.capture().map(|captured| {
        let outcome = RecordedOutcome {
            failure: Some(Fault { message: failure.message.clone(), backtrace: failure.backtrace.clone() }),
            fuel: failure.fuel,
            changes: captured.changes,
            lines: captured.lines,
            effects: Some(captured.effects),
        };
        Box::new(Recording {
            setting: Setting::default(),
            at_ms: host.now_ms(),
            after_seq,
            handled_before: 0,
            init: captured.session,
            init_state_bytes,
            event: None,
            outcome,
        })
    })
}

/// Whether an instance was denied memory, maps or files by the system. What a module may have was asked for before.
fn is_refused_by_machine(error: &wasmtime::Error) -> bool {
    let told = error.downcast_ref::<Errno>().copied();
    let errno = told.or_else(|| Errno::from_io_error(error.downcast_ref::<io::Error>()?));
    let is_passing = |errno: Errno| matches!(errno, Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE);
    error.is::<OutOfMemory>() || errno.is_some_and(is_passing)
}

/// Names the library whose code trapped, or called what did.
fn blamed(failure: Failure, library: Option<Arc<str>>) -> Failure {
    match library.filter(|_| failure.message.starts_with("trap")) {
        Some(library) => Failure { message: format!("library `{library}`: {}", failure.message), ..failure },
        None => failure,
    }
}

/// Adds the last of stderr to a failure's report: a language runtime says there why it traps.
fn said_last(failure: Failure, last_words: Option<String>) -> Failure {
    // A guest that a deadline ends is ended at another word each time, which is no news to a replay.
    let Some(last_words) = last_words.filter(|_| !failure.message.starts_with("deadline: ")) else { return failure };
    let backtrace = failure.backtrace.map_or_else(String::new, |backtrace| format!("{}\n\n", backtrace.trim_end()));
    Failure { backtrace: Some(format!("{backtrace}last on stderr\n{last_words}")), ..failure }
}

/// Says so when a component did not start because it did not get the memory that it begins with.
fn denied(host: &mut HostState, mut failure: Failure) -> Failure {
    let memory = host.memory();
    if memory.denials > 0 {
        failure.message +=
            &format!(": max_memory_bytes = {}, which is for memories and tables together", memory.limit_bytes());
    }
    failure
}

fn arm(store: &mut Store<HostState>, fuel: u64) -> wasmtime::Result<()> {
    store.set_fuel(fuel)?;
    store.fuel_async_yield_interval(Some(FUEL_YIELD))?;
    store.data_mut().called();
    turn::begin(store);
    Ok(())
}

fn used(store: &Store<HostState>, fuel_max: u64) -> u64 {
    fuel_max.saturating_sub(store.get_fuel().unwrap_or(0))
}

fn late(what: &str, fuel: u64, deadline: std::time::Duration) -> Failure {
    let message = format!("deadline: {what} took longer than {}", humantime::format_duration(deadline));
    Failure { message, backtrace: None, fuel }
}

/// A guest's own error.
fn said(what: &str, error: &HostError) -> String {
    let (message, domain) = (cut(&error.message, MESSAGE_BYTES_MAX), cut(&error.domain, NAME_BYTES_MAX));
    format!("{what} failed: {message} ({domain}: {})", error.kind.name())
}

fn failure(error: &wasmtime::Error, what: &str, fuel: u64, deadline: std::time::Duration) -> Failure {
    // The names of functions are the component's to choose.
    let backtrace =
        error.downcast_ref::<WasmBacktrace>().map(|trace| cut_middle(Backtrace(trace), BACKTRACE_BYTES_MAX));
    let message = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::OutOfFuel) => format!("trap: out of fuel in {what}"),
        Some(wasmtime::Trap::Interrupt) => return late(what, fuel, deadline),
        Some(trap) => format!("trap: {trap} in {what}"),
        None => format!("trap in {what}: {}", cut(error.root_cause(), MESSAGE_BYTES_MAX)),
    };
    Failure { message, backtrace, fuel }
}

#[cfg(test)]
mod tests {
    use nexum_host_ifaces::HostErrorKind;
    use nexum_testkit::wasm::{component, core_instances, core_module, extern_name, importing, section, string};

    use super::*;

    #[test]
    fn what_a_guest_says_of_its_failure_is_cut_before_it_is_kept() {
        let long = "x".repeat(30 << 20);
        let error = HostError::new(&long, HostErrorKind::Internal, long.as_str()).with_data(long.as_str());
        let message = said("block", &error);
        assert!(message.starts_with("block failed: xxx") && message.ends_with("bytes cut]: internal)"), "{message}");
        assert!(message.len() < MESSAGE_BYTES_MAX + 2 * NAME_BYTES_MAX, "{}", message.len());
        let trap = failure(&wasmtime::Error::msg(long), "block", 1, std::time::Duration::from_secs(1));
        assert!(trap.message.len() < MESSAGE_BYTES_MAX + NAME_BYTES_MAX, "{}", trap.message.len());
    }

    #[test]
    fn what_the_machine_refuses_is_not_the_components_fault() {
        let errno = |errno: Errno| wasmtime::Error::new(errno).context("a memory could not be made");
        for refused in [Errno::NOMEM, Errno::AGAIN, Errno::MFILE, Errno::NFILE] {
            assert!(is_refused_by_machine(&errno(refused)), "{refused}");
            let of_std = wasmtime::Error::new(io::Error::from(refused)).context("a stack could not be made");
            assert!(is_refused_by_machine(&of_std), "{refused}");
        }
        assert!(!is_refused_by_machine(&errno(Errno::INVAL)), "another attempt would end the same way");
        assert!(!is_refused_by_machine(&wasmtime::Error::new(wasmtime::Trap::MemoryOutOfBounds)));
        let limit = wasmtime::Error::msg("memory minimum size of 9 pages exceeds memory limits");
        assert!(!is_refused_by_machine(&limit), "it is the module's own limit");
    }

    #[test]
    fn a_load_error_does_not_repeat_a_name_of_any_length() {
        let cache = tempfile::tempdir().unwrap();
        let engine = WasmEngine::new(cache.path()).unwrap();
        let name = format!("nexum:host/{}@0.3.0", "x".repeat(50_000));
        let component = Component::new(engine.wasm(), importing(&name, 0, &[])).unwrap();
        let refusal = prepare(&engine, &component, &Interfaces::default(), "m").err().unwrap();
        assert!(refusal.starts_with("the component imports `nexum:host/xxx"), "{refusal}");
        assert!(refusal.len() <= MESSAGE_BYTES_MAX && refusal.ends_with("bytes cut]"), "{refusal}");
    }

    /// A component that imports `http` with its record `header`, and with a function or without.
    fn importing_http(function: bool) -> Vec<u8> {
        // (type (record (field "name" string))), exported as "header"; then (type (func)), exported as "fetch".
        let header =
            [vec![0x01, 0x72, 1], string("name"), vec![0x73, 0x04], extern_name("header"), vec![0x03, 0x00, 0]];
        let fetch = [vec![0x01, 0x40, 0, 0x01, 0x00, 0x04], extern_name("fetch"), vec![0x01, 2]];
        match function {
            true => importing("nexum:host/http@0.3.0", 4, &[header.concat(), fetch.concat()].concat()),
            false => importing("nexum:host/http@0.3.0", 2, &header.concat()),
        }
    }

    /// A component that instantiates a module with one empty memory so many times.
    fn with_memories(count: usize) -> Vec<u8> {
        component(&[core_module(&[section(5, &[1, 0x00, 0])]), core_instances(count)])
    }

    #[test]
    fn a_component_with_more_memories_than_are_hosted_does_not_load() {
        let cache = tempfile::tempdir().unwrap();
        let engine = WasmEngine::new(cache.path()).unwrap();
        let refusal = |count| {
            let component = Component::new(engine.wasm(), with_memories(count)).unwrap();
            prepare(&engine, &component, &Interfaces::default(), "m").err().unwrap()
        };
        assert!(refusal(4).starts_with("the component does not export a nexum module"), "{}", refusal(4));
        assert_eq!(refusal(5), "the component has 5 linear memories, at most 4 are hosted");
    }

    #[test]
    fn the_last_of_stderr_follows_the_backtrace_of_a_trap_alone() {
        let failure = |message: &str, backtrace: Option<&str>| {
            let failure = Failure { message: message.into(), backtrace: backtrace.map(Into::into), fuel: 7 };
            said_last(failure, Some("no such key".into())).backtrace
        };
        assert_eq!(failure("trap", Some("0: f\n")).unwrap(), "0: f\n\nlast on stderr\nno such key");
        assert_eq!(failure("trap", None).unwrap(), "last on stderr\nno such key");
        assert_eq!(failure("deadline: block took longer than 2s", None), None);
    }

    #[test]
    fn an_interface_imported_for_its_types_needs_no_grant_and_one_with_functions_does() {
        let cache = tempfile::tempdir().unwrap();
        let engine = WasmEngine::new(cache.path()).unwrap();
        let refusal = |function| {
            let component = Component::new(engine.wasm(), importing_http(function)).unwrap();
            prepare(&engine, &component, &Interfaces::default(), "m").err().unwrap()
        };
        let types = refusal(false);
        assert!(types.starts_with("the component does not export a nexum module"), "{types}");
        let function = refusal(true);
        assert!(function.contains("[capabilities] lists `http` neither as required"), "{function}");
    }
}
