//! The outgoing connection to a peer: dials the peer, sends over the connection, and dials again
//! when it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::dial::Name;
use tls_files::{is_not_tls, is_tls_error};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{self, Instant};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::backoff::Backoff;
use super::counters::count;
use super::frame::{EncodedFrame, Frame, VERSION};
use super::greeting::{ALIVE, Answer, GREETING_BYTES, Greeting};
use super::outgoing::WriteMode;
use super::peer::Peer;
use super::shared::TransportShared;
use super::tls::Credentials;
use super::trouble::TroubleKind;
use crate::message::MessageHeader;
use crate::{Boot, ClusterId, DiskId, Epoch};

/// A connection that the other side accepted.
enum Connection {
    Plain(OwnedReadHalf, Arc<OwnedWriteHalf>),
    Tls(ReadHalf<TlsStream<TcpStream>>, WriteHalf<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot resolve its name: {0}")]
    Unresolved(io::Error),
    /// The peer or the network is down, which is nothing unusual.
    #[error(transparent)]
    Unreachable(#[from] io::Error),
    #[error("no answer within {0} ms")]
    Silent(u128),
    #[error("the peer doesn't use TLS, and this replica does")]
    NoTls,
    #[error("the peer wants TLS, and this replica has none")]
    WantsTls,
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("what answers there is no replica")]
    NoReplica,
    #[error("the peer speaks version {found}, this program speaks version {VERSION}")]
    Version { found: u16 },
    #[error("the peer refuses this replica; its log says why")]
    Refused,
    #[error("the peer belongs to another cluster than the data of this replica, which are of cluster {0}")]
    OtherCluster(ClusterId),
}

impl DialError {
    /// Classifies an error on a TLS connection.
    fn of_tls(error: io::Error) -> Self {
        match error {
            error if is_not_tls(&error) => DialError::NoTls,
            error if is_tls_error(&error) => DialError::Tls(error),
            error => DialError::Unreachable(error),
        }
    }

    fn is_of_tls(&self) -> bool {
        matches!(self, DialError::NoTls | DialError::WantsTls | DialError::Tls(_))
    }

    fn kind(&self) -> TroubleKind {
        match self {
            DialError::Unresolved(_) => TroubleKind::Unresolved,
            DialError::Unreachable(_) | DialError::Silent(_) => TroubleKind::Unreachable,
            DialError::OtherCluster(_) => TroubleKind::OtherCluster,
            _ => TroubleKind::Refused,
        }
    }
}

/// A peer that is down is dialled several times a second, but its name is resolved only this often.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(1);

/// The addresses of a peer.
struct Route {
    name: Name,
    looked_up: Option<Instant>,
    /// The address that accepted a connection last time but did not greet: the others are tried
    /// first.
    silent: Option<SocketAddr>,
}

impl Route {
    fn new(peer: &Peer) -> Self {
        Route { name: Name::new(peer.address.as_str()), looked_up: None, silent: None }
    }

    /// The addresses that the name has now, or had at most [`LOOK_UP_PAUSE`] ago.
    async fn look_up(&mut self, patience: Duration) -> io::Result<Vec<SocketAddr>> {
        if self.looked_up.is_some_and(|at| at.elapsed() < LOOK_UP_PAUSE) {
            return Ok(self.name.last_known().to_vec());
        }
        let found = self.name.look_up(patience).await?;
        self.looked_up = Some(Instant::now());
        Ok(found)
    }

    fn in_order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        addresses.sort_by_key(|address| self.silent == Some(*address));
        addresses
    }

    /// Connects, and waits until the peer accepts. The look-up may take `connect_timeout`, and so
    /// may all the rest.
    async fn connect(&mut self, shared: &TransportShared, peer: &Peer) -> Result<Connection, DialError> {
        let patience = shared.connect_timeout;
        match self.look_up(patience).await {
            Ok(addresses) => {
                let addresses = self.in_order(addresses);
                let connecting = time::timeout(patience, self.connect_to(addresses, shared, peer)).await;
                connecting.unwrap_or(Err(DialError::Silent(patience.as_millis())))
            }
            Err(error) => {
                // If only the name server is down, the address that the peer had last may still
                // work.
                let addresses = self.in_order(self.name.last_known().to_vec());
                let connecting = time::timeout(patience, self.connect_to(addresses, shared, peer)).await;
                connecting.ok().and_then(Result::ok).ok_or(DialError::Unresolved(error))
            }
        }
    }

    async fn connect_to(
        &mut self,
        addresses: Vec<SocketAddr>,
        shared: &TransportShared,
        peer: &Peer,
    ) -> Result<Connection, DialError> {
        let head_start = ::dial::HEAD_START.min(shared.connect_timeout / 4);
        let stream = ::dial::connect_to_any(&addresses, head_start).await?;
        self.silent = stream.peer_addr().ok();
        let connection = greet(stream, shared, peer).await?;
        self.silent = None;
        Ok(connection)
    }
}

/// Maintains the outgoing connection to a peer, until the peer is removed.
pub(super) async fn dial(shared: Arc<TransportShared>, peer: Arc<Peer>) {
    peer.removed.run_until_cancelled(dial_forever(&shared, &peer)).await;
    let dropped = peer.outgoing_ended(&shared.sink);
    count(&shared.counters.messages_dropped, dropped);
}

