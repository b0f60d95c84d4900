//! The closed loop: one thread, all connections, no work per request besides its bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::args::{Args, System, Workload};
use crate::etcd::Etcd;
use crate::keys::{Bytes, Operation, Source};
use crate::protocol::{Broken, Ended, Outcome, Protocol};
use crate::redis::Redis;
use crate::stats::Stats;
use crate::zookeeper::ZooKeeper;

/// How long to wait for sessions to open, and for replies after the end of the run.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for the server to close a connection.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 64 << 10;

struct Running {
    operation: Operation,
    since: Instant,
}

struct Connection {
    stream: TcpStream,
    protocol: Box<dyn Protocol>,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    filled: usize,
    /// Operations in flight, by slot.
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    is_closed: bool,
}

/// The state that all connections share.
struct Shared {
    source: Source,
    bytes: Bytes,
    stats: Stats,
    /// `None` until the run begins.
    ends_at: Option<Instant>,
    is_exhausted: bool,
}

pub struct Engine {
    poll: Poll,
    connections: Vec<Connection>,
    shared: Shared,
    length: Duration,
    is_load: bool,
}

impl Engine {
    /// Opens all sessions.
    pub fn open(args: &Args, seed: u64) -> Result<Engine, Broken> {
        let poll = Poll::new().map_err(broken)?;
        let mut connections = Vec::new();
        for index in 0..args.connections {
            let depth = args.concurrency / args.connections + usize::from(index < args.concurrency % args.connections);
            let address = args.addresses[index % args.addresses.len()];
            let mut connection = Connection::open(address, args.system, depth)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut connection.stream, Token(index), interest).map_err(broken)?;
            connections.push(connection);
        }
        let shared = Shared {
            source: Source::new(args, seed),
            bytes: Bytes::new(args),
            stats: Stats::new(),
            ends_at: None,
            is_exhausted: false,
        };
        let is_load = args.workload == Workload::Load;
        let mut engine = Engine { poll, connections, shared, length: args.length(), is_load };
        let opened = engine.turn_until(Instant::now() + PATIENCE, |engine| {
            engine.connections.iter().all(|connection| connection.protocol.is_open())
        })?;
        if opened { Ok(engine) } else { Err(Broken("the sessions did not open".to_string())) }
    }

    /// Runs to the end and returns the results and the length of the run.
    pub fn run(&mut self) -> Result<(&mut Stats, f64), Broken> {
        let begun = Instant::now();
        // A load ends with its last record.
        let ends_at = begun + if self.is_load { Duration::from_secs(3600) } else { self.length };
        self.shared.ends_at = Some(ends_at);
        for connection in &mut self.connections {
            connection.refill(&mut self.shared, begun);
            connection.write().map_err(broken)?;
        }
        let is_idle = |engine: &Engine| engine.connections.iter().all(Connection::is_idle);
        if !self.turn_until(ends_at + PATIENCE, is_idle)? {
            let missing = self.connections.iter().map(Connection::in_flight).sum::<usize>();
            (0..missing).for_each(|_| self.shared.stats.error("NO_ANSWER"));
        }
        let seconds = begun.elapsed().min(ends_at - begun).as_secs_f64();
        Ok((&mut self.shared.stats, seconds))
    }

    /// Closes all sessions.
    pub fn close(mut self) {
        let mut is_answered = false;
        for connection in &mut self.connections {
            is_answered |= connection.protocol.close(&mut connection.out);
            let _ = connection.write();
        }
        if is_answered {
            let all_closed = |engine: &Engine| engine.connections.iter().all(|connection| connection.is_closed);
            let _ = self.turn_until(Instant::now() + CLOSE_PATIENCE, all_closed);
        }
    }

    /// Serves the connections until the condition holds, or until `deadline`.
    fn turn_until(&mut self, deadline: Instant, is_done: impl Fn(&Engine) -> bool) -> Result<bool, Broken> {
        let mut events = Events::with_capacity(1024);
        loop {
            if is_done(self) {
                return Ok(true);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Ok(false) };
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(broken)?,
            }
            for event in &events {
                self.connections[event.token().0].serve(&mut self.shared, event.is_read_closed())?;
            }
        }
    }
}

