//! Files with secrets, and certificates.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kv_server::{Config, check_certificates};
use tls_files::ReadCertificate;

use super::finding::Report;

const DAY: i64 = 86_400;
/// As in the problems of a server.
const EXPIRES_SOON: i64 = 14 * DAY;

/// The configuration file, which may be read by all and written by few.
pub fn configuration(file: &Path, report: &mut Report) {
    report.check("configuration_file");
    if let Ok(found) = std::fs::metadata(file)
        && found.mode() & 0o002 != 0
    {
        let text = format!("every user of this machine can change {}", file.display());
        report.error("configuration_writable_by_all", text, format!("chmod o-w {}", file.display()));
    }
}

/// Keys and token files that others can read.
pub fn secrets(config: Option<&Config>, token: Option<&Path>, report: &mut Report) {
    report.check("secret_files");
    for (name, path) in config.map(keys).unwrap_or_default() {
        secret(&name, &path, report);
    }
    if let Some(path) = token {
        secret("--token-file", path, report);
    }
}

fn secret(name: &str, path: &Path, report: &mut Report) {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "run this as the user of the server, or correct the path";
            return report.error("secret_not_readable", format!("{name}: {}: {error}", path.display()), remedy);
        }
    };
    let mode = found.mode() & 0o777;
    // A group that may read is usual for keys that several services share.
    if mode & 0o007 != 0 || mode & 0o030 != 0 {
        let whom = if mode & 0o007 != 0 { "every user of this machine" } else { "the group" };
        let text = format!("{whom} has access to the secret {} ({name}, mode {mode:03o})", path.display());
        report.error(
            "secret_open_to_others",
            text,
            format!("chmod 600 {}; make a new one if others may have read it", path.display()),
        );
    }
}

/// The dates of all certificates, and whether each fits its key.
pub fn certificates(config: &Config, report: &mut Report) {
    report.check("certificates");
    if let Err(error) = check_certificates(config) {
        let remedy = "correct the file; `synodkv cert issue` makes new ones";
        report.error("certificate_not_usable", error.to_string(), remedy);
    }
    for (name, path) in certificates_of(config) {
        certificate(&name, &path, report);
    }
}

fn certificate(name: &str, path: &Path, report: &mut Report) {
    let text = std::fs::read(path).map_err(|error| error.to_string());
    let read = text.and_then(|text| ReadCertificate::from_pem(&text));
    let validity = match read.map(|certificate| certificate.validity()) {
        Ok(Some(validity)) => validity,
        Ok(None) => return report.skip("certificates", format!("{}: its dates are not understood", path.display())),
        Err(error) => {
            let text = format!("{name}: {}: {error}", path.display());
            return report.error("certificate_not_usable", text, "correct the file");
        }
    };
    let (left, whose) = (validity.seconds_left(), format!("{} ({name})", path.display()));
    let remedy = "issue a new one (`synodkv cert issue`) over the old file; servers read it without a restart";
    if left < 0 {
        report.error("certificate_expired", format!("{whose} expired {} days ago", -left / DAY), remedy);
    } else if !validity.is_now() {
        report.error(
            "certificate_not_yet_valid",
            format!("{whose} is not valid yet"),
            "check the clock of this machine",
        );
    } else if left < EXPIRES_SOON {
        report.warn("certificate_expires", format!("{whose} expires in {} days", left / DAY), remedy);
    }
}

/// The private keys that the configuration names, with their settings.
fn keys(config: &Config) -> Vec<(String, PathBuf)> {
    let listeners = [("server.tls.key", &config.server.tls.key), ("admin.tls.key", &config.admin.tls.key)];
    let mut all = present(listeners);
    if let Some(tls) = &config.replication.tls {
        all.push(("replication.tls.key".to_string(), tls.key.clone()));
    }
    all
}

fn certificates_of(config: &Config) -> Vec<(String, PathBuf)> {
    let (server, admin) = (&config.server.tls, &config.admin.tls);
    let mut all = present([
        ("server.tls.certificate", &server.certificate),
        ("server.tls.client_ca", &server.client_ca),
        ("admin.tls.certificate", &admin.certificate),
        ("admin.tls.client_ca", &admin.client_ca),
    ]);
    if let Some(tls) = &config.replication.tls {
        all.push(("replication.tls.certificate".to_string(), tls.certificate.clone()));
        all.push(("replication.tls.ca".to_string(), tls.ca.clone()));
    }
    all
}

fn present<const N: usize>(settings: [(&str, &Option<PathBuf>); N]) -> Vec<(String, PathBuf)> {
    settings.into_iter().filter_map(|(name, path)| Some((name.to_string(), path.clone()?))).collect()
}
