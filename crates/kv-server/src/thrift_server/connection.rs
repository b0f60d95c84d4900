//! One connection, from its first byte to its last: a state machine that a single task polls.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use kv_api::thrift::wire::{self, Encoding, IncomingCall, MessageKind, Scanner, WireError, WireLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::counters::add;
use super::memory_budget::{Cost, INPUT_BYTES, OWN_BYTES, OWN_INPUT_BYTES, Waiting, room_of_request, wait};
use super::pipeline::{Again, Origin, Pipeline, Start};
use super::shared::Shared;
use super::stranger::Stranger;
use super::{ApplicationErrorKind, CallTerms, ConnectionContext, Method, ThriftCall, ThriftException};
use crate::accepting::{ByteStream, Idleness, Incoming, STRANGERS_PATIENCE};
use crate::byte_budget::Reserved;

/// A read needs at least this much room in the buffer.
const LEAST_READ_BYTES: usize = 4 << 10;
/// The buffer of a connection with small requests grows up to this size while reads fill it.
const BUSY_INPUT_BYTES: usize = 64 << 10;
/// The written part of the output is removed once it is this long.
const CUT_BYTES: usize = 64 << 10;
/// Ready replies leave after this time or this many bytes, even if more calls are waiting to be
/// started.
const BATCH_TIME: Duration = Duration::from_micros(200);
const BATCH_BYTES: usize = 256 << 10;
/// How long a client that continues to send may take to read its last replies before the connection
/// is reset.
const LINGER: Duration = Duration::from_secs(2);
/// How often a connection whose client reads nothing checks whether others wait for its memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The timer's duration if no timeout applies.
const LONG_TIME: Duration = Duration::from_secs(3_600);

/// The reason why a connection ended.
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
pub(super) async fn serve<S: ByteStream>(shared: &Shared, context: &ConnectionContext, incoming: Incoming<S>) -> Ended {
    let Incoming { mut stream, arrival, idleness, end, .. } = incoming;
    let stranger = Stranger::new(shared, context, arrival, &end);
    let mut connection = Connection::new(shared, context, &mut stream, &idleness, stranger, end);
    let ended = std::future::poll_fn(|cx| connection.poll(cx)).await;
    drop(connection);
    match ended {
        Ended::Fault(_) => {}
        Ended::Refusal(_) => linger(stream).await,
        Ended::Timeout => add(&shared.counters.connections_timed_out, 1),
        // Its client continues to send requests.
        Ended::Shutdown if stream.has_unread_input() => linger(stream).await,
        Ended::Client | Ended::Shutdown => {
            let _ = stream.shutdown().await;
        }
    }
    ended
}

/// Discards what the client still sends, for a while. Closing a socket with unread input resets it,
/// and the client might never see the last replies, or the exception that explains the end.
pub(super) async fn linger(mut stream: impl ByteStream) {
    let throw_away = async {
        let _ = stream.shutdown().await;
        let mut waste = [0; 4096];
        while matches!(stream.read(&mut waste).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, throw_away).await;
}

/// The size up to which the input buffer may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum InputSize {
    Own,
    Medium,
    Largest,
}

/// The rest of the input after calls were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing, or the beginning of a message.
    Beginning,
    /// Messages that wait until a running call has ended or a reply has left.
    Waiting,
    /// Messages whose calls can start as soon as ready replies have left.
    Ready,
}

/// A decoded call that waits for memory for its reply.
struct Next {
    call: ThriftCall,
    start: Start,
    deadline: Instant,
}

struct Connection<'a, S> {
    shared: &'a Shared,
    context: &'a ConnectionContext,
    stream: &'a mut S,
    idleness: &'a Idleness,
    limits: WireLimits,
    scanner: Scanner,
    /// Bytes read; those before `consumed` have been processed.
    input: Vec<u8>,
    consumed: usize,
    input_size: InputSize,
    /// The reservation for an input buffer beyond [`InputSize::Own`] and for the requests in it.
    input_room: Option<Reserved>,
    input_waiting: Option<Waiting>,
    /// Whether the last read filled the buffer.
    was_filled: bool,
    /// Replies; those before `written` have been given to the stream.
    output: Vec<u8>,
    written: usize,
    /// Whether the stream has passed on everything that it was given. Plain TCP always has.
    is_flushed: bool,
    pipeline: Pipeline<'a>,
    next: Option<Next>,
    /// The reservation for small replies that are being made, held or unsent.
    small: Option<Reserved>,
    /// The reservation for one large reply, until it is sent.
    large: Option<Reserved>,
    /// The reservation that `next` waits for.
    small_waiting: Option<Waiting>,
    /// The reservation that `next` waits for, or the first call, which is to be made again.
    large_waiting: Option<Waiting>,
    /// Set when nothing more will be read; the connection ends once the last reply has left.
    ending: Option<Ended>,
    /// When the first bytes of an incomplete message were seen.
    partial_since: Option<Instant>,
    /// Since when the client has read nothing of the output.
    unsent_since: Option<Instant>,
    /// When this connection last checked whether others wait for its memory.
    looked_at: Option<Instant>,
    /// When a byte last moved.
    active_at: Instant,
    /// Fires at the next timeout or before it, because it is not reset for every message.
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    stranger: Stranger,
}

