//! The arguments of `key`. Secrets are none of them: whoever lists the processes of a machine sees these.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use nexum_host_ifaces::Address;

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key, and print its address and file
    New {
        #[command(flatten)]
        keystore: Keystore,
        #[command(flatten)]
        password: Password,
    },
    /// Write a private key, 64 hex digits, to a key file; it is read from stdin
    Import {
        /// Read the private key from this file instead
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        private_key_file: Option<PathBuf>,
        #[command(flatten)]
        keystore: Keystore,
        #[command(flatten)]
        password: Password,
    },
    /// The accounts of a keystore, and what in it is not used, and why
    List {
        #[command(flatten)]
        keystore: Keystore,
    },
    /// Open a key file, and print the address that its key has
    ExportAddress {
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        #[command(flatten)]
        password: Password,
    },
    /// Encrypt an account's key with another password
    ChangePassword {
        account: Address,
        #[command(flatten)]
        keystore: Keystore,
        #[command(flatten)]
        password: Password,
        #[command(flatten)]
        new: NewPassword,
    },
}

/// Where key files are.
#[derive(Debug, Args)]
pub struct Keystore {
    /// The directory of key files, as [identity] keystore names it
    #[arg(long, value_name = "DIR", default_value = "keys", value_hint = ValueHint::DirPath)]
    pub keystore: PathBuf,
}

/// Where the password is; asked for at the terminal when nothing is said.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Password {
    /// File with the password, which may be a pipe [default: ask at the terminal]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
    /// Name of the credential of systemd that is the password
    #[arg(long, value_name = "NAME")]
    pub password_credential: Option<String>,
    /// Name of the variable of the environment that has the password
    #[arg(long, value_name = "VAR")]
    pub password_env: Option<String>,
}

/// The same of the password that is to be.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct NewPassword {
    /// File with the new password, which may be a pipe [default: ask at the terminal]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub new_password_file: Option<PathBuf>,
    /// Name of the credential of systemd that is the new password
    #[arg(long, value_name = "NAME")]
    pub new_password_credential: Option<String>,
    /// Name of the variable of the environment that has the new password
    #[arg(long, value_name = "VAR")]
    pub new_password_env: Option<String>,
}
