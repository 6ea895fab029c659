//! Packaging: a manifest and a component become a bundle that an engine verifies.
//!
//! Invariant: a bundle directory is complete or not there; one that is replaced goes in one step. Nothing is removed but the
//! files of a bundle. `inspect` tells what is in one.

pub mod inspect;

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nexum_host_ifaces::{
    interfaces::{
        http::{CAPABILITY as HTTP, grant::ALLOW},
        servable,
    },
    secrets,
};
use nexum_kernel::{
    load,
    manifest::{Kind, Manifest, ManifestError, text},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};
use toml_edit::{DocumentMut, Item, Value};

/// The files of a bundle. The last one is of a signature: whoever replaces what it signs removes it.
const MEMBERS: [&str; 3] = ["nexum.toml", "module.wasm", "nexum.sig"];
/// No engine is set to take nearly as much.
const COMPONENT_BYTES_MAX: u64 = 1 << 30;

/// What was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    pub name: String,
    /// `sha256:` and 64 hex digits.
    pub component: String,
    pub bundle: PathBuf,
}

/// Writes `nexum.toml`, with the hashes of the component and of `libraries` filled in, and `module.wasm` to the directory
/// `out`.
pub fn package(manifest_dir: &Path, component: &Path, libraries: &[PathBuf], out: &Path) -> anyhow::Result<Made> {
    let manifest = manifest_dir.join("nexum.toml");
    let text = text::read(&manifest, text::MANIFEST_BYTES_MAX);
    let text = text.map_err(|error| anyhow::anyhow!("{}: {error}", manifest.display()))?;
    let wasm = text::bytes(component, COMPONENT_BYTES_MAX);
    let wasm = wasm.map_err(|error| anyhow::anyhow!("{}: {error}", component.display()))?;
    check_component(&wasm).with_context(|| format!("{}", component.display()))?;
    let hash = format!("sha256:{}", hex::encode(Sha256::digest(&wasm)));
    let libraries = libraries.iter().map(|bundle| Built::read(bundle)).collect::<anyhow::Result<Vec<_>>>()?;
    let filled = fill_in(&text, &hash, &libraries).with_context(|| format!("{}", manifest.display()))?;
    // The check that an engine makes, so that a bundle that is made can be loaded.
    let checked = Manifest::parse(&filled, &manifest, &crate::wire::schedule_check())
        .map_err(|error| as_written(error, &text, &filled))?;
    if let Some(missing) = checked.required.iter().find(|capability| !servable().any(|served| served == **capability)) {
        let served: Vec<_> = servable().map(|capability| capability.name()).collect();
        bail!(
            "{}: capability `{missing}` is required but this version provides no such service: it has {}; what is listed \
             as optional may be missing",
            manifest.display(),
            served.join(", ")
        );
    }
    // An engine runs it, and refuses every request.
    if checked.required.contains(&HTTP) && checked.list(HTTP, ALLOW).is_empty() {
        bail!(
            "{}: capability `http` is required, but no host is allowed: add [capabilities.http] with such as allow = \
             [\"api.example.org\"]",
            manifest.display()
        );
    }

    let place = place(out).with_context(|| format!("--out {}", out.display()))?;
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
        bail!("--out {}: expected a directory to make", out.display());
    };
    fs::create_dir_all(parent).with_context(|| format!("{}", parent.display()))?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}", std::process::id()));
    let draft = parent.join(draft);
    // Whatever has this name already is somebody else's.
    fs::create_dir(&draft).with_context(|| format!("{}", draft.display()))?;
    let made = write(&draft, &filled, &wasm).map_err(Into::into).and_then(|()| put_in_place(&draft, &place));
    // After an exchange this is the bundle before, else a draft that failed, else nothing.
    let removed = remove(&draft).with_context(|| format!("the bundle before is left in {}", draft.display()));
    made.with_context(|| format!("{}", out.display()))?;
    removed?;
    Ok(Made { name: checked.name.to_string(), component: hash, bundle: out.to_owned() })
}

