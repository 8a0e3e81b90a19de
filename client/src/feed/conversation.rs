//! One conversation of a feed: how far it has come and how much credit it has. Pure.

use crate::message::{is_seq, message_bytes, verify_payload};
use crate::{Error, Start, proto};

/// Byte credit of one conversation at most, as servers hold it.
pub(crate) const CREDIT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Who gives a conversation credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CreditMode {
    /// The library, as deliveries are handed over, up to this many bytes.
    Automatic(u64),
    /// The caller; this many bytes to begin with.
    Manual(u64),
}

/// One conversation and what has been received of it.
#[derive(Debug)]
pub(super) struct Conversation {
    start: Start,
    /// The seq that has to come next; unknown until the first delivery unless the start names one.
    next_seq: Option<u64>,
    caught_up: bool,
    credit: CreditMode,
    /// Bytes that the server may still send. Below 0 where it sent a message larger than what was left.
    left: i64,
    /// Bytes that were handed over and for which no credit was given back yet.
    owed: u64,
    /// Credit that was given and of which the server was not told yet.
    untold: u64,
    /// Whether the server was told to carry the conversation on the present stream.
    pub added: bool,
    /// How often in a row the node ended it for now, since it was delivered last or the stream began.
    pub refusals: u32,
}

impl Conversation {
    pub fn new(start: Start, credit: CreditMode) -> Self {
        let next_seq = match start {
            Start::Seq(seq) => Some(seq),
            _ => None,
        };
        let (CreditMode::Automatic(left) | CreditMode::Manual(left)) = credit;
        Conversation {
            start,
            next_seq,
            caught_up: false,
            credit,
            left: signed(left),
            owed: 0,
            untold: 0,
            added: false,
            refusals: 0,
        }
    }

    /// Where a new stream has to start.
    pub fn resume_at(&self) -> Start {
        self.next_seq.map_or(self.start, Start::Seq)
    }

    /// Takes messages and returns those that are new. A repeat is dropped; a hole is an error.
    pub fn take_messages(
        &mut self,
        name: &str,
        messages: Vec<proto::Message>,
    ) -> Result<Vec<proto::Message>, Error> {
        let received: u64 = messages.iter().map(message_bytes).sum();
        self.left = self.left.saturating_sub(signed(received));
        let mut new = Vec::with_capacity(messages.len());
        for message in messages {
            let due = self.next_seq.unwrap_or(message.seq);
            if message.seq < due {
                tracing::debug!(
                    conversation = name,
                    seq = message.seq,
                    due,
                    "a repeat was dropped"
                );
                continue;
            }
            if message.seq > due || !is_seq(message.seq) {
                let text = format!("seq {} of {name} came where {due} was due", message.seq);
                return Err(Error::protocol(text));
            }
            verify_payload(name, &message)?;
            self.next_seq = Some(message.seq + 1);
            new.push(message);
        }
        Ok(new)
    }

    /// Takes the end of history. Whether the caller is to be told: only the first time.
    pub fn take_caught_up(&mut self, name: &str, next_seq: u64) -> Result<bool, Error> {
        match self.next_seq {
            Some(due) if next_seq > due => {
                let text = format!("{name} is said to go on at {next_seq} where {due} was due");
                return Err(Error::protocol(text));
            }
            Some(_) => {}
            None => self.next_seq = Some(next_seq),
        }
        Ok(!std::mem::replace(&mut self.caught_up, true))
    }

    /// The seq that has to come next, once it is known.
    pub fn next_seq(&self) -> Option<u64> {
        self.next_seq
    }

    /// Takes a gap and returns what of it is news, `[from, to)`.
    pub fn take_gap(
        &mut self,
        name: &str,
        from_seq: u64,
        to_seq: u64,
    ) -> Result<Option<(u64, u64)>, Error> {
        let due = self.next_seq.unwrap_or(from_seq);
        if from_seq > due {
            let text = format!("a gap of {name} starts at {from_seq} where {due} was due");
            return Err(Error::protocol(text));
        }
        if to_seq <= due {
            return Ok(None);
        }
        self.next_seq = Some(to_seq);
        Ok(Some((due, to_seq)))
    }

    /// Notes that the caller was handed so many bytes, and gives credit back once it is worth a message: whether it is.
    pub fn handed_over(&mut self, bytes: u64) -> bool {
        let CreditMode::Automatic(window) = self.credit else { return false };
        self.owed += bytes;
        // Half a window: enough to save messages, early enough that the server need not wait.
        let due = self.owed > 0 && (self.owed >= window.div_ceil(2) || self.left <= 0);
        if due {
            let owed = std::mem::take(&mut self.owed);
            self.grant(owed);
        }
        due
    }

    /// Adds credit.
    pub fn grant(&mut self, bytes: u64) {
        self.left = self.left.saturating_add(signed(bytes)).min(signed(CREDIT_BYTES_MAX));
        // As much as takes a conversation from below 0 to all that servers hold.
        self.untold = self.untold.saturating_add(bytes).min(2 * CREDIT_BYTES_MAX);
    }

