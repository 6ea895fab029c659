//! The fixture file of a mock chain, in TOML or JSON.
//!
//! ```toml
//! chain_id = 31337
//! name = "demo"              # optional
//! seed = 1                   # hashes and generated values follow from it
//! block_interval_ms = 1000   # pace in real time; timestamps follow it too
//! first_block = 0            # number of the first block
//! first_timestamp_s = 1_700_000_000   # default: now
//! history_blocks = 0         # generated blocks that exist from the start
//! endless = true             # go on generating when the script is over
//!
//! [[block]]                  # scripted blocks come first, in order
//! logs = [{ address = "0x…", topics = ["0x…"], data = "0x…" }]
//!
//! [[emit]]                   # logs of generated blocks
//! address = "0x…"
//! topics = ["0x…", { pick = ["0x…", "0x…"] }]
//! data = [{ uniform = { min = 1, max = 100 } }]
//! every_blocks = 1           # in every n-th block
//! probability = 1.0          # and then only this often
//! count = 1                  # logs per block
//!
//! [[call]]                   # answers to eth_call
//! to = "0x…"
//! data = "0xfeaf968c"        # a prefix of the call data; the longest one wins
//! words = ["block", { sine = { center = 1, amplitude = 1, period_blocks = 60 } }, "timestamp"]
//! # or  sequence = ["0x…", "0x…"]   one per block from first_block on, the last one for ever
//! # or  revert = "0x…"
//!
//! [[reorg]]                  # when block `at` is the head, the last `depth` blocks are replaced
//! at = 20
//! depth = 3
//!
//! [[fault]]                  # from block `at` on, the next `count` uses fail
//! at = 10
//! method = "eth_call"        # or "heads", "headers", "logs", "*"
//! kind = "error"             # or "stall": answers only when the caller gives up
//! count = 3
//! ```

use std::path::{Path, PathBuf};

use nexum_host_ifaces::{Address, Hash};
use serde::Deserialize;

use super::{
    chain::FaultKind,
    word::{HexBytes, Word},
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    pub chain_id: u64,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub seed: u64,
    #[serde(default = "interval")]
    pub block_interval_ms: u64,
    #[serde(default)]
    pub first_block: u64,
    pub first_timestamp_s: Option<u64>,
    #[serde(default)]
    pub history_blocks: u64,
    #[serde(default)]
    pub endless: bool,
    #[serde(default, rename = "block")]
    pub(super) blocks: Vec<ScriptedBlock>,
    #[serde(default, rename = "emit")]
    pub(super) emits: Vec<Emit>,
    #[serde(default, rename = "call")]
    pub(super) calls: Vec<Call>,
    #[serde(default, rename = "reorg")]
    pub(super) reorgs: Vec<ScriptedReorg>,
    #[serde(default, rename = "fault")]
    pub(super) faults: Vec<ScriptedFault>,
}

fn interval() -> u64 {
    1_000
}

fn one() -> u64 {
    1
}

