//! Epochs: when a replica enters the next one, and what it does and does not do before and after.

use super::*;
use crate::configuration::{Addresses, Configuration, ConfiguredMember, Members, Reconfigure};
use crate::core::{MemberChange, ReadId, ReconfigureError, ReconfigureId, RequestId, Unready};
use crate::message::{Committed, CommittedRequest, Ended, PreVote, Prepare};

const FAR: Instant = Instant(1 << 40);
const SECOND: Epoch = Epoch(2);
const THREE: ReplicaId = ReplicaId(3);

pub(super) fn members(voters: &[ReplicaId]) -> Members {
    voters.iter().map(|id| (*id, ConfiguredMember::voter(disk(*id)))).collect()
}

fn seal(voters: &[ReplicaId]) -> Bytes {
    Value { reconfigure: Some(Reconfigure::new(SECOND, &members(voters))), ..Value::default() }.to_bytes()
}

/// It follows the primary of `view`, and its log ends with a seal at 4.
fn sealed(voters: &[ReplicaId]) -> (Lone, View) {
    let led = view(1, ONE);
    let mut lone = Lone::with_log(3, led);
    lone.follow(led, 1);
    lone.receive_with(ONE, Message::Accept(accept(led, 3, 3)), vec![seal(voters)]);
    lone.sync();
    assert_eq!((lone.last(), lone.replica.status().is_sealed), (4, true));
    (lone, led)
}

fn epoch(lone: &Lone) -> Epoch {
    lone.replica.status().epoch
}

/// A message of a replica that acts in `epoch`.
fn receive_of(lone: &mut Lone, epoch: Epoch, from: ReplicaId, message: Message) -> Outputs {
    let sender = MessageHeader { replica: from, cluster_id: CLUSTER, epoch, disk_id: disk(from), boot: Boot(1) };
    lone.step(Input::Receive { sender, message, payload: Vec::new() })
}

fn ended(since: u64, view: View) -> Message {
    Message::Ended(Ended { epoch: 2, since, view: view.0, ..Ended::default() })
}

#[test]
fn a_seal_ends_the_epoch_when_it_is_known_as_chosen_and_not_before() {
    let (mut lone, led) = sealed(&[ME, ONE, TWO, THREE]);
    assert_eq!(epoch(&lone), Epoch::FIRST);
    let outputs = lone.receive(ONE, Message::Accept(accept(led, 4, 4)));
    assert_eq!(epoch(&lone), SECOND);
    let write = outputs.persist.last().expect("the epoch is written");
    assert_eq!((write.hard_state.epoch, write.hard_state.ended_view), (SECOND, led));
    assert_eq!(lone.replica.membership().voters().count(), 4);
    assert_eq!(outputs.send, [], "nothing leaves before the epoch is durable");
    assert!(outputs.deliver.iter().all(|(sequence, _)| sequence.0 < 4), "nor is the seal applied");
    let outputs = lone.sync();
    assert_eq!(outputs.deliver.last().map(|(sequence, _)| sequence.0), Some(4));
}

#[test]
fn a_commit_point_of_a_view_that_is_not_held_ends_no_epoch() {
    let (mut lone, _) = sealed(&[ME, ONE, TWO]);
    // It promises a higher view, whose log it does not hold.
    let higher = view(2, TWO);
    let elsewhere = Accept { adopted: 9, ..accept(higher, 7, 9) };
    lone.receive(TWO, Message::Accept(elsewhere));
    lone.sync();
    lone.receive(TWO, Message::Resign(crate::message::Resign { view: higher.0 }));
    assert_eq!((epoch(&lone), lone.commit()), (Epoch::FIRST, 3));
}

