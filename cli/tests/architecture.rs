//! What docs/ARCHITECTURE.md says about the files that it takes to add something, held against the tree and the worked example.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where the new files of the example lie, by the paths that they would have in the tree.
const EXAMPLE: &str = "fixtures/echo";

/// How many files that are there may be touched to add one of these. These numbers only ever fall.
const EDITED_MAX: &[(&str, usize)] = &[("an interface", 4), ("a source", 1), ("an effect", 3)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One section "To add …".
#[derive(Debug, PartialEq, Eq)]
struct Section {
    /// The word that every file names which is touched for the example.
    example: String,
    new: BTreeSet<String>,
    edit: BTreeSet<String>,
}

/// The paths in the fenced blocks of a section that are marked so: the first word of each line.
fn listed(section: &str, mark: &str) -> BTreeSet<String> {
    let opening = format!("\n```{mark}\n");
    let mut paths = BTreeSet::new();
    for block in section.split(opening.as_str()).skip(1) {
        for line in block.split("\n```").next().unwrap().lines() {
            let path = line.split_whitespace().next().unwrap_or_else(|| panic!("an empty line in ```{mark}"));
            assert!(paths.insert(path.to_owned()), "{path} is listed twice");
        }
    }
    paths
}

/// The sections by what is added.
fn sections(page: &str) -> BTreeMap<String, Section> {
    let mut found = BTreeMap::new();
    for text in page.split("\n## To add ").skip(1) {
        let text = text.split("\n## ").next().unwrap();
        let (what, body) = text.split_once('\n').unwrap();
        let example = body.split("The example is `").nth(1).and_then(|rest| rest.split('`').next());
        let example = example.unwrap_or_else(|| panic!("{what}: no example is named")).to_owned();
        let section = Section { example, new: listed(body, "new"), edit: listed(body, "edit") };
        found.insert(what.to_owned(), section);
    }
    found
}

/// Every file below a folder, by its path from the root.
fn files(folder: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![root().join(folder)]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// Sources, interfaces and manifests of the tree whose text is like this.
fn files_where(is_like_this: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let folders = ["host-ifaces", "kernel", "actors", "cli/src", "cli/ctl", "sdk"];
    let mut all: Vec<String> = folders.into_iter().flat_map(files).collect();
    all.extend(["Cargo.toml", "cli/Cargo.toml"].map(str::to_owned));
    all.retain(|path| [".rs", ".wit", ".toml"].iter().any(|kind| path.ends_with(kind)));
    all.retain(|path| is_like_this(&read(path)));
    all.into_iter().collect()
}

fn page() -> BTreeMap<String, Section> {
    sections(&read("docs/ARCHITECTURE.md"))
}

/// What is new, or touched, for the example of this page.
fn of_the_example(page: &BTreeMap<String, Section>, list: fn(&Section) -> &BTreeSet<String>) -> BTreeSet<String> {
    page.values().filter(|section| section.example == "echo").flat_map(list).cloned().collect()
}

#[test]
fn everything_that_is_listed_is_there_and_names_its_example() {
    let page = page();
    let expected = ["a command", "a service", "a source", "a table of the store", "an effect", "an interface"];
    assert_eq!(page.keys().collect::<Vec<_>>(), expected);
    let mut wrong = Vec::new();
    for (what, Section { example, new, edit }) in &page {
        assert!(!new.is_empty() && !edit.is_empty(), "{what}: a list is missing");
        for path in new {
            let place = if example == "echo" { format!("{EXAMPLE}/{path}") } else { path.clone() };
            if !root().join(&place).is_file() {
                wrong.push(format!("{what}: {place} is not there"));
            } else if example == "echo" && root().join(path).exists() {
                wrong.push(format!("{what}: {path} is in the tree already"));
            }
        }
        for path in edit {
            let text = fs::read_to_string(root().join(path)).unwrap_or_default();
            if !text.to_lowercase().contains(example.as_str()) {
                wrong.push(format!("{what}: {path} is not there, or says nothing of {example}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_example_is_added_by_the_files_that_are_listed_and_no_others() {
    let page = page();
    let there: BTreeSet<String> = files(EXAMPLE).iter().map(|path| path[EXAMPLE.len() + 1..].to_owned()).collect();
    assert_eq!(there, of_the_example(&page, |section| &section.new), "new files");
    let touched = files_where(|text| [r#"feature = "echo""#, "nexum-echo"].iter().any(|mark| text.contains(mark)));
    assert_eq!(touched, of_the_example(&page, |section| &section.edit), "files that are touched");
    for (what, most) in EDITED_MAX {
        assert!(page[*what].edit.len() <= *most, "{what}: more than {most} files are to be touched");
    }
}

#[test]
fn an_effect_is_named_by_the_files_that_are_listed_and_no_others() {
    let page = page();
    let section = &page["an effect"];
    // What hands the type on says nothing about it.
    let lines = |text: &str| text.lines().filter(|line| !line.starts_with("pub use ")).collect::<Vec<_>>().join("\n");
    let naming = files_where(|text| ["RpcEffect", "rpc-effect"].iter().any(|name| lines(text).contains(name)));
    let expected: BTreeSet<String> = section.new.union(&section.edit).cloned().collect();
    assert_eq!(naming, expected);
}

/// Its feature changes what others are built with, so nothing but its own check may ask for it.
#[test]
fn no_build_but_its_own_has_the_example() {
    let asks = |line: &&str| line.contains("features") && line.contains("echo");
    let makefile = read("Makefile");
    let asking: Vec<_> = makefile.lines().filter(asks).collect();
    assert!(asking.len() == 2 && asking.iter().all(|line| line.starts_with("\t@cargo ")), "{asking:?}");
}

#[test]
fn lists_are_read_as_they_are_written() {
    let page = "# A\n\n## To add a thing\n\nThe example is `x`: so.\n\n```new\na/b.rs   what it is\nc.rs\n```\n\nText.\n\n```edit\nd.rs\n```\n\n\
                ## After\n\n```new\nno.rs\n```\n";
    let of = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let expected = Section { example: "x".to_owned(), new: of(&["a/b.rs", "c.rs"]), edit: of(&["d.rs"]) };
    assert_eq!(sections(page), BTreeMap::from([("a thing".to_owned(), expected)]));
}
