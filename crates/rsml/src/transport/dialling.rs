//! The outgoing connection to a peer: made, used for what is sent, and made again when it ends.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{self, Instant};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Sender;
use super::backoff::Backoff;
use super::frame::{EncodedFrame, Frame, VERSION};
use super::gate::count;
use super::greeting::{ALIVE, Answer, GREETING_BYTES, Greeting};
use super::outgoing::Way;
use super::peer::Peer;
use super::tcp::Shared;
use super::tls::{Credentials, is_not_tls, is_tls_error};
use crate::{Boot, DiskId, Epoch};

/// A connection that the other side took.
enum Connection {
    Plain(OwnedReadHalf, Arc<OwnedWriteHalf>),
    Tls(ReadHalf<TlsStream<TcpStream>>, WriteHalf<TlsStream<TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    /// Nothing unusual: the peer is down, or the network is.
    #[error(transparent)]
    Unreachable(#[from] io::Error),
    #[error("it doesn't speak TLS, and this replica does")]
    NoTls,
    #[error("it wants TLS, and this replica has none")]
    WantsTls,
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("it is no replica")]
    NoReplica,
    #[error("it speaks version {found}, this program speaks version {VERSION}")]
    Version { found: u16 },
    #[error("it refuses this replica; its log says why")]
    Refused,
}

impl DialError {
    /// Of an error on a connection that TLS secures.
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
}

/// Keeps the outgoing connection to a peer.
pub(super) async fn dial(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut backoff = Backoff::new(shared.reconnect_min, shared.reconnect_max);
    let mut was_connected = false;
    loop {
        match time::timeout(shared.connect_timeout, connect(&shared, &peer)).await {
            Ok(Ok(connection)) => {
                let began = Instant::now();
                count(&shared.counters.reconnects, usize::from(was_connected));
                was_connected = true;
                use_connection(&shared, &peer, connection).await;
                if began.elapsed() >= shared.reconnect_max {
                    backoff.reset();
                }
            }
            Ok(Err(error)) => complain(&shared, &peer, &error),
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

fn complain(shared: &Shared, peer: &Peer, error: &DialError) {
    if let DialError::Unreachable(error) = error {
        return tracing::debug!(peer = peer.id.0, %error, "cannot connect");
    }
    count(&shared.counters.tls_failures, usize::from(error.is_of_tls()));
    if let Some(held_back) = peer.complaints.may_speak() {
        tracing::warn!(peer = peer.id.0, address = %peer.address, %error, held_back, "cannot connect to a peer");
    }
}

/// Connects and waits to be taken.
async fn connect(shared: &Shared, peer: &Peer) -> Result<Connection, DialError> {
    let stream = TcpStream::connect(peer.address).await?;
    stream.set_nodelay(true)?;
    let hello = hello(shared, peer);
    match &shared.credentials {
        None => {
            let (mut reader, mut writer) = stream.into_split();
            let greeting = introduce(hello, &mut reader, &mut writer).await?;
            accepted(greeting)?;
            Ok(Connection::Plain(reader, Arc::new(writer)))
        }
        Some(credentials) => {
            let stream = secure(credentials, peer, stream).await.map_err(DialError::of_tls)?;
            let (mut reader, mut writer) = tokio::io::split(stream);
            // Only now does the accepting side judge the certificate, and says so instead of a greeting.
            let greeting = introduce(hello, &mut reader, &mut writer).await.map_err(DialError::of_tls)?;
            accepted(greeting)?;
            Ok(Connection::Tls(reader, writer))
        }
    }
}

/// Says who speaks. The rest of a [`Sender`] goes with every message.
fn hello(shared: &Shared, peer: &Peer) -> EncodedFrame {
    let sender = Sender {
        replica: shared.me,
        cluster_id: shared.cluster_id,
        epoch: Epoch(0),
        disk_id: DiskId(0),
        boot: Boot(0),
    };
    Frame::hello(sender, peer.id).encode().expect("a hello is small")
}

async fn secure(credentials: &Arc<Credentials>, peer: &Peer, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name = credentials.name_of(peer.id).expect("every peer that is dialled has a name").clone();
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

fn accepted(greeting: [u8; GREETING_BYTES]) -> Result<(), DialError> {
    let Greeting { version, answer } = Greeting::from_bytes(greeting).ok_or(DialError::NoReplica)?;
    match answer {
        Answer::Accepted => Ok(()),
        Answer::WantsTls => Err(DialError::WantsTls),
        _ if version != VERSION => Err(DialError::Version { found: version }),
        Answer::Refused | Answer::Other(_) => Err(DialError::Refused),
    }
}

/// Sends over a connection until it ends.
async fn use_connection(shared: &Shared, peer: &Peer, connection: Connection) {
    let wrote = |written| shared.count_written(written);
    let end = match connection {
        Connection::Plain(reader, writer) => {
            peer.outgoing_began(Way::InPlace(writer.clone()), &shared.gate);
            tokio::select! {
                error = peer.outgoing.write_rest(&writer, wrote) => error,
                error = watch_answers(shared, reader) => error,
            }
        }
        Connection::Tls(reader, mut writer) => {
            peer.outgoing_began(Way::ByTask, &shared.gate);
            tokio::select! {
                error = peer.outgoing.write_all(&mut writer, wrote) => error,
                error = watch_answers(shared, reader) => error,
            }
        }
    };
    let dropped = peer.outgoing_ended(&shared.gate);
    count(&shared.counters.messages_dropped, dropped);
    tracing::debug!(peer = peer.id.0, %end, "the outgoing connection ended");
}

/// Ends when the accepting side closes the connection or falls silent.
async fn watch_answers(shared: &Shared, mut reader: impl AsyncRead + Unpin) -> io::Error {
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
