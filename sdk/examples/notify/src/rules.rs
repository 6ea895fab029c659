//! The rules, read once at init: everything that is wrong with one is said with its name.

use nexum_sdk::alloy::primitives::{U256, keccak256};
use nexum_sdk::outbox::Release;
use nexum_sdk::{Block, Config, Context, Error, ErrorKind, Log, Reorg, Result, chain, hex};
use serde_json::json;

use crate::abi::{self, Signature, Type};
use crate::channels::Channel;
use crate::condition::Condition;
use crate::scanner::Wrong;
use crate::settings::Table;
use crate::template::Template;
use crate::told;
use crate::value::{self, Fields, Kind, Number, Scope, Value};

/// Of a rule's title, which is the subject of mails.
const TITLE_CHARS_MAX: usize = 200;
const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Log,
    Block,
    Tick,
    Reorg,
}

const EVENTS: [(&str, Event); 4] =
    [("log", Event::Log), ("block", Event::Block), ("tick", Event::Tick), ("reorg", Event::Reorg)];

/// What a rule of blocks or ticks reads of a chain.
pub enum Read {
    Balance { account: Vec<u8> },
    Call { to: Vec<u8>, data: Vec<u8>, function: Signature },
}

pub struct Rule {
    pub name: String,
    pub title: String,
    pub event: Event,
    pub severity: &'static str,
    pub chain_id: Option<u64>,
    pub when: Option<Condition>,
    pub message: Template,
    /// What is said when a state that was told of is over.
    pub resolved: Option<Template>,
    pub cooldown_ms: u64,
    /// Fields whose values have a cooldown each.
    per: Vec<String>,
    pub release: Release,
    /// Places in the list of all channels.
    pub channels: Vec<usize>,
    /// Any, when empty.
    addresses: Vec<Vec<u8>>,
    /// With its hash.
    signature: Option<(Signature, [u8; 32])>,
    read: Option<Read>,
}

impl Rule {
    /// Every `[config.rules.NAME]`.
    pub fn all(config: &Config, channels: &[Channel]) -> Result<Vec<Self>> {
        let known = ["rules.", "channels."];
        if let Some((key, _)) = config.iter().find(|(key, _)| !known.iter().any(|known| key.starts_with(known))) {
            return Err(Error::invalid_input(format!(
                "[config] has `{key}`, and knows [config.rules.NAME] and [config.channels.NAME]"
            )));
        }
        Table::all(config, "rules", "rule")?.into_iter().map(|table| Self::of(table, channels)).collect()
    }

    fn of(mut table: Table<'_>, channels: &[Channel]) -> Result<Self> {
        let name = table.name.to_owned();
        let word = table.needed_text("event")?;
        let event = EVENTS.iter().find(|(known, _)| *known == word).map(|(_, event)| *event);
        let event = event.ok_or_else(|| table.wrong("`event` is log, block, tick or reorg"))?;
        let chain_id = table.number("chain_id")?;
        let mut scope = Scope::default();

        let (mut addresses, mut signature, mut read) = (Vec::new(), None, None);
        match event {
            Event::Log => {
                for text in table.texts("address")?.unwrap_or_default() {
                    addresses.push(address(&table, "address", text)?);
                }
                if let Some(text) = table.text("signature")? {
                    let event = Signature::event(text).map_err(|wrong| at(&table, "signature", &wrong))?;
                    scope = abi::scope(&event.params);
                    let hash = event.hash();
                    signature = Some((event, hash));
                }
            }
            Event::Block | Event::Tick => {
                read = reading(&mut table, &mut scope)?;
                if event == Event::Tick && read.is_some() && chain_id.is_none() {
                    return Err(table.wrong("`chain_id` is missing: what is read on a tick is read of a chain"));
                }
            }
            Event::Reorg => {}
        }
        scope.0.extend(built_in(event));

        let when = table.text("when")?.map(|text| Condition::parse(text, &scope));
        let when = when.transpose().map_err(|wrong| at(&table, "when", &wrong))?;
        let message = Template::parse(table.needed_text("message")?, &scope);
        let message = message.map_err(|wrong| at(&table, "message", &wrong))?;
        let mut resolved = None;
        if matches!(event, Event::Block | Event::Tick) && when.is_some() {
            let text = table.text("resolved")?.map(|text| Template::parse(text, &scope));
            resolved = text.transpose().map_err(|wrong| at(&table, "resolved", &wrong))?;
        }
        let severity = table.text("severity")?.unwrap_or("warning");
        let severity = SEVERITIES.iter().find(|known| **known == severity);
        let severity = *severity.ok_or_else(|| table.wrong(format!("`severity` is {}", SEVERITIES.join(", "))))?;
        let release = match table.text("release")?.unwrap_or("committed") {
            "committed" => Release::Committed,
            "safe" => Release::Safe,
            "finalized" => Release::Finalized,
            _ => return Err(table.wrong("`release` is committed, safe or finalized")),
        };
        let title = table.text("title")?.unwrap_or(&name).to_owned();
        if title.trim().is_empty() || title.chars().count() > TITLE_CHARS_MAX || title.contains(char::is_control) {
            return Err(table.wrong(format!("`title` is one line of at most {TITLE_CHARS_MAX} characters")));
        }
        let cooldown_ms = table.duration_ms("cooldown")?.unwrap_or(0);
        let per = if event == Event::Log { told::per(&mut table, &scope, cooldown_ms)? } else { Vec::new() };
        let channels = of_names(&table.texts("channels")?, channels).map_err(|message| table.wrong(message))?;
        table.end()?;
        Ok(Self {
            name,
            title,
            event,
            severity,
            chain_id,
            when,
            message,
            resolved,
            cooldown_ms,
            per,
            release,
            channels,
            addresses,
            signature,
            read,
        })
    }

