//! Messages, frames, values and replicated states of released versions stay readable, byte by byte.
//! (Files of the log have fixtures of their own, in `wal`.)
//!
//! A fixture file is never changed once its version is released. A new message or field gets a new
//! file (`version_2.txt`, …) with samples of the additions, and a test like the one below. Fields
//! that a file does not know are absent from its bytes, so its samples get their defaults
//! (`..Default::default()`). If a later version writes something in another way, the old sample is
//! still read, and a new sample in the later file is what is written.
//!
//! A sample that has no line in its file fails the test, which prints the line.

#![allow(clippy::needless_update)] // Later versions add fields.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;

use crate::configuration::*;
use crate::message::MessageHeader;
use crate::message::*;
use crate::transport::{Decoder, Envelope, Frame};
use crate::value::*;
use crate::{Boot, ClusterId, DiskId, Epoch, FeatureLevel, LevelRange, ReplicaId, Sequence};

const VERSION_1: &str = include_str!("fixtures/version_1.txt");
/// The additions of feature levels. Everything in the first file is written as before by a program that
/// executes the first level only, and by every program while the level is the first, except for the
/// levels that it tells its peers.
const VERSION_2: &str = include_str!("fixtures/version_2.txt");
/// The additions of epochs. Everything in the files before is written as it was in the first epoch.
const VERSION_3: &str = include_str!("fixtures/version_3.txt");

/// The lines of a file that have not been checked yet, by name.
struct Fixtures {
    lines: BTreeMap<&'static str, &'static str>,
    /// The lines that the file lacks.
    missing: Vec<String>,
}

impl Fixtures {
    fn of(text: &'static str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Fixtures { lines: lines.map(|line| line.split_once(": ").expect("name: bytes")).collect(), missing: Vec::new() }
    }

