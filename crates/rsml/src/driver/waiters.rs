//! The callers that wait for the outcome of a request, for a read point, or for the end of a
//! transfer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant as StdInstant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::error::{ReadError, RequestError};
use crate::core::{
    Precondition, RaiseError, RaiseId, ReadId, ReconfigureError, ReconfigureId, RequestId, TransferError, TransferId,
};
use crate::{Boot, Epoch, FeatureLevel, ReplicaId, Sequence};

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub result: Result<Bytes, RequestError>,
    /// When it was applied, if it was.
    pub applied: Option<StdInstant>,
}

/// When a request passed the first stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTimes {
    pub taken: StdInstant,
    pub numbered: StdInstant,
}

pub type RequestReply = oneshot::Sender<Answer>;
pub type ReadReply = oneshot::Sender<Result<Sequence, ReadError>>;

/// The requests of this replica's session: first without a number, then by number.
#[derive(Default)]
pub struct RequestWaiters {
    unnumbered: HashMap<RequestId, Waiter>,
    /// In order of arrival, with the time at which each is cancelled if it has no number by then.
    /// Requests that got a number may still be listed; they are skipped.
    expiry: VecDeque<(RequestId, StdInstant)>,
    numbered: VecDeque<Waiter>,
    /// The number of `numbered[0]`.
    first: u64,
    /// The start of the disk that the session belongs to.
    boot: Boot,
    /// The earliest deadline of the numbered requests that were not given up.
    next_deadline: Option<StdInstant>,
    /// The replica has stopped, and all callers were answered. An apply in progress may still end.
    abandoned: bool,
}

struct Waiter {
    times: RequestTimes,
    deadline: StdInstant,
    /// `None` once the caller was answered.
    reply: Option<RequestReply>,
    given_up: bool,
}

impl Waiter {
    fn answer(&mut self, result: Result<Bytes, RequestError>) {
        self.answer_applied(result, None);
    }

    fn answer_applied(&mut self, result: Result<Bytes, RequestError>, applied: Option<StdInstant>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Answer { result, applied });
        }
    }
}

impl RequestWaiters {
    pub fn new(boot: Boot) -> Self {
        RequestWaiters { first: 1, boot, ..Self::default() }
    }

    /// The start of the disk that the session belongs to.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// The session is over, and another one begins: its requests are numbered from 1. Those of the
    /// former one may have been executed, or may not.
    pub fn begin_session(&mut self, boot: Boot) {
        for mut waiter in self.numbered.drain(..) {
            let reason = "this replica left the cluster before it was executed here";
            waiter.answer(Err(RequestError::Unknown(reason.into())));
        }
        (self.first, self.boot, self.next_deadline) = (1, boot, None);
    }

    /// Adds a request that was taken now. If it has no number at `cancel_at`, it is cancelled; if it has one, it is
    /// given up at `deadline`.
    pub fn add(
        &mut self,
        id: RequestId,
        now: StdInstant,
        cancel_at: StdInstant,
        deadline: StdInstant,
        reply: RequestReply,
    ) {
        let times = RequestTimes { taken: now, numbered: now };
        self.unnumbered.insert(id, Waiter { times, deadline, reply: Some(reply), given_up: false });
        self.expiry.push_back((id, cancel_at));
    }

    /// The request got its number in the session.
    pub fn number(&mut self, id: RequestId, number: u64, now: StdInstant) {
        assert_eq!(number, self.first + self.numbered.len() as u64, "numbers are assigned without gaps");
        let mut waiter = self.unnumbered.remove(&id).expect("a request gets its number once");
        waiter.times.numbered = now;
        self.next_deadline = Some(self.next_deadline.map_or(waiter.deadline, |next| next.min(waiter.deadline)));
        self.numbered.push_back(waiter);
        while self.expiry.front().is_some_and(|(id, _)| !self.unnumbered.contains_key(id)) {
            self.expiry.pop_front();
        }
    }

