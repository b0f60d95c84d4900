//! The connections of a listener: accepted up to a bound, watched while they are idle, closed when
//! the server stops.
//!
//! Every listener for clients and operators accepts through here, so that each has a bound, finds
//! dead clients by TCP keep-alive, survives failing accepts, and at its bound closes the connection
//! that has been idle longest before it refuses a new one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause after a failed accept. Usually the process is out of file descriptors, and the next
/// accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The interval at which a lasting fault is logged again.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// TCP keep-alive: a client that has been silent for this long is probed…
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// …again after this…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// …and given up after this many probes without an answer.
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent data may stay unacknowledged before the connection is given up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

const BUSY: u64 = u64::MAX;

/// Of this many connections of a listener, how many may be in the handshake, and how many more may be those of clients
/// that nobody knows yet; one more closes the oldest. At least half of all are left to others, unless there are very few.
pub(crate) fn most_strangers(max_connections: usize) -> usize {
    (max_connections / 4).clamp(8, 128)
}
/// How long such a client may take for the next step that makes it known.
pub(crate) const STRANGERS_PATIENCE: Duration = Duration::from_secs(2);

/// The terms of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptTerms {
    /// The kind of client, for the log.
    pub name: &'static str,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// At the bound, a connection that has been idle for this long is closed to admit a new one.
    pub spared: Duration,
    /// The bytes sent to a client that is refused; may be empty.
    pub refusal: &'static [u8],
}

/// An event at the bound on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// The new connection was refused.
    Refused,
    /// The new connection was admitted, and an idle one was closed for it.
    InPlaceOfIdle,
}

/// Records since when a connection has been waiting for a request of its client.
#[derive(Debug)]
pub(crate) struct Idleness {
    origin: Instant,
    /// Microseconds after `origin`, or [`BUSY`].
    since_us: AtomicU64,
}

impl Idleness {
    fn new(origin: Instant) -> Arc<Self> {
        let idleness = Idleness { origin, since_us: AtomicU64::new(BUSY) };
        idleness.idle_since(Instant::now());
        Arc::new(idleness)
    }

    /// The connection has been waiting for a request since then.
    pub fn idle_since(&self, since: Instant) {
        self.since_us.store((since - self.origin).as_micros() as u64, Ordering::Relaxed);
    }

    /// Whether the connection is working on a request.
    pub fn is_busy(&self) -> bool {
        self.since_us.load(Ordering::Relaxed) == BUSY
    }

    /// Since when the connection has been waiting for a request; `None` while it works on one.
    pub fn since(&self) -> Option<Instant> {
        let since = self.since_us.load(Ordering::Relaxed);
        (since != BUSY).then(|| self.origin + Duration::from_micros(since))
    }

    /// The connection is working on a request.
    pub fn busy(&self) {
        self.since_us.store(BUSY, Ordering::Relaxed);
    }
}

/// The bytes of a connection, whatever carries them. Servers are generic over it, so that only the
/// code that accepts a connection knows whether it is plain TCP.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Whether the socket holds input that was not read. Closing it then resets the connection.
    fn has_unread_input(&self) -> bool;
}

impl ByteStream for TcpStream {
    fn has_unread_input(&self) -> bool {
        ioctl_fionread(self).is_ok_and(|unread| unread > 0)
    }
}

/// An accepted connection that is to be served.
pub(crate) struct Incoming<S = TcpStream> {
    /// The bytes of the connection.
    pub stream: S,
    /// The client's address.
    pub peer: SocketAddr,
    /// The number of the connection, by arrival at its listener.
    pub arrival: u64,
    /// To be kept up to date by the task that serves the connection.
    pub idleness: Arc<Idleness>,
    /// Cancelled when the connection should end once its running requests are answered, because the
    /// server stops or another connection needs its place.
    pub end: CancellationToken,
}

struct Known {
    idleness: Arc<Idleness>,
    end: CancellationToken,
}

/// The connections that are open.
struct Connections {
    terms: AcceptTerms,
    origin: Instant,
    tasks: JoinSet<()>,
    known: HashMap<Id, Known>,
    /// How many connections there were.
    arrived: u64,
}

