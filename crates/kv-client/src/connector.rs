//! Opens the byte streams to servers. Nothing else in this crate knows what a stream is made of.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::Options;

/// A stream of bytes to a server.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// Connects to `address` within [`Options::connect_timeout`]; the error is a reason for people.
pub(crate) async fn connect(address: &str, options: &Options) -> Result<Box<dyn ByteStream>, String> {
    let connecting = async {
        let stream = dial::connect(address).await.map_err(|error| plain_reason(&error))?;
        // Otherwise a small request would wait until earlier ones have been acknowledged.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        match &options.tls {
            None => Ok(Box::new(stream) as Box<dyn ByteStream>),
            Some(tls) => match tls.secure(address, stream).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn ByteStream>),
                Err(error) => Err(error.to_string()),
            },
        }
    };
    let patience = options.connect_timeout;
    let late = || format!("no connection within {} ms", patience.as_millis());
    timeout(patience, connecting).await.unwrap_or_else(|_| Err(late()))
}

/// The operating system's message without its error number.
fn plain_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        _ => error.to_string(),
    }
}
