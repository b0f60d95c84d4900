//! Incoming connections: who speaks over each, whether it may, and what it sends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, WriteHalf};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{self, Instant};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::Error as TlsFailure;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::frame::{Decoder, Frame, FrameError, FrameKind};
use super::gate::count;
use super::greeting::{ALIVE, Answer, Greeting};
use super::peer::Peer;
use super::strangers::{Place, Strangers};
use super::tcp::Shared;
use super::tls::{PeerCertificate, is_tls_error};
use super::{Envelope, TransportEvent};
use crate::{ClusterId, ReplicaId};

/// What a TLS connection begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long to wait after the system gave no connection, at first and at most: out of descriptors, for instance. Trying at
/// once would only burn time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, runtime: Handle) {
    let strangers = Arc::new(Strangers::new(shared.max_strangers));
    let mut pause = Backoff::new(PAUSE.0, PAUSE.1);
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause.reset();
                let end = CancellationToken::new();
                let (place, gone) = strangers.enter(address, end.clone());
                if let Some(gone) = gone {
                    shared.tell_of_rejection(gone, &Rejection::Crowd(shared.max_strangers));
                }
                shared.spawn(&runtime, Incoming::new(shared.clone(), address, place, end).run(stream));
            }
            Err(error) => {
                if let Some(held_back) = shared.complaints.may_speak() {
                    tracing::warn!(%error, held_back, "cannot accept a connection of a peer");
                }
                time::sleep(pause.next_wait()).await;
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
    #[error("it has not said who it is, and {0} newer ones have not either")]
    Crowd(usize),
    #[error("replica {0} is not among the peers")]
    Unknown(ReplicaId),
    #[error("it took us for replica {0}")]
    Misdirected(ReplicaId),
    #[error("it belongs to cluster {0}")]
    Cluster(ClusterId),
    #[error("a message of replica {found} came over the connection of replica {expected}")]
    Mixed { expected: ReplicaId, found: ReplicaId },
    #[error("it does not speak TLS, and this replica wants TLS")]
    Plain,
    #[error("it speaks TLS, and this replica has none")]
    NoTlsHere,
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("it says it is replica {claimed}, and its certificate says otherwise: {failure}")]
    Identity { claimed: ReplicaId, failure: TlsFailure },
}

impl Rejection {
    fn is_of_tls(&self) -> bool {
        matches!(self, Rejection::Plain | Rejection::NoTlsHere | Rejection::Tls(_) | Rejection::Identity { .. })
    }

    /// What the dialler is told, unless it has been told already. Garbage gets no answer.
    fn answer(&self) -> Option<Answer> {
        match self {
            Rejection::Frame(FrameError::Version { .. }) => Some(Answer::Refused),
            Rejection::Frame(_) | Rejection::Silent | Rejection::Crowd(_) | Rejection::Tls(_) | Rejection::Plain => {
                None
            }
            _ => Some(Answer::Refused),
        }
    }
}

impl Shared {
    fn tell_of_rejection(&self, address: SocketAddr, rejection: &Rejection) {
        count(&self.counters.connections_rejected, 1);
        count(&self.counters.tls_failures, usize::from(rejection.is_of_tls()));
        if let Some(held_back) = self.complaints.may_speak() {
            tracing::warn!(%address, %rejection, held_back, "closed an incoming connection");
        }
    }
}

/// Where answers go. One that finds no room is dropped: a full socket of answers means that nobody reads them, which is
/// not our concern.
enum Answers {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

impl Answers {
    fn try_write(&mut self, bytes: &[u8]) {
        // The dialler notices missing answers.
        match self {
            Answers::Plain(writer) => {
                let _noticed = writer.try_write(bytes);
            }
            Answers::Tls(writer) => {
                // What TLS has buffered leaves with a later answer.
                let _noticed = Pin::new(writer).poll_write(&mut Context::from_waker(Waker::noop()), bytes);
            }
        }
    }

