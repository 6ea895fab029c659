//! The order book of CoW Protocol as a library: modules call `shepherd:cow/cow-api`, and only this component reaches the order
//! book's host, with the credential that the operator has for it.
//!
//! Its `[config]`: `base_url`, and `networks`, each a chain and its name in paths, such as `1=mainnet`.

#[allow(clippy::all, unsafe_code, missing_docs, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        world: "shepherd:cow/library@0.3.0",
        path: ["../../../host-ifaces/wit", "wit"],
        generate_all,
    });
}
mod order;

use std::{collections::BTreeMap, sync::OnceLock};

use bindings::{
    Config, Guest,
    exports::shepherd::cow::cow_api,
    nexum::host::{
        http::{self, Header, Request, Response},
        types::{ConfigScalar, ConfigValue, HostError, HostErrorKind},
    },
};
use order::Order;
use serde::Deserialize;

/// What of an answer goes into an error.
const DATA_BYTES_MAX: usize = 4 * 1024;
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];

struct Cow;

struct Settings {
    base_url: String,
    networks: BTreeMap<u64, String>,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

impl Guest for Cow {
    fn init(config: Config) -> Result<(), HostError> {
        let settings = Settings::read(&config).map_err(invalid)?;
        SETTINGS.set(settings).map_err(|_| error(HostErrorKind::Internal, "init was called twice".to_owned()))
    }
}

impl cow_api::Guest for Cow {
    fn request(chain_id: u64, method: String, path: String, body: Option<String>) -> Result<String, HostError> {
        let answer = ask(chain_id, method, &path, body.map(String::into_bytes))?;
        if !is_success(&answer) {
            return Err(refused(&answer));
        }
        String::from_utf8(answer.body).map_err(|_| error(HostErrorKind::Internal, "the answer is not text".to_owned()))
    }

    fn submit_order(chain_id: u64, order_data: Vec<u8>) -> Result<String, HostError> {
        let order = Order::read(&order_data).map_err(|why| invalid(format!("the order: {why}")))?;
        let answer = ask(chain_id, "POST".to_owned(), "/api/v1/orders", Some(order_data))?;
        if is_success(&answer) {
            return serde_json::from_slice(&answer.body)
                .map_err(|why| error(HostErrorKind::Internal, format!("the answer is no UID: {why}")));
        }
        // It was placed by an attempt whose answer was lost, or that was undone after it.
        match order.uid(chain_id).filter(|_| is_duplicate(&answer)) {
            Some(uid) => Ok(uid),
            None => Err(refused(&answer)),
        }
    }
}

impl Settings {
    fn read(config: &[(String, ConfigValue)]) -> Result<Self, String> {
        let value = |wanted: &str| config.iter().find(|(key, _)| key == wanted).map(|(_, value)| value);
        let Some(ConfigValue::String(base_url)) = value("base_url") else {
            return Err("[config] base_url: expected the order book's URL".to_owned());
        };
        let Some(ConfigValue::List(list)) = value("networks") else {
            return Err("[config] networks: expected a list such as [\"1=mainnet\"]".to_owned());
        };
        let network = |entry: &ConfigScalar| match entry {
            ConfigScalar::String(text) => text
                .split_once('=')
                .and_then(|(chain, name)| Some((chain.trim().parse().ok()?, name.trim().to_owned()))),
            _ => None,
        };
        let networks = list.iter().map(network).collect::<Option<_>>();
        let networks = networks.ok_or("[config] networks: expected entries such as \"1=mainnet\"")?;
        Ok(Self { base_url: base_url.trim_end_matches('/').to_owned(), networks })
    }

