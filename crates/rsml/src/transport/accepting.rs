//! Incoming connections: finds out which replica opened each, checks that it may, and receives its
//! messages.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tls_files::{PeerCertificate, is_tls_error};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, WriteHalf};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{self, Instant};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::Error as TlsFailure;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::counters::count;
use super::frame::{Decoder, Frame, FrameError, FrameKind};
use super::greeting::{ALIVE, Answer, Greeting};
use super::peer::Peer;
use super::shared::TransportShared;
use super::strangers::{Place, Strangers};
use super::{Envelope, TransportEvent};
use crate::{ClusterId, ReplicaId};

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// The first and the longest wait after `accept` has failed, for instance for lack of file
/// descriptors. Retrying at once would only waste processor time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) async fn accept(shared: Arc<TransportShared>, listener: TcpListener) {
    let strangers = Arc::new(Strangers::new(shared.max_strangers));
    let mut pause = Backoff::new(PAUSE.0, PAUSE.1);
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause.reset();
                let end = CancellationToken::new();
                let (place, gone) = strangers.enter(address, end.clone());
                if let Some(gone) = gone {
                    shared.report_rejection(gone, &Rejection::Crowd(shared.max_strangers));
                }
                shared.spawn(Incoming::new(shared.clone(), address, place, end).run(stream));
            }
            Err(error) => {
                if let Some(held_back) = shared.complaints.allow() {
                    tracing::warn!(%error, held_back, "cannot accept a connection of a peer");
                }
                time::sleep(pause.next_wait()).await;
            }
        }
    }
}

/// Why this replica closes an incoming connection.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it sent nothing")]
    Silent,
    #[error("it has not identified itself, and neither have {0} newer connections")]
    Crowd(usize),
    #[error("replica {0} is not among the peers")]
    Unknown(ReplicaId),
    #[error("it took this replica for replica {0}")]
    Misdirected(ReplicaId),
    #[error("replica {replica} there belongs to cluster {found}, and this one to cluster {own}")]
    Cluster { replica: ReplicaId, found: ClusterId, own: ClusterId },
    #[error("a message of replica {found} came over the connection of replica {expected}")]
    Mixed { expected: ReplicaId, found: ReplicaId },
    #[error("it does not use TLS, and this replica wants TLS")]
    Plain,
    #[error("it uses TLS, and this replica has none")]
    NoTlsHere,
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("it claims to be replica {claimed}, but its certificate does not: {failure}")]
    Identity { claimed: ReplicaId, failure: TlsFailure },
}

impl Rejection {
    fn is_of_tls(&self) -> bool {
        matches!(self, Rejection::Plain | Rejection::NoTlsHere | Rejection::Tls(_) | Rejection::Identity { .. })
    }

    /// The answer that the dialler gets, unless it got one already. Garbage gets no answer.
    fn answer(&self) -> Option<Answer> {
        match self {
            Rejection::Frame(FrameError::Version { .. }) => Some(Answer::Refused),
            Rejection::Frame(_) | Rejection::Silent | Rejection::Crowd(_) | Rejection::Tls(_) | Rejection::Plain => {
                None
            }
            Rejection::Cluster { .. } => Some(Answer::OtherCluster),
            _ => Some(Answer::Refused),
        }
    }
}

impl TransportShared {
    fn report_rejection(&self, address: SocketAddr, rejection: &Rejection) {
        count(&self.counters.connections_rejected, 1);
        count(&self.counters.tls_failures, usize::from(rejection.is_of_tls()));
        if let Some(held_back) = self.complaints.allow() {
            tracing::warn!(%address, %rejection, held_back, "closed an incoming connection");
        }
    }
}

/// The writing half of a connection. Answers for which the socket has no room are dropped: the
/// dialler does not read them, and will notice that they are missing.
enum Answers {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

impl Answers {
    fn try_write(&mut self, bytes: &[u8]) {
        match self {
            Answers::Plain(writer) => {
                let _best_effort = writer.try_write(bytes);
            }
            Answers::Tls(writer) => {
                // Bytes that TLS buffers leave with a later answer.
                let _best_effort = Pin::new(writer).poll_write(&mut Context::from_waker(Waker::noop()), bytes);
            }
        }
    }

    fn greet(&mut self, answer: Answer) {
        self.try_write(&Greeting::with(answer).to_bytes());
    }
}

/// A connection that was accepted, and the peer that opened it, once that is known.
struct Incoming {
    shared: Arc<TransportShared>,
    address: SocketAddr,
    decoder: Decoder,
    /// The connection's place among the strangers, until the dialler has identified itself.
    place: Option<Place>,
    /// With TLS: the dialler's certificate.
    certificate: Option<PeerCertificate>,
    /// The peer that opened the connection, and the connection's number there.
    peer: Option<(Arc<Peer>, u64)>,
    /// Cancelled when the peer opens a newer connection, or when there are too many strangers.
    end: CancellationToken,
}

impl Incoming {
    fn new(shared: Arc<TransportShared>, address: SocketAddr, place: Place, end: CancellationToken) -> Self {
        Incoming {
            shared,
            address,
            decoder: Decoder::of_stranger(),
            place: Some(place),
            certificate: None,
            peer: None,
            end,
        }
    }

    async fn run(mut self, stream: TcpStream) {
        let end = self.end.clone();
        let _ended = end.run_until_cancelled(self.converse(stream)).await;
        if let Some((peer, number)) = self.peer {
            peer.incoming_ended(number, &self.shared.sink);
        }
    }

