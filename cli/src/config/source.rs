//! Where configuration comes from: the file, with the line of every key and `${VAR}` filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use figment::{
    Error, Metadata, Profile, Provider,
    value::{Dict, Map, Tag, Value},
};
use nexum_host_ifaces::secrets;
use nexum_kernel::manifest::text::too_deep;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, NO_UTF8, Variables,
    secret::{self, FILE},
};

/// Sections of the contract that this version does not have yet. Refused, because an operator who writes `[trust]` counts
/// on it.
const UNSUPPORTED: [&str; 5] = ["content", "discovery", "trust", "swarm", "waku"];
/// Keys that hold lists of tables, with the table above where elsewhere it holds something else.
const TABLES: [&str; 11] = [
    "chains",
    "libraries",
    "credentials",
    "endpoints",
    "modules",
    "remote-store.nodes",
    "remote",
    "aws_kms",
    "gcp_kms",
    "policies",
    "typed_data",
];
/// Keys whose relative paths are relative to the file.
const PATHS: [&str; 11] = [
    "engine.state_dir",
    "observability.admin_socket",
    "journal.key",
    "egress.ca_file",
    "chains.#.mock",
    "modules.#.source",
    "libraries.#.source",
    "identity.keystore",
    "identity.remote.#.ca_file",
    "identity.aws_kms.#.ca_file",
    "identity.gcp_kms.#.ca_file",
];
/// Keys whose values may be `file:` and a path, which is relative to the file as well.
const SECRET_FILES: [&str; 6] = [
    "identity.password",
    "identity.aws_kms.#.access_key_id",
    "identity.aws_kms.#.secret_access_key",
    "identity.aws_kms.#.session_token",
    "identity.gcp_kms.#.token",
    CREDENTIAL,
];

/// Of these the ones of which errors tell what is in the file there, and not the path.
const CONTENTS: [&str; 3] = ["chains.#.mock", "modules.#.source", "libraries.#.source"];
/// The longest path to a value; every value below a table carries it.
const PATH_BYTES_MAX: usize = 1024;

/// Keys whose values are secret or hold something secret, with all that is below them.
const SECRETS: [&str; 13] = [
    "observability.admin_token",
    "egress.proxy",
    CREDENTIAL,
    "chains.#.endpoints",
    "chains.#.transactions.relay",
    "identity.password",
    "identity.remote.#.url",
    "remote-store.nodes.#.url",
    "messaging.nodes",
    "identity.aws_kms.#.access_key_id",
    "identity.aws_kms.#.secret_access_key",
    "identity.aws_kms.#.session_token",
    "identity.gcp_kms.#.token",
];
/// What requests of modules leave with.
const CREDENTIAL: &str = "egress.credentials.#.value";
/// What stands before the name of one of them, in the place of the name of a variable.
const PLACEHOLDER: &str = "secret:";
/// What modules and libraries are given, in which such a name stays.
const GIVEN: [&str; 2] = ["modules.#.config.", "libraries.#.config."];
/// Here `${…}` stands for parts of a request.
const PAYLOAD: &str = "egress.credentials.#.hmac.payload";

/// A parsed file. The default is no file at all.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    values: Dict,
    /// Dotted path of every key and array element to its line.
    lines: BTreeMap<String, usize>,
    /// Dotted paths of the values that hold something from the environment.
    pub expanded: BTreeSet<String>,
}

impl File {
    pub fn parse(path: &Path, text: &str, environment: &Variables) -> Result<Self, ConfigError> {
        let directory = path.parent().unwrap_or(Path::new("")).to_str();
        let directory = directory.ok_or_else(|| ConfigError(format!("{}: {NO_UTF8}", path.display())))?;
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line_at = |offset: usize| ends.partition_point(|end| *end < offset) + 1;
        let wrong =
            |offset: usize, message: &str| ConfigError(format!("{}:{}: {message}", path.display(), line_at(offset)));
        if let Some((offset, message)) = too_deep(text) {
            return Err(wrong(offset, &message));
        }
        // Of the parser's error the message alone: with its place it has the line, whatever is in it.
        let table = DeTable::parse(text).map_err(|error| {
            let message = secrets::without_value(error.message()).replace('\n', " ");
            wrong(error.span().map_or(0, |span| span.start), &message)
        })?;
        let mut reader = Reader {
            file: Self { path: path.to_owned(), ..Self::default() },
            environment,
            directory,
            line_at: &line_at,
        };
        for (key, _) in table.get_ref() {
            if UNSUPPORTED.contains(&&**key.get_ref()) {
                let line = line_at(key.span().start);
                let message =
                    format!("{}:{line}: [{}] is not supported by this version", path.display(), key.get_ref());
                return Err(ConfigError(message));
            }
        }
        let values = reader.table("", table.get_ref())?;
        Ok(Self { values, ..reader.file })
    }

