//! Certificates: peers with valid ones connect, and all others are refused.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::*;

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub struct Signed {
    certificate: String,
    key: String,
}

impl Signed {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
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

    /// Writes the files of a replica with this name in its certificate.
    pub fn files(&self, folder: &Path, name: &str) -> PeerTls {
        self.files_of(folder, &self.sign(name, 4000))
    }

    fn files_of(&self, folder: &Path, signed: &Signed) -> PeerTls {
        let tls = PeerTls::new(folder.join("ca.pem"), folder.join("replica.pem"), folder.join("replica.key"));
        let TlsFiles { ca, certificate, key, crl: _ } = &tls.files;
        for (path, text) in [(ca, &self.issuer.pem()), (certificate, &signed.certificate), (key, &signed.key)] {
            fs::write(path, text).expect("a file");
        }
        tls
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        Arc::new(roots)
    }

    fn connector(&self, signed: &Signed) -> TlsConnector {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots())
            .with_client_auth_cert(signed.chain(), signed.key())
            .expect("a key that fits");
        TlsConnector::from(Arc::new(config))
    }

    fn acceptor(&self, signed: &Signed) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone()).build();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.expect("a verifier"))
            .with_single_cert(signed.chain(), signed.key())
            .expect("a key that fits");
        TlsAcceptor::from(Arc::new(config))
    }

    /// Accepts a connection as a replica whose certificate has this name. Reads nothing after the
    /// hello.
    pub fn accept_as_replica(
        &self,
        runtime: &Runtime,
        listener: TcpListener,
        name: &str,
    ) -> server::TlsStream<tokio::net::TcpStream> {
        let acceptor = self.acceptor(&self.sign(name, 4000));
        runtime.block_on(async {
            listener.set_nonblocking(true).expect("a socket");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let (stream, _) = listener.accept().await.expect("the transport dials");
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            stream.read_exact(&mut [0; 80]).await.expect("a hello");
            stream.write_all(&Greeting::with(Answer::Accepted).to_bytes()).await.expect("the dialler waits for it");
            stream.flush().await.expect("the dialler waits for it");
            stream
        })
    }
}

/// Replicas, each with its certificates in a folder of its own.
struct Secured {
    network: Network,
    authority: Authority,
    folders: Vec<tempfile::TempDir>,
}

impl Secured {
    fn new(count: u8) -> Self {
        let folders = (0..count).map(|_| tempfile::tempdir().expect("a folder")).collect();
        Secured { network: Network::new(count), authority: Authority::new("peers"), folders }
    }

    fn folder(&self, replica: ReplicaId) -> &Path {
        self.folders[usize::from(replica.0)].path()
    }

    fn files(&self, replica: ReplicaId) -> PeerTls {
        self.authority.files(self.folder(replica), &format!("replica-{replica}"))
    }

    fn options(&mut self, me: ReplicaId) -> TcpOptions {
        let mut options = self.network.options(me);
        options.tls = Some(self.files(me));
        options
    }

    fn start(&mut self, me: ReplicaId) -> Node {
        let options = self.options(me);
        self.network.start_with(options)
    }

    fn wait_for(&self, node: &mut Node, event: TransportEvent) {
        node.events.wait_for(&self.network.runtime, &event);
    }

    /// Waits until `count` connections of a node have failed because of TLS. Checks that the node
    /// never connected to `stranger`.
    fn wait_for_failures(&self, node: &mut Node, count: u64, stranger: ReplicaId) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while node.transport.statistics().tls_failures < count {
            assert!(Instant::now() < deadline, "no TLS failure: {:?}", node.transport.statistics());
            std::thread::sleep(Duration::from_millis(1));
        }
        let events = node.events.drain();
        assert!(!events.contains(&TransportEvent::Connected(stranger)), "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, TransportEvent::Received(_))), "{events:?}");
    }
}

