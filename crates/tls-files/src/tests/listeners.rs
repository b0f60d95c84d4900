//! Handshakes between a listener and clients with all kinds of certificates.

use std::path::PathBuf;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SanType, SerialNumber};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

impl Authority {
    fn of_user(&self, user: &str, serial: u64) -> Signed {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, user);
        let uri = format!("synodkv:user/{user}").try_into().expect("a URI");
        params.subject_alt_names.push(SanType::URI(uri));
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Signed { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn revoke(&self, path: &PathBuf, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(path, list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")).expect("a file");
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    authority: Authority,
    listener: ListenerFiles,
}

fn fixture(is_required: bool) -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("all");
    let files = authority.write(folder.path(), &authority.sign("here", 4000));
    let clients = ClientAuthority { ca: files.ca.clone(), crl: None, is_required };
    let (certificate, key) = (files.certificate, files.key);
    let listener = ListenerFiles { certificate, key, clients: Some(clients), oldest_version: OldestVersion::default() };
    Fixture { folder, authority, listener }
}

impl Fixture {
    fn client(&self, signed: Option<&Signed>) -> ClientFiles {
        let ca = self.folder.path().join("ca.pem");
        let identity = signed.map(|signed| {
            let paths = [("client.pem", &signed.certificate), ("client.key", &signed.key)].map(|(name, text)| {
                let path = self.folder.path().join(name);
                fs::write(&path, text).expect("a file");
                path
            });
            let [certificate, key] = paths;
            IdentityFiles { certificate, key }
        });
        ClientFiles { ca, identity }
    }

    /// The names of a client that gets through, as the listener sees them.
    async fn try_client(&self, client: &ClientFiles) -> Result<Option<Names>, String> {
        let acceptor = TlsAcceptor::from(self.listener.load().expect("they fit"));
        let connector = TlsConnector::from(client.load().expect("they fit"));
        let (near, far) = tokio::io::duplex(64 << 10);
        let name = ServerName::try_from("here").expect("a name");
        let client = tokio::spawn(async move {
            let mut stream = connector.connect(name, near).await?;
            // A client learns only by the answer whether its certificate is accepted.
            stream.write_all(b"?").await?;
            stream.read_u8().await
        });
        let mut stream = acceptor.accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"!").await.expect("a client");
        stream.flush().await.expect("a client");
        client.await.expect("no panic").map_err(|error| error.to_string())?;
        Ok(PeerCertificate::of(stream.get_ref().1).map(|certificate| certificate.names().expect("names")))
    }
}

#[tokio::test]
async fn a_client_is_known_by_the_uri_in_its_certificate() {
    let fixture = fixture(true);
    let names = fixture.try_client(&fixture.client(Some(&fixture.authority.of_user("alice", 7)))).await;
    let alice = Names { uris: vec!["synodkv:user/alice".to_string()], common: vec!["alice".to_string()] };
    assert_eq!(names, Ok(Some(alice)));
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_in_only_where_none_is_required() {
    let fixture_with = fixture(true);
    let error = fixture_with.try_client(&fixture_with.client(None)).await.expect_err("refused");
    assert!(error.contains("no certificates"), "{error}");
    let fixture = fixture(false);
    assert_eq!(fixture.try_client(&fixture.client(None)).await, Ok(None));
    // One that has a wrong certificate is refused nevertheless.
    let stranger = Authority::new("strangers").of_user("alice", 7);
    let error = fixture.try_client(&fixture.client(Some(&stranger))).await.expect_err("refused");
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let mut fixture = fixture(true);
    let crl = fixture.folder.path().join("crl.pem");
    fixture.listener.clients.as_mut().expect("clients").crl = Some(crl.clone());
    fs::write(&crl, "nothing").expect("a file");
    assert_eq!(fixture.listener.load().map(drop).expect_err("no list").file, TlsFile::Crl);
    fixture.authority.revoke(&crl, &[8]);
    let (alice, bob) = (fixture.authority.of_user("alice", 7), fixture.authority.of_user("bob", 8));
    fixture.try_client(&fixture.client(Some(&alice))).await.expect("she is not on the list");
    let error = fixture.try_client(&fixture.client(Some(&bob))).await.expect_err("revoked");
    assert!(error.contains("Revoked"), "{error}");
}

#[tokio::test]
async fn a_client_refuses_a_listener_of_another_authority() {
    let fixture = fixture(false);
    let client = fixture.client(None);
    fs::write(&client.ca, Authority::new("others").issuer.pem()).expect("a file");
    fixture.try_client(&client).await.expect_err("an alert");
}

#[test]
fn the_first_byte_tells_tls_from_everything_else() {
    let plain = [0x80, 0x82, 0x00, b'G', b'P', 0x15, 0x17];
    assert!(is_tls(0x16) && !plain.into_iter().any(is_tls));
    assert!(!is_tls(u32::try_from(FRAME_LIMIT - 1).expect("31 bits").to_be_bytes()[0]));
}
