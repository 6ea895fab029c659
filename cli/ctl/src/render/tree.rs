//! The supervisor tree as text. Pure: a node in, lines out.

use nexum_admin_api::{
    state::{ModuleState, ServiceState},
    tree::{ModuleFacts, Node, NodeKind},
};

use super::{foreign::shown, one_line, units};

/// Column of what is said about a node, unless a name is longer.
const COLUMN_MIN: usize = 16;
/// What a terminal must have for a line to be cut to it: narrower, a line that is broken says more.
const WIDTH_MIN: usize = 60;

/// The tree, one node per line, cut where a terminal of this many columns would break it. `nexumctl state inspect` has all
/// of a module's reason.
pub fn tree(root: &Node, colours: bool, width: Option<usize>) -> String {
    let mut lines = vec![Line::new(&root.name, "", &about(root))];
    children(&root.children, "", &mut lines);
    let column = lines.iter().map(|line| line.left.chars().count() + 2).max().unwrap_or(0).max(COLUMN_MIN);
    let mut text = String::new();
    for Line { left, state, rest } in lines {
        let taken = column + if state.is_empty() { 0 } else { state.chars().count() + 1 };
        let room = width.filter(|width| *width >= WIDTH_MIN).map(|width| width.saturating_sub(taken + 1));
        let state = if state.is_empty() { state } else { format!("{} ", coloured(&state, colours)) };
        let line = format!("{left:column$}{state}{}", cut(&rest, room));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The first `room` characters, and a sign that there is more.
fn cut(text: &str, room: Option<usize>) -> String {
    match room.and_then(|room| text.char_indices().nth(room)) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

struct Line {
    /// Branches and name.
    left: String,
    /// Padded, when it is worth a word.
    state: String,
    rest: String,
}

impl Line {
    /// Names, versions, cursors and errors are text that others wrote.
    fn new(left: &str, state: &str, rest: &str) -> Self {
        let [left, state, rest] = [left, state, rest].map(|text| shown(text).into_owned());
        Self { left, state, rest }
    }
}

fn children(nodes: &[Node], indent: &str, lines: &mut Vec<Line>) {
    let names = nodes.iter().filter(|node| node.module.is_some()).map(|node| node.name.chars().count());
    let name_width = names.max().unwrap_or(0);
    for (index, node) in nodes.iter().enumerate() {
        let last = index + 1 == nodes.len();
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let mut left = format!("{indent}{branch}{}", node.name);
        let (mut state, rest) = (String::new(), about(node));
        if let Some(facts) = &node.module {
            left = format!("{indent}{branch}{:name_width$} {}", node.name, facts.version);
            state = format!("{:8}", node.state);
        } else if node.state != ServiceState::Up.name() {
            state = node.state.clone();
        }
        lines.push(Line::new(&left, &state, &rest));
        children(&node.children, &format!("{indent}{below}"), lines);
    }
}

fn about(node: &Node) -> String {
    match (&node.module, node.kind) {
        (Some(facts), NodeKind::Module) => module(node, facts).join("   "),
        _ => one_line(&node.summary, usize::MAX),
    }
}

fn module(node: &Node, facts: &ModuleFacts) -> Vec<String> {
    let name = &node.name;
    let reason = one_line(&node.summary, usize::MAX);
    let budget = format!("{}/{}", facts.budget.spent, facts.budget.max);
    match ModuleState::named(&node.state) {
        Some(ModuleState::Restart) => {
            let wait =
                facts.next_start_in_ms.map_or_else(|| "soon".to_owned(), |ms| format!("in {}", units::duration_ms(ms)));
            vec![format!("{wait} (attempt {budget})"), reason]
        }
        Some(ModuleState::Dead) if facts.budget.max > 0 && facts.budget.spent >= facts.budget.max => {
            vec![format!("budget spent {budget} — `nexumctl module restart {name}`"), reason]
        }
        Some(ModuleState::Paused) => vec![format!("by the operator — `nexumctl module resume {name}`")],
        Some(ModuleState::Run) => running(facts, &budget, reason),
        _ => vec![reason],
    }
}

/// `reason`: what it waits for, if anything.
fn running(facts: &ModuleFacts, budget: &str, reason: String) -> Vec<String> {
    let mut parts = Vec::new();
    if !reason.is_empty() {
        parts.push(reason);
    }
    let missing: Vec<String> = facts
        .grants
        .iter()
        .filter(|grant| !grant.is_granted())
        .map(|grant| format!("{} {}", grant.capability, grant.grant))
        .collect();
    if !missing.is_empty() {
        parts.push(one_line(&missing.join(", "), usize::MAX));
    }
    let cursors = facts.cursors.iter().map(|(source, at)| match source.strip_prefix("chain:") {
        Some(chain) => format!("{chain}:{at}"),
        // A schedule's cursor is a time; that it has one says enough.
        None => source.clone(),
    });
    let cursors = cursors.collect::<Vec<_>>().join(", ");
    if !cursors.is_empty() {
        parts.push(format!("cursor {cursors}"));
    }
    parts.push(format!("restarts {budget}"));
    if facts.fuel_p99 > 0 {
        parts.push(format!("fuel p99 {}", units::count(facts.fuel_p99)));
    }
    parts.push(format!("state {}", units::bytes_of(facts.state_bytes, facts.state_bytes_limit)));
    if facts.outbox_pending > 0 {
        let age =
            facts.outbox_oldest_age_ms.map_or_else(String::new, |age| format!(", oldest {}", units::duration_ms(age)));
        parts.push(format!("outbox {} pending{age}", facts.outbox_pending));
    }
    if facts.dead_letters > 0 {
        parts.push(format!("dead letters {}", facts.dead_letters));
    }
    parts
}

/// A padded state word in its colour.
fn coloured(state: &str, colours: bool) -> String {
    use ModuleState::{Init, Load, Paused, Restart, Run};
    let name = state.trim_end();
    let colour = match (ModuleState::named(name), ServiceState::named(name)) {
        (Some(Run), _) | (_, Some(ServiceState::Up)) => "32",
        (Some(Restart | Paused | Load | Init), _) => "33",
        _ => "31",
    };
    if colours { format!("\x1b[{colour}m{state}\x1b[0m") } else { state.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexum_admin_api::tree::{Budget, GrantReport};
    use std::collections::BTreeMap;

    fn service(name: &str, kind: NodeKind, state: &str, summary: &str, children: Vec<Node>) -> Node {
        Node { name: name.into(), kind, state: state.into(), summary: summary.into(), module: None, children }
    }

    fn module(name: &str, version: &str, state: &str, spent: u32, summary: &str) -> Node {
        let facts = ModuleFacts {
            version: version.into(),
            component: String::new(),
            restarts: 4,
            budget: Budget { spent, max: 10 },
            cursors: BTreeMap::from([("chain:1".into(), "21934117".into()), ("cron:*/5 * * * *".into(), "0".into())]),
            state_bytes: 1_153_434,
            state_bytes_limit: 52_428_800,
            memory_bytes: 0,
            fuel_p99: 2_100_000,
            events_processed: 7,
            events_failed: 0,
            dead_letters: u64::from(name == "twap-monitor"),
            outbox_pending: 3 * u64::from(name == "twap-monitor"),
            outbox_oldest_age_ms: Some(4_000),
            last_event_age_ms: None,
            next_start_in_ms: Some(4_200),
            waits: None,
            last_error: None,
            grants: Vec::new(),
            chains: Vec::new(),
        };
        Node { module: Some(facts), ..service(name, NodeKind::Module, state, summary, vec![]) }
    }

    fn engine() -> Node {
        let chains = vec![
            service("1", NodeKind::Chain, "UP", "ethereum head 21934117, 2/3 endpoints, lag 0", vec![]),
            service("42161", NodeKind::Chain, "DOWN", "", vec![]),
        ];
        let modules = vec![
            module("twap-monitor", "0.3.0", "RUN", 0, ""),
            module("gov-watch", "1.2.0", "RESTART", 3, "last: trap: out of fuel\n  in on_logs"),
            module("old-probe", "0.1.0", "DEAD", 10, "trap: unreachable"),
            module("hand", "0.1.0", "PAUSED", 0, ""),
        ];
        let children = vec![
            service("store", NodeKind::Store, "UP", "rocksdb 1.2 GiB", vec![]),
            service("chains", NodeKind::Chains, "UP", "", chains),
            service("modules", NodeKind::Modules, "UP", "4 loaded", modules),
        ];
        service("nexum", NodeKind::Engine, "UP", "up 3d 4h", children)
    }

    #[test]
    fn a_tree_of_everything() {
        let expected = "\
nexum                     up 3d 4h
├─ store                  rocksdb 1.2 GiB
├─ chains
│  ├─ 1                   ethereum head 21934117, 2/3 endpoints, lag 0
│  └─ 42161               DOWN
└─ modules                4 loaded
   ├─ twap-monitor 0.3.0  RUN      cursor 1:21934117, cron:*/5 * * * *   restarts 0/10   fuel p99 2.1M   state 1.1/50 MiB   outbox 3 pending, oldest 4 s   dead letters 1
   ├─ gov-watch    1.2.0  RESTART  in 4 s (attempt 3/10)   last: trap: out of fuel in on_logs
   ├─ old-probe    0.1.0  DEAD     budget spent 10/10 — `nexumctl module restart old-probe`   trap: unreachable
   └─ hand         0.1.0  PAUSED   by the operator — `nexumctl module resume hand`
";
        let drawn = tree(&engine(), false, None);
        assert_eq!(drawn, expected, "\n{drawn}");
    }

    #[test]
    fn lines_are_cut_to_the_terminal_and_nowhere_else() {
        let reason = "x".repeat(300);
        let root = service("nexum", NodeKind::Engine, "UP", "", vec![module("m", "0.1.0", "DEAD", 0, &reason)]);
        assert!(tree(&root, false, None).contains(&reason));
        assert!(tree(&root, true, Some(WIDTH_MIN - 1)).contains(&reason), "a line that is broken says more");
        let drawn = tree(&root, false, Some(80));
        let longest = drawn.lines().map(|line| line.chars().count()).max();
        assert_eq!((longest, drawn.ends_with("x…\n")), (Some(80), true), "\n{drawn}");
    }

    #[test]
    fn a_module_without_what_it_asked_for_says_so() {
        let mut node = module("m", "0.1.0", "RUN", 0, "");
        let grant = |capability: &str, grant: &str| GrantReport {
            capability: capability.into(),
            grant: grant.into(),
            why: None,
        };
        let grants = vec![grant("chain", "granted"), grant("http", "denied"), grant("messaging", "stubbed")];
        if let Some(facts) = &mut node.module {
            facts.grants = grants;
        }
        let drawn = tree(&service("nexum", NodeKind::Engine, "UP", "", vec![node]), false, None);
        assert!(drawn.contains("http denied, messaging stubbed") && !drawn.contains("chain granted"), "{drawn}");
    }

    #[test]
    fn a_module_that_waits_for_its_turn_says_so_first() {
        let waits = module("m", "0.1.0", "RUN", 0, "waits for another (7s)");
        let drawn = tree(&service("nexum", NodeKind::Engine, "UP", "", vec![waits]), false, None);
        assert!(drawn.contains("RUN      waits for another (7s)   cursor "), "{drawn}");
    }

    #[test]
    fn colour_is_only_on_the_state() {
        let drawn = tree(&engine(), true, None);
        assert!(drawn.contains("\x1b[32mRUN     \x1b[0m cursor"), "{drawn}");
        assert!(drawn.contains("\x1b[31mDOWN\x1b[0m"), "{drawn}");
    }
}
