//! What is heard of one topic live: nothing is taken from it but that there is something.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::nodes::Nodes;

/// After a node that cannot be listened to, doubled up to the last: a node need not relay.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
/// The status of a node that does not listen to the topic, such as one that was started anew.
const NOT_SUBSCRIBED: i32 = 404;

/// Listens to a topic for as long as anybody waits for it.
pub async fn listen(nodes: &Nodes, topic: Arc<str>, interval: Duration, wakes: watch::Sender<u64>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let node = nodes.preferred();
        if nodes.listen(node, &topic).await.is_ok() {
            backoff = FIRST_BACKOFF;
            // What came while nobody listened is known to the store alone.
            wakes.send_modify(|wake| *wake += 1);
            while node == nodes.preferred() {
                match nodes.heard(node, &topic).await {
                    Ok(0) => {}
                    Ok(_) => wakes.send_modify(|wake| *wake += 1),
                    Err(failed) if failed.code == NOT_SUBSCRIBED => break,
                    Err(_) => {
                        sleep(backoff).await;
                        break;
                    }
                }
                sleep(interval).await;
            }
        } else {
            sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }
}