    pub fn provider(&self) -> impl Provider {
        Layer { name: "file", values: self.values.clone() }
    }

    /// Whether no error may repeat what stands at a path: it is secret, or comes from the environment.
    pub fn hides(&self, path: &[String]) -> bool {
        let (at, pattern) = (path.join("."), pattern(path));
        let is_below = |path: &str, above: &str| {
            path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        SECRETS.iter().any(|secret| is_below(&pattern, secret))
            || (!CONTENTS.contains(&pattern.as_str()) && self.expanded.iter().any(|expanded| is_below(expanded, &at)))
    }

    /// Whether the file has something at a path.
    pub fn sets(&self, path: &[String]) -> bool {
        self.lines.contains_key(&path.join("."))
    }

    /// File and line of a path.
    pub fn place(&self, path: &str) -> Option<String> {
        Some(format!("{}:{}", self.path.display(), self.lines.get(path)?))
    }

    /// A message about a path, in front of it the file, the line and the key as they are written.
    pub fn located(&self, path: &[String], message: &str) -> String {
        let key = written(path);
        let key = if key.is_empty() { key } else { format!("{key}: ") };
        // The nearest enclosing thing that the file has: a missing key is missed in its table.
        let line = (1..=path.len()).rev().find_map(|length| self.lines.get(&path[..length].join(".")));
        match line {
            Some(line) => format!("{}:{line}: {key}{message}", self.path.display()),
            None if self.path.as_os_str().is_empty() => format!("configuration: {key}{message}"),
            None => format!("{}: {key}{message}", self.path.display()),
        }
    }
}

/// Whether a list below these tables is one of tables.
fn is_table(tables: &[String], list: &str) -> bool {
    let named = |name: &&str| match name.split_once('.') {
        Some((above, name)) => name == list && tables.last().is_some_and(|last| last == above),
        None => *name == list,
    };
    TABLES.iter().any(named)
}

/// A path as the file writes it: `[engine] state_dir`, `[[chains.endpoints]] url`.
fn written(path: &[String]) -> String {
    // Who mixes up the sides of an equals sign has the secret in the key, which may have dots.
    let is_bare = |part: &String| part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let is_secret = secrets::holds_secret(&path.join("."));
    let hidden = path.iter().position(|part| secrets::holds_secret(part) || (is_secret && !is_bare(part)));
    let path = match hidden {
        Some(at) => [&path[..at], &[secrets::MASK.to_owned()]].concat(),
        None => path.to_vec(),
    };
    let is_index = |part: &String| part.bytes().all(|b| b.is_ascii_digit());
    // An element of a plain list is its list.
    let path = match path.as_slice() {
        [tables @ .., list, element] if is_index(element) && !is_table(tables, list) => {
            [tables, std::slice::from_ref(list)].concat()
        }
        path => path.to_vec(),
    };
    let path = path.as_slice();
    let (tables, key) = match path.split_last() {
        Some((last, tables)) if !is_index(last) && !tables.is_empty() => (tables, Some(last)),
        Some((last, _)) if path.len() == 1 => return format!("[{last}]"),
        _ => (path, None),
    };
    let names: Vec<_> = tables.iter().filter(|part| !is_index(part)).map(String::as_str).collect();
    let table = match tables.last() {
        Some(last) if is_index(last) => format!("[[{}]]", names.join(".")),
        Some(_) => format!("[{}]", names.join(".")),
        None => return String::new(),
    };
    key.map_or_else(|| table.clone(), |key| format!("{table} {key}"))
}

struct Reader<'a> {
    file: File,
    environment: &'a Variables,
    directory: &'a str,
    line_at: &'a dyn Fn(usize) -> usize,
}

