//! What the store and the kernel hold, in the shapes that the admin API shows it in.

use nexum_admin_api::{
    Effect, FailedEvent, Inspection, Letter,
    accounts::{Approval, Signature, Transaction},
    hex,
    state::ModuleState,
    tree::Node,
};
use nexum_host_ifaces::{
    effects,
    event::EventId,
    interfaces::identity::port,
    outbox::{EffectSummary, Ended, Listed},
    recording::CrashBrief,
    store::{DeadLetter, ModuleInfo, Standing},
    transactions::TransactionSummary,
    types::{Event, Log, OutcomeStatus},
};
use serde_json::{Value, json};

/// What the store knows of a module, and where it is in the tree when it is loaded.
pub(crate) fn inspection(info: ModuleInfo, node: Option<Node>) -> Inspection {
    let reason =
        node.as_ref().filter(|node| node.state != ModuleState::Run.name()).and_then(|node| node.module.as_ref());
    let reason = reason.and_then(|facts| facts.last_error.clone());
    let ModuleInfo { name, id, record, health, dead_letters, redelivery, .. } = info;
    let (standing, dead_reason) = match health.standing {
        Standing::Running => ("running", None),
        Standing::Paused => ("paused", None),
        Standing::Dead { reason } => ("dead", Some(reason)),
    };
    let attempts = health.attempts.into_iter().map(|(source, attempt)| FailedEvent {
        source: source.to_string(),
        event: attempt.event.to_string(),
        count: attempt.count,
        error: attempt.error,
    });
    Inspection {
        name,
        id: id.0,
        state: node.map(|node| node.state),
        reason,
        seq: record.seq,
        cursors: record.cursors.iter().map(|(source, cursor)| (source.to_string(), cursor.to_string())).collect(),
        state_bytes: record.state_bytes,
        journal: record.journal.to_string(),
        standing: standing.to_owned(),
        dead_reason,
        consecutive_failures: health.consecutive_failures,
        restarts_total: health.restarts_total,
        attempts: attempts.collect(),
        last_error: health.last_error,
        dead_letters,
        replay: redelivery,
    }
}

/// A line of the list of dead letters: without backtrace and payload.
pub(crate) fn brief_letter(letter: &DeadLetter) -> Letter {
    Letter {
        seq: letter.seq,
        at_ms: letter.at_ms,
        event: letter.id.to_string(),
        kind: letter.id.kind().to_owned(),
        component: format!("sha256:{}", hex::encode(letter.component.0)),
        attempts: letter.attempts,
        error: letter.error.clone(),
        fuel: letter.fuel,
        crash: None,
        backtrace: None,
        payload: None,
    }
}

/// One dead letter with everything. `crashes` are those of the module, oldest first.
pub(crate) fn letter(letter: &DeadLetter, crashes: &[CrashBrief]) -> Letter {
    let (first, again) = (letter.id.to_string(), EventId::Retry { seq: letter.seq }.to_string());
    let of_it = |crash: &&CrashBrief| crash.whole && (crash.event == first || crash.event == again);
    Letter {
        crash: crashes.iter().rfind(of_it).map(|crash| crash.number),
        backtrace: letter.backtrace.clone(),
        payload: Some(event(&letter.event)),
        ..brief_letter(letter)
    }
}

/// A line of the list of effects: without payload.
pub(crate) fn brief_effect(listed: &Listed) -> Effect {
    let Listed { entry, progress, retracted, body_kept } = listed;
    let state = match &progress.ended {
        Some(end) => match end.how {
            Ended::Delivered => "delivered",
            Ended::Failed => "failed",
            Ended::Cancelled | Ended::Retracted => "cancelled",
        },
        None if progress.released => "released",
        None => "pending",
    };
    let EffectSummary { id, key, kind, destination, lane, release } = entry.brief();
    let waits = progress.ended.is_none() && progress.next_attempt_ms > 0;
    Effect {
        id,
        key,
        state: state.to_owned(),
        kind,
        destination,
        lane,
        release,
        sent_at_ms: entry.sent_at_ms,
        attempts: progress.attempts,
        next_attempt_ms: waits.then_some(progress.next_attempt_ms),
        last_error: progress.last_error.clone(),
        underway: None,
        retracted: *retracted,
        body_kept: *body_kept,
        payload: None,
    }
}

