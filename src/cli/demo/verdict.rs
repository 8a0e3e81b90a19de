//! What became of the messages, and the table that says so.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use quorate_client::proto::Message;
use quorate_client::{Client, Read, Start};
use serde_json::json;

use super::load::{Id, Sent};
use crate::cli::chat::{ChatLine, SENT_AT_HEADER};

const PAGE: u32 = 10_000;

/// What became of the messages.
pub struct Verdict {
    sent: usize,
    acknowledged: usize,
    failed: usize,
    /// The first failure of an append.
    failure: Option<String>,
    /// Not where the acknowledgement said.
    lost: BTreeSet<Id>,
    duplicated: BTreeSet<Id>,
    /// There with another content.
    altered: BTreeSet<Id>,
    /// There before an earlier one of their sender.
    out_of_order: BTreeSet<Id>,
    /// The digest of each conversation's end on the first replica, and whether all others have the same.
    digests: BTreeMap<String, Vec<u8>>,
    identical: bool,
    /// The nodes whose replicas were read.
    replicas: BTreeSet<u64>,
    longest_pause: Duration,
    p50: Duration,
    p99: Duration,
    took: Duration,
}

impl Verdict {
    /// Nothing was read back yet.
    pub fn new(sent: &Sent) -> Self {
        let quantile = |q| Duration::from_micros(sent.latency_us.value_at_quantile(q));
        let lines: usize = sent.lines.values().map(Vec::len).sum();
        Verdict {
            sent: lines,
            // Not the length of `acknowledged`: a file may have a line twice.
            acknowledged: lines.saturating_sub(sent.failed),
            failed: sent.failed,
            failure: sent.failure.clone(),
            lost: BTreeSet::new(),
            duplicated: BTreeSet::new(),
            altered: BTreeSet::new(),
            out_of_order: BTreeSet::new(),
            digests: BTreeMap::new(),
            identical: true,
            replicas: BTreeSet::new(),
            longest_pause: sent.longest_pause,
            p50: quantile(0.5),
            p99: quantile(0.99),
            took: sent.took,
        }
    }

    /// Reads every conversation from the own replica of the one node that `client` knows, and compares it with what
    /// was sent.
    ///
    /// # Errors
    ///
    /// If something cannot be read, or was read from another replica.
    pub async fn add_replica(&mut self, client: &Client, sent: &Sent) -> anyhow::Result<()> {
        let mut node = None;
        for (conversation, lines) in &sent.lines {
            let mut messages = Vec::new();
            loop {
                let next = messages.last().map_or(1, |last: &Message| last.seq + 1);
                // Linearizable: the replica has applied all that was acknowledged.
                let read = Read::new(conversation).start(Start::Seq(next)).limit(PAGE);
                let page = client.read(read).await.context("reading back")?;
                let position = page.position.context("a read that says not where it was read")?;
                let first = *node.get_or_insert(position.node_id);
                ensure!(
                    position.node_id == first,
                    "node {} answered for node {first}",
                    position.node_id
                );
                messages.extend(page.messages);
                if messages.last().is_none_or(|last| last.seq + 1 >= page.tail) {
                    break;
                }
            }
            self.compare(conversation, &messages, lines, sent);
        }
        ensure!(
            self.replicas.insert(node.context("nothing was sent")?),
            "a replica was read twice"
        );
        Ok(())
    }

    fn compare(
        &mut self,
        conversation: &str,
        messages: &[Message],
        lines: &[ChatLine],
        sent: &Sent,
    ) {
        let mut stored = BTreeMap::new();
        for message in messages {
            match stored.entry((message.sender.as_str(), message.client_msg_id.as_str())) {
                Entry::Vacant(place) => drop(place.insert(message)),
                Entry::Occupied(_) => drop(self.duplicated.insert(Id::at(conversation, message))),
            }
        }
        let mut last_of_sender = BTreeMap::<&str, u64>::new();
        let mut seen = BTreeSet::new();
        for line in lines {
            let name = (line.sender.as_str(), line.client_msg_id.as_str());
            // The first line with an id is the message. Another one is a retry, or was refused as a conflict.
            if !seen.insert(name) {
                continue;
            }
            let found = stored.get(&name);
            let id = Id::of(line);
            let promised = sent.acknowledged.get(&id).copied();
            if promised.is_some() && found.map(|message| message.seq) != promised {
                self.lost.insert(id.clone());
            }
            let Some(message) = found else { continue };
            if !is_as_sent(message, line) {
                self.altered.insert(id.clone());
            }
            let last = last_of_sender.entry(&line.sender).or_default();
            if message.seq < *last {
                self.out_of_order.insert(id);
            }
            *last = message.seq;
        }
        let digest = messages.last().map(|last| last.digest.to_vec()).unwrap_or_default();
        let first = self.digests.entry(conversation.to_owned()).or_insert_with(|| digest.clone());
        self.identical &= *first == digest;
    }

