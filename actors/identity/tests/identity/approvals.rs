//! What the operator approves is signed once, in time, and nothing else is.

use nexum_host_ifaces::{
    HostErrorKind,
    interfaces::identity::port::{Admission, ApprovalState, SignatureAnswer, Wei},
};
use nexum_identity::{
    Policy,
    config::{AnyOf, Method},
    policy::HOUR_MS,
};

use crate::harness::{Harness, account, asks, message, policy};

fn awaits(number: u64, expires_at_ms: u64) -> Admission {
    Admission::AwaitsApproval { number, expires_at_ms }
}

#[tokio::test]
async fn what_was_approved_is_signed_and_nothing_is_signed_for_it_twice() {
    let mut harness = Harness::start(vec![asks()]).await;
    harness.clock.set(5_000);
    assert_eq!(harness.admit("1", 6).await.unwrap(), awaits(1, 5_000 + HOUR_MS));
    let early = harness.pay("1", 6).await.unwrap_err();
    assert_eq!(early.kind, HostErrorKind::Denied);
    assert!(early.message.contains("policy 1 asks the operator"), "{early:?}");
    let text = harness.metrics_text();
    let since = "nexum_identity_oldest_approval_timestamp_seconds 5";
    assert!(text.contains("nexum_identity_approvals_waiting 1") && text.contains(since), "{text}");
    harness.clock.set(8_000);
    // Asking again is not asking anew, whoever asks in between.
    harness.restart().await;
    assert_eq!(harness.admit("1", 6).await.unwrap(), awaits(1, 5_000 + HOUR_MS));
    let status = harness.status().await;
    assert_eq!((status.approvals_waiting, status.oldest_approval_age_ms), (1, Some(3_000)));
    let shown = &harness.approvals().await[0];
    assert_eq!((shown.number, shown.module.as_str(), shown.intent.as_str()), (1, "m", "1"));
    assert_eq!((&shown.what["value"], &shown.what["method"]), (&"6".into(), &"transaction".into()));

    let approved = harness.decide(1, true).await.unwrap();
    assert_eq!((approved.state, approved.decided_at_ms), (ApprovalState::Approved, Some(8_000)));
    for approve in [true, false] {
        let twice = harness.decide(1, approve).await.unwrap_err();
        assert_eq!(twice.kind, HostErrorKind::InvalidInput);
        assert!(twice.message.contains("approval 1 is approved already"), "{twice:?}");
    }
    harness.restart().await;
    assert_eq!(harness.admit("1", 6).await.unwrap(), Admission::Allowed);
    // Nothing but what was shown.
    for value in [5, 0] {
        let other = harness.pay("1", value).await.unwrap_err();
        assert_eq!(other.kind, HostErrorKind::Denied);
        assert!(other.message.contains("approval 1 of the same intent is for something else"), "{other:?}");
        assert!(harness.admit("1", value).await.is_err());
    }
    harness.pay("1", 6).await.unwrap();
    assert_eq!(harness.approvals().await[0].state, ApprovalState::Used);
    assert!(harness.decide(1, false).await.unwrap_err().message.contains("used already"));
    // The same thing once more is another intent, and is asked for.
    assert_eq!(harness.admit("2", 4).await.unwrap(), awaits(2, 8_000 + HOUR_MS));
    assert!(harness.pay("2", 4).await.is_err());
    let text = harness.metrics_text();
    assert!(text.contains("nexum_identity_approvals_waiting 1"), "{text}");
    assert_eq!(harness.audit().await.len(), 1);
}

#[tokio::test]
async fn what_comes_late_or_was_denied_stays_unsigned() {
    let mut harness = Harness::start(vec![Policy { max_value_per_day: Wei::from(1_000), ..asks() }]).await;
    for intent in ["late", "later", "denied"] {
        harness.admit(intent, 6).await.unwrap();
    }
    let denied = harness.decide(3, false).await.unwrap();
    assert_eq!(denied.state, ApprovalState::Denied);
    assert!(harness.decide(3, true).await.unwrap_err().message.contains("approval 3 is denied already"));
    let unknown = harness.decide(9, true).await.unwrap_err();
    assert_eq!((unknown.kind, unknown.message.as_str()), (HostErrorKind::InvalidInput, "there is no approval 9"));
    harness.clock.set(HOUR_MS);
    let late = harness.decide(1, true).await.unwrap_err();
    assert_eq!(late.kind, HostErrorKind::InvalidInput);
    assert!(late.message.contains("nobody decided on approval 1 in time"), "{late:?}");
    for _ in 0..2 {
        for (intent, why) in [("late", "approval 1 in time"), ("later", "approval 2 in time"), ("denied", "denied it")]
        {
            for refused in [harness.admit(intent, 6).await.unwrap_err(), harness.pay(intent, 6).await.unwrap_err()] {
                assert_eq!(refused.kind, HostErrorKind::Denied, "{refused:?}");
                assert!(refused.message.contains(why), "{refused:?}");
            }
        }
        let states: Vec<_> = harness.approvals().await.into_iter().map(|approval| approval.state).collect();
        assert_eq!(states, [ApprovalState::Denied, ApprovalState::Expired, ApprovalState::Expired]);
        // Neither a restart nor a clock that is set back makes it wait again.
        harness.clock.set(1);
        harness.restart().await;
    }
    assert!(harness.audit().await.is_empty());
}

