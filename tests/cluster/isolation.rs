//! A leader cut off from everybody: it may keep no caller waiting past its deadline, may promise nothing, and may not
//! show old state as current (G3, G8).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::server::SystemClock;
use quorate::types::Clock;
use quorate_client::proto::get_outcome_response::State;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::{AppendRequest, GetOutcomeRequest, NewMessage as Message};
use quorate_client::{Append, NewMessage, Read, Start};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::{Cluster, Heal, Lane, Load, Loss, NODES, Pace, Readers, Way, Witness};

/// The node that is cut off.
const ALONE: u32 = 1;
/// The time that callers give it.
const PATIENCE: Duration = Duration::from_secs(5);
/// On the way of an answer that came in time.
const SLACK: Duration = Duration::from_millis(250);
/// Appends of one wave: more than fit into the entries that a group has under way at once.
const WAVE: usize = 100;
const PACE: Pace = Pace::Trickle(Duration::from_millis(25));
const WINDOW: usize = 16;
const GOES_ON: u64 = 10;
/// Who appends through it, and what.
const SENDER: &str = "alone";
const PAYLOAD: &str = "from the one that is alone";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_alone_tells_the_truth_when_its_messages_vanish() {
    isolate(Loss::Swallowed, Heal::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_alone_tells_the_truth_when_its_messages_come_late() {
    isolate(Loss::Held, Heal::Late).await;
}

/// What such a node was delivering, or is asked to deliver, comes from the others while it stands alone, although it goes
/// on answering (G6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_alone_keeps_no_stream_from_what_the_others_acknowledge() {
    let mut cluster = Cluster::start_with_links().await;
    let mut load = Load::start(&cluster, "followed", &[Way::Among(2, 3)], WINDOW, PACE).await;
    let mut readers = Readers::none();
    readers.begin_through(ALONE, &cluster, &load).await;
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    readers.wait_acknowledged(&load).await;
    assert!(!cluster.leaders(&NODES).await[&ALONE].is_empty(), "each node leads some groups");

    let others = [2, 3].map(|node| [(ALONE, node), (node, ALONE)]).concat();
    cluster.links().lose(&others, Loss::Swallowed);
    readers.begin_through(ALONE, &cluster, &load).await;
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    let began = Instant::now();
    readers.wait_acknowledged(&load).await;
    println!("all streams have left the node {:.1} s after", began.elapsed().as_secs_f64());
    cluster.links().heal(Heal::Cut);

    cluster.wait_ready().await;
    load.finish().await;
    readers.wait_complete().await;
    load.verify(&cluster).await;
    drop(readers);
    cluster.stop_and_check().await;
}

async fn isolate(loss: Loss, heal: Heal) {
    let mut cluster = Cluster::start_with_links().await;
    // Those that go straight to leaders can reach the one that is alone, and learn the topology from it at first.
    let ways = [Way::Among(2, 3), Way::Among(2, 3), Way::Leaders];
    let mut load = Load::start(&cluster, "others", &ways, WINDOW, PACE).await;
    let witness = Witness::start(&cluster, &load).await;
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    let leaders = cluster.leaders(&NODES).await;
    let led = *leaders[&ALONE].first().expect("each node leads some groups");
    let other = *leaders[&2].first().expect("each node leads some groups");
    let topology = cluster.client_of_leaders().await;
    let room_in = |group| {
        let mut names = (0..).map(|number| format!("alone/{number}"));
        names.find(|name| topology.group_of(name) == Some(group)).unwrap()
    };
    let (own, forwarded) = (room_in(led), room_in(other));
    let alone = Endpoint::from_shared(format!("http://{}", cluster.endpoint(ALONE))).unwrap();
    let mut waves = Waves {
        channel: alone.connect_lazy(),
        issued_at_us: SystemClock.now().0,
        outcomes: BTreeMap::new(),
    };

    let others = [2, 3].map(|node| [(ALONE, node), (node, ALONE)]).concat();
    let straight = |lane: &Lane| lane.way == Way::Leaders;
    load.take_longest_pause(|_| true);
    cluster.links().lose(&others, loss);
    let (answered, failed) = (witness.answered_by(ALONE), witness.failed_at(ALONE));
    // At once, while it is still the leader of its own group for everybody.
    waves.send(&own, "early").await;
    load.wait_flowing(&load.progress(), GOES_ON, |_| true).await;
    let now = cluster.leaders(&[2, 3]).await;
    assert!(now[&ALONE].is_empty(), "the others have leaders of their own: {now:?}");
    // The seq that its own appends would have taken is given to somebody else.
    let survivors = cluster.client_among(&[2, 3]).await;
    let append = Append::new(&own, "somebody else", NewMessage::text("first"));
    assert_eq!(survivors.append(append).await.unwrap().first_seq, 1);
    waves.send(&own, "late").await;
    waves.send(&forwarded, "forwarded").await;
    let reads = (witness.answered_by(ALONE) - answered, witness.failed_at(ALONE) - failed);
    assert!(reads.1 > 0, "reads through the node fail: {reads:?}");
    cluster.links().heal(heal);

    cluster.wait_ready().await;
    witness.wait_answered(ALONE, GOES_ON).await;
    witness.finish().await;
    load.finish().await;
    cluster.wait_level().await;
    let straight_pause = load.take_longest_pause(straight).as_secs_f64();
    let pause = load.take_longest_pause(|lane| !straight(lane)).as_secs_f64();
    println!(
        "{loss:?} {heal:?}: the others waited for {pause:.2} s at most, those straight to leaders for \
         {straight_pause:.2} s; reads through it {reads:?}"
    );
    waves.compare(&cluster).await;
    waves.send_again(&cluster, &own).await;
    load.verify(&cluster).await;
    cluster.stop_and_check().await;
}

/// Appends through the node that is alone, and what it said of each.
struct Waves {
    channel: Channel,
    issued_at_us: u64,
    /// By conversation and id: whether it may have taken effect.
    outcomes: BTreeMap<(String, String), bool>,
}

impl Waves {
    /// Sends a wave. Every append must fail as it ought to, in time.
    async fn send(&mut self, conversation: &str, name: &str) {
        let mut appends = JoinSet::new();
        for number in 0..WAVE {
            let id = format!("{name}-{number}");
            let mut log = MessageLogClient::new(self.channel.clone());
            let mut request = Request::new(self.request(conversation, &id));
            request.set_timeout(PATIENCE);
            appends.spawn(async move {
                let began = Instant::now();
                let answer = log.append(request).await;
                (id, answer.map(tonic::Response::into_inner), began.elapsed())
            });
        }
        let mut reasons = BTreeMap::<String, usize>::new();
        while let Some(answered) = appends.join_next().await {
            let (id, answer, took) = answered.unwrap();
            let status = answer.expect_err("nobody else has heard of it");
            assert!(took <= PATIENCE + SLACK, "{id}: {took:?}: {status}");
            let (reason, effect) = judge(&status);
            *reasons.entry(format!("{reason} {effect}")).or_default() += 1;
            self.outcomes.insert((conversation.to_owned(), id), effect);
        }
        println!("{name}: reasons and whether it may have taken effect: {reasons:?}");
    }

    /// What was said to have had no effect has none; both was said.
    async fn compare(&self, cluster: &Cluster) {
        let client = cluster.client_of_leaders().await;
        let mut committed = 0;
        for ((conversation, id), effect) in &self.outcomes {
            let request = GetOutcomeRequest {
                conversation: conversation.clone(),
                sender: SENDER.to_owned(),
                client_msg_id: id.clone(),
                ..GetOutcomeRequest::default()
            };
            let state = client.outcome(request).await.unwrap().state();
            assert!(*effect || state == State::NotCommitted, "{id} is {state:?}");
            committed += usize::from(state == State::Committed);
        }
        let uncertain = self.outcomes.values().filter(|effect| **effect).count();
        println!("{} appends, {uncertain} uncertain, {committed} committed", self.outcomes.len());
        assert!((1..self.outcomes.len()).contains(&uncertain), "both kinds are there");
    }

    /// A caller that sends all of them again has each once.
    async fn send_again(&self, cluster: &Cluster, conversation: &str) {
        let client = cluster.client(ALONE).await;
        let ids = self.outcomes.keys().filter(|(name, _)| name == conversation);
        let ids: BTreeSet<String> = ids.map(|(_, id)| id.clone()).collect();
        for id in &ids {
            let message = NewMessage::new(PAYLOAD).client_msg_id(id);
            let message = message.issued_at_us(self.issued_at_us);
            client.append(Append::new(conversation, SENDER, message)).await.unwrap();
        }
        let read = Read::new(conversation).start(Start::Seq(1));
        let page = client.read(read).await.unwrap();
        let found: BTreeSet<String> =
            page.messages.iter().skip(1).map(|message| message.client_msg_id.clone()).collect();
        assert_eq!(found, ids);
        assert_eq!(page.messages.len(), ids.len() + 1, "each once");
    }

    fn request(&self, conversation: &str, id: &str) -> AppendRequest {
        let message = Message {
            client_msg_id: id.to_owned(),
            issued_at_us: self.issued_at_us,
            payload: PAYLOAD.into(),
            ..Message::default()
        };
        AppendRequest {
            conversation: conversation.to_owned(),
            sender: SENDER.to_owned(),
            messages: vec![message],
            expected_tail: None,
        }
    }
}

/// Panics unless the error is what a caller can retry; returns its reason and whether it may have taken effect.
fn judge(status: &Status) -> (String, bool) {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("an error without details: {status:?}"));
    let says = |key: &str| info.metadata.get(key).map(String::as_str);
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(says("retryable"), Some("true"), "{status}");
    let effect = match says("may_have_taken_effect") {
        Some("true") => true,
        Some("false") => false,
        other => panic!("{other:?} says nothing: {status}"),
    };
    (info.reason, effect)
}