    /// Whether the condition holds; a rule without one is about every event of its kind.
    pub fn holds(&self, fields: &Fields) -> Result<bool> {
        self.when.as_ref().map_or(Ok(true), |when| when.holds(fields)).context(format_args!("rule `{}`", self.name))
    }

    /// What stands for the values that have a cooldown of their own, where it has such.
    pub fn cooldown_key(&self, fields: &Fields) -> Result<Option<String>> {
        if self.per.is_empty() {
            return Ok(None);
        }
        let value = |name: &String| {
            let value = fields.find(name);
            value.ok_or_else(|| Error::msg(format!("rule `{}`: this event has no field `{name}`", self.name)))
        };
        let values = self.per.iter().map(value).collect::<Result<Vec<_>>>()?;
        // Values are as long as whoever wrote them likes.
        Ok(Some(hex::encode(&keccak256(format!("{values:?}")).0[..12])))
    }

    /// Whether what happens on this chain is this rule's.
    pub fn is_of(&self, event: Event, chain_id: u64) -> bool {
        self.event == event && self.chain_id.is_none_or(|wanted| wanted == chain_id)
    }

    /// What a log says; none when it is not one of this rule's.
    pub fn log(&self, log: &Log) -> Option<Fields> {
        if !self.is_of(Event::Log, log.chain_id)
            || !(self.addresses.is_empty() || self.addresses.contains(&log.address))
        {
            return None;
        }
        let mut fields = match &self.signature {
            Some((signature, hash)) => signature.log(hash, &log.topics, &log.data)?,
            None => Fields::default(),
        };
        fields.push("chain", number(log.chain_id));
        fields.push("address", Value::Bytes(log.address.clone()));
        fields.push("block", number(log.block_number));
        fields.push("block_hash", Value::Bytes(log.block_hash.clone()));
        fields.push("time", value::time(log.block_timestamp));
        fields.push("tx", Value::Bytes(log.transaction_hash.clone()));
        fields.push("log_index", number(log.log_index.into()));
        fields.push("data", Value::Bytes(log.data.clone()));
        Some(fields)
    }

    /// What a block says, and what is read at it; none when that cannot be read.
    pub fn block(&self, block: &Block) -> Result<Option<Fields>> {
        let at = json!({ "blockHash": format!("0x{}", hex::encode(&block.hash)) });
        let Some(mut fields) = self.reading(block.chain_id, &at)? else { return Ok(None) };
        fields.push("chain", number(block.chain_id));
        fields.push("block", number(block.number));
        fields.push("block_hash", Value::Bytes(block.hash.clone()));
        fields.push("time", value::time(block.timestamp));
        Ok(Some(fields))
    }

    /// What a tick says, and what is read of the newest block; none when that cannot be read.
    pub fn tick(&self, fired_at_ms: u64) -> Result<Option<Fields>> {
        let chain_id = self.chain_id.unwrap_or_default();
        let Some(mut fields) = self.reading(chain_id, &json!("latest"))? else { return Ok(None) };
        fields.push("chain", number(chain_id));
        fields.push("time", value::time(fired_at_ms));
        Ok(Some(fields))
    }

