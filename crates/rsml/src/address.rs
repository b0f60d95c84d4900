//! The addresses of replicas, as text: names are looked up when they are needed.

use std::fmt;
use std::net::SocketAddr;

/// `HOST:PORT`, where a replica listens for its peers. The host may be a name, which is looked up
/// again for each connection, so that a peer may move to another address, or get its address later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress(String);

impl PeerAddress {
    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, if it is no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        PeerAddress(address.to_string())
    }
}

/// Any text is taken. One that is no address is noticed when it is looked up.
impl From<&str> for PeerAddress {
    fn from(address: &str) -> Self {
        PeerAddress(address.to_owned())
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
