//! One conversation's appends that have no outcome yet. Pure: time and ids are arguments.

use std::collections::VecDeque;

use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Code;

use super::window::Room;
use crate::encoded::SessionRequest;
use crate::{Error, limits, proto, reason};

/// An append without an outcome.
pub(super) struct Pending {
    /// The encoded request; nothing if it is refused.
    append: Bytes,
    deadline: Instant,
    done: oneshot::Sender<Result<proto::AppendResponse, Error>>,
    room: Option<Room>,
    /// Of the attempt in flight.
    request_id: u64,
    /// Whether an attempt may have taken effect.
    uncertain: bool,
    /// What the last attempt met.
    last_error: Option<Error>,
    /// Why it is not to be sent at all.
    refusal: Option<Error>,
}

impl Pending {
    pub fn new(
        request: &proto::AppendRequest,
        deadline: Instant,
        done: oneshot::Sender<Result<proto::AppendResponse, Error>>,
        room: impl Into<Option<Room>>,
    ) -> Self {
        let refusal = limits::check(request).err();
        let append = match refusal {
            None => request.encode_to_vec().into(),
            Some(_) => Bytes::new(),
        };
        Pending {
            append,
            deadline,
            done,
            room: room.into(),
            request_id: 0,
            uncertain: false,
            last_error: None,
            refusal,
        }
    }

    /// Takes its share of the window out, to be given back before the caller is told.
    pub fn take_room(&mut self) -> Option<Room> {
        self.room.take()
    }

    /// Tells the caller that it is committed.
    pub fn succeed(self, response: proto::AppendResponse) {
        drop(self.room);
        // The caller may have dropped the handle: then nobody wants to know.
        let _ = self.done.send(Ok(response));
    }

    /// Tells the caller, truthfully about all attempts.
    pub fn fail(self, error: Error) {
        drop(self.room);
        let _ = self.done.send(Err(error.with_effect(self.uncertain)));
    }

    /// Fails because an earlier one of the lane did.
    pub fn fail_behind(self, cause: &Error) {
        let message = format!("an earlier append of this conversation failed: {cause}");
        let error = Error::local(Code::Aborted, reason::LANE_BROKEN, message);
        self.fail(error.with_retryable(true));
    }
}

/// What a failure meant for a lane.
#[derive(Debug)]
pub(super) enum Failed {
    /// Everything not acknowledged is to be sent again, in order.
    Again,
    /// The lane failed for good, and everything in it.
    Broken,
}

/// The appends to one conversation that have no outcome, in order. Its first `sent` are in flight on one link.
pub(super) struct Lane {
    queue: VecDeque<Pending>,
    sent: usize,
    /// The next request opens the lane again at the server, in case it failed there.
    reset: bool,
}

impl Lane {
    /// A lane without appends. Whether an older one of the same conversation has failed is not kept: to be opened again
    /// costs one that has not failed nothing, since it has nothing in flight.
    pub fn new() -> Self {
        Lane { queue: VecDeque::new(), sent: 0, reset: true }
    }

    /// Takes an append behind the others. Its deadline is no earlier than theirs: whoever hands in appends at the same
    /// time as others need not have them come in the order of their clocks.
    pub fn push(&mut self, mut pending: Pending) {
        if let Some(last) = self.queue.back() {
            pending.deadline = pending.deadline.max(last.deadline);
        }
        self.queue.push_back(pending);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether there is something to send now. What is refused waits for everything before it.
    pub fn has_unsent(&self) -> bool {
        self.queue.get(self.sent).is_some_and(|next| next.refusal.is_none())
    }

    /// Why the lane cannot go on, if its first append is not to be sent at all.
    pub fn refusal(&self) -> Option<Error> {
        self.queue.front()?.refusal.clone()
    }

    pub fn is_in_flight(&self) -> bool {
        self.sent > 0
    }

    /// The next request to send, under this id. [`Lane::mark_sent`] says that it went out.
    pub fn next_request(&self, request_id: u64) -> Option<SessionRequest> {
        let pending = self.queue.get(self.sent).filter(|next| next.refusal.is_none())?;
        let append = Some(pending.append.clone());
        Some(SessionRequest { request_id, append, reset_lane: self.reset })
    }

    pub fn mark_sent(&mut self, request_id: u64) {
        self.queue[self.sent].request_id = request_id;
        self.sent += 1;
        self.reset = false;
    }

    /// Takes out a request that has succeeded, which has to be the first in flight: responses keep the lane's order.
    pub fn succeed(&mut self, request_id: u64) -> Result<Pending, Error> {
        self.expect_first(request_id)?;
        let first = self.queue.pop_front().expect("what is in flight is in the queue");
        self.sent -= 1;
        Ok(first)
    }

    /// Takes the failure of a request, which has to be the first in flight.
    pub fn fail(&mut self, request_id: u64, error: &Error) -> Result<Failed, Error> {
        self.expect_first(request_id)?;
        // Whether the lane is open is between the session and the server, and sending it anew opens it.
        let lane_state =
            matches!(error.reason(), reason::LANE_BROKEN | reason::PREDECESSOR_MISSING);
        if error.retryable() || lane_state {
            self.rewind(error);
            return Ok(Failed::Again);
        }
        self.break_off(error.clone());
        Ok(Failed::Broken)
    }

    /// Counts nothing as sent any more. What was in flight follows its first in whether it may have taken effect:
    /// each is committed only after the one before it.
    pub fn rewind(&mut self, error: &Error) {
        for pending in self.queue.iter_mut().take(self.sent) {
            pending.uncertain |= error.may_have_taken_effect();
            pending.last_error = Some(error.clone());
        }
        self.sent = 0;
        self.reset = true;
    }

    /// Fails the first with this error and the others behind it.
    pub fn break_off(&mut self, cause: Error) {
        // What is too old may have been committed by an attempt of long ago: of those behind it that says nothing.
        let in_doubt = cause.may_have_taken_effect() && cause.reason() != reason::TOO_OLD;
        for (place, mut pending) in self.queue.drain(..).enumerate() {
            pending.uncertain |= place < self.sent && in_doubt;
            match place {
                0 => pending.fail(cause.clone()),
                _ => pending.fail_behind(&cause),
            }
        }
        self.sent = 0;
        self.reset = true;
    }

    /// Why the lane has failed, if its first append has run out of time.
    pub fn expired(&self, now: Instant) -> Option<Error> {
        let first = self.queue.front().filter(|first| first.deadline <= now)?;
        Some(Error::deadline(first.last_error.as_ref()).with_effect(self.is_in_flight()))
    }

    /// The ids in flight.
    pub fn ids_in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.queue.iter().take(self.sent).map(|pending| pending.request_id)
    }

    fn expect_first(&self, request_id: u64) -> Result<(), Error> {
        let due = self.ids_in_flight().next();
        if due == Some(request_id) {
            return Ok(());
        }
        let text = format!("the answer to request {request_id} came where {due:?} was due");
        Err(Error::protocol(text).with_retryable(true).with_effect(true))
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
