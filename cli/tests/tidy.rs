//! House rules that a test can hold: which crate may depend on which, what may be depended on, and how files are kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// A file past this wants a second look at what it owns.
const LINES_MAX: usize = 500;

/// Versions in the lock file besides the first of each crate. More of them want a look at what asked for one.
const SURPLUS_VERSIONS_MAX: usize = 63;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata(args: &[&str]) -> Value {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    // Only what this machine builds; the rest of the lock file need not be here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform", &platform])
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Direct dependencies by package, dev-dependencies left out.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let metadata = metadata(&["--no-deps"]);
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let direct = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        all.iter().filter(|dependency| dependency["kind"] != "dev").map(name).collect()
    };
    packages.iter().map(|package| (name(package), direct(package))).collect()
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let allowed: &[(&str, &[&str])] = &[
        ("nexum-records", &[]),
        ("nexum-config-schema", &[]),
        ("nexum-host-ifaces", &["nexum-records"]),
        ("nexum-admin-api", &["nexum-records"]),
        ("nexum-kernel", &["nexum-admin-api", "nexum-config-schema", "nexum-host-ifaces"]),
        ("nexum-store", &["nexum-host-ifaces"]),
        ("nexum-chain", &["nexum-host-ifaces"]),
        ("nexum-cron", &["nexum-host-ifaces"]),
        ("nexum-egress", &["nexum-host-ifaces"]),
        ("nexum-identity", &["nexum-host-ifaces"]),
        ("nexum-messaging", &["nexum-host-ifaces"]),
        ("nexum-transactions", &["nexum-host-ifaces"]),
        ("nexum-remote-store", &["nexum-host-ifaces", "nexum-swarm"]),
        ("nexum-swarm", &[]),
        ("nexum-gateway", &["nexum-admin-api", "nexum-host-ifaces", "nexum-kernel"]),
        ("nexum-ctl", &["nexum-admin-api", "nexum-records"]),
        ("nexum-sdk", &["nexum-config-schema", "nexum-sdk-macros"]),
        ("nexum-sdk-macros", &[]),
        ("shepherd-cow", &[]),
        ("nexum-testkit", &[]),
        ("nexum-testkit-engine", &["nexum-host-ifaces", "nexum-kernel", "nexum-store", "nexum-testkit"]),
        ("nexum-testkit-swarm", &["nexum-swarm", "nexum-testkit"]),
    ];
    let dependencies = dependencies();
    let ours: Vec<_> = dependencies.keys().cloned().collect();
    let is_for_tests = |name: &String| name.starts_with("nexum-testkit");
    for (package, direct) in dependencies.iter().filter(|(package, _)| !is_for_tests(package)) {
        assert!(!direct.iter().any(is_for_tests), "{package} runs with what is for tests alone");
    }
    for (package, may) in allowed {
        let direct = dependencies.get(*package).unwrap_or_else(|| panic!("no package {package}"));
        for dependency in direct.iter().filter(|dependency| ours.contains(dependency)) {
            assert!(may.contains(&dependency.as_str()), "{package} must not depend on {dependency}");
        }
    }
}

/// Whether a package reaches one of these crates or of those whose names begin so, through whatever it depends on.
fn assert_never_reaches(package: &str, banned: &[&str]) {
    let metadata = metadata(&[]);
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let node = |id: &str| nodes.iter().find(|node| node["id"] == id).unwrap();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let start = names.iter().find(|(_, name)| **name == package).map(|(id, _)| *id).unwrap();
    let (mut seen, mut open) = (vec![start], vec![start]);
    while let Some(id) = open.pop() {
        for dependency in node(id)["deps"].as_array().unwrap() {
            let normal = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            let id = dependency["pkg"].as_str().unwrap();
            if normal && !seen.contains(&id) {
                seen.push(id);
                open.push(id);
            }
        }
    }
    for banned in banned {
        let reached =
            seen.iter().map(|id| names[id]).find(|name| name == banned || name.starts_with(&format!("{banned}-")));
        assert_eq!(reached, None, "{package} reaches {banned}");
    }
}

