//! The message codec over byte buffers, shared by server and clients.
//!
//! A connection speaks one of two protocols, binary (strict) or compact, each with or without
//! frames. The first byte of each message shows which: 0x80 begins an unframed binary message and
//! 0x82 an unframed compact one. Any other byte must belong to the length of a frame, whose fifth
//! byte then shows the protocol. Recognition is per message, and a reply is encoded like its call.
//!
//! An unframed message does not say how long it is. [`Scanner`] finds its end by walking the field
//! headers, before anything is decoded. So the decoder sees only complete messages, and no declared
//! size leads to an allocation.
//!
//! Left out: the old binary protocol without version, and multiplexed services.

mod error;
mod message;
mod scanner;
#[cfg(test)]
mod tests;

pub use error::WireError;
pub use message::{
    Header, IncomingCall, MessageKind, decode_call, decode_reply, encode_call, encode_reply, read_header,
};
pub use scanner::{Envelope, Scanner};

/// The protocols of the Thrift library that are understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Binary,
    Compact,
}

/// The encoding of a message on the wire. The default is what clients of this interface speak:
/// unframed binary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Binary or compact.
    pub protocol: Protocol,
    /// Whether each message has its length in front.
    pub framed: bool,
}

impl Encoding {
    /// All encodings.
    pub const ALL: [Encoding; 4] = [
        Encoding { protocol: Protocol::Binary, framed: false },
        Encoding { protocol: Protocol::Binary, framed: true },
        Encoding { protocol: Protocol::Compact, framed: false },
        Encoding { protocol: Protocol::Compact, framed: true },
    ];

    /// The encoding that the first bytes of a message show; `None` if they are too few, or not
    /// Thrift.
    pub fn of_first_bytes(message: &[u8]) -> Option<Encoding> {
        match protocol_of(*message.first()?) {
            Some(protocol) => Some(Encoding { protocol, framed: false }),
            None => {
                let protocol = protocol_of(*message.get(FRAME_PREFIX_LENGTH)?)?;
                Some(Encoding { protocol, framed: true })
            }
        }
    }

    /// The offset at which the message itself begins: after the length of the frame, if there is
    /// one.
    fn prefix_length(self) -> usize {
        if self.framed { FRAME_PREFIX_LENGTH } else { 0 }
    }
}

const FRAME_PREFIX_LENGTH: usize = 4;
const BINARY_FIRST_BYTE: u8 = 0x80;
const COMPACT_FIRST_BYTE: u8 = 0x82;

fn protocol_of(first_byte: u8) -> Option<Protocol> {
    match first_byte {
        BINARY_FIRST_BYTE => Some(Protocol::Binary),
        COMPACT_FIRST_BYTE => Some(Protocol::Compact),
        _ => None,
    }
}

/// Bounds on what a message may declare. A declaration beyond them is refused as soon as it is
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// Longest message, its frame included.
    pub max_message_bytes: usize,
    /// Maximum number of elements of one list, set or map.
    pub max_container: usize,
    /// Longest string or binary.
    pub max_string_bytes: usize,
    /// Deepest nesting of structs and containers; the arguments of a call are the first level.
    pub max_depth: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        WireLimits { max_message_bytes: 16 << 20, max_container: 1_000_000, max_string_bytes: 16 << 20, max_depth: 32 }
    }
}
