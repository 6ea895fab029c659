//! Headers lie on the disk before the units that depend on them, through crashes and restarts.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use nexum_host_ifaces::{Hash, event::Cursor, interfaces::chain::port::Link, store::StoreMsg};
use nexum_store::Store;

use crate::{
    crash::{child, child_directory},
    harness::{Harness, directory, options, put},
};

const KEPT: u64 = 10;

/// The header that `Module::unit` of the harness depends on.
fn link(number: u64) -> Link {
    let hash = |number: u64| Hash([number as u8; 32]);
    Link { number, hash: hash(number), parent: hash(number.wrapping_sub(1)) }
}

fn put_headers(harness: &Harness, chain_id: u64, anew: bool, put: &[u64], drop: &[u64]) {
    let links = |numbers: &[u64]| numbers.iter().map(|number| link(*number)).collect();
    let message = StoreMsg::PutHeaders { chain_id, anew, headers: links(put), dropped: links(drop) };
    harness.actor.send_message(message).unwrap();
}

fn numbers(store: &Store, chain_id: u64) -> Vec<u64> {
    let links = store.headers(chain_id).unwrap();
    assert!(links.iter().all(|kept| *kept == link(kept.number)));
    links.iter().map(|link| link.number).collect()
}

#[tokio::test]
async fn headers_go_with_the_next_unit_and_at_the_latest_with_the_end() {
    let (directory, elsewhere) = (directory(), directory());
    let harness = Harness::open(directory.path()).await;
    let mut module = harness.module("a").await;
    put_headers(&harness, 1, false, &[5, 6, 7], &[]);
    put_headers(&harness, 2, false, &[1], &[]);
    let commits = harness.store.status().commits_total;
    harness.handle(&mut module, vec![]).await;
    assert_eq!(numbers(&harness.store, 1), [5, 6, 7]);
    assert_eq!(numbers(&harness.store, 2), [1]);
    assert_eq!(harness.store.status().commits_total, commits + 1, "one write for all of it");

    put_headers(&harness, 1, false, &[8], &[5]);
    assert_eq!(numbers(&harness.store, 1), [5, 6, 7], "alone they cause no write");
    harness.close().await;
    let store = Store::open(directory.path(), &options()).unwrap();
    assert_eq!(numbers(&store, 1), [6, 7, 8]);

    let backup = elsewhere.path().join("backup");
    let harness = Harness::start(store).await;
    put_headers(&harness, 1, true, &[20, 21], &[]);
    harness.module("a").await;
    harness.ask(|reply| StoreMsg::Backup { to: backup.clone(), reply }).await.unwrap();
    assert_eq!(numbers(&Store::open_read_only(&backup, &options()).unwrap(), 1), [20, 21]);
    assert_eq!(numbers(&harness.store, 2), [1], "another chain's stay");
}

#[tokio::test]
async fn a_store_actor_that_died_has_written_what_it_was_given_or_is_given_it_again() {
    let directory = directory();
    let harness = Harness::open(directory.path()).await;
    harness.module("a").await;
    put_headers(&harness, 1, false, &[1, 2, 3], &[]);
    let harness = harness.restart().await;
    put_headers(&harness, 1, true, &[2, 3, 4], &[]);
    let mut module = harness.module("a").await;
    harness.handle(&mut module, vec![]).await;
    assert_eq!(numbers(&harness.store, 1), [2, 3, 4]);
}

/// Not a test of its own: what the killed child runs. Each unit's header is sent before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn child_keeps_headers_for_ever() {
    let Some(directory) = child_directory() else { return };
    let harness = Harness::open(&directory).await;
    let mut module = harness.module("a").await;
    while harness.actor.get_status() == ractor::ActorStatus::Running {
        let number = module.ledger.record.seq + 1;
        let dropped: Vec<u64> = number.checked_sub(KEPT).into_iter().collect();
        put_headers(&harness, 1, false, &[number], &dropped);
        harness.handle(&mut module, vec![put(&number.to_string(), "", None)]).await;
        println!("ack {number}");
    }
}

#[tokio::test]
async fn after_a_kill_the_header_of_every_durable_cursor_is_there() {
    let directory = directory();
    for round in 0..5 {
        let mut command = child("headers::child_keeps_headers_for_ever", directory.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acks = lines.map(Result::unwrap).filter(|line| line.contains("ack "));
        assert_eq!(acks.take(20 + 7 * round).count(), 20 + 7 * round);
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(directory.path(), &options()).unwrap();
        let record = store.inspect("a").unwrap().record;
        let kept = store.headers(1).unwrap();
        let Some(Cursor::Chain { number, hash, .. }) = record.cursors.values().next() else { panic!("{record:?}") };
        assert!(kept.iter().any(|link| Some(link.hash) == *hash), "{number} is not in {kept:?}");
        assert!(kept.len() as u64 <= KEPT + 1, "{kept:?}");
    }
}
