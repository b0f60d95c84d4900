//! How a [`TcpTransport`](super::TcpTransport) is set up.

use super::tls::PeerTls;
use crate::{ClusterId, Membership, PeerAddress};

/// The settings of a [`TcpTransport`](super::TcpTransport).
#[derive(Debug)]
pub struct TcpOptions {
    /// The replica that the transport sends and receives for, and its peers with their addresses.
    /// [`Transport::set_peers`](super::Transport::set_peers) changes the peers later. A member
    /// whose address is not known is not connected.
    pub membership: Membership,
    /// Where to listen; ignored if there is a `listener`. A name is resolved, and listened on,
    /// again and again until that works.
    pub listen: PeerAddress,
    /// A socket that already listens, for instance on a port that the system chose.
    pub listener: Option<std::net::TcpListener>,
    /// If both sides know theirs, connections between different clusters are refused.
    pub cluster_id: ClusterId,
    /// The maximum number of bytes that may be queued for one peer, including those being written.
    /// Messages that do not fit are dropped.
    pub queue_bytes: usize,
    /// The maximum number of incoming connections whose dialler has not identified itself. If there
    /// are more, the oldest is closed: each takes a socket and some memory. At least 1.
    pub max_strangers: usize,
    /// The wait before dialling again doubles from here...
    pub reconnect_min_ms: u64,
    /// ...up to here, and is shortened by up to half at random.
    pub reconnect_max_ms: u64,
    /// How long a peer may take to accept a connection, and to identify itself on one it opened.
    pub connect_timeout_ms: u64,
    /// How often the accepting side sends a sign of life.
    pub alive_interval_ms: u64,
    /// A dialler that hears nothing for this long dials again. Several times `alive_interval_ms`.
    pub silence_ms: u64,
    /// Encrypts every connection, and accepts only peers that prove who they are. All replicas of a
    /// cluster need it, or none.
    pub tls: Option<PeerTls>,
}

impl TcpOptions {
    /// The default of `queue_bytes`.
    pub const QUEUE_BYTES: usize = 64 << 20;
    /// The default of `max_strangers`.
    pub const MAX_STRANGERS: usize = 128;

    /// The default settings, without TLS.
    pub fn new(listen: impl Into<PeerAddress>, membership: Membership) -> Self {
        TcpOptions {
            membership,
            listen: listen.into(),
            listener: None,
            cluster_id: ClusterId::NONE,
            queue_bytes: Self::QUEUE_BYTES,
            max_strangers: Self::MAX_STRANGERS,
            reconnect_min_ms: 10,
            reconnect_max_ms: 1000,
            connect_timeout_ms: 2000,
            alive_interval_ms: 1000,
            silence_ms: 4000,
            tls: None,
        }
    }
}
