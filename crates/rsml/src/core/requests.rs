//! The requests of this replica's own session, from acceptance to outcome.
//!
//! A request gets its number only when there is a primary to send it to. Before that it can still
//! be taken back, and is then never executed. Numbers are contiguous, so the outstanding requests
//! are a queue: the present primary gets them in order, again from the first unanswered one
//! whenever something may have been lost.
//!
//! A request with a number whose caller gives up becomes a *void*: its payload is dropped, and from
//! then on a void is sent under its number. Whichever of the two is applied first counts, so the
//! request is either executed or cancelled, and never both. A request that was never sent is
//! cancelled from that moment on.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RequestId;
use crate::{Instant, ReplicaId, View};

/// The requests of one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requests {
    /// Requests without a number, oldest first.
    waiting: VecDeque<(RequestId, Bytes)>,
    /// Requests with a number and without an outcome; `None` is a void.
    outstanding: VecDeque<Option<Bytes>>,
    /// The number of `outstanding[0]`.
    first: u64,
    /// The number to send next to the present primary.
    unsent: u64,
    /// Numbers from here on were never sent to any primary.
    never_sent: u64,
    /// Bytes of the outstanding requests before `unsent`.
    sent_bytes: usize,
    /// The present primary, and its view.
    target: Option<(View, ReplicaId)>,
    /// The bytes of all requests without an outcome.
    bytes: usize,
    /// When a request last got an outcome, or requests were sent again.
    last_progress: Instant,
    /// When a gap was last filled that the primary complained about.
    gap_filled: Option<Instant>,
}

/// Maximum number of requests without an outcome; more are refused. A request costs memory even
/// when its payload is small or gone.
const MAX_REQUESTS: usize = 1 << 20;

/// Maximum number of requests in one message.
const MAX_PORTION: usize = 1 << 16;

/// Requests to send in one message.
pub struct Portion {
    /// The number of the first one.
    pub first: u64,
    /// Their payloads.
    pub payloads: Vec<Bytes>,
    /// The numbers of the voids among them.
    pub voids: Vec<u64>,
}

fn bytes_of(request: &Option<Bytes>) -> usize {
    request.as_ref().map_or(0, Bytes::len)
}

impl Requests {
    /// A session without requests.
    pub fn new(now: Instant) -> Requests {
        Requests {
            waiting: VecDeque::new(),
            outstanding: VecDeque::new(),
            first: 1,
            unsent: 1,
            never_sent: 1,
            sent_bytes: 0,
            target: None,
            bytes: 0,
            last_progress: now,
            gap_filled: None,
        }
    }

    /// The bytes of all requests without an outcome.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more request of `bytes` would be too much.
    pub fn is_full(&self, bytes: usize, max_bytes: usize) -> bool {
        self.bytes + bytes > max_bytes || self.waiting.len() + self.outstanding.len() >= MAX_REQUESTS
    }

    /// Takes a request.
    pub fn push(&mut self, id: RequestId, payload: Bytes) {
        self.bytes += payload.len();
        self.waiting.push_back((id, payload));
    }

