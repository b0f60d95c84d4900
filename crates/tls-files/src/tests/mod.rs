mod listeners;
mod renewal;

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::*;

/// Signs certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        Authority { issuer: issuer.expect("a certificate") }
    }

    fn sign(&self, name: &str, until_year: i32) -> Signed {
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Signed { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn write(&self, folder: &Path, signed: &Signed) -> TlsFiles {
        let files = TlsFiles {
            ca: folder.join("ca.pem"),
            certificate: folder.join("replica.pem"),
            key: folder.join("replica.key"),
            crl: None,
        };
        for (path, text) in
            [(&files.ca, &self.issuer.pem()), (&files.certificate, &signed.certificate), (&files.key, &signed.key)]
        {
            fs::write(path, text).expect("a file");
        }
        files
    }
}

fn subject() -> Subject {
    Subject { name: ServerName::try_from("replica-0").expect("a name"), description: "replica 0".to_string() }
}

/// The file at fault, and the error's text with the name of the file but not its folder.
#[track_caller]
fn refused(files: &TlsFiles) -> (TlsFile, String) {
    let FileError { file, path, reason } = files.load(&subject()).expect_err("an error");
    (file, format!("{} {reason}", path.file_name().expect("a file").to_string_lossy()))
}

#[test]
fn good_files_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("peers");
    authority.write(folder.path(), &authority.sign("replica-0", 4000)).load(&subject()).expect("they fit");
}

#[test]
fn each_fault_names_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("peers");
    let fresh = || authority.write(folder.path(), &authority.sign("replica-0", 4000));
    let check = |files: &TlsFiles, file, part: &str| {
        let (found, text) = refused(files);
        assert!(found == file && text.contains(part), "{found:?}: {text}");
    };
    let files = fresh();
    fs::remove_file(&files.ca).expect("a file");
    check(&files, TlsFile::Ca, "ca.pem cannot be read: ");
    let files = fresh();
    fs::write(&files.ca, "nothing").expect("a file");
    check(&files, TlsFile::Ca, "holds no certificate in PEM");
    let files = fresh();
    fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").expect("a file");
    check(&files, TlsFile::Certificate, "replica.pem holds a damaged certificate: ");
    let files = fresh();
    fs::copy(&files.certificate, &files.key).expect("a file");
    check(&files, TlsFile::Key, "holds no private key");
    let files = fresh();
    fs::write(&files.key, authority.sign("replica-0", 4000).key).expect("a file");
    check(&files, TlsFile::Key, "is not the key of ");
}

#[test]
fn a_certificate_that_no_peer_would_accept_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("peers");
    let (file, text) = refused(&authority.write(folder.path(), &authority.sign("replica-1", 4000)));
    assert!(file == TlsFile::Certificate && text.contains("is no certificate of replica 0: "), "{text}");
    assert!(text.contains("replica-1"), "{text}");
    let (file, text) = refused(&authority.write(folder.path(), &authority.sign("replica-0", 2001)));
    assert!(file == TlsFile::Certificate && text.contains("expired"), "{text}");
    let foreign = Authority::new("strangers").sign("replica-0", 4000);
    let (file, text) = refused(&authority.write(folder.path(), &foreign));
    assert!(file == TlsFile::Certificate && text.contains("UnknownIssuer"), "{text}");
}
