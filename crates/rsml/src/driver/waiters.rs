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
    unnumbered: HashMap<RequestId, Waiter>,
    /// Arrival order with the moment after which each is taken back; those that got a number are passed over.
    expiry: VecDeque<(RequestId, Clock)>,
    numbered: VecDeque<Waiter>,
    /// The number of `numbered[0]`.
    first: u64,
    /// No numbered request that was not given up has an earlier deadline.
    next_deadline: Option<Clock>,
    /// The replica has stopped, and everybody was told; an apply that was under way may still end.
    abandoned: bool,
}

struct Waiter {
    deadline: Clock,
    /// `None`: it was answered.
    reply: Option<RequestReply>,
    given_up: bool,
}

impl Waiter {
    fn answer(&mut self, result: Result<Bytes, RequestError>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }
}

impl RequestWaiters {
    pub fn new() -> Self {
        RequestWaiters { first: 1, ..Self::default() }
    }

    /// Without a number it is taken back at `give_up`, with one it is given up at `deadline`.
    pub fn add(&mut self, id: RequestId, give_up: Clock, deadline: Clock, reply: RequestReply) {
        self.unnumbered.insert(id, Waiter { deadline, reply: Some(reply), given_up: false });
        self.expiry.push_back((id, give_up));
    }

    pub fn number(&mut self, id: RequestId, number: u64) {
        assert_eq!(number, self.first + self.numbered.len() as u64, "numbers are given without holes");
        let waiter = self.unnumbered.remove(&id).expect("a request gets its number once");
        self.next_deadline = Some(self.next_deadline.map_or(waiter.deadline, |next| next.min(waiter.deadline)));
        self.numbered.push_back(waiter);
        while self.expiry.front().is_some_and(|(id, _)| !self.unnumbered.contains_key(id)) {
            self.expiry.pop_front();
        }
    }

    /// Requests without a number whose time is over.
    pub fn expired(&self, now: Clock) -> Vec<RequestId> {
        let over = self.expiry.iter().filter(|(id, at)| *at <= now && self.unnumbered.contains_key(id));
        over.map(|(id, _)| *id).collect()
    }

    /// The numbers of requests whose time is over now; each is named once.
    pub fn overdue(&mut self, now: Clock) -> Vec<u64> {
        if self.next_deadline.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        self.next_deadline = None;
        for (number, waiter) in (self.first..).zip(&mut self.numbered).filter(|(_, waiter)| !waiter.given_up) {
            if waiter.deadline <= now {
                waiter.given_up = true;
                overdue.push(number);
            } else {
                self.next_deadline = Some(self.next_deadline.map_or(waiter.deadline, |next| next.min(waiter.deadline)));
            }
        }
        overdue
    }

    /// A request with a number is surely not executed; the void in its place is still to come.
    pub fn withdraw(&mut self, number: u64) {
        let place = number.checked_sub(self.first).and_then(|place| self.numbered.get_mut(place as usize));
        if let Some(waiter) = place {
            waiter.answer(Err(RequestError::GivenUp));
        }
    }

    pub fn refuse(&mut self, id: RequestId, error: RequestError) {
        if let Some(mut waiter) = self.unnumbered.remove(&id) {
            waiter.answer(Err(error));
        }
        while self.expiry.front().is_some_and(|(id, _)| !self.unnumbered.contains_key(id)) {
            self.expiry.pop_front();
        }
    }

    /// `None`: a void was applied in its place.
    pub fn finish(&mut self, number: u64, outcome: Option<Bytes>) {
        if self.abandoned {
            return;
        }
        assert_eq!(number, self.first, "the requests of a session end in order");
        self.first += 1;
        let mut waiter = self.numbered.pop_front().expect("only numbered requests are executed");
        waiter.answer(outcome.ok_or(RequestError::GivenUp));
    }

    /// A snapshot was installed that has seen the requests through `number`: what became of them is not known here.
    pub fn lost_through(&mut self, number: u64) {
        while self.first <= number {
            let Some(mut waiter) = self.numbered.pop_front() else { break };
            self.first += 1;
            waiter.answer(Err(RequestError::Unknown("a snapshot was installed over it".into())));
        }
    }

    /// The replica stops: what was sent may still happen.
    pub fn abandon(&mut self, reason: &str) {
        self.abandoned = true;
        for mut waiter in self.unnumbered.drain().map(|(_, waiter)| waiter) {
            waiter.answer(Err(RequestError::NotExecuted(reason.into())));
        }
        for mut waiter in self.numbered.drain(..) {
            waiter.answer(Err(RequestError::Unknown(reason.into())));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Answer = oneshot::Receiver<Result<Bytes, RequestError>>;

    /// Requests numbered from 1, of which number n has n seconds; with the moment from which these count.
    fn numbered(count: u64) -> (RequestWaiters, Vec<Answer>, Clock) {
        let mut waiters = RequestWaiters::new();
        let now = Clock::now();
        let mut answers = Vec::new();
        for number in 1..=count {
            let (reply, answer) = oneshot::channel();
            let deadline = now + Duration::from_secs(number);
            waiters.add(RequestId(100 + number), deadline, deadline, reply);
            waiters.number(RequestId(100 + number), number);
            answers.push(answer);
        }
        (waiters, answers, now)
    }

    #[test]
    fn what_a_snapshot_was_installed_over_ends_as_unknown_and_what_comes_later_goes_on() {
        let (mut waiters, mut answers, _) = numbered(4);
        waiters.finish(1, Some(Bytes::from_static(b"done")));
        waiters.lost_through(3);
        waiters.lost_through(2);
        waiters.finish(4, Some(Bytes::from_static(b"late")));
        let answers: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv().expect("answered")).collect();
        let lost = Err(RequestError::Unknown("a snapshot was installed over it".into()));
        assert_eq!(answers, [Ok("done".into()), lost.clone(), lost, Ok("late".into())]);
    }

    #[test]
    fn each_request_is_named_once_when_its_time_is_over() {
        let (mut waiters, _answers, now) = numbered(4);
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        assert!(waiters.overdue(now).is_empty());
        assert_eq!(waiters.overdue(after(2)), [1, 2]);
        assert!(waiters.overdue(after(2)).is_empty());
        waiters.finish(1, None);
        assert_eq!(waiters.overdue(after(9)), [3, 4]);
        assert!(waiters.overdue(after(99)).is_empty());
    }

    #[test]
    fn a_void_answers_that_it_surely_did_not_happen_unless_that_was_said_before() {
        let (mut waiters, mut answers, _) = numbered(3);
        waiters.withdraw(2);
        assert_eq!(answers[1].try_recv(), Ok(Err(RequestError::GivenUp)));
        waiters.finish(1, None);
        waiters.finish(2, None);
        waiters.finish(3, Some(Bytes::from_static(b"done")));
        assert_eq!(answers[0].try_recv(), Ok(Err(RequestError::GivenUp)));
        assert_eq!(answers[2].try_recv(), Ok(Ok("done".into())));
    }
}
