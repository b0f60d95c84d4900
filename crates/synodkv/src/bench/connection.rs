//! One connection of a run: a loop that sends due requests and receives replies.
//!
//! Invariant: `under_way` holds the unanswered requests in order, never more than `depth`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use kv_api::thrift::wire::{Scanner, WireLimits, decode_reply};
use kv_api::thrift::{Method, ThriftReply};
use tokio::time::{Instant, sleep_until, timeout};

use super::Run;
use super::keys::KeySpace;
use super::statistics::Statistics;
use super::template::Template;
use super::wire::Wire;
use super::workload::Operation;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between attempts to connect and after an error reply, to spare a server in trouble.
const PAUSE: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 64 << 10;

struct UnderWay {
    operation: Operation,
    method: Method,
    /// When the request was sent; with a rate, when it was due.
    since: Instant,
    /// The record of the request; with several, the last.
    number: u64,
}

pub struct Driver {
    run: Rc<Run>,
    index: u32,
    depth: usize,
    /// Index of the address in use; after a lost connection, the next one.
    address: usize,
    /// Requests that this connection has begun; used with a rate.
    begun: u64,
    /// Nothing is sent before this.
    resume_at: Instant,
    under_way: VecDeque<UnderWay>,
    output: Vec<u8>,
    /// How much of `output` has been written.
    written: usize,
    input: Vec<u8>,
    /// Length of the part of `input` that holds received bytes.
    filled: usize,
    scanner: Scanner,
    /// The scanner has seen a part of the next reply and must see the rest of it, too.
    scanning: bool,
    limits: WireLimits,
    next_sequence: i32,
    reply_sequence: i32,
}

/// The outcome of a request: success, or the code of the error.
type Outcome = Result<(), String>;

/// The connection ended, or the received bytes are not a reply.
struct Broken;

/// Why a connection's loop ended.
enum End {
    /// The run is over, and all replies have arrived or are too late.
    Done,
    Lost,
}

impl Driver {
    pub fn new(run: Rc<Run>, index: u32, depth: usize) -> Self {
        let limits = WireLimits::default();
        Driver {
            index,
            depth,
            address: index as usize,
            begun: 0,
            resume_at: run.begins_at,
            under_way: VecDeque::with_capacity(depth),
            output: Vec::new(),
            written: 0,
            input: vec![0; READ_BYTES],
            filled: 0,
            scanner: Scanner::new(limits),
            scanning: false,
            limits,
            next_sequence: 0,
            reply_sequence: 0,
            run,
        }
    }

