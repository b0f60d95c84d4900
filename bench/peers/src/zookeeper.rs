//! ZooKeeper: jute records in frames of a 4-byte length. Replies come in the order of requests.
//!
//! A record is the node `/bench/<key>`. A read sends `sync` and `getData` together: the server
//! executes the requests of a session in order. A transaction sends one `sync` and two `getData`,
//! and then a `multi` of two `setData` with the versions that were read.

use std::collections::VecDeque;

use crate::keys::{Bytes, Kind, Operation};
use crate::protocol::{Broken, Ended, Outcome, Protocol};

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const SYNC: i32 = 9;
const MULTI: i32 = 14;
const CLOSE_SESSION: i32 = -11;
const PARENT: &[u8] = b"/bench";
const SESSION_TIMEOUT_MS: i32 = 30_000;
const NODE_EXISTS: i32 = -110;
const BAD_VERSION: i32 = -103;
/// Xid, zxid and error.
const REPLY_HEADER: usize = 16;
/// Offset of the version in a node's state.
const VERSION_IN_STAT: usize = 32;

/// How a reply is used.
enum Waiting {
    /// No operation waits for it, as for a `sync` before a read.
    Ignored,
    Last(usize),
    /// The first or second record of a transaction.
    Version(usize, usize),
    Multi(usize),
}

#[derive(Clone, Copy, Default)]
struct Transaction {
    records: [u64; 2],
    versions: [i32; 2],
}

#[derive(Default)]
pub struct ZooKeeper {
    is_open: bool,
    next_xid: i32,
    waiting: VecDeque<Waiting>,
    /// By slot.
    transactions: Vec<Transaction>,
}

impl ZooKeeper {
    fn request(&mut self, out: &mut Vec<u8>, code: i32, waiting: Waiting, body: impl FnOnce(&mut Vec<u8>)) {
        self.next_xid += 1;
        let xid = self.next_xid;
        frame(out, |out| {
            push_int(out, xid);
            push_int(out, code);
            body(out);
        });
        self.waiting.push_back(waiting);
    }

    fn sync(&mut self, out: &mut Vec<u8>) {
        self.request(out, SYNC, Waiting::Ignored, |out| push_buffer(out, PARENT));
    }

    fn get_data(&mut self, out: &mut Vec<u8>, bytes: &Bytes, record: u64, waiting: Waiting) {
        self.request(out, GET_DATA, waiting, |out| {
            push_path(out, bytes, record);
            out.push(0); // no watch
        });
    }

    fn multi(&mut self, out: &mut Vec<u8>, bytes: &mut Bytes, slot: usize) {
        let Transaction { records, versions } = self.transactions[slot];
        self.request(out, MULTI, Waiting::Multi(slot), |out| {
            for (record, version) in records.into_iter().zip(versions) {
                push_multi_header(out, SET_DATA, false);
                push_set_data(out, bytes, record, version);
            }
            push_multi_header(out, -1, true);
        });
    }

    fn reply(&mut self, reply: &[u8], bytes: &mut Bytes, out: &mut Vec<u8>) -> Result<Option<Ended>, Broken> {
        let broken = || Broken("a reply of ZooKeeper is too short".to_string());
        let (xid, error) = (int_at(reply, 0).ok_or_else(broken)?, int_at(reply, 12).ok_or_else(broken)?);
        if xid < 0 {
            return Ok(None); // an event or a ping
        }
        let body = &reply[REPLY_HEADER..];
        let waiting = self.waiting.pop_front().ok_or(Broken("a reply to nothing".to_string()))?;
        match waiting {
            Waiting::Ignored => Ok(None),
            Waiting::Last(slot) => Ok(Some((slot, outcome(error)))),
            Waiting::Version(slot, index) => {
                let data = int_at(body, 0).unwrap_or(0).max(0) as usize;
                let version = int_at(body, 4 + data + VERSION_IN_STAT);
                // A failed read fails the `multi`, because -2 is no version.
                self.transactions[slot].versions[index] = version.filter(|_| error == 0).unwrap_or(-2);
                if index == 1 {
                    self.multi(out, bytes, slot);
                }
                Ok(None)
            }
            // A failed `multi` answers with error results, and often an error of the whole as well.
            Waiting::Multi(slot) if error == 0 && int_at(body, 0) == Some(SET_DATA) => Ok(Some((slot, Outcome::Done))),
            Waiting::Multi(slot) if error == 0 || error == BAD_VERSION => Ok(Some((slot, Outcome::Conflict))),
            Waiting::Multi(slot) => Ok(Some((slot, outcome(error)))),
        }
    }
}

