//! Reads what certificates say: when they are valid, and to whom they belong.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// From when until when certificates are valid, in seconds since 1970. Of several, the time in
/// which all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: i64,
    /// The last second.
    pub until: i64,
}

impl Validity {
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Validity> {
        let each = chain.iter().map(|der| {
            let (_, parsed) = X509Certificate::from_der(der).ok()?;
            let validity = parsed.validity();
            Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
        });
        let all: Vec<Validity> = each.collect::<Option<_>>()?;
        let from = all.iter().map(|validity| validity.from).max()?;
        let until = all.iter().map(|validity| validity.until).min()?;
        Some(Validity { from, until })
    }

    /// Seconds until the end; negative after it.
    pub fn seconds_left(&self) -> i64 {
        self.until.saturating_sub(now())
    }

    /// Whether now is a time of validity.
    pub fn is_now(&self) -> bool {
        (self.from..=self.until).contains(&now())
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The URIs among the subject alternative names of a certificate, and the common names of its
/// subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// For instance `synodkv:user/alice`.
    pub uris: Vec<String>,
    /// For instance `alice`.
    pub common: Vec<String>,
}

impl Names {
    pub(crate) fn of(der: &CertificateDer<'_>) -> Option<Names> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let alternative = parsed.subject_alternative_name().ok()?;
        let uris =
            alternative.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_string()),
                _ => None,
            });
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_string));
        Some(Names { uris: uris.collect(), common: common.collect() })
    }
}

/// The certificates in a PEM file, at least one.
pub(crate) fn in_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM".to_string()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("holds a damaged certificate: {error}")),
    }
}
