//! The engine's configuration: defaults < file < environment (`NEXUM_SECTION__KEY`) < flags.
//!
//! Invariant: what is not understood is refused. Every error is one line that names the file, the line and the key, or
//! the environment variable.

mod check;
mod effects;
mod explain;
mod files;
mod journal;
mod model;
mod restart;
mod show;
mod source;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use figment::{Figment, providers::Serialized};

pub use effects::{Egress, Outbox};
pub use model::{Ceiling, Chain, Config, Endpoint, Engine, Listen, LogFormat, Module, Observability, Period, Secret};
pub use show::{shown, shown_json};

use source::{Environment, File};

pub use check::{Problem, log_level, problem};
pub use files::unplayable;
pub use journal::Journal;
pub use restart::Restart;

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
    pub mock: Option<(u64, PathBuf)>,
    /// Bundles on top of the configured ones.
    pub modules: Vec<PathBuf>,
}

/// The process environment, read once and handed in.
pub type Variables = std::collections::BTreeMap<String, String>;

/// Something else to check, with what the file says at hand for the error.
pub type Further<'a> = &'a dyn Fn(&Config) -> Result<(), Problem>;

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
            let text = fs::read_to_string(path)
                .map_err(|error| ConfigError(format!("{} cannot be read: {error}; give --config", path.display())))?;
            File::parse(path, &text, environment)?
        }
        None => File::default(),
    };
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
    let mut config: Config = figment.extract().map_err(|error| explain::explain(&file, error))?;
    if let Some((chain_id, fixture)) = &flags.mock {
        config.chains.retain(|chain| chain.chain_id != *chain_id);
        config.chains.push(Chain::mock(*chain_id, fixture.clone()));
    }
    config.modules.extend(flags.modules.iter().map(|directory| Module::at(directory)));
    let located = |problem: Problem| {
        let message = explain::veiled(&problem.message, file.hides(&problem.path));
        ConfigError(file.located(&problem.path, &message))
    };
    check::check(&config).map_err(located)?;
    config.engine.state_dir = absolute(&config.engine.state_dir)?;
    config.observability.admin_socket =
        config.observability.admin_socket.take().map(|path| absolute(&path)).transpose()?;
    config.journal.key = config.journal.key.take().map(|key| absolute(&key)).transpose()?;
    for module in &mut config.modules {
        module.source = absolute(Path::new(&module.source))?.to_string_lossy().into_owned();
    }
    files::check(&config).and_then(|()| further(&config)).map_err(located)?;
    config.observability.admin_socket.get_or_insert_with(|| config.engine.state_dir.join("admin.sock"));
    config.from_environment = file.expanded;
    Ok(config)
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn environment_wins_over_the_file_and_flags_over_both() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("nexum-engine.toml");
        fs::write(&file, "[engine]\nlog_level = \"warn\"\nstate_dir = \"state\"\nlog_format = \"json\"\n").unwrap();
        let set = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let environment = set(&[
            ("NEXUM_ENGINE__LOG_LEVEL", "debug"),
            ("NEXUM_LIMITS__MAX_STATE_BYTES", "7"),
            ("NEXUM_SERVICE_HOST", "10.0.0.1"),
        ]);
        let config = load(Some(&file), &environment, &Flags::default()).unwrap();
        assert_eq!(config.engine.log_level, "debug");
        assert_eq!(config.engine.log_format, LogFormat::Json);
        assert_eq!(config.limits.max_state_bytes, Some(7));
        assert_eq!(config.engine.state_dir, directory.path().join("state"));
        assert_eq!(config.observability.admin_socket, Some(directory.path().join("state/admin.sock")));

        let flags = Flags { log_level: Some("trace".to_owned()), ..Flags::default() };
        assert_eq!(load(Some(&file), &environment, &flags).unwrap().engine.log_level, "trace");

        let error = load(None, &set(&[("NEXUM_ENGINE__STAT_DIR", "x")]), &Flags::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable NEXUM_ENGINE__STAT_DIR: unknown key, did you mean NEXUM_ENGINE__STATE_DIR?"
        );
        let error = load(None, &set(&[("NEXUM_LIMITS__MAX_STATE_BYTES", "much")]), &Flags::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable NEXUM_LIMITS__MAX_STATE_BYTES: expected a whole number, not a string"
        );
    }
}
