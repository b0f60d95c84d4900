//! The files of a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::Resumption;

use crate::files::{Contents, FileError, TlsFile};
use crate::parts::{self, Identity, OldestVersion};
use crate::renewal::Source;

/// The PEM files of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Certificates of the authorities; the server's certificate must be signed by one of them.
    pub ca: PathBuf,
    /// The identity that the client shows; `None` for none.
    pub identity: Option<IdentityFiles>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, followed by any intermediate certificates up to the authority.
    pub certificate: PathBuf,
    /// The private key of `certificate`, without a password.
    pub key: PathBuf,
}

impl Source for ClientFiles {
    type Built = Arc<ClientConfig>;

    fn paths(&self) -> Vec<(TlsFile, &Path)> {
        let mut paths = vec![(TlsFile::Ca, self.ca.as_path())];
        if let Some(IdentityFiles { certificate, key }) = &self.identity {
            paths.extend([(TlsFile::Certificate, certificate.as_path()), (TlsFile::Key, key.as_path())]);
        }
        paths
    }

    fn build(&self, contents: &Contents) -> Result<Arc<ClientConfig>, FileError> {
        let builder = ClientConfig::builder_with_provider(parts::provider())
            .with_protocol_versions(OldestVersion::Tls12.versions())
            .expect("the provider supports both versions")
            .with_root_certificates(contents.roots()?);
        let mut client = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(_) => {
                let Identity { chain, key } = contents.identity()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| contents.unfit(error))?
            }
        };
        client.resumption = Resumption::disabled();
        Ok(Arc::new(client))
    }
}
