//! The life of one connection: requests go out as they come, replies come back in the same order.
//!
//! One task owns it all: the socket, what is still to be written, and the requests that wait for a reply. Reading and
//! writing go on at the same time, so that a server which reads no further until its replies are taken cannot block it.
//!
//! Invariant: `waiting` holds exactly the requests that were encoded and not answered, in the order of their sequence ids;
//! `written` never exceeds the end of the last of them.

use std::collections::VecDeque;

use kv_api::thrift::{Method, ThriftReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::Options;
use crate::codec::{Inbox, Outbox};
use crate::endpoint::{Failure, Request};

/// Most requests taken from the queue at a time, to be written together.
const BATCH: usize = 256;
/// No more requests are encoded while so many bytes wait to be written.
const HIGH_WATER_BYTES: usize = 1 << 20;

struct Waiting {
    sequence: i32,
    method: Method,
    /// Where its first byte stands in the stream of all bytes written.
    begins_at: u64,
    deadline: Instant,
    answer: oneshot::Sender<Result<ThriftReply, Failure>>,
}

pub(crate) struct Session {
    stream: TcpStream,
    options: Options,
    outbox: Outbox,
    /// Bytes given to the operating system so far.
    written: u64,
    inbox: Inbox,
    waiting: VecDeque<Waiting>,
    next_sequence: i32,
}

impl Session {
    pub fn new(stream: TcpStream, options: &Options) -> Self {
        Session {
            stream,
            options: options.clone(),
            outbox: Outbox::default(),
            written: 0,
            inbox: Inbox::new(options.max_reply_bytes),
            waiting: VecDeque::new(),
            next_sequence: 0,
        }
    }

    /// Serves requests until the connection ends or the queue is closed; returns why it ended.
    pub async fn run(mut self, first: Request, requests: &mut mpsc::Receiver<Request>) -> String {
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

    async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> End {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let room = self.options.max_in_flight.saturating_sub(self.waiting.len()).min(BATCH);
            let may_take = room > 0 && self.outbox.unwritten().len() < HIGH_WATER_BYTES;
            let stalled_at = self.waiting.front().map(|oldest| oldest.deadline + self.options.stall_timeout);
            let (mut reader, mut writer) = self.stream.split();
            tokio::select! {
                // All three are cancel safe: what they did not finish, they did not do.
                taken = requests.recv_many(&mut batch, room.max(1)), if may_take => {
                    if taken == 0 {
                        return End::Lost("the client is shutting down".to_string());
                    }
                    batch.drain(..).for_each(|request| self.encode(request));
                }
                result = writer.write(self.outbox.unwritten()), if !self.outbox.unwritten().is_empty() => match result {
                    Ok(count) => {
                        self.written += count as u64;
                        self.outbox.note_written(count);
                    }
                    Err(error) => return End::Lost(error.to_string()),
                },
                result = reader.read_buf(self.inbox.buffer()) => match result {
                    Ok(0) => return End::Lost("the server closed the connection".to_string()),
                    Ok(_) => if let Err(reason) = self.deliver() {
                        return End::Malformed(reason);
                    },
                    Err(error) => return End::Lost(error.to_string()),
                },
                () = sleep_until(stalled_at.unwrap_or_else(Instant::now)), if stalled_at.is_some() => {
                    return End::Lost("the server stopped answering".to_string());
                }
            }
        }
    }

    fn encode(&mut self, request: Request) {
        // Its caller has given up: the cheapest request is the one that is never sent.
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

    /// Hands every complete reply to whoever waits for it.
    fn deliver(&mut self) -> Result<(), String> {
        while let Some((sequence, reply)) = self.inbox.next(self.waiting.front().map(|waiting| waiting.method))? {
            let waiting = self.waiting.pop_front().expect("a reply is decoded only for a request that waits");
            if sequence != waiting.sequence {
                let expected = waiting.sequence;
                self.waiting.push_front(waiting);
                return Err(format!("a reply to request {sequence} where one to {expected} was expected"));
            }
            // Whoever stopped waiting does not mind.
            let _ = waiting.answer.send(Ok(reply));
        }
        Ok(())
    }
}

enum End {
    Lost(String),
    Malformed(String),
}
