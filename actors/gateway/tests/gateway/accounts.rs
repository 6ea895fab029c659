//! Accounts that answer from a table.

use nexum_gateway::Accounts;
use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    interfaces::identity::port::{Approval, ApprovalState, AuditEntry, IdentityMsg},
    port::Port,
    transactions::{TransactionSummary, TransactionsMsg, Which},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;

const ACCOUNT: &str = "0xabababababababababababababababababababab";

pub async fn start() -> Accounts {
    let accounts = Accounts { identity: Port::new("identity"), transactions: Port::new("transactions") };
    accounts.identity.bind(Actor::spawn(None, FakeIdentity, ()).await.unwrap().0);
    accounts.transactions.bind(Actor::spawn(None, FakeTransactions, ()).await.unwrap().0);
    accounts
}

struct FakeIdentity;

impl Actor for FakeIdentity {
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
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            IdentityMsg::Approvals { reply, .. } => reply.send(Ok(vec![approval()]))?,
            IdentityMsg::Decide { approve, by, reply, .. } => {
                let state = if approve { ApprovalState::Approved } else { ApprovalState::Denied };
                reply.send(Ok(Approval { state, policy: format!("by {by}"), ..approval() }))?;
            }
            IdentityMsg::Audit { limit: 1, reply } => reply.send(Ok(vec![AuditEntry {
                number: 9,
                at_ms: 1,
                module: "m".into(),
                intent: None,
                account: ACCOUNT.into(),
                kind: "message".into(),
                digest: Hash::default(),
                policy: "1".into(),
            }]))?,
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}

fn approval() -> Approval {
    Approval {
        number: 3,
        module: "m".into(),
        intent: "m/2".into(),
        account: ACCOUNT.into(),
        what: json!({ "to": "0x1" }),
        digest: Hash::default(),
        policy: "1".into(),
        state: ApprovalState::Waiting,
        asked_at_ms: 1,
        expires_at_ms: 2,
        decided_at_ms: None,
    }
}

struct FakeTransactions;

impl Actor for FakeTransactions {
    type Msg = TransactionsMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<TransactionsMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<TransactionsMsg>,
        message: TransactionsMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TransactionsMsg::List { limit, reply } => reply.send(vec![TransactionSummary {
                chain_id: 1,
                account: ACCOUNT.into(),
                nonce: Some(7),
                module: "m".into(),
                intent: Some("m/1".into()),
                to: None,
                value: "0".into(),
                state: "broadcast".into(),
                what: format!("limit {limit}"),
                age_ms: 1,
                hashes: vec![Hash::default()],
                fee_per_gas: None,
            }])?,
            TransactionsMsg::Order { chain_id, account, which: Which::Nonce(7), order, reply } => {
                reply.send(Ok(format!("{order:?} {account} 7 on {chain_id}")))?;
            }
            TransactionsMsg::Order { chain_id, account, which: Which::Intent(effect), order, reply } => {
                reply.send(Ok(format!("{order:?} {account} {effect} on {chain_id}")))?;
            }
            TransactionsMsg::Order { reply, .. } => {
                reply.send(Err(HostError::new("transactions", HostErrorKind::InvalidInput, "no such nonce")))?;
            }
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}
