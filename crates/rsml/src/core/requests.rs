//! The requests of this replica's own session, from acceptance to outcome.
//!
//! A request gets its number only when there is a primary to send it to; before that it can still be taken back and is
//! then surely not executed. Numbers are contiguous, so the outstanding ones are a queue: the primary of the day gets
//! them in order, again from the first unanswered one whenever something may have been lost.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RequestId;
use crate::{Instant, ReplicaId, View};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requests {
    waiting: VecDeque<(RequestId, Bytes)>,
    outstanding: VecDeque<Bytes>,
    /// The number of `outstanding[0]`.
    first: u64,
    /// The number to send next to the present target.
    unsent: u64,
    /// Bytes of the outstanding requests before `unsent`.
    sent_bytes: usize,
    target: Option<(View, ReplicaId)>,
    bytes: usize,
    last_progress: Instant,
    gap_filled: Option<Instant>,
}

/// Requests to send: the number of the first, and their bytes.
pub struct Portion {
    pub first: u64,
    pub payloads: Vec<Bytes>,
}

impl Requests {
    pub fn new(now: Instant) -> Requests {
        Requests {
            waiting: VecDeque::new(),
            outstanding: VecDeque::new(),
            first: 1,
            unsent: 1,
            sent_bytes: 0,
            target: None,
            bytes: 0,
            last_progress: now,
            gap_filled: None,
        }
    }

