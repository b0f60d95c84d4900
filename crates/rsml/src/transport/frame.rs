//! The encoding of an envelope on a byte stream. Version 1, all numbers little-endian:
//!
//! ```text
//! header   80 bytes
//!   0  magic 4 | version 2 | kind 1 | from 1 | to 1 | zeros 3
//!  12  content bytes 4 | body bytes 4 | payload count 4
//!  24  epoch 8 | boot 8 | cluster id 16 | disk id 16
//!  72  CRC32C 4 of the header up to here | CRC32C 4 of the content
//! content  payload lengths, 4 bytes each | body | payloads
//! ```
//! The header has a checksum of its own, so a length is used only if it is intact. Memory grows
//! with the bytes that have arrived, not with the length announced. Neither the encoder nor the
//! decoder copies payloads; decoded payloads keep the buffer alive in which they arrived.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Envelope;
use crate::message::MessageHeader;
use crate::{Boot, ClusterId, DiskId, Epoch, ReplicaId};

pub(super) const HEADER_BYTES: usize = 80;
/// Maximum bytes of header and content together.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
pub(super) const MAGIC: [u8; 4] = *b"RSML";
pub(super) const VERSION: u16 = 1;
const LENGTH_BYTES: usize = 4;
/// Payloads up to this length are copied after the head: that is cheaper than one more piece of a
/// vectored write.
const COPIED_PAYLOAD_BYTES: usize = 512;

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The first frame on a connection: identifies the dialler, and has neither body nor payload.
    Hello,
    /// Any later frame.
    Message,
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The purpose of the frame.
    pub kind: FrameKind,
    /// The message, or only its header in a hello.
    pub envelope: Envelope,
}

/// Bytes that are no frame, or a frame that is too large. After a decoding error the stream is of
/// no further use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not the magic number.
    #[error("the bytes don't begin with a frame")]
    Magic,
    /// The frame has a version that this program does not speak.
    #[error("the frame has version {found}, this program speaks version {VERSION}")]
    Version {
        /// The frame's version.
        found: u16,
    },
    /// The header is intact but names no [`FrameKind`].
    #[error("the frame has the unknown kind {found}")]
    Kind {
        /// The code of the kind.
        found: u8,
    },
    /// Header and content are too long.
    #[error("a frame of {bytes} bytes is larger than the {allowed} allowed")]
    TooLarge {
        /// Header and content together.
        bytes: usize,
        /// The most that the decoder accepts now, or 64 MiB.
        allowed: usize,
    },
    /// Body and payloads do not add up to the content.
    #[error("the lengths in the frame contradict each other")]
    Lengths,
    /// The frame was damaged in transit.
    #[error("the {part} of the frame doesn't match its checksum")]
    Checksum {
        /// "header" or "content".
        part: &'static str,
    },
}

/// A frame in pieces, to be written one after the other.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    /// In the order in which they are written; none is empty.
    pub pieces: Vec<Bytes>,
    /// The length of all pieces together.
    pub bytes: usize,
}

impl Frame {
    /// The frame that a dialler sends first.
    pub fn hello(sender: MessageHeader, to: ReplicaId) -> Self {
        Frame { kind: FrameKind::Hello, envelope: Envelope { sender, to, body: Bytes::new(), payload: Vec::new() } }
    }

    /// A frame that carries a message.
    pub fn message(envelope: Envelope) -> Self {
        Frame { kind: FrameKind::Message, envelope }
    }

