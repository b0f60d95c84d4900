//! Buffers between a session and its stream: encoded calls to be written, and bytes read from which
//! replies are decoded. The format of messages is defined in kv-api.

use bytes::{Buf, BytesMut};
use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
use kv_api::thrift::{Method, ThriftCall, ThriftReply};

const READ_BYTES: usize = 16 << 10;

/// Encoded calls that are still to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    buffer: Vec<u8>,
    /// How many bytes of `buffer` have been written.
    written: usize,
}

impl Outbox {
    pub fn append(&mut self, sequence: i32, call: &ThriftCall) {
        wire::encode_call(&mut self.buffer, Encoding::default(), sequence, call);
    }

    pub fn unwritten(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// Removes the first `count` bytes, which have been written.
    pub fn advance(&mut self, count: usize) {
        self.written += count;
        assert!(self.written <= self.buffer.len(), "more was written than there was");
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
        }
    }
}

/// Finds and decodes replies in the bytes that were read.
pub(crate) struct Inbox {
    buffer: BytesMut,
    scanner: Scanner,
    limits: WireLimits,
}

impl Inbox {
    pub fn new(max_reply_bytes: usize) -> Self {
        let limits = WireLimits {
            max_message_bytes: max_reply_bytes,
            // A row takes at least one byte, so the size of the reply bounds the number of rows.
            max_container: max_reply_bytes,
            max_string_bytes: max_reply_bytes,
            ..WireLimits::default()
        };
        Inbox { buffer: BytesMut::new(), scanner: Scanner::new(limits), limits }
    }

    /// The buffer to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next complete reply with its sequence id. `waiting_for` is the method of the oldest call
    /// that waits for a reply.
    pub fn next(&mut self, waiting_for: Option<Method>) -> Result<Option<(i32, ThriftReply)>, String> {
        let Some(envelope) = self.scanner.scan(&self.buffer).map_err(|e| e.to_string())? else { return Ok(None) };
        let method = waiting_for.ok_or("a reply without a request")?;
        let message = &self.buffer[..envelope.end];
        let reply = wire::decode_reply(message, envelope.encoding, self.limits, method).map_err(|e| e.to_string())?;
        self.buffer.advance(envelope.end);
        Ok(Some(reply))
    }
}
