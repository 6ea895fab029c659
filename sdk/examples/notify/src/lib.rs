//! Alerts without code: rules and channels in the configuration.
//!
//! A rule says which events it is about, a condition, and a message; a channel says where messages go. Every message
//! leaves through the outbox: once per event, tried until the channel takes it, with an idempotency key. What a rule said
//! last is in the state, so that neither a restart nor a retried event repeats it. `docs/guides/alerts-without-code.md`
//! shows how it is used.

mod abi;
mod channels;
mod condition;
mod rules;
mod scanner;
mod settings;
mod template;
mod told;
mod value;

use nexum_sdk::{
    self as nexum, Block, Config, Context, Log, Outcome, OutcomeStatus, Reorg, Result, Tick, hex, outbox::Release,
    state::Item, state::Map,
};

use crate::channels::{Alert, Channel, Words};
use crate::rules::{Event, Rule};
use crate::told::{Cooldowns, Next, Told};
use crate::value::Fields;

/// What was said of each rule.
const TOLD: Map<String, Told> = Map::new("rule");
/// The cooldowns of the values of each rule with `per`.
const COOLDOWNS: Map<String, Cooldowns> = Map::new("per");
/// Messages that a channel never took.
const LOST: Item<u64> = Item::new("lost");

/// Messages of one event: the outbox takes 256 effects with one mebibyte. What is more is counted in the next message.
const MESSAGES_MAX: usize = 200;
const BYTES_MAX: usize = 768 << 10;

struct Notify {
    rules: Vec<Rule>,
    channels: Vec<Channel>,
}

/// What one event may still send.
struct Room {
    messages: usize,
    bytes: usize,
}

/// A message of a rule.
struct Saying<'a> {
    words: Words<'a>,
    /// What tells this event from the others of its rule.
    event: &'a str,
    incident: &'a str,
    is_over: bool,
    /// What was kept back since the last alert.
    more: u64,
    fields: &'a Fields,
}

impl Room {
    const fn new() -> Self {
        Self { messages: MESSAGES_MAX, bytes: BYTES_MAX }
    }
}

#[nexum::module]
impl Notify {
    #[init]
    fn init(config: Config) -> Result<Self> {
        let channels = Channel::all(&config)?;
        let rules = Rule::all(&config, &channels)?;
        Ok(Self { rules, channels })
    }

    #[on_logs]
    fn logs(&mut self, logs: Vec<Log>) -> Result<()> {
        let mut room = Room::new();
        for log in &logs {
            for rule in &self.rules {
                let Some(fields) = rule.log(log) else { continue };
                if rule.holds(&fields)? {
                    // The block's hash makes it another alert when the log comes again in another block.
                    let event = format!("0x{}-{}", hex::encode(&log.block_hash), log.log_index);
                    self.happened(rule, &fields, &event, log.block_timestamp, &mut room)?;
                }
            }
        }
        Ok(())
    }

    #[on_block]
    fn block(&mut self, block: Block) -> Result<()> {
        let mut room = Room::new();
        for rule in self.rules.iter().filter(|rule| rule.is_of(Event::Block, block.chain_id)) {
            if let Some(fields) = rule.block(&block)? {
                let event = format!("0x{}", hex::encode(&block.hash));
                self.looked(rule, &fields, &event, block.timestamp, &mut room)?;
            }
        }
        Ok(())
    }

    #[on_tick]
    fn tick(&mut self, tick: Tick) -> Result<()> {
        let mut room = Room::new();
        for rule in self.rules.iter().filter(|rule| rule.event == Event::Tick) {
            if let Some(fields) = rule.tick(tick.fired_at)? {
                self.looked(rule, &fields, &tick.fired_at.to_string(), tick.fired_at, &mut room)?;
            }
        }
        Ok(())
    }

    #[on_reorg]
    fn reorg(&mut self, reorg: Reorg) -> Result<()> {
        let mut room = Room::new();
        let fields = Rule::reorg(&reorg);
        for rule in self.rules.iter().filter(|rule| rule.is_of(Event::Reorg, reorg.chain_id)) {
            if rule.holds(&fields)? {
                let event = format!("0x{}", hex::encode(&reorg.new_head.hash));
                self.happened(rule, &fields, &event, nexum::clock::now_ms(), &mut room)?;
            }
        }
        for effect in &reorg.released_effects {
            self.retract(&effect.key, &mut room)?;
        }
        Ok(())
    }

    #[on_outcome]
    fn outcome(&mut self, outcome: Outcome) -> Result<()> {
        match outcome.status {
            OutcomeStatus::Delivered(answer) => match channels::refusal(&answer) {
                None => Ok(()),
                Some(reason) => Self::lost(&outcome.key, &reason),
            },
            OutcomeStatus::Failed(reason) | OutcomeStatus::Cancelled(reason) => Self::lost(&outcome.key, &reason),
        }
    }

    fn lost(key: &str, reason: &str) -> Result<()> {
        nexum::warn!("message {key} did not arrive: {reason}");
        LOST.update(|lost| lost.unwrap_or(0) + 1).map(drop)
    }

