//! One query: an instance of its own over the state at one moment, which is thrown away afterwards.
//!
//! Invariant: nothing of it reaches the store, and it has no part in the module's actor, its budget or its journal.

use std::sync::Arc;

use nexum_host_ifaces::{
    EventModule, HostError,
    bounded::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, cut},
    event::EventId,
    grants::Grants,
    host::{self, HostArgs, HostState},
    store::{ModuleRecord, StateView},
    types::Config,
};
use wasmtime::{Store, component::ComponentExportIndex};

use super::{Failure, Prepared, arm, denied, failure, late, library, said, said_last, turn, used};
use crate::engine::WasmEngine;

/// The export that answers.
pub const EXPORT: &str = "query";

/// A component that was linked for queries.
pub struct Answering {
    prepared: Prepared,
    query: ComponentExportIndex,
}

/// What is asked: a name and JSON text, both of the module's own making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub method: String,
    pub params: String,
}

/// Why there is no answer of the module's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It took too long.
    Late(Failure),
    /// The guest trapped, or answered something that is none.
    Failed(Failure),
}

/// Links a component for the queries of one module; nothing when it answers none.
///
/// # Errors
/// As [`super::prepare`].
pub fn prepare(
    engine: &WasmEngine,
    prepared: &Prepared,
    grants: &Grants,
    module: &str,
) -> Result<Option<Answering>, String> {
    let component = prepared.module.instance_pre().component();
    let Some(query) = component.get_export_index(None, EXPORT) else { return Ok(None) };
    let prepared = super::prepare_with(engine, component, grants.interfaces(), module, &prepared.libraries)?;
    Ok(Some(Answering { prepared, query }))
}

/// Answers a question. `args` has the grants that a query has, and its limits.
pub async fn answer(
    answering: &Answering,
    (args, record): (&HostArgs, ModuleRecord),
    view: Arc<dyn StateView>,
    config: &Config,
    question: &Question,
    reply_bytes_max: usize,
) -> Result<Result<String, HostError>, NoAnswer> {
    let limits = &args.limits;
    let (fuel_max, deadline) = (limits.max_fuel_per_event, limits.event_deadline);
    let mut state = HostState::new(args, record);
    state.read_from(view);
    // What `init` writes is seen by the query, and goes with it.
    state.hold_flushes(true);
    let mut store = Store::new(answering.prepared.engine(), state);
    host::bound(&mut store);
    turn::hold(&mut store, deadline, HostState::called_for);
    // Fuel and time are for all of it: starting, `init` and the query.
    let ended = match arm(&mut store, fuel_max) {
        Ok(()) => {
            tokio::time::timeout(deadline, call(answering, &mut store, config, (question, reply_bytes_max))).await
        }
        Err(error) => Ok(Err(error)),
    };
    let last_words = store.data_mut().end();
    let fuel = used(&store, fuel_max);
    match ended {
        Ok(Ok(answered)) => answered.map_err(|message| NoAnswer::Failed(Failure { message, backtrace: None, fuel })),
        Ok(Err(error)) if matches!(error.downcast_ref::<wasmtime::Trap>(), Some(wasmtime::Trap::Interrupt)) => {
            Err(NoAnswer::Late(late(EXPORT, fuel, deadline)))
        }
        Ok(Err(error)) => {
            let failed = failure(&error, EXPORT, fuel, deadline);
            Err(NoAnswer::Failed(denied(store.data_mut(), said_last(failed, last_words))))
        }
        Err(_) => Err(NoAnswer::Late(late(EXPORT, fuel, deadline))),
    }
}

/// What the export answers. It is copied: the guest frees its own before the call is back.
type Answer = (Result<String, HostError>,);

/// The module's answer, or why it is none; a trap is the outer error.
async fn call(
    answering: &Answering,
    store: &mut Store<HostState>,
    config: &Config,
    (question, reply_bytes_max): (&Question, usize),
) -> wasmtime::Result<Result<Result<String, HostError>, String>> {
    let Prepared { module, libraries } = &answering.prepared;
    library::start(libraries, store).await?;
    let instance = module.instance_pre().instantiate_async(&mut *store).await?;
    let guest = EventModule::new(&mut *store, &instance)?;
    store.data_mut().begin(&EventId::Init);
    if let Err(error) = guest.call_init(&mut *store, config).await? {
        return Ok(Err(said("init", &error)));
    }
    store.data_mut().begin_query();
    let query = instance.get_typed_func::<(&str, &str), Answer>(&mut *store, &answering.query)?;
    let asked = (question.method.as_str(), question.params.as_str());
    let (answer,) = query.call_async(&mut *store, asked).await?;
    let text = match answer {
        Ok(text) => text,
        Err(error) => return Ok(Ok(Err(bounded(error)))),
    };
    Ok(match text.len() {
        bytes if bytes > reply_bytes_max => Err(format!("its answer has {bytes} bytes, at most {reply_bytes_max}")),
        _ if is_json(&text) => Ok(Ok(text)),
        _ => Err("its answer is not JSON".to_owned()),
    })
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

/// A guest's own error, cut before anybody keeps it.
fn bounded(error: HostError) -> HostError {
    let (domain, message) = (cut(&error.domain, NAME_BYTES_MAX), cut(&error.message, MESSAGE_BYTES_MAX));
    HostError { domain, message, data: None, ..error }
}
