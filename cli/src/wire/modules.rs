//! Whether the configured modules can be loaded, as far as files tell: an engine starts without those that cannot.

use std::{collections::BTreeMap, path::Path};

use nexum_host_ifaces::{
    interfaces::{identity::port::IdentityMsg, messaging::port::MessagingMsg, remote_store::port::RemoteStoreMsg},
    ports::Ports,
};
use nexum_kernel::{
    load::{Terms, bundle},
    manifest::config_values,
    schema::{self, Wrong},
};

use super::services::{module_spec, schedule_check};
use crate::config::{Config, Credential, Library, Problem, problem};

/// The first module that cannot be loaded, if any.
pub fn check(config: &Config) -> Result<(), Problem> {
    let ports = Ports::unbound(config.chains.iter().map(|chain| chain.chain_id));
    if config.identity.is_some() {
        ports.with::<IdentityMsg>();
    }
    if config.remote_store.is_some() {
        ports.with::<RemoteStoreMsg>();
    }
    if config.messaging.is_some() {
        ports.with::<MessagingMsg>();
    }
    let libraries: Vec<_> = config.libraries.iter().map(Library::spec).collect();
    let (ceiling, restart, schedule_check) = (config.limits.limits(), config.restart.ceiling(), schedule_check());
    let terms = Terms {
        ports: &ports,
        ceiling: &ceiling,
        restart: &restart,
        schedule_check: &schedule_check,
        record: config.journal.record,
        pending_max: config.outbox.settings().pending_max,
        libraries: &libraries,
    };
    for (index, library) in libraries.iter().enumerate() {
        let refused = |message: String| problem(&format!("libraries.{index}.source"), message);
        terms.library_manifest(&library.source).map_err(refused)?;
        check_component(config, &bundle(&library.source).1).map_err(refused)?;
    }
    let mut names = BTreeMap::new();
    for (index, module) in config.modules.iter().enumerate() {
        for (key, value) in &module.config {
            config_values(key, value, &mut Vec::new()).map_err(|message| {
                // The key is in front already, as this file has it.
                let what = message.split_once(": ").map_or(&*message, |(_, what)| what);
                problem(&format!("modules.{index}.config.{key}"), what)
            })?;
        }
        let refused = |message: String| problem(&format!("modules.{index}.source"), message);
        let spec = module_spec(module);
        let plan = terms.plan(&spec).map_err(refused)?;
        check_component(config, &plan.component).map_err(refused)?;
        if let Some(Wrong::Value { key, message, is_operators: true }) = schema::check(&plan, &spec) {
            return Err(problem(&format!("modules.{index}.config.{key}"), message));
        }
        let plan = schema::checked(plan, &spec).map_err(refused)?;
        for (key, secret) in schema::secret_names(&plan) {
            let module = &*plan.manifest.name;
            let is_its = |credential: &Credential| {
                credential.name.as_deref() == Some(secret.as_str()) && credential.modules.iter().any(|it| it == module)
            };
            if !config.egress.credentials.iter().any(is_its) {
                return Err(refused(format!(
                    "[config] {key}: there is no secret of the name that it has: [[egress.credentials]] has none for module \
                     `{module}`"
                )));
            }
        }
        if let Some(first) = names.insert(plan.manifest.name.clone(), index) {
            let (name, first) = (&plan.manifest.name, first + 1);
            return Err(refused(format!(
                "holds module `{name}`, as [[modules]] number {first} does; names must differ"
            )));
        }
    }
    Ok(())
}

