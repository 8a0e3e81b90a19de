//! Sends chat at a steady rate and notes every acknowledgement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use quorate_client::proto::Message;
use quorate_client::{Append, AppendHandle, Client, NewMessage, Session, SessionOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{REQUEST_TIMEOUT, say};
use crate::cli::Output;
use crate::cli::chat::{ChatLine, SENT_AT_HEADER};

/// Appends of one session without an outcome.
const IN_FLIGHT_MAX: usize = 2_048;
/// An hour: above whatever an append may take.
const LATENCY_US_MAX: u64 = 3_600_000_000;
const TICK: Duration = Duration::from_millis(10);

/// What tells a message from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    conversation: String,
    sender: String,
    client_msg_id: String,
}

impl Id {
    pub fn of(line: &ChatLine) -> Id {
        Id {
            conversation: line.conversation.clone(),
            sender: line.sender.clone(),
            client_msg_id: line.client_msg_id.clone(),
        }
    }

    /// Of a message that was read.
    pub fn at(conversation: &str, message: &Message) -> Id {
        Id {
            conversation: conversation.to_owned(),
            sender: message.sender.clone(),
            client_msg_id: message.client_msg_id.clone(),
        }
    }
}

/// What was sent and what was acknowledged.
pub struct Sent {
    /// In the order of sending, by conversation.
    pub lines: BTreeMap<String, Vec<ChatLine>>,
    /// Seq of each acknowledged message.
    pub acknowledged: BTreeMap<Id, u64>,
    /// How many were not acknowledged.
    pub failed: usize,
    /// The first failure of an append, if there was one.
    pub failure: Option<String>,
    /// Longest time between two acknowledgements while messages were waiting for theirs.
    pub longest_pause: Duration,
    /// Microseconds from handing in to acknowledgement.
    pub latency_us: Histogram<u64>,
    /// How long it all took.
    pub took: Duration,
}

/// A running load.
pub struct Load {
    output: Output,
    progress: ProgressBar,
    /// Closed once sending and collecting have ended.
    outcomes: watch::Receiver<usize>,
    tasks: JoinSet<anyhow::Result<()>>,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
    lines: BTreeMap<String, Vec<ChatLine>>,
    began: Instant,
}

struct Acknowledgements {
    seqs: BTreeMap<Id, u64>,
    failed: usize,
    failure: Option<String>,
    latency_us: Histogram<u64>,
    last: Instant,
    longest_pause: Duration,
}