    fn greet(&mut self, answer: Answer) {
        self.try_write(&Greeting::with(answer).to_bytes());
    }
}

/// A connection that was accepted, and whose it is once that is known.
struct Incoming {
    shared: Arc<Shared>,
    address: SocketAddr,
    decoder: Decoder,
    /// Among the strangers, until it is known whose connection this is.
    place: Option<Place>,
    /// With TLS: what the dialler has shown.
    certificate: Option<PeerCertificate>,
    /// The peer, and the connection's number there.
    peer: Option<(Arc<Peer>, u64)>,
    /// Ended from outside: by a newer connection of the same peer, or for want of room among the strangers.
    end: CancellationToken,
}

impl Incoming {
    fn new(shared: Arc<Shared>, address: SocketAddr, place: Place, end: CancellationToken) -> Self {
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
            peer.incoming_ended(number, &self.shared.gate);
        }
    }

    async fn converse(&mut self, stream: TcpStream) {
        // Delays of answers don't matter so much that a failure would.
        let _best_effort = stream.set_nodelay(true);
        let must_speak_by = Instant::now() + self.shared.connect_timeout;
        let Some(credentials) = self.shared.credentials.clone() else {
            let (reader, writer) = stream.into_split();
            return self.listen(reader, Answers::Plain(writer), must_speak_by).await;
        };
        match time::timeout_at(must_speak_by, wants_tls(&stream)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return self.refuse_plain(stream),
            // It went away.
            Ok(Err(_)) => return,
            Err(_) => return self.tell_of(&Rejection::Silent),
        }
        let acceptor = TlsAcceptor::from(credentials.current().await.server);
        match time::timeout_at(must_speak_by, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.certificate = PeerCertificate::of(stream.get_ref().1);
                let (reader, writer) = tokio::io::split(stream);
                self.listen(reader, Answers::Tls(writer), must_speak_by).await;
            }
            Ok(Err(error)) if is_tls_error(&error) => self.tell_of(&Rejection::Tls(error)),
            Ok(Err(_)) => {}
            Err(_) => self.tell_of(&Rejection::Silent),
        }
    }

    fn tell_of(&self, rejection: &Rejection) {
        self.shared.tell_of_rejection(self.address, rejection);
    }

    /// Tells a replica that speaks without TLS what is wanted.
    fn refuse_plain(&self, stream: TcpStream) {
        // What is left unread when a socket is closed takes the answer with it.
        let _discarded = stream.try_read(&mut [0; 4096]);
        let (_reader, writer) = stream.into_split();
        let mut answers = Answers::Plain(writer);
        answers.greet(Answer::WantsTls);
        self.tell_of(&Rejection::Plain);
    }

    /// Receives until one side closes the connection; if it is this one, says why before it does.
    async fn listen(&mut self, mut reader: impl AsyncRead + Unpin, mut answers: Answers, must_speak_by: Instant) {
        if let Err(rejection) = self.receive(&mut reader, &mut answers, must_speak_by).await {
            if let Some(answer) = rejection.answer().filter(|_| self.peer.is_none()) {
                answers.greet(answer);
            }
            self.tell_of(&rejection);
        }
    }

    /// Until the other side closes the connection.
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
                // Its peer speaks over a newer connection, and what was sent over this one since comes too late. One message
                // may have passed here just before.
                break;
            }
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

    fn next_frame(&mut self) -> Result<Option<Frame>, Rejection> {
        self.decoder.next_frame().map_err(|error| {
            let is_tls = self.peer.is_none() && self.decoder.buffer().first() == Some(&TLS_HANDSHAKE);
            if is_tls { Rejection::NoTlsHere } else { error.into() }
        })
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
                self.check_certificate(peer.id)?;
                let number = peer.incoming_began(self.end.clone(), &self.shared.gate);
                self.peer = Some((peer.clone(), number));
                self.decoder.trust();
                self.place = None;
                Ok(())
            }
        }
    }

    /// With TLS, whoever speaks must be able to show that it is who it says.
    fn check_certificate(&self, claimed: ReplicaId) -> Result<(), Rejection> {
        let Some(credentials) = &self.shared.credentials else { return Ok(()) };
        let name = credentials.name_of(claimed).expect("every peer has a name");
        let shown = self.certificate.as_ref().ok_or(TlsFailure::NoCertificatesPresented);
        shown
            .and_then(|certificate| certificate.check_name(name))
            .map_err(|failure| Rejection::Identity { claimed, failure })
    }
}

/// Whether a connection begins as one of TLS. Otherwise it may be a replica's, or anything.
async fn wants_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == TLS_HANDSHAKE),
    }
}
