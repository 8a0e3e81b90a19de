//! What is to be sent, checked against the limits of the API before it leaves.

use anyhow::anyhow;
use bytes::Bytes;
use quorate_client::proto::{AppendRequest, Header, Kind, NewMessage};
use quorate_client::{Append, NewMessage as ClientMessage};
use uuid::Uuid;

use super::SendArgs;
use crate::cli::chat::{ChatLine, NumberedLines, SENT_AT_HEADER, place};
use crate::server::SystemClock;
use crate::service::validate;
use crate::types::Clock;

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// The line that it came from.
    pub(super) line: u64,
    request: AppendRequest,
}

impl Outgoing {
    /// What all messages of a command share; its id is empty if none was given.
    pub(super) fn of(args: &SendArgs, conversation: &str, sender: &str) -> Outgoing {
        let headers = args.headers.iter().map(|(name, value)| Header {
            name: name.clone(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        });
        let message = NewMessage {
            kind: Kind::Content.into(),
            client_msg_id: args.client_msg_id.clone().unwrap_or_default(),
            issued_at_us: args.issued_at_us.unwrap_or(0),
            content_type: args.content_type.clone(),
            headers: headers.collect(),
            ..NewMessage::default()
        };
        let request = AppendRequest {
            conversation: conversation.to_owned(),
            sender: sender.to_owned(),
            messages: vec![message],
            expected_tail: args.expected_tail,
        };
        Outgoing { line: 0, request }
    }

    /// What messages share if nothing is added to them.
    pub(super) fn plain(content_type: &str) -> Outgoing {
        let content_type = content_type.to_owned();
        let message =
            NewMessage { kind: Kind::Content.into(), content_type, ..NewMessage::default() };
        let request = AppendRequest { messages: vec![message], ..AppendRequest::default() };
        Outgoing { line: 0, request }
    }

    /// This with a text.
    pub(super) fn with_text(mut self, text: &str) -> Outgoing {
        self.message_mut().payload = Bytes::copy_from_slice(text.as_bytes());
        self
    }

    /// This with a line of chat, sealed; the error names the field as the file has it.
    pub(super) fn seal_chat(self, chat: ChatLine) -> Result<Outgoing, String> {
        let outgoing = self.with_chat(chat);
        // A made-up id would let the same line in twice.
        if outgoing.message().client_msg_id.is_empty() {
            return Err("client_msg_id is empty".to_owned());
        }
        outgoing.seal_line()
    }

    fn with_chat(mut self, chat: ChatLine) -> Outgoing {
        self.request.conversation = chat.conversation;
        self.request.sender = chat.sender;
        let message = self.message_mut();
        message.client_msg_id = chat.client_msg_id;
        message.payload = chat.text.into();
        if let Some(time) = chat.sent_at {
            message.headers.push(Header { name: SENT_AT_HEADER.to_owned(), value: time.into() });
        }
        self
    }

    /// Fills in the id and the time that are not given, and refuses what the API would.
    pub(super) fn seal(mut self) -> Result<Outgoing, validate::Violation> {
        let message = self.message_mut();
        if message.client_msg_id.is_empty() {
            message.client_msg_id = Uuid::new_v4().to_string();
        }
        if message.issued_at_us == 0 {
            message.issued_at_us = SystemClock.now().0;
        }
        validate::append(&mut self.request)
            .map_err(|violation| validate::Violation { message_index: None, ..violation })?;
        Ok(self)
    }

    /// This as a line of a source, whose text is the API's payload.
    fn seal_line(self) -> Result<Outgoing, String> {
        self.seal().map_err(|violation| {
            let field = if violation.field == "payload" { "text" } else { violation.field };
            validate::Violation { field, ..violation }.to_string()
        })
    }

    pub(super) fn conversation(&self) -> &str {
        &self.request.conversation
    }

    pub(super) fn sender(&self) -> &str {
        &self.request.sender
    }

    pub(super) fn message(&self) -> &NewMessage {
        &self.request.messages[0]
    }

    fn message_mut(&mut self) -> &mut NewMessage {
        &mut self.request.messages[0]
    }

    /// The append for the client library.
    pub(super) fn append(&self) -> Append {
        let AppendRequest { conversation, sender, messages, expected_tail } = self.request.clone();
        let messages = messages.into_iter().map(ClientMessage::from);
        let append = Append::batch(conversation, sender, messages);
        match expected_tail {
            Some(tail) => append.expected_tail(tail),
            None => append,
        }
    }
}

/// Where messages come from, one at a time.
pub(super) struct Source {
    lines: NumberedLines,
    template: Outgoing,
    is_chat: bool,
}

impl Source {
    /// Each line is a text; its id is that of the template and the line's number.
    pub(super) fn text(lines: NumberedLines, template: Outgoing) -> Source {
        Source { lines, template, is_chat: false }
    }

    /// Each line is a JSON object.
    pub(super) fn chat(lines: NumberedLines, template: Outgoing) -> Source {
        Source { lines, template, is_chat: true }
    }

    /// The next message. Cancel safe.
    ///
    /// # Errors
    ///
    /// A line that cannot be sent: the error names it and the field.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Outgoing>> {
        let Some((number, line)) = self.lines.next().await? else { return Ok(None) };
        match self.outgoing(number, &line) {
            Ok(outgoing) => Ok(Some(outgoing)),
            Err(problem) => Err(anyhow!("{}: {problem}", place(self.name(), number))),
        }
    }

    /// What errors call it.
    pub(super) fn name(&self) -> &str {
        self.lines.name()
    }

    fn outgoing(&self, number: u64, line: &str) -> Result<Outgoing, String> {
        let mut outgoing = self.template.clone();
        outgoing.line = number;
        if self.is_chat {
            return outgoing.seal_chat(ChatLine::parse(line)?);
        }
        let mut outgoing = outgoing.with_text(line);
        let id = &mut outgoing.message_mut().client_msg_id;
        if !id.is_empty() {
            *id = format!("{id}-{number}");
        }
        outgoing.seal_line()
    }
}

/// A header as it is typed.
pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as lang=en".to_owned()),
    }
}
