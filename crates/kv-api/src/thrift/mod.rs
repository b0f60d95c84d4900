//! The Thrift interface: generated structs ([`generated`]), the methods as typed calls and replies
//! ([`ThriftCall`], [`ThriftReply`]) and the message codec that server and clients share
//! ([`wire`]).
//!
//! The interface is `thrift/kvstore.thrift` in this crate. It can grow, but existing definitions
//! never change, because clients that cannot be rebuilt rely on them. After an addition, run
//! `scripts/generate-thrift.sh` (it needs the Apache Thrift compiler, Debian's `thrift-compiler`),
//! add new methods to the table in `calls.rs`, and commit everything together.
//!
//! Nothing here interprets requests: server and client convert them to the vocabulary of this
//! crate.

mod calls;
#[allow(dead_code, unused_imports, unused_extern_crates, missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod generated;
mod token;
pub mod wire;

pub use calls::{Method, MethodKind, ThriftCall, ThriftException, ThriftReply, ThriftRequest};
use thrift::protocol::TType;
pub use thrift::{ApplicationErrorKind, OrderedFloat};
use thrift::{ProtocolError, ProtocolErrorKind};
pub use token::PresentedToken;

/// Checks the type of a value before generated code reads it; see `scripts/generate-thrift.sh`.
fn expect_type(declared: TType, wanted: TType) -> thrift::Result<()> {
    if declared == wanted {
        return Ok(());
    }
    let message = format!("a value of type {wanted} is expected where one of type {declared} was sent");
    Err(ProtocolError::new(ProtocolErrorKind::InvalidData, message).into())
}
