//! Turns the contents of the files into what TLS handshakes need.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use crate::files::{Contents, FileError, TlsFile, TlsFiles};

/// The owner that this side's certificate must name.
#[derive(Clone, Debug)]
pub struct Subject {
    /// One of the certificate's subject alternative names.
    pub name: ServerName<'static>,
    /// How error messages call the owner, for instance "replica 2".
    pub description: String,
}

/// Everything that handshakes need, built from one state of the files.
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
        self.read()?.configurations(self, subject)
    }
}

impl Contents {
    pub fn configurations(&self, files: &TlsFiles, subject: &Subject) -> Result<Configurations, FileError> {
        let roots = Arc::new(self.roots(files)?);
        let chain = certificates(&self.certificate).map_err(|reason| files.error(TlsFile::Certificate, reason))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            files.error(TlsFile::Key, format!("holds no private key in PEM without password: {error}"))
        })?;
        let unfit = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => {
                files.error(TlsFile::Key, format!("is not the key of {}", files.certificate.display()))
            }
            other => files.error(TlsFile::Key, format!("cannot be used: {other}")),
        };
        let provider = Arc::new(ring::default_provider());
        let client_verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| files.error(TlsFile::Ca, format!("cannot be used: {error}")))?;
        check_own(files, subject, &chain, &roots, &provider, client_verifier.as_ref())?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider supports TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unfit)?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider supports TLS 1.3")
            .with_client_cert_verifier(client_verifier)
            .with_single_cert(chain, key)
            .map_err(unfit)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Configurations { client: Arc::new(client), server: Arc::new(server) })
    }

    fn roots(&self, files: &TlsFiles) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca).map_err(|reason| files.error(TlsFile::Ca, reason))? {
            let added = roots.add(certificate);
            added.map_err(|error| files.error(TlsFile::Ca, format!("holds an unusable certificate: {error}")))?;
        }
        Ok(roots)
    }
}

/// Verifies this side's certificate as its peers would: one error at startup is better than one
/// from every peer.
fn check_own(
    files: &TlsFiles,
    subject: &Subject,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    client_verifier: &dyn ClientCertVerifier,
) -> Result<(), FileError> {
    let (own, intermediates) = chain.split_first().expect("a file without certificates was refused");
    let server_verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| files.error(TlsFile::Ca, format!("cannot be used: {error}")))?;
    let now = UnixTime::now();
    let as_server = server_verifier.verify_server_cert(own, intermediates, &subject.name, &[], now).map(|_| ());
    let as_client = client_verifier.verify_client_cert(own, intermediates, now).map(|_| ());
    as_server.and(as_client).map_err(|error| {
        let reason = format!("is no certificate of {}: {error}", subject.description);
        files.error(TlsFile::Certificate, reason)
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM".to_string()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("holds a damaged certificate: {error}")),
    }
}