    /// Something that a rule is about happened.
    fn happened(&self, rule: &Rule, fields: &Fields, event: &str, now_ms: u64, room: &mut Room) -> Result<()> {
        let mut told = TOLD.get(&rule.name)?.unwrap_or_default();
        let incident = format!("{}/{event}", rule.name);
        let saying = |more: u64| {
            let words = Words::Template(&rule.message);
            Saying { words, event, incident: &incident, is_over: false, more, fields }
        };
        if let Some(value) = rule.cooldown_key(fields)? {
            let mut cooldowns = COOLDOWNS.get(&rule.name)?.unwrap_or_default();
            let says = !cooldowns.is_quiet(&value, now_ms, rule.cooldown_ms);
            if says && self.say(rule, &rule.channels, saying(cooldowns.more(&value)), room)? {
                cooldowns.said(&value, now_ms);
                told.said(now_ms);
            } else {
                cooldowns.kept_back(&value);
            }
            COOLDOWNS.set(&rule.name, &cooldowns)?;
            return TOLD.set(&rule.name, &told);
        }
        let says = told.happened(now_ms, rule.cooldown_ms) == Next::Alert;
        if says && self.say(rule, &rule.channels, saying(told.more), room)? {
            told.said(now_ms);
        } else {
            told.kept_back();
        }
        TOLD.set(&rule.name, &told)
    }

    /// The state that a rule is about was looked at. Without a condition it is no state: every event is told.
    fn looked(&self, rule: &Rule, fields: &Fields, event: &str, now_ms: u64, room: &mut Room) -> Result<()> {
        if rule.when.is_none() {
            return self.happened(rule, fields, event, now_ms, room);
        }
        let holds = rule.holds(fields)?;
        let mut told = TOLD.get(&rule.name)?.unwrap_or_default();
        // Where there is no room to say it, nothing is written, and the next event looks again.
        match told.looked(holds, now_ms, rule.cooldown_ms) {
            Next::Nothing => return Ok(()),
            Next::Alert => {
                let incident = if told.holds { told.incident.clone() } else { format!("{}/{event}", rule.name) };
                let words = Words::Template(&rule.message);
                let saying = Saying { words, event, incident: &incident, is_over: false, more: 0, fields };
                if !self.say(rule, &rule.channels, saying, room)? {
                    return Ok(());
                }
                told.said(now_ms);
                (told.holds, told.incident) = (true, incident);
            }
            Next::Over => {
                // Who has no word for it is told nothing, but for what keeps incidents open.
                let is_told = |place: &usize| {
                    rule.resolved.is_some() || self.channels.get(*place).is_some_and(Channel::keeps_incidents)
                };
                let channels: Vec<usize> = rule.channels.iter().copied().filter(is_told).collect();
                let words = rule.resolved.as_ref().map_or(Words::Fixed(&rule.title), Words::Template);
                let event = format!("{event}-over");
                let saying = Saying { words, event: &event, incident: &told.incident, is_over: true, more: 0, fields };
                if !self.say(rule, &channels, saying, room)? {
                    return Ok(());
                }
                (told.holds, told.incident) = (false, String::new());
            }
        }
        TOLD.set(&rule.name, &told)
    }

    /// A block was retracted after a message of one of its events had left.
    fn retract(&self, key: &str, room: &mut Room) -> Result<()> {
        let mut parts = key.splitn(3, '/');
        let (Some(name), Some(channel), Some(event)) = (parts.next(), parts.next(), parts.next()) else {
            nexum::warn!("{key} is no key of this module");
            return Ok(());
        };
        let rule = self.rules.iter().find(|rule| rule.name == name);
        let place = self.channels.iter().position(|known| known.name == channel);
        let (Some(rule), Some(place)) = (rule, place) else {
            nexum::warn!("{key} was retracted by a reorg, and its rule or channel is no longer configured");
            return Ok(());
        };
        let text = format!("{}: what was reported is no longer on the chain, after a reorg", rule.title);
        let (incident, event) = (format!("{name}/{event}"), format!("{event}-retracted"));
        let (words, fields) = (Words::Fixed(&text), &Fields::default());
        let saying = Saying { words, event: &event, incident: &incident, is_over: true, more: 0, fields };
        if !self.say(rule, &[place], saying, room)? {
            nexum::warn!("{key} was retracted by a reorg, and this event has no room left to say so");
        }
        Ok(())
    }

    /// Sends a message to some channels. Tells whether the event had room for it.
    fn say(&self, rule: &Rule, channels: &[usize], saying: Saying<'_>, room: &mut Room) -> Result<bool> {
        let Saying { words, event, incident, is_over, more, fields } = saying;
        let (name, title, severity) = (rule.name.as_str(), rule.title.as_str(), rule.severity);
        let alert = Alert { rule: name, title, severity, words, more, is_over, incident, fields };
        let channels = channels.iter().filter_map(|place| self.channels.get(*place));
        let messages = channels.map(|channel| channel.body(&alert).map(|body| (channel, body)));
        let messages: Vec<_> = messages.collect::<Result<_>>()?;
        let bytes = messages.iter().map(|(_, body)| body.len()).sum::<usize>();
        let left = (room.messages.checked_sub(messages.len()), room.bytes.checked_sub(bytes));
        let (Some(messages_left), Some(bytes_left)) = left else { return Ok(false) };
        (room.messages, room.bytes) = (messages_left, bytes_left);
        for (channel, body) in messages {
            let key = format!("{name}/{}/{event}", channel.name);
            // In order, so that the end of something is not told before its beginning, and that a place that asks for
            // patience is left alone by all rules. What waits for its block to be final holds up its own rule alone.
            let lane = match rule.release {
                Release::Committed => channel.name.clone(),
                _ => format!("{name}/{}", channel.name),
            };
            let sent = channel.request(body, &key, rule.release).lane(lane).send();
            sent.context(format_args!("rule `{name}`, channel `{}`", channel.name))?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
