//! Settings of the Thrift server.

use std::time::Duration;

use kv_api::thrift::wire::{Encoding, WireLimits};
use serde::{Deserialize, Serialize};

/// Limits of the Thrift server. The defaults suit existing clients and the default transaction
/// limit of 10 MB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThriftServerOptions {
    /// Maximum number of open connections. One more closes the one that has been idle longest, or
    /// is itself closed at once.
    pub max_connections: usize,
    /// How long a connection must have been idle to be closed for a new one. Also how long a client
    /// may read nothing before its connection is closed because others wait for the memory of its
    /// replies.
    pub spared_idle_ms: u64,
    /// A connection without a request for this long is closed. 0: never; TCP keep-alive detects
    /// clients that are gone.
    pub idle_timeout_s: u64,
    /// The deadline that each call carries, counted from its arrival.
    pub request_timeout_ms: u64,
    /// A message must be complete within this time of its first byte. 0: no limit.
    pub message_timeout_ms: u64,
    /// A client that reads none of its replies for this long is disconnected. 0: never.
    pub write_timeout_ms: u64,
    /// How long running calls may take to end when the server shuts down.
    pub drain_timeout_ms: u64,
    /// Longest message accepted, in bytes.
    pub max_message_bytes: usize,
    /// Longest string or binary inside a message, in bytes; 0: as long as the message.
    pub max_string_bytes: usize,
    /// Maximum number of elements of one list, set or map.
    pub max_container: usize,
    /// Deepest nesting of structs and containers.
    pub max_depth: usize,
    /// Maximum number of calls of one connection that run or wait for their turn to reply; beyond,
    /// the server reads nothing more from it.
    pub max_pipelined: usize,
    /// Maximum bytes of replies of one connection that are being made or wait for the client to
    /// read them; beyond, the server reads nothing more from it. A reply that may be longer is made
    /// alone.
    pub max_buffered_reply_bytes: usize,
    /// Longest reply that is sent unframed, in bytes; a longer one becomes an exception.
    pub max_reply_bytes: usize,
    /// Longest reply that is sent in a frame, in bytes; existing clients refuse longer ones.
    pub max_framed_reply_bytes: usize,
    /// Memory for replies being made or waiting to be read, for all connections together.
    pub max_reply_memory_bytes: usize,
    /// Memory for requests of more than a few KiB that are arriving or being worked on, for all
    /// connections together.
    pub max_request_memory_bytes: usize,
    /// Longest key and value in a reply, which determine the memory for reading one row.
    pub max_key_bytes: usize,
    pub max_value_bytes: usize,
}

impl Default for ThriftServerOptions {
    fn default() -> Self {
        ThriftServerOptions {
            max_connections: 10_000,
            spared_idle_ms: 5_000,
            idle_timeout_s: 0,
            request_timeout_ms: 10_000,
            message_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            drain_timeout_ms: 5_000,
            max_message_bytes: 16 << 20,
            max_string_bytes: 0,
            max_container: 1_000_000,
            max_depth: 32,
            max_pipelined: 1_024,
            max_buffered_reply_bytes: 8 << 20,
            max_reply_bytes: 64 << 20,
            max_framed_reply_bytes: 16_384_000,
            max_reply_memory_bytes: 256 << 20,
            max_request_memory_bytes: 128 << 20,
            max_key_bytes: 10_000,
            max_value_bytes: 100_000,
        }
    }
}

impl ThriftServerOptions {
    /// Checks the settings. The error names the first invalid one, and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let least = [
            ("max_connections", self.max_connections, 1),
            ("request_timeout_ms", self.request_timeout_ms as usize, 1),
            ("max_message_bytes", self.max_message_bytes, 1_024),
            ("max_container", self.max_container, 1),
            ("max_depth", self.max_depth, 4),
            ("max_pipelined", self.max_pipelined, 1),
            ("max_buffered_reply_bytes", self.max_buffered_reply_bytes, 1),
            ("max_reply_bytes", self.max_reply_bytes, 1_024),
            ("max_framed_reply_bytes", self.max_framed_reply_bytes, 1_024),
            ("max_reply_memory_bytes", self.max_reply_memory_bytes, 1 << 20),
            ("max_request_memory_bytes", self.max_request_memory_bytes, 1 << 20),
        ];
        for (name, value, least) in least {
            if value < least {
                return Err(format!("{name} is {value}, but must be at least {least}"));
            }
        }
        // Thrift's lengths are 31 bits wide.
        let most = [
            ("max_message_bytes", self.max_message_bytes),
            ("max_reply_bytes", self.max_reply_bytes),
            ("max_framed_reply_bytes", self.max_framed_reply_bytes),
        ];
        for (name, value) in most {
            if value > i32::MAX as usize {
                return Err(format!("{name} is {value}, but must be at most {}", i32::MAX));
            }
        }
        // The Thrift library skips unknown fields only to this depth.
        if self.max_depth > 60 {
            return Err(format!("max_depth is {}, but must be at most 60", self.max_depth));
        }
        Ok(())
    }

    /// The longest reply to a message that came in this encoding.
    pub(super) fn reply_limit(&self, encoding: Encoding) -> usize {
        match encoding.framed {
            true => self.max_framed_reply_bytes.min(self.max_reply_bytes),
            false => self.max_reply_bytes,
        }
    }

    pub(super) fn wire_limits(&self) -> WireLimits {
        let max_string_bytes = if self.max_string_bytes == 0 { self.max_message_bytes } else { self.max_string_bytes };
        WireLimits {
            max_message_bytes: self.max_message_bytes,
            max_container: self.max_container,
            max_string_bytes,
            max_depth: self.max_depth,
        }
    }

    /// `None`: never.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        (self.idle_timeout_s > 0).then(|| Duration::from_secs(self.idle_timeout_s))
    }

    pub(super) fn write_timeout(&self) -> Option<Duration> {
        (self.write_timeout_ms > 0).then(|| Duration::from_millis(self.write_timeout_ms))
    }

    pub(super) fn message_timeout(&self) -> Option<Duration> {
        (self.message_timeout_ms > 0).then(|| Duration::from_millis(self.message_timeout_ms))
    }
}