    /// Reconnects until the run ends.
    pub async fn run(mut self) {
        while Instant::now() < self.run.ends_at {
            let address = self.run.addresses[self.address % self.run.addresses.len()].clone();
            let connecting = Wire::connect(&address, self.run.tls.as_ref(), self.run.token.as_ref());
            let mut wire = match timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Some(wire)) => wire,
                Ok(None) | Err(_) => {
                    self.address += 1;
                    sleep_until((Instant::now() + PAUSE).min(self.run.ends_at)).await;
                    continue;
                }
            };
            match self.drive(&mut wire).await {
                End::Done => return,
                End::Lost => self.forget_connection(),
            }
        }
    }

    fn forget_connection(&mut self) {
        self.run.statistics.borrow_mut().connection_lost();
        self.give_up("CONNECTION_LOST");
        self.address += 1;
        self.output.clear();
        (self.written, self.filled) = (0, 0);
        self.scanner = Scanner::new(self.limits);
        self.scanning = false;
        self.reply_sequence = self.next_sequence;
    }

    /// Counts the requests in flight as failed, because no reply will come.
    fn give_up(&mut self, code: &str) {
        self.run.statistics.borrow_mut().error(code, self.under_way.len() as u64);
        let mut keys = self.run.keys.borrow_mut();
        for lost in self.under_way.drain(..).filter(|lost| lost.operation == Operation::Insert) {
            keys.end_insert(lost.number, false);
        }
    }

    async fn drive(&mut self, wire: &mut Wire) -> End {
        let timer = sleep_until(self.run.ends_at);
        tokio::pin!(timer);
        loop {
            let now = Instant::now();
            if now < self.run.ends_at {
                self.refill(now);
            } else if self.under_way.is_empty() {
                return End::Done;
            } else if now >= self.run.ends_at + self.run.patience {
                self.give_up("NO_ANSWER");
                return End::Done;
            }
            if self.write(wire).is_err() {
                return End::Lost;
            }
            let wake_at = self.wake_at(now);
            if timer.deadline() != wake_at {
                timer.as_mut().reset(wake_at);
            }
            tokio::select! {
                ready = wire.ready(!self.output.is_empty()) => if ready.is_err() {
                    return End::Lost;
                },
                () = &mut timer => {}
            }
            if self.read(wire).is_err() {
                return End::Lost;
            }
        }
    }

    /// When the loop has something to do even if nothing arrives.
    fn wake_at(&self, now: Instant) -> Instant {
        if now >= self.run.ends_at {
            return self.run.ends_at + self.run.patience;
        }
        let may_send_at = match self.run.rate {
            Some(rate) if self.under_way.len() < self.depth => self.due_at(rate).max(self.resume_at),
            None if self.under_way.len() < self.depth => self.resume_at,
            _ => self.run.ends_at,
        };
        may_send_at.min(self.run.ends_at)
    }

    /// When this connection's next request is due; the connections take turns.
    fn due_at(&self, rate: f64) -> Instant {
        let turn = self.begun * u64::from(self.run.connections) + u64::from(self.index);
        self.run.begins_at + Duration::from_secs_f64(turn as f64 / rate)
    }

    /// Puts requests into `output` until as many as allowed are in flight.
    fn refill(&mut self, now: Instant) {
        if now < self.resume_at {
            return;
        }
        let run = self.run.clone();
        let mut keys = run.keys.borrow_mut();
        while self.under_way.len() < self.depth {
            let since = match run.rate {
                None => now,
                Some(rate) => {
                    let due_at = self.due_at(rate);
                    if due_at > now {
                        return;
                    }
                    due_at
                }
            };
            self.begin(&mut keys, since);
        }
    }

    /// Puts the next request into `output`.
    fn begin(&mut self, keys: &mut KeySpace, since: Instant) {
        let run = self.run.clone();
        let operation = keys.next_operation();
        let (template, number, rows) = match operation {
            Operation::Read | Operation::ReadModifyWrite => (&run.templates.get, None, 0),
            Operation::Update => (&run.templates.put, None, 0),
            Operation::Insert => (&run.templates.put, Some(keys.begin_insert()), 0),
            Operation::Scan => (&run.templates.scan, None, keys.next_scan_rows()),
            Operation::Commit => (&run.templates.commit, None, 0),
            Operation::Transaction => unreachable!("transactions have their own loop"),
        };
        self.begun += 1;
        self.send(operation, template, since, rows, || number.unwrap_or_else(|| keys.next_number()));
    }

    fn send(
        &mut self,
        operation: Operation,
        template: &Template,
        since: Instant,
        rows: i32,
        mut numbers: impl FnMut() -> u64,
    ) {
        let mut number = 0;
        self.run.templates.append(template, &mut self.output, self.next_sequence, rows, || {
            number = numbers();
            number
        });
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.under_way.push_back(UnderWay { operation, method: template.method, since, number });
    }

    fn write(&mut self, wire: &mut Wire) -> std::io::Result<()> {
        while self.written < self.output.len() {
            match wire.try_write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        wire.try_flush()
    }

    /// Reads and processes everything that has arrived.
    fn read(&mut self, wire: &mut Wire) -> Result<(), Broken> {
        loop {
            if self.filled == self.input.len() {
                // Makes room for a reply that does not fit, which is rare.
                self.input.resize(self.input.len() * 2, 0);
            }
            match wire.try_read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(Broken),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Broken),
            }
            let room_left = self.filled < self.input.len();
            self.take_replies()?;
            if room_left && wire.reads_all_at_once() {
                // The socket had no more, so another read would only return that.
                return Ok(());
            }
        }
    }

    fn take_replies(&mut self) -> Result<(), Broken> {
        let now = Instant::now();
        let run = self.run.clone();
        let mut statistics = run.statistics.borrow_mut();
        let mut at = 0;
        while at < self.filled && !self.under_way.is_empty() {
            let Some((length, outcome)) = self.next_reply(at)? else { break };
            at += length;
            self.reply_sequence = self.reply_sequence.wrapping_add(1);
            let answered = self.under_way.pop_front().expect("checked by the loop");
            self.end(answered, outcome, now, &mut statistics);
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn end(&mut self, answered: UnderWay, outcome: Outcome, now: Instant, statistics: &mut Statistics) {
        let run = self.run.clone();
        let UnderWay { operation, method, since, number } = answered;
        if operation == Operation::Insert {
            run.keys.borrow_mut().end_insert(number, outcome.is_ok());
        }
        match outcome {
            Ok(()) if operation == Operation::ReadModifyWrite && method == Method::Get => {
                self.send(operation, &run.templates.put, since, 0, || number);
            }
            Ok(()) => {
                let latency = now.saturating_duration_since(since);
                statistics.success(operation, latency, now, now <= run.ends_at);
                self.record(number);
            }
            Err(code) => {
                statistics.error(&code, 1);
                self.resume_at = now + PAUSE;
            }
        }
    }

    /// The length and outcome of the reply at `at`; `None` if it is incomplete.
    fn next_reply(&mut self, at: usize) -> Result<Option<(usize, Outcome)>, Broken> {
        let input = &self.input[at..self.filled];
        let method = self.under_way.front().expect("called while something is under way").method;
        if method == Method::SetKey && self.is_put_done(input) {
            return Ok(Some((self.run.templates.put_done.len(), Ok(()))));
        }
        let envelope = self.scanner.scan(input).map_err(|_| Broken)?;
        self.scanning = envelope.is_none();
        let Some(envelope) = envelope else { return Ok(None) };
        let reply = decode_reply(&input[..envelope.end], envelope.encoding, self.limits, method);
        let (sequence, reply) = reply.map_err(|_| Broken)?;
        if sequence != self.reply_sequence {
            return Err(Broken);
        }
        Ok(Some((envelope.end, outcome_of(reply))))
    }

    /// Whether the most common of all replies comes next, without decoding it.
    fn is_put_done(&self, input: &[u8]) -> bool {
        let (expected, at) = (&self.run.templates.put_done, self.run.templates.put_done_sequence_at);
        !self.scanning
            && input.len() >= expected.len()
            && input[..at] == expected[..at]
            && input[at..at + 4] == self.reply_sequence.to_be_bytes()
            && input[at + 4..expected.len()] == expected[at + 4..]
    }

    fn record(&self, number: u64) {
        if let Some(recorder) = self.run.recorder.borrow_mut().as_mut() {
            let shape = self.run.templates.shape();
            recorder.acknowledged(&shape.naming.key(number), shape.value_size);
        }
    }
}

fn outcome_of(reply: ThriftReply) -> Outcome {
    let code = |code: Option<String>| code.unwrap_or_else(|| "ERROR".to_string());
    match reply {
        ThriftReply::SetKey(response) if !response.success => Err(code(response.error_code)),
        ThriftReply::AtomicCommit(response) if !response.success => Err(code(response.error_code)),
        ThriftReply::Get(response) if response.error.is_some() => Err(code(response.error_code)),
        ThriftReply::Get(response) if !response.found => Err("KEY_MISSING".to_string()),
        ThriftReply::GetRange(response) if !response.success => Err(code(response.error_code)),
        ThriftReply::GetRange(response) if response.key_values.is_empty() => Err("KEY_MISSING".to_string()),
        ThriftReply::Exception(_) => Err("EXCEPTION".to_string()),
        _ => Ok(()),
    }
}
