//! The facts about a connection before any request: how it is carried, and whom its certificate
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
    /// Whether the client runs on the machine of this server.
    pub is_local: bool,
}

impl ConnectionFacts {
    /// A plain connection from this address to an address of ours, if that is known.
    pub fn plain(address: SocketAddr, ours: Option<SocketAddr>) -> Self {
        // Nobody else can hold a connection whose both ends have the same address.
        let is_local = address.ip().is_loopback() || ours.is_some_and(|ours| ours.ip() == address.ip());
        ConnectionFacts { encrypted: false, certificate_user: None, address, is_local }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_local_on_the_loopback_or_at_our_own_address() {
        let at = |address: &str| format!("{address}:1").parse::<SocketAddr>().expect("an address");
        let is_local = |client, ours| ConnectionFacts::plain(at(client), Some(at(ours))).is_local;
        assert!(is_local("127.0.0.1", "127.0.0.1") && is_local("127.0.0.1", "10.0.0.1"));
        assert!(is_local("10.0.0.1", "10.0.0.1") && !is_local("10.0.0.2", "10.0.0.1"));
        assert!(!ConnectionFacts::plain(at("10.0.0.1"), None).is_local);
    }
}
