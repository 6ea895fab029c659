//! What a manifest may ask for and the operator may lower.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The bounds of one module. The defaults are the manifest's; the operator may only lower them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory and tables of all instances of the component, bytes; `memory.grow` past it answers -1.
    pub max_memory_bytes: usize,
    /// Fuel per event: roughly one unit per wasm instruction.
    pub max_fuel_per_event: u64,
    /// Keys plus values of the module's state, bytes.
    pub max_state_bytes: u64,
    /// Guest and host calls of one event together.
    pub event_deadline: Duration,
    /// One host call that waits; always within the event's deadline.
    pub host_call_deadline: Duration,
    /// One reply handed to the guest, bytes.
    pub max_reply_bytes: usize,
    /// Host calls of one event, all interfaces together.
    pub max_host_calls_per_event: u64,
    /// Events set aside; a module that would need one more stops at the event instead.
    pub max_dead_letters: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_memory_bytes: 64 * 1024 * 1024,
            max_fuel_per_event: 1_000_000_000,
            max_state_bytes: 50 * 1024 * 1024,
            event_deadline: Duration::from_secs(120),
            host_call_deadline: Duration::from_secs(30),
            // Large enough for a full block with receipts on a busy chain.
            max_reply_bytes: 8 * 1024 * 1024,
            // A handler that rewrites 10,000 keys is at home; a loop around a host call is stopped in milliseconds.
            max_host_calls_per_event: 100_000,
            // Far more than anybody reads one by one; a module that fails at so many events fails at all of them.
            max_dead_letters: 1_000,
        }
    }
}

impl Limits {
    /// The lower of the two, field by field.
    pub fn lowered_to(&self, ceiling: &Self) -> Self {
        Self {
            max_memory_bytes: self.max_memory_bytes.min(ceiling.max_memory_bytes),
            max_fuel_per_event: self.max_fuel_per_event.min(ceiling.max_fuel_per_event),
            max_state_bytes: self.max_state_bytes.min(ceiling.max_state_bytes),
            event_deadline: self.event_deadline.min(ceiling.event_deadline),
            host_call_deadline: self.host_call_deadline.min(ceiling.host_call_deadline),
            max_reply_bytes: self.max_reply_bytes.min(ceiling.max_reply_bytes),
            max_host_calls_per_event: self.max_host_calls_per_event.min(ceiling.max_host_calls_per_event),
            max_dead_letters: self.max_dead_letters.min(ceiling.max_dead_letters),
        }
    }
}
