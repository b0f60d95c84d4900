//! Makes requests by copying templates, which are encoded once with known offsets of sequence id,
//! keys and values.

use kv_api::thrift::generated::{AtomicCommitRequest, GetRangeRequest, GetRequest, Operation, SetRequest, SetResponse};
use kv_api::thrift::wire::{Encoding, encode_call, encode_reply};
use kv_api::thrift::{Method, ThriftCall, ThriftReply};

use super::args::{LoadArgs, Shape};
use super::naming::write_value_of;
use super::random::noise;

/// Values are cut from a longer stretch of noise, so that rows differ and do not compress.
const NOISE_BYTES: usize = 64 << 10;

pub struct Template {
    pub method: Method,
    bytes: Vec<u8>,
    /// Offset of the sequence id, 4 bytes.
    sequence_at: usize,
    keys_at: Vec<usize>,
    values_at: Vec<usize>,
    /// Offset of a range's row limit, 4 bytes.
    rows_at: Option<usize>,
}

pub struct Templates {
    pub put: Template,
    pub get: Template,
    pub scan: Template,
    pub commit: Template,
    /// The reply to a successful put without its sequence id: always the same bytes, so it need not
    /// be decoded.
    pub put_done: Vec<u8>,
    pub put_done_sequence_at: usize,
    shape: Shape,
    noise: Vec<u8>,
    /// Whether values repeat their key.
    values_tell: bool,
}