/// One effect with what it sends.
pub(crate) fn effect(listed: &Listed) -> Effect {
    let payload = effects::of(&listed.entry.effect).payload();
    Effect { payload: Some(payload), ..brief_effect(listed) }
}

/// A transaction of one of the engine's accounts.
pub(crate) fn transaction(summary: TransactionSummary) -> Transaction {
    let TransactionSummary { chain_id, account, nonce, module, intent, to, value, .. } = summary;
    let TransactionSummary { state, what, age_ms, hashes, fee_per_gas, .. } = summary;
    let effect = intent;
    Transaction { chain_id, account, nonce, module, effect, to, value, state, what, age_ms, hashes, fee_per_gas }
}

/// What waits for the operator, or was decided.
pub(crate) fn approval(approval: port::Approval) -> Approval {
    let state = match approval.state {
        port::ApprovalState::Waiting => "waiting",
        port::ApprovalState::Approved => "approved",
        port::ApprovalState::Denied => "denied",
        port::ApprovalState::Expired => "expired",
        port::ApprovalState::Used => "used",
    };
    let port::Approval { number, module, intent: effect, account, what, digest, policy, .. } = approval;
    let (asked_at_ms, expires_at_ms, decided_at_ms) =
        (approval.asked_at_ms, approval.expires_at_ms, approval.decided_at_ms);
    let state = state.to_owned();
    Approval { number, module, effect, account, what, digest, policy, state, asked_at_ms, expires_at_ms, decided_at_ms }
}

/// A signature as the audit has it.
pub(crate) fn signature(entry: port::AuditEntry) -> Signature {
    let port::AuditEntry { number, at_ms, module, intent: effect, account, kind, digest, policy } = entry;
    Signature { number, at_ms, module, effect, account, kind, digest, policy }
}

/// An event as JSON-RPC users know it: bytes as hex.
fn event(event: &Event) -> Value {
    match event {
        Event::Block(block) => json!({ "block": {
            "chain_id": block.chain_id,
            "number": block.number,
            "hash": hex(&block.hash),
            "parent_hash": hex(&block.parent_hash),
            "timestamp": block.timestamp,
        }}),
        Event::Logs(logs) => json!({ "logs": logs.iter().map(log).collect::<Vec<_>>() }),
        Event::Tick(tick) => json!({ "tick": { "fired_at": tick.fired_at } }),
        Event::Message(message) => json!({ "message": {
            "content_topic": message.content_topic,
            "payload": hex(&message.payload),
            "timestamp": message.timestamp,
            "sender": message.sender.as_deref().map(hex),
        }}),
        Event::Reorg(reorg) => json!({ "reorg": {
            "chain_id": reorg.chain_id,
            "common_ancestor": { "number": reorg.common_ancestor.number, "hash": hex(&reorg.common_ancestor.hash) },
            "old_head": { "number": reorg.old_head.number, "hash": hex(&reorg.old_head.hash) },
            "new_head": { "number": reorg.new_head.number, "hash": hex(&reorg.new_head.hash) },
            "released_effects": reorg.released_effects.iter()
                .map(|effect| json!({ "id": effect.id, "key": effect.key })).collect::<Vec<_>>(),
        }}),
        Event::Outcome(outcome) => {
            let (status, detail) = match &outcome.status {
                OutcomeStatus::Delivered(answer) => ("delivered", hex(answer)),
                OutcomeStatus::Failed(error) => ("failed", error.clone()),
                OutcomeStatus::Cancelled(reason) => ("cancelled", reason.clone()),
            };
            json!({ "outcome": {
                "effect_id": outcome.effect_id,
                "key": outcome.key,
                "attempts": outcome.attempts,
                "status": status,
                "detail": detail,
            }})
        }
    }
}

fn log(log: &Log) -> Value {
    json!({
        "chain_id": log.chain_id,
        "address": hex(&log.address),
        "topics": log.topics.iter().map(|topic| hex(topic)).collect::<Vec<_>>(),
        "data": hex(&log.data),
        "block_number": log.block_number,
        "block_hash": hex(&log.block_hash),
        "block_timestamp": log.block_timestamp,
        "transaction_hash": hex(&log.transaction_hash),
        "transaction_index": log.transaction_index,
        "log_index": log.log_index,
    })
}
