//! Opens the byte streams to servers. Nothing else in this crate knows what a stream is made of.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::Options;

/// Connects to `address` within [`Options::connect_timeout`]; the error is a reason for people.
pub(crate) async fn connect(
    address: &str,
    options: &Options,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, String> {
    match timeout(options.connect_timeout, dial::connect(address)).await {
        Ok(Ok(stream)) => {
            // Otherwise a small request would wait until earlier ones have been acknowledged.
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            Ok(stream)
        }
        Ok(Err(error)) => Err(plain_reason(&error)),
        Err(_) => Err(format!("no connection within {} ms", options.connect_timeout.as_millis())),
    }
}

/// The operating system's message without its error number.
fn plain_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        _ => error.to_string(),
    }
}
