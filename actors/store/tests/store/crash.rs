//! Death of the process at any moment: a child commits in a loop and is killed.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use nexum_host_ifaces::store::{StateView, UnitKind};

use crate::harness::{Harness, directory, put};

/// Where the child works; absent when the test runs in its own right.
const CHILD_DIRECTORY: &str = "NEXUM_STORE_TEST_CHILD";
const MODULES: usize = 8;

/// This test binary again, running one test in `directory`.
pub fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD_DIRECTORY, directory);
    command
}

/// The directory that `child` named.
pub fn child_directory() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_DIRECTORY).map(Into::into)
}

/// Not a test of its own: what the killed child runs. Reports every acknowledged unit as `<module> <seq>`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn child_commits_for_ever() {
    let Some(directory) = child_directory() else { return };
    let harness = std::sync::Arc::new(Harness::open(&directory).await);
    let loops = (0..MODULES).map(|index| {
        let harness = harness.clone();
        tokio::spawn(async move {
            let mut module = harness.module(&format!("m{index}")).await;
            while harness.actor.get_status() == ractor::ActorStatus::Running {
                let seq = module.ledger.record.seq + 1;
                let old = harness.store.get(module.info.id, "seq").unwrap();
                let old = old.map(|bytes| String::from_utf8(bytes).unwrap());
                let unique = format!("unit:{seq}");
                let changes = vec![put("seq", &seq.to_string(), old.as_deref()), put(&unique, "", None)];
                harness.handle(&mut module, changes).await;
                println!("ack m{index} {seq}");
            }
        })
    });
    let loops: Vec<tokio::task::JoinHandle<()>> = loops.collect();
    for task in loops {
        task.await.unwrap();
    }
}

/// Lets the child acknowledge some units, kills it, and answers what it had acknowledged per module.
fn run_and_kill(directory: &Path, acknowledged: &mut [u64; MODULES], units: usize) {
    let mut child: Child = child("crash::child_commits_for_ever", directory).stdout(Stdio::piped()).spawn().unwrap();
    let mut read = |line: &str| {
        // The harness of the test prints before the first one on its own line.
        let Some(ack) = line.split("ack m").nth(1) else { return false };
        let (module, seq) = ack.split_once(' ').unwrap();
        acknowledged[module.parse::<usize>().unwrap()] = seq.parse().unwrap();
        true
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    while seen < units {
        seen += usize::from(read(&lines.next().expect("the child died").unwrap()));
    }
    child.kill().unwrap();
    // What it had said before it died counts too; the last line may be cut.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    for line in rest.iter().take(rest.len().saturating_sub(1)) {
        read(line);
    }
    child.wait().unwrap();
}

#[tokio::test]
async fn a_killed_process_leaves_every_acknowledged_unit_whole() {
    let directory = directory();
    let mut acknowledged = [0; MODULES];
    for round in 0..5 {
        run_and_kill(directory.path(), &mut acknowledged, 100 + 37 * round);
        let harness = Harness::open(directory.path()).await;
        for (index, acknowledged) in acknowledged.iter().enumerate() {
            let Ok(info) = harness.store.inspect(&format!("m{index}")) else {
                assert_eq!(*acknowledged, 0);
                continue;
            };
            let seq = info.record.seq;
            assert!(seq >= *acknowledged, "m{index}: unit {acknowledged} was acknowledged, {seq} is stored");
            assert!(seq <= *acknowledged + 2, "m{index}: one unit in flight and one cut line at most");
            let journal = harness.store.journal(info.id, 0, usize::MAX).unwrap();
            assert_eq!(journal.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (1..=seq).collect::<Vec<_>>());
            assert!(journal.iter().all(|entry| entry.kind == UnitKind::Handled));
            assert!(journal.windows(2).all(|pair| pair[1].previous == pair[0].digest()));
            assert_eq!(journal.last().map(|entry| entry.digest()).unwrap_or_default(), info.record.journal);
            let units = harness.store.scan(info.id, "unit:", None, usize::MAX).unwrap();
            assert_eq!(units.len() as u64, seq);
            let stored = harness.store.get(info.id, "seq").unwrap();
            assert_eq!(stored, (seq > 0).then(|| seq.to_string().into_bytes()));
            let used: usize = units.iter().map(|(key, _)| key.len()).sum();
            assert_eq!(info.record.state_bytes as usize, used + stored.map_or(0, |seq| 3 + seq.len()));
        }
        harness.close().await;
    }
}
