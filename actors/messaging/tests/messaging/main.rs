//! The actor against a stand-in for a node on the loopback: what is published, looked up and pulled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod history;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nexum_host_ifaces::{
    Hash, HostError, HostErrorKind,
    clock::Clock,
    event::{Answer, Cursor, SourceId, SourceReply},
    interfaces::{
        chain::port::ChainWait,
        messaging::port::{MessagePull, MessagingMsg, MessagingStatus, Publish, Query},
    },
    types::{Event, Message},
};
use nexum_messaging::{Args, MessagingMetrics, PublishBy, Settings};
use nexum_testkit::waku::{Cursors, Publishing, Waku};
use prometheus::Registry;
use ractor::{Actor, ActorProcessingErr, ActorRef, rpc::CallResult};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

const TOPIC: &str = "/app/1/x/proto";
const PATIENCE: Duration = Duration::from_secs(60);
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000 * NS_PER_MS;
/// When these tests begin, milliseconds.
const START_MS: u64 = 1_700_000_000_000;
const DISORDER_NS: u64 = 60 * NS_PER_S;

/// Stands until it is moved.
struct StillClock(AtomicU64);

impl Clock for StillClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_ms() * NS_PER_MS
    }
}

/// A module's end: passes the answers on.
struct Inbox;

impl Actor for Inbox {
    type Msg = SourceReply;
    type State = mpsc::Sender<SourceReply>;
    type Arguments = mpsc::Sender<SourceReply>;

    async fn pre_start(
        &self,
        _: ActorRef<SourceReply>,
        sender: mpsc::Sender<SourceReply>,
    ) -> Result<mpsc::Sender<SourceReply>, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _: ActorRef<SourceReply>,
        reply: SourceReply,
        sender: &mut mpsc::Sender<SourceReply>,
    ) -> Result<(), ActorProcessingErr> {
        Ok(sender.send(reply).await?)
    }
}

struct Fixture {
    clock: Arc<StillClock>,
    actor: ActorRef<MessagingMsg>,
    inbox: ActorRef<SourceReply>,
    replies: mpsc::Receiver<SourceReply>,
}

impl Fixture {
    async fn new(nodes: &[String], change: impl FnOnce(&mut Settings)) -> Self {
        let clock = Arc::new(StillClock(AtomicU64::new(START_MS)));
        let mut settings = Settings {
            nodes: nodes.to_vec(),
            timeout: Duration::from_secs(5),
            poll_interval: Duration::from_millis(100),
            live_interval: Duration::from_millis(20),
            ..Settings::default()
        };
        change(&mut settings);
        let (sender, replies) = mpsc::channel(64);
        let (inbox, _) = Actor::spawn(None, Inbox, sender).await.unwrap();
        let metrics = MessagingMetrics::register(&Registry::new()).unwrap();
        let args = Args { settings, clock: clock.clone(), metrics };
        let (actor, _) = nexum_messaging::spawn(args, inbox.get_cell()).await.unwrap();
        Self { clock, actor, inbox, replies }
    }

    /// The time of the test's clock, nanoseconds.
    fn now_ns(&self) -> u64 {
        self.clock.now_ms() * NS_PER_MS
    }

