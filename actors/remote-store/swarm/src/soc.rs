//! Single-owner chunks: a chunk of content that an account signed, under an address that the account chose.

use alloy_primitives::{Signature, keccak256};

use crate::{
    Corrupt,
    chunk::{Chunk, ChunkAddress},
};

/// What the owner names the chunk by.
pub type Identifier = [u8; 32];
/// The account that signed it.
pub type Owner = [u8; 20];

/// The two parts of a signature, and 27 or 28.
pub const SIGNATURE_BYTES: usize = 65;

/// Where the chunk of this owner and name is.
pub fn address(identifier: &Identifier, owner: &Owner) -> ChunkAddress {
    keccak256([&identifier[..], owner].concat()).0
}

/// The 32 bytes that the owner signs, as a message of EIP-191.
pub fn message(identifier: &Identifier, content: &ChunkAddress) -> [u8; 32] {
    keccak256([&identifier[..], content].concat()).0
}

/// The content of what a node sent for the chunk of this owner and name.
///
/// # Errors
/// That it is something else, or that the owner did not sign it.
pub fn read(wire: &[u8], identifier: &Identifier, owner: &Owner) -> Result<Chunk, Corrupt> {
    let (named, rest) = wire.split_first_chunk::<32>().ok_or(Corrupt::Size(wire.len()))?;
    let (signature, content) = rest.split_first_chunk::<SIGNATURE_BYTES>().ok_or(Corrupt::Size(wire.len()))?;
    if named != identifier {
        return Err(Corrupt::Address);
    }
    let content = Chunk::read_any(content)?;
    let signature = Signature::from_raw_array(signature).map_err(|_| Corrupt::Signature)?;
    let signer = signature.recover_address_from_msg(message(identifier, &content.address));
    match signer {
        Ok(signer) if signer.0.0 == *owner => Ok(content),
        _ => Err(Corrupt::Signature),
    }
}
