//! Effects as text. Pure: answers in, lines out.

use nexum_admin_api::Effect;

use super::{one_line, pretty, table, units};

/// Longest error in a list; `show` has all of it.
const ERROR_CHARS_MAX: usize = 60;

pub fn effects(effects: &[Effect]) -> String {
    if effects.is_empty() {
        return "no effects\n".to_owned();
    }
    let head = ["STATE", "ATTEMPTS", "SENT", "LANE", "TO", "ID", "LAST ERROR"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for effect in effects {
        let retracted = if effect.retracted { " (retracted)" } else { "" };
        rows.push(vec![
            format!("{}{retracted}", effect.state),
            effect.attempts.to_string(),
            units::time_ms(effect.sent_at_ms),
            effect.lane.clone().unwrap_or_else(|| "-".to_owned()),
            effect.destination.clone(),
            effect.id.clone(),
            said(effect).map_or_else(String::new, |said| one_line(said, ERROR_CHARS_MAX)),
        ]);
    }
    table(&rows)
}

/// What it is at, or what went wrong last.
fn said(effect: &Effect) -> Option<&String> {
    effect.underway.as_ref().or(effect.last_error.as_ref())
}

pub fn effect(effect: &Effect) -> String {
    let mut rows = vec![
        vec!["id".to_owned(), effect.id.clone()],
        vec!["key".to_owned(), effect.key.clone()],
        vec!["state".to_owned(), effect.state.clone()],
        vec!["to".to_owned(), effect.destination.clone()],
        vec!["sent".to_owned(), units::time_ms(effect.sent_at_ms)],
        vec!["release".to_owned(), effect.release.clone()],
        vec!["attempts".to_owned(), effect.attempts.to_string()],
    ];
    if let Some(lane) = &effect.lane {
        rows.push(vec!["lane".to_owned(), lane.clone()]);
    }
    if let Some(next) = effect.next_attempt_ms {
        rows.push(vec!["next attempt".to_owned(), units::time_ms(next)]);
    }
    if effect.retracted {
        rows.push(vec!["retracted".to_owned(), "its event was undone after it may have left".to_owned()]);
    }
    if let Some(what) = &effect.underway {
        rows.push(vec!["under way".to_owned(), one_line(what, usize::MAX)]);
    }
    if let Some(error) = &effect.last_error {
        rows.push(vec!["last error".to_owned(), one_line(error, usize::MAX)]);
    }
    if !effect.body_kept {
        let why = match effect.state.as_str() {
            "failed" | "cancelled" => "no longer kept, so that it cannot be retried",
            _ => "not kept",
        };
        rows.push(vec!["body".to_owned(), why.to_owned()]);
    }
    let mut text = table(&rows);
    if let Some(payload) = &effect.payload {
        text += &format!("\npayload\n{}\n", pretty(payload));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released() -> Effect {
        Effect {
            id: "alerts/block:1:5:0xab/0".into(),
            key: "k".into(),
            state: "released".into(),
            kind: "http".into(),
            destination: "https://hooks.example.org".into(),
            lane: None,
            release: "committed".into(),
            sent_at_ms: 0,
            attempts: 3,
            next_attempt_ms: Some(9),
            last_error: Some("status 503:\n busy".into()),
            underway: None,
            retracted: true,
            body_kept: true,
            payload: None,
        }
    }

    #[test]
    fn one_that_lost_its_body_says_what_that_means() {
        assert!(!effect(&released()).contains("body"));
        let failed = Effect { state: "failed".into(), body_kept: false, ..released() };
        assert!(effect(&failed).contains("no longer kept, so that it cannot be retried"));
        let delivered = Effect { state: "delivered".into(), body_kept: false, ..released() };
        assert!(effect(&delivered).lines().any(|line| line.starts_with("body") && line.ends_with("  not kept")));
    }

    #[test]
    fn a_list_says_what_is_stuck_and_why() {
        let effect = released();
        let text = effects(std::slice::from_ref(&effect));
        let line = text.lines().nth(1).unwrap_or_default();
        assert!(line.starts_with("released (retracted)  3"), "{text}");
        assert!(line.ends_with("https://hooks.example.org  alerts/block:1:5:0xab/0  status 503: busy"), "{text}");
        assert_eq!(effects(&[]), "no effects\n");
        let underway = Effect { underway: Some("waits for its\nreceipt".into()), last_error: None, ..effect };
        assert!(effects(std::slice::from_ref(&underway)).trim_end().ends_with("waits for its receipt"));
        assert!(
            super::effect(&underway).lines().any(|line| line.starts_with("under way") && line.ends_with("its receipt"))
        );
    }
}
