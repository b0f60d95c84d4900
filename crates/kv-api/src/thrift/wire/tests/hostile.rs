use proptest::prelude::*;

use super::random::{encode, message};
use super::samples::calls;
use super::*;
use crate::thrift::{ApplicationErrorKind, Method, ThriftException};

const LIMITS: WireLimits =
    WireLimits { max_message_bytes: 4096, max_container: 100, max_string_bytes: 1000, max_depth: 8 };

/// The header of a binary call `name`.
fn binary_header(name: &str) -> Vec<u8> {
    let mut header = vec![0x80, 1, 0, 1];
    header.extend((name.len() as u32).to_be_bytes());
    header.extend(name.as_bytes());
    header.extend([0, 0, 0, 9]);
    header
}

/// A binary call whose arguments begin with these bytes.
fn binary_call(name: &str, arguments: &[u8]) -> Vec<u8> {
    [&binary_header(name), arguments].concat()
}

fn compact_call(arguments: &[u8]) -> Vec<u8> {
    [&[0x82, 0x21, 0, 1, b'x'], arguments].concat()
}

fn scan(bytes: &[u8]) -> Result<Option<Envelope>, WireError> {
    Scanner::new(LIMITS).scan(bytes)
}

/// The exception that answers a complete call, with its sequence id checked.
fn exception(message: &[u8], encoding: Encoding) -> ThriftException {
    let incoming = decode_call(message, encoding, LIMITS).expect("header is well formed");
    incoming.call.expect_err("the call makes no sense")
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

#[test]
fn an_oversized_string_is_refused_when_its_length_is_read() {
    let bytes = binary_call("get", &[12, 0, 1, 11, 0, 1, 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(scan(&bytes), Err(WireError::StringTooLong { size: 0x7fff_ffff, limit: 1000 }));
    let bytes = compact_call(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x07]);
    assert_eq!(scan(&bytes), Err(WireError::StringTooLong { size: 0x7fff_ffff, limit: 1000 }));
}

#[test]
fn an_oversized_container_is_refused_when_its_count_is_read() {
    let bytes = binary_call("atomicCommit", &[12, 0, 1, 15, 0, 2, 12, 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(scan(&bytes), Err(WireError::ContainerTooLarge { size: 0x7fff_ffff, limit: 100 }));
    let bytes = compact_call(&[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07]);
    assert_eq!(scan(&bytes), Err(WireError::ContainerTooLarge { size: 0x7fff_ffff, limit: 100 }));
}

#[test]
fn negative_sizes_are_refused() {
    let minus_one = [0xff, 0xff, 0xff, 0xff];
    assert_eq!(scan(&binary_call("x", &[&[11, 0, 1][..], &minus_one].concat())), Err(WireError::NegativeSize(-1)));
    assert_eq!(scan(&binary_call("x", &[&[15, 0, 1, 8][..], &minus_one].concat())), Err(WireError::NegativeSize(-1)));
    assert_eq!(
        scan(&binary_call("x", &[&[13, 0, 1, 8, 8][..], &minus_one].concat())),
        Err(WireError::NegativeSize(-1))
    );
    assert_eq!(scan(&compact_call(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x0f])), Err(WireError::NegativeSize(-1)));
    assert_eq!(scan(&[0x80, 1, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(WireError::NegativeSize(-1)));
}

#[test]
fn values_that_cannot_fit_the_message_are_refused_before_they_come() {
    // 100 lists of 100 doubles; the sixth goes beyond the limit.
    let mut arguments = vec![15, 0, 1, 15, 0, 0, 0, 100];
    for _ in 0..5 {
        arguments.extend([4, 0, 0, 0, 100]);
        arguments.extend([0; 800]);
    }
    arguments.extend([4, 0, 0, 0, 100]);
    let found = scan(&binary_call("x", &arguments));
    assert!(matches!(found, Err(WireError::MessageTooLong { size: 4097.., limit: 4096 })), "{found:?}");
}

#[test]
fn deep_nesting_is_refused() {
    let structs: Vec<u8> = [12, 0, 1].repeat(50);
    assert_eq!(scan(&binary_call("x", &structs)), Err(WireError::TooDeep(8)));
    let lists = [&[15, 0, 1][..], &[15, 0, 0, 0, 1].repeat(50)].concat();
    assert_eq!(scan(&binary_call("x", &lists)), Err(WireError::TooDeep(8)));
    assert_eq!(scan(&compact_call(&[0x1c; 50])), Err(WireError::TooDeep(8)));
}

#[test]
fn bytes_that_are_not_thrift_are_refused_at_once() {
    assert_eq!(scan(b"GET / HTTP/1.1\r\n"), Err(WireError::MessageTooLong { size: 0x4745_5424, limit: 4096 }));
    assert_eq!(scan(b"G"), Err(WireError::NotThrift([b'G', 0])));
    assert_eq!(scan(&[0x80, 2]), Err(WireError::NotThrift([0x80, 2])));
    assert_eq!(scan(&[0x82, 2]), Err(WireError::NotThrift([0x82, 2])));
    assert_eq!(scan(&[0xff]), Err(WireError::NotThrift([0xff, 0])));
    assert_eq!(scan(&[0, 0, 0, 0]), Err(WireError::NotThrift([0, 0])));
    assert_eq!(scan(&[0, 0, 0, 9, b'x']), Err(WireError::NotThrift([0, b'x'])));
}

#[test]
fn unknown_field_types_are_refused() {
    assert_eq!(scan(&binary_call("x", &[5])), Err(WireError::UnknownType(5)));
    assert_eq!(scan(&compact_call(&[0x1e])), Err(WireError::UnknownType(14)));
}

#[test]
fn an_unknown_method_is_an_exception() {
    let message = binary_call("fly", &[12, 0, 1, 0, 0]);
    assert_eq!(scan(&message).expect("well formed").expect("complete").end, message.len());
    let refused = exception(&message, Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::UnknownMethod);
    assert!(refused.message.contains("fly"), "{refused}");
}

#[test]
fn a_missing_required_field_is_an_exception() {
    let refused = exception(&binary_call("get", &[12, 0, 1, 0, 0]), Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::ProtocolError);
    assert!(refused.message.contains("key"), "{refused}");
}

#[test]
fn a_missing_argument_is_an_exception() {
    let refused = exception(&binary_call("get", &[0]), Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::ProtocolError);
    assert!(refused.message.contains("request"), "{refused}");
}

#[test]
fn a_field_of_another_type_is_an_exception() {
    // A key sent as an i64 whose first half could pass for the length of a string.
    let key = [12, 0, 1, 10, 0, 1, 0, 0, 0, 4, 1, 2, 3, 4, 0, 0];
    let refused = exception(&binary_call("get", &key), Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::ProtocolError);
    // A list of numbers where a list of structs belongs.
    let operations =
        [12, 0, 1, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 15, 0, 2, 3, 0, 0, 0, 1, 0, 15, 0, 3, 11, 0, 0, 0, 0, 0, 0];
    let refused = exception(&binary_call("atomicCommit", &operations), Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::ProtocolError);
    // An argument that is no struct.
    let refused = exception(&binary_call("get", &[8, 0, 1, 0, 0, 0, 0, 0]), Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::ProtocolError);
}

#[test]
fn a_string_that_is_not_utf8_is_an_exception() {
    let family = [12, 0, 1, 11, 0, 1, 0, 0, 0, 1, b'k', 11, 0, 2, 0, 0, 0, 1, 0xff, 0, 0];
    let refused = exception(&binary_call("get", &family), Encoding::default());
    assert_eq!(refused.kind, ApplicationErrorKind::ProtocolError);
}

#[test]
fn unknown_fields_are_skipped() {
    let request = [
        12, 0, 1, 12, 7, 7, 15, 0, 1, 8, 0, 0, 0, 1, 0, 0, 0, 5, 0, 11, 0, 1, 0, 0, 0, 1, b'k', 0, 8, 0, 2, 0, 0, 0, 0,
        0,
    ];
    let message = binary_call("get", &request);
    let incoming = decode_call(&message, Encoding::default(), LIMITS).expect("header is well formed");
    assert_eq!(incoming.call, Ok(crate::thrift::generated::GetRequest::new(b"k".to_vec(), None, None, None).into()));
}

#[test]
fn an_exception_whose_text_is_no_string_is_refused() {
    let header = [&[0x80, 1, 0, 3, 0, 0, 0, 3][..], b"get", &[0, 0, 0, 9]].concat();
    // Field 1 is the text; here it is a bool, and what follows it would be a length of 184,549,632.
    let message = [&header[..], &[2, 0, 1, 0, 11, 0, 2, 0, 0, 0, 0, 0]].concat();
    let refused = decode_reply(&message, Encoding::default(), LIMITS, Method::Get).expect_err("it is no exception");
    assert!(refused.to_string().contains("type"), "{refused}");
}

#[test]
fn a_reply_sent_to_a_server_is_an_exception() {
    let mut message = binary_call("get", &[0]);
    message[3] = 2;
    assert_eq!(exception(&message, Encoding::default()).kind, ApplicationErrorKind::InvalidMessageType);
}

#[test]
fn a_one_way_call_is_recognised() {
    let mut message = binary_call("getReadVersion", &[12, 0, 1, 0, 0]);
    message[3] = 4;
    let incoming = decode_call(&message, Encoding::default(), LIMITS).expect("header is well formed");
    assert!(incoming.one_way && incoming.call.is_ok());
}

#[test]
fn nonsense_in_a_frame_is_an_exception_because_its_end_is_known() {
    let encoding = Encoding { protocol: Protocol::Binary, framed: true };
    let huge = framed(&binary_call("get", &[12, 0, 1, 11, 0, 1, 0x7f, 0xff, 0xff, 0xff]));
    let cut = framed(&binary_call("get", &[12, 0, 1, 11]));
    let trailing = framed(&binary_call("getReadVersion", &[12, 0, 1, 0, 0, 99]));
    for message in [huge, cut, trailing] {
        assert_eq!(scan(&message), Ok(Some(Envelope { encoding, end: message.len() })));
        assert_eq!(exception(&message, encoding).kind, ApplicationErrorKind::ProtocolError);
    }
}

#[test]
fn a_scanner_is_ready_again_after_an_error() {
    let mut scanner = Scanner::new(LIMITS);
    assert!(scanner.scan(&binary_call("x", &[12, 0, 1, 99])).is_err());
    let message = binary_call("x", &[0]);
    assert_eq!(scanner.scan(&message), Ok(Some(Envelope { encoding: Encoding::default(), end: message.len() })));
}

/// Scans and decodes arbitrary bytes. This must not panic, and must not read beyond the end.
fn digest(bytes: &[u8]) {
    let mut scanner = Scanner::new(LIMITS);
    let mut position = 0;
    while let Ok(Some(envelope)) = scanner.scan(&bytes[position..]) {
        assert!(envelope.end > 0 && position + envelope.end <= bytes.len());
        let _ = decode_call(&bytes[position..position + envelope.end], envelope.encoding, LIMITS);
        let _ = decode_reply(&bytes[position..], envelope.encoding, LIMITS, crate::thrift::Method::GetRange);
        position += envelope.end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn garbage_never_panics(first in 0..4usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let beginning: [&[u8]; 4] = [&[], &[0x80, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[0x82, 0x21, 0, 0], &[0, 0, 0, 50, 0x80, 1]];
        digest(&[beginning[first], &bytes].concat());
    }

    #[test]
    fn damaged_calls_never_panic(
        call in 0..22usize,
        encoding in 0..4usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = Vec::new();
        encode_call(&mut bytes, Encoding::ALL[encoding], 1, &calls()[call]);
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        digest(&bytes);
    }

    #[test]
    fn other_peoples_messages_under_our_names_never_panic(
        (_, sequence_id, fields) in message(),
        call in 0..22usize,
        encoding in 0..4usize,
    ) {
        digest(&encode(Encoding::ALL[encoding], calls()[call].method().name(), sequence_id, &fields));
    }
}
