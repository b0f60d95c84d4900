//! Tells TLS from other protocols by the first byte of a connection.

/// The first byte of every connection that uses TLS: a record that carries a handshake message.
const HANDSHAKE: u8 = 0x16;

/// Whether a connection that begins with this byte uses TLS.
///
/// No other protocol of the server begins with it: Thrift's binary protocol begins with `0x80`, or
/// with `0x00` without its version, its compact protocol with `0x82`, HTTP with a letter, and a
/// frame with the highest byte of its length, which is less than `0x16` for any frame below
/// [`FRAME_LIMIT`].
pub fn is_tls(first: u8) -> bool {
    first == HANDSHAKE
}

/// A listener that accepts TLS and frames on one port must refuse frames of this many bytes.
pub const FRAME_LIMIT: usize = (HANDSHAKE as usize) << 24;
