//! One connection, from its first byte to its last: a state machine that a single task polls.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use kv_api::thrift::wire::{self, Encoding, IncomingCall, MessageKind, Scanner, WireError, WireLimits};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::counters::add;
use super::listener::Shared;
use super::pipeline::{Origin, Pipeline};
use super::{ApplicationErrorKind, CallTerms, ConnectionContext, ThriftException};

/// A buffer begins at this size and keeps at most `BUFFER_KEPT_BYTES` when it is empty.
const BUFFER_FIRST_BYTES: usize = 8 << 10;
const BUFFER_KEPT_BYTES: usize = 64 << 10;
/// Ready replies leave after so much time or so many bytes, even when more calls are waiting to be started.
const BATCH_TIME: Duration = Duration::from_micros(200);
const BATCH_BYTES: usize = 256 << 10;
/// How long to wait for a refused client to take its exception before the connection is reset.
const LINGER: Duration = Duration::from_secs(2);
/// What to wait for when nothing times out.
const LONG_TIME: Duration = Duration::from_secs(3_600);

/// What ended a connection.
#[derive(Debug)]
#[allow(dead_code, reason = "the reasons are logged through Debug")]
pub(super) enum Ended {
    Client,
    Shutdown,
    Timeout,
    Refusal(WireError),
    Fault(io::Error),
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    shared: &Shared,
    context: &ConnectionContext,
    mut stream: TcpStream,
    shutdown: CancellationToken,
) -> Ended {
    let mut connection = Connection::new(shared, context, &mut stream, shutdown);
    let ended = std::future::poll_fn(|cx| connection.poll(cx)).await;
    drop(connection);
    match ended {
        Ended::Fault(_) => {}
        Ended::Refusal(_) => linger(stream).await,
        Ended::Timeout => add(&shared.counters.connections_timed_out, 1),
        Ended::Client | Ended::Shutdown => {
            let _ = stream.shutdown().await;
        }
    }
    ended
}

