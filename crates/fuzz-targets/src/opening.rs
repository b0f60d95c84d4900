//! The first bytes of a connection to a listener that serves TLS and plain text on one port.
//!
//! Checked: the first byte decides as both protocols would. Bytes taken for TLS hold no Thrift message, and bytes taken for
//! plain text begin no handshake, however they are cut. Nobody gets through a handshake with bytes
//! that were not made for this very connection.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use kv_api::thrift::wire::{Scanner, WireLimits};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tls_files::{FRAME_LIMIT, is_tls};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::{Input, thrift};

struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Both sides of handshakes; made once, and the same for what is checked.
fn sides() -> &'static Sides {
    static SIDES: OnceLock<Sides> = OnceLock::new();
    SIDES.get_or_init(|| {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["here".to_string()]).expect("a certificate");
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let server = server.expect("versions").with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a certificate");
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Sides { server: Arc::new(server.expect("they fit")), client: Arc::new(client) }
    })
}

pub fn any(bytes: &[u8]) {
    // Made before anything is measured for the first input, and without use for it.
    let sides = sides();
    let mut input = Input::new(bytes);
    let piece_bytes = usize::from(input.byte()).max(1);
    let bytes = bytes.get(1..).unwrap_or_default();
    let Some(first) = bytes.first() else { return };
    match is_tls(*first) {
        true => {
            assert!(!holds_thrift(bytes), "a Thrift message was taken for TLS");
            shake_hands(&sides.server, bytes, piece_bytes);
        }
        false => assert!(!begins_handshake(bytes, piece_bytes), "a handshake was taken for plain text"),
    }
}

fn holds_thrift(bytes: &[u8]) -> bool {
    let limits = WireLimits { max_message_bytes: FRAME_LIMIT - 1, ..WireLimits::default() };
    matches!(Scanner::new(limits).scan(bytes), Ok(Some(_)))
}

fn begins_handshake(bytes: &[u8], piece_bytes: usize) -> bool {
    let mut acceptor = Acceptor::default();
    for mut piece in bytes.chunks(piece_bytes) {
        if acceptor.read_tls(&mut piece).is_err() {
            return false;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(_)) => return true,
            Err(_) => return false,
        }
    }
    false
}

fn shake_hands(server: &Arc<ServerConfig>, bytes: &[u8], piece_bytes: usize) {
    let mut connection = ServerConnection::new(server.clone()).expect("a configuration that was checked");
    for piece in bytes.chunks(piece_bytes) {
        let mut piece = Cursor::new(piece);
        while (piece.position() as usize) < piece.get_ref().len() {
            if connection.read_tls(&mut piece).is_err() || connection.process_new_packets().is_err() {
                return;
            }
            let mut answer = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut answer).expect("memory takes everything");
            }
        }
        assert!(connection.is_handshaking(), "a handshake was completed without a client");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut client =
        ClientConnection::new(sides().client.clone(), ServerName::try_from("here").expect("a name")).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("memory takes everything");
    let with_piece = |piece: u8, bytes: &[u8]| [&[piece], bytes].concat();
    let mut seeds = vec![
        with_piece(255, &hello),
        with_piece(1, &hello[..hello.len() / 2]),
        with_piece(255, b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n"),
        with_piece(3, &[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3]),
        with_piece(255, &[0x16, 0, 0, 0, 0x80, 1, 0, 1]),
    ];
    // Those of the stream begin with the length of a piece as well.
    seeds.extend(thrift::seeds());
    seeds
}