#[tokio::test]
async fn an_approval_holds_only_while_a_policy_covers_what_was_approved() {
    let mut harness = Harness::start(vec![asks()]).await;
    harness.admit("1", 6).await.unwrap();
    // Narrowed before the operator decides, and after.
    harness.restart_with(vec![Policy { max_value: Wei::from(5), ..asks() }]).await;
    harness.decide(1, true).await.unwrap();
    for refused in [harness.admit("1", 6).await.unwrap_err(), harness.pay("1", 6).await.unwrap_err()] {
        assert!(refused.message.contains("`max_value` of policy 1"), "{refused:?}");
    }
    harness.restart_with(vec![Policy { chains: AnyOf::Of(vec![2]), ..asks() }]).await;
    assert!(harness.pay("1", 6).await.unwrap_err().message.contains("`chains` of policy 1"));
    // Removed.
    harness.restart_with(Vec::new()).await;
    assert!(harness.pay("1", 6).await.unwrap_err().message.contains("no policy gives module m"));
    assert!(harness.accounts("m", None).await.is_empty());
    // Widened: it is not more than what was approved that is signed.
    harness.restart_with(vec![Policy { max_value: Wei::from(8), chains: AnyOf::Any, ..asks() }]).await;
    assert!(harness.pay("1", 7).await.unwrap_err().message.contains("is for something else"));
    harness.pay("1", 6).await.unwrap();
    assert_eq!(harness.audit().await.len(), 1);
    assert!(harness.admit("2", 5).await.unwrap_err().message.contains("max_value_per_day"));

    // Nobody is asked any more: what waits goes through, what was denied does not.
    harness.admit("2", 1).await.unwrap();
    harness.admit("3", 1).await.unwrap();
    harness.decide(3, false).await.unwrap();
    harness.restart_with(vec![policy()]).await;
    harness.pay("2", 1).await.unwrap();
    assert!(harness.pay("3", 1).await.unwrap_err().message.contains("the operator denied it"));
    let used = &harness.approvals().await[1];
    assert_eq!((used.number, used.state), (2, ApprovalState::Used));
}

#[tokio::test]
async fn a_signature_waits_for_the_operator_as_an_effect_and_never_in_a_call() {
    let methods = [Method::Message].into();
    let harness = Harness::start(vec![Policy { methods, ask: true, ..Policy::new("m", account()) }]).await;
    let refused = harness.sign(None, message("hello")).await.unwrap_err();
    assert!(refused.message.contains("a call does not wait for people"), "{refused:?}");
    assert!(harness.approvals().await.is_empty());
    let asked = harness.sign(Some("1"), message("hello")).await.unwrap();
    assert_eq!(asked, SignatureAnswer::AwaitsApproval { number: 1, expires_at_ms: HOUR_MS });
    assert_eq!(harness.approvals().await[0].what["text"], "hello");
    harness.decide(1, true).await.unwrap();
    let other = harness.sign(Some("1"), message("hello!")).await.unwrap_err();
    assert!(other.message.contains("is for something else"), "{other:?}");
    let signed = harness.sign(Some("1"), message("hello")).await.unwrap();
    assert!(matches!(signed, SignatureAnswer::Signed(_)));
    // The outcome was lost: the same is given again, and counted once.
    assert_eq!(harness.sign(Some("1"), message("hello")).await.unwrap(), signed);
}

#[tokio::test]
async fn so_many_wait_for_the_operator_and_no_more() {
    let harness = Harness::start(vec![asks()]).await;
    for number in 0..32 {
        harness.admit(&format!("intent {number}"), 1).await.unwrap();
    }
    let one_more = harness.admit("one more", 1).await.unwrap_err();
    assert_eq!((one_more.kind, one_more.data.is_some()), (HostErrorKind::RateLimited, true));
    harness.decide(1, false).await.unwrap();
    harness.admit("one more", 1).await.unwrap();
    assert_eq!(harness.approvals().await.len(), 33);
}
