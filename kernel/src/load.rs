//! Load: manifest, grants, component and link, before anything runs. Every failure says what would be right.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub use nexum_admin_api::text::open;
use nexum_host_ifaces::{
    Hash,
    blocking::Blocking,
    bounded::{MESSAGE_BYTES_MAX, cut},
    capability::Capability,
    cron::ScheduleCheck,
    grants::{AskedCapabilities, Grants, Interfaces, Library},
    interfaces::{
        self,
        chain::{self, grant::EXTRA_METHODS},
    },
    library::{self, LinkedLibrary},
    limits::Limits,
    ports::Ports,
    recording::Record,
    sync::lock,
    types::ConfigValue,
    unit::drafts::{PENDING_MAX, Quota},
};
use tokio::{sync::Semaphore, task::JoinError};
use wasmtime::component::Component;

use crate::{
    admin::ModuleSpec,
    begun::{Marks, What},
    engine::{EngineError, WasmEngine},
    instance::{self, Prepared},
    manifest::{self, Kind, Manifest},
    restart, schema,
};

/// Why a component is not ready to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unprepared {
    /// It cannot be run, or takes more than is allowed: another attempt would end the same way.
    #[error("{0}")]
    Refused(String),
    /// What is around is at fault: another attempt may succeed.
    #[error("{0}")]
    Surroundings(String),
}

impl From<EngineError> for Unprepared {
    fn from(error: EngineError) -> Self {
        let is_passing = error.is_passing();
        // What is wrong with a component is said in its own words.
        let said = cut(error, MESSAGE_BYTES_MAX);
        if is_passing { Self::Surroundings(said) } else { Self::Refused(said) }
    }
}

impl From<JoinError> for Unprepared {
    /// Work that panicked would do so again; what was not begun, because the engine ends, may be.
    fn from(error: JoinError) -> Self {
        let said = cut(&error, MESSAGE_BYTES_MAX);
        if error.is_panic() { Self::Refused(said) } else { Self::Surroundings(said) }
    }
}

/// What is decided about a module before its component is touched.
pub struct Plan {
    pub manifest: Manifest,
    pub component: PathBuf,
    /// The files of the components of its libraries, in the order of the grants.
    pub libraries: Vec<PathBuf>,
    pub grants: Arc<Grants>,
    pub limits: Arc<Limits>,
    pub quota: Arc<Quota>,
    pub config: Arc<Vec<(String, ConfigValue)>>,
    pub record: Record,
    /// What of the manifest's `[module.restart]` the operator's ceiling changed.
    pub held: Option<String>,
}

/// Where the engine's configuration has a library, and what the operator changes about it.
#[derive(Debug, Clone, Default)]
pub struct LibrarySpec {
    /// A bundle directory.
    pub source: PathBuf,
    /// Names of capabilities that the operator withholds.
    pub denied: Vec<String>,
    /// Values that replace or add to the `[config]` of its manifest.
    pub config: BTreeMap<String, toml::Value>,
}

/// What was linked, by its component and those of its libraries, each with the interfaces that it has.
type LinkedModules = HashMap<Vec<(Hash, Interfaces)>, Arc<Prepared>>;

/// What plans are made against: the engine's services and ceilings.
pub struct Loader {
    pub engine: WasmEngine,
    pub ports: Arc<Ports>,
    pub ceiling: Limits,
    pub restart: restart::Ceiling,
    pub schedule_check: ScheduleCheck,
    /// For modules of which the operator says nothing.
    pub record: Record,
    /// Effects of one module that have not ended.
    pub pending_max: u64,
    /// Where it is marked what is verified and linked in this process: the wait for it and the compiler's work are not.
    pub begun: Arc<Marks>,
    /// What the operator has for modules to use.
    pub libraries: Vec<LibrarySpec>,
    linked: Mutex<LinkedModules>,
    linked_libraries: Mutex<HashMap<(Hash, Interfaces), Arc<LinkedLibrary>>>,
    /// Modules that may be verified and linked at once: as many as there are cores. More would each take a thread and its
    /// memory and be done no sooner. Who compiles is not among them: it may take long, and others need not wait for it.
    turns: Semaphore,
}

/// What a plan needs to be made, all of it: no wasm engine, so that a configuration can be checked without one.
pub struct Terms<'a> {
    pub ports: &'a Ports,
    pub ceiling: &'a Limits,
    pub restart: &'a restart::Ceiling,
    pub schedule_check: &'a ScheduleCheck,
    pub record: Record,
    pub pending_max: u64,
    pub libraries: &'a [LibrarySpec],
}

/// The component of a bundle.
struct Artifact {
    file: PathBuf,
    hash: Hash,
}

