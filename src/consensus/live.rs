//! The newest messages of conversations that somebody follows, in memory: who is live is served from here without a look
//! at the disk, and each message is put into the form in which it is sent once for all who are sent it.
//!
//! Guarantees at stake: G2 and G6. What is kept of a conversation is a run without a gap that ends at its tail, and comes
//! in after it was written: so it is committed, and nothing is in it that is not stored. What is not in it is read from
//! the state. G11: bytes stay as they were stored, with their checksums, until they are put into the form in which they
//! are sent. G12: both bounds are names in `limits`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;

use crate::types::{Seq, allocated, limits};

/// A message that was applied not long ago.
#[derive(Debug)]
pub struct LiveMessage {
    seq: Seq,
    stored: Bytes,
    sent: OnceLock<Sent>,
}

/// A message in the form in which it is sent. Which form that is is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The encoded message.
    pub wire: Bytes,
    /// Its payload and header bytes: what credits count.
    pub content_bytes: u64,
}

impl LiveMessage {
    fn new(seq: Seq, stored: Bytes) -> Self {
        LiveMessage { seq, stored, sent: OnceLock::new() }
    }

    /// Its seq.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The form in which it is sent, which the first who asks makes of the stored value.
    ///
    /// # Errors
    /// As `encode`.
    pub fn sent<E>(&self, encode: impl FnOnce(Seq, &[u8]) -> Result<Sent, E>) -> Result<&Sent, E> {
        if let Some(sent) = self.sent.get() {
            return Ok(sent);
        }
        let sent = encode(self.seq, &self.stored)?;
        Ok(self.sent.get_or_init(|| sent))
    }

    fn memory_bytes(&self) -> usize {
        memory_bytes(&self.stored)
    }
}

/// What a message takes in both forms, which are about as long.
fn memory_bytes(stored: &[u8]) -> usize {
    allocated(size_of::<LiveMessage>()) + 2 * allocated(stored.len())
}

/// What a conversation has grown by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The seq of the first message.
    pub from: Seq,
    /// The seq after the last one.
    pub tail: Seq,
    /// All of them as they were stored, in order, each in memory of its own; or none, because nobody followed when they
    /// were written.
    pub stored: Vec<Bytes>,
}

/// The newest messages of one conversation.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The seq after the last message; unknown until the conversation grows while it is followed.
    tail: Option<Seq>,
    messages: VecDeque<Arc<LiveMessage>>,
    bytes: usize,
}

impl Run {
    /// Takes in what the conversation has grown by, as much as there is room for, and returns the memory that this takes.
    pub(super) fn grow(&mut self, growth: &Growth) -> usize {
        let Growth { from, tail, stored } = growth;
        let mut taken = 0;
        let fits = |stored: &&Bytes| {
            let bytes = memory_bytes(stored);
            let fits = taken + bytes <= limits::LIVE_CONVERSATION_BYTES_MAX;
            taken += if fits { bytes } else { 0 };
            fits
        };
        let skipped = stored.len() - stored.iter().rev().take_while(fits).count();
        if self.tail != Some(*from) || stored.is_empty() || skipped > 0 {
            *self = Run::default();
        }
        for (place, stored) in (0..).zip(stored).skip(skipped) {
            self.messages.push_back(Arc::new(LiveMessage::new(from.plus(place), stored.clone())));
        }
        self.tail = Some(*tail);
        self.bytes += taken;
        while self.bytes > limits::LIVE_CONVERSATION_BYTES_MAX {
            self.drop_first();
        }
        taken
    }

    /// Lets go of messages below a seq.
    pub(super) fn drop_below(&mut self, seq: Seq) {
        while self.messages.front().is_some_and(|message| message.seq < seq) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message.memory_bytes();
        }
    }

    /// Messages from `next` on, no more than `messages_max` and, beyond the first, `bytes_max` bytes as stored; nothing
    /// if `next` has yet to come. None if that is not known here.
    pub(super) fn messages_from(
        &self,
        next: Seq,
        messages_max: usize,
        bytes_max: u64,
    ) -> Option<Vec<Arc<LiveMessage>>> {
        let tail = self.tail?;
        let Some(wanted) = tail.0.checked_sub(next.0).filter(|wanted| *wanted > 0) else {
            return Some(Vec::new());
        };
        let skipped = self.messages.len().checked_sub(usize::try_from(wanted).ok()?)?;
        let mut bytes = 0;
        let within = |(place, message): &(usize, &Arc<LiveMessage>)| {
            bytes += message.stored.len() as u64;
            *place == 0 || bytes <= bytes_max
        };
        let wanted = self.messages.range(skipped..).take(messages_max).enumerate();
        Some(wanted.take_while(within).map(|(_, message)| message.clone()).collect())
    }
}

