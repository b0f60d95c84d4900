//! etcd: the calls `Range`, `Put` and `Txn` of `etcdserverpb.KV`, in hand-written protobuf.
//!
//! A transaction reads two records with two `Range` calls at the same time, and then writes both in a
//! `Txn` that compares their modification revisions.

use std::net::SocketAddr;

use crate::http2::Http2;
use crate::keys::{Bytes, Kind, Operation};
use crate::protocol::{Broken, Ended, Outcome, Protocol};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";
/// The comparison of a key's modification revision.
const TARGET_MOD: u64 = 2;

/// How the reply to a call is used.
enum Waiting {
    Put(usize),
    Get(usize),
    /// The first or second record of a transaction.
    Revision(usize, usize),
    Txn(usize),
}

#[derive(Clone, Copy, Default)]
struct Transaction {
    records: [u64; 2],
    /// `None` until the read has succeeded.
    revisions: [Option<u64>; 2],
    reads_left: u8,
}

pub struct Etcd {
    http2: Http2<Waiting>,
    /// By slot.
    transactions: Vec<Transaction>,
    message: Vec<u8>,
}

impl Etcd {
    pub fn new(address: SocketAddr) -> Self {
        Etcd { http2: Http2::new(address.to_string()), transactions: Vec::new(), message: Vec::new() }
    }

    fn range(&mut self, out: &mut Vec<u8>, bytes: &Bytes, record: u64, waiting: Waiting) {
        self.message.clear();
        push_key(&mut self.message, 1, bytes, record);
        self.http2.call(out, RANGE, &self.message, waiting);
    }

    fn commit(&mut self, out: &mut Vec<u8>, bytes: &mut Bytes, slot: usize) -> Result<(), Ended> {
        let Transaction { records, revisions: [Some(one), Some(other)], .. } = self.transactions[slot] else {
            return Err((slot, Outcome::Failed("READ_FAILED")));
        };
        self.message.clear();
        for (record, revision) in records.into_iter().zip([one, other]) {
            let mut compare = Vec::new();
            push_number(&mut compare, 2, TARGET_MOD);
            push_key(&mut compare, 3, bytes, record);
            push_number(&mut compare, 6, revision);
            push_bytes(&mut self.message, 1, &compare);
        }
        for record in records {
            let (mut put, mut operation) = (Vec::new(), Vec::new());
            push_put(&mut put, bytes, record);
            push_bytes(&mut operation, 2, &put);
            push_bytes(&mut self.message, 2, &operation);
        }
        self.http2.call(out, TXN, &self.message, Waiting::Txn(slot));
        Ok(())
    }

    fn reply(
        &mut self,
        waiting: Waiting,
        message: Option<Vec<u8>>,
        bytes: &mut Bytes,
        out: &mut Vec<u8>,
    ) -> Option<Ended> {
        let failed = Outcome::Failed("ERROR_REPLY");
        match (waiting, message) {
            (Waiting::Put(slot), Some(_)) => Some((slot, Outcome::Done)),
            (Waiting::Get(slot), Some(message)) => match field(&message, 2) {
                Some(_) => Some((slot, Outcome::Done)),
                None => Some((slot, Outcome::Failed("KEY_MISSING"))),
            },
            (Waiting::Revision(slot, index), message) => {
                let revision = message.as_deref().and_then(revision_of);
                let transaction = &mut self.transactions[slot];
                transaction.revisions[index] = revision;
                transaction.reads_left -= 1;
                if transaction.reads_left > 0 {
                    return None;
                }
                self.commit(out, bytes, slot).err()
            }
            (Waiting::Txn(slot), Some(message)) => match field(&message, 2) {
                Some(Field::Number(1)) => Some((slot, Outcome::Done)),
                _ => Some((slot, Outcome::Conflict)),
            },
            (Waiting::Put(slot) | Waiting::Get(slot) | Waiting::Txn(slot), None) => Some((slot, failed)),
        }
    }
}

impl Protocol for Etcd {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.http2.open(out);
    }

    fn begin(&mut self, slot: usize, operation: Operation, bytes: &mut Bytes, out: &mut Vec<u8>) {
        let [record, other] = operation.records;
        match operation.kind {
            Kind::Get => self.range(out, bytes, record, Waiting::Get(slot)),
            Kind::Put | Kind::Create => {
                self.message.clear();
                push_put(&mut self.message, bytes, record);
                self.http2.call(out, PUT, &self.message, Waiting::Put(slot));
            }
            Kind::Txn => {
                let least = self.transactions.len().max(slot + 1);
                self.transactions.resize(least, Transaction::default());
                self.transactions[slot] =
                    Transaction { records: operation.records, revisions: [None; 2], reads_left: 2 };
                self.range(out, bytes, record, Waiting::Revision(slot, 0));
                self.range(out, bytes, other, Waiting::Revision(slot, 1));
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
        let mut replies = Vec::new();
        let used =
            self.http2.receive(input, out, |waiting, message| replies.push((waiting, message.map(<[u8]>::to_vec))))?;
        for (waiting, message) in replies {
            ended.extend(self.reply(waiting, message, bytes, out));
        }
        Ok(used)
    }
}

/// The modification revision of the row in a reply to `Range`.
fn revision_of(message: &[u8]) -> Option<u64> {
    let Some(Field::Bytes(row)) = field(message, 2) else { return None };
    match field(row, 3) {
        Some(Field::Number(revision)) => Some(revision),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The first field with this number, if the message is valid up to there.
fn field(mut message: &[u8], wanted: u64) -> Option<Field<'_>> {
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let value = match tag & 7 {
            0 => Field::Number(take_varint(&mut message)?),
            2 => {
                let length = take_varint(&mut message)? as usize;
                let (content, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(content)
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_number(out: &mut Vec<u8>, field: u64, number: u64) {
    push_varint(out, field << 3);
    push_varint(out, number);
}

fn push_bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    push_varint(out, field << 3 | 2);
    push_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn push_key(out: &mut Vec<u8>, field: u64, bytes: &Bytes, record: u64) {
    push_varint(out, field << 3 | 2);
    push_varint(out, bytes.key_size() as u64);
    bytes.push_key(out, record);
}

fn push_put(out: &mut Vec<u8>, bytes: &mut Bytes, record: u64) {
    push_key(out, 1, bytes, record);
    push_varint(out, 2 << 3 | 2);
    push_varint(out, bytes.value_size() as u64);
    bytes.push_value(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_others() {
        let mut message = Vec::new();
        push_bytes(&mut message, 1, b"header");
        push_number(&mut message, 2, 300);
        assert_eq!(field(&message, 2), Some(Field::Number(300)));
        assert_eq!(field(&message, 1), Some(Field::Bytes(b"header")));
        assert_eq!(field(&message, 3), None);
        assert_eq!(field(&message[..4], 1), None, "cut short");
    }
}
