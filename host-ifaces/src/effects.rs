//! The kinds of effects, and the one table of them.
//!
//! A kind is a file below, which says everything about its effects: where they go, what they take,
//! what a module needs for them, what is kept and shown of them, and what one attempt comes to. One more kind is its
//! variant in the WIT, a file, its line in `of`, and its words in the SDK.

mod http;
mod kind;
mod message;
mod rpc;
mod signature;
mod transaction;
mod upload;

pub use kind::{Attempting, EffectKind, Verdict};

use crate::bindings::nexum::host::outbox::Effect;

/// What an effect says for itself.
pub fn of(effect: &Effect) -> &dyn EffectKind {
    match effect {
        Effect::Http(effect) => effect,
        Effect::Rpc(effect) => effect,
        Effect::Transaction(effect) => effect,
        Effect::Message(effect) => effect,
        Effect::Signature(effect) => effect,
        Effect::Upload(effect) => effect,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        HostErrorKind,
        bindings::nexum::host::outbox::{
            HttpEffect, MessageEffect, RpcEffect, SignatureEffect, SignaturePayload, TransactionEffect, UploadEffect,
        },
        capability::Capability,
        grants::{AskedCapabilities, GrantError, Grants},
        interfaces::{
            chain::{
                grant::CAPABILITY as CHAIN,
                port::{CODE_METHOD_DENIED, CODE_UNKNOWN_CHAIN},
            },
            http::{
                grant::{Allowlist, CAPABILITY as HTTP},
                port::Header,
            },
        },
    };

    const LOGGING: Capability = Capability::named("logging");

    fn rpc(chain_id: u64, method: &str) -> Effect {
        Effect::Rpc(RpcEffect { chain_id, method: method.into(), params: "[]".into() })
    }

    fn post(url: &str) -> Effect {
        let headers = vec![Header { name: "authorization".into(), value: "mine".into() }];
        Effect::Http(HttpEffect { method: "POST".into(), url: url.into(), headers, body: Some(b"b".to_vec()) })
    }

    fn transaction() -> Effect {
        Effect::Transaction(TransactionEffect {
            chain_id: 7,
            account: Some(vec![0x11; 20]),
            to: None,
            value: vec![2],
            data: vec![0xab],
            gas_limit: None,
            fees: None,
            access_list: Vec::new(),
            confirmations: None,
            deadline: None,
            skip_simulation: false,
        })
    }

    fn message() -> Effect {
        Effect::Message(MessageEffect { content_topic: "/t".into(), payload: vec![1, 2] })
    }

    fn signature() -> Effect {
        let payload = SignaturePayload::TypedData("{}".into());
        Effect::Signature(SignatureEffect { account: vec![0x11; 20], payload })
    }

    fn upload() -> Effect {
        Effect::Upload(UploadEffect { data: vec![1, 2, 3], topic: None })
    }

    #[test]
    fn an_effect_reaches_what_a_call_reaches() {
        let decide = |required: &[Capability], optional: &[Capability], denied: &[Capability]| {
            let provided = BTreeSet::from([CHAIN, LOGGING]);
            Grants::decide(AskedCapabilities { required, optional }, &provided, &denied.iter().copied().collect())
        };
        let refusal = |grants: Result<Grants, GrantError>, effect: &Effect| {
            let grants = grants.unwrap().with_chains([1]).with_extra_methods(["eth_sendRawTransaction".to_owned()]);
            let grants = grants.with_hosts(&Allowlist::new(["a.org".to_owned()]));
            of(effect).granted("m", &grants).map_err(|error| (error.kind, error.code, error.message))
        };
        let granted = || decide(&[CHAIN], &[], &[]);
        let send = rpc(1, "eth_sendRawTransaction");
        assert_eq!(refusal(granted(), &send), Ok(()));
        let denied = refusal(granted(), &rpc(1, "eth_sign")).unwrap_err();
        assert!(matches!(denied, (HostErrorKind::Denied, CODE_METHOD_DENIED, _)), "{denied:?}");
        let unknown = refusal(granted(), &rpc(2, "eth_call")).unwrap_err();
        assert!(matches!(unknown, (HostErrorKind::Unsupported, CODE_UNKNOWN_CHAIN, _)), "{unknown:?}");
        // Not asked for, and asked for but denied by the operator.
        for without in [decide(&[], &[], &[]), decide(&[], &[CHAIN], &[CHAIN])] {
            let (kind, _, message) = refusal(without, &send).unwrap_err();
            let expected = "capability `chain` is not granted to module m, and effects over RPC need it";
            assert_eq!((kind, message.as_str()), (HostErrorKind::Unsupported, expected));
        }

        assert_eq!(refusal(granted(), &post("https://a.org/x")), Ok(()));
        assert!(matches!(refusal(granted(), &post("https://b.org")), Err((HostErrorKind::Denied, ..))));
        let withheld = refusal(decide(&[], &[], &[HTTP]), &post("https://a.org/x")).unwrap_err();
        assert!(withheld.2.starts_with("capability `http` is not granted to module m"), "{withheld:?}");
    }

    #[test]
    fn what_is_kept_of_an_effect_says_what_it_was_and_where_it_went() {
        let kinds = [
            (post("https://a.org/secret"), "http", "https://a.org", 4 + 20),
            (rpc(1, "eth_call"), "rpc", "chain:1", 8),
            (transaction(), "transaction", "chain:7", 21),
            (message(), "message", "topic:/t", 2),
            (signature(), "signature", "account:0x1111111111111111111111111111111111111111", 20),
            (upload(), "upload", "swarm", 0),
        ];
        for (effect, name, destination, bytes) in kinds {
            let (sent, kept) = (of(&effect), of(&effect).stripped());
            assert!(sent.bytes() > bytes, "{name}");
            for shown in [sent, of(&kept)] {
                assert_eq!((shown.name(), shown.destination().as_str()), (name, destination));
            }
            assert_eq!((of(&kept).bytes(), of(&kept).overhead()), (bytes, 0), "{name}");
        }
    }

    #[test]
    fn what_people_see_of_an_effect_leaves_out_who_asks() {
        let shown = |effect: &Effect| of(effect).payload().to_string();
        let http = shown(&post("https://a.org/x"));
        assert!(http.contains("\"body\":\"b\"") && http.contains("authorization") && !http.contains("mine"), "{http}");
        assert_eq!(shown(&rpc(1, "m")), r#"{"chain_id":1,"method":"m","params":"[]"}"#);
        assert!(shown(&transaction()).contains(r#""data":"0xab""#));
        assert_eq!(shown(&upload()), r#"{"data":"0x010203","topic":null}"#);
        assert_eq!(shown(&message()), r#"{"content_topic":"/t","payload":"0x0102"}"#);
        let account = "11".repeat(20);
        assert_eq!(shown(&signature()), format!(r#"{{"account":"0x{account}","typed_data":"{{}}"}}"#));
    }
}
