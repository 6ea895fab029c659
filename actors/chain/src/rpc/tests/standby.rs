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

/// What failed while no endpoint was connected is read again as soon as one is, and not when its next turn comes. Others that
/// come back while one is there hurry nobody.
#[tokio::test]
async fn the_first_endpoint_that_is_back_is_told_to_whoever_waits_to_read_again() {
    use futures::FutureExt;

    let backend = backend(&[9, 9]);
    let mut returned = backend.returned();
    assert!((&mut returned).now_or_never().is_none(), "nobody is there");
    backend.shared.came_up(0);
    assert!((&mut returned).now_or_never().is_some(), "one is back");
    let mut returned = backend.returned();
    assert!((&mut returned).now_or_never().is_none());
    backend.shared.came_up(1);
    assert!((&mut returned).now_or_never().is_none(), "the other one was there");
    for index in [0, 1] {
        backend.shared.update(|board, now| assert!(board.down(index, now, "gone".into())));
    }
    backend.shared.came_up(1);
    assert!((&mut returned).now_or_never().is_some(), "it is back after all were lost");
}
