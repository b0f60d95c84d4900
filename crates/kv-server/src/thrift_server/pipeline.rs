//! The calls of one connection: started in order, run concurrently, answered in order.
//!
//! Invariants:
//! - `slots` holds the unanswered calls, oldest first. The front one runs or is to be made again,
//!   because a finished front is encoded into the output at once;
//! - each running slot has exactly one future in `running`, with its number;
//! - a call with a large reply runs only at the front;
//! - `held_bytes` is the sum of the lengths of the held replies, `costs` the sum of the running
//!   calls' reservations for small replies, `again` the number of calls that are to be made again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, StreamExt};
use kv_api::thrift::wire::{self, Encoding};

use tokio::time::Instant;

use super::counters::add;
use super::memory_budget::Cost;
use super::{
    ApplicationErrorKind, Method, Served, ThriftCall, ThriftException, ThriftReply, ThriftServerCounters,
    ThriftServerOptions,
};
use crate::byte_budget::Reserved;

type CallFuture<'a> = Pin<Box<dyn Future<Output = Served> + Send + 'a>>;

/// The parts of a call that its reply must repeat or obey.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// The method called.
    pub method: Method,
    /// The encoding of the call, and of its reply.
    pub encoding: Encoding,
    /// The client's number for the call.
    pub sequence_id: i32,
    /// The client does not want a reply.
    pub one_way: bool,
}

/// A call that may have to be made again, with more memory for its reply.
pub(super) struct Again {
    /// The call.
    pub call: ThriftCall,
    /// Its deadline.
    pub deadline: Instant,
    /// The cost of the next attempt.
    pub cost: Cost,
    /// Longest reply that can be sent.
    pub reply_limit: usize,
}

impl Again {
    /// How to make a call again whose present attempt has this `cost`.
    pub fn after(call: &ThriftCall, cost: Cost, deadline: Instant, reply_limit: usize) -> Option<Box<Again>> {
        let cost = cost.next(call, reply_limit)?;
        Some(Box::new(Again { call: call.clone(), deadline, cost, reply_limit }))
    }
}

/// Everything about a call that the pipeline needs when it starts.
pub(super) struct Start {
    /// The parts that the reply needs.
    pub origin: Origin,
    /// The reservation that was made for it.
    pub cost: Cost,
    /// Set if the call is first tried with little memory.
    pub again: Option<Box<Again>>,
    /// The reservation for the request's own memory, if there is one, held while the call runs.
    pub _input: Option<Reserved>,
}

enum Slot {
    Running(Start),
    /// The call had too little memory for its reply.
    Again(Origin, Box<Again>),
    /// The reply is encoded, but an earlier call is still running.
    Held(Vec<u8>),
}

/// `None`: the handler panicked.
type Outcome = Option<Served>;

struct Running<'a> {
    number: u64,
    future: CallFuture<'a>,
}

impl Future for Running<'_> {
    type Output = (u64, Outcome);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.number;
        poll_caught(&mut self.future, cx).map(|outcome| (number, outcome))
    }
}

fn poll_caught(future: &mut CallFuture<'_>, cx: &mut Context<'_>) -> Poll<Outcome> {
    match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    }
}

pub(super) struct Pipeline<'a> {
    options: &'a ThriftServerOptions,
    counters: &'a ThriftServerCounters,
    slots: VecDeque<Slot>,
    /// The number of the front slot.
    first: u64,
    running: FuturesUnordered<Running<'a>>,
    held_bytes: usize,
    costs: usize,
    again: usize,
}

impl<'a> Pipeline<'a> {
    /// A pipeline without calls.
    pub fn new(options: &'a ThriftServerOptions, counters: &'a ThriftServerCounters) -> Self {
        Pipeline {
            options,
            counters,
            slots: VecDeque::new(),
            first: 0,
            running: FuturesUnordered::new(),
            held_bytes: 0,
            costs: 0,
            again: 0,
        }
    }

    /// Unanswered calls.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether every call is answered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of replies that wait for an earlier call.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The running calls' reservations for small replies, in bytes.
    pub fn costs(&self) -> usize {
        self.costs
    }

    /// Whether a call waits to be made again.
    pub fn has_again(&self) -> bool {
        self.again > 0
    }

    /// Whether a call with a large reply is running.
    pub fn is_large_running(&self) -> bool {
        matches!(self.slots.front(), Some(Slot::Running(start)) if start.cost.is_large)
    }

    /// The cost of making the first call again, if it waits for that.
    pub fn first_again(&self) -> Option<Cost> {
        match self.slots.front() {
            Some(Slot::Again(_, again)) => Some(again.cost),
            _ => None,
        }
    }

    /// Makes the first call again. Poll the pipeline afterwards.
    pub fn start_again(&mut self, call: impl FnOnce(Again) -> CallFuture<'a>) {
        let Some(Slot::Again(origin, again)) = self.slots.pop_front() else { panic!("the first call runs already") };
        let Again { call: asked, deadline, cost, reply_limit } = &*again;
        let once_more = Again::after(asked, *cost, *deadline, *reply_limit);
        let start = Start { origin, cost: *cost, again: once_more, _input: None };
        self.again -= 1;
        self.slots.push_front(Slot::Running(start));
        // Catches a panic of the handler before it returned its future, like any other.
        let future = catch_unwind(AssertUnwindSafe(|| call(*again)))
            .unwrap_or_else(|_| Box::pin(async { panic!("the handler panicked") }));
        self.running.push(Running { number: self.first, future });
    }

