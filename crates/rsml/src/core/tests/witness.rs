//! Witnesses: voters without a database.

use super::epochs::{change, leading, members};
use super::*;
use crate::configuration::{Addresses, Configuration, ConfiguredMember, Members};
use crate::core::{ReconfigureError, TransferError, TransferId};
use crate::message::{Behind, Hello, SnapshotRequest};

const THREE: ReplicaId = ReplicaId(3);

fn witness(id: ReplicaId) -> ConfiguredMember {
    ConfiguredMember::Witness { disk: disk(id), addresses: Addresses::default() }
}

/// Replicas 0 to 2, of which these are witnesses.
fn configuration(witnesses: &[ReplicaId]) -> Configuration {
    let mut all = members(&[ME, ONE, TWO]);
    all.extend(witnesses.iter().map(|id| (*id, witness(*id))));
    Configuration { members: all, ..birth_record().configuration() }
}

/// The witness of three replicas has applied and persisted 5 entries; its log is longer than it is
/// kept for anybody.
fn lone_witness() -> Lone {
    let view = view(1, TWO);
    let mut lone = Lone::started(6, view, |options, start| {
        options.is_witness = true;
        options.log_keep_bytes = 100;
        Lone::applied_through(start, 5);
        start.state.configuration = configuration(&[ME]);
    });
    lone.follow(view, 5);
    lone
}

#[test]
fn a_witness_votes_and_never_stands() {
    let mut lone = lone_witness();
    assert!(lone.replica.status().is_voter);
    for elections in 1..20 {
        let outputs = lone.tick_at(elections * ELECTION_US);
        assert!(outputs.send.iter().all(|sent| matches!(sent.message, Message::Report(_))), "{:?}", outputs.send);
        assert_eq!(lone.replica.status().role, "secondary");
    }
    let report = lone.replica.own_report(Vec::new());
    assert!(report.is_witness && report.is_ineligible && !report.is_observer);
}

#[test]
fn a_witness_keeps_what_fewer_databases_than_a_majority_have_persisted() {
    let persisted = |persisted| Report { persisted, ..Report::default() };
    let installing = Report { installing: 5, ..persisted(2) };
    let observer = Report { is_observer: true, ..persisted(5) };
    let of_witness = Report { is_witness: true, ..persisted(5) };
    for (one, two, expected) in [
        (persisted(5), persisted(5), Some(6)),
        (persisted(5), persisted(3), Some(4)),
        (persisted(2), persisted(9), Some(3)),
        (persisted(5), installing, Some(3)),
        (persisted(5), observer, None),
        (persisted(5), of_witness, None),
        (persisted(5), persisted(0), None),
    ] {
        let mut lone = lone_witness();
        lone.report(ONE, one.clone());
        lone.report(TWO, two.clone());
        lone.step(Input::Persisted { sequence: Sequence(5), log_bytes: 101 });
        let durable = lone.replica.persisted_by_a_majority();
        assert_eq!(durable.next().max(Sequence(2)), Sequence(expected.unwrap_or(2)), "{one:?} {two:?}");
        let is_held = two.installing > 0;
        let expected = expected.filter(|_| !is_held).map(Sequence);
        assert_eq!(lone.tick_at(1).trim, expected, "{one:?} {two:?}");
    }
}

#[test]
fn a_witness_fetches_the_state_alone_and_gives_nobody_a_copy() {
    let mut lone = lone_witness();
    let report = Report { applied: 50, last: 50, commit: 50, ..Report::default() };
    lone.report(ONE, Report { is_witness: true, applied: 60, ..report.clone() });
    lone.report(TWO, report);
    let behind = Behind { view: view(1, TWO).0, first: 40 };
    lone.receive(TWO, Message::Behind(behind));
    let outputs = lone.tick_at(1);
    let asked = |outputs: &Outputs, of| {
        sent_to(outputs, of).into_iter().find_map(|sent| match sent {
            Message::SnapshotRequest(request) => Some(request.state_only),
            _ => None,
        })
    };
    let again = lone.tick_at(300_000);
    assert!([&outputs, &again].iter().any(|outputs| asked(outputs, TWO) == Some(true)));
    assert!([&outputs, &again].iter().all(|outputs| asked(outputs, ONE).is_none()), "another witness has no copy");

    let mut lone = lone_witness();
    let outputs = lone.receive(ONE, Message::SnapshotRequest(SnapshotRequest { length: 100, ..Default::default() }));
    assert_eq!(outputs.read_snapshot, []);
    assert!(sent_to(&outputs, ONE).iter().any(|sent| matches!(sent, Message::SnapshotChunk(chunk) if chunk.id == 0)));
}