    /// Credit with which the conversation can be added to a new stream: what is left, never more than was given.
    /// None while there is none: an Add cannot say so.
    pub fn credit_to_add(&mut self) -> Option<u64> {
        let owed = std::mem::take(&mut self.owed);
        self.grant(owed);
        self.untold = 0;
        u64::try_from(self.left).ok().filter(|left| *left > 0)
    }

    /// Credit of which the server that carries the conversation is to be told next, if there is any: as much as servers
    /// take at once.
    pub fn credit_to_tell(&mut self) -> Option<u64> {
        let told = self.untold.min(CREDIT_BYTES_MAX);
        self.untold -= told;
        Some(told).filter(|told| *told > 0)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::reason;

    fn message(seq: u64) -> proto::Message {
        let payload = Bytes::from(vec![b'x'; 10]);
        let payload_crc32c = crc32c::crc32c(&payload);
        proto::Message { seq, payload, payload_crc32c, ..proto::Message::default() }
    }

    fn seqs(messages: &[proto::Message]) -> Vec<u64> {
        messages.iter().map(|m| m.seq).collect()
    }

    fn conversation(start: Start) -> Conversation {
        Conversation::new(start, CreditMode::Manual(100))
    }

    #[test]
    fn repeats_are_dropped_and_holes_refused() {
        let mut c = conversation(Start::Seq(3));
        let new = c.take_messages("c", vec![message(2), message(3), message(4)]).unwrap();
        assert_eq!(seqs(&new), [3, 4]);
        assert_eq!(c.resume_at(), Start::Seq(5));
        let error = c.take_messages("c", vec![message(6)]).unwrap_err();
        assert_eq!(error.reason(), reason::PROTOCOL_VIOLATION);
        assert_eq!(c.resume_at(), Start::Seq(5));
    }

    #[test]
    fn an_open_start_begins_where_the_server_does() {
        let mut c = conversation(Start::Last(2));
        assert_eq!(c.resume_at(), Start::Last(2));
        assert!(c.take_caught_up("c", 9).unwrap());
        assert_eq!(c.resume_at(), Start::Seq(9));
        assert!(!c.take_caught_up("c", 9).unwrap(), "told once");
        assert!(c.take_caught_up("c", 11).is_err(), "9 and 10 were skipped");
    }

    #[test]
    fn an_announced_gap_is_passed_on_as_far_as_it_is_news() {
        let mut c = conversation(Start::Seq(5));
        assert_eq!(c.take_gap("c", 1, 8).unwrap(), Some((5, 8)));
        assert_eq!(c.take_gap("c", 1, 8).unwrap(), None);
        assert!(c.take_gap("c", 9, 12).is_err());
        assert_eq!(seqs(&c.take_messages("c", vec![message(8)]).unwrap()), [8]);
    }

    #[test]
    fn damage_is_refused_and_not_counted_as_delivered() {
        let mut c = conversation(Start::Seq(1));
        let damaged = proto::Message { payload_crc32c: 1, ..message(1) };
        assert_eq!(
            c.take_messages("c", vec![damaged]).unwrap_err().reason(),
            reason::DAMAGED_PAYLOAD
        );
        assert_eq!(c.resume_at(), Start::Seq(1));
    }

    #[test]
    fn manual_credit_is_what_the_caller_gave_less_what_came() {
        let mut c = conversation(Start::Seq(1));
        c.take_messages("c", (1..=4).map(message).collect()).unwrap();
        assert!(!c.handed_over(40));
        assert_eq!(c.credit_to_add(), Some(60));
        c.take_messages("c", (5..=10).map(message).collect()).unwrap();
        assert_eq!(c.credit_to_add(), None);
        c.grant(7);
        assert_eq!(c.credit_to_add(), Some(7));
    }

    #[test]
    fn automatic_credit_comes_back_as_deliveries_are_handed_over() {
        let mut c = Conversation::new(Start::Seq(1), CreditMode::Automatic(100));
        c.take_messages("c", (1..=6).map(message).collect()).unwrap();
        assert!(!c.handed_over(40));
        assert_eq!(c.credit_to_tell(), None);
        assert!(c.handed_over(20));
        assert_eq!(c.credit_to_tell(), Some(60));
        assert_eq!(c.credit_to_add(), Some(100));
    }

    #[test]
    fn credit_is_told_once_and_together_as_far_as_servers_take_it() {
        let mut c = conversation(Start::Seq(1));
        (1..=4).for_each(|bytes| c.grant(bytes));
        assert_eq!(c.credit_to_tell(), Some(10));
        assert_eq!(c.credit_to_tell(), None);
        c.grant(5);
        assert_eq!(c.credit_to_add(), Some(115), "with all that was given");
        assert_eq!(c.credit_to_tell(), None);
        (0..3).for_each(|_| c.grant(CREDIT_BYTES_MAX));
        (0..2).for_each(|_| assert_eq!(c.credit_to_tell(), Some(CREDIT_BYTES_MAX)));
        assert_eq!(c.credit_to_tell(), None);
    }
}
