//! Frames as bytes.

use super::super::frame::MAX_FRAME_BYTES;
use super::*;

fn bytes_of(frame: &Frame) -> Vec<u8> {
    frame.encode().expect("the frame is small enough").pieces.concat()
}

fn decode_all(bytes: &[u8], piece_bytes: usize) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        decoder.buffer().extend_from_slice(piece);
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn samples() -> Vec<Frame> {
    let long = Bytes::from(vec![7; 5000]);
    vec![
        Frame::hello(envelope(A, B, "", vec![]).sender, B),
        Frame::message(envelope(A, B, "", vec![])),
        Frame::message(envelope(A, B, "body", vec![Bytes::new(), Bytes::from_static(b"short"), long.clone()])),
        Frame::message(envelope(A, B, vec![1; 100_000], vec![long.clone(), Bytes::from_static(b"x"), long])),
    ]
}

#[test]
fn frames_are_decoded_as_they_were_encoded_however_the_stream_is_divided() {
    let frames = samples();
    let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
    for piece_bytes in [1, 7, 80, 4096, bytes.len()] {
        assert_eq!(decode_all(&bytes, piece_bytes), Ok(frames.clone()), "pieces of {piece_bytes} bytes");
    }
}

#[test]
fn long_payloads_are_not_copied_by_the_encoder() {
    let payload = Bytes::from(vec![7; 5000]);
    let frame = Frame::message(envelope(A, B, "body", vec![payload.clone()])).encode().expect("small enough");
    assert!(frame.pieces.iter().any(|piece| piece.as_ptr() == payload.as_ptr()));
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let bytes = bytes_of(&Frame::message(envelope(A, B, "body", vec![Bytes::from_static(b"payload")])));
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (position % 8);
        decode_all(&damaged, damaged.len()).expect_err(&format!("byte {position} was damaged"));
    }
}

#[test]
fn a_length_is_used_only_once_its_checksum_fits_and_memory_grows_with_the_bytes_that_arrived() {
    let mut bytes = bytes_of(&Frame::message(envelope(A, B, "body", vec![])));
    bytes[12..16].copy_from_slice(&(60u32 << 20).to_le_bytes());
    assert_eq!(decode_all(&bytes, 80), Err(FrameError::Checksum { part: "header" }));
    let huge = bytes_of(&Frame::message(envelope(A, B, vec![1; 60 << 20], vec![])));
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&huge[..200]);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer().capacity() < 1 << 20, "memory was allocated for bytes that were only announced");
}

#[test]
fn a_frame_that_is_too_large_is_neither_sent_nor_accepted() {
    let frame = Frame::message(envelope(A, B, vec![1; MAX_FRAME_BYTES], vec![]));
    assert!(matches!(frame.encode(), Err(FrameError::TooLarge { .. })));
    let mut header = bytes_of(&Frame::message(envelope(A, B, "", vec![])));
    header[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&header[..72]);
    header[72..76].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(decode_all(&header, 80), Err(FrameError::TooLarge { .. })));
}

#[test]
fn another_version_is_distinguished_from_garbage() {
    let mut bytes = bytes_of(&Frame::message(envelope(A, B, "", vec![])));
    bytes[4] = 9;
    assert_eq!(decode_all(&bytes, 80), Err(FrameError::Version { found: 9 }));
    assert_eq!(decode_all(b"GET / HTTP/1.1\r\n", 1), Err(FrameError::Magic));
}

#[test]
fn a_stranger_may_send_little_and_a_peer_much() {
    let large = bytes_of(&Frame::message(envelope(A, B, vec![1; 10_000], vec![])));
    let mut decoder = Decoder::of_stranger();
    decoder.buffer().extend_from_slice(&large);
    assert!(matches!(decoder.next_frame(), Err(FrameError::TooLarge { bytes: 10_080, .. })));
    let hello = bytes_of(&Frame::hello(envelope(A, B, "", vec![]).sender, B));
    let mut decoder = Decoder::of_stranger();
    assert!(decoder.buffer().capacity() < 10_000, "memory was allocated for an unknown sender");
    decoder.buffer().extend_from_slice(&hello);
    decoder.next_frame().expect("a hello is small").expect("it is whole");
    decoder.trust();
    decoder.buffer().extend_from_slice(&large);
    assert!(decoder.next_frame().expect("a peer may").is_some());
}

/// The decoded frames must not depend on how the stream is divided into pieces.
fn assert_decoder_is_robust(bytes: &[u8], piece_bytes: usize) {
    let whole = decode_all(bytes, bytes.len().max(1));
    let divided = decode_all(bytes, piece_bytes);
    assert_eq!(whole, divided, "it depends on how the stream is divided");
    if let Ok(frames) = whole {
        let encoded: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
        assert!(bytes.starts_with(&encoded), "the decoded frames are not those that were sent");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>, piece_bytes in 1usize..100) {
        assert_decoder_is_robust(&bytes, piece_bytes);
    }

    /// The checksum is made to fit, so that the decoder checks the other fields.
    #[test]
    fn any_header_is_decoded_or_refused(
        fields: [u8; 12],
        lengths in proptest::array::uniform3(0u32..200),
        content in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        piece_bytes in 1usize..300,
    ) {
        let mut bytes = bytes_of(&samples()[1]);
        bytes[6..9].copy_from_slice(&fields[..3]);
        bytes[6] %= 3;
        for (place, length) in [12, 16, 20].into_iter().zip(lengths) {
            bytes[place..place + 4].copy_from_slice(&length.to_le_bytes());
        }
        let announced = content.len().min(lengths[0] as usize);
        bytes[76..80].copy_from_slice(&crc32c::crc32c(&content[..announced]).to_le_bytes());
        let header_crc = crc32c::crc32c(&bytes[..72]);
        bytes[72..76].copy_from_slice(&header_crc.to_le_bytes());
        bytes.extend(content);
        assert_decoder_is_robust(&bytes, piece_bytes);
    }

    #[test]
    fn a_damaged_stream_is_decoded_up_to_the_damage(place in 0usize..6000, bit in 0u8..8, piece_bytes in 1usize..3000) {
        let mut bytes: Vec<u8> = samples()[..3].iter().flat_map(bytes_of).collect();
        let place = place % bytes.len();
        bytes[place] ^= 1 << bit;
        proptest::prop_assert!(decode_all(&bytes, piece_bytes).is_err(), "byte {} was damaged", place);
        assert_decoder_is_robust(&bytes, piece_bytes);
    }
}