    fn go_on(&self, seconds: u64) {
        self.clock.0.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    fn pull(&self, token: u64, after: Option<Cursor>, at_once: bool) {
        let pull = MessagePull {
            module: "m".into(),
            source: SourceId::new(format!("message:{TOPIC}")),
            token,
            topic: TOPIC.into(),
            history: None,
            after,
            at_once,
            deliveries_max: 64,
            to: self.inbox.get_derived(),
        };
        self.actor.send_message(MessagingMsg::Pull(Box::new(pull))).unwrap();
    }

    /// The payloads of the next answer, and where it leads.
    async fn answer(&mut self) -> (Vec<String>, Cursor) {
        let reply = timeout(PATIENCE, self.replies.recv()).await.unwrap().unwrap();
        let Answer::Events { deliveries, progress: Some(progress), .. } = reply.answer else { panic!("{reply:?}") };
        let payload = |event: &Event| match event {
            Event::Message(message) => String::from_utf8(message.payload.clone()).unwrap(),
            other => panic!("{other:?}"),
        };
        (deliveries.iter().map(|delivery| payload(&delivery.event)).collect(), progress)
    }

    async fn next(&mut self, after: &Cursor) -> (Vec<String>, Cursor) {
        self.pull(1, Some(after.clone()), false);
        self.answer().await
    }

    /// Where a module begins that has no position yet.
    async fn begin(&mut self) -> Cursor {
        self.pull(1, None, false);
        let (deliveries, position) = self.answer().await;
        assert!(deliveries.is_empty());
        position
    }

    async fn publish(&self, payload: &[u8], effect: Option<Hash>, again: bool) -> Result<Vec<u8>, HostError> {
        let publish = Publish { topic: TOPIC.into(), payload: payload.to_vec(), effect, again, deadline: PATIENCE };
        let build = |reply| MessagingMsg::Publish { publish: Box::new(publish), reply };
        match self.actor.call(build, Some(PATIENCE)).await.unwrap() {
            CallResult::Success(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn query(&self, from_ns: u64, messages_max: u32, bytes_max: usize) -> Result<Vec<Message>, HostError> {
        let (start_ns, deadline) = (Some(from_ns), PATIENCE);
        let query = Query { topic: TOPIC.into(), start_ns, end_ns: None, messages_max, bytes_max, deadline };
        let build = |reply| MessagingMsg::Query { query: Box::new(query), reply };
        match self.actor.call(build, Some(PATIENCE)).await.unwrap() {
            CallResult::Success(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// What is waited for, once that is so much.
    async fn waits(&self, count: usize) -> Vec<ChainWait> {
        let told = async {
            loop {
                match self.status().await.waits {
                    waits if waits.len() == count => return waits,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        timeout(PATIENCE, told).await.unwrap()
    }

    async fn status(&self) -> MessagingStatus {
        match self.actor.call(MessagingMsg::Status, Some(PATIENCE)).await.unwrap() {
            CallResult::Success(status) => status,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.inbox.kill();
        self.actor.kill();
    }
}

#[tokio::test]
async fn a_message_is_published_by_relay_and_by_lightpush_and_looked_up() {
    for publish_by in [PublishBy::Relay, PublishBy::Lightpush] {
        let node = Waku::start();
        let change = |settings: &mut Settings| (settings.publish_by, settings.requests_max) = (publish_by, usize::MAX);
        let fixture = Fixture::new(&[node.url()], change).await;
        for payload in ["a", "b", "c"] {
            fixture.publish(payload.as_bytes(), None, false).await.unwrap();
            fixture.go_on(1);
        }
        node.put("/app/1/other/proto", "not this topic", fixture.now_ns());
        let found = fixture.query(0, 2, 1 << 20).await.unwrap();
        let told: Vec<_> = found.iter().map(|it| (it.payload.as_slice(), it.timestamp)).collect();
        assert_eq!(told, [(&b"a"[..], START_MS), (&b"b"[..], START_MS + 1_000)]);
        assert_eq!(fixture.query(START_MS * NS_PER_MS + 1, 10, 1 << 20).await.unwrap().len(), 2);
        let large = fixture.query(0, 10, 20).await.unwrap_err();
        assert_eq!(large.message, "the messages are larger than the limit of 20 bytes");
        assert_eq!(fixture.status().await.published_total, 3);
    }
}

#[tokio::test]
async fn a_refusal_of_a_node_says_whether_it_is_the_limit_of_its_membership() {
    let node = Waku::start();
    for publish_by in [PublishBy::Relay, PublishBy::Lightpush] {
        let fixture = Fixture::new(&[node.url()], |settings| settings.publish_by = publish_by).await;
        node.set(Publishing::RlnLimit);
        let limited = fixture.publish(b"x", None, false).await.unwrap_err();
        assert_eq!((limited.kind, limited.data.is_some()), (HostErrorKind::RateLimited, true));
        assert!(limited.message.contains("the rate limit of the node's membership (RLN)"), "{}", limited.message);
        node.set(Publishing::NoPeers);
        assert_eq!(fixture.publish(b"x", None, false).await.unwrap_err().kind, HostErrorKind::Unavailable);
    }
    assert_eq!(node.stored(TOPIC), []);
}

#[tokio::test]
async fn an_effect_whose_answer_was_lost_is_found_in_the_store_and_not_sent_again() {
    let node = Waku::start();
    let fixture = Fixture::new(&[node.url()], |_| {}).await;
    node.set(Publishing::LosesAnswers);
    let lost = fixture.publish(b"x", Some(Hash([7; 32])), false).await.unwrap_err();
    assert_eq!(lost.kind, HostErrorKind::Unavailable);
    node.set(Publishing::Takes);
    fixture.go_on(30);
    (0..150).for_each(|n| node.put(TOPIC, format!("{n}"), fixture.now_ns() + n));
    assert_eq!(fixture.publish(b"x", Some(Hash([7; 32])), true).await.unwrap(), b"an earlier attempt had arrived");
    assert_eq!(node.stored(TOPIC).len(), 151);
    // Another effect with the same payload is another message.
    assert_eq!(fixture.publish(b"x", Some(Hash([8; 32])), true).await.unwrap(), b"OK");
    assert_eq!(node.stored(TOPIC).len(), 152);
}

#[tokio::test]
async fn an_effect_is_not_sent_again_while_a_store_that_may_have_it_says_nothing() {
    let (mut first, second) = (Waku::start(), Waku::start());
    let effect = Some(Hash([7; 32]));
    let fixture = Fixture::new(&[first.url(), second.url()], |_| {}).await;
    fixture.publish(b"x", effect, false).await.unwrap();
    fixture.go_on(30);
    second.refuse("/store", 412);
    for status in [429, 500, 503] {
        first.refuse("/store", status);
        assert_eq!(fixture.publish(b"x", effect, true).await.unwrap_err().code, i32::from(status));
    }
    first.stop();
    // The other one has no store. That says nothing of the one that is away.
    assert_eq!(fixture.publish(b"x", effect, true).await.unwrap_err().code, 0);
    assert_eq!((first.stored(TOPIC).len(), second.stored(TOPIC).len()), (1, 0));
    let alone = Fixture::new(&[second.url()], |_| {}).await;
    alone.publish(b"x", effect, true).await.unwrap();
    assert_eq!(second.stored(TOPIC).len(), 1, "nobody can know");
}

#[tokio::test]
async fn a_node_that_has_the_message_of_an_effect_is_believed_although_the_next_one_is_away() {
    let (first, mut second) = (Waku::start(), Waku::start());
    let fixture = Fixture::new(&[first.url(), second.url()], |_| {}).await;
    fixture.publish(b"x", Some(Hash([7; 32])), false).await.unwrap();
    second.stop();
    let again = fixture.publish(b"x", Some(Hash([7; 32])), false).await.unwrap();
    assert_eq!(again, b"an earlier attempt had arrived");
}

/// What is on its way to the store is not there yet.
#[tokio::test]
async fn an_effect_that_is_tried_again_soon_is_the_same_message_to_the_network() {
    let node = Waku::start();
    let fixture = Fixture::new(&[node.url()], |_| {}).await;
    let times = |node: &Waku| node.stored(TOPIC).iter().map(|record| record.time_ns).collect::<Vec<_>>();
    fixture.publish(b"x", Some(Hash([7; 32])), false).await.unwrap();
    node.prune(u64::MAX);
    fixture.go_on(5);
    fixture.publish(b"x", Some(Hash([7; 32])), true).await.unwrap();
    assert_eq!(times(&node), [START_MS * NS_PER_MS]);
    let again = fixture.publish(b"x", Some(Hash([7; 32])), false).await.unwrap();
    assert_eq!((again.as_slice(), node.stored(TOPIC).len()), (&b"an earlier attempt had arrived"[..], 1));
    node.prune(u64::MAX);
    fixture.go_on(5);
    fixture.publish(b"x", Some(Hash([7; 32])), true).await.unwrap();
    assert_eq!(times(&node), [START_MS * NS_PER_MS + 10 * NS_PER_S], "a node would not take the old time much longer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_pulled_as_they_come_late_ones_once_and_a_restart_of_the_node_loses_none() {
    let mut node = Waku::start();
    // It would be a long wait if nothing was heard live.
    let mut fixture = Fixture::new(&[node.url()], |settings| settings.poll_interval = PATIENCE).await;
    let mut at = fixture.begin().await;
    let now = fixture.now_ns();
    fixture.pull(1, Some(at), false);
    nexum_testkit::eventually("it listens", || node.is_subscribed(TOPIC).then_some(()).ok_or_else(String::new));
    node.put(TOPIC, "a", now);
    let mut told;
    (told, at) = fixture.answer().await;
    assert_eq!(told, ["a"]);
    node.put(TOPIC, "late", now - 50 * NS_PER_S);
    (told, at) = fixture.next(&at).await;
    assert_eq!(told, ["late"]);
    node.repeat(true);
    node.put(TOPIC, "b", now + 1);
    (told, at) = fixture.next(&at).await;
    assert_eq!(told, ["b"], "what is given twice is one message");
    node.repeat(false);

    fixture.pull(1, Some(at), false);
    node.stop();
    for n in 0..5 {
        node.put(TOPIC, format!("while it was away {n}"), now + 2 + n);
    }
    node.resume();
    (told, _) = fixture.answer().await;
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!(fixture.status().await.gaps_total, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_nothing_of_what_it_listens_to_is_not_asked_without_end() {
    let node = Waku::start();
    node.refuse("/relay/v1/auto/messages", 404);
    let mut fixture = Fixture::new(&[node.url()], |_| {}).await;
    let began = Instant::now();
    let at = fixture.begin().await;
    fixture.pull(1, Some(at), false);
    nexum_testkit::eventually("it looks in the store now and then", || {
        let (queries, refused) = (node.queries(), node.refused());
        (queries >= 10 && refused > 0).then_some(()).ok_or_else(|| format!("{queries} queries, {refused} refused"))
    });
    let (refused, most) = (node.refused(), began.elapsed().as_secs() + 2);
    assert!(refused <= most, "{refused} times, at most {most}");
}

#[tokio::test]
async fn the_next_node_is_asked_when_one_is_away_and_the_status_says_so() {
    let (mut first, second) = (Waku::start(), Waku::start());
    let mut fixture = Fixture::new(&[first.url(), second.url()], |_| {}).await;
    let at = fixture.begin().await;
    let now = fixture.now_ns();
    [&first, &second].iter().for_each(|node| node.put(TOPIC, "a", now));
    let (told, at) = fixture.next(&at).await;
    assert_eq!(told, ["a"]);
    first.stop();
    second.put(TOPIC, "b", now + 1);
    let (told, _) = fixture.next(&at).await;
    assert_eq!(told, ["b"]);
    let nodes = fixture.status().await.nodes;
    assert!(nodes[0].failing_ms.is_some() && nodes[0].last_error.is_some(), "{nodes:?}");
    assert_eq!((nodes[1].failing_ms, nodes[1].name.as_str()), (None, second.url().as_str()));
    fixture.publish(b"c", None, false).await.unwrap();
    assert_eq!(second.stored(TOPIC).len(), 3);
}

#[tokio::test]
async fn what_waits_because_of_the_nodes_is_told_with_its_age_until_it_is_over() {
    let node = Waku::start();
    node.refuse("/store", 412);
    node.set(Publishing::NoPeers);
    let mut fixture = Fixture::new(&[node.url()], |_| {}).await;
    let at = fixture.begin().await;
    assert_eq!(fixture.status().await.waits, []);
    fixture.pull(1, Some(at), false);
    fixture.publish(b"x", None, false).await.unwrap_err();
    fixture.waits(2).await;
    fixture.go_on(5);
    let waits = fixture.waits(2).await;
    let told = |at: usize| (waits[at].module.as_deref(), waits[at].age_ms);
    assert_eq!((told(0), told(1)), ((Some("m"), 5_000), (None, 5_000)));
    let of_topic = format!("messages of topic {TOPIC}; Waku node {}: store: the node knows no store", node.url());
    assert!(waits[0].reason.starts_with(&of_topic), "{waits:?}");
    assert!(waits[1].reason.starts_with("a node that takes messages; "), "{waits:?}");
    // Nobody tries to publish any more; the module's look has failed a moment ago.
    fixture.go_on(20 * 60);
    assert_eq!(fixture.waits(1).await[0].module.as_deref(), Some("m"));
    node.refuse("/nothing", 404);
    node.put(TOPIC, "a", fixture.now_ns());
    assert_eq!(fixture.answer().await.0, ["a"]);
    fixture.waits(0).await;
}

#[tokio::test]
async fn the_next_node_is_asked_when_one_does_not_reach_its_store() {
    for refusal in [
        (504, "PEER_DIAL_FAILURE: 16Uiu2HAm"),
        (300, "BAD_RESPONSE: Stream Reset!"),
        (400, "BAD_REQUEST: Stream Reset!"),
    ] {
        let (first, second) = (Waku::start(), Waku::start());
        let fixture = Fixture::new(&[first.url(), second.url()], |_| {}).await;
        first.refuse_within(Some(refusal));
        second.put(TOPIC, "a", fixture.now_ns());
        assert_eq!(fixture.query(0, 10, 1 << 20).await.unwrap().len(), 1, "{refusal:?}");
        let nodes = fixture.status().await.nodes;
        assert!(nodes[0].last_error.as_ref().is_some_and(|told| told.contains(refusal.1)), "{nodes:?}");
        assert!(nodes[0].failing_ms.is_some() && nodes[1].failing_ms.is_none(), "{nodes:?}");
    }
}

#[tokio::test]
async fn a_pull_that_is_forgotten_or_replaced_has_no_answer() {
    let node = Waku::start();
    let mut fixture = Fixture::new(&[node.url()], |_| {}).await;
    let at = fixture.begin().await;
    fixture.pull(1, Some(at.clone()), false);
    fixture.actor.send_message(MessagingMsg::Forget { module: "m".into() }).unwrap();
    assert_eq!(fixture.status().await.topics, 0);
    fixture.pull(2, Some(at.clone()), false);
    fixture.pull(3, Some(at), false);
    assert_eq!(fixture.status().await.topics, 1);
    node.put(TOPIC, "a", fixture.now_ns());
    let reply = timeout(PATIENCE, fixture.replies.recv()).await.unwrap().unwrap();
    assert_eq!(reply.token, 3);
    assert!(fixture.replies.try_recv().is_err());
}
