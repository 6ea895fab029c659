//! The actor against nodes that do as they are told: what is read was checked, what is kept and under way has bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use nexum_host_ifaces::{
    Address, Hash, HostError, HostErrorKind,
    blocking::Blocking,
    clock::SystemClock,
    interfaces::{
        identity::port::IdentityMsg,
        remote_store::port::{RemoteStoreMsg, RemoteStoreStatus, error},
    },
    port::Port,
    ports::Ports,
};
use nexum_remote_store::{Args, Limits, NodeSettings, RemoteStoreMetrics, Settings};
use nexum_swarm::{feed, soc};
use nexum_testkit_swarm::{BATCH, Bee, Mood};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: Hash = Hash([7; 32]);

struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[7; 32]).unwrap()
}

fn owner() -> Address {
    Address(key().address().0.0)
}

/// Signs updates under one topic.
struct Identity;

impl Actor for Identity {
    type Msg = IdentityMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<IdentityMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<IdentityMsg>,
        message: IdentityMsg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            IdentityMsg::FeedAccount { topic, reply, .. } => reply.send(match topic {
                TOPIC => Ok(owner()),
                _ => Err(error(HostErrorKind::Denied, "no policy")),
            })?,
            IdentityMsg::SignFeed { account, update, reply, .. } => {
                assert_eq!(account, owner());
                let identifier = feed::identifier(&update.topic.0, update.index);
                let signature = key().sign_message_sync(&soc::message(&identifier, &update.content.0)).unwrap();
                reply.send(Ok(Box::new(signature.as_bytes())))?;
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}

struct Store(Port<RemoteStoreMsg>);

impl Store {
    /// An actor with these nodes, and limits besides.
    async fn start(bees: &[&Bee], limits: Limits) -> Self {
        Self::at(bees.iter().map(|bee| bee.url()).collect(), limits).await
    }

    async fn at(urls: Vec<String>, limits: Limits) -> Self {
        let (parent, _) = Actor::spawn(None, Parent, ()).await.unwrap();
        let (identity, _) = Actor::spawn(None, Identity, ()).await.unwrap();
        let ports = Ports::unbound([]);
        ports.of::<IdentityMsg>().bind(identity);
        let nodes = urls.into_iter().map(|url| NodeSettings { url, batch: Some(BATCH.to_owned()) }).collect();
        let args = Args {
            settings: Settings { nodes, limits, is_deferred: false, pins: false },
            ports: ports.clone(),
            clock: Arc::new(SystemClock::new()),
            blocking: Blocking::Threads,
            metrics: RemoteStoreMetrics::register(&prometheus::Registry::new()).unwrap(),
        };
        let (actor, _) = nexum_remote_store::spawn(args, parent.get_cell()).await.unwrap();
        let port = ports.of::<RemoteStoreMsg>();
        port.bind(actor);
        Self(port)
    }

    async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<Result<T, HostError>>) -> RemoteStoreMsg,
    ) -> Result<T, HostError> {
        self.0.call(PATIENCE, message).await.unwrap()
    }

    async fn upload(&self, data: &[u8]) -> Result<Vec<u8>, HostError> {
        self.upload_within(data, PATIENCE).await
    }

    async fn upload_within(&self, data: &[u8], deadline: Duration) -> Result<Vec<u8>, HostError> {
        let (module, data) = (Arc::from("m"), data.to_vec());
        self.call(|reply| RemoteStoreMsg::Upload { module, data, deadline, reply }).await
    }

    async fn download(&self, reference: &str, bytes_max: usize) -> Result<Vec<u8>, HostError> {
        let (module, reference, deadline) = (Arc::from("m"), hex::decode(reference).unwrap(), PATIENCE);
        self.call(|reply| RemoteStoreMsg::Download { module, reference, bytes_max, deadline, reply }).await
    }

    async fn read_feed(&self) -> Result<Option<Vec<u8>>, HostError> {
        let (module, owner, deadline) = (Arc::from("m"), owner(), PATIENCE);
        let read =
            |reply| RemoteStoreMsg::ReadFeed { module, owner, topic: TOPIC, bytes_max: 1 << 20, deadline, reply };
        self.call(read).await
    }

    async fn write_feed(&self, topic: Hash, data: &[u8], again: bool) -> Result<Vec<u8>, HostError> {
        let (module, data, deadline) = (Arc::from("m"), data.to_vec(), PATIENCE);
        self.call(|reply| RemoteStoreMsg::WriteFeed { module, topic, data, again, deadline, reply }).await
    }

    async fn status(&self) -> RemoteStoreStatus {
        self.0.call(PATIENCE, RemoteStoreMsg::Status).await.unwrap()
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 4096) as u8).collect()
}

