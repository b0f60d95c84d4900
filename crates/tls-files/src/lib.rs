//! Mutual TLS from PEM files: reads and checks the certificates, and picks up renewed ones while
//! the process runs.
//!
//! Both sides of a connection present a certificate that a common authority signed. This crate
//! verifies the signature, the validity period and, through [`PeerCertificate::check_name`], the
//! name. The caller decides which name a peer must have.
//!
//! [`RenewedTls`] reads the files again for every new connection, so a renewal needs no restart. If
//! the new files cannot be used, or only one of certificate and key has been replaced so far, the
//! certificates read before stay in use. Established connections are left alone. Sessions are never
//! resumed, so every new connection verifies the certificates again.
//!
//! Left out on purpose: certificate revocation lists, and TLS versions before 1.3.

#![warn(missing_docs)]

mod configurations;
mod files;
mod peer;
mod renewal;
#[cfg(test)]
mod tests;

pub use configurations::{Configurations, Subject};
pub use files::{FileError, TlsFile, TlsFiles};
pub use peer::{PeerCertificate, is_not_tls, is_tls_error};
pub use renewal::RenewedTls;
