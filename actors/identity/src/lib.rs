//! Signatures: the actor behind the identity port.