impl Reader<'_> {
    fn table(&mut self, at: &str, table: &DeTable<'_>) -> Result<Dict, ConfigError> {
        let mut dict = Dict::new();
        for (key, value) in table {
            let path = join(at, key.get_ref());
            if path.len() > PATH_BYTES_MAX {
                let message =
                    format!("a key below it has {} bytes, with those above: at most {PATH_BYTES_MAX}", path.len());
                return Err(ConfigError(self.file.located(&split(at), &message)));
            }
            self.file.lines.insert(path.clone(), (self.line_at)(key.span().start));
            dict.insert(key.get_ref().to_string(), self.value(&path, value)?);
        }
        Ok(dict)
    }

    fn value(&mut self, at: &str, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        let line = (self.line_at)(value.span().start);
        let refused = |message: String| ConfigError(self.file.located(&split(at), &message));
        Ok(match value.get_ref() {
            DeValue::String(text) => {
                let pattern = pattern(&split(at));
                let text = if pattern == PAYLOAD { text.to_string() } else { self.expand(at, text)? };
                let here = |path: &str| Path::new(self.directory).join(path).display().to_string();
                match text.strip_prefix(FILE).filter(|_| SECRET_FILES.contains(&pattern.as_str())) {
                    Some(path) => format!("{FILE}{}", here(path)).into(),
                    None if PATHS.contains(&pattern.as_str()) && !is_address(&text) => here(&text).into(),
                    None => text.into(),
                }
            }
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                parsed.map_err(|_| refused("the number is too large".to_owned()))?.into()
            }
            DeValue::Float(number) => {
                let parsed = number.as_str().parse::<f64>();
                parsed.map_err(|_| refused("this is not a number".to_owned()))?.into()
            }
            DeValue::Boolean(flag) => (*flag).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Array(items) => {
                let mut values = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let path = join(at, &index.to_string());
                    self.file.lines.insert(path.clone(), (self.line_at)(item.span().start));
                    values.push(self.value(&path, item)?);
                }
                values.into()
            }
            DeValue::Table(table) => {
                // A table with a header of its own is found at the header.
                self.file.lines.entry(at.to_owned()).or_insert(line);
                Value::Dict(Tag::Default, self.table(at, table)?)
            }
        })
    }

    /// Replaces `${VAR}` by the variable's value, and `${file:PATH}` and `${credential:NAME}` by what is in the file; `$${`
    /// stands for `${`. `${secret:NAME}` stays in what modules are given: it is filled in where a request leaves.
    fn expand(&mut self, at: &str, text: &str) -> Result<String, ConfigError> {
        let refused = |message: String| ConfigError(self.file.located(&split(at), &message));
        let pattern = pattern(&split(at));
        let is_given = GIVEN.iter().any(|given| pattern.starts_with(given));
        let mut expanded = String::new();
        let mut rest = text;
        let mut found = false;
        while let Some(start) = rest.find("${") {
            if let Some(before) = rest[..start].strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            expanded.push_str(&rest[..start]);
            let Some((name, after)) = rest[start + 2..].split_once('}') else {
                return Err(refused("`${` without its `}`; write `$${` for the text itself".to_owned()));
            };
            let placeholder = name.strip_prefix(PLACEHOLDER).filter(|name| nexum_egress::is_name(name.as_bytes()));
            if is_given && placeholder.is_some() {
                expanded.push_str(&rest[start..start + "${}".len() + name.len()]);
                rest = after;
                continue;
            }
            if secret::is_named(name) {
                let path = name.strip_prefix(FILE).map(|path| Path::new(self.directory).join(path));
                let named = path.map_or_else(|| name.to_owned(), |path| format!("{FILE}{}", path.display()));
                let read = secret::read(&named, self.environment);
                expanded.push_str(&read.map_err(|why| refused(format!("{} {}", why.what, why.wrong)))?);
                found = true;
                rest = after;
                continue;
            }
            // What stands there may be the rest of a password.
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let message = "`${` without the name of a variable; write `$${` for the text itself";
                return Err(refused(message.to_owned()));
            }
            let value = self.environment.get(name);
            let value = value.ok_or_else(|| refused(format!("the environment has no variable {name} in UTF-8")))?;
            expanded.push_str(value);
            found = true;
            rest = after;
        }
        expanded.push_str(rest);
        if found {
            self.file.expanded.insert(at.to_owned());
        }
        Ok(expanded)
    }
}

/// Whether what should be a path is the address of something elsewhere. It may hold a password or a key.
pub(crate) fn is_address(source: &str) -> bool {
    let scheme = source.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| ["sha256", "bzz", "ipfs", "oci", "https", "http", "ens", "registry"].contains(&scheme))
        || source.contains("://")
        || (source.ends_with(".eth") && !source.contains('/'))
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// A path with `#` for every index.
fn pattern(path: &[String]) -> String {
    let part = |part: &String| if part.parse::<usize>().is_ok() { "#".to_owned() } else { part.clone() };
    path.iter().map(part).collect::<Vec<_>>().join(".")
}

fn split(path: &str) -> Vec<String> {
    path.split('.').map(str::to_owned).collect()
}

