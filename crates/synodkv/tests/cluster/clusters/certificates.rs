//! Certificates for the replicas of a test.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Signs certificates, and writes them to a directory.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(folder: &Path) -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        let folder = folder.join("certificates");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("ca.pem"), issuer.pem()).expect("written");
        Authority { folder, issuer }
    }

    /// The end of a configuration file, for a server that runs these replicas.
    pub fn section(&self, replicas: &[usize]) -> String {
        let names: Vec<String> = replicas.iter().map(|id| format!("replica-{id}")).collect();
        let file = |ending: &str| self.folder.join(format!("{}.{ending}", names.join("-")));
        let params = CertificateParams::new(names.clone()).expect("names");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(file("pem"), certificate.pem()).expect("written");
        fs::write(file("key"), key.serialize_pem()).expect("written");
        format!(
            "[replication.tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            self.folder.join("ca.pem").display(),
            file("pem").display(),
            file("key").display()
        )
    }
}