#[test]
fn the_kernel_never_reaches_what_belongs_to_an_actor() {
    assert_never_reaches("nexum-kernel", &["alloy", "rocksdb", "axum", "reqwest", "figment"]);
}

#[test]
fn the_client_never_reaches_what_makes_an_engine() {
    let servers = ["rocksdb", "axum", "alloy", "reqwest", "rustls", "figment", "prometheus", "ractor"];
    let compiler = ["wasmtime", "cranelift", "wasmparser"];
    assert_never_reaches("nexum-ctl", &[&servers[..], &compiler].concat());
    // The program is built in another package, and is the client alone as long as it names nothing else.
    let program = fs::read_to_string(root().join("cli/src/bin/nexumctl.rs")).unwrap();
    let code = program.lines().filter(|line| !line.starts_with("//"));
    assert_eq!(code.filter(|line| line.contains("nexum")).collect::<Vec<_>>(), ["    nexum_ctl::main()"]);
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_say_what_they_own_and_stay_small() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50);
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let shown = file.strip_prefix(root()).unwrap().display().to_string();
        // What the compile-fail cases of the macros look like is their point.
        if shown.contains("/ui/") {
            continue;
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{shown}: does not begin with `//!` saying what it owns"));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!("{shown}: {} lines, more than {LINES_MAX}", text.lines().count()));
        }
        // Cargo would take `tests/support.rs` for a test of its own.
        if file.file_name().is_some_and(|name| name == "mod.rs") && !shown.ends_with("tests/support/mod.rs") {
            wrong.push(format!("{shown}: modules are `foo.rs` beside `foo/`"));
        }
        let ignore = concat!("#[", "ignore");
        if text.contains(ignore) {
            wrong.push(format!("{shown}: an ignored test hides a failure"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_lock_file_keeps_to_what_deny_toml_allows() {
    let read = |file: &str| -> toml::Table { toml::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap() };
    let (deny, lock) = (read("deny.toml"), read("Cargo.lock"));
    let named = |list: &str| -> BTreeSet<String> {
        let entries = deny["bans"][list].as_array().unwrap().iter();
        entries.map(|entry| entry["crate"].as_str().unwrap().to_owned()).collect()
    };
    let registry = format!("registry+{}", deny["sources"]["allow-registry"][0].as_str().unwrap());
    let ours = dependencies();
    let mut versions = BTreeMap::<String, usize>::new();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        match package.get("source") {
            Some(source) => assert_eq!(source.as_str(), Some(registry.as_str()), "{name}"),
            None => assert!(ours.contains_key(name), "{name} comes from nowhere"),
        }
        *versions.entry(name.to_owned()).or_default() += 1;
    }
    let forbidden: Vec<_> = named("deny").into_iter().filter(|name| versions.contains_key(name)).collect();
    assert_eq!(forbidden, Vec::<String>::new(), "deny.toml says why not");
    // Of platforms that nexum is not built for.
    versions.retain(|name, count| *count > 1 && !name.starts_with("windows") && name != "r-efi");
    let several: BTreeSet<String> = versions.keys().cloned().collect();
    let differing: Vec<_> = several.symmetric_difference(&named("skip")).cloned().collect();
    assert_eq!(differing, Vec::<String>::new(), "several versions here, or `skip` in deny.toml, but not both");
    let surplus = versions.values().sum::<usize>() - versions.len();
    assert!(surplus <= SURPLUS_VERSIONS_MAX, "{surplus} versions more than crates: {versions:?}");
}

/// Returns from the middle of a function with nothing, without a word why that may be. To be lowered, never raised.
const UNEXPLAINED_RETURNS_MAX: usize = 10;

/// The numbers of lines which leave a function with nothing when something is not there, and have no comment beside or above
/// them. Tests are left out.
fn unexplained_returns(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    let code = &lines[..lines.windows(2).position(is_tests).unwrap_or(lines.len())];
    let returns = |at: usize| {
        let alone = |line: &str| line == "return;" || line == "return Ok(());";
        let opens = code[at].ends_with("else {") && code.get(at + 1).copied().is_some_and(alone);
        opens || ["else { return }", "else { return Ok(()) }"].iter().any(|silent| code[at].contains(silent))
    };
    let explained = |at: usize| code[at].contains("//") || at > 0 && code[at - 1].starts_with("//");
    (0..code.len()).filter(|at| returns(*at) && !explained(*at)).map(|at| at + 1).collect()
}

#[test]
fn whoever_goes_on_with_nothing_says_when_that_may_be() {
    let sample = "a else { return };\n// Why.\nb else { return Ok(()) };\nc else { return }; // Why.\n} else {\nreturn;\n}\n\
                  d else { return None };\n#[cfg(test)]\nmod tests {\ne else { return };\n}\n";
    assert_eq!(unexplained_returns(sample), [1, 5]);
    let mut files = Vec::new();
    for folder in ["host-ifaces/src", "kernel/src", "actors"] {
        sources(&root().join(folder), &mut files);
    }
    let tests = ["tests", "tests.rs", "torture.rs", "benches"];
    let is_test = |file: &Path| file.iter().any(|part| tests.iter().any(|name| part == *name));
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !is_test(file.strip_prefix(root()).unwrap())) {
        let shown = file.strip_prefix(root()).unwrap().display();
        let lines = unexplained_returns(&fs::read_to_string(file).unwrap());
        found.extend(lines.into_iter().map(|line| format!("{shown}:{line}")));
    }
    assert!(found.len() <= UNEXPLAINED_RETURNS_MAX, "{} say nothing:\n{}", found.len(), found.join("\n"));
}

/// Whether source text names a crate: in a path, in a macro call, or where it is imported.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let used = after.starts_with("::") || after.starts_with('!') || after.starts_with(" as ");
        whole && (used || before.ends_with("use "))
    })
}

