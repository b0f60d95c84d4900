//! One connection, from its first byte to its last: a state machine that a single task polls.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use kv_api::thrift::wire::{self, Encoding, IncomingCall, MessageKind, Scanner, WireError, WireLimits};
use rustix::io::ioctl_fionread;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::counters::add;
use super::listener::Shared;
use super::pipeline::{Again, Origin, Pipeline, Start};
use super::room::{Cost, INPUT_BYTES, OWN_BYTES, OWN_INPUT_BYTES, Waiting, room_of_request, wait};
use super::{ApplicationErrorKind, CallTerms, ConnectionContext, ThriftCall, ThriftException};
use crate::accepting::{Idleness, Incoming};
use crate::budget::Reserved;

/// A buffer is read into when it has room for so much.
const LEAST_READ_BYTES: usize = 4 << 10;
/// A buffer of small requests grows up to this while reads fill it.
const BUSY_INPUT_BYTES: usize = 64 << 10;
/// What of the output was written is cut off once it is so much.
const CUT_BYTES: usize = 64 << 10;
/// Ready replies leave after so much time or so many bytes, even when more calls are waiting to be started.
const BATCH_TIME: Duration = Duration::from_micros(200);
const BATCH_BYTES: usize = 256 << 10;
/// How long to wait for a client that goes on sending to take its last replies before the connection is reset.
const LINGER: Duration = Duration::from_secs(2);
/// How often a connection whose client takes nothing looks whether others wait for its memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What to wait for when nothing times out.
const LONG_TIME: Duration = Duration::from_secs(3_600);

/// What ended a connection.
#[derive(Debug)]
#[allow(dead_code, reason = "the reasons are logged through Debug")]
pub(super) enum Ended {
    Client,
    /// The server stops, or another connection needs the place of this one.
    Shutdown,
    Timeout,
    Refusal(WireError),
    Fault(io::Error),
}

/// Serves one connection until it ends.
pub(super) async fn serve(shared: &Shared, context: &ConnectionContext, incoming: Incoming) -> Ended {
    let Incoming { mut stream, idleness, end, .. } = incoming;
    let mut connection = Connection::new(shared, context, &mut stream, &idleness, end);
    let ended = std::future::poll_fn(|cx| connection.poll(cx)).await;
    drop(connection);
    match ended {
        Ended::Fault(_) => {}
        Ended::Refusal(_) => linger(stream).await,
        Ended::Timeout => add(&shared.counters.connections_timed_out, 1),
        // Its client goes on asking.
        Ended::Shutdown if ioctl_fionread(&stream).is_ok_and(|unread| unread > 0) => linger(stream).await,
        Ended::Client | Ended::Shutdown => {
            let _ = stream.shutdown().await;
        }
    }
    ended
}

/// Closing a socket that has unread input resets it, and the client might never see the exception that explains why, or
/// the last replies. So what it still sends is thrown away for a while.
async fn linger(mut stream: TcpStream) {
    let throw_away = async {
        let _ = stream.shutdown().await;
        let mut waste = [0; 4096];
        while matches!(stream.read(&mut waste).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, throw_away).await;
}

/// What the input buffer may grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum InputSize {
    Own,
    Medium,
    Largest,
}

/// What is left of the input when calls were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing, or the beginning of a message: more has to come.
    Beginning,
    /// Messages that wait until something in hand has ended or left.
    Waiting,
    /// Messages that can be started as soon as ready replies have left.
    Ready,
}

/// A call that is decoded and waits for room for its reply.
struct Next {
    call: ThriftCall,
    start: Start,
    deadline: Instant,
}

