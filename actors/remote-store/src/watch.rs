//! Looks after the nodes: whether each is of use, and how much is left of its postage batch.

use std::time::Duration;

use crate::client::Client;

/// Batches fill and run out within hours.
const LOOK: Duration = Duration::from_secs(30);

/// Looks again and again, until the actor ends.
pub async fn run(client: &Client) {
    loop {
        client.look().await;
        tokio::time::sleep(LOOK).await;
    }
}
