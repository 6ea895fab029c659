//! Signatures as effects: of one of the operator's accounts, within the operator's policies, which may have people asked.

use std::time::Duration;

use serde_json::{Value, json};

use super::kind::{Attempting, EffectKind, Verdict, hex, invalid, retry};
use crate::{
    HostError, HostErrorKind,
    bindings::nexum::host::outbox::{Effect, SignatureEffect, SignaturePayload},
    grants::Grants,
    interfaces::identity::{
        grant::{CAPABILITY as IDENTITY, SIGN, SIGN_TYPED_DATA, account},
        port::{IdentityMsg, SignatureAnswer, SigningPayload},
    },
};

/// How often it is asked whether people have decided: they take longer.
const APPROVAL_LOOK: Duration = Duration::from_secs(2);
/// When it is asked again, at the latest, whether a policy's rate lets it pass: the operator may have raised that.
const RATE_LOOK: Duration = Duration::from_secs(60);

#[async_trait::async_trait]
impl EffectKind for SignatureEffect {
    fn name(&self) -> &'static str {
        "signature"
    }

    fn destination(&self) -> String {
        match account(&self.account) {
            Ok(account) => format!("account:{account}"),
            Err(_) => "account:invalid".to_owned(),
        }
    }

    fn bytes(&self) -> usize {
        let payload = match &self.payload {
            SignaturePayload::Message(message) => message.len(),
            SignaturePayload::TypedData(text) => text.len(),
        };
        self.account.len() + payload
    }

    fn stripped(&self) -> Effect {
        let payload = match &self.payload {
            SignaturePayload::Message(_) => SignaturePayload::Message(Vec::new()),
            SignaturePayload::TypedData(_) => SignaturePayload::TypedData(String::new()),
        };
        Effect::Signature(Self { account: self.account.clone(), payload })
    }

    fn payload(&self) -> Value {
        match &self.payload {
            SignaturePayload::Message(message) => json!({ "account": hex(&self.account), "message": hex(message) }),
            SignaturePayload::TypedData(text) => json!({ "account": hex(&self.account), "typed_data": text }),
        }
    }

    fn granted(&self, _module: &str, grants: &Grants) -> Result<(), HostError> {
        grants.may_sign(match &self.payload {
            SignaturePayload::Message(_) => SIGN,
            SignaturePayload::TypedData(_) => SIGN_TYPED_DATA,
        })
    }

    fn check(&self, _key: &str, _grants: &Grants) -> Result<(), HostError> {
        account(&self.account)?;
        let payload = self.signed();
        payload.check()?;
        match payload {
            SigningPayload::TypedData(text) if !is_object(&text) => {
                Err(invalid("the typed data is not the JSON text of an object"))
            }
            _ => Ok(()),
        }
    }

    async fn attempt(&self, with: &Attempting<'_>) -> Verdict {
        let account = match account(&self.account) {
            Ok(account) => account,
            Err(error) => return Verdict::Failed(error.message),
        };
        let (module, payload, intent) = (with.module.clone(), self.signed(), Some(with.id.to_owned()));
        let sign = |reply| IdentityMsg::Sign { module, account, payload, intent, reply };
        let answer = with.ports.of::<IdentityMsg>().call(with.deadline, sign).await;
        of_identity(answer.unwrap_or_else(|error| Err(error.to_host_error(IDENTITY.name()))))
    }
}

impl SignatureEffect {
    fn signed(&self) -> SigningPayload {
        match &self.payload {
            SignaturePayload::Message(message) => SigningPayload::Message(message.clone()),
            SignaturePayload::TypedData(text) => SigningPayload::TypedData(text.clone()),
        }
    }
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
}

