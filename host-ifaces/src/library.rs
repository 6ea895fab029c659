//! Libraries: components that export interfaces to modules, and run within the Store of the module that uses them.
//!
//! Owns what a library's component may export, and how its functions get into a module's linker. Which libraries a module
//! has, and what each may reach, is in its grants.
//!
//! While a function of a library runs, calls of the host are held against the grants of that library and against no other;
//! its keys of the state begin with a prefix of its own. Whatever is counted is the module's: fuel, memory, time, host
//! calls, state. What a library is asked and what it answers are values: nothing that it holds gets into a module.
//!
//! Invariant: a library's code runs only within a call of its module, or at the start of its instance, and never beside it.

use std::{collections::BTreeMap, sync::Arc};

use wasmtime::{
    Engine, Store,
    component::{
        Component, ComponentExportIndex, InstancePre, Linker, Type,
        types::{ComponentFunc, ComponentInstance, ComponentItem},
    },
};

use crate::{
    HostError,
    bounded::{MESSAGE_BYTES_MAX, cut},
    capability::Capability,
    grants::{Interfaces, principal},
    host::HostState,
    interfaces::{INTERFACES, chain, clock, http, local_store, logging, random},
    limits::check_component,
    link::{self, LinkError},
    types::Config,
};

/// Functions of a library's interfaces with the parts of their types: those of a module are compared with them.
const TYPE_PARTS_MAX: usize = 2_000;
/// The function that a library may export to be told its configuration.
const INIT: &str = "init";

/// What a library may ask for. Effects and signatures are asked for by the module that answers for them.
pub fn grantable() -> [Capability; 6] {
    [
        chain::CAPABILITY,
        local_store::INTERFACE.capability,
        logging::INTERFACE.capability,
        clock::INTERFACE.capability,
        random::INTERFACE.capability,
        http::CAPABILITY,
    ]
}

/// A function that a library exports.
struct Exported {
    name: String,
    /// Its place among the functions of the library.
    place: usize,
    ty: ComponentFunc,
}

/// A library's component, linked against its own grants.
pub struct LinkedLibrary {
    name: Arc<str>,
    pre: InstancePre<HostState>,
    interfaces: BTreeMap<String, Vec<Exported>>,
    functions: Vec<ComponentExportIndex>,
    init: Option<ComponentExportIndex>,
}

/// Links a library's component.
///
/// # Errors
/// What is wrong with the component, in at most [`MESSAGE_BYTES_MAX`] bytes.
pub fn prepare(
    engine: &Engine,
    component: &Component,
    interfaces: &Interfaces,
    name: &Arc<str>,
) -> Result<LinkedLibrary, String> {
    let said = |error: LinkError| cut(format_args!("library `{name}`: {error}"), MESSAGE_BYTES_MAX);
    let linker = link::link(engine, component, interfaces, &principal(name)).map_err(said)?;
    check_component(component).map_err(|error| format!("library `{name}`: {error}"))?;
    let pre = linker.instantiate_pre(component).map_err(|error| said(LinkError::Misfit(format!("{error:#}"))))?;
    let mut linked = LinkedLibrary {
        name: name.clone(),
        pre,
        interfaces: BTreeMap::new(),
        functions: Vec::new(),
        init: component.get_export_index(None, INIT),
    };
    linked.read_exports(engine, component).map_err(said)?;
    Ok(linked)
}

impl LinkedLibrary {
    /// The interfaces that it exports.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.keys().map(String::as_str)
    }

    pub fn component(&self) -> &Component {
        self.pre.component()
    }

    fn read_exports(&mut self, engine: &Engine, component: &Component) -> Result<(), LinkError> {
        let lost = |name: &str| LinkError::Misfit(format!("its export `{name}` cannot be found again"));
        let mut parts = 0;
        for (export, item) in component.component_type().exports(engine) {
            let ComponentItem::ComponentInstance(interface) = &item.ty else { continue };
            if export.starts_with("wasi:")
                || !matches!(link::interface(INTERFACES, export), Err(LinkError::Unknown { .. }))
            {
                return Err(LinkError::HostsOwn { export: export.to_owned() });
            }
            let instance = component.get_export_index(None, export).ok_or_else(|| lost(export))?;
            let mut functions = Vec::new();
            for (name, item) in interface.exports(engine) {
                let refused =
                    |what| LinkError::NotValues { function: name.to_owned(), export: export.to_owned(), what };
                match item.ty {
                    ComponentItem::ComponentFunc(ty) => {
                        only_values(&ty, &mut parts).map_err(refused)?;
                        let index = component.get_export_index(Some(&instance), name).ok_or_else(|| lost(name))?;
                        functions.push(Exported { name: name.to_owned(), place: self.functions.len(), ty });
                        self.functions.push(index);
                    }
                    ComponentItem::Resource(_) => return Err(refused("a resource")),
                    // Types are named by the functions that use them.
                    _ => {}
                }
            }
            self.interfaces.insert(export.to_owned(), functions);
        }
        if self.interfaces.is_empty() { Err(LinkError::ExportsNothing) } else { Ok(()) }
    }
}

