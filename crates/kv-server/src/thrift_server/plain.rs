//! The answer to a client without TLS where TLS is required.

use kv_api::thrift::wire::{self, Encoding, MessageKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::{ApplicationErrorKind, ThriftException, ThriftReply};
use crate::tls::plain_reply_deadline;

/// A client that needs more than this for the name of its first call gets no answer.
const MAX_HEADER_BYTES: usize = 4 << 10;

/// Answers the first call with an exception that says what is missing, and closes the connection.
/// Nothing of the call is decoded but its header.
pub(super) async fn explain(mut stream: TcpStream) {
    let deadline = plain_reply_deadline();
    let mut input = Vec::with_capacity(512);
    let explained = async {
        loop {
            if let Some(answer) = answer_to(&input) {
                return stream.write_all(&answer).await;
            }
            let is_too_long = input.len() >= MAX_HEADER_BYTES;
            if is_too_long || stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    };
    if let Ok(Ok(())) = timeout_at(deadline, explained).await {
        super::connection::linger(stream).await;
    }
}

fn answer_to(input: &[u8]) -> Option<Vec<u8>> {
    let encoding = Encoding::of_first_bytes(input)?;
    let header = wire::read_header(input, encoding).ok().filter(|header| header.kind == MessageKind::Call)?;
    let text = "this server speaks TLS only ([server.tls] mode = \"require\"): connect with TLS";
    let exception = ThriftException::new(ApplicationErrorKind::ProtocolError, text.to_string());
    let mut answer = Vec::new();
    wire::encode_reply(&mut answer, encoding, header.name, header.sequence_id, &ThriftReply::Exception(exception));
    Some(answer)
}
