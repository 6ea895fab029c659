//! What a guest calls of `identity`: signatures within its grants and the operator's policies. What people have to approve
//! is refused here, because a call does not wait for them: that is what effects of the outbox are for.

use crate::{
    Address, HostError,
    bindings::nexum::host::identity,
    call::Call,
    interfaces::identity::{
        grant::{CAPABILITY, account},
        port::{IdentityMsg, SignatureAnswer, SigningPayload},
    },
};

const DOMAIN: &str = CAPABILITY.name();

impl Call {
    /// The accounts that the operator's policies give this module, on one chain when one is named.
    pub(crate) async fn accounts(&mut self, chain_id: Option<u64>) -> Result<Vec<Address>, HostError> {
        self.grants().has_identity()?;
        let asked = self.ask("identity.accounts", &chain_id);
        let (port, module) = (self.ports().of::<IdentityMsg>(), self.module().clone());
        let deadline = self.limits().host_call_deadline;
        let live = async {
            let answer = port.call(deadline, |reply| IdentityMsg::Accounts { module, chain_id, reply }).await;
            answer.map_err(|error| error.to_host_error(DOMAIN))?
        };
        let accounts = self.reach(asked, DOMAIN, live).await?;
        self.give(size_of_val(accounts.as_slice()));
        Ok(accounts)
    }

    /// A signature, 65 bytes.
    pub(crate) async fn sign(&mut self, account: Address, payload: SigningPayload) -> Result<Vec<u8>, HostError> {
        self.grants().may_sign(payload.method())?;
        payload.check()?;
        let call = match payload {
            SigningPayload::Message(_) => "identity.sign",
            SigningPayload::TypedData(_) => "identity.sign-typed-data",
        };
        let asked = self.ask(call, &(account, &payload));
        let (port, module) = (self.ports().of::<IdentityMsg>(), self.module().clone());
        let deadline = self.limits().host_call_deadline;
        let live = async {
            let sign = |reply| IdentityMsg::Sign { module, account, payload, intent: None, reply };
            match port.call(deadline, sign).await.map_err(|error| error.to_host_error(DOMAIN))?? {
                SignatureAnswer::Signed(signature) => Ok::<_, HostError>(signature.to_vec()),
                SignatureAnswer::AwaitsApproval { number, .. } => {
                    unreachable!("request {number} waits for people, and no effect would hear of it")
                }
            }
        };
        let signature = self.reach(asked, DOMAIN, live).await?;
        self.give(signature.len());
        Ok(signature)
    }
}

impl identity::Host for Call {
    async fn accounts(&mut self) -> Result<Vec<Vec<u8>>, HostError> {
        self.count(DOMAIN)?;
        let accounts = Call::accounts(self, None).await?;
        Ok(accounts.iter().map(|account| account.0.to_vec()).collect())
    }

    async fn sign(&mut self, account: Vec<u8>, message: Vec<u8>) -> Result<Vec<u8>, HostError> {
        sign(self, &account, SigningPayload::Message(message)).await
    }

    async fn sign_typed_data(&mut self, account: Vec<u8>, typed_data: String) -> Result<Vec<u8>, HostError> {
        sign(self, &account, SigningPayload::TypedData(typed_data)).await
    }
}

async fn sign(call: &mut Call, bytes: &[u8], payload: SigningPayload) -> Result<Vec<u8>, HostError> {
    // Charged first: a call over the limit has brought its arguments, too.
    call.take(bytes.len() + payload.bytes());
    call.count(DOMAIN)?;
    Call::sign(call, account(bytes)?, payload).await
}
