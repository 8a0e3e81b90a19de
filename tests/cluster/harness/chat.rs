//! Chat with ids of its own: sent once or more, and found again on every node.

use std::collections::BTreeMap;
use std::path::Path;

use quorate::server::SystemClock;
use quorate::types::Clock;
use quorate_client::proto::Message;
use quorate_client::{Append, Client, Consistency, NewMessage, Page, Read, SessionOptions, Start};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Cluster, NODES, TIMEOUT};

/// Seq of each acknowledged message, by client_msg_id.
pub type Acknowledged = BTreeMap<String, u64>;

/// One line of chat.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub conversation: String,
    pub sender: String,
    pub client_msg_id: String,
    pub text: String,
}

/// Lines of an NDJSON file.
pub fn read_lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Short messages of a few senders to a few conversations.
pub fn generated(count: u32) -> Vec<Line> {
    let line = |number: u32| Line {
        conversation: format!("test/room-{}", number % 17),
        sender: format!("user-{}", number % 29),
        client_msg_id: format!("short-{number}"),
        text: format!("message {number}"),
    };
    (0..count).map(line).collect()
}

/// Messages of some kilobytes.
pub fn large(count: u32, bytes: usize) -> Vec<Line> {
    let line = |number: u32| Line {
        conversation: format!("test/large-{}", number % 7),
        sender: "archivist".to_owned(),
        client_msg_id: format!("large-{number}"),
        text: format!("{number} ").repeat(bytes / 4),
    };
    (0..count).map(line).collect()
}

/// Chat to send, and to find again.
pub struct Chat {
    lines: Vec<Line>,
    pub by_conversation: BTreeMap<String, Vec<Line>>,
    issued_at_us: u64,
}

/// Chat on its way.
pub struct Sending {
    tasks: JoinSet<Acknowledged>,
    count: watch::Receiver<usize>,
}

impl Chat {
    pub fn new(lines: Vec<Line>) -> Self {
        let mut by_conversation = BTreeMap::<String, Vec<Line>>::new();
        for line in &lines {
            by_conversation.entry(line.conversation.clone()).or_default().push(line.clone());
        }
        let issued_at_us = SystemClock.now().0;
        Chat { lines, by_conversation, issued_at_us }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many messages each group has of it.
    pub fn by_group(&self, topology: &Client) -> BTreeMap<u64, usize> {
        let mut messages = BTreeMap::new();
        for (conversation, lines) in &self.by_conversation {
            let group = topology.group_of(conversation).expect("the topology is known");
            *messages.entry(group).or_default() += lines.len();
        }
        messages
    }

    /// Sends everything, pipelined, each conversation through one node; the same ids and times at each call.
    pub async fn begin(&self, cluster: &Cluster) -> Sending {
        let (counter, count) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for node in NODES {
            let client = cluster.client(node).await;
            let options = SessionOptions { append_timeout: TIMEOUT, ..SessionOptions::default() };
            let session = client.session(options).unwrap();
            let rooms: BTreeMap<_, _> = self.by_conversation.keys().zip(0..).collect();
            let lines = self.lines.iter().filter(|line| rooms[&line.conversation] % 3 + 1 == node);
            let (lines, issued_at_us) = (lines.cloned().collect::<Vec<_>>(), self.issued_at_us);
            let (handles, mut pending) = mpsc::channel(8_192);
            tokio::spawn(async move {
                for line in lines {
                    let message = NewMessage::text(line.text)
                        .client_msg_id(line.client_msg_id.clone())
                        .issued_at_us(issued_at_us);
                    let append = Append::new(line.conversation, line.sender, message);
                    let handle = session.append(append).await;
                    handles.send((line.client_msg_id, handle)).await.unwrap();
                }
            });
            let counter = counter.clone();
            tasks.spawn(async move {
                let mut acknowledged = Acknowledged::new();
                while let Some((id, handle)) = pending.recv().await {
                    let appended = handle.await.unwrap_or_else(|error| panic!("{id}: {error}"));
                    acknowledged.insert(id, appended.first_seq);
                    counter.send_modify(|count| *count += 1);
                }
                acknowledged
            });
        }
        Sending { tasks, count }
    }

    /// Reads everything from every node at every level and compares.
    pub async fn verify(&self, cluster: &Cluster, acknowledged: &Acknowledged) {
        let mut clients = Vec::new();
        for node in NODES {
            clients.push((node, cluster.client_of(node).await));
        }
        let mut total = 0;
        for (conversation, lines) in &self.by_conversation {
            let mut first: Option<Vec<Message>> = None;
            for (node, client) in &clients {
                for consistency in [
                    Consistency::Linearizable,
                    Consistency::Local,
                    Consistency::AtLeast(lines.len() as u64),
                    Consistency::MaxStalenessMs(60_000),
                ] {
                    let page = read_all(client, conversation, consistency).await;
                    let position = page.position.as_ref().unwrap();
                    let place = format!("{conversation} on node {node} at {consistency:?}");
                    // Each node has a replica of everything, and so needs no other.
                    assert_eq!(position.node_id, u64::from(*node), "{place}");
                    assert!(position.applied_index > 0, "{place}");
                    match &first {
                        None => first = Some(page.messages),
                        Some(first) => assert!(*first == page.messages, "{place} differs"),
                    }
                }
            }
            let messages = first.unwrap();
            self.compare(conversation, lines, &messages, acknowledged);
            total += messages.len();
        }
        assert_eq!(total, self.len(), "nothing is lost, nothing is there twice");
    }

    fn compare(
        &self,
        conversation: &str,
        lines: &[Line],
        messages: &[Message],
        acknowledged: &Acknowledged,
    ) {
        // One session sent the conversation: its order is the order of the lines.
        assert_eq!(messages.len(), lines.len(), "{conversation}");
        for ((line, message), seq) in lines.iter().zip(messages).zip(1..) {
            assert_eq!(message.seq, seq, "{conversation}");
            assert_eq!(message.client_msg_id, line.client_msg_id, "{conversation} at {seq}");
            assert_eq!(message.sender, line.sender);
            assert_eq!(message.payload, line.text);
            assert_eq!(acknowledged.get(&line.client_msg_id), Some(&seq), "{conversation}");
        }
    }
}

async fn read_all(client: &Client, conversation: &str, consistency: Consistency) -> Page {
    let read = Read::new(conversation).start(Start::Seq(1)).limit(100_000);
    client.read(read.consistency(consistency)).await.unwrap()
}

impl Sending {
    /// Waits until so many messages are acknowledged.
    pub async fn wait_for_acknowledged(&self, count: usize) {
        let mut counted = self.count.clone();
        let reached = counted.wait_for(|acknowledged| *acknowledged >= count);
        let reached = tokio::time::timeout(TIMEOUT, reached).await;
        assert!(matches!(reached, Ok(Ok(_))), "{count} messages are acknowledged in time");
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> Acknowledged {
        let mut all = Acknowledged::new();
        while let Some(part) = self.tasks.join_next().await {
            all.extend(part.expect("sending succeeds"));
        }
        all
    }
}