#[test]
fn nothing_is_taken_behind_a_seal_no_round_confirmed_and_no_lease_granted() {
    let led = view(1, ONE);
    let mut lone = Lone::started(3, led, |options, _| options.lease_us = 200_000);
    lone.tick_at(1_000_000);
    lone.follow(led, 1);
    let asking = |from, round| Accept {
        read_round: round,
        answer: true,
        lease_us: 200_000,
        lease_from_us: 70 + round,
        ..accept(led, from, 3)
    };
    let answer = |outputs: Outputs| match &sent_to(&outputs, ONE)[..] {
        [.., Message::Accepted(answer)] => (answer.read_round, answer.lease_from_us, answer.expected),
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(lone.receive(ONE, Message::Accept(asking(3, 5)))), (5, 75, 4));
    let no_op = Value::default().to_bytes();
    let with_seal = vec![seal(&[ME, ONE]), no_op.clone()];
    let outputs = lone.receive_with(ONE, Message::Accept(asking(3, 6)), with_seal);
    assert_eq!(answer(outputs), (5, 75, 5), "the round came with the seal");
    lone.sync();
    let outputs = lone.receive_with(ONE, Message::Accept(asking(4, 7)), vec![no_op]);
    assert_eq!(answer(outputs), (5, 75, 5), "nor does it take what comes behind it");
    assert_eq!(lone.last(), 4);
}

/// It leads a view whose log it adopted with the seal at its end.
fn leading_over_a_seal() -> (Lone, View) {
    let (mut lone, led) = sealed(&[ME, ONE, TWO]);
    lone.now = 10_000_000;
    let own = lone.stand();
    let promise = Promise { view: own.0, accepted_view: led.0, last: 4, commit: 3, first: 1, ..Promise::default() };
    lone.receive(ONE, Message::Promise(promise));
    lone.sync();
    (lone, own)
}

#[test]
fn a_candidate_keeps_the_seal_and_adds_nothing_to_it() {
    let (mut lone, own) = leading_over_a_seal();
    assert_eq!((lone.replica.status().role, lone.last()), ("primary", 4));
    lone.step(Input::Propose { id: RequestId(1), payload: Bytes::from_static(b"x") });
    assert_eq!(lone.last(), 4, "nothing is proposed behind it");
    let knows_seals = Accepted { highest_level: 2, ..accepted(own, 4) };
    lone.receive(ONE, Message::Accepted(knows_seals));
    assert_eq!((lone.commit(), epoch(&lone)), (4, SECOND));
    assert_eq!(lone.replica.status().role, "candidate", "it stands in the next epoch");
}

#[test]
fn a_program_that_does_not_know_seals_does_not_choose_one() {
    let (mut lone, own) = leading_over_a_seal();
    lone.receive(ONE, Message::Accepted(accepted(own, 4)));
    assert_eq!((lone.commit(), epoch(&lone)), (3, Epoch::FIRST));
}

#[test]
fn a_vote_of_the_next_epoch_leaves_only_from_its_voters() {
    for (voters, is_granted) in [(&[ME, ONE][..], true), (&[ONE, TWO], false)] {
        let (mut lone, led) = sealed(voters);
        lone.receive(ONE, Message::Accept(accept(led, 4, 4)));
        lone.sync();
        lone.tick_at(lone.now + ELECTION_US);
        let view = View::floor_of(SECOND).next_owned_by(ONE);
        let outputs = receive_of(&mut lone, SECOND, ONE, Message::PreVote(PreVote { view: view.0, round: 3 }));
        let granted = sent_to(&outputs, ONE).into_iter().any(|sent| match sent {
            Message::PreVoteReply(reply) => reply.granted,
            _ => false,
        });
        assert_eq!(granted, is_granted, "{voters:?}");
        receive_of(&mut lone, SECOND, ONE, Message::Prepare(Prepare { view: view.0, transfer: 0 }));
        let outputs = lone.sync();
        let promises = sent_to(&outputs, ONE).iter().any(|sent| matches!(sent, Message::Promise(_)));
        assert_eq!(promises, is_granted, "{voters:?}");
    }
}