async fn dial_forever(shared: &TransportShared, peer: &Peer) {
    let mut backoff = Backoff::new(shared.reconnect_min, shared.reconnect_max);
    let mut route = Route::new(peer);
    let mut was_connected = false;
    loop {
        match route.connect(shared, peer).await {
            Ok(connection) => {
                peer.trouble.clear();
                let began = Instant::now();
                count(&shared.counters.reconnects, usize::from(was_connected));
                was_connected = true;
                use_connection(shared, peer, connection).await;
                if began.elapsed() >= shared.reconnect_max {
                    backoff.reset();
                }
            }
            Err(error) => {
                report(shared, peer, &error);
                if error.kind() == TroubleKind::Unresolved {
                    time::sleep(LOOK_UP_PAUSE).await;
                }
            }
        }
        // A sign of life shortens the wait, but never to nothing.
        time::sleep(shared.reconnect_min).await;
        tokio::select! {
            () = time::sleep(backoff.next_wait()) => {}
            () = peer.seen.notified() => {}
        }
    }
}

fn report(shared: &TransportShared, peer: &Peer, error: &DialError) {
    peer.trouble.set(peer.address.as_str(), error.kind(), error.to_string());
    if error.kind() == TroubleKind::Unreachable {
        return tracing::debug!(peer = peer.id.0, %error, "cannot connect");
    }
    count(&shared.counters.tls_failures, usize::from(error.is_of_tls()));
    if let Some(held_back) = peer.complaints.allow() {
        tracing::warn!(peer = peer.id.0, address = %peer.address, %error, held_back, "cannot connect to a peer");
    }
}

/// Sends the hello, and waits until the peer accepts the connection.
async fn greet(stream: TcpStream, shared: &TransportShared, peer: &Peer) -> Result<Connection, DialError> {
    stream.set_nodelay(true)?;
    let hello = hello(shared, peer);
    match &shared.credentials {
        None => {
            let (mut reader, mut writer) = stream.into_split();
            let greeting = introduce(hello, &mut reader, &mut writer).await?;
            accepted(greeting, shared)?;
            Ok(Connection::Plain(reader, Arc::new(writer)))
        }
        Some(credentials) => {
            let stream = secure(credentials, peer, stream).await.map_err(DialError::of_tls)?;
            let (mut reader, mut writer) = tokio::io::split(stream);
            // The accepting side verifies the certificate only now, and may send a TLS alert
            // instead of a greeting.
            let greeting = introduce(hello, &mut reader, &mut writer).await.map_err(DialError::of_tls)?;
            accepted(greeting, shared)?;
            Ok(Connection::Tls(reader, writer))
        }
    }
}

/// Identifies this replica. The other fields of a [`MessageHeader`] go with every message.
fn hello(shared: &TransportShared, peer: &Peer) -> EncodedFrame {
    let sender = MessageHeader {
        replica: shared.me,
        cluster_id: shared.cluster_id,
        epoch: Epoch(0),
        disk_id: DiskId(0),
        boot: Boot(0),
    };
    Frame::hello(sender, peer.id).encode().expect("a hello is small")
}

async fn secure(credentials: &Credentials, peer: &Peer, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name = credentials.name_of(peer.id);
    let connector = TlsConnector::from(credentials.current().await.client);
    connector.connect(name, stream).await
}

async fn introduce(
    hello: EncodedFrame,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<[u8; GREETING_BYTES]> {
    for piece in hello.pieces {
        writer.write_all(&piece).await?;
    }
    writer.flush().await?;
    let mut greeting = [0; GREETING_BYTES];
    reader.read_exact(&mut greeting).await?;
    Ok(greeting)
}

fn accepted(greeting: [u8; GREETING_BYTES], shared: &TransportShared) -> Result<(), DialError> {
    let Greeting { version, answer } = Greeting::from_bytes(greeting).ok_or(DialError::NoReplica)?;
    match answer {
        Answer::Accepted => Ok(()),
        Answer::WantsTls => Err(DialError::WantsTls),
        Answer::OtherCluster => Err(DialError::OtherCluster(shared.cluster_id)),
        _ if version != VERSION => Err(DialError::Version { found: version }),
        Answer::Refused | Answer::Other(_) => Err(DialError::Refused),
    }
}

/// Sends over a connection until it ends.
async fn use_connection(shared: &TransportShared, peer: &Peer, connection: Connection) {
    let wrote = |written| shared.count_written(written);
    let end = match connection {
        Connection::Plain(reader, writer) => {
            peer.outgoing_began(WriteMode::BySender(writer.clone()), &shared.sink);
            tokio::select! {
                error = peer.outgoing.write_rest(&writer, wrote) => error,
                error = watch_answers(shared, reader) => error,
            }
        }
        Connection::Tls(reader, mut writer) => {
            peer.outgoing_began(WriteMode::ByTask, &shared.sink);
            tokio::select! {
                error = peer.outgoing.write_all(&mut writer, wrote) => error,
                error = watch_answers(shared, reader) => error,
            }
        }
    };
    let dropped = peer.outgoing_ended(&shared.sink);
    count(&shared.counters.messages_dropped, dropped);
    tracing::debug!(peer = peer.id.0, %end, "the outgoing connection ended");
}

/// Ends when the accepting side closes the connection or falls silent.
async fn watch_answers(shared: &TransportShared, mut reader: impl AsyncRead + Unpin) -> io::Error {
    let mut answers = [0; 64];
    loop {
        match time::timeout(shared.silence, reader.read(&mut answers)).await {
            Ok(Ok(0)) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(Ok(count)) if answers[..count].iter().all(|&answer| answer == ALIVE) => {}
            Ok(Ok(_)) => return io::Error::other("the peer sent something other than signs of life"),
            Ok(Err(error)) => return error,
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "the peer fell silent"),
        }
    }
}
