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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{
        Hash, HostErrorKind,
        bindings::nexum::host::chain::{self, RpcRequest, RpcResult},
        clock::SystemClock,
        commit_queue::CommitQueue,
        grants::{AskedCapabilities, Grants},
        host::{HostArgs, HostState},
        interfaces::{
            chain::grant::CAPABILITY as CHAIN,
            identity::{
                grant::{SIGN, SIGN_TYPED_DATA},
                port::{MESSAGE_BYTES_MAX, TYPED_DATA_BYTES_MAX},
            },
        },
        limits::Limits,
        ports::Ports,
        recording::TapeMode,
        state::ModuleId,
        store::ModuleRecord,
        unit::drafts::Quota,
    };

    const ACCOUNT: Address = Address([0x11; 20]);

    /// Signs messages with their first byte, and typed data not at all.
    struct Signer;

    impl Actor for Signer {
        type Msg = IdentityMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<IdentityMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<IdentityMsg>,
            message: IdentityMsg,
            _: &mut (),
        ) -> Result<(), ActorProcessingErr> {
            match message {
                IdentityMsg::Accounts { chain_id, reply, .. } => {
                    let on_chain = Address([chain_id.unwrap_or(0) as u8; 20]);
                    reply.send(Ok(vec![ACCOUNT, on_chain]))?;
                }
                IdentityMsg::Sign { payload, intent, reply, .. } => {
                    assert_eq!(intent, None, "a call has no other name under which it could be asked for again");
                    reply.send(match payload {
                        SigningPayload::Message(message) => {
                            Ok(SignatureAnswer::Signed(Box::new([message.first().copied().unwrap_or_default(); 65])))
                        }
                        SigningPayload::TypedData(_) => {
                            Err(HostError::new("identity", HostErrorKind::Denied, "policy 1 does not allow it"))
                        }
                    })?;
                }
                other => panic!("{other:?}"),
            }
            Ok(())
        }
    }

    /// A module with these methods, which may make so many calls in an event.
    fn module(ports: &Arc<Ports>, methods: &[&str], calls: u64) -> HostState {
        let (asked, provided) = ([CHAIN, CAPABILITY], BTreeSet::from([CHAIN, CAPABILITY]));
        let asked = AskedCapabilities { required: &asked, optional: &[] };
        let grants = Grants::decide(asked, &provided, &BTreeSet::new()).unwrap().with_chains([7]);
        let grants = grants.with_signing_methods(methods.iter().map(|method| (*method).to_owned()));
        let args = HostArgs {
            module: "m".into(),
            id: ModuleId(1),
            component: Hash::default(),
            limits: Arc::new(Limits { max_host_calls_per_event: calls, ..Limits::default() }),
            clock: Arc::new(SystemClock::new()),
            commits: Arc::new(CommitQueue::new(ports.store())),
            ports: ports.clone(),
            grants: Arc::new(grants),
            taping: TapeMode::Off,
            quota: Quota::new(100),
        };
        HostState::new(&args, ModuleRecord::default())
    }

    async fn signer() -> (Arc<Ports>, ActorRef<IdentityMsg>) {
        let (actor, _) = Actor::spawn(None, Signer, ()).await.unwrap();
        let ports = Ports::unbound([7]);
        ports.of::<IdentityMsg>().bind(actor.clone());
        (ports, actor)
    }

    #[tokio::test]
    async fn a_call_signs_what_the_manifest_asks_for_within_bounds() {
        let (ports, actor) = signer().await;
        let mut host = module(&ports, &[SIGN], 100);
        let account = || ACCOUNT.0.to_vec();
        let accounts = identity::Host::accounts(host.call()).await.unwrap();
        assert_eq!(accounts, [account(), vec![0; 20]]);
        assert_eq!(identity::Host::sign(host.call(), account(), b"a".to_vec()).await, Ok(vec![b'a'; 65]));
        let refused = |result: Result<Vec<u8>, HostError>| result.map_err(|error| (error.kind, error.message));
        let denied = identity::Host::sign_typed_data(host.call(), account(), "{}".to_owned()).await;
        assert_eq!(refused(denied).unwrap_err().0, HostErrorKind::Denied);
        let short = identity::Host::sign(host.call(), vec![0; 19], Vec::new()).await;
        let wrong = "an account of 19 bytes: expected 20".to_owned();
        assert_eq!(refused(short), Err((HostErrorKind::InvalidInput, wrong)));
        let large = identity::Host::sign(host.call(), account(), vec![0; MESSAGE_BYTES_MAX + 1]).await;
        assert_eq!(refused(large).unwrap_err().0, HostErrorKind::InvalidInput);

        let mut host = module(&ports, &[SIGN_TYPED_DATA], 2);
        let denied = identity::Host::sign_typed_data(host.call(), account(), "{}".to_owned()).await;
        let by_policy = "policy 1 does not allow it".to_owned();
        assert_eq!(refused(denied), Err((HostErrorKind::Denied, by_policy)));
        let large = " ".repeat(TYPED_DATA_BYTES_MAX + 1);
        let large = identity::Host::sign_typed_data(host.call(), account(), large).await;
        assert_eq!(refused(large).unwrap_err().0, HostErrorKind::InvalidInput);
        let over = identity::Host::sign(host.call(), account(), Vec::new()).await;
        assert_eq!(refused(over).unwrap_err().0, HostErrorKind::RateLimited);
        actor.kill();
    }

    #[tokio::test]
    async fn arguments_are_charged_whether_or_not_they_are_taken() {
        let ports = Ports::unbound([7]);
        let mut host = module(&ports, &[], 1_000);
        for _ in 0..9 {
            let message = vec![0; 8 << 20];
            identity::Host::sign(host.call(), Vec::new(), message).await.unwrap_err();
        }
        let over = host.call().may_go_on().unwrap_err().to_string();
        assert!(over.contains("bytes of arguments"), "{over}");
    }

    #[tokio::test]
    async fn a_wallets_methods_of_a_chain_are_answered_here() {
        let (ports, actor) = signer().await;
        let mut host = module(&ports, &[SIGN], 100);
        let accounts = chain::Host::request(host.call(), 7, "eth_accounts".into(), "[]".into()).await.unwrap();
        let second = Address([7; 20]);
        assert_eq!(accounts, format!(r#"["{ACCOUNT}","{second}"]"#));
        let request = |method: &str, params: &str| RpcRequest { method: method.into(), params: params.into() };
        let batch = vec![
            request("personal_sign", &format!(r#"["0x61", "{ACCOUNT}"]"#)),
            request("eth_sendTransaction", r#"[{"to":"0x1111111111111111111111111111111111111111"}]"#),
            request("eth_sign", &format!(r#"["{ACCOUNT}", "0x61"]"#)),
            request("personal_sign", "[]"),
        ];
        let answers = chain::Host::request_batch(host.call(), 7, batch).await.unwrap();
        let told = |answer: &RpcResult| match answer {
            RpcResult::Ok(text) => text.clone(),
            RpcResult::Err(error) => format!("{} {}", error.kind.name(), error.code),
        };
        let told: Vec<_> = answers.iter().map(told).collect();
        let signed = format!("\"0x{}\"", "61".repeat(65));
        assert_eq!(told, [&*signed, "denied 0", "denied -32601", "invalid-input -32602"]);
        assert_eq!(host.call().usage().host_calls, 5, "a batch is one call, and each method of a wallet one more");
        // Of a chain that is not the module's it is nobody's to answer.
        let other = chain::Host::request(host.call(), 8, "eth_accounts".into(), "[]".into()).await.unwrap_err();
        assert_eq!(other.kind, HostErrorKind::Unsupported);
        actor.kill();
    }
}
