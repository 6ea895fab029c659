//! What the operator configures for one chain. Plain data: the cli reads the file and parses durations.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One node that serves the chain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// `http://`, `https://`, `ws://` or `wss://`; may carry a key, which is never shown.
    pub url: String,
    /// Smaller is preferred.
    #[serde(default)]
    pub priority: u32,
}

/// What the blooms in a chain's headers are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BloomUse {
    /// A block whose bloom excludes a log does not have it: its logs are not read.
    Exact,
    /// Every block's logs are read. A bloom that promises a log which an answer leaves out is a reason to look again.
    Hint,
    /// They say nothing.
    Ignore,
}

/// When headers and logs are checked against what proves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Never: what endpoints agree on is believed.
    Off,
    /// When answers contradict each other, or are doubtful by themselves.
    #[default]
    Doubt,
    /// Every block whose logs are wanted. What is not proven is not delivered.
    Always,
}

/// One chain and how to read it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    pub chain_id: u64,
    #[serde(default)]
    pub name: String,
    pub endpoints: Vec<EndpointConfig>,
    /// Where transactions of the engine's accounts go instead of to the endpoints; it is asked nothing else.
    #[serde(default)]
    pub relay: Option<String>,
    /// How long one request to one endpoint may take.
    #[serde(default = "timeout")]
    pub timeout: Duration,
    /// Further attempts after the first, each on the next endpoint.
    #[serde(default = "max_retries")]
    pub max_retries: u32,
    /// Per endpoint; 0 is unlimited.
    #[serde(default)]
    pub requests_per_second: u32,
    /// Most blocks that one `eth_getLogs` asks for.
    #[serde(default = "max_log_range")]
    pub max_log_range: u64,
    /// How often an HTTP endpoint is asked for its head.
    #[serde(default = "poll_interval")]
    pub poll_interval: Duration,
    /// Without a new head for this long the followed endpoint is examined, and left when another one has advanced.
    #[serde(default = "stall_after")]
    pub stall_after: Duration,
    /// What headers' blooms are used for; absent: what is known of the chain, and `hint` for all others.
    #[serde(default)]
    pub bloom: Option<BloomUse>,
    #[serde(default)]
    pub verify: Verify,
    /// Recent blocks kept in memory.
    #[serde(default = "window_blocks")]
    pub window_blocks: usize,
}

/// Long enough for a heavy `eth_getLogs` on a public endpoint.
fn timeout() -> Duration {
    Duration::from_secs(10)
}

fn max_retries() -> u32 {
    3
}

/// What the common public endpoints accept.
fn max_log_range() -> u64 {
    2_000
}

fn poll_interval() -> Duration {
    Duration::from_secs(1)
}

/// Two and a half slots of the slowest common chain.
fn stall_after() -> Duration {
    Duration::from_secs(30)
}

/// Eight epochs: deeper than any reorg that finality allows on Ethereum.
fn window_blocks() -> usize {
    256
}

impl ChainConfig {
    /// A chain with these endpoints, in this order of preference, and defaults for the rest.
    pub fn new(chain_id: u64, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = urls.into_iter().zip(0..).map(|(url, priority)| EndpointConfig { url: url.into(), priority });
        Self {
            chain_id,
            name: String::new(),
            endpoints: endpoints.collect(),
            relay: None,
            timeout: timeout(),
            max_retries: max_retries(),
            requests_per_second: 0,
            max_log_range: max_log_range(),
            poll_interval: poll_interval(),
            stall_after: stall_after(),
            bloom: None,
            verify: Verify::default(),
            window_blocks: window_blocks(),
        }
    }
}