impl Protocol for ZooKeeper {
    fn open(&mut self, out: &mut Vec<u8>) {
        frame(out, |out| {
            push_int(out, 0); // protocol version
            push_long(out, 0); // last zxid seen
            push_int(out, SESSION_TIMEOUT_MS);
            push_long(out, 0); // session
            push_buffer(out, &[0; 16]); // password
            out.push(0); // not read-only
        });
        self.request(out, CREATE, Waiting::Ignored, |out| push_create(out, |out| push_buffer(out, PARENT), |_| {}));
    }

    fn is_open(&self) -> bool {
        self.is_open && self.waiting.is_empty()
    }

    fn begin(&mut self, slot: usize, operation: Operation, bytes: &mut Bytes, out: &mut Vec<u8>) {
        let [record, other] = operation.records;
        match operation.kind {
            Kind::Create => self.request(out, CREATE, Waiting::Last(slot), |out| {
                let mut value = Vec::with_capacity(bytes.value_size());
                bytes.push_value(&mut value);
                push_create(out, |out| push_path(out, bytes, record), |out| out.extend_from_slice(&value));
            }),
            Kind::Put => self.request(out, SET_DATA, Waiting::Last(slot), |out| push_set_data(out, bytes, record, -1)),
            Kind::Get => {
                self.sync(out);
                self.get_data(out, bytes, record, Waiting::Last(slot));
            }
            Kind::Txn => {
                let least = self.transactions.len().max(slot + 1);
                self.transactions.resize(least, Transaction::default());
                self.transactions[slot].records = operation.records;
                self.sync(out);
                self.get_data(out, bytes, record, Waiting::Version(slot, 0));
                self.get_data(out, bytes, other, Waiting::Version(slot, 1));
            }
        }
    }

    fn receive(
        &mut self,
        input: &[u8],
        bytes: &mut Bytes,
        out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<usize, Broken> {
        let mut at = 0;
        while let Some(length) = int_at(input, at) {
            let end = at + 4 + length.max(0) as usize;
            let Some(reply) = input.get(at + 4..end) else { break };
            if self.is_open {
                ended.extend(self.reply(reply, bytes, out)?);
            } else if int_at(reply, 4).is_some_and(|timeout| timeout > 0) {
                self.is_open = true;
            } else {
                return Err(Broken("ZooKeeper refuses the session".to_string()));
            }
            at = end;
        }
        Ok(at)
    }

    fn close(&mut self, out: &mut Vec<u8>) -> bool {
        self.request(out, CLOSE_SESSION, Waiting::Ignored, |_| {});
        true
    }
}

fn outcome(error: i32) -> Outcome {
    match error {
        0 | NODE_EXISTS => Outcome::Done,
        -101 => Outcome::Failed("KEY_MISSING"),
        _ => Outcome::Failed("ERROR_REPLY"),
    }
}

fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    push_int(out, 0);
    body(out);
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn push_create(out: &mut Vec<u8>, path: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
    path(out);
    frame(out, value); // a buffer has the same shape as a frame
    push_int(out, 1); // one entry of the access list
    push_int(out, 31); // all permissions
    push_buffer(out, b"world");
    push_buffer(out, b"anyone");
    push_int(out, 0); // persistent
}

fn push_set_data(out: &mut Vec<u8>, bytes: &mut Bytes, record: u64, version: i32) {
    push_path(out, bytes, record);
    frame(out, |out| bytes.push_value(out));
    push_int(out, version);
}

fn push_multi_header(out: &mut Vec<u8>, code: i32, is_last: bool) {
    push_int(out, code);
    out.push(u8::from(is_last));
    push_int(out, -1);
}

fn push_path(out: &mut Vec<u8>, bytes: &Bytes, record: u64) {
    frame(out, |out| {
        out.extend_from_slice(PARENT);
        out.push(b'/');
        bytes.push_key(out, record);
    });
}

fn push_buffer(out: &mut Vec<u8>, content: &[u8]) {
    push_int(out, content.len() as i32);
    out.extend_from_slice(content);
}

fn push_int(out: &mut Vec<u8>, number: i32) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn push_long(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn int_at(input: &[u8], at: usize) -> Option<i32> {
    let bytes = input.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().expect("4 bytes")))
}
