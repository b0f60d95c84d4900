//! Reads what certificates say: when they are valid, and to whom they belong.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Any, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

/// `id-at-commonName`.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

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
            let validity = Certificate::from_der(der).ok()?.tbs_certificate.validity;
            Some(Validity { from: seconds(validity.not_before), until: seconds(validity.not_after) })
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

fn seconds(time: Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
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
        let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
        let alternative = certificate.get::<SubjectAltName>().ok()?;
        let uris = alternative.iter().flat_map(|(_, names)| &names.0).filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_string()),
            _ => None,
        });
        let attributes = certificate.subject.0.iter().flat_map(|attributes| attributes.0.iter());
        let common = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
        Some(Names { uris: uris.collect(), common: common.filter_map(|name| text(&name.value)).collect() })
    }
}

fn text(value: &Any) -> Option<String> {
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_string());
    utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_string())).ok()
}

/// A certificate that was read and not verified, for those who make certificates.
#[derive(Clone, Debug)]
pub struct ReadCertificate {
    der: CertificateDer<'static>,
    parsed: Certificate,
}

impl ReadCertificate {
    /// The first certificate in PEM.
    ///
    /// # Errors
    /// Continues a sentence that begins with the name of the file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der = in_pem(pem)?.swap_remove(0);
        let parsed = Certificate::from_der(&der).map_err(|error| format!("holds a damaged certificate: {error}"))?;
        Ok(ReadCertificate { der, parsed })
    }

    /// From when until when it is valid.
    pub fn validity(&self) -> Option<Validity> {
        Validity::of(std::slice::from_ref(&self.der))
    }

    /// The names of its owner.
    pub fn names(&self) -> Names {
        Names::of(&self.der).unwrap_or_default()
    }

    /// The bytes of the public key, without the algorithm.
    pub fn public_key(&self) -> &[u8] {
        self.parsed.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes()
    }

    /// Whether it says that it was issued by the owner of `authority`. Verifies no signature.
    pub fn is_issued_by(&self, authority: &ReadCertificate) -> bool {
        self.parsed.tbs_certificate.issuer == authority.parsed.tbs_certificate.subject
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
