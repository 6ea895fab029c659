//! Journeys through the real binaries: an engine as people run it, real components, a real node where a chain matters.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod anvil;
mod commands;
mod compile;
mod copies;
mod crashes;
mod credentials;
mod dead_letters;
mod drain;
mod egress;
mod engine;
mod environment;
mod examples;
mod golden_state;
mod held_back;
mod hostile;
mod identity;
mod journal;
mod libraries;
mod metrics;
mod notify;
mod operator;
mod orders;
mod other_languages;
mod outbox;
mod process_deaths;
mod prove_exactly_once;
mod prove_isolation;
mod prove_outage;
mod prove_outbox;
mod prove_reorg;
mod prove_transactions;
mod proxy;
mod receiver;
mod replay;
mod reserve;
mod resync;
mod secrets;
mod services;
mod tls;
mod transactions;
mod unloaded;
mod upgrade;
mod wasi_http;
