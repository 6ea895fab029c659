//! The engine's configuration: defaults < file < environment (`NEXUM_SECTION__KEY`) < flags.
//!
//! Invariant: what is not understood is refused. Every error is one line that names the file, the line and the key, or
//! the environment variable.

mod check;
mod credentials;
mod effects;
mod egress;
mod environment;
mod explain;
mod files;
mod identity;
mod journal;
mod kms;
mod libraries;
mod messaging;
mod model;
mod queries;
mod remote_store;
mod restart;
pub(crate) mod secret;
mod show;
mod source;
#[cfg(any(test, feature = "fuzzing"))]
mod torture;
mod transactions;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use figment::{Figment, providers::Serialized};
use nexum_chain::mock::Fixture;
use nexum_kernel::manifest::{config_values, text};

pub use credentials::Credential;
pub use effects::Outbox;
pub use egress::Egress;
pub use model::{Ceiling, Chain, Config, Endpoint, Engine, Listen, LogFormat, Module, Observability, Period};
pub use show::{shown, shown_json};

use environment::Environment;
use source::File;
pub(crate) use source::is_address;

pub use check::{Problem, log_level, problem};
pub use files::read_fixture;
pub use identity::Identity;
pub use journal::Journal;
pub use libraries::Library;
pub use messaging::Messaging;
pub use queries::Queries;
pub use remote_store::RemoteStore;
pub use restart::Restart;
pub use secret::Secret;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use torture::config;
pub use transactions::Transactions;

/// What is wrong with the configuration; displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// What the command line sets; wins over file and environment.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub state_dir: Option<PathBuf>,
    pub admin_socket: Option<PathBuf>,
    pub log_format: Option<LogFormat>,
    pub log_level: Option<String>,
    /// A fixture for an embedded mock chain: takes the place of the configured chain with its id, or comes on top.
    pub mock: Option<(Arc<Fixture>, PathBuf)>,
    /// Bundles on top of the configured ones.
    pub modules: Vec<PathBuf>,
}

/// The process environment, read once and handed in.
pub type Variables = std::collections::BTreeMap<String, String>;

/// Something else to check, with what the file says at hand for the error.
pub type Further<'a> = &'a dyn Fn(&Config) -> Result<(), Problem>;

/// What is said of a path that no configuration can name, nor an answer.
pub(crate) const NO_UTF8: &str = "is no UTF-8, as a path of the configuration must be";

/// A file with the most modules that an engine bears, and what operators write about each, is smaller.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The effective configuration. `file` is absent for an engine that is configured by flags alone.
pub fn load(file: Option<&Path>, environment: &Variables, flags: &Flags) -> Result<Config, ConfigError> {
    load_with(file, environment, flags, &|_| Ok(()))
}

/// The same, if what else is checked is right, too.
pub fn load_with(
    file: Option<&Path>,
    environment: &Variables,
    flags: &Flags,
    further: Further<'_>,
) -> Result<Config, ConfigError> {
    let file = match file {
        Some(path) => {
            if is_address(&path.to_string_lossy()) {
                let message = "the configuration named is an address: expected a file; give --config";
                return Err(ConfigError(message.to_owned()));
            }
            let text = text::read(path, FILE_BYTES_MAX)
                .map_err(|error| ConfigError(format!("{} {error}; give --config", path.display())))?;
            File::parse(path, &text, environment)?
        }
        None => File::default(),
    };
    of_file(&file, environment, flags, further)
}