fn always() -> f64 {
    1.0
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedBlock {
    #[serde(default)]
    pub logs: Vec<ScriptedLog>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedLog {
    pub address: Address,
    #[serde(default)]
    pub topics: Vec<Hash>,
    #[serde(default)]
    pub data: HexBytes,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Emit {
    pub address: Address,
    #[serde(default)]
    pub topics: Vec<Word>,
    #[serde(default)]
    pub data: Vec<Word>,
    #[serde(default = "one")]
    pub every_blocks: u64,
    #[serde(default = "always")]
    pub probability: f64,
    #[serde(default = "one")]
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    pub to: Address,
    #[serde(default)]
    pub data: HexBytes,
    pub words: Option<Vec<Word>>,
    pub sequence: Option<Vec<HexBytes>>,
    pub revert: Option<HexBytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedReorg {
    pub at: u64,
    pub depth: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScriptedFault {
    #[serde(default)]
    pub at: u64,
    pub method: String,
    pub kind: FaultKind,
    #[serde(default = "one")]
    pub count: u64,
}

/// Why a fixture cannot be played.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", .path.display())]
pub struct FixtureError {
    path: PathBuf,
    message: String,
}

impl Fixture {
    /// Parses the text of a fixture: JSON when its file is named so, TOML otherwise. Of `path` nothing is read.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FixtureError> {
        let json = path.extension().is_some_and(|extension| extension == "json");
        let parsed: Result<Self, String> = match json {
            true => serde_json::from_str(text).map_err(|error| error.to_string()),
            false => toml::from_str(text).map_err(|error| error.to_string()),
        };
        let message = match parsed {
            Ok(fixture) => match fixture.check() {
                Ok(()) => return Ok(fixture),
                Err(message) => message,
            },
            Err(message) => message,
        };
        Err(FixtureError { path: path.to_owned(), message: message.trim_end().to_owned() })
    }

    /// An empty chain that makes blocks by hand or without end.
    pub fn empty(chain_id: u64) -> Self {
        Self {
            chain_id,
            name: String::new(),
            seed: 0,
            block_interval_ms: interval(),
            first_block: 0,
            first_timestamp_s: Some(1_700_000_000),
            history_blocks: 0,
            endless: true,
            blocks: vec![],
            emits: vec![],
            calls: vec![],
            reorgs: vec![],
            faults: vec![],
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.block_interval_ms == 0 {
            return Err("block_interval_ms: must be more than 0".into());
        }
        for (index, call) in self.calls.iter().enumerate() {
            let answers = [call.words.is_some(), call.sequence.is_some(), call.revert.is_some()];
            if answers.iter().filter(|given| **given).count() != 1 {
                return Err(format!("call[{index}]: give exactly one of words, sequence and revert"));
            }
            if call.sequence.as_ref().is_some_and(Vec::is_empty) {
                return Err(format!("call[{index}].sequence: must not be empty"));
            }
        }
        for (index, emit) in self.emits.iter().enumerate() {
            if emit.topics.len() > 4 {
                return Err(format!("emit[{index}].topics: at most 4"));
            }
            if emit.every_blocks == 0 {
                return Err(format!("emit[{index}].every_blocks: must be more than 0"));
            }
        }
        for (index, block) in self.blocks.iter().enumerate() {
            if block.logs.iter().any(|log| log.topics.len() > 4) {
                return Err(format!("block[{index}].logs: at most 4 topics"));
            }
        }
        for (index, reorg) in self.reorgs.iter().enumerate() {
            if reorg.depth == 0 || self.first_block + reorg.depth > reorg.at {
                return Err(format!("reorg[{index}].depth: must be at least 1 and leave the first block in place"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_fixture_names_the_file_the_line_and_the_field() {
        let cases = [
            ("chain_id = 1\nblock_interval = 5\n", "f.toml: TOML parse error at line 2, column 1"),
            ("chain_id = 1\nblock_interval = 5\n", "unknown field `block_interval`"),
            ("name = \"x\"\n", "missing field `chain_id`"),
            ("chain_id = 1\n[[call]]\nto = \"0x12\"\n", "line 3"),
            ("chain_id = 1\n[[call]]\nto = \"0x12\"\n", "`0x12` is not a 20-byte address"),
            (
                "chain_id = 1\n[[call]]\nto = \"0x5FbDB2315678afecb367f032d93F642f64180aa3\"\n",
                "f.toml: call[0]: give exactly one of words, sequence and revert",
            ),
            ("chain_id = 1\n[[reorg]]\nat = 3\ndepth = 4\n", "reorg[0].depth"),
            ("chain_id = 1\n[[fault]]\nmethod = \"x\"\nkind = \"slow\"\n", "unknown variant `slow`"),
        ];
        for (text, expected) in cases {
            let error = Fixture::parse(Path::new("f.toml"), text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\n does not say {expected}");
        }
        let error = Fixture::parse(Path::new("f.json"), "{\n\"chain_id\": \"x\"}").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
