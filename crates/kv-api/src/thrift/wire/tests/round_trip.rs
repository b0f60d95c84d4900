use super::samples::{calls, replies};
use super::*;
use crate::thrift::generated::{GetRequest, GetResponse};
use crate::thrift::{ApplicationErrorKind, Method, ThriftCall, ThriftException, ThriftReply, ThriftRequest};

fn limits() -> WireLimits {
    WireLimits::default()
}

#[test]
fn every_method_has_a_sample() {
    let called: std::collections::HashSet<Method> = calls().iter().map(ThriftCall::method).collect();
    let answered: std::collections::HashSet<Method> = replies().iter().filter_map(ThriftReply::method).collect();
    assert_eq!(called.len(), Method::ALL.len());
    assert_eq!(answered.len(), Method::ALL.len());
}

#[test]
fn every_method_is_found_by_its_name() {
    for method in Method::ALL {
        assert_eq!(Method::of_name(method.name().as_bytes()), Some(*method));
    }
    assert_eq!(Method::of_name(b"Get"), None);
}

#[test]
fn calls_survive_each_encoding() {
    for encoding in Encoding::ALL {
        for (index, call) in calls().into_iter().enumerate() {
            let mut message = Vec::new();
            let sequence_id = index as i32 * -77_777;
            encode_call(&mut message, encoding, sequence_id, &call);
            let envelope = scan_whole(&message, limits());
            assert_eq!(envelope.encoding, encoding);
            let decoded = decode_call(&message, encoding, limits()).expect("header is well formed");
            assert_eq!(decoded.call, Ok(call.clone()), "{encoding:?}");
            assert_eq!(decoded.name, call.method().name().as_bytes());
            assert_eq!(decoded.sequence_id, sequence_id);
            assert!(!decoded.one_way);
        }
    }
}

#[test]
fn replies_survive_each_encoding() {
    for encoding in Encoding::ALL {
        for reply in replies() {
            let method = reply.method().expect("samples are no exceptions");
            let mut message = Vec::new();
            encode_reply(&mut message, encoding, method.name().as_bytes(), i32::MAX, &reply);
            scan_whole(&message, limits());
            let decoded = decode_reply(&message, encoding, limits(), method);
            assert_eq!(decoded, Ok((i32::MAX, reply)), "{encoding:?}");
        }
    }
}

#[test]
fn exceptions_survive_each_encoding() {
    let exception = ThriftException::new(ApplicationErrorKind::UnknownMethod, "unknown method \"fly\"");
    let reply = ThriftReply::Exception(exception);
    for encoding in Encoding::ALL {
        let mut message = Vec::new();
        encode_reply(&mut message, encoding, b"fly", 3, &reply);
        scan_whole(&message, limits());
        assert_eq!(decode_reply(&message, encoding, limits(), Method::Get), Ok((3, reply.clone())));
    }
}

#[test]
fn a_get_in_binary_has_the_bytes_that_existing_clients_send() {
    let mut message = Vec::new();
    encode_call(&mut message, Encoding::default(), 1, &GetRequest::new(b"ab".to_vec(), None, None, None).into());
    let expected = [
        &[0x80, 0x01, 0, 1][..],                // version, call
        &[0, 0, 0, 3, b'g', b'e', b't'],        // name
        &[0, 0, 0, 1],                          // sequence id
        &[12, 0, 1],                            // field 1: struct
        &[11, 0, 1, 0, 0, 0, 2, b'a', b'b', 0], // its field 1: binary, 2 bytes; end of the request
        &[0],                                   // end of the arguments
    ]
    .concat();
    assert_eq!(message, expected);
}

#[test]
fn a_reply_to_get_in_binary_has_the_bytes_that_existing_clients_read() {
    let mut message = Vec::new();
    let reply = GetResponse::new(b"v".to_vec(), true, None, None, None).into();
    encode_reply(&mut message, Encoding::default(), b"get", 7, &reply);
    let expected = [
        &[0x80, 0x01, 0, 2][..],
        &[0, 0, 0, 3, b'g', b'e', b't'],
        &[0, 0, 0, 7],
        &[12, 0, 0],
        &[11, 0, 1, 0, 0, 0, 1, b'v'],
        &[2, 0, 2, 1],
        &[0],
        &[0],
    ]
    .concat();
    assert_eq!(message, expected);
}

#[test]
fn a_reply_is_taken_apart_by_the_request_it_answers() {
    let response = GetResponse::new(vec![], false, None, None, None);
    assert_eq!(GetRequest::response_of(response.clone().into()), Ok(response));
    let exception = ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, "broke"));
    assert_eq!(GetRequest::response_of(exception.clone()), Err(exception));
}

#[test]
fn a_reply_to_another_method_is_refused() {
    let mut message = Vec::new();
    let reply = GetResponse::new(vec![], false, None, None, None).into();
    encode_reply(&mut message, Encoding::default(), b"get", 7, &reply);
    let refused = decode_reply(&message, Encoding::default(), limits(), Method::Ping);
    assert_eq!(refused, Err(WireError::WrongMethod { expected: "ping", got: "get".to_owned() }));
}

#[test]
fn the_largest_transaction_fits_the_default_limits() {
    use crate::thrift::generated::{AtomicCommitRequest, Operation};
    let operations =
        (0..100).map(|_| Operation::new("set".to_owned(), vec![1; 10_000], vec![2; 90_000], None, None)).collect();
    let request = AtomicCommitRequest::new(1, operations, vec![], None, None, None, None, None, None, None);
    for encoding in Encoding::ALL {
        let mut message = Vec::new();
        encode_call(&mut message, encoding, 0, &request.clone().into());
        scan_whole(&message, limits());
        assert!(decode_call(&message, encoding, limits()).expect("header is well formed").call.is_ok());
    }
}