    /// Bytes of all requests without an outcome.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, id: RequestId, payload: Bytes) {
        self.bytes += payload.len();
        self.waiting.push_back((id, payload));
    }

    /// Takes a request back. True: it was never sent and never will be.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(place) = self.waiting.iter().position(|(waiting, _)| *waiting == id) else { return false };
        self.bytes -= self.waiting.remove(place).map_or(0, |(_, payload)| payload.len());
        true
    }

    /// Numbers what waits and returns what the target has not been sent yet, at most `max_bytes` (at least one), and no
    /// more than may be sent without an outcome: `window_bytes`, so that a primary holds a bounded part of each session.
    /// The numbers given now are told to `numbered`.
    pub fn portion(
        &mut self,
        now: Instant,
        target: (View, ReplicaId),
        (max_bytes, window_bytes): (usize, usize),
        numbered: &mut Vec<(RequestId, u64)>,
    ) -> Option<Portion> {
        if self.target != Some(target) {
            self.target = Some(target);
            self.resend(self.first, now);
        }
        if self.outstanding.is_empty() {
            self.last_progress = now;
        }
        let next = self.first + self.outstanding.len() as u64;
        for (number, (id, payload)) in (next..).zip(self.waiting.drain(..)) {
            numbered.push((id, number));
            self.outstanding.push_back(payload);
        }
        let first = self.unsent;
        let mut payloads = Vec::new();
        let mut bytes = 0;
        for payload in self.outstanding.range((first - self.first) as usize..) {
            let more = bytes + payload.len();
            let is_first = payloads.is_empty();
            let exceeds_window = self.sent_bytes + more > window_bytes && !(is_first && self.sent_bytes == 0);
            if exceeds_window || (more > max_bytes && !is_first) {
                break;
            }
            bytes = more;
            payloads.push(payload.clone());
        }
        self.unsent += payloads.len() as u64;
        self.sent_bytes += bytes;
        (!payloads.is_empty()).then_some(Portion { first, payloads })
    }

    /// Send again from `number` on, or from the first unanswered request if that is later.
    pub fn resend(&mut self, number: u64, now: Instant) {
        let from = self.unsent.min(number.max(self.first));
        let again = self.outstanding.range((from - self.first) as usize..(self.unsent - self.first) as usize);
        self.sent_bytes -= again.map(Bytes::len).sum::<usize>();
        self.unsent = from;
        self.last_progress = now;
    }

    /// The primary misses everything from `number` on. Each message behind the gap makes it say so, so that only one
    /// answer is given per `pause_us`; what is lost of that one comes with [`Requests::retry`].
    pub fn fill_gap(&mut self, number: u64, now: Instant, pause_us: u64) {
        if self.gap_filled.is_none_or(|at| now.since_us(at) >= pause_us) {
            coverage!("requests.gap_filled");
            self.gap_filled = Some(now);
            self.resend(number, now);
        }
    }

    /// Nobody is there to send to.
    pub fn forget_target(&mut self) {
        self.target = None;
    }

    /// As if the last progress had been made at `at`.
    pub fn restart_clocks(&mut self, at: Instant) {
        self.last_progress = at;
        self.gap_filled = None;
    }

    /// Sends everything again when nothing was answered for `retry_us`.
    pub fn retry(&mut self, now: Instant, retry_us: u64) {
        if !self.outstanding.is_empty() && now.since_us(self.last_progress) >= retry_us {
            coverage!("requests.sent_again");
            self.resend(self.first, now);
        }
    }

    /// Requests through number `last` have an outcome.
    pub fn executed(&mut self, last: u64, now: Instant) {
        while self.first <= last {
            let Some(payload) = self.outstanding.pop_front() else { break };
            self.bytes -= payload.len();
            if self.first < self.unsent {
                self.sent_bytes -= payload.len();
            }
            self.first += 1;
            self.last_progress = now;
        }
        assert!(self.first > last, "a request was executed that was never numbered: {last}");
        self.unsent = self.unsent.max(self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(view: u64) -> (View, ReplicaId) {
        (View(view), ReplicaId(1))
    }

    fn take(requests: &mut Requests, view: u64) -> Option<(u64, usize)> {
        take_within(requests, view, 1000)
    }

    fn take_within(requests: &mut Requests, view: u64, window_bytes: usize) -> Option<(u64, usize)> {
        let portion = requests.portion(Instant(0), target(view), (1000, window_bytes), &mut Vec::new());
        portion.map(|p| (p.first, p.payloads.len()))
    }

    #[test]
    fn everything_unanswered_goes_to_a_new_primary() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..3 {
            requests.push(RequestId(id), Bytes::from_static(b"x"));
        }
        assert_eq!(take(&mut requests, 1), Some((1, 3)));
        assert_eq!(take(&mut requests, 1), None);
        requests.executed(1, Instant(0));
        assert_eq!(take(&mut requests, 2), Some((2, 2)));
        requests.executed(3, Instant(0));
        assert_eq!((take(&mut requests, 3), requests.bytes()), (None, 0));
    }

    #[test]
    fn no_more_than_the_window_is_sent_without_an_outcome() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..6 {
            requests.push(RequestId(id), Bytes::from_static(b"xx"));
        }
        assert_eq!(take_within(&mut requests, 1, 5), Some((1, 2)));
        assert_eq!(take_within(&mut requests, 1, 5), None);
        requests.executed(1, Instant(0));
        assert_eq!(take_within(&mut requests, 1, 5), Some((3, 1)));
        assert_eq!(take_within(&mut requests, 2, 5), Some((2, 2)), "a new primary has none of them");
        requests.executed(4, Instant(0));
        assert_eq!(take_within(&mut requests, 2, 1), Some((5, 1)), "one is always sent");
        assert_eq!(take_within(&mut requests, 2, 1), None);
    }

    #[test]
    fn many_complaints_about_one_gap_are_answered_once() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..3 {
            requests.push(RequestId(id), Bytes::from_static(b"x"));
        }
        assert_eq!(take(&mut requests, 1), Some((1, 3)));
        requests.fill_gap(2, Instant(1_000), 50_000);
        assert_eq!(take(&mut requests, 1), Some((2, 2)));
        requests.fill_gap(2, Instant(1_100), 50_000);
        assert_eq!(take(&mut requests, 1), None, "the answer is still on its way");
        requests.fill_gap(3, Instant(60_000), 50_000);
        assert_eq!(take(&mut requests, 1), Some((3, 1)));
    }

    #[test]
    fn only_a_request_without_a_number_can_be_taken_back() {
        let mut requests = Requests::new(Instant(0));
        requests.push(RequestId(7), Bytes::from_static(b"x"));
        take(&mut requests, 1);
        requests.push(RequestId(8), Bytes::from_static(b"y"));
        assert!(!requests.cancel(RequestId(7)));
        assert!(requests.cancel(RequestId(8)));
        assert_eq!(requests.bytes(), 1);
    }
}