fn told(refused: Result<impl std::fmt::Debug, HostError>) -> (HostErrorKind, String) {
    let error = refused.unwrap_err();
    (error.kind, error.data.unwrap_or_default())
}

#[tokio::test]
async fn what_was_read_and_checked_is_not_asked_for_again() {
    let bee = Bee::start();
    let store = Store::start(&[&bee], Limits::default()).await;
    let data = content(100_000);
    let reference = hex::encode(store.upload(&data).await.unwrap());
    assert_eq!((bee.uploads(), bee.chunk_requests()), (vec![reference.clone()], 0), "what was sent is not kept");
    assert_eq!(store.download(&reference, 100_000).await.unwrap(), data);
    assert_eq!(bee.chunk_requests(), 26, "25 leaves and the root");
    bee.set(Mood::Lies);
    assert_eq!(store.download(&reference, 100_000).await.unwrap(), data);
    assert_eq!(bee.chunk_requests(), 26);
    assert!(store.status().await.cached_bytes > 100_000);

    let small = Store::start(&[&bee], Limits { cache_bytes_max: 0, ..Limits::default() }).await;
    assert_eq!(told(small.download(&reference, 100_000).await), (HostErrorKind::Unavailable, "corrupt".to_owned()));
    bee.set(Mood::Fine);
    for _ in 0..2 {
        assert_eq!(small.download(&reference, 100_000).await.unwrap(), data);
    }
    assert_eq!(small.status().await.cached_bytes, 0);
}

#[tokio::test]
async fn content_that_is_too_large_is_not_asked_for() {
    let bee = Bee::start();
    let limits = Limits { content_bytes_max: 50_000, ..Limits::default() };
    let store = Store::start(&[&bee], limits).await;
    let too_large = (HostErrorKind::InvalidInput, "too-large".to_owned());
    assert_eq!(told(store.upload(&content(50_001)).await), too_large);
    assert_eq!(bee.uploads(), Vec::<String>::new());
    let reference = bee.keep(&content(50_001));
    assert_eq!(told(store.download(&reference, 1 << 20).await), too_large);
    let reference = bee.keep(&content(50_000));
    assert_eq!(told(store.download(&reference, 49_999).await), too_large);
    assert_eq!(bee.chunk_requests(), 2, "the roots");
    assert_eq!(store.download(&reference, 50_000).await.unwrap(), content(50_000));
}

#[tokio::test]
async fn encrypted_content_is_read_by_its_reference() {
    let bee = Bee::start();
    let store = Store::start(&[&bee], Limits::default()).await;
    for bytes in [1, 4_097, 300_000] {
        let reference = bee.keep_encrypted(&content(bytes));
        assert_eq!(store.download(&reference, bytes).await.unwrap(), content(bytes));
    }
    assert_eq!(told(store.download(&"00".repeat(64), 1).await), (HostErrorKind::InvalidInput, "not-found".to_owned()));
}

