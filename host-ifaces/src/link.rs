//! Linking: a component's imports are checked against its grants, then each import gets the real interface or a stub.
//! `refused` defines what is linked so that a component loads, and refused when it is called.

mod refused;

use std::sync::Arc;

use wasmtime::{
    Engine,
    component::{Component, HasSelf, Linker, Type, Val, types::ComponentItem},
};

use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host,
    call::not_in_query,
    capability::Capability,
    grants::{Grant, Interfaces},
    host::HostState,
    interfaces::{INTERFACES, package::HOST, packages_of, row::Interface},
    library::{self, LinkedLibrary},
    limits::{IMPORTED_ITEMS_MAX, IMPORTED_RESOURCES_MAX},
};

/// Why a component cannot be linked. Each message names the import and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(
        "the component imports `{import}` but [capabilities] lists `{capability}` neither as required nor as optional"
    )]
    Undeclared { import: String, capability: Capability },
    #[error(
        "the component imports `{import}`, which is not hosted: modules may import {hosted} and WASI 0.2 io, clocks, random, \
         cli and http, besides filesystem and sockets, which lead nowhere; one of a library needs that library under [libraries]"
    )]
    Unknown { import: String, hosted: String },
    #[error("the component imports `{import}`; this engine hosts {hosted}, so it must be rebuilt")]
    Version { import: String, hosted: String },
    /// A few bytes of a component name an interface again and again, so that linking would have no end.
    #[error("the component imports more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("the component does not fit: {0}")]
    Misfit(String),
    #[error(
        "the component imports `{import}` with `{function}`, which library `{library}` does not export with the same type: \
         build it against the WIT of that version"
    )]
    Differs { import: String, function: String, library: String },
    #[error("the component imports `{import}`, which both of its libraries `{first}` and `{second}` export")]
    ExportedTwice { import: String, first: String, second: String },
    #[error("the component exports no interface, and so has nothing for a module to call")]
    ExportsNothing,
    #[error("the component exports `{export}`: interfaces of the host and of WASI are the host's own")]
    HostsOwn { export: String },
    #[error(
        "the component exports `{function}` of `{export}`, whose type is or has {what}: between a library and a module there \
         are values alone"
    )]
    NotValues { function: String, export: String, what: &'static str },
}

pub(crate) fn misfit(error: wasmtime::Error) -> LinkError {
    LinkError::Misfit(format!("{error:#}"))
}

/// A linker that serves exactly what `interfaces` say, for a component whose imports have been checked against them.
pub fn link(
    engine: &Engine,
    component: &Component,
    interfaces: &Interfaces,
    module: &str,
) -> Result<Linker<HostState>, LinkError> {
    link_with(engine, component, interfaces, module, &[])
}

/// The same, with libraries, in the order in which the module's grants have them.
pub fn link_with(
    engine: &Engine,
    component: &Component,
    interfaces: &Interfaces,
    module: &str,
    libraries: &[Arc<LinkedLibrary>],
) -> Result<Linker<HostState>, LinkError> {
    check_imports(engine, component)?;
    let mut linker = Linker::<HostState>::new(engine);
    // Those of the imports so far.
    let mut resources = Vec::new();
    crate::wasi::add_to_linker(&mut linker).map_err(misfit)?;
    host::types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(misfit)?;
    for (import, item) in component.component_type().imports(engine) {
        let name = import.to_string();
        let before = resources.len();
        refused::add_resources(engine, &item.ty, &mut resources);
        if crate::wasi::SERVED.iter().any(|prefix| is_wasi_0_2(&name, prefix)) {
            continue;
        }
        if is_wasi_0_2(&name, refused::PREFIX)
            && let ComponentItem::ComponentInstance(interface) = &item.ty
        {
            refused::define(engine, &mut linker, &resources[..before], &name, interface).map_err(misfit)?;
            continue;
        }
        // The world's own `use` of shared types imports them by name; types reach nothing.
        if matches!(item.ty, ComponentItem::Type(_)) {
            continue;
        }
        if library::define(engine, &mut linker, libraries, &name, &item.ty)? {
            continue;
        }
        let Some(interface) = interface(INTERFACES, &name)? else { continue };
        if only_types(engine, &item.ty) {
            continue;
        }
        let capability = interface.capability;
        match interfaces.get(capability) {
            None => return Err(LinkError::Undeclared { import: name, capability }),
            Some(Grant::Served) => serve(&mut linker, interface).map_err(misfit)?,
            Some(Grant::Stub) => {
                let message = format!("capability `{capability}` is not granted to module {module}");
                let refusal = HostError::new(capability.name(), HostErrorKind::Unsupported, message);
                stub(engine, &mut linker, &name, item, refusal).map_err(misfit)?;
            }
            Some(Grant::NotInQuery) => {
                let refusal = not_in_query(capability.name(), &format!("capability `{capability}`"));
                stub(engine, &mut linker, &name, item, refusal).map_err(misfit)?;
            }
        }
    }
    Ok(linker)
}