#[test]
fn peers_with_certificates_exchange_messages_of_all_sizes_in_order() {
    let mut secured = Secured::new(2);
    let (mut a, mut b) = (secured.start(A), secured.start(B));
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    secured.wait_for(&mut b, TransportEvent::Connected(A));
    let large: Bytes = (0..20 << 20).map(|n: u32| (n % 251) as u8).collect();
    let mut sent: Vec<_> = (0..1000u32)
        .map(|n| envelope(A, B, n.to_le_bytes().to_vec(), vec![Bytes::from(vec![n as u8; n as usize % 700])]))
        .collect();
    sent.push(envelope(A, B, "large", vec![large.clone(), Bytes::from_static(b"small"), large]));
    sent.push(envelope(A, B, "last", vec![]));
    sent.iter().for_each(|message| a.transport.send(message.clone()));
    for message in &sent {
        assert!(b.events.message(&secured.network.runtime) == *message, "a message changed");
    }
    b.transport.send(envelope(B, A, "back", vec![]));
    assert_eq!(a.events.message(&secured.network.runtime).body, "back");
    assert_eq!((a.transport.statistics().tls_failures, b.transport.statistics().tls_failures), (0, 0));
}

#[test]
fn nothing_is_sent_in_clear_text() {
    let mut secured = Secured::new(2);
    let listener = secured.network.listeners[1].take().expect("not used yet");
    let _a = secured.start(A);
    let (mut stream, _) = listener.accept().expect("the transport dials");
    let mut first = [0];
    stream.read_exact(&mut first).expect("a handshake");
    assert_eq!(first, [0x16], "a TLS record of the handshake");
}

/// Starts B with the certificate of replica 2, which B is configured to regard as its own.
fn impostor(secured: &mut Secured) -> Node {
    let mut options = secured.network.options(B);
    let mut tls = secured.authority.files(secured.folder(B), "replica-2");
    tls.names.insert(B, "replica-2".to_string());
    options.tls = Some(tls);
    secured.network.start_with(options)
}

#[test]
fn with_the_certificate_of_one_replica_nobody_can_speak_or_listen_as_another() {
    let mut secured = Secured::new(3);
    let mut b = impostor(&mut secured);
    let mut a = secured.start(A);
    // A refuses two connections, incoming or outgoing, in whatever order they are made.
    secured.wait_for_failures(&mut a, 2, B);
    assert!(a.transport.statistics().connections_rejected > 0, "B spoke");
    assert!(!b.events.drain().contains(&TransportEvent::Connected(A)));
    // The replica whose name was misused is not affected.
    let mut c = secured.start(C);
    secured.wait_for(&mut a, TransportEvent::Connected(C));
    while !arrives_soon(&secured.network, &c, &mut a, envelope(C, A, "it is me", vec![])) {}
    secured.wait_for(&mut c, TransportEvent::Connected(A));
}

#[test]
fn certificates_may_have_other_names_than_the_default_ones() {
    let mut secured = Secured::new(2);
    let names = [(A, "a.example".to_string()), (B, "b.example".to_string())];
    let [mut a, mut b] = [A, B].map(|me| {
        let mut options = secured.network.options(me);
        let tls = secured.authority.files(secured.folder(me), &names[usize::from(me.0)].1);
        options.tls = Some(PeerTls { names: names.clone().into(), ..tls });
        secured.network.start_with(options)
    });
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    secured.wait_for(&mut b, TransportEvent::Connected(A));
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_both() {
    let mut secured = Secured::new(2);
    let mut options = secured.network.options(B);
    options.tls = Some(Authority::new("strangers").files(secured.folder(B), "replica-1"));
    let mut b = secured.network.start_with(options);
    let mut a = secured.start(A);
    secured.wait_for_failures(&mut a, 1, B);
    secured.wait_for_failures(&mut b, 1, A);
}

/// Dials A as B with this certificate. Returns once A has closed the connection.
fn speak_as_b(secured: &Secured, a: &Node, signed: &Signed) {
    let connector = secured.authority.connector(signed);
    secured.network.runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(a.transport.local_address().expect("it listens"))
            .await
            .expect("the port is open");
        let name = ServerName::try_from("replica-0").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("A is who it should be");
        let hello = Frame::hello(envelope(B, A, "", vec![]).sender, A).encode().expect("small").pieces.concat();
        let mut answer = Vec::new();
        // The connection may end before the hello is sent.
        let said = async {
            stream.write_all(&hello).await?;
            stream.read_to_end(&mut answer).await
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), said).await.expect("A closes the connection");
        assert!(ended.is_err() || !answer.contains(&0x06), "it was accepted: {answer:?}");
    });
}

