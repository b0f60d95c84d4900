//! The way of one connection through the [`Doorway`].

use std::io;
use std::net::SocketAddr;

use tls_files::{PeerCertificate, is_tls};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Doorway, TlsMode, count};
use crate::accepting::{ByteStream, Complaints, Incoming, STRANGERS_PATIENCE};
use crate::access::ConnectionFacts;

/// A connection that may be served, or that gets an explanation.
pub(crate) enum Admitted {
    /// Without TLS.
    Plain(Incoming, ConnectionFacts),
    /// With TLS.
    Encrypted(Box<Incoming<TlsStream<TcpStream>>>, ConnectionFacts),
    /// It has no TLS, and needs it. The listener explains that in its own protocol.
    LacksTls(Incoming),
}

/// The deadline of a client without TLS for the bytes that the refusal depends on.
pub(crate) fn plain_reply_deadline() -> Instant {
    Instant::now() + STRANGERS_PATIENCE
}

impl ByteStream for TlsStream<TcpStream> {
    fn has_unread_input(&self) -> bool {
        self.get_ref().0.has_unread_input()
    }
}

/// Why a connection gets no further.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the handshake was not complete within {} s", STRANGERS_PATIENCE.as_secs())]
    TooSlow,
    #[error("{0}")]
    Handshake(io::Error),
}

impl Doorway {
    /// Finds out whether a connection uses TLS, and completes the handshake. `None` if the
    /// connection has ended or is refused.
    pub async fn admit(&self, incoming: Incoming) -> Option<Admitted> {
        if self.mode == TlsMode::Off {
            let facts = ConnectionFacts::plain(incoming.peer, incoming.stream.local_addr().ok());
            return Some(Admitted::Plain(incoming, facts));
        }
        let end = incoming.end.clone();
        end.run_until_cancelled(self.find_out(incoming)).await?
    }

    async fn find_out(&self, incoming: Incoming) -> Option<Admitted> {
        let peer = incoming.peer;
        let enter = || self.strangers.enter_as(incoming.arrival, peer, incoming.end.clone());
        let (place, first, must_be_done_by) = match self.mode {
            TlsMode::Allow => {
                let first = first_byte(&incoming.stream).await?;
                (is_tls(first).then(enter), first, Instant::now() + STRANGERS_PATIENCE)
            }
            TlsMode::Off | TlsMode::Require => {
                let (place, deadline) = (enter(), Instant::now() + STRANGERS_PATIENCE);
                match timeout_at(deadline, first_byte(&incoming.stream)).await {
                    Ok(first) => (Some(place), first?, deadline),
                    Err(_) => return self.refuse(peer, &Refused::TooSlow),
                }
            }
        };
        let admitted = match (is_tls(first), self.mode) {
            (true, _) => self.shake_hands(incoming, must_be_done_by).await,
            (false, TlsMode::Allow) => {
                let facts = ConnectionFacts::plain(peer, incoming.stream.local_addr().ok());
                Some(Admitted::Plain(incoming, facts))
            }
            (false, _) => {
                count(&self.counters.failures);
                tracing::debug!(%peer, "a {} connection lacks TLS", self.name);
                Some(Admitted::LacksTls(incoming))
            }
        };
        drop(place);
        admitted
    }

    async fn shake_hands(&self, incoming: Incoming, must_be_done_by: Instant) -> Option<Admitted> {
        let Incoming { stream, peer, arrival, idleness, end } = incoming;
        let certificates = self.certificates.as_ref()?;
        let handshake = async {
            // The files are looked at only for a client that has begun with TLS.
            let acceptor = TlsAcceptor::from(certificates.current().await);
            acceptor.accept(stream).await
        };
        let stream = match timeout_at(must_be_done_by, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refuse(peer, &Refused::Handshake(error)),
            Err(_) => return self.refuse(peer, &Refused::TooSlow),
        };
        count(&self.counters.handshakes);
        let certificate = PeerCertificate::of(stream.get_ref().1).and_then(|certificate| certificate.names());
        let certificate_user = certificate.and_then(|names| self.user_in(&names));
        let ours = stream.get_ref().0.local_addr().ok();
        let facts = ConnectionFacts { encrypted: true, certificate_user, ..ConnectionFacts::plain(peer, ours) };
        Some(Admitted::Encrypted(Box::new(Incoming { stream, peer, arrival, idleness, end }), facts))
    }

    fn refuse<T>(&self, peer: SocketAddr, refused: &Refused) -> Option<T> {
        count(&self.counters.failures);
        match Complaints::count(&self.complaints) {
            Some(times) => tracing::warn!(%peer, reason = %refused, times, "TLS with a {} failed", self.name),
            None => tracing::debug!(%peer, reason = %refused, "TLS with a {} failed", self.name),
        }
        None
    }
}

/// The first byte, which stays in the socket. `None` if the client has gone.
async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) => Some(first[0]),
        Ok(0) | Err(_) => None,
    }
}