    pub fn reorg(reorg: &Reorg) -> Fields {
        let mut fields = Fields::default();
        let ancestor = reorg.common_ancestor.number;
        fields.push("chain", number(reorg.chain_id));
        fields.push("depth", number(reorg.old_head.number.saturating_sub(ancestor)));
        fields.push("ancestor", number(ancestor));
        fields.push("old_head", number(reorg.old_head.number));
        fields.push("new_head", number(reorg.new_head.number));
        fields
    }

    /// What the chain answers. A call that reverts, or answers something else than it should, will do so again: it is said
    /// in the log, and the event goes on without this rule. Everything else fails the event, which is tried again.
    fn reading(&self, chain_id: u64, at: &serde_json::Value) -> Result<Option<Fields>> {
        let fields = match &self.read {
            None => return Ok(Some(Fields::default())),
            Some(Read::Balance { account }) => {
                let account = format!("0x{}", hex::encode(account));
                let answer = chain::call::<String>(chain_id, "eth_getBalance", (account, at));
                answer.map(|text| {
                    let balance = U256::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
                    Some(Fields(vec![("balance".to_owned(), Value::Number(Number::new(false, balance)))]))
                })
            }
            Some(Read::Call { to, data, function }) => {
                let [to, data] = [to, data].map(|bytes| format!("0x{}", hex::encode(bytes)));
                let answer = chain::call::<String>(chain_id, "eth_call", (json!({ "to": to, "data": data }), at));
                answer.map(|text| function.answer(&hex::decode(&text).ok()?))
            }
        };
        match fields {
            Ok(Some(fields)) => Ok(Some(fields)),
            Ok(None) => {
                nexum_sdk::warn!("rule `{}`: the answer is not what its function returns", self.name);
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                nexum_sdk::warn!("rule `{}`: {error}", self.name);
                Ok(None)
            }
            Err(error) => Err(error).context(format_args!("rule `{}`", self.name)),
        }
    }
}

fn number(number: u64) -> Value {
    Value::Number(Number::from(number))
}

/// The names that every event of a kind has, in the order in which the values are pushed.
fn built_in(event: Event) -> Vec<(String, Kind)> {
    let hash = Kind::Bytes(Some(32));
    let (chain, time) = (("chain", Kind::Number), ("time", Kind::Text));
    let names = match event {
        Event::Log => vec![
            chain,
            ("address", Kind::Bytes(Some(20))),
            ("block", Kind::Number),
            ("block_hash", hash),
            time,
            ("tx", hash),
            ("log_index", Kind::Number),
            ("data", Kind::Bytes(None)),
        ],
        Event::Block => vec![chain, ("block", Kind::Number), ("block_hash", hash), time],
        Event::Tick => vec![chain, time],
        Event::Reorg => {
            ["chain", "depth", "ancestor", "old_head", "new_head"].map(|name| (name, Kind::Number)).to_vec()
        }
    };
    names.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
}

fn at(table: &Table<'_>, key: &str, wrong: &Wrong) -> Error {
    table.wrong(format!("`{key}`, {wrong}"))
}

fn address(table: &Table<'_>, key: &str, text: &str) -> Result<Vec<u8>> {
    let word = Type::Address.word(text).map_err(|message| table.wrong(format!("`{key}`: {message}")))?;
    Ok(word[12..].to_vec())
}

/// What a rule reads: `balance_of`, with `token` for that of a token, or `call` with `to` and `args`.
fn reading(table: &mut Table<'_>, scope: &mut Scope) -> Result<Option<Read>> {
    let (account, call) = (table.text("balance_of")?, table.text("call")?);
    let (key, text, to, args) = match (account, call) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(table.wrong("`balance_of` and `call` exclude each other")),
        (Some(account), None) => match table.text("token")? {
            None => {
                scope.0.push(("balance".to_owned(), Kind::Number));
                return Ok(Some(Read::Balance { account: address(table, "balance_of", account)? }));
            }
            Some(token) => {
                ("balance_of", "balanceOf(address) returns (uint256 balance)", ("token", token), vec![account])
            }
        },
        (None, Some(call)) => {
            let args = table.texts("args")?.unwrap_or_default();
            ("args", call, ("to", table.needed_text("to")?), args)
        }
    };
    let function = Signature::function(text).map_err(|wrong| at(table, "call", &wrong))?;
    if args.len() != function.params.len() {
        return Err(table.wrong(format!(
            "`args` has {} values, and `call` wants {}",
            args.len(),
            function.params.len()
        )));
    }
    let mut data = function.hash()[..4].to_vec();
    for (param, arg) in function.params.iter().zip(args) {
        let word = param.ty.word(arg).map_err(|message| table.wrong(format!("`{key}`: {message}")))?;
        data.extend(word);
    }
    scope.0.extend(abi::scope(&function.returns).0);
    Ok(Some(Read::Call { to: address(table, to.0, to.1)?, data, function }))
}