impl Templates {
    pub fn new(args: &LoadArgs) -> Self {
        let shape = args.shape();
        let key = |fill: Fill| vec![fill.key; shape.naming.key_size()];
        let value = |fill: Fill| vec![fill.value; shape.value_size];
        let put = Template::new(|fill| {
            SetRequest { key: key(fill), value: value(fill), column_family: None, auth_token: None }.into()
        });
        let get = Template::new(|fill| {
            GetRequest { key: key(fill), column_family: None, consistency: None, auth_token: None }.into()
        });
        let scan = Template::new(|fill| {
            GetRangeRequest {
                begin_key: Some(key(fill)),
                end_key: None,
                begin_offset: None,
                begin_or_equal: None,
                end_offset: None,
                end_or_equal: None,
                limit: Some(fill.rows),
                column_family: None,
                reverse: None,
                target_bytes: None,
                begin_selector: None,
                end_selector: None,
                consistency: None,
                auth_token: None,
            }
            .into()
        });
        let commit = Template::new(|fill| {
            let operation = Operation {
                type_: "set".to_string(),
                key: key(fill),
                value: Some(value(fill)),
                column_family: None,
                stamp_offset: None,
            };
            AtomicCommitRequest {
                read_version: 0,
                operations: vec![operation; args.operations as usize],
                read_conflict_keys: Vec::new(),
                timeout_seconds: None,
                read_conflict_ranges: None,
                idempotency_id: None,
                read_conflicts: None,
                finished_idempotency_ids: None,
                include_details: None,
                auth_token: None,
            }
            .into()
        });
        let done: ThriftReply =
            SetResponse { success: true, error: None, error_code: None, leader_endpoint: None }.into();
        let mut put_done = Vec::new();
        encode_reply(&mut put_done, Encoding::default(), Method::SetKey.name().as_bytes(), 0, &done);
        Templates {
            put,
            get,
            scan,
            commit,
            put_done,
            put_done_sequence_at: sequence_place(Method::SetKey),
            shape,
            noise: noise(NOISE_BYTES + shape.value_size),
            values_tell: args.unique,
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Appends one request. `numbers` returns the record of each key in turn; `rows` is a range's
    /// row limit.
    pub fn append(
        &self,
        template: &Template,
        output: &mut Vec<u8>,
        sequence: i32,
        rows: i32,
        mut numbers: impl FnMut() -> u64,
    ) {
        let Shape { naming, value_size } = self.shape;
        let start = output.len();
        output.extend_from_slice(&template.bytes);
        let message = &mut output[start..];
        message[template.sequence_at..][..4].copy_from_slice(&sequence.to_be_bytes());
        if let Some(rows_at) = template.rows_at {
            message[rows_at..][..4].copy_from_slice(&rows.to_be_bytes());
        }
        for (index, key_at) in template.keys_at.iter().enumerate() {
            let number = numbers();
            naming.write_key(&mut message[*key_at..][..naming.key_size()], number);
            let Some(value_at) = template.values_at.get(index) else { continue };
            if self.values_tell {
                // In every request, a value comes after its key.
                let (before, value) = message.split_at_mut(*value_at);
                write_value_of(&before[*key_at..][..naming.key_size()], &mut value[..value_size]);
            } else {
                let from = (sequence as u32 as usize).wrapping_mul(61) % NOISE_BYTES;
                message[*value_at..][..value_size].copy_from_slice(&self.noise[from..][..value_size]);
            }
        }
    }
}

/// A strict binary message begins with 4 bytes of version, 4 of length, and the method's name.
fn sequence_place(method: Method) -> usize {
    4 + 4 + method.name().len()
}

/// The values at the variable offsets of a template.
#[derive(Clone, Copy)]
struct Fill {
    key: u8,
    value: u8,
    rows: i32,
}

impl Template {
    /// `make` builds the call with the given values. The bytes that change with them show their
    /// offsets.
    fn new(make: impl Fn(Fill) -> ThriftCall) -> Self {
        let fill = Fill { key: 0x11, value: 0x11, rows: 0x1111_1111 };
        let encode = |fill| {
            let mut bytes = Vec::new();
            encode_call(&mut bytes, Encoding::default(), 0, &make(fill));
            bytes
        };
        let bytes = encode(fill);
        let method = make(fill).method();
        let keys_at = starts_of_differences(&bytes, &encode(Fill { key: 0xee, ..fill }));
        let values_at = starts_of_differences(&bytes, &encode(Fill { value: 0xee, ..fill }));
        let rows_at = starts_of_differences(&bytes, &encode(Fill { rows: 0x6666_6666, ..fill })).first().copied();
        Template { method, sequence_at: sequence_place(method), bytes, keys_at, values_at, rows_at }
    }
}

fn starts_of_differences(one: &[u8], other: &[u8]) -> Vec<usize> {
    let differs = |at: usize| one[at] != other[at];
    (0..one.len()).filter(|&at| differs(at) && (at == 0 || !differs(at - 1))).collect()
}

#[cfg(test)]
mod tests {
    use kv_api::thrift::wire::{WireLimits, decode_call};

    use super::super::args::tests::load_args;
    use super::*;

    fn made(template: impl Fn(&Templates) -> &Template, arguments: &[&str]) -> ThriftCall {
        let templates = Templates::new(&load_args(arguments));
        let mut output = b"before".to_vec();
        let mut number = 0;
        templates.append(template(&templates), &mut output, 77, 13, || {
            number += 1;
            number
        });
        let call = decode_call(&output[6..], Encoding::default(), WireLimits::default()).expect("a message");
        assert_eq!(call.sequence_id, 77);
        call.call.expect("a call")
    }

    #[test]
    fn a_put_carries_its_key_and_a_value_that_repeats_it() {
        let ThriftCall::SetKey(request) = made(|t| &t.put, &["--unique", "--key-size", "16", "--value-size", "20"])
        else {
            panic!("not a put")
        };
        assert_eq!(request.key, b"0000000000000001");
        assert_eq!(request.value, b"00000000000000010000");
    }

    #[test]
    fn a_get_carries_its_key() {
        let ThriftCall::Get(request) = made(|t| &t.get, &["--key-size", "5"]) else { panic!("not a get") };
        assert_eq!(request.key, b"00001");
    }

    #[test]
    fn a_scan_carries_where_it_begins_and_how_many_rows_it_wants() {
        let ThriftCall::GetRange(request) = made(|t| &t.scan, &["--workload", "ycsb-e"]) else { panic!("not a scan") };
        assert_eq!(request.begin_key.as_deref(), Some(&b"user8517097267634966620"[..]));
        assert_eq!((request.end_key, request.limit), (None, Some(13)));
    }

    #[test]
    fn a_commit_carries_as_many_different_keys_as_asked_for() {
        let arguments = ["--operations", "3", "--key-size", "6", "--value-size", "1"];
        let ThriftCall::AtomicCommit(request) = made(|t| &t.commit, &arguments) else { panic!("not a commit") };
        let keys: Vec<_> = request.operations.iter().map(|operation| operation.key.clone()).collect();
        assert_eq!(keys, [b"000001", b"000002", b"000003"]);
        assert!(request.operations.iter().all(|operation| operation.value.as_ref().is_some_and(|v| v.len() == 1)));
    }

    #[test]
    fn an_empty_value_works() {
        let ThriftCall::SetKey(request) = made(|t| &t.put, &["--value-size", "0"]) else { panic!("not a put") };
        assert!(request.value.is_empty());
    }
}
