//! Messages between replicas that act in different epochs, or that help one into the next epoch.

use crate::configuration::Member;

/// See [`Message::Ended`](super::Message::Ended).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Ended {
    /// The epoch in which the sender acts: all earlier ones are over.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The seal with which the epoch before ended. It is chosen.
    #[prost(uint64, tag = "2")]
    pub since: u64,
    /// The view in which the sender learned that: a log of this view, or of a higher one, holds
    /// everything through `since`. 0: the sender does not know it any more.
    #[prost(uint64, tag = "3")]
    pub view: u64,
    /// The members of `epoch`, so that the receiver knows whom to ask for more.
    #[prost(message, repeated, tag = "4")]
    pub members: Vec<Member>,
    /// The receiver is asked to stand for election as soon as it acts in `epoch`.
    #[prost(bool, tag = "5")]
    pub stand: bool,
}

/// See [`Message::EndedRequest`](super::Message::EndedRequest).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct EndedRequest {}

/// See [`Message::CommittedRequest`](super::Message::CommittedRequest).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CommittedRequest {
    /// The first entry wanted.
    #[prost(uint64, tag = "1")]
    pub from: u64,
}

/// See [`Message::Committed`](super::Message::Committed).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Committed {
    /// The sequence of the first entry.
    #[prost(uint64, tag = "1")]
    pub from: u64,
    /// The entries that end the receiver's epoch, and those before, were chosen in this view or in
    /// lower ones. 0: the sender knows only that it is a view of the receiver's epoch, or earlier.
    #[prost(uint64, tag = "2")]
    pub view: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "3")]
    pub first: u64,
}
