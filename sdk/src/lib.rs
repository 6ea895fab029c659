//! nexum-sdk: everything a nexum module needs, and the only crate it has to depend on.
//!
//! A module is a struct and one `impl` block:
//!
//! ```no_run
//! use nexum_sdk::{self as nexum, Block, Config, Result, state::Item};
//!
//! const SEEN: Item<u64> = Item::new("seen");
//!
//! struct Counter {
//!     every: u64,
//! }
//!
//! #[nexum::module]
//! impl Counter {
//!     #[init]
//!     fn init(config: Config) -> Result<Self> {
//!         Ok(Self { every: config.parse("every")? })
//!     }
//!
//!     #[on_block]
//!     fn count(&mut self, block: Block) -> Result<()> {
//!         let seen = SEEN.update(|n| n.unwrap_or(0) + 1)?;
//!         if seen % self.every == 0 {
//!             nexum::info!("{seen} blocks, the newest is {}", block.number);
//!         }
//!         Ok(())
//!     }
//! }
//! ```
//!
//! **What the host promises.** Events come strictly one after the other, in order. The state writes and outbox entries
//! of one event are applied together when its handler returns `Ok`, or not at all: after an `Err`, a panic or a spent
//! deadline nothing is written, the instance is thrown away and the event is tried again on a fresh one. So a field of
//! the struct is a cache: what must last goes into [`state`], and `init` runs before every first event of an instance.
//! Direct calls ([`chain`], [`http`]) are immediate and repeat when their event does; an [`outbox`] entry does not.
//!
//! **Capabilities.** The component imports only the interfaces that its code reaches, and the manifest must list each
//! (`chain`, `local-store`, `logging`, …). A missing one is an error when the module is loaded, not when it is called.
//!
//! **Off the target.** Natively there is no host. [`testing`] stands in for state, log, clock, chain, outbox, messages, signatures
//! and content, so that handlers run under `cargo test`; every other host call panics there.

#[doc(hidden)]
pub mod bindings;
mod config;
mod error;
mod event;
mod log;
mod module;
mod query;
#[doc(hidden)]
pub mod query_bindings;
mod raw;

pub mod chain;
pub mod clock;
pub mod hex;
pub mod http;
pub mod identity;
pub mod messaging;
pub mod outbox;
pub mod random;
pub mod remote_store;
pub mod state;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
pub mod transaction;

#[cfg(feature = "alloy")]
mod provider;
#[cfg(feature = "signer")]
mod signer;

pub use bindings::nexum::host::types::{
    Block, BlockRef, Log, Message, Outcome, OutcomeStatus, ReleasedEffect, Reorg, Tick,
};
pub use config::typed::{Bytes, SecretName, Wei};
pub use config::{Config, Scalar, Value};
pub use error::{Context, Error, ErrorKind, Result};
pub use log::Level;
pub use module::Module;
pub use nexum_sdk_macros::{NexumConfig, module};
pub use query::Query;
pub use transaction::TransactionOutcome;

#[cfg(feature = "alloy")]
pub use provider::{HostTransport, Provider, block_on, provider};
#[cfg(feature = "signer")]
pub use signer::Signer;

/// alloy's `sol!`, told where this SDK keeps the crates that its expansion needs.
#[cfg(feature = "alloy")]
#[macro_export]
macro_rules! sol {
    ($($input:tt)*) => {
        $crate::alloy::sol_types::sol! {
            #![sol(alloy_sol_types = $crate::alloy::sol_types, alloy_contract = $crate::alloy::contract)]
            $($input)*
        }
    };
}

/// The alloy crates that this SDK is built with, so that a module needs none of its own.
#[cfg(feature = "alloy")]
pub mod alloy {
    pub use alloy_contract as contract;
    pub use alloy_network as network;
    pub use alloy_primitives as primitives;
    pub use alloy_provider as provider;
    pub use alloy_rpc_types_eth as rpc_types;
    #[cfg(feature = "signer")]
    pub use alloy_signer as signer;
    pub use alloy_sol_types as sol_types;
}

/// The generated bindings, for what the wrappers do not cover.
pub mod wit {
    pub use crate::bindings::nexum::host::*;
    pub use crate::bindings::{Event, Guest};
}

/// What the expansion of [`module`](macro@module) refers to. Not a public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::__export_event_module as export;
    pub use crate::bindings::nexum::host::types::{Config as RawConfig, HostError};
    pub use crate::bindings::{Event, Guest};
    pub use crate::config::typed::{
        ConfigType, FromConfig, below, has_table, joined, length, read_list, read_parsed, read_parsed_list, utf8,
    };
    pub use crate::log::log;
    pub use crate::module::{HandlerResult, Slot};
    pub use crate::query::Answer;
    pub use crate::query_bindings::__export_query_module as export_with_query;
    pub use crate::query_bindings::Guest as QueryGuest;
}
