//! Mutual TLS between peers: certificates, and whose they are.
//!
//! Every replica has a certificate that names it and that an authority common to all signed. Whoever dials checks that
//! the certificate it is shown names the replica it means to reach; whoever accepts checks that the certificate it is
//! shown names the replica that the frames are said to come from. A certificate of one replica therefore cannot speak, nor
//! listen, as another.
//!
//! The files are read again for every new connection, so that renewed certificates need no restart. Files that cannot be
//! used, or of which only one has been replaced so far, leave the ones read before in force. Connections that stand are
//! left alone; a session is never resumed, so that every new one checks the certificates afresh. Lists of revoked
//! certificates are not known.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use crate::ReplicaId;
use crate::seldom::Seldom;

/// Where a replica's certificates are, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The authorities of which one must have signed a peer's certificate.
    pub ca: PathBuf,
    /// This replica's certificate, followed by those between it and the authority, if any.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The DNS name in each replica's certificate, where it is not `replica-<id>`.
    pub names: BTreeMap<ReplicaId, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    Ca,
    Certificate,
    Key,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} {reason}", path.display())]
    File { file: TlsFile, path: PathBuf, reason: String },
    #[error("\"{name}\" cannot be the name of replica {replica} in a certificate: {reason}")]
    Name { replica: ReplicaId, name: String, reason: String },
}

impl PeerTls {
    pub fn new(ca: impl Into<PathBuf>, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        PeerTls { ca: ca.into(), certificate: certificate.into(), key: key.into(), names: BTreeMap::new() }
    }

    /// The name that a replica's certificate must have among its alternative names.
    pub fn name_of(&self, replica: ReplicaId) -> String {
        self.names.get(&replica).cloned().unwrap_or_else(|| format!("replica-{replica}"))
    }

    /// Reads the files and checks that they fit together, and that peers will take them as those of `me`, today.
    pub fn check(&self, me: ReplicaId) -> Result<(), TlsError> {
        self.read()?.configurations(self, me).map(|_| ())
    }

    fn server_name(&self, replica: ReplicaId) -> Result<ServerName<'static>, TlsError> {
        let name = self.name_of(replica);
        let unfit =
            |error: &dyn std::fmt::Display| TlsError::Name { replica, name: name.clone(), reason: error.to_string() };
        match ServerName::try_from(name.clone()).map_err(|error| unfit(&error))? {
            name @ ServerName::DnsName(_) => Ok(name),
            _ => Err(unfit(&"it is an address")),
        }
    }

    fn error(&self, file: TlsFile, reason: impl Into<String>) -> TlsError {
        let path = match file {
            TlsFile::Ca => &self.ca,
            TlsFile::Certificate => &self.certificate,
            TlsFile::Key => &self.key,
        };
        TlsError::File { file, path: path.clone(), reason: reason.into() }
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let read = |file: TlsFile, path: &Path| {
            std::fs::read(path).map_err(|error| self.error(file, format!("cannot be read: {error}")))
        };
        Ok(Contents {
            ca: read(TlsFile::Ca, &self.ca)?,
            certificate: read(TlsFile::Certificate, &self.certificate)?,
            key: read(TlsFile::Key, &self.key)?,
        })
    }
}

/// The files as they are now.
struct Contents {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    /// Tells these contents from others, without keeping the key around.
    fn fingerprint(&self) -> [u128; 3] {
        [&self.ca, &self.certificate, &self.key].map(|bytes| xxhash_rust::xxh3::xxh3_128(bytes))
    }

    fn configurations(&self, tls: &PeerTls, me: ReplicaId) -> Result<Configurations, TlsError> {
        let roots = Arc::new(self.roots(tls)?);
        let chain = certificates(&self.certificate).map_err(|reason| tls.error(TlsFile::Certificate, reason))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            tls.error(TlsFile::Key, format!("holds no private key in PEM without password: {error}"))
        })?;
        let unfit = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => {
                tls.error(TlsFile::Key, format!("is not the key of {}", tls.certificate.display()))
            }
            other => tls.error(TlsFile::Key, format!("cannot be used: {other}")),
        };
        let provider = Arc::new(ring::default_provider());
        let client_verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| tls.error(TlsFile::Ca, format!("cannot be used: {error}")))?;
        check_own(tls, me, &chain, &roots, &provider, client_verifier.as_ref())?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unfit)?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider knows TLS 1.3")
            .with_client_cert_verifier(client_verifier)
            .with_single_cert(chain, key)
            .map_err(unfit)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Configurations { fingerprint: self.fingerprint(), client: Arc::new(client), server: Arc::new(server) })
    }

    fn roots(&self, tls: &PeerTls) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca).map_err(|reason| tls.error(TlsFile::Ca, reason))? {
            let added = roots.add(certificate);
            added.map_err(|error| tls.error(TlsFile::Ca, format!("holds an unusable certificate: {error}")))?;
        }
        Ok(roots)
    }
}

