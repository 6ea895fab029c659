//! The arguments of `compile-component`, which an engine gives to its own program.

use clap::Args;
use nexum_host_ifaces::Hash;

/// Compile one component, from stdin to stdout; an engine starts this itself
#[derive(Debug, Args)]
pub struct CompileComponent {
    /// The component's hash
    #[arg(long, value_name = "HASH")]
    pub sha256: Hash,
    #[arg(long, value_name = "BYTES")]
    pub max_component_bytes: u64,
    #[arg(long, value_name = "BYTES")]
    pub max_memory_bytes: u64,
    /// Processor time in seconds
    #[arg(long, value_name = "SECONDS")]
    pub max_processor_s: u64,
}