/// Values under the name that errors give them.
pub(super) struct Layer {
    pub name: &'static str,
    pub values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;

    use super::{super::Config, *};

    #[test]
    fn any_text_may_be_what_a_file_has_and_is_as_secret_as_a_variable() {
        use std::{fs, os::unix::fs::PermissionsExt as _};

        let dir = tempfile::TempDir::new().unwrap();
        fs::write(dir.path().join("rpc_url"), "wss://rpc.example.net/v2/k3y\n").unwrap();
        let mode = |mode| fs::set_permissions(dir.path().join("rpc_url"), fs::Permissions::from_mode(mode)).unwrap();
        let environment =
            Variables::from([("CREDENTIALS_DIRECTORY".to_owned(), dir.path().to_str().unwrap().to_owned())]);
        let read = |named: &str| {
            let toml = format!("[[chains]]\nchain_id = 1\n[[chains.endpoints]]\nurl = \"{named}\"\n");
            let file = File::parse(&dir.path().join("nexum-engine.toml"), &toml, &environment);
            let file = file.map_err(|ConfigError(wrong)| wrong)?;
            assert!(file.expanded.contains("chains.0.endpoints.0.url"), "it is shown: {named}");
            let config: Config = Figment::from(file.provider()).extract().unwrap();
            Ok::<_, String>(config.chains[0].endpoints[0].url.clone())
        };
        mode(0o600);
        for named in ["${file:rpc_url}", "${credential:rpc_url}"] {
            assert_eq!(read(named).as_deref(), Ok("wss://rpc.example.net/v2/k3y"), "{named}");
        }
        let wrong = read("${file:none}").unwrap_err();
        assert!(wrong.contains("nexum-engine.toml:4: [[chains.endpoints]] url: `") && wrong.contains("No such file"));
        assert!(read("${credential:../x}").unwrap_err().contains("is no name"));
        mode(0o644);
        assert!(read("${file:rpc_url}").unwrap_err().contains("everybody can read"));
    }

    #[test]
    fn the_name_of_a_credential_is_no_variable_and_stays() {
        let environment = Variables::from([("HOST".to_owned(), "a.org".to_owned())]);
        let read = |text: &str| {
            let toml = format!("[[modules]]\nsource = \"m\"\n[modules.config]\nx = \"{text}\"\n");
            let path = Path::new("/nexum-engine.toml");
            let file = File::parse(path, &toml, &environment).map_err(|ConfigError(wrong)| wrong)?;
            let config: Config = Figment::from(file.provider()).extract().unwrap();
            let text = config.modules[0].config["x"].as_str().unwrap().to_owned();
            Ok::<_, String>((text, file.expanded.len()))
        };
        let named = "https://b.org/${secret:a-b_c.9}?q=${secret:x}";
        assert_eq!(read(named), Ok((named.to_owned(), 0)));
        let mixed = read("https://${HOST}/${secret:x}/$${secret:y}/$${HOST}");
        assert_eq!(mixed, Ok(("https://a.org/${secret:x}/${secret:y}/${HOST}".to_owned(), 1)));
        let token = "[observability]\nadmin_token = \"${secret:hook}\"\n";
        let wrong = File::parse(Path::new("/etc/x.toml"), token, &environment).unwrap_err().to_string();
        assert!(wrong.contains("[observability] admin_token: `${` without "), "nobody fills it in here: {wrong}");
        for broken in ["${secret:}", "${secret:a b}", "${SECRET:x}", "${secret:x"] {
            let wrong = read(broken).unwrap_err();
            assert!(wrong.contains("[modules.config] x: `${` without "), "{broken}: {wrong}");
        }
    }

    #[test]
    fn paths_read_as_the_file_writes_them() {
        let written = |path: &str| written(&split(path));
        assert_eq!(written("engine"), "[engine]");
        assert_eq!(written("engine.state_dir"), "[engine] state_dir");
        assert_eq!(written("chains.0"), "[[chains]]");
        assert_eq!(written("chains.0.chain_id"), "[[chains]] chain_id");
        assert_eq!(written("chains.0.rpc.timeout"), "[chains.rpc] timeout");
        assert_eq!(written("chains.0.endpoints.1.url"), "[[chains.endpoints]] url");
        assert_eq!(written("modules.0.denied.1"), "[[modules]] denied");
        assert_eq!(written("modules.0.config.a b"), "[modules.config] a b");
        assert_eq!(written("modules.0.config.https://me:k3y@a.b/k3y"), "[modules.config] ***");
    }
}
