//! Where replicas listen, as text: names are looked up when they are needed.

use std::fmt;
use std::net::SocketAddr;

/// `HOST:PORT`. The host may be a name, which is looked up again at each connection, so that a peer may move to another
/// address, or get one only later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress(String);

impl PeerAddress {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, where it is no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.0.parse().ok()
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        PeerAddress(address.to_string())
    }
}

/// Text that is no address at all is noticed only when it is looked up.
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
