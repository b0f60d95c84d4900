use proptest::prelude::*;

use super::random::{encode, message};
use super::*;

fn limits() -> WireLimits {
    WireLimits { max_message_bytes: 8 << 20, ..WireLimits::default() }
}

/// Gives the same scanner one more byte at a time, and returns the number of bytes at which it
/// found the end.
fn end_byte_by_byte(bytes: &[u8]) -> usize {
    let mut scanner = Scanner::new(limits());
    for length in 0..=bytes.len() {
        if let Some(envelope) = scanner.scan(&bytes[..length]).expect("well formed") {
            assert_eq!(envelope.end, length);
            return length;
        }
    }
    panic!("no end found");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_end_is_found_and_no_earlier((name, sequence_id, fields) in message(), trailing in any::<[u8; 5]>()) {
        for encoding in Encoding::ALL {
            let bytes = encode(encoding, &name, sequence_id, &fields);
            prop_assert_eq!(end_byte_by_byte(&bytes), bytes.len());
            for cut in 0..bytes.len().min(2_000) {
                let fresh = Scanner::new(limits()).scan(&bytes[..cut]);
                prop_assert_eq!(fresh, Ok(None), "cut at {} of {}, {:?}", cut, bytes.len(), encoding);
            }
            let longer = [&bytes[..], &trailing].concat();
            let envelope = Scanner::new(limits()).scan(&longer);
            prop_assert_eq!(envelope, Ok(Some(Envelope { encoding, end: bytes.len() })));
        }
    }

    #[test]
    fn the_end_is_found_however_the_bytes_arrive(
        (name, sequence_id, fields) in message(),
        steps in prop::collection::vec(1..50usize, 1..20),
    ) {
        for encoding in Encoding::ALL {
            let bytes = encode(encoding, &name, sequence_id, &fields);
            let mut scanner = Scanner::new(limits());
            let mut length = 0;
            for step in steps.iter().cycle() {
                length += step;
                match scanner.scan(&bytes[..length.min(bytes.len())]) {
                    Ok(None) => prop_assert!(length < bytes.len()),
                    Ok(Some(envelope)) => {
                        prop_assert_eq!(envelope.end, bytes.len());
                        break;
                    }
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
            }
        }
    }

    #[test]
    fn consecutive_messages_are_separated(
        messages in prop::collection::vec((message(), 0..4usize), 1..5),
    ) {
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for ((name, sequence_id, fields), encoding) in &messages {
            stream.extend(encode(Encoding::ALL[*encoding], name, *sequence_id, fields));
            ends.push(stream.len());
        }
        let mut scanner = Scanner::new(limits());
        let mut position = 0;
        for end in ends {
            let envelope = scanner.scan(&stream[position..]).expect("well formed").expect("complete");
            position += envelope.end;
            prop_assert_eq!(position, end);
        }
    }
}

#[test]
fn empty_containers_need_no_element_type() {
    let mut message = vec![0x80, 1, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 0];
    message.extend([15, 0, 1, 0, 0, 0, 0, 0]); // list<void>[0]
    message.extend([13, 0, 2, 0, 0, 0, 0, 0, 0]); // map<void, void>[0]
    message.push(0);
    scan_whole(&message, limits());
    let compact = [0x82, 0x21, 0, 1, b'x', 0x19, 0x00, 0x1b, 0x00, 0x00];
    scan_whole(&compact, limits());
}
