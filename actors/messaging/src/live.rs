//! What is heard of one topic live: nothing is taken from it but that there is something.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::nodes::Nodes;

/// After a node that cannot be listened to, doubled up to the last: a node need not relay.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// Listens to a topic for as long as anybody waits for it.
pub async fn listen(nodes: &Nodes, topic: Arc<str>, interval: Duration, wakes: watch::Sender<u64>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let node = nodes.preferred();
        if nodes.listen(node, &topic).await.is_ok() {
            // What came while nobody listened is known to the store alone.
            wakes.send_modify(|wake| *wake += 1);
            while node == nodes.preferred() {
                // One that was started anew does not listen any more: it is asked to again.
                let Ok(heard) = nodes.heard(node, &topic).await else { break };
                backoff = FIRST_BACKOFF;
                if heard > 0 {
                    wakes.send_modify(|wake| *wake += 1);
                }
                sleep(interval).await;
            }
        }
        // Also after one that says that it listens, and then knows nothing of it: it would be asked without end.
        sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}
