//! Files that cannot be read one after the other: how many of a crate name each other in circles.
//!
//! A file names another one where it imports from it or writes a path from the root of the crate, and a path belongs to the
//! longest module that it begins with. What is for tests alone does not count.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Files of the largest circle of each crate. These numbers only ever fall.
const CIRCLES: &[(&str, usize)] = &[
    ("host-ifaces/src", 3),
    ("host-ifaces/records/src", 0),
    ("actors/store/src", 3),
    ("actors/chain/src", 6),
    ("actors/cron/src", 0),
    ("actors/egress/src", 2),
    ("actors/gateway/src", 3),
    ("actors/gateway/api/src", 0),
    ("kernel/src", 13),
    ("cli/src", 9),
    ("cli/ctl/src", 2),
];

/// Files for tests and fuzz targets alone.
const FOR_TESTS: [&str; 2] = ["tests", "torture"];

/// The modules of a crate by their paths, `""` for its root, each with its text.
fn modules(source: &Path) -> BTreeMap<String, String> {
    let (mut found, mut open) = (BTreeMap::new(), vec![(source.to_owned(), String::new())]);
    while let Some((directory, path)) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = if path.is_empty() { name.clone() } else { format!("{path}::{name}") };
            if file.is_dir() {
                if name != "bin" {
                    open.push((file, inner));
                }
            } else if file.extension().is_some_and(|extension| extension == "rs") && !FOR_TESTS.contains(&&*name) {
                let is_root = path.is_empty() && (name == "lib" || name == "main");
                found.insert(if is_root { String::new() } else { inner }, fs::read_to_string(&file).unwrap());
            }
        }
    }
    found
}

/// The code of a file without comments and without its module of tests.
fn code(text: &str) -> String {
    let mut lines = Vec::new();
    let mut rest = text.lines().peekable();
    while let Some(line) = rest.next() {
        if line.trim() == "#[cfg(test)]" {
            // The item that follows: one line, or up to the brace that closes it.
            let indent = line.len() - line.trim_start().len();
            let opens = rest.peek().is_some_and(|item| item.ends_with('{'));
            rest.next();
            if opens {
                let closes = |line: &&str| line.trim() == "}" && line.len() - line.trim_start().len() == indent;
                rest.by_ref().find(closes);
            }
            continue;
        }
        lines.push(line.split("//").next().unwrap());
    }
    lines.join("\n")
}

/// The paths that the trees of imports in some code stand for, as they are written.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in code.split(';') {
        // An import is the last of what is before its end.
        let is_word = |at: &usize| part[..*at].chars().next_back().is_none_or(char::is_whitespace);
        if let Some(at) = part.rmatch_indices("use ").map(|(at, _)| at).find(is_word) {
            expand("", &part[at + 4..].replace(char::is_whitespace, " "), &mut found);
        }
    }
    // And where a path is written in full.
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let written = code.match_indices("crate::").map(|(at, _)| code[at..].split(|c| !is_part(c)).next().unwrap());
    found.extend(written.map(|path| path.trim_end_matches(':').to_owned()));
    found
}

fn expand(before: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        found.push(format!("{before}{path}").trim_end_matches("::self").to_owned());
        return;
    };
    let before = format!("{before}{}", head.trim());
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut item) = (0, String::new());
    for c in inner.chars().chain([',']) {
        match c {
            ',' if depth == 0 => {
                if !item.trim().is_empty() {
                    expand(&before, &item, found);
                }
                item.clear();
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        item.push(c);
    }
}

/// The path within the crate of what a module imports, if it is of the crate. `is_module` knows whether there is such a module.
fn absolute(module: &str, path: &str, is_module: impl Fn(&str) -> bool) -> Option<String> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return Some(rest.to_owned());
    }
    let mut here: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path;
    if let Some(own) = rest.strip_prefix("self::") {
        rest = own;
    } else if !rest.starts_with("super::") {
        // A module below this one, or another crate.
        let below = here.iter().copied().chain(rest.split("::").take(1)).collect::<Vec<_>>().join("::");
        if !is_module(&below) {
            return None;
        }
    } else {
        while let Some(above) = rest.strip_prefix("super::") {
            here.pop();
            rest = above;
        }
    }
    here.push(rest);
    Some(here.join("::"))
}

/// For every module those that it names.
fn graph(modules: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let owner = |path: &str| {
        let mut path = path;
        loop {
            if let Some((module, _)) = modules.get_key_value(path) {
                return Some(module.as_str());
            }
            path = path.rsplit_once("::").map_or("", |(before, _)| before);
            if path.is_empty() {
                return modules.get_key_value("").map(|(root, _)| root.as_str());
            }
        }
    };
    let named = |module: &str, text: &str| {
        let paths = imports(&code(text));
        let owners = paths
            .iter()
            .filter_map(|path| absolute(module, path, |path| modules.contains_key(path)))
            .filter_map(|path| owner(&path));
        owners.filter(|owner| *owner != module).collect::<BTreeSet<_>>()
    };
    modules.iter().map(|(module, text)| (module.as_str(), named(module, text))).collect()
}

/// The modules that are reached from one, itself only by way of another.
fn reached<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for next in graph.get(module).into_iter().flatten() {
            if seen.insert(*next) {
                open.push(next);
            }
        }
    }
    seen
}

/// The largest set of modules of which each reaches every other one.
fn largest_circle(source: &Path) -> Vec<String> {
    let modules = modules(source);
    let graph = graph(&modules);
    let reach: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|module| (*module, reached(&graph, module))).collect();
    let circle = |module: &&str| -> Vec<String> {
        let back = reach[module].iter().filter(|other| reach[**other].contains(module));
        back.map(|other| if other.is_empty() { "the root".to_owned() } else { (*other).to_owned() }).collect()
    };
    graph.keys().map(circle).max_by_key(Vec::len).unwrap_or_default()
}

#[test]
fn no_circle_of_files_is_larger_than_it_was() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let mut wrong = Vec::new();
    for (source, most) in CIRCLES {
        let circle = largest_circle(&root.join(source));
        if circle.len() != *most && (circle.len() > *most || *most > 3) {
            wrong.push(format!("{source}: {} files, {most} are allowed: {}", circle.len(), circle.join(" ")));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "where it has become less, let the number fall");
}

#[test]
fn imports_are_read_as_the_compiler_reads_them() {
    let text = "use std::fmt;\npub(crate) use self::b::{C, d::{self, E as F}};\nuse super::{g, super::H};\npub use k::L;\n// use crate::no;\n\
                #[cfg(test)]\nmod tests {\n    use crate::not_this;\n}\nfn f() {\n    use crate::i::J;\n    crate::m::n();\n}\n";
    let mut read: Vec<_> =
        imports(&code(text)).iter().filter_map(|path| absolute("x::a", path, |path| path == "x::a::k")).collect();
    read.sort();
    read.dedup();
    assert_eq!(read, ["H", "i::J", "m::n", "x::a::b::C", "x::a::b::d", "x::a::b::d::E", "x::a::k::L", "x::g"]);
}
