//! The effective configuration for people, with secrets masked.

use url::Url;

use super::{Config, Secret};

const MASK: &str = "***";

/// Words in the name of a module's value that say what it is.
const SECRET_WORDS: [&str; 7] = ["apikey", "key", "passphrase", "password", "privatekey", "secret", "token"];

/// The configuration with every secret replaced by `***`: tokens, what may be a key in a URL, and values of modules that
/// came from the environment or are named as secrets are.
pub fn masked(config: &Config) -> Config {
    let mut config = config.clone();
    for chain in &mut config.chains {
        for endpoint in &mut chain.endpoints {
            endpoint.url = masked_url(&endpoint.url);
        }
    }
    if let Some(token) = &mut config.observability.admin_token {
        *token = Secret(MASK.to_owned());
    }
    for (index, module) in config.modules.iter_mut().enumerate() {
        for (key, value) in &mut module.config {
            mask_expanded(&format!("modules.{index}.config.{key}"), value, &config.from_environment);
        }
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

fn mask_expanded(path: &str, value: &mut toml::Value, expanded: &std::collections::BTreeSet<String>) {
    match value {
        toml::Value::String(text) if expanded.contains(path) || is_secret(path) => *text = MASK.to_owned(),
        toml::Value::String(text) if text.contains("://") => *text = masked_url(text),
        toml::Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                mask_expanded(&format!("{path}.{index}"), item, expanded);
            }
        }
        toml::Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                mask_expanded(&format!("{path}.{key}"), value, expanded);
            }
        }
        _ => {}
    }
}

/// Whether the value's own name says that it is secret, as in `api_key` or `relay.auth-token`.
fn is_secret(path: &str) -> bool {
    let own = path.split('.').rfind(|part| part.parse::<usize>().is_err()).unwrap_or(path).to_lowercase();
    own.split(['_', '-']).any(|word| SECRET_WORDS.contains(&word))
}

/// Scheme, host and port stay; userinfo, path and query are where providers put keys.
pub(super) fn masked_url(url: &str) -> String {
    let Ok(parsed) = Url::parse(url) else { return MASK.to_owned() };
    let mut shown = format!("{}://", parsed.scheme());
    if !parsed.username().is_empty() || parsed.password().is_some() {
        shown += "***@";
    }
    shown += parsed.host_str().unwrap_or(MASK);
    if let Some(port) = parsed.port() {
        shown += &format!(":{port}");
    }
    if parsed.path().len() > 1 {
        shown += "/***";
    }
    if parsed.query().is_some() {
        shown += "?***";
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{is_secret, masked_url};

    #[test]
    fn urls_keep_their_host_only() {
        assert_eq!(masked_url("http://localhost:8545"), "http://localhost:8545");
        assert_eq!(masked_url("https://mainnet.example.org/v3/k3y"), "https://mainnet.example.org/***");
        assert_eq!(masked_url("wss://u:p@node.example.org:8546/?key=k3y"), "wss://***@node.example.org:8546?***");
        assert_eq!(masked_url("not a url with k3y"), "***");
    }

    #[test]
    fn values_of_modules_are_secret_by_their_names() {
        for secret in ["modules.0.config.api_key", "modules.0.config.relay.Auth-Token", "modules.1.config.keys.key.0"] {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["modules.0.config.monkey", "modules.0.config.keyed", "modules.0.config.threshold"] {
            assert!(!is_secret(plain), "{plain}");
        }
    }
}
