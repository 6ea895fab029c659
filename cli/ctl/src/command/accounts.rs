//! `tx`, `approvals` and `audit`: what the engine's accounts send and sign.

use nexum_admin_api::accounts::{Approval, Decision, Ordered, Signature, Transaction};

use crate::{
    args::{
        Output,
        accounts::{Approvals, Audit, Decide, Tx, Which},
    },
    client::{Client, part},
    exit::Failure,
    render::{self, foreign, print, print_json},
};

/// As many as are asked for when one of them is looked for.
const SEARCHED: u16 = 10_000;

pub(super) async fn tx(client: &Client, command: Tx, output: &Output) -> Result<(), Failure> {
    let (which, order) = match command {
        Tx::List { limit } => {
            let found = list(client, limit).await?;
            return match output.json {
                true => print_json(&found),
                false => print(&render::transactions::transactions(&found)),
            };
        }
        Tx::Show(which) => {
            let found = one(client, &which).await?;
            return match output.json {
                true => print_json(&found),
                false => print(&render::transactions::transaction(&found)),
            };
        }
        Tx::Bump(which) => (which, "bump"),
        Tx::Cancel(which) => (which, "cancel"),
    };
    // Its nonce alone does not say where it is.
    let chain_id = match which.chain {
        Some(chain_id) => chain_id,
        None => one(client, &which).await?.chain_id,
    };
    let path = format!("/v1/transactions/{chain_id}/{}/{}/{order}", part(&which.account), part(&which.which));
    let ordered: Ordered = client.post(&path, &()).await?;
    match output.json {
        true => print_json(&ordered),
        false => print(&format!("{}\n", foreign::shown(&ordered.done))),
    }
}

async fn list(client: &Client, limit: u16) -> Result<Vec<Transaction>, Failure> {
    client.get(&format!("/v1/transactions?limit={limit}")).await
}

async fn one(client: &Client, which: &Which) -> Result<Transaction, Failure> {
    let all = list(client, SEARCHED).await?;
    chosen(all, which)
}

/// The one that is meant.
fn chosen(all: Vec<Transaction>, which: &Which) -> Result<Transaction, Failure> {
    let Which { account, which, chain } = which;
    // The id of an effect is no number.
    let nonce = which.parse::<u64>().ok();
    let is_meant = |found: &Transaction| {
        found.account.eq_ignore_ascii_case(account)
            && (if nonce.is_some() { found.nonce == nonce } else { found.effect.as_ref() == Some(which) })
            && chain.is_none_or(|chain| found.chain_id == chain)
    };
    let mut found: Vec<Transaction> = all.into_iter().filter(is_meant).collect();
    let mut chains: Vec<u64> = found.iter().map(|found| found.chain_id).collect();
    chains.sort_unstable();
    chains.dedup();
    match chains.len() {
        0 => Err(Failure::not_found(format!(
            "no transaction {} of {}: `nexumctl tx list` and `nexumctl outbox list` name them",
            foreign::shown(which),
            foreign::shown(account)
        ))),
        1 => Ok(found.swap_remove(0)),
        _ => {
            let chains = chains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::usage(format!("the account has {} on chains {chains}: say --chain", foreign::shown(which))))
        }
    }
}

pub(super) async fn approvals(client: &Client, command: Approvals, output: &Output) -> Result<(), Failure> {
    let (Decide { number, by }, approve) = match command {
        Approvals::List { limit } => {
            let found: Vec<Approval> = client.get(&format!("/v1/approvals?limit={limit}")).await?;
            return match output.json {
                true => print_json(&found),
                false => print(&render::approvals::approvals(&found)),
            };
        }
        Approvals::Show { number } => return told(&client.get(&format!("/v1/approvals/{number}")).await?, output),
        Approvals::Approve(decide) => (decide, true),
        Approvals::Deny(decide) => (decide, false),
    };
    told(&client.post(&format!("/v1/approvals/{number}"), &Decision { approve, by }).await?, output)
}

fn told(approval: &Approval, output: &Output) -> Result<(), Failure> {
    match output.json {
        true => print_json(approval),
        false => print(&render::approvals::approval(approval)),
    }
}

pub(super) async fn audit(client: &Client, Audit { limit }: Audit, output: &Output) -> Result<(), Failure> {
    let found: Vec<Signature> = client.get(&format!("/v1/audit?limit={limit}")).await?;
    match output.json {
        true => print_json(&found),
        false => print(&render::approvals::audit(&found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_on_several_chains_wants_to_be_told_apart() {
        let sent = |chain_id, nonce| Transaction {
            chain_id,
            account: format!("0x{}", "ab".repeat(20)),
            nonce,
            module: "m".into(),
            effect: nonce.is_none().then(|| "m/block:1/0".into()),
            to: None,
            value: "0".into(),
            state: "broadcast".into(),
            what: String::new(),
            age_ms: 0,
            hashes: Vec::new(),
            fee_per_gas: None,
        };
        let all = || vec![sent(1, Some(5)), sent(10, Some(5)), sent(10, Some(6)), sent(1, None)];
        let which =
            |which: &str, chain| Which { account: format!("0x{}", "AB".repeat(20)), which: which.into(), chain };
        let chosen = |name: &str, chain| chosen(all(), &which(name, chain)).map(|found| found.chain_id);
        assert_eq!(chosen("6", None).ok(), Some(10));
        assert_eq!(chosen("5", Some(1)).ok(), Some(1));
        assert_eq!(chosen("m/block:1/0", None).ok(), Some(1), "one without a nonce goes by its effect");
        let several = chosen("5", None).err().map(|failure| failure.message).unwrap_or_default();
        assert_eq!(several, "the account has 5 on chains 1, 10: say --chain");
        assert_eq!(chosen("6", Some(1)).err().map(|failure| failure.code), Some(Failure::not_found("").code));
    }
}
