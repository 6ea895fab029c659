//! What a bundle is, told without running it: its files are read and checked, and nothing of its component is compiled.
//!
//! `render::bundle` puts it into text. What fires next is told from the time that is handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use nexum_config_schema::Table;
use nexum_host_ifaces::{
    Hash,
    capability::Capability,
    cron::ScheduleNext,
    interfaces::{
        INTERFACES,
        chain::{CAPABILITY as CHAIN, grant::EXTRA_METHODS},
        http::{CAPABILITY as HTTP, grant::ALLOW},
    },
};
use nexum_kernel::{
    load,
    manifest::{Kind, LibraryReference, Manifest, OnReorg},
    schema,
    sources::{Calendar, Shown},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::config::Period;

/// Times that are told of one schedule.
pub const RUNS: usize = 5;

/// A bundle that an engine would take, as far as its files tell.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name, or that of the library that it is.
    pub module: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_library: bool,
    pub version: String,
    pub description: String,
    pub authors: Vec<String>,
    /// `sha256:` and 64 hex digits.
    pub component: String,
    pub component_bytes: u64,
    pub capabilities: RequiredOptional<Capability>,
    pub chains: RequiredOptional<u64>,
    pub extra_methods: Vec<String>,
    /// Hosts that requests may go to: exact names, or `*.suffix`.
    pub http_allow: Vec<String>,
    /// What it asks for of other interfaces, by interface and key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub asks: BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>,
    /// What its component calls besides the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<Used>,
    pub subscriptions: Vec<Subscription>,
    pub on_reorg: &'static str,
    pub limits: Bounds,
    pub restart: Restart,
}

/// A library that a component was built against.
#[derive(Debug, Serialize)]
pub struct Used {
    pub name: String,
    pub version: String,
    /// `sha256:` and 64 hex digits.
    pub component: String,
}

#[derive(Debug, Serialize)]
pub struct RequiredOptional<T> {
    pub required: Vec<T>,
    pub optional: Vec<T>,
}

/// One thing that a module is told of.
#[derive(Debug, Serialize)]
pub struct Subscription {
    /// The name of the cursor, such as `chain:1`, which several subscriptions may share.
    pub source: String,
    /// The subscription in words.
    pub what: String,
    /// When a schedule fires next, milliseconds since the Unix epoch: at most `RUNS`, fewer when it then fires no more.
    /// Absent where there is no schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<Vec<u64>>,
}

#[derive(Debug, Serialize)]
pub struct Bounds {
    pub max_memory_bytes: u64,
    pub max_fuel_per_event: u64,
    pub max_state_bytes: u64,
    pub event_deadline: Period,
}

#[derive(Debug, Serialize)]
pub struct Restart {
    pub max_consecutive_failures: u32,
    pub max_event_attempts: u32,
    /// First wait and cap.
    pub backoff: [Period; 2],
}

/// When a schedule of a configured module fires next.
#[derive(Debug, Serialize)]
pub struct Planned {
    pub module: String,
    /// The schedule in words.
    pub what: String,
    /// As in `Subscription`.
    pub next_ms: Vec<u64>,
}

/// The lists of `[capabilities.NAME]` that have no field of their own.
fn asks(manifest: &Manifest) -> BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>> {
    let others = INTERFACES.iter().filter(|row| ![CHAIN, HTTP].contains(&row.capability));
    let lists = others.map(|row| {
        let lists = row.table.iter().map(|key| (key.name, manifest.list(row.capability, key.name).to_vec()));
        (row.capability.name(), lists.filter(|(_, list)| !list.is_empty()).collect::<BTreeMap<_, _>>())
    });
    lists.filter(|(_, lists)| !lists.is_empty()).collect()
}

/// Reads the bundle at `source`, a directory or the manifest in it.
///
/// # Errors
/// One line with the file, and the line or the key where it is the manifest that is wrong.
pub fn inspect(source: &Path, now_ms: u64) -> anyhow::Result<Report> {
    let (at, component) = load::bundle(source);
    let manifest = Manifest::read(&at, &crate::wire::schedule_check())?;
    let (found, component_bytes) = digest(&component).with_context(|| format!("{}", component.display()))?;
    let named = |hash: Hash| format!("sha256:{}", hex::encode(hash.0));
    if found != manifest.component {
        bail!(
            "{}: `component` in [module] is {}, but {} has {}: package it again",
            at.display(),
            named(manifest.component),
            component.display(),
            named(found)
        );
    }
    Ok(Report {
        module: manifest.name.to_string(),
        is_library: manifest.kind == Kind::Library,
        component: named(found),
        component_bytes,
        capabilities: RequiredOptional { required: manifest.required.clone(), optional: manifest.optional.clone() },
        chains: RequiredOptional {
            required: manifest.required_chains.iter().copied().collect(),
            optional: manifest.optional_chains.iter().copied().collect(),
        },
        extra_methods: BTreeSet::from_iter(manifest.list(CHAIN, EXTRA_METHODS).iter().cloned()).into_iter().collect(),
        http_allow: manifest.list(HTTP, ALLOW).to_vec(),
        asks: asks(&manifest),
        libraries: manifest.libraries.iter().map(|library| used(library, named)).collect(),
        subscriptions: subscriptions(&manifest, now_ms),
        on_reorg: match manifest.on_reorg {
            OnReorg::Rewind => "rewind",
            OnReorg::Notify => "notify",
        },
        limits: Bounds {
            max_memory_bytes: manifest.limits.max_memory_bytes as u64,
            max_fuel_per_event: manifest.limits.max_fuel_per_event,
            max_state_bytes: manifest.limits.max_state_bytes,
            event_deadline: Period(manifest.limits.event_deadline),
        },
        restart: Restart {
            max_consecutive_failures: manifest.restart.max_consecutive_failures,
            max_event_attempts: manifest.restart.max_event_attempts,
            backoff: [Period(manifest.restart.backoff_first), Period(manifest.restart.backoff_cap)],
        },
        version: manifest.version,
        description: manifest.description,
        authors: manifest.authors,
    })
}

