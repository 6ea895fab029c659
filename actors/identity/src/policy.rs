//! What may be signed: pure, given what has been counted.
//!
//! Invariant: nothing is allowed but what a policy says. The first policy that fits in every field, budgets among them, decides. When
//! none fits, the one that fits furthest says which of its fields does not.

use std::collections::BTreeSet;

use alloy_primitives::U256;
use nexum_host_ifaces::{Address, Hash, interfaces::identity::port::Wei};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{AnyOf, Method, Policy, Selector, Target},
    request::Request,
};

/// The window of `max_value_per_day`.
pub const DAY_MS: u64 = 86_400_000;
/// The window of `max_per_hour`.
pub const HOUR_MS: u64 = 3_600_000;

/// What policies look at, apart from the account and the fee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Facts {
    Message,
    TypedData {
        verifying_contract: Option<Address>,
        chain_id: Option<u64>,
        primary_type: String,
    },
    Transaction {
        chain_id: u64,
        to: Target,
        /// None of data that is too short for one.
        selector: Option<Selector>,
        value: Wei,
    },
    Feed {
        topic: Hash,
    },
}

impl Facts {
    pub fn method(&self) -> Method {
        match self {
            Self::Message => Method::Message,
            Self::TypedData { .. } => Method::TypedData,
            Self::Transaction { .. } => Method::Transaction,
            Self::Feed { .. } => Method::Feed,
        }
    }

    /// What it moves, besides what it calls.
    pub fn value(&self) -> U256 {
        match self {
            Self::Transaction { value, .. } => U256::from_be_bytes(value.0),
            _ => U256::ZERO,
        }
    }
}

/// What has been signed under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Wei, within the last 24 hours.
    pub value_of_day: U256,
    /// Within the last hour.
    pub of_hour: u32,
    /// When the oldest of these leaves the hour.
    pub hour_frees_ms: u64,
}

/// What becomes of a request. Policies are named by their number in the configuration, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allowed {
        policy: usize,
    },
    /// The operator decides.
    Ask {
        policy: usize,
    },
    Denied(Refusal),
}

/// Why nothing allows a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The one that fits furthest.
    pub policy: Option<usize>,
    /// The field of it that does not fit.
    pub field: &'static str,
    pub message: String,
    /// When the same request may be allowed, where time alone changes that.
    pub free_at_ms: Option<u64>,
}

/// All policies of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    list: Vec<Policy>,
    /// What each covers, as a number that stays when others are added or its amounts change.
    scopes: Vec<u64>,
}

impl Policies {
    pub fn new(list: Vec<Policy>) -> Self {
        let scopes = list.iter().map(scope).collect();
        Self { list, scopes }
    }

    /// One of them, by its number.
    pub fn get(&self, policy: usize) -> &Policy {
        &self.list[policy - 1]
    }

    pub fn scope(&self, policy: usize) -> u64 {
        self.scopes[policy - 1]
    }

    /// Whether something that was signed under `scope` counts for this policy. What was signed under a policy that is no more counts
    /// for whichever covers it now: an edited policy does not begin anew.
    pub fn counts(&self, policy: usize, module: &str, account: Address, facts: &Facts, scope: u64) -> bool {
        let ours = self.get(policy);
        let is_its = scope == self.scope(policy);
        let is_nobodys = || !self.scopes.contains(&scope) && misfit(ours, account, facts).is_none();
        ours.module == module && (is_its || is_nobodys())
    }

    /// The policies of a module, by number.
    fn of_module(&self, module: &str) -> impl Iterator<Item = (usize, &Policy)> {
        self.list
            .iter()
            .enumerate()
            .filter(move |(_, policy)| policy.module == module)
            .map(|(at, policy)| (at + 1, policy))
    }

    /// Whether the request may be signed. `counted` says what has been signed under a policy.
    pub fn decide(&self, request: &Request, module: &str, counted: impl Fn(usize) -> Counted) -> Decision {
        let mut nearest: Option<(Misfit, usize)> = None;
        for (number, policy) in self.of_module(module) {
            let misfit = misfit(policy, request.account, &request.facts)
                .or_else(|| over_amounts(policy, request))
                .or_else(|| over_budgets(policy, request, &counted(number)));
            match misfit {
                None if policy.ask => return Decision::Ask { policy: number },
                None => return Decision::Allowed { policy: number },
                Some(misfit) if nearest.as_ref().is_none_or(|(known, _)| known.rank < misfit.rank) => {
                    nearest = Some((misfit, number));
                }
                Some(_) => {}
            }
        }
        Decision::Denied(refusal(module, request.account, nearest))
    }

    /// The policy that a request falls under when budgets and its fee are left aside: what has been signed before is held to that
    /// alone.
    pub fn covering(&self, request: &Request, module: &str) -> Result<usize, Refusal> {
        let mut nearest: Option<(Misfit, usize)> = None;
        for (number, policy) in self.of_module(module) {
            match misfit(policy, request.account, &request.facts).or_else(|| over_value(policy, &request.facts)) {
                None => return Ok(number),
                Some(misfit) if nearest.as_ref().is_none_or(|(known, _)| known.rank < misfit.rank) => {
                    nearest = Some((misfit, number));
                }
                Some(_) => {}
            }
        }
        Err(refusal(module, request.account, nearest))
    }