#[test]
fn a_dialler_with_an_expired_or_self_signed_certificate_is_refused() {
    let mut secured = Secured::new(2);
    let mut a = secured.start(A);
    let expired = secured.authority.sign("replica-1", 2001);
    speak_as_b(&secured, &a, &expired);
    secured.wait_for_failures(&mut a, 1, B);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["replica-1".to_string()]).expect("a name");
    let alone = params.self_signed(&key).expect("a certificate");
    speak_as_b(&secured, &a, &Signed { certificate: alone.pem(), key: key.serialize_pem() });
    secured.wait_for_failures(&mut a, 2, B);
}

#[test]
fn a_listener_with_an_expired_certificate_gets_no_message() {
    let mut secured = Secured::new(2);
    let listener = secured.network.listeners[1].take().expect("not used yet");
    let acceptor = secured.authority.acceptor(&secured.authority.sign("replica-1", 2001));
    let mut a = secured.start(A);
    secured.network.runtime.block_on(async {
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let (stream, _) = listener.accept().await.expect("the transport dials");
        let failed = acceptor.accept(stream).await.expect_err("the dialler breaks off").to_string();
        assert!(failed.contains("CertificateExpired"), "{failed}");
    });
    secured.wait_for_failures(&mut a, 1, B);
}

#[test]
fn a_peer_without_tls_and_one_with_it_refuse_each_other_and_affect_no_other_peer() {
    let mut secured = Secured::new(3);
    let mut b = secured.network.start(B);
    let mut a = secured.start(A);
    let mut c = secured.start(C);
    // B fails both as a dialler and as a listener.
    secured.wait_for_failures(&mut b, 4, A);
    assert!(a.transport.statistics().connections_rejected > 0 && b.transport.statistics().connections_rejected > 0);
    assert!(a.transport.statistics().tls_failures > 0);
    while !arrives_soon(&secured.network, &c, &mut a, envelope(C, A, "undisturbed", vec![])) {}
    while !arrives_soon(&secured.network, &a, &mut c, envelope(A, C, "undisturbed", vec![])) {}
    assert!(!a.events.drain().contains(&TransportEvent::Connected(B)));
}

#[test]
fn a_dialler_without_tls_gets_the_answer_that_it_needs_it() {
    let mut secured = Secured::new(2);
    let a = secured.start(A);
    let mut stream = TcpStream::connect(a.transport.local_address().expect("it listens")).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let hello = Frame::hello(envelope(B, A, "", vec![]).sender, A);
    stream.write_all(&hello.encode().expect("small").pieces.concat()).expect("the connection is open");
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(Greeting::from_bytes(answer), Some(Greeting::with(Answer::WantsTls)));
}

#[test]
fn a_connection_without_a_tls_handshake_is_closed() {
    let mut secured = Secured::new(1);
    let mut options = secured.options(A);
    options.connect_timeout_ms = 50;
    let a = secured.network.start_with(options);
    let mut stream = TcpStream::connect(a.transport.local_address().expect("it listens")).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    assert_eq!(stream.read(&mut [0; 8]).expect("closed in order"), 0);
    assert_eq!(a.transport.statistics().connections_rejected, 1);
}

