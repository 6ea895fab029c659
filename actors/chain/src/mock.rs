//! The mock chain: plays a fixture, then makes blocks without end; or is moved by hand in tests and simulations.

mod backend;
mod chain;
mod fixture;
mod word;

pub use backend::MockBackend;
pub use chain::{FaultKind, MockChain};
pub use fixture::{Fixture, FixtureError};
