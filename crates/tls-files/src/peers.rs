//! The files of a peer, which accepts connections and opens them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::files::{Contents, FileError, TlsFile};
use crate::parts::{self, Identity};
use crate::renewal::Source;

/// The PEM files of one side of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities; a peer's certificate must be signed by one of them.
    pub ca: PathBuf,
    /// This side's certificate, followed by any intermediate certificates up to the authority.
    pub certificate: PathBuf,
    /// The private key of `certificate`, without a password.
    pub key: PathBuf,
    /// Revocation lists, one for each authority in the chain of a peer's certificate; `None` revokes
    /// nothing.
    pub crl: Option<PathBuf>,
}

/// The owner that this side's certificate must name.
#[derive(Clone, Debug)]
pub struct Subject {
    /// One of the certificate's subject alternative names.
    pub name: ServerName<'static>,
    /// How error messages call the owner, for instance "replica 2".
    pub description: String,
}

/// Everything that handshakes between peers need, built from one state of the files.
#[derive(Clone, Debug)]
pub struct Configurations {
    /// For connections that this side opens.
    pub client: Arc<ClientConfig>,
    /// For connections that this side accepts.
    pub server: Arc<ServerConfig>,
}

impl TlsFiles {
    /// Reads the files and checks that they fit together, and that peers would accept them today as
    /// those of `subject`.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    pub fn load(&self, subject: &Subject) -> Result<Configurations, FileError> {
        PeerSource { files: self.clone(), subject: subject.clone() }.load()
    }
}

/// The files of a peer, and whose certificate is among them.
#[derive(Clone, Debug)]
pub struct PeerSource {
    /// The files.
    pub files: TlsFiles,
    /// The owner of the certificate.
    pub subject: Subject,
}

impl Source for PeerSource {
    type Built = Configurations;

    fn paths(&self) -> Vec<(TlsFile, &Path)> {
        let TlsFiles { ca, certificate, key, crl } = &self.files;
        let mut paths = vec![
            (TlsFile::Ca, ca.as_path()),
            (TlsFile::Certificate, certificate.as_path()),
            (TlsFile::Key, key.as_path()),
        ];
        paths.extend(crl.as_deref().map(|crl| (TlsFile::Crl, crl)));
        paths
    }

    fn build(&self, contents: &Contents) -> Result<Configurations, FileError> {
        let roots = contents.roots()?;
        let identity = contents.identity()?;
        let of_clients = contents.client_verifier(roots.clone(), false)?;
        let of_servers = contents.server_verifier(roots)?;
        check_own(contents, &self.subject, &identity, of_servers.as_ref(), of_clients.as_ref())?;
        let Identity { chain, key } = identity;
        let mut client = ClientConfig::builder_with_provider(parts::provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider supports TLS 1.3")
            .with_webpki_verifier(of_servers)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| contents.unfit(error))?;
        client.resumption = Resumption::disabled();
        let server = ServerConfig::builder_with_provider(parts::provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider supports TLS 1.3")
            .with_client_cert_verifier(of_clients)
            .with_single_cert(chain, key)
            .map_err(|error| contents.unfit(error))?;
        Ok(Configurations { client: Arc::new(client), server: parts::without_resumption(server) })
    }
}

/// Verifies this side's certificate as its peers would: one error at startup is better than one
/// from every peer.
fn check_own(
    contents: &Contents,
    subject: &Subject,
    identity: &Identity,
    of_servers: &dyn ServerCertVerifier,
    of_clients: &dyn ClientCertVerifier,
) -> Result<(), FileError> {
    let (own, intermediates) = identity.chain.split_first().expect("a file without certificates was refused");
    let now = UnixTime::now();
    let as_server = of_servers.verify_server_cert(own, intermediates, &subject.name, &[], now).map(|_| ());
    let as_client = of_clients.verify_client_cert(own, intermediates, now).map(|_| ());
    as_server.and(as_client).map_err(|error| {
        let reason = format!("is no certificate of {}: {error}", subject.description);
        contents.error(TlsFile::Certificate, reason)
    })
}