impl Connection {
    fn open(address: SocketAddr, system: System, depth: usize) -> Result<Connection, Broken> {
        let stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)
            .and_then(|stream| stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map(|()| stream));
        let stream = stream.map_err(|error| Broken(format!("{address}: {error}")))?;
        let mut protocol: Box<dyn Protocol> = match system {
            System::Etcd => Box::new(Etcd::new(address)),
            System::ZooKeeper => Box::new(ZooKeeper::default()),
            System::Redis => Box::new(Redis::default()),
        };
        let mut out = Vec::new();
        protocol.open(&mut out);
        let mut connection = Connection {
            stream: TcpStream::from_std(stream),
            protocol,
            out,
            written: 0,
            input: vec![0; READ_BYTES],
            filled: 0,
            running: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            is_closed: false,
        };
        connection.write().map_err(broken)?;
        Ok(connection)
    }

    fn in_flight(&self) -> usize {
        self.running.len() - self.free.len()
    }

    fn is_idle(&self) -> bool {
        self.in_flight() == 0
    }

    /// Takes everything that has arrived and sends what follows from it. `is_last` says that the
    /// server has closed the connection behind it.
    fn serve(&mut self, shared: &mut Shared, is_last: bool) -> Result<(), Broken> {
        let mut ended = Vec::new();
        while self.read()? {
            // Without room left the socket may have more; otherwise another read would return only
            // that it has not.
            let may_have_more = is_last || self.filled == self.input.len();
            let used =
                self.protocol.receive(&self.input[..self.filled], &mut shared.bytes, &mut self.out, &mut ended)?;
            self.input.copy_within(used..self.filled, 0);
            self.filled -= used;
            if !may_have_more {
                break;
            }
        }
        if shared.ends_at.is_some() {
            let now = Instant::now();
            ended.drain(..).for_each(|each| self.end(each, shared, now));
            self.refill(shared, now);
        }
        self.write().map_err(broken)
    }

    /// Reads once. Returns whether anything came.
    fn read(&mut self) -> Result<bool, Broken> {
        if self.filled == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) if self.is_idle() => {
                self.is_closed = true;
                Ok(false)
            }
            Ok(0) => Err(Broken("the server closed a connection".to_string())),
            Ok(count) => {
                self.filled += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(broken(error)),
        }
    }

    fn end(&mut self, (slot, outcome): Ended, shared: &mut Shared, now: Instant) {
        let Running { operation, since } = self.running[slot].take().expect("an operation ends once");
        let is_in_time = shared.ends_at.is_some_and(|ends_at| now <= ends_at);
        match outcome {
            Outcome::Done => shared.stats.success(operation.kind, now - since, is_in_time),
            Outcome::Failed(code) => shared.stats.error(code),
            Outcome::Conflict => {
                shared.stats.conflicts += 1;
                self.running[slot] = Some(Running { operation, since });
                self.protocol.begin(slot, operation, &mut shared.bytes, &mut self.out);
                return;
            }
        }
        self.free.push(slot);
    }

    /// Begins operations until as many as allowed are in flight.
    fn refill(&mut self, shared: &mut Shared, now: Instant) {
        if shared.is_exhausted || shared.ends_at.is_none_or(|ends_at| now >= ends_at) {
            return;
        }
        while let Some(slot) = self.free.pop() {
            let Some(operation) = shared.source.next() else {
                shared.is_exhausted = true;
                self.free.push(slot);
                return;
            };
            self.running[slot] = Some(Running { operation, since: now });
            self.protocol.begin(slot, operation, &mut shared.bytes, &mut self.out);
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

fn broken(error: std::io::Error) -> Broken {
    Broken(error.to_string())
}
