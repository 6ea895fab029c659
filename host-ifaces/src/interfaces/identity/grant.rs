//! What a module may have signed: the methods that its manifest asks for, and sizes. With which account, and what exactly,
//! is up to the operator's policies, which the actor holds every signature against.

use std::collections::BTreeSet;

use crate::{
    Address, HostError, HostErrorKind,
    capability::Capability,
    grants::{Grant, Grants},
    interfaces::{
        identity::port::{MESSAGE_BYTES_MAX, SigningPayload, TYPED_DATA_BYTES_MAX},
        table::Key,
    },
};

pub const CAPABILITY: Capability = Capability::named("identity");

/// The key of the methods.
const METHODS: &str = "methods";

/// A message, with the prefix of EIP-191.
pub const SIGN: &str = "sign";
/// EIP-712 typed data.
pub const SIGN_TYPED_DATA: &str = "sign-typed-data";
/// A transaction: as an effect alone.
pub const TRANSACTION: &str = "transaction";
/// An update of a feed, which `remote-store` writes.
pub const FEED: &str = "feed";

const KNOWN: [&str; 4] = [SIGN, SIGN_TYPED_DATA, TRANSACTION, FEED];

pub(super) const TABLE: &[Key] = &[Key {
    name: METHODS,
    is_required: true,
    entries_max: 64,
    entry_bytes_max: 64,
    read: |method| match KNOWN.contains(&method) {
        true => Ok(method.to_owned()),
        false => Err(format!("unknown identity method `{method}`; known are {}", KNOWN.join(", "))),
    },
}];

/// The methods that one module may use and another one may not.
pub(super) fn beyond(grants: &Grants, other: &Grants) -> Vec<String> {
    let all = |grants: &Grants| grants.signing_methods().iter().cloned().collect::<BTreeSet<_>>();
    all(grants).difference(&all(other)).map(|method| format!("identity method {method}")).collect()
}

impl Grants {
    /// With these methods, as a manifest names them.
    #[must_use]
    pub fn with_signing_methods(self, methods: impl IntoIterator<Item = String>) -> Self {
        let tables = self.tables().clone().with(CAPABILITY, METHODS, methods);
        self.with_tables(tables)
    }

    fn signing_methods(&self) -> &[String] {
        self.tables().list(CAPABILITY, METHODS).map_or(&[], |methods| methods)
    }

    /// Whether anything of the operator's accounts is granted.
    ///
    /// # Errors
    /// `unsupported`.
    pub fn has_identity(&self) -> Result<(), HostError> {
        match self.get(CAPABILITY) {
            Some(Grant::Served) => Ok(()),
            _ => {
                let message = "capability `identity` is not granted to this module: list it in [capabilities], and have the \
                               operator configure [identity]";
                Err(HostError::new(CAPABILITY.name(), HostErrorKind::Unsupported, message))
            }
        }
    }

    /// Whether the module may have something signed by this method: `SIGN`, `SIGN_TYPED_DATA`, `TRANSACTION` or `FEED`.
    ///
    /// # Errors
    /// `unsupported` where `identity` is not granted, `denied` for a method that the manifest does not ask for.
    pub fn may_sign(&self, method: &str) -> Result<(), HostError> {
        self.has_identity()?;
        if self.signing_methods().iter().any(|granted| granted == method) {
            return Ok(());
        }
        let message = format!(
            "`{method}` is not allowed to this module: add it to [capabilities.identity] methods in the manifest"
        );
        Err(HostError::new(CAPABILITY.name(), HostErrorKind::Denied, message))
    }
}

fn invalid(message: String) -> HostError {
    HostError::new(CAPABILITY.name(), HostErrorKind::InvalidInput, message)
}

/// An account as modules name it.
///
/// # Errors
/// `invalid-input` when it has not 20 bytes.
pub fn account(bytes: &[u8]) -> Result<Address, HostError> {
    Address::try_from(bytes).map_err(|_| invalid(format!("an account of {} bytes: expected 20", bytes.len())))
}