#[tokio::test]
async fn an_update_of_a_feed_is_written_once_for_one_effect() {
    let bee = Bee::start();
    let store = Store::start(&[&bee], Limits::default()).await;
    assert_eq!(store.read_feed().await.unwrap(), None);
    let first = store.write_feed(TOPIC, b"one", false).await.unwrap();
    assert_eq!(store.write_feed(TOPIC, b"one", true).await.unwrap(), first, "it may have arrived, and has");
    assert_eq!(bee.uploads().len(), 1);
    let second = store.write_feed(TOPIC, b"one", false).await.unwrap();
    assert_ne!(first, second, "a call is another update");
    // Larger than a chunk, and while the answer to the update is lost.
    bee.set(Mood::LosesAnswers);
    assert_eq!(told(store.write_feed(TOPIC, &content(9_000), false).await).1, "unreachable");
    bee.set(Mood::Fine);
    let third = store.write_feed(TOPIC, &content(9_000), true).await.unwrap();
    assert!(bee.has(&hex::encode(&third)));
    assert_eq!(store.read_feed().await.unwrap(), Some(content(9_000)));
    assert_eq!(told(store.write_feed(Hash([8; 32]), b"x", false).await).0, HostErrorKind::Denied);

    // Another actor knows nothing of it, and finds the same.
    let other = Store::start(&[&bee], Limits::default()).await;
    assert_eq!(other.read_feed().await.unwrap(), Some(content(9_000)));
    bee.set(Mood::Forgets);
    let failed = (HostErrorKind::Unavailable, "failed".to_owned());
    assert_eq!(told(store.read_feed().await), failed, "it was there, and may come back");
    assert_eq!(told(store.write_feed(TOPIC, b"four", false).await), failed, "an effect is not given up for it");
    bee.set(Mood::Lies);
    assert_eq!(told(store.read_feed().await), (HostErrorKind::Unavailable, "corrupt".to_owned()));
}

#[tokio::test]
async fn an_upload_with_an_expired_batch_has_failed_though_the_node_takes_it() {
    let bee = Bee::start();
    bee.set(Mood::TakesExpired);
    let store = Store::start(&[&bee], Limits::default()).await;
    for _ in 0..2 {
        assert_eq!(told(store.upload(b"1").await), (HostErrorKind::Unavailable, "batch-unusable".to_owned()));
    }
    assert_eq!(bee.uploads().len(), 2);
    bee.set(Mood::Fine);
    assert!(bee.has(&hex::encode(store.upload(b"1").await.unwrap())));
}

#[tokio::test]
async fn a_search_that_was_given_up_goes_on_from_what_it_found() {
    let (bee, other) = (Bee::start(), Bee::start());
    let writer = Store::start(&[&bee], Limits::default()).await;
    for number in 0..40_u8 {
        writer.write_feed(TOPIC, &[number], false).await.unwrap();
    }
    let store = Store::start(&[&bee, &other], Limits::default()).await;
    // That an update is missing is known only when both say so.
    other.set(Mood::Fails(500));
    for (requests, what) in [(6, "0, 2, 6, 14, 30 and not 62"), (4, "31, 33, 37 and not 45"), (2, "38 and not 40")] {
        let before = bee.chunk_requests();
        assert_eq!(told(store.read_feed().await).1, "failed");
        assert_eq!(bee.chunk_requests() - before, requests, "{what}");
    }
    other.set(Mood::Fine);
    assert_eq!(store.read_feed().await.unwrap(), Some(vec![39]));
}

#[tokio::test]
async fn a_node_that_fails_leaves_the_work_to_the_next_one() {
    let (bad, good) = (Bee::start(), Bee::start());
    for mood in [Mood::Fails(500), Mood::BatchFull, Mood::Misnames, Mood::LosesAnswers, Mood::Syncs] {
        bad.set(mood);
        let store = Store::start(&[&bad, &good], Limits::default()).await;
        let data = format!("{mood:?}").into_bytes();
        let reference = hex::encode(store.upload(&data).await.unwrap());
        assert!(good.has(&reference), "{mood:?}");
    }
    bad.set(Mood::Fails(404));
    let store = Store::start(&[&bad], Limits::default()).await;
    let failed = (HostErrorKind::Unavailable, "failed".to_owned());
    assert_eq!(told(store.upload(b"x").await), failed, "it may take it once it is there");
    bad.set(Mood::Fine);
    let store = Store::start(&[&bad, &good], Limits::default()).await;
    assert_eq!(told(store.download(&"00".repeat(32), 1).await).1, "not-found", "both say so");
    bad.set(Mood::Fails(500));
    assert_eq!(told(store.download(&"00".repeat(32), 1).await).1, "failed", "only one of them says so");
    let status = store.status().await;
    assert_eq!(status.nodes.len(), 2);
    assert!(!status.nodes[0].is_up && status.nodes[1].is_up, "{:?}", status.nodes);
}

