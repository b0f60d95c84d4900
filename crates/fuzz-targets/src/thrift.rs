//! Bytes from a client's connection, or from a server's: finding the end of messages, and decoding them.
//!
//! Checked besides not failing: cutting the stream into pieces changes nothing; what the scanner takes for a message is one
//! for the decoder too; what was decoded survives encoding in each of the protocols.

// The sample calls name their types by these paths.
pub(crate) use kv_api::thrift::{OrderedFloat, ThriftCall, ThriftReply, generated};

use kv_api::thrift::{
    ApplicationErrorKind, Method,
    wire::{
        Encoding, Envelope, Scanner, WireError, WireLimits, decode_call, decode_reply, encode_call, encode_reply,
        read_header,
    },
};

use crate::{Input, sample_calls};

pub fn stream(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let piece_bytes = usize::from(input.byte());
    let bytes = bytes.get(1..).unwrap_or_default();
    let whole = scan_in_pieces(bytes, bytes.len());
    if piece_bytes > 0 {
        let pieces = scan_in_pieces(bytes, piece_bytes);
        assert_eq!(pieces, whole, "the stream reads otherwise in pieces of {piece_bytes} bytes");
    }
    let mut rest = bytes;
    for envelope in whole.envelopes {
        let (message, after) = rest.split_at(envelope.end);
        decode(message, envelope.encoding);
        rest = after;
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    envelopes: Vec<Envelope>,
    /// Only that bytes were refused: the reason may depend on the number of bytes available.
    is_refused: bool,
}

/// Reads as a connection does: piece by piece, taking all messages that are complete.
fn scan_in_pieces(bytes: &[u8], piece_bytes: usize) -> Scanned {
    let mut scanner = Scanner::new(WireLimits::default());
    let mut scanned = Scanned { envelopes: Vec::new(), is_refused: false };
    let (mut consumed, mut arrived) = (0, 0);
    while arrived < bytes.len() {
        arrived = (arrived + piece_bytes).min(bytes.len());
        loop {
            match scanner.scan(&bytes[consumed..arrived]) {
                Ok(None) => break,
                Ok(Some(envelope)) => {
                    assert!(envelope.end > 0, "an empty message");
                    consumed += envelope.end;
                    scanned.envelopes.push(envelope);
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    scanned.is_refused = true;
                    return scanned;
                }
            }
        }
    }
    scanned
}

fn decode(message: &[u8], encoding: Encoding) {
    let limits = WireLimits::default();
    if let Ok(incoming) = decode_call(message, encoding, limits) {
        match incoming.call {
            Ok(call) => check_call(incoming.sequence_id, &call),
            Err(exception) if exception.kind == ApplicationErrorKind::ProtocolError => {
                check_agreement(encoding, &exception.message);
            }
            Err(_) => {}
        }
    }
    let Ok(header) = read_header(message, encoding) else { return };
    let Some(method) = Method::of_name(header.name) else { return };
    match decode_reply(message, encoding, limits, method) {
        Ok((sequence_id, reply)) => check_reply(method, sequence_id, &reply),
        Err(error @ (WireError::Malformed(_) | WireError::TrailingBytes(_) | WireError::Truncated)) => {
            check_agreement(encoding, &error.to_string());
        }
        Err(_) => {}
    }
}

/// Nothing but the scanner has looked for the end of an unframed message: the decoder must find the same.
fn check_agreement(encoding: Encoding, objection: &str) {
    let disagreements = ["after the end of the message", "failed to fill whole buffer", "in the middle of a value"];
    let disagrees = !encoding.framed && disagreements.iter().any(|text| objection.contains(text));
    assert!(!disagrees, "scanner and decoder find different ends: {objection}");
}

fn check_call(sequence_id: i32, call: &ThriftCall) {
    for encoding in Encoding::ALL {
        let mut bytes = Vec::new();
        encode_call(&mut bytes, encoding, sequence_id, call);
        let message = whole_message(&bytes, encoding);
        let again = decode_call(message, encoding, WireLimits::default()).expect("the header is as it was written");
        assert_eq!((again.sequence_id, again.call.as_ref()), (sequence_id, Ok(call)), "{encoding:?}");
    }
}

fn check_reply(method: Method, sequence_id: i32, reply: &ThriftReply) {
    for encoding in Encoding::ALL {
        let mut bytes = Vec::new();
        encode_reply(&mut bytes, encoding, method.name().as_bytes(), sequence_id, reply);
        let message = whole_message(&bytes, encoding);
        let again = decode_reply(message, encoding, WireLimits::default(), method);
        assert_eq!(again.as_ref(), Ok(&(sequence_id, reply.clone())), "{encoding:?}");
    }
}

fn whole_message(bytes: &[u8], encoding: Encoding) -> &[u8] {
    let found = Scanner::new(WireLimits::default()).scan(bytes);
    assert_eq!(found, Ok(Some(Envelope { encoding, end: bytes.len() })));
    bytes
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, (call, reply)) in sample_calls::calls().iter().zip(sample_calls::replies()).enumerate() {
        let encoding = Encoding::ALL[number % Encoding::ALL.len()];
        let mut seed = vec![number as u8];
        encode_call(&mut seed, Encoding::default(), number as i32, call);
        encode_call(&mut seed, encoding, -1, call);
        seeds.push(seed);
        let mut seed = vec![0];
        encode_reply(&mut seed, encoding, call.method().name().as_bytes(), number as i32, &reply);
        seeds.push(seed);
    }
    seeds
}
