//! A peer made of bare sockets: it breaks off anywhere, sends bytes that no replica sends, and
//! connects twice.

mod breaking_off;
mod not_a_replica;
mod twice;

use std::net::Shutdown;

use super::*;

/// A peer that sends any bytes, knows where frames begin, and closes its connections in an orderly
/// way.
struct RawPeer {
    listener: TcpListener,
    target: SocketAddr,
}

impl RawPeer {
    /// The peer B of a transport A.
    fn of(network: &mut Network) -> RawPeer {
        let listener = network.listeners[1].take().expect("not used yet");
        RawPeer { listener, target: network.peers[0].1 }
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.target).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        stream
    }

    /// Dials, and sends these bytes.
    fn dial_and_send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.dial();
        stream.write_all(bytes).expect("the connection is open");
        stream
    }

    fn accept(&self) -> TcpStream {
        accept_as_replica(&self.listener)
    }
}

fn hello() -> Vec<u8> {
    Frame::hello(envelope(B, A, "", vec![]).sender, A).encode().expect("small").pieces.concat()
}

fn message(body: &str) -> Vec<u8> {
    bytes_of(envelope(B, A, body.to_owned(), vec![]))
}

fn bytes_of(envelope: Envelope) -> Vec<u8> {
    Frame::message(envelope).encode().expect("small enough").pieces.concat()
}

/// Recomputes the checksum of a frame's header.
fn seal_header(frame: &mut [u8]) {
    let crc = crc32c::crc32c(&frame[..72]);
    frame[72..76].copy_from_slice(&crc.to_le_bytes());
}

impl Events {
    /// The bodies of the messages that are delivered before the disconnection is reported.
    fn bodies_until_the_end(&mut self, runtime: &Runtime) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            match self.next(runtime) {
                TransportEvent::Received(envelope) => bodies.push(body_of(&envelope)),
                TransportEvent::Disconnected(_) => return bodies,
                TransportEvent::Connected(peer) => panic!("{peer} was not accepted"),
            }
        }
    }

    fn body(&mut self, runtime: &Runtime) -> String {
        body_of(&self.message(runtime))
    }
}

fn body_of(envelope: &Envelope) -> String {
    String::from_utf8(envelope.body.to_vec()).expect("text")
}

/// Reads frames from a stream.
struct Reader {
    stream: TcpStream,
    decoder: Decoder,
}

impl Reader {
    fn of(stream: TcpStream) -> Reader {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        Reader { stream, decoder: Decoder::default() }
    }

    /// Reads at most `most` bytes at a time.
    fn next(&mut self, most: usize) -> Envelope {
        let mut bytes = vec![0; most];
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("the stream is intact") {
                return frame.envelope;
            }
            self.read(&mut bytes);
        }
    }

    fn read(&mut self, bytes: &mut [u8]) {
        let count = self.stream.read(bytes).expect("the connection is open");
        assert!(count > 0, "the connection was closed");
        self.decoder.buffer().extend_from_slice(&bytes[..count]);
    }
}
