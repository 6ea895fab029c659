//! One of the operator's accounts as alloy's signer, for code that is generic over one.

use alloy_dyn_abi::eip712::TypedData;
use alloy_primitives::{Address, B256, ChainId, Signature};
use alloy_signer::{Error, Result, UnsupportedSignerOperation};
use async_trait::async_trait;

use crate::identity;

/// An account that the operator's policy lets this module sign for. Every signature is a host call and may be refused.
///
/// It signs messages (EIP-191) and typed data that is given as values (EIP-712). It signs no bare hash, and so nothing that
/// alloy would hash itself, such as the struct of a `sol!`: the operator's policy is about what is signed, which a hash does
/// not say. For transactions there is [`outbox::transaction`](crate::outbox::transaction).
///
/// ```no_run
/// use nexum_sdk::{Signer, alloy::{primitives::address, signer::Signer as _}, block_on};
/// let signer = Signer::new(address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
/// let signature = block_on(signer.sign_message(b"hello"))?;
/// # Ok::<(), nexum_sdk::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Signer {
    account: Address,
    chain_id: Option<ChainId>,
}

impl Signer {
    pub fn new(account: Address) -> Self {
        Self { account, chain_id: None }
    }
}

#[cfg_attr(target_family = "wasm", async_trait(?Send))]
#[cfg_attr(not(target_family = "wasm"), async_trait)]
impl alloy_signer::Signer for Signer {
    async fn sign_hash(&self, _hash: &B256) -> Result<Signature> {
        Err(Error::UnsupportedOperation(UnsupportedSignerOperation::SignHash))
    }

    async fn sign_message(&self, message: &[u8]) -> Result<Signature> {
        read(identity::sign(self.account, message))
    }

    async fn sign_dynamic_typed_data(&self, payload: &TypedData) -> Result<Signature> {
        let payload = serde_json::to_string(payload).map_err(Error::other)?;
        read(identity::sign_typed_data(self.account, &payload))
    }

    fn address(&self) -> Address {
        self.account
    }

    fn chain_id(&self) -> Option<ChainId> {
        self.chain_id
    }

    fn set_chain_id(&mut self, chain_id: Option<ChainId>) {
        self.chain_id = chain_id;
    }
}

fn read(answer: crate::Result<Vec<u8>>) -> Result<Signature> {
    Ok(Signature::from_raw(&answer.map_err(Error::message)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_on;
    use alloy_signer::Signer as _;

    #[test]
    fn a_hash_is_not_signed() {
        let mut signer = Signer::new(Address::repeat_byte(7));
        signer.set_chain_id(Some(5));
        assert_eq!((signer.address(), signer.chain_id()), (Address::repeat_byte(7), Some(5)));
        assert!(block_on(signer.sign_hash(&B256::ZERO)).unwrap_err().is_unsupported());
    }

    #[test]
    fn a_signature_is_read_and_a_refusal_keeps_its_words() {
        let raw = [vec![1; 64], vec![28]].concat();
        assert_eq!(read(Ok(raw.clone())).unwrap().as_bytes().to_vec(), raw);
        assert!(read(Ok(vec![1; 64])).is_err());
        let denied = read(Err(crate::Error::new(crate::ErrorKind::Denied, "no policy"))).unwrap_err();
        assert_eq!(denied.to_string(), "no policy");
    }
}
