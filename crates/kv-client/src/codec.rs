//! Bytes on their way: calls to be written and replies that were read. What a message looks like is kv-api's affair.

use bytes::{Buf, BytesMut};
use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
use kv_api::thrift::{Method, ThriftCall, ThriftReply};

const READ_BYTES: usize = 16 << 10;

/// Encoded calls that wait to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    buffer: Vec<u8>,
    /// How much of `buffer` has been written.
    at: usize,
}

impl Outbox {
    pub fn append(&mut self, sequence: i32, call: &ThriftCall) {
        wire::encode_call(&mut self.buffer, Encoding::default(), sequence, call);
    }

    pub fn unwritten(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    pub fn note_written(&mut self, count: usize) {
        self.at += count;
        assert!(self.at <= self.buffer.len(), "more was written than there was");
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
    }
}

/// Finds and decodes replies in what comes from the socket.
pub(crate) struct Inbox {
    buffer: BytesMut,
    scanner: Scanner,
    limits: WireLimits,
}

impl Inbox {
    pub fn new(max_reply_bytes: usize) -> Self {
        let limits = WireLimits {
            max_message_bytes: max_reply_bytes,
            // A row takes more bytes than one: the size of the reply bounds its length.
            max_container: max_reply_bytes,
            max_string_bytes: max_reply_bytes,
            ..WireLimits::default()
        };
        Inbox { buffer: BytesMut::new(), scanner: Scanner::new(limits), limits }
    }

    /// Where to read to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next complete reply with its sequence id, given the method of the oldest call that waits for one.
    pub fn next(&mut self, waiting_for: Option<Method>) -> Result<Option<(i32, ThriftReply)>, String> {
        let Some(envelope) = self.scanner.scan(&self.buffer).map_err(|e| e.to_string())? else { return Ok(None) };
        let method = waiting_for.ok_or("a reply to nothing")?;
        let message = &self.buffer[..envelope.end];
        let reply = wire::decode_reply(message, envelope.encoding, self.limits, method).map_err(|e| e.to_string())?;
        self.buffer.advance(envelope.end);
        Ok(Some(reply))
    }
}