    /// The policy with the highest ceiling on fees that lets the module send anything with the account on that chain: a transfer of
    /// nothing to the account itself needs no more.
    pub fn for_empty(&self, module: &str, account: Address, chain_id: u64) -> Option<usize> {
        let sends = |policy: &Policy| {
            policy.account == account && policy.methods.contains(&Method::Transaction) && policy.chains.has(&chain_id)
        };
        let highest = self.of_module(module).filter(|(_, policy)| sends(policy));
        let ceilings =
            |policy: &Policy| (policy.max_fee_per_gas.unwrap_or(u128::MAX), policy.max_fee.unwrap_or(Wei([0xff; 32])));
        highest.max_by_key(|(_, policy)| ceilings(policy)).map(|(number, _)| number)
    }

    /// Whether the fee is within the ceilings of a policy.
    pub fn check_fee(&self, policy: usize, module: &str, request: &Request) -> Result<(), Refusal> {
        match over_fee(self.get(policy), request) {
            None => Ok(()),
            Some(misfit) => Err(refusal(module, request.account, Some((misfit, policy)))),
        }
    }

    /// The accounts that policies give a module; on one chain those that it may send from there, and those that only sign.
    pub fn accounts(&self, module: &str, chain_id: Option<u64>) -> BTreeSet<Address> {
        let is_there = |policy: &Policy| match chain_id {
            Some(chain) if policy.methods.contains(&Method::Transaction) => policy.chains.has(&chain),
            _ => true,
        };
        self.of_module(module).filter(|(_, policy)| is_there(policy)).map(|(_, policy)| policy.account).collect()
    }

    /// The account of the first policy that lets the module write the feed under this topic.
    pub fn feed_account(&self, module: &str, topic: Hash) -> Result<Address, Refusal> {
        let mut nearest: Option<(Misfit, usize)> = None;
        for (number, policy) in self.of_module(module) {
            match misfit(policy, policy.account, &Facts::Feed { topic }) {
                None => return Ok(policy.account),
                Some(misfit) if nearest.as_ref().is_none_or(|(known, _)| known.rank < misfit.rank) => {
                    nearest = Some((misfit, number));
                }
                Some(_) => {}
            }
        }
        let Some((misfit, number)) = nearest else {
            let message = format!(
                "no policy gives module {module} a feed to write: the operator writes one as [[identity.policies]] with module = \
                 \"{module}\", methods = [\"feed\"] and feeds = [\"{topic}\"]"
            );
            return Err(Refusal { policy: None, field: "module", message, free_at_ms: None });
        };
        Err(refusal(module, self.get(number).account, Some((misfit, number))))
    }

    /// The accounts of all policies.
    pub fn all_accounts(&self) -> BTreeSet<Address> {
        self.list.iter().map(|policy| policy.account).collect()
    }
}

/// A field that does not fit, and how many were looked at before it.
struct Misfit {
    rank: u8,
    field: &'static str,
    /// What the request has.
    got: String,
    /// What would have to be written there.
    write: String,
    free_at_ms: Option<u64>,
}

impl Misfit {
    fn new(rank: u8, field: &'static str, got: impl Into<String>, write: impl Into<String>) -> Self {
        Self { rank, field, got: got.into(), write: write.into(), free_at_ms: None }
    }
}

fn refusal(module: &str, account: Address, nearest: Option<(Misfit, usize)>) -> Refusal {
    match nearest {
        None => Refusal {
            policy: None,
            field: "module",
            message: format!(
                "no policy gives module {module} anything to sign: the operator writes one as [[identity.policies]] with \
                 module = \"{module}\" and account = \"{account}\""
            ),
            free_at_ms: None,
        },
        Some((Misfit { field, got, write, free_at_ms, .. }, number)) => Refusal {
            policy: Some(number),
            field,
            message: format!(
                "{got}: `{field}` of policy {number} ([[identity.policies]], module {module}) does not allow it; the operator \
                 would write {write} there"
            ),
            free_at_ms,
        },
    }
}

