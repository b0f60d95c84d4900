//! The calls of one connection: started in order, running together, answered in order.
//!
//! Invariants:
//! - `slots` are the unanswered calls, oldest first; the front one is always running, because a finished front is encoded
//!   into the output at once;
//! - each running slot has exactly one future in `running`, under its number;
//! - `held_bytes` is the sum of the lengths of the held replies.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, StreamExt};
use kv_api::thrift::wire::{self, Encoding};

use super::counters::add;
use super::{ApplicationErrorKind, Method, ThriftException, ThriftReply, ThriftServerCounters, ThriftServerOptions};

type CallFuture<'a> = Pin<Box<dyn Future<Output = ThriftReply> + Send + 'a>>;

/// What a call's reply must carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub method: Method,
    pub encoding: Encoding,
    pub sequence_id: i32,
    /// No reply is wanted.
    pub one_way: bool,
}

enum Slot {
    Running(Origin),
    /// Encoded, but an earlier call is still running.
    Held(Vec<u8>),
}

/// `None`: the handler panicked.
type Outcome = Option<ThriftReply>;

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
}

impl<'a> Pipeline<'a> {
    pub fn new(options: &'a ThriftServerOptions, counters: &'a ThriftServerCounters) -> Self {
        Pipeline {
            options,
            counters,
            slots: VecDeque::new(),
            first: 0,
            running: FuturesUnordered::new(),
            held_bytes: 0,
        }
    }

    /// Unanswered calls.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of replies that wait for an earlier call.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Makes a call and polls it once. If that suffices it costs no bookkeeping.
    ///
    /// The first poll is not asked to wake anybody: a call that stays pending is polled once more when it has been filed,
    /// and leaves its waker then.
    pub fn start(&mut self, origin: Origin, call: impl FnOnce() -> CallFuture<'a>, output: &mut Vec<u8>) {
        let started = catch_unwind(AssertUnwindSafe(|| {
            let mut future = call();
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(reply) => Ok(reply),
                Poll::Pending => Err(future),
            }
        }));
        match started {
            Ok(Err(future)) => {
                let number = self.first + self.slots.len() as u64;
                self.slots.push_back(Slot::Running(origin));
                self.running.push(Running { number, future });
            }
            Ok(Ok(reply)) => self.append(origin, Some(reply), output),
            Err(_) => self.append(origin, None, output),
        }
    }

    /// Answers a message that never became a call, in its turn.
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

    /// Collects the calls that have ended and writes what may leave into `output`. Must be polled after each start.
    pub fn poll(&mut self, cx: &mut Context<'_>, output: &mut Vec<u8>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((number, outcome))) = self.running.poll_next_unpin(cx) {
            self.finish(number, outcome, output);
            any = true;
        }
        any
    }

    fn finish(&mut self, number: u64, outcome: Outcome, output: &mut Vec<u8>) {
        let index = (number - self.first) as usize;
        let Slot::Running(origin) = self.slots[index] else { panic!("call {number} ended twice") };
        if index > 0 {
            let mut held = Vec::new();
            self.encode(origin, outcome, &mut held);
            self.held_bytes += held.len();
            self.slots[index] = Slot::Held(held);
            return;
        }
        self.encode(origin, outcome, output);
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

    /// Adds a reply behind all others: straight into the output if nothing is running.
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
        Some(reply) if reply.method().is_some_and(|answered| answered != method) => {
            internal(format!("{}: internal error: answered as another method", method.name()))
        }
        Some(reply) => reply,
    };
    if one_way {
        return;
    }
    let name = method.name().as_bytes();
    let start = output.len();
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