    /// Takes a request back. True if that was possible: the request had no number, and is never
    /// executed.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(place) = self.waiting.iter().position(|(waiting, _)| *waiting == id) else { return false };
        self.bytes -= self.waiting.remove(place).map_or(0, |(_, payload)| payload.len());
        true
    }

    /// Replaces the request with this number by a void, if it has no outcome yet. True if the
    /// request was never sent: it is never executed.
    pub fn give_up(&mut self, number: u64) -> bool {
        let Some(place) = number.checked_sub(self.first) else { return false };
        let Some(request) = self.outstanding.get_mut(place as usize) else { return false };
        coverage!("requests.given_up");
        let bytes = request.take().map_or(0, |payload| payload.len());
        self.bytes -= bytes;
        if number < self.unsent {
            self.sent_bytes -= bytes;
        }
        number >= self.never_sent
    }

    /// Numbers the requests that wait, and returns those that the target has not been sent yet: at
    /// most `max_bytes` (but at least one), and no more than `window_bytes` sent without an
    /// outcome, so that a primary holds a bounded part of each session. The numbers given now are
    /// added to `numbered`.
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
            self.outstanding.push_back(Some(payload));
        }
        let first = self.unsent;
        let (mut payloads, mut voids) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let unsent = self.outstanding.range((first - self.first) as usize..).take(MAX_PORTION);
        for (number, request) in (first..).zip(unsent) {
            let more = bytes + bytes_of(request);
            let is_first = payloads.is_empty();
            let exceeds_window = self.sent_bytes + more > window_bytes && !(is_first && self.sent_bytes == 0);
            if exceeds_window || (more > max_bytes && !is_first) {
                break;
            }
            bytes = more;
            if request.is_none() {
                coverage!("requests.sent_as_void");
                voids.push(number);
            }
            payloads.push(request.clone().unwrap_or_default());
        }
        self.unsent += payloads.len() as u64;
        self.never_sent = self.never_sent.max(self.unsent);
        self.sent_bytes += bytes;
        (!payloads.is_empty()).then_some(Portion { first, payloads, voids })
    }

    /// Sends again from `number` on, or from the first unanswered request if that is later.
    pub fn resend(&mut self, number: u64, now: Instant) {
        let from = self.unsent.min(number.max(self.first));
        let again = self.outstanding.range((from - self.first) as usize..(self.unsent - self.first) as usize);
        self.sent_bytes -= again.map(bytes_of).sum::<usize>();
        self.unsent = from;
        self.last_progress = now;
    }

    /// The primary lacks everything from `number` on. It says so for each message after the gap,
    /// so the gap is filled only once per `pause_us`; if that is lost, [`Requests::retry`] sends
    /// again.
    pub fn fill_gap(&mut self, number: u64, now: Instant, pause_us: u64) {
        if self.gap_filled.is_none_or(|at| now.since_us(at) >= pause_us) {
            coverage!("requests.gap_filled");
            self.gap_filled = Some(now);
            self.resend(number, now);
        }
    }

    /// There is no primary any more.
    pub fn forget_target(&mut self) {
        self.target = None;
    }

    /// As if the last progress had been made at `at`.
    pub fn restart_clocks(&mut self, at: Instant) {
        self.last_progress = at;
        self.gap_filled = None;
    }

    /// Sends everything again when no request got an outcome for `retry_us`.
    pub fn retry(&mut self, now: Instant, retry_us: u64) {
        if !self.outstanding.is_empty() && now.since_us(self.last_progress) >= retry_us {
            coverage!("requests.sent_again");
            self.resend(self.first, now);
        }
    }

    /// Whether a request ever got a number.
    pub fn has_numbered(&self) -> bool {
        self.first > 1 || !self.outstanding.is_empty()
    }

    /// Ends the session, and begins another one. Returns the requests that had no number yet, and
    /// the numbers of those without an outcome.
    pub fn abandon(&mut self, now: Instant) -> (Vec<RequestId>, Vec<u64>) {
        let former = std::mem::replace(self, Requests::new(now));
        let numbers = former.first..former.first + former.outstanding.len() as u64;
        (former.waiting.into_iter().map(|(id, _)| id).collect(), numbers.collect())
    }

    /// Requests through number `last` have an outcome.
    pub fn executed(&mut self, last: u64, now: Instant) {
        while self.first <= last {
            let Some(request) = self.outstanding.pop_front() else { break };
            self.bytes -= bytes_of(&request);
            if self.first < self.unsent {
                self.sent_bytes -= bytes_of(&request);
            }
            self.first += 1;
            self.last_progress = now;
        }
        assert!(self.first > last, "a request was executed that was never numbered: {last}");
        self.unsent = self.unsent.max(self.first);
        self.never_sent = self.never_sent.max(self.first);
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
    fn a_request_that_is_given_up_drops_its_payload_and_is_sent_as_a_void() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..3 {
            requests.push(RequestId(id), Bytes::from_static(b"xx"));
        }
        let everything = |requests: &mut Requests, view| {
            let portion = requests.portion(Instant(0), target(view), (1000, 1000), &mut Vec::new()).expect("some");
            (portion.payloads.iter().map(Bytes::len).collect::<Vec<_>>(), portion.voids)
        };
        assert_eq!(everything(&mut requests, 1), (vec![2, 2, 2], vec![]));
        assert!(!requests.give_up(2), "it was sent");
        assert_eq!(requests.bytes(), 4);
        assert_eq!(everything(&mut requests, 2), (vec![2, 0, 2], vec![2]));
        requests.executed(3, Instant(0));
        assert_eq!((requests.bytes(), requests.sent_bytes), (0, 0));
        assert!(!requests.give_up(3), "it has an outcome");
    }

    #[test]
    fn a_request_that_is_given_up_before_it_was_ever_sent_is_never_executed() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..4 {
            requests.push(RequestId(id), Bytes::from_static(b"xx"));
        }
        assert_eq!(take_within(&mut requests, 1, 4), Some((1, 2)));
        assert!(requests.give_up(3), "it waits for the window");
        requests.forget_target();
        assert_eq!(take_within(&mut requests, 2, 4), Some((1, 3)), "a void costs nothing of the window");
        assert!(!requests.give_up(2), "it was sent to another primary");
        assert!(requests.give_up(4));
    }

    #[test]
    fn a_session_that_is_abandoned_names_its_requests_and_the_next_begins_with_1() {
        let mut requests = Requests::new(Instant(0));
        assert!(!requests.has_numbered());
        for id in 0..3 {
            requests.push(RequestId(id), Bytes::from_static(b"xx"));
        }
        assert_eq!(take(&mut requests, 1), Some((1, 3)));
        requests.executed(1, Instant(0));
        requests.push(RequestId(3), Bytes::from_static(b"xx"));
        assert!(requests.has_numbered());
        assert_eq!(requests.abandon(Instant(0)), (vec![RequestId(3)], vec![2, 3]));
        assert_eq!((requests.bytes(), requests.has_numbered()), (0, false));
        requests.push(RequestId(4), Bytes::from_static(b"xx"));
        assert_eq!(take(&mut requests, 2), Some((1, 1)));
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

    #[test]
    fn requests_are_taken_until_their_bytes_or_their_number_reach_the_bound() {
        let mut requests = Requests::new(Instant(0));
        requests.push(RequestId(0), Bytes::from_static(b"xx"));
        assert!(!requests.is_full(3, 5) && requests.is_full(4, 5));
        for id in 1..MAX_REQUESTS as u64 {
            assert!(!requests.is_full(0, 5), "{id} are too few");
            requests.push(RequestId(id), Bytes::new());
        }
        assert!(requests.is_full(0, 5));
    }

    #[test]
    fn a_message_is_filled_to_its_last_byte() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..3 {
            requests.push(RequestId(id), Bytes::from_static(b"xx"));
        }
        let portion = requests.portion(Instant(0), target(1), (4, 1000), &mut Vec::new());
        assert_eq!(portion.map(|portion| portion.payloads.len()), Some(2));
    }

    #[test]
    fn a_gap_is_filled_again_when_the_pause_is_over() {
        let mut requests = Requests::new(Instant(0));
        requests.push(RequestId(0), Bytes::from_static(b"x"));
        assert_eq!(take(&mut requests, 1), Some((1, 1)));
        requests.fill_gap(1, Instant(1_000), 50_000);
        assert_eq!(take(&mut requests, 1), Some((1, 1)));
        requests.fill_gap(1, Instant(50_999), 50_000);
        assert_eq!(take(&mut requests, 1), None);
        requests.fill_gap(1, Instant(51_000), 50_000);
        assert_eq!(take(&mut requests, 1), Some((1, 1)));
    }

    #[test]
    fn requests_are_sent_again_after_a_retry_interval_without_an_outcome() {
        let mut requests = Requests::new(Instant(0));
        requests.push(RequestId(0), Bytes::from_static(b"x"));
        assert_eq!(take(&mut requests, 1), Some((1, 1)));
        requests.retry(Instant(199), 200);
        assert_eq!(take(&mut requests, 1), None);
        requests.retry(Instant(200), 200);
        assert_eq!(take(&mut requests, 1), Some((1, 1)));
    }

    #[test]
    fn a_request_that_is_executed_before_its_new_primary_was_sent_it_frees_nothing_of_the_window() {
        let mut requests = Requests::new(Instant(0));
        for id in 0..2 {
            requests.push(RequestId(id), Bytes::from_static(b"xx"));
        }
        assert_eq!(take(&mut requests, 1), Some((1, 2)));
        requests.resend(1, Instant(0));
        requests.executed(1, Instant(0));
        assert_eq!(requests.sent_bytes, 0);
    }
}
