//! TLS from PEM files: reads and checks the certificates, and picks up renewed ones while the
//! process runs.
//!
//! There are three kinds of side, each a [`Source`] of configurations. Peers ([`PeerSource`]) both
//! present a certificate that a common authority signed. This crate verifies the signature, the
//! validity period and, through [`PeerCertificate::check_name`], the name; the caller decides which
//! name a peer must have. A listener ([`ListenerFiles`]) presents a certificate, and may ask its
//! clients for theirs. A client ([`ClientFiles`]) verifies the listener's.
//!
//! [`Renewed`] looks at all the files again for every new connection (certificate, key, authorities
//! and revocation lists), so a renewal needs no restart. It reads them only if the file system says
//! that they may have changed. If the new files cannot be used, or only one of certificate and key
//! has been replaced so far, the configuration built before stays in use, and [`RenewalStatus`] says
//! why. Established connections are left alone. Sessions are never resumed, so every new connection
//! verifies the certificates again.
//!
//! Left out on purpose: TLS versions before 1.2, passwords of keys, online checks of revocation, and
//! the authorities of the operating system.

#![warn(missing_docs)]

mod certificates;
mod client;
mod files;
mod first_byte;
mod listener;
mod parts;
mod peer;
mod peers;
mod renewal;
#[cfg(test)]
mod tests;

pub use certificates::{Names, ReadCertificate, Validity};
pub use client::{ClientFiles, IdentityFiles};
pub use files::{Contents, FileError, TlsFile};
pub use first_byte::{FRAME_LIMIT, is_tls};
pub use listener::{ClientAuthority, ListenerFiles};
pub use parts::OldestVersion;
pub use peer::{PeerCertificate, is_not_tls, is_tls_error};
pub use peers::{Configurations, PeerSource, Subject, TlsFiles};
pub use renewal::{RenewalStatus, Renewed, Source};
