//! What replicas say to each other. The encoding is that of protocol buffers: fields are added with new numbers, and
//! numbers are never reused, so that replicas of neighbouring versions understand each other.
//!
//! Entries and requests do not travel inside these bodies but beside them (see [`crate::transport::Envelope`]), so that
//! their bytes are never copied for encoding.

use bytes::Bytes;
use prost::{Message as _, Oneof};

use crate::value::{BirthRecord, DigestAt};
use crate::{Boot, ClusterId, DiskId, Epoch, ReplicaId};

/// The header of every message: the replica that sent it, and the cluster, disk and start of that replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageHeader {
    /// The replica that sent the message.
    pub replica: ReplicaId,
    /// The cluster that the sender belongs to; [`ClusterId::NONE`] before it is bootstrapped.
    pub cluster_id: ClusterId,
    /// The number of the sender's configuration.
    pub epoch: Epoch,
    /// The disk on which the sender keeps its log.
    pub disk_id: DiskId,
    /// How often that disk has been started.
    pub boot: Boot,
}

/// One message. Its fields are raw numbers; `view`, `…_view` are [`crate::View`]s, and sequences are
/// [`crate::Sequence`]s.
#[derive(Clone, PartialEq, Eq, Hash, Oneof)]
pub enum Message {
    /// "My disk is empty": sent by a replica that belongs to no cluster yet.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// The answer to it of one that does belong.
    #[prost(message, tag = "2")]
    Born(Born),
    /// Would you promise me this view? Changes nothing at the receiver.
    #[prost(message, tag = "3")]
    PreVote(PreVote),
    #[prost(message, tag = "4")]
    PreVoteReply(PreVoteReply),
    /// 1a: promise me this view.
    #[prost(message, tag = "5")]
    Prepare(Prepare),
    /// 1b: promised; this is my log.
    #[prost(message, tag = "6")]
    Promise(Promise),
    /// A candidate asks for the entries of the log that it adopts.
    #[prost(message, tag = "7")]
    Fetch(Fetch),
    #[prost(message, tag = "8")]
    Fetched(Fetched),
    /// "I have promised more than the view you speak in."
    #[prost(message, tag = "9")]
    Refuse(Refuse),
    /// 2a, and the heartbeat when it brings no entries.
    #[prost(message, tag = "10")]
    Accept(Accept),
    /// 2b, and the answer to a heartbeat.
    #[prost(message, tag = "11")]
    Accepted(Accepted),
    /// Requests of the sender's session, handed to the primary.
    #[prost(message, tag = "12")]
    Requests(Requests),
    /// The primary misses requests before those: send again from `expected`.
    #[prost(message, tag = "13")]
    RequestsGap(RequestsGap),
    /// A secondary asks for a linearizable read point.
    #[prost(message, tag = "14")]
    ReadPoint(ReadPoint),
    #[prost(message, tag = "15")]
    ReadPointReply(ReadPointReply),
    /// How the sender is: for operators, and to know which entries nobody will ask for any more.
    #[prost(message, tag = "16")]
    Report(Report),
    /// The entries that the receiver needs next are gone from the sender's log: a snapshot has to take their place.
    #[prost(message, tag = "17")]
    Behind(Behind),
    #[prost(message, tag = "18")]
    SnapshotRequest(SnapshotRequest),
    /// Its bytes travel beside it.
    #[prost(message, tag = "19")]
    SnapshotChunk(SnapshotChunk),
    /// The primary hands over: stand at once. It proposes nothing meanwhile, and has given up its lease.
    #[prost(message, tag = "20")]
    Transfer(Transfer),
    /// The primary of this view leads no more.
    #[prost(message, tag = "21")]
    Resign(Resign),
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Hello {}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Born {
    #[prost(message, optional, tag = "1")]
    pub birth: Option<BirthRecord>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PreVote {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// Tells the rounds of one sender apart.
    #[prost(uint64, tag = "2")]
    pub round: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PreVoteReply {
    #[prost(uint64, tag = "1")]
    pub round: u64,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(uint64, tag = "3")]
    pub promised: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Prepare {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The view whose primary handed over to the sender, and gave up its lease before; 0: none did.
    #[prost(uint64, tag = "2")]
    pub transfer: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Promise {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The durable accepted view and last entry at the moment this message was made.
    #[prost(uint64, tag = "2")]
    pub accepted_view: u64,
    #[prost(uint64, tag = "3")]
    pub last: u64,
    #[prost(uint64, tag = "4")]
    pub commit: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "5")]
    pub first: u64,
    /// Entries that the sender's disk has lost. They count in `last`.
    #[prost(message, repeated, tag = "6")]
    pub lost: Vec<LostEntries>,
}

/// Sequences, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct LostEntries {
    #[prost(uint64, tag = "1")]
    pub from: u64,
    #[prost(uint64, tag = "2")]
    pub to: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fetch {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    #[prost(uint64, tag = "2")]
    pub from: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fetched {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    #[prost(uint64, tag = "2")]
    pub accepted_view: u64,
    #[prost(uint64, tag = "3")]
    pub from: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Refuse {
    #[prost(uint64, tag = "1")]
    pub promised: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Accept {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// L_v: the length of the log that the primary adopted in phase 1 of this view.
    #[prost(uint64, tag = "2")]
    pub adopted: u64,
    /// The sequence of the first entry that travels with this message, or of the next that would.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// The receiver's log under this accepted view agrees with the primary's below `from`.
    #[prost(uint64, tag = "4")]
    pub agreed_view: u64,
    #[prost(uint64, tag = "5")]
    pub commit: u64,
    /// Of the newest round that confirms the primary's view for reads.
    #[prost(uint64, tag = "6")]
    pub token: u64,
    /// Of the newest question where the receiver's log ends.
    #[prost(uint64, tag = "7")]
    pub probe: u64,
    /// Whether an answer is wanted at once, and not only when something became durable.
    #[prost(bool, tag = "8")]
    pub answer: bool,
    /// Asks for a lease of so many microseconds; 0: for none.
    #[prost(uint64, tag = "9")]
    pub lease_us: u64,
    /// When this left, on the primary's clock: whoever grants the lease sends it back.
    #[prost(uint64, tag = "10")]
    pub lease_from_us: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Accepted {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// What is durable: a vote for every entry through `durable_last` iff `durable_view` equals `view`.
    #[prost(uint64, tag = "2")]
    pub durable_view: u64,
    #[prost(uint64, tag = "3")]
    pub durable_last: u64,
    #[prost(uint64, tag = "4")]
    pub commit: u64,
    /// The accepted view in memory, and the next sequence expected (staged entries included).
    #[prost(uint64, tag = "5")]
    pub memory_view: u64,
    #[prost(uint64, tag = "6")]
    pub expected: u64,
    /// What the sender no longer holds in a queue: the flow-control window starts here.
    #[prost(uint64, tag = "7")]
    pub settled: u64,
    #[prost(uint64, tag = "8")]
    pub token: u64,
    #[prost(uint64, tag = "9")]
    pub probe: u64,
    /// Entries arrived that do not follow what is held; they were dropped.
    #[prost(bool, tag = "10")]
    pub gap: bool,
    /// Of the newest lease that the sender granted in this view; 0: none.
    #[prost(uint64, tag = "11")]
    pub lease_from_us: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Requests {
    /// The number of the first request that travels with this message.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The numbers of those that were given up, ascending: their payloads are empty, and they are not to be executed.
    #[prost(uint64, repeated, tag = "2")]
    pub voids: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RequestsGap {
    #[prost(uint64, tag = "1")]
    pub expected: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReadPoint {
    #[prost(uint64, tag = "1")]
    pub round: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReadPointReply {
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// The read point: a commit point of `view`.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    #[prost(uint64, tag = "3")]
    pub view: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Report {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    #[prost(uint64, tag = "2")]
    pub last: u64,
    #[prost(uint64, tag = "3")]
    pub commit: u64,
    #[prost(uint64, tag = "4")]
    pub applied: u64,
    /// The running digest at `applied`.
    #[prost(fixed64, tag = "5")]
    pub digest: u64,
    #[prost(bool, tag = "6")]
    pub is_primary: bool,
    /// It stands for election.
    #[prost(bool, tag = "7")]
    pub is_candidate: bool,
    /// The sender's database survives a crash through here: it will never ask for entries up to it.
    #[prost(uint64, tag = "8")]
    pub persisted: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "9")]
    pub first: u64,
    /// The sender's disk is not one of the cluster's: it follows and does not vote.
    #[prost(bool, tag = "10")]
    pub is_observer: bool,
    /// The sender's storage has no space to speak of.
    #[prost(bool, tag = "11")]
    pub storage_full: bool,
    /// The sender's digests at multiples of the digest interval: what is new, and a few older ones.
    #[prost(message, repeated, tag = "12")]
    pub digests: Vec<DigestAt>,
    /// A snapshot that holds everything through here is on its way to the sender, which will go on from there; 0: none.
    #[prost(uint64, tag = "13")]
    pub installing: u64,
    /// The sender was told not to lead.
    #[prost(bool, tag = "14")]
    pub is_ineligible: bool,
    /// The sender's database is a copy of a peer's through here; 0: it has applied everything itself.
    #[prost(uint64, tag = "15")]
    pub inherited: u64,
    /// The sender needs a copy of a peer's database, and has none yet.
    #[prost(bool, tag = "16")]
    pub is_copying: bool,
    /// What has come of that copy.
    #[prost(uint64, tag = "17")]
    pub copy_bytes: u64,
    /// Of so many; 0: not known yet.
    #[prost(uint64, tag = "18")]
    pub copy_total: u64,
    /// Who sends it, plus one; 0: nobody yet.
    #[prost(uint32, tag = "19")]
    pub copy_source: u32,
    /// Bytes of entries that the sender's log has taken in since its start.
    #[prost(uint64, tag = "20")]
    pub log_grown: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Behind {
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "2")]
    pub first: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotRequest {
    /// The snapshot that the bytes shall be of; 0: any that is new enough.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Most bytes wanted.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// The snapshot must hold everything through this sequence.
    #[prost(uint64, tag = "4")]
    pub at_least: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SnapshotChunk {
    /// 0: there is no such snapshot.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Of the whole snapshot.
    #[prost(uint64, tag = "3")]
    pub total_bytes: u64,
    /// What it holds everything through.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    /// All of that was chosen in this view or a lower one.
    #[prost(uint64, tag = "5")]
    pub view: u64,
    /// CRC32C of the bytes.
    #[prost(fixed32, tag = "6")]
    pub crc: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Transfer {
    #[prost(uint64, tag = "1")]
    pub view: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Resign {
    #[prost(uint64, tag = "1")]
    pub view: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(oneof = "Message", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21")]
    message: Option<Message>,
}

impl Message {
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
            Message::Accept(Accept { view: 257, adopted: 3, from: 4, commit: 2, token: 9, ..Accept::default() });
        assert_eq!(Message::from_bytes(&message.clone().to_bytes()), Some(message));
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