#[test]
fn a_1a_of_the_next_epoch_is_kept_until_this_replica_acts_in_it() {
    let (mut lone, led) = sealed(&[ME, ONE, TWO]);
    let view = View::floor_of(SECOND).next_owned_by(TWO);
    let outputs = receive_of(&mut lone, SECOND, TWO, Message::Prepare(Prepare { view: view.0, transfer: 0 }));
    assert!(matches!(&sent_to(&outputs, TWO)[..], [Message::EndedRequest(_)]), "it asks whether its epoch is over");
    assert_eq!(lone.replica.status().view, led);
    receive_of(&mut lone, SECOND, TWO, ended(4, led));
    assert_eq!((epoch(&lone), lone.replica.status().view), (SECOND, view));
    let promises = |outputs: &Outputs| sent_to(outputs, TWO).iter().any(|sent| matches!(sent, Message::Promise(_)));
    assert!(promises(&lone.sync()));
}

#[test]
fn a_replica_that_lacks_the_seal_asks_for_what_was_chosen_and_keeps_nothing_else() {
    let led = view(1, ONE);
    // Its tail is of an older view than the one in which the seal was learned.
    let mut lone = Lone::with_log(6, led);
    let learned = view(3, TWO);
    let outputs = receive_of(&mut lone, SECOND, TWO, ended(4, learned));
    let asked = sent_to(&outputs, TWO);
    assert!(matches!(&asked[..], [Message::CommittedRequest(CommittedRequest { from: 2 })]), "{asked:?}");
    assert_eq!(epoch(&lone), Epoch::FIRST, "its log may differ");
    let chosen = vec![entry(2), entry(3), seal(&[ME, TWO]), entry(5)];
    let sender = MessageHeader { replica: TWO, cluster_id: CLUSTER, epoch: SECOND, disk_id: disk(TWO), boot: Boot(1) };
    let message = Message::Committed(Committed { from: 2, view: learned.0, first: 1 });
    let outputs = lone.step(Input::Receive { sender, message, payload: chosen });
    assert_eq!((epoch(&lone), lone.last()), (SECOND, 4), "the tail behind the seal is gone");
    let hard = outputs.persist.last().expect("it is written").hard_state;
    assert_eq!((hard.promised, hard.accepted_view), (learned, led), "the write promises the view, and votes in none");
    assert_eq!(lone.sync().deliver.last().map(|(sequence, _)| sequence.0), Some(4));
}

#[test]
fn chosen_entries_are_supplied_through_the_seal_with_the_view_in_which_it_was_learned() {
    let (mut lone, led) = sealed(&[ME, ONE, TWO]);
    lone.receive(ONE, Message::Accept(accept(led, 4, 4)));
    lone.sync();
    let outputs = receive_of(&mut lone, Epoch::FIRST, TWO, Message::CommittedRequest(CommittedRequest { from: 3 }));
    let sent = outputs.send.iter().find(|sent| matches!(sent.message, Message::Committed(_))).expect("it has them");
    assert_eq!(sent.message, Message::Committed(Committed { from: 3, view: led.0, first: 1 }));
    assert_eq!(sent.payload, [entry(3), seal(&[ME, ONE, TWO])]);
    let outputs = receive_of(&mut lone, Epoch::FIRST, TWO, Message::CommittedRequest(CommittedRequest { from: 5 }));
    assert!(sent_to(&outputs, TWO).iter().all(|sent| !matches!(sent, Message::Committed(_))), "nothing of its epoch");
}

#[test]
fn a_message_of_an_epoch_that_is_over_is_answered_with_its_end() {
    let (mut lone, led) = sealed(&[ME, ONE, TWO]);
    lone.receive(ONE, Message::Accept(accept(led, 4, 4)));
    lone.sync();
    let outputs =
        receive_of(&mut lone, Epoch::FIRST, TWO, Message::Prepare(Prepare { view: view(9, TWO).0, transfer: 0 }));
    let [Message::Ended(ended)] = &sent_to(&outputs, TWO)[..] else { panic!("{:?}", outputs.send) };
    assert_eq!((ended.epoch, ended.since, ended.view, ended.members.len()), (2, 4, led.0, 3));
    assert_eq!(lone.replica.status().view, led, "it promises nothing in that epoch");
}