    /// Success if everything was acknowledged and is there, as it was sent.
    pub fn exit_code(&self) -> ExitCode {
        match self.promises_were_kept() && self.failed == 0 {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn promises_were_kept(&self) -> bool {
        self.lost.is_empty()
            && self.duplicated.is_empty()
            && self.altered.is_empty()
            && self.out_of_order.is_empty()
            && self.identical
    }

    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let identical = if self.identical { "yes" } else { "NO" };
        let rows = [
            ("sent", self.sent.to_string()),
            ("acknowledged", self.acknowledged.to_string()),
            ("failed", self.failed.to_string()),
            ("lost", self.lost.len().to_string()),
            ("duplicated", self.duplicated.len().to_string()),
            ("out of order", self.out_of_order.len().to_string()),
            ("altered", self.altered.len().to_string()),
            ("identical on all replicas", format!("{identical} ({} read)", self.replicas.len())),
            ("longest pause", format!("{:.2} s", self.longest_pause.as_secs_f64())),
            ("acknowledgement p50", format!("{:.2} ms", self.p50.as_secs_f64() * 1e3)),
            ("acknowledgement p99", format!("{:.2} ms", self.p99.as_secs_f64() * 1e3)),
            ("took", format!("{:.1} s", self.took.as_secs_f64())),
        ];
        for (name, value) in rows {
            table.add_row([name.to_owned(), value]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n");
        let verdict = match self.promises_were_kept() {
            true => "A leader was killed, and nothing that was acknowledged was lost.",
            false => "Promises were broken: please report this.",
        };
        writeln!(text, "{verdict}").expect("writing to a String cannot fail");
        if cfg!(debug_assertions) {
            writeln!(
                text,
                "This is a development build: a release build acknowledges many times faster."
            )
            .expect("writing to a String cannot fail");
        }
        if let Some(failure) = &self.failure {
            writeln!(text, "Not everything was acknowledged: {failure}")
                .expect("writing to a String cannot fail");
        }
        text
    }

    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "failed": self.failed,
            "first_failure": self.failure,
            "lost": self.lost.len(),
            "duplicated": self.duplicated.len(),
            "out_of_order": self.out_of_order.len(),
            "altered": self.altered.len(),
            "identical_on_all_replicas": self.identical,
            "replicas": self.replicas.len(),
            "longest_pause_seconds": self.longest_pause.as_secs_f64(),
            "acknowledgement_p50_seconds": self.p50.as_secs_f64(),
            "acknowledgement_p99_seconds": self.p99.as_secs_f64(),
            "took_seconds": self.took.as_secs_f64(),
        })
    }
}