#[test]
fn a_peer_with_tls_that_falls_silent_is_dialled_again() {
    let mut secured = Secured::new(2);
    let listener = secured.network.listeners[1].take().expect("not used yet");
    let second = listener.try_clone().expect("a socket");
    let mut options = secured.options(A);
    options.silence_ms = 50;
    let mut a = secured.network.start_with(options);
    let _silent = secured.authority.accept_as_replica(&secured.network.runtime, listener, "replica-1");
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    secured.wait_for(&mut a, TransportEvent::Disconnected(B));
    let _again = secured.authority.accept_as_replica(&secured.network.runtime, second, "replica-1");
    secured.wait_for(&mut a, TransportEvent::Connected(B));
}

#[test]
fn a_peer_with_tls_that_is_only_idle_stays_connected() {
    let mut secured = Secured::new(2);
    let mut options = secured.options(A);
    options.silence_ms = 500;
    let mut a = secured.network.start_with(options);
    let mut options = secured.options(B);
    options.alive_interval_ms = 10;
    let _b = secured.network.start_with(options);
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    let events =
        async { while a.events.0.recv().await.is_some_and(|event| event != TransportEvent::Disconnected(B)) {} };
    let ended =
        secured.network.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(1200), events).await });
    assert!(ended.is_err(), "an idle connection ended");
}

#[test]
fn renewed_certificates_are_used_without_a_restart() {
    let mut secured = Secured::new(2);
    let (mut a, b) = (secured.start(A), secured.start(B));
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    // From another authority, so that the old certificates are useless.
    secured.authority = Authority::new("renewed");
    secured.files(A);
    secured.network.stop(&b);
    secured.wait_for(&mut a, TransportEvent::Disconnected(B));
    let mut b = secured.start(B);
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    secured.wait_for(&mut b, TransportEvent::Connected(A));
}

#[test]
fn unusable_files_leave_the_certificates_read_before_in_use() {
    let mut secured = Secured::new(2);
    let (mut a, b) = (secured.start(A), secured.start(B));
    secured.wait_for(&mut a, TransportEvent::Connected(B));
    // A new key without its certificate: the renewal is half done.
    fs::write(secured.folder(A).join("replica.key"), secured.authority.sign("replica-0", 4000).key).expect("a file");
    secured.network.stop(&b);
    secured.wait_for(&mut a, TransportEvent::Disconnected(B));
    let mut b = secured.start(B);
    secured.wait_for(&mut b, TransportEvent::Connected(A));
    while !arrives_soon(&secured.network, &a, &mut b, envelope(A, B, "as before", vec![])) {}
}

#[test]
fn the_certificate_and_the_name_of_the_replica_are_checked_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("peers");
    authority.files(folder.path(), "replica-0").check(A).expect("they fit");
    let error = authority.files(folder.path(), "replica-1").check(A).expect_err("a certificate of another replica");
    assert!(matches!(&error, TlsError::File(FileError { file: TlsFile::Certificate, .. })), "{error}");
    assert!(error.to_string().contains("replica.pem is no certificate of replica 0: "), "{error}");
    let mut tls = authority.files(folder.path(), "replica-0");
    tls.names.insert(A, "127.0.0.1".to_string());
    let error = tls.check(A).expect_err("an address").to_string();
    assert_eq!(error, "\"127.0.0.1\" cannot be the name of replica 0 in a certificate: it is an address");
}

#[test]
fn a_transport_does_not_start_with_unusable_certificates() {
    let mut secured = Secured::new(1);
    let mut options = secured.options(A);
    options.tls.as_mut().expect("set").files.key = "/nowhere/replica.key".into();
    let (sink, _events) = sink();
    let Err(error) = TcpTransport::start(options, sink, secured.network.runtime.handle()) else { panic!("it started") };
    assert!(error.to_string().starts_with("/nowhere/replica.key cannot be read: "), "{error}");
}