fn check_component(wasm: &[u8]) -> anyhow::Result<()> {
    match (wasm.get(..4), wasm.get(4..8)) {
        (Some(b"\0asm"), Some([0x0d, 0, 1, 0])) => Ok(()),
        (Some(b"\0asm"), _) => {
            bail!("is a core module, not a component: build for wasm32-wasip2, or use `wasm-tools component new`")
        }
        _ => bail!("is not WebAssembly"),
    }
}

/// A library that a module is packaged for.
struct Built {
    name: String,
    version: String,
    /// `sha256:` and 64 hex digits.
    component: String,
}

impl Built {
    fn read(bundle: &Path) -> anyhow::Result<Self> {
        let (at, _) = load::bundle(bundle);
        let manifest = Manifest::read(&at, &crate::wire::schedule_check())?;
        if manifest.kind != Kind::Library {
            bail!("{}: is no library, as --library wants one", at.display());
        }
        let component = format!("sha256:{}", hex::encode(manifest.component.0));
        Ok(Self { name: manifest.name.to_string(), version: manifest.version, component })
    }

    /// Sets its hash in the manifest of the module.
    fn fill_in(&self, document: &mut DocumentMut) -> anyhow::Result<()> {
        let Self { name, version, component } = self;
        let libraries = document.get_mut("libraries").and_then(Item::as_table_like_mut);
        let named = libraries.and_then(|libraries| libraries.get_mut(name)).and_then(Item::as_table_like_mut);
        let Some(named) = named else {
            bail!("does not use library `{name}`: add [libraries.{name}] with version = \"{version}\"");
        };
        let wanted = named.get("version").and_then(Item::as_str);
        if wanted != Some(version.as_str()) {
            let wanted = wanted.unwrap_or("none");
            bail!("[libraries.{name}] names version {wanted}, but the bundle of the library has {version}");
        }
        named.insert("component", toml_edit::value(component));
        Ok(())
    }
}

/// The manifest with `component` set in `[module]` and in `[libraries]`, in whatever form TOML that is written; the comments stay.
fn fill_in(manifest: &str, hash: &str, libraries: &[Built]) -> anyhow::Result<String> {
    let line = |offset: usize| manifest.get(..offset).unwrap_or(manifest).matches('\n').count() + 1;
    if let Some((at, message)) = text::too_deep(manifest) {
        bail!("line {}: {message}", line(at));
    }
    let mut document = manifest.parse::<DocumentMut>().map_err(|error| {
        let message = secrets::without_value(error.message());
        anyhow::anyhow!("line {}: {message}", error.span().map_or(1, |span| line(span.start)))
    })?;
    let module = document.get_mut("module").and_then(Item::as_table_like_mut);
    let Some(module) = module else { bail!("has no [module]") };
    match module.get_mut("component") {
        Some(Item::Value(present)) => {
            let decor = present.decor().clone();
            *present = Value::from(hash);
            *present.decor_mut() = decor;
        }
        Some(_) => bail!("`component` in [module] is a table: leave it out, it is filled in"),
        None => {
            module.insert("component", toml_edit::value(hash));
        }
    }
    libraries.iter().try_for_each(|library| library.fill_in(&mut document))?;
    Ok(document.to_string())
}

/// The same error at the line that the author sees: the line that was filled in is not in the author's file.
fn as_written(error: ManifestError, written: &str, filled: &str) -> ManifestError {
    if filled.lines().count() == written.lines().count() {
        return error;
    }
    let added = written.lines().zip(filled.lines()).take_while(|(written, filled)| written == filled).count() + 1;
    let line = error.line.map(|line| if line > added { line - 1 } else { line });
    ManifestError { line, ..error }
}

fn write(draft: &Path, manifest: &str, wasm: &[u8]) -> io::Result<()> {
    for (name, content) in [("nexum.toml", manifest.as_bytes()), ("module.wasm", wasm)] {
        let path = draft.join(name);
        fs::write(&path, content)?;
        fs::File::open(&path)?.sync_all()?;
    }
    fs::File::open(draft)?.sync_all()
}

