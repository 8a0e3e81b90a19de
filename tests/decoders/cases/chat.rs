//! Chat in a file, which people write: lines, and what each says.

use std::io::Cursor;

use quorate::cli::chat::{ChatLine, NumberedLines};

use super::Case;

pub const CASE: Case = Case { seeds, check };

const SOURCE: &str = "chat.ndjson";
const LEAST: &str = r#"{"conversation":"c","sender":"s","client_msg_id":"i","text":"t"}"#;

fn check(input: &[u8]) {
    let mut lines = NumberedLines::of(Box::new(Cursor::new(input.to_vec())), SOURCE.to_owned());
    let of_input: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    futures::executor::block_on(async {
        loop {
            match lines.next().await {
                Ok(None) => return assert!(std::str::from_utf8(input).is_ok()),
                Ok(Some((number, line))) => {
                    let whole = of_input[number as usize - 1];
                    assert_eq!(whole.strip_suffix(b"\r").unwrap_or(whole), line.as_bytes());
                    said(&line);
                }
                Err(error) => {
                    let is_text = |line: &&[u8]| std::str::from_utf8(line).is_ok();
                    let number = 1 + of_input.iter().take_while(|line| is_text(line)).count();
                    let error = format!("{error:#}");
                    assert!(error.starts_with(&format!("{SOURCE} line {number}: ")), "{error}");
                    return;
                }
            }
        }
    });
}

/// What a line says it says again when it is written anew.
fn said(line: &str) {
    match ChatLine::parse(line) {
        Ok(chat) => assert_eq!(ChatLine::parse(&written(&chat)), Ok(chat)),
        Err(error) => assert!(!error.is_empty() && !error.contains(char::is_control), "{error}"),
    }
}

fn written(chat: &ChatLine) -> String {
    let ChatLine { conversation, sender, client_msg_id, sent_at, text } = chat;
    let mut line = serde_json::json!({
        "conversation": conversation,
        "sender": sender,
        "client_msg_id": client_msg_id,
        "text": text,
    });
    if let Some(sent_at) = sent_at {
        line["sent_at"] = sent_at.as_str().into();
    }
    line.to_string()
}

/// All that a line may have, lines between blank ones, and lines that are refused.
fn seeds() -> Vec<Vec<u8>> {
    let timed = LEAST.replace('}', r#","sent_at":"2004-12-25T09:14:00.5+01:00"}"#);
    let escaped = LEAST.replace(r#""t""#, r#""\ud83d\ude00 \"\n\u0000""#);
    let seeds = [
        timed.clone(),
        timed.replace("+01:00", "Z"),
        format!("{LEAST}\n\n  \r\n{timed}\r\n{escaped}\n"),
        LEAST.replace(r#""t""#, "[5,{}]"),
        LEAST.replace("sender", "from"),
        LEAST.replace("sender", r"\n\u001b"),
    ];
    seeds.map(String::into_bytes).to_vec()
}
