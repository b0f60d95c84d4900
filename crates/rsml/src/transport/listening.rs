//! Gets a socket to listen on, even if this replica's name cannot be resolved yet.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ::dial::Name;
use tokio::net::TcpListener;
use tokio::time;

use super::backoff::Backoff;
use super::shared::TransportShared;
use super::trouble::TroubleKind;
use crate::PeerAddress;

/// The first and the longest wait before this replica's name is resolved again.
const LISTEN_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

impl TransportShared {
    /// Records that the transport listens now.
    pub fn note_listening(&self, listener: &TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        self.trouble.clear();
        self.listen_address.set(address).expect("it begins to listen once");
        Ok(())
    }

    /// Tries again while the name has no address, or none of this machine. Meanwhile this replica
    /// dials the others, and none of them can reach it.
    pub async fn listen_eventually(&self, address: &PeerAddress) -> TcpListener {
        let mut name = Name::new(address.as_str());
        let mut backoff = Backoff::new(LISTEN_PAUSE.0, LISTEN_PAUSE.1);
        loop {
            let failure = match name.look_up(self.connect_timeout).await {
                Err(error) => (TroubleKind::Unresolved, error),
                Ok(addresses) => match listen_on_one(&addresses).await {
                    Ok(listener) => match self.note_listening(&listener) {
                        Ok(()) => {
                            tracing::info!(%address, "listening for peers");
                            return listener;
                        }
                        Err(error) => (TroubleKind::NotListening, error),
                    },
                    Err(error) => (TroubleKind::NotListening, error),
                },
            };
            let (kind, error) = failure;
            if let Some(held_back) = self.complaints.allow() {
                tracing::warn!(%address, %error, held_back, "cannot listen for peers yet; trying again");
            }
            self.trouble.set(address.as_str(), kind, error.to_string());
            time::sleep(backoff.next_wait()).await;
        }
    }
}

/// Listens on the first address that belongs to this machine. IPv4 addresses come first, since
/// other replicas most often expect those.
async fn listen_on_one(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let (v4, v6): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses.iter().copied().partition(|address| address.is_ipv4());
    for address in v4.into_iter().chain(v6) {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
