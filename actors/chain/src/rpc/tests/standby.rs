//! Endpoints that stand by, while somebody waits for them.

use super::*;

/// A module that waits for a confirmation has the others asked for their newest block again and again. They are compared
/// with the followed chain all the same.
#[tokio::test]
async fn one_that_is_asked_for_its_head_all_the_time_is_compared_too() {
    let node = |branches_at| Node { head: 9, branches_at, ..Node::default() };
    let backend = backend_over(vec![node(None), node(Some(5))]);
    let disputed = async {
        loop {
            follow(&backend, &node(None));
            backend.want_vouched(true);
            if let Some((number, _)) = backend.bounds().disputed {
                return number;
            }
            tokio::task::yield_now().await;
        }
    };
    let (heads, mut seen) = mpsc::channel(8);
    tokio::select! {
        () = backend.follow(heads) => panic!("it follows for ever"),
        () = async { while seen.recv().await.is_some() {} } => panic!("it stopped following"),
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("it was never compared"),
        number = disputed => assert_eq!(number, 6),
    }
}

/// For the moment in which nobody else is there, an endpoint with blocks of its own would confirm them by itself.
#[test]
fn one_that_was_just_lost_has_a_say_in_what_is_confirmed() {
    let backend = backend_over(vec![Node::default(), Node::default()]);
    backend.shared.update(|board, now| (0..2).for_each(|index| board.up(index, now)));
    backend.shared.update(|board, now| assert!(board.down(1, now, "gone".into())));
    assert_eq!(backend.bounds().vouched, Some(0));
    let alone = backend_over(vec![Node::default()]);
    alone.shared.update(|board, now| board.up(0, now));
    assert_eq!(alone.bounds().vouched, None, "there is nobody else to ask");
}
