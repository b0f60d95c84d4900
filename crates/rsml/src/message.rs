//! The messages between replicas. The encoding is that of protocol buffers: fields are added with
//! new numbers, and numbers are never reused, so that replicas of neighbouring versions understand
//! each other.
//!
//! Entries and requests travel next to these bodies, as the payload of a
//! [`crate::transport::Envelope`], so that their bytes are never copied for encoding.

mod epochs;
mod report;

use bytes::Bytes;
use prost::{Message as _, Oneof};

pub use epochs::{Committed, CommittedRequest, Ended, EndedRequest};
pub use report::{Levels, Report};

use crate::configuration::Addresses;
use crate::value::BirthRecord;
use crate::{Boot, ClusterId, DiskId, Epoch, ReplicaId};

/// The header of every message: the replica that sent it, and the cluster, disk and start of that
/// replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageHeader {
    /// The replica that sent the message.
    pub replica: ReplicaId,
    /// The cluster that the sender belongs to; [`ClusterId::NONE`] before it belongs to one.
    pub cluster_id: ClusterId,
    /// The epoch in which the sender acts.
    pub epoch: Epoch,
    /// The disk on which the sender keeps its log.
    pub disk_id: DiskId,
    /// How often that disk has been started.
    pub boot: Boot,
}

/// One message. Its fields are raw numbers: `view` and `…_view` are [`crate::View`]s, and sequences
/// are [`crate::Sequence`]s.
#[derive(Clone, PartialEq, Eq, Hash, Oneof)]
pub enum Message {
    /// "My disk is empty": sent to all by a replica that belongs to no cluster yet.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// The answer to [`Hello`] of a replica that belongs to a cluster.
    #[prost(message, tag = "2")]
    Born(Born),
    /// "Would you promise me this view?" It changes nothing at the receiver.
    #[prost(message, tag = "3")]
    PreVote(PreVote),
    /// The answer to [`PreVote`].
    #[prost(message, tag = "4")]
    PreVoteReply(PreVoteReply),
    /// 1a, candidate to all: "promise me this view".
    #[prost(message, tag = "5")]
    Prepare(Prepare),
    /// 1b, the answer to 1a: "promised; this is my log".
    #[prost(message, tag = "6")]
    Promise(Promise),
    /// A candidate asks a replica that has promised for entries of the log that it adopts.
    #[prost(message, tag = "7")]
    Fetch(Fetch),
    /// The answer to [`Fetch`]; the entries are its payload.
    #[prost(message, tag = "8")]
    Fetched(Fetched),
    /// "I have promised a higher view than that of your message": the answer to a 1a or 2a.
    #[prost(message, tag = "9")]
    Refuse(Refuse),
    /// 2a, primary to each peer; the entries are its payload. Without entries it is the heartbeat.
    #[prost(message, tag = "10")]
    Accept(Accept),
    /// 2b, secondary to primary: what is durable, and the answer to a heartbeat.
    #[prost(message, tag = "11")]
    Accepted(Accepted),
    /// Requests of the sender's session for the primary; they are its payload.
    #[prost(message, tag = "12")]
    Requests(Requests),
    /// "Requests before those are missing; send again from `expected`": the answer to [`Requests`].
    #[prost(message, tag = "13")]
    RequestsGap(RequestsGap),
    /// A secondary asks the primary for a linearizable read point.
    #[prost(message, tag = "14")]
    ReadPoint(ReadPoint),
    /// The answer to [`ReadPoint`], once a quorum has confirmed the primary.
    #[prost(message, tag = "15")]
    ReadPointReply(ReadPointReply),
    /// The state of the sender, to all a few times a second: for operators, and so that logs can be
    /// trimmed.
    #[prost(message, boxed, tag = "16")]
    Report(Box<Report>),
    /// "The entries that you need next are gone from my log": the receiver needs a snapshot.
    #[prost(message, tag = "17")]
    Behind(Behind),
    /// A replica asks another one for a piece of a snapshot of its database.
    #[prost(message, tag = "18")]
    SnapshotRequest(SnapshotRequest),
    /// The answer to [`SnapshotRequest`]; the bytes are its payload.
    #[prost(message, tag = "19")]
    SnapshotChunk(SnapshotChunk),
    /// The primary transfers its leadership: the receiver shall stand at once. The primary proposes
    /// nothing meanwhile, and has given up its lease.
    #[prost(message, tag = "20")]
    Transfer(Transfer),
    /// "I no longer lead this view": primary to all.
    #[prost(message, tag = "21")]
    Resign(Resign),
    /// "Your epoch is over": the answer to a message of a lower epoch, and, from the primary that
    /// proposed the seal, to the members of both.
    #[prost(message, tag = "22")]
    Ended(Ended),
    /// "Is my epoch over?": the answer to a message of a higher epoch.
    #[prost(message, tag = "23")]
    EndedRequest(EndedRequest),
    /// A replica asks for the entries that end its epoch, since its log is not known to hold them.
    #[prost(message, tag = "24")]
    CommittedRequest(CommittedRequest),
    /// The answer to [`CommittedRequest`]; the entries are its payload. All of them are chosen.
    #[prost(message, tag = "25")]
    Committed(Committed),
}

