//! A stream with TLS in two halves, as the crate `thrift` wants it. A client reads only after it has written, so the halves
//! never wait for each other.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

#[derive(Clone)]
pub struct Shared(Arc<Mutex<StreamOwned<ClientConnection, TcpStream>>>);

impl Shared {
    /// `identity`: files of a certificate and its key.
    pub fn connect(address: &str, ca: &str, identity: Option<(&String, &String)>) -> Shared {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).expect("a file") {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_file_iter(certificate).expect("a file");
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                let chain = chain.collect::<Result<_, _>>().expect("certificates");
                config.with_client_auth_cert(chain, key).expect("a certificate and its key")
            }
        };
        let (host, _) = address.rsplit_once(':').expect("HOST:PORT");
        let name = ServerName::try_from(host.to_string()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Shared(Arc::new(Mutex::new(StreamOwned::new(connection, stream))))
    }
}

impl Read for Shared {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").read(into)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().expect("one thread").flush()
    }
}