#[test]
fn a_start_takes_its_epoch_from_the_log_and_its_members_from_the_seal() {
    let hard = |start: &mut Start| start.recovered.hard_state.as_mut().expect("it was written").epoch = SECOND;
    let mut lone = Lone::started(4, view(1, ONE), |_, start| {
        hard(start);
        start.entries[3] = Some(seal(&[ME, THREE]));
    });
    assert_eq!((epoch(&lone), lone.commit()), (SECOND, 4), "everything through the seal is chosen");
    assert_eq!(lone.replica.membership().voters().collect::<Vec<_>>(), [ME, THREE]);
    assert!(lone.tick_at(ELECTION_US).send.iter().any(|sent| sent.to == THREE), "it stands in that epoch");
    // The seal can't be read: the members are not known.
    let mut lone = Lone::started(4, view(1, ONE), |_, start| {
        hard(start);
        start.recovered.lost = vec![(Sequence(4), Sequence(4))];
        start.entries[3] = None;
    });
    assert!(lone.replica.status().is_catching_up && !lone.replica.status().is_voter);
    let outputs = lone.tick_at(ELECTION_US);
    assert!(outputs.send.iter().all(|sent| matches!(sent.message, Message::Report(_))), "{:?}", outputs.send);
}

#[test]
fn a_disk_that_has_lost_an_entry_before_the_seal_does_not_promise() {
    let mut lone = Lone::started(4, view(1, ONE), |_, start| {
        start.recovered.hard_state.as_mut().expect("it was written").epoch = SECOND;
        start.recovered.lost = vec![(Sequence(3), Sequence(3))];
        start.entries[2] = None;
        start.entries[3] = Some(seal(&[ME, ONE]));
    });
    assert_eq!((epoch(&lone), lone.commit()), (SECOND, 2));
    let view = View::floor_of(SECOND).next_owned_by(ONE);
    receive_of(&mut lone, SECOND, ONE, Message::Prepare(Prepare { view: view.0, transfer: 0 }));
    assert_eq!(lone.sync().send, []);
    assert!(lone.tick_at(ELECTION_US).send.iter().all(|sent| matches!(sent.message, Message::Report(_))));
}

/// It leads three replicas that hold its whole log, at a level that allows changes.
pub(super) fn leading() -> (Lone, View) {
    let mut lone = Lone::started(3, View::BIRTH, |options, start| {
        options.levels = crate::LevelRange::new(1, 2);
        Lone::applied_through(start, 3);
        start.state.feature_level = FeatureLevel(2);
        start.state.sessions.insert(disk(TWO), crate::SessionState { boot: Boot(1), last: 1 });
    });
    let view = lone.lead();
    for peer in [ONE, TWO] {
        let holds_all = Accepted { highest_level: 2, probe: 1, ..accepted(view, lone.last()) };
        lone.receive(peer, Message::Accepted(holds_all));
    }
    assert_eq!(lone.commit(), lone.last());
    lone.replica.peers.storage.insert(THREE, (disk(THREE), false));
    (lone, view)
}