/// See [`Message::Hello`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Hello {
    /// What the sender's program executes.
    #[prost(message, optional, tag = "1")]
    pub levels: Option<Levels>,
    /// Where the sender is reached, as its own settings say; absent if they do not.
    #[prost(message, optional, tag = "2")]
    pub addresses: Option<Addresses>,
    /// The sender has a log and no database: a cluster does not begin with it.
    #[prost(bool, tag = "3")]
    pub is_witness: bool,
}

/// See [`Message::Born`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Born {
    /// The record with which the cluster began.
    #[prost(message, optional, tag = "1")]
    pub birth: Option<BirthRecord>,
}

/// See [`Message::PreVote`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PreVote {
    /// The view that the sender would stand in.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The number of this pre-vote, for its answers.
    #[prost(uint64, tag = "2")]
    pub round: u64,
}

/// See [`Message::PreVoteReply`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PreVoteReply {
    /// The number of the pre-vote that is answered.
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// Whether the sender would promise a view now.
    #[prost(bool, tag = "2")]
    pub granted: bool,
    /// The view that the sender has promised.
    #[prost(uint64, tag = "3")]
    pub promised: u64,
}

/// See [`Message::Prepare`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Prepare {
    /// The view to promise.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The view whose primary transferred its leadership to the sender, after it gave up its lease;
    /// 0: none did.
    #[prost(uint64, tag = "2")]
    pub transfer: u64,
}

/// See [`Message::Promise`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Promise {
    /// The view that is promised.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The durable accepted view at the moment this message was made.
    #[prost(uint64, tag = "2")]
    pub accepted_view: u64,
    /// The last durable entry at that moment.
    #[prost(uint64, tag = "3")]
    pub last: u64,
    /// The commit point that the sender knows.
    #[prost(uint64, tag = "4")]
    pub commit: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "5")]
    pub first: u64,
    /// Entries that the sender's disk has lost. They count in `last`.
    #[prost(message, repeated, tag = "6")]
    pub lost: Vec<LostEntries>,
}

/// A range of sequences, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct LostEntries {
    /// The first sequence.
    #[prost(uint64, tag = "1")]
    pub from: u64,
    /// The last sequence.
    #[prost(uint64, tag = "2")]
    pub to: u64,
}

/// See [`Message::Fetch`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fetch {
    /// The view that the sender stands in.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The first entry wanted.
    #[prost(uint64, tag = "2")]
    pub from: u64,
}

/// See [`Message::Fetched`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fetched {
    /// The view of the question.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The accepted view of the log that the entries are from.
    #[prost(uint64, tag = "2")]
    pub accepted_view: u64,
    /// The sequence of the first entry.
    #[prost(uint64, tag = "3")]
    pub from: u64,
}

/// See [`Message::Refuse`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Refuse {
    /// The view that the sender has promised.
    #[prost(uint64, tag = "1")]
    pub promised: u64,
}