/// Whether there is a component, and none that is too large.
fn check_component(config: &Config, path: &Path) -> Result<(), String> {
    let component = path.display();
    if !path.is_file() {
        return Err(format!("{component} is missing: a bundle has one beside its nexum.toml"));
    }
    let most = config.engine.max_component_bytes;
    match path.metadata().ok().map(|found| found.len()).filter(|bytes| *bytes > most) {
        None => Ok(()),
        Some(bytes) => Err(format!("{component} has {bytes} bytes, more than [engine] max_component_bytes = {most}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nexum_testkit::wasm;

    use super::*;
    use crate::config::{Identity, Module};

    const CAPABILITIES: &str = "[capabilities]\nrequired = [\"logging\"]\n";

    fn written(directory: &Path, name: &str, rest: &str) -> Module {
        fs::create_dir_all(directory).unwrap();
        let component = "1".repeat(64);
        let manifest =
            format!("[module]\nname = \"{name}\"\nversion = \"0.1.0\"\ncomponent = \"sha256:{component}\"\n{rest}");
        fs::write(directory.join("nexum.toml"), manifest).unwrap();
        fs::write(directory.join("module.wasm"), "").unwrap();
        Module::at(directory)
    }

    fn refusal(modules: Vec<Module>) -> Option<String> {
        check(&Config { modules, ..Config::default() }).err().map(|problem| problem.message)
    }

    #[test]
    fn modules_that_would_be_dead_at_the_start_are_told() {
        let dir = tempfile::TempDir::new().unwrap();
        let good = |at: &str, name: &str| written(&dir.path().join(at), name, CAPABILITIES);
        assert_eq!(refusal(vec![good("a", "a"), good("b", "b")]), None);

        let missing = refusal(vec![Module::at(&dir.path().join("none"))]).unwrap();
        assert!(missing.contains("none/nexum.toml"), "{missing}");
        let twice = refusal(vec![good("a", "a"), good("b", "a")]).unwrap();
        assert_eq!(twice, "holds module `a`, as [[modules]] number 1 does; names must differ");
        let denied = Module { denied: vec!["logging".parse().unwrap()], ..good("a", "a") };
        let denied = refusal(vec![denied]).unwrap();
        assert!(denied.ends_with("capability `logging` is required but the operator denies it"), "{denied}");
        let signs = || written(&dir.path().join("s"), "s", "[capabilities]\nrequired = [\"identity\"]\n");
        let without = refusal(vec![signs()]).unwrap();
        assert!(without.contains("capability `identity` is required but this engine provides no such"), "{without}");
        let with = Config { modules: vec![signs()], identity: Some(Identity::default()), ..Config::default() };
        assert!(check(&with).is_ok());
        let elsewhere = written(&dir.path().join("c"), "c", &format!("[chains]\nrequired = [1]\n{CAPABILITIES}"));
        let elsewhere = refusal(vec![elsewhere]).unwrap();
        assert!(elsewhere.contains("chain 1 is required but the engine has no endpoint for it"), "{elsewhere}");
        let mut float = good("e", "e");
        float.config.insert("factor".to_owned(), toml::Value::Float(1.5));
        let float = refusal(vec![float]).unwrap();
        assert_eq!(float, "a float has no form in WIT here; write it as a string, an integer or a boolean");
        let typed = |every: i64| {
            let module = good("t", "t");
            let schema = r#"{"kind":"table","fields":[{"name":"every","type":{"kind":"integer","min":1,"max":9}}]}"#;
            let section = wasm::section(0, &[wasm::string("nexum:config"), schema.into()].concat());
            let component = wasm::component(&[wasm::core_module(&[section])]);
            fs::write(dir.path().join("t/module.wasm"), component).unwrap();
            Module { config: [("every".to_owned(), toml::Value::Integer(every))].into(), ..module }
        };
        assert_eq!(refusal(vec![typed(9)]), None);
        assert_eq!(refusal(vec![typed(0)]).unwrap(), "expected a whole number from 1 to 9");
        let unset = Module { config: BTreeMap::new(), ..typed(9) };
        let unset = refusal(vec![unset]).unwrap();
        assert!(
            unset.ends_with("t/nexum.toml: [config] every: is missing: expected a whole number from 1 to 9"),
            "{unset}"
        );
        fs::write(
            dir.path().join("t/nexum.toml"),
            fs::read_to_string(dir.path().join("t/nexum.toml")).unwrap() + "[config]\n\nevry = 1\n",
        )
        .unwrap();
        let misspelt = refusal(vec![Module::at(&dir.path().join("t"))]).unwrap();
        assert!(misspelt.ends_with("t/nexum.toml:9: [config] evry: unknown key, did you mean `every`?"), "{misspelt}");
        let hook = good("h", "h");
        let schema = r#"{"kind":"table","fields":[{"name":"hook","type":{"kind":"secret"}}]}"#;
        let section = wasm::section(0, &[wasm::string("nexum:config"), schema.into()].concat());
        fs::write(dir.path().join("h/module.wasm"), wasm::component(&[section])).unwrap();
        let hook = Module { config: [("hook".to_owned(), "slack".into())].into(), ..hook };
        let without = refusal(vec![hook.clone()]).unwrap();
        assert!(without.starts_with("[config] hook: there is no secret of the name that it has"), "{without}");
        let mut secrets = Config { modules: vec![hook], ..Config::default() };
        let credential = "name = \"slack\"\nhosts = [\"a.example\"]\nmodules = [\"h\"]\nvalue = \"k3y-0123456789\"\n";
        secrets.egress.credentials.push(toml::from_str(credential).unwrap());
        assert!(check(&secrets).is_ok());
        let mut config = Config { modules: vec![good("f", "f")], ..Config::default() };
        config.engine.max_component_bytes = 7;
        fs::write(dir.path().join("f/module.wasm"), "8 bytes!").unwrap();
        let large = check(&config).err().unwrap().message;
        assert!(large.ends_with("module.wasm has 8 bytes, more than [engine] max_component_bytes = 7"), "{large}");
        let bare = good("d", "d");
        fs::remove_file(dir.path().join("d/module.wasm")).unwrap();
        let bare = refusal(vec![bare]).unwrap();
        assert!(bare.contains("d/module.wasm is missing"), "{bare}");
    }

    #[test]
    fn a_library_that_is_not_there_or_is_none_is_told() {
        let dir = tempfile::TempDir::new().unwrap();
        let library = |at: &str, name: &str, rest: &str| {
            let bundle = dir.path().join(at);
            written(&bundle, name, rest);
            let text = fs::read_to_string(bundle.join("nexum.toml")).unwrap();
            let text = text.replace("[module]\n", "[module]\nkind = \"library\"\n");
            fs::write(bundle.join("nexum.toml"), text).unwrap();
            Library { source: bundle.to_string_lossy().into_owned(), denied: Vec::new(), config: BTreeMap::new() }
        };
        let using = |version: &str| {
            let component = "1".repeat(64);
            let used = format!("[libraries.cow]\nversion = \"{version}\"\ncomponent = \"sha256:{component}\"\n");
            written(&dir.path().join("m"), "m", &format!("{CAPABILITIES}{used}"))
        };
        let refusal = |modules: Vec<Module>, libraries: Vec<Library>| {
            check(&Config { modules, libraries, ..Config::default() }).err().map(|problem| problem.message)
        };
        let cow = || library("l", "cow", CAPABILITIES);
        assert_eq!(refusal(vec![using("0.1.0")], vec![library("o", "other", CAPABILITIES), cow()]), None);
        let none = refusal(vec![using("0.1.0")], Vec::new()).unwrap();
        assert!(
            none.ends_with("[[libraries]] in the engine's configuration has none: add the source of its bundle there")
        );
        let other = refusal(vec![using("0.1.0")], vec![library("o", "other", CAPABILITIES)]).unwrap();
        assert!(
            other.contains("library `cow` 0.1.0, sha256:1111") && other.contains("has other 0.1.0, sha"),
            "{other}"
        );
        let version = refusal(vec![using("0.2.0")], vec![cow()]).unwrap();
        assert!(
            version.ends_with("its version is 0.1.0, but the module's [libraries] says 0.2.0 for the same component")
        );
        let denied = Library { denied: vec!["logging".parse().unwrap()], ..cow() };
        let denied = refusal(vec![using("0.1.0")], vec![denied]).unwrap();
        assert!(denied.contains("library `cow`, ") && denied.ends_with("but the operator denies it"), "{denied}");
        let as_module = refusal(vec![Module::at(&dir.path().join("l"))], Vec::new()).unwrap();
        assert!(as_module.ends_with("is a library, which modules use: list it in [[libraries]]"), "{as_module}");
        let source = using("0.1.0").source;
        let as_library = Library { source, denied: Vec::new(), config: BTreeMap::new() };
        let as_library = refusal(Vec::new(), vec![as_library]).unwrap();
        assert!(as_library.ends_with("is no library: list it in [[modules]]"), "{as_library}");
    }
}
