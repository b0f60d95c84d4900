//! Future events, in the order of time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use bytes::Bytes;
use rsml::Message;
use rsml::MessageHeader;

/// Names one start of one node: what was planned for an earlier one is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub node: usize,
    pub incarnation: u64,
}

/// A message on its way.
pub struct Delivery {
    pub to: usize,
    pub sender: MessageHeader,
    pub message: Message,
    pub payload: Vec<Bytes>,
}

pub enum Event {
    Tick(Process),
    /// The core has taken inputs and is asked what follows.
    Settle(Process),
    /// Entries that wait are applied.
    Apply(Process),
    /// Pieces of snapshots are read and written.
    Snapshot(Process),
    /// The log looks for space again.
    Space(Process),
    /// The disk has space again.
    SpaceReturns(usize),
    /// The log has done what it was asked for.
    Disk(Process),
    Message(Box<Delivery>),
    /// A client begins its next operation.
    Client(usize),
    /// A client has waited for its step long enough.
    GiveUp {
        client: usize,
        step: u64,
    },
    /// A client sends its commit again.
    Resend {
        client: usize,
        step: u64,
    },
    /// Somebody leaves a note and does not wait for the answer.
    BlindNote(usize),
    Crash(Process),
    Restart(Process),
    /// One direction of a link works again.
    Heal(usize, usize),
    Upset(usize),
    /// One on whose lease this primary relies is given reason to let another one lead.
    Spring(Process),
    /// The first sees its connection to the second end.
    Hint(usize, usize),
    /// The process is asked to stop, and does.
    Stop(Process),
    Fault,
}

impl Event {
    /// The process that must be awake for it, if one must.
    pub fn target(&self) -> Option<usize> {
        match self {
            Event::Tick(process)
            | Event::Settle(process)
            | Event::Apply(process)
            | Event::Snapshot(process)
            | Event::Space(process)
            | Event::Disk(process) => Some(process.node),
            Event::Message(delivery) => Some(delivery.to),
            _ => None,
        }
    }
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Events by time; those of one moment in the order in which they were planned.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Scheduled>,
    order: u64,
}

impl Queue {
    pub fn push(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.heap.push(Scheduled { at, order: self.order, event });
    }

    /// The next event with its time, unless it lies beyond `until`.
    pub fn pop(&mut self, until: u64) -> Option<(u64, Event)> {
        if self.heap.peek().is_none_or(|next| next.at > until) {
            return None;
        }
        self.heap.pop().map(|next| (next.at, next.event))
    }
}
