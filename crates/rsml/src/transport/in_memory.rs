//! [`InMemoryTransport`]: connects the replicas of one process by a [`SharedMessageBus`] that tests
//! can cut.
//!
//! `send` delivers an envelope to its receiver at once, on the sender's thread. An [`EventSink`]
//! must therefore not call a transport; it should only queue events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::closable_sink::ClosableSink;
use super::counters::{Counters, count};
use super::frame::encoded_bytes;
use super::{Envelope, EventSink, Transport, TransportEvent, TransportStatistics};
use crate::{Membership, ReplicaId};

/// Creates a bus without replicas on it.
pub fn create_shared_message_bus() -> SharedMessageBus {
    SharedMessageBus::default()
}

/// Connects the [`InMemoryTransport`]s created on it. Clones are the same bus.
#[derive(Clone, Default)]
pub struct SharedMessageBus {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    endpoints: BTreeMap<ReplicaId, Arc<Endpoint>>,
    /// Directions in which nothing is delivered, as (from, to).
    cuts: BTreeSet<(ReplicaId, ReplicaId)>,
    isolated: BTreeSet<ReplicaId>,
}

struct Endpoint {
    sink: ClosableSink,
    counters: Counters,
}

type Pair = (ReplicaId, ReplicaId);

impl State {
    fn passes(&self, from: ReplicaId, to: ReplicaId) -> bool {
        let isolated = from != to && (self.isolated.contains(&from) || self.isolated.contains(&to));
        !isolated && !self.cuts.contains(&(from, to))
    }

    /// Pairs of registered replicas that can reach each other in both directions, each pair in both
    /// orders.
    fn connected_pairs(&self) -> BTreeSet<Pair> {
        let all = || self.endpoints.keys().copied();
        let pairs = all().flat_map(|one| all().map(move |other| (one, other)));
        pairs.filter(|&(one, other)| one != other && self.passes(one, other) && self.passes(other, one)).collect()
    }
}

impl SharedMessageBus {
    /// Stops delivery between these two in both directions. Each sees the other one disconnect.
    pub fn cut(&self, one: ReplicaId, other: ReplicaId) {
        self.change(|state| state.cuts.extend([(one, other), (other, one)]));
    }

    /// Stops delivery from `from` to `to`. Each sees the other one disconnect.
    pub fn cut_one_way(&self, from: ReplicaId, to: ReplicaId) {
        self.change(|state| state.cuts.extend([(from, to)]));
    }

    /// Stops delivery to and from this replica.
    pub fn isolate(&self, replica: ReplicaId) {
        self.change(|state| state.isolated.extend([replica]));
    }

    /// Restores delivery between all replicas.
    pub fn heal(&self) {
        self.change(|state| {
            state.cuts.clear();
            state.isolated.clear();
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is connected, and reports that to every replica concerned.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut events = Vec::new();
        {
            let mut state = self.state();
            let endpoints_before = state.endpoints.clone();
            let before = state.connected_pairs();
            change(&mut state);
            let after = state.connected_pairs();
            for &(replica, peer) in before.difference(&after) {
                events.push((endpoints_before[&replica].clone(), TransportEvent::Disconnected(peer)));
            }
            for &(replica, peer) in after.difference(&before) {
                events.push((state.endpoints[&replica].clone(), TransportEvent::Connected(peer)));
            }
        }
        for (endpoint, event) in events {
            endpoint.sink.deliver(event);
        }
    }

    /// The receiver of an envelope from `from`; `None` if it cannot be reached.
    fn receiver(&self, from: ReplicaId, to: ReplicaId) -> Option<Arc<Endpoint>> {
        let state = self.state();
        state.endpoints.get(&to).filter(|_| state.passes(from, to)).cloned()
    }
}

/// One replica's connection to a [`SharedMessageBus`]. It ends on [`Transport::shutdown`] or when
/// dropped.
pub struct InMemoryTransport {
    me: ReplicaId,
    bus: SharedMessageBus,
    endpoint: Arc<Endpoint>,
}

impl InMemoryTransport {
    /// Connects `me` to the bus. If `me` was connected before, that transport is shut down.
    pub fn new(me: ReplicaId, bus: &SharedMessageBus, sink: EventSink) -> Self {
        let endpoint = Arc::new(Endpoint { sink: ClosableSink::new(sink), counters: Counters::default() });
        let previous = bus.state().endpoints.get(&me).cloned();
        if let Some(previous) = previous {
            previous.sink.close();
            bus.change(|state| {
                state.endpoints.remove(&me);
            });
        }
        bus.change(|state| {
            state.endpoints.insert(me, endpoint.clone());
        });
        InMemoryTransport { me, bus: bus.clone(), endpoint }
    }
}

impl Transport for InMemoryTransport {
    fn send(&self, envelope: Envelope) {
        let bytes = encoded_bytes(&envelope);
        let receiver = self.bus.receiver(self.me, envelope.to);
        let delivered = receiver.is_some_and(|receiver| {
            // Counted before delivery, so that a receiver that sees the message sees it counted.
            count(&receiver.counters.messages_received, 1);
            count(&receiver.counters.bytes_received, bytes);
            receiver.sink.deliver(TransportEvent::Received(envelope))
        });
        let counters = &self.endpoint.counters;
        if delivered {
            count(&counters.messages_sent, 1);
            count(&counters.bytes_sent, bytes);
        } else {
            count(&counters.messages_dropped, 1);
        }
    }

    /// Ignored: the bus connects all replicas on it.
    fn set_peers(&self, _: &Membership) {}

    fn shutdown(&self) {
        if !self.endpoint.sink.close() {
            return;
        }
        self.bus.change(|state| {
            if state.endpoints.get(&self.me).is_some_and(|current| Arc::ptr_eq(current, &self.endpoint)) {
                state.endpoints.remove(&self.me);
            }
        });
    }

    fn statistics(&self) -> TransportStatistics {
        self.endpoint.counters.statistics()
    }
}

impl Drop for InMemoryTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}