fn of_file(file: &File, environment: &Variables, flags: &Flags, further: Further<'_>) -> Result<Config, ConfigError> {
    let mut figment =
        Figment::from(Serialized::defaults(Config::default())).merge(file.provider()).merge(Environment(environment));
    if let Some(directory) = &flags.state_dir {
        figment = figment.merge(Serialized::default("engine.state_dir", directory));
    }
    if let Some(socket) = &flags.admin_socket {
        figment = figment.merge(Serialized::default("observability.admin_socket", socket));
    }
    if let Some(format) = &flags.log_format {
        figment = figment.merge(Serialized::default("engine.log_format", format));
    }
    if let Some(level) = &flags.log_level {
        figment = figment.merge(Serialized::default("engine.log_level", level));
    }
    let mut config: Config = figment.extract().map_err(|error| explain::explain(file, error))?;
    if let Some((fixture, path)) = &flags.mock {
        config.chains.retain(|chain| chain.chain_id != fixture.chain_id);
        config.chains.push(Chain { fixture: Some(fixture.clone()), ..Chain::mock(fixture.chain_id, path.clone()) });
    }
    for (index, module) in config.modules.iter_mut().enumerate() {
        let mut values = Vec::new();
        for (key, value) in &module.config {
            // What has no form in a configuration is told by whoever loads it.
            let _ = config_values(key, value, &mut values);
        }
        let keys = module.config.keys().cloned().chain(values.into_iter().map(|(key, _)| key));
        let place = |key: String| file.place(&format!("modules.{index}.config.{key}")).map(|place| (key, place));
        module.places = keys.filter_map(place).collect();
    }
    config.modules.extend(flags.modules.iter().map(|directory| Module::at(directory)));
    let located = |problem: Problem| {
        let variable = |path: &[String]| set_by(environment, flags, path);
        let problem = problem.of_what_was_set([&|path| variable(path).is_some(), &|path| file.sets(path)]);
        match variable(&problem.path) {
            // Which of the environment's values are secret, nobody says.
            Some(variable) => ConfigError(format!("environment variable {variable}: {}", problem.told(true))),
            None => ConfigError(file.located(&problem.path, &problem.told(file.hides(&problem.path)))),
        }
    };
    // What a file or a shell leaves around it is not part of it; the client does the same.
    if let Some(Secret(token)) = &mut config.observability.admin_token {
        *token = token.trim().to_owned();
    }
    check::check(&config).map_err(located)?;
    let engine = &mut config.engine;
    engine.log_level = log_level(&engine.log_level).map_err(|message| located(problem("engine.log_level", message)))?;
    engine.state_dir = absolute("engine.state_dir", &engine.state_dir).map_err(located)?;
    for (key, path) in [
        ("observability.admin_socket", &mut config.observability.admin_socket),
        ("journal.key", &mut config.journal.key),
        ("egress.ca_file", &mut config.egress.ca_file),
    ] {
        *path = path.take().map(|path| absolute(key, &path)).transpose().map_err(located)?;
    }
    for (index, module) in config.modules.iter_mut().enumerate() {
        let source = absolute(&format!("modules.{index}.source"), Path::new(&module.source)).map_err(located)?;
        module.source = source.to_string_lossy().into_owned();
    }
    for (index, library) in config.libraries.iter_mut().enumerate() {
        let source = absolute(&format!("libraries.{index}.source"), Path::new(&library.source)).map_err(located)?;
        library.source = source.to_string_lossy().into_owned();
    }
    if let Some(identity) = &mut config.identity {
        for (key, path) in identity.paths() {
            *path = absolute(&key, path).map_err(located)?;
        }
        identity.read(environment).map_err(|wrong| located(wrong.into()))?;
    }
    let directory = environment.get(secret::DIRECTORY).map(String::as_str);
    credentials::find(&mut config.egress.credentials, directory)
        .map_err(|(key, wrong)| located(problem(&key, wrong)))?;
    for (index, credential) in config.egress.credentials.iter_mut().enumerate() {
        let file = credential.file.take().map(|file| absolute(&format!("egress.credentials.{index}.value"), &file));
        credential.file = file.transpose().map_err(located)?;
    }
    files::check(&mut config).and_then(|()| further(&config)).map_err(located)?;
    config.observability.admin_socket.get_or_insert_with(|| config.engine.state_dir.join("admin.sock"));
    config.from_environment.clone_from(&file.expanded);
    Ok(config)
}