/// What an answer means.
fn of_identity(answer: Result<SignatureAnswer, HostError>) -> Verdict {
    let error = match answer {
        Ok(SignatureAnswer::Signed(signature)) => return Verdict::Delivered(signature.to_vec()),
        Ok(SignatureAnswer::AwaitsApproval { number, .. }) => {
            let what = format!("waits for approval {number}: see `nexumctl approvals show {number}`");
            return Verdict::Underway { what, after: APPROVAL_LOOK };
        }
        Err(error) => error,
    };
    match error.kind {
        HostErrorKind::Unavailable | HostErrorKind::Timeout | HostErrorKind::Internal => retry(error.message),
        // Time is all that it needs.
        HostErrorKind::RateLimited => {
            let told = error.data.and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
            Verdict::Underway { what: error.message, after: told.unwrap_or(RATE_LOOK).min(RATE_LOOK) }
        }
        _ => Verdict::Failed(error.message),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex},
    };

    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;
    use crate::{
        Address,
        clock::SystemClock,
        grants::AskedCapabilities,
        interfaces::identity::port::{MESSAGE_BYTES_MAX, TYPED_DATA_BYTES_MAX},
        ports::Ports,
    };

    /// Who asked for what, and by which intent.
    type Asked = Arc<Mutex<Vec<(Arc<str>, Address, SigningPayload, Option<String>)>>>;

    /// Signs messages, and has people asked about typed data.
    struct Identity(Asked);

    impl Actor for Identity {
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
            if let IdentityMsg::Sign { module, account, payload, intent, reply } = message {
                let answer = match &payload {
                    SigningPayload::Message(_) => SignatureAnswer::Signed(Box::new([7; 65])),
                    SigningPayload::TypedData(_) => SignatureAnswer::AwaitsApproval { number: 3, expires_at_ms: 9 },
                };
                self.0.lock().unwrap().push((module, account, payload, intent));
                reply.send(Ok(answer))?;
            }
            Ok(())
        }
    }

    fn effect(payload: SignaturePayload) -> SignatureEffect {
        SignatureEffect { account: vec![1; 20], payload }
    }

    fn grants(methods: &[&str]) -> Grants {
        let asked = AskedCapabilities { required: &[IDENTITY], optional: &[] };
        let grants = Grants::decide(asked, &BTreeSet::from([IDENTITY]), &BTreeSet::new()).unwrap();
        grants.with_signing_methods(methods.iter().map(|method| (*method).to_owned()))
    }

    #[tokio::test]
    async fn an_attempt_asks_under_the_name_that_the_effect_always_has() {
        let asked = Asked::default();
        let (actor, _) = Actor::spawn(None, Identity(asked.clone()), ()).await.unwrap();
        let ports = Ports::unbound([]);
        let with = Attempting {
            module: &Arc::from("m"),
            id: "m/1",
            key: "k",
            again: false,
            round: 0,
            deadline: Duration::from_secs(10),
            grants: &grants(&[SIGN]),
            ports: &ports,
            clock: &SystemClock::new(),
        };
        let message = effect(SignaturePayload::Message(b"hello".to_vec()));
        let typed = effect(SignaturePayload::TypedData("{}".into()));
        assert!(matches!(message.attempt(&with).await, Verdict::Retry { counts: true, .. }), "nobody is there");
        ports.of::<IdentityMsg>().bind(actor.clone());
        assert_eq!(message.attempt(&with).await, Verdict::Delivered(vec![7; 65]));
        let what = "waits for approval 3: see `nexumctl approvals show 3`".to_owned();
        assert_eq!(typed.attempt(&with).await, Verdict::Underway { what, after: APPROVAL_LOOK });
        let (account, intent) = (Address([1; 20]), Some("m/1".to_owned()));
        let of = |payload| (Arc::from("m"), account, payload, intent.clone());
        let expected = [of(SigningPayload::Message(b"hello".to_vec())), of(SigningPayload::TypedData("{}".to_owned()))];
        assert_eq!(*asked.lock().unwrap(), expected);
        actor.kill();
    }

    #[test]
    fn a_refusal_is_final_and_what_may_pass_is_tried_again() {
        let of = |kind| of_identity(Err(HostError::new("identity", kind, "why")));
        for kind in [HostErrorKind::Denied, HostErrorKind::InvalidInput, HostErrorKind::Unsupported] {
            assert_eq!(of(kind), Verdict::Failed("why".into()));
        }
        for kind in [HostErrorKind::Unavailable, HostErrorKind::Timeout, HostErrorKind::Internal] {
            assert_eq!(of(kind), retry("why".into()));
        }
        assert_eq!(of(HostErrorKind::RateLimited), Verdict::Underway { what: "why".into(), after: RATE_LOOK });
        let told = HostError::new("identity", HostErrorKind::RateLimited, "why").with_data("1500");
        let after = Duration::from_millis(1_500);
        assert_eq!(of_identity(Err(told)), Verdict::Underway { what: "why".into(), after });
    }

    #[test]
    fn it_needs_the_method_that_a_call_would_need() {
        let message = effect(SignaturePayload::Message(Vec::new()));
        let typed = effect(SignaturePayload::TypedData("{}".into()));
        let refused =
            |effect: &SignatureEffect, grants: &Grants| effect.granted("m", grants).map_err(|error| error.kind);
        assert_eq!(refused(&message, &grants(&[SIGN])), Ok(()));
        assert_eq!(refused(&typed, &grants(&[SIGN])), Err(HostErrorKind::Denied));
        assert_eq!(refused(&typed, &grants(&[SIGN_TYPED_DATA])), Ok(()));
        assert_eq!(refused(&message, &Grants::default()), Err(HostErrorKind::Unsupported));
    }

    #[test]
    fn what_could_never_be_signed_is_refused_when_it_is_sent() {
        let refusal = |effect: &SignatureEffect| {
            effect.check("k", &Grants::default()).map_or_else(|error| error.message, |()| "taken".to_owned())
        };
        let short = SignatureEffect { account: vec![1; 19], payload: SignaturePayload::Message(Vec::new()) };
        assert_eq!(refusal(&short), "an account of 19 bytes: expected 20");
        assert_eq!(refusal(&effect(SignaturePayload::Message(vec![0; MESSAGE_BYTES_MAX]))), "taken");
        let large = refusal(&effect(SignaturePayload::Message(vec![0; MESSAGE_BYTES_MAX + 1])));
        assert_eq!(large, "a message of 65537 bytes, at most 65536");
        let large = refusal(&effect(SignaturePayload::TypedData(" ".repeat(TYPED_DATA_BYTES_MAX + 1))));
        assert_eq!(large, "typed data of 262145 bytes, at most 262144");
        assert_eq!(refusal(&effect(SignaturePayload::TypedData("{}".into()))), "taken");
        for text in ["", "[]", "{", "7"] {
            let refused = refusal(&effect(SignaturePayload::TypedData(text.into())));
            assert_eq!(refused, "the typed data is not the JSON text of an object");
        }
    }
}
