//! Addresses of replicas as text: names are resolved when they are needed.

use std::fmt;
use std::net::SocketAddr;

/// `HOST:PORT`. The host may be a name. It is resolved again for each connection, so a peer may move to
/// another address, or get one only later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress(String);

impl PeerAddress {
    /// The address as configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The socket address; `None` if the host is a name.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        PeerAddress(address.to_string())
    }
}

/// Text that is not an address is noticed only when it is resolved.
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