impl Loader {
    pub fn new(engine: WasmEngine, ports: Arc<Ports>, ceiling: Limits, schedule_check: ScheduleCheck) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            engine,
            ports,
            ceiling,
            restart: restart::Ceiling::default(),
            schedule_check,
            record: Record::default(),
            pending_max: PENDING_MAX,
            begun: Arc::new(Marks::none()),
            libraries: Vec::new(),
            linked: Mutex::default(),
            linked_libraries: Mutex::default(),
            turns: Semaphore::new(cores),
        }
    }

    /// Reads the manifest, decides grants, limits and configuration, and checks that by what the component says of it.
    pub fn plan(&self, spec: &ModuleSpec) -> Result<Plan, String> {
        let Self { ports, ceiling, restart, schedule_check, record, pending_max, libraries, .. } = self;
        let (record, pending_max) = (*record, *pending_max);
        Terms { ports, ceiling, restart, schedule_check, record, pending_max, libraries }
            .plan(spec)
            .and_then(|plan| schema::checked(plan, spec))
    }

    /// Verifies, compiles and links. A module whose machine code is there waits for nothing that others compile.
    pub async fn prepare(self: &Arc<Self>, blocking: Blocking, plan: &Arc<Plan>) -> Result<Arc<Prepared>, Unprepared> {
        let prepared = self.make(blocking, plan).await;
        // Well or badly: the process has not died of it.
        self.begun.slot(&plan.manifest.name).clear(What::Load(plan.manifest.component));
        prepared
    }

    async fn make(self: &Arc<Self>, blocking: Blocking, plan: &Arc<Plan>) -> Result<Arc<Prepared>, Unprepared> {
        let mut libraries = Vec::new();
        for (at, library) in plan.grants.libraries().iter().enumerate() {
            let artifact = Artifact { file: plan.libraries[at].clone(), hash: library.component };
            let link = move |loader: &Self, plan: &Plan, component: &Component| {
                loader.link_library(&plan.grants.libraries()[at], component)
            };
            libraries.push(self.linked(blocking, plan, artifact, link).await?);
        }
        let libraries: Arc<[_]> = libraries.into();
        let artifact = Artifact { file: plan.component.clone(), hash: plan.manifest.component };
        let link = move |loader: &Self, plan: &Plan, component: &Component| loader.link(plan, component, &libraries);
        self.linked(blocking, plan, artifact, link).await
    }

    /// Verifies a component, compiles it where nobody has yet, and links it.
    async fn linked<T: Send + 'static>(
        self: &Arc<Self>,
        blocking: Blocking,
        plan: &Arc<Plan>,
        artifact: Artifact,
        link: impl Fn(&Self, &Plan, &Component) -> Result<T, Unprepared> + Clone + Send + 'static,
    ) -> Result<T, Unprepared> {
        let Artifact { file, hash } = artifact;
        let (path, link_ready) = (file.clone(), link.clone());
        let linked = self.in_turn(blocking, plan, move |loader, plan| {
            let component = loader.engine.ready(&path, hash)?;
            component.map(|component| link_ready(loader, plan, &component)).transpose()
        });
        if let Some(prepared) = linked.await? {
            return Ok(prepared);
        }
        let turn = self.engine.turn(hash).await;
        let engine = self.engine.clone();
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        // The turn goes along: who waits here may be gone before the work is done, which is given up then.
        let compile = move || {
            let wanted = || waiting.strong_count() > 0;
            engine.compile_in_turn(turn, &file, hash, &wanted)
        };
        let compiled = blocking.run(compile).await;
        drop(waits);
        let component = compiled??;
        self.in_turn(blocking, plan, move |loader, plan| link(loader, plan, &component)).await
    }

    /// Does what blocks when it is the caller's turn.
    async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        blocking: Blocking,
        plan: &Arc<Plan>,
        work: impl FnOnce(&Self, &Plan) -> Result<T, Unprepared> + Send + 'static,
    ) -> Result<T, Unprepared> {
        // Nobody closes the semaphore.
        let _turn = self.turns.acquire().await;
        let (loader, plan) = (self.clone(), plan.clone());
        let loading = self.begun.slot(&plan.manifest.name).begin(What::Load(plan.manifest.component)).await;
        let marked = move || {
            let done = work(&loader, &plan);
            drop(loading);
            done
        };
        blocking.run(marked).await?
    }

    fn link(
        &self,
        plan: &Plan,
        component: &Component,
        libraries: &[Arc<LinkedLibrary>],
    ) -> Result<Arc<Prepared>, Unprepared> {
        let shared = shared_key(plan);
        if let Some(key) = &shared {
            let linked = lock(&self.linked);
            if let Some(prepared) = linked.get(key) {
                return Ok(prepared.clone());
            }
        }
        let (interfaces, module) = (plan.grants.interfaces(), &plan.manifest.name);
        let prepared = instance::prepare_with(&self.engine, component, interfaces, module, libraries)
            .map_err(|error| Unprepared::Refused(format!("module `{module}`: {error}")))?;
        let prepared = Arc::new(prepared);
        if let Some(key) = shared {
            lock(&self.linked).insert(key, prepared.clone());
        }
        Ok(prepared)
    }

    fn link_library(&self, library: &Library, component: &Component) -> Result<Arc<LinkedLibrary>, Unprepared> {
        let key = (library.component, library.grants.interfaces().clone());
        if let Some(linked) = lock(&self.linked_libraries).get(&key) {
            return Ok(linked.clone());
        }
        let linked = library::prepare(self.engine.wasm(), component, &key.1, library.name());
        let linked = Arc::new(linked.map_err(Unprepared::Refused)?);
        lock(&self.linked_libraries).insert(key, linked.clone());
        Ok(linked)
    }
}

