//! Signing with the operator's keys, which never enter a module. Addresses have 20 bytes, signatures 65 (r, s, v).
//!
//! Every call fails with [`ErrorKind::Denied`](crate::ErrorKind::Denied) when the operator's policy refuses it, and
//! with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the capability was optional and not granted.

use crate::Result;
use crate::bindings::nexum::host::identity as host;

/// The addresses that this module may sign for.
pub fn accounts() -> Result<Vec<Vec<u8>>> {
    Ok(host::accounts()?)
}

/// Signs `message`; the host applies the EIP-191 prefix.
pub fn sign(account: impl AsRef<[u8]>, message: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    Ok(host::sign(account.as_ref(), message.as_ref())?)
}

/// Signs EIP-712 typed data, given as JSON text.
pub fn sign_typed_data(account: impl AsRef<[u8]>, typed_data: &str) -> Result<Vec<u8>> {
    Ok(host::sign_typed_data(account.as_ref(), typed_data)?)
}