#[tokio::test]
async fn what_waits_because_of_the_nodes_is_told() {
    let away = Bee::start().url();
    let store = Store::at(vec![away], Limits::default()).await;
    assert_eq!(store.status().await.waits, [], "nobody needs it");
    assert_eq!(told(store.upload(b"1").await).1, "unreachable");
    let waits = store.status().await.waits;
    assert_eq!((waits.len(), waits[0].module.as_deref()), (1, Some("m")));
    assert!(waits[0].reason.starts_with("an answer to upload; http://127.0.0.1:"), "{waits:?}");

    let bee = Bee::start();
    let store = Store::start(&[&bee], Limits::default()).await;
    bee.set(Mood::BatchFull);
    assert_eq!(told(store.upload(b"1").await).1, "batch-full");
    assert_eq!(store.read_feed().await.unwrap(), None);
    let waits = store.status().await.waits;
    assert!(waits.len() == 1 && waits[0].reason.contains("402"), "the node is there, and waits: {waits:?}");
    bee.set(Mood::Fine);
    store.upload(b"1").await.unwrap();
    assert_eq!(store.status().await.waits, []);
}

#[tokio::test]
async fn a_bound_may_be_as_high_as_a_number_can_be() {
    let bee = Bee::start();
    let most = usize::MAX;
    let limits = Limits {
        requests_max: most,
        module_requests_max: most,
        node_requests_max: most,
        cache_bytes_max: most,
        ..Limits::default()
    };
    let store = Store::start(&[&bee], limits).await;
    let reference = hex::encode(store.upload(b"1").await.unwrap());
    assert_eq!(store.download(&reference, most).await.unwrap(), b"1");
}

#[tokio::test]
async fn chunks_that_one_module_waits_for_leave_others_room() {
    let bee = Bee::start();
    bee.set(Mood::KeepsChunks);
    let limits = Limits { node_requests_max: 2, timeout: Duration::from_secs(3_600), ..Limits::default() };
    let store = Store::start(&[&bee], limits).await;
    let references = ["11", "22", "33", "44"].map(|byte| byte.repeat(32));
    let downloads = futures::future::join_all(references.iter().map(|reference| store.download(reference, 1)));
    let (module, data, deadline) = (Arc::from("other"), b"x".to_vec(), PATIENCE);
    let upload = store.call(|reply| RemoteStoreMsg::Upload { module, data, deadline, reply });
    let uploaded = tokio::select! {
        biased;
        done = downloads => panic!("{done:?}"),
        uploaded = upload => uploaded.unwrap(),
    };
    assert_eq!(uploaded.len(), 32);
}

#[tokio::test]
async fn what_is_under_way_has_a_bound_and_an_end() {
    let bee = Bee::start();
    let limits = Limits { module_requests_max: 1, ..Limits::default() };
    let store = Store::start(&[&bee], limits).await;
    bee.set(Mood::Hangs);
    let short = Duration::from_millis(300);
    let (first, second) = tokio::join!(store.upload_within(b"1", short), store.upload_within(b"2", short));
    let mut both = [told(first), told(second)];
    both.sort_by_key(|(_, data)| data.clone());
    let refused = (HostErrorKind::RateLimited, "1000".to_owned());
    assert_eq!(both, [refused, (HostErrorKind::Timeout, "slow".to_owned())]);
    bee.set(Mood::Fine);
    assert!(store.upload(b"3").await.is_ok());
    let status = store.status().await;
    assert_eq!((status.in_flight, status.requests_total, status.errors_total), (0, 3, 2));
}
