//! Nodes that answer otherwise than most, alone and beside others.

use super::*;
use crate::rpc::untold::Why;

/// A range that leaves out blocks whose headers are known, and promise logs.
#[tokio::test]
async fn what_known_blooms_promise_is_not_left_out() {
    let liar = Node { head: 300, blooms: true, leaves_out: Some((100, 120)), ..Node::default() };
    let honest = Node { leaves_out: None, ..liar.clone() };
    let known: Vec<Header> = (1..=300).map(|number| header_of(&honest, number)).collect();
    for nodes in [vec![liar.clone()], vec![liar.clone(), honest.clone()], vec![honest, liar]] {
        let backend = backend_over(nodes);
        up(&backend);
        assert_eq!(read_all(&backend, 300, &known).await, (1..=300).collect::<Vec<_>>());
    }
}

/// Where no header is known, another endpoint is asked for the same range.
#[tokio::test]
async fn a_range_is_held_against_another_endpoints_where_nothing_is_known() {
    let liar = Node { head: 300, blooms: true, leaves_out: Some((100, 120)), ..Node::default() };
    let honest = Node { leaves_out: None, ..liar.clone() };
    let backend = backend_over(vec![liar, honest]);
    up(&backend);
    assert_eq!(read_all(&backend, 300, &[]).await, (1..=300).collect::<Vec<_>>());
    assert!(!backend.endpoints()[0].healthy);
}

/// Some chains have logs that are not in their blocks' blooms.
#[tokio::test]
async fn what_two_say_against_a_bloom_is_the_chains_truth() {
    let node = Node { head: 9, blooms: true, outside: Some(6), ..Node::default() };
    for count in [1, 2] {
        let backend = backend_over(vec![node.clone(); count]);
        up(&backend);
        let header = header_of(&node, 6);
        let logs = backend.block_logs(std::slice::from_ref(&header), &all_logs()).await.unwrap();
        assert_eq!(logs[0].len(), 2, "{count}");
        assert!(backend.distrusts_blooms() && backend.learnt() == ["blooms leave out logs"], "{:?}", backend.learnt());
        assert!(backend.endpoints().iter().all(|endpoint| endpoint.healthy), "{:?}", backend.endpoints());
    }
}

/// Whatever a node says when it is asked for too much, it is asked for less.
#[tokio::test]
async fn a_range_gets_smaller_whatever_the_words() {
    let node = Node { head: 1_000, logs_max: Some(90), ..Node::default() };
    let requests = node.requests.clone();
    let backend = backend_over(vec![node]);
    up(&backend);
    assert_eq!(read_all(&backend, 1_000, &[]).await, (1..=1_000).collect::<Vec<_>>());
    assert!(requests.load(Ordering::Relaxed) < 150, "{requests:?}");
    let learnt = &backend.endpoints()[0].learnt;
    assert!(learnt[0].ends_with("blocks a range"), "{learnt:?}");
}

/// A refusal may look like that of a block that is not there, or like that of too many requests.
#[tokio::test]
async fn a_range_gets_smaller_though_its_refusal_looks_like_another() {
    for words in [
        (-32001, "Unable to complete request at this time."),
        (-32001, "resource not found"),
        (-32000, "header not found"),
        (-32000, "too many requests"),
        (-32005, "limit exceeded"),
    ] {
        let node = Node { head: 60, logs_max: Some(40), words: Some(words), ..Node::default() };
        let backend = backend_over(vec![node]);
        up(&backend);
        assert_eq!(read_all(&backend, 60, &[]).await, (1..=60).collect::<Vec<_>>(), "{words:?}");
        let learnt = &backend.endpoints()[0].learnt;
        assert!(learnt.iter().any(|learnt| learnt.ends_with("blocks a range")), "{words:?} {learnt:?}");
    }
}

#[tokio::test]
async fn a_node_that_takes_no_batches_is_asked_one_by_one() {
    let backend = backend_over(vec![Node { head: 300, takes_no_batches: true, ..Node::default() }]);
    up(&backend);
    let numbers: Vec<u64> = (1..=200).collect();
    let headers = backend.headers(&numbers).await.unwrap();
    assert_eq!(headers.iter().map(|header| header.number).collect::<Vec<_>>(), numbers);
    assert_eq!(backend.endpoints()[0].learnt, ["1 requests a batch"]);
    let batch = vec![("eth_blockNumber".to_owned(), "[]".to_owned()); 3];
    let answers = backend.request_batch(batch, ask(5_000, 1_000)).await.unwrap();
    assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), ["\"0x12c\""; 3]);
}