    #[track_caller]
    fn check<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        value: T,
        encode: impl Fn(&T) -> Bytes,
        decode: impl Fn(Bytes) -> Option<T>,
    ) {
        let written = to_hex(&encode(&value));
        let Some(line) = self.lines.remove(name) else {
            return self.missing.push(format!("{name}: {written}"));
        };
        assert_eq!(decode(from_hex(line)), Some(value), "{name} is read differently");
        assert!(written == line, "{name} is written differently:\n{name}: {written}");
    }

    #[track_caller]
    fn all_are_checked(&self) {
        assert!(self.missing.is_empty(), "no fixtures of these names:\n{}", self.missing.join("\n"));
        assert!(self.lines.is_empty(), "no sample for {:?}", self.lines.keys());
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

const ONE_ID: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
const OTHER_ID: u128 = 0xf0e0_d0c0_b0a0_9080_7060_5040_3020_1000;

fn birth() -> BirthRecord {
    let member = |replica, disk: u128| Member { replica, disk_id: disk.into(), ..Default::default() };
    BirthRecord {
        cluster_id: ONE_ID.into(),
        members: vec![member(0, ONE_ID), member(1, OTHER_ID)],
        ..Default::default()
    }
}

fn messages_1() -> Vec<(&'static str, Message)> {
    vec![
        ("hello", Message::Hello(Hello { ..Default::default() })),
        ("born", Message::Born(Born { birth: Some(birth()), ..Default::default() })),
        ("pre_vote", Message::PreVote(PreVote { view: 0x101, round: 2, ..Default::default() })),
        (
            "pre_vote_reply",
            Message::PreVoteReply(PreVoteReply { round: 2, granted: true, promised: 0x100, ..Default::default() }),
        ),
        ("prepare", Message::Prepare(Prepare { view: 0x201, ..Default::default() })),
        (
            "promise",
            Message::Promise(Promise {
                view: 0x201,
                accepted_view: 0x100,
                last: 300,
                commit: 299,
                first: 7,
                ..Default::default()
            }),
        ),
        (
            "promise_of_a_damaged_log",
            Message::Promise(Promise {
                view: 0x201,
                last: 300,
                lost: vec![LostEntries { from: 20, to: 29 }, LostEntries { from: 200, to: 200 }],
                ..Default::default()
            }),
        ),
        ("fetch", Message::Fetch(Fetch { view: 0x201, from: 300, ..Default::default() })),
        ("fetched", Message::Fetched(Fetched { view: 0x201, accepted_view: 0x100, from: 300, ..Default::default() })),
        ("refuse", Message::Refuse(Refuse { promised: 0x202, ..Default::default() })),
        (
            "accept",
            Message::Accept(Accept {
                view: 0x201,
                adopted: 300,
                from: 301,
                agreed_view: 0x100,
                commit: 298,
                read_round: 11,
                probe: 12,
                answer: true,
                ..Default::default()
            }),
        ),
        (
            "accepted",
            Message::Accepted(Accepted {
                view: 0x201,
                durable_view: 0x100,
                durable_last: 301,
                commit: 298,
                memory_view: 0x200,
                expected: 303,
                acknowledged: 302,
                read_round: 11,
                probe: 12,
                gap: true,
                ..Default::default()
            }),
        ),
        ("requests", Message::Requests(Requests { first: 1 << 40, ..Default::default() })),
        ("requests_gap", Message::RequestsGap(RequestsGap { expected: 9, ..Default::default() })),
        ("read_point", Message::ReadPoint(ReadPoint { round: 5, ..Default::default() })),
        (
            "read_point_reply",
            Message::ReadPointReply(ReadPointReply { round: 5, sequence: 298, view: 0x201, ..Default::default() }),
        ),
        (
            "report",
            Message::Report(Box::new(Report {
                view: 0x201,
                last: 301,
                commit: 298,
                applied: 297,
                digest: 0x0123_4567_89ab_cdef,
                is_primary: true,
                is_candidate: true,
                persisted: 200,
                ..Default::default()
            })),
        ),
        (
            "report_of_a_learner",
            Message::Report(Box::new(Report {
                first: 7,
                is_observer: true,
                digests: vec![
                    DigestAt { sequence: 256, digest: 0x0123_4567_89ab_cdef },
                    DigestAt { sequence: 512, digest: 1 },
                ],
                installing: 290,
                ..Default::default()
            })),
        ),
        (
            "report_of_one_that_gets_a_copy",
            Message::Report(Box::new(Report {
                is_copying: true,
                copy_bytes: 1 << 20,
                copy_total: 1 << 33,
                copy_source: 3,
                log_grown: 300,
                ..Default::default()
            })),
        ),
        (
            "report_of_one_that_cannot_lead",
            Message::Report(Box::new(Report { storage_full: true, is_ineligible: true, ..Default::default() })),
        ),
        ("prepare_after_a_transfer", Message::Prepare(Prepare { view: 0x301, transfer: 0x200, ..Default::default() })),
        (
            "accept_with_a_lease",
            Message::Accept(Accept { view: 0x301, lease_us: 300_000, lease_from_us: 1 << 40, ..Default::default() }),
        ),
        (
            "accepted_with_a_lease",
            Message::Accepted(Accepted { view: 0x301, lease_from_us: 1 << 40, ..Default::default() }),
        ),
        ("transfer", Message::Transfer(Transfer { view: 0x200, ..Default::default() })),
        ("resign", Message::Resign(Resign { view: 0x200, ..Default::default() })),
        ("behind", Message::Behind(Behind { view: 0x201, first: 200, ..Default::default() })),
        (
            "snapshot_request",
            Message::SnapshotRequest(SnapshotRequest {
                id: 77,
                offset: 1 << 33,
                length: 1 << 20,
                at_least: 200,
                ..Default::default()
            }),
        ),
        (
            "snapshot_chunk",
            Message::SnapshotChunk(SnapshotChunk {
                id: 77,
                offset: 1 << 33,
                total_bytes: 1 << 34,
                sequence: 290,
                view: 0x200,
                crc: 0x89ab_cdef,
                ..Default::default()
            }),
        ),
    ]
}

fn values_1() -> Vec<(&'static str, Value)> {
    let batch = RequestBatch {
        disk_id: OTHER_ID.into(),
        boot: 3,
        first: 17,
        payloads: vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")],
        ..Default::default()
    };
    let other = RequestBatch {
        disk_id: ONE_ID.into(),
        boot: 1,
        first: 1,
        payloads: vec![Bytes::from_static(b"x")],
        ..Default::default()
    };
    vec![
        ("value_birth", Value { birth: Some(birth()), ..Default::default() }),
        ("value_no_op", Value { proposed_view: 0x101, time_us: 1_000_000, ..Default::default() }),
        (
            "value_requests",
            Value { proposed_view: 0x101, time_us: 1_000_001, batches: vec![batch, other], ..Default::default() },
        ),
    ]
}

fn state_1() -> ReplicatedState {
    ReplicatedState {
        cluster_id: ClusterId(ONE_ID),
        sequence: Sequence(298),
        configuration: birth().configuration(),
        first_voters: birth().configuration().voters().collect(),
        sessions: [
            (DiskId(ONE_ID), SessionState { boot: Boot(1), last: 1, ..Default::default() }),
            (DiskId(OTHER_ID), SessionState { boot: Boot(3), last: 19, ..Default::default() }),
        ]
        .into(),
        time_us: 1_000_001,
        digest: 0xfedc_ba98_7654_3210,
        recorded: vec![(Sequence(128), 0x0123_4567_89ab_cdef), (Sequence(256), 2)],
        ..Default::default()
    }
}

fn frames_1() -> Vec<(&'static str, Frame)> {
    let sender = MessageHeader {
        replica: ReplicaId(1),
        cluster_id: ClusterId(ONE_ID),
        epoch: Epoch(1),
        disk_id: DiskId(OTHER_ID),
        boot: Boot(3),
    };
    let payload = vec![Bytes::from_static(b"entry"), Bytes::new(), Bytes::from(vec![b'.'; 600])];
    let body = Message::Requests(Requests { first: 17, ..Default::default() }).to_bytes();
    vec![
        ("frame_hello", Frame::hello(sender, ReplicaId(2))),
        ("frame_message", Frame::message(Envelope { sender, to: ReplicaId(2), body, payload })),
    ]
}

fn decode_frame(bytes: Bytes) -> Option<Frame> {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&bytes);
    decoder.next_frame().ok()?
}

