//! The manifest file as it is written, and the checks that turn it into a `Manifest`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    time::Duration,
};

use nexum_host_ifaces::{
    Address, Hash,
    chain::{Blocks, Hold, LogFilter},
    cron::{Missed, Schedule, ScheduleCheck},
    grants::Capability,
    http::{self, Allowlist},
    limits::Limits,
};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{Finding, OnReorg, RestartPolicy, Sources, ceilings, config_values};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    module: Module,
    #[serde(default)]
    chains: Chains,
    capabilities: Capabilities,
    #[serde(default)]
    subscription: Vec<Spanned<Subscription>>,
    #[serde(default)]
    config: BTreeMap<String, Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Module {
    name: Spanned<String>,
    version: Spanned<String>,
    description: Option<Spanned<String>>,
    #[serde(default)]
    authors: Vec<Spanned<String>>,
    component: Spanned<String>,
    #[serde(default)]
    on_reorg: OnReorg,
    #[serde(default)]
    resources: Resources,
    #[serde(default)]
    restart: Restart,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Resources {
    max_memory_bytes: Option<Spanned<u64>>,
    max_fuel_per_event: Option<Spanned<u64>>,
    max_state_bytes: Option<u64>,
    event_deadline: Option<Spanned<Length>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Restart {
    max_consecutive_failures: Option<Spanned<u32>>,
    backoff: Option<Spanned<Vec<String>>>,
    max_event_attempts: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Chains {
    #[serde(default)]
    required: BTreeSet<u64>,
    #[serde(default)]
    optional: BTreeSet<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capabilities {
    required: Option<Spanned<Vec<Capability>>>,
    #[serde(default)]
    optional: Vec<Capability>,
    #[serde(default)]
    chain: ChainCapability,
    http: Option<HttpCapability>,
    identity: Option<IdentityCapability>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ChainCapability {
    #[serde(default)]
    extra_methods: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpCapability {
    allow: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityCapability {
    methods: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscription {
    kind: Spanned<String>,
    chain_id: Option<Spanned<u64>>,
    address: Option<Spanned<OneOrMany>>,
    topics: Option<Spanned<Vec<OneOrMany>>>,
    event_signature: Option<Spanned<String>>,
    start_block: Option<Spanned<u64>>,
    confirmations: Option<Spanned<u64>>,
    finality: Option<Spanned<String>>,
    missed: Option<Spanned<String>>,
    schedule: Option<Spanned<String>>,
    every: Option<Spanned<Length>>,
    content_topic: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A length of time as it is written; of its own type so that a bare number is told what to write instead.
struct Length(String);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number with a unit, in quotes, such as \"5s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.to_owned()))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

fn duration(text: &Spanned<Length>) -> Result<Duration, Finding> {
    let written = &text.get_ref().0;
    humantime::parse_duration(written).map_err(|_| {
        let message =
            format!("`{written}` is not a duration: expected a number with a unit, such as \"10s\" or \"5m\"");
        (text.span(), message)
    })
}

fn positive<T: PartialEq + Default + Copy>(value: &Spanned<T>, what: &str) -> Result<T, Finding> {
    if *value.get_ref() == T::default() {
        return Err((value.span(), format!("{what} is 0: expected at least 1")));
    }
    Ok(*value.get_ref())
}

impl Manifest {
    pub(super) fn check(self, schedules: &ScheduleCheck) -> Result<super::Manifest, Finding> {
        self.module.lengths()?;
        let name = self.module.name;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.get_ref().is_empty() || name.get_ref().len() > 64 || !name.get_ref().chars().all(allowed) {
            let message = format!("module name `{}`: expected 1 to 64 of a-z, 0-9 and -", name.get_ref());
            return Err((name.span(), message));
        }
        let component = component(&self.module.component)?;
        let limits = self.module.resources.check()?;
        let restart = self.module.restart.check()?;
        self.capabilities.check()?;
        let allow = self.capabilities.allow()?;
        let mut known_chains = self.chains.required.clone();
        known_chains.extend(&self.chains.optional);
        if let Some(beyond) = self.subscription.get(ceilings::SUBSCRIPTIONS_MAX) {
            ceilings::list(|| beyond.span(), "subscriptions", self.subscription.len(), ceilings::SUBSCRIPTIONS_MAX)?;
        }
        let mut sources = Sources::default();
        for subscription in self.subscription {
            let span = subscription.span();
            subscription.into_inner().check(span, &known_chains, schedules, &mut sources)?;
        }
        let required = self.capabilities.required.map(Spanned::into_inner).unwrap_or_default();
        if required.iter().chain(&self.capabilities.optional).any(|c| *c == Capability::Outbox) {
            sources.outbox();
        }
        let mut config = Vec::new();
        for (key, value) in &self.config {
            config_values(key, value.get_ref(), &mut config).map_err(|message| (value.span(), message))?;
        }
        Ok(super::Manifest {
            name: name.into_inner().into(),
            version: self.module.version.into_inner(),
            description: self.module.description.map(Spanned::into_inner).unwrap_or_default(),
            authors: self.module.authors.into_iter().map(Spanned::into_inner).collect(),
            component,
            limits,
            restart,
            on_reorg: self.module.on_reorg,
            required_chains: self.chains.required,
            optional_chains: self.chains.optional,
            required,
            optional: self.capabilities.optional,
            extra_methods: self.capabilities.chain.extra_methods.into_iter().map(Spanned::into_inner).collect(),
            allow,
            sources: sources.0,
            config,
        })
    }
}

fn component(text: &Spanned<String>) -> Result<Hash, Finding> {
    let digits = text.get_ref().strip_prefix("sha256:").filter(|digits| digits.len() == 64);
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        let message = format!("component `{}`: expected \"sha256:\" and 64 hex digits", text.get_ref());
        (text.span(), message)
    })
}

impl Module {
    fn lengths(&self) -> Result<(), Finding> {
        ceilings::text(&self.version, "version", ceilings::VERSION_BYTES_MAX)?;
        if let Some(description) = &self.description {
            ceilings::text(description, "description", ceilings::DESCRIPTION_BYTES_MAX)?;
        }
        ceilings::texts(&self.authors, "authors", ceilings::AUTHORS_MAX, ceilings::AUTHOR_BYTES_MAX)
    }
}

impl Resources {
    fn check(self) -> Result<Limits, Finding> {
        let mut limits = Limits::default();
        if let Some(bytes) = &self.max_memory_bytes {
            limits.max_memory_bytes = positive(bytes, "max_memory_bytes")? as usize;
        }
        if let Some(fuel) = &self.max_fuel_per_event {
            limits.max_fuel_per_event = positive(fuel, "max_fuel_per_event")?;
        }
        if let Some(bytes) = self.max_state_bytes {
            limits.max_state_bytes = bytes;
        }
        if let Some(text) = &self.event_deadline {
            limits.event_deadline = duration(text)?;
            if limits.event_deadline.is_zero() {
                return Err((text.span(), "event_deadline is 0: expected at least \"1ms\"".into()));
            }
            limits.host_call_deadline = limits.host_call_deadline.min(limits.event_deadline);
        }
        Ok(limits)
    }
}

impl Restart {
    fn check(self) -> Result<RestartPolicy, Finding> {
        let mut policy = RestartPolicy::default();
        if let Some(count) = &self.max_consecutive_failures {
            policy.max_consecutive_failures = positive(count, "max_consecutive_failures")?;
        }
        if let Some(count) = &self.max_event_attempts {
            policy.max_event_attempts = positive(count, "max_event_attempts")?;
        }
        if let Some(backoff) = &self.backoff {
            let wrong = || (backoff.span(), "backoff: expected [first, cap], such as [\"1s\", \"5m\"]".to_owned());
            let [first, cap] = backoff.get_ref().as_slice() else { return Err(wrong()) };
            let parse = |text: &str| humantime::parse_duration(text).map_err(|_| wrong());
            (policy.backoff_first, policy.backoff_cap) = (parse(first)?, parse(cap)?);
            if policy.backoff_first > policy.backoff_cap {
                return Err((backoff.span(), format!("backoff: the first wait {first} is longer than the cap {cap}")));
            }
        }
        Ok(policy)
    }
}

impl Capabilities {
    fn check(&self) -> Result<(), Finding> {
        let hosts = self.http.as_ref().map(|http| http.allow.as_slice()).unwrap_or_default();
        let methods = &self.chain.extra_methods;
        ceilings::texts(methods, "extra_methods", ceilings::METHODS_MAX, ceilings::METHOD_BYTES_MAX)?;
        ceilings::texts(hosts, "allow", ceilings::HOSTS_MAX, ceilings::HOST_BYTES_MAX)?;
        const METHODS: [&str; 2] = ["sign", "sign-typed-data"];
        for method in self.identity.iter().flat_map(|identity| &identity.methods) {
            if !METHODS.contains(&method.get_ref().as_str()) {
                let message =
                    format!("unknown identity method `{}`; known are {}", method.get_ref(), METHODS.join(", "));
                return Err((method.span(), message));
            }
        }
        Ok(())
    }

    fn allow(&self) -> Result<Allowlist, Finding> {
        let hosts = self.http.iter().flat_map(|capability| &capability.allow);
        let read = |host: &Spanned<String>| http::pattern(host.get_ref()).map_err(|wrong| (host.span(), wrong));
        Ok(Allowlist::new(hosts.map(read).collect::<Result<Vec<_>, _>>()?))
    }
}

impl Subscription {
    /// The fields that are set, with where; so that one of another kind is an error.
    fn set_fields(&self) -> Vec<(&'static str, Range<usize>)> {
        let mut fields = Vec::new();
        let mut note = |name, span: Option<Range<usize>>| fields.extend(span.map(|span| (name, span)));
        note("chain_id", self.chain_id.as_ref().map(Spanned::span));
        note("address", self.address.as_ref().map(Spanned::span));
        note("topics", self.topics.as_ref().map(Spanned::span));
        note("event_signature", self.event_signature.as_ref().map(Spanned::span));
        note("start_block", self.start_block.as_ref().map(Spanned::span));
        note("confirmations", self.confirmations.as_ref().map(Spanned::span));
        note("finality", self.finality.as_ref().map(Spanned::span));
        note("missed", self.missed.as_ref().map(Spanned::span));
        note("schedule", self.schedule.as_ref().map(Spanned::span));
        note("every", self.every.as_ref().map(Spanned::span));
        note("content_topic", self.content_topic.as_ref().map(Spanned::span));
        fields
    }

    fn check(
        self,
        span: Range<usize>,
        chains: &BTreeSet<u64>,
        schedules: &ScheduleCheck,
        sources: &mut Sources,
    ) -> Result<(), Finding> {
        let kind = self.kind.get_ref().as_str();
        let known: &[&str] = match kind {
            "block" => &["chain_id", "start_block", "confirmations", "finality", "missed"],
            "log" | "chain-log" => {
                &["chain_id", "address", "topics", "event_signature", "start_block", "confirmations", "finality"]
            }
            "cron" => &["schedule", "every", "missed"],
            "message" => &["content_topic"],
            other => {
                let message = format!("unknown subscription kind `{other}`; known are block, log, cron, message");
                return Err((self.kind.span(), message));
            }
        };
        if let Some((field, span)) = self.set_fields().into_iter().find(|(field, _)| !known.contains(field)) {
            let message = format!("a {kind} subscription has no `{field}`; it takes {}", known.join(", "));
            return Err((span, message));
        }
        match kind {
            "block" => self.blocks(span, chains, sources),
            "cron" => self.cron(span, schedules, sources),
            "message" => {
                let message =
                    "message subscriptions need the messaging capability, which no actor serves yet".to_owned();
                Err((self.kind.span(), message))
            }
            _ => self.logs(span, chains, sources),
        }
    }

    fn chain(&self, span: Range<usize>, chains: &BTreeSet<u64>) -> Result<(u64, Hold), Finding> {
        let Some(chain) = &self.chain_id else {
            return Err((span, format!("a {} subscription needs chain_id", self.kind.get_ref())));
        };
        if !chains.contains(chain.get_ref()) {
            let message = format!("chain {} is listed neither in [chains] required nor in optional", chain.get_ref());
            return Err((chain.span(), message));
        }
        let hold = match (&self.confirmations, &self.finality) {
            (Some(_), Some(finality)) => {
                return Err((finality.span(), "confirmations and finality exclude each other".into()));
            }
            (Some(count), None) if *count.get_ref() == 0 => Hold::Latest,
            (Some(count), None) if *count.get_ref() > ceilings::CONFIRMATIONS_MAX => {
                let message = format!("confirmations: expected at most {}", ceilings::CONFIRMATIONS_MAX);
                return Err((count.span(), message));
            }
            (Some(count), None) => Hold::Confirmations(*count.get_ref()),
            (None, Some(finality)) => match finality.get_ref().as_str() {
                "latest" => Hold::Latest,
                "safe" => Hold::Safe,
                "finalized" => Hold::Finalized,
                other => {
                    let message = format!("unknown finality `{other}`; known are latest, safe, finalized");
                    return Err((finality.span(), message));
                }
            },
            (None, None) => Hold::Latest,
        };
        Ok((*chain.get_ref(), hold))
    }

    fn blocks(self, span: Range<usize>, chains: &BTreeSet<u64>, sources: &mut Sources) -> Result<(), Finding> {
        let (chain_id, hold) = self.chain(span, chains)?;
        let blocks = match self.missed.as_ref().map(|missed| (missed.get_ref().as_str(), missed.span())) {
            None | Some(("all", _)) => Blocks::All,
            Some(("latest", _)) => Blocks::Latest,
            Some((other, span)) => {
                return Err((span, format!("missed = `{other}`: a block subscription takes \"all\" or \"latest\"")));
            }
        };
        let start = self.start_block.map(Spanned::into_inner);
        sources.blocks(chain_id, hold, blocks, start).map_err(|message| (self.kind.span(), message))
    }

    fn logs(self, span: Range<usize>, chains: &BTreeSet<u64>, sources: &mut Sources) -> Result<(), Finding> {
        let (chain_id, hold) = self.chain(span, chains)?;
        let mut addresses = BTreeSet::new();
        if let Some(list) = &self.address {
            let count = list.get_ref().as_slice().len();
            ceilings::list(|| list.span(), "addresses", count, ceilings::FILTER_VALUES_MAX)?;
            for text in list.get_ref().as_slice() {
                addresses
                    .insert(text.parse::<Address>().map_err(|message| (list.span(), format!("address {message}")))?);
            }
        }
        let mut topics: [BTreeSet<Hash>; 4] = Default::default();
        if let Some(list) = &self.topics {
            if list.get_ref().len() > topics.len() {
                return Err((list.span(), "a log has at most 4 topics".into()));
            }
            for (position, values) in list.get_ref().iter().enumerate() {
                let count = values.as_slice().len();
                ceilings::list(|| list.span(), "topics at one position", count, ceilings::FILTER_VALUES_MAX)?;
                for text in values.as_slice() {
                    // An empty string stands for a position that may hold anything.
                    if !text.is_empty() {
                        let topic =
                            text.parse::<Hash>().map_err(|message| (list.span(), format!("topic {message}")))?;
                        topics[position].insert(topic);
                    }
                }
            }
        }
        if let Some(signature) = &self.event_signature {
            let topic = signature.get_ref().parse::<Hash>();
            topics[0].insert(topic.map_err(|message| (signature.span(), format!("event_signature {message}")))?);
        }
        let start = self.start_block.map(Spanned::into_inner);
        let filter = LogFilter { addresses, topics, from_block: start.unwrap_or(0) };
        sources.logs(chain_id, hold, filter, start);
        Ok(())
    }

    fn cron(self, span: Range<usize>, schedules: &ScheduleCheck, sources: &mut Sources) -> Result<(), Finding> {
        let (schedule, at) = match (&self.schedule, &self.every) {
            (Some(text), None) => {
                ceilings::text(text, "schedule", ceilings::SCHEDULE_BYTES_MAX)?;
                (Schedule::Cron(text.get_ref().clone()), text.span())
            }
            (None, Some(text)) => {
                let period_ms = duration(text)?.as_millis() as u64;
                if period_ms < 1000 {
                    return Err((text.span(), "every: expected at least \"1s\"".into()));
                }
                (Schedule::Every { period_ms }, text.span())
            }
            _ => return Err((span, "a cron subscription needs either schedule or every".into())),
        };
        let missed = match self.missed.as_ref().map(|missed| (missed.get_ref().as_str(), missed.span())) {
            None | Some(("skip", _)) => Missed::Skip,
            Some(("once", _)) => Missed::Once,
            Some(("all", _)) => Missed::All,
            Some((other, span)) => {
                let message = format!("missed = `{other}`: a cron subscription takes \"skip\", \"once\" or \"all\"");
                return Err((span, message));
            }
        };
        schedules(&schedule).map_err(|message| (at.clone(), message))?;
        sources.cron(schedule, missed).map_err(|message| (at, message))
    }
}
