//! The configuration as it is written: one struct per table, with its defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use nexum_admin_api::orders::Places;
use nexum_chain::{BloomUse, Verify, mock::Fixture};
pub use nexum_ctl::{args::LogFormat, period::Period};
use nexum_host_ifaces::{
    Hash, capability::Capability, interfaces::chain::port::RpcBudget, limits::Limits, recording::Record,
};
use nexum_kernel::compile::CompileLimits;
use nexum_store::Durability;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::effects::Outbox;
use super::egress::Egress;
use super::identity::Identity;
use super::journal::Journal;
use super::libraries::Library;
use super::messaging::Messaging;
use super::queries::Queries;
use super::remote_store::RemoteStore;
use super::restart::Restart;
use super::secret::Secret;
use super::transactions::Transactions;

/// `nexum-engine.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub engine: Engine,
    pub chains: Vec<Chain>,
    pub modules: Vec<Module>,
    /// What modules may call besides the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<Library>,
    pub observability: Observability,
    pub journal: Journal,
    pub egress: Egress,
    pub outbox: Outbox,
    pub queries: Queries,
    /// Absent: modules have no accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Absent: modules have no content elsewhere.
    #[serde(rename = "remote-store", skip_serializing_if = "Option::is_none")]
    pub remote_store: Option<RemoteStore>,
    /// Absent: modules have no messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messaging: Option<Messaging>,
    pub restart: Restart,
    /// Ceilings for every module.
    pub limits: Ceiling,
    /// Paths of the values that `${…}` stands in; not shown.
    #[serde(skip)]
    pub from_environment: BTreeSet<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            chains: Vec::new(),
            modules: Vec::new(),
            libraries: Vec::new(),
            observability: Observability::default(),
            journal: Journal::default(),
            egress: Egress::default(),
            outbox: Outbox::default(),
            queries: Queries::default(),
            identity: None,
            remote_store: None,
            messaging: None,
            restart: Restart::default(),
            limits: Ceiling::of_engine(),
            from_environment: BTreeSet::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    pub state_dir: PathBuf,
    pub durability: Durability,
    pub log_format: LogFormat,
    /// A level, or directives such as `info,nexum_chain=debug`.
    pub log_level: String,
    /// How long modules may take to finish the event in flight when the engine stops.
    pub shutdown_deadline: Period,
    /// Whether each thread of the executor keeps to a processor of its own.
    pub pin_threads: bool,
    /// How long one component may take to be compiled.
    pub compile_timeout: Period,
    /// Memory that compiling one component may take, bytes.
    pub max_compile_memory_bytes: u64,
    /// Size of a component, bytes; a larger one is not read.
    pub max_component_bytes: u64,
}

