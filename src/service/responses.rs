//! Responses that wait until their callers take them, and the memory that they take meanwhile (G12).

use tonic::Status;

use super::errors::CallError;
use crate::consensus::{Room, RoomLeft};
use crate::types::limits;

/// A response that waits for its caller.
#[derive(Debug)]
pub struct Waiting<T> {
    response: Result<T, Status>,
    /// Only what has messages in it takes any.
    _room: Option<Room>,
}

impl<T> Waiting<T> {
    /// A response with messages, and the room that they take.
    pub fn new(response: T, room: Room) -> Self {
        Waiting { response: Ok(response), _room: Some(room) }
    }

    /// Takes it.
    pub fn into_response(self) -> Result<T, Status> {
        self.response
    }
}

impl<T> From<Result<T, CallError>> for Waiting<T> {
    /// A small one.
    fn from(response: Result<T, CallError>) -> Self {
        Waiting { response: response.map_err(Status::from), _room: None }
    }
}

/// What one call takes of the room that all share. The first few bytes are free, so that small answers are given however
/// little is left.
pub struct Share {
    left: RoomLeft,
    free: usize,
    kept: Room,
}

impl Share {
    /// Of a call that has just begun.
    pub fn new(left: &RoomLeft) -> Self {
        Share { left: left.clone(), free: limits::CALL_BYTES_FREE, kept: left.nothing() }
    }

    /// Takes room for so many bytes.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn take(&mut self, bytes: usize) -> Result<Room, CallError> {
        let free = bytes.min(self.free);
        self.free -= free;
        self.left.take(bytes - free).ok_or_else(overloaded)
    }

    /// Takes room and keeps it as long as this lives.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn keep(&mut self, bytes: usize) -> Result<(), CallError> {
        let room = self.take(bytes)?;
        self.kept.merge(room);
        Ok(())
    }
}

/// There is no room for a response.
pub fn overloaded() -> CallError {
    let message =
        "the responses that wait at this node to be taken take all the memory that they may";
    CallError::overloaded(message, limits::RESPONSES_BYTES_MAX)
}