/// The places of the channels of these names; of all of them when none is named.
fn of_names(names: &Option<Vec<&str>>, channels: &[Channel]) -> Result<Vec<usize>, String> {
    let known = || channels.iter().map(|channel| channel.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(names) = names else {
        return if channels.is_empty() {
            Err("there is no channel to tell: write a [config.channels.NAME]".to_owned())
        } else {
            Ok((0..channels.len()).collect())
        };
    };
    let place = |name: &&str| {
        let place = channels.iter().position(|channel| channel.name == **name);
        place.ok_or_else(|| format!("there is no channel `{name}`; there are: {}", known()))
    };
    let mut places = names.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    places.dedup();
    if places.is_empty() { Err("`channels` is empty".to_owned()) } else { Ok(places) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_sdk::{Value as ConfigValue, testing};

    const ADDRESS: &str = "0x5FbDB2315678afecb367f032d93F642f64180aa3";

    fn rule(entries: &[(&str, &str)]) -> Result<Rule> {
        let channel = [("channels.ops.kind", "slack"), ("channels.ops.url", "https://hooks.slack.com/x")];
        let channel = channel.map(|(key, value)| (key.to_owned(), ConfigValue::from(value)));
        let rule = entries.iter().map(|(key, value)| (format!("rules.big.{key}"), ConfigValue::from(*value)));
        let chain = ("rules.big.chain_id".to_owned(), ConfigValue::from(5));
        let config: Config = channel.into_iter().chain(rule).chain([chain]).collect();
        Rule::all(&config, &Channel::all(&config)?).map(|mut rules| rules.remove(0))
    }

    #[test]
    fn what_is_wrong_is_said_with_the_rule() {
        let event = ("event", "log");
        let message = ("message", "x");
        let transfer = ("signature", "Transfer(address indexed from, uint256 value)");
        for (entries, expected) in [
            (&[("event", "logs"), message][..], "`event` is log, block, tick or reorg"),
            (&[event], "`message` is missing"),
            (
                &[event, message, ("adress", ADDRESS)],
                "`adress` is not known here; known are event, chain_id, address, signature, when, message, severity, release, title, cooldown, per, channels",
            ),
            (&[event, message, ("address", "0x12")], "`address`: `0x12` is no address: 0x and 40 digits"),
            (
                &[event, message, ("signature", "Transfer(int255 x)")],
                "`signature`, column 10: `int255` is no type that can be read; contracts are `address`, enums `uint8`",
            ),
            (
                &[event, message, transfer, ("when", "valeu > 1")],
                "`when`, column 1: `valeu` is not known here; known are from, value, chain, address, block, block_hash, time, tx, log_index, data",
            ),
            (
                &[event, ("message", "{val")],
                "`message`, column 2: `val` is not known here; known are chain, address, block, block_hash, time, tx, log_index, data",
            ),
            (&[event, message, ("channels", "opps")], "there is no channel `opps`; there are: ops"),
            (&[event, message, ("severity", "bad")], "`severity` is critical, error, warning, info"),
            (
                &[event, message, transfer, ("per", "from")],
                "`per` names fields, each value of which has a `cooldown` of its own",
            ),
            (
                &[event, message, transfer, ("per", "form"), ("cooldown", "1m")],
                "`per`: `form` is not known here; known are from, value, chain, address, block, block_hash, time, tx, log_index, data",
            ),
            (&[event, message, ("title", "two\nlines")], "`title` is one line of at most 200 characters"),
            (&[event, message, ("title", " ")], "`title` is one line of at most 200 characters"),
            (&[event, message, ("release", "soon")], "`release` is committed, safe or finalized"),
            (
                &[("event", "block"), message, ("balance_of", ADDRESS), ("call", "f() returns (bool)")],
                "`balance_of` and `call` exclude each other",
            ),
            (
                &[("event", "block"), message, ("call", "f(uint256) returns (bool)"), ("to", ADDRESS)],
                "`args` has 0 values, and `call` wants 1",
            ),
            (
                &[("event", "block"), message, ("call", "f(bool) returns (bool)"), ("to", ADDRESS), ("args", "yes")],
                "`args`: `yes` is no bool of one word",
            ),
        ] {
            let wrong = rule(entries).err().unwrap();
            assert_eq!(wrong.to_string(), format!("rule `big`: {expected}"));
        }
        let config: Config = [("rule.big.event", ConfigValue::from("log"))].into_iter().collect();
        let wrong = Rule::all(&config, &[]).err().unwrap();
        assert!(wrong.to_string().starts_with("[config] has `rule.big.event`, and knows"), "{wrong}");
    }

    #[test]
    fn a_log_is_of_a_rule_or_not() {
        let watched = hex::decode(ADDRESS).unwrap();
        let entries = [
            ("event", "log"),
            ("address", ADDRESS),
            ("signature", "Moved(uint256 value)"),
            ("message", "{value} {tx}"),
        ];
        let rule = rule(&entries).unwrap();
        let hash = Signature::event("Moved(uint256 value)").unwrap().hash().to_vec();
        let log = Log {
            chain_id: 5,
            address: watched,
            topics: vec![hash],
            data: U256::from(9u64).to_be_bytes::<32>().to_vec(),
            block_number: 1,
            block_hash: vec![1; 32],
            block_timestamp: 1_000,
            transaction_hash: vec![2; 32],
            transaction_index: 0,
            log_index: 3,
        };
        let fields = rule.log(&log).unwrap();
        assert_eq!((fields.find("value"), fields.find("log_index")), (Some(&number(9)), Some(&number(3))));
        let names: Vec<_> = fields.0.iter().skip(1).map(|(name, _)| name.clone()).collect();
        let built_in: Vec<_> = built_in(Event::Log).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, built_in);
        for other in [
            Log { chain_id: 6, ..log.clone() },
            Log { address: vec![1; 20], ..log.clone() },
            Log { topics: vec![vec![0; 32]], ..log.clone() },
            Log { data: Vec::new(), ..log },
        ] {
            assert_eq!(rule.log(&other), None);
        }
    }

    #[test]
    fn a_rule_reads_at_its_block_and_goes_on_without_what_reverts() {
        let block = || Block { chain_id: 5, number: 7, hash: vec![3; 32], parent_hash: vec![2; 32], timestamp: 0 };
        testing::reset();
        testing::on_chain(|_, method, params| match method {
            "eth_getBalance" => {
                assert!(params.contains(&format!("\"blockHash\":\"0x{}\"", "03".repeat(32))), "{params}");
                Ok("\"0x0de0b6b3a7640000\"".to_owned())
            }
            _ if params.contains("70a08231000000000000000000000000") => Ok(format!("\"0x{}2a\"", "0".repeat(62))),
            _ if params.contains("latest") => Ok("\"0x\"".to_owned()),
            _ => Err(Error::invalid_input("execution reverted").in_domain("chain").with_code(3, None)),
        });
        let event = ("event", "block");
        let balance = rule(&[event, ("balance_of", ADDRESS), ("message", "{balance|ether}")]).unwrap();
        let fields = balance.block(&block()).unwrap().unwrap();
        assert_eq!(fields.find("balance").unwrap().to_string(), "1000000000000000000");
        let token = rule(&[event, ("balance_of", ADDRESS), ("token", ADDRESS), ("message", "{balance}")]).unwrap();
        assert_eq!(token.block(&block()).unwrap().unwrap().find("balance"), Some(&number(42)));
        let call = [("to", ADDRESS), ("call", "price() returns (uint256 price)"), ("message", "{price}")];
        let reverts = rule(&[&[event][..], &call[..]].concat()).unwrap();
        assert_eq!(reverts.block(&block()).unwrap(), None);
        let empty = rule(&[&[("event", "tick")][..], &call[..]].concat()).unwrap();
        assert_eq!(empty.tick(0).unwrap(), None);
        let logged = testing::logged().into_iter().map(|(_, line)| line).collect::<Vec<_>>();
        assert_eq!(logged.len(), 2);
        assert!(logged[0].contains("rule `big`") && logged[0].contains("execution reverted"), "{logged:?}");
    }
}