impl Engine {
    pub fn compile_limits(&self) -> CompileLimits {
        CompileLimits {
            max_component_bytes: self.max_component_bytes,
            max_memory_bytes: self.max_compile_memory_bytes,
            timeout: self.compile_timeout.0,
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        let compiling = CompileLimits::default();
        Self {
            state_dir: PathBuf::from(".nexum"),
            durability: Durability::Sync,
            log_format: LogFormat::Pretty,
            log_level: "info".to_owned(),
            shutdown_deadline: Period(Duration::from_secs(20)),
            pin_threads: true,
            compile_timeout: Period(compiling.timeout),
            max_compile_memory_bytes: compiling.max_memory_bytes,
            max_component_bytes: compiling.max_component_bytes,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    pub chain_id: u64,
    #[serde(default)]
    pub name: String,
    /// A fixture that an embedded chain plays instead of endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<PathBuf>,
    /// That fixture, read when the configuration was checked: the file may be another one by now.
    #[serde(skip)]
    pub fixture: Option<Arc<Fixture>>,
    /// Recent headers kept over restarts; absent is the chain actor's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_headers: Option<usize>,
    #[serde(default, skip_serializing_if = "Rpc::is_absent")]
    pub rpc: Rpc,
    #[serde(default, skip_serializing_if = "Transactions::is_absent")]
    pub transactions: Transactions,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

impl Chain {
    pub fn mock(chain_id: u64, fixture: PathBuf) -> Self {
        Self {
            chain_id,
            name: "mock".to_owned(),
            mock: Some(fixture),
            fixture: None,
            kept_headers: None,
            rpc: Rpc::default(),
            transactions: Transactions::default(),
            endpoints: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub url: String,
    /// Smaller is preferred.
    #[serde(default)]
    pub priority: u32,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (priority {})", nexum_host_ifaces::secrets::shown_url(&self.url), self.priority)
    }
}

/// How a chain's endpoints are used; absent values are the chain actor's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rpc {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Per endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_log_range: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_interval: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_after: Option<Period>,
    /// What headers' blooms are used for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bloom: Option<BloomUse>,
    /// When headers and logs are checked against what proves them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What requests cost, in units of modules' budgets, by method.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub costs: BTreeMap<String, u64>,
}

impl Rpc {
    fn is_absent(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// A bundle directory.
    pub source: String,
    /// Capabilities that the operator withholds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Capability>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_methods: Vec<String>,
    /// What is recorded of its events, if otherwise than `[journal] record` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
    /// The component that is wanted, whatever the bundle names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Component>,
    /// Whether it may have the state that another module of its name left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt_state: bool,
    /// What it may ask of nodes.
    #[serde(default, skip_serializing_if = "RpcBudget::is_unlimited")]
    pub rpc: RpcBudget,
    #[serde(default, skip_serializing_if = "Ceiling::is_absent")]
    pub limits: Ceiling,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, toml::Value>,
    /// Where that is written; not shown.
    #[serde(skip)]
    pub places: Places,
}

impl fmt::Debug for Module {
    /// Without the values of its configuration, of which some may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.config.keys().collect();
        f.debug_struct("Module").field("source", &self.source).field("config", &keys).finish_non_exhaustive()
    }
}

impl Module {
    pub fn at(directory: &Path) -> Self {
        Self {
            source: directory.to_string_lossy().into_owned(),
            denied: Vec::new(),
            extra_methods: Vec::new(),
            record: None,
            component: None,
            adopt_state: false,
            rpc: RpcBudget::default(),
            limits: Ceiling::default(),
            config: BTreeMap::new(),
            places: Places::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Observability {
    pub health_listen: Listen,
    pub metrics_listen: Listen,
    /// `<state_dir>/admin.sock` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Listen::is_off")]
    pub admin_listen: Listen,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<Secret>,
    /// How long an event that a module should have handled may wait before the engine is not healthy.
    pub event_age_threshold: Period,
    /// Whether each module has histograms of its own in the metrics.
    pub module_histograms: bool,
}

impl Default for Observability {
    fn default() -> Self {
        let loopback = |port| Listen(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
        Self {
            health_listen: loopback(8080),
            metrics_listen: loopback(9090),
            admin_socket: None,
            admin_listen: Listen(None),
            admin_token: None,
            event_age_threshold: Period(Duration::from_secs(600)),
            module_histograms: false,
        }
    }
}

/// An address to listen on, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl Listen {
    fn is_off(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            address => address.parse().map(|address| Self(Some(address))).map_err(|_| {
                format!("`{address}` is no address to listen on: expected one such as 127.0.0.1:9090, or off")
            }),
        }
    }
}

/// A component by its digest, as manifests write it: `sha256:` and 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component(pub Hash);

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0.0))
    }
}

impl FromStr for Component {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut digest = [0; 32];
        let decoded = text.strip_prefix("sha256:").map(|digits| hex::decode_to_slice(digits, &mut digest));
        match decoded {
            Some(Ok(())) => Ok(Self(Hash(digest))),
            _ => Err(format!("`{text}` is no component: expected sha256: and 64 hex digits")),
        }
    }
}

/// Bounds that modules are lowered to; absent: as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceiling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fuel_per_event: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_state_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_deadline: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_call_deadline: Option<Period>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_reply_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_host_calls_per_event: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dead_letters: Option<u64>,
}

impl Ceiling {
    fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// What an engine allows when its operator says nothing: room for any honest module, and an end for every other.
    fn of_engine() -> Self {
        Self {
            max_memory_bytes: Some(1 << 30),
            max_fuel_per_event: Some(100_000_000_000),
            max_state_bytes: Some(1 << 30),
            event_deadline: Some(Period(Duration::from_secs(600))),
            host_call_deadline: Some(Period(Duration::from_secs(120))),
            max_reply_bytes: Some(64 << 20),
            max_host_calls_per_event: Some(1_000_000),
            max_dead_letters: Some(100_000),
        }
    }

    /// As the kernel takes it; what is absent lowers nothing.
    pub fn limits(&self) -> Limits {
        let period = |period: Option<Period>| period.map_or(Duration::MAX, |period| period.0);
        Limits {
            max_memory_bytes: self.max_memory_bytes.unwrap_or(usize::MAX),
            max_fuel_per_event: self.max_fuel_per_event.unwrap_or(u64::MAX),
            max_state_bytes: self.max_state_bytes.unwrap_or(u64::MAX),
            event_deadline: period(self.event_deadline),
            host_call_deadline: period(self.host_call_deadline),
            max_reply_bytes: self.max_reply_bytes.unwrap_or(usize::MAX),
            max_host_calls_per_event: self.max_host_calls_per_event.unwrap_or(u64::MAX),
            max_dead_letters: self.max_dead_letters.unwrap_or(u64::MAX),
        }
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        })*
    };
}

as_text!(Listen, Component);