    fn url(&self, chain_id: u64, path: &str) -> Result<String, String> {
        let network = self.networks.get(&chain_id);
        let network =
            network.ok_or_else(|| format!("chain {chain_id} has no order book here: see [config] networks"))?;
        // The operator's secrets have names of this form; nobody else may have one filled in.
        let is_plain = path.starts_with("/api/") && !path.contains(['$', '\\']) && !path.contains("..");
        if !is_plain {
            return Err("the path: expected one that begins with /api/, without `..`, `$` and `\\`".to_owned());
        }
        Ok(format!("{}/{network}{path}", self.base_url))
    }
}

fn ask(chain_id: u64, method: String, path: &str, body: Option<Vec<u8>>) -> Result<Response, HostError> {
    if !METHODS.contains(&method.as_str()) {
        return Err(invalid(format!("the method: expected one of {}", METHODS.join(", "))));
    }
    let Some(settings) = SETTINGS.get() else {
        return Err(error(HostErrorKind::Internal, "init was not called".to_owned()));
    };
    let url = settings.url(chain_id, path).map_err(invalid)?;
    let header = |name: &str| Header { name: name.to_owned(), value: "application/json".to_owned() };
    let mut headers = vec![header("accept")];
    headers.extend(body.is_some().then(|| header("content-type")));
    http::fetch(&Request { method, url, headers, body, timeout_ms: None })
}

fn is_success(answer: &Response) -> bool {
    (200..300).contains(&answer.status)
}

/// Whether the order book has the order already.
fn is_duplicate(answer: &Response) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refusal {
        error_type: String,
    }
    let refusal: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
    refusal.is_some_and(|refusal| refusal.error_type == "DuplicatedOrder")
}

/// What a status other than 2xx says, with the order book's own words as data.
fn refused(answer: &Response) -> HostError {
    let kind = match answer.status {
        401 | 403 => HostErrorKind::Denied,
        429 => HostErrorKind::RateLimited,
        400..500 => HostErrorKind::InvalidInput,
        _ => HostErrorKind::Unavailable,
    };
    let said = String::from_utf8_lossy(&answer.body);
    let said = said[..said.floor_char_boundary(DATA_BYTES_MAX)].to_owned();
    HostError { data: Some(said), code: i32::from(answer.status), ..error(kind, format!("status {}", answer.status)) }
}

fn invalid(message: String) -> HostError {
    error(HostErrorKind::InvalidInput, message)
}

fn error(kind: HostErrorKind, message: String) -> HostError {
    HostError { domain: "cow-api".to_owned(), kind, code: 0, message, data: None }
}

#[allow(clippy::all, unsafe_code, reason = "generated")]
mod exported {
    use super::{Cow, bindings};

    bindings::export!(Cow with_types_in bindings);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let networks = ConfigValue::List(vec![ConfigScalar::String("1=mainnet".into())]);
        let base_url = ConfigValue::String("https://api.cow.fi/".into());
        Settings::read(&[("base_url".into(), base_url), ("networks".into(), networks)]).unwrap()
    }

    #[test]
    fn a_path_leads_to_the_network_of_the_chain_and_nowhere_else() {
        let settings = settings();
        let quote = settings.url(1, "/api/v1/quote");
        assert_eq!(quote.unwrap(), "https://api.cow.fi/mainnet/api/v1/quote");
        assert!(settings.url(5, "/api/v1/quote").unwrap_err().starts_with("chain 5 has no order book here"));
        for path in ["", "/", "/quote", "@evil.org/api/", "/api/../x", "/api/${secret:key}", "/api/\\x"] {
            assert!(settings.url(1, path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_status_is_told_by_the_kinds_that_modules_know() {
        let kind = |status| refused(&Response { status, headers: Vec::new(), body: b"said".to_vec() }).kind;
        assert!(matches!(kind(400), HostErrorKind::InvalidInput) && matches!(kind(403), HostErrorKind::Denied));
        assert!(matches!(kind(429), HostErrorKind::RateLimited) && matches!(kind(503), HostErrorKind::Unavailable));
    }

    #[test]
    fn a_duplicate_is_told_from_every_other_refusal() {
        let of = |body: &str| is_duplicate(&Response { status: 400, headers: Vec::new(), body: body.into() });
        assert!(of(r#"{"errorType":"DuplicatedOrder","description":"order already exists"}"#));
        assert!(!of(r#"{"errorType":"InsufficientFee","description":""}"#) && !of("DuplicatedOrder"));
    }
}