#[test]
fn what_version_1_wrote_is_read_and_written_as_it_was() {
    let mut fixtures = Fixtures::of(VERSION_1);
    for (name, message) in messages_1() {
        fixtures.check(name, message, |m| m.clone().to_bytes(), |bytes| Message::from_bytes(&bytes));
    }
    for (name, value) in values_1() {
        fixtures.check(name, value, Value::to_bytes, |bytes| Some(Value::from_bytes(bytes)));
    }
    let read = |bytes: Bytes| ReplicatedState::from_bytes(&bytes);
    fixtures.check("replicated_state", state_1(), ReplicatedState::to_bytes, read);
    for (name, frame) in frames_1() {
        let encode = |frame: &Frame| frame.encode().expect("it is small").pieces.concat().into();
        fixtures.check(name, frame, encode, decode_frame);
    }
    fixtures.all_are_checked();
}

fn levels(lowest: u32, highest: u32) -> Option<Levels> {
    Some(Levels { lowest, highest, ..Default::default() })
}

#[test]
fn what_version_2_adds_is_read_and_written_as_it_was() {
    let mut fixtures = Fixtures::of(VERSION_2);
    let messages = [
        ("hello_of_levels_1_to_2", Message::Hello(Hello { levels: levels(0, 2), ..Default::default() })),
        ("report_of_levels_2_to_3", Message::Report(Box::new(Report { levels: levels(2, 3), ..Default::default() }))),
        (
            "report_at_level_2",
            Message::Report(Box::new(Report { levels: levels(0, 2), feature_level: 2, ..Default::default() })),
        ),
    ];
    for (name, message) in messages {
        fixtures.check(name, message, |m| m.clone().to_bytes(), |bytes| Message::from_bytes(&bytes));
    }
    let raising = Value { proposed_view: 0x101, time_us: 1_000_002, raise_feature_level: 2, ..Default::default() };
    fixtures.check("value_raising_the_level", raising, Value::to_bytes, |bytes| Some(Value::from_bytes(bytes)));
    let state = ReplicatedState { feature_level: FeatureLevel(2), ..state_1() };
    let read = |bytes: Bytes| ReplicatedState::from_bytes(&bytes);
    fixtures.check("replicated_state_at_level_2", state, ReplicatedState::to_bytes, read);
    fixtures.all_are_checked();
}

