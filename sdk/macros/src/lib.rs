//! The attribute `#[module]` and the derive `NexumConfig` of nexum-sdk. This file is only the entry; `expand` and `config`
//! do the work, on plain token streams, so that their errors can be tested.

mod config;
mod expand;

use proc_macro::TokenStream;

/// Makes a struct a nexum module, from one `impl` block whose methods are marked.
///
/// | mark | signature | called |
/// |---|---|---|
/// | `#[init]` | `fn(config: Config) -> Result<Self>`, with a struct of [`NexumConfig`](derive@NexumConfig) in place of `Config`, or without the argument | once per instance, before any event |
/// | `#[on_block]` | `fn(&mut self, block: Block)` | per block, after its logs |
/// | `#[on_logs]` | `fn(&mut self, logs: Vec<Log>)` | per block with matching logs |
/// | `#[on_tick]` | `fn(&mut self, tick: Tick)` | per firing of a schedule |
/// | `#[on_message]` | `fn(&mut self, message: Message)` | per message of a subscribed topic |
/// | `#[on_reorg]` | `fn(&mut self, reorg: Reorg)` | when handled blocks were retracted |
/// | `#[on_outcome]` | `fn(&mut self, outcome: Outcome)` | when an outbox entry was delivered or given up |
/// | `#[query]` | `fn(&self, query: Query) -> Result<T>`, where `T` serialises | per question of an operator, beside the events |
///
/// A handler returns `()` or `Result<()>`. An event kind without a handler succeeds and does nothing. Without `#[init]`
/// the struct must be `Default`. Other methods stay as they are. One crate holds one module.
///
/// `#[module(crate = path::to::nexum_sdk)]` is for a crate that reaches the SDK by another path than `::nexum_sdk`.
#[proc_macro_attribute]
pub fn module(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::module(args.into(), item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

/// Makes a struct a configuration, or an enum without fields one of its values.
///
/// Fields are keys, doc comments what is said of them. A field is a `String`, `bool`, an integer, a `Duration`, `Bytes`, `Wei`,
/// a `SecretName`, with alloy an `Address` or a `U256`, an enum or a struct that derives this too (a nested table), or a `Vec`
/// of what is no table. An `Option` may be left out.
///
/// | option | of | |
/// |---|---|---|
/// | `default = 10` | a field | in place of a value that is not there; text, a number, `true` or `false`, or a list of these |
/// | `min = "1s"`, `max = "1 ether"` | a field | the least and the most, of each item in a list |
/// | `max_items = 16` | a list | 1,024 by default |
/// | `parse` | a field | any type that parses from text, which the host takes for text |
/// | `name = "url"` | a field, a variant | its name in the configuration |
/// | `open` | a struct | other keys are left to the module, which reads them from a `Config` |
/// | `crate = path` | all of it | where the SDK is, if not at `::nexum_sdk` |
///
/// A module whose `#[init]` takes such a struct has its schema in the component, and the host refuses a configuration that does
/// not fit before the module runs.
#[proc_macro_derive(NexumConfig, attributes(config))]
pub fn config(item: TokenStream) -> TokenStream {
    config::derive(item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}