pub(super) fn change(lone: &mut Lone, expected: u64, members: Members, force: bool) -> Result<(), ReconfigureError> {
    let change = MemberChange { expected: Epoch(expected), members, force };
    let outputs = lone.step(Input::Reconfigure { id: ReconfigureId(1), change, deadline: FAR });
    match &outputs.reconfigured[..] {
        [] => Ok(()),
        [(ReconfigureId(1), Err(error))] => Err(error.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_is_refused_with_the_reason() {
    let (mut lone, _) = leading();
    let all = members(&[ME, ONE, TWO]);
    let other_epoch = ReconfigureError::OtherEpoch { present: Epoch::FIRST, expected: SECOND };
    assert_eq!(change(&mut lone, 2, members(&[ME]), true), Err(other_epoch));
    assert_eq!(change(&mut lone, 1, all, true), Err(ReconfigureError::Unchanged));
    assert_eq!(change(&mut lone, 1, Members::new(), true), Err(ReconfigureError::VoterCount(0)));
    let mut twice = members(&[ME, ONE]);
    twice.insert(THREE, ConfiguredMember::voter(disk(ONE)));
    assert_eq!(change(&mut lone, 1, twice, true), Err(ReconfigureError::DiskTwice(disk(ONE))));
    let example = (THREE, Unready::Silent);
    let not_ready = ReconfigureError::NotReady { ready: 1, voters: 2, needed: 2, example };
    assert_eq!(change(&mut lone, 1, members(&[ME, THREE]), false), Err(not_ready));
    let last = lone.last();
    let even = ReconfigureError::EvenVoters(2);
    assert_eq!(change(&mut lone, 1, members(&[ME, ONE]), false), Err(even));
    assert_eq!(change(&mut lone, 1, members(&[ME]), false), Ok(()));
    assert_eq!(lone.last(), last + 1);
    assert_eq!(change(&mut lone, 1, members(&[ME]), true), Err(ReconfigureError::UnderWay));
    let (mut unchanged, _) = sealed(&[ME]);
    assert!(matches!(change(&mut unchanged, 1, members(&[ME]), true), Err(ReconfigureError::NotPrimary { .. })));
}

#[test]
fn a_change_needs_the_level_whose_programs_know_seals() {
    let mut lone = Lone::with_log(3, View::BIRTH);
    let view = lone.lead();
    lone.receive(ONE, Message::Accepted(accepted(view, lone.last())));
    let error = change(&mut lone, 1, members(&[ME, ONE]), true).expect_err("it is at the first level");
    assert_eq!(error, ReconfigureError::LevelTooLow { present: FeatureLevel(1), needed: FeatureLevel(2) });
}

#[test]
fn the_primary_that_has_entered_tells_all_and_stands() {
    let (mut lone, led) = leading();
    assert_eq!(change(&mut lone, 1, members(&[ME, ONE, THREE]), true), Ok(()));
    let seal_at = lone.last();
    lone.sync();
    let outputs = lone.receive(ONE, Message::Accepted(Accepted { highest_level: 2, ..accepted(led, seal_at) }));
    assert_eq!(outputs.reconfigured, [(ReconfigureId(1), Ok(SECOND))]);
    assert_eq!(lone.replica.status().role, "candidate");
    let outputs = lone.sync();
    for peer in [ONE, TWO, THREE] {
        let ended = sent_to(&outputs, peer).into_iter().find_map(|sent| match sent {
            Message::Ended(ended) => Some((ended.epoch, ended.since, ended.view, ended.stand)),
            _ => None,
        });
        assert_eq!(ended, Some((2, seal_at, led.0, false)), "to {peer}");
    }
    let asks = |peer| sent_to(&outputs, peer).iter().any(|sent| matches!(sent, Message::Prepare(_)));
    assert_eq!([ONE, TWO, THREE].map(asks), [true, false, true], "the members of the new epoch");
}

#[test]
fn a_primary_that_leaves_asks_the_furthest_voter_to_stand() {
    let (mut lone, led) = leading();
    lone.step(Input::Propose { id: RequestId(7), payload: Bytes::from_static(b"x") });
    assert_eq!(change(&mut lone, 1, members(&[ONE, TWO]), true), Ok(()));
    let seal_at = lone.last();
    lone.sync();
    let outputs = lone.receive(TWO, Message::Accepted(Accepted { highest_level: 2, ..accepted(led, seal_at) }));
    assert_eq!(outputs.reconfigured, [(ReconfigureId(1), Ok(SECOND))]);
    assert_eq!(outputs.new_session, Some(Boot(3)), "its requests are nobody's any more");
    let outputs = lone.sync();
    let is_asked =
        |peer| sent_to(&outputs, peer).iter().any(|sent| matches!(sent, Message::Ended(ended) if ended.stand));
    assert_eq!([ONE, TWO].map(is_asked), [false, true], "replica 2 holds more");
    assert_eq!(lone.replica.status().role, "secondary");
    let refused = lone.step(Input::Propose { id: RequestId(8), payload: Bytes::new() }).refused;
    assert_eq!(refused, [(RequestId(8), crate::core::Refusal::NotAMember)]);
    assert!(!lone.replica.is_retired(), "the next epoch has not begun yet");
    let begun = Report { commit: seal_at + 1, last: seal_at + 1, ..Report::default() };
    receive_of(&mut lone, SECOND, ONE, Message::Report(Box::new(begun)));
    assert!(lone.replica.is_retired());
}

const NEW_DISK: DiskId = DiskId(777);

/// A primary that lets replaced disks vote again, and the disk of replica 2 is a new one.
fn leading_with_a_replaced_disk() -> (Lone, View) {
    let (mut lone, led) = leading();
    lone.replica.options.readmit_replaced_disk = true;
    (lone, led)
}

/// At that time replica 1 and some disk of replica 2 hold the whole log.
fn all_follow(lone: &mut Lone, led: View, us: u64, disk_of_two: DiskId) {
    lone.now = us;
    let holds_all = Message::Accepted(Accepted { highest_level: 2, probe: 1, ..accepted(led, lone.last()) });
    lone.receive(ONE, holds_all.clone());
    lone.replica.peers.storage.insert(TWO, (disk_of_two, false));
    let sender =
        MessageHeader { replica: TWO, cluster_id: CLUSTER, epoch: Epoch::FIRST, disk_id: disk_of_two, boot: Boot(1) };
    lone.step(Input::Receive { sender, message: holds_all, payload: Vec::new() });
    lone.step(Input::Tick);
    lone.sync();
}

#[test]
fn a_disk_that_replaced_a_voters_votes_once_it_has_caught_up_and_the_former_one_is_silent() {
    let (mut lone, led) = leading_with_a_replaced_disk();
    let begin = lone.now;
    let last = lone.last();
    for seconds in 1..6 {
        all_follow(&mut lone, led, begin + seconds * 1_000_000, NEW_DISK);
        assert_eq!(lone.last(), last, "after {seconds} s");
    }
    all_follow(&mut lone, led, begin + 6_000_000, NEW_DISK);
    assert_eq!(lone.last(), last + 1, "the seal");
    let value = lone.replica.value_at(Sequence(last + 1)).expect("in memory");
    let mut expected = members(&[ME, ONE, TWO]);
    expected.insert(TWO, ConfiguredMember::voter(NEW_DISK));
    assert_eq!(value.reconfigure, Some(Reconfigure::new(SECOND, &expected)));
}

#[test]
fn of_two_disks_that_take_turns_under_one_number_neither_replaces_the_other() {
    let (mut lone, led) = leading_with_a_replaced_disk();
    let (begin, last) = (lone.now, lone.last());
    for seconds in 1..20 {
        let present = if seconds % 3 == 0 { disk(TWO) } else { NEW_DISK };
        all_follow(&mut lone, led, begin + seconds * 1_000_000, present);
    }
    assert_eq!(lone.last(), last);
}

#[test]
fn a_replaced_disk_does_not_vote_unless_that_is_wanted_or_before_it_has_caught_up() {
    let (mut lone, led) = leading();
    let (begin, last) = (lone.now, lone.last());
    for seconds in 1..20 {
        all_follow(&mut lone, led, begin + seconds * 1_000_000, NEW_DISK);
    }
    assert_eq!(lone.last(), last, "that is not wanted");
    let (mut lone, _) = leading_with_a_replaced_disk();
    let (begin, last) = (lone.now, lone.last());
    for seconds in 1..20 {
        lone.now = begin + seconds * 1_000_000;
        let sender =
            MessageHeader { replica: TWO, cluster_id: CLUSTER, epoch: Epoch::FIRST, disk_id: NEW_DISK, boot: Boot(1) };
        let message = Message::Report(Box::default());
        lone.step(Input::Receive { sender, message, payload: Vec::new() });
        lone.step(Input::Tick);
    }
    assert_eq!(lone.last(), last, "it holds nothing");
}

/// The members of its epoch, of which replica 2 is reached there.
fn with_two_at(addresses: &Addresses) -> Members {
    let mut members = members(&[ME, ONE, TWO]);
    members.insert(TWO, ConfiguredMember::voter(disk(TWO)).at(addresses.clone()));
    members
}

#[test]
fn the_primary_seals_the_addresses_that_a_member_says_it_has() {
    let (mut lone, led) = leading();
    let old = Addresses::of_peer("old:1");
    let settled = Configuration { epoch: Epoch::FIRST, since: Sequence(1), members: with_two_at(&old) };
    lone.replica.membership.adopt(&settled);
    let last = lone.last();
    let moved = Addresses { peer: "elsewhere:1".into(), clients: vec!["elsewhere:2".into()] };
    let says = |addresses: &Addresses| {
        let report = Report { addresses: Some(addresses.clone()), feature_level: 2, ..Report::default() };
        Message::Report(Box::new(report))
    };
    lone.receive(TWO, says(&moved));
    assert_eq!(lone.replica.membership().addresses(TWO), moved, "it is used at once");
    // Another process under the same number, whose disk does not vote, is not believed.
    let other = Addresses::of_peer("wrong:1");
    let sender =
        MessageHeader { replica: TWO, cluster_id: CLUSTER, epoch: Epoch::FIRST, disk_id: NEW_DISK, boot: Boot(1) };
    lone.step(Input::Receive { sender, message: says(&other), payload: Vec::new() });
    assert_eq!(lone.replica.membership().addresses(TWO), moved);
    let now = lone.now + 2_000_000;
    all_follow(&mut lone, led, now, disk(TWO));
    all_follow(&mut lone, led, now + 1_000_000, disk(TWO));
    assert_eq!(lone.last(), last + 1, "the seal");
    let value = lone.replica.value_at(Sequence(last + 1)).expect("in memory");
    assert_eq!(value.reconfigure, Some(Reconfigure::new(SECOND, &with_two_at(&moved))));
}

#[test]
fn what_a_change_needs_is_listed_and_nothing_is_changed() {
    let (mut lone, _) = leading();
    let last = lone.last();
    let change = MemberChange { expected: Epoch::FIRST, members: members(&[ME, ONE, THREE]), force: false };
    let outputs = lone.step(Input::CheckChange { id: ReconfigureId(4), change });
    let [(ReconfigureId(4), found)] = &outputs.checked[..] else { panic!("{:?}", outputs.checked) };
    let failed: Vec<_> = found.iter().filter(|found| found.result.is_err()).collect();
    assert!(found.len() > 5 && failed.len() == 1 && failed[0].can_be_forced, "{found:?}");
    assert_eq!(failed[0].name, "enough of the new voters are ready");
    assert_eq!(lone.last(), last);
}

#[test]
fn a_primary_with_a_seal_in_its_log_begins_no_read_round() {
    let (mut lone, led) = leading();
    let newest_round = |outputs: &Outputs| {
        let rounds = sent_to(outputs, ONE).into_iter().filter_map(|sent| match sent {
            Message::Accept(accept) => Some(accept.read_round),
            _ => None,
        });
        rounds.max()
    };
    let first = newest_round(&lone.step(Input::Read(ReadId(1)))).expect("a round");
    let answer = Accepted { read_round: first, highest_level: 2, ..accepted(led, lone.last()) };
    assert_eq!(lone.receive(ONE, Message::Accepted(answer)).read_ready.len(), 1, "a round can be confirmed");
    assert_eq!(change(&mut lone, 1, members(&[ME, ONE, THREE]), true), Ok(()));
    let outputs = lone.step(Input::Read(ReadId(2)));
    assert!(newest_round(&outputs).is_none_or(|round| round <= first), "{outputs:?}");
    let now = lone.now + ELECTION_US / 2;
    let outputs = lone.tick_at(now);
    assert!(newest_round(&outputs).is_none_or(|round| round <= first), "{outputs:?}");
}