/// See [`Message::Accept`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Accept {
    /// The view that the sender leads.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// L_v: the length of the log that the primary adopted in phase 1 of this view.
    #[prost(uint64, tag = "2")]
    pub adopted: u64,
    /// The sequence of the first entry that travels with this message, or of the next one if there
    /// is none.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// The receiver's log agrees with the primary's below `from`, if its accepted view is this one.
    #[prost(uint64, tag = "4")]
    pub agreed_view: u64,
    /// The commit point.
    #[prost(uint64, tag = "5")]
    pub commit: u64,
    /// The number of the newest read round: an answer that carries it confirms that the sender
    /// still leads.
    #[prost(uint64, tag = "6")]
    pub read_round: u64,
    /// The number of the newest log-end probe: an answer that carries it says where the receiver's
    /// log ends.
    #[prost(uint64, tag = "7")]
    pub probe: u64,
    /// Whether an answer is wanted at once, and not only when something has become durable.
    #[prost(bool, tag = "8")]
    pub answer: bool,
    /// The length of the lease that the primary asks for, in microseconds; 0: it asks for none.
    #[prost(uint64, tag = "9")]
    pub lease_us: u64,
    /// When this message was sent, on the primary's clock. A replica that grants the lease returns
    /// it.
    #[prost(uint64, tag = "10")]
    pub lease_from_us: u64,
}

/// See [`Message::Accepted`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Accepted {
    /// The view that is answered.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The durable accepted view. Only if it equals `view` is this message a vote.
    #[prost(uint64, tag = "2")]
    pub durable_view: u64,
    /// The last durable entry: if this is a vote, it is one for every entry through here.
    #[prost(uint64, tag = "3")]
    pub durable_last: u64,
    /// The commit point that the sender knows.
    #[prost(uint64, tag = "4")]
    pub commit: u64,
    /// The accepted view in memory, which may not be durable yet.
    #[prost(uint64, tag = "5")]
    pub memory_view: u64,
    /// The next entry that the sender can take, after those that are staged.
    #[prost(uint64, tag = "6")]
    pub expected: u64,
    /// Flow control: the sender no longer holds entries through here in a queue, so they take
    /// nothing of its window.
    #[prost(uint64, tag = "7")]
    pub acknowledged: u64,
    /// The newest read round of this view that the sender has seen, and so confirms.
    #[prost(uint64, tag = "8")]
    pub read_round: u64,
    /// The newest log-end probe of this view that the sender has seen, and so answers.
    #[prost(uint64, tag = "9")]
    pub probe: u64,
    /// Entries arrived that do not follow the sender's log; they were dropped.
    #[prost(bool, tag = "10")]
    pub gap: bool,
    /// When the newest lease that the sender granted in this view was asked for, on the primary's
    /// clock; 0: none was.
    #[prost(uint64, tag = "11")]
    pub lease_from_us: u64,
    /// The highest feature level that the sender's program executes; 0: the first.
    #[prost(uint32, tag = "12")]
    pub highest_level: u32,
}

/// See [`Message::Requests`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Requests {
    /// The number of the first request that travels with this message.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The numbers of those that are voids, ascending: their callers gave up. Their payloads are
    /// empty, and they are not to be executed.
    #[prost(uint64, repeated, tag = "2")]
    pub voids: Vec<u64>,
}

/// See [`Message::RequestsGap`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RequestsGap {
    /// The number of the request that comes next in the receiver's session.
    #[prost(uint64, tag = "1")]
    pub expected: u64,
}

/// See [`Message::ReadPoint`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReadPoint {
    /// The sender's number of this question, for its answer.
    #[prost(uint64, tag = "1")]
    pub round: u64,
}

/// See [`Message::ReadPointReply`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReadPointReply {
    /// The number of the question.
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// The read point: a commit point of `view`.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// The view that the sender leads.
    #[prost(uint64, tag = "3")]
    pub view: u64,
}

/// See [`Message::Behind`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Behind {
    /// The view that the sender leads.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "2")]
    pub first: u64,
}

/// See [`Message::SnapshotRequest`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotRequest {
    /// The snapshot wanted; 0: any that is new enough.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The offset of the first byte wanted.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Maximum bytes wanted.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// The snapshot must hold everything through this sequence.
    #[prost(uint64, tag = "4")]
    pub at_least: u64,
    /// Only the library's own state is wanted, without the data: for a witness.
    #[prost(bool, tag = "5")]
    pub state_only: bool,
}