fn absolute(key: &str, path: &Path) -> Result<PathBuf, Problem> {
    let wrong = |error| problem(key, format!("cannot be used as a path: {error}"));
    let absolute = std::path::absolute(path).map_err(wrong)?;
    match absolute.to_str() {
        Some(text) if text.contains('\0') => Err(problem(key, "has the character with the number 0, as no path can")),
        Some(_) => Ok(absolute),
        // The working directory.
        None => Err(problem(key, NO_UTF8)),
    }
}

/// The variable of the environment that a value came from, if no flag took its place.
fn set_by<'a>(environment: &'a Variables, flags: &Flags, path: &[String]) -> Option<&'a str> {
    let flagged = match path.join(".").as_str() {
        "engine.state_dir" => flags.state_dir.is_some(),
        "engine.log_format" => flags.log_format.is_some(),
        "engine.log_level" => flags.log_level.is_some(),
        "observability.admin_socket" => flags.admin_socket.is_some(),
        _ => false,
    };
    if flagged { None } else { environment::set_by(environment, path) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Every folder of `fixtures/cases/engine-config` is a case: a file, and the error it must cause.
    #[test]
    fn cases() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/engine-config");
        let environment = Variables::from([("RPC_KEY".to_owned(), "k3y".to_owned())]);
        let directory = cases.canonicalize().unwrap();
        let (mut seen, mut wrong) = (0, String::new());
        for case in fs::read_dir(&cases).unwrap() {
            let case = case.unwrap().path();
            let found = match load(Some(&case.join("nexum-engine.toml")), &environment, &Flags::default()) {
                Ok(config) => shown(&config),
                Err(error) => error.to_string().replace(&format!("{}/", case.display()), ""),
            };
            let expected =
                fs::read_to_string(case.join("error.txt")).or_else(|_| fs::read_to_string(case.join("shown.toml")));
            let found =
                found.replace(&*cases.to_string_lossy(), "CASES").replace(&*directory.to_string_lossy(), "CASES");
            let expected = expected.unwrap();
            if found.trim_end() != expected.trim_end() {
                wrong += &format!("{}\nexpected: {expected}found:    {found}\n\n", case.display());
            }
            seen += 1;
        }
        assert!(seen > 10, "{seen} cases in {}", cases.display());
        assert!(wrong.is_empty(), "\n{wrong}");
    }

    #[test]
    fn a_token_of_digits_is_text_and_no_refusal_repeats_a_secret() {
        const TOKEN: &str = "98765432109876543210";
        let digits = &TOKEN[..16];
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("nexum-engine.toml");
        let load = |file: &str, variables: &[(&str, &str)]| {
            fs::write(&path, file).unwrap();
            let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let variables: Variables = pairs.collect();
            load(Some(&path), &variables, &Flags::default())
        };
        let listens = "[observability]\nadmin_listen = \"127.0.0.1:8081\"\n";
        let token = |config: Config| config.observability.admin_token.map(|token| token.0);
        let set = load(listens, &[("NEXUM_OBSERVABILITY__ADMIN_TOKEN", digits)]).unwrap();
        assert_eq!(token(set).as_deref(), Some(digits));
        let expanded = load(&format!("{listens}admin_token = \"${{T}}\"\n"), &[("T", digits)]).unwrap();
        assert_eq!(format!("{:?}", expanded.observability.admin_token), "Some(***)");
        assert_eq!(token(expanded).as_deref(), Some(digits));

        for around in [format!("{digits}\n"), format!(" {digits}\r\n"), format!("\u{a0}{digits}\t")] {
            let set = load(listens, &[("NEXUM_OBSERVABILITY__ADMIN_TOKEN", &around)]).unwrap();
            assert_eq!(token(set).as_deref(), Some(digits), "{around:?}");
        }
        let (half, _) = digits.split_at(8);
        for unusable in [format!("{digits}\n{digits}"), format!("{digits} {digits}"), format!("{digits}\u{fc}")] {
            let error = load(listens, &[("NEXUM_OBSERVABILITY__ADMIN_TOKEN", &unusable)]).unwrap_err().to_string();
            assert!(error.ends_with("than visible ASCII characters: expected 16 or more"), "{error}");
        }
        let short = load(listens, &[("NEXUM_OBSERVABILITY__ADMIN_TOKEN", &format!("{half}{}", " ".repeat(9)))]);
        assert!(short.unwrap_err().to_string().ends_with("is too short: at least 16 characters"));

        let chain = "[[chains]]\nchain_id = 1\n";
        for wrong in [
            format!("{listens}admin_token = {digits}\n"),
            format!("{listens}admin_token = {TOKEN}\n"),
            format!("{listens}admin_token = {digits}.5\n"),
            format!("{chain}endpoints = [\"https://rpc.example.org/{TOKEN}\"]\n"),
            format!("{chain}endpoints = \"https://rpc.example.org/{TOKEN}\"\n"),
            format!("{chain}[chains.rpc]\ntimeout = \"https://rpc.example.org/{TOKEN}\"\n"),
            format!("[[chains]]\nchain_id = \"https://rpc.example.org/{TOKEN}\"\n"),
            format!("[engine]\nlog_format = \"https://rpc.example.org/{TOKEN}\"\n"),
            format!("[[modules]]\nsource = \"https://user:{TOKEN}@example.org/m\"\n"),
            format!("[[modules]]\nsource = \"m\"\ndenied = [\"https://rpc.example.org/{TOKEN}\"]\n"),
            "[engine]\nlog_format = \"${T}\"\n".to_owned(),
            "[engine]\nlog_level = \"${T},info\"\n".to_owned(),
            "[engine]\nshutdown_deadline = \"${T}\"\n".to_owned(),
            "[limits]\nmax_state_bytes = \"${T}\"\n".to_owned(),
            "[observability]\nmetrics_listen = \"${T}\"\n".to_owned(),
            "[[modules]]\nsource = \"m\"\ndenied = [\"${T}\"]\n".to_owned(),
        ] {
            let error = load(&wrong, &[("T", TOKEN)]).unwrap_err().to_string();
            assert!(!error.contains(digits), "{error}");
            assert!(error.contains("nexum-engine.toml:"), "it says where: {error}");
        }
        for variable in ["NEXUM_ENGINE__LOG_FORMAT", "NEXUM_ENGINE__SHUTDOWN_DEADLINE", "NEXUM_LIMITS__MAX_STATE_BYTES"]
        {
            let value = format!("t{TOKEN}");
            let error = load("", &[(variable, &value)]).unwrap_err().to_string();
            assert!(!error.contains(digits) && error.contains(variable), "{error}");
        }
    }

    #[test]
    fn a_value_of_the_environment_is_told_by_its_variable_alone() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("nexum-engine.toml");
        fs::write(&path, "[engine]\nlog_level = \"info\"\nstate_dir = \"state\"\n[outbox]\nbackoff_first = \"5m\"\n")
            .unwrap();
        let long = format!("/k3y{}", "/k3y".repeat(40));
        for (variable, value, wanted) in [
            ("NEXUM_ENGINE__LOG_LEVEL", "k3y", "is no log level: expected off, "),
            ("NEXUM_ENGINE__LOG_LEVEL", "info,k3y", "is no log level: expected off, "),
            ("NEXUM_ENGINE__LOG_LEVEL", "a`k3y`b`k3y", "is no log level: expected off, "),
            ("NEXUM_ENGINE__LOG_LEVEL", "a=k3y", "is no log level: expected off, "),
            ("NEXUM_ENGINE__MAX_COMPILE_MEMORY_BYTES", "4815162", "is too little for any component: at least 67108864"),
            ("NEXUM_ENGINE__COMPILE_TIMEOUT", "`k3y`", "is no length of time: expected one such as 500ms"),
            ("NEXUM_ENGINE__STATE_DIR", "", "cannot be used as a path: "),
            ("NEXUM_ENGINE__STATE_DIR", long.as_str(), " bytes, and a socket's path at most 107: set a shorter "),
            (
                "NEXUM_OBSERVABILITY__ADMIN_SOCKET",
                long.as_str(),
                " bytes, and a socket's path at most 107: set a shorter ",
            ),
            ("NEXUM_OBSERVABILITY__METRICS_LISTEN", "127.0.0.1:8080", "is taken by health_listen"),
            ("NEXUM_OBSERVABILITY__METRICS_LISTEN", "k3y`1", "is no address to listen on: expected one such as "),
            ("NEXUM_OBSERVABILITY__ADMIN_TOKEN", "k3y", "needs no token"),
            ("NEXUM_JOURNAL__KEY", "k3y", "cannot be used: No such file"),
            ("NEXUM_EGRESS__CA_FILE", "k3y", "cannot be read: No such file"),
            ("NEXUM_EGRESS__PROXY", "http://k3y:1/k3y", "has more than a host and a port: expected a URL such as "),
            ("NEXUM_EGRESS__ALLOW_NETWORKS", "[\"k3y\"]", "expected a network such as 10.0.0.0/8 or fd00::/8"),
            ("NEXUM_EGRESS__DENY", "[\"k3y x\"]", "expected an exact host, or *.suffix, without scheme"),
            ("NEXUM_JOURNAL__BYTES", "4815162", "must be at least "),
            ("NEXUM_OUTBOX__BACKOFF_CAP", "48151ms", "is shorter than backoff_first"),
            ("NEXUM_Restart__Max_Backoff", "1ms", "is shorter than min_backoff"),
            ("NEXUM_RESTART__MIN_BACKOFF", "48151h", "is longer than max_backoff"),
            ("NEXUM_OBSERVABILITY__HEALTH_LISTEN", "0.0.0.0:9090", "is taken by metrics_listen"),
        ] {
            let variables = Variables::from([(variable.to_owned(), value.to_owned())]);
            let error = load(Some(&path), &variables, &Flags::default()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("environment variable {variable}: ")), "{error}");
            assert!(error.contains(wanted), "{error}");
            assert!(!error.contains("k3y") && !error.contains("48151"), "{error}");
        }
        // A flag takes the variable's place, and the file's.
        let variables = Variables::from([("NEXUM_ENGINE__STATE_DIR".to_owned(), "state".to_owned())]);
        let flags = Flags { state_dir: Some(PathBuf::from(long.as_str())), ..Flags::default() };
        let error = load(Some(&path), &variables, &flags).unwrap_err().to_string();
        assert!(error.contains("[engine] state_dir: ") && error.contains(long.as_str()), "{error}");
    }

    #[test]
    fn no_mistake_in_a_line_repeats_the_secret_in_it() {
        const KEY: &str = "k3y-0123456789";
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("nexum-engine.toml");
        let url = format!("https://user:{KEY}@rpc.example.org/v2/{KEY}");
        let (chain, listens) = ("[[chains]]\nchain_id = 1\n", "[observability]\nadmin_listen = \"127.0.0.1:1\"\n");
        for wrong in [
            format!("{chain}endpoints = [{{ url = \"{url} }}]\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"{url}\n"),
            format!("{chain}[[chains.endpoints]]\nurl = {url}\n"),
            format!("{chain}[[chains.endpoints]]\nurl = '{url}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"{url}\"\nurl = \"{url}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = [\"{url}\"]\n"),
            format!("{chain}[[chains.endpoints]]\nurl = {{ a = \"{url}\" }}\n"),
            format!("{chain}[[chains.endpoints]]\nurl \"{url}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"{url}\" \"{url}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"{url}\"\nurll = \"{url}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"{url}\"\npriority = \"{url}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"https://a.org/${{{KEY}}}\"\n"),
            format!("{chain}[[chains.endpoints]]\nurl = \"user:{KEY}@rpc.example.org\"\n"),
            format!("{chain}[[chains.endpoints]]\n\"{url}\" = \"url\"\n"),
            format!("{chain}rpc = {{ verify = \"{url}\" }}\n"),
            format!("{chain}rpc = {{ timeout = \"{url}`{KEY}\" }}\n"),
            format!("{listens}admin_token = {KEY}\n"),
            format!("{listens}admin_token = [\"{KEY}\"]\n"),
            format!("{listens}admin_token = \"{KEY}\n"),
            format!("{listens}admin_token = \"\\{KEY}\"\n"),
            format!("{listens}admin_token = \"{KEY}\"\n"),
            format!("[[modules]]\nsource = \"m\"\ncomponent = \"{url}`{KEY}\"\n"),
            format!("[egress]\nproxy = \"{url}\"\n"),
            format!("[egress]\nproxy = [\"{url}\"]\n"),
            format!("[egress]\nproxy = {{ url = \"{url}\" }}\n"),
            format!("[egress]\nallow_networks = [\"{url}\"]\n"),
            format!("[egress]\ndeny = [\"10.0.0.0/8\", \"{url}\"]\n"),
            format!("[[modules]]\nsource = \"m\"\n[modules.config]\n\"{url}\" = 99999999999999999999\n"),
        ] {
            fs::write(&path, &wrong).unwrap();
            let error = load(Some(&path), &Variables::new(), &Flags::default()).unwrap_err().to_string();
            assert!(!error.contains(KEY), "{wrong}{error}");
            assert!(error.contains("nexum-engine.toml:") && error.lines().count() == 1, "it says where: {error}");
        }
    }

    #[test]
    fn whatever_is_in_place_of_a_file_there_is_an_answer() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("nexum-engine.toml");
        let load = |text: &str| {
            fs::write(&path, text).unwrap();
            load(Some(&path), &Variables::new(), &Flags::default()).map_err(|error| error.to_string())
        };
        assert!(load("\u{feff}[engine]\r\nlog_level = \"warn\"\r\n").is_ok());
        let nested = "nexum-engine.toml:1: tables and lists within each other: expected at most 32";
        let digits = "9".repeat(1 << 16);
        let module = "[[modules]]\nsource = \"m\"\n";
        for (text, wrong) in [
            (format!("x = {}", "[".repeat(99_999)), nested),
            (format!("x = {}", "{a.b.c=".repeat(99_999)), nested),
            (format!("[a{}]", ".a".repeat(99_999)), nested),
            (
                format!("{module}[modules.config.{}]\na = 1\n", "k".repeat(2000)),
                "has 2017 bytes, with those above: at most 1024",
            ),
            (format!("[limits]\nmax_state_bytes = {digits}\n"), "[limits] max_state_bytes: the number is too large"),
            ("[engine]\nlog_level = \"\0\"\n".to_owned(), "nexum-engine.toml:2: "),
            ("#".repeat((16 << 20) + 1), "is larger than 16777216 bytes: expected at most as much; give --config"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(wrong) && error.len() < 4096, "{error}");
        }
        fs::remove_file(&path).unwrap();
        let wrong = || super::load(Some(&path), &Variables::new(), &Flags::default()).unwrap_err().to_string();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(wrong().ends_with(" cannot be read: it is a pipe, expected a file; give --config"), "{}", wrong());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(wrong().ends_with(" cannot be read: it is a device, expected a file; give --config"), "{}", wrong());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(wrong().ends_with(" cannot be read: it is a directory, expected a file; give --config"), "{}", wrong());
    }

    #[test]
    fn the_example_is_accepted_and_says_the_defaults() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nexum-engine.toml");
        let config = load(Some(&example), &Variables::new(), &Flags::default()).unwrap();
        let defaults = Config::default();
        assert_eq!(config.limits, defaults.limits);
        assert_eq!(config.restart, defaults.restart);
        let observability =
            Observability { admin_socket: config.observability.admin_socket.clone(), ..defaults.observability };
        assert_eq!(config.observability, observability);
    }
}
