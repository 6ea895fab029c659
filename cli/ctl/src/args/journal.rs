//! The arguments of `journal`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use nexum_records::PublicKey;

#[derive(Debug, Subcommand)]
pub enum Journal {
    /// The newest units of a module, oldest first
    Tail {
        module: String,
        /// How many
        #[arg(short, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        n: u16,
        /// Go on with what is committed from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// One unit: event, cursors, digests, fuel, the keys it changed, the receipt that covers it
    Show { module: String, seq: u64 },
    /// Compute the chain of digests anew and check every receipt; exit code 1 names the first bad entry
    Verify(Verify),
    /// Write the kept journal as JSON lines, to be verified or compared elsewhere
    Export {
        module: String,
        #[command(flatten)]
        place: Place,
    },
    /// Compare what two engines did with the same events; exit code 1 names the first that differs
    Diff {
        /// An export
        #[arg(value_hint = ValueHint::FilePath)]
        a: PathBuf,
        /// An export of another engine
        #[arg(value_hint = ValueHint::FilePath)]
        b: PathBuf,
    },
    /// The public key that the engine signs receipts with
    Key,
}

/// Where a journal is read when not from a running engine.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub struct Place {
    /// Read this state directory; an engine may run on it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Read this backup
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub backup: Option<PathBuf>,
}

impl Place {
    /// Whether one is given.
    pub fn is_given(&self) -> bool {
        self.state_dir.is_some() || self.backup.is_some()
    }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["module", "file"]))]
pub struct Verify {
    /// The module; not needed with --file
    pub module: Option<String>,
    #[command(flatten)]
    pub place: Place,
    /// Verify this export
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state_dir", "backup"], value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Refuse receipts of any other key, and a journal without any of this one
    #[arg(long, value_name = "0xHEX")]
    pub key: Option<PublicKey>,
    /// Say how the journal stands to this receipt, a JSON file, taken from it earlier
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub receipt: Option<PathBuf>,
}
