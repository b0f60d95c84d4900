//! What is known about a connection before any request: how it is carried, and whom its certificate
//! names.

use std::net::SocketAddr;

/// The facts about one client connection, of Thrift or of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// Whether the connection is TLS.
    pub encrypted: bool,
    /// The user whom the verified client certificate names.
    pub certificate_user: Option<String>,
    /// The client's address.
    pub address: SocketAddr,
}

impl ConnectionFacts {
    /// A plain connection from this address.
    pub fn plain(address: SocketAddr) -> Self {
        ConnectionFacts { encrypted: false, certificate_user: None, address }
    }
}
