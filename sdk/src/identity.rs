//! Signing with the operator's keys, which never enter a module. Addresses have 20 bytes, signatures 65 (r, s, v).
//!
//! The manifest lists what a module signs in `[capabilities.identity] methods`, and the operator's policy says with which
//! account, and what. Every call fails with [`ErrorKind::Denied`](crate::ErrorKind::Denied) when either refuses it, and with
//! [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the capability was optional and not granted. What the
//! operator has to approve is refused as well, because a call does not wait for people: send it as an effect of the
//! [`outbox`](crate::outbox), whose outcome carries the signature.

use crate::{Error, Result, raw};

/// The addresses that this module may sign for.
pub fn accounts() -> Result<Vec<Vec<u8>>> {
    raw::identity::accounts().map_err(Error::from_host)
}

/// Signs `message`, at most 64 KiB; the host applies the EIP-191 prefix.
pub fn sign(account: impl AsRef<[u8]>, message: impl AsRef<[u8]>) -> Result<Vec<u8>> {
    raw::identity::sign(account.as_ref(), message.as_ref()).map_err(Error::from_host)
}

/// Signs EIP-712 typed data, given as JSON text of at most 256 KiB.
pub fn sign_typed_data(account: impl AsRef<[u8]>, typed_data: &str) -> Result<Vec<u8>> {
    raw::identity::sign_typed_data(account.as_ref(), typed_data).map_err(Error::from_host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Signed};

    #[test]
    fn a_test_answers_in_the_place_of_the_operators_keys() {
        testing::reset();
        assert!(sign([1; 20], "hello").unwrap_err().message().contains("testing::on_sign"));
        testing::set_accounts([[1; 20]]);
        testing::on_sign(|account, what| match what {
            Signed::Message(message) => Ok([account, message].concat()),
            Signed::TypedData(_) => Err(Error::msg("no policy")),
        });
        assert_eq!(accounts().unwrap(), [vec![1; 20]]);
        assert_eq!(sign([1; 20], "hello").unwrap(), [&[1; 20][..], b"hello"].concat());
        assert!(sign_typed_data([1; 20], "{}").is_err());
    }
}
