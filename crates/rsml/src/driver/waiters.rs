//! Who waits for the outcome of a request or for a read point.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant as Clock;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{ReadError, RequestError};
use crate::core::{ReadId, RequestId, TransferError, TransferId};
use crate::{ReplicaId, Sequence};

pub type RequestReply = oneshot::Sender<Result<Bytes, RequestError>>;
pub type ReadReply = oneshot::Sender<Result<Sequence, ReadError>>;

/// Requests of the own session: first without a number, then by number.
#[derive(Default)]
pub struct RequestWaiters {
    unnumbered: HashMap<RequestId, (Clock, RequestReply)>,
    /// Arrival order with the moment after which each is taken back; those that got a number are passed over.
    expiry: VecDeque<(RequestId, Clock)>,
    numbered: VecDeque<RequestReply>,
    /// The number of `numbered[0]`.
    first: u64,
    /// The replica has stopped, and everybody was told; an apply that was under way may still end.
    abandoned: bool,
}

impl RequestWaiters {
    pub fn new() -> Self {
        RequestWaiters { first: 1, ..Self::default() }
    }

    pub fn add(&mut self, id: RequestId, give_up: Clock, reply: RequestReply) {
        self.unnumbered.insert(id, (give_up, reply));
        self.expiry.push_back((id, give_up));
    }

    pub fn number(&mut self, id: RequestId, number: u64) {
        assert_eq!(number, self.first + self.numbered.len() as u64, "numbers are given without holes");
        let (_, reply) = self.unnumbered.remove(&id).expect("a request gets its number once");
        self.numbered.push_back(reply);
        while self.expiry.front().is_some_and(|(id, _)| !self.unnumbered.contains_key(id)) {
            self.expiry.pop_front();
        }
    }

    /// Requests without a number whose time is over.
    pub fn expired(&self, now: Clock) -> Vec<RequestId> {
        let over = self.expiry.iter().filter(|(id, at)| *at <= now && self.unnumbered.contains_key(id));
        over.map(|(id, _)| *id).collect()
    }

    pub fn refuse(&mut self, id: RequestId, error: RequestError) {
        if let Some((_, reply)) = self.unnumbered.remove(&id) {
            let _ = reply.send(Err(error));
        }
        while self.expiry.front().is_some_and(|(id, _)| !self.unnumbered.contains_key(id)) {
            self.expiry.pop_front();
        }
    }

    pub fn finish(&mut self, number: u64, outcome: Bytes) {
        if self.abandoned {
            return;
        }
        assert_eq!(number, self.first, "the requests of a session end in order");
        self.first += 1;
        let reply = self.numbered.pop_front().expect("only numbered requests are executed");
        let _ = reply.send(Ok(outcome));
    }

    /// A snapshot was installed that has seen the requests through `number`: what became of them is not known here.
    pub fn lost_through(&mut self, number: u64) {
        while self.first <= number {
            let Some(reply) = self.numbered.pop_front() else { break };
            self.first += 1;
            let _ = reply.send(Err(RequestError::Unknown("a snapshot was installed over it".into())));
        }
    }

    /// The replica stops: what was sent may still happen.
    pub fn abandon(&mut self, reason: &str) {
        self.abandoned = true;
        for (_, (_, reply)) in self.unnumbered.drain() {
            let _ = reply.send(Err(RequestError::NotExecuted(reason.into())));
        }
        for reply in self.numbered.drain(..) {
            let _ = reply.send(Err(RequestError::Unknown(reason.into())));
        }
    }
}

pub type TransferReply = Box<dyn FnOnce(Result<ReplicaId, TransferError>) + Send>;

/// Who waits for the end of a transfer.
#[derive(Default)]
pub struct TransferWaiters {
    waiting: HashMap<TransferId, TransferReply>,
}

impl TransferWaiters {
    pub fn add(&mut self, id: TransferId, reply: TransferReply) {
        self.waiting.insert(id, reply);
    }

    pub fn end(&mut self, id: TransferId, result: Result<ReplicaId, TransferError>) {
        if let Some(reply) = self.waiting.remove(&id) {
            reply(result);
        }
    }

    pub fn abandon(&mut self, reason: &str) {
        for (_, reply) in self.waiting.drain() {
            reply(Err(TransferError::Stopped(reason.into())));
        }
    }
}

/// Readers, first for their point, then for the database to reach it.
#[derive(Default)]
pub struct ReadWaiters {
    asking: HashMap<ReadId, ReadReply>,
    applying: BTreeMap<(Sequence, ReadId), ReadReply>,
}

impl ReadWaiters {
    pub fn add(&mut self, id: ReadId, reply: ReadReply) {
        self.asking.insert(id, reply);
    }

    pub fn remove(&mut self, id: ReadId) {
        self.asking.remove(&id);
    }

    pub fn point(&mut self, id: ReadId, point: Sequence, applied: Sequence) {
        let Some(reply) = self.asking.remove(&id) else { return };
        if point <= applied {
            let _ = reply.send(Ok(point));
        } else {
            self.applying.insert((point, id), reply);
        }
    }

    pub fn applied(&mut self, applied: Sequence) {
        while let Some(first) = self.applying.first_entry().filter(|e| e.key().0 <= applied) {
            let ((point, _), reply) = first.remove_entry();
            let _ = reply.send(Ok(point));
        }
    }

    pub fn abandon(&mut self, reason: &str) {
        let asking = self.asking.drain().map(|(_, reply)| reply);
        for reply in asking.chain(std::mem::take(&mut self.applying).into_values()) {
            let _ = reply.send(Err(ReadError::Stopped(reason.into())));
        }
    }
}
