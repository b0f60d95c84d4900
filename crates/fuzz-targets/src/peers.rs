//! Bytes from another replica: frames, and the messages in them.
//!
//! A frame's checksums keep random changes out, so an input says whether they are to be made right again.

use bytes::Bytes;
use rsml::MessageHeader;
use rsml::transport::{Decoder, Envelope, Frame};
use rsml::{Boot, ClusterId, DiskId, Epoch, Message, ReplicaId};

use crate::{Input, records};

const HEADER_BYTES: usize = 80;
const CONTENT_BYTES_AT: usize = 12;
const HEADER_CRC_AT: usize = 72;
const CONTENT_CRC_AT: usize = 76;

/// The first byte says whether checksums are made right, the second in pieces of how many bytes it arrives.
pub fn stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (seal, piece_bytes) = (input.byte() & 1 == 1, usize::from(input.byte()) + 1);
    let mut bytes = bytes.get(2..).unwrap_or_default().to_vec();
    if seal {
        seal_frames(&mut bytes);
    }
    let whole = decode_in_pieces(&bytes, bytes.len());
    assert_eq!(decode_in_pieces(&bytes, piece_bytes), whole, "the stream reads otherwise in pieces of {piece_bytes}");
    for frame in whole.frames {
        check_frame(&frame);
        let _known = Message::from_bytes(&frame.envelope.body);
        frame.envelope.payload.into_iter().for_each(records::value);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    frames: Vec<Frame>,
    is_refused: bool,
}

fn decode_in_pieces(bytes: &[u8], piece_bytes: usize) -> Decoded {
    let mut decoder = Decoder::default();
    let mut decoded = Decoded { frames: Vec::new(), is_refused: false };
    for piece in bytes.chunks(piece_bytes.max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => decoded.frames.push(frame),
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    decoded.is_refused = true;
                    return decoded;
                }
            }
        }
    }
    decoded
}

fn check_frame(frame: &Frame) {
    let encoded = frame.encode().expect("it was no longer before");
    let bytes = encoded.pieces.concat();
    assert_eq!(bytes.len(), encoded.bytes);
    let again = decode_in_pieces(&bytes, bytes.len());
    assert_eq!(again, Decoded { frames: vec![frame.clone()], is_refused: false });
}

/// Makes the checksums right of all frames that the bytes can be taken for.
fn seal_frames(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let content_bytes = number(CONTENT_BYTES_AT) as usize;
        let header_crc = crc32c::crc32c(&header[..HEADER_CRC_AT]);
        let content = &bytes[at + HEADER_BYTES..];
        let content_crc = crc32c::crc32c(content.get(..content_bytes).unwrap_or(content));
        bytes[at + HEADER_CRC_AT..][..4].copy_from_slice(&header_crc.to_le_bytes());
        bytes[at + CONTENT_CRC_AT..][..4].copy_from_slice(&content_crc.to_le_bytes());
        at += HEADER_BYTES + content_bytes;
    }
}

/// A message that can be decoded survives its encoding.
pub fn message(bytes: &[u8]) {
    if let Some(message) = Message::from_bytes(bytes) {
        assert_eq!(Message::from_bytes(&message.clone().to_bytes()), Some(message));
    }
}

/// Messages of every kind that there is, with numbers in their fields.
fn messages() -> Vec<Bytes> {
    // Kinds and fields are numbered from 1 on; numbers that no message has decode to `None`.
    let fields = |values: [u8; 12]| (1..).zip(values).flat_map(|(field, value): (u8, u8)| [field << 3, value]);
    let body = |kind: u8, values| {
        let fields: Vec<u8> = fields(values).collect();
        let tag = u16::from(kind) << 3 | 2;
        let tag = if tag < 0x80 { vec![tag as u8] } else { vec![tag as u8 | 0x80, (tag >> 7) as u8] };
        [tag, vec![fields.len() as u8], fields].concat()
    };
    let all = (1..64u8).map(|kind| body(kind, [kind, 1, 2, 3, 4, 5, 6, 7, 1, 0, 1, 0]));
    all.filter_map(|body| Message::from_bytes(&body)).map(Message::to_bytes).collect()
}

pub fn message_seeds() -> Vec<Vec<u8>> {
    messages().iter().map(|message| message.to_vec()).collect()
}

pub fn stream_seeds() -> Vec<Vec<u8>> {
    let sender = MessageHeader {
        replica: ReplicaId(1),
        cluster_id: ClusterId(5),
        epoch: Epoch(1),
        disk_id: DiskId(6 << 64),
        boot: Boot(2),
    };
    let value: Bytes = records::sample_value().into();
    let payloads = [vec![], vec![value.clone()], vec![Bytes::new(), value, Bytes::from(vec![7; 600])]];
    let mut seeds = vec![vec![1, 9]];
    for (number, body) in messages().into_iter().enumerate() {
        let payload = payloads[number % payloads.len()].clone();
        let frame = Frame::message(Envelope { sender, to: ReplicaId(0), body, payload });
        let hello = Frame::hello(sender, ReplicaId(2));
        let frames = if number % 4 == 0 { vec![hello, frame] } else { vec![frame] };
        let bytes = frames.iter().flat_map(|frame| frame.encode().expect("it is short").pieces.concat());
        seeds.push([1, number as u8].into_iter().chain(bytes).collect());
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealing_leaves_sound_frames_as_they_are() {
        for seed in stream_seeds() {
            let mut sealed = seed[2..].to_vec();
            seal_frames(&mut sealed);
            assert_eq!(sealed, &seed[2..]);
        }
    }

    #[test]
    fn there_is_a_seed_of_every_kind_of_message() {
        assert!(messages().len() >= 16, "{} kinds", messages().len());
    }
}
