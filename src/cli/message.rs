//! Messages as the command line shows them.

use quorate_client::proto::{Kind, Message};
use serde_json::{Map, Value, json};

use crate::types::printable;

/// One line for people: seq, commit time, sender, text.
pub(super) fn line(message: &Message) -> String {
    let note = match message.kind() {
        Kind::Redaction => format!("[redacts {}] ", message.target_seq),
        Kind::Replacement => format!("[replaces {}] ", message.target_seq),
        Kind::System => "[system] ".to_owned(),
        Kind::Content | Kind::Unspecified => String::new(),
    };
    let text = match std::str::from_utf8(&message.payload) {
        Ok(text) => printable(text),
        Err(_) => format!("<{} bytes {}>", message.payload.len(), printable(&message.content_type)),
    };
    let (time, sender) = (rfc3339(message.commit_time_us), printable(&message.sender));
    format!("{} {time} {sender} {note}{text}", message.seq)
}

/// All that is stored of a message, for programs.
pub(super) fn to_json(message: &Message) -> Map<String, Value> {
    let headers = message
        .headers
        .iter()
        .map(|header| json!({ "name": header.name, "value": text_or_bytes(&header.value) }));
    let value = json!({
        "seq": message.seq,
        "kind": message.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(),
        "sender": message.sender,
        "client_msg_id": message.client_msg_id,
        "issued_at_us": message.issued_at_us,
        "commit_time_us": message.commit_time_us,
        "content_type": message.content_type,
        "headers": headers.collect::<Vec<_>>(),
        "text": text_or_bytes(&message.payload),
        "target_seq": message.target_seq,
        "digest": hex::encode(&message.digest),
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Microseconds since the Unix epoch as people read them, or the number where no calendar has it.
pub(super) fn rfc3339(us: u64) -> String {
    let time = i64::try_from(us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| format!("{us}us"), |time| format!("{time:.6}"))
}

/// UTF-8 as a string; anything else as `{"hex": …}`.
fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex::encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_as_what_they_are() {
        let mut message = Message { seq: 7, sender: "ann".to_owned(), ..Message::default() };
        message.payload = vec![0xff, 0x00].into();
        message.content_type = "image/png".to_owned();
        assert_eq!(line(&message), "7 1970-01-01T00:00:00.000000Z ann <2 bytes image/png>");
        assert_eq!(to_json(&message)["text"], json!({ "hex": "ff00" }));
        message.payload = "hi".into();
        assert_eq!(to_json(&message)["text"], json!("hi"));
    }
}
