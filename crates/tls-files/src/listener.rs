//! The files of a listener whose clients may have certificates, or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

use crate::files::{Contents, FileError, TlsFile};
use crate::parts::{self, Identity, OldestVersion};
use crate::renewal::Source;

/// The PEM files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFiles {
    /// The listener's certificate, followed by any intermediate certificates up to the authority.
    pub certificate: PathBuf,
    /// The private key of `certificate`, without a password.
    pub key: PathBuf,
    /// How clients are verified; `None` asks them for no certificate.
    pub clients: Option<ClientAuthority>,
    /// The oldest version of TLS that is accepted.
    pub oldest_version: OldestVersion,
}

/// How a listener verifies the certificates of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthority {
    /// Certificates of the authorities; a client's certificate must be signed by one of them.
    pub ca: PathBuf,
    /// Revocation lists, one for each authority in the chain of a client's certificate; `None`
    /// revokes nothing.
    pub crl: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub is_required: bool,
}

impl Source for ListenerFiles {
    type Built = Arc<ServerConfig>;

    fn paths(&self) -> Vec<(TlsFile, &Path)> {
        let mut paths = vec![(TlsFile::Certificate, self.certificate.as_path()), (TlsFile::Key, self.key.as_path())];
        if let Some(clients) = &self.clients {
            paths.push((TlsFile::Ca, &clients.ca));
            paths.extend(clients.crl.as_deref().map(|crl| (TlsFile::Crl, crl)));
        }
        paths
    }

    fn build(&self, contents: &Contents) -> Result<Arc<ServerConfig>, FileError> {
        let Identity { chain, key } = contents.identity()?;
        let builder = ServerConfig::builder_with_provider(parts::provider())
            .with_protocol_versions(self.oldest_version.versions())
            .expect("the provider supports both versions");
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let verifier = contents.client_verifier(contents.roots()?, !clients.is_required)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let server = builder.with_single_cert(chain, key).map_err(|error| contents.unfit(error))?;
        Ok(parts::without_resumption(server))
    }
}
