use std::os::unix::fs::PermissionsExt;

use tls_files::{Source, Subject, TlsFiles};

use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("certs");
    (folder, path)
}

fn make_authority(dir: &Path) {
    init(&Folder::new(dir.to_path_buf()), None, 10).expect("an authority");
}

fn options(dir: &Path, renew: bool) -> IssueArgs {
    IssueArgs { folder: FolderArgs { dir: dir.to_path_buf() }, days: 5, renew }
}

fn replica(dir: &Path, id: u32, renew: bool) -> Whose {
    let hosts = vec!["10.0.0.1".to_string(), "node-0".to_string()];
    Whose::Replica { id: Some(id), config: None, hosts, issue: options(dir, renew) }
}

#[test]
fn a_replica_s_certificate_fits_its_peers() {
    let (_folder, dir) = folder();
    make_authority(&dir);
    issue(replica(&dir, 0, false)).expect("a certificate");
    let file = |name: &str| dir.join(name);
    let files =
        TlsFiles { ca: file("ca.pem"), certificate: file("replica-0.pem"), key: file("replica-0.key"), crl: None };
    for name in ["replica-0", "10.0.0.1", "node-0", "localhost", "127.0.0.1"] {
        let subject = Subject { name: name.try_into().expect("a name"), description: name.to_string() };
        files.load(&subject).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let mode = |name: &str| std::fs::metadata(file(name)).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("replica-0.key"), mode("replica-0.pem")), (0o600, 0o600, 0o644));
}

#[test]
fn a_client_s_certificate_names_the_user() {
    let (_folder, dir) = folder();
    make_authority(&dir);
    issue(Whose::Client { name: "alice".to_string(), issue: options(&dir, false) }).expect("a certificate");
    let pem = std::fs::read(dir.join("client-alice.pem")).expect("a file");
    let read = tls_files::ReadCertificate::from_pem(&pem).expect("a certificate");
    assert_eq!(read.names().uris, ["synodkv:user/alice"]);
    let identity =
        tls_files::IdentityFiles { certificate: dir.join("client-alice.pem"), key: dir.join("client-alice.key") };
    tls_files::ClientFiles { ca: dir.join("ca.pem"), identity: Some(identity) }.load().expect("they fit");
    let whose = Whose::Client { name: "al/ice".to_string(), issue: options(&dir, false) };
    assert!(issue(whose).expect_err("no name").to_string().contains("letters"));
}

#[test]
fn nothing_is_replaced_unless_asked_for() {
    let (_folder, dir) = folder();
    assert!(issue(replica(&dir, 0, false)).expect_err("no authority").to_string().contains("cert init"));
    make_authority(&dir);
    issue(replica(&dir, 0, false)).expect("a certificate");
    let before = std::fs::read(dir.join("replica-0.pem")).expect("a file");
    assert!(issue(replica(&dir, 0, false)).expect_err("it exists").to_string().contains("--renew"));
    assert_eq!(std::fs::read(dir.join("replica-0.pem")).expect("a file"), before);
    issue(replica(&dir, 0, true)).expect("a certificate");
    assert_ne!(std::fs::read(dir.join("replica-0.pem")).expect("a file"), before);
    assert!(
        init(&Folder::new(dir), Some("another"), 10).expect_err("it exists").to_string().contains("exists already")
    );
}

#[test]
fn the_list_of_replicas_says_whose_certificates_are_needed() {
    let (folder, dir) = folder();
    let config = folder.path().join("cluster.toml");
    let lines = (0..3).map(|id| {
        format!("[[replication.replicas]]\nid = {id}\npeer = 'n{id}:1'\nthrift = '10.0.0.{id}:2'\nadmin = 'n{id}:3'\n")
    });
    std::fs::write(&config, lines.collect::<String>()).expect("a file");
    make_authority(&dir);
    let wanted = replicas(None, Some(&config), vec!["db".to_string()]).expect("three");
    assert_eq!(wanted.len(), 3);
    assert_eq!(wanted[1].0, "replica-1");
    assert_eq!(wanted[1].1.names, ["replica-1", "n1", "10.0.0.1", "db"]);
    assert!(replicas(Some(3), Some(&config), Vec::new()).expect_err("no such replica").to_string().contains("0, 1, 2"));
    assert!(replicas(None, None, Vec::new()).expect_err("which?").to_string().contains("--config"));
    let wrong = replicas(Some(0), None, vec!["10.0.0.1:9090".to_string()]).expect_err("a port");
    assert!(wrong.to_string().contains("without a port"), "{wrong}");
}