    /// Encodes the frame without copying long payloads.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn encode(&self) -> Result<EncodedFrame, FrameError> {
        let Envelope { body, payload, .. } = &self.envelope;
        let bytes = encoded_bytes(&self.envelope);
        if bytes > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge { bytes, allowed: MAX_FRAME_BYTES });
        }
        let mut head = BytesMut::with_capacity(HEADER_BYTES + payload.len() * LENGTH_BYTES + body.len());
        head.resize(HEADER_BYTES, 0);
        for entry in payload {
            head.put_u32_le(entry.len() as u32);
        }
        head.put_slice(body);
        let head_crc = crc32c::crc32c(&head[HEADER_BYTES..]);
        let content_crc = payload.iter().fold(head_crc, |crc, entry| crc32c::crc32c_append(crc, entry));
        let header = self.encode_header(bytes - HEADER_BYTES, content_crc);
        head[..HEADER_BYTES].copy_from_slice(&header);
        Ok(EncodedFrame { pieces: pieces(head, payload), bytes })
    }

    fn encode_header(&self, content_bytes: usize, content_crc: u32) -> [u8; HEADER_BYTES] {
        let Envelope { sender, to, body, payload } = &self.envelope;
        let mut header = [0; HEADER_BYTES];
        let mut out = &mut header[..];
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u8(match self.kind {
            FrameKind::Hello => 0,
            FrameKind::Message => 1,
        });
        out.put_u8(sender.replica.0);
        out.put_u8(to.0);
        out.put_bytes(0, 3);
        out.put_u32_le(content_bytes as u32);
        out.put_u32_le(body.len() as u32);
        out.put_u32_le(payload.len() as u32);
        out.put_u64_le(sender.epoch.0);
        out.put_u64_le(sender.boot.0);
        out.put_u128_le(sender.cluster_id.0);
        out.put_u128_le(sender.disk_id.0);
        let crc = crc32c::crc32c(&header[..HEADER_BYTES - 8]);
        header[HEADER_BYTES - 8..HEADER_BYTES - 4].copy_from_slice(&crc.to_le_bytes());
        header[HEADER_BYTES - 4..].copy_from_slice(&content_crc.to_le_bytes());
        header
    }
}

/// The length of an envelope's frame.
pub(super) fn encoded_bytes(envelope: &Envelope) -> usize {
    let payload: usize = envelope.payload.iter().map(|entry| LENGTH_BYTES + entry.len()).sum();
    HEADER_BYTES + envelope.body.len() + payload
}

/// Splits a frame at its long payloads, which are not copied.
fn pieces(mut head: BytesMut, payload: &[Bytes]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for entry in payload {
        if entry.len() <= COPIED_PAYLOAD_BYTES {
            head.put_slice(entry);
        } else {
            if !head.is_empty() {
                pieces.push(head.split().freeze());
            }
            pieces.push(entry.clone());
        }
    }
    if !head.is_empty() {
        pieces.push(head.freeze());
    }
    pieces
}

/// The fields of an intact header.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: FrameKind,
    sender: MessageHeader,
    to: ReplicaId,
    content_bytes: usize,
    body_bytes: usize,
    payload_count: usize,
    content_crc: u32,
}

impl Header {
    fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut input = &bytes[..HEADER_BYTES];
        let mut magic = [0; 4];
        input.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(FrameError::Magic);
        }
        let version = input.get_u16_le();
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        let kind = input.get_u8();
        let (from, to) = (ReplicaId(input.get_u8()), ReplicaId(input.get_u8()));
        input.advance(3);
        let [content_bytes, body_bytes, payload_count] = [(); 3].map(|()| input.get_u32_le() as usize);
        let sender = MessageHeader {
            replica: from,
            epoch: Epoch(input.get_u64_le()),
            boot: Boot(input.get_u64_le()),
            cluster_id: ClusterId(input.get_u128_le()),
            disk_id: DiskId(input.get_u128_le()),
        };
        if input.get_u32_le() != crc32c::crc32c(&bytes[..HEADER_BYTES - 8]) {
            return Err(FrameError::Checksum { part: "header" });
        }
        let kind = match kind {
            0 => FrameKind::Hello,
            1 => FrameKind::Message,
            found => return Err(FrameError::Kind { found }),
        };
        let content_crc = input.get_u32_le();
        Header { kind, sender, to, content_bytes, body_bytes, payload_count, content_crc }.checked()
    }

    fn checked(self) -> Result<Self, FrameError> {
        let least = self.payload_count * LENGTH_BYTES + self.body_bytes;
        if least > self.content_bytes { Err(FrameError::Lengths) } else { Ok(self) }
    }

    /// Splits the content without copying it.
    fn frame(&self, mut content: Bytes) -> Result<Frame, FrameError> {
        if crc32c::crc32c(&content) != self.content_crc {
            return Err(FrameError::Checksum { part: "content" });
        }
        let mut lengths = content.split_to(self.payload_count * LENGTH_BYTES);
        let body = content.split_to(self.body_bytes);
        let mut payload = Vec::with_capacity(self.payload_count);
        while lengths.has_remaining() {
            let length = lengths.get_u32_le() as usize;
            if length > content.len() {
                return Err(FrameError::Lengths);
            }
            payload.push(content.split_to(length));
        }
        if content.has_remaining() {
            return Err(FrameError::Lengths);
        }
        let envelope = Envelope { sender: self.sender, to: self.to, body, payload };
        Ok(Frame { kind: self.kind, envelope })
    }
}

