//! Chat in a file: NDJSON, one message a line, read without holding more than a line.

use std::path::Path;

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::{Map, Value};
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use crate::types::limits::CHAT_LINE_BYTES_MAX;
use crate::types::printable;

/// A field that a line has to have.
const REQUIRED: [&str; 4] = ["conversation", "sender", "client_msg_id", "text"];
/// One that it may have.
const SENT_AT: &str = "sent_at";
/// The header that it becomes.
pub const SENT_AT_HEADER: &str = SENT_AT;

/// One line of chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatLine {
    /// Where it was said.
    pub conversation: String,
    /// By whom.
    pub sender: String,
    /// The idempotency key: the same file sent twice is there once.
    pub client_msg_id: String,
    /// When it was said, RFC 3339, as the file has it.
    pub sent_at: Option<String>,
    /// What was said.
    pub text: String,
}

impl ChatLine {
    /// Parses one line; the error names the field, and is one line.
    pub fn parse(line: &str) -> Result<ChatLine, String> {
        let mut fields: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            let text = error.to_string();
            // It would say "line 1" of every line.
            let what = text.split(" at line ").next().unwrap_or_default();
            format!("not a JSON object: {what} at column {}", error.column())
        })?;
        let [conversation, sender, client_msg_id, text] =
            REQUIRED.map(|name| match fields.remove(name) {
                Some(Value::String(text)) => Ok(text),
                Some(_) => Err(format!("{name}: not a string")),
                None => Err(format!("{name}: missing")),
            });
        let sent_at = match fields.remove(SENT_AT) {
            None => None,
            Some(Value::String(time)) if time.parse::<jiff::Timestamp>().is_ok() => Some(time),
            Some(other) => {
                return Err(format!(
                    "{SENT_AT}: {} is not a time such as \"2026-01-31T09:00:00Z\"",
                    printable(&other.to_string()),
                ));
            }
        };
        if let Some(name) = fields.keys().next() {
            let known = REQUIRED.join(", ");
            let name = printable(name);
            return Err(format!("{name}: unknown field (there are {known} and {SENT_AT})"));
        }
        Ok(ChatLine {
            conversation: conversation?,
            sender: sender?,
            client_msg_id: client_msg_id?,
            sent_at,
            text: text?,
        })
    }
}

/// Lines of text with their numbers, from 1; blank ones are passed over.
pub struct NumberedLines {
    lines: FramedRead<Box<dyn AsyncRead + Send + Unpin>, LinesCodec>,
    /// What errors call the source.
    name: String,
    number: u64,
}

impl NumberedLines {
    /// The lines of a file.
    pub async fn open(path: &Path) -> anyhow::Result<NumberedLines> {
        let name = path.display().to_string();
        let file = File::open(path).await.with_context(|| name.clone())?;
        Ok(NumberedLines::of(Box::new(file), name))
    }

    /// The lines of standard input.
    pub fn stdin() -> NumberedLines {
        NumberedLines::of(Box::new(tokio::io::stdin()), "standard input".to_owned())
    }

    /// The lines of any source, by the name that errors are to call it.
    pub fn of(source: Box<dyn AsyncRead + Send + Unpin>, name: String) -> NumberedLines {
        let codec = LinesCodec::new_with_max_length(CHAT_LINE_BYTES_MAX);
        NumberedLines { lines: FramedRead::new(source, codec), name, number: 0 }
    }

    /// The next line that is not blank, with its number. Cancel safe.
    ///
    /// # Errors
    ///
    /// A line that is too long or not UTF-8, or what the operating system says; nothing more can be read then.
    pub async fn next(&mut self) -> anyhow::Result<Option<(u64, String)>> {
        while let Some(line) = self.lines.next().await {
            self.number += 1;
            match line {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => return Ok(Some((self.number, line))),
                Err(LinesCodecError::MaxLineLengthExceeded) => bail!(
                    "{}: longer than {CHAT_LINE_BYTES_MAX} bytes",
                    place(&self.name, self.number)
                ),
                Err(LinesCodecError::Io(error)) => {
                    return Err(error).with_context(|| place(&self.name, self.number));
                }
            }
        }
        Ok(None)
    }

    /// What errors call the source.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// How errors name a line.
pub fn place(source: &str, number: u64) -> String {
    format!("{source} line {number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_four_fields_and_perhaps_a_time() {
        let line = r#"{"conversation":"c","sender":"s","client_msg_id":"i","text":"t"}"#;
        let parsed = ChatLine::parse(line).unwrap();
        assert_eq!((parsed.text.as_str(), parsed.sent_at), ("t", None));
        let line = line.replace('}', r#","sent_at":"2004-12-25T09:14:00Z"}"#);
        let sent_at = ChatLine::parse(&line).unwrap().sent_at;
        assert_eq!(sent_at.as_deref(), Some("2004-12-25T09:14:00Z"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = r#"{"conversation":"c","sender":"s","client_msg_id":"i","text":"t"}"#;
        let wrong = [
            (good.replace(r#""sender":"s","#, ""), "sender: missing"),
            (good.replace(r#""t""#, "5"), "text: not a string"),
            (good.replace("text", "txt"), "txt: unknown field"),
            (good.replace("text", r"t\n\u001b"), r"t\n\u{1b}: unknown field"),
            (good.replace('}', r#","sent_at":"noon"}"#), "sent_at: \"noon\" is not a time"),
            (good.replace('}', ""), "not a JSON object: EOF"),
            ("[1]".to_owned(), "not a JSON object: invalid type: sequence"),
        ];
        for (line, expected) in wrong {
            let error = ChatLine::parse(&line).unwrap_err();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn lines_keep_their_numbers_and_their_bounds() {
        let text: &[u8] = b"one\n\n  \nfour\r\nfi\xff\n";
        let mut lines = NumberedLines::of(Box::new(text), "chat".to_owned());
        assert_eq!(lines.next().await.unwrap(), Some((1, "one".to_owned())));
        assert_eq!(lines.next().await.unwrap(), Some((4, "four".to_owned())));
        let error = format!("{:#}", lines.next().await.unwrap_err());
        assert!(error.starts_with("chat line 5: "), "{error}");

        let long = vec![b'x'; CHAT_LINE_BYTES_MAX + 1];
        let long = std::io::Cursor::new(long);
        let mut lines = NumberedLines::of(Box::new(long), "chat".to_owned());
        let error = lines.next().await.unwrap_err().to_string();
        assert!(error.starts_with("chat line 1: longer than"), "{error}");
    }
}