/// One of the first voters is gone, and an observer is there.
fn members_3() -> Members {
    let addresses = Addresses { peer: "host:1".into(), clients: vec!["host:2".into()], ..Default::default() };
    let mut members = birth().configuration().members;
    members.remove(&ReplicaId(1));
    members.insert(ReplicaId(4), ConfiguredMember::Observer { addresses });
    members
}

#[test]
fn what_version_3_adds_is_read_and_written_as_it_was() {
    let mut fixtures = Fixtures::of(VERSION_3);
    let seal = Reconfigure::new(Epoch(2), &members_3());
    let ended = Ended { epoch: 2, since: 300, view: 0x101, members: seal.members.clone(), stand: true };
    let messages = [
        ("ended", Message::Ended(ended)),
        ("ended_request", Message::EndedRequest(EndedRequest { ..Default::default() })),
        ("committed_request", Message::CommittedRequest(CommittedRequest { from: 290, ..Default::default() })),
        ("committed", Message::Committed(Committed { from: 290, view: 0x101, first: 7, ..Default::default() })),
        ("accepted_by_level_3", Message::Accepted(Accepted { view: 0x101, highest_level: 3, ..Default::default() })),
        ("prepare_in_epoch_2", Message::Prepare(Prepare { view: (1 << 40) | 0x101, ..Default::default() })),
    ];
    for (name, message) in messages {
        fixtures.check(name, message, |m| m.clone().to_bytes(), |bytes| Message::from_bytes(&bytes));
    }
    let sealing = Value { proposed_view: 0x101, time_us: 7, reconfigure: Some(seal), ..Default::default() };
    fixtures.check("value_with_a_seal", sealing, Value::to_bytes, |bytes| Some(Value::from_bytes(bytes)));
    let configuration = Configuration { epoch: Epoch(2), since: Sequence(300), members: members_3() };
    let state = ReplicatedState { configuration, sequence: Sequence(300), ..state_1() };
    let read = |bytes: Bytes| ReplicatedState::from_bytes(&bytes);
    fixtures.check("replicated_state_in_epoch_2", state, ReplicatedState::to_bytes, read);
    fixtures.all_are_checked();
}

#[test]
fn programs_of_the_first_level_and_states_at_it_take_no_bytes_for_it() {
    assert_eq!(Levels::field(LevelRange::default()), None);
    assert_eq!(Levels::range(None), LevelRange::new(1, 1));
    assert_eq!(Levels::field(LevelRange::new(1, 2)), levels(0, 2));
    assert_eq!(Levels::range(levels(0, 2)), LevelRange::new(1, 2));
    assert_eq!(state_1().feature_level, FeatureLevel::FIRST);
    assert_eq!(Report::default().level(), FeatureLevel::FIRST);
}

/// Field 15 of a message, and of the body around it, a string: what a later version may add.
fn with_unknown_field(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0x7a, 3, b'n', b'e', b'w']].concat()
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let prepare = Message::Prepare(Prepare { view: 5, ..Default::default() });
    // The message is field 5 of the body: its tag, its length, view 5.
    assert_eq!(prepare.clone().to_bytes().as_ref(), [0x2a, 2, 0x08, 5]);
    let inner = with_unknown_field(&[0x08, 5]);
    let later = [&[0x2a, inner.len() as u8], &inner[..]].concat();
    assert_eq!(Message::from_bytes(&later), Some(prepare));
    let value = Value { time_us: 9, ..Default::default() };
    assert_eq!(Value::from_bytes(with_unknown_field(&value.to_bytes()).into()), value);
    assert_eq!(ReplicatedState::from_bytes(&with_unknown_field(&state_1().to_bytes())), Some(state_1()));
}

#[test]
fn a_message_of_an_unknown_kind_is_no_message() {
    // Field 2000 of the body, an empty message.
    assert_eq!(Message::from_bytes(&[0x82, 0x7d, 0]), None);
}
