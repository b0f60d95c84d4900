//! The counters behind [`TransportStatistics`].

use std::sync::atomic::{AtomicU64, Ordering};

use super::TransportStatistics;

/// The fields of [`TransportStatistics`] that only grow, shared by all tasks of a transport.
#[derive(Default)]
pub(super) struct Counters {
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub messages_sent: AtomicU64,
    pub messages_received: AtomicU64,
    pub messages_dropped: AtomicU64,
    pub reconnects: AtomicU64,
    pub messages_misdirected: AtomicU64,
    pub connections_rejected: AtomicU64,
    pub tls_failures: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

impl Counters {
    pub fn statistics(&self) -> TransportStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportStatistics {
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
            messages_sent: read(&self.messages_sent),
            messages_received: read(&self.messages_received),
            bytes_queued: 0,
            messages_dropped: read(&self.messages_dropped),
            reconnects: read(&self.reconnects),
            messages_misdirected: read(&self.messages_misdirected),
            connections_rejected: read(&self.connections_rejected),
            tls_failures: read(&self.tls_failures),
        }
    }
}