/// Whether a component imports so little that it can be linked.
///
/// # Errors
/// What there is too much of.
pub fn check_imports(engine: &Engine, component: &Component) -> Result<(), LinkError> {
    if imported_items(engine, component) > IMPORTED_ITEMS_MAX {
        return Err(LinkError::TooMany { what: "items, those in its interfaces among them", max: IMPORTED_ITEMS_MAX });
    }
    let mut resources = Vec::new();
    for (_, item) in component.component_type().imports(engine) {
        refused::add_resources(engine, &item.ty, &mut resources);
        if resources.len() > IMPORTED_RESOURCES_MAX {
            return Err(LinkError::TooMany { what: "types of resources", max: IMPORTED_RESOURCES_MAX });
        }
    }
    Ok(())
}

/// How many items a component imports: its imports, and what is in the interfaces among them and within those. Does not go
/// on counting past the bound.
fn imported_items(engine: &Engine, component: &Component) -> usize {
    let component = component.component_type();
    let mut count = component.imports(engine).len();
    let mut open: Vec<ComponentItem> =
        component.imports(engine).take(IMPORTED_ITEMS_MAX).map(|(_, item)| item.ty).collect();
    while count <= IMPORTED_ITEMS_MAX
        && let Some(item) = open.pop()
    {
        if let ComponentItem::ComponentInstance(interface) = item {
            count += interface.exports(engine).len();
            open.extend(interface.exports(engine).take(IMPORTED_ITEMS_MAX).map(|(_, item)| item.ty));
        }
    }
    count
}

/// Whether an import is an interface of this package of WASI, such as `wasi:io/`, in a version that is hosted.
fn is_wasi_0_2(import: &str, package: &str) -> bool {
    let interface = import.strip_prefix(package).and_then(|rest| rest.split_once('@'));
    interface.is_some_and(|(_, version)| version.starts_with("0.2."))
}

/// Whether an import brings nothing that can be called. A component imports an interface so when another one that it uses
/// names its types, as `outbox` does with those of `http`: that reaches nothing, so it needs no grant, and wasmtime wants
/// no definition of it.
fn only_types(engine: &Engine, import: &ComponentItem) -> bool {
    let ComponentItem::ComponentInstance(interface) = import else { return false };
    interface.exports(engine).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
}

/// The interface behind an import; `None` for the shared types.
pub(crate) fn interface<'a>(table: &'a [Interface], import: &str) -> Result<Option<&'a Interface>, LinkError> {
    let hosted = || packages_of(table).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let unknown = || LinkError::Unknown { import: import.to_owned(), hosted: hosted() };
    let (package, rest) = import.split_once('/').ok_or_else(unknown)?;
    let (name, version) = rest.split_once('@').ok_or_else(unknown)?;
    let packages = packages_of(table);
    let package = packages.iter().find(|hosted| hosted.name == package).ok_or_else(unknown)?;
    if version != package.version {
        return Err(LinkError::Version { import: import.to_owned(), hosted: hosted() });
    }
    if **package == HOST && name == "types" {
        return Ok(None);
    }
    let found = table.iter().find(|row| row.package == *package && row.name == name);
    found.map(Some).ok_or_else(unknown)
}

/// Defines every function of an interface that is granted.
fn serve(linker: &mut Linker<HostState>, interface: &Interface) -> wasmtime::Result<()> {
    let no_actor = || wasmtime::Error::msg(format!("`{}` has no actor behind it", interface.capability));
    interface.link.ok_or_else(no_actor)?(linker)
}

/// Defines every function of an interface so that it answers this refusal. A function that cannot fail has no way to say so
/// and traps.
fn stub(
    engine: &Engine,
    linker: &mut Linker<HostState>,
    import: &str,
    item: wasmtime::component::types::ComponentExtern<'_>,
    refusal: HostError,
) -> wasmtime::Result<()> {
    // What is no interface has no functions that could answer, and is not linked.
    let ComponentItem::ComponentInstance(interface) = item.ty else { return Ok(()) };
    let mut instance = linker.instance(import)?;
    let refusal = Arc::new(refusal);
    for (name, item) in interface.exports(engine) {
        let ComponentItem::ComponentFunc(_) = item.ty else { continue };
        let refusal = refusal.clone();
        instance.func_new(name, move |mut context, function, arguments, results| {
            let call = context.data_mut().call();
            call.take(arguments.iter().map(weight).sum());
            call.count_or_trap(&refusal.domain)?;
            let fallible = matches!(function.results().next(), Some(Type::Result(_)));
            let Some(result) = results.first_mut().filter(|_| fallible) else {
                return Err(wasmtime::Error::msg(refusal.message.clone()));
            };
            *result = Val::Result(Err(Some(Box::new(lowered(&refusal)))));
            Ok(())
        })?;
    }
    Ok(())
}

