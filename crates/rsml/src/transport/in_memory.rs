//! [`InMemoryTransport`]: replicas of one process, connected by a [`SharedMessageBus`] that tests can cut.
//!
//! An envelope is handed to its receiver within `send`, by the sender's thread. An [`EventSink`] must therefore not call
//! a transport back; it only queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::frame::encoded_bytes;
use super::gate::{Counters, Gate, count};
use super::{Envelope, EventSink, Transport, TransportEvent, TransportStatistics};
use crate::ReplicaId;

/// A new bus without replicas on it.
pub fn create_shared_message_bus() -> SharedMessageBus {
    SharedMessageBus::default()
}

/// Connects the [`InMemoryTransport`]s made on it; clones are the same bus.
#[derive(Clone, Default)]
pub struct SharedMessageBus {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    endpoints: BTreeMap<ReplicaId, Arc<Endpoint>>,
    /// Directions in which nothing is delivered: from, to.
    cuts: BTreeSet<(ReplicaId, ReplicaId)>,
    isolated: BTreeSet<ReplicaId>,
}

struct Endpoint {
    gate: Gate,
    counters: Counters,
}

type Pair = (ReplicaId, ReplicaId);

impl State {
    fn passes(&self, from: ReplicaId, to: ReplicaId) -> bool {
        let isolated = from != to && (self.isolated.contains(&from) || self.isolated.contains(&to));
        !isolated && !self.cuts.contains(&(from, to))
    }

    /// Pairs of registered replicas, both orders, between which nothing is cut.
    fn connected_pairs(&self) -> BTreeSet<Pair> {
        let all = || self.endpoints.keys().copied();
        let pairs = all().flat_map(|one| all().map(move |other| (one, other)));
        pairs.filter(|&(one, other)| one != other && self.passes(one, other) && self.passes(other, one)).collect()
    }
}

impl SharedMessageBus {
    /// Nothing passes between these two any more, in either direction; both see the other one disconnect.
    pub fn cut(&self, one: ReplicaId, other: ReplicaId) {
        self.change(|state| state.cuts.extend([(one, other), (other, one)]));
    }

    /// Nothing passes from `from` to `to` any more; both see the other one disconnect.
    pub fn cut_one_way(&self, from: ReplicaId, to: ReplicaId) {
        self.change(|state| state.cuts.extend([(from, to)]));
    }

    /// Nothing passes to or from this replica any more.
    pub fn isolate(&self, replica: ReplicaId) {
        self.change(|state| state.isolated.extend([replica]));
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.change(|state| {
            state.cuts.clear();
            state.isolated.clear();
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is connected, and tells everyone whom that concerns.
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
            endpoint.gate.deliver(event);
        }
    }

    /// The receiver of an envelope from `from`, when it can be reached.
    fn receiver(&self, from: ReplicaId, to: ReplicaId) -> Option<Arc<Endpoint>> {
        let state = self.state();
        state.endpoints.get(&to).filter(|_| state.passes(from, to)).cloned()
    }
}

/// One replica's place on a [`SharedMessageBus`]. It is left on [`Transport::shutdown`] or when dropped.
pub struct InMemoryTransport {
    me: ReplicaId,
    bus: SharedMessageBus,
    endpoint: Arc<Endpoint>,
}

impl InMemoryTransport {
    /// Takes the place of `me`; a transport that had it before is shut down.
    pub fn new(me: ReplicaId, bus: &SharedMessageBus, sink: EventSink) -> Self {
        let endpoint = Arc::new(Endpoint { gate: Gate::new(sink), counters: Counters::default() });
        let previous = bus.state().endpoints.get(&me).cloned();
        if let Some(previous) = previous {
            previous.gate.close();
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
            // Counted before: whoever sees the message sees it counted.
            count(&receiver.counters.messages_received, 1);
            count(&receiver.counters.bytes_received, bytes);
            receiver.gate.deliver(TransportEvent::Received(envelope))
        });
        let counters = &self.endpoint.counters;
        if delivered {
            count(&counters.messages_sent, 1);
            count(&counters.bytes_sent, bytes);
        } else {
            count(&counters.messages_dropped, 1);
        }
    }

    fn shutdown(&self) {
        if !self.endpoint.gate.close() {
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