/// It leads at a level that knows witnesses, with replica 3 as one that follows.
fn leading_with_a_witness() -> (Lone, View) {
    let (mut lone, led) = leading();
    lone.replica.options.witness_level = FeatureLevel(2);
    lone.replica.peers.storage.insert(THREE, (disk(THREE), true));
    (lone, led)
}

fn with_witness(voters: &[ReplicaId], witnesses: &[ReplicaId]) -> Members {
    let witnesses = witnesses.iter().map(|id| (*id, witness(*id)));
    members(voters).into_iter().chain(witnesses).collect()
}

#[test]
fn voters_with_data_are_a_majority_and_each_disk_stays_what_it_is() {
    let (mut lone, _) = leading_with_a_witness();
    for (voters, witnesses, allowed) in [(&[ME][..], &[THREE][..], 0), (&[ME], &[ONE, THREE], 1)] {
        let error = change(&mut lone, 1, with_witness(voters, witnesses), true).expect_err("too many");
        let (count, voters) = (witnesses.len(), voters.len() + witnesses.len());
        assert_eq!(error, ReconfigureError::TooManyWitnesses { witnesses: count, voters, allowed });
    }
    let other_part = |replica, is_witness| Err(ReconfigureError::OtherPart { replica, is_witness });
    assert_eq!(change(&mut lone, 1, with_witness(&[ME, ONE, THREE], &[]), true), other_part(THREE, true));
    assert_eq!(change(&mut lone, 1, with_witness(&[ME, ONE], &[TWO]), true), other_part(TWO, false));
    lone.replica.peers.storage.remove(&THREE);
    let unknown = Err(ReconfigureError::UnknownDisk(THREE));
    assert_eq!(change(&mut lone, 1, with_witness(&[ME, ONE], &[THREE]), true), unknown);
    lone.replica.peers.storage.insert(THREE, (DiskId(5), true));
    assert_eq!(change(&mut lone, 1, with_witness(&[ME, ONE], &[THREE]), true), unknown, "that is another disk");
    lone.replica.peers.storage.insert(THREE, (disk(THREE), true));
    lone.replica.options.witness_level = FeatureLevel(3);
    let level = ReconfigureError::LevelTooLow { present: FeatureLevel(2), needed: FeatureLevel(3) };
    assert_eq!(change(&mut lone, 1, with_witness(&[ME, ONE], &[THREE]), true), Err(level));
    lone.replica.options.witness_level = FeatureLevel(2);
    assert_eq!(change(&mut lone, 1, with_witness(&[ME, ONE], &[THREE]), true), Ok(()));
}

#[test]
fn a_primary_that_leaves_asks_a_voter_with_data_though_the_witness_holds_more() {
    let (mut lone, led) = leading_with_a_witness();
    lone.replica.membership.adopt(&configuration(&[TWO]));
    lone.step(Input::Propose { id: crate::core::RequestId(7), payload: Bytes::from_static(b"x") });
    lone.replica.peers.storage.insert(THREE, (disk(THREE), false));
    assert_eq!(change(&mut lone, 1, with_witness(&[ONE, THREE], &[TWO]), true), Ok(()));
    let seal_at = lone.last();
    lone.sync();
    lone.receive(TWO, Message::Accepted(Accepted { highest_level: 2, ..accepted(led, seal_at) }));
    let outputs = lone.sync();
    let is_asked =
        |peer| sent_to(&outputs, peer).iter().any(|sent| matches!(sent, Message::Ended(ended) if ended.stand));
    assert_eq!([ONE, TWO].map(is_asked), [true, false]);
}

#[test]
fn leadership_is_not_transferred_to_a_witness() {
    let (mut lone, _) = leading_with_a_witness();
    lone.replica.membership.adopt(&configuration(&[TWO]));
    let transfer = Input::Transfer { id: TransferId(1), to: Some(TWO), deadline: Instant(1 << 40) };
    assert_eq!(lone.step(transfer).transferred, [(TransferId(1), Err(TransferError::Witness(TWO)))]);
}

#[test]
fn a_cluster_is_not_founded_with_a_witness() {
    for (is_witness, role) in [(true, "unborn"), (false, "secondary")] {
        let mut lone = Lone::started(0, View::BIRTH, |_, start| {
            start.recovered.hard_state = None;
            start.recovered.first = Sequence(1);
        });
        lone.sync();
        for (peer, is_witness) in [(ONE, false), (TWO, is_witness)] {
            let hello = Message::Hello(Hello { is_witness, ..Hello::default() });
            let sender = MessageHeader {
                replica: peer,
                cluster_id: ClusterId::NONE,
                epoch: Epoch(0),
                disk_id: disk(peer),
                boot: Boot(1),
            };
            lone.step(Input::Receive { sender, message: hello, payload: Vec::new() });
        }
        assert_eq!(lone.replica.status().role, role);
    }
}