/// Splits a byte stream into frames. The caller reads from the stream into [`Decoder::buffer`].
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max_frame_bytes: usize,
    /// The header of the frame that `buffer` begins with, if its content is incomplete.
    header: Option<Header>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { buffer: BytesMut::new(), max_frame_bytes: MAX_FRAME_BYTES, header: None }
    }
}

impl Decoder {
    /// How much a stranger may send before it has identified itself: a hello and little more.
    const STRANGER_BYTES: usize = 4 << 10;
    const READ_BYTES: usize = 256 << 10;
    /// If there is less room than this in the buffer, it grows before the next read.
    const LEAST_ROOM_BYTES: usize = 4 << 10;

    /// A decoder for a stream from an unknown sender: takes little memory, and accepts no large
    /// frames until [`Decoder::trust`].
    pub fn of_stranger() -> Self {
        Decoder { max_frame_bytes: Self::STRANGER_BYTES, ..Decoder::default() }
    }

    /// Accepts frames up to 64 MiB from now on.
    pub fn trust(&mut self) {
        self.max_frame_bytes = MAX_FRAME_BYTES;
    }

    /// The buffer to append to, with room for more. While a large frame arrives, the buffer grows
    /// in proportion to the bytes that have arrived.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let missing = self.header.map_or(0, |header| HEADER_BYTES + header.content_bytes - self.buffer.len());
        let growth = missing.min(self.buffer.len()).max(Self::READ_BYTES.min(self.max_frame_bytes));
        let room = self.buffer.capacity() - self.buffer.len();
        if room < Self::LEAST_ROOM_BYTES {
            self.buffer.reserve(growth);
        }
        &mut self.buffer
    }

    /// The next complete frame; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frame, or the frame is too large; decoding cannot continue.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.header.is_none() {
            self.reject_early()?;
            if self.buffer.len() < HEADER_BYTES {
                return Ok(None);
            }
            let header = Header::decode(&self.buffer)?;
            let (bytes, allowed) = (HEADER_BYTES + header.content_bytes, self.max_frame_bytes);
            if bytes > allowed {
                return Err(FrameError::TooLarge { bytes, allowed });
            }
            self.header = Some(header);
        }
        let header = self.header.expect("it was read above");
        if self.buffer.len() < HEADER_BYTES + header.content_bytes {
            return Ok(None);
        }
        self.header = None;
        self.buffer.advance(HEADER_BYTES);
        header.frame(self.buffer.split_to(header.content_bytes).freeze()).map(Some)
    }

    /// Recognises garbage before a whole header has arrived.
    fn reject_early(&self) -> Result<(), FrameError> {
        let length = self.buffer.len().min(MAGIC.len());
        if self.buffer[..length] == MAGIC[..length] { Ok(()) } else { Err(FrameError::Magic) }
    }
}
