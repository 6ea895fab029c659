//! The attribute `#[module]` of nexum-sdk. This file is only the entry; `expand` does the work, on plain token
//! streams, so that its errors can be tested.

mod expand;

use proc_macro::TokenStream;

/// Makes a struct a nexum module, from one `impl` block whose methods are marked.
///
/// | mark | signature | called |
/// |---|---|---|
/// | `#[init]` | `fn(config: Config) -> Result<Self>`, or without the argument | once per instance, before any event |
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
