//! What modules asked of chains, as text. Pure: answers in, lines out.

use nexum_records::rpc::{RpcSpent, RpcUsage};

use super::{table, units};

pub fn usage(usage: &RpcUsage) -> String {
    if usage.rows.is_empty() && usage.budgets.is_empty() {
        return "no module has asked anything of a chain since the engine started\n".to_owned();
    }
    let heads = ["MODULE", "CHAIN", "METHOD", "ENDPOINT", "REQUESTS", "UNITS", "ERRORS", "RECEIVED", "SHARED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for row in &usage.rows {
        rows.push(vec![
            row.module.clone(),
            row.chain_id.to_string(),
            row.method.clone(),
            row.endpoint.clone(),
            row.requests.to_string(),
            row.units.to_string(),
            row.errors.to_string(),
            units::bytes(row.bytes),
            row.shared.to_string(),
        ]);
    }
    let text = table(&rows);
    if usage.budgets.is_empty() {
        return text;
    }
    let heads = ["MODULE", "BUDGET", "REQUESTS TODAY", "UNITS TODAY", "REFUSED", "WAITED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(usage.budgets.iter().map(spent));
    format!("{text}\n{}", table(&rows))
}

fn spent(spent: &RpcSpent) -> Vec<String> {
    let budget = &spent.budget;
    let seconds = [(budget.requests_per_second, "requests/s"), (budget.units_per_second, "units/s")];
    let paces = seconds.iter().filter_map(|(limit, what)| limit.map(|limit| format!("{limit} {what}")));
    let paces: Vec<_> = paces.collect();
    // What has no limit for the day is not counted for it.
    let of_day = |used: u64, limit: Option<u64>| limit.map_or("-".to_owned(), |limit| format!("{used} of {limit}"));
    vec![
        spent.module.clone(),
        if paces.is_empty() { "-".to_owned() } else { paces.join(", ") },
        of_day(spent.requests_today, budget.requests_per_day),
        of_day(spent.units_today, budget.units_per_day),
        spent.refused.to_string(),
        spent.waited.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use nexum_records::rpc::{RpcBudget, RpcRow};

    use super::*;

    #[test]
    fn what_was_asked_and_what_is_left_are_two_tables() {
        let row = RpcRow {
            chain_id: 1,
            module: "feed".to_owned(),
            method: "eth_call".to_owned(),
            endpoint: "https://rpc.example.org:443".to_owned(),
            requests: 3,
            units: 78,
            errors: 1,
            bytes: 512,
            shared: 0,
        };
        let budget = RpcBudget { requests_per_second: Some(5), requests_per_day: Some(9), ..RpcBudget::default() };
        let spent = RpcSpent {
            module: "feed".to_owned(),
            budget,
            requests_today: 3,
            units_today: 78,
            day_ends_ms: Some(0),
            refused: 2,
            waited: 1,
        };
        let text = usage(&RpcUsage { rows: vec![row], budgets: vec![spent] });
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines[1].starts_with("feed 1 eth_call https://rpc.example.org:443 3 78 1 "), "{text}");
        assert_eq!(lines[4], "feed 5 requests/s 3 of 9 - 2 1");
        assert!(usage(&RpcUsage::default()).starts_with("no module has asked"));
    }
}
