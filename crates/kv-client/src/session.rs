//! One connection, from its first request to its end. Requests go out as they arrive, and replies
//! come back in the same order.
//!
//! One task owns the stream, the bytes that are still to be written, and the requests that wait for
//! a reply. It reads and writes at the same time. Otherwise a server that stops reading until its
//! replies are taken would block the client forever.
//!
//! Invariant: `waiting` holds exactly the requests that were encoded and not yet answered, in the
//! order of their sequence ids. `written` never exceeds the end of the last of them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use kv_api::thrift::generated::AuthenticateRequest;
use kv_api::thrift::{Method, ThriftReply};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::codec::{Inbox, Outbox};
use crate::pending::{Failure, PendingCall};
use crate::{Options, Token};

/// Maximum number of requests taken from the queue at a time, to be written together.
const BATCH: usize = 256;
/// While this many bytes wait to be written, no more requests are encoded.
const HIGH_WATER_BYTES: usize = 1 << 20;

/// A request that was encoded and not yet answered.
struct Waiting {
    sequence: i32,
    method: Method,
    /// Position of its first byte in the stream of all bytes written.
    begins_at: u64,
    deadline: Instant,
    answer: oneshot::Sender<Result<ThriftReply, Failure>>,
}

/// Why a session ended.
enum End {
    /// The connection broke, or the client no longer needs it.
    Lost(String),
    /// The server sent something that is not the expected reply.
    Malformed(String),
}

pub(crate) struct Session<S> {
    stream: S,
    options: Options,
    outbox: Outbox,
    /// Bytes given to the stream so far.
    written: u64,
    /// Whether the stream has passed on everything that it was given. Plain TCP always has.
    is_flushed: bool,
    inbox: Inbox,
    waiting: VecDeque<Waiting>,
    next_sequence: i32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub fn new(stream: S, options: &Options) -> Self {
        Session {
            stream,
            options: options.clone(),
            outbox: Outbox::default(),
            written: 0,
            is_flushed: true,
            inbox: Inbox::new(options.max_reply_bytes),
            waiting: VecDeque::new(),
            next_sequence: 0,
        }
    }

    /// Serves requests until the connection ends or the queue is closed; returns the reason.
    pub async fn run(mut self, first: PendingCall, requests: &mut mpsc::Receiver<PendingCall>) -> String {
        let deadline = first.deadline;
        // Kept so that the call is sent. Nobody waits for its reply: the requests behind it need not,
        // and if the server refuses the token, it refuses them with the reason.
        let _authenticated = self.options.token.clone().map(|token| self.authenticate(&token, deadline));
        self.encode(first);
        let end = self.serve(requests).await;
        let (reason, malformed) = match end {
            End::Lost(reason) => (reason, false),
            End::Malformed(reason) => (reason, true),
        };
        for waiting in self.waiting.drain(..) {
            let failure = if waiting.begins_at >= self.written {
                Failure::NotSent(reason.clone())
            } else if malformed {
                Failure::Malformed(reason.clone())
            } else {
                Failure::Lost(reason.clone())
            };
            let _ = waiting.answer.send(Err(failure));
        }
        reason
    }

