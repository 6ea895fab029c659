//! What the operator decides about signatures, and those that were made, as text. Pure: answers in, lines out.

use nexum_admin_api::accounts::{Approval, Signature};

use super::{one_line, pretty, table, units};

/// Longest name of an effect in a list; `show` and --json have all of it.
const EFFECT_CHARS_MAX: usize = 60;

pub fn approvals(approvals: &[Approval]) -> String {
    if approvals.is_empty() {
        return "no approvals\n".to_owned();
    }
    let head = ["NUMBER", "STATE", "ASKED", "EXPIRES", "MODULE", "ACCOUNT", "EFFECT"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for approval in approvals {
        rows.push(vec![
            approval.number.to_string(),
            approval.state.clone(),
            units::time_ms(approval.asked_at_ms),
            units::time_ms(approval.expires_at_ms),
            approval.module.clone(),
            approval.account.clone(),
            one_line(&approval.effect, EFFECT_CHARS_MAX),
        ]);
    }
    table(&rows)
}

pub fn approval(approval: &Approval) -> String {
    let mut rows = vec![
        vec!["number".to_owned(), approval.number.to_string()],
        vec!["state".to_owned(), approval.state.clone()],
        vec!["module".to_owned(), approval.module.clone()],
        vec!["effect".to_owned(), approval.effect.clone()],
        vec!["account".to_owned(), approval.account.clone()],
        vec!["policy".to_owned(), approval.policy.clone()],
        vec!["digest".to_owned(), approval.digest.to_string()],
        vec!["asked".to_owned(), units::time_ms(approval.asked_at_ms)],
        vec!["expires".to_owned(), units::time_ms(approval.expires_at_ms)],
    ];
    if let Some(decided) = approval.decided_at_ms {
        rows.push(vec!["decided".to_owned(), units::time_ms(decided)]);
    }
    format!("{}\nto be signed\n{}\n", table(&rows), pretty(&approval.what))
}

pub fn audit(signatures: &[Signature]) -> String {
    if signatures.is_empty() {
        return "nothing was signed\n".to_owned();
    }
    let head = ["NUMBER", "AT", "KIND", "MODULE", "ACCOUNT", "POLICY", "EFFECT", "DIGEST"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for signature in signatures {
        rows.push(vec![
            signature.number.to_string(),
            units::time_ms(signature.at_ms),
            signature.kind.clone(),
            signature.module.clone(),
            signature.account.clone(),
            signature.policy.clone(),
            signature.effect.as_ref().map_or_else(|| "-".to_owned(), |effect| one_line(effect, EFFECT_CHARS_MAX)),
            signature.digest.to_string(),
        ]);
    }
    table(&rows)
}