    /// The requests without a number that must be cancelled.
    pub fn expired(&self, now: StdInstant) -> Vec<RequestId> {
        let expired = self.expiry.iter().filter(|(id, at)| *at <= now && self.unnumbered.contains_key(id));
        expired.map(|(id, _)| *id).collect()
    }

    /// The numbers of the requests whose deadline has passed. Each is returned once.
    pub fn overdue(&mut self, now: StdInstant) -> Vec<u64> {
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

    /// A request with a number will certainly not be executed. The void in its place is still to be
    /// applied.
    pub fn withdraw(&mut self, number: u64) {
        let waiter = number.checked_sub(self.first).and_then(|index| self.numbered.get_mut(index as usize));
        if let Some(waiter) = waiter {
            waiter.answer(Err(RequestError::GivenUp));
        }
    }

    /// A request without a number will get none.
    pub fn refuse(&mut self, id: RequestId, error: RequestError) {
        if let Some(mut waiter) = self.unnumbered.remove(&id) {
            waiter.answer(Err(error));
        }
        while self.expiry.front().is_some_and(|(id, _)| !self.unnumbered.contains_key(id)) {
            self.expiry.pop_front();
        }
    }

    /// A request was executed, with this outcome; or, with `None`, a void was applied in its place.
    /// Returns the times of a request that was executed.
    pub fn finish(&mut self, number: u64, outcome: Option<Bytes>, now: StdInstant) -> Option<RequestTimes> {
        if self.abandoned {
            return None;
        }
        assert_eq!(number, self.first, "the requests of a session end in order");
        self.first += 1;
        let mut waiter = self.numbered.pop_front().expect("only numbered requests are executed");
        let applied = outcome.is_some().then_some(now);
        waiter.answer_applied(outcome.ok_or(RequestError::GivenUp), applied);
        applied.map(|_| waiter.times)
    }

    /// The requests through `number` were already executed in a snapshot that was installed, so
    /// this replica does not know their outcomes.
    pub fn lost_through(&mut self, number: u64) {
        while self.first <= number {
            let Some(mut waiter) = self.numbered.pop_front() else { break };
            self.first += 1;
            waiter.answer(Err(RequestError::Unknown("a snapshot was installed over it".into())));
        }
    }

    /// The replica stops. Requests that were sent may still be executed.
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

/// The callers that wait for the end of a transfer of leadership.
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

/// The callers that wait for the end of something rare: of a raise of the feature level, or of a
/// change of the members.
pub struct CallWaiters<I, R> {
    waiting: HashMap<I, oneshot::Sender<R>>,
}

pub type RaiseWaiters = CallWaiters<RaiseId, Result<FeatureLevel, RaiseError>>;
pub type ReconfigureWaiters = CallWaiters<ReconfigureId, Result<Epoch, ReconfigureError>>;
/// A replica that stops checks nothing, and drops these.
pub type CheckWaiters = CallWaiters<ReconfigureId, Vec<Precondition>>;

impl<I, R> Default for CallWaiters<I, R> {
    fn default() -> Self {
        CallWaiters { waiting: HashMap::new() }
    }
}

impl<I: Eq + std::hash::Hash, R> CallWaiters<I, R> {
    pub fn add(&mut self, id: I, reply: oneshot::Sender<R>) {
        self.waiting.insert(id, reply);
    }

    pub fn end(&mut self, id: I, result: R) {
        if let Some(reply) = self.waiting.remove(&id) {
            let _ = reply.send(result);
        }
    }

    /// The replica stops: the callers get nothing.
    pub fn drop_all(&mut self) {
        self.waiting.clear();
    }

    /// The replica stops: each caller gets what `stopped` makes.
    pub fn abandon(&mut self, stopped: impl Fn() -> R) {
        for (_, reply) in self.waiting.drain() {
            let _ = reply.send(stopped());
        }
    }
}

/// The readers. They wait first for a read point, and then until the database has reached it.
#[derive(Default)]
pub struct ReadWaiters {
    unconfirmed: HashMap<ReadId, ReadReply>,
    confirmed: BTreeMap<(Sequence, ReadId), ReadReply>,
}

impl ReadWaiters {
    pub fn add(&mut self, id: ReadId, reply: ReadReply) {
        self.unconfirmed.insert(id, reply);
    }

    pub fn remove(&mut self, id: ReadId) {
        self.unconfirmed.remove(&id);
    }

    /// A read got its point, when the database had applied `applied`.
    pub fn point(&mut self, id: ReadId, point: Sequence, applied: Sequence) {
        let Some(reply) = self.unconfirmed.remove(&id) else { return };
        if point <= applied {
            let _ = reply.send(Ok(point));
        } else {
            self.confirmed.insert((point, id), reply);
        }
    }

    /// Whether any reader has its point and waits for the database to reach it.
    pub fn wait_for_entries(&self) -> bool {
        !self.confirmed.is_empty()
    }

    /// The database has applied `applied`.
    pub fn applied(&mut self, applied: Sequence) {
        while let Some(first) = self.confirmed.first_entry().filter(|e| e.key().0 <= applied) {
            let ((point, _), reply) = first.remove_entry();
            let _ = reply.send(Ok(point));
        }
    }

    pub fn abandon(&mut self, reason: &str) {
        let unconfirmed = self.unconfirmed.drain().map(|(_, reply)| reply);
        for reply in unconfirmed.chain(std::mem::take(&mut self.confirmed).into_values()) {
            let _ = reply.send(Err(ReadError::Stopped(reason.into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Answers = oneshot::Receiver<Answer>;

    /// Requests numbered from 1, and the present. The deadline of request n is n seconds from now.
    fn numbered(count: u64) -> (RequestWaiters, Vec<Answers>, StdInstant) {
        let mut waiters = RequestWaiters::new(Boot(1));
        let now = StdInstant::now();
        let mut answers = Vec::new();
        for number in 1..=count {
            let (reply, answer) = oneshot::channel();
            let deadline = now + Duration::from_secs(number);
            waiters.add(RequestId(100 + number), now, deadline, deadline, reply);
            waiters.number(RequestId(100 + number), number, now);
            answers.push(answer);
        }
        (waiters, answers, now)
    }

    #[test]
    fn requests_executed_in_an_installed_snapshot_end_as_unknown_and_later_ones_continue() {
        let (mut waiters, mut answers, now) = numbered(4);
        waiters.finish(1, Some(Bytes::from_static(b"done")), now);
        waiters.lost_through(3);
        waiters.lost_through(2);
        waiters.finish(4, Some(Bytes::from_static(b"late")), now);
        let answers: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv().expect("answered").result).collect();
        let lost = Err(RequestError::Unknown("a snapshot was installed over it".into()));
        assert_eq!(answers, [Ok("done".into()), lost.clone(), lost, Ok("late".into())]);
    }

    #[test]
    fn each_request_is_returned_once_when_its_deadline_has_passed() {
        let (mut waiters, _answers, now) = numbered(4);
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        assert!(waiters.overdue(now).is_empty());
        assert_eq!(waiters.overdue(after(2)), [1, 2]);
        assert!(waiters.overdue(after(2)).is_empty());
        waiters.finish(1, None, now);
        assert_eq!(waiters.overdue(after(9)), [3, 4]);
        assert!(waiters.overdue(after(99)).is_empty());
    }

    #[test]
    fn a_void_answers_that_the_request_was_not_executed_unless_it_was_answered_before() {
        let (mut waiters, mut answers, now) = numbered(3);
        waiters.withdraw(2);
        assert_eq!(answers[1].try_recv().expect("answered").result, Err(RequestError::GivenUp));
        waiters.finish(1, None, now);
        waiters.finish(2, None, now);
        waiters.finish(3, Some(Bytes::from_static(b"done")), now);
        assert_eq!(answers[0].try_recv().expect("answered").result, Err(RequestError::GivenUp));
        assert_eq!(answers[2].try_recv().expect("answered").result, Ok("done".into()));
    }
}
