//! An engine under test: the real `nexum` in a directory of its own, asked through the real `nexumctl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nexum_testkit::{PATIENCE, manifest, memory_bytes, signal, within};
pub use nexum_testkit::{bundle, children_of, eventually, free_port, get, has_ended, put_component};
use serde_json::Value;
use tempfile::TempDir;

/// Twenty blocks a second, without end.
pub const FAST_CHAIN: &str = "chain_id = 31337\nname = \"fast\"\nseed = 1\nfirst_timestamp_s = 1_700_000_000\n\
     block_interval_ms = 50\nendless = true\n";

/// A change to a manifest: its module handles the blocks of the chain from the first one on.
pub const FROM_THE_FIRST: (&str, &str) =
    ("kind = \"block\"\nchain_id = 31337", "kind = \"block\"\nchain_id = 31337\nstart_block = 1");

/// The programs under test.
pub const NEXUM: &str = env!("CARGO_BIN_EXE_nexum");
pub const NEXUMCTL: &str = env!("CARGO_BIN_EXE_nexumctl");

/// A path that is text, as an argument.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What one test configures.
pub struct Setup {
    pub dir: TempDir,
    config: String,
    egress: String,
    restart: &'static str,
}

/// Tests fail on purpose, often and without a wait, and kill engines at any moment.
const RESTART: &str =
    "[restart]\nmax_consecutive_failures = 1_000_000\nmin_backoff = \"1ms\"\nmax_process_deaths = 1000\n";

/// What modules send to in these tests listens on the loopback.
pub const EGRESS: &str = "allow_networks = [\"127.0.0.0/8\", \"::1/128\"]\n";

impl Setup {
    pub fn new() -> Self {
        Self::at(TempDir::with_prefix("nexum-journey.").unwrap())
    }

    /// With everything, the state as well, in a directory of its own below this one.
    pub fn below(parent: &Path) -> Self {
        Self::at(TempDir::with_prefix_in("nexum-journey.", parent).unwrap())
    }

    fn at(dir: TempDir) -> Self {
        let config = format!(
            "[engine]\nstate_dir = \"{}\"\nlog_format = \"json\"\n\
             [observability]\nhealth_listen = \"127.0.0.1:{}\"\nmetrics_listen = \"127.0.0.1:{}\"\n",
            dir.path().join("state").display(),
            free_port(),
            free_port(),
        );
        Self { dir, config, egress: EGRESS.to_owned(), restart: RESTART }
    }

    /// Ceilings for restarts other than those of most tests.
    pub fn restart(mut self, toml: &'static str) -> Self {
        self.restart = toml;
        self
    }

    /// What `[egress]` has, in place of what most tests need: that the loopback is allowed.
    pub fn egress(mut self, toml: &str) -> Self {
        self.egress = format!("{toml}\n");
        self
    }

    /// Appends to the engine's configuration.
    pub fn with(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// A chain whose endpoints are these.
    pub fn chain(self, chain_id: u64, urls: &[String]) -> Self {
        let mut toml = format!("[[chains]]\nchain_id = {chain_id}\nname = \"anvil\"\n");
        for (priority, url) in urls.iter().enumerate() {
            toml.push_str(&format!("[[chains.endpoints]]\nurl = \"{url}\"\npriority = {priority}\n"));
        }
        self.with(&toml)
    }

    /// A mock chain that plays this fixture.
    pub fn mock(self, chain_id: u64, fixture: &str) -> Self {
        let path = self.dir.path().join("fixture.toml");
        fs::write(&path, fixture).unwrap();
        self.with(&format!("[[chains]]\nchain_id = {chain_id}\nmock = \"{}\"\n", path.display()))
    }

    /// A module from a built bundle, under another name and with changes to its manifest: each `(from, to)` must occur.
    pub fn module(self, bundle_name: &str, name: &str, changes: &[(&str, &str)]) -> Self {
        let dir = self.write_bundle(bundle_name, name, changes);
        self.with(&format!("[[modules]]\nsource = \"{}\"\n", dir.display()))
    }

    /// The bundle of `module`, without configuring it.
    pub fn write_bundle(&self, bundle_name: &str, name: &str, changes: &[(&str, &str)]) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::copy(bundle(bundle_name).join("module.wasm"), dir.join("module.wasm")).unwrap();
        fs::write(dir.join("nexum.toml"), manifest(bundle_name, name, changes)).unwrap();
        dir
    }

    /// The same with another component.
    pub fn write_bundle_of(&self, component: &[u8], name: &str) -> PathBuf {
        let dir = self.write_bundle("recorder", name, &[]);
        put_component(&dir, component);
        dir
    }

    pub fn start(self) -> Engine {
        let engine = self.prepare();
        engine.started()
    }

    /// Writes the configuration without starting.
    pub fn prepare(self) -> Engine {
        let config = self.dir.path().join("nexum-engine.toml");
        fs::write(&config, format!("{}[egress]\n{}{}", self.config, self.egress, self.restart)).unwrap();
        let socket = self.dir.path().join("state/admin.sock");
        Engine {
            log: self.dir.path().join("engine.log"),
            dir: self.dir,
            config,
            socket,
            under: Vec::new(),
            child: None,
        }
    }
}

