//! TLS of a client: what it believes servers by, and what it shows them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tls_files::{ClientFiles, FileError, IdentityFiles, Renewed, is_not_tls};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::ClientError;

/// Encrypts connections to servers whose certificate one of some authorities has signed, and which
/// names the host of the address that was connected to. The PEM files are looked at again for every
/// new connection.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Renewed<ClientFiles>>,
}

impl Tls {
    /// Believes servers whose certificate is signed by an authority in the file `ca`.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`], naming the file that cannot be used.
    pub fn new(ca: impl Into<PathBuf>) -> Result<Tls, ClientError> {
        Tls::of(ClientFiles { ca: ca.into(), identity: None })
    }

    /// Also shows servers a certificate, whose private key is in the file `key`.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`], naming the file that cannot be used.
    pub fn with_identity(
        ca: impl Into<PathBuf>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Tls, ClientError> {
        let identity = IdentityFiles { certificate: certificate.into(), key: key.into() };
        Tls::of(ClientFiles { ca: ca.into(), identity: Some(identity) })
    }

    fn of(files: ClientFiles) -> Result<Tls, ClientError> {
        let unusable = |error: FileError| ClientError::InvalidArgument(error.to_string());
        let files = Renewed::new(files, |renewed| {
            if let Err(error) = renewed {
                tracing::warn!(%error, "the certificates have changed and cannot be used; those read before stay in force");
            }
        });
        Ok(Tls { files: Arc::new(files.map_err(unusable)?) })
    }

    /// The settings of a handshake, for programs that connect by themselves.
    pub async fn configuration(&self) -> Arc<ClientConfig> {
        self.files.current().await
    }

    /// Completes the handshake on a connection to `HOST:PORT`.
    ///
    /// # Errors
    /// The reason in words.
    pub async fn secure(&self, address: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let name = server_name(address).map_err(TlsFailure)?;
        let connector = TlsConnector::from(self.configuration().await);
        connector.connect(name, stream).await.map_err(|error| match is_not_tls(&error) {
            true => TlsFailure("the server does not speak TLS there".to_string()),
            false if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                TlsFailure("the server closed the connection instead of speaking TLS".to_string())
            }
            false => TlsFailure(format!("TLS failed: {error}")),
        })
    }
}

/// Why a connection could not be encrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsFailure(String);

/// The name, or the IP address, that the certificate of a server at this `HOST:PORT` must have.
fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_string()).map_err(|error| format!("{host} cannot be in a certificate: {error}"))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(self.files.source()).finish()
    }
}

/// The same files are the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.files.source() == other.files.source()
    }
}

impl Eq for Tls {}
