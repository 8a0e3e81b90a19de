//! What is sent: names of conversations, and payloads that say when their append began.

use bytes::{Bytes, BytesMut};
use quorate_client::proto::Message;
use quorate_client::{Append, NewMessage};
use rand::RngCore;

/// Bytes at the start of a payload: when its append began, and its number.
pub(super) const STAMP_BYTES: usize = 16;
/// Random bytes that payloads are cut from: several times what a compressor looks back over, and a payload of the
/// greatest size fits.
const POOL_BYTES: usize = 8 * 1024 * 1024;
/// Spreads numbers over the pool (Knuth's multiplicative hash, 2^64 / φ).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Makes appends cheaply: the generator shares the machine with what it measures.
#[derive(Clone)]
pub(super) struct Messages {
    names: Names,
    /// Where payloads are cut from.
    pool: Bytes,
    size: usize,
}

/// Names of conversations that no earlier run has used.
#[derive(Clone)]
pub(super) struct Names {
    prefix: String,
    count: u64,
}

/// What the start of a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When the append was handed in or due, in microseconds from the load's epoch.
    pub(super) began_us: u64,
    /// Which message of the load this is.
    pub(super) number: u64,
}

impl Messages {
    /// Payloads of `size` bytes, at least [`STAMP_BYTES`], for these conversations in turn.
    pub(super) fn new(names: Names, size: usize) -> Messages {
        let mut pool = BytesMut::zeroed(POOL_BYTES);
        rand::rng().fill_bytes(&mut pool);
        Messages { names, pool: pool.freeze(), size }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Payload bytes of each.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn append(&self, stamp: Stamp, sender: &str) -> Append {
        let id = stamp.number.to_string();
        let message = NewMessage::new(self.payload(stamp)).client_msg_id(id);
        Append::new(self.names.get(stamp.number), sender, message)
    }

    /// The payload alone.
    pub(super) fn payload(&self, stamp: Stamp) -> Bytes {
        let places = (self.pool.len() - self.size) as u64;
        let at = (stamp.number.wrapping_mul(SPREAD) >> 32) % places;
        let rest = &self.pool[at as usize..][STAMP_BYTES..self.size];
        let mut payload = BytesMut::with_capacity(self.size);
        payload.extend_from_slice(&stamp.began_us.to_be_bytes());
        payload.extend_from_slice(&stamp.number.to_be_bytes());
        payload.extend_from_slice(rest);
        payload.freeze()
    }
}

impl Names {
    pub(super) fn new(count: u64) -> Names {
        Names { prefix: format!("bench/{:016x}/", rand::random::<u64>()), count }
    }

    /// The conversation of a message.
    pub(super) fn get(&self, number: u64) -> String {
        let turn = (number % self.count).to_string();
        let mut name = String::with_capacity(self.prefix.len() + turn.len());
        name.push_str(&self.prefix);
        name.push_str(&turn);
        name
    }

    /// How many conversations.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// All conversations.
    pub(super) fn all(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.count).map(|number| self.get(number))
    }
}

impl Stamp {
    /// Of a message of a load; none of another.
    pub(super) fn of(message: &Message) -> Option<Stamp> {
        let (began, rest) = message.payload.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        Some(Stamp { began_us: u64::from_be_bytes(*began), number: u64::from_be_bytes(*number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_carry_their_stamp_and_differ() {
        for size in [STAMP_BYTES, 256, 1024 * 1024] {
            let messages = Messages::new(Names::new(3), size);
            let payload = |number| messages.payload(Stamp { began_us: 7, number });
            let message = Message { payload: payload(5), ..Message::default() };
            assert_eq!(message.payload.len(), size);
            assert_eq!(Stamp::of(&message), Some(Stamp { began_us: 7, number: 5 }));
            assert!(size == STAMP_BYTES || payload(5)[STAMP_BYTES..] != payload(6)[STAMP_BYTES..]);
        }
        assert_eq!(Stamp::of(&Message::default()), None);
    }

    #[test]
    fn conversations_take_turns() {
        let names = Names::new(2);
        assert_eq!(names.get(0), names.get(2));
        assert_eq!(names.all().collect::<Vec<_>>(), [names.get(0), names.get(1)]);
        assert_ne!(Names::new(1).get(0), Names::new(1).get(0), "runs do not meet");
    }
}