    async fn converse(&mut self, stream: TcpStream) {
        // If this fails, answers may be delayed, which does no harm.
        let _best_effort = stream.set_nodelay(true);
        let must_speak_by = Instant::now() + self.shared.connect_timeout;
        let Some(credentials) = self.shared.credentials.clone() else {
            let (reader, writer) = stream.into_split();
            return self.listen(reader, Answers::Plain(writer), must_speak_by).await;
        };
        match time::timeout_at(must_speak_by, wants_tls(&stream)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return self.refuse_plain(stream),
            // The dialler closed the connection.
            Ok(Err(_)) => return,
            Err(_) => return self.report(&Rejection::Silent),
        }
        let acceptor = TlsAcceptor::from(credentials.current().await.server);
        match time::timeout_at(must_speak_by, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.certificate = PeerCertificate::of(stream.get_ref().1);
                let (reader, writer) = tokio::io::split(stream);
                self.listen(reader, Answers::Tls(writer), must_speak_by).await;
            }
            Ok(Err(error)) if is_tls_error(&error) => self.report(&Rejection::Tls(error)),
            Ok(Err(_)) => {}
            Err(_) => self.report(&Rejection::Silent),
        }
    }

    fn report(&self, rejection: &Rejection) {
        self.shared.report_rejection(self.address, rejection);
    }

    /// Answers a dialler without TLS that this replica wants TLS.
    fn refuse_plain(&self, stream: TcpStream) {
        // Closing a socket with unread bytes resets the connection, and the answer would be lost.
        let _discarded = stream.try_read(&mut [0; 4096]);
        let (_reader, writer) = stream.into_split();
        let mut answers = Answers::Plain(writer);
        answers.greet(Answer::WantsTls);
        self.report(&Rejection::Plain);
    }

    /// Receives until one side closes the connection. If it is this side, sends and logs the reason
    /// first.
    async fn listen(&mut self, mut reader: impl AsyncRead + Unpin, mut answers: Answers, must_speak_by: Instant) {
        if let Err(rejection) = self.receive(&mut reader, &mut answers, must_speak_by).await {
            if let Some(answer) = rejection.answer().filter(|_| self.peer.is_none()) {
                answers.greet(answer);
            }
            self.report(&rejection);
        }
    }

    /// Receives until the other side closes the connection.
    async fn receive(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        answers: &mut Answers,
        must_speak_by: Instant,
    ) -> Result<(), Rejection> {
        let mut alive = time::interval(self.shared.alive_interval);
        loop {
            let is_known = self.peer.is_some();
            tokio::select! {
                read = reader.read_buf(self.decoder.buffer()) => match read {
                    Err(error) if is_tls_error(&error) => return Err(Rejection::Tls(error)),
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(bytes) => {
                        count(&self.shared.counters.bytes_received, bytes);
                        self.take_frames()?;
                        if !is_known && self.peer.is_some() {
                            answers.greet(Answer::Accepted);
                        }
                    }
                },
                _ = alive.tick(), if is_known => answers.try_write(&[ALIVE]),
                () = time::sleep_until(must_speak_by), if !is_known => return Err(Rejection::Silent),
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), Rejection> {
        while let Some(frame) = self.next_frame()? {
            if self.end.is_cancelled() {
                // The peer has opened a newer connection: what it sent over this one comes too
                // late. One message may have passed this check just before.
                break;
            }
            self.check_sender(&frame)?;
            let Frame { kind, envelope } = frame;
            if kind == FrameKind::Hello {
                continue;
            }
            if envelope.to == self.shared.me {
                count(&self.shared.counters.messages_received, 1);
                self.shared.sink.deliver(TransportEvent::Received(envelope));
            } else {
                count(&self.shared.counters.messages_misdirected, 1);
            }
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Rejection> {
        self.decoder.next_frame().map_err(|error| {
            let is_tls = self.peer.is_none() && self.decoder.buffer().first() == Some(&TLS_HANDSHAKE);
            if is_tls { Rejection::NoTlsHere } else { error.into() }
        })
    }

    /// The first frame identifies the dialler; all others must come from the same replica.
    fn check_sender(&mut self, frame: &Frame) -> Result<(), Rejection> {
        let Envelope { sender, to, .. } = &frame.envelope;
        if frame.kind == FrameKind::Hello {
            if *to != self.shared.me {
                return Err(Rejection::Misdirected(*to));
            }
            let both_known = ![sender.cluster_id, self.shared.cluster_id].contains(&ClusterId::NONE);
            if both_known && sender.cluster_id != self.shared.cluster_id {
                let (found, own) = (sender.cluster_id, self.shared.cluster_id);
                return Err(Rejection::Cluster { replica: sender.replica, found, own });
            }
        }
        match &self.peer {
            Some((peer, _)) if peer.id == sender.replica => Ok(()),
            Some((peer, _)) => Err(Rejection::Mixed { expected: peer.id, found: sender.replica }),
            None => {
                let peer = self.shared.peer(sender.replica).ok_or(Rejection::Unknown(sender.replica))?;
                self.check_certificate(peer.id)?;
                let number = peer.incoming_began(self.end.clone(), &self.shared.sink);
                self.peer = Some((peer, number));
                self.decoder.trust();
                self.place = None;
                Ok(())
            }
        }
    }

    /// With TLS, the certificate must name the replica that the dialler claims to be.
    fn check_certificate(&self, claimed: ReplicaId) -> Result<(), Rejection> {
        let Some(credentials) = &self.shared.credentials else { return Ok(()) };
        let name = credentials.name_of(claimed);
        let shown = self.certificate.as_ref().ok_or(TlsFailure::NoCertificatesPresented);
        shown
            .and_then(|certificate| certificate.check_name(&name))
            .map_err(|failure| Rejection::Identity { claimed, failure })
    }
}

/// Whether the first byte is that of a TLS handshake. If not, the dialler may be a replica without
/// TLS, or anything else.
async fn wants_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == TLS_HANDSHAKE),
    }
}