impl SigningPayload {
    /// The method of the manifest that it needs.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Message(_) => SIGN,
            Self::TypedData(_) => SIGN_TYPED_DATA,
        }
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.len(),
            Self::TypedData(text) => text.len(),
        }
    }

    /// Whether it is small enough to be signed.
    ///
    /// # Errors
    /// `invalid-input`.
    pub fn check(&self) -> Result<(), HostError> {
        let (what, max) = match self {
            Self::Message(_) => ("a message", MESSAGE_BYTES_MAX),
            Self::TypedData(_) => ("typed data", TYPED_DATA_BYTES_MAX),
        };
        match self.bytes() {
            bytes if bytes > max => Err(invalid(format!("{what} of {bytes} bytes, at most {max}"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::AskedCapabilities;

    /// Grants of a module that lists `identity` as optional, in an engine that has it or not.
    fn grants(is_provided: bool, methods: &[&str]) -> Grants {
        let asked = AskedCapabilities { required: &[], optional: &[CAPABILITY] };
        let provided = is_provided.then_some(CAPABILITY).into_iter().collect();
        let grants = Grants::decide(asked, &provided, &BTreeSet::new()).unwrap();
        grants.with_signing_methods(methods.iter().map(|method| (*method).to_owned()))
    }

    #[test]
    fn what_the_manifest_asks_for_may_be_signed_and_nothing_else() {
        let granted = grants(true, &[SIGN, TRANSACTION]);
        assert_eq!((granted.may_sign(SIGN), granted.may_sign(TRANSACTION)), (Ok(()), Ok(())));
        let denied = granted.may_sign(SIGN_TYPED_DATA).unwrap_err();
        assert_eq!(denied.kind, HostErrorKind::Denied);
        assert!(denied.message.contains("add it to [capabilities.identity] methods"), "{}", denied.message);
        for without in [grants(false, &[SIGN]), Grants::default().with_signing_methods([SIGN.to_owned()])] {
            assert_eq!(without.may_sign(SIGN).unwrap_err().kind, HostErrorKind::Unsupported);
        }
    }

    #[test]
    fn an_upgrade_that_signs_more_goes_beyond() {
        let (old, new) = (grants(true, &[SIGN]), grants(true, &[SIGN, TRANSACTION]));
        assert_eq!(beyond(&new, &old), ["identity method transaction"]);
        assert_eq!(beyond(&old, &new), Vec::<String>::new());
    }

    #[test]
    fn an_entry_is_one_of_the_methods() {
        let read = TABLE[0].read;
        assert_eq!(read("sign-typed-data"), Ok("sign-typed-data".to_owned()));
        let known = "unknown identity method `spend`; known are sign, sign-typed-data, transaction, feed";
        assert_eq!(read("spend"), Err(known.to_owned()));
    }

    #[test]
    fn what_is_larger_than_a_signature_is_for_is_refused() {
        let wrong = |payload: SigningPayload| payload.check().map_err(|error| error.message);
        assert_eq!(wrong(SigningPayload::Message(vec![0; MESSAGE_BYTES_MAX])), Ok(()));
        let message = wrong(SigningPayload::Message(vec![0; MESSAGE_BYTES_MAX + 1])).unwrap_err();
        assert_eq!(message, "a message of 65537 bytes, at most 65536");
        let typed = wrong(SigningPayload::TypedData(" ".repeat(TYPED_DATA_BYTES_MAX + 1))).unwrap_err();
        assert_eq!(typed, "typed data of 262145 bytes, at most 262144");
        assert_eq!(account(&[1; 20]), Ok(Address([1; 20])));
        for bytes in [0, 19, 21, 32] {
            let refused = account(&vec![0; bytes]).unwrap_err().message;
            assert_eq!(refused, format!("an account of {bytes} bytes: expected 20"));
        }
    }
}