/// Where a bundle may be made: nothing is there, or a bundle, or an empty directory.
fn place(out: &Path) -> anyhow::Result<PathBuf> {
    match out.symlink_metadata() {
        Ok(_) => {
            // What a link leads to is what is replaced, and `.` has a name then.
            let place = out.canonicalize()?;
            only_members(&place)?;
            Ok(place)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(std::path::absolute(out)?),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a directory that holds what no bundle does, such as the sources of a module.
fn only_members(directory: &Path) -> anyhow::Result<()> {
    if !directory.is_dir() {
        bail!("exists and is not a bundle: give another --out");
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() || !MEMBERS.iter().any(|member| name == *member) {
            let name = name.to_string_lossy();
            bail!("exists and is not a bundle, as `{name}` is in it: give another --out, such as a directory in it");
        }
    }
    Ok(())
}

fn put_in_place(draft: &Path, out: &Path) -> anyhow::Result<()> {
    if out.symlink_metadata().is_err() {
        return Ok(fs::rename(draft, out)?);
    }
    only_members(out)?;
    renameat_with(CWD, draft, CWD, out, RenameFlags::EXCHANGE)?;
    Ok(())
}

/// Removes a bundle, and nothing that is not of one.
fn remove(bundle: &Path) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    MEMBERS.iter().try_for_each(|name| gone(fs::remove_file(bundle.join(name))))?;
    gone(fs::remove_dir(bundle))
}

#[cfg(test)]
mod tests {
    use nexum_testkit::wasm::{COMPONENT, MODULE};

    use super::*;

    const MANIFEST: &str = "# about\n[module]\nname = \"m\"   # identity\nversion = \"0.1.0\"\n\n\
                            [module.restart]\nmax_event_attempts = 2\n\n[capabilities]\nrequired = [\"logging\"]\n";

    #[test]
    fn the_hash_is_filled_in_and_the_rest_stays() {
        let filled = fill_in(MANIFEST, "sha256:11", &[]).unwrap();
        assert_eq!(filled, MANIFEST.replace("\"0.1.0\"\n", "\"0.1.0\"\ncomponent = \"sha256:11\"\n"));
        assert_eq!(fill_in(&filled, "sha256:22", &[]).unwrap(), filled.replace("11", "22"));
        assert_eq!(fill_in("name = 1\n", "x", &[]).unwrap_err().to_string(), "has no [module]");
        assert!(fill_in("[module]\nname = \n", "x", &[]).unwrap_err().to_string().starts_with("line 2: "));
    }

    #[test]
    fn every_form_of_the_module_table_is_filled_in() {
        let forms = [
            "module = { name = \"m\", version = \"0.1.0\" }   # identity\n",
            "module = {\n    name = \"m\", # identity\n    version = \"0.1.0\",\n}\n",
            "module.name = \"m\"   # identity\nmodule.version = \"0.1.0\"\n",
            "[module]\nname = \"m\" # identity\nversion = \"0.1.0\"\nrestart.max_event_attempts = 2\n",
            "\"module\" = { \"name\" = \"m\", version = '0.1.0', restart.max_event_attempts = 2 } # identity",
        ];
        for form in forms {
            let written = format!("{form}\n[capabilities]\nrequired = [\"logging\"] # no more\n");
            let filled = fill_in(&written, "sha256:11", &[]).unwrap();
            let again = fill_in(&filled, "sha256:22", &[]).unwrap();
            assert_eq!(again, filled.replace("11", "22"));
            assert!(filled.contains("# identity") && filled.contains("# no more"), "{filled}");
            let mut table: toml::Table = toml::from_str(&filled).unwrap();
            let component = table["module"].as_table_mut().unwrap().remove("component");
            assert_eq!(component, Some(toml::Value::String("sha256:11".to_owned())), "{filled}");
            assert_eq!(table, toml::from_str::<toml::Table>(&written).unwrap(), "{filled}");
        }
    }

    #[test]
    fn the_hash_of_a_library_is_filled_in_for_the_version_that_it_has() {
        let built = || Built { name: "cow".into(), version: "0.3.0".into(), component: "sha256:33".into() };
        let filled = |more: &str| {
            fill_in(&format!("{MANIFEST}{more}"), "sha256:11", &[built()]).map_err(|error| error.to_string())
        };
        let placed = filled("[libraries.cow]\nversion = \"0.3.0\" # as built\n").unwrap();
        assert!(placed.contains("version = \"0.3.0\" # as built\ncomponent = \"sha256:33\"\n"), "{placed}");
        let inline = filled("[libraries]\ncow = { version = \"0.3.0\", component = \"sha256:22\" }\n").unwrap();
        assert!(inline.contains("sha256:33") && !inline.contains("sha256:22"), "{inline}");
        let unused = filled("").unwrap_err();
        assert!(unused.ends_with("add [libraries.cow] with version = \"0.3.0\""), "{unused}");
        let other = filled("[libraries.cow]\nversion = \"0.2.0\"\n").unwrap_err();
        assert!(other.ends_with("names version 0.2.0, but the bundle of the library has 0.3.0"), "{other}");
    }

    #[test]
    fn an_error_names_the_line_that_the_author_sees() {
        let directory = tempfile::TempDir::new().unwrap();
        let wasm = directory.path().join("m.wasm");
        fs::write(&wasm, COMPONENT).unwrap();
        let manifest = directory.path().join("nexum.toml");
        let refused = |text: String| {
            fs::write(&manifest, text).unwrap();
            package(directory.path(), &wasm, &[], &directory.path().join("out")).unwrap_err().to_string()
        };
        let at = |line: usize| format!("{}:{line}: ", manifest.display());
        let later = refused(MANIFEST.replace("logging", "loging"));
        assert!(later.starts_with(&at(10)), "{later}");
        let earlier = refused(MANIFEST.replace("\"m\"", "\"M\""));
        assert!(earlier.starts_with(&at(3)), "{earlier}");
    }

    #[test]
    fn a_module_that_may_reach_no_host_is_not_packaged_to_want_them() {
        let directory = tempfile::TempDir::new().unwrap();
        let wasm = directory.path().join("m.wasm");
        fs::write(&wasm, COMPONENT).unwrap();
        let packaged = |more: &str| {
            let manifest = MANIFEST.replace("[\"logging\"]", "[\"http\"]") + more;
            fs::write(directory.path().join("nexum.toml"), manifest).unwrap();
            package(directory.path(), &wasm, &[], &directory.path().join("out")).map_err(|error| error.to_string())
        };
        let refused = packaged("").unwrap_err();
        assert!(refused.contains("capability `http` is required, but no host is allowed"), "{refused}");
        packaged("[capabilities.http]\nallow = [\"api.example.org\"]\n").unwrap();
    }

    #[test]
    fn a_bundle_is_made_and_replaced_whole() {
        let directory = tempfile::TempDir::new().unwrap();
        let (source, out) = (directory.path().join("source"), directory.path().join("out/m"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("nexum.toml"), MANIFEST).unwrap();
        let wasm = directory.path().join("m.wasm");
        fs::write(&wasm, COMPONENT).unwrap();
        let made = package(&source, &wasm, &[], &out).unwrap();
        assert_eq!((made.name.as_str(), &made.component[..7]), ("m", "sha256:"));
        assert!(fs::read_to_string(out.join("nexum.toml")).unwrap().contains(&made.component));

        fs::write(out.join("nexum.sig"), "of the component before").unwrap();
        fs::write(&wasm, [COMPONENT, b"\0"].concat()).unwrap();
        let again = package(&source, &wasm, &[], &out).unwrap();
        assert_ne!(again.component, made.component);
        assert_eq!(fs::read(out.join("module.wasm")).unwrap().len(), COMPONENT.len() + 1);
        assert!(!out.join("nexum.sig").exists());
        assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_no_engine_would_load_is_not_packaged() {
        let directory = tempfile::TempDir::new().unwrap();
        let wasm = directory.path().join("m.wasm");
        fs::write(&wasm, COMPONENT).unwrap();
        let refused = |capability: &str| {
            fs::write(directory.path().join("nexum.toml"), MANIFEST.replace("logging", capability)).unwrap();
            format!("{:#}", package(directory.path(), &wasm, &[], &directory.path().join("out")).unwrap_err())
        };
        let http = refused("http");
        assert!(http.contains("such as allow = [\"api.example.org\"]"), "{http}");
        assert!(!directory.path().join("out").exists());
    }

    #[test]
    fn what_cannot_be_a_bundle_is_refused() {
        let directory = tempfile::TempDir::new().unwrap();
        let wasm = directory.path().join("m.wasm");
        fs::write(directory.path().join("nexum.toml"), MANIFEST).unwrap();
        let refused = |wasm: &Path, out: &Path| format!("{:#}", package(directory.path(), wasm, &[], out).unwrap_err());
        fs::write(&wasm, MODULE).unwrap();
        assert!(refused(&wasm, &directory.path().join("out")).contains("is a core module, not a component"));
        fs::write(&wasm, COMPONENT).unwrap();
        let precious = directory.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("thesis.txt"), "").unwrap();
        assert!(refused(&wasm, &precious).contains("exists and is not a bundle"));
        assert!(precious.join("thesis.txt").exists());
        assert!(refused(Path::new("/dev/zero"), &directory.path().join("out")).contains("it is a device"));
    }

    #[test]
    fn the_sources_of_a_module_are_not_taken_for_a_bundle() {
        let directory = tempfile::TempDir::new().unwrap();
        let project = directory.path().join("project");
        fs::create_dir_all(project.join("src")).unwrap();
        fs::write(project.join("src/lib.rs"), "").unwrap();
        fs::write(project.join("nexum.toml"), MANIFEST).unwrap();
        let wasm = project.join("module.wasm");
        fs::write(&wasm, COMPONENT).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&project, &link).unwrap();
        for out in [project.clone(), project.join("src/.."), link, directory.path().to_owned()] {
            let refused = format!("{:#}", package(&project, &wasm, &[], &out).unwrap_err());
            assert!(refused.contains("exists and is not a bundle, as `"), "{refused}");
            assert!(project.join("src/lib.rs").exists(), "{}", out.display());
            assert_eq!(fs::read_to_string(project.join("nexum.toml")).unwrap(), MANIFEST);
        }
        // A directory by the name of a file is none of a bundle.
        let odd = project.join("odd");
        fs::create_dir_all(odd.join("module.wasm/precious")).unwrap();
        assert!(format!("{:#}", package(&project, &wasm, &[], &odd).unwrap_err()).contains("is not a bundle"));
        assert!(odd.join("module.wasm/precious").exists());
        // Within the project a bundle may be made, and replaced.
        for _ in 0..2 {
            package(&project, &wasm, &[], &project.join("out/m")).unwrap();
        }
        assert_eq!(fs::read_dir(project.join("out")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_has_the_name_of_a_draft_is_left_alone() {
        let directory = tempfile::TempDir::new().unwrap();
        let wasm = directory.path().join("m.wasm");
        fs::write(&wasm, COMPONENT).unwrap();
        fs::write(directory.path().join("nexum.toml"), MANIFEST).unwrap();
        let taken = directory.path().join(format!(".out.{}", std::process::id()));
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("nexum.toml"), "precious").unwrap();
        let refused =
            format!("{:#}", package(directory.path(), &wasm, &[], &directory.path().join("out")).unwrap_err());
        assert!(refused.starts_with(&taken.display().to_string()), "{refused}");
        assert_eq!(fs::read_to_string(taken.join("nexum.toml")).unwrap(), "precious");
    }
}