/// Accepts connections until `shutdown` is cancelled. Returns the tasks of those still being
/// served.
pub(crate) async fn accept_until<S>(
    listener: TcpListener,
    terms: AcceptTerms,
    shutdown: CancellationToken,
    mut serve: impl FnMut(Incoming) -> S,
    mut tell: impl FnMut(Accepted),
) -> JoinSet<()>
where
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections =
        Connections { terms, origin: Instant::now(), tasks: JoinSet::new(), known: HashMap::new(), arrived: 0 };
    let mut complaints = Complaints::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    while let Some(ended) = connections.tasks.try_join_next_with_id() {
                        connections.forget(ended);
                    }
                    match connections.make_room() {
                        Room::Free => {}
                        Room::Made => tell(Accepted::InPlaceOfIdle),
                        Room::None => {
                            tell(Accepted::Refused);
                            tracing::debug!(%peer, "{} connection refused: {} are open", terms.name, terms.max_connections);
                            // A new socket has room for one line. If it has none, the client gets
                            // no explanation, and nothing blocks.
                            let _ = rustix::io::write(&stream, terms.refusal);
                            continue;
                        }
                    }
                    prepare(&stream, peer);
                    connections.add(stream, peer, shutdown.child_token(), &mut serve);
                }
                Err(error) => {
                    if let Some(times) = complaints.may_speak() {
                        tracing::warn!(%error, times, "cannot accept a {} connection", terms.name);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.tasks
}

enum Room {
    Free,
    /// The connection that had been idle longest ends now.
    Made,
    None,
}

impl Connections {
    fn make_room(&mut self) -> Room {
        if self.known.len() < self.terms.max_connections {
            return Room::Free;
        }
        // Connections that were told to end (for the newest of too many strangers, say) are gone
        // as soon as their tasks run again: they keep nobody out.
        self.known.retain(|_, known| !known.end.is_cancelled());
        if self.known.len() < self.terms.max_connections {
            return Room::Free;
        }
        let now_us = self.origin.elapsed().as_micros() as u64;
        let since = |known: &Known| known.idleness.since_us.load(Ordering::Relaxed);
        // Servers are rarely at the bound. A search there costs less than keeping all connections
        // sorted all the time.
        let longest = self.known.iter().map(|(id, known)| (since(known), *id)).min_by_key(|(since, _)| *since);
        match longest {
            Some((since, id))
                if since != BUSY && now_us.saturating_sub(since) >= self.terms.spared.as_micros() as u64 =>
            {
                let known = self.known.remove(&id).expect("it was found there");
                known.end.cancel();
                Room::Made
            }
            _ => Room::None,
        }
    }

    fn add<S: Future<Output = ()> + Send + 'static>(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        end: CancellationToken,
        serve: &mut impl FnMut(Incoming) -> S,
    ) {
        let idleness = Idleness::new(self.origin);
        let known = Known { idleness: idleness.clone(), end: end.clone() };
        self.arrived += 1;
        let task = self.tasks.spawn(serve(Incoming { stream, peer, arrival: self.arrived, idleness, end }));
        self.known.insert(task.id(), known);
    }

    /// Panics of handlers are caught for each call. A panic that gets here is a bug of the server
    /// itself.
    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "the task of a {} connection panicked", self.terms.name);
                }
                error.id()
            }
        };
        self.known.remove(&id);
    }
}

/// Sets the options of the socket. An option that cannot be set is skipped.
fn prepare(stream: &TcpStream, peer: SocketAddr) {
    let set = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED.as_millis() as u32)
    };
    if let Err(error) = set() {
        tracing::debug!(%peer, %error, "cannot set the options of a socket");
    }
}

/// Limits how often a lasting fault is logged.
#[derive(Default)]
pub(crate) struct Complaints {
    spoke_at: Option<Instant>,
    /// Faults since then.
    unsaid: u64,
}

impl Complaints {
    /// [`Complaints::may_speak`] for those that several tasks share.
    pub fn count(shared: &Mutex<Complaints>) -> Option<u64> {
        shared.lock().unwrap_or_else(PoisonError::into_inner).may_speak()
    }

