//! Chat to send: generated, or from a file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

const CONVERSATIONS: u32 = 24;
const SENDERS: u32 = 120;
const WORDS: [&str; 24] = [
    "the", "build", "is", "green", "again", "who", "broke", "it", "not", "me", "let's", "ship",
    "after", "lunch", "I", "agree", "with", "that", "please", "review", "my", "change", "thanks",
    "done",
];

/// One line of chat.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub conversation: String,
    pub sender: String,
    pub client_msg_id: String,
    pub text: String,
}

/// Chat that looks like chat: a few busy rooms, many quiet ones, the same at each run.
pub fn generate(count: u32) -> Vec<Line> {
    (0..count)
        .map(|number| {
            // A multiplicative hash: spread, and repeatable.
            let dice = number.wrapping_mul(2_654_435_761);
            let room = (dice >> 8) % CONVERSATIONS * ((dice >> 20) % CONVERSATIONS) / CONVERSATIONS;
            let words = 3 + (dice >> 5) % 12;
            let word = |at: u32| WORDS[(dice.rotate_left(at) % WORDS.len() as u32) as usize];
            Line {
                conversation: format!("demo/room-{room}"),
                sender: format!("user-{}", (dice >> 12) % SENDERS),
                client_msg_id: format!("demo-{number}"),
                text: (0..words).map(word).collect::<Vec<_>>().join(" "),
            }
        })
        .collect()
}

/// Lines of a file; other fields than those of [`Line`] are ignored.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(File::open(path)?).lines()) {
        let line = line?;
        if !line.trim().is_empty() {
            let parsed = serde_json::from_str(&line).with_context(|| format!("line {number}"))?;
            lines.push(parsed);
        }
    }
    anyhow::ensure!(!lines.is_empty(), "the file has no messages");
    Ok(lines)
}
