//! The arguments of `crash`.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

#[derive(Debug, Subcommand)]
pub enum Crash {
    /// The crashes that are kept of a module, oldest first
    List { module: String },
    /// What one of them was, and what the module had asked for
    Show {
        module: String,
        /// By default the newest
        number: Option<u64>,
    },
    /// Write one of them to a file, to be replayed elsewhere
    Export {
        module: String,
        /// By default the newest
        number: Option<u64>,
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        to: PathBuf,
    },
}