/// Whether a function takes and answers values alone, which are not too many.
fn only_values(function: &ComponentFunc, parts: &mut usize) -> Result<(), &'static str> {
    if function.async_() {
        return Err("async");
    }
    *parts += 1;
    let mut open: Vec<Type> = function.params().map(|(_, ty)| ty).chain(function.results()).collect();
    while let Some(ty) = open.pop() {
        *parts += 1;
        if *parts > TYPE_PARTS_MAX {
            return Err("more parts than are compared");
        }
        match ty {
            Type::Own(_) | Type::Borrow(_) => return Err("a resource"),
            Type::Future(_) => return Err("a future"),
            Type::Stream(_) => return Err("a stream"),
            Type::ErrorContext => return Err("an error context"),
            Type::List(list) => open.push(list.ty()),
            Type::FixedLengthList(list) => open.push(list.ty()),
            Type::Map(map) => open.extend([map.key(), map.value()]),
            Type::Record(record) => open.extend(record.fields().map(|field| field.ty)),
            Type::Tuple(tuple) => open.extend(tuple.types()),
            Type::Variant(variant) => open.extend(variant.cases().filter_map(|case| case.ty)),
            Type::Option(option) => open.push(option.ty()),
            Type::Result(result) => open.extend([result.ok(), result.err()].into_iter().flatten()),
            Type::Bool
            | Type::S8
            | Type::U8
            | Type::S16
            | Type::U16
            | Type::S32
            | Type::U32
            | Type::S64
            | Type::U64
            | Type::Float32
            | Type::Float64
            | Type::Char
            | Type::String
            | Type::Enum(_)
            | Type::Flags(_) => {}
        }
    }
    Ok(())
}

/// Whether a module calls a function as its library has it.
fn is_same(wanted: &ComponentFunc, exported: &ComponentFunc) -> bool {
    wanted.async_() == exported.async_()
        && wanted.params().map(|(_, ty)| ty).eq(exported.params().map(|(_, ty)| ty))
        && wanted.results().eq(exported.results())
}

/// Defines an import of a module by the library that exports it, if one does.
pub(crate) fn define(
    engine: &Engine,
    linker: &mut Linker<HostState>,
    libraries: &[Arc<LinkedLibrary>],
    import: &str,
    item: &ComponentItem,
) -> Result<bool, LinkError> {
    let mut exporting = libraries.iter().enumerate().filter(|(_, library)| library.interfaces.contains_key(import));
    let Some((at, library)) = exporting.next() else { return Ok(false) };
    if let Some((_, second)) = exporting.next() {
        let (first, second) = (library.name.to_string(), second.name.to_string());
        return Err(LinkError::ExportedTwice { import: import.to_owned(), first, second });
    }
    let ComponentItem::ComponentInstance(wanted) = item else { return Ok(false) };
    let Some(functions) = library.interfaces.get(import) else { return Ok(false) };
    define_interface(engine, linker, at, (import, wanted), functions).map_err(|error| match error {
        Undefined::Differs(function) => {
            let library = library.name.to_string();
            LinkError::Differs { import: import.to_owned(), function, library }
        }
        Undefined::Wasm(error) => link::misfit(error),
    })?;
    Ok(true)
}

/// Why a function of an interface cannot be defined.
enum Undefined {
    /// The module wants this function, and the library has none of its name and type.
    Differs(String),
    Wasm(wasmtime::Error),
}

fn define_interface(
    engine: &Engine,
    linker: &mut Linker<HostState>,
    library: usize,
    (import, wanted): (&str, &ComponentInstance),
    functions: &[Exported],
) -> Result<(), Undefined> {
    let mut instance = linker.instance(import).map_err(Undefined::Wasm)?;
    for (name, item) in wanted.exports(engine) {
        let differs = || Undefined::Differs(name.to_owned());
        match item.ty {
            ComponentItem::ComponentFunc(ty) => {
                let exported = functions.iter().find(|exported| exported.name == name);
                let exported = exported.filter(|exported| is_same(&ty, &exported.ty)).ok_or_else(differs)?;
                let place = exported.place;
                let defined = instance.func_new_async(name, move |mut store, _, arguments, results| {
                    Box::new(async move {
                        let (function, caller) = store.data_mut().call_library(library, place, arguments)?;
                        function.call_async(&mut store, arguments, results).await?;
                        store.data_mut().library_answered(caller, results);
                        Ok::<(), wasmtime::Error>(())
                    })
                });
                defined.map_err(Undefined::Wasm)?;
            }
            ComponentItem::Type(_) => {}
            // Of what else there is in interfaces, a library has nothing.
            _ => return Err(differs()),
        }
    }
    Ok(())
}