/// Better told at the start than by every peer.
fn check_own(
    tls: &PeerTls,
    me: ReplicaId,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    client_verifier: &dyn ClientCertVerifier,
) -> Result<(), TlsError> {
    let name = tls.server_name(me)?;
    let (own, between) = chain.split_first().expect("a file without certificates was refused");
    let server_verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| tls.error(TlsFile::Ca, format!("cannot be used: {error}")))?;
    let now = UnixTime::now();
    let as_server = server_verifier.verify_server_cert(own, between, &name, &[], now).map(|_| ());
    let as_client = client_verifier.verify_client_cert(own, between, now).map(|_| ());
    as_server
        .and(as_client)
        .map_err(|error| tls.error(TlsFile::Certificate, format!("is no certificate of replica {me}: {error}")))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM".to_string()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("holds a damaged certificate: {error}")),
    }
}

/// What handshakes need, made of one state of the files.
#[derive(Clone)]
pub(super) struct Configurations {
    fingerprint: [u128; 3],
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

/// The certificates in force.
pub(super) struct Credentials {
    tls: PeerTls,
    me: ReplicaId,
    peer_names: BTreeMap<ReplicaId, ServerName<'static>>,
    held: Mutex<Configurations>,
    /// Held while the files are read.
    reading: Arc<tokio::sync::Mutex<()>>,
    complaints: Seldom,
}

impl Credentials {
    pub fn new(tls: PeerTls, me: ReplicaId, peers: impl Iterator<Item = ReplicaId>) -> Result<Self, TlsError> {
        let held = tls.read()?.configurations(&tls, me)?;
        let peer_names = peers.map(|peer| Ok((peer, tls.server_name(peer)?))).collect::<Result<_, TlsError>>()?;
        Ok(Credentials {
            tls,
            me,
            peer_names,
            held: Mutex::new(held),
            reading: Arc::default(),
            complaints: Seldom::new(),
        })
    }

    /// The name that the certificate of a peer must have.
    pub fn name_of(&self, peer: ReplicaId) -> Option<&ServerName<'static>> {
        self.peer_names.get(&peer)
    }

    /// What the files hold now, or held when they could be used last.
    pub async fn current(self: &Arc<Self>) -> Configurations {
        // A disk that hangs shall cost one thread and one connection's patience; the next ones go on with what is held.
        let Ok(reading) = self.reading.clone().try_lock_owned() else { return self.held() };
        let credentials = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _until_read = reading;
            credentials.read_again()
        });
        let read = read.await;
        read.unwrap_or_else(|_| self.held())
    }

    fn held(&self) -> Configurations {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_again(&self) -> Configurations {
        let held = self.held();
        let read = self.tls.read().and_then(|contents| {
            if contents.fingerprint() == held.fingerprint {
                return Ok(None);
            }
            contents.configurations(&self.tls, self.me).map(Some)
        });
        match read {
            Ok(None) => held,
            Ok(Some(new)) => {
                tracing::info!(replica = self.me.0, certificate = %self.tls.certificate.display(), "read renewed certificates");
                *self.held.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
                new
            }
            Err(error) => {
                if let Some(held_back) = self.complaints.may_speak() {
                    tracing::warn!(
                        replica = self.me.0, %error, held_back,
                        "the certificates have changed and cannot be used; those read before stay in force"
                    );
                }
                held
            }
        }
    }
}

/// What a peer showed of itself, found to be signed by an authority and in force.
pub(super) struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// Of a connection whose handshake has ended well.
    pub fn of(connection: &rustls::CommonState) -> Option<Self> {
        connection.peer_certificates()?.first().map(|certificate| PeerCertificate(certificate.clone().into_owned()))
    }

    /// The error says which names the certificate does have.
    pub fn check_name(&self, name: &ServerName<'_>) -> Result<(), rustls::Error> {
        verify_server_name(&ParsedCertificate::try_from(&self.0)?, name)
    }
}

/// Whether TLS itself failed, and not the connection under it.
pub(super) fn is_tls_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether the other side answered with something that is not TLS.
pub(super) fn is_not_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}
