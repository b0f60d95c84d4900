//! Mutual TLS between peers: which certificate belongs to which replica.
//!
//! Every replica has a certificate that names it and that a common authority signed. The dialling
//! side checks that the certificate it is shown names the replica it means to reach. The accepting
//! side checks that the certificate it is shown names the replica that the frames claim to come
//! from. So with one replica's certificate nobody can speak, or listen, as another.
//!
//! Reading the files and picking up renewed ones is the work of the crate `tls-files`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tls_files::{Configurations, FileError, PeerSource, RenewalStatus, Renewed, Subject, TlsFiles};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::ReplicaId;
use crate::log_throttle::LogThrottle;

/// A replica's certificates, and the names that the replicas have in theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The authorities, and this replica's own certificate and key.
    pub files: TlsFiles,
    /// The DNS name in each replica's certificate where it differs from `replica-<id>`.
    pub names: BTreeMap<ReplicaId, String>,
}

/// Certificates, or names for them, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A name in [`PeerTls::names`] is no DNS name.
    #[error("\"{name}\" cannot be the name of replica {replica} in a certificate: {reason}")]
    Name {
        /// The replica with that name.
        replica: ReplicaId,
        /// The name as configured.
        name: String,
        /// The problem with the name.
        reason: String,
    },
}

impl PeerTls {
    /// The PEM files of one replica, with the default names in all certificates.
    pub fn new(ca: impl Into<PathBuf>, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let files = TlsFiles { ca: ca.into(), certificate: certificate.into(), key: key.into(), crl: None };
        PeerTls { files, names: BTreeMap::new() }
    }

    /// The name that a replica's certificate must have among its alternative names.
    pub fn name_of(&self, replica: ReplicaId) -> String {
        self.names.get(&replica).cloned().unwrap_or_else(|| format!("replica-{replica}"))
    }

    /// Reads the files and checks that they fit together, and that peers would accept them today as
    /// those of `me`.
    ///
    /// # Errors
    /// Names the first file, or the name, that cannot be used.
    pub fn check(&self, me: ReplicaId) -> Result<(), TlsError> {
        self.files.load(&self.subject(me)?)?;
        Ok(())
    }

    fn subject(&self, me: ReplicaId) -> Result<Subject, TlsError> {
        Ok(Subject { name: self.server_name(me)?, description: format!("replica {me}") })
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
}

/// How often the files are looked at while no connection is made.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// This replica's certificates and the names of its peers.
pub(super) struct Credentials {
    certificates: Arc<Renewed<PeerSource>>,
    tls: PeerTls,
}

impl Credentials {
    pub fn new(tls: PeerTls, me: ReplicaId) -> Result<Self, TlsError> {
        let source = PeerSource { files: tls.files.clone(), subject: tls.subject(me)? };
        let certificates = Renewed::new(source, report(&tls, me))?;
        tls.names.keys().try_for_each(|peer| tls.server_name(*peer).map(|_| ()))?;
        Ok(Credentials { certificates: Arc::new(certificates), tls })
    }

    /// The name that the certificate of a peer must have.
    pub fn name_of(&self, peer: ReplicaId) -> ServerName<'static> {
        self.tls.server_name(peer).expect("all names were checked at the start")
    }

    /// For the next connection; see [`Renewed::current`].
    pub async fn current(&self) -> Configurations {
        self.certificates.current().await
    }

    /// The state of the files, for operators.
    pub fn status(&self) -> Arc<RenewalStatus> {
        self.certificates.status()
    }

    /// See [`Renewed::watch`].
    pub fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        self.certificates.clone().watch(WATCH_INTERVAL)
    }
}

/// Logs what happens to renewed files.
fn report(tls: &PeerTls, me: ReplicaId) -> impl Fn(Result<(), &FileError>) + Send + Sync + 'static {
    let (complaints, certificate) = (LogThrottle::new(), tls.files.certificate.clone());
    move |renewed| match renewed {
        Ok(()) => tracing::info!(replica = me.0, certificate = %certificate.display(), "read renewed certificates"),
        Err(error) => {
            if let Some(held_back) = complaints.allow() {
                tracing::warn!(
                    replica = me.0, %error, held_back,
                    "the certificates have changed and cannot be used; those read before stay in force"
                );
            }
        }
    }
}