/// Instantiates the libraries of a module in its fresh Store, in the order in which its grants have them, and tells each its
/// configuration.
///
/// # Errors
/// What a library did wrong: it traps the start of the module.
pub async fn start(libraries: &[Arc<LinkedLibrary>], store: &mut Store<HostState>) -> wasmtime::Result<()> {
    for (at, library) in libraries.iter().enumerate() {
        let (caller, config) = store.data_mut().start_library(at);
        let instance = library.pre.instantiate_async(&mut *store).await?;
        let mut functions = Vec::with_capacity(library.functions.len());
        for index in &library.functions {
            let found = instance.get_func(&mut *store, index);
            functions.push(found.ok_or_else(|| wasmtime::Error::msg("a function of the library is not there"))?);
        }
        if let Some(index) = &library.init {
            let init = instance.get_typed_func::<(Config,), (Result<(), HostError>,)>(&mut *store, index)?;
            let (started,) = init.call_async(&mut *store, (config,)).await?;
            started.map_err(|error| {
                wasmtime::Error::msg(format!("init failed: {}", cut(&error.message, MESSAGE_BYTES_MAX)))
            })?;
        }
        store.data_mut().library_started(caller, functions);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nexum_testkit::wasm::{COMPONENT, component, extern_name, importing, section};

    use super::*;

    /// A component that exports an interface of this name, with a resource or with nothing.
    fn exporting(name: &str, resource: bool) -> Vec<u8> {
        // (type (resource (rep i32))), then an instance that exports it, then that instance.
        let exports = if resource { [vec![1], extern_name("r"), vec![0x03, 0]].concat() } else { vec![0] };
        let export = [vec![1], extern_name(name), vec![0x05, 0, 0x00]].concat();
        component(&[
            section(7, &[1, 0x3f, 0x7f, 0x00]),
            section(5, &[vec![1, 0x01], exports].concat()),
            section(11, &export),
        ])
    }

    fn prepared(engine: &Engine, bytes: &[u8]) -> Result<LinkedLibrary, String> {
        prepare(engine, &Component::new(engine, bytes).unwrap(), &Interfaces::default(), &"cow".into())
    }

    #[test]
    fn a_library_exports_interfaces_of_its_own_with_values_alone() {
        let engine = Engine::default();
        let refused = |bytes: &[u8]| prepared(&engine, bytes).err().unwrap();
        assert!(refused(COMPONENT).starts_with("library `cow`: the component exports no interface"));
        let hosts = refused(&exporting("nexum:host/http@0.3.0", false));
        assert!(hosts.ends_with("interfaces of the host and of WASI are the host's own"), "{hosts}");
        let resource = refused(&exporting("a:b/c@1.0.0", true));
        assert!(resource.contains("exports `r` of `a:b/c@1.0.0`, whose type is or has a resource"), "{resource}");
        let linked = prepared(&engine, &exporting("a:b/c@1.0.0", false)).unwrap();
        assert_eq!(linked.interfaces().collect::<Vec<_>>(), ["a:b/c@1.0.0"]);
    }

    #[test]
    fn a_module_gets_an_interface_of_its_library_and_only_as_the_library_has_it() {
        let engine = Engine::default();
        let library = || Arc::new(prepared(&engine, &exporting("a:b/c@1.0.0", false)).unwrap());
        let linked = |bytes: Vec<u8>, libraries: &[Arc<LinkedLibrary>]| {
            let component = Component::new(&engine, bytes).unwrap();
            let linked = link::link_with(&engine, &component, &Interfaces::default(), "m", libraries);
            linked.err().map(|error| error.to_string())
        };
        // (type (func)), and it exported as "f".
        let function = [vec![0x01, 0x40, 0, 0x01, 0x00, 0x04], extern_name("f"), vec![0x01, 0]].concat();
        let calling = || importing("a:b/c@1.0.0", 2, &function);
        assert_eq!(linked(importing("a:b/c@1.0.0", 0, &[]), &[library()]), None);
        let missing = linked(calling(), &[library()]).unwrap();
        assert!(missing.contains("with `f`, which library `cow` does not export"), "{missing}");
        let twice = linked(calling(), &[library(), library()]).unwrap();
        assert!(twice.ends_with("both of its libraries `cow` and `cow` export"), "{twice}");
        let without = linked(calling(), &[]).unwrap();
        assert!(without.ends_with("one of a library needs that library under [libraries]"), "{without}");
    }
}
