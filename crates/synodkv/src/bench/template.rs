//! Requests made by copying: encoded once, with the places known where sequence id, keys and values stand.

use kv_api::thrift::generated::{AtomicCommitRequest, GetRequest, Operation, SetRequest, SetResponse};
use kv_api::thrift::wire::{Encoding, encode_call, encode_reply};
use kv_api::thrift::{Method, ThriftCall, ThriftReply};

use super::LoadArgs;
use super::keys::{KeySpace, noise, write_key, write_value_of};

/// Values are cut from a longer stretch of noise, so that rows differ and do not compress.
const NOISE_BYTES: usize = 64 << 10;

pub struct Template {
    pub method: Method,
    bytes: Vec<u8>,
    /// Where the sequence id stands, 4 bytes.
    sequence_at: usize,
    keys_at: Vec<usize>,
    values_at: Vec<usize>,
}

pub struct Templates {
    pub put: Template,
    pub get: Template,
    pub commit: Template,
    /// The reply to a successful put, but for its sequence id: the same bytes each time, so that it needs no decoding.
    pub put_done: Vec<u8>,
    pub put_done_sequence_at: usize,
    key_size: usize,
    value_size: usize,
    noise: Vec<u8>,
    /// Values repeat their key.
    values_tell: bool,
}

impl Templates {
    pub fn new(args: &LoadArgs, keys: &KeySpace) -> Self {
        let (key_size, value_size) = (keys.key_size(), args.value_size as usize);
        let bytes = |fill: u8, size: usize| vec![fill; size];
        let put = Template::new(|key, value| {
            SetRequest { key: bytes(key, key_size), value: bytes(value, value_size), column_family: None }.into()
        });
        let get = Template::new(|key, _| {
            GetRequest { key: bytes(key, key_size), column_family: None, consistency: None }.into()
        });
        let commit = Template::new(|key, value| {
            let operation = Operation {
                type_: "set".to_string(),
                key: bytes(key, key_size),
                value: Some(bytes(value, value_size)),
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
            }
            .into()
        });
        let done: ThriftReply = SetResponse { success: true, error: None, error_code: None }.into();
        let mut put_done = Vec::new();
        encode_reply(&mut put_done, Encoding::default(), Method::SetKey.name().as_bytes(), 0, &done);
        Templates {
            put,
            get,
            commit,
            put_done,
            put_done_sequence_at: sequence_place(Method::SetKey),
            key_size,
            value_size,
            noise: noise(NOISE_BYTES + value_size),
            values_tell: args.unique,
        }
    }

    pub fn key_size(&self) -> usize {
        self.key_size
    }

    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Appends one request. `numbers` gives the number of each key, as they are needed.
    pub fn append(&self, template: &Template, output: &mut Vec<u8>, sequence: i32, mut numbers: impl FnMut() -> u64) {
        let start = output.len();
        output.extend_from_slice(&template.bytes);
        let message = &mut output[start..];
        message[template.sequence_at..][..4].copy_from_slice(&sequence.to_be_bytes());
        for (index, key_at) in template.keys_at.iter().enumerate() {
            let number = numbers();
            write_key(&mut message[*key_at..][..self.key_size], number);
            let Some(value_at) = template.values_at.get(index) else { continue };
            if self.values_tell {
                // A value stands behind its key in every request.
                let (before, value) = message.split_at_mut(*value_at);
                write_value_of(&before[*key_at..][..self.key_size], &mut value[..self.value_size]);
            } else {
                let from = (sequence as u32 as usize).wrapping_mul(61) % NOISE_BYTES;
                message[*value_at..][..self.value_size].copy_from_slice(&self.noise[from..][..self.value_size]);
            }
        }
    }
}

/// A strict binary message begins with 4 bytes of version, 4 of length, and the method's name.
fn sequence_place(method: Method) -> usize {
    4 + 4 + method.name().len()
}

impl Template {
    /// `make` builds the call with keys and values filled with these bytes: what changes with them shows where they stand.
    fn new(make: impl Fn(u8, u8) -> ThriftCall) -> Self {
        let encode = |key, value| {
            let mut bytes = Vec::new();
            encode_call(&mut bytes, Encoding::default(), 0, &make(key, value));
            bytes
        };
        let bytes = encode(0x11, 0x11);
        let method = make(0, 0).method();
        let keys_at = starts_of_differences(&bytes, &encode(0xee, 0x11));
        let values_at = starts_of_differences(&bytes, &encode(0x11, 0xee));
        Template { method, sequence_at: sequence_place(method), bytes, keys_at, values_at }
    }
}

fn starts_of_differences(one: &[u8], other: &[u8]) -> Vec<usize> {
    let differs = |at: usize| one[at] != other[at];
    (0..one.len()).filter(|&at| differs(at) && (at == 0 || !differs(at - 1))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kv_api::thrift::wire::{WireLimits, decode_call};

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn made(template: impl Fn(&Templates) -> &Template, arguments: &[&str]) -> ThriftCall {
        let args = Arguments::parse_from([&["bench"], arguments].concat()).load;
        let templates = Templates::new(&args, &KeySpace::new(&args).expect("enough bytes"));
        let mut output = b"before".to_vec();
        let mut number = 0;
        templates.append(template(&templates), &mut output, 77, || {
            number += 1;
            number
        });
        let call = decode_call(&output[6..], Encoding::default(), WireLimits::default()).expect("a message");
        assert_eq!(call.sequence_id, 77);
        call.call.expect("a call")
    }

    #[test]
    fn a_put_carries_its_key_and_a_value_that_tells_it() {
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
    fn a_commit_carries_as_many_different_keys_as_asked_for() {
        let arguments = ["--operations", "3", "--key-size", "6", "--value-size", "1"];
        let ThriftCall::AtomicCommit(request) = made(|t| &t.commit, &arguments) else { panic!("not a commit") };
        let keys: Vec<_> = request.operations.iter().map(|operation| operation.key.clone()).collect();
        assert_eq!(keys, [b"000001", b"000002", b"000003"]);
        assert!(request.operations.iter().all(|operation| operation.value.as_ref().is_some_and(|v| v.len() == 1)));
    }

    #[test]
    fn an_empty_value_is_no_trouble() {
        let ThriftCall::SetKey(request) = made(|t| &t.put, &["--value-size", "0"]) else { panic!("not a put") };
        assert!(request.value.is_empty());
    }
}
