//! The other side of a connection: its certificate, and how TLS with it fails.

use std::io;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, CommonState, InvalidMessage};

use crate::certificates::Names;

/// The certificate that a peer presented. The handshake has verified that an authority signed it
/// and that it is valid today, but not whose it is.
pub struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// The peer's certificate on a connection whose handshake has succeeded; `None` if the peer
    /// presented none.
    pub fn of(connection: &CommonState) -> Option<Self> {
        connection.peer_certificates()?.first().map(|certificate| PeerCertificate(certificate.clone().into_owned()))
    }

    /// The names of the owner in the certificate; `None` if it cannot be read.
    pub fn names(&self) -> Option<Names> {
        Names::of(&self.0)
    }

    /// Checks that `name` is among the certificate's subject alternative names.
    ///
    /// # Errors
    /// Lists the names that the certificate does have.
    pub fn check_name(&self, name: &ServerName<'_>) -> Result<(), rustls::Error> {
        verify_server_name(&ParsedCertificate::try_from(&self.0)?, name)
    }
}

/// Whether TLS itself failed, as opposed to the connection below it.
pub fn is_tls_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether the other side answered with something that is not TLS.
pub fn is_not_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}
