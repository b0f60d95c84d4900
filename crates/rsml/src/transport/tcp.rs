//! [`TcpTransport`]: one connection per pair of peers and direction. Each replica dials the ones it sends over, and only
//! receives over those it accepts.
//!
//! The dialler says hello; the accepting side answers with one byte when it takes the connection, and with one more every
//! `alive_interval_ms`. A dialler that hears none for `silence_ms` dials anew: after a partition the kernel would wait
//! up to minutes before it sends again over the old connection.
//!
//! [`TransportEvent::Connected`] is told when an outgoing connection was taken, [`TransportEvent::Disconnected`] when the
//! outgoing or the incoming connection of a peer ends, once if its death ends both. While there is no outgoing
//! connection, envelopes are dropped: the protocol above repeats what matters, and stale messages help no one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::frame::{Decoder, Frame, FrameError, FrameKind};
use super::gate::{Counters, Gate, count};
use super::outgoing::Written;
use super::peer::Peer;
use super::{Envelope, EventSink, Sender, Transport, TransportEvent, TransportStatistics};
use crate::{Boot, ClusterId, DiskId, Epoch, ReplicaId};

/// The accepting side takes the connection.
const ACCEPTED: u8 = 0x06;
/// The accepting side is still there.
const ALIVE: u8 = 0x16;

#[derive(Debug)]
pub struct TcpOptions {
    pub me: ReplicaId,
    /// Ignored when there is a `listener`.
    pub listen: SocketAddr,
    /// A socket that listens already, for instance on a port that the system chose.
    pub listener: Option<std::net::TcpListener>,
    /// Where the other replicas listen. `me` among them is ignored.
    pub peers: Vec<(ReplicaId, SocketAddr)>,
    /// When known on both sides, connections between different clusters are refused.
    pub cluster_id: ClusterId,
    /// How much may wait for one peer, what is being written included; more is dropped.
    pub queue_bytes: usize,
    /// The wait before dialling again doubles from here...
    pub reconnect_min_ms: u64,
    /// ...up to here, and is shortened by up to half at random.
    pub reconnect_max_ms: u64,
    /// How long a peer may take to accept, and to say who it is.
    pub connect_timeout_ms: u64,
    pub alive_interval_ms: u64,
    /// Several times `alive_interval_ms`.
    pub silence_ms: u64,
}

impl TcpOptions {
    pub fn new(me: ReplicaId, listen: SocketAddr, peers: Vec<(ReplicaId, SocketAddr)>) -> Self {
        TcpOptions {
            me,
            listen,
            listener: None,
            peers,
            cluster_id: ClusterId::NONE,
            queue_bytes: 64 << 20,
            reconnect_min_ms: 10,
            reconnect_max_ms: 1000,
            connect_timeout_ms: 2000,
            alive_interval_ms: 1000,
            silence_ms: 4000,
        }
    }
}

/// See the module. Shut down when dropped.
pub struct TcpTransport {
    shared: Arc<Shared>,
    local_address: SocketAddr,
}

