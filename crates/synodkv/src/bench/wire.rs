//! The bytes of one connection of a run, without waiting: plain, or with TLS.

use std::io::{self, ErrorKind, Read, Write};

use kv_api::thrift::generated::AuthenticateRequest;
use kv_api::thrift::wire::{Encoding, Scanner, WireLimits, encode_call};
use kv_client::{Tls, Token};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConnection;

pub enum Wire {
    Plain(TcpStream),
    Encrypted(Box<Encrypted>),
}

pub struct Encrypted {
    stream: TcpStream,
    session: ClientConnection,
}

/// Lets TLS read and write as much as the socket takes.
struct Socket<'s>(&'s TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says who asks, and waits for the reply; `None` if the connection breaks. A refusal shows itself
/// in the replies to the requests of the run.
async fn authenticate(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), token: Option<&Token>) -> Option<()> {
    let Some(token) = token else { return Some(()) };
    let (mut output, mut input) = (Vec::new(), Vec::new());
    let call = AuthenticateRequest::new(token.reveal().into());
    encode_call(&mut output, Encoding::default(), 0, &call.into());
    stream.write_all(&output).await.ok()?;
    let mut scanner = Scanner::new(WireLimits::default());
    while scanner.scan(&input).ok()?.is_none() {
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

impl Wire {
    /// Connects; `None` if that fails.
    pub async fn connect(address: &str, tls: Option<&Tls>, token: Option<&Token>) -> Option<Wire> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let Some(tls) = tls else {
            authenticate(&mut stream, token).await?;
            return Some(Wire::Plain(stream));
        };
        let mut stream = tls.secure(address, stream).await.ok()?;
        authenticate(&mut stream, token).await?;
        let (stream, session) = stream.into_inner();
        Some(Wire::Encrypted(Box::new(Encrypted { stream, session })))
    }

    /// Waits until there is something to read, or room for more bytes if some wait.
    pub async fn ready(&self, has_output: bool) -> io::Result<()> {
        let (stream, waits) = match self {
            Wire::Plain(stream) => (stream, has_output),
            Wire::Encrypted(wire) => (&wire.stream, has_output || wire.session.wants_write()),
        };
        let interest = if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        stream.ready(interest).await.map(drop)
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.try_write(bytes),
            Wire::Encrypted(wire) => {
                // The session holds a limited number of bytes that the socket has not taken.
                wire.flush()?;
                match wire.session.writer().write(bytes)? {
                    0 => Err(ErrorKind::WouldBlock.into()),
                    count => Ok(count),
                }
            }
        }
    }

    /// Passes on what was written before, as far as the socket takes it.
    pub fn try_flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(_) => Ok(()),
            Wire::Encrypted(wire) => wire.flush(),
        }
    }

    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.try_read(into),
            Wire::Encrypted(wire) => wire.read(into),
        }
    }

    /// Whether a read that did not fill the buffer leaves nothing behind.
    pub fn reads_all_at_once(&self) -> bool {
        matches!(self, Wire::Plain(_))
    }
}

impl Encrypted {
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.session.read_tls(&mut Socket(&self.stream))? == 0 {
                return Ok(0);
            }
            self.session.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}
