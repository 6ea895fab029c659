//! What a store has of earlier times, page by page, and what it says that is not so.

use super::*;

#[tokio::test]
async fn history_is_read_in_bounded_pages_and_names_nothing() {
    let node = Waku::start();
    let mut fixture = Fixture::new(&[node.url()], |settings| settings.page_size = 50).await;
    let mut at = fixture.begin().await;
    let now = fixture.now_ns();
    fixture.go_on(600);
    let all: Vec<String> = (0..1_000).map(|n| format!("{n:04}")).collect();
    all.iter().enumerate().for_each(|(n, payload)| node.put(TOPIC, payload.as_str(), now + n as u64 / 3));
    let mut seen = BTreeSet::new();
    while seen.len() < all.len() {
        let (told, next) = fixture.next(&at).await;
        at = next;
        assert!(told.into_iter().all(|payload| seen.insert(payload)));
        assert!(matches!(&at, Cursor::Message { handled, .. } if handled.is_empty()), "{at}");
    }
    assert_eq!((seen.into_iter().collect::<Vec<_>>(), node.page_max()), (all, 50));
    fixture.pull(1, Some(at), true);
    let (rest, at) = fixture.answer().await;
    assert!(rest.is_empty(), "{rest:?}");
    let settled = fixture.now_ns() - DISORDER_NS + 1;
    assert_eq!(at, Cursor::Message { time_ns: settled, hash: None, handled: Vec::new() });
}

/// Positions have room for so many names: what has a time of the next century would take it for as long.
#[tokio::test]
async fn what_a_store_says_of_the_future_is_not_taken_from_it() {
    let node = Waku::start();
    node.ignore_times();
    let mut fixture = Fixture::new(&[node.url()], |_| {}).await;
    let at = fixture.begin().await;
    let now = fixture.now_ns();
    node.put(TOPIC, "a", now);
    node.put(TOPIC, "of the future", now + 3_600 * NS_PER_S);
    let (told, at) = fixture.next(&at).await;
    assert_eq!(told, ["a"]);
    assert!(matches!(&at, Cursor::Message { handled, .. } if handled.len() == 1), "{at}");
    fixture.go_on(3_600);
    assert_eq!(fixture.next(&at).await.0, ["of the future"], "when its time has come");
}

/// More than the pages of one look: they stand before what is new until they are settled.
#[tokio::test]
async fn messages_that_were_handled_do_not_hide_what_comes_after_them() {
    let node = Waku::start();
    let mut fixture = Fixture::new(&[node.url()], |settings| settings.page_size = 1).await;
    let at = fixture.begin().await;
    let now = fixture.now_ns();
    (0..100).for_each(|n| node.put(TOPIC, format!("{n:03}"), now + n));
    let (first, at) = fixture.next(&at).await;
    let (second, _) = fixture.next(&at).await;
    let all: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    assert_eq!((first.len(), [first, second].concat()), (64, all));
}

#[tokio::test]
async fn a_store_that_does_not_go_on_after_its_own_cursor_is_asked_by_time() {
    for cursors in [Cursors::Loses, Cursors::Ignores] {
        let node = Waku::start();
        let mut fixture = Fixture::new(&[node.url()], |settings| settings.page_size = 10).await;
        let mut at = fixture.begin().await;
        let now = fixture.now_ns();
        fixture.go_on(600);
        let all: Vec<String> = (0..25).map(|n| format!("{n:02}")).collect();
        all.iter().enumerate().for_each(|(n, payload)| node.put(TOPIC, payload.as_str(), now + n as u64));
        node.set_cursors(cursors);
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            let (told, next) = fixture.next(&at).await;
            seen.extend(told);
            at = next;
        }
        assert_eq!(seen, all, "{cursors:?}");
    }
}

#[tokio::test]
async fn a_query_gives_nothing_twice_and_fails_where_the_store_begins_anew() {
    let node = Waku::start();
    let fixture = Fixture::new(&[node.url()], |settings| settings.page_size = 10).await;
    (0..25).for_each(|n| node.put(TOPIC, format!("{n}"), fixture.now_ns() + n));
    node.repeat(true);
    assert_eq!(fixture.query(0, 100, 1 << 20).await.unwrap().len(), 25);
    node.set_cursors(Cursors::Ignores);
    let failed = fixture.query(0, 100, 1 << 20).await.unwrap_err();
    assert_eq!(failed.kind, HostErrorKind::Unavailable);
    assert!(failed.message.ends_with("nothing that was not in those before it"), "{}", failed.message);
    assert_eq!(fixture.query(0, 10, 1 << 20).await.unwrap().len(), 10, "one page is all that is wanted");
}

#[tokio::test]
async fn what_the_store_dropped_before_it_was_handled_is_told_once_and_the_rest_is_given() {
    let node = Waku::start();
    let mut fixture = Fixture::new(&[node.url()], |_| {}).await;
    let at = fixture.begin().await;
    let now = fixture.now_ns();
    // The store is older than the module.
    node.put("/app/1/other/proto", "older", now - 7_200 * NS_PER_S);
    (0..10).for_each(|n| node.put(TOPIC, format!("{n}"), now + n * NS_PER_S));
    fixture.go_on(60);
    let (told, at) = fixture.next(&at).await;
    assert_eq!((told.len(), fixture.status().await.gaps_total), (10, 0));
    // The module is away, and more comes than the store keeps.
    fixture.go_on(3_600);
    let from = now + 600 * NS_PER_S;
    (10..20).for_each(|n| node.put(TOPIC, format!("{n}"), from + n * NS_PER_S));
    node.prune(from + 15 * NS_PER_S);
    let (told, at) = fixture.next(&at).await;
    assert_eq!(told, ["15", "16", "17", "18", "19"]);
    let status = fixture.status().await;
    assert_eq!(status.gaps_total, 1);
    let gap = status.last_gap.unwrap();
    assert!(gap.starts_with(&format!("m at message:{TOPIC}: the store has nothing from before ")), "{gap}");
    // More than one answer has: the position is within what the store keeps.
    let from = fixture.now_ns();
    (20..90).for_each(|n| node.put(TOPIC, format!("{n}"), from + n));
    fixture.go_on(600);
    let (told, at) = fixture.next(&at).await;
    assert_eq!((told.len(), fixture.status().await.gaps_total), (64, 1));
    // Everything is gone, and nothing new came.
    node.prune(u64::MAX);
    let (told, _) = fixture.next(&at).await;
    assert_eq!((told.len(), fixture.status().await.gaps_total), (0, 2));
}