/// See [`Message::SnapshotChunk`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotChunk {
    /// The sender's name for the snapshot; 0: it has no such snapshot.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The offset of the first byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// The bytes of the whole snapshot.
    #[prost(uint64, tag = "3")]
    pub total_bytes: u64,
    /// The snapshot holds everything through this sequence.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    /// All of that was chosen in this view or a lower one.
    #[prost(uint64, tag = "5")]
    pub view: u64,
    /// CRC32C of the bytes.
    #[prost(fixed32, tag = "6")]
    pub crc: u32,
}

/// See [`Message::Transfer`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Transfer {
    /// The view that the sender leads.
    #[prost(uint64, tag = "1")]
    pub view: u64,
}

/// See [`Message::Resign`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Resign {
    /// The view that the sender has led.
    #[prost(uint64, tag = "1")]
    pub view: u64,
}

/// The encoded form. Each variant of [`Message`] needs its tag in this list: prost does not check
/// that, and a variant without its tag would be unknown to every receiver.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(
        oneof = "Message",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25"
    )]
    message: Option<Message>,
}

impl Message {
    /// The encoded message.
    pub fn to_bytes(self) -> Bytes {
        Body { message: Some(self) }.encode_to_vec().into()
    }

    /// `None` for bytes that are no message of a version known here.
    pub fn from_bytes(body: &[u8]) -> Option<Message> {
        Body::decode(body).ok()?.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_its_encoding() {
        let message =
            Message::Accept(Accept { view: 257, adopted: 3, from: 4, commit: 2, read_round: 9, ..Accept::default() });
        assert_eq!(Message::from_bytes(&message.clone().to_bytes()), Some(message));
    }

    /// An empty message of each kind. The macro makes the compiler name a variant that is missing
    /// from its list, since a `match` must know them all.
    macro_rules! one_of_each {
        ($($kind:ident),* $(,)?) => {{
            fn is_listed(message: &Message) {
                match message {
                    $(Message::$kind(_) => {})*
                }
            }
            let messages = vec![$(Message::$kind(Default::default())),*];
            messages.iter().for_each(is_listed);
            messages
        }};
    }

    fn one_of_each() -> Vec<Message> {
        one_of_each![
            Hello,
            Born,
            PreVote,
            PreVoteReply,
            Prepare,
            Promise,
            Fetch,
            Fetched,
            Refuse,
            Accept,
            Accepted,
            Requests,
            RequestsGap,
            ReadPoint,
            ReadPointReply,
            Report,
            Behind,
            SnapshotRequest,
            SnapshotChunk,
            Transfer,
            Resign,
            Ended,
            EndedRequest,
            CommittedRequest,
            Committed,
        ]
    }

    #[test]
    fn every_kind_of_message_is_known_to_its_receiver() {
        let messages = one_of_each();
        for message in &messages {
            let bytes = message.clone().to_bytes();
            let decoded = Message::from_bytes(&bytes);
            assert_eq!(decoded.as_ref(), Some(message), "its tag is missing from the list of `Body`: {bytes:02x?}");
        }
        let tag_of = |message: Message| prost::encoding::decode_key(&mut message.to_bytes()).expect("it has a key").0;
        let mut tags: Vec<u32> = messages.into_iter().map(tag_of).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), one_of_each().len(), "two kinds share a tag");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>, kind in 1u32..32) {
            if let Some(message) = Message::from_bytes(&bytes) {
                proptest::prop_assert_eq!(Message::from_bytes(&message.clone().to_bytes()), Some(message));
            }
            // More often meaningful: the bytes as fields of some kind.
            let length = bytes.len().min(127);
            let mut of_kind = Vec::new();
            prost::encoding::encode_key(kind, prost::encoding::WireType::LengthDelimited, &mut of_kind);
            of_kind.push(length as u8);
            of_kind.extend(&bytes[..length]);
            if let Some(message) = Message::from_bytes(&of_kind) {
                proptest::prop_assert_eq!(Message::from_bytes(&message.clone().to_bytes()), Some(message));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_message_decode_to_none() {
        assert_eq!(Message::from_bytes(&[]), None);
        assert_eq!(Message::from_bytes(&[0xFF; 20]), None);
    }
}
