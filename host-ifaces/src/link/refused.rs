//! What there is of `wasi:http` besides what clients use, defined so that a component which imports it loads, and refused at
//! every call: toolchains of other languages import it whether or not the module uses it.
//!
//! Nothing here reaches anything.

use wasmtime::{
    Engine,
    component::{
        Linker, ResourceType,
        types::{ComponentInstance, ComponentItem},
    },
};

use crate::host::HostState;

/// The interfaces that are refused, as far as they are not served.
pub(super) const PREFIX: &str = "wasi:http/";

/// The type of every resource that these interfaces define. None is ever made.
struct Refused;

/// Defines one import, which may use the resource types in `used`: those of the imports before it. Every function traps.
pub(super) fn define(
    engine: &Engine,
    linker: &mut Linker<HostState>,
    used: &[ResourceType],
    import: &str,
    interface: &ComponentInstance,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(import)?;
    for (name, item) in interface.exports(engine) {
        match item.ty {
            ComponentItem::ComponentFunc(_) => {
                let function = format!("`{name}` of `{import}`");
                instance.func_new(name, move |mut store, _, arguments, _| {
                    // Refused calls are charged, too.
                    let call = store.data_mut().counted().call();
                    call.take(arguments.iter().map(super::weight).sum());
                    Err(wasmtime::Error::msg(format!("{function} is refused to module {}", call.module())))
                })?;
            }
            // One that the interface uses of another, as of `wasi:io`, is defined there: a second type would not fit.
            ComponentItem::Resource(resource) if !used.contains(&resource) => {
                instance.resource(name, ResourceType::host::<Refused>(), |_, _| Ok(()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Adds the resource types of an import to those that are known.
pub(super) fn add_resources(engine: &Engine, import: &ComponentItem, known: &mut Vec<ResourceType>) {
    let mut add = |item: &ComponentItem| {
        if let ComponentItem::Resource(resource) = item
            && !known.contains(resource)
        {
            known.push(*resource);
        }
    };
    match import {
        ComponentItem::ComponentInstance(interface) => {
            interface.exports(engine).for_each(|(_, item)| add(&item.ty));
        }
        other => add(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmtime::{Store, component::Component};

    use super::*;
    use crate::{
        Hash, clock::SystemClock, commit_queue::CommitQueue, grants::Interfaces, host::HostArgs, limits::Limits,
        ports::Ports, recording::TapeMode, state::ModuleId, store::ModuleRecord, unit::drafts::Quota,
    };

    const NETWORK: &[u8] = include_bytes!("../../../fixtures/components/network.wasm");

    fn host() -> HostState {
        let ports = Ports::unbound([]);
        let args = HostArgs {
            module: "m".into(),
            id: ModuleId(1),
            component: Hash::default(),
            limits: Arc::new(Limits::default()),
            clock: Arc::new(SystemClock::new()),
            commits: Arc::new(CommitQueue::new(ports.store())),
            ports,
            grants: Arc::default(),
            taping: TapeMode::Off,
            quota: Quota::new(0),
        };
        HostState::new(&args, ModuleRecord::default())
    }

    /// What a function of the component answers, in a fresh instance, or why it traps.
    async fn call(function: &str) -> Result<u32, String> {
        let engine = Engine::default();
        let component = Component::new(&engine, NETWORK).unwrap();
        let linker = super::super::link(&engine, &component, &Interfaces::default(), "m").unwrap();
        let mut store = Store::new(&engine, host());
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        let function = instance.get_typed_func::<(), (u32,)>(&mut store, function).unwrap();
        let answer = function.call_async(&mut store, ()).await;
        answer.map(|(answer,)| answer).map_err(|error| error.root_cause().to_string())
    }

    #[tokio::test]
    async fn a_component_that_imports_the_network_loads_and_is_told_that_it_may_not_use_it() {
        const ERROR: u32 = 256;
        // `access-denied`
        assert_eq!(call("tcp").await, Ok(ERROR + 1));
        assert_eq!(call("udp").await, Ok(ERROR + 1));
        // `permanent-resolver-failure`
        assert_eq!(call("lookup").await, Ok(ERROR + 20));
        // Headers reach nothing. What a request is answered is tested where requests are.
        for made in ["fields", "from-list"] {
            assert!(call(made).await.is_ok_and(|handle| handle < ERROR), "{made}");
        }
    }

    #[tokio::test]
    async fn a_guest_cannot_hold_handles_without_end() {
        assert_eq!(call("networks").await, Err("resource table has no free keys".to_owned()));
    }
}