/// What an argument of a stub or a library took to be taken over, about, bytes: each of its parts becomes a value of its own.
pub(crate) fn weight(argument: &Val) -> usize {
    let parts = match argument {
        Val::String(text) => text.len(),
        Val::List(items) | Val::FixedLengthList(items) | Val::Tuple(items) => items.iter().map(weight).sum(),
        Val::Record(fields) => fields.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        Val::Variant(_, Some(value)) | Val::Option(Some(value)) | Val::Result(Ok(Some(value)) | Err(Some(value))) => {
            weight(value)
        }
        _ => 0,
    };
    size_of::<Val>() + parts
}

/// An error without data, as a guest gets it.
fn lowered(error: &HostError) -> Val {
    Val::Record(vec![
        ("domain".into(), Val::String(error.domain.clone())),
        ("kind".into(), Val::Variant(error.kind.name().into(), None)),
        ("code".into(), Val::S32(error.code)),
        ("message".into(), Val::String(error.message.clone())),
        ("data".into(), Val::Option(None)),
    ])
}

#[cfg(test)]
mod tests {
    use nexum_testkit::wasm::importing_resources;

    use super::*;
    use crate::interfaces::package::Package;

    #[test]
    fn imports_are_told_apart() {
        let of = |import| interface(INTERFACES, import).map(|found| found.map(|row| row.capability.name()));
        assert_eq!(of("nexum:host/types@0.3.0").unwrap(), None);
        assert_eq!(of("nexum:host/local-store@0.3.0").unwrap(), Some("local-store"));
        assert!(matches!(of("nexum:host/chain@0.2.0"), Err(LinkError::Version { .. })));
        assert!(matches!(of("wasi:keyvalue/store@0.2.0"), Err(LinkError::Unknown { .. })));
        assert!(matches!(of("nexum:host/teapot@0.3.0"), Err(LinkError::Unknown { .. })));
    }

    /// Another package beside the engine's own.
    const TEA: Package = Package { name: "kitchen:tea", version: "1.2.0" };
    const WITH_TEA: &[Interface] = &[
        crate::interfaces::clock::INTERFACE,
        Interface { package: &TEA, name: "pot", ..Interface::of(Capability::named("kitchen:tea/pot")) },
    ];

    #[test]
    fn an_interface_of_another_package_is_found_and_every_hosted_package_is_named() {
        let of = |import| interface(WITH_TEA, import).map(|found| found.map(|row| row.capability.name()));
        assert_eq!(of("kitchen:tea/pot@1.2.0").unwrap(), Some("kitchen:tea/pot"));
        assert_eq!(of("nexum:host/clock@0.3.0").unwrap(), Some("clock"));
        let older = of("kitchen:tea/pot@1.1.0").unwrap_err().to_string();
        assert!(
            older.ends_with("this engine hosts nexum:host@0.3.0, kitchen:tea@1.2.0, so it must be rebuilt"),
            "{older}"
        );
        let other = of("kitchen:coffee/pot@1.2.0").unwrap_err().to_string();
        assert!(other.contains("may import nexum:host@0.3.0, kitchen:tea@1.2.0 and WASI 0.2"), "{other}");
        // Its own types have nothing that could be granted, and are no row.
        assert!(matches!(of("kitchen:tea/types@1.2.0"), Err(LinkError::Unknown { .. })));
    }

    #[test]
    fn a_component_that_imports_more_than_is_hosted_is_refused_before_it_is_linked() {
        let engine = Engine::default();
        let refusal = |interfaces, resources| {
            let component = Component::new(&engine, importing_resources(interfaces, resources)).unwrap();
            link(&engine, &component, &Interfaces::default(), "m").err().map(|error| error.to_string())
        };
        assert_eq!(refusal(2, IMPORTED_RESOURCES_MAX / 2), None);
        let of_resources = "the component imports more than 256 types of resources";
        assert_eq!(refusal(2, IMPORTED_RESOURCES_MAX / 2 + 1).as_deref(), Some(of_resources));
        let of_items = "the component imports more than 2000 items, those in its interfaces among them";
        assert_eq!(refusal(21, 100).as_deref(), Some(of_items));
    }

    #[test]
    fn of_wasi_only_version_0_2_of_the_packages_that_are_hosted_is_linked() {
        let linked = |import: &str| {
            let served = crate::wasi::SERVED.iter().any(|package| is_wasi_0_2(import, package));
            served || is_wasi_0_2(import, refused::PREFIX)
        };
        for import in ["wasi:io/poll@0.2.0", "wasi:sockets/tcp@0.2.6", "wasi:http/outgoing-handler@0.2.12"] {
            assert!(linked(import), "{import}");
        }
        for import in
            ["wasi:sockets/types@0.3.0", "wasi:http/types@0.3.0", "wasi:http/types", "wasi:config/store@0.2.0"]
        {
            assert!(!linked(import), "{import}");
        }
    }
}