/// Whether a message has a line's text and time.
fn is_as_sent(message: &Message, line: &ChatLine) -> bool {
    let headers = message.headers.iter().map(|header| (header.name.as_str(), &header.value[..]));
    let sent_at = line.sent_at.as_ref().map(|time| (SENT_AT_HEADER, time.as_bytes()));
    message.payload == line.text.as_bytes() && headers.eq(sent_at)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use quorate_client::proto::Header;

    use super::*;

    const ROOM: &str = "room";

    fn line(number: u64) -> ChatLine {
        ChatLine {
            conversation: ROOM.to_owned(),
            sender: "ann".to_owned(),
            client_msg_id: format!("id-{number}"),
            sent_at: Some("2004-12-25T09:14:00Z".to_owned()),
            text: format!("text {number}"),
        }
    }

    /// Five messages of one sender, each acknowledged at its own number.
    fn sent() -> Sent {
        Sent {
            lines: BTreeMap::from([(ROOM.to_owned(), (1..=5).map(line).collect())]),
            acknowledged: (1..=5).map(|number| (Id::of(&line(number)), number)).collect(),
            failed: 0,
            failure: None,
            longest_pause: Duration::ZERO,
            latency_us: Histogram::new(3).unwrap(),
            took: Duration::from_secs(1),
        }
    }

    /// A message as it is stored at a seq.
    fn message(seq: u64, number: u64) -> Message {
        let line = line(number);
        let sent_at = line.sent_at.unwrap().into();
        Message {
            seq,
            sender: line.sender,
            client_msg_id: line.client_msg_id,
            headers: vec![Header { name: SENT_AT_HEADER.to_owned(), value: sent_at }],
            payload: line.text.into(),
            digest: vec![seq as u8; 32].into(),
            ..Message::default()
        }
    }

    /// The same five as a replica has them.
    fn stored() -> Vec<Message> {
        (1..=5).map(|number| message(number, number)).collect()
    }

    fn verdict(sent: &Sent, replicas: &[Vec<Message>]) -> Verdict {
        let mut verdict = Verdict::new(sent);
        for messages in replicas {
            verdict.compare(ROOM, messages, &sent.lines[ROOM], sent);
        }
        verdict
    }

    /// What is counted as lost, duplicated, out of order and altered, beside the exit code that goes with it.
    fn counted(verdict: &Verdict) -> [u64; 4] {
        let said = verdict.to_json();
        let counts = ["lost", "duplicated", "out_of_order", "altered"]
            .map(|name| said[name].as_u64().unwrap());
        let broken = counts != [0; 4] || said["identical_on_all_replicas"] == false;
        assert_eq!(verdict.to_text().contains("Promises were broken"), broken, "{said}");
        let success = !broken && said["failed"] == 0;
        assert_eq!(verdict.exit_code() == ExitCode::SUCCESS, success, "{said}");
        counts
    }

    #[test]
    fn what_is_there_as_it_was_sent_is_a_success() {
        let mut sent = sent();
        let kept = verdict(&sent, &[stored(), stored(), stored()]);
        assert_eq!(counted(&kept), [0; 4]);
        assert!(kept.exit_code() == ExitCode::SUCCESS);
        // A line that was tried again, and one that was refused because its id stands with another text.
        let lines = sent.lines.get_mut(ROOM).unwrap();
        lines.push(line(2));
        lines.push(ChatLine { text: "other".to_owned(), ..line(3) });
        sent.failed = 1;
        let conflict = verdict(&sent, &[stored()]);
        assert_eq!(counted(&conflict), [0; 4]);
        assert_eq!((conflict.acknowledged, conflict.failed), (6, 1));
    }

    #[test]
    fn each_broken_promise_is_counted_and_no_success() {
        type Fault = fn(&mut Vec<Message>);
        let swap: Fault = |messages| (messages[1], messages[2]) = (message(2, 3), message(3, 2));
        let faults: [(&str, Fault, [u64; 4]); 7] = [
            ("lost", |messages| drop(messages.remove(2)), [1, 0, 0, 0]),
            ("all lost", Vec::clear, [5, 0, 0, 0]),
            ("doubled", |messages| messages.push(message(6, 2)), [0, 1, 0, 0]),
            ("swapped", swap, [2, 0, 1, 0]),
            ("altered", |messages| messages[4].payload = "text 6".into(), [0, 0, 0, 1]),
            ("emptied", |messages| messages[0].payload.clear(), [0, 0, 0, 1]),
            ("untimed", |messages| messages[3].headers.clear(), [0, 0, 0, 1]),
        ];
        let sent = sent();
        for (what, fault, expected) in faults {
            let mut bad = stored();
            fault(&mut bad);
            // One bad replica is enough, and is counted once.
            for replicas in [vec![bad.clone()], vec![stored(), bad.clone(), bad]] {
                let verdict = verdict(&sent, &replicas);
                assert_eq!(counted(&verdict), expected, "{what}");
            }
        }
    }

    #[test]
    fn an_order_that_was_acknowledged_is_not_the_senders_for_that() {
        let mut sent = sent();
        sent.acknowledged.extend([(Id::of(&line(2)), 3), (Id::of(&line(3)), 2)]);
        let mut swapped = stored();
        (swapped[1], swapped[2]) = (message(2, 3), message(3, 2));
        assert_eq!(counted(&verdict(&sent, &[swapped])), [0, 0, 1, 0]);
    }

    #[test]
    fn replicas_that_differ_are_no_success() {
        let mut other = stored();
        other[4].digest = vec![9; 32].into();
        let verdict = verdict(&sent(), &[stored(), other]);
        assert_eq!(counted(&verdict), [0; 4]);
        assert!(verdict.exit_code() == ExitCode::FAILURE);
    }

    #[test]
    fn a_failed_append_is_no_success_and_no_broken_promise() {
        let mut sent = sent();
        sent.acknowledged.remove(&Id::of(&line(5)));
        (sent.failed, sent.failure) = (1, Some("id-5 of ann in room: no leader".to_owned()));
        // Whether it is there is open.
        for count in [4, 5] {
            let verdict = verdict(&sent, &[stored()[..count].to_vec()]);
            assert_eq!(counted(&verdict), [0; 4]);
            assert!(verdict.exit_code() == ExitCode::FAILURE);
            assert!(verdict.to_text().contains("Not everything was acknowledged: id-5"));
        }
    }
}
