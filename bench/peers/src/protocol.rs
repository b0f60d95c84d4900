//! The interface between the loop and a protocol.

use crate::keys::{Bytes, Operation};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A transaction met a conflict and is begun again.
    Conflict,
    Failed(&'static str),
}

/// An operation that has ended: its slot and its outcome.
pub type Ended = (usize, Outcome);

/// The received bytes are no reply, or the server ends the connection.
#[derive(Debug)]
pub struct Broken(pub String);

/// One connection's side of a protocol.
pub trait Protocol {
    /// Appends the bytes that open a session.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Whether the session is open.
    fn is_open(&self) -> bool {
        true
    }

    /// Appends the first request of an operation. The slot identifies it until it has ended.
    fn begin(&mut self, slot: usize, operation: Operation, bytes: &mut Bytes, out: &mut Vec<u8>);

    /// Takes replies from `input`, and appends requests that follow from them. Returns the number of
    /// bytes that were used up.
    fn receive(
        &mut self,
        input: &[u8],
        bytes: &mut Bytes,
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<usize, Broken>;

    /// Appends the bytes that close the session. Returns whether the server answers by closing the
    /// connection.
    fn close(&mut self, _out: &mut Vec<u8>) -> bool {
        false
    }
}