/// Of a range that nobody else can be asked about, some blocks are asked for by themselves.
#[tokio::test]
async fn a_range_of_which_a_sample_was_wrong_is_read_block_by_block() {
    for blooms in [true, false] {
        let node = Node { head: 300, blooms, leaves_out: Some((90, 220)), ..Node::default() };
        let backend = backend_over(vec![node]);
        up(&backend);
        assert_eq!(read_all(&backend, 300, &[]).await, (1..=300).collect::<Vec<_>>(), "{blooms}");
        assert_eq!(backend.endpoints()[0].learnt, ["logs left out of ranges"]);
    }
}

/// Some nodes have an empty list where the hash of a block is asked for, and know its number.
#[tokio::test]
async fn logs_that_are_told_by_number_alone_are_found() {
    for (blooms, count) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
        let node = Node { head: 9, blooms, by_number_only: true, ..Node::default() };
        let requests = node.requests.clone();
        let backend = backend_over(vec![node.clone(); count]);
        up(&backend);
        for number in 1..=9 {
            let logs = backend.block_logs(&[header_of(&node, number)], &all_logs()).await.unwrap();
            assert_eq!(logs.iter().map(Vec::len).collect::<Vec<_>>(), [1], "{blooms} {count} {number}");
        }
        assert_eq!(backend.endpoints()[0].learnt, ["logs by block number only"]);
        assert!(requests.load(Ordering::Relaxed) <= 40, "{requests:?}");
    }
}

/// A balancer's nodes do not have the same blocks: what comes before one that is not there is taken.
#[tokio::test]
async fn headers_before_one_that_is_not_there_are_taken() {
    let node = Node { head: 300, nulls: true, ..Node::default() };
    let requests = node.requests.clone();
    let backend = backend_over(vec![node]);
    up(&backend);
    let numbers: Vec<u64> = (1..=100).collect();
    let headers = backend.headers(&numbers).await.unwrap();
    assert_eq!(headers.iter().map(|header| header.number).collect::<Vec<_>>(), numbers);
    assert!(requests.load(Ordering::Relaxed) <= 60, "{requests:?}");
}