/// Closing a socket that has unread input resets it, and the client might never see the exception that explains why. So
/// what it still sends is thrown away for a while.
async fn linger(mut stream: TcpStream) {
    let throw_away = async {
        let _ = stream.shutdown().await;
        let mut waste = [0; 4096];
        while matches!(stream.read(&mut waste).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, throw_away).await;
}

struct Connection<'a> {
    shared: &'a Shared,
    context: &'a ConnectionContext,
    stream: &'a mut TcpStream,
    limits: WireLimits,
    scanner: Scanner,
    /// Bytes read; those before `consumed` are done with.
    input: Vec<u8>,
    consumed: usize,
    /// Replies; those before `written` have been sent.
    output: Vec<u8>,
    written: usize,
    pipeline: Pipeline<'a>,
    /// Set when nothing more is to be read; the connection ends once the last reply has left.
    ending: Option<Ended>,
    /// When the first bytes of an incomplete message were seen.
    partial_since: Option<Instant>,
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
        shutdown: CancellationToken,
    ) -> Self {
        let limits = shared.options.wire_limits();
        let timeout = shared.options.idle_timeout().unwrap_or(LONG_TIME);
        Connection {
            shared,
            context,
            stream,
            limits,
            scanner: Scanner::new(limits),
            input: Vec::new(),
            consumed: 0,
            output: Vec::new(),
            written: 0,
            pipeline: Pipeline::new(&shared.options, &shared.counters),
            ending: None,
            partial_since: None,
            active_at: Instant::now(),
            timer: Box::pin(tokio::time::sleep(timeout)),
            shutdown: Box::pin(shutdown.cancelled_owned()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.ending.is_none() && self.shutdown.as_mut().poll(cx).is_ready() {
            self.ending = Some(Ended::Shutdown);
        }
        loop {
            let more = self.start_calls();
            // After the starts, so that calls that are pending leave their wakers.
            let finished = self.pipeline.poll(cx, &mut self.output);
            let written = match self.write(cx) {
                Ok(written) => written,
                Err(error) => return Poll::Ready(Ended::Fault(error)),
            };
            if self.pipeline.is_empty()
                && self.output.is_empty()
                && let Some(ended) = self.ending.take()
            {
                return Poll::Ready(ended);
            }
            // With complete messages still in the buffer there is no need to read.
            if !(more || self.read(cx) || written || finished) {
                break;
            }
        }
        self.poll_timeouts(cx)
    }

    /// Back-pressure: whether another call may be started, or read.
    fn has_room(&self) -> bool {
        let options = &self.shared.options;
        let waiting = self.output.len() - self.written + self.pipeline.held_bytes();
        self.ending.is_none()
            && self.pipeline.len() < options.max_pipelined
            && waiting < options.max_buffered_reply_bytes
    }

    /// Starts the calls whose messages are complete, until the batch should be flushed: then the answer is true, and more
    /// may be waiting.
    fn start_calls(&mut self) -> bool {
        let mut batch_began = None;
        while self.has_room() && self.consumed < self.input.len() {
            match self.scanner.scan(&self.input[self.consumed..]) {
                Ok(None) => {
                    self.partial_since.get_or_insert_with(Instant::now);
                    return false;
                }
                Ok(Some(envelope)) => {
                    let now = Instant::now();
                    let began = batch_began.replace(batch_began.unwrap_or(now));
                    if began.is_some_and(|began| now - began > BATCH_TIME || self.output.len() > BATCH_BYTES) {
                        return true;
                    }
                    self.partial_since = None;
                    self.start_call(envelope, now);
                }
                Err(error) => self.refuse_rest(error),
            }
        }
        // Whatever is left waits for us, not for the client.
        self.partial_since = None;
        false
    }

    fn start_call(&mut self, envelope: wire::Envelope, now: Instant) {
        let message = &self.input[self.consumed..self.consumed + envelope.end];
        let encoding = envelope.encoding;
        let IncomingCall { name, sequence_id, one_way, call } = match wire::decode_call(message, encoding, self.limits)
        {
            Ok(call) => call,
            Err(error) => return self.refuse_rest(error),
        };
        self.consumed += envelope.end;
        match call {
            Ok(call) => {
                let origin = Origin { method: call.method(), encoding, sequence_id, one_way };
                let options = &self.shared.options;
                let terms = CallTerms {
                    deadline: now + Duration::from_millis(options.request_timeout_ms),
                    max_reply_bytes: options.reply_limit(encoding),
                };
                let (service, context) = (&self.shared.service, self.context);
                self.pipeline.start(origin, || service.call(context, call, terms), &mut self.output);
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

    /// Nobody knows where the next message would begin: answer this one if its header can be read, and close.
    fn refuse_rest(&mut self, error: WireError) {
        add(&self.shared.counters.protocol_errors, 1);
        tracing::debug!(peer = %self.context.peer, %error, "closing the connection: its input is not understood");
        let rest = &self.input[self.consumed.min(self.input.len())..];
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
        if !self.has_room() {
            return false;
        }
        self.prepare_input();
        let spare = self.input.capacity() - self.input.len();
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.ending = Some(Ended::Client),
            Poll::Ready(Ok(length)) => {
                self.active_at = Instant::now();
                add(&self.shared.counters.bytes_in, length as u64);
                if length == spare && self.input.capacity() < BUFFER_KEPT_BYTES {
                    self.input.reserve(self.input.capacity());
                }
            }
            // What was started is still answered, as far as the socket takes it.
            Poll::Ready(Err(_)) => self.ending = Some(Ended::Client),
        }
        true
    }

    /// Drops what is consumed and makes room. The buffer grows with what has come, never with what was declared.
    fn prepare_input(&mut self) {
        if self.consumed == self.input.len() {
            self.input.clear();
            if self.input.capacity() > 4 * BUFFER_KEPT_BYTES {
                self.input.shrink_to(BUFFER_KEPT_BYTES);
            }
        } else if self.consumed > 0 {
            self.input.drain(..self.consumed);
        }
        self.consumed = 0;
        if self.input.capacity() - self.input.len() < BUFFER_FIRST_BYTES / 2 {
            self.input.reserve(BUFFER_FIRST_BYTES.max(self.input.len()));
        }
    }

    /// Writes as much as the socket takes. Whether anything has left.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut any = false;
        while self.written < self.output.len() {
            match Pin::new(&mut *self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Pending => {
                    if self.written > BUFFER_KEPT_BYTES && self.written > self.output.len() / 2 {
                        self.output.drain(..self.written);
                        self.written = 0;
                    }
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
        self.written = 0;
        self.output.clear();
        if self.output.capacity() > 4 * BUFFER_KEPT_BYTES {
            self.output.shrink_to(BUFFER_KEPT_BYTES);
        }
        Ok(any)
    }

    fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let due = self.due();
            if let Some(due) = due
                && due < self.timer.deadline()
            {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                return Poll::Ready(Ended::Timeout);
            }
            self.timer.as_mut().reset(due.unwrap_or(now + LONG_TIME));
        }
    }

    /// When the client will have been silent for too long, if it is for the client to act.
    fn due(&self) -> Option<Instant> {
        let options = &self.shared.options;
        if let Some(since) = self.partial_since {
            return options.message_timeout().map(|timeout| since + timeout);
        }
        if !self.pipeline.is_empty() && self.output.is_empty() {
            return None;
        }
        options.idle_timeout().map(|timeout| self.active_at + timeout)
    }
}