/// Whether the policy covers this at all, whatever the amounts.
fn misfit(policy: &Policy, account: Address, facts: &Facts) -> Option<Misfit> {
    if policy.account != account {
        return Some(Misfit::new(0, "account", format!("account {account}"), format!("\"{account}\"")));
    }
    let method = facts.method();
    if !policy.methods.contains(&method) {
        let name = method.name();
        return Some(Misfit::new(1, "methods", format!("a {name}"), format!("\"{name}\"")));
    }
    match facts {
        Facts::Message => None,
        Facts::Feed { topic } => (!policy.feeds.has(topic))
            .then(|| Misfit::new(2, "feeds", format!("an update under topic {topic}"), format!("\"{topic}\""))),
        Facts::TypedData { verifying_contract, chain_id, primary_type } => {
            let fits = policy.typed_data.iter().any(|rule| {
                rule.verifying_contract.is_none_or(|contract| Some(contract) == *verifying_contract)
                    && rule.chain_id.is_none_or(|chain| Some(chain) == *chain_id)
                    && rule.primary_type.as_ref().is_none_or(|kind| kind == primary_type)
            });
            let contract = verifying_contract.map_or("*".to_owned(), |contract| contract.to_string());
            let chain = chain_id.map_or("\"*\"".to_owned(), |chain| chain.to_string());
            let write = format!(
                "{{ verifying_contract = \"{contract}\", chain_id = {chain}, primary_type = \"{primary_type}\" }}"
            );
            (!fits).then(|| Misfit::new(2, "typed_data", format!("typed data `{primary_type}`"), write))
        }
        Facts::Transaction { chain_id, to, selector, .. } => {
            if !policy.chains.has(chain_id) {
                return Some(Misfit::new(2, "chains", format!("chain {chain_id}"), chain_id.to_string()));
            }
            // Any does not mean creations.
            let goes = match (&policy.to, to) {
                (AnyOf::Any, Target::Create) => false,
                (allowed, to) => allowed.has(to),
            };
            if !goes {
                let got = match to {
                    Target::Create => "the creation of a contract".to_owned(),
                    Target::Account(to) => format!("a transaction to {to}"),
                };
                return Some(Misfit::new(3, "to", got, format!("\"{to}\"")));
            }
            let calls = match selector {
                _ if *to == Target::Create => true,
                Some(selector) => policy.selectors.has(selector),
                None => policy.selectors == AnyOf::Any,
            };
            let shown = selector.map_or("\"*\"".to_owned(), |selector| match selector {
                Selector::Transfer => "\"\"".to_owned(),
                Selector::Call(_) => format!("\"{selector}\""),
            });
            let got = match selector {
                Some(Selector::Transfer) => "a transfer without data".to_owned(),
                Some(selector) => format!("a call of {selector}"),
                None => "data too short for a call".to_owned(),
            };
            (!calls).then(|| Misfit::new(4, "selectors", got, shown))
        }
    }
}

fn over_value(policy: &Policy, facts: &Facts) -> Option<Misfit> {
    let (value, most) = (facts.value(), U256::from_be_bytes(policy.max_value.0));
    (value > most).then(|| {
        Misfit::new(
            5,
            "max_value",
            format!("a value of {value} wei, at most {most}"),
            format!("at least \"{value} wei\""),
        )
    })
}

fn over_fee(policy: &Policy, request: &Request) -> Option<Misfit> {
    if let (Some(fee), Some(most)) = (request.fee_per_gas, policy.max_fee_per_gas)
        && fee > most
    {
        let got = format!("a fee of {fee} wei per unit of gas, at most {most}");
        return Some(Misfit::new(6, "max_fee_per_gas", got, format!("at least \"{fee} wei\"")));
    }
    let (fee, most) = (request.fee?, U256::from_be_bytes(policy.max_fee?.0));
    (fee > most).then(|| {
        let got = format!("a fee of up to {fee} wei, at most {most}");
        Misfit::new(7, "max_fee", got, format!("at least \"{fee} wei\""))
    })
}

fn over_amounts(policy: &Policy, request: &Request) -> Option<Misfit> {
    over_value(policy, &request.facts).or_else(|| over_fee(policy, request))
}

fn over_budgets(policy: &Policy, request: &Request, counted: &Counted) -> Option<Misfit> {
    let (value, most) = (request.facts.value(), U256::from_be_bytes(policy.max_value_per_day.0));
    let sum = counted.value_of_day.saturating_add(value);
    // What moves nothing takes nothing of the day.
    if !value.is_zero() && sum > most {
        let got = format!("{value} wei more than {} wei of the last 24 hours, at most {most}", counted.value_of_day);
        return Some(Misfit::new(8, "max_value_per_day", got, format!("at least \"{sum} wei\"")));
    }
    let most = policy.max_per_hour?;
    (counted.of_hour >= most).then(|| {
        let got = format!("{} signatures within the last hour, at most {most}", counted.of_hour);
        let misfit = Misfit::new(9, "max_per_hour", got, format!("more than {most}"));
        Misfit { free_at_ms: Some(counted.hour_frees_ms), ..misfit }
    })
}

/// A number for what a policy covers: the same for the same fields, whatever its amounts.
fn scope(policy: &Policy) -> u64 {
    // `Debug` of plain values is as stable as their order in the file; a change of either only makes more count, see `counts`.
    let Policy { module, account, methods, chains, to, selectors, typed_data, feeds, ask, .. } = policy;
    let text =
        format!("{module:?} {account} {methods:?} {chains:?} {to:?} {selectors:?} {typed_data:?} {feeds:?} {ask}");
    let hash = Sha256::digest(text);
    hash.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests;