#[test]
fn every_dependency_is_used() {
    let metadata = metadata(&["--no-deps"]);
    let mut unused = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let mut files = Vec::new();
        sources(Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap(), &mut files);
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["rename"].as_str().or(dependency["name"].as_str()).unwrap().replace('-', "_");
            if !names(&code, &name) {
                unused.push(format!("{} does not use {name}", package["name"]));
            }
        }
    }
    assert_eq!(unused, Vec::<String>::new());
}

#[test]
fn only_the_table_of_effects_tells_their_kinds_apart() {
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    for source in ["host-ifaces/src", "kernel/src", "actors", "cli/src"] {
        sources(&root().join(source), &mut files);
    }
    for file in files {
        let shown = file.strip_prefix(root()).unwrap().display().to_string();
        if shown.contains("tests") || shown.contains("src/effects") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let kinds = ["Http", "Rpc", "Transaction", "Message"].into_iter();
        wrong.extend(
            kinds.filter(|kind| code.contains(&format!("Effect::{kind}("))).map(|kind| format!("{shown}: {kind}")),
        );
    }
    assert_eq!(wrong, Vec::<String>::new(), "what differs by kind belongs into host-ifaces/src/effects");
}

/// The names of metrics in a text, without what a histogram adds to its own.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let names = text.match_indices("nexum_").filter(|(at, _)| !text[..*at].ends_with(['_', '-', '.', '/', '"']));
    let name = |(at, _): (usize, &str)| {
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let name = text[at..].split(|c| !is_part(c)).next().unwrap();
        let suffix = ["_bucket", "_count", "_sum"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        suffix.unwrap_or(name).to_owned()
    };
    names.map(name).collect()
}

#[test]
fn every_metric_is_documented_and_alerts_use_those_that_are_there() {
    let mut files = Vec::new();
    for source in ["kernel/src", "actors", "cli/src"] {
        sources(&root().join(source), &mut files);
    }
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let quoted = text.split('"').filter(|piece| piece.starts_with("nexum_") && !piece.contains([' ', ':', '=', ',']));
    let crates = ["nexum_store", "nexum_kernel", "nexum_chain"];
    let there: BTreeSet<String> = quoted.filter(|name| !crates.contains(name)).map(str::to_owned).collect();
    assert!(there.len() > 30, "{there:?}");
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let documented = metrics_in(&read("docs/reference/metrics.md"));
    assert_eq!(there.symmetric_difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());
    let alerted = metrics_in(&read("deploy/alerts.yaml"));
    assert!(alerted.len() > 10 && alerted.is_subset(&documented), "{:?}", alerted.difference(&documented));
}