/// A configured engine, running or not.
pub struct Engine {
    pub dir: TempDir,
    pub config: PathBuf,
    pub socket: PathBuf,
    /// A program that starts the engine, with its arguments; none by default.
    pub under: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Engine {
    fn started(mut self) -> Self {
        self.launch();
        self
    }

    /// Starts the process and waits until its admin socket answers.
    pub fn launch(&mut self) {
        self.launch_with(|_| {});
    }

    pub fn launch_with(&mut self, prepare: impl FnOnce(&mut Command)) {
        self.spawn_with(prepare);
        eventually("the engine answers", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the engine ended with {status}:\n{}", self.log_text());
            }
            self.try_ctl(&["tree", "--json"]).map(|_| ())
        });
    }

    pub fn spawn(&mut self) {
        self.spawn_with(|_| {});
    }

    /// Starts the process after `prepare` has changed how.
    pub fn spawn_with(&mut self, prepare: impl FnOnce(&mut Command)) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut words = self.under.iter().map(String::as_str).chain([NEXUM, "run", "--config"]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(&self.config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        prepare(&mut command);
        self.child = Some(command.spawn().unwrap());
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks for an orderly end and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// The running process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Most memory that the process has held, bytes.
    pub fn memory_bytes_max(&self) -> u64 {
        memory_bytes(self.pid(), "VmHWM:")
    }

    /// The processes that it has started and that still run.
    pub fn children(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually("the engine ends", || {
            self.child.as_mut().unwrap().try_wait().unwrap().ok_or_else(|| "it still runs".to_owned())
        });
        self.child = None;
        status
    }

    /// Runs `nexumctl` against this engine; its standard output, or its error.
    pub fn try_ctl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.raw_ctl(args);
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Runs `nexumctl` against this engine, whatever comes of it.
    pub fn raw_ctl(&self, args: &[&str]) -> std::process::Output {
        Command::new(NEXUMCTL).arg("--socket").arg(&self.socket).args(args).output().unwrap()
    }

    pub fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args).unwrap_or_else(|error| panic!("nexumctl {args:?}: {error}\n{}", self.log_text()))
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        serde_json::from_str(&self.ctl(&args)).unwrap()
    }

    /// The sum of a metric's series that have all of these labels, read as Prometheus does.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics_text();
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        });
        let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.fold(0.0, |sum, value| sum + value)
    }

    /// What `GET /metrics` answers.
    pub fn metrics_text(&self) -> String {
        self.get("metrics_listen", "/metrics")
    }

    /// What a listener answers, with its head; `listen` is its key in the configuration.
    pub fn get(&self, listen: &str, path: &str) -> String {
        get(&self.address(listen), path)
    }

    /// Where a listener listens; `listen` is its key in the configuration.
    pub fn address(&self, listen: &str) -> String {
        let config = fs::read_to_string(&self.config).unwrap();
        let line = config.lines().find_map(|line| line.strip_prefix(&format!("{listen} = "))).unwrap();
        line.trim_matches('"').to_owned()
    }

    /// An endpoint's node in the tree; `url` as it was configured.
    pub fn endpoint(&self, url: &str) -> Value {
        let tree = self.json(&["tree"]);
        find(&tree, "endpoint", url).unwrap_or_else(|| panic!("no endpoint {url} in {tree:#}"))
    }

    /// A module's node in the tree, where modules come a moment after the engine is up.
    pub fn module(&self, name: &str) -> Value {
        eventually(&format!("{name} is in the tree"), || {
            let tree = self.json(&["tree"]);
            find(&tree, "module", name).ok_or_else(|| format!("{tree:#}"))
        })
    }

    /// Waits until a module's node is as wanted.
    pub fn module_until(&self, name: &str, what: &str, wanted: impl FnMut(&Value) -> bool) -> Value {
        self.module_within(PATIENCE, name, what, wanted)
    }

    pub fn module_within(
        &self,
        patience: Duration,
        name: &str,
        what: &str,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Value {
        within(patience, Duration::from_millis(25), &format!("{name}: {what}"), || {
            let node = self.module(name);
            if wanted(&node) { Ok(node) } else { Err(format!("{node:#}\n{}", tail(&self.log_text()))) }
        })
    }

    /// State entries of a module with a prefix, values parsed as JSON, page by page.
    pub fn state(&self, module: &str, prefix: &str) -> Vec<(String, Value)> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        loop {
            let mut args = vec!["state", "list", module, "--prefix", prefix, "--limit", "1000"];
            let after = entries.last().map(|(key, _)| key.clone());
            if let Some(after) = &after {
                args.extend(["--after", after]);
            }
            args.push("--json");
            let page = match self.try_ctl(&args) {
                Ok(page) => serde_json::from_str::<Value>(&page).unwrap(),
                // Before its first event it has none.
                Err(refused) if refused.contains("has no state here") => return entries,
                Err(refused) => panic!("nexumctl {args:?}: {refused}\n{}", self.log_text()),
            };
            let page = page.as_array().or_else(|| page["entries"].as_array()).unwrap().clone();
            let full = page.len() == 1000;
            for entry in page {
                let key = entry["key"].as_str().unwrap().to_owned();
                let value = self.value(&entry);
                entries.push((key, value));
            }
            if !full {
                return entries;
            }
        }
    }

    /// What a module has under a key, parsed as JSON; none when it has nothing there.
    pub fn state_value(&self, module: &str, key: &str) -> Option<Value> {
        let entry = self.try_ctl(&["state", "get", module, key, "--json"]).ok()?;
        Some(self.value(&serde_json::from_str(&entry).unwrap()))
    }

    fn value(&self, entry: &Value) -> Value {
        let text = entry["text"].as_str().map(str::to_owned).unwrap_or_else(|| {
            let hex = entry["value"].as_str().unwrap().trim_start_matches("0x").to_owned();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()
        });
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- the engine's log:\n{}", tail(&self.log_text()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

fn find(node: &Value, kind: &str, name: &str) -> Option<Value> {
    if node["kind"] == kind && node["name"] == name {
        return Some(node.clone());
    }
    node["children"].as_array()?.iter().find_map(|child| find(child, kind, name))
}