impl Load {
    /// Begins. A conversation is sent through one node, so that each sender's order is that of the file.
    pub fn start(
        clients: &[Client],
        lines: Vec<ChatLine>,
        rate: u32,
        output: Output,
    ) -> anyhow::Result<Load> {
        let (count, outcomes) = watch::channel(0);
        let acknowledgements = Arc::new(Mutex::new(Acknowledgements {
            seqs: BTreeMap::new(),
            failed: 0,
            failure: None,
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)?,
            last: Instant::now(),
            longest_pause: Duration::ZERO,
        }));
        let template = "  {bar:40} {pos}/{len} acknowledged, {per_sec}";
        let progress = output.progress(Some(lines.len() as u64), template);
        let mut by_conversation = BTreeMap::<String, Vec<ChatLine>>::new();
        let mut by_node = vec![Vec::new(); clients.len()];
        let mut nodes = BTreeMap::new();
        for line in lines {
            let next = nodes.len() % clients.len();
            let node = *nodes.entry(line.conversation.clone()).or_insert(next);
            by_node[node].push(line.clone());
            by_conversation.entry(line.conversation.clone()).or_default().push(line);
        }
        let total: usize = by_node.iter().map(Vec::len).sum();
        let mut tasks = JoinSet::new();
        for (client, lines) in clients.iter().zip(by_node) {
            let options = SessionOptions {
                in_flight_max: IN_FLIGHT_MAX,
                append_timeout: REQUEST_TIMEOUT,
                ..SessionOptions::default()
            };
            let session = client.session(options)?;
            // Each node's share of the rate is its share of the messages: all end together.
            let rate = f64::from(rate) * lines.len() as f64 / total as f64;
            let (handles, receiver) = mpsc::channel(IN_FLIGHT_MAX);
            tasks.spawn(send(session, lines, rate, handles));
            let collecting =
                collect(receiver, acknowledgements.clone(), count.clone(), progress.clone());
            tasks.spawn(collecting);
        }
        Ok(Load {
            output,
            progress,
            outcomes,
            tasks,
            acknowledgements,
            lines: by_conversation,
            began: Instant::now(),
        })
    }

    /// Says something without disturbing the progress bar.
    pub fn note(&self, what: &str) {
        self.progress.suspend(|| say(self.output, what));
    }

    /// Waits until so many messages are acknowledged or have failed, or there is nobody any more who would say so.
    pub async fn wait_for_outcomes(&self, count: usize) {
        let mut outcomes = self.outcomes.clone();
        // Only those who collect can tell of another one: it fails when all of them have ended.
        let _ = outcomes.wait_for(|known| *known >= count).await;
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> anyhow::Result<Sent> {
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        self.progress.finish_and_clear();
        let acknowledgements = Arc::into_inner(self.acknowledgements).context("still counting")?;
        let acknowledgements = acknowledgements.into_inner()?;
        Ok(Sent {
            lines: self.lines,
            acknowledged: acknowledgements.seqs,
            failed: acknowledgements.failed,
            failure: acknowledgements.failure,
            longest_pause: acknowledgements.longest_pause,
            latency_us: acknowledgements.latency_us,
            took: self.began.elapsed(),
        })
    }
}

type Pending = (Id, Instant, AppendHandle);

/// Hands messages in at a rate; where the window is full, later ones wait and the rate is made up for.
async fn send(
    session: Session,
    lines: Vec<ChatLine>,
    rate: f64,
    handles: mpsc::Sender<Pending>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    let mut lines = lines.into_iter();
    let mut sent = 0;
    // A node without a share of the messages is never due any.
    while lines.len() > 0 {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate) as usize;
        for line in lines.by_ref().take(due.saturating_sub(sent)) {
            let id = Id::of(&line);
            let mut message = NewMessage::text(line.text).client_msg_id(line.client_msg_id);
            if let Some(time) = line.sent_at {
                message = message.header(SENT_AT_HEADER, time);
            }
            let at = Instant::now();
            let handle = session.append(Append::new(line.conversation, line.sender, message)).await;
            handles.send((id, at, handle)).await?;
            sent += 1;
        }
    }
    Ok(())
}

async fn collect(
    mut handles: mpsc::Receiver<Pending>,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
    outcomes: watch::Sender<usize>,
    progress: ProgressBar,
) -> anyhow::Result<()> {
    while let Some((id, handed_in, handle)) = handles.recv().await {
        let outcome = handle.await;
        let mut noted =
            acknowledgements.lock().map_err(|_| anyhow::anyhow!("a task has failed"))?;
        let now = Instant::now();
        // An acknowledgement is only missed while something waits for it.
        let pause = now.duration_since(noted.last.max(handed_in));
        noted.longest_pause = noted.longest_pause.max(pause);
        noted.last = now;
        match outcome {
            Ok(appended) => {
                let latency = now.duration_since(handed_in).as_micros();
                noted.latency_us.saturating_record(u64::try_from(latency)?);
                noted.seqs.insert(id, appended.first_seq);
                progress.inc(1);
            }
            Err(error) => {
                noted.failed += 1;
                let place = format!("{} of {} in {}", id.client_msg_id, id.sender, id.conversation);
                noted.failure.get_or_insert_with(|| format!("{place}: {error}"));
            }
        }
        drop(noted);
        outcomes.send_modify(|known| *known += 1);
    }
    Ok(())
}
