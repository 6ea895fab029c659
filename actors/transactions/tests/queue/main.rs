//! The pure queue against a chain, a policy and a store that are faked: a test for everything it promises, and a simulation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod ends;
mod failures;
mod fees;
mod nonces;
mod simulation;
mod support;
