//! Chat to send: generated, or from a file.

use std::path::Path;

use anyhow::{anyhow, ensure};

use crate::cli::chat::{ChatLine, NumberedLines, place};
use crate::cli::send;

const CONVERSATIONS: u32 = 24;
const SENDERS: u32 = 120;
const WORDS: [&str; 24] = [
    "the", "build", "is", "green", "again", "who", "broke", "it", "not", "me", "let's", "ship",
    "after", "lunch", "I", "agree", "with", "that", "please", "review", "my", "change", "thanks",
    "done",
];

/// Chat that looks like chat: a few busy rooms, many quiet ones, the same at each run.
pub fn generate(count: u32) -> Vec<ChatLine> {
    (0..count)
        .map(|number| {
            // A multiplicative hash: spread, and repeatable.
            let dice = number.wrapping_mul(2_654_435_761);
            let room = (dice >> 8) % CONVERSATIONS * ((dice >> 20) % CONVERSATIONS) / CONVERSATIONS;
            let words = 3 + (dice >> 5) % 12;
            let word = |at: u32| WORDS[(dice.rotate_left(at) % WORDS.len() as u32) as usize];
            ChatLine {
                conversation: format!("demo/room-{room}"),
                sender: format!("user-{}", (dice >> 12) % SENDERS),
                client_msg_id: format!("demo-{number}"),
                sent_at: None,
                text: (0..words).map(word).collect::<Vec<_>>().join(" "),
            }
        })
        .collect()
}

/// All lines of a file, if `quorate send --file` takes all of them.
pub async fn read(path: &Path) -> anyhow::Result<Vec<ChatLine>> {
    let mut source = NumberedLines::open(path).await?;
    let mut lines = Vec::new();
    while let Some((number, line)) = source.next().await? {
        let refused = |problem: String| anyhow!("{}: {problem}", place(source.name(), number));
        let line = ChatLine::parse(&line).map_err(refused)?;
        send::check(&line).map_err(refused)?;
        lines.push(line);
    }
    ensure!(!lines.is_empty(), "{} has no messages", source.name());
    Ok(lines)
}