    /// Counts a fault. Returns how many to report if it is time to log, or `None`.
    fn may_speak(&mut self) -> Option<u64> {
        self.unsaid += 1;
        if self.spoke_at.is_some_and(|at| at.elapsed() < COMPLAINT_INTERVAL) {
            return None;
        }
        self.spoke_at = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn connections_that_are_about_to_end_keep_nobody_out() {
        let terms = AcceptTerms { name: "test", max_connections: 1, spared: Duration::from_secs(60), refusal: b"" };
        let (origin, tasks) = (Instant::now(), JoinSet::new());
        let mut connections = Connections { terms, origin, tasks, known: HashMap::new(), arrived: 0 };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it listens");
        let (peer, end) = (stream.local_addr().expect("an address"), CancellationToken::new());
        connections.add(stream, peer, end.clone(), &mut |_| std::future::pending());
        assert!(matches!(connections.make_room(), Room::None), "the one that is there is not idle for long");
        end.cancel();
        assert!(matches!(connections.make_room(), Room::Free));
    }

    /// A listener whose connections stay until the server ends them, and are idle until they have
    /// sent a byte.
    struct Fixture {
        address: SocketAddr,
        told: mpsc::UnboundedReceiver<Accepted>,
        shutdown: CancellationToken,
        serving: tokio::task::JoinHandle<JoinSet<()>>,
    }

    async fn fixture(max_connections: usize, spared: Duration) -> Fixture {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let terms = AcceptTerms { name: "test", max_connections, spared, refusal: b"full" };
        let (tell, told) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let serve = |Incoming { mut stream, idleness, end, .. }: Incoming| async move {
            let mut byte = [0];
            tokio::select! {
                () = end.cancelled() => return,
                _ = stream.read_exact(&mut byte) => idleness.busy(),
            }
            stream.write_all(b"busy").await.expect("a client");
            end.cancelled().await;
        };
        let tell = move |accepted| tell.send(accepted).expect("the test lives");
        let serving = tokio::spawn(accept_until(listener, terms, shutdown.clone(), serve, tell));
        Fixture { address, told, shutdown, serving }
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("it listens")
    }

    async fn busy(address: SocketAddr) -> TcpStream {
        let mut client = connect(address).await;
        client.write_all(b"x").await.expect("it reads");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.expect("an answer");
        client
    }

    async fn rest(mut client: TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("it closes in good order");
        text
    }

    #[tokio::test]
    async fn at_the_bound_the_longest_idle_one_goes() {
        let mut fixture = fixture(2, Duration::ZERO).await;
        let busy = busy(fixture.address).await;
        let idle = connect(fixture.address).await;
        let newest = connect(fixture.address).await;
        assert_eq!(fixture.told.recv().await, Some(Accepted::InPlaceOfIdle));
        assert_eq!(rest(idle).await, "");
        fixture.shutdown.cancel();
        fixture.serving.await.expect("it ends").join_all().await;
        drop((busy, newest));
    }

    #[tokio::test]
    async fn busy_and_briefly_idle_connections_stay_and_the_new_one_is_refused() {
        let mut fixture = fixture(2, Duration::from_secs(3600)).await;
        let (busy, idle) = (busy(fixture.address).await, connect(fixture.address).await);
        assert_eq!(rest(connect(fixture.address).await).await, "full");
        assert_eq!(fixture.told.recv().await, Some(Accepted::Refused));
        drop((busy, idle));
    }

    #[tokio::test]
    async fn dead_clients_are_found_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let _client = connect(listener.local_addr().expect("an address")).await;
        let (stream, peer) = listener.accept().await.expect("a connection");
        prepare(&stream, peer);
        assert!(sockopt::socket_keepalive(&stream).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(&stream), Ok(KEEPALIVE_IDLE));
        assert_eq!(sockopt::tcp_user_timeout(&stream), Ok(120_000));
    }

    #[test]
    fn a_lasting_fault_is_logged_once_and_counted() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.may_speak(), Some(1));
        assert_eq!((complaints.may_speak(), complaints.may_speak()), (None, None));
        complaints.spoke_at = Instant::now().checked_sub(COMPLAINT_INTERVAL);
        assert_eq!(complaints.may_speak(), Some(3));
    }
}