/// What a guest can call: functions of the hosted package as `interface.function`, and the interfaces of WASI.
fn callable() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in fs::read_dir(root().join("host-ifaces/wit")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut interface = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("interface ") {
                interface = name.split(' ').next();
            } else if line == "}" {
                interface = None;
            } else if let (Some(interface), Some((name, _))) = (interface, line.trim().split_once(": func(")) {
                found.insert(format!("{interface}.{name}"));
            }
        }
    }
    let linking = fs::read_to_string(root().join("host-ifaces/src/wasi.rs")).unwrap();
    for (path, _) in linking.lines().filter_map(|line| line.trim().split_once("::add_to_linker::<")) {
        let (package, interface) = path.split_once("::").unwrap();
        found.insert(format!("wasi:{}/{}", package.trim_start_matches("wasi_"), interface.replace('_', "-")));
    }
    found
}

#[test]
fn every_function_of_the_host_has_a_row_that_says_what_bounds_it() {
    let callable = callable();
    assert!(callable.contains("local-store.get") && callable.contains("wasi:io/streams"), "{callable:?}");
    assert!(callable.len() > 40, "{callable:?}");
    let text = fs::read_to_string(root().join("docs/reference/limits.md")).unwrap();
    let calls =
        text.split("\n## ").filter(|section| section.starts_with("`nexum:host`") || section.starts_with("WASI"));
    let rows = calls.flat_map(str::lines).filter_map(|line| line.strip_prefix("| `"));
    // The names in the first cell, between backquotes.
    let named: Vec<_> =
        rows.flat_map(|row| row.split(" |").next().unwrap().split('`').step_by(2)).map(str::to_owned).collect();
    let documented: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(documented.len(), named.len(), "a function has two rows");
    assert_eq!(documented.symmetric_difference(&callable).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// What the build would fail with later says nothing of it.
#[test]
fn a_libclang_path_without_libclang_is_refused_before_anything_is_built() {
    let empty = tempfile::TempDir::new().unwrap();
    for place in [empty.path(), &empty.path().join("nowhere")] {
        let mut make = Command::new("make");
        // As from a shell, whoever started the test.
        ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"].iter().for_each(|name| _ = make.env_remove(name));
        let output = make.arg("-C").arg(root()).arg("build-deps").env("LIBCLANG_PATH", place).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!("LIBCLANG_PATH: there is no libclang in {}: set it to", place.display());
        assert!(!output.status.success() && said.contains(&expected), "{said}");
    }
}

/// Words that were made up, or stood for several things at once, with what is said instead.
const RETIRED: &[(&str, &str)] = &[
    ("Ahead", "CommitQueue"),
    ("Bye", "ExitGuard"),
    ("Courier", "Attempts"),
    ("EndOf", "EndEffect"),
    ("NewsDesk", "ChangeFeed"),
    ("NotKept", "NotCommitted"),
    ("Owed", "PendingHeaders"),
    ("ReplayItem", "RedeliveryItem"),
    ("Seat", "Subscription"),
    ("Shelf", "EffectTable"),
    ("Shelved", "StoredEffect"),
    ("Taping", "TapeMode"),
    ("Wish", "RunState"),
];

#[test]
fn one_word_stands_for_one_thing() {
    let mut files = Vec::new();
    for folder in ["host-ifaces", "kernel", "actors", "cli/src", "cli/ctl", "sdk"] {
        sources(&root().join(folder), &mut files);
    }
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (word, instead) in RETIRED {
            let named = ["struct", "enum", "trait", "type"].map(|kind| format!("{kind} {word}"));
            let is_named = named.iter().any(|named| {
                text.match_indices(named.as_str()).any(|(at, _)| {
                    !text[at + named.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
                })
            });
            if is_named {
                wrong.push(format!("{}: {word} is called {instead} (docs/glossary.md)", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