struct Connection<'a> {
    shared: &'a Shared,
    context: &'a ConnectionContext,
    stream: &'a mut TcpStream,
    idleness: &'a Idleness,
    limits: WireLimits,
    scanner: Scanner,
    /// Bytes read; those before `consumed` are done with.
    input: Vec<u8>,
    consumed: usize,
    input_size: InputSize,
    /// For an input buffer beyond [`InputSize::Own`], and the requests in it.
    input_room: Option<Reserved>,
    input_waiting: Option<Waiting>,
    /// The last read filled the buffer.
    was_filled: bool,
    /// Replies; those before `written` have been sent.
    output: Vec<u8>,
    written: usize,
    pipeline: Pipeline<'a>,
    next: Option<Next>,
    /// For small replies, running, held and unsent.
    small: Option<Reserved>,
    /// For one large reply, until it is sent.
    large: Option<Reserved>,
    /// For `next`.
    small_waiting: Option<Waiting>,
    /// For `next`, or for the first call, which is to be made again.
    large_waiting: Option<Waiting>,
    /// Set when nothing more is to be read; the connection ends once the last reply has left.
    ending: Option<Ended>,
    /// When the first bytes of an incomplete message were seen.
    partial_since: Option<Instant>,
    /// Since when the client has taken nothing of the output.
    unsent_since: Option<Instant>,
    /// When it was last looked whether others wait for what this connection holds.
    looked_at: Option<Instant>,
    /// When a byte last moved.
    active_at: Instant,
    /// Fires at the nearest timeout or before; it is not moved for every message.
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<'a> Connection<'a> {
    fn new(
        shared: &'a Shared,
        context: &'a ConnectionContext,
        stream: &'a mut TcpStream,
        idleness: &'a Idleness,
        shutdown: CancellationToken,
    ) -> Self {
        let limits = shared.options.wire_limits();
        let timeout = shared.options.idle_timeout().unwrap_or(LONG_TIME);
        Connection {
            shared,
            context,
            stream,
            idleness,
            limits,
            scanner: Scanner::new(limits),
            input: Vec::new(),
            consumed: 0,
            input_size: InputSize::Own,
            input_room: None,
            input_waiting: None,
            was_filled: false,
            output: Vec::new(),
            written: 0,
            pipeline: Pipeline::new(&shared.options, &shared.counters),
            next: None,
            small: None,
            large: None,
            small_waiting: None,
            large_waiting: None,
            ending: None,
            partial_since: None,
            unsent_since: None,
            looked_at: None,
            active_at: Instant::now(),
            timer: Box::pin(tokio::time::sleep(timeout)),
            shutdown: Box::pin(shutdown.cancelled_owned()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.ending.is_none() && self.shutdown.as_mut().poll(cx).is_ready() {
            self.ending = Some(Ended::Shutdown);
            self.next = None;
            (self.small_waiting, self.large_waiting) = (None, None);
        }
        loop {
            let left = self.start_calls(cx);
            let again = self.start_again(cx);
            // After the starts, so that calls that are pending leave their wakers.
            let finished = self.pipeline.poll(cx, &mut self.output);
            let written = match self.write(cx) {
                Ok(written) => written,
                Err(error) => return Poll::Ready(Ended::Fault(error)),
            };
            self.give_back();
            if self.pipeline.is_empty()
                && self.output.is_empty()
                && let Some(ended) = self.ending.take()
            {
                return Poll::Ready(ended);
            }
            // With complete messages still in the buffer there is no need to read, and the end of the input must not be
            // met before them.
            let goes_on = left == Left::Ready || again || (left == Left::Beginning && self.read(cx));
            if !(goes_on || written || finished) {
                break;
            }
        }
        match self.is_idle() {
            true => self.idleness.idle_since(self.active_at),
            false => self.idleness.busy(),
        }
        self.poll_timeouts(cx)
    }

    /// Nothing was asked that is not answered, and nothing has begun to arrive.
    fn is_idle(&self) -> bool {
        self.pipeline.is_empty() && self.output.is_empty() && self.next.is_none() && self.consumed == self.input.len()
    }

    /// Back-pressure: whether another call may be started, or read.
    fn has_room(&self) -> bool {
        let options = &self.shared.options;
        let waiting = self.unsent() + self.pipeline.held_bytes();
        self.ending.is_none()
            && self.next.is_none()
            && !self.pipeline.has_again()
            && self.pipeline.len() < options.max_pipelined
            && waiting < options.max_buffered_reply_bytes
    }

    /// Starts the calls whose messages are complete, until the batch should be flushed.
    fn start_calls(&mut self, cx: &mut Context<'_>) -> Left {
        let mut batch_began = None;
        loop {
            if let Some(next) = self.next.take() {
                if !self.admit(next.start.cost, cx) {
                    self.next = Some(next);
                    break;
                }
                self.launch(next);
            }
            if !self.has_room() || self.consumed >= self.input.len() {
                break;
            }
            match self.scanner.scan(&self.input[self.consumed..]) {
                Ok(None) => {
                    self.partial_since.get_or_insert_with(Instant::now);
                    return Left::Beginning;
                }
                Ok(Some(envelope)) => {
                    let now = Instant::now();
                    let began = batch_began.replace(batch_began.unwrap_or(now));
                    if began.is_some_and(|began| now - began > BATCH_TIME || self.output.len() > BATCH_BYTES) {
                        return Left::Ready;
                    }
                    self.partial_since = None;
                    self.take_call(envelope, now);
                }
                Err(error) => self.refuse_rest(error, self.input.len()),
            }
        }
        // Whatever is left waits for us, not for the client.
        self.partial_since = None;
        if self.consumed < self.input.len() { Left::Waiting } else { Left::Beginning }
    }

    /// Decodes a message. What it asks for is `next`.
    fn take_call(&mut self, envelope: wire::Envelope, now: Instant) {
        let message = &self.input[self.consumed..self.consumed + envelope.end];
        let encoding = envelope.encoding;
        let IncomingCall { name, sequence_id, one_way, call } = match wire::decode_call(message, encoding, self.limits)
        {
            Ok(call) => call,
            Err(error) => return self.refuse_rest(error, self.consumed + envelope.end),
        };
        self.consumed += envelope.end;
        match call {
            Ok(call) => {
                let origin = Origin { method: call.method(), encoding, sequence_id, one_way };
                let options = &self.shared.options;
                let input = room_of_request(&mut self.input_room, envelope.end, self.input.capacity());
                let reply_limit = options.reply_limit(encoding);
                let cost = Cost::of(&call, envelope.end, input.is_some(), reply_limit, options);
                let deadline = now + Duration::from_millis(options.request_timeout_ms);
                let again = Again::after(&call, cost, deadline, reply_limit);
                self.next = Some(Next { call, start: Start { origin, cost, again, _input: input }, deadline });
            }
            Err(exception) => {
                add(&self.shared.counters.protocol_errors, 1);
                tracing::debug!(peer = %self.context.peer, %exception, "a message could not be understood");
                if !one_way {
                    self.pipeline.refuse(encoding, name, sequence_id, exception, &mut self.output);
                }
            }
        }
    }

    fn launch(&mut self, next: Next) {
        let Next { call, start, deadline } = next;
        let max_reply_bytes = self.shared.options.reply_limit(start.origin.encoding);
        let terms = CallTerms { deadline, max_reply_bytes, room_bytes: start.cost.room_bytes };
        let (service, context) = (&self.shared.service, self.context);
        self.pipeline.start(start, || service.call(context, call, terms), &mut self.output);
    }

    /// Makes the first call again that had too little room, once there is room for its reply.
    fn start_again(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(cost) = self.pipeline.first_again() else { return false };
        if !self.admit_large(cost, cx) {
            return false;
        }
        let (service, context) = (&self.shared.service, self.context);
        self.pipeline.start_again(|again| {
            let Again { call, deadline, cost, reply_limit } = again;
            let terms = CallTerms { deadline, max_reply_bytes: reply_limit, room_bytes: cost.room_bytes };
            service.call(context, call, terms)
        });
        true
    }

    /// Whether a call may start: what it needs is reserved now. If not, it waits: for what this connection has in hand, or
    /// in turn for what others have.
    fn admit(&mut self, cost: Cost, cx: &mut Context<'_>) -> bool {
        if cost.is_large {
            return self.pipeline.is_empty() && self.admit_large(cost, cx);
        }
        let own = self.small_bytes();
        if own > 0 && own + cost.bytes > self.shared.options.max_buffered_reply_bytes {
            return false;
        }
        let reserved = self.small.as_ref().map_or(0, Reserved::bytes);
        let missing = (own + cost.bytes).saturating_sub(OWN_BYTES + reserved);
        if missing == 0 {
            // It fits after all: what it waited for must not come later, when nobody asks for it.
            self.small_waiting = None;
            return true;
        }
        let pool = &self.shared.pools.replies;
        if self.small_waiting.is_none()
            && let Some(more) = pool.try_reserve(missing)
        {
            match &mut self.small {
                Some(small) => small.merge(more),
                None => self.small = Some(more),
            }
            return true;
        }
        // Who waits holds nothing of what is waited for. What is in hand will end, and wakes us.
        if self.small.is_some() {
            return false;
        }
        self.small = wait(&mut self.small_waiting, pool, missing, cx);
        self.small.is_some()
    }

    fn admit_large(&mut self, cost: Cost, cx: &mut Context<'_>) -> bool {
        // The one before is not yet taken by the client.
        if self.large.is_some() {
            return false;
        }
        self.large = wait(&mut self.large_waiting, &self.shared.pools.large_replies, cost.bytes, cx);
        self.large.is_some()
    }

    fn unsent(&self) -> usize {
        self.output.len() - self.written
    }

    /// What counts as small: all but what is reserved for a large reply.
    fn small_bytes(&self) -> usize {
        let large = self.large.as_ref().map_or(0, Reserved::bytes);
        self.pipeline.costs() + self.pipeline.held_bytes() + self.unsent().saturating_sub(large)
    }

    /// Gives back what is not needed any more.
    fn give_back(&mut self) {
        if self.large.is_some() && !self.pipeline.is_large_running() {
            match self.unsent() {
                0 => self.large = None,
                unsent => self.large.iter_mut().for_each(|large| large.shrink_to(unsent)),
            }
        }
        if self.small.is_some() {
            match self.small_bytes().saturating_sub(OWN_BYTES) {
                0 => self.small = None,
                needed => self.small.iter_mut().for_each(|small| small.shrink_to(needed)),
            }
        }
    }

    /// Nobody knows where the next message would begin: answer this one, which reaches no further than `end`, if its header
    /// can be read, and close.
    fn refuse_rest(&mut self, error: WireError, end: usize) {
        add(&self.shared.counters.protocol_errors, 1);
        tracing::debug!(peer = %self.context.peer, %error, "closing the connection: its input is not understood");
        let rest = &self.input[self.consumed..end];
        let header = Encoding::of_first_bytes(rest)
            .and_then(|encoding| wire::read_header(rest, encoding).ok().map(|header| (encoding, header)));
        if let Some((encoding, header)) = header
            && header.kind == MessageKind::Call
        {
            let exception = ThriftException::new(ApplicationErrorKind::ProtocolError, error.to_string());
            self.pipeline.refuse(encoding, header.name, header.sequence_id, exception, &mut self.output);
        }
        self.ending = Some(Ended::Refusal(error));
    }

    /// Reads what the socket holds, as far as the buffer reaches. Whether anything came, the end included.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.has_room() || !self.prepare_input(cx) {
            return false;
        }
        let spare = self.input.capacity() - self.input.len();
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match read {
            Poll::Pending => {
                self.shrink_input();
                return false;
            }
            Poll::Ready(Ok(0)) => self.ending = Some(Ended::Client),
            Poll::Ready(Ok(length)) => {
                self.active_at = Instant::now();
                self.was_filled = length == spare;
                add(&self.shared.counters.bytes_in, length as u64);
            }
            // What was started is still answered, as far as the socket takes it.
            Poll::Ready(Err(_)) => self.ending = Some(Ended::Client),
        }
        true
    }

    /// Drops what is consumed and makes room, if need be once it is reserved. The buffer grows with what has come, never
    /// with what was declared.
    fn prepare_input(&mut self, cx: &mut Context<'_>) -> bool {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let length = self.input.len();
        if length >= self.most_input() && !self.enlarge_input(cx) {
            // The client is not to blame for the time that this takes.
            self.partial_since = None;
            return false;
        }
        let mut wanted = length + LEAST_READ_BYTES.max(length);
        if self.was_filled && length < LEAST_READ_BYTES && self.input_size != InputSize::Largest {
            wanted = wanted.max((2 * self.input.capacity()).min(BUSY_INPUT_BYTES));
            if wanted > self.most_input()
                && let Some(room) = self.shared.pools.input.try_reserve(2 * INPUT_BYTES)
            {
                (self.input_size, self.input_room) = (InputSize::Medium, Some(room));
            }
        }
        let wanted = wanted.max(OWN_INPUT_BYTES).min(self.most_input());
        if self.input.capacity() < wanted && self.input.capacity() - length < LEAST_READ_BYTES
            || self.was_filled && self.input.capacity() < wanted
        {
            self.input.reserve_exact(wanted - length);
        }
        true
    }

    fn most_input(&self) -> usize {
        match self.input_size {
            InputSize::Own => OWN_INPUT_BYTES,
            InputSize::Medium => INPUT_BYTES,
            // What is longer the scanner has refused.
            InputSize::Largest => usize::MAX,
        }
    }

    /// Reserves room for a longer request: as it comes, and decoded.
    fn enlarge_input(&mut self, cx: &mut Context<'_>) -> bool {
        let pools = &self.shared.pools;
        let (size, pool, bytes) = match self.input_size {
            InputSize::Own => (InputSize::Medium, &pools.input, 2 * INPUT_BYTES),
            _ => (InputSize::Largest, &pools.large_input, 2 * self.shared.options.max_message_bytes),
        };
        let Some(room) = wait(&mut self.input_waiting, pool, bytes, cx) else { return false };
        (self.input_size, self.input_room) = (size, Some(room));
        true
    }

    /// A connection that waits for its client keeps little, also where a short message has begun: else one that always
    /// begins another would keep the memory of a long one for ever.
    fn shrink_input(&mut self) {
        self.was_filled = false;
        if self.input.len() < OWN_INPUT_BYTES && self.input_size != InputSize::Own {
            self.input.shrink_to(OWN_INPUT_BYTES);
            (self.input_size, self.input_room) = (InputSize::Own, None);
        }
        let pools = &self.shared.pools;
        if self.input.len() < INPUT_BYTES
            && self.input_size == InputSize::Largest
            && pools.large_input.is_short()
            && let Some(room) = pools.input.try_reserve(2 * INPUT_BYTES)
        {
            self.input.shrink_to(INPUT_BYTES);
            (self.input_size, self.input_room) = (InputSize::Medium, Some(room));
        }
    }

    /// Writes as much as the socket takes. Whether anything has left.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut any = false;
        while self.written < self.output.len() {
            match Pin::new(&mut *self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Pending => {
                    if self.written > CUT_BYTES && self.written > self.output.len() / 2 {
                        self.output.drain(..self.written);
                        self.output.shrink_to(2 * self.output.len());
                        self.written = 0;
                    }
                    if any {
                        self.unsent_since = None;
                    }
                    self.unsent_since.get_or_insert_with(Instant::now);
                    return Ok(any);
                }
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(length)) => {
                    self.written += length;
                    any = true;
                    self.active_at = Instant::now();
                    add(&self.shared.counters.bytes_out, length as u64);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        self.unsent_since = None;
        self.written = 0;
        self.output.clear();
        self.output.shrink_to(OWN_BYTES);
        Ok(any)
    }

    fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let due = self.due();
            let wake = due.into_iter().chain(self.next_look()).min();
            if let Some(wake) = wake
                && wake < self.timer.deadline()
            {
                self.timer.as_mut().reset(wake);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                return Poll::Ready(Ended::Timeout);
            }
            self.looked_at = Some(now);
            let wake = due.into_iter().chain(self.next_look()).min();
            self.timer.as_mut().reset(wake.unwrap_or(now + LONG_TIME));
        }
    }

    /// When to look whether somebody waits for the memory of replies that this client does not take.
    fn next_look(&self) -> Option<Instant> {
        let first = self.unsent_since? + self.spared();
        Some(self.looked_at.map_or(first, |at| first.max(at + LOOK_INTERVAL)))
    }

    fn spared(&self) -> Duration {
        Duration::from_millis(self.shared.options.spared_idle_ms)
    }

    /// Whether others wait for what this connection holds.
    fn is_pressed(&self) -> bool {
        let pools = &self.shared.pools;
        (self.large.is_some() && pools.large_replies.is_short()) || (self.small.is_some() && pools.replies.is_short())
    }

    /// When the client will have been silent for too long, if it is for the client to act.
    fn due(&self) -> Option<Instant> {
        let options = &self.shared.options;
        let after = |since: Option<Instant>, timeout: Option<Duration>| Some(since? + timeout?);
        let partial = after(self.partial_since, options.message_timeout());
        let patience = options.write_timeout();
        let patience = if self.is_pressed() { patience.into_iter().chain([self.spared()]).min() } else { patience };
        let unsent = after(self.unsent_since, patience);
        let idle = after(self.is_idle().then_some(self.active_at), options.idle_timeout());
        [partial, unsent, idle].into_iter().flatten().min()
    }
}
