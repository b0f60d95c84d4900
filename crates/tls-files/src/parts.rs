//! The parts that configurations are built from.

use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::certificates;
use crate::files::{Contents, FileError, TlsFile};

/// The oldest version of TLS that a side speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldestVersion {
    /// TLS 1.2, for old client libraries.
    Tls12,
    /// TLS 1.3.
    #[default]
    Tls13,
}

static BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
static NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];

impl OldestVersion {
    pub(crate) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            OldestVersion::Tls12 => BOTH,
            OldestVersion::Tls13 => NEWEST,
        }
    }
}

/// The certificate of this side, with its chain, and its key.
pub(crate) struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Contents {
    pub(crate) fn identity(&self) -> Result<Identity, FileError> {
        let chain = certificates::in_pem(self.get(TlsFile::Certificate).unwrap_or_default())
            .map_err(|reason| self.error(TlsFile::Certificate, reason))?;
        let key = PrivateKeyDer::from_pem_slice(self.get(TlsFile::Key).unwrap_or_default()).map_err(|error| {
            self.error(TlsFile::Key, format!("holds no private key in PEM without password: {error}"))
        })?;
        Ok(Identity { chain, key })
    }

    /// Explains why a certificate and a key do not make an identity.
    pub(crate) fn unfit(&self, error: rustls::Error) -> FileError {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                let certificate = self.path(TlsFile::Certificate).display();
                self.error(TlsFile::Key, format!("is not the key of {certificate}"))
            }
            rustls::Error::InvalidCertificate(error) => {
                self.error(TlsFile::Certificate, format!("holds an unusable certificate: {error:?}"))
            }
            other => self.error(TlsFile::Key, format!("cannot be used: {other}")),
        }
    }

    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, FileError> {
        let mut roots = RootCertStore::empty();
        let found = certificates::in_pem(self.get(TlsFile::Ca).unwrap_or_default());
        for certificate in found.map_err(|reason| self.error(TlsFile::Ca, reason))? {
            let added = roots.add(certificate);
            added.map_err(|error| self.error(TlsFile::Ca, format!("holds an unusable certificate: {error}")))?;
        }
        Ok(Arc::new(roots))
    }

    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
        let Some(pem) = self.get(TlsFile::Crl) else { return Ok(Vec::new()) };
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        match found {
            Ok(lists) if lists.is_empty() => Err(self.error(TlsFile::Crl, "holds no revocation list in PEM")),
            Ok(lists) => Ok(lists),
            Err(error) => Err(self.error(TlsFile::Crl, format!("holds a damaged revocation list: {error}"))),
        }
    }

    /// Verifies the certificates of clients, whose absence `may_lack` allows.
    pub(crate) fn client_verifier(
        &self,
        roots: Arc<RootCertStore>,
        may_lack: bool,
    ) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        builder = builder.with_crls(self.revocations()?);
        if may_lack {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|error| self.unusable(&error))
    }

    pub(crate) fn server_verifier(&self, roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, FileError> {
        let builder = WebPkiServerVerifier::builder_with_provider(roots, provider());
        builder.with_crls(self.revocations()?).build().map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, error: &VerifierBuilderError) -> FileError {
        let file = match error {
            VerifierBuilderError::InvalidCrl(_) => TlsFile::Crl,
            _ => TlsFile::Ca,
        };
        self.error(file, format!("cannot be used: {error}"))
    }
}

/// Every connection verifies the certificates of both sides again.
pub(crate) fn without_resumption(mut server: ServerConfig) -> Arc<ServerConfig> {
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Arc::new(server)
}
