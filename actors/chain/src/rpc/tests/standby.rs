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
