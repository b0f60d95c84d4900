//! The Thrift interface: generated structs ([`generated`]), the methods as typed calls and replies ([`ThriftCall`],
//! [`ThriftReply`]) and the message codec that server and clients share ([`wire`]).
//!
//! The interface is `thrift/kvstore.thrift` in this crate; it can grow, but what stands there is fixed, because clients
//! that cannot be rebuilt rely on it. After a change there, run `scripts/generate-thrift.sh` (it needs the Apache Thrift
//! compiler, Debian's `thrift-compiler`), add new methods to the table in `calls.rs` and check in the result together.
//!
//! No meaning is attached to anything here: conversion to the vocabulary of this crate is the server's and the client's.

mod calls;
#[allow(dead_code, unused_imports, unused_extern_crates, missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod generated;
pub mod wire;

pub use calls::{Method, MethodKind, ThriftCall, ThriftException, ThriftReply, ThriftRequest};
use thrift::protocol::TType;
pub use thrift::{ApplicationErrorKind, OrderedFloat};
use thrift::{ProtocolError, ProtocolErrorKind};

/// Generated code asks this before it reads a value, see `scripts/generate-thrift.sh`.
fn expect_type(declared: TType, wanted: TType) -> thrift::Result<()> {
    if declared == wanted {
        return Ok(());
    }
    let message = format!("a value of type {wanted} is expected where one of type {declared} was sent");
    Err(ProtocolError::new(ProtocolErrorKind::InvalidData, message).into())
}
