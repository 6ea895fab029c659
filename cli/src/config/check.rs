//! What the types cannot say: values that do not go together or cannot be used.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use nexum_host_ifaces::{interfaces::chain::port::RpcBudget, secrets};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

use super::{Ceiling, Chain, Config, Listen, Period, identity::Wrong, source::is_address};

/// Shorter tokens can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// Fewer would be little more than what a fresh start reads; more would take hundreds of megabytes.
const KEPT_HEADERS: RangeInclusive<usize> = 256..=1_000_000;

/// Schemes that somebody might try; others are not repeated.
const SCHEMES: [&str; 7] = ["file", "ftp", "grpc", "ipc", "tcp", "udp", "unix"];

/// Less is not enough for the compiler itself.
const COMPILE_MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Something wrong at a path.
pub struct Problem {
    pub path: Vec<String>,
    pub message: String,
    /// The same without any value, where the message has one that it does not quote in backquotes.
    bare: Option<String>,
    /// The same about the other one of two values that do not go together.
    other: Option<Box<Problem>>,
}

/// Whether a layer of the configuration sets the key with this path.
type Layer<'a> = &'a dyn Fn(&[String]) -> bool;

impl Problem {
    /// Says what there is to say when no value may be repeated.
    pub fn bare(self, message: impl Into<String>) -> Self {
        Self { bare: Some(message.into()), ..self }
    }

    /// Says it of the other one of two values that do not go together, too.
    pub(super) fn or(self, other: Self) -> Self {
        Self { other: Some(Box::new(other)), ..self }
    }