/// What stands before a node may forbid the question whether it syncs.
#[tokio::test]
async fn one_that_may_not_be_asked_whether_it_syncs_is_followed() {
    for status in [401, 403, 404, 405, 500, 503] {
        let backend = backend_over(vec![Node { head: 9, no_syncing: Some(status), ..Node::default() }]);
        let (heads, mut seen) = mpsc::channel::<Seen>(8);
        tokio::select! {
            () = backend.follow(heads) => panic!("it follows for ever"),
            seen = seen.recv() => assert_eq!(seen.unwrap().header.number, 9, "{status}"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("{status}: {:?}", backend.endpoints()),
        }
    }
}

/// Indexes that count in each transaction are told as ones that a filter does not change.
#[tokio::test]
async fn log_indexes_of_transactions_are_the_same_whoever_asks() {
    let node = Node { head: 9, per_transaction: true, ..Node::default() };
    let backend = backend_over(vec![node.clone()]);
    up(&backend);
    let one_address = LogFilter {
        addresses: [nexum_host_ifaces::Address([0x11; 20])].into(),
        topics: Default::default(),
        from_block: 0,
    };
    let filtered = Union::of(&[one_address]);
    let of_transactions: Vec<u32> = vec![3 << 16 | 1, 7 << 16 | 1];
    let range = backend.range_logs(5, 5, &filtered, &[]).await.unwrap().logs;
    let block = backend.block_logs(&[header_of(&node, 5)], &filtered).await.unwrap().remove(0);
    for logs in [range, block] {
        assert_eq!(logs.iter().map(|log| log.log_index).collect::<Vec<_>>(), of_transactions);
    }
    // No index is missing, so nothing is doubted either.
    let all = backend.range_logs(5, 5, &all_logs(), &[]).await.unwrap().logs;
    let indexes = [3 << 16, 3 << 16 | 1, 7 << 16, 7 << 16 | 1];
    assert_eq!(all.iter().map(|log| log.log_index).collect::<Vec<_>>(), indexes);
    assert_eq!(backend.learnt(), ["log indexes are counted per transaction"]);
    assert!(!super::super::logs::has_gaps(&all_logs(), &all) && super::super::logs::has_gaps(&all_logs(), &all[1..]));
}

/// A block's logs as they are in the end, however often they have to be asked for, and how often they were. What else is
/// asked for is answered.
async fn logs_in_the_end(fails: u64) -> (usize, u64) {
    let node = Node { head: 9, empty_receipts: true, logs_fail: Arc::new(fails.into()), ..Node::default() };
    let left = node.logs_fail.clone();
    let mut header = header_of(&node, 5);
    header.receipts_root = Some(nexum_host_ifaces::Hash(alloy::consensus::EMPTY_ROOT_HASH.0));
    let backend = backend_over(vec![node]);
    up(&backend);
    for _ in 0..10_000 {
        backend.headers(&[5]).await.unwrap();
        if let Ok(logs) = backend.block_logs(std::slice::from_ref(&header), &all_logs()).await {
            return (logs[0].len(), fails - left.load(Ordering::Relaxed));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("they are never had: {:?}", backend.endpoints());
}

/// Some chains have logs that are in no receipt. So receipts do not stand for logs that were lost on the way.
#[tokio::test]
async fn logs_that_fail_a_few_times_are_asked_for_again_before_receipts_stand_for_them() {
    assert_eq!(logs_in_the_end(2).await, (1, 2));
    let (logs, asked) = logs_in_the_end(u64::MAX).await;
    assert!(logs == 0 && asked >= 3, "{logs} {asked}");
}

/// While an endpoint is asked for logs one at a time, a question that waits for its turn is seen.
#[tokio::test]
async fn a_question_that_waits_for_its_turn_is_told_with_its_age() {
    let node = Node { head: 9, blooms: true, ..Node::default() };
    let backend = backend_over(vec![node.clone()]);
    up(&backend);
    let (endpoint, now_ns) = (&backend.shared.endpoints[0], backend.shared.clock.monotonic_ns());
    endpoint.shape().untold.note(5, Why::Failed, true, 1, now_ns);
    let turn = endpoint.large_turn.take(now_ns).await;
    let (header, union) = (header_of(&node, 6), all_logs());
    let mut asking = backend.block_logs(std::slice::from_ref(&header), &union);
    let waits = async {
        while backend.turns().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        logs = &mut asking => panic!("it was asked before its turn: {logs:?}"),
        () = waits => {}
    }
    let turns = backend.turns();
    let [(reason, since_ns)] = &turns[..] else { panic!("{turns:?}") };
    assert!(reason.starts_with("the turn of a question for logs at http://n0"), "{reason}");
    assert!(*since_ns >= now_ns);
    drop(turn);
    assert_eq!(asking.await.unwrap()[0].len(), 1);
    assert!(backend.turns().is_empty());
}

/// One that asks for fewer requests, and does not say for how long, is asked ever less often until it answers.
#[tokio::test]
async fn one_that_is_alone_and_limited_is_left_alone_for_longer_and_longer() {
    let node = Node { head: 4, ..Node::default() };
    let limited = node.status.clone();
    let backend = backend_over(vec![node]);
    let (heads, mut seen) = mpsc::channel::<Seen>(8);
    let told = async {
        assert_eq!(seen.recv().await.unwrap().header.number, 4);
        limited.store(429, Ordering::Relaxed);
        let mut waits = Vec::new();
        while waits.len() < 3 {
            // What was told before is taken, so that it can go on.
            while seen.try_recv().is_ok() {}
            if let Some((why, _)) = backend.held_back().filter(|(why, _)| !waits.contains(why)) {
                waits.push(why);
            }
            tokio::task::yield_now().await;
        }
        for (wait, pause) in waits.iter().zip(["100ms", "200ms", "400ms"]) {
            assert!(wait.contains(&format!("asked again after {pause}: HTTP status 429")), "{waits:?}");
        }
        limited.store(0, Ordering::Relaxed);
        assert_eq!(seen.recv().await.unwrap().header.number, 4);
        while backend.held_back().is_some() {
            while seen.try_recv().is_ok() {}
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = backend.follow(heads) => panic!("it follows for ever"),
        () = told => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("{:?}", backend.held_back()),
    }
}

/// Nobody would follow the chain if one that is left alone came to lead before its time.
#[tokio::test]
async fn one_that_is_left_alone_is_avoided_for_as_long() {
    let node = Node { head: 4, ..Node::default() };
    let limited = node.status.clone();
    // Longer than one that is limited is avoided in any case.
    let backend = backend_that_polls(vec![node], Duration::from_secs(3));
    let (heads, mut seen) = mpsc::channel::<Seen>(8);
    let left_alone = async {
        assert!(seen.recv().await.is_some());
        limited.store(429, Ordering::Relaxed);
        while backend.held_back().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = backend.follow(heads) => panic!("it follows for ever"),
        () = left_alone => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("{:?}", backend.endpoints()),
    }
    let soon_ns = backend.shared.clock.monotonic_ns() + 2_100_000_000;
    assert!(!backend.shared.board().status(soon_ns)[0].healthy, "{:?}", backend.endpoints());
}
