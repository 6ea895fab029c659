//! The effective configuration for people, with secrets masked.

use std::collections::BTreeSet;

use nexum_host_ifaces::secrets::{self, MASK};

use super::{Config, Credential, Secret, kms::AwsKms, secret::is_named};

/// The configuration with every secret replaced by `***`: tokens, what may be a key in a URL, and of the values of modules
/// those that came from the environment, that are named as secrets are, and that look like one.
pub fn masked(config: &Config) -> Config {
    let mut config = config.clone();
    for chain in &mut config.chains {
        mask_text(&mut chain.name);
        for endpoint in &mut chain.endpoints {
            endpoint.url = secrets::shown_url(&endpoint.url);
        }
        if let Some(Secret(relay)) = &mut chain.transactions.relay {
            *relay = secrets::shown_url(relay);
        }
    }
    if let Some(token) = &mut config.observability.admin_token {
        *token = Secret(MASK.to_owned());
    }
    if let Some(identity) = &mut config.identity {
        let clouds = identity.aws_kms.iter_mut().flat_map(AwsKms::secrets_mut);
        let clouds = clouds.chain(identity.gcp_kms.iter_mut().map(|kms| &mut kms.token));
        for secret in clouds.chain(&mut identity.password).filter(|secret| !is_named(&secret.0)) {
            *secret = Secret(MASK.to_owned());
        }
        for remote in &mut identity.remote {
            remote.url = Secret(secrets::shown_url(&remote.url.0));
        }
    }
    for node in config.remote_store.iter_mut().flat_map(|store| &mut store.nodes) {
        node.url = Secret(secrets::shown_url(&node.url.0));
    }
    for Secret(url) in config.messaging.iter_mut().flat_map(|messaging| &mut messaging.nodes) {
        *url = secrets::shown_url(url);
    }
    config.egress.proxy = config.egress.proxy.map(|proxy| proxy.masked());
    config.egress.credentials.iter_mut().for_each(Credential::mask);
    for (index, module) in config.modules.iter_mut().enumerate() {
        for method in &mut module.extra_methods {
            mask_text(method);
        }
        let at = format!("modules.{index}.config");
        let values = std::mem::take(&mut module.config);
        module.config =
            values.into_iter().map(|(key, value)| masked_value(&at, key, value, &config.from_environment)).collect();
    }
    for (index, library) in config.libraries.iter_mut().enumerate() {
        let (at, values) = (format!("libraries.{index}.config"), std::mem::take(&mut library.config));
        let masked = |(key, value)| masked_value(&at, key, value, &config.from_environment);
        library.config = values.into_iter().map(masked).collect();
    }
    config
}

/// The masked configuration as TOML.
pub fn shown(config: &Config) -> String {
    toml::to_string(&masked(config)).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
}

/// The masked configuration as JSON.
pub fn shown_json(config: &Config) -> serde_json::Value {
    serde_json::to_value(masked(config)).unwrap_or_default()
}

fn masked_value(at: &str, key: String, mut value: toml::Value, expanded: &BTreeSet<String>) -> (String, toml::Value) {
    let path = format!("{at}.{key}");
    match secrets::is_secret_name(&key) {
        true => hide(&mut value),
        false => mask(&path, &mut value, expanded),
    }
    // Who mixes up the sides of an equals sign has the secret in the key.
    let key = if secrets::holds_secret(&key) { MASK.to_owned() } else { key };
    (key, value)
}

/// Hides a value whatever it is: what is secret may be digits, or a list or a table of what is secret.
fn hide(value: &mut toml::Value) {
    if !is_public(value) {
        *value = toml::Value::String(MASK.to_owned());
    }
}

/// Whether something is on or off is nobody's secret, and neither are addresses on a chain, such as those of tokens.
fn is_public(value: &toml::Value) -> bool {
    let is_address = |text: &str| {
        let digits = text.strip_prefix("0x");
        digits.is_some_and(|digits| digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    match value {
        toml::Value::Boolean(_) => true,
        toml::Value::String(text) => is_address(text),
        toml::Value::Array(items) => items.iter().all(is_public),
        _ => false,
    }
}

fn mask(path: &str, value: &mut toml::Value, expanded: &BTreeSet<String>) {
    match value {
        toml::Value::String(text) if expanded.contains(path) => *text = MASK.to_owned(),
        toml::Value::String(text) => mask_text(text),
        toml::Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                mask(&format!("{path}.{index}"), item, expanded);
            }
        }
        toml::Value::Table(table) => {
            let values = std::mem::take(table);
            *table = values.into_iter().map(|(key, value)| masked_value(path, key, value, expanded)).collect();
        }
        _ => {}
    }
}