    /// The problem of the one of two values that the operator chose: the first that is found set where settings count most.
    pub(super) fn of_what_was_set(mut self, layers: [Layer<'_>; 2]) -> Self {
        let Some(other) = self.other.take() else { return self };
        for is_set in layers {
            match (is_set(&self.path), is_set(&other.path)) {
                (true, _) => return self,
                (false, true) => return *other,
                (false, false) => {}
            }
        }
        self
    }

    /// What is wrong; of a hidden value only what would be right.
    pub(super) fn told(&self, hidden: bool) -> String {
        match &self.bare {
            Some(bare) if hidden || secrets::holds_secret(&self.message) => bare.clone(),
            _ => secrets::veiled(&self.message, hidden).into_owned(),
        }
    }
}

pub fn problem(path: &str, message: impl Into<String>) -> Problem {
    Problem { path: path.split('.').map(str::to_owned).collect(), message: message.into(), bare: None, other: None }
}

impl From<Wrong> for Problem {
    fn from(Wrong { path, message, bare }: Wrong) -> Self {
        Self { bare, ..problem(&path, message) }
    }
}

/// The first thing that is wrong, if any.
pub(super) fn check(config: &Config) -> Result<(), Problem> {
    check_engine(config)?;
    super::journal::check(&config.journal)?;
    let mut names = BTreeMap::new();
    for (index, chain) in config.chains.iter().enumerate() {
        if names.insert(chain.chain_id, index).is_some() {
            return Err(problem(
                &format!("chains.{index}.chain_id"),
                format!("chain {} is here twice", chain.chain_id),
            ));
        }
        check_chain(index, chain)?;
    }
    for (index, module) in config.modules.iter().enumerate() {
        let path = format!("modules.{index}");
        let source = &module.source;
        if source.is_empty() {
            return Err(problem(&format!("{path}.source"), "is empty: expected a bundle directory"));
        }
        if is_address(source) {
            let message = "is an address: only bundle directories are supported by this version";
            return Err(problem(&format!("{path}.source"), message));
        }
        if let Some(first) = config.modules[..index].iter().position(|other| other.source == *source) {
            return Err(problem(
                &format!("{path}.source"),
                format!("the bundle of [[modules]] number {} again", first + 1),
            ));
        }
        check_budget(&format!("{path}.rpc"), &module.rpc)?;
        check_ceiling(&format!("{path}.limits"), &module.limits)?;
    }
    for (index, library) in config.libraries.iter().enumerate() {
        let path = format!("libraries.{index}.source");
        if library.source.is_empty() {
            return Err(problem(&path, "is empty: expected a bundle directory"));
        }
        if is_address(&library.source) {
            return Err(problem(&path, "is an address: only bundle directories are supported by this version"));
        }
        if let Some(first) = config.libraries[..index].iter().position(|other| other.source == library.source) {
            return Err(problem(&path, format!("the bundle of [[libraries]] number {} again", first + 1)));
        }
    }
    if let Some((key, wrong)) = config.egress.wrong() {
        return Err(problem(&format!("egress.{key}"), wrong));
    }
    super::credentials::check(&config.egress.credentials).map_err(|(key, wrong)| problem(&key, wrong))?;
    if let Some((key, wrong)) = config.outbox.wrong() {
        return Err(problem(&format!("outbox.{key}"), wrong));
    }
    if let Some((key, wrong)) = config.queries.wrong() {
        return Err(problem(&format!("queries.{key}"), wrong));
    }
    let outbox = &config.outbox;
    check_backoff("outbox", ("backoff_first", outbox.backoff_first), ("backoff_cap", outbox.backoff_cap))?;
    if let Some(identity) = &config.identity {
        identity.check()?;
    }
    if let Some(store) = &config.remote_store {
        store.check()?;
    }
    if let Some((key, wrong)) = config.messaging.as_ref().and_then(super::Messaging::wrong) {
        return Err(problem(&format!("messaging.{key}"), wrong));
    }
    super::restart::check(&config.restart)?;
    check_ceiling("limits", &config.limits)
}

/// Whether a header takes it: nobody could show another one.
fn is_token(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The waits between attempts: the last is not shorter than the first.
pub(super) fn check_backoff(table: &str, first: (&str, Period), last: (&str, Period)) -> Result<(), Problem> {
    if first.1.0 <= last.1.0 {
        return Ok(());
    }
    let wrong = |key: &str, than: String| problem(&format!("{table}.{key}"), than);
    Err(wrong(last.0, format!("is shorter than {}", first.0)).or(wrong(first.0, format!("is longer than {}", last.0))))
}

/// A module that is given nothing of these cannot even be started.
fn check_ceiling(path: &str, ceiling: &Ceiling) -> Result<(), Problem> {
    let wide = |bytes: Option<usize>| bytes.map(|bytes| bytes as u64);
    for (key, number) in
        [("max_memory_bytes", wide(ceiling.max_memory_bytes)), ("max_fuel_per_event", ceiling.max_fuel_per_event)]
    {
        if number == Some(0) {
            return Err(problem(&format!("{path}.{key}"), "0 would let no module run; leave it out to lower nothing"));
        }
    }
    check_periods(
        path,
        [("event_deadline", ceiling.event_deadline), ("host_call_deadline", ceiling.host_call_deadline)],
    )
}

fn check_engine(config: &Config) -> Result<(), Problem> {
    let observability = &config.observability;
    let level = &config.engine.log_level;
    log_level(level)
        .map_err(|message| problem("engine.log_level", message).bare(format!("is no log level: {LEVELS}")))?;
    let engine = &config.engine;
    check_periods("engine", [("compile_timeout", Some(engine.compile_timeout))])?;
    let memory = engine.max_compile_memory_bytes;
    if memory < COMPILE_MEMORY_BYTES_MIN {
        let wanted = format!("is too little for any component: at least {COMPILE_MEMORY_BYTES_MIN}");
        return Err(problem("engine.max_compile_memory_bytes", format!("{memory} {wanted}")).bare(wanted));
    }
    if engine.max_component_bytes == 0 {
        return Err(problem("engine.max_component_bytes", "0 would let no module load"));
    }
    match (observability.admin_listen, &observability.admin_token) {
        (Listen(Some(_)), None) => {
            return Err(problem("observability.admin_listen", "needs admin_token, such as \"${NEXUM_ADMIN_TOKEN}\""));
        }
        (Listen(None), Some(_)) => {
            let message = "is not used: the admin socket needs no token, and admin_listen is off";
            return Err(problem("observability.admin_token", message));
        }
        (_, Some(token)) if !is_token(&token.0) => {
            let message =
                format!("has something else than visible ASCII characters: expected {TOKEN_CHARS_MIN} or more");
            return Err(problem("observability.admin_token", message));
        }
        (_, Some(token)) if token.0.len() < TOKEN_CHARS_MIN => {
            let message = format!("is too short: at least {TOKEN_CHARS_MIN} characters");
            return Err(problem("observability.admin_token", message));
        }
        _ => {}
    }
    let listens = [
        ("health_listen", observability.health_listen),
        ("metrics_listen", observability.metrics_listen),
        ("admin_listen", observability.admin_listen),
    ];
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in listens.into_iter().filter_map(|(key, Listen(address))| Some((key, address?))) {
        if let Some(&(first, other)) = taken.iter().find(|(_, other)| exclude_each_other(address, *other)) {
            let wrong = |key: &str, address: SocketAddr, by: &str| {
                let wrong = format!("is taken by {by}");
                problem(&format!("observability.{key}"), format!("{address} {wrong}")).bare(wrong)
            };
            return Err(wrong(key, address, first).or(wrong(first, other, key)));
        }
        taken.push((key, address));
    }
    Ok(())
}

/// Whether only one of them can be listened on: the address of all interfaces has that of each.
fn exclude_each_other(a: SocketAddr, b: SocketAddr) -> bool {
    // That of IPv6 is the one of IPv4, too.
    let has = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (one, other) = (a.ip(), b.ip());
    a.port() == b.port() && a.port() != 0 && (one == other || has(one, other) || has(other, one))
}

const LEVELS: &str = "expected off, error, warn, info, debug or trace, or directives such as info,nexum_chain=debug";

/// A log level as it is to be given to the log.
///
/// Whatever is no level and has no level would be the name of a target: everything else would be silent, for a slip of the
/// finger. Blanks around a directive would be part of it.
pub fn log_level(text: &str) -> Result<String, String> {
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    if directives.contains(&"") {
        return Err(format!("`{text}` says nothing of a level: {LEVELS}"));
    }
    let wrong = directives.iter().find_map(|directive| Some((directive, wrong_with(directive)?)));
    match wrong {
        Some((&directive, why)) if directive != text => Err(format!("`{directive}` in `{text}` {why}{LEVELS}")),
        Some((directive, why)) => Err(format!("`{directive}` {why}{LEVELS}")),
        None => Ok(directives.join(",")),
    }
}

/// What is wrong with one directive, if anything, up to what would be right.
fn wrong_with(directive: &str) -> Option<String> {
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_target = |text: &str| text.split("::").all(is_word);
    let none = || Some("is no log level: ".to_owned());
    // `target[span{field=value}]=level`, of which the log knows the inside.
    if let Some((target, _)) = directive.split_once('[') {
        let is_right = (target.is_empty() || is_target(target)) && EnvFilter::try_new(directive).is_ok();
        return if is_right { None } else { none() };
    }
    match directive.split_once('=') {
        None if is_level(directive) => None,
        None => match directive.rsplit_once(':') {
            Some((target, level)) if is_target(target) && is_level(level) => {
                Some(format!("is no log level, write `{target}={level}`: "))
            }
            _ => none(),
        },
        Some((_, level)) if !is_level(level) => none(),
        Some((target, _)) if !is_target(target) => {
            Some(format!("is no log level, for `{target}` names no part of a program: "))
        }
        Some(_) => None,
    }
}

/// What a module may ask of nodes.
fn check_budget(path: &str, budget: &RpcBudget) -> Result<(), Problem> {
    let limits = [
        ("requests_per_second", budget.requests_per_second),
        ("units_per_second", budget.units_per_second),
        ("requests_per_day", budget.requests_per_day),
        ("units_per_day", budget.units_per_day),
    ];
    match limits.iter().find(|(_, limit)| *limit == Some(0)) {
        Some((key, _)) => {
            let message = "0 would let it ask nothing: withhold the capability with denied = [\"chain\"]";
            Err(problem(&format!("{path}.{key}"), message))
        }
        None => Ok(()),
    }
}

fn check_chain(index: usize, chain: &Chain) -> Result<(), Problem> {
    let path = format!("chains.{index}");
    if chain.chain_id == 0 {
        return Err(problem(&format!("{path}.chain_id"), "0 is no chain id"));
    }
    match (&chain.mock, chain.endpoints.is_empty()) {
        (None, true) => {
            let message = format!("chain {} needs [[chains.endpoints]] or mock", chain.chain_id);
            return Err(problem(&path, message));
        }
        (Some(_), false) => {
            return Err(problem(&format!("{path}.mock"), "excludes [[chains.endpoints]]: a mock chain has no nodes"));
        }
        _ => {}
    }
    if chain.mock.as_ref().is_some_and(|fixture| is_address(&fixture.to_string_lossy())) {
        return Err(problem(&format!("{path}.mock"), "is an address: expected the file of a fixture"));
    }
    for (number, endpoint) in chain.endpoints.iter().enumerate() {
        check_url(&format!("{path}.endpoints.{number}.url"), &endpoint.url)?;
    }
    if let Some(relay) = &chain.transactions.relay {
        let path = format!("{path}.transactions.relay");
        if chain.mock.is_some() {
            return Err(problem(&path, "is of no use: a mock chain takes no transactions"));
        }
        check_url(&path, &relay.0)?;
    }
    chain.transactions.check(&format!("{path}.transactions"))?;
    if let Some(kept) = chain.kept_headers
        && !KEPT_HEADERS.contains(&kept)
    {
        let (least, most) = KEPT_HEADERS.into_inner();
        return Err(problem(&format!("{path}.kept_headers"), format!("{kept} is not between {least} and {most}")));
    }
    let rpc = &chain.rpc;
    let is_method = |name: &String| {
        (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !rpc.costs.keys().all(is_method) {
        let message =
            "one of its keys is no method: expected names such as eth_call, of letters, digits and underscores";
        return Err(problem(&format!("{path}.rpc.costs"), message));
    }
    if rpc.requests_per_second == Some(0) {
        return Err(problem(
            &format!("{path}.rpc.requests_per_second"),
            "0 would allow nothing; leave it out for no limit",
        ));
    }
    if rpc.max_log_range == Some(0) {
        return Err(problem(&format!("{path}.rpc.max_log_range"), "must be at least 1"));
    }
    check_periods(
        &format!("{path}.rpc"),
        [("timeout", rpc.timeout), ("poll_interval", rpc.poll_interval), ("stall_after", rpc.stall_after)],
    )
}

/// The URL of a node. It is not repeated: it may hold a key.
fn check_url(path: &str, url: &str) -> Result<(), Problem> {
    let scheme = Url::parse(url).ok().filter(Url::has_host).map(|url| url.scheme().to_owned());
    match scheme.as_deref() {
        Some("http" | "https" | "ws" | "wss") => Ok(()),
        Some(other) if SCHEMES.contains(&other) => {
            Err(problem(path, format!("{other}:// is not served; expected http, https, ws or wss")))
        }
        Some(_) => Err(problem(path, "its scheme is not served; expected http, https, ws or wss")),
        None => Err(problem(path, "is no URL: expected one such as https://rpc.example.org/key")),
    }
}

fn check_periods<const N: usize>(path: &str, periods: [(&str, Option<Period>); N]) -> Result<(), Problem> {
    for (key, period) in periods {
        if period.is_some_and(|Period(period)| period.is_zero()) {
            return Err(problem(&format!("{path}.{key}"), "must be longer than nothing"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_that_exclude_each_other_are_known() {
        let excluded = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(exclude_each_other(a, b), exclude_each_other(b, a), "{a} {b}");
            exclude_each_other(a, b)
        };
        for (a, b) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("[::]:1", "127.0.0.1:1"),
            ("[::]:1", "0.0.0.0:1"),
        ] {
            assert!(excluded(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("0.0.0.0:1", "127.0.0.1:2"),
            ("0.0.0.0:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("0.0.0.0:0", "127.0.0.1:0"),
        ] {
            assert!(!excluded(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_log_level_is_a_list_of_directives() {
        for (text, taken) in [
            ("info", "info"),
            ("WARN", "WARN"),
            ("3", "3"),
            (" info , nexum_chain=debug,module=off ", "info,nexum_chain=debug,module=off"),
            ("info,nexum_kernel::modules=trace", "info,nexum_kernel::modules=trace"),
            ("info,[span]=debug", "info,[span]=debug"),
            ("info,nexum_chain[block{number=3}]=debug", "info,nexum_chain[block{number=3}]=debug"),
        ] {
            assert_eq!(log_level(text).as_deref(), Ok(taken));
            assert!(EnvFilter::try_new(taken).is_ok(), "{taken}");
        }
        for (text, wrong) in [
            ("loud", "`loud` is no log level: expected off, "),
            ("info,nexum", "`nexum` in `info,nexum` is no log level: expected off, "),
            ("nexum_chain:debug", "`nexum_chain:debug` is no log level, write `nexum_chain=debug`: expected"),
            ("info,nexum::chain:debug", "write `nexum::chain=debug`: "),
            ("nexum::chain", "`nexum::chain` is no log level: "),
            ("info;nexum=debug", "for `info;nexum` names no part of a program: "),
            ("info nexum=debug", "`info nexum=debug` is no log level, for `info nexum` names no part of a program: "),
            ("nexum-chain=debug", "`nexum-chain=debug` is no log level, "),
            ("nexum:chain=debug", "names no part of a program"),
            ("nexum=debug;info", "is no log level: "),
            ("nexum=debug info", "is no log level: "),
            ("nexum =debug", "names no part of a program"),
            ("nexum=", "`nexum=` is no log level: "),
            ("=debug", "names no part of a program"),
            ("info;nexum[span]=debug", "is no log level: "),
            ("info[", "is no log level: "),
            ("", "says nothing of a level: "),
            ("info,", "says nothing of a level: "),
            (" ", "says nothing of a level: "),
        ] {
            let error = log_level(text).unwrap_err();
            assert!(error.contains(wrong) && error.contains("expected off, error"), "{text}: {error}");
        }
    }
}
