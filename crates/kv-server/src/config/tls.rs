//! `[server.tls]` and `[admin.tls]`: what listeners for clients and operators prove, and what they
//! demand.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tls_files::{ClientAuthority, ListenerFiles, OldestVersion};

use super::Config;
use crate::tls::{TlsMode, UserFrom};

/// Whether a listener asks its clients for certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked for a certificate.
    #[default]
    None,
    /// A certificate that they present must be valid.
    Optional,
    /// They need a valid certificate.
    Required,
}

/// The oldest version of TLS that a listener accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OldestTls {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// TLS of one listener. Files are in PEM, and not opened yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTls {
    /// `require` if there is a certificate, else `off`.
    pub mode: Option<TlsMode>,
    /// The certificate of the listener, with its chain.
    pub certificate: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
    /// Certificates of the authorities that sign the clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// `required` if there is a `client_ca`, else `none`.
    pub client_certificates: Option<ClientCertificates>,
    /// Revocation lists, one for each authority in the chain of a client's certificate.
    pub crl: Option<PathBuf>,
    /// Where a client's certificate names its user.
    pub user_from: Option<UserFrom>,
    /// The oldest version of TLS that is accepted.
    pub oldest_version: Option<OldestTls>,
}

impl ListenerTls {
    /// Whether, and with whom, the listener speaks TLS.
    pub fn mode(&self) -> TlsMode {
        self.mode.unwrap_or(if self.certificate.is_some() { TlsMode::Require } else { TlsMode::Off })
    }

    /// Whether the listener asks its clients for certificates.
    pub fn client_certificates(&self) -> ClientCertificates {
        let asked = if self.client_ca.is_some() { ClientCertificates::Required } else { ClientCertificates::None };
        self.client_certificates.unwrap_or(asked)
    }

    /// The files; `None` if the mode is `off`.
    pub fn files(&self) -> Option<ListenerFiles> {
        let (certificate, key) = self.certificate.clone().zip(self.key.clone())?;
        if self.mode() == TlsMode::Off {
            return None;
        }
        let is_required = self.client_certificates() == ClientCertificates::Required;
        let authority = |ca| ClientAuthority { ca, crl: self.crl.clone(), is_required };
        let are_asked = self.client_certificates() != ClientCertificates::None;
        let oldest_version = match self.oldest_version.unwrap_or_default() {
            OldestTls::Tls12 => OldestVersion::Tls12,
            OldestTls::Tls13 => OldestVersion::Tls13,
        };
        let clients = self.client_ca.clone().filter(|_| are_asked).map(authority);
        Some(ListenerFiles { certificate, key, clients, oldest_version })
    }
}

/// `[admin]`: settings of the admin interface that are in a section of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Lets the web console of this server ask for changes: a failover, other members.
    pub console_writes: bool,
    /// Lets the web console of this server set and delete keys, on behalf of who may.
    pub console_edits: bool,
    /// `[admin.tls]`; [`Config::admin_tls`] says what is in force.
    pub tls: ListenerTls,
}

impl Config {
    /// TLS of the admin interface: `[admin.tls]`, or `[server.tls]` if that section sets nothing.
    pub fn admin_tls(&self) -> &ListenerTls {
        match self.admin.tls == ListenerTls::default() {
            true => &self.server.tls,
            false => &self.admin.tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};

    fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let pairs = pairs.iter().map(|(name, value)| (format!("SYNODKV_{name}"), value.to_string()));
        let loaded = Config::load(None, &Environment::from_pairs(pairs), &Overrides::default());
        loaded.map_err(|error| error.to_string())
    }

    const FILES: [(&str, &str); 2] = [("SERVER_TLS_CERTIFICATE", "1.2"), ("SERVER_TLS_KEY", "k")];

    #[test]
    fn a_certificate_requires_tls_and_the_authority_of_clients_their_certificates() {
        let config = load(&FILES).expect("valid");
        let tls = &config.server.tls;
        assert_eq!((tls.mode(), tls.client_certificates()), (TlsMode::Require, ClientCertificates::None));
        assert_eq!(tls.files().expect("files").certificate, PathBuf::from("1.2"));
        assert_eq!(config.admin_tls(), tls);
        let config = load(&[FILES[0], FILES[1], ("SERVER_TLS_CLIENT_CA", "ca"), ("SERVER_TLS_CRL", "crl")]);
        let clients = config.expect("valid").server.tls.files().expect("files").clients.expect("clients");
        assert!(clients.is_required && clients.crl == Some("crl".into()));
        let config = load(&[FILES[0], FILES[1], ("ADMIN_TLS_MODE", "off")]).expect("valid");
        assert_eq!((config.admin_tls().mode(), config.admin_tls().files()), (TlsMode::Off, None));
        assert_eq!(load(&[]).expect("valid").server.tls.mode(), TlsMode::Off);
        let oldest = [FILES[0], FILES[1], ("SERVER_TLS_OLDEST_VERSION", "1.2")];
        let files = load(&oldest).expect("valid").server.tls.files().expect("files");
        assert_eq!(files.oldest_version, OldestVersion::Tls12);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |pairs: &[(&str, &str)]| load(pairs).map(drop).expect_err("an error");
        let message = error(&[FILES[0]]);
        assert!(message.contains("`server.tls.key` is missing"), "{message}");
        let message = error(&[("SERVER_TLS_MODE", "allow")]);
        assert!(message.contains("`server.tls.certificate` is missing"), "{message}");
        let message = error(&[FILES[0], FILES[1], ("SERVER_TLS_CLIENT_CERTIFICATES", "optional")]);
        assert!(message.contains("`server.tls.client_ca` is missing"), "{message}");
        let message = error(&[FILES[0], FILES[1], ("SERVER_TLS_MODE", "on")]);
        assert!(message.contains("server.tls.mode") && message.contains("`require`"), "{message}");
        let message =
            error(&[FILES[0], FILES[1], ("SERVER_TLS_MODE", "allow"), ("SERVER_MAX_MESSAGE_BYTES", "369098752")]);
        assert!(message.contains("at most 369098751"), "{message}");
    }
}