    /// Makes a call and polls it once. A call that is ready then costs no bookkeeping.
    ///
    /// The first poll gets a no-op waker. A call that stays pending is polled once more after it
    /// was added to the slots, and registers its waker then.
    pub fn start(&mut self, start: Start, call: impl FnOnce() -> CallFuture<'a>, output: &mut Vec<u8>) {
        let started = catch_unwind(AssertUnwindSafe(|| {
            let mut future = call();
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(served) => Ok(served),
                Poll::Pending => Err(future),
            }
        }));
        match started {
            Ok(Err(future)) => {
                let number = self.first + self.slots.len() as u64;
                self.costs += small_cost(&start);
                self.slots.push_back(Slot::Running(start));
                self.running.push(Running { number, future });
            }
            Ok(Ok(Served::NeedsRoom)) if start.again.is_some() => {
                let slot = self.once_more(start);
                self.slots.push_back(slot);
            }
            Ok(Ok(served)) => self.append(start.origin, Some(served), output),
            Err(_) => self.append(start.origin, None, output),
        }
    }

    /// Answers an invalid message with an exception, in its turn.
    pub fn refuse(
        &mut self,
        encoding: Encoding,
        name: &[u8],
        sequence_id: i32,
        exception: ThriftException,
        output: &mut Vec<u8>,
    ) {
        let reply = ThriftReply::Exception(exception);
        self.append_with(output, |output| wire::encode_reply(output, encoding, name, sequence_id, &reply));
    }

    /// Collects the calls that have ended, and writes the replies whose turn it is into `output`.
    /// Must be polled after each start.
    pub fn poll(&mut self, cx: &mut Context<'_>, output: &mut Vec<u8>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((number, outcome))) = self.running.poll_next_unpin(cx) {
            self.finish(number, outcome, output);
            any = true;
        }
        any
    }

    fn once_more(&mut self, start: Start) -> Slot {
        self.again += 1;
        Slot::Again(start.origin, start.again.expect("it is known how to make the call again"))
    }

    fn finish(&mut self, number: u64, outcome: Outcome, output: &mut Vec<u8>) {
        let index = (number - self.first) as usize;
        let slot = std::mem::replace(&mut self.slots[index], Slot::Held(Vec::new()));
        let Slot::Running(start) = slot else { panic!("call {number} ended twice") };
        self.costs -= small_cost(&start);
        if outcome == Some(Served::NeedsRoom) && start.again.is_some() {
            self.slots[index] = self.once_more(start);
            return;
        }
        if index > 0 {
            let mut held = Vec::new();
            self.encode(start.origin, outcome, &mut held);
            self.held_bytes += held.len();
            self.slots[index] = Slot::Held(held);
            return;
        }
        self.encode(start.origin, outcome, output);
        self.slots.pop_front();
        self.first += 1;
        while let Some(Slot::Held(held)) = self.slots.front() {
            output.extend_from_slice(held);
            self.held_bytes -= held.len();
            self.slots.pop_front();
            self.first += 1;
        }
    }

    fn append(&mut self, origin: Origin, outcome: Outcome, output: &mut Vec<u8>) {
        let (options, counters) = (self.options, self.counters);
        self.append_with(output, |output| encode(options, counters, origin, outcome, output));
    }

    /// Appends a reply after all others; directly to the output if no call is running.
    fn append_with(&mut self, output: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.slots.is_empty() {
            encode(output);
            return;
        }
        let mut held = Vec::new();
        encode(&mut held);
        self.held_bytes += held.len();
        self.slots.push_back(Slot::Held(held));
    }

    fn encode(&self, origin: Origin, outcome: Outcome, output: &mut Vec<u8>) {
        encode(self.options, self.counters, origin, outcome, output);
    }
}

fn small_cost(start: &Start) -> usize {
    if start.cost.is_large { 0 } else { start.cost.bytes }
}

/// Bytes of the rows of a reply with their overhead in the longer encoding; 0 for replies without
/// rows.
fn rows_bytes(reply: &ThriftReply) -> usize {
    const AROUND_ROW: usize = 15;
    let rows = match reply {
        ThriftReply::GetRange(reply) => &reply.key_values,
        ThriftReply::SnapshotGetRange(reply) => &reply.key_values,
        _ => return 0,
    };
    rows.iter().map(|row| row.key.len() + row.value.len() + AROUND_ROW).sum()
}

fn encode(
    options: &ThriftServerOptions,
    counters: &ThriftServerCounters,
    origin: Origin,
    outcome: Outcome,
    output: &mut Vec<u8>,
) {
    let Origin { method, encoding, sequence_id, one_way } = origin;
    let internal = |text: String| {
        tracing::error!(method = method.name(), "{text}");
        ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, text))
    };
    let reply = match outcome {
        None => {
            add(&counters.handler_panics, 1);
            internal(format!("{}: internal error: the handler panicked", method.name()))
        }
        Some(Served::Reply(reply)) if reply.method().is_some_and(|answered| answered != method) => {
            internal(format!("{}: internal error: answered as another method", method.name()))
        }
        Some(Served::Reply(reply)) => reply,
        Some(Served::NeedsRoom) => {
            internal(format!("{}: internal error: there was room for the longest reply", method.name()))
        }
    };
    if one_way {
        return;
    }
    let name = method.name().as_bytes();
    let start = output.len();
    // Reserves once, because a buffer that grows step by step ends up twice as large.
    output.reserve(rows_bytes(&reply));
    wire::encode_reply(output, encoding, name, sequence_id, &reply);
    let limit = options.reply_limit(encoding);
    let length = output.len() - start;
    if length > limit {
        add(&counters.oversized_replies, 1);
        output.truncate(start);
        let text = format!("{}: RESULT_TOO_LARGE: reply of {length} bytes, the limit is {limit}", method.name());
        let exception = ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, text));
        wire::encode_reply(output, encoding, name, sequence_id, &exception);
    }
}
