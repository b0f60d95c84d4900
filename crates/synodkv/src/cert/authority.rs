//! Makes certificates.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use time::{Duration, OffsetDateTime};
use tls_files::ReadCertificate;

use super::files::{Folder, Made};
use crate::failure::Failure;

/// Clocks differ; a new certificate must be valid on machines whose clock is behind.
const CLOCK_TOLERANCE: Duration = Duration::hours(1);

/// The use of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Replica,
    Server,
    Client,
}

/// A certificate to make. The first name is that of the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub purpose: Purpose,
    pub names: Vec<String>,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.join(", ");
        match self.purpose {
            Purpose::Replica => write!(f, "for {names}"),
            Purpose::Server if names.is_empty() => write!(f, "for a server on this machine"),
            Purpose::Server => write!(f, "for a server at {names}"),
            Purpose::Client => write!(f, "for the user {names}"),
        }
    }
}

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: ReadCertificate,
}

impl Authority {
    /// A new authority.
    pub fn make(name: Option<&str>, days: u64) -> Result<Made, String> {
        let key = new_key()?;
        let mut params = common(&name.map_or_else(|| unique_name(&key), str::to_string), days)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let until = params.not_after.date().to_string();
        let secret = key.serialize_pem();
        let made = CertifiedIssuer::self_signed(params, key).map_err(|error| error.to_string())?;
        Ok(Made { certificate: made.pem(), key: secret, until })
    }

    /// The authority in a folder.
    pub fn read(folder: &Folder) -> Result<Authority, Failure> {
        let (certificate, key) = folder.read("ca")?;
        let wrong = |text: &str| Failure::Failed(format!("{}: {text}", folder.path("ca.pem").display()));
        let key = KeyPair::from_pem(&key).map_err(|error| wrong(&format!("its key cannot be used: {error}")))?;
        let own = ReadCertificate::from_pem(certificate.as_bytes()).map_err(|reason| wrong(&reason))?;
        if own.public_key() != key.der_bytes() {
            return Err(wrong("ca.key is not its key"));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = named(own.names().common.first().map_or("", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Authority { issuer: Issuer::new(params, key), own })
    }

    /// Makes a certificate.
    pub fn sign(&self, wanted: &Wanted, days: u64) -> Result<Made, String> {
        let owner = wanted.names.first().map_or("server", String::as_str);
        let mut params = common(owner, days)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match wanted.purpose {
            Purpose::Replica => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Purpose::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.subject_alt_names = match wanted.purpose {
            Purpose::Client => vec![SanType::URI(text(&format!("synodkv:user/{owner}"))?)],
            // Commands on the same machine connect to its loopback addresses.
            Purpose::Replica | Purpose::Server => {
                let own = ["localhost", "127.0.0.1", "::1"].map(str::to_string);
                let more = own.iter().filter(|name| !wanted.names.contains(name));
                wanted.names.iter().chain(more).map(|name| alternative(name)).collect::<Result<_, _>>()?
            }
        };
        let until = params.not_after.date().to_string();
        let key = new_key()?;
        let made = params.signed_by(&key, &self.issuer).map_err(|error| error.to_string())?;
        self.check(&made)?;
        Ok(Made { certificate: made.pem(), key: key.serialize_pem(), until })
    }

    /// The name of the issuer is made again from that of the authority. That of a foreign authority
    /// may be written in another way, and then nobody would accept the certificate.
    fn check(&self, made: &Certificate) -> Result<(), String> {
        let made = ReadCertificate::from_pem(made.pem().as_bytes())?;
        match made.is_issued_by(&self.own) {
            true => Ok(()),
            false => {
                Err("this authority was not made by `synodkv cert init`: make the certificate with the tool that \
                          made the authority"
                    .to_string())
            }
        }
    }
}

fn new_key() -> Result<KeyPair, String> {
    KeyPair::generate().map_err(|error| format!("no key could be made: {error}"))
}

/// Those who trust two authorities for a while can tell them apart.
fn unique_name(key: &KeyPair) -> String {
    let end: String = key.der_bytes().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("SynodKV authority {end}")
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn common(name: &str, days: u64) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + Duration::days(i64::try_from(days).map_err(|error| error.to_string())?);
    Ok(params)
}

fn text(name: &str) -> Result<rcgen::string::Ia5String, String> {
    name.try_into().map_err(|error| format!("{name} cannot be in a certificate: {error}"))
}

fn alternative(name: &str) -> Result<SanType, String> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(text(name)?)),
    }
}