    async fn serve(&mut self, requests: &mut mpsc::Receiver<PendingCall>) -> End {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let capacity = self.options.max_in_flight.saturating_sub(self.waiting.len()).min(BATCH);
            let may_take = capacity > 0 && self.outbox.unwritten().len() < HIGH_WATER_BYTES;
            let stalled_at = self.waiting.front().map(|oldest| oldest.deadline + self.options.stall_timeout);
            tokio::select! {
                // All of these are cancel safe: a branch that loses has not done anything.
                taken = requests.recv_many(&mut batch, capacity.max(1)), if may_take => {
                    if taken == 0 {
                        return End::Lost("the client is shutting down".to_string());
                    }
                    batch.drain(..).for_each(|request| self.encode(request));
                }
                moved = self.exchange() => {
                    if let Err(end) = self.take_in(moved) {
                        return end;
                    }
                }
                () = sleep_until(stalled_at.unwrap_or_else(Instant::now)), if stalled_at.is_some() => {
                    return End::Lost("the server stopped answering".to_string());
                }
            }
        }
    }

    /// Waits until the stream has accepted or delivered bytes, or both. A stream that encrypts may
    /// accept bytes before it can send them, so it is also asked to pass on what it has.
    async fn exchange(&mut self) -> Moved {
        poll_fn(|context| {
            let (written, read) = (self.poll_write(context), self.poll_read(context));
            if written.is_pending() && read.is_pending() {
                return Poll::Pending;
            }
            Poll::Ready(Moved { written: ready(written), read: ready(read) })
        })
        .await
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.outbox.unwritten() {
            [] if self.is_flushed => Poll::Pending,
            [] => match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => {
                    self.is_flushed = true;
                    Poll::Pending
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            },
            bytes => {
                self.is_flushed = false;
                Pin::new(&mut self.stream).poll_write(context, bytes)
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(self.inbox.buffer())).poll(context)
    }

    /// Accounts for bytes that were moved. Replies that have arrived are delivered even if writing
    /// has failed.
    fn take_in(&mut self, moved: Moved) -> Result<(), End> {
        if let Some(Ok(count)) = moved.written {
            self.written += count as u64;
            self.outbox.advance(count);
        }
        match moved.read {
            Some(Ok(0)) => return Err(End::Lost("the server closed the connection".to_string())),
            Some(Ok(_)) => self.deliver().map_err(End::Malformed)?,
            Some(Err(error)) => return Err(End::Lost(error.to_string())),
            None => {}
        }
        match moved.written {
            Some(Err(error)) => Err(End::Lost(error.to_string())),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn authenticate(&mut self, token: &Token, deadline: Instant) -> oneshot::Receiver<Result<ThriftReply, Failure>> {
        let (answer, reply) = oneshot::channel();
        let call = AuthenticateRequest::new(token.reveal().into());
        self.encode(PendingCall { call: Arc::new(call.into()), deadline, answer });
        reply
    }

    fn encode(&mut self, request: PendingCall) {
        // Nobody waits for this request any more, so it is not worth sending.
        if request.answer.is_closed() {
            return;
        }
        let begins_at = self.written + self.outbox.unwritten().len() as u64;
        let sequence = self.next_sequence;
        self.outbox.append(sequence, &request.call);
        self.next_sequence = self.next_sequence.wrapping_add(1);
        let (method, deadline) = (request.call.method(), request.deadline);
        self.waiting.push_back(Waiting { sequence, method, begins_at, deadline, answer: request.answer });
    }

    /// Hands every complete reply to its caller.
    fn deliver(&mut self) -> Result<(), String> {
        while let Some((sequence, reply)) = self.inbox.next(self.waiting.front().map(|waiting| waiting.method))? {
            let waiting = self.waiting.pop_front().expect("a reply is decoded only for a waiting request");
            if sequence != waiting.sequence {
                let expected = waiting.sequence;
                self.waiting.push_front(waiting);
                return Err(format!("a reply to request {sequence} instead of one to request {expected}"));
            }
            // A caller that has given up is ignored.
            let _ = waiting.answer.send(Ok(reply));
        }
        Ok(())
    }
}

/// The bytes that one exchange has moved; `None` in a direction that was not ready.
struct Moved {
    written: Option<io::Result<usize>>,
    read: Option<io::Result<usize>>,
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kv_api::thrift::ThriftCall;
    use kv_api::thrift::generated::{PingRequest, PingResponse};
    use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Reads one call, and answers it with the message that it carries.
    async fn echo(stream: &mut DuplexStream) {
        let (mut scanner, mut input) = (Scanner::new(WireLimits::default()), Vec::new());
        let envelope = loop {
            if let Some(envelope) = scanner.scan(&input).expect("the session sends calls") {
                break envelope;
            }
            assert_ne!(stream.read_buf(&mut input).await.expect("the session is there"), 0);
        };
        let call = wire::decode_call(&input[..envelope.end], envelope.encoding, WireLimits::default());
        let call = call.expect("the session sends calls");
        let Ok(ThriftCall::Ping(ping)) = call.call else { panic!("another call than a ping") };
        let message = ping.message.expect("the test sends a message");
        let pong = PingResponse { message, timestamp: 0, server_timestamp: 1 }.into();
        let mut output = Vec::new();
        wire::encode_reply(&mut output, Encoding::default(), b"ping", call.sequence_id, &pong);
        stream.write_all(&output).await.expect("the session is there");
    }

    /// The stream takes and gives only a few bytes at a time.
    #[tokio::test]
    async fn a_session_serves_requests_over_any_stream() {
        let (near, mut far) = duplex(16);
        let (requests, mut queue) = mpsc::channel(1);
        let (answer, reply) = oneshot::channel();
        let message = vec![b'm'; 1000];
        let call = Arc::new(PingRequest { message: Some(message.clone()), timestamp: None }.into());
        let first = PendingCall { call, deadline: Instant::now() + Duration::from_secs(60), answer };
        let session = Session::new(near, &Options::default());
        let serving = tokio::spawn(async move { session.run(first, &mut queue).await });
        echo(&mut far).await;
        let ThriftReply::Ping(pong) = reply.await.expect("an answer").expect("a reply") else { panic!("no pong") };
        assert_eq!(pong.message, message);
        drop(requests);
        assert_eq!(serving.await.expect("no panic"), "the client is shutting down");
    }
}