/// What all conversations of a node keep, counted in the order in which it came: the oldest goes first, whichever
/// conversation has it. So those that nothing happens in leave the room to the others. Each clone is the same.
pub(super) struct LiveBound<Owner> {
    order: Arc<Mutex<Order<Owner>>>,
}

struct Order<Owner> {
    kept: VecDeque<Kept<Owner>>,
    bytes: usize,
}

/// Messages of one growth.
pub(super) struct Kept<Owner> {
    /// Who keeps them.
    pub(super) owner: Owner,
    /// The seq after the last one.
    pub(super) below: Seq,
    /// The memory that they take.
    pub(super) bytes: usize,
}

impl<Owner> Clone for LiveBound<Owner> {
    fn clone(&self) -> Self {
        LiveBound { order: self.order.clone() }
    }
}

impl<Owner> Default for LiveBound<Owner> {
    fn default() -> Self {
        LiveBound { order: Arc::new(Mutex::new(Order { kept: VecDeque::new(), bytes: 0 })) }
    }
}

impl<Owner> LiveBound<Owner> {
    /// Counts what is kept now, and returns what has to go for it.
    pub(super) fn keep(&self, kept: Kept<Owner>) -> Vec<Kept<Owner>> {
        let mut order = self.order.lock().expect("no panic while locked");
        order.bytes += kept.bytes;
        order.kept.push_back(kept);
        let mut oldest = Vec::new();
        while order.bytes > limits::LIVE_NODE_BYTES_MAX {
            let Some(first) = order.kept.pop_front() else { break };
            order.bytes -= first.bytes;
            oldest.push(first);
        }
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages `[from, to)`, each of so many bytes.
    fn growth(from: u64, to: u64, bytes: usize) -> Growth {
        let stored = (from..to).map(|seq| vec![seq as u8; bytes].into()).collect();
        Growth { from: Seq(from), tail: Seq(to), stored }
    }

    fn unseen(from: u64, to: u64) -> Growth {
        Growth { from: Seq(from), tail: Seq(to), stored: Vec::new() }
    }

    fn grown(growths: &[Growth]) -> Run {
        let mut run = Run::default();
        for growth in growths {
            run.grow(growth);
        }
        run
    }

    fn seqs(run: &Run, next: u64) -> Option<Vec<u64>> {
        let messages = run.messages_from(Seq(next), usize::MAX, u64::MAX)?;
        Some(messages.iter().map(|message| message.seq().0).collect())
    }

    #[test]
    fn nothing_is_known_before_the_first_growth() {
        assert_eq!(seqs(&Run::default(), 1), None);
    }

    #[test]
    fn what_joins_is_one_run() {
        let run = grown(&[growth(4, 6, 1), growth(6, 7, 1)]);
        assert_eq!(seqs(&run, 3), None, "it is older");
        assert_eq!(seqs(&run, 4), Some(vec![4, 5, 6]));
        assert_eq!(seqs(&run, 6), Some(vec![6]));
        assert_eq!(seqs(&run, 7), Some(vec![]));
        assert_eq!(seqs(&run, 9), Some(vec![]), "it has yet to come");
        let message = &run.messages_from(Seq(5), 1, 1).unwrap()[0];
        let as_stored = |_, stored: &[u8]| -> Result<Sent, ()> {
            Ok(Sent { wire: Bytes::copy_from_slice(stored), content_bytes: 1 })
        };
        assert_eq!(message.sent(as_stored).unwrap().wire, [5].as_slice());
    }

    #[test]
    fn what_was_not_kept_leaves_no_gap() {
        let run = grown(&[growth(4, 6, 1), unseen(6, 8)]);
        assert_eq!(seqs(&run, 5), None);
        assert_eq!(seqs(&run, 7), None);
        assert_eq!(seqs(&run, 8), Some(vec![]));
        let run = grown(&[growth(4, 6, 1), unseen(6, 8), growth(8, 9, 1)]);
        assert_eq!(seqs(&run, 7), None);
        assert_eq!(seqs(&run, 8), Some(vec![8]));
        // As after a snapshot that brought 6 to 9.
        let run = grown(&[growth(4, 6, 1), growth(10, 12, 1)]);
        assert_eq!(seqs(&run, 5), None);
        assert_eq!(seqs(&run, 9), None);
        assert_eq!(seqs(&run, 10), Some(vec![10, 11]));
    }

    #[test]
    fn a_part_is_taken_from_its_beginning_and_has_one_message_at_least() {
        let run = grown(&[growth(1, 10, 100)]);
        let taken = |messages_max, bytes_max| {
            let part = run.messages_from(Seq(3), messages_max, bytes_max).unwrap();
            assert!(part.first().is_none_or(|first| first.seq() == Seq(3)));
            part.len()
        };
        assert_eq!(taken(4, 1_000), 4);
        assert_eq!(taken(4, 200), 2);
        assert_eq!(taken(4, 199), 1);
        assert_eq!(taken(4, 1), 1);
    }

    #[test]
    fn a_message_is_put_into_its_form_once() {
        let run = grown(&[growth(1, 2, 1)]);
        let message = run.messages_from(Seq(1), 1, 1).unwrap().remove(0);
        assert_eq!(message.sent(|_, _| Err("damaged")), Err("damaged"));
        let form = Sent { wire: Bytes::from_static(b"form"), content_bytes: 1 };
        assert_eq!(message.sent(|_, _| Ok::<_, ()>(form.clone())), Ok(&form));
        assert_eq!(message.sent(|_, _| Err("asked twice")), Ok(&form));
    }

    #[test]
    fn a_conversation_keeps_its_newest_messages() {
        let bytes = limits::LIVE_CONVERSATION_BYTES_MAX / 8;
        let run = grown(&[growth(1, 3, bytes), growth(3, 4, bytes), growth(4, 6, bytes)]);
        let kept = run.messages.len();
        assert!((2..=4).contains(&kept), "{kept}: each takes it twice, and a little more");
        assert!(run.bytes <= limits::LIVE_CONVERSATION_BYTES_MAX);
        let first = 6 - kept as u64;
        assert_eq!(seqs(&run, first - 1), None);
        assert_eq!(seqs(&run, first).unwrap().len(), kept);
        // The same if all come at once.
        let at_once = grown(&[growth(1, 6, bytes)]);
        assert_eq!((at_once.messages.len(), at_once.bytes), (kept, run.bytes));
        assert_eq!(seqs(&at_once, first), seqs(&run, first));
        // One that is too large leaves nothing, and no gap.
        let run = grown(&[growth(1, 3, 1), growth(3, 4, limits::LIVE_CONVERSATION_BYTES_MAX)]);
        assert_eq!((run.messages.len(), run.bytes), (0, 0));
        assert_eq!(seqs(&run, 3), None);
        assert_eq!(seqs(&run, 4), Some(vec![]));
    }

    #[test]
    fn what_is_dropped_is_read_from_the_state() {
        let mut run = grown(&[growth(1, 4, 10), growth(4, 6, 10)]);
        run.drop_below(Seq(4));
        assert_eq!(seqs(&run, 3), None);
        assert_eq!(seqs(&run, 4), Some(vec![4, 5]));
        run.drop_below(Seq(2));
        assert_eq!(seqs(&run, 4), Some(vec![4, 5]));
        run.drop_below(Seq(6));
        assert_eq!((seqs(&run, 5), run.bytes), (None, 0));
        run.grow(&growth(6, 7, 10));
        assert_eq!(seqs(&run, 6), Some(vec![6]));
    }

    #[test]
    fn of_all_that_a_node_keeps_the_oldest_goes_first() {
        let bound = LiveBound::default();
        let half = limits::LIVE_NODE_BYTES_MAX / 2;
        let keep = |owner: &'static str, bytes| {
            let gone = bound.keep(Kept { owner, below: Seq(1), bytes });
            gone.iter().map(|kept| kept.owner).collect::<Vec<_>>()
        };
        assert!(keep("a", half).is_empty());
        assert!(keep("b", half).is_empty());
        assert_eq!(keep("c", 1), ["a"]);
        assert_eq!(keep("d", 2 * half), ["b", "c"]);
        assert_eq!(keep("e", 2 * half + 1), ["d", "e"], "what is too large goes too");
    }
}