/// What the component of the bundle at `source` says of its configuration.
///
/// # Errors
/// There is no component, or it says something that cannot be used.
pub fn schema(source: &Path) -> anyhow::Result<Option<Table>> {
    let (_, component) = load::bundle(source);
    digest(&component).with_context(|| format!("{}", component.display()))?;
    schema::of_component(&component).map_err(|error| anyhow!("{}: {error}", component.display()))
}

fn used(library: &LibraryReference, named: impl Fn(Hash) -> String) -> Used {
    let LibraryReference { name, version, component } = library;
    Used { name: name.to_string(), version: version.clone(), component: named(*component) }
}

/// What fires next of every schedule in the bundle at `source`.
///
/// # Errors
/// As those of `inspect` about the manifest.
pub fn planned(source: &Path, now_ms: u64) -> anyhow::Result<Vec<Planned>> {
    let (at, _) = load::bundle(source);
    let manifest = Manifest::read(&at, &crate::wire::schedule_check())?;
    let all = subscriptions(&manifest, now_ms);
    let planned = all.into_iter().filter_map(|Subscription { what, next_ms, .. }| {
        next_ms.map(|next_ms| Planned { module: manifest.name.to_string(), what, next_ms })
    });
    Ok(planned.collect())
}

/// Hash and size of a component's file, which need not fit into memory.
fn digest(path: &Path) -> anyhow::Result<(Hash, u64)> {
    ensure!(path.exists(), "is missing: a bundle has one beside its nexum.toml");
    let mut file = load::open(path)?;
    ensure!(file.metadata()?.is_file(), "is not a file");
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head)?;
    super::check_component(&head)?;
    let mut hasher = Sha256::new_with_prefix(&head);
    let rest = io::copy(&mut file, &mut hasher)?;
    Ok((Hash(hasher.finalize().into()), head.len() as u64 + rest))
}

