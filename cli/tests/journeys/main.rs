//! Journeys through the real binaries: an engine as people run it, real components, a real node where a chain matters.

mod anvil;
mod engine;
mod environment;
mod hostile;
mod orders;
mod prove_exactly_once;