struct Shared {
    me: ReplicaId,
    cluster_id: ClusterId,
    connect_timeout: Duration,
    alive_interval: Duration,
    silence: Duration,
    reconnect_min: Duration,
    reconnect_max: Duration,
    peers: BTreeMap<ReplicaId, Arc<Peer>>,
    gate: Gate,
    counters: Counters,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TcpTransport {
    /// Listens and dials on `runtime`; returns as soon as it listens.
    pub fn start(mut options: TcpOptions, sink: EventSink, runtime: &Handle) -> io::Result<Self> {
        let listener = match options.listener.take() {
            Some(listener) => listener,
            None => std::net::TcpListener::bind(options.listen)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", options.listen)))?,
        };
        listener.set_nonblocking(true)?;
        let local_address = listener.local_addr()?;
        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let shared = Arc::new(Shared::new(options, sink));
        for peer in shared.peers.values() {
            shared.spawn(runtime, dial(shared.clone(), peer.clone()));
        }
        shared.spawn(runtime, accept(shared.clone(), listener, runtime.clone()));
        Ok(TcpTransport { shared, local_address })
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Waits until all tasks have ended and all sockets are closed, after [`Transport::shutdown`].
    pub async fn closed(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Transport for TcpTransport {
    fn send(&self, envelope: Envelope) {
        let counters = &self.shared.counters;
        let Some(peer) = self.shared.peers.get(&envelope.to) else {
            return count(&counters.messages_dropped, 1);
        };
        let pushed = match Frame::message(envelope).encode() {
            Ok(frame) => peer.outgoing.push(frame),
            Err(error) => {
                tracing::error!(peer = peer.id.0, %error, "a message cannot be sent");
                None
            }
        };
        match pushed {
            Some(written) => self.shared.count_written(written),
            None => count(&counters.messages_dropped, 1),
        }
    }

    /// Not to be called from within the [`EventSink`].
    fn shutdown(&self) {
        self.shared.gate.close();
        self.shared.stop.cancel();
    }

    fn statistics(&self) -> TransportStatistics {
        self.shared.counters.statistics()
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn new(options: TcpOptions, sink: EventSink) -> Self {
        let others = options.peers.iter().filter(|(id, _)| *id != options.me);
        Shared {
            me: options.me,
            cluster_id: options.cluster_id,
            connect_timeout: Duration::from_millis(options.connect_timeout_ms),
            alive_interval: Duration::from_millis(options.alive_interval_ms.max(1)),
            silence: Duration::from_millis(options.silence_ms),
            reconnect_min: Duration::from_millis(options.reconnect_min_ms.max(1)),
            reconnect_max: Duration::from_millis(options.reconnect_max_ms),
            peers: others.map(|&(id, at)| (id, Arc::new(Peer::new(id, at, options.queue_bytes)))).collect(),
            gate: Gate::new(sink),
            counters: Counters::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    fn count_written(&self, written: Written) {
        count(&self.counters.messages_sent, written.frames);
        count(&self.counters.bytes_sent, written.bytes);
    }

    /// Runs a task until it ends or the transport is shut down.
    fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn_on(async move { stop.run_until_cancelled(task).await.unwrap_or(()) }, runtime);
    }

    fn hello(&self, to: ReplicaId) -> Frame {
        let sender = Sender {
            replica: self.me,
            cluster_id: self.cluster_id,
            epoch: Epoch(0),
            disk_id: DiskId(0),
            boot: Boot(0),
        };
        Frame::hello(sender, to)
    }
}

/// Keeps the outgoing connection to a peer.
async fn dial(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut backoff = Backoff::new(shared.reconnect_min, shared.reconnect_max);
    let mut was_connected = false;
    loop {
        match time::timeout(shared.connect_timeout, connect(&shared, &peer)).await {
            Ok(Ok((reader, writer))) => {
                let began = Instant::now();
                count(&shared.counters.reconnects, usize::from(was_connected));
                was_connected = true;
                let writer = Arc::new(writer);
                peer.outgoing_began(writer.clone(), &shared.gate);
                let end = use_connection(&shared, &peer, reader, &writer).await;
                let dropped = peer.outgoing_ended(&shared.gate);
                count(&shared.counters.messages_dropped, dropped);
                tracing::debug!(peer = peer.id.0, %end, "the outgoing connection ended");
                if began.elapsed() >= shared.reconnect_max {
                    backoff.reset();
                }
            }
            Ok(Err(error)) => tracing::debug!(peer = peer.id.0, %error, "cannot connect"),
            Err(_) => tracing::debug!(peer = peer.id.0, "connecting took too long"),
        }
        // A sign of life shortens the wait, but never to nothing.
        time::sleep(shared.reconnect_min).await;
        tokio::select! {
            () = time::sleep(backoff.next_wait()) => {}
            () = peer.seen.notified() => {}
        }
    }
}

/// Connects and waits to be taken.
async fn connect(shared: &Shared, peer: &Peer) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let stream = TcpStream::connect(peer.address).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let hello = shared.hello(peer.id).encode().expect("a hello is small");
    for piece in hello.pieces {
        writer.write_all(&piece).await?;
    }
    match reader.read_u8().await? {
        ACCEPTED => Ok((reader, writer)),
        other => Err(io::Error::other(format!("{} answered with byte {other}, it is no replica", peer.address))),
    }
}

/// Writes what is queued until the connection ends; returns why it did.
async fn use_connection(shared: &Shared, peer: &Peer, reader: OwnedReadHalf, writer: &OwnedWriteHalf) -> io::Error {
    tokio::select! {
        error = peer.outgoing.write_rest(writer, |written| shared.count_written(written)) => error,
        error = watch_answers(shared, reader) => error,
    }
}

/// Ends when the accepting side closes the connection or falls silent.
async fn watch_answers(shared: &Shared, mut reader: OwnedReadHalf) -> io::Error {
    let mut answers = [0; 64];
    loop {
        match time::timeout(shared.silence, reader.read(&mut answers)).await {
            Ok(Ok(0)) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(Ok(count)) if answers[..count].iter().all(|&answer| answer == ALIVE) => {}
            Ok(Ok(_)) => return io::Error::other("the peer sent something else than signs of life"),
            Ok(Err(error)) => return error,
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "the peer fell silent"),
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, runtime: Handle) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let connection = Incoming::new(shared.clone(), address);
                shared.spawn(&runtime, connection.run(stream));
            }
            Err(error) => {
                // Out of file descriptors, for instance; trying at once would only burn time.
                tracing::warn!(%error, "cannot accept a connection");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Why an incoming connection is closed by us.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it said nothing")]
    Silent,
    #[error("replica {0} is not among the peers")]
    Unknown(ReplicaId),
    #[error("it took us for replica {0}")]
    Misdirected(ReplicaId),
    #[error("it belongs to cluster {0}")]
    Cluster(ClusterId),
    #[error("a message of replica {found} came over the connection of replica {expected}")]
    Mixed { expected: ReplicaId, found: ReplicaId },
}

/// A connection that was accepted, and whose it is once that is known.
struct Incoming {
    shared: Arc<Shared>,
    address: SocketAddr,
    decoder: Decoder,
    /// The peer, and the connection's number there.
    peer: Option<(Arc<Peer>, u64)>,
    superseded: CancellationToken,
}

impl Incoming {
    fn new(shared: Arc<Shared>, address: SocketAddr) -> Self {
        let superseded = CancellationToken::new();
        Incoming { shared, address, decoder: Decoder::default(), peer: None, superseded }
    }

    async fn run(mut self, stream: TcpStream) {
        let superseded = self.superseded.clone();
        // Delays of answers don't matter so much that a failure would.
        let _best_effort = stream.set_nodelay(true);
        let (mut reader, writer) = stream.into_split();
        let received = superseded.run_until_cancelled(self.receive(&mut reader, &writer)).await;
        if let Some(Err(rejection)) = received {
            count(&self.shared.counters.connections_rejected, 1);
            tracing::warn!(address = %self.address, %rejection, "closed an incoming connection");
        }
        if let Some((peer, number)) = self.peer {
            peer.incoming_ended(number, &self.shared.gate);
        }
    }

    /// Until the other side closes the connection.
    async fn receive(&mut self, reader: &mut OwnedReadHalf, writer: &OwnedWriteHalf) -> Result<(), Rejection> {
        let must_speak_by = Instant::now() + self.shared.connect_timeout;
        let mut alive = time::interval(self.shared.alive_interval);
        loop {
            let is_known = self.peer.is_some();
            tokio::select! {
                read = reader.read_buf(self.decoder.buffer()) => match read {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(bytes) => {
                        count(&self.shared.counters.bytes_received, bytes);
                        self.take_frames()?;
                        if !is_known && self.peer.is_some() {
                            let _seen_by_reader = writer.try_write(&[ACCEPTED]);
                        }
                    }
                },
                // A full socket of answers means that nobody reads them, which is not our concern.
                _ = alive.tick(), if is_known => { let _seen_by_reader = writer.try_write(&[ALIVE]); }
                () = time::sleep_until(must_speak_by), if !is_known => return Err(Rejection::Silent),
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), Rejection> {
        while let Some(frame) = self.decoder.next_frame()? {
            self.check_sender(&frame)?;
            let Frame { kind, envelope } = frame;
            if kind == FrameKind::Hello {
                continue;
            }
            if envelope.to == self.shared.me {
                count(&self.shared.counters.messages_received, 1);
                self.shared.gate.deliver(TransportEvent::Received(envelope));
            } else {
                count(&self.shared.counters.messages_misdirected, 1);
            }
        }
        Ok(())
    }

    /// The first frame says whose connection this is; the others must come from the same replica.
    fn check_sender(&mut self, frame: &Frame) -> Result<(), Rejection> {
        let Envelope { sender, to, .. } = &frame.envelope;
        if frame.kind == FrameKind::Hello {
            if *to != self.shared.me {
                return Err(Rejection::Misdirected(*to));
            }
            let both_known = ![sender.cluster_id, self.shared.cluster_id].contains(&ClusterId::NONE);
            if both_known && sender.cluster_id != self.shared.cluster_id {
                return Err(Rejection::Cluster(sender.cluster_id));
            }
        }
        match &self.peer {
            Some((peer, _)) if peer.id == sender.replica => Ok(()),
            Some((peer, _)) => Err(Rejection::Mixed { expected: peer.id, found: sender.replica }),
            None => {
                let peer = self.shared.peers.get(&sender.replica).ok_or(Rejection::Unknown(sender.replica))?;
                let number = peer.incoming_began(self.superseded.clone(), &self.shared.gate);
                self.peer = Some((peer.clone(), number));
                Ok(())
            }
        }
    }
}