/// What the sources of a manifest tell its module of, in their order.
fn subscriptions(manifest: &Manifest, now_ms: u64) -> Vec<Subscription> {
    let next: ScheduleNext = Arc::new(nexum_cron::next_after);
    let calendar = Calendar { next: &next, now_ms, times: RUNS };
    let told = manifest.sources.iter().flat_map(|source| {
        let of = move |Shown { what, next_ms }| Subscription { source: source.id().to_string(), what, next_ms };
        source.shown(&calendar).into_iter().map(of)
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use nexum_testkit::wasm::{COMPONENT, MODULE};
    use tempfile::TempDir;

    use super::*;
    use crate::render;

    /// 2023-11-14 22:13:20.5 UTC
    const NOW_MS: u64 = 1_700_000_000_500;

    fn bundle(rest: &str) -> (TempDir, PathBuf) {
        let directory = TempDir::new().unwrap();
        let hash = hex::encode(Sha256::digest(COMPONENT));
        let manifest = format!("[module]\nname = \"m\"\nversion = \"0.1.0\"\ncomponent = \"sha256:{hash}\"\n{rest}");
        fs::write(directory.path().join("nexum.toml"), manifest).unwrap();
        fs::write(directory.path().join("module.wasm"), COMPONENT).unwrap();
        let path = directory.path().to_owned();
        (directory, path)
    }

    const EVERYTHING: &str = "description = \"counts\"\nauthors = [\"a\", \"b\"]\n\
        [chains]\nrequired = [1]\noptional = [100]\n\
        [capabilities]\nrequired = [\"http\", \"logging\"]\noptional = [\"identity\"]\n\
        [capabilities.http]\nallow = [\"api.example.org\", \"*.example.net\"]\n\
        [capabilities.identity]\nmethods = [\"sign\"]\n\
        [[subscription]]\nkind = \"block\"\nchain_id = 1\nmissed = \"latest\"\n\
        [[subscription]]\nkind = \"log\"\nchain_id = 100\nconfirmations = 3\nstart_block = 7\n\
        address = \"0x5FbDB2315678afecb367f032d93F642f64180aa3\"\n\
        [[subscription]]\nkind = \"cron\"\nschedule = \"*/5 * * * *\"\nmissed = \"all\"\n\
        [[subscription]]\nkind = \"cron\"\nevery = \"90s\"\n";

    #[test]
    fn a_bundle_is_told_in_words_with_what_fires_next() {
        let (_directory, path) = bundle(EVERYTHING);
        let report = inspect(&path, NOW_MS).unwrap();
        assert_eq!(report.component_bytes, 8);
        let text = render::bundle::report(&report);
        for line in [
            "module          m 0.1.0",
            "description     counts",
            "authors         a, b",
            "size            8 B",
            "required        http, logging",
            "optional        identity",
            "hosts           api.example.org, *.example.net",
            "identity        methods: sign",
            "chains          1; optional 100",
            "told of         blocks, of several that wait only the newest, of chain 1, from the head at the first load on",
            "                logs of chain 100 from 0x5fbdb2315678afecb367f032d93f642f64180aa3, from block 7 on, once 3 more \
             blocks follow",
            "                schedule `*/5 * * * *` in UTC; missed runs are delivered too",
            "                  2023-11-14 22:15:00 UTC",
            "                  2023-11-14 22:35:00 UTC",
            "                every 90s; missed runs are skipped",
            "                  2023-11-14 22:13:30 UTC",
            "memory          64.0 MiB",
            "event deadline  2m",
        ] {
            assert!(text.lines().any(|told| told == line), "`{line}` is not in\n{text}");
        }
        let next = report.subscriptions[2].next_ms.as_ref().unwrap();
        assert_eq!((next.len(), next[0]), (RUNS, 1_700_000_100_000));
        assert_eq!(report.subscriptions[0].next_ms, None);
    }

    #[test]
    fn what_fires_next_is_told_of_a_configuration_in_comments() {
        let (_directory, path) =
            bundle("[capabilities]\n[[subscription]]\nkind = \"cron\"\nschedule = \"0 0 29 2 *\"\n");
        let text = render::bundle::planned(&planned(&path, NOW_MS).unwrap());
        let expected = "\n# What fires next:\n# m: schedule `0 0 29 2 *` in UTC; missed runs are skipped\n\
                        #   2024-02-29 00:00:00 UTC\n#   2028-02-29 00:00:00 UTC\n#   2032-02-29 00:00:00 UTC\n\
                        #   2036-02-29 00:00:00 UTC\n#   2040-02-29 00:00:00 UTC\n";
        assert_eq!(text, expected);
        assert_eq!(render::bundle::planned(&[]), "");
        let over = Planned { module: "m".to_owned(), what: "x\ny = 1".to_owned(), next_ms: Vec::new() };
        let text = render::bundle::planned(&[over]);
        assert!(text.lines().skip(1).all(|line| line.starts_with('#')), "a line of it would be configuration: {text}");
        assert!(text.ends_with("#   never again\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_with_a_bundle_is_told_with_file_and_field() {
        let refused = |path: &Path| format!("{:#}", inspect(path, NOW_MS).unwrap_err());
        let (_never, path) = bundle("[capabilities]\n[[subscription]]\nkind = \"cron\"\nschedule = \"0 0 30 2 *\"\n");
        let never = refused(&path);
        assert!(never.contains("nexum.toml:8: ") && never.contains("it never fires"), "{never}");

        let (_other, path) = bundle("[capabilities]\n");
        fs::write(path.join("module.wasm"), [COMPONENT, b"\0"].concat()).unwrap();
        let other = refused(&path);
        assert!(other.contains("nexum.toml: `component` in [module] is sha256:"), "{other}");
        fs::write(path.join("module.wasm"), MODULE).unwrap();
        let core = refused(&path);
        assert!(core.contains("module.wasm: is a core module, not a component"), "{core}");
        fs::remove_file(path.join("module.wasm")).unwrap();
        let bare = refused(&path);
        assert!(bare.contains("module.wasm: is missing: a bundle has one"), "{bare}");
        let nothing = refused(&path.join("nowhere"));
        assert!(nothing.contains("nowhere/nexum.toml: cannot be read"), "{nothing}");
    }

    #[test]
    fn what_a_manifest_says_cannot_steer_the_terminal() {
        let rest =
            "description = \"\\u001b[2J\\u202eevil\\nmodule  trusted\"\nauthors = [\"\\u0007\"]\n[capabilities]\n";
        let (_directory, path) = bundle(rest);
        let text = render::bundle::report(&inspect(&path, NOW_MS).unwrap());
        assert!(text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{text:?}");
        assert!(text.contains("description     \\u{1b}[2J\\u{202e}evil module trusted\n"), "{text}");
    }
}