/// What modules have in common that can share what was linked: their component, those of their libraries, and the
/// interfaces of each.
fn shared_key(plan: &Plan) -> Option<Vec<(Hash, Interfaces)>> {
    let of_libraries = plan.grants.libraries().iter().map(|library| (library.component, library.grants.interfaces()));
    let all = [(plan.manifest.component, plan.grants.interfaces())].into_iter().chain(of_libraries);
    all.map(|(component, interfaces)| instance::shared_key(component, interfaces)).collect()
}

impl Terms<'_> {
    /// Reads the manifest and decides grants, limits and configuration. Reaches nothing but the bundle's files.
    pub fn plan(&self, spec: &ModuleSpec) -> Result<Plan, String> {
        let (manifest_path, component) = bundle(&spec.source);
        let mut manifest = Manifest::read(&manifest_path, self.schedule_check).map_err(|error| error.to_string())?;
        let held = self.restart.hold(&mut manifest.restart);
        let at = manifest_path.display();
        if let Some(pinned) = spec.component.filter(|pinned| *pinned != manifest.component) {
            return Err(format!(
                "{at}: its component is sha256:{}, but the operator wants sha256:{} and no other",
                hex::encode(manifest.component.0),
                hex::encode(pinned.0)
            ));
        }
        if manifest.kind == Kind::Library {
            return Err(format!("{at}: is a library, which modules use: list it in [[libraries]]"));
        }
        let located = |error: String| format!("{at}: {error}");
        let grants = self.grants(&manifest, &spec.denied, &spec.extra_methods).map_err(located)?;
        let libraries: Result<Vec<_>, String> = manifest.libraries.iter().map(|wanted| self.library(wanted)).collect();
        let (used, libraries): (Vec<_>, Vec<_>) = libraries.map_err(located)?.into_iter().unzip();
        let grants = grants.with_libraries(used).with_rpc_budget(spec.rpc);
        let mut limits = manifest.limits.lowered_to(self.ceiling);
        if let Some(ceiling) = &spec.ceiling {
            limits = limits.lowered_to(ceiling);
        }
        let config = Arc::new(configuration(&manifest, &spec.config).map_err(located)?);
        Ok(Plan {
            component,
            libraries,
            grants: Arc::new(grants),
            limits: Arc::new(limits),
            quota: Quota::new(self.pending_max),
            config,
            record: spec.record.unwrap_or(self.record),
            held,
            manifest,
        })
    }

    /// All that the code of a bundle may reach but for libraries, with what the operator withholds and allows.
    pub(crate) fn grants(
        &self,
        manifest: &Manifest,
        denied: &[String],
        extra_methods: &[String],
    ) -> Result<Grants, String> {
        let denied = denied.iter().map(|name| name.parse()).collect::<Result<BTreeSet<Capability>, String>>()?;
        let asked = AskedCapabilities { required: &manifest.required, optional: &manifest.optional };
        let grants = Grants::decide(asked, &interfaces::provided(self.ports), &denied);
        let grants = grants.map_err(|error| error.to_string())?;
        if let Some(missing) = manifest.required_chains.iter().find(|chain| self.ports.chain(**chain).is_none()) {
            let configured: Vec<_> = self.ports.chains().keys().map(u64::to_string).collect();
            return Err(format!(
                "chain {missing} is required but the engine has no endpoint for it; configured are: {}",
                configured.join(", ")
            ));
        }
        let wanted = manifest.required_chains.union(&manifest.optional_chains);
        let chains = wanted.copied().filter(|chain| self.ports.chain(*chain).is_some());
        let allowed: BTreeSet<_> = extra_methods.iter().cloned().collect();
        let wanted: BTreeSet<_> = manifest.list(chain::CAPABILITY, EXTRA_METHODS).iter().cloned().collect();
        let extra_methods = wanted.intersection(&allowed).cloned();
        Ok(grants.with_chains(chains).with_tables(manifest.tables.clone()).with_extra_methods(extra_methods))
    }
}

/// Manifest and component of a bundle; a path to the manifest itself is accepted too.
pub fn bundle(source: &Path) -> (PathBuf, PathBuf) {
    if source.is_file() {
        let dir = source.parent().unwrap_or(Path::new("."));
        return (source.to_owned(), dir.join("module.wasm"));
    }
    (source.join("nexum.toml"), source.join("module.wasm"))
}

/// The manifest's configuration with the operator's values in place of its own.
pub(crate) fn configuration(
    manifest: &Manifest,
    given: &BTreeMap<String, toml::Value>,
) -> Result<Vec<(String, ConfigValue)>, String> {
    let mut overrides = Vec::new();
    for (key, value) in given {
        manifest::config_values(key, value, &mut overrides)?;
    }
    let mut merged = manifest.config.clone();
    merged.retain(|(key, _)| !overrides.iter().any(|(replaced, _)| replaced == key));
    merged.extend(overrides);
    Ok(merged)
}