impl<'a, S: ByteStream> Connection<'a, S> {
    fn new(
        shared: &'a Shared,
        context: &'a ConnectionContext,
        stream: &'a mut S,
        idleness: &'a Idleness,
        stranger: Stranger,
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
            is_flushed: true,
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
            stranger,
            shutdown: Box::pin(shutdown.cancelled_owned()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.ending.is_none() && self.shutdown.as_mut().poll(cx).is_ready() {
            self.ending = Some(Ended::Shutdown);
            self.context.hurry.signal();
            self.next = None;
            (self.small_waiting, self.large_waiting) = (None, None);
        }
        loop {
            self.stranger.look(self.shared, self.context);
            let left = self.start_calls(cx);
            let again = self.start_again(cx);
            // This comes after the starts, so that pending calls register their wakers.
            let finished = self.pipeline.poll(cx, &mut self.output);
            let written = match self.write(cx) {
                Ok(written) => written,
                Err(error) => return Poll::Ready(Ended::Fault(error)),
            };
            self.give_back();
            if self.pipeline.is_empty()
                && self.is_all_sent()
                && let Some(ended) = self.ending.take()
            {
                return Poll::Ready(ended);
            }
            // No read is needed while the buffer holds complete messages, and the end of the input
            // must not be seen before they are processed.
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

    /// Whether every request is answered and no new one has begun to arrive.
    fn is_idle(&self) -> bool {
        self.pipeline.is_empty() && self.is_all_sent() && self.next.is_none() && self.consumed == self.input.len()
    }

    fn is_all_sent(&self) -> bool {
        self.output.is_empty() && self.is_flushed
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

    /// Starts the calls whose messages are complete. Stops early when the batch should be flushed.
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
                    let pending = self.input.len() - self.consumed;
                    if let Some(error) = self.stranger.refuses(self.shared, self.context, pending) {
                        self.refuse_rest(error, self.input.len());
                        continue;
                    }
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
        // The rest of the buffer waits for this server, not for the client.
        self.partial_since = None;
        if self.consumed < self.input.len() { Left::Waiting } else { Left::Beginning }
    }

    /// Decodes a message. Its call becomes `next`.
    fn take_call(&mut self, envelope: wire::Envelope, now: Instant) {
        let message = &self.input[self.consumed..self.consumed + envelope.end];
        let encoding = envelope.encoding;
        let IncomingCall { name, sequence_id, one_way, call } = match wire::decode_call(message, encoding, self.limits)
        {
            Ok(call) => call,
            Err(error) => return self.refuse_rest(error, self.consumed + envelope.end),
        };
        self.consumed += envelope.end;
        if !self.pipeline.is_empty() {
            self.context.hurry.signal();
        }
        match call {
            Ok(call) => {
                let origin = Origin { method: call.method(), encoding, sequence_id, one_way };
                let options = &self.shared.options;
                let input = match call.method() {
                    // It may wait for long; the hub bounds the keys of all that do.
                    Method::PollChanges | Method::WatchKeys => None,
                    _ => room_of_request(&mut self.input_room, envelope.end, self.input.capacity()),
                };
                let reply_limit = options.reply_limit(encoding);
                let cost = Cost::of(&call, envelope.end, input.is_some(), reply_limit, options);
                let deadline = now + Duration::from_millis(options.request_timeout_ms);
                let again = Again::after(&call, cost, deadline, reply_limit);
                self.next = Some(Next { call, start: Start { origin, cost, again, _input: input }, deadline });
            }
            Err(exception) => {
                add(&self.shared.counters.protocol_errors, 1);
                tracing::debug!(peer = %self.context.peer(), %exception, "a message is invalid");
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

    /// Makes the first call again, if it had too little memory for its reply, once there is enough.
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

    /// Reserves the memory that a call needs, and returns whether it may start. If not, the call
    /// waits: for this connection's own running calls, or its turn in the shared budget.
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
            // It fits without a reservation, so the pending one must not arrive later.
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
        // A waiter must hold nothing of the same budget. The running calls will end and wake this
        // task.
        if self.small.is_some() {
            return false;
        }
        self.small = wait(&mut self.small_waiting, pool, missing, cx);
        self.small.is_some()
    }

    fn admit_large(&mut self, cost: Cost, cx: &mut Context<'_>) -> bool {
        // The client has not read the previous large reply yet.
        if self.large.is_some() {
            return false;
        }
        self.large = wait(&mut self.large_waiting, &self.shared.pools.large_replies, cost.bytes, cx);
        self.large.is_some()
    }

    fn unsent(&self) -> usize {
        self.output.len() - self.written
    }

    /// Bytes of small replies: all except those reserved for a large reply.
    fn small_bytes(&self) -> usize {
        let large = self.large.as_ref().map_or(0, Reserved::bytes);
        self.pipeline.costs() + self.pipeline.held_bytes() + self.unsent().saturating_sub(large)
    }

    /// Releases reservations that are no longer needed.
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

    /// Answers the present message, which ends at `end` at the latest, if its header can be read,
    /// and closes: the beginning of the next message is unknown.
    fn refuse_rest(&mut self, error: WireError, end: usize) {
        add(&self.shared.counters.protocol_errors, 1);
        tracing::debug!(peer = %self.context.peer(), %error, "closing the connection: its input is invalid");
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

    /// Reads from the socket as much as fits the buffer. Returns whether anything arrived, the end
    /// of the stream included.
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
            Poll::Ready(Ok(0)) => self.end_of_input(),
            Poll::Ready(Ok(length)) => {
                self.active_at = Instant::now();
                self.was_filled = length == spare;
                add(&self.shared.counters.bytes_in, length as u64);
            }
            // Calls that were started are still answered, if the socket accepts the replies.
            Poll::Ready(Err(_)) => self.end_of_input(),
        }
        true
    }

    /// The client sends nothing more; perhaps it is gone. Nothing waits for it any longer.
    fn end_of_input(&mut self) {
        self.ending = Some(Ended::Client);
        self.context.hurry.signal();
    }

    /// Removes consumed bytes and makes room in the buffer, after a reservation if necessary. The
    /// buffer grows with the bytes received, never with a declared size.
    fn prepare_input(&mut self, cx: &mut Context<'_>) -> bool {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let length = self.input.len();
        if length >= self.most_input() && !self.enlarge_input(cx) {
            // The wait for memory does not count against the client's timeout.
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
            // The scanner refuses longer messages.
            InputSize::Largest => usize::MAX,
        }
    }

    /// Reserves memory for a longer request, both as received and decoded.
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

    /// Shrinks the buffer of a connection that waits for its client, even if a short message has
    /// begun. Otherwise a client that always begins another message would keep the memory of a long
    /// one for ever.
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

    /// Writes as much as the socket accepts. Returns whether anything was written.
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
                    self.note_unsent(any);
                    return Ok(any);
                }
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(length)) => {
                    self.written += length;
                    (any, self.is_flushed) = (true, false);
                    self.active_at = Instant::now();
                    add(&self.shared.counters.bytes_out, length as u64);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        self.written = 0;
        self.output.clear();
        self.output.shrink_to(OWN_BYTES);
        if !self.is_flushed {
            self.is_flushed = Pin::new(&mut *self.stream).poll_flush(cx)?.is_ready();
        }
        match self.is_flushed {
            true => self.unsent_since = None,
            false => self.note_unsent(any),
        }
        Ok(any)
    }

    /// The client has not read everything, though perhaps something.
    fn note_unsent(&mut self, any: bool) {
        if any {
            self.unsent_since = None;
        }
        self.unsent_since.get_or_insert_with(Instant::now);
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

    /// When to check whether others wait for the memory of replies that this client does not read.
    fn next_look(&self) -> Option<Instant> {
        let first = self.unsent_since? + self.spared();
        Some(self.looked_at.map_or(first, |at| first.max(at + LOOK_INTERVAL)))
    }

    fn spared(&self) -> Duration {
        Duration::from_millis(self.shared.options.spared_idle_ms)
    }

    /// Whether others wait for memory that this connection holds.
    fn is_pressed(&self) -> bool {
        let pools = &self.shared.pools;
        (self.large.is_some() && pools.large_replies.is_short()) || (self.small.is_some() && pools.replies.is_short())
    }

    /// When the connection times out, if the client is the one to act.
    fn due(&self) -> Option<Instant> {
        let options = &self.shared.options;
        let after = |since: Option<Instant>, timeout: Option<Duration>| Some(since? + timeout?);
        let of_stranger = self.stranger.is_one().then_some(STRANGERS_PATIENCE);
        let partial = after(self.partial_since, of_stranger.or(options.message_timeout()));
        let patience = options.write_timeout();
        let patience = if self.is_pressed() { patience.into_iter().chain([self.spared()]).min() } else { patience };
        let unsent = after(self.unsent_since, patience);
        let idle = after(self.is_idle().then_some(self.active_at), of_stranger.or(options.idle_timeout()));
        [partial, unsent, idle].into_iter().flatten().min()
    }
}
