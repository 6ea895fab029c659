//! The libraries of a Store: their functions, and whose code runs.

use std::sync::Arc;

use wasmtime::component::{Func, Val};

use super::HostState;
use crate::{link::weight, types::Config};

impl HostState {
    /// Code of the library at this place runs from now on. Answers whose did, and the library's configuration.
    pub(crate) fn start_library(&mut self, at: usize) -> (Option<usize>, Config) {
        let caller = self.call.enter(Some(at));
        let config = self.call.library().map(|library| (*library.config).clone());
        (caller, config.unwrap_or_default())
    }

    /// The library whose start was begun last has these functions.
    pub(crate) fn library_started(&mut self, caller: Option<usize>, functions: Vec<Func>) {
        self.libraries.push(functions);
        self.call.enter(caller);
    }

    /// Begins a call of a function of a library, which counts as one of the host. Answers the function, and whose code runs
    /// again when it has answered.
    pub(crate) fn call_library(
        &mut self,
        library: usize,
        function: usize,
        arguments: &[Val],
    ) -> wasmtime::Result<(Func, Option<usize>)> {
        self.call.take(arguments.iter().map(weight).sum());
        self.call.count_or_trap("library")?;
        let found = self.libraries.get(library).and_then(|functions| functions.get(function)).copied();
        let function = found.ok_or_else(|| wasmtime::Error::msg("the library has not been started"))?;
        Ok((function, self.call.enter(Some(library))))
    }

    pub(crate) fn library_answered(&mut self, caller: Option<usize>, results: &[Val]) {
        self.call.give(results.iter().map(weight).sum());
        self.call.enter(caller);
    }

    /// The library whose code runs or, after a trap, ran.
    pub fn library(&self) -> Option<Arc<str>> {
        self.call.library().map(|library| library.name().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Hash, HostErrorKind,
        bindings::nexum::host::local_store::Host as _,
        clock::SystemClock,
        commit_queue::CommitQueue,
        event::EventId,
        grants::{Grants, Library},
        host::HostArgs,
        interfaces::{http::grant::Allowlist, local_store::guest::View},
        limits::Limits,
        ports::Ports,
        recording::TapeMode,
        state::{ModuleId, NoState},
        store::{ModuleRecord, UnitKind},
        unit::drafts::Quota,
    };

    fn allowing(host: &str) -> Grants {
        Grants::default().with_hosts(&Allowlist::new([host.to_owned()]))
    }

    fn host() -> HostState {
        let (version, component) = ("0.1.0".to_owned(), Hash([3; 32]));
        let library = Library::new("cow".into(), version, component, Arc::new(allowing("b.org")), Arc::default());
        let ports = Ports::new(Arc::new(NoState), []);
        let args = HostArgs {
            module: "m".into(),
            id: ModuleId(1),
            component: Hash::default(),
            limits: Arc::new(Limits::default()),
            clock: Arc::new(SystemClock::new()),
            commits: Arc::new(CommitQueue::new(ports.store())),
            ports,
            grants: Arc::new(allowing("a.org").with_libraries([library])),
            taping: TapeMode::Off,
            quota: Quota::new(0),
        };
        HostState::new(&args, ModuleRecord::default())
    }

    #[tokio::test]
    async fn a_library_has_grants_and_keys_of_its_own_within_the_unit_of_its_module() {
        let mut host = host();
        host.begin(&EventId::Block { chain_id: 1, number: 7, hash: Hash([7; 32]) });
        let hosts = |host: &mut HostState| host.call().grants().hosts().to_string();
        View::of(&mut host).set("k".into(), b"module".to_vec()).unwrap();
        let (caller, _) = host.start_library(0);
        assert_eq!((hosts(&mut host).as_str(), host.library().as_deref()), ("b.org", Some("cow")));
        assert_eq!(View::of(&mut host).get("k".into()).unwrap(), None);
        View::of(&mut host).set("k".into(), b"library".to_vec()).unwrap();
        View::of(&mut host).set("l".into(), b"library".to_vec()).unwrap();
        assert_eq!(View::of(&mut host).list_keys(String::new()).unwrap(), ["k", "l"]);
        let after = View::of(&mut host).list_entries(String::new(), Some("k".into()), 10).unwrap();
        assert_eq!(after.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["l"]);
        assert_eq!(View::of(&mut host).flush().await.unwrap_err().kind, HostErrorKind::Denied);
        host.library_started(caller, Vec::new());

        assert_eq!((hosts(&mut host).as_str(), host.library()), ("a.org", None));
        assert_eq!(View::of(&mut host).get("k".into()).unwrap(), Some(b"module".to_vec()));
        assert_eq!(View::of(&mut host).list_keys(String::new()).unwrap(), ["k"]);
        assert_eq!(View::of(&mut host).list_entries(String::new(), None, 10).unwrap().len(), 1);
        let own = "\u{10ffff}lib/cow/k".to_owned();
        assert_eq!(View::of(&mut host).get(own.clone()).unwrap_err().kind, HostErrorKind::InvalidInput);
        assert_eq!(View::of(&mut host).set(own.clone(), Vec::new()).unwrap_err().kind, HostErrorKind::InvalidInput);
        let unit = host.seal(UnitKind::Handled, None, 0);
        let written: Vec<_> = unit.changes.iter().map(|change| change.key.clone()).collect();
        assert_eq!(written, ["k".to_owned(), own, "\u{10ffff}lib/cow/l".to_owned()]);
    }

    #[test]
    fn a_library_is_something_more_to_reach_and_so_is_what_it_reaches() {
        let library = |host: &str| {
            let grants = Arc::new(allowing(host));
            Library::new("cow".into(), "0.1.0".into(), Hash::default(), grants, Arc::default())
        };
        let without = allowing("a.org");
        let with = allowing("a.org").with_libraries([library("b.org")]);
        let more = allowing("a.org").with_libraries([library("c.org")]);
        assert_eq!(with.beyond(&without), ["library `cow`", "host `b.org` of library `cow`"]);
        assert_eq!(more.beyond(&with), ["host `c.org` of library `cow`"]);
        assert_eq!(without.beyond(&with), Vec::<String>::new());
    }
}
