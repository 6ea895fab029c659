//! What the engine's accounts send, as text. Pure: answers in, lines out.

use nexum_admin_api::accounts::Transaction;

use super::{one_line, table, units};

/// Longest reason in a list; `show` has all of it.
const WHAT_CHARS_MAX: usize = 60;

fn nonce(transaction: &Transaction) -> String {
    transaction.nonce.map_or_else(|| "-".to_owned(), |nonce| nonce.to_string())
}

pub fn transactions(transactions: &[Transaction]) -> String {
    if transactions.is_empty() {
        return "no transactions\n".to_owned();
    }
    let head = ["CHAIN", "ACCOUNT", "NONCE", "STATE", "AGE", "MODULE", "TO", "VALUE", "WHAT"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for transaction in transactions {
        rows.push(vec![
            transaction.chain_id.to_string(),
            transaction.account.clone(),
            nonce(transaction),
            transaction.state.clone(),
            units::duration_ms(transaction.age_ms),
            transaction.module.clone(),
            transaction.to.clone().unwrap_or_else(|| "-".to_owned()),
            transaction.value.clone(),
            one_line(&transaction.what, WHAT_CHARS_MAX),
        ]);
    }
    table(&rows)
}

pub fn transaction(transaction: &Transaction) -> String {
    let mut rows = vec![
        vec!["chain".to_owned(), transaction.chain_id.to_string()],
        vec!["account".to_owned(), transaction.account.clone()],
        vec!["nonce".to_owned(), nonce(transaction)],
        vec!["state".to_owned(), transaction.state.clone()],
        vec!["what".to_owned(), one_line(&transaction.what, usize::MAX)],
        vec!["age".to_owned(), units::duration_ms(transaction.age_ms)],
        vec!["module".to_owned(), transaction.module.clone()],
        vec!["value".to_owned(), format!("{} wei", transaction.value)],
    ];
    let more = [("effect", &transaction.effect), ("to", &transaction.to), ("fee per gas", &transaction.fee_per_gas)];
    for (name, text) in more {
        if let Some(text) = text {
            rows.push(vec![name.to_owned(), text.clone()]);
        }
    }
    for hash in &transaction.hashes {
        rows.push(vec!["hash".to_owned(), hash.to_string()]);
    }
    table(&rows)
}