/// Leaves of a URL its host, and of what looks like a secret nothing.
fn mask_text(text: &mut String) {
    if text.contains("://") {
        *text = secrets::shown_url(text);
    } else if secrets::holds_secret(text) {
        *text = MASK.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Chain, Endpoint, Module};

    const KEY: &str = "k3y0123456789abcdefK3Y";

    /// What shows a configuration: as text and as JSON for `check-config`, and to developers.
    fn renderings(config: &Config) -> [String; 3] {
        [shown(config), shown_json(config).to_string(), format!("{config:?}")]
    }

    fn with(module_config: &str) -> Config {
        let mut module = Module::at("bundles/a".as_ref());
        module.config = toml::from_str(module_config).unwrap();
        Config { modules: vec![module], ..Config::default() }
    }

    #[test]
    fn nothing_that_shows_a_configuration_shows_a_secret() {
        let hex = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
        for secret in [
            format!("apiKey = \"{KEY}\""),
            format!("authToken = \"{KEY}\""),
            format!("tokens = [\"{KEY}\", [\"{KEY}\"]]"),
            format!("keys = {{ a = \"{KEY}\", b = [{{ c = \"{KEY}\" }}] }}"),
            format!("[secret]\nx.y.z = \"{KEY}\""),
            format!("\"x-api-key\" = \"{KEY}\""),
            format!("headers = {{ Authorization = \"{KEY}\", Cookie = \"{KEY}\" }}"),
            format!("dsn = \"{KEY}\"\npassphrase = \"{KEY}\"\nmnemonic = \"{KEY}\"\ncredentials = \"{KEY}\""),
            format!("webhook = \"{KEY}\"\npass = \"{KEY}\"\npwd = \"{KEY}\"\nseed = \"{KEY}\"\nprivate = \"{KEY}\""),
            format!("url = \"https://rpc.example.org/v2/{KEY}\""),
            format!("url = \"see https://rpc.example.org/v2/{KEY}\""),
            format!("list = [\"https://rpc.example.org/?key={KEY}\"]"),
            format!("database = \"postgres://me:{KEY}@db.example.org\""),
            format!("database = \"me:{KEY}@db.example.org:5432\""),
            format!("a = \"sk-{KEY}\"\nb = \"Bearer {KEY}\"\nc = [\"X-Header: Bearer {KEY}\"]"),
            format!("a = \"eyJhbGciOiJIUzI1NiJ9.{KEY}.{KEY}\""),
            format!("\"https://rpc.example.org/{KEY}\" = 1"),
        ] {
            for shown in renderings(&with(&secret)).into_iter().take(2) {
                assert!(!shown.contains(KEY) && shown.contains("***"), "{secret}\n{shown}");
            }
        }
        for secret in [format!("a = \"{hex}\""), format!("a = [\"0x{hex}\"]"), "pin.token = 48151623".to_owned()] {
            for shown in renderings(&with(&secret)) {
                assert!(!shown.contains(hex) && !shown.contains("48151623"), "{secret}\n{shown}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        let plain = "account = \"0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2\"\nmonkey = \"banana\"\nkeyed = true\n\
                     origin = \"https://api.example.org:8443\"\nthreshold = 3\nuse_keys = false\n\
                     tokens = [\"0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2\"]\n";
        let shown = shown(&with(plain));
        for line in plain.lines() {
            assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        }
    }

    #[test]
    fn endpoints_and_tokens_are_shown_by_nobody() {
        let mut chain = Chain::mock(1, "chain.toml".into());
        chain.name = format!("https://rpc.example.org/{KEY}");
        let urls = ["https://rpc.example.org/v2/", "https://", "wss://u:", "", "rpc.example.org/?", "https://a.org/#"];
        let endpoint = |url: &&str| Endpoint { url: format!("{url}{KEY}"), priority: 0 };
        chain.endpoints = urls.iter().map(endpoint).collect();
        chain.endpoints.push(Endpoint { url: format!("https://{KEY}@rpc.example.org"), priority: 0 });
        chain.transactions.relay = Some(Secret(format!("https://relay.example.org/{KEY}")));
        let mut config = Config { chains: vec![chain.clone()], ..Config::default() };
        config.observability.admin_token = Some(Secret(KEY.to_owned()));
        config.egress = toml::from_str(&format!("proxy = \"http://me:{KEY}@proxy.example.org:3128\"")).unwrap();
        let [text, json, _] = renderings(&config);
        let debug =
            format!("{:?}{:?}{:?}{:?}", chain.endpoints, chain.transactions, config.observability, config.egress);
        for shown in [text, json, debug] {
            assert!(!shown.to_lowercase().contains(&KEY.to_lowercase()), "{shown}");
        }
    }
}
