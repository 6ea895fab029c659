//! The manifest file as it is written, and the checks that turn it into a `Manifest`.

use std::collections::{BTreeMap, BTreeSet};

use nexum_host_ifaces::{capability::Capability, cron::ScheduleCheck, limits::Limits};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Kind, OnReorg, RestartPolicy,
    capabilities::{Capabilities, Packages},
    ceilings, config_values,
    libraries::{self, Libraries},
    values::{Finding, Length, component, duration, is_name, positive},
};
use crate::sources::{self, Reading, Subscription};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    module: Module,
    #[serde(default)]
    chains: Chains,
    capabilities: Capabilities,
    #[serde(default)]
    subscription: Vec<Spanned<Subscription>>,
    #[serde(default)]
    config: BTreeMap<String, Spanned<toml::Value>>,
    #[serde(default)]
    packages: Packages,
    #[serde(default)]
    libraries: Libraries,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Module {
    #[serde(default)]
    kind: Kind,
    name: Spanned<String>,
    version: Spanned<String>,
    description: Option<Spanned<String>>,
    #[serde(default)]
    authors: Vec<Spanned<String>>,
    component: Spanned<String>,
    on_reorg: Option<Spanned<OnReorg>>,
    resources: Option<Spanned<Resources>>,
    restart: Option<Spanned<Restart>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Resources {
    max_memory_bytes: Option<Spanned<u64>>,
    max_fuel_per_event: Option<Spanned<u64>>,
    max_state_bytes: Option<u64>,
    event_deadline: Option<Spanned<Length>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Restart {
    max_consecutive_failures: Option<Spanned<u32>>,
    backoff: Option<Spanned<Vec<String>>>,
    max_event_attempts: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Chains {
    #[serde(default)]
    required: BTreeSet<u64>,
    #[serde(default)]
    optional: BTreeSet<u64>,
}

impl Manifest {
    pub(super) fn check(self, schedules: &ScheduleCheck) -> Result<super::Manifest, Finding> {
        self.module.lengths()?;
        if self.module.kind == Kind::Library {
            self.check_library()?;
        }
        let name = self.module.name;
        if !is_name(name.get_ref()) {
            let message =
                format!("module name `{}`: expected 1 to 64 of a-z, 0-9 and -, with - at neither end", name.get_ref());
            return Err((name.span(), message));
        }
        let component = component(&self.module.component)?;
        let limits = self.module.resources.map(Spanned::into_inner).unwrap_or_default().check()?;
        let restart = self.module.restart.map(Spanned::into_inner).unwrap_or_default().check()?;
        let libraries = libraries::check(self.libraries)?;
        let tables = self.capabilities.tables()?;
        self.capabilities.check_packages(&self.packages)?;
        let mut known_chains = self.chains.required.clone();
        known_chains.extend(&self.chains.optional);
        if let Some(beyond) = self.subscription.get(ceilings::SUBSCRIPTIONS_MAX) {
            ceilings::list(|| beyond.span(), "subscriptions", self.subscription.len(), ceilings::SUBSCRIPTIONS_MAX)?;
        }
        let Capabilities { required, optional, .. } = self.capabilities;
        let asked: Vec<Capability> = required.iter().chain(&optional).copied().collect();
        let mut reading = Reading::new(&known_chains, schedules, &asked);
        for subscription in self.subscription {
            sources::read(subscription, &mut reading)?;
        }
        let sources = sources::all(reading);
        let mut config = Vec::new();
        for (key, value) in &self.config {
            config_values(key, value.get_ref(), &mut config).map_err(|message| (value.span(), message))?;
        }
        Ok(super::Manifest {
            kind: self.module.kind,
            name: name.into_inner().into(),
            version: self.module.version.into_inner(),
            description: self.module.description.map(Spanned::into_inner).unwrap_or_default(),
            authors: self.module.authors.into_iter().map(Spanned::into_inner).collect(),
            component,
            limits,
            restart,
            on_reorg: self.module.on_reorg.map(Spanned::into_inner).unwrap_or_default(),
            required_chains: self.chains.required,
            optional_chains: self.chains.optional,
            required,
            optional,
            tables,
            sources,
            config,
            libraries,
        })
    }

    /// Refuses what only a module has: a library runs within its module's calls, and on the module's account.
    fn check_library(&self) -> Result<(), Finding> {
        let module = &self.module;
        let written = [
            ("[[subscription]]", self.subscription.first().map(Spanned::span)),
            ("[libraries]", self.libraries.values().next().map(Spanned::span)),
            ("[module.resources]", module.resources.as_ref().map(Spanned::span)),
            ("[module.restart]", module.restart.as_ref().map(Spanned::span)),
            ("on_reorg", module.on_reorg.as_ref().map(Spanned::span)),
        ];
        for (what, at) in written {
            if let Some(at) = at {
                let message =
                    format!("{what} is not for a library: it runs within the calls of a module, which has it");
                return Err((at, message));
            }
        }
        self.capabilities.check_library()
    }
}

impl Module {
    fn lengths(&self) -> Result<(), Finding> {
        ceilings::text(&self.version, "version", ceilings::VERSION_BYTES_MAX)?;
        if let Some(description) = &self.description {
            ceilings::text(description, "description", ceilings::DESCRIPTION_BYTES_MAX)?;
        }
        ceilings::texts(&self.authors, "authors", ceilings::AUTHORS_MAX, ceilings::AUTHOR_BYTES_MAX)
    }
}

impl Resources {
    fn check(self) -> Result<Limits, Finding> {
        let mut limits = Limits::default();
        if let Some(bytes) = &self.max_memory_bytes {
            limits.max_memory_bytes = positive(bytes, "max_memory_bytes")? as usize;
        }
        if let Some(fuel) = &self.max_fuel_per_event {
            limits.max_fuel_per_event = positive(fuel, "max_fuel_per_event")?;
        }
        if let Some(bytes) = self.max_state_bytes {
            limits.max_state_bytes = bytes;
        }
        if let Some(text) = &self.event_deadline {
            limits.event_deadline = duration(text)?;
            if limits.event_deadline.is_zero() {
                return Err((text.span(), "event_deadline is 0: expected at least \"1ms\"".into()));
            }
            limits.host_call_deadline = limits.host_call_deadline.min(limits.event_deadline);
        }
        Ok(limits)
    }
}

impl Restart {
    fn check(self) -> Result<RestartPolicy, Finding> {
        let mut policy = RestartPolicy::default();
        if let Some(count) = &self.max_consecutive_failures {
            policy.max_consecutive_failures = positive(count, "max_consecutive_failures")?;
        }
        if let Some(count) = &self.max_event_attempts {
            policy.max_event_attempts = positive(count, "max_event_attempts")?;
        }
        if let Some(backoff) = &self.backoff {
            let wrong = || (backoff.span(), "backoff: expected [first, cap], such as [\"1s\", \"5m\"]".to_owned());
            let [first, cap] = backoff.get_ref().as_slice() else { return Err(wrong()) };
            let parse = |text: &str| humantime::parse_duration(text).map_err(|_| wrong());
            (policy.backoff_first, policy.backoff_cap) = (parse(first)?, parse(cap)?);
            if policy.backoff_first > policy.backoff_cap {
                return Err((backoff.span(), format!("backoff: the first wait {first} is longer than the cap {cap}")));
            }
        }
        Ok(policy)
    }
}
