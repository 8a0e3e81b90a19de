//! Pipelined appends.
//!
//! A [`Session`] takes room in its [window](window::Window) for each append and hands it to one task, the
//! [driver](driver::Driver). That keeps a [lane](lane::Lane) for each conversation with appends outstanding, and a
//! [link](link) for each node that leads one of them.

mod driver;
mod lane;
mod link;
mod window;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Code;

use self::driver::{Command, Driver};
use self::lane::Pending;
use self::window::Window;
use crate::message::now_us;
use crate::{Append, Client, Error, proto, reason};

/// Appends that servers let one session have in flight.
const SERVER_IN_FLIGHT_MAX: u32 = 4_096;

/// Bounds of a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Appends without an outcome, over all conversations; further ones wait. 1 to 4,096, 1,024 by default.
    pub in_flight_max: usize,
    /// Their payload bytes; one append may exceed it alone. 64 MiB by default, 4 GiB at most.
    pub in_flight_bytes_max: u32,
    /// How long an append may take from being handed in, all attempts together. 30 s by default.
    pub append_timeout: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            in_flight_max: 1_024,
            in_flight_bytes_max: 64 * 1024 * 1024,
            append_timeout: Duration::from_secs(30),
        }
    }
}

/// A stream of pipelined appends of any senders to any conversations. Cheap to clone.
///
/// Appends to one conversation form a lane: they are committed in the order in which they were handed in, also
/// across a change of leader (G5), each once (G4). Where an attempt fails in a way that can be retried, the session
/// sends the lane again from there. Where one fails for good, it and all later ones of its lane fail, the later ones
/// with [`reason::LANE_BROKEN`], until [`Session::resume`] opens the lane again; other lanes go on.
///
/// What failed is kept until it is resumed. Once 10,000 conversations have failed and were not resumed, appends to
/// conversations that have none outstanding fail with [`reason::SESSION_CLOSED`] from then on, without being sent; what
/// is outstanding goes on. Appends go through another session then.
///
/// Dropping the last clone withdraws nothing: what was handed in is still carried to its outcome.
#[derive(Clone)]
pub struct Session {
    commands: mpsc::Sender<Command>,
    window: Arc<Window>,
    options: SessionOptions,
}

impl Client {
    /// Opens a session. Connections are made when they are needed.
    ///
    /// # Errors
    ///
    /// `BAD_OPTION` if an option is out of its range.
    pub fn session(&self, options: SessionOptions) -> Result<Session, Error> {
        let in_flight_max = u32::try_from(options.in_flight_max).unwrap_or(u32::MAX);
        if !(1..=SERVER_IN_FLIGHT_MAX).contains(&in_flight_max) {
            let message = format!("in_flight_max is not within 1 to {SERVER_IN_FLIGHT_MAX}");
            return Err(Error::local(Code::InvalidArgument, reason::BAD_OPTION, message));
        }
        if options.in_flight_bytes_max == 0 {
            let message = "in_flight_bytes_max is zero";
            return Err(Error::local(Code::InvalidArgument, reason::BAD_OPTION, message));
        }
        // Room for every append that has a place; resumes wait for theirs.
        let (commands, receiver) = mpsc::channel(options.in_flight_max);
        tokio::spawn(Driver::new(self.clone(), options.in_flight_max).run(receiver));
        let window = Window::new(in_flight_max, options.in_flight_bytes_max);
        Ok(Session { commands, window, options })
    }
}

impl Session {
    /// Hands in an append, after waiting for room in the window, and returns what will tell its outcome. The place
    /// in the lane is taken when this returns.
    ///
    /// What is over [`limits`](crate::limits) as a whole is not sent: it fails with `LIMIT_EXCEEDED` once everything
    /// before it in its lane is committed.
    ///
    /// Cancel safe: dropped before it returns, nothing was handed in. Dropping the handle withdraws nothing.
    pub async fn append(&self, append: Append) -> AppendHandle {
        let request = append.seal(now_us());
        let payload_bytes = request.messages.iter().map(|message| message.payload.len()).sum();
        let room = self.window.take(payload_bytes).await;
        let (done, outcome) = oneshot::channel();
        let deadline = Instant::now() + self.options.append_timeout;
        let pending = Pending::new(&request, deadline, done, room);
        // The driver ends only after every session has; should it have failed, the handle says so.
        let _ = self.commands.send(Command::Append(request.conversation, pending)).await;
        AppendHandle { outcome }
    }

    /// Opens the lane of a conversation again after a failure, of which nothing is kept then. Whatever failed before and
    /// is to be sent has to be handed in again. Does nothing for a lane that has not failed. Cancel safe: dropped before
    /// it returns, nothing was opened.
    pub async fn resume(&self, conversation: impl Into<String>) {
        let _ = self.commands.send(Command::Resume(conversation.into())).await;
    }

    /// Waits until everything handed in so far has its outcome. Cancel safe.
    pub async fn flush(&self) {
        self.window.emptied().await;
    }

    /// How many appends have no outcome.
    pub fn in_flight(&self) -> usize {
        self.window.taken()
    }
}

/// The outcome of an append on a session, once it is there.
#[derive(Debug)]
#[must_use = "an append that nobody asks about fails silently"]
pub struct AppendHandle {
    outcome: oneshot::Receiver<Result<proto::AppendResponse, Error>>,
}

impl Future for AppendHandle {
    type Output = Result<proto::AppendResponse, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(context));
        Poll::Ready(outcome.unwrap_or_else(|_| {
            let message = "the session ended before the append was answered";
            Err(Error::local(Code::Cancelled, reason::SESSION_CLOSED, message)
                .with_retryable(true)
                .with_effect(true))
        }))
    }
}
